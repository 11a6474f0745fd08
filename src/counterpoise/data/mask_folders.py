"""Folders of images beside folders of masks, one file for each image, read into `Annotated`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from counterpoise.data.annotated import IGNORED, Annotated, AnnotatedSplits, check_class_names, gather_maps
from counterpoise.data.annotated_parts import divided
from counterpoise.data.decoding import count_reasons, decode, file_item
from counterpoise.data.folders import PICTURES, ROLES, counted, pick_splits, walk
from counterpoise.data.framing import Frame
from counterpoise.data.images import UNLABELLED, allocate, gather
from counterpoise.data.reading import open_image, reason_of
from counterpoise.errors import InputError, first_few

CLASSES = "classes.txt"
MASKS = {"mask", "masks", "annotation", "annotations", "label", "labels", "segmentationclass"}
BACKGROUND = {"background", "_background_", "__background__", "bg"}
NOT_LABELLED = {"unlabelled", "unlabeled", "ignore", "ignored", "void"}
COLOURED = re.compile(r"(?P<name>.*\S)\s+#(?P<colour>[0-9a-f]{6})", re.IGNORECASE)


class Legend(NamedTuple):
    """What the pixels of masks mean: line by line of `classes.txt`.

    Attributes:
        path: of the file.
        classes: the names of the lines that are classes.
        values: of each line its value in a map: 0 for the background, the class plus 1, or 255 for not labelled.
        colours: of each line its colour, red, green and blue as one number of 24 bits; None where pixels are numbers.
    """

    path: Path
    classes: tuple[str, ...]
    values: UInt8[np.ndarray, " lines"]
    colours: Int64[np.ndarray, " lines"] | None


class Pair(NamedTuple):
    """An image and its mask; None where it has none, so that nothing in it is labelled."""

    image: Path
    mask: Path | None
    split: str | None


def find_folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    """The folders of images and of masks below a folder, with the split where they are in one folder a split."""
    found = []
    for place in (root, *(path for path in _folders(root) if path.name.lower() in ROLES)):
        below = {path.name.lower(): path for path in _folders(place)}
        pictures, masks = ([below[name] for name in sorted(below) if name in some] for some in (PICTURES, MASKS))
        if pictures and masks:
            for names in (pictures, masks):
                if len(names) > 1:
                    several = " and ".join(f"{path.name}/" for path in names)
                    raise InputError(f"{place}: has {several}, expected one folder of images and one of masks")
            found.append((pictures[0], masks[0], None if place == root else place.name))
    return found


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror})") from error


def is_masks(path: Path) -> bool:
    """Whether a folder holds images beside masks."""
    return path.is_dir() and bool(find_folders(path))


def mask_files(root: Path) -> list[Path]:
    """Every file that `load_masks` reads: the names of the classes, images and masks."""
    files = [root / CLASSES]
    for pictures, masks, _ in find_folders(root):
        files += [*walk(pictures).images, *walk(masks).images]
    return files


def load_masks(root: Path, size: int | None = None, seed: int = 0) -> AnnotatedSplits:
    """A folder with `images/`, `masks/` and `classes.txt`, split into train and test.

    A mask has the name of its image, but for the ending, and its size. `classes.txt` names one class a line. The pixels
    of masks are then the numbers of lines, from 0 (grey or palette PNG, of which the palette itself says nothing), and
    255 where a pixel is not labelled. Where each line ends in a colour (`road #804080`), they are these colours. A line
    `background` is none of the classes, and pixels of a line `unlabelled`, `ignore` or `void` are 255 in the map.

    Splits are folders `train` and `test` (or `val`), above `images/` and `masks/` or inside both; without them the data
    is divided 80 to 20. An image without a mask is kept and not labelled. Images are decoded as everywhere
    (`data.decoding`); a pair of which one file cannot be read is left out, counted and named. There are no objects: a
    mask does not say where one ends and the next begins.

    Args:
        root: the folder.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division where the data has none.

    Raises:
        InputError: for a mask without an image, one of another size, or with a value that is no class's; a missing or
            malformed `classes.txt`; two files of one name; or where no image can be read.
    """
    legend = read_legend(root / CLASSES)
    pairs, notes = _pairs(root)
    words = dict.fromkeys(pair.split for pair in pairs)
    roles = pick_splits(word for word in words if word is not None)
    if None not in words:
        if "train" not in roles.values():
            raise InputError(f"{root}: expected a split named train, found: {', '.join(map(str, words))}")
        if others := [str(word) for word in words if word not in roles]:
            notes.append(f"left out of the data: {', '.join(others)}")
        pairs = [pair for pair in pairs if pair.split in roles]
        pairs.sort(key=lambda pair: roles[str(pair.split)] != "train")
    if 0 not in legend.values:
        notes.append(f"{CLASSES} has no line 'background': every labelled pixel is of a class")
    whole, kept = _read(root, pairs, legend, size, notes)
    if "test" not in roles.values():
        return divided(whole, seed)
    of_train = sum(roles[str(pairs[i].split)] == "train" for i in kept)
    for split, count in (("train", of_train), ("test", len(whole) - of_train)):
        if not count:
            raise InputError(f"{root}: no readable image in its {split} split")
    return AnnotatedSplits(whole.rows(0, of_train), whole.rows(of_train, len(whole)))


def read_legend(path: Path) -> Legend:
    """The classes of masks, from a file with one name a line, each with its colour or none.

    Raises:
        InputError: for a missing file, an empty line, two of one name or colour, or colours for some lines alone.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "classes.txt"
        >>> _ = path.write_text("background #000000\\nroad #804080\\nvoid #ffffff\\n")
        >>> legend = read_legend(path)
        >>> legend.classes, legend.values.tolist()
        (('road',), [0, 1, 255])
    """
    lines = _lines(path)
    found = [COLOURED.fullmatch(line) for line in lines]
    coloured = [match for match in found if match]
    if coloured and len(coloured) < len(lines):
        bare = next(line for line, match in zip(lines, found, strict=True) if not match)
        raise InputError(f"{path}: expected a colour such as #804080 after each name or after none, got '{bare}'")
    names = [match["name"] for match in coloured] if coloured else lines
    colours = [int(match["colour"], 16) for match in coloured]
    if len(set(colours)) < len(colours):
        twice = next(colour for i, colour in enumerate(colours) if colour in colours[:i])
        raise InputError(f"{path}: has the colour #{twice:06x} twice")
    others = BACKGROUND | NOT_LABELLED
    classes = [name for name in names if name.lower() not in others]
    check_class_names(f"{path}: classes", [*classes, *(name for name in names if name.lower() in others)])
    if not classes:
        raise InputError(f"{path}: names no class")
    values = {name: IGNORED if name.lower() in NOT_LABELLED else 0 for name in names if name.lower() in others}
    values |= {name: label + 1 for label, name in enumerate(classes)}
    return Legend(
        path,
        tuple(classes),
        np.array([values[name] for name in names], dtype=np.uint8),
        np.array(colours, dtype=np.int64) if coloured else None,
    )


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; write one class a line, in the order of the values in the masks from 0, the first "
            "line being background where 0 is none of the classes"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text") from error
    for number, line in enumerate(lines):
        if not line or line.startswith("#"):
            raise InputError(f"{path}: line {number + 1}: expected the name of a class, got '{line}'")
    return lines


def _pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """Images with their masks, and what is said of those that have none."""
    found = find_folders(root)
    if not found:
        raise InputError(f"{root}: expected images/ beside masks/, there or in train/ and test/")
    pairs = []
    for pictures, masks, split in found:
        images, marked = (_by_name(folder) for folder in (pictures, masks))
        if alone := [marked[name] for name in marked if name not in images]:
            named = first_few([path.relative_to(root).as_posix() for path in alone])
            raise InputError(f"{root}: {len(alone):,} masks have no image of their name in {pictures.name}/: {named}")
        if not marked:
            raise InputError(f"{masks}: holds no masks")
        inside = {name.split("/")[0] for name in images if "/" in name}
        by_split = split is None and all("/" in name for name in images) and {x.lower() for x in inside} <= ROLES.keys()
        for name, path in images.items():
            pairs.append(Pair(path, marked.get(name), name.split("/")[0] if by_split else split))
    bare = [pair.image.relative_to(root).as_posix() for pair in pairs if pair.mask is None]
    return pairs, [counted("images without a mask, which are not labelled", bare)] if bare else []


def _by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by their paths in it, without the endings."""
    found: dict[str, Path] = {}
    for path in walk(folder).images:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{folder}: {found[name].name} and {path.name} have one name; images and masks go by it")
        found[name] = path
    return found


