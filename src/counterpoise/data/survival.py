"""Data for survival: rows of numbers, the time until an event, and whether it was observed or the row censored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.types as kinds
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Integer, Real
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.data.columns import MOST_CATEGORIES, ROW_NUMBERS, Choice, Sheet, read_file
from counterpoise.data.folders import counted, index_labels
from counterpoise.data.parts import checked_index
from counterpoise.data.paths import as_path
from counterpoise.data.tables import COLUMNS, TABLES, is_number, number_column
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.ops.checks import check_integers, check_matrix, check_number, check_seed, check_values
from counterpoise.registry.kinds import OPTION

MADE = "two-regimes"
LIBRARY = {  # sets of scikit-survival, and what they call time and event
    "flchain": ("futime", "death"),
    "gbsg2": ("time", "cens"),
    "whas500": ("lenfol", "fstat"),
    "aids": ("time", "censor"),
}
ROLES = ("time", "event", "weight")
TEST_SHARE = 0.2
FEWEST = 10  # rows that can be divided
MODALITIES = {"text": 8, "image": 7, "stat": 5}  # columns of each, of two-regimes
HORIZON, LONGEST = 10.0, 120.0  # days, of two-regimes
SHAPE = 1.5  # of its Weibull distributions
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


@dataclass(frozen=True, eq=False)
class Survival(Dataset):
    """Rows with the time of an event or of censoring each: a map-style torch `Dataset`.

    `data[i]` is `(input, time, event, weight, i)`. `data.__getitems__(indices)` is a whole batch.

    Args:
        inputs: floating-point and finite [n columns].
        times: of the event, or of censoring; above 0.
        events: whether the event was observed at that time; otherwise the row is censored, and its event comes later.
        name: what the data is called in tables and reports.
        weights: what each row counts for its user, 0 or more, such as a click-through rate; None where nothing says so.
        horizon: the time that divides short from long lifetimes, where the data has one.
        columns: the names of the columns of `inputs`.
        notes: what was done to the data, in words.
        numbers: of each the row of the source, where the seed divides the source.

    Raises:
        InputError: where shapes or types do not go together, a number is NaN, or a time is not above 0.

    Examples:
        >>> data = Survival(torch.zeros(3, 2), torch.tensor([1.0, 2.5, 4.0]), torch.tensor([True, False, True]), "made")
        >>> len(data), data[2]
        (3, (tensor([0., 0.]), 4.0, True, 0.0, 2))
    """

    inputs: Float[Tensor, "n columns"]
    times: Real[Tensor, " n"]
    events: Bool[Tensor, " n"] | Int[Tensor, " n"]
    name: str
    weights: Float[Tensor, " n"] | None = None
    horizon: float | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Int64[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        check_matrix("inputs", self.inputs, at_least=0)
        count, width = self.inputs.shape
        times, events = check_outcomes(self.times, self.events, count)
        object.__setattr__(self, "times", times.double())
        object.__setattr__(self, "events", events)
        if self.weights is not None:
            object.__setattr__(self, "weights", check_weights("weights", self.weights, count))
        if self.horizon is not None:
            check_number("horizon", self.horizon, above=0)
        if self.columns and len(self.columns) != width:
            raise InputError(f"columns: expected a name for each of the {width} columns, got {len(self.columns)}")
        if self.numbers is not None:
            object.__setattr__(self, "numbers", check_integers("numbers", self.numbers, rows=count))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, float, bool, float, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index = index % len(self)
        weight = 0.0 if self.weights is None else float(self.weights[index])
        return self.inputs[index], float(self.times[index]), bool(self.events[index]), weight, index

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[
        Float[Tensor, "batch columns"],
        Float[Tensor, " batch"],
        Bool[Tensor, " batch"],
        Float[Tensor, " batch"],
        Int64[Tensor, " batch"],
    ]:
        """A whole batch: inputs, times, events, weights (0 where there are none), indices; in single precision."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        times = self.times[index].float()
        weights = torch.zeros_like(times) if self.weights is None else self.weights[index].float()
        return self.inputs[index], times, self.events[index], weights, index

    def subset(self, index: Integer[Tensor, " kept"], note: str | None = None) -> Survival:
        """The rows at `index`, with `note` added to the notes.

        Raises:
            InputError: for what is no index of a row.
        """
        index = checked_index(index, len(self))
        return replace(
            self,
            inputs=self.inputs[index],
            times=self.times[index],
            events=self.events[index],
            weights=None if self.weights is None else self.weights[index],
            numbers=None if self.numbers is None else self.numbers[index],
            notes=self.notes if note is None else (*self.notes, note),
        )


