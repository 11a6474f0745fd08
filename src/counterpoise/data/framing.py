"""How images of any shape become square ones, with their maps, boxes and masks in step."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64, Integer, UInt8
from torch import Tensor

from counterpoise.data.annotated import Annotated, seen_boxes
from counterpoise.data.images import CHUNK, allocate
from counterpoise.ops.checks import check_number


class Frame(NamedTuple):
    """How an image becomes a square one: the middle of its long side is kept, and scaled.

    Attributes:
        height: of the image, in pixels.
        width: of the image.
        size: side of the square.
    """

    height: int
    width: int
    size: int

    @property
    def scale(self) -> float:
        """Pixels of the image for one of the square."""
        return min(self.height, self.width) / self.size

    def samples(self) -> tuple[Int64[Tensor, " size"], Int64[Tensor, " size"]]:
        """The rows and the columns of the image that the middles of the square's pixels fall on: the nearest ones.

        Examples:
            >>> Frame(4, 8, 2).samples()
            (tensor([1, 3]), tensor([3, 5]))
        """
        side = min(self.height, self.width)
        middles = (2 * torch.arange(self.size) + 1) * side  # in steps of a pixel over twice the size: exact integers
        rows, columns = (
            ((length - side) * self.size + middles) // (2 * self.size) for length in (self.height, self.width)
        )
        return rows, columns

    def boxes(self, boxes: Float[Tensor, "objects 4"] | Int[Tensor, "objects 4"]) -> Int64[Tensor, "objects 4"]:
        """Boxes of the image as those of the square: scaled, rounded outwards to whole pixels, cut at its edges.

        One that lies outside of the square has a right edge that is not right of the left one, or a bottom not below.

        Examples:
            >>> Frame(4, 8, 2).boxes(torch.tensor([[2, 0, 5, 4], [0, 0, 1, 4]])).tolist()
            [[0, 0, 2, 2], [0, 0, 0, 2]]
        """
        side = min(self.height, self.width)
        corner = torch.tensor([self.width - side, self.height - side] * 2, dtype=torch.float64) / 2
        moved = (boxes.double() - corner) / self.scale
        rounded = torch.cat([(moved[:, :2] + 1e-6).floor(), (moved[:, 2:] - 1e-6).ceil()], 1)
        return rounded.clamp(0, self.size).long()


def resized(annotated: Annotated, size: int | None) -> Annotated:
    """Square images of `size` pixels, their maps, boxes and masks alike.

    The middle of the long side is kept. Pixels are scaled bilinearly and antialiased; maps and masks take the nearest
    pixel; boxes are rounded outwards to whole pixels, so that they hold their masks. An object of which no pixel is
    left (its mask's, or its box's where it has no mask) goes, and a note counts these.

    Args:
        annotated: of any size.
        size: side in pixels; None: as they are.

    Raises:
        InputError: for a size that is no whole number above 0.

    Examples:
        >>> from counterpoise.data.annotated_scenes import from_scenes
        >>> from counterpoise.data.scenes import Scenes
        >>> small = resized(from_scenes(Scenes(5)), 32)
        >>> small.pixels.shape, small.maps.shape, int(small.boxes.max()) <= 32
        (torch.Size([5, 3, 32, 32]), torch.Size([5, 32, 32]), True)
    """
    if size is None:
        return annotated
    check_number("size", size, at_least=1, whole=True)
    height, width = annotated.pixels.shape[2:]
    if (height, width) == (size, size):
        return annotated
    frame = Frame(height, width, size)
    rows, columns = frame.samples()
    boxes = frame.boxes(annotated.boxes)
    instances = None if annotated.instances is None else _sampled(annotated.instances, rows, columns)
    masked = annotated.areas > 0
    moved = replace(
        annotated,
        pixels=_scaled(annotated.pixels, size),
        maps=_sampled(annotated.maps, rows, columns),
        boxes=torch.where(seen_boxes(boxes)[:, None], boxes, torch.tensor([0, 0, 1, 1])),  # which then go
        instances=instances,
    )
    keep = torch.where(masked, moved.areas > 0, True) & seen_boxes(boxes)
    lost = int((~keep).sum())
    note = (f"{lost:,} objects without a pixel at {size}×{size} left out",) if lost else ()
    kept = moved.keep_objects(keep) if lost else moved
    return replace(kept, notes=(*annotated.notes, *note))


def _scaled(pixels: Tensor, size: int) -> UInt8[Tensor, "images channels size size"]:
    from torchvision.transforms.v2.functional import center_crop, resize

    made = allocate((*pixels.shape[:2], size, size))
    side = min(pixels.shape[2:])
    for at in range(0, len(pixels), CHUNK):
        made[at : at + CHUNK] = resize(center_crop(pixels[at : at + CHUNK], [side, side]), [size, size])
    return made


def _sampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Integer[Tensor, "images size size"]:
    """Some rows and columns of maps."""
    if maps.dtype != torch.uint8:
        return maps[:, rows[:, None], columns]
    made = allocate((len(maps), len(rows), len(columns)))
    for at in range(0, len(maps), CHUNK):
        made[at : at + CHUNK] = maps[at : at + CHUNK, rows[:, None], columns]
    return made
