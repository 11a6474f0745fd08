"""Embeddings of images from a trained encoder, as a file that other programs read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise import nets
from counterpoise.data.folders import counted
from counterpoise.data.sources import Whole, load_all, source_files
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.files import check_output, output
from counterpoise.tasks import load_encoder

ESCAPED = re.compile(r"[\udc80-\udcff]|\\\\|\\x[0-9a-f]{2}")


def embed(
    run: str | Path, data: str | Path, out: str | Path, *, data_dir: str | None = None
) -> Float[Tensor, "rows features"]:
    """Write the features of every image of a data set, whatever its layout: nothing is divided or left out.

    A row whose image cannot be read has no features (null in Parquet, NaN in NPY), and is named in a warning. Names
    that are not UTF-8 have each byte at fault as `\\xe9`, and then each backslash doubled.

    Args:
        run: folder of a finished run, from `train` or below `runs/` of a comparison.
        data: an image, a folder of images, a CSV or Parquet file with or without labels, or a known set.
        out: a `.parquet` file (columns path, split, label, embedding) or a `.npy` file (the matrix of features, with
            the other columns beside it in a `.csv` of the same name). Neither file may be there, unless this command
            wrote it.
        data_dir: where full data sets lie.

    Returns:
        The features, float32, one row an image, in the order of the data: of a table its rows, of a folder its paths.

    Raises:
        InputError: for a folder without a run, data that cannot be read, another file ending, or a file that would be
            replaced.
    """
    target = Path(out)
    if target.suffix not in (".parquet", ".npy"):
        raise InputError(f"out: expected a name that ends in .parquet or .npy, got '{out}'")
    targets = [target] if target.suffix == ".parquet" else [target, target.with_suffix(".csv")]
    encoder, config = load_encoder(Path(run))
    inputs = source_files(data, data_dir)
    for path in targets:
        check_output(path, inputs)
    whole = read_images(data, config, data_dir)
    found = nets.embed(encoder, whole.images, to_float)
    features = torch.full((len(whole.names), found.shape[1]), torch.nan)
    features[whole.kept] = found
    warn_of_unreadable(whole, "features")
    if target.suffix == ".parquet":
        with output(target, inputs) as aside:
            pyarrow.parquet.write_table(_table(whole, features), aside)
        return features
    with output(target, inputs) as aside:
        with aside.open("wb") as file:
            np.save(file, features.numpy(), allow_pickle=False)
        # Inside, so that neither of the two files takes its place before both are whole.
        with output(targets[1], inputs) as beside:
            pyarrow.csv.write_csv(_table(whole), beside)
    return features


def read_images(data: str | Path, config: Mapping[str, Any], data_dir: str | None = None) -> Whole:
    """Every image of a data set as a run's network takes it.

    Args:
        data: as of `embed`.
        config: of the run: `shape` of its inputs, and `value_range` of the images that it learnt from.
        data_dir: where full data sets lie.

    Raises:
        InputError: for data that cannot be read.
    """
    channels, size, _ = config["shape"]
    seen = config.get("value_range")
    whole = load_all(data, size=size, data_dir=data_dir, value_range=tuple(seen) if seen else None)
    return whole._replace(images=whole.images.with_channels(channels))


def warn_of_unreadable(whole: Whole, what: str) -> None:
    """Name the rows that cannot have what is written of the others."""
    if lost := whole.unreadable():
        warnings.warn(counted(f"{whole.images.name}: rows without {what}, their images being unreadable", lost))


def _table(whole: Whole, features: Float[Tensor, "rows features"] | None = None) -> pa.Table:
    """Path, split and label of each image, and its features where these are given."""
    named = {"path": whole.names, "split": whole.splits, "label": whole.labels}
    columns: dict[str, pa.Array] = {
        name: pa.array([None if text is None else escaped(text) for text in texts], pa.string())
        for name, texts in named.items()
    }
    if features is not None:
        missing = np.ones(len(features), bool)
        missing[whole.kept] = False
        values = features.numpy().ravel()
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, features.shape[1], mask=pa.array(missing))
    return pa.table(columns)


def escaped(name: str) -> str:
    r"""A name of a file as UTF-8, different for different names.

    Examples:
        >>> print(escaped("café.png"), escaped("caf\udce9.png"), escaped(r"caf\xe9.png"), escaped(r"a\b.png"))
        café.png caf\xe9.png caf\\xe9.png a\b.png
    """
    if not ESCAPED.search(name):
        return name
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in name.replace("\\", "\\\\"))
