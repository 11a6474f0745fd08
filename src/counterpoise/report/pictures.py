"""Pictures of the embeddings: a map in two dimensions, and the nearest neighbours of a few images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from markupsafe import Markup
from numpy import ndarray
from PIL import Image
from sklearn.manifold import TSNE

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import class_groups
from counterpoise.report.charts import COLOURS, MARKS, element

THUMBNAIL = 32  # longest side in pixels: 600 of them in colour stay near 2 MB
SIDE = 400  # of the map, in its own units
APART = 46  # between two thumbnails on the map
DISTINGUISHABLE = 12  # classes that get a colour and shape each; nobody finds more of them in a legend


class Gallery(NamedTuple):
    """The test images that are the same for every method, with one method's features of them.

    Attributes:
        pixels: of the images.
        labels: an index into the classes for each image; negative for an image without a label.
        features: of the images, one row each.
    """

    pixels: UInt8[ndarray, "images channels height width"]
    labels: Int[ndarray, " images"]
    features: Float32[ndarray, "images dim"]


class Sprite(NamedTuple):
    """All thumbnails in one PNG, row by row.

    Attributes:
        uri: the PNG as a data URI.
        columns: thumbnails in a row.
        rows: of thumbnails.
        ratio: width of a thumbnail over its height.
    """

    uri: str
    columns: int
    rows: int
    ratio: float

    def place(self, index: int) -> str:
        """The CSS that shows thumbnail `index`; in percent, so that it is right at every size."""
        x, y = index % self.columns, index // self.columns
        across, down = 100 * x / max(self.columns - 1, 1), 100 * y / max(self.rows - 1, 1)
        return f"background-position:{across:.4g}% {down:.4g}%"


def read_gallery(path: Path) -> Gallery:
    """The arrays pixels, labels and features of a `gallery.npz`.

    Args:
        path: of the file.

    Raises:
        InputError: if the file is missing, unreadable or incomplete, or its arrays do not belong together.
    """
    if not path.is_file():
        raise InputError(f"there is no {path.name}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels, labels, features = arrays["pixels"], arrays["labels"], arrays["features"].astype(np.float32)
    except Exception as error:  # a damaged archive raises errors of many kinds: of zip, zlib, struct, NumPy
        raise InputError(f"{path.name} cannot be read ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or features.ndim != 2:
        shapes = f"{pixels.dtype} {pixels.shape} and {features.shape}"
        raise InputError(f"{path.name}: expected uint8 pixels [G C H W] and features [G F], got {shapes}")
    if not len(pixels) == len(labels) == len(features) > 1:
        counts = f"{len(pixels)} images, {len(labels)} labels and {len(features)} features"
        raise InputError(f"{path.name}: expected as many images as labels and features, at least 2, got {counts}")
    if not np.isfinite(features).all():
        raise InputError(f"{path.name}: the features are not all finite")
    return Gallery(pixels, labels.astype(np.int64), features)


def sprite(pixels: UInt8[ndarray, "images channels height width"]) -> Sprite:
    """All images, at most 32 pixels on the longer side, in one PNG as a data URI.

    Images with one or two channels are drawn grey from the first one, all others as RGB from the first three.
    """
    count, channels, height, width = pixels.shape
    colour = channels >= 3
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = min(count, 25)
    rows = -(-count // columns)
    sheet = Image.new("RGB" if colour else "L", (columns * size[0], rows * size[1]))
    for i, image in enumerate(pixels):
        thumbnail = Image.fromarray(np.ascontiguousarray(image[:3].transpose(1, 2, 0)) if colour else image[0])
        at = (i % columns * size[0], i // columns * size[1])
        sheet.paste(thumbnail.resize(size, Image.Resampling.LANCZOS), at)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return Sprite("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), columns, rows, width / height)


def unit(features: Float32[ndarray, "images dim"]) -> Float32[ndarray, "images dim"]:
    """Rows of length one; a zero row stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def flatten(features: Float32[ndarray, "images dim"]) -> Float[ndarray, "images 2"]:
    """Map the directions of the features to two dimensions by t-SNE; equal input gives equal output.

    Source: van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 2008.

    Args:
        features: at least 4 rows, not all in the same direction.

    Returns:
        Positions scaled to [0, 1] in both dimensions.

    Raises:
        InputError: if there are fewer rows, or all of them point in the same direction.
    """
    if len(features) < 4:
        raise InputError(f"a map needs at least 4 images, got {len(features)}")
    rows = unit(features)
    if np.ptp(rows, axis=0).max() < 1e-6:
        raise InputError("all images have the same embedding (complete collapse), so there is no map of it")
    start = "pca" if rows.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init=start, metric="euclidean", random_state=0)
    positions = tsne.fit_transform(rows)
    low, high = positions.min(0), positions.max(0)
    return (positions - low) / np.maximum(high - low, 1e-9)


def neighbours(features: Float32[ndarray, "images dim"], queries: list[int], count: int = 6) -> list[list[int]]:
    """The `count` images of highest cosine to each query, without the query itself, nearest first.

    Examples:
        >>> neighbours(np.array([[1, 0], [0, 1], [2, 1]], dtype=np.float32), [0], count=2)
        [[2, 1]]
    """
    rows = unit(features)
    cosine = rows[queries] @ rows.T
    cosine[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(rows) - 1)]
    return [[int(i) for i in row] for row in order]


