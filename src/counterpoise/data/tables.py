"""Users' tables: CSV and Parquet files, of images and their labels or of numbers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pyarrow.types as kinds
from PIL import Image

from counterpoise.data.decoding import Item, file_stamp, first_line
from counterpoise.data.folders import ROLES, Listing, counted, image_item, index_labels, label_text
from counterpoise.data.images import FORGET_NAMES, UNLABELLED
from counterpoise.data.reading import Unreadable, open_image
from counterpoise.errors import InputError, unknown

TABLES = (".csv", ".parquet")
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": ("split",),
}
FACTORS = ("step", "client", "domain", "forget", "group", "sensitive")
"""Columns that become factors of images and rows, here, in `columns` and in Hugging Face sets.

They hold real dates, hospitals, styles, requests to delete, subgroups, sensitive attributes.
"""

FORGET = {**dict.fromkeys(("1", "true", "yes", "y"), 1), **dict.fromkeys(("0", "false", "no", "n"), 0)}
FILTERED = re.compile(r"(?P<table>.+\.(?:csv|parquet)):(?P<filters>.*)", re.IGNORECASE | re.DOTALL)
# How pandas, Python, SQL and spreadsheets write that there is no value.
MISSING = {"", "nan", "NaN", "NAN", "NaT", "None", "null", "Null", "NULL", "<NA>", "#N/A"}
# As often a class of its own: sodium, Namibia, "no defect".
PERHAPS_MISSING = {"na", "n/a", "none"}
SHOWN = 10  # columns that an error names
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
SEPARATORS = (",", ";", "\t")


class Cells(NamedTuple):
    """A column of images: its values; the text in each, a path or a name; and whether it holds the image itself."""

    values: pyarrow.ChunkedArray
    texts: list[str | None]
    held: list[bool]


def list_table(path: Path, whole: bool = False, where: Sequence[tuple[str, str]] = ()) -> Listing:
    """The images listed in a CSV or Parquet table.

    Columns: `path` (or file, filename, image), relative to the table, or in Parquet an image file's bytes; `label` (or
    class, target, category), empty for an image without one; and, where wanted, `split`: train, test or validation.
    Columns named as one of `FACTORS` become factors of the images, empty for one without a value; the values are in the
    order of numbers where all are numbers, else of texts. `forget` holds yes or no, and no where it is empty.

    Args:
        path: the table.
        whole: take every row, whatever its split, with or without a column of labels; other columns are not used.
        where: columns of factors, each with the value that the rows taken have; the values keep the numbers that they
            have among all rows, so that two parts of one table can be joined.

    Raises:
        InputError: for a malformed table, a missing column or one that may be two things, an unknown split, a value
            that no row has, or where no file is there.
    """
    factors = tuple(name for name, _ in where) if whole else FACTORS
    optional = ("label", "split") if whole else ("split",)
    names, notes = find_columns(str(path), column_names(path), optional, factors)
    table = read_columns(path, list(names.values()))
    if not len(table):
        raise InputError(f"{path}: has no rows")
    labels, said = label_texts(path, names.get("label"), table)
    words = split_words(path, names.get("split"), table, whole)
    cells = _cells(path, names["path"], table.column(names["path"]))
    files = _files(path, cells)
    items = [_item(path, names["path"], cells, row, file, words[row]) for row, file in enumerate(files)]
    if not whole and (empty := next((row for row, item in enumerate(items, 1) if not item.name), None)):
        raise InputError(f"{path}: row {empty} has no path")
    columns = {name: _factor(path, name, names[name], table) for name in names if name in FACTORS}
    factors = factor_notes(str(path), {name: columns[name] for name in columns if name not in dict(where)})
    listing = Listing(
        ":".join([path.name, *(f"{name}={value}" for name, value in where)]),
        items,
        labels,
        None,
        (*notes, *said, *factors, *_absent(path, files)),
        {name: values for name, (values, _) in columns.items()},
        {name: words for name, (_, words) in columns.items()},
    )
    return listing.rows(_matching(path, listing, where)) if where else listing


def split_filters(data: str | Path) -> tuple[str | Path, tuple[tuple[str, str], ...]]:
    """A table's path and the columns and values by which its rows are chosen; anything else as it is.

    Args:
        data: a path, or `TABLE:COLUMN=VALUE`, with more of the latter after further colons.

    Raises:
        InputError: for what follows a table's name and is no such choice.

    Examples:
        >>> split_filters("all.csv:domain=sketch:client=north"), split_filters("photos/")
        (('all.csv', (('domain', 'sketch'), ('client', 'north'))), ('photos/', ()))
    """
    match = FILTERED.fullmatch(str(data))
    if match is None or os.path.exists(os.path.expanduser(data)):
        return data, ()
    # A value may hold a colon, as times do, so that only one before a column's name divides.
    parts = re.split(rf":(?=(?:{'|'.join(FACTORS)})=)", match["filters"])
    pairs = tuple((name.strip().lower(), value.strip()) for name, _, value in (part.partition("=") for part in parts))
    for name, value in pairs:
        if name not in FACTORS or not value:
            expected = f"{match['table']}:COLUMN=VALUE, COLUMN being one of {', '.join(FACTORS)}"
            raise InputError(f"data: expected {expected}, got '{data}'")
    if len({name for name, _ in pairs}) < len(pairs):
        raise InputError(f"data: a column is given twice in '{data}'")
    return match["table"], pairs


def list_files(path: Path) -> list[Path]:
    """A table, and the files that it lists in its column of paths, if it has one.

    Raises:
        InputError: for a malformed table.
    """
    named = [name for name in column_names(path) if name.strip().lower() in COLUMNS["path"]]
    if len(named) != 1:
        return [path]
    cells = _cells(path, named[0], read_columns(path, named).column(named[0]))
    return [path, *dict.fromkeys(file for file in _files(path, cells) if file)]


def find_columns(
    source: str,
    names: Sequence[str],
    optional: Sequence[str] = ("split",),
    factors: Sequence[str] = FACTORS,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The columns by what they mean; and what is said of those that a reader might take for something else.

    Args:
        source: what errors call the table.
        names: of all its columns.
        optional: the meanings that it need not have.
        factors: names of columns that are used where they are there.

    Raises:
        InputError: for a meaning that no column has, or two have.

    Examples:
        >>> find_columns("t.csv", ["file", "Label", "theme"])
        ({'path': 'file', 'label': 'Label'},
         ("t.csv: column 'file' serves as path", 't.csv: columns not used (1): theme'))
    """
    found: dict[str, str] = {}
    for meaning, accepted in {**COLUMNS, **{name: (name,) for name in factors}}.items():
        matching = [name for name in names if name.strip().lower() in accepted]
        if len(matching) > 1:
            named = " and ".join(f"'{name}'" for name in matching)
            raise InputError(f"{source}: columns {named} may each be the {meaning}; rename or remove all but one")
        if matching:
            found[meaning] = matching[0]
        elif meaning not in (*optional, *factors):
            expected = f"{', '.join(accepted[:-1])} or {accepted[-1]}"
            raise InputError(f"{source}: expected a column named {expected}, found: {_some(names)}")
    serving = [f"'{name}' serves as {meaning}" for meaning, name in found.items() if name.strip().lower() != meaning]
    others = [name for name in names if name not in found.values()]
    notes = [f"{source}: column {', '.join(serving)}"] if serving else []
    notes += [f"{source}: {counted('columns not used', others)}"] if others else []
    return found, tuple(notes)


