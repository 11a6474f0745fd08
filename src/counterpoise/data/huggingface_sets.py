"""Sets of Hugging Face, from disk or the Hub: their columns of images, labels and factors."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from counterpoise.data.decoding import Item, first_line
from counterpoise.data.folders import (
    Listing,
    counted,
    label_text,
)
from counterpoise.data.images import UNLABELLED
from counterpoise.data.paths import as_path, stamp_of
from counterpoise.data.reading import open_image
from counterpoise.data.tables import (
    COLUMNS,
    FACTORS,
    MISSING,
    factor_notes,
    find_columns,
    index_factor,
)
from counterpoise.errors import InputError, MissingExtra


def list_huggingface(name: str, data_dir: Path | None, download: bool) -> Listing:
    """What a set says of its images.

    Args:
        name: a folder, or what the Hub calls it.
        data_dir: where downloads are kept.
        download: whether the Hub may be asked.

    Raises:
        InputError: for a set that is not there or cannot be read, or columns that say too little or too much.
        MissingExtra: without the library `datasets`.
    """
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "huggingface")
    from datasets import DatasetDict

    data = _huggingface_data(name, data_dir, download)
    whole = data if isinstance(data, DatasetDict) else {None: data}
    image, label, known, notes = _huggingface_columns(name, next(iter(whole.values())).features)
    labels, classes = _huggingface_labels(name, whole.values(), label)
    factors = {
        factor: index_factor(f"hf:{name}", factor, column, _huggingface_texts(name, whole.values(), column))
        for factor, column in known.items()
    }
    if bare := [part for part, rows in whole.items() if image not in rows.features]:
        raise InputError(f"hf:{name}: the split {bare[0]} has no column '{image}', which others have")
    columns = {part: _undecoded(rows, image) for part, rows in whole.items()}
    files = stamp_of([as_path("hf", name)])
    items = [
        Item(f"{part or 'train'}[{i}]", partial(_open_stored, rows, i, image), split=part, stamp=stamp)
        for part, rows in columns.items()
        for stamp in [f"{rows._fingerprint} {files}"]
        for i in range(len(rows))
    ]
    return Listing(
        f"hf:{Path(name).name}",
        items,
        labels,
        classes,
        (*notes, *factor_notes(f"hf:{name}", factors)),
        {factor: values for factor, (values, _) in factors.items()},
        {factor: words for factor, (_, words) in factors.items()},
    )


def _huggingface_data(name: str, data_dir: Path | None, download: bool) -> Any:
    from datasets import load_dataset, load_from_disk

    path = as_path("hf", name)
    if not path.exists() and not download:
        raise InputError(f"hf:{name}: no such folder; download=True (--download) allows to get it from the Hub")
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return load_from_disk(str(path))
        return load_dataset(str(path) if path.exists() else name, cache_dir=None if data_dir is None else str(data_dir))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"hf:{name}: cannot be loaded: {first_line(error)}") from error


def _huggingface_columns(name: str, features: Any) -> tuple[str, str | None, dict[str, str], tuple[str, ...]]:
    """The first column of images, the first of classes (by its type, or else by its name), and the columns of factors.

    A column that is called as a factor is no label, unless no other is. Last comes what is said of other columns.

    Raises:
        InputError: where none holds images, or two may by their names be the label or the same factor.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    images = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    if not images:
        raise InputError(f"hf:{name}: expected a column of images, found: {', '.join(features)}")
    typed = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = [column for column in typed if column.lower() not in FACTORS]
    if not labels:
        labels = [column for column in features if column.lower() in COLUMNS["label"]]
        if len(labels) > 1:
            raise InputError(f"hf:{name}: columns {' and '.join(labels)} may each be the label; remove all but one")
    label = next(iter((*labels, *typed)), None)
    called = [column for column in features if column.lower() in FACTORS and column != label]
    factors, _ = find_columns(f"hf:{name}", called, tuple(COLUMNS))
    others = [column for column in features if column not in (images[0], label, *called)]
    notes = [f"hf:{name}: column '{label}' serves as label"] if label and label.lower() != "label" else []
    notes += [f"hf:{name}: {counted('columns not used', others)}"] if others else []
    return images[0], label, factors, tuple(notes)


def _huggingface_labels(
    name: str, parts: Collection[Any], column: str | None
) -> tuple[list[Any], tuple[str, ...] | None]:
    """The label of each image: an index where all splits have the same classes, else the class's name."""
    named = [getattr(part.features.get(column), "names", None) for part in parts]
    having = [names for part, names in zip(parts, named, strict=True) if column in part.features]
    if having and having[0] is not None and all(names == having[0] for names in having):
        values = [value for part in parts for value in _column(part, column)]
        return [UNLABELLED if value is None else value for value in values], tuple(having[0])
    values = _huggingface_texts(name, parts, column)
    return [None if label_text(value) in MISSING else value for value in values], None


def _huggingface_texts(name: str, parts: Collection[Any], column: str | None) -> list[Any]:
    """The texts or numbers of a column, classes by their names; None where there is none.

    Raises:
        InputError: for a column of anything else.
    """
    values: list[Any] = []
    for part in parts:
        names, found = getattr(part.features.get(column), "names", None), _column(part, column)
        values += found if names is None else [names[v] if v is not None and v >= 0 else None for v in found]
    if odd := next((value for value in values if isinstance(value, list | dict)), None):
        raise InputError(f"hf:{name}: column '{column}' holds {type(odd).__name__}s; expected one text or number a row")
    return values


def _column(part: Any, name: str | None) -> list[Any]:
    """The values of a column; None for each row of a split that lacks it, as one to be judged by may lack labels."""
    return list(part.with_format(None)[name]) if name in part.features else [None] * len(part)


def _undecoded(part: Any, column: str) -> Any:
    """The images as the bytes of their files, so that a damaged one is met where all damaged ones are."""
    from datasets import Image as ImageFeature

    return part.with_format(None).select_columns([column]).cast_column(column, ImageFeature(decode=False))


def _open_stored(part: Any, index: int, column: str) -> Image.Image:
    stored = part[index][column]
    return open_image(BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
