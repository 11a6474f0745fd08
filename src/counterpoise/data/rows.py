"""Rows of numbers as data: embeddings computed elsewhere, tables of measurements, scikit-learn's small sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.data.columns import Choice, Read, label_files, read_file
from counterpoise.data.decoding import draw_division
from counterpoise.data.folders import counted, index_labels, pick_splits
from counterpoise.data.images import UNLABELLED
from counterpoise.data.parts import NO_VALUE, checked_index, checked_values, joined_factors, with_factor, without_factor
from counterpoise.data.paths import as_path
from counterpoise.data.tables import TABLES, index_factor
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import all_finite, check_integers, check_matrix, check_seed
from counterpoise.ops.columns import BLOCK, column_statistics
from counterpoise.registry.kinds import OPTION, ROWS, module_of

BUNDLED = ("breast_cancer", "digits", "iris", "wine")
"""The sets inside scikit-learn, each by its name after `sklearn:`."""

ONE_NAME = ("label", "labels")  # the options that take one; the others take several


@dataclass(frozen=True, eq=False)
class Rows(Dataset):
    """Rows of numbers with their labels: a map-style torch `Dataset` with the interface of `Images`.

    `rows[i]` is `(input, label, i)`. A `DataLoader(rows, batch_size=…, collate_fn=lambda batch: batch)` fetches whole
    batches `([B columns], [B], [B])` at once.

    Args:
        inputs: floating-point and finite.
        labels: an index into `classes`, of any type of integer (kept as int64); -1 for a row without a label.
        classes: the names of the classes, in the order of their labels; empty when nothing is labelled.
        name: what the data is called in tables and reports.
        notes: what was done to the data, in words; reports give all of them.
        paths: what each row is of, such as the file of its image; None where the source does not say.
        unreadable: the rows that were left out because they hold no number.
        reasons: why each of them was left out, by its name.
        factors: what else is known of each row, by name: one value, 0 or more, for each row.
        factor_names: of a factor the names of its values 0, 1, …, where they have names; -1 is a row without one.
        columns: the names of the columns of `inputs`; empty where they have none.

    Raises:
        InputError: where shapes, types or labels do not fit together, or a number is NaN or infinite.

    Examples:
        >>> numbers = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> rows = Rows(numbers, torch.tensor([0, 1, -1]), ("cat", "dog"), "pets")
        >>> len(rows), rows.counts().tolist(), rows[1]
        (3, [1, 1], (tensor([3., 4.]), 1, 1))
        >>> rows.subset(torch.tensor([1]), note="dogs only").notes
        ('dogs only',)
    """

    items: ClassVar[str] = "rows"

    inputs: Float[Tensor, "rows columns"]
    labels: Integer[Tensor, " rows"]
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, Integer[Tensor, " rows"]] = field(default_factory=dict)
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_matrix("inputs", self.inputs, at_least=0)
        count, width = self.inputs.shape
        if not width:
            raise InputError("inputs: expected at least 1 column, got none")
        if self.columns and len(self.columns) != width:
            raise InputError(f"columns: expected a name for each of the {width} columns, got {len(self.columns)}")
        if self.paths is not None and len(self.paths) != count:
            raise InputError(f"paths: expected one for each of the {count} rows, got {len(self.paths)}")
        labels = check_integers("labels", self.labels, count, low=UNLABELLED, high=len(self.classes))
        factors = checked_values("factor", self.factors, self.factor_names, count, NO_VALUE, unnamed_least=NO_VALUE)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "factors", factors)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, " columns"], int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index = index % len(self)
        return self.inputs[index], int(self.labels[index]), index

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "batch columns"], Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """A whole batch: inputs, labels and indices."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.inputs[index], self.labels[index], index

    def subset(self, index: Integer[Tensor, " kept"], note: str | None = None) -> Rows:
        """The rows at `index`, in that order, with `note` added to the notes.

        Raises:
            InputError: for what is no index of a row.
        """
        notes = self.notes if note is None else (*self.notes, note)
        index = checked_index(index, len(self))
        return replace(self._pick(lambda x: x[index]), notes=notes)

    def rows(self, start: int, stop: int) -> Rows:
        """Some rows that follow each other, without a copy of their numbers."""
        return self._pick(lambda x: x[start:stop])

    def _pick(self, pick: Callable[[Tensor], Tensor]) -> Rows:
        """Some of the rows: `pick` takes their entries from a tensor that has one for each row."""
        chosen = pick(torch.arange(len(self))).tolist()
        return replace(
            self,
            inputs=pick(self.inputs),
            labels=pick(self.labels),
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
            factors={name: pick(values) for name, values in self.factors.items()},
        )

    def with_factor(self, name: str, values: Integer[Tensor, " rows"], names: Sequence[str] = ()) -> Rows:
        """The same rows with one more factor, or with another in the place of the one of that name; see `Images`."""
        return with_factor(self, name, values, names)

    def without_factor(self, name: str) -> Rows:
        """The same rows without a factor, or as they are where they have none of that name."""
        return without_factor(self, name)

    def counts(self) -> Int64[Tensor, " classes"]:
        """How many labelled rows each class has."""
        return torch.bincount(self.labels[self.labels != UNLABELLED], minlength=len(self.classes))

    def standardized(self, by: Rows) -> Rows:
        """The rows with each column less its mean in `by`, over its standard deviation there.

        Of what is learnt from, `by` is the data itself; of what is judged by, it is what was learnt from, too. A column
        that is constant in `by` is shifted alone.

        Args:
            by: at least 1 row of as many columns. Its deviation is that of all its rows (divided by n, not n - 1).

        Raises:
            InputError: for another number of columns, or no row in `by`.

        Examples:
            >>> train = Rows(torch.tensor([[1.0, 7.0], [3.0, 7.0]]), torch.tensor([0, 1]), ("cat", "dog"), "pets")
            >>> test = Rows(torch.tensor([[5.0, 8.0]]), torch.tensor([1]), ("cat", "dog"), "pets")
            >>> test.standardized(train).inputs
            tensor([[3., 1.]])
        """
        if by.inputs.shape[1] != self.inputs.shape[1]:
            raise InputError(f"by: expected {self.inputs.shape[1]} columns, got {by.inputs.shape[1]}")
        if not len(by):
            raise InputError("by: expected at least 1 row, got none")
        mean, scale = column_statistics(by.inputs)
        scaled = torch.empty_like(self.inputs)
        for to, given in zip(scaled.split(BLOCK), self.inputs.split(BLOCK), strict=True):
            to.copy_((given - mean) / scale)
        note = f"columns scaled to mean 0 and deviation 1 of {len(by):,} rows"
        return replace(self, inputs=scaled, notes=(*self.notes, note))


