"""`Annotated` written as a folder of images with annotations in COCO's format."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from counterpoise.data.annotated import IGNORED, Annotated, Objects
from counterpoise.data.coco import pycocotools_mask
from counterpoise.errors import InputError
from counterpoise.files import locked, make_folder, make_output_folder, outputs_in, record_outputs, write_json, written

ANNOTATIONS = "annotations.json"
WRITTEN = re.compile(r"images/\d{6,}\.png|annotations\.json")


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
    _take_away(folder, names, lambda i: _png(annotated.pixels[i]))
    make_folder(folder / "images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        with written(folder / name) as aside:
            aside.write_bytes(_png(annotated.pixels[i]))
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


def _take_away(folder: Path, names: Sequence[str], content: Callable[[int], bytes]) -> None:
    """Take away what an earlier call wrote, the annotations first, so that they never describe other images.

    An image that is not as an earlier call left it may be a user's. It is refused, before anything is taken away,
    unless it is what this very call writes there, as it is where such a call was killed.

    Raises:
        InputError: naming the file.
    """
    own, numbers = outputs_in(folder), {name: i for i, name in enumerate(names)}
    there = (path.relative_to(folder).as_posix() for path in (*folder.glob("images/*"), *folder.glob(ANNOTATIONS)))
    for name in sorted(name for name in there if name not in own and WRITTEN.fullmatch(name)):
        if name not in numbers or (folder / name).read_bytes() != content(numbers[name]):
            raise InputError(
                f"{folder / name}: was not written by counterpoise or was changed since; "
                "choose another folder, or move it away"
            )
    for name in sorted(own):  # annotations.json is before images/
        (folder / name).unlink()


def _png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    channels = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels).save(file, "PNG")
    return file.getvalue()


def _annotation(annotated: Annotated, found: Objects, k: int) -> dict[str, Any]:
    """What is written of one object, but for its numbers."""
    left, top, right, bottom = found.boxes[k].tolist()
    area, width, height = int(found.areas[k]), right - left, bottom - top
    mask = {"segmentation": _rle(found.instances[0] == found.numbers[k])} if area else {}
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
        {"category_id": value or None, "segmentation": _rle((semantic == value) & other)}
        for value in values
        if value != IGNORED
    ]
    ignored = {"ignored": _rle((semantic == IGNORED) & other)} if IGNORED in values else {}
    return ({"regions": regions} if regions else {}) | ignored


def _rle(mask: Tensor) -> dict[str, Any]:
    found = pycocotools_mask().encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}


def _word(value: int, words: Sequence[str] | None) -> int | str:
    return value if words is None else words[value]


def _vocabularies(columns: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str] | None]:
    """The words of each property in their order; None of one whose values are numbers."""
    return {name: list(names[name]) if name in names else None for name in columns}