class SurvivalSplits(NamedTuple):
    """To learn from, and to judge by."""

    train: Survival
    test: Survival


class Outcomes(NamedTuple):
    """Times, and whether the event was observed at each of them.

    Attributes:
        times: above 0.
        events: true or false.

    Examples:
        >>> Outcomes(torch.tensor([2.0]), torch.tensor([True])).structured().tolist()
        [(True, 2.0)]
    """

    times: Float[Tensor, " n"]
    events: Bool[Tensor, " n"]

    def structured(self) -> np.ndarray:
        """As scikit-survival takes them: an array with the fields `event` and `time`."""
        found = np.empty(len(self.times), dtype=[("event", bool), ("time", float)])
        found["event"], found["time"] = self.events.cpu().numpy(), self.times.double().cpu().numpy()
        return found


def check_outcomes(times: Tensor, events: Tensor, rows: int | None = None, prefix: str = "") -> Outcomes:
    """Refuse times and events that are not one for each row.

    Args:
        times: above 0; integers or floating-point numbers.
        events: true or false, or integers 1 or 0.
        rows: the number expected; that of the times if not given.
        prefix: of the arguments' names, for the errors.

    Returns:
        Times, floating-point, and events as true or false.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_outcomes(torch.tensor([1, 2]), torch.tensor([1, 0]), rows=2).events
        tensor([ True, False])
    """
    if rows is not None:
        check_number("rows", rows, at_least=0, whole=True)
    wanted = [times.numel() if rows is None else rows]
    if list(times.shape) != wanted or times.is_complex() or times.dtype == torch.bool:
        got = f"{times.dtype} of shape {list(times.shape)}"
        raise InputError(f"{prefix}times: expected one number for each of {wanted[0]} rows, got {got}")
    times = times if times.is_floating_point() else times.double()
    check_values(f"{prefix}times", times, above=0)
    if events.dtype != torch.bool:
        return Outcomes(times, check_integers(f"{prefix}events", events, wanted[0], low=0, high=2).bool())
    if list(events.shape) != wanted:
        raise InputError(f"{prefix}events: expected one for each of {wanted[0]} rows, got shape {list(events.shape)}")
    return Outcomes(times, events)


def check_weights(name: str, weights: Tensor, rows: int) -> Float64[Tensor, " rows"]:
    """Refuse weights that are not one number of at least 0 for each row; as float64 otherwise.

    Args:
        name: of the argument.
        weights: floating-point, of at least 0.
        rows: the number expected.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_weights("weights", torch.tensor([0.5]), rows=1)
        tensor([0.5000], dtype=torch.float64)
    """
    check_number("rows", rows, at_least=0, whole=True)
    if list(weights.shape) != [rows]:
        raise InputError(f"{name}: expected one for each of {rows} rows, got shape {list(weights.shape)}")
    check_values(name, weights, at_least=0)
    return weights.double()


