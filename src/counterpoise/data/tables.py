"""Users' tables: CSV and Parquet files, of images and their labels or of numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pyarrow.types as kinds
from PIL import Image

from counterpoise.data.decoding import Item, file_stamp, first_line
from counterpoise.data.folders import ROLES, Listing, counted, image_item, label_text
from counterpoise.data.images import UNLABELLED
from counterpoise.data.reading import Unreadable, open_image
from counterpoise.errors import InputError, unknown

TABLES = (".csv", ".parquet")
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": ("split",),
}
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


def list_table(path: Path, whole: bool = False) -> Listing:
    """The images listed in a CSV or Parquet table.

    Columns: `path` (or file, filename, image), relative to the table, or in Parquet an image file's bytes; `label` (or
    class, target, category), empty for an image without one; and, where wanted, `split`: train, test or validation.

    Args:
        path: the table.
        whole: take every row, whatever its split, with or without a column of labels.

    Raises:
        InputError: for a malformed table, a missing column or one that may be two things, an unknown split, or where no
            file is there.
    """
    names, notes = find_columns(str(path), column_names(path), optional=("label", "split") if whole else ("split",))
    table = read_columns(path, list(names.values()))
    if not len(table):
        raise InputError(f"{path}: has no rows")
    labels, said = _labels(path, names.get("label"), table)
    words = _splits(path, names.get("split"), table, whole)
    cells = _cells(path, names["path"], table.column(names["path"]))
    files = _files(path, cells)
    items = [_item(path, names["path"], cells, row, file, words[row]) for row, file in enumerate(files)]
    if not whole and (empty := next((row for row, item in enumerate(items, 1) if not item.name), None)):
        raise InputError(f"{path}: row {empty} has no path")
    return Listing(path.name, items, labels, None, (*notes, *said, *_absent(path, files)))


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
    source: str, names: Sequence[str], optional: Sequence[str] = ("split",)
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The columns by what they mean; and what is said of those that a reader might take for something else.

    Args:
        source: what errors call the table.
        names: of all its columns.
        optional: the meanings that it need not have.

    Raises:
        InputError: for a meaning that no column has, or two have.

    >>> find_columns("t.csv", ["file", "Label", "theme"])
    ({'path': 'file', 'label': 'Label'}, ("t.csv: column 'file' serves as path", 't.csv: columns not used (1): theme'))
    """
    found: dict[str, str] = {}
    for meaning, accepted in COLUMNS.items():
        matching = [name for name in names if name.strip().lower() in accepted]
        if len(matching) > 1:
            named = " and ".join(f"'{name}'" for name in matching)
            raise InputError(f"{source}: columns {named} may each be the {meaning}; rename or remove all but one")
        if matching:
            found[meaning] = matching[0]
        elif meaning not in optional:
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


def _labels(path: Path, name: str | None, table: pyarrow.Table) -> tuple[list[str | None], tuple[str, ...]]:
    """The class of each row; and what is said of words that may mean that there is none."""
    if name is None:
        return [None] * len(table), ()
    texts = [label_text(value) for value in _values(path, name, table)]
    empty = Counter(text for text in texts if text in MISSING - {""})
    doubtful = Counter(text for text in texts if text.lower() in PERHAPS_MISSING and text not in MISSING)
    notes = []
    if empty:
        notes.append(f"{path}: rows without a label, by the words that say so: {_counts(empty)}")
    if doubtful:
        notes.append(f"{path}: taken as classes: {_counts(doubtful)}; leave the cell empty where there is no label")
    return [None if text in MISSING else text for text in texts], tuple(notes)


def _splits(path: Path, name: str | None, table: pyarrow.Table, whole: bool) -> list[str | None]:
    """The table's own word for the split of each row; None for all where no row has any."""
    values = _values(path, name, table) if name else [None] * len(table)
    words = [None if label_text(value) in MISSING else str(value).strip() for value in values]
    if whole or not any(words):
        return words
    for row, word in enumerate(words, 1):
        if word is None:
            raise InputError(f"{path}: row {row} has no split, which others have")
        if word.lower() not in ROLES:
            raise unknown(f"{path}: split", word, ROLES)
    return words


def _values(path: Path, name: str, table: pyarrow.Table) -> list[Any]:
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