def _read(
    root: Path, pairs: Sequence[Pair], legend: Legend, size: int | None, notes: list[str]
) -> tuple[Annotated, list[int]]:
    """The pairs that can be read, and which they are."""
    name = root.resolve().name
    items = [file_item(pair.image, pair.image.relative_to(root).as_posix(), UNLABELLED, pair.split) for pair in pairs]
    decoded = decode(items, name, size)
    side = decoded.pixels.shape[-1]
    maps = allocate((len(decoded.kept), side, side))
    values: set[int] = set()
    failures: dict[int, str] = {}

    def fill(row: int) -> None:
        found = _read_mask(pairs[decoded.kept[row]].mask, legend, decoded.sizes[row].tolist(), side)
        if isinstance(found, str):
            failures[row] = found
        else:
            maps[row] = found[0]
            values.update(found[1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(len(maps))))
    if legend.colours is None and IGNORED in values and values <= {0, IGNORED}:
        raise InputError(
            f"{root}: its masks hold 0 and 255 alone, and 255 means not labelled; where 255 is a class, write its "
            f"colour in {CLASSES}: background #000000, NAME #ffffff"
        )
    reasons = {str((pairs[decoded.kept[row]].mask or root).relative_to(root)): said for row, said in failures.items()}
    if failures:
        named = first_few([f"{mask} ({reason})" for mask, reason in sorted(reasons.items())])
        counts = count_reasons(reasons.values())
        notes = [*notes, f"{len(failures):,} images whose mask cannot be read are left out: {named} ({counts})"]
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=3)
    good = torch.tensor([row for row in range(len(maps)) if row not in failures], dtype=torch.int64)
    if not len(good):
        raise InputError(f"{root}: none of the {len(maps):,} masks can be read: {first_few(list(reasons.values()))}")
    kept = [decoded.kept[row] for row in good.tolist()]
    made = Annotated(
        gather(decoded.pixels, good) if failures else decoded.pixels,
        gather_maps(maps, good) if failures else maps,
        legend.classes,
        name,
        notes=(*decoded.notes, *notes),
        paths=tuple(items[i].name for i in kept),
        unreadable=(*decoded.unreadable, *sorted(reasons)),
        reasons={**decoded.reasons, **reasons},
        original_sizes=decoded.sizes[good],
    )
    return made, kept