def load_survival(data: str | Path, seed: int = 0) -> SurvivalSplits:
    """Survival data by name or path; a fifth of the rows, drawn by the seed, is for test.

    - `two-regimes`: made. 4,000 items with an event after 1 to 10 days or after 10 to 120; what delays the event of the
      first kind hastens that of the second. 20 features in three groups, a click-through rate as weight, which is
      higher where the event is late, and 30 % censored. `two-regimes:items=500:censored=0.5` changes these numbers.
    - `flchain` (7,874 people and a protein of their blood, days to death), `gbsg2` (686 patients, days to a relapse),
      `whas500` (500 patients, days to death) and `aids` (1,151 patients of the trial ACTG 320, days to AIDS or death),
      all from scikit-survival.
    - `rows:PATH.csv` or `.parquet`: a table with columns `time` (above 0) and `event` (1 or 0, true or false, yes or
      no), and optionally `weight` (0 or more) and `split` (train and test). Other columns of numbers and of vectors,
      such as embeddings of images or texts, are features as they are; a column of words becomes one of zeros and ones
      for each word. Numbers of rows, paths, and words of more than 1,000 kinds are left out and named. `:columns=a,b`
      and `:categories=c` after the path choose features. A row with an empty place is left out and counted.

    Columns are not scaled.

    Args:
        data: a name or a path as above.
        seed: of what is drawn.

    Raises:
        InputError: for an unknown name, option or column, a missing or malformed file, or too few rows.
        MissingExtra: where the library of a set is not installed.

    Examples:
        >>> train, test = load_survival("two-regimes:items=500")
        >>> len(train), len(test), train.columns[0], train.horizon, round(float((~train.events).double().mean()), 1)
        (400, 100, 'text0', 10.0, 0.3)
    """
    check_seed(seed)
    name, *options = str(data).split(":")
    if name == MADE:
        return _divided(_two_regimes(_numbers_of(options), seed), seed)
    if name in LIBRARY:
        if options:
            raise InputError(f"data: {name} takes no options, got '{options[0]}'")
        return _divided(_from_library(name), seed)
    return _table(str(data), seed)


# --- made ---