class RowSplits(NamedTuple):
    """The rows to learn from and those to judge by: the same columns and classes."""

    train: Rows
    test: Rows

    def standardized(self) -> RowSplits:
        """Both with their columns scaled to mean 0 and deviation 1 as in train alone."""
        return RowSplits(*(part.standardized(self.train) for part in self))


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of several parts of one data set, one part after the other.

    Where a part lacks a factor that others have, its rows have the value -1 of it.

    Args:
        parts: at least one; all of the same columns and classes.

    Raises:
        InputError: where they are not, or for a factor whose values have other names in one part than in another.

    Examples:
        >>> some = Rows(torch.zeros(2, 3), torch.tensor([0, 1]), ("cat", "dog"), "pets")
        >>> joined_rows([some, some.subset(torch.tensor([1]))]).labels.tolist()
        [0, 1, 1]
    """
    if not parts:
        raise InputError("parts: expected at least one, got none")
    first = parts[0]
    for part in parts[1:]:
        for what in ("columns", "classes"):
            if getattr(part, what) != getattr(first, what):
                raise InputError(f"parts: expected the same {what} in all of them, which '{part.name}' lacks")
        if part.inputs.shape[1] != first.inputs.shape[1]:
            raise InputError(f"parts: expected the same columns in all of them, which '{part.name}' lacks")
    paths = [part.paths for part in parts if part.paths is not None]
    factors, names = joined_factors(parts)
    return replace(
        first,
        inputs=torch.cat([part.inputs for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        paths=tuple(path for some in paths for path in some) if len(paths) == len(parts) else None,
        factors=factors,
        factor_names=names,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        unreadable=tuple(dict.fromkeys(name for part in parts for name in part.unreadable)),
        reasons={name: reason for part in parts for name, reason in part.reasons.items()},
    )


def load_rows(
    data: str | Path,
    *,
    label: str | None = None,
    labels: str | Path | None = None,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    factors: Sequence[str] | None = None,
    seed: int = 0,
) -> RowSplits:
    """Load rows of numbers by name or path, split into train and test.

    - `sklearn:digits`, `sklearn:wine`, `sklearn:breast_cancer`, `sklearn:iris`: the sets inside scikit-learn.
    - a `.parquet` or `.csv` table: a column of vectors, as `counterpoise embed` writes it, or else all columns of
      numbers; `label`, `split` and `path` as in tables of images. Columns named in `tables.FACTORS` become factors.
    - a `.npy` file: a matrix, with `X.labels.npy` or a table `X.csv` beside `X.npy`, as `counterpoise embed` writes it.

    A path may have `rows:` before it and options behind it, which are the arguments of the same names:
    `rows:wine.csv:label=quality:columns=acidity,sugar`.

    Data without a test split is divided 80 to 20 within each class. A row that holds no number at all is left out with
    a warning that counts and names it. Columns are not scaled; see `RowSplits.standardized`.

    Args:
        data: a name or a path as above.
        label: the column of labels; None: the one named label, class, target or category.
        labels: of a `.npy` file, the file of its labels: `.npy`, or a table with a column of them.
        columns: the columns that are the inputs, of numbers or of vectors; None: as above.
        categories: columns of words, or of numbers that are names, each of which becomes a column of zeros and ones
            for each of its values.
        factors: the columns that become factors; None: those named in `tables.FACTORS` (step, client, domain, forget,
            group, sensitive).
        seed: of the division into train and test where the data has none.

    Returns:
        train and test: float32 rows of the same columns and classes.

    Raises:
        InputError: for an unknown name, option or column, a missing or malformed file, vectors of several lengths, a
            number that is missing, NaN or infinite, labels that are no classes, or fewer than two classes.

    Examples:
        >>> train, test = load_rows("sklearn:wine")
        >>> train.inputs.shape, len(test), train.classes, train.columns[0]
        (torch.Size([142, 13]), 36, ('class_0', 'class_1', 'class_2'), 'alcohol')
    """
    check_seed(seed)
    text, options = _options(str(data))
    given = {
        "label": label,
        "labels": None if labels is None else str(labels),
        "columns": _names("columns", columns),
        "categories": _names("categories", categories) or None,
        "factors": _names("factors", factors),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if twice := [name for name in chosen if name in options]:
        raise InputError(f"{twice[0]}: is given twice, as an argument and in '{data}'")
    options |= chosen
    kind, _, name = text.partition(":")
    if kind == "sklearn":
        if options:
            raise InputError(f"{data}: {next(iter(options))}: is for files, not for the sets of scikit-learn")
        return _divided(_bundled(name), seed)
    return _divided(read_file(_existing(text), Choice(**options)), seed)


class WholeRows(NamedTuple):
    """All rows of a source in its own order, with labels or without.

    Attributes:
        rows: those that hold numbers, without labels.
        kept: where these are among all.
        names: of all rows: the path that the source gives, or "row 1" and so on.
    """

    rows: Rows
    kept: Int64[Tensor, " kept"]
    names: tuple[str, ...]


def load_all_rows(data: str | Path, like: str | Path, columns: Sequence[str]) -> WholeRows:
    """Every row of a source, as a network takes it that was trained on rows of another: nothing is divided.

    Columns are found by their names, whatever their order, and others are passed over. Vectors, and the columns of a
    `.npy` file, are taken by their places instead. A word of a column of categories that the training rows do not have
    is a row of zeros in its columns, with a warning.

    Args:
        data: as for `load_rows`; labels are not needed.
        like: the training data, whose options, such as `categories`, hold where `data` has none of its own.
        columns: the names of the network's columns, in its order, as `Rows.columns` has them.

    Raises:
        InputError: for a column that is not there, vectors of another length, or what `load_rows` refuses.

    Examples:
        >>> train, _ = load_rows("sklearn:wine")
        >>> load_all_rows("sklearn:wine", "sklearn:wine", train.columns).rows.inputs.shape
        torch.Size([178, 13])
    """
    text, options = _options(str(data))
    if text.partition(":")[0] == "sklearn":
        return _whole(_bundled(text.partition(":")[2]), columns)
    path = _existing(text)
    usual = {name: value for name, value in _options(str(like))[1].items() if name == "categories"}
    if path.suffix.lower() in TABLES and "columns" not in options:
        categories = options.get("categories", usual.get("categories", ()))
        named = [name for name in columns if "[" not in name and not _of_category(name, categories)]
        options |= {"columns": tuple(named)} if named else {}
        options.setdefault("categories", categories)
    return _whole(read_file(path, Choice(**options), labelled=False), columns)


def _whole(read: Read, columns: Sequence[str]) -> WholeRows:
    """All rows of a source with these columns, in this order."""
    for note in read.notes:
        warnings.warn(note)
    empty = _empty_rows(read, range(len(read.words)))
    kept = torch.tensor([row for row in range(len(read.words)) if row not in empty], dtype=torch.int64)
    inputs = _in_order(read, columns)[kept]
    rows = Rows(inputs, torch.full((len(inputs),), UNLABELLED), (), read.name, columns=tuple(columns))
    return WholeRows(rows, kept, tuple(_row_name(read, row) for row in range(len(read.words))))


def _in_order(read: Read, columns: Sequence[str]) -> Tensor:
    """A source's columns by the names of the network's; of vectors, by their places."""
    if all("[" in name for name in (*columns, *read.columns)):
        if len(columns) != len(read.columns):
            raise InputError(f"{read.source}: expected vectors of {len(columns)} numbers, got {len(read.columns)}")
        return read.inputs
    found = {name: read.inputs[:, i] for i, name in enumerate(read.columns)}
    coded = {name.partition("=")[0] for name in read.columns if "=" in name}
    if unseen := [name for name in read.columns if "=" in name and name not in columns]:
        warnings.warn(f"{read.source}: {counted('words that the training rows do not have', unseen)}")
    missing = [name for name in columns if name not in found and not _of_category(name, coded)]
    if missing:
        raise unknown(f"{read.source}: column", missing[0], read.columns)
    return torch.stack([found.get(name, torch.zeros(len(read.inputs))) for name in columns], 1)


def _of_category(column: str, categories: Iterable[str]) -> bool:
    """Whether a column of zeros and ones is of one of these columns of words."""
    return any(column.startswith(f"{name}=") for name in categories)


def is_rows(data: str | Path) -> bool:
    """Whether a name or path can only be rows, so that `load_rows` is meant: a plain table may be one of images.

    Examples:
        >>> is_rows("rows:wine.csv"), is_rows("sklearn:iris"), is_rows("features.npy"), is_rows("photos/")
        (True, True, True, False)
    """
    return module_of(data) == ROWS


def row_files(data: str | Path, labels: str | Path | None = None) -> list[Path]:
    """Every file that `load_rows` reads; none of the sets inside scikit-learn, nor of what is not there.

    Args:
        data: as for `load_rows`.
        labels: as for `load_rows`.

    Raises:
        InputError: for an unknown option, or a path that cannot be looked for.

    Examples:
        >>> row_files("sklearn:wine")
        []
    """
    text, options = _options(str(data))
    if text.partition(":")[0] == "sklearn":
        return []
    path = as_path("data", text)
    if not path.is_file():
        return []
    named = labels or options.get("labels")
    beside = [] if path.suffix.lower() != ".npy" else [as_path("labels", named)] if named else label_files(path)
    return [path, *(file for file in beside if file.is_file())]


def _options(data: str) -> tuple[str, dict[str, Any]]:
    """The name or path, and the options behind it."""
    text = data.removeprefix("rows:")
    if not OPTION.search(text) or as_path("data", text).is_file():
        return text, {}
    path, *given = OPTION.split(text)
    known = [f.name for f in fields(Choice)]
    options: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in known:
            raise unknown("option of rows", name, known)
        if name in options:
            raise InputError(f"{data}: {name} is given twice")
        if not value:
            raise InputError(f"{data}: {name}: expected a name after '=', got nothing")
        options[name] = value if name in ONE_NAME else tuple(part.strip() for part in value.split(","))
    return path, options


def _names(argument: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{argument}: expected a list of names, got {names!r}")
    return tuple(names)


def _existing(text: str) -> Path:
    path = as_path("data", text)
    endings = (*TABLES, ".npy")
    if path.suffix.lower() not in endings:
        known = [*(f"sklearn:{name}" for name in BUNDLED), *(f"a {ending} file" for ending in endings)]
        raise unknown("rows", text, known)
    if not path.is_file():
        raise InputError(f"data: no such file: {path}")
    return path


def _divided(read: Read, seed: int) -> RowSplits:
    """Rows to learn from and to judge by, without those that hold no number."""
    places, more = _places(read)
    empty = _empty_rows(read, [*places])
    kept = [row for row in places if row not in empty]
    lost = [_row_name(read, row) for row in sorted(empty)]
    if lost:
        more = (*more, f"{read.source}: {counted('rows without any number are left out', lost)}")
    notes = (*read.notes, *more)
    for note in notes:
        warnings.warn(note)
    rows = _rows(read, kept, lost, notes)
    if not any(places.values()):
        parts = draw_division(rows.labels, rows.classes, read.source, seed, what="row")
        note = f"divided at random within each class: {len(parts[0]):,} rows for train, {len(parts[1]):,} for test"
        return RowSplits(*(rows.subset(part, note) for part in parts))
    indices = {split: [i for i, row in enumerate(kept) if places[row] == split] for split in RowSplits._fields}
    for split, chosen in indices.items():
        if not chosen:
            raise InputError(f"{read.source}: no row with numbers in its {split} split")
    found = RowSplits(*(rows.subset(torch.tensor(chosen)) for chosen in indices.values()))
    _warn_of_unseen(read.source, found)
    return found


def _places(read: Read) -> tuple[dict[int, str | None], tuple[str, ...]]:
    """The split of each row that is used, None where all are to be divided; and a note on the others."""
    if not any(read.words):
        return dict.fromkeys(range(len(read.words))), ()
    words = list(dict.fromkeys(word for word in read.words if word))
    roles = pick_splits(words)
    if "train" not in roles.values():
        raise InputError(f"{read.source}: expected a split named train to learn from, found: {', '.join(words)}")
    divided = "test" in roles.values()
    used = {row: roles[word] if divided else None for row, word in enumerate(read.words) if word in roles}
    others = [word for word in words if word not in roles]
    return used, (f"{read.source}: left out of the data: {', '.join(others)}",) if others else ()


def _empty_rows(read: Read, used: Sequence[int]) -> set[int]:
    """Those of the rows in use that hold no number at all, as where `embed` could not read the image.

    Raises:
        InputError: for a row in which one number is missing or infinite; where no row holds any.
    """
    if all_finite(read.inputs):
        return set()
    finite = read.inputs.isfinite()
    faulty = torch.zeros(len(finite), dtype=torch.bool)
    faulty[list(used)] = True
    faulty &= ~finite.all(1)
    empty = faulty & read.inputs.isnan().all(1)
    if rows := (faulty & ~empty).nonzero().flatten().tolist():
        column = int((~finite[rows[0]]).nonzero()[0])
        value = read.inputs[rows[0], column]
        held = "no number" if value.isnan() else "an infinite number, or one beyond float32"
        others = f" (as do {len(rows) - 1:,} other rows)" if len(rows) > 1 else ""
        raise InputError(
            f"{read.source}: row {rows[0] + 1}: column '{read.columns[column]}' holds {held}{others}; fill the "
            "place, or remove the row"
        )
    if len(found := set(empty.nonzero().flatten().tolist())) == len(used):
        raise InputError(f"{read.source}: none of its {len(used):,} rows holds a number")
    return found


def _row_name(read: Read, row: int) -> str:
    """What a row is called: by its path, or else by its number, counted from 1."""
    return (read.paths[row] if read.paths else None) or f"row {row + 1}"


def _rows(read: Read, kept: Sequence[int], lost: Sequence[str], notes: tuple[str, ...]) -> Rows:
    """Those of a source's rows, with their labels and factors as indices.

    Raises:
        InputError: where all labels are of one class.
    """
    texts = [read.labels[row] for row in kept]
    labels, classes = index_labels(texts)
    if len(classes) == 1:
        raise InputError(f"{read.source}: expected labels of at least two classes, got '{classes[0]}' alone")
    if read.classes is not None:
        labels, classes = [read.classes.index(str(text)) for text in texts], read.classes
    factors = {
        name: index_factor(read.source, name, name, [values[row] for row in kept])
        for name, values in read.factors.items()
    }
    return Rows(
        read.inputs[torch.tensor(kept)] if len(kept) < len(read.inputs) else read.inputs,
        torch.tensor(labels),
        classes,
        read.name,
        notes,
        paths=tuple(_row_name(read, row) for row in kept) if read.paths else None,
        unreadable=tuple(lost),
        reasons=dict.fromkeys(lost, "holds no number"),
        factors={name: torch.tensor(index) for name, (index, _) in factors.items()},
        factor_names={name: names for name, (_, names) in factors.items()},
        columns=read.columns,
    )


def _warn_of_unseen(source: str, found: RowSplits) -> None:
    learnt, judged = (part.counts().tolist() for part in found)
    unseen = [name for name, few, many in zip(found.train.classes, learnt, judged, strict=True) if many and not few]
    if unseen:
        warnings.warn(f"{source}: {counted('classes that train has no row of', unseen)}")


def _bundled(name: str) -> Read:
    from sklearn import datasets

    if name not in BUNDLED:
        raise unknown("scikit-learn data set", name, BUNDLED)
    found = getattr(datasets, f"load_{name}")()
    classes = tuple(map(str, found.target_names))
    return Read(
        f"sklearn:{name}",
        f"sklearn:{name}",
        torch.from_numpy(found.data).float(),
        tuple(map(str, found.feature_names)),
        [classes[label] for label in found.target],
        [None] * len(found.target),
        classes=classes,
    )