def column_names(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        InputError: for a file that cannot be read as its ending says.
    """
    with _reading(path):
        if path.suffix.lower() != ".csv":
            return list(pyarrow.parquet.read_schema(path).names)
        with pyarrow.csv.open_csv(path, parse_options=_parsing(path)) as reader:
            return list(reader.schema.names)


def read_columns(path: Path, names: Sequence[str] | None = None) -> pyarrow.Table:
    """Some columns of a table.

    Args:
        path: the table.
        names: which; of a CSV file they come as text, so that class 007 keeps its name, and only empty cells are
            missing. None: all of them, of the types that their values have.

    Raises:
        InputError: for a file that cannot be read as its ending says.
    """
    with _reading(path):
        if path.suffix.lower() != ".csv":
            return pyarrow.parquet.ParquetFile(path).read(columns=names)
        as_text = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names or (), pyarrow.string()),
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
        )
        return pyarrow.csv.read_csv(
            path, parse_options=_parsing(path), convert_options=None if names is None else as_text
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse by name what Arrow cannot read."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        said = first_line(error)[:200]
        hint = "; expected UTF-8, save the table as that" if "utf8" in said.lower() or "utf-8" in said.lower() else ""
        raise InputError(f"{path}: cannot be read: {said}{hint}") from error


def _parsing(path: Path) -> pyarrow.csv.ParseOptions:
    """How the cells of a CSV file are separated: as its first line shows.

    Raises:
        InputError: for text that is not UTF-8.
    """
    with path.open("rb") as file:
        line = file.readline(1 << 16)
    if line.startswith(UTF_16) or b"\0" in line:
        raise InputError(f"{path}: is no UTF-8 text (UTF-16, or with NUL characters); save the table as CSV UTF-8")
    separator = next((mark for mark in SEPARATORS if mark.encode() in line), ",")
    return pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)


def label_texts(path: Path, name: str | None, table: pyarrow.Table) -> tuple[list[str | None], tuple[str, ...]]:
    """The class of each row; and what is said of words that may mean that there is none.

    Args:
        path: what errors call the table.
        name: of the column of labels; None for a table without one.
        table: holds the column.

    Raises:
        InputError: for a column of anything but texts or numbers.
    """
    if name is None:
        return [None] * len(table), ()
    texts = [label_text(value) for value in cell_values(path, name, table)]
    empty = Counter(text for text in texts if text in MISSING - {""})
    doubtful = Counter(text for text in texts if text.lower() in PERHAPS_MISSING and text not in MISSING)
    notes = []
    if empty:
        notes.append(f"{path}: rows without a label, by the words that say so: {_counts(empty)}")
    if doubtful:
        notes.append(f"{path}: taken as classes: {_counts(doubtful)}; leave the cell empty where there is no label")
    return [None if text in MISSING else text for text in texts], tuple(notes)


def split_words(path: Path, name: str | None, table: pyarrow.Table, whole: bool) -> list[str | None]:
    """The table's own word for the split of each row; None for all where no row has any.

    Args:
        path: what errors call the table.
        name: of the column of splits; None for a table without one.
        table: holds the column.
        whole: take any words, and rows without one beside rows that have one.

    Raises:
        InputError: for a row without a split where others have one, or for a word that names none.
    """
    values = cell_values(path, name, table) if name else [None] * len(table)
    words = [None if label_text(value) in MISSING else str(value).strip() for value in values]
    if whole or not any(words):
        return words
    for row, word in enumerate(words, 1):
        if word is None:
            raise InputError(f"{path}: row {row} has no split, which others have")
        if word.lower() not in ROLES:
            raise unknown(f"{path}: split", word, ROLES)
    return words


def _factor(path: Path, name: str, column: str, table: pyarrow.Table) -> tuple[list[int], tuple[str, ...]]:
    """The number of each row's value, -1 without one; and the names of the values."""
    return index_factor(str(path), name, column, cell_values(path, column, table))


def index_factor(source: str, name: str, column: str, values: Iterable[Any]) -> tuple[list[int], tuple[str, ...]]:
    """The number of each row's value of a factor, -1 without one; and the names of the values, in their order.

    Numbers are in their order where all values are numbers, else texts. Those of `forget` are yes and no, and no where
    there is none.

    Args:
        source: what errors call the table.
        name: of the factor.
        column: of the table, which errors name.
        values: texts or numbers, one a row; the words of `MISSING` are none.

    Raises:
        InputError: for a word in the column `forget` that says neither yes nor no.

    Examples:
        >>> index_factor("t.csv", "client", "client", ["10", None, "9", "nan"])
        ([1, -1, 0, -1], ('9', '10'))
        >>> index_factor("t.csv", "forget", "forget", ["yes", None, "0"])
        ([1, 0, 0], ('kept', 'forgotten'))
    """
    texts = [label_text(value) for value in values]
    if name != "forget":
        return index_labels(None if text in MISSING else text for text in texts)
    for row, text in enumerate(texts, 1):
        if text not in MISSING and text.lower() not in FORGET:
            raise InputError(f"{source}: row {row}: column '{column}': expected yes or no (1 or 0), got '{text}'")
    return [FORGET.get(text.lower(), 0) for text in texts], FORGET_NAMES


def factor_notes(source: str, columns: Mapping[str, tuple[list[int], tuple[str, ...]]]) -> tuple[str, ...]:
    """What columns of factors were taken for."""
    notes = []
    for name, (values, words) in columns.items():
        without = values.count(UNLABELLED)
        missing = f"; {without:,} rows have none" if without else ""
        notes.append(f"{source}: column '{name}': {counted('values in this order', words)}{missing}")
    return tuple(notes)


def _matching(path: Path, listing: Listing, where: Sequence[tuple[str, str]]) -> list[int]:
    """The rows that have all of the values.

    Raises:
        InputError: for a column that is not there, a value that no row has, or values that no row has together.
    """
    rows = list(range(len(listing.items)))
    for name, value in where:
        if name not in listing.factors:
            raise InputError(f"{path}: expected a column '{name}' to choose rows by; the table has none")
        words = listing.factor_names[name]
        wanted = FORGET_NAMES[FORGET[value.lower()]] if name == "forget" and value.lower() in FORGET else value
        if wanted not in words:
            raise unknown(f"{path}: {name}", value, words)
        number = words.index(wanted)
        rows = [row for row in rows if listing.factors[name][row] == number]
    if not rows:
        raise InputError(f"{path}: no row has {' and '.join(f'{name}={value}' for name, value in where)}")
    return rows


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name.

    Raises:
        InputError: naming the first.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}: has more than one column '{twice[0]}'; rename or remove all but one")


