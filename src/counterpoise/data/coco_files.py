"""What all that is written in COCO's format shares: its files, pictures and masks, and what an earlier call left."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from counterpoise.data.coco import pycocotools_mask
from counterpoise.errors import InputError
from counterpoise.files import outputs_in

ANNOTATIONS = "annotations.json"
WRITTEN = re.compile(r"images/\d{6,}\.png|annotations\.json")


def take_away(folder: Path, names: Sequence[str], content: Callable[[int], bytes]) -> None:
    """Take away what an earlier call wrote, the annotations first, so that they never describe other images.

    An image that is not as an earlier call left it may be a user's. It is refused, before anything is taken away,
    unless it is what this very call writes there, as it is where such a call was killed.

    Args:
        folder: an output folder of this program.
        names: the files of images that this call writes, relative to the folder.
        content: what it writes into the image of that number.

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


def png_of(pixels: UInt8[Tensor, "channels height width"]) -> bytes:
    """The PNG file of an image of 1 or 3 channels."""
    file = io.BytesIO()
    channels = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels).save(file, "PNG")
    return file.getvalue()


def rle_of(mask: Bool[Tensor, "height width"]) -> dict[str, Any]:
    """A mask as a compressed RLE.

    Raises:
        MissingExtra: without pycocotools.
    """
    found = pycocotools_mask().encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}