def sample(labels: Int[ndarray, " images"], count: int = 10) -> list[int]:
    """Choose query images without looking at any result: class by class, the first of each, then the second …

    Examples:
        >>> sample(np.array([0, 0, 0, 1, 2]), count=4)
        [0, 3, 4, 1]
    """
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    members = [np.flatnonzero(labels == label) for label in classes]
    rounds = max(len(indices) for indices in members)
    turns = [int(indices[turn]) for turn in range(rounds) for indices in members if turn < len(indices)]
    return turns[:count]


class Colouring(NamedTuple):
    """The meaning of each colour and shape.

    Attributes:
        keys: for each image a number from 0, which decides colour and shape; see `charts.class_shape`.
        legend: each key in use with its meaning.
        by: "class" where each class has a colour of its own, "group" where there are too many classes for that.
    """

    keys: list[int]
    legend: list[tuple[int, str]]
    by: str


def colouring(
    labels: Int[ndarray, " images"], names: Sequence[str], train_counts: Sequence[int], items: str = "images"
) -> Colouring:
    """A colour for each class, or, with more than 12 classes, for each group of them.

    Groups are the classes with most, some and fewest training images where these numbers differ, and otherwise classes
    that follow each other in the order of the data.

    Args:
        labels: of the images; negative for an image without a label.
        names: of the classes.
        train_counts: training images of each class; empty where they are unknown.
        items: what the data consists of, in the plural.

    Examples:
        >>> colouring(np.array([3, 0, 3]), list("abcd"), []).legend
        [(0, 'a'), (1, 'd')]
        >>> colouring(np.arange(16), list("abcdefghijklmnop"), []).legend[0]
        (0, 'a to b (2 classes)')
    """
    classes = np.unique(labels[labels >= 0])
    if len(classes) <= DISTINGUISHABLE:
        parts, texts = [[k] for k in classes], [names[k] for k in classes]
    else:
        counts = np.array([train_counts[k] for k in classes] if train_counts else [0])
        parts, texts = _groups(classes, names, counts, items)
    key_of = {int(k): key for key, part in enumerate(parts) for k in part}
    none = len(parts)
    legend = [*enumerate(texts), *([(none, "no label")] if (labels < 0).any() else [])]
    by = "class" if len(classes) <= DISTINGUISHABLE else "group"
    return Colouring([key_of.get(int(label), none) for label in labels], legend, by)


def _groups(
    classes: Int[ndarray, " classes"], names: Sequence[str], counts: Int[ndarray, " counts"], items: str
) -> tuple[list[Any], list[str]]:
    """Groups of classes, and the legend's text for each."""
    if counts.max() > 0 and len(found := class_groups(torch.from_numpy(counts))) > 1:
        parts = [rows.numpy() for rows in found.values()]
        spans = [f"{counts[part].min():,} to {counts[part].max():,} training {items} each" for part in parts]
        entries = zip(found, parts, spans, strict=True)
        texts = [f"{name}: {len(part)} classes, {span}" for name, part, span in entries]
        return [classes[part] for part in parts], texts
    runs = np.array_split(classes, COLOURS)
    return list(runs), [f"{names[run[0]]} to {names[run[-1]]} ({len(run)} classes)" for run in runs]


def embedding_map(positions: Float[ndarray, "images 2"], labels: Sequence[int], says: str) -> Markup:
    """The map: a mark for each image in the colour and shape of its key, and a ring that page.js moves to one of them.

    Args:
        positions: of the images, from 0 to 1.
        labels: the key of each image; see `colouring`.
        says: the map in words.
    """
    at = _pixels(positions)
    points = [
        element(
            "use",
            href=f"#m{label // COLOURS % len(MARKS)}",
            x=float(x),
            y=float(y),
            class_=f"s{label % COLOURS}",
            data_i=i,
            data_k=int(label),
        )
        for i, ((x, y), label) in enumerate(zip(at, labels, strict=True))
    ]
    ring = element("circle", r=9, class_="ring", visibility="hidden")
    frame = f"0 0 {SIDE} {SIDE}"
    return element("svg", *points, ring, viewBox=frame, class_="map", tabindex=0, role="application", aria_label=says)


def thumbnails(positions: Float[ndarray, "images 2"]) -> list[tuple[int, str]]:
    """Images whose thumbnails fit on the map without touching, and their places (CSS, in percent)."""
    at = _pixels(positions)
    chosen: list[int] = []
    for i, point in enumerate(at):
        if all(np.abs(point - at[j]).max() >= APART for j in chosen):
            chosen.append(i)
    return [(i, f"left:{100 * at[i][0] / SIDE:.1f}%;top:{100 * at[i][1] / SIDE:.1f}%") for i in chosen]


def _pixels(positions: Float[ndarray, "images 2"]) -> Float[ndarray, "images 2"]:
    return 18 + (SIDE - 36) * positions
