"""`Annotated` written as a folder of images with annotations in COCO's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoise.data.annotated import IGNORED, Annotated, Objects
from counterpoise.data.coco import pycocotools_mask
from counterpoise.data.coco_files import ANNOTATIONS, png_of, rle_of, take_away
from counterpoise.errors import InputError
from counterpoise.files import locked, make_folder, make_output_folder, record_outputs, write_json, written


def write_coco(annotated: Annotated, folder: Path) -> Path:
    """Write images as PNG files, and what is in them in COCO's format; `load_coco` reads the same maps and objects.

    `annotations.json` has COCO's images, annotations (box as left, top, width, height; mask as RLE, none where only the
    box is known) and categories. Besides, an image has its `caption`, `domain` and other `factors`, and `relations`,
    triples of annotation, predicate and annotation; an annotation its attributes. Pixels that no object explains are
    in an image's `regions`, each of a category or of none, and those that are not labelled in its `ignored`, as RLE.

    Args:
        annotated: of 1 or 3 channels.
        folder: new, empty or of an earlier call; gets `images/` and `annotations.json`, and loses the images of the
            earlier call. No other file in it is touched.

    Returns:
        The path of `annotations.json`.

    Raises:
        InputError: for another number of channels, or where the folder holds anything else, or an image that was
            changed since an earlier call wrote it.
        MissingExtra: without pycocotools.

    Examples:
        >>> import tempfile
        >>> from counterpoise.data.annotated_scenes import from_scenes
        >>> from counterpoise.data.coco_folders import load_coco
        >>> from counterpoise.data.scenes import Scenes
        >>> data, folder = from_scenes(Scenes(4, size=32)), Path(tempfile.mkdtemp())
        >>> write_coco(data, folder).name
        'annotations.json'
        >>> train, test = load_coco(folder)
        >>> len(train), len(test), train.predicates == data.predicates
        (3, 1, True)
    """
    if annotated.pixels.shape[1] not in (1, 3):
        raise InputError(f"annotated: expected images of 1 or 3 channels, got {annotated.pixels.shape[1]}")
    pycocotools_mask()
    with locked(make_output_folder(folder, "annotated images"), "call of write_coco"):
        return _write(annotated, folder)


def _write(annotated: Annotated, folder: Path) -> Path:
    names = [f"images/{i:06}.png" for i in range(len(annotated))]
    take_away(folder, names, lambda i: png_of(annotated.pixels[i]))
    make_folder(folder / "images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        with written(folder / name) as aside:
            aside.write_bytes(png_of(annotated.pixels[i]))
        found, first = annotated.objects(torch.tensor([i])), len(annotations) + 1
        own = [_annotation(annotated, found, k) for k in range(len(found.labels))]
        annotations += [{"id": first + k, "image_id": i, **one} for k, one in enumerate(own)]
        images.append({"id": i, "file_name": name, **_about(annotated, i, found, first)})
    target = folder / ANNOTATIONS
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(annotated.classes)],
        "predicates": list(annotated.predicates),
        "attributes": _vocabularies(annotated.attributes, annotated.attribute_names),
        "factors": _vocabularies(annotated.factors, annotated.factor_names),
    }
    write_json(target, content)
    record_outputs(folder, [*names, ANNOTATIONS])
    return target


def _annotation(annotated: Annotated, found: Objects, k: int) -> dict[str, Any]:
    """What is written of one object, but for its numbers."""
    left, top, right, bottom = found.boxes[k].tolist()
    area, width, height = int(found.areas[k]), right - left, bottom - top
    mask = {"segmentation": rle_of(found.instances[0] == found.numbers[k])} if area else {}
    attributes = {
        name: _word(int(values[k]), annotated.attribute_names.get(name)) for name, values in found.attributes.items()
    }
    return {
        "category_id": int(found.labels[k]) + 1,
        "bbox": [left, top, width, height],
        "area": area or width * height,
        **mask,
        "iscrowd": 0,
        **attributes,
    }


def _about(annotated: Annotated, i: int, found: Objects, first: int) -> dict[str, Any]:
    """What is written of one image, but for its number and file; its objects have the numbers from `first` on."""
    height, width = annotated.maps.shape[1:]
    about: dict[str, Any] = {"width": width, "height": height}
    factors = {
        name: _word(int(values[i]), annotated.factor_names.get(name)) for name, values in annotated.factors.items()
    }
    if isinstance(factors.get("domain"), str):
        about["domain"] = factors.pop("domain")
    if factors:
        about["factors"] = factors
    if annotated.captions:
        about["caption"] = annotated.captions[i]
    if len(annotated.relations):
        about["relations"] = [[first + s, annotated.predicates[p], first + o] for s, p, o in found.relations.tolist()]
    return about | _unexplained(annotated.maps[i], found)


def _unexplained(semantic: Tensor, found: Objects) -> dict[str, Any]:
    """The pixels whose value does not follow from the objects, by their values."""
    expected = torch.cat([torch.zeros(1, dtype=torch.int64), found.labels + 1])[found.instances[0].long()]
    for left, top, right, bottom in found.boxes[found.areas == 0].tolist():
        inside = torch.zeros_like(expected, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        expected[inside & (found.instances[0] == 0)] = IGNORED
    other = semantic != expected
    values = semantic[other].unique().tolist()
    regions = [
        {"category_id": value or None, "segmentation": rle_of((semantic == value) & other)}
        for value in values
        if value != IGNORED
    ]
    ignored = {"ignored": rle_of((semantic == IGNORED) & other)} if IGNORED in values else {}
    return ({"regions": regions} if regions else {}) | ignored


def _word(value: int, words: Sequence[str] | None) -> int | str:
    return value if words is None else words[value]


def _vocabularies(columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str] | None]:
    """The words of each property in their order; None of one whose values are numbers."""
    return {name: list(names[name]) if name in names else None for name in columns}