def number_column(path: Path, name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of numbers as float64; an empty cell is NaN.

    Args:
        path: what errors call the table.
        name: what errors call the column.
        column: of integers, floating-point or decimal numbers.

    Raises:
        InputError: for a column of anything else.
    """
    if not is_number(column.type):
        raise InputError(f"{path}: column '{name}': expected numbers, got {column.type}")
    return column.cast(pyarrow.float64(), safe=False).to_numpy()


def is_number(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds numbers.

    Examples:
        >>> is_number(pyarrow.int8()), is_number(pyarrow.string()), is_number(pyarrow.bool_())
        (True, False, False)
    """
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)


def cell_values(path: Path, name: str, table: pyarrow.Table) -> list[Any]:
    """A column of texts or numbers; bytes are text.

    Raises:
        InputError: for a column of anything else.
    """
    column = table.column(name)
    if kind := _nested(column.type):
        raise InputError(f"{path}: column '{name}' holds {kind}; expected one text or number a row")
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: column '{name}' holds bytes that are no UTF-8 text; expected text") from error


def _nested(kind: pyarrow.DataType) -> str:
    """What a column of more than one value a row holds, in a word; empty for any other column."""
    if kinds.is_struct(kind):
        return "structs"
    return "lists or maps" if kinds.is_nested(kind) and not kinds.is_dictionary(kind) else ""


