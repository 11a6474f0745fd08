"""The annotations of one image, drawn as a semantic map and an instance map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from counterpoise.data.annotated import IGNORED, MOST_OBJECTS, seen_boxes
from counterpoise.data.coco import CocoFile, Entry, pycocotools_mask, read_mask
from counterpoise.data.framing import Frame
from counterpoise.errors import InputError

OUTSIDE = 1.0  # pixels that a box may reach beyond its image, by rounding


class Mask(NamedTuple):
    """A mask in the square image, and how many pixels it has in the image as it was."""

    pixels: Bool[np.ndarray, "size size"]
    area: int


class Painted(NamedTuple):
    """An object that is kept: its annotation, its class, and its box in the square image."""

    entry: dict[str, Any]
    label: int
    box: Int64[Tensor, " 4"]


class Painter(NamedTuple):
    """Draws the annotations of one image.

    Attributes:
        file: whose annotations they are.
        labels: of its categories, those that are kept: the class by the category's number.
        frame: how the image became square.
        said: counts what is left out, by what is said of it.
    """

    file: CocoFile
    labels: Mapping[int, int]
    frame: Frame
    said: Counter[str]

    def paint(self, image: Entry, rows: Sequence[int], semantic: Tensor, instances: Tensor) -> list[Painted]:
        """Fill the two maps of one image.

        Args:
            image: its entry.
            rows: its annotations.
            semantic: uint8 [size size]; 0 for the background, the class plus 1, 255 where nothing is known.
            instances: int16 [size size]; the numbers of the objects from 1.

        Returns:
            The objects that are kept, in the order of the file.

        Raises:
            InputError: for a mask that is malformed, or a box outside of the image.
        """
        boxes = dict(zip(rows, self._boxes(rows), strict=True))
        masks = {row: self._mask(self.file.annotations[row], "segmentation") for row in rows}
        objects = self._chosen(rows)
        kept, canvas = self._draw(image, objects, boxes, masks)
        labels = [self.labels[self._category(row)] for row in kept]
        instances[:] = torch.from_numpy(canvas)
        semantic[:] = torch.tensor([0, *(label + 1 for label in labels)], dtype=torch.uint8)[torch.from_numpy(canvas)]
        unknown = [row for row in rows if self.file.crowd[row] or (row in kept and masks[row] is None)]
        for row in unknown:
            mask = masks[row]
            covered = self._box_mask(boxes[row]) if mask is None else mask.pixels
            semantic[torch.from_numpy(covered & (canvas == 0))] = IGNORED
        self._paint_regions(image, semantic)
        return [
            Painted(self.file.annotations[row][1], label, boxes[row]) for row, label in zip(kept, labels, strict=True)
        ]

    def _category(self, row: int) -> int:
        return self.file.annotations[row][1]["category_id"]

    def _chosen(self, rows: Sequence[int]) -> list[int]:
        """The annotations that are objects of the classes wanted."""
        objects = [row for row in rows if not self.file.crowd[row]]
        chosen = [row for row in objects if self._category(row) in self.labels]
        self.said["crowds are no objects; their pixels are not labelled"] += len(rows) - len(objects)
        self.said["objects are of classes that were not chosen"] += len(objects) - len(chosen)
        return chosen

    def _draw(
        self, image: Entry, objects: Sequence[int], boxes: Mapping[int, Tensor], masks: Mapping[int, Mask | None]
    ) -> tuple[list[int], Int64[np.ndarray, "size size"]]:
        """The objects of which a pixel is seen, and the map of their numbers; smaller ones are in front."""
        canvas = np.zeros((self.frame.size, self.frame.size), dtype=np.int64)
        drawn = [(row, mask) for row in reversed(objects) if (mask := masks[row]) is not None]
        place = {row: i + 1 for i, row in enumerate(objects)}
        # Stable: of masks of one area the first in the file is drawn last, so that it is in front.
        for row, mask in sorted(drawn, key=lambda one: -one[1].area):
            canvas[mask.pixels] = place[row]
        seen = np.bincount(canvas.ravel(), minlength=len(objects) + 1)
        covered = sum(seen[place[row]] < mask.pixels.sum() for row, mask in drawn)
        self.said["objects are partly covered by smaller ones, to which the common pixels belong"] += int(covered)
        kept = [row for row in objects if _holds_pixels(boxes[row]) and (masks[row] is None or seen[place[row]])]
        self.said["objects have no pixel in the square images and are left out"] += len(objects) - len(kept)
        if len(kept) > MOST_OBJECTS:
            raise InputError(f"{image[0]}: expected at most {MOST_OBJECTS:,} objects, got {len(kept):,}")
        numbers = np.zeros(len(objects) + 1, dtype=np.int64)
        numbers[[place[row] for row in kept]] = np.arange(1, len(kept) + 1)
        return kept, numbers[canvas]

    def _boxes(self, rows: Sequence[int]) -> Int64[Tensor, "objects 4"]:
        """Boxes in the square image; those without an area there have none in the result, either."""
        given = torch.from_numpy(self.file.boxes[list(rows)]).view(-1, 4)
        corners = torch.cat([given[:, :2], given[:, :2] + given[:, 2:]], 1)
        limits = torch.tensor([self.frame.width, self.frame.height] * 2, dtype=torch.float64)
        outside = ((corners < -OUTSIDE) | (corners > limits + OUTSIDE)).any(1).nonzero().flatten().tolist()
        if outside:
            where, one = self.file.annotations[rows[outside[0]]]
            size = f"{self.frame.width}×{self.frame.height}"
            raise InputError(f"{where}: its bbox {one['bbox']} reaches out of its image of {size} pixels")
        return torch.where((given[:, 2:] > 0).all(1)[:, None], self.frame.boxes(corners), 0)

    def _mask(self, entry: Entry, field: str) -> Mask | None:
        rle = read_mask(entry, (self.frame.height, self.frame.width), field)
        if rle is None:
            return None
        tools = pycocotools_mask()
        return Mask(tools.decode(rle)[_samples(self.frame)].astype(bool), int(tools.area(rle)))

    def _box_mask(self, box: Tensor) -> Bool[np.ndarray, "size size"]:
        left, top, right, bottom = box.tolist()
        made = np.zeros((self.frame.size, self.frame.size), dtype=bool)
        made[top:bottom, left:right] = True
        return made

    def _paint_regions(self, image: Entry, semantic: Tensor) -> None:
        """What `write_coco` lists besides the objects: pixels of a class, and pixels that are not labelled."""
        where, one = image
        regions = one.get("regions", [])
        if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
            raise InputError(f"{where}: expected a list of objects as regions, got {regions!r}")
        for i, region in enumerate(regions):
            place, number = f"{where}: regions[{i}]", region.get("category_id")
            if number is not None and (type(number) is not int or number not in self.file.categories):
                raise InputError(f"{place}: category_id {number!r} is not in the file's categories")
            mask = self._mask((place, region), "segmentation")
            if mask is not None:
                semantic[torch.from_numpy(mask.pixels)] = 0 if number is None else self.labels.get(number, -1) + 1
        ignored = self._mask(image, "ignored")
        if ignored is not None:
            semantic[torch.from_numpy(ignored.pixels)] = IGNORED


@lru_cache(64)
def _samples(frame: Frame) -> tuple[Int64[np.ndarray, "size 1"], Int64[np.ndarray, " size"]]:
    """What picks the pixels of the square image from one as it was; most images of a set have one of a few sizes."""
    rows, columns = frame.samples()
    return rows.numpy()[:, None], columns.numpy()


def _holds_pixels(box: Tensor) -> bool:
    return bool(seen_boxes(box[None]))
