"""Users' files of numbers: tables and NumPy's matrices, with label, split, path and factors of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pyarrow.types as kinds
import torch
from jaxtyping import Float32
from torch import Tensor

from counterpoise.data.decoding import first_line
from counterpoise.data.folders import counted, index_labels, label_text
from counterpoise.data.images import UNLABELLED
from counterpoise.data.paths import as_path
from counterpoise.data.tables import (
    COLUMNS,
    FACTORS,
    MISSING,
    TABLES,
    cell_values,
    check_unique,
    column_names,
    find_columns,
    is_number,
    label_texts,
    number_column,
    read_columns,
    split_words,
)
from counterpoise.errors import InputError, first_few, unknown

# How pandas and databases call a row's number, which would give away the class in a sorted table.
ROW_NUMBERS = ("", "id", "index", "unnamed: 0", "__index_level_0__")
MOST_CATEGORIES = 1000  # a column of more different words is a name or a text


@dataclass(frozen=True)
class Choice:
    """Which columns of a source serve as what; None where the source's own names say it."""

    label: str | None = None
    labels: str | None = None
    columns: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    factors: tuple[str, ...] | None = None


class Read(NamedTuple):
    """What a source holds, before it is divided.

    `inputs` are its rows, NaN where it has no number. Of each row there is one of `labels` (None without one), of
    `words` (the source's own for the split, None without one), of `paths`, and of each factor (None without a value).
    `classes` are in the
    source's own order, or None where those that occur are to be sorted. `notes` name what was passed over, or taken for
    something else.
    """

    source: str
    name: str
    inputs: Float32[Tensor, "rows columns"]
    columns: tuple[str, ...]
    labels: Sequence[str | None]
    words: Sequence[str | None]
    paths: Sequence[str | None] | None = None
    factors: Mapping[str, Sequence[str | None]] = {}
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_file(path: Path, choice: Choice, labelled: bool = True) -> Read:
    """The rows of a table or of a `.npy` file.

    Args:
        path: a file that is there, with one of these endings.
        choice: which columns serve as what.
        labelled: whether it must have labels; rows that are only to be classified need none.

    Raises:
        InputError: for whatever is at fault in it, with the row or column.
    """
    read = _read_npy if path.suffix.lower() == ".npy" else _read_table
    return read(path, choice, labelled)


def _read_table(path: Path, choice: Choice, labelled: bool) -> Read:
    if choice.labels is not None:
        raise InputError(f"labels: is for .npy files; the labels of {path} are in a column of it (label=COLUMN)")
    sheet = Sheet(path)
    described = _describe(sheet, choice, labelled)
    inputs, passed_over = _input_columns(sheet, choice, described)
    table = sheet.typed(inputs)
    blocks = [_block(path, name, table.column(name)) for name in inputs]
    blocks += [_one_hot(sheet, name) for name in choice.categories]
    matrix = blocks[0][0] if len(blocks) == 1 else np.concatenate([block for block, _ in blocks], axis=1)
    unused = (f"{path}: {counted('columns not used', passed_over)}",) if passed_over else ()
    return Read(
        str(path),
        path.name,
        torch.from_numpy(matrix),
        tuple(name for _, names in blocks for name in names),
        described.labels,
        described.words,
        described.paths,
        described.factors,
        notes=(*described.notes, *unused),
    )


class Sheet:
    """A table with a name for each column, without blanks around it.

    Args:
        path: of a CSV or Parquet file.

    Raises:
        InputError: for a file that cannot be read, without rows, or with two columns of one name.
    """

    def __init__(self, path: Path):
        self.path = path
        given = column_names(path)
        self.names = [name.strip() for name in given]
        check_unique(path, self.names)
        self._given = dict(zip(self.names, given, strict=True))
        if not self.count:
            raise InputError(f"{path}: has no rows")

    @cached_property
    def _csv(self) -> pyarrow.Table | None:
        """A CSV file with the types that its values have, for which all of it must be read; None for Parquet."""
        return read_columns(self.path) if self.path.suffix.lower() == ".csv" else None

    @cached_property
    def count(self) -> int:
        """How many rows it has."""
        return pyarrow.parquet.read_metadata(self.path).num_rows if self._csv is None else len(self._csv)

    @cached_property
    def kinds(self) -> dict[str, pyarrow.DataType]:
        """The type of each column."""
        schema = pyarrow.parquet.read_schema(self.path) if self._csv is None else self._csv.schema
        return dict(zip(self.names, schema.types, strict=True))

    def typed(self, names: Sequence[str]) -> pyarrow.Table:
        """Some columns with their types, by their names without blanks."""
        given = [self._given[name] for name in names]
        table = read_columns(self.path, given) if self._csv is None else self._csv
        return pyarrow.table({name: table.column(self._given[name]) for name in names})

    def texts(self, names: Sequence[str]) -> pyarrow.Table:
        """Some columns as they are written, by their names without blanks."""
        table = read_columns(self.path, [self._given[name] for name in names])
        return pyarrow.table({name: table.column(self._given[name]) for name in names})

    def words(self, name: str) -> list[str | None]:
        """The text of each cell, or the number as text; None where there is none."""
        texts = [label_text(value) for value in cell_values(self.path, name, self.texts([name]))]
        return [None if text in MISSING else text for text in texts]


