"""Embeddings of images from a trained encoder, as a file that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise import nets
from counterpoise.data import Images, load
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.files import written
from counterpoise.tasks import load_encoder


def embed(run: str, data: str, out: str, *, data_dir: str | None = None) -> Float[Tensor, "images features"]:
    """Write the features of every image of a data set.

    Args:
        run: folder of a finished run, from `train` or below `runs/` of a comparison.
        data: a folder of images, a CSV or Parquet file, or a known set.
        out: a `.parquet` file (columns path, split, label, embedding) or a `.npy` file (the matrix of features, with
            the other columns beside it in a `.csv` of the same name).
        data_dir: where full data sets lie.

    Returns:
        The features, one row an image, in the order of the file.

    Raises:
        InputError: for a folder without a run, data that cannot be read, or another file ending.
    """
    target = Path(out)
    if target.suffix not in (".parquet", ".npy"):
        raise InputError(f"out: expected a name that ends in .parquet or .npy, got '{out}'")
    encoder, config = load_encoder(Path(run))
    channels, size, _ = config["shape"]
    splits = load(data, size=size, data_dir=data_dir)
    parts = {name: images.with_channels(channels) for name, images in splits._asdict().items() if len(images)}
    features = torch.cat([nets.embed(encoder, images, to_float) for images in parts.values()])
    columns = {
        "path": [path for images in parts.values() for path in _paths(images)],
        "split": [name for name, images in parts.items() for _ in range(len(images))],
        "label": [images.classes[y] if y >= 0 else None for images in parts.values() for y in images.labels.tolist()],
    }
    if target.suffix == ".npy":
        with written(target) as aside, aside.open("wb") as file:
            np.save(file, features.numpy(), allow_pickle=False)
        with written(target.with_suffix(".csv")) as aside:
            pyarrow.csv.write_csv(pa.table(columns), aside)
    else:
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(features.flatten().numpy()), features.shape[1])
        with written(target) as aside:
            pyarrow.parquet.write_table(pa.table({**columns, "embedding": embedding}), aside)
    return features


def _paths(images: Images) -> list[str]:
    """Where each image came from; its number where it came from no file of its own."""
    return list(images.paths) if images.paths else [f"{images.name}/{i}" for i in range(len(images))]