def _read_mask(
    path: Path | None, legend: Legend, original: Sequence[int], side: int
) -> tuple[UInt8[Tensor, "side side"], Iterable[int]] | str:
    """A map of one image and the values in its mask; or why the mask cannot be read."""
    if path is None:
        return torch.full((side, side), IGNORED, dtype=torch.uint8), ()
    try:
        with open_image(path) as image:
            kind = image.format
            pixels = _numbers(image, legend.colours is not None)
    except Exception as error:  # Pillow's plugins raise all sorts of errors on damaged files
        return reason_of(error)
    if kind == "JPEG":
        raise InputError(f"{path}: a JPEG changes the values of a mask; save masks as PNG")
    if list(pixels.shape[:2]) != list(original):
        sizes = f"{pixels.shape[1]}×{pixels.shape[0]} pixels, its image {original[1]}×{original[0]}"
        raise InputError(f"{path}: has {sizes}")
    if pixels.ndim == 3:
        raise InputError(f"{path}: is in colour; write the colour of each class in {CLASSES}: road #804080")
    values = np.unique(pixels)
    made = _values(values, legend)
    if (made < 0).any():
        wrong = int(values[made < 0][0])
        row, column = (int(x[0]) for x in np.nonzero(pixels == wrong))
        if legend.colours is None:
            got, known = f"the value {wrong}", f"values 0 to {len(legend.values) - 1}, and {IGNORED} is not labelled"
        else:
            got, known = f"the colour #{wrong:06x}", f"{len(legend.values)} others"
        raise InputError(f"{path}: has {got} at row {row}, column {column}; {legend.path.name} has {known}")
    rows, columns = (x.numpy() for x in Frame(original[0], original[1], side).samples())
    sampled = pixels[rows[:, None], columns]
    return torch.from_numpy(made[np.searchsorted(values, sampled)].astype(np.uint8)), values.tolist()


def _numbers(image: Image.Image, colours: bool) -> np.ndarray:
    """The pixels of a mask: numbers [H W], or channels [H W C] of a mask in colour where numbers are expected."""
    if colours:
        red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
        return red << 16 | green << 8 | blue
    channels = np.asarray(image)
    if channels.dtype == bool:
        return channels.astype(np.uint8)
    grey = channels.ndim == 3 and channels.shape[2] == 3 and (channels == channels[..., :1]).all()
    return channels[..., 0] if grey else channels


def _values(found: np.ndarray, legend: Legend) -> np.ndarray:
    """The values in a map of what is found in a mask; -1 for what `classes.txt` does not have."""
    known: Mapping[int, int]
    if legend.colours is not None:
        known = dict(zip(legend.colours.tolist(), legend.values.tolist(), strict=True))
    else:
        known = {IGNORED: IGNORED, **dict(enumerate(legend.values.tolist()))}
    return np.array([known.get(value, -1) for value in found.tolist()], dtype=np.int64)