class Described(NamedTuple):
    """What a table holds of its rows besides their numbers; `used` are the columns that hold it."""

    labels: list[str | None]
    words: list[str | None]
    paths: list[str | None] | None
    factors: dict[str, list[str | None]]
    used: list[str]
    notes: tuple[str, ...]


def _describe(sheet: Sheet, choice: Choice, labelled: bool) -> Described:
    """The labels, splits, paths and factors of a table's rows.

    Raises:
        InputError: for an unknown column, one named twice, or one that holds something else.
    """
    free = _free(sheet, choice)
    found, notes = _roles(sheet, choice, free, labelled)
    table = sheet.texts([*found.values()] or sheet.names[:1])  # one column at least: it says how many rows there are
    labels, more = label_texts(sheet.path, found.get("label"), table)
    if labelled:
        _check_classes(f"{sheet.path}: column '{found['label']}'", labels)
    factors = _factor_columns(sheet, choice, free)
    values = {name: _factor(sheet, column) for name, column in factors.items()}
    missing = {name: texts.count(None) for name, texts in values.items() if name != "forget" and None in texts}
    said = [f"{sheet.path}: taken as factors: {', '.join(factors)}"] if factors else []
    said += [f"{sheet.path}: column '{factors[name]}': {count:,} rows have no value" for name, count in missing.items()]
    named = "path" in found and not _holds_images(sheet.kinds[found["path"]])
    return Described(
        labels,
        split_words(sheet.path, found.get("split"), table, False),
        sheet.words(found["path"]) if named else None,
        values,
        [*(name for role, name in found.items() if role != "path" or named), *factors.values()],
        (*notes, *more, *said),
    )


def _holds_images(kind: pyarrow.DataType) -> bool:
    """Whether a column of paths holds images themselves, by which no row can be named: their bytes, or their pixels."""
    return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_nested(kind)


def _free(sheet: Sheet, choice: Choice) -> list[str]:
    """The columns that the choice does not name."""
    one = [] if choice.label is None else [choice.label]
    named = [*one, *(choice.columns or ()), *choice.categories, *(choice.factors or ())]
    for name in named:
        if name not in sheet.names:
            raise unknown(f"{sheet.path}: column", name, sheet.names)
        if named.count(name) > 1:
            raise InputError(f"{sheet.path}: column '{name}' is named twice; expected one use of each")
    return [name for name in sheet.names if name not in named]


