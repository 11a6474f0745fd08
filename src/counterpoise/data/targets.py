"""Data for regression: images or rows of numbers, and a number for each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.data.known_sets import KNOWN
from counterpoise.data.parts import checked_index
from counterpoise.data.paths import as_path
from counterpoise.data.sources import load
from counterpoise.data.tables import TABLES, check_unique, number_column, read_columns
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_finite, check_integers, check_number, check_seed

NAMES = ("rotations", "digit-sums", "diabetes")
OPTIONS = {"rotations": ("set", "class", "most"), "digit-sums": (), "diabetes": ()}
COPIES = {"train": 2, "test": 10}  # of each image, with a number of its own
TEST_SHARE = 0.2
SIDE, SPRITE = 40, 20  # pixels of two digits together, and of one


@dataclass(frozen=True, eq=False)
class Targets(Dataset):
    """Inputs and the numbers that are to be predicted of them: a map-style torch `Dataset` of `(input, target, i)`.

    Args:
        inputs: uint8 images [n channels height width], or float rows [n features].
        targets: one number for each, float32.
        name: what the data is called.
        unit: of the numbers, in a word.
        notes: what was done to the data, in words.
        numbers: of each the row or image of the source that it was made of, where that is known: it stays the same
            where the seed divides the data, scales columns by what is left, or turns images.

    Raises:
        InputError: where shapes or types do not go together, or a number is NaN.

    Examples:
        >>> data = Targets(torch.zeros(3, 2), torch.tensor([0.5, 1.0, 2.0]), "made", "metres")
        >>> len(data), data.images, data[2][1:]
        (3, False, (2.0, 2))
    """

    inputs: Shaped[Tensor, "n *shape"]
    targets: Float[Tensor, " n"]
    name: str
    unit: str = ""
    notes: tuple[str, ...] = ()
    numbers: Int64[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.uint8 or self.inputs.ndim != 4:
            if self.inputs.ndim != 2:
                got = f"{self.inputs.dtype} of shape {list(self.inputs.shape)}"
                raise InputError(f"inputs: expected uint8 images [n, channels, height, width] or rows, got {got}")
            check_finite("inputs", self.inputs)
        if self.targets.shape != (len(self.inputs),):
            raise InputError(f"targets: expected one for each of {len(self.inputs)}, got {list(self.targets.shape)}")
        check_finite("targets", self.targets)
        if self.numbers is not None:
            object.__setattr__(self, "numbers", check_integers("numbers", self.numbers, rows=len(self.inputs)))

    @property
    def images(self) -> bool:
        """Whether the inputs are images."""
        return self.inputs.ndim == 4

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, float, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {len(self)}")
        index = index % len(self)
        return self.inputs[index], float(self.targets[index]), index

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Int64[Tensor, " batch"]]:
        """A whole batch: inputs, targets and indices."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.inputs[index], self.targets[index], index

    def subset(self, index: Integer[Tensor, " kept"], note: str | None = None) -> Targets:
        """Those at `index`, with `note` added to the notes.

        Raises:
            InputError: for what is no index of an item.
        """
        notes = self.notes if note is None else (*self.notes, note)
        index = checked_index(index, len(self))
        numbers = None if self.numbers is None else self.numbers[index]
        return replace(self, inputs=self.inputs[index], targets=self.targets[index], notes=notes, numbers=numbers)


class TargetSplits(NamedTuple):
    """To learn from, and to judge by."""

    train: Targets
    test: Targets


def load_targets(data: str | Path, seed: int = 0) -> TargetSplits:
    """Data for regression by name or path.

    - `rotations`: images of one class, each turned by an angle from 0 to 90 degrees, which is the target, in whole
      degrees. `rotations:set=fashion-mnist:class=8:most=60` takes other images, another class (by its number) and
      smaller angles; by default they are MNIST's sevens.
    - `digit-sums`: two MNIST digits on one image; the target is their sum, from 0 to 18, and 9 the most frequent.
    - `diabetes`: scikit-learn's 442 patients, 10 measurements of each, and how far the disease went on in a year.
    - a `.csv` or `.parquet` table of numbers with a column `target`; a row with an empty place is left out and counted.
      Columns are scaled to mean 0 and deviation 1 as in the training rows.

    Args:
        data: a name or a path as above.
        seed: of the angles, the pairs, and of the division into train and test where the data has none.

    Raises:
        InputError: for an unknown name or option, a missing or malformed file, or too few rows.

    Examples:
        >>> train, test = load_targets("rotations")
        >>> train.inputs.shape[1:], len(test), train.unit, float(train.targets.max())
        (torch.Size([1, 28, 28]), 2050, 'degrees', 90.0)
    """
    check_seed(seed)
    kind, *texts = str(data).split(":")
    if kind not in NAMES:
        path = as_path("data", data)
        if path.suffix.lower() not in TABLES:
            raise unknown("data", str(data), [*NAMES, "a .csv or .parquet table"])
        if not path.is_file():
            raise InputError(f"data: no such file: {path}")
        return _table(path, seed)
    options = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in OPTIONS[kind]:
            raise unknown(f"option of {kind}", name, OPTIONS[kind])
        options[name] = value
    if kind == "rotations":
        return _rotations(options, seed)
    return _digit_sums(seed) if kind == "digit-sums" else _diabetes(seed)


