"""Where annotated images come from: `load_annotated` takes a name or a path, as `load` does for images with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from counterpoise.data.annotated import AnnotatedSplits
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.coco_folders import coco_files, is_coco, load_coco
from counterpoise.data.framing import resized
from counterpoise.data.mask_folders import CLASSES, is_masks, load_masks, mask_files
from counterpoise.data.paths import as_path
from counterpoise.data.scenes import Scenes
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number, check_seed

OPTIONS = ("count", "test", "objects", "size", "sprites", "domain", "held_out")
COUNT, TEST_SHARE = 1000, 5  # scenes for train where the spec does not say, and of how many one more is for test


def load_annotated(
    data: str | Path, *, size: int | None = None, seed: int = 0, classes: Sequence[str] | None = None
) -> AnnotatedSplits:
    """Load images with maps and objects by name or path, split into train and test.

    - `scenes`, `scenes:count=3000:objects=3-6:size=48:sprites=mnist`: `Scenes` made at once. Options: `count` for train
      (1,000), `test` (a fifth of it), `objects` (3-6, or one number), `size` (64), `sprites` (fashion-mnist), `domain`
      (mixed), `held_out` (0).
    - a folder in COCO's format, or its JSON file (see `load_coco`).
    - a folder with `images/`, `masks/` and `classes.txt` (see `load_masks`).

    Args:
        data: a name or a path as above.
        size: side of the square images in pixels; None: of scenes as they are made, of users' own files the median
            short side, at most 64.
        seed: of scenes, and of the division where the data has none.
        classes: those to keep, in this order; None: all. The pixels of others are background.

    Returns:
        train and test: images of one size, with the same classes.

    Raises:
        InputError: for an unknown name or option, a missing or malformed file, or data without a readable image.

    Examples:
        >>> train, test = load_annotated("scenes:count=10:objects=2:size=32")
        >>> train.pixels.shape, len(test), train.factor_names["domain"][0]
        (torch.Size([10, 3, 32, 32]), 2, 'day')
    """
    if size is not None:
        check_number("size", size, at_least=1, whole=True)
    check_seed(seed)
    path = _path(data)
    if path is None:
        splits = _scenes(str(data), seed)
        splits = AnnotatedSplits(*(resized(part, size) for part in splits))
    elif is_coco(path):
        return load_coco(path, size, seed, classes)
    else:
        splits = load_masks(path, size, seed)
    return splits if classes is None else AnnotatedSplits(*(part.of_classes(classes) for part in splits))


def is_annotated(data: str | Path) -> bool:
    """Whether data is what `load_annotated` reads: drawn scenes, or a folder or file of annotations.

    Examples:
        >>> is_annotated("scenes:count=10"), is_annotated("fashion-mnist")
        (True, False)
    """
    if _is_scenes(data):
        return True
    path = as_path("data", data)
    return is_coco(path) or is_masks(path)


def annotated_files(data: str | Path) -> list[Path]:
    """Every file that `load_annotated` reads, or that says what it reads, without decoding any image.

    Raises:
        InputError: as `load_annotated`, for what is no such data or annotations that are malformed.

    Examples:
        >>> annotated_files("scenes")
        []
    """
    path = _path(data)
    if path is None:
        return []
    return coco_files(path) if is_coco(path) else mask_files(path)


def _is_scenes(data: str | Path) -> bool:
    return str(data).partition(":")[0] == "scenes"


def _path(data: str | Path) -> Path | None:
    """The folder or file that data names; None of scenes."""
    if _is_scenes(data):
        return None
    path = as_path("data", data)
    if not path.exists():
        raise InputError(f"data: expected scenes, a folder or a JSON file, got '{data}', which is not there")
    if not (is_coco(path) or is_masks(path)):
        raise InputError(
            f"data: {path} holds no annotations: expected annotations.json or annotations/instances_SPLIT.json in "
            f"COCO's format, or images/ beside masks/ with {CLASSES}"
        )
    return path


def _scenes(spec: str, seed: int) -> AnnotatedSplits:
    options: dict[str, str] = {}
    for text in spec.split(":")[1:]:
        name, _, value = text.partition("=")
        if name not in OPTIONS:
            raise unknown("option of scenes", name, OPTIONS)
        if name in options:
            raise InputError(f"scenes: {name} is given twice")
        options[name] = value
    least, _, most = options.get("objects", "3-6").partition("-")
    count = _number("count", options.get("count", str(COUNT)))
    counts = {"train": count, "test": _number("test", options.get("test", str(max(1, count // TEST_SHARE))))}
    parts = {
        split: from_scenes(
            Scenes(
                some,
                "train" if split == "train" else "test",
                sprites=options.get("sprites", "fashion-mnist"),
                size=_number("size", options.get("size", "64")),
                least=_number("objects", least),
                most=_number("objects", most or least),
                domain=options.get("domain", "mixed"),
                held_out=_share("held_out", options.get("held_out", "0")),
                seed=seed,
            )
        )
        for split, some in counts.items()
    }
    return AnnotatedSplits(**parts)


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"scenes: {name}: expected a whole number, got '{text}'")
    return int(text)


def _share(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"scenes: {name}: expected a number, got '{text}'") from error