def _item(table: Path, column: str, cells: Cells, row: int, file: Path | None, split: str | None) -> Item:
    """The image of a row: held there, or a file; without a name where it is neither."""
    text = cells.texts[row] or ""
    if cells.held[row]:
        stamp = f"{file_stamp(table)} {row}"
        return Item(text or f"{column}[{row}]", partial(_open_bytes, cells.values, row), UNLABELLED, split, stamp)
    return image_item(file, text, split) if file else Item("", _no_image, UNLABELLED, split)


def _cells(path: Path, name: str, column: pyarrow.ChunkedArray) -> Cells:
    """A column of images. Bytes with a NUL are an image, since no path has one and every image file has."""
    kind = column.type
    parts = {kind.field(i).name: part for i, part in enumerate(column.flatten())} if kinds.is_struct(kind) else {}
    if "bytes" in parts and (_is_bytes(parts["bytes"].type) or kinds.is_null(parts["bytes"].type)):
        texts = parts["path"].to_pylist() if "path" in parts else [None] * len(column)
        return Cells(parts["bytes"], texts, parts["bytes"].is_valid().to_pylist())
    if _nested(kind):
        raise InputError(
            f"{path}: column '{name}' holds {_nested(kind)}; expected paths, or image files as bytes or as the Hub's "
            "structs of bytes and path; hf:PATH reads other sets"
        )
    if not _is_bytes(kind):
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        return Cells(column, texts, [False] * len(column))
    held = [value.is_valid and b"\0" in value.as_py() for value in column]
    given = zip(column, held, strict=True)
    return Cells(column, [os.fsdecode(v.as_py()) if v.is_valid and not image else None for v, image in given], held)


def _files(path: Path, cells: Cells) -> list[Path | None]:
    """The file that each row names, if it names any.

    Raises:
        InputError: for what is no path.
    """
    named = [None if held else text for text, held in zip(cells.texts, cells.held, strict=True)]
    if nul := next((row for row, text in enumerate(named, 1) if text and "\0" in text), None):
        raise InputError(f"{path}: row {nul}: its path holds a NUL character")
    return [_locate(path, text) if text and text.strip() else None for text in named]


def _is_bytes(kind: pyarrow.DataType) -> bool:
    return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind)


def _open_bytes(stored: pyarrow.ChunkedArray, row: int) -> Image.Image:
    return open_image(BytesIO(stored[row].as_py()))


def _no_image() -> Image.Image:
    raise Unreadable("no path")


def _locate(table: Path, text: str) -> Path:
    """The file that a table means: as it is written, or else without blanks around it, with / for \\, or from ~.

    It is sought beside the table, and beside the file that the table is a link to.
    """
    plain = text.strip()
    spellings = (text, plain, plain.replace("\\", "/"), os.path.expanduser(plain))
    folders = (table.parent, Path(os.path.realpath(table)).parent)
    places = (folder / path for folder in dict.fromkeys(folders) for path in spellings)
    return next(filter(os.path.exists, places), table.parent / plain)


def _absent(path: Path, files: Sequence[Path | None]) -> tuple[str, ...]:
    """The note on files that are not there.

    Raises:
        InputError: where none is.
    """
    absent = [file for file in files if file and not os.path.exists(file)]
    if not absent:
        return ()
    where = f"; looked for {absent[0].absolute()} first (paths are relative to the table, addresses are not fetched)"
    if len(absent) == len(files):
        raise InputError(f"{path}: none of its {len(files):,} files exists{where}")
    return (f"{path}: {len(absent):,} of its {len(files):,} files do not exist{where}",)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _counts(words: Counter[str]) -> str:
    return ", ".join(f"'{word}' ({count:,})" for word, count in words.items())
