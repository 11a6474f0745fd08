"""Annotated images of another size: maps, masks and boxes stay in step."""

import numpy as np
import pytest
import torch
from PIL import Image

from annotated import COUNT, SIDE
from counterpoise.data.annotated import Annotated
from counterpoise.data.framing import Frame, resized


def test_a_resized_copy_keeps_maps_masks_and_boxes_in_step(data):
    small = resized(data, 16)
    assert small.pixels.shape == (COUNT, 3, 16, 16)
    for i in range(COUNT):
        found = small.objects(torch.tensor([i]))
        for mask, label, (left, top, right, bottom) in zip(
            found.masks, found.labels, found.boxes.tolist(), strict=True
        ):
            assert (small.maps[i][mask] == label + 1).all()
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
    assert torch.equal(small.maps > 0, small.instances > 0)
    large = resized(data, 2 * SIDE)  # each pixel four times, each box twice as large
    assert torch.equal(large.maps, data.maps.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(large.boxes, 2 * data.boxes)
    assert torch.equal(large.areas, 4 * data.areas)
    assert torch.equal(large.relations, data.relations)


def test_of_a_long_image_the_middle_is_kept_and_objects_beside_it_go():
    pixels = torch.zeros(1, 1, 4, 12, dtype=torch.uint8)
    pixels[..., 4:8] = 200
    instances = torch.zeros(1, 4, 12, dtype=torch.uint8)
    instances[0, 1:3, 0:3], instances[0, 1:3, 6:11] = 1, 2
    long = Annotated(
        pixels, (instances > 0).byte(), ("cat",), "long", torch.tensor([0, 0]), torch.tensor([0, 0]),
        torch.tensor([[0, 1, 3, 3], [6, 1, 11, 3]]), instances, relations=torch.tensor([[1, 0, 0]]), predicates=("by",),
    )  # fmt: skip
    middle = resized(long, 4)
    assert (middle.pixels == 200).all()
    assert middle.boxes.tolist() == [[2, 1, 4, 3]]
    assert middle.instances[0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert len(middle.relations) == 0
    assert middle.notes == ("1 objects without a pixel at 4×4 left out",)


@pytest.mark.parametrize("shape", [(40, 40), (64, 48), (31, 90), (7, 5)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_maps_take_the_pixels_that_pillow_s_nearest_takes_of_the_same_middle(shape, size):
    from PIL import ImageOps

    values = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    theirs = np.asarray(ImageOps.fit(Image.fromarray(values), (size, size), Image.Resampling.NEAREST))
    rows, columns = (x.numpy() for x in Frame(*shape, size).samples())
    # Where a pixel's middle falls between two others, rounding decides in Pillow; here it is the one after.
    middles = (2 * np.arange(size) + 1) * min(shape)
    row_is_between, column_is_between = (((length - min(shape)) * size + middles) % (2 * size) == 0 for length in shape)
    clear = ~(row_is_between[:, None] | column_is_between) | (min(shape) % size == 0)  # which floats hold exactly
    assert clear.mean() > 0.5
    assert np.array_equal(values[rows[:, None], columns][clear], theirs[clear])


def test_a_box_holds_its_mask_at_every_size():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        height, width, size = torch.randint(1, 60, (3,), generator=generator).tolist()
        (left, right), (top, bottom) = (
            sorted(torch.randint(n + 1, (2,), generator=generator).tolist()) for n in (width, height)
        )
        frame = Frame(height, width, size)
        rows, columns = frame.samples()
        a, b, c, d = frame.boxes(torch.tensor([[left, top, right, bottom]]))[0].tolist()
        inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
        assert inside[b:d, a:c].sum() == inside.sum()