def _numbers_of(options: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {"items": 4000, "censored": 0.3}
    for option in options:
        name, _, text = option.partition("=")
        if name not in found:
            raise unknown(f"option of {MADE}", name, found)
        try:
            found[name] = int(text) if name == "items" else float(text)
        except ValueError as error:
            raise InputError(f"{MADE}: {name}: expected a number, got '{text}'") from error
    check_number(f"{MADE}: items", found["items"], at_least=FEWEST, whole=True)
    check_number(f"{MADE}: censored", found["censored"], at_least=0, below=1)
    return found


def _two_regimes(options: Mapping[str, float], seed: int) -> Survival:
    """Items of two kinds, which their features predict in part; the same features move their times apart."""
    rng = np.random.default_rng(seed)
    count, width = int(options["items"]), sum(MODALITIES.values())
    x = rng.standard_normal((count, width))
    # Which kind an item is, and its time among its kind, depend on columns of all three modalities.
    kind, pace = np.zeros(width), np.zeros(width)
    kind[[0, 3, 8, 15]] = 1.0, -0.7, 0.9, 1.1
    pace[[1, 4, 9, 16]] = 0.8, -0.6, 0.7, 0.5
    long = rng.random(count) < 1 / (1 + np.exp(-(x @ kind)))
    waits = rng.weibull(SHAPE, count) * np.exp(np.where(long, -1, 1) * (x @ pace))
    share = waits / (1 + waits)
    times = np.where(long, HORIZON + (LONGEST - HORIZON) * share, 1 + (HORIZON - 1) * share)
    clicks = np.minimum(1, 0.02 * np.exp(0.6 * rng.standard_normal(count) + 0.8 * long))
    follow_up = rng.standard_exponential(count)  # in a unit that censors the share that is asked for
    unit = np.quantile((times - 1) / follow_up, 1 - options["censored"])
    censoring = 1 + unit * follow_up
    events = (times <= censoring) | (options["censored"] == 0)
    return Survival(
        torch.from_numpy(x).float(),
        torch.from_numpy(np.where(events, times, censoring)),
        torch.from_numpy(events),
        MADE,
        torch.from_numpy(clicks),
        HORIZON,
        tuple(f"{name}{i}" for name, some in MODALITIES.items() for i in range(some)),
        (f"made: {count:,} items of two kinds, {(~events).mean():.0%} censored",),
    )


# --- sets of scikit-survival ---


def scikit_survival(module: str) -> Any:
    """A module of scikit-survival, by its name below `sksurv`.

    Args:
        module: such as "metrics".

    Raises:
        MissingExtra: where the library is not installed.
    """
    try:
        return getattr(__import__("sksurv", fromlist=[module]), module)
    except ImportError as error:
        raise MissingExtra("scikit-survival", "survival") from error


def _from_library(name: str) -> Survival:
    frame, outcomes = getattr(scikit_survival("datasets"), f"load_{name}")()
    times, events = (np.array(outcomes[field]) for field in LIBRARY[name])
    notes = []
    if name == "flchain":
        frame = frame.drop(columns="chapter")
        times[times == 0] = 0.5
        notes.append("without the column chapter, the cause of death; times of 0 days are half a day")
    blocks = [_encoded(str(column), frame[column]) for column in frame.columns]
    matrix = np.concatenate([block for block, _ in blocks], 1)
    kept = np.flatnonzero(~np.isnan(matrix).any(1))
    if lost := len(matrix) - len(kept):
        notes.append(f"{lost:,} rows with an empty place are left out")
    return Survival(
        torch.from_numpy(matrix[kept]),
        torch.from_numpy(times[kept]).double(),
        torch.from_numpy(events[kept]),
        name,
        columns=tuple(column for _, names in blocks for column in names),
        notes=tuple(notes),
        numbers=torch.from_numpy(kept),
    )


def _encoded(name: str, values: Any) -> tuple[np.ndarray, list[str]]:
    """A column of pandas as numbers; one of words as zeros and ones for each word, with a name for each."""
    if values.dtype.kind in "fiub":
        return np.asarray(values, np.float32)[:, None], [name]
    index, words = index_labels(values)
    matrix = (np.array(index)[:, None] == np.arange(len(words))).astype(np.float32)
    return matrix, [f"{name}={word}" for word in words]


# --- users' tables ---


def _table(data: str, seed: int) -> SurvivalSplits:
    text = data.removeprefix("rows:")
    path_text, *given = [text] if as_path("data", text).is_file() else OPTION.split(text)
    path = as_path("data", path_text)
    if path.suffix.lower() not in TABLES:
        raise unknown("data", data, [MADE, *LIBRARY, "rows:PATH.csv", "rows:PATH.parquet"])
    if not path.is_file():
        raise InputError(f"data: no such file: {path}")
    sheet = Sheet(path)
    for role in ("time", "event"):
        if role not in sheet.names:
            raise InputError(f"{path}: expected a column '{role}', got {', '.join(sheet.names)}")
    rows, words = _read(sheet, *_features(sheet, _chosen(given)))
    for note in rows.notes:
        warnings.warn(note)
    return _by_words(path, rows, words) if any(words) else _divided(rows, seed)


def _read(sheet: Sheet, choice: Choice, unused: Sequence[str]) -> tuple[Survival, list[str | None]]:
    """The complete rows of a table, and for each the word that divides it into train and test."""
    path, read = sheet.path, read_file(sheet.path, choice)
    numbers = {name: _column(sheet, name) for name in ("time", "weight") if name in sheet.names}
    complete = ~np.isnan(np.stack([*numbers.values()], 1)).any(1) & read.inputs.isfinite().all(1).numpy()
    for words in (read.labels, *map(sheet.words, choice.categories)):
        complete &= np.array([word is not None for word in words])
    notes = [note for note in read.notes if "columns not used" not in note]  # which would name time and weight
    notes += [f"{path}: {counted('columns not used', unused)}"] if unused else []
    if lost := int((~complete).sum()):
        notes.append(f"{path}: {lost:,} rows with an empty place, or an infinite number, are left out")
    kept = np.flatnonzero(complete)
    if (wrong := kept[numbers["time"][kept] <= 0]).size:
        row = wrong[0]
        raise InputError(f"{path}: row {row + 1}: time: expected a number above 0, got {numbers['time'][row]:g}")
    rows = Survival(
        read.inputs[torch.from_numpy(kept)],
        torch.from_numpy(numbers["time"][kept]),
        torch.tensor([_happened(path, row, str(read.labels[row])) for row in kept.tolist()], dtype=torch.bool),
        path.name,
        torch.from_numpy(numbers["weight"][kept]) if "weight" in numbers else None,
        columns=read.columns,
        notes=tuple(notes),
        numbers=torch.from_numpy(kept),
    )
    return rows, [read.words[row] for row in kept.tolist()]


def _chosen(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for option in given:
        name, _, value = option.partition("=")
        if name not in ("columns", "categories"):
            raise unknown("option of survival data", name, ("columns", "categories"))
        found[name] = tuple(part.strip() for part in value.split(","))
    return found


def _features(sheet: Sheet, chosen: Mapping[str, tuple[str, ...]]) -> tuple[Choice, list[str]]:
    """Which columns become numbers and which zeros and ones; and those that nothing uses.

    Raises:
        InputError: for an unknown column, one that is no feature, or no feature at all.
    """
    named = [name for names in chosen.values() for name in names]
    for name in named:
        if name not in sheet.names:
            raise unknown(f"{sheet.path}: column", name, sheet.names)
        if name in ROLES:
            raise InputError(f"{sheet.path}: column '{name}' is no feature; expected others")
    taken = (*ROLES, *COLUMNS["split"])
    free = [name for name in sheet.names if name not in named and name.lower() not in taken]
    numbers, words = list(chosen.get("columns", ())), list(chosen.get("categories", ()))
    others = []
    for name in free:
        numeric = _holds_numbers(sheet.kinds[name])
        if name.lower() in (*ROW_NUMBERS, *COLUMNS["path"]):
            others.append(name)
        elif numeric and "columns" not in chosen:
            numbers.append(name)
        elif not numeric and not chosen and 0 < len({*sheet.words(name)} - {None}) <= MOST_CATEGORIES:
            words.append(name)
        else:
            others.append(name)
    if not numbers and not words:
        raise InputError(f"{sheet.path}: expected a column besides time, event and weight")
    return Choice(label="event", columns=tuple(numbers), categories=tuple(words), factors=()), others


def _holds_numbers(kind: pyarrow.DataType) -> bool:
    """Whether a column holds numbers, true or false, or vectors of numbers."""
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    return kinds.is_boolean(kind) or is_number(kind.value_type if is_list else kind)


def _column(sheet: Sheet, name: str) -> Float64[np.ndarray, " rows"]:
    """A column of numbers, NaN where a place is empty."""
    numbers = number_column(sheet.path, name, sheet.typed([name]).column(name))
    if (endless := np.flatnonzero(np.isinf(numbers))).size:
        raise InputError(f"{sheet.path}: row {endless[0] + 1}: {name}: expected a number that is finite, got infinity")
    if name == "weight" and (negative := np.flatnonzero(numbers < 0)).size:
        row = negative[0]
        raise InputError(f"{sheet.path}: row {row + 1}: weight: expected a number of at least 0, got {numbers[row]:g}")
    return numbers.copy()


def _happened(path: Path, row: int, text: str) -> bool:
    """Whether a cell says that the event was observed."""
    if text.strip().lower() in YES:
        return True
    if text.strip().lower() in NO:
        return False
    raise InputError(f"{path}: row {row + 1}: event: expected 1 or 0, true or false, yes or no, got '{text}'")


def _by_words(path: Path, rows: Survival, words: Sequence[str | None]) -> SurvivalSplits:
    """Rows divided as the column `split` says."""
    found = {str(word).strip().lower() for word in words}
    if found != {"train", "test"}:
        raise InputError(f"{path}: split: expected train or test in every row, got {', '.join(sorted(found))}")
    test = torch.tensor([str(word).strip().lower() == "test" for word in words])
    return SurvivalSplits(*(rows.subset(part.nonzero().flatten()) for part in (~test, test)))


def _divided(rows: Survival, seed: int) -> SurvivalSplits:
    """A fifth of the rows, drawn by the seed, for test."""
    if len(rows) < FEWEST:
        raise InputError(f"{rows.name}: expected at least {FEWEST} rows, got {len(rows)}")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    count = math.ceil(TEST_SHARE * len(rows))
    note = f"divided at random: {len(rows) - count:,} rows for train, {count:,} for test"
    return SurvivalSplits(rows.subset(order[count:], note), rows.subset(order[:count], note))
