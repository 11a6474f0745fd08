"""Scenes as files: `counterpoise scenes`."""

from __future__ import annotations

from pathlib import Path

from counterpoise.data.scenes import Scenes, Split, write_coco


def scenes(
    out: str,
    *,
    count: int = 1000,
    split: Split = "train",
    sprites: str = "fashion-mnist",
    size: int = 64,
    least: int = 3,
    most: int = 6,
    domain: str = "mixed",
    held_out: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write scenes as PNG files with annotations in the COCO format: `counterpoise scenes`.

    `annotations.json` has COCO's images, annotations (box as left, top, width, height; mask as RLE) and categories.
    Each image also has its `caption`, `domain` and `relations`, triples of annotation, predicate and annotation; each
    annotation its `colour` and its `depth`, 0 for the one in front.

    Args:
        out: a folder, new, empty or of an earlier call; gets `images/` and `annotations.json`, and loses the images of
            the earlier call. No other file in it is touched.
        count: how many scenes.
        split: "train" or "test"; they share no sprite.
        sprites: data of one channel whose images are the objects, by name as for `load`.
        size: height and width in pixels.
        least: fewest objects.
        most: most objects.
        domain: "day", "night", "dusk", "fog" or "mixed".
        held_out: share of the colours that train never shows with a class.
        seed: of everything.

    Returns:
        The path of `annotations.json`.

    Raises:
        InputError: as `Scenes` does, or if the folder holds anything else, or an image that was changed, or cannot be
            written to.
        MissingExtra: without pycocotools.
    """
    made = Scenes(
        count,
        split,
        sprites=sprites,
        size=size,
        least=least,
        most=most,
        domain=domain,
        held_out=held_out,
        seed=seed,
    )
    return write_coco(made, Path(out))
