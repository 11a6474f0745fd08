"""Users' own images: a folder of them, or a CSV or Parquet table of their paths and labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from counterpoise.data.decoding import file_item, first_line, to_splits, warn
from counterpoise.data.images import UNLABELLED, Splits
from counterpoise.errors import InputError, unknown

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
TABLES = (".csv", ".parquet")
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "target", "category"),
    "split": ("split",),
}
ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}


def read_folder(root: Path, size: int | None = None, seed: int = 0) -> Splits:
    """The images in a folder.

    Sub-folders are classes, with images at any depth below; or they are `train` and `test` (or `val`) with the classes
    inside. A folder without sub-folders holds unlabelled images. Hidden files and other kinds of files are passed over.

    Args:
        root: the folder.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division into train and test where the folders do not say.

    Raises:
        InputError: when there is no image, or none that can be read.
    """
    name = root.resolve().name
    folders = {folder.name: folder for folder in _sub_folders(root)}
    parts = pick_splits(folders) if _are_splits(folders) else {}
    divided = "test" in parts.values()
    places = [(folders[part], split if divided else None) for part, split in parts.items()] or [(root, None)]
    found = [(path, class_name, split) for folder, split in places for path, class_name in _files(folder)]
    if not found:
        raise InputError(f"{root}: holds no images (looked for {', '.join(EXTENSIONS)})")
    labels, classes = index_labels([class_name for _, class_name, _ in found])
    items = [
        file_item(path, path.relative_to(root).as_posix(), label, split)
        for (path, _, split), label in zip(found, labels, strict=True)
    ]
    return to_splits(items, classes, name, size, seed, left_out(folders, parts) if parts else ())


def read_table(path: Path, size: int | None = None, seed: int = 0) -> Splits:
    """The images listed in a CSV or Parquet table.

    Columns: `path` (or file, filename, image), relative to the table; `label` (or class, target, category), empty for
    an image without one; and, where wanted, `split`: train, test or validation.

    Args:
        path: the table.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division into train and test where there is no `split`.

    Raises:
        InputError: for a malformed table, a missing column, an unknown split, or when no image can be read.
    """
    columns = _read_columns(path)
    files, values = columns["path"], columns["label"]
    if not files:
        raise InputError(f"{path}: has no rows")
    empty = next((row for row, file in enumerate(files, 1) if not file), None)
    if empty:
        raise InputError(f"{path}: row {empty} has no path")
    splits: Sequence[str | None] = [None] * len(files)
    notes: tuple[str, ...] = ()
    if "split" in columns:
        given = [str(split).strip().lower() for split in columns["split"]]
        for split in dict.fromkeys(given):
            if split not in ROLES:
                raise unknown(f"{path}: split", split, ROLES)
        parts = pick_splits(given)
        notes = left_out(dict.fromkeys(given), parts)
        rows = [row for row, split in enumerate(given) if split in parts]
        files, values = [files[row] for row in rows], [values[row] for row in rows]
        splits = [parts[given[row]] if "test" in parts.values() else None for row in rows]
    labels, classes = index_labels(values)
    items = [
        file_item(path.parent / str(file), str(file), label, split)
        for file, label, split in zip(files, labels, splits, strict=True)
    ]
    return to_splits(items, classes, path.name, size, seed, notes)


def index_labels(values: Iterable[Any]) -> tuple[list[int], tuple[str, ...]]:
    """Labels as indices into the sorted class names; numbers are sorted as numbers. No value is no label: -1.

    >>> index_labels(["10", "9", None, "10"])
    ([1, 0, -1, 1], ('9', '10'))
    """
    texts = [_text(value) for value in values]
    names = {text for text in texts if text}
    try:
        classes = tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        classes = tuple(sorted(names))
    index = {name: i for i, name in enumerate(classes)}
    return [index.get(text, UNLABELLED) for text in texts], classes


def pick_splits(names: Iterable[str]) -> dict[str, str]:
    """Which of the data's own splits are "train" and "test"; validation serves where there is no test.

    >>> pick_splits(["train", "val"]), pick_splits(["Train", "val", "test"])
    ({'train': 'train', 'val': 'test'}, {'Train': 'train', 'test': 'test'})
    """
    roles = {name: ROLES[name.lower()] for name in names if name.lower() in ROLES}
    judge = "test" if "test" in roles.values() else "validation"
    return {name: "test" if role == judge else role for name, role in roles.items() if role in ("train", judge)}


def left_out(names: Collection[str], parts: dict[str, str]) -> tuple[str, ...]:
    """The note that names the splits which are not used."""
    others = [name for name in names if name not in parts]
    return (f"left out of the data: {', '.join(others)}",) if others else ()


def _text(value: Any) -> str:
    """A label as text: Parquet has 3.0 where pandas had a gap in a column of integers."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def _are_splits(names: Collection[str]) -> bool:
    """Whether folders are splits, and not classes of which one happens to be called train."""
    return set(pick_splits(names).values()) == {"train", "test"} or [name.lower() for name in names] == ["train"]


def _files(folder: Path) -> list[tuple[Path, str | None]]:
    """Every image file below a folder, with its class: the sub-folder that it is in, None where there are none."""
    direct = [path for path in sorted(folder.iterdir()) if _is_image(path, folder)]
    classes = _sub_folders(folder)
    if not classes:
        return [(path, None) for path in direct]
    if direct:
        names = [path.name for path in direct]
        warn(f"{folder}: images beside the class folders are left out ({len(names):,})", names)
    found = {sub: [path for path in sorted(sub.rglob("*")) if _is_image(path, sub)] for sub in classes}
    empty = [sub.name for sub, paths in found.items() if not paths]
    if empty and len(empty) < len(found):
        warn(f"{folder}: folders without images are left out ({len(empty):,})", empty)
    return [(path, sub.name) for sub, paths in found.items() for path in paths]


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden and not path.is_dir()


def _read_columns(path: Path) -> dict[str, list[Any]]:
    """The table's columns by what they mean."""
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    named = _find_columns(path, table.column_names)
    return {meaning: table.column(name).to_pylist() for meaning, name in named.items()}


def _read_csv(path: Path) -> pyarrow.Table:
    """A CSV table as text, so that class 007 keeps its name; only empty cells count as missing."""
    with pyarrow.csv.open_csv(path) as reader:
        names = _find_columns(path, reader.schema.names).values()
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pyarrow.string()),
        include_columns=list(names),
        null_values=[""],
        strings_can_be_null=True,
    )
    return pyarrow.csv.read_csv(path, convert_options=options)


def _find_columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    found = {}
    for meaning, accepted in COLUMNS.items():
        matching = [name for known in accepted for name in names if name.strip().lower() == known]
        if matching:
            found[meaning] = matching[0]
        elif meaning != "split":
            expected = f"{', '.join(accepted[:-1])} or {accepted[-1]}"
            raise InputError(f"{path}: expected a column named {expected}, found: {', '.join(names)}")
    return found