def _roles(sheet: Sheet, choice: Choice, free: Sequence[str], labelled: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """The columns of label, split and path, by what they mean; and notes on their names."""
    source, others = str(sheet.path), [name for name in free if name.lower() not in COLUMNS["label"]]
    if choice.label is None:
        found, _ = find_columns(source, free, ("path", "split") if labelled else tuple(COLUMNS), ())
    else:
        found, _ = find_columns(source, others, tuple(COLUMNS), ())
    _, notes = find_columns(source, [*found.values()], tuple(COLUMNS), ())  # without the note on columns not used
    return {"label": choice.label, **found} if choice.label else found, notes


def _check_classes(source: str, labels: Sequence[str | None]) -> None:
    """Refuse labels that are all numbers and not all whole: what is to be predicted of such rows is no class."""
    numbers = [_number(text) for text in labels if text is not None]
    fractions = [number for number in numbers if number is not None and not number.is_integer()]
    if fractions and None not in numbers:
        got = f"got numbers such as {fractions[0]:g}"
        raise InputError(f"{source}: expected classes (names or whole numbers), {got}, which are for the task regress")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _factor_columns(sheet: Sheet, choice: Choice, free: Sequence[str]) -> dict[str, str]:
    """The columns that become factors, by the names of these: those that are named, or else those of `FACTORS`."""
    if choice.factors is not None:
        return {name: name for name in choice.factors}
    found, _ = find_columns(
        str(sheet.path), [name for name in free if name.lower() in FACTORS], tuple(COLUMNS), FACTORS
    )
    return found


def _factor(sheet: Sheet, name: str) -> list[str | None]:
    values = sheet.words(name)
    if not any(values):
        raise InputError(f"{sheet.path}: column '{name}' holds no value, so that it is no factor; fill or remove it")
    return values


def _input_columns(sheet: Sheet, choice: Choice, described: Described) -> tuple[list[str], list[str]]:
    """The columns that become inputs as they are, and those that nothing uses.

    Raises:
        InputError: for a named column without numbers; where there are none, or several columns of vectors.
    """
    used = {*described.used, *choice.categories}
    if choice.columns is None:
        apart = [*ROW_NUMBERS, *COLUMNS["label"]]  # what would give the label away, unless it is asked for
        free = [name for name in sheet.names if name not in used and name.lower() not in apart]
        vectors = [name for name in free if _is_vector(sheet.kinds[name])]
        if len(vectors) > 1:
            raise InputError(
                f"{sheet.path}: columns {first_few(vectors)} hold vectors; name one of them (columns=NAME)"
            )
        inputs = vectors or [name for name in free if _is_number(sheet.kinds[name])]
    else:
        inputs = list(choice.columns)
        for name in inputs:
            if not (_is_vector(kind := sheet.kinds[name]) or _is_number(kind)):
                raise InputError(
                    f"{sheet.path}: column '{name}': expected numbers or vectors, got {kind}; a column of words is one "
                    f"of zeros and ones for each of them with categories={name}"
                )
    others = [name for name in sheet.names if name not in used and name not in inputs]
    if not inputs and not choice.categories:
        found = first_few([f"{name} ({sheet.kinds[name]})" for name in others]) or "none"
        raise InputError(f"{sheet.path}: expected a column of vectors, or columns of numbers, got {found}")
    return inputs, others


def _is_number(kind: pyarrow.DataType) -> bool:
    return is_number(kind) or kinds.is_boolean(kind)


def _is_vector(kind: pyarrow.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind
    lists = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    return lists and is_number(kind.value_type)


def _block(path: Path, name: str, column: pyarrow.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A column as float32 [rows, numbers], NaN where there is none; and the name of each of its numbers."""
    if isinstance(column.type, pyarrow.BaseExtensionType):
        column = pyarrow.chunked_array([part.storage for part in column.chunks], column.type.storage_type)
    if _is_vector(column.type):
        vectors = _vectors(path, name, column)
        return vectors, [f"{name}[{i}]" for i in range(vectors.shape[1])]
    numbers = column.cast(pyarrow.int8()) if kinds.is_boolean(column.type) else column
    return _to_float32(number_column(path, name, numbers))[:, None], [name]


def _vectors(path: Path, name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of vectors as a matrix; a row without one is NaN.

    Raises:
        InputError: for vectors of several lengths, or without numbers.
    """
    there = np.flatnonzero(column.is_valid().to_numpy())
    present = column.drop_null()
    lengths = pyarrow.compute.list_value_length(present).to_numpy()
    if not lengths.any():
        raise InputError(f"{path}: column '{name}': expected vectors, got none with a number")
    usual = np.bincount(lengths)[1:].argmax() + 1
    if (other := np.flatnonzero(lengths != usual)).size:
        row, length = there[other[0]] + 1, lengths[other[0]]
        raise InputError(
            f"{path}: row {row}: column '{name}' has a vector of {length:,} numbers; expected {usual:,}, as in row "
            f"{there[np.flatnonzero(lengths == usual)[0]] + 1}"
        )
    numbers = pyarrow.compute.list_flatten(present).cast(pyarrow.float32(), safe=False).to_numpy()
    matrix = np.full((len(column), usual), np.nan, np.float32)
    matrix[there] = numbers.reshape(len(there), usual)
    return matrix


def _one_hot(sheet: Sheet, name: str) -> tuple[np.ndarray, list[str]]:
    """A column of words as one of zeros and ones for each of them; all zeros where there is none.

    Raises:
        InputError: for a column without words, or with too many different ones.
    """
    index, words = index_labels(sheet.words(name))
    if not 0 < len(words) <= MOST_CATEGORIES:
        raise InputError(
            f"{sheet.path}: column '{name}': expected 1 to {MOST_CATEGORIES:,} different words, got {len(words):,}"
        )
    return (np.array(index)[:, None] == np.arange(len(words))).astype(np.float32), [f"{name}={word}" for word in words]


def _read_npy(path: Path, choice: Choice, labelled: bool) -> Read:
    for name in ("columns", "categories"):
        if getattr(choice, name):
            raise InputError(f"{name}: is for tables; the columns of {path} have no names")
    inputs = _matrix(path)
    columns = tuple(f"{path.stem}[{i}]" for i in range(inputs.shape[1]))
    if not labelled and not any(place.is_file() for place in label_files(path)):
        return Read(str(path), path.name, inputs, columns, [None] * len(inputs), [None] * len(inputs))
    source = _labels_of(path, choice)
    if source.suffix.lower() in TABLES:
        sheet = Sheet(source)
        described = _describe(sheet, choice, labelled)
        _check_length(source, len(described.labels), path, len(inputs))
        passed_over = [name for name in sheet.names if name not in described.used]
        unused = (f"{source}: {counted('columns not used', passed_over)}",) if passed_over else ()
        notes = (*described.notes, *unused)
        return Read(
            str(path),
            path.name,
            inputs,
            columns,
            described.labels,
            described.words,
            described.paths,
            described.factors,
            notes=notes,
        )
    for name in ("label", "factors"):
        if getattr(choice, name):
            raise InputError(f"{name}: names a column of a table, but the labels are in {source}")
    labels, notes = _npy_labels(source)
    _check_length(source, len(labels), path, len(inputs))
    return Read(str(path), path.name, inputs, columns, labels, [None] * len(labels), notes=notes)


def _labels_of(path: Path, choice: Choice) -> Path:
    """The file with the labels of a matrix.

    Raises:
        InputError: where there is none, or may be two.
    """
    if choice.labels is not None:
        named = as_path("labels", choice.labels)
        if named.suffix.lower() not in (*TABLES, ".npy"):
            raise InputError(f"labels: expected a file ending in {', '.join((*TABLES, '.npy'))}, got {named}")
        if not named.is_file():
            raise InputError(f"labels: no such file: {named}")
        return named
    there = [place for place in label_files(path) if place.is_file()]
    if len(there) == 1:
        return there[0]
    names = " and ".join(place.name for place in label_files(path))
    if there:
        raise InputError(f"{path}: {names} may each hold its labels; name one (labels=FILE), or remove the other")
    raise InputError(f"{path}: has no labels: neither of {names} is beside it; name their file (labels=FILE)")


def label_files(path: Path) -> list[Path]:
    """Where the labels of a matrix may be: as a vector, or in a table as `counterpoise embed` writes it.

    Examples:
        >>> [file.name for file in label_files(Path("X.npy"))]
        ['X.labels.npy', 'X.csv']
    """
    return [path.with_suffix(".labels.npy"), path.with_suffix(".csv")]


def _check_length(source: Path, count: int, path: Path, rows: int) -> None:
    if count != rows:
        raise InputError(f"{source}: expected {rows:,} labels, one for each row of {path.name}, got {count:,}")


def _matrix(path: Path) -> Float32[Tensor, "rows columns"]:
    array = _array(path)
    if array.ndim != 2:
        raise InputError(f"{path}: expected a matrix [rows, columns], got shape {list(array.shape)}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: expected numbers, got {array.dtype}")
    if not array.size:
        raise InputError(f"{path}: expected at least 1 row and 1 column, got shape {list(array.shape)}")
    return torch.from_numpy(_to_float32(array))


def _npy_labels(path: Path) -> tuple[list[str | None], tuple[str, ...]]:
    """The class of each row, as text; and a note on those without."""
    array = _array(path)
    if array.ndim != 1:
        raise InputError(f"{path}: expected one label a row, a vector, got shape {list(array.shape)}")
    if array.dtype.kind not in "fiubUS":
        raise InputError(f"{path}: expected labels that are whole numbers or texts, got {array.dtype}")
    hidden = int((array == UNLABELLED).sum()) if array.dtype.kind in "if" else 0
    values = [None if hidden and value == UNLABELLED else value for value in array.tolist()]
    labels, notes = label_texts(path, "label", pyarrow.table({"label": values}))
    _check_classes(str(path), labels)
    return labels, (*notes, *([f"{path}: rows without a label, which is {UNLABELLED} ({hidden:,})"] if hidden else []))


def _array(path: Path) -> np.ndarray:
    """What a NPY file holds; nothing in it is run."""
    try:
        # Mapped, since a file that is shorter than it says is refused so before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's reader of headers raises all sorts of errors on damaged ones
        said = first_line(error)[:200]
        raise InputError(f"{path}: cannot be read: {said}; expected a NPY file of numbers, without objects") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays (NPZ); expected a NPY file of one")
    return array


def _to_float32(array: np.ndarray) -> np.ndarray:
    """A copy in memory; numbers beyond float32 are infinite."""
    with np.errstate(over="ignore"):
        return np.array(array, dtype=np.float32, order="C")
