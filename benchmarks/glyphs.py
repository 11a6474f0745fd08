"""Glyphs: what the fonts give, how long drawing takes, how fast batches come from the cache; and the page's pictures.

Run as `python -m benchmarks.glyphs`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.measuring import RESULTS, machine_line, markdown_table, repeat, write_results
from counterpoise.data import Glyphs, draw_glyphs, glyphs, load
from counterpoise.files import written

BATCH = 256
AT_LEAST = 50_000  # images a second
FACES = (1, 2, 3, 4, 8, 12, 16)
PICTURES = RESULTS.parent / "pictures"
SHOWN = "aAÁgß7&ΩжД"
TAIL_ROWS, TAIL_COLUMNS = 8, 24
STEP, PAPER = glyphs.SIZE + 2, 255  # pixels from picture to picture, and the grey between them


def main() -> None:
    """Measure, check, and write results and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COUNTERPOISE_CACHE"] = folder
        first = repeat(draw_glyphs, repeats=1, warmup=0)[0]
        again = statistics.median(repeat(draw_glyphs))
        drawn = draw_glyphs()
        speed = images_a_second(drawn)
        counts, raw = faces_of_characters(drawn.images.labels), faces_of_characters(everything())
        sizes = {split: split_row(split) for split in glyphs.SPLITS}
        draw_pictures(drawn)
    assert speed >= AT_LEAST, f"{speed:,.0f} images a second, expected {AT_LEAST:,}"
    content: dict[str, Any] = {
        "first_seconds": first,
        "again_seconds": again,
        "images_a_second": speed,
        "characters_in_at_least": {str(n): [raw[n], counts[n]] for n in FACES},
        "splits": sizes,
    }
    write_results("glyphs", content, page(content))


def images_a_second(drawn: Glyphs) -> float:
    """Through `Images.__getitems__`, in batches in shuffled order, over all images; the median of 5 passes."""
    batches = torch.randperm(len(drawn.images), generator=torch.Generator().manual_seed(0)).split(BATCH)

    def fetch_all() -> None:
        for batch in batches:
            drawn.images.__getitems__(batch.tolist())

    return len(drawn.images) / statistics.median(repeat(fetch_all))


def everything() -> Tensor:
    """The code point of every picture, those included that repeat another face's."""
    alike, glyphs.ALIKE = glyphs.ALIKE, -1
    try:
        return glyphs._draw_all(glyphs.SIZE)["codes"]
    finally:
        glyphs.ALIKE = alike


def faces_of_characters(characters: Tensor) -> dict[int, int]:
    """How many characters have at least so many pictures."""
    counts = characters.unique(return_counts=True)[1]
    return {n: int((counts >= n).sum()) for n in FACES}


def split_row(split: str) -> list[int]:
    """Classes in all, in train and in test, and images of train and test."""
    train, test = load(f"glyphs:split={split}")
    in_train, in_test = (int((part.counts() > 0).sum()) for part in (train, test))
    return [len(train.classes), in_train, in_test, len(train), len(test)]


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    characters = [[n, *(f"{x:,}" for x in row)] for n, row in content["characters_in_at_least"].items()]
    splits = [[name, *(f"{x:,}" for x in row)] for name, row in content["splits"].items()]
    return "\n".join(
        [
            "# Glyphs",
            "",
            f"`python -m benchmarks.glyphs`. {machine_line()}",
            "",
            f"Drawing all at {glyphs.SIZE}×{glyphs.SIZE}: {content['first_seconds']:.1f} s, once; reading them again: "
            f"{content['again_seconds']:.2f} s.",
            f"Batches of {BATCH} in shuffled order from the memory-mapped cache, one process: "
            f"{content['images_a_second']:,.0f} images a second (at least {AT_LEAST:,} is asserted).",
            "",
            "Characters that are drawn in at least so many faces; `different`: without the faces that repeat another's "
            "drawing.",
            "",
            markdown_table(["faces", "drawn", "different"], characters),
            "",
            markdown_table(["split", "classes", "in train", "in test", "train images", "test images"], splits),
        ]
    )


def draw_pictures(drawn: Glyphs) -> None:
    """The two pictures of docs/glyphs.md."""
    chars = [character.char for character in drawn.characters]
    counts = torch.bincount(drawn.images.labels, minlength=len(chars))
    rare = ((counts > 1) & (counts < 4)).nonzero().flatten()
    save(faces_figure(drawn, [chars.index(char) for char in SHOWN]), "glyphs-faces")
    save(
        tail_figure(drawn, counts, rare[torch.linspace(0, len(rare) - 1, TAIL_ROWS * TAIL_COLUMNS).long()]),
        "glyphs-tail",
    )


def faces_figure(drawn: Glyphs, labels: Sequence[int]) -> Figure:
    """A row for each character, a column for each face; empty where a face repeats another's drawing."""
    sheet = np.full((len(labels), STEP, len(glyphs.FACES), STEP), PAPER, np.uint8)
    for row, label in enumerate(labels):
        for i in (drawn.images.labels == label).nonzero().flatten().tolist():
            sheet[row, 1:-1, int(drawn.faces[i]), 1:-1] = drawn.images.pixels[i, 0]
    figure = Figure(figsize=(8.4, 5.7), layout="constrained")
    axes = grid_axes(figure.subplots(), sheet)
    axes.set_xticks(middles(len(glyphs.FACES)), list(glyphs.FACES), rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(middles(len(labels)), [drawn.characters[label].name.lower() for label in labels])
    return figure


def tail_figure(drawn: Glyphs, counts: Tensor, labels: Tensor) -> Figure:
    """How many pictures the characters have, from most to fewest; and the first picture of some with two or three."""
    sheet = np.full((TAIL_ROWS, STEP, TAIL_COLUMNS, STEP), PAPER, np.uint8)
    for place, label in enumerate(labels.tolist()):
        first = int((drawn.images.labels == label).nonzero()[0])
        sheet[place // TAIL_COLUMNS, 1:-1, place % TAIL_COLUMNS, 1:-1] = drawn.images.pixels[first, 0]
    figure = Figure(figsize=(8.4, 5), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(1, 1.3))
    above.fill_between(range(len(counts)), counts.sort(descending=True).values, step="mid")
    above.set(xlim=(0, len(counts)), ylim=0, xlabel="characters, from most to fewest", ylabel="different pictures")
    above.spines[["top", "right"]].set_visible(False)
    axes = grid_axes(below, sheet)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def grid_axes(axes: Axes, sheet: np.ndarray) -> Axes:
    """Pictures [rows height columns width] on axes without a frame, labels above and to the left."""
    rows, height, columns, width = sheet.shape
    axes.imshow(sheet.reshape(rows * height, columns * width), cmap="gray", vmin=0, vmax=255, aspect="equal")
    axes.tick_params(length=0, labelsize=8, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return axes


def middles(count: int) -> np.ndarray:
    """Where the labels of so many cells go, in pixels."""
    return (np.arange(count) + 0.5) * STEP


def save(figure: Figure, name: str) -> None:
    """Write docs/pictures/NAME.png."""
    with written(PICTURES / f"{name}.png") as aside:
        figure.savefig(aside, dpi=90, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