def _rotations(options: Mapping[str, str], seed: int) -> TargetSplits:
    name = options.get("set", "mnist")
    if name not in KNOWN:
        raise unknown("rotations: set", name, KNOWN)
    label = _whole("class", options.get("class", "7"), 0, len(KNOWN[name].classes) - 1)
    most = _whole("most", options.get("most", "90"), 1, 360)
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for split, images in load(name)._asdict().items():
        pixels = images.pixels[images.labels == label]
        numbers = torch.arange(len(pixels)).repeat(COPIES[split])
        pixels = pixels.repeat(COPIES[split], 1, 1, 1)
        angles = torch.randint(most + 1, (len(pixels),), generator=generator)
        note = f"{images.classes[label]} of {name}, each image {COPIES[split]} times, turned by 0 to {most} degrees"
        turned, notes = _turned(pixels, angles), (f"{split}: {note}",)
        parts[split] = Targets(turned, angles.float(), "rotations", "degrees", notes, numbers)
    return TargetSplits(**parts)


def _turned(
    pixels: UInt8[Tensor, "n channels side side"], angles: Int64[Tensor, " n"]
) -> UInt8[Tensor, "n channels side side"]:
    """Each image turned by its angle, against the clock, bilinear."""
    radians = torch.deg2rad(angles.float())
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros(len(angles))
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(turn, list(pixels.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(pixels.float(), grid, align_corners=False)
    return turned.round().clamp(0, 255).to(torch.uint8)


def _digit_sums(seed: int) -> TargetSplits:
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for split, images in load("mnist", size=SPRITE)._asdict().items():
        pairs = torch.randperm(len(images) // 2 * 2, generator=generator).view(2, -1)
        canvas = torch.zeros(pairs.shape[1], 1, SIDE, SIDE, dtype=torch.uint8)
        for side, index in enumerate(pairs):
            row = torch.randint(SIDE - SPRITE + 1, (len(index), 1), generator=generator) + torch.arange(SPRITE)
            column = side * SPRITE + torch.arange(SPRITE)
            place = torch.arange(len(index))[:, None, None], 0, row[:, :, None], column[None, None, :]
            canvas[place] = images.pixels[index, 0]
        sums = images.labels[pairs].sum(0).float()
        note = f"{split}: two of MNIST's digits beside each other, each in one image alone"
        parts[split] = Targets(canvas, sums, "digit-sums", "", (note,))
    return TargetSplits(**parts)


def _diabetes(seed: int) -> TargetSplits:
    from sklearn.datasets import load_diabetes

    rows, targets = load_diabetes(return_X_y=True, scaled=False)
    return _divided(torch.from_numpy(rows).float(), torch.from_numpy(targets).float(), "diabetes", (), seed)


def _table(path: Path, seed: int) -> TargetSplits:
    columns = _numbers(path)
    targets = columns.pop("target")
    if not columns:
        raise InputError(f"{path}: expected a column of numbers besides 'target'")
    rows = np.stack([*columns.values()], 1)
    empty = np.isnan(rows).any(1) | np.isnan(targets)
    endless = (np.isinf(rows).any(1) | np.isinf(targets)) & ~empty
    said = {"an empty place": empty.sum(), "an infinite number": endless.sum()}
    notes = tuple(f"{count} rows with {what} are left out" for what, count in said.items() if count)
    for note in notes:
        warnings.warn(f"{path}: {note}")
    given, goal = (torch.from_numpy(x[~empty & ~endless]).float() for x in (rows, targets))
    return _divided(given, goal, path.name, notes, seed)


def _numbers(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table of numbers, by their names.

    Raises:
        InputError: for a column of anything else, two of one name, or none called target.
    """
    table = read_columns(path)
    names = [name.strip() for name in table.column_names]
    if "target" not in names:
        raise InputError(f"{path}: expected a column 'target', got {', '.join(names)}")
    check_unique(path, names)
    return {name: number_column(path, name, column) for name, column in zip(names, table.columns, strict=True)}


def _divided(
    rows: Float[Tensor, "n features"], targets: Float[Tensor, " n"], name: str, notes: tuple[str, ...], seed: int
) -> TargetSplits:
    """A fifth of the rows, drawn by the seed, for test; columns scaled as the others are."""
    check_number(f"{name}: rows", len(rows), at_least=10)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([count := round(TEST_SHARE * len(rows)), len(rows) - count])
    mean, deviation = rows[train].mean(0), rows[train].std(0)
    rows = (rows - mean) / deviation.where(deviation > 0, 1)
    return TargetSplits(*(Targets(rows[part], targets[part], name, "", notes, part) for part in (train, test)))


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise InputError(f"rotations: {name}: expected a whole number from {low} to {high}, got '{text}'")
    return int(text)
