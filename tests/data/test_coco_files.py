"""What is written in COCO's format: pictures and masks that read back the same, and files that are left alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data.coco import pycocotools_mask
from counterpoise.data.coco_files import ANNOTATIONS, png_of, rle_of, take_away
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder, record_outputs


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_reads_back_the_same(channels, mode, rng):
    pixels = torch.randint(0, 256, (channels, 5, 4), dtype=torch.uint8, generator=rng)
    image = Image.open(io.BytesIO(png_of(pixels)))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image).reshape(5, 4, channels), pixels.permute(1, 2, 0).numpy())


def test_a_mask_reads_back_the_same(rng):
    mask = torch.rand(5, 4, generator=rng) < 0.5
    found = rle_of(mask)
    assert found["size"] == [5, 4]
    assert isinstance(found["counts"], str)
    assert np.array_equal(pycocotools_mask().decode(found), mask.numpy())


@pytest.fixture
def folder(tmp_path):
    """An earlier call's folder: two images and annotations."""
    made = make_output_folder(tmp_path / "out", "pictures")
    (made / "images").mkdir()
    names = ["images/000000.png", "images/000001.png", ANNOTATIONS]
    for name in names:
        (made / name).write_bytes(name.encode())
    record_outputs(made, names)
    return made


def there(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".png", ".json"))


def test_what_an_earlier_call_wrote_is_taken_away_and_other_files_stay(folder):
    (folder / "images" / "mine.png").write_bytes(b"mine")
    take_away(folder, ["images/000000.png"], lambda i: b"new")
    assert [name for name in there(folder) if not name.startswith(".")] == ["images/mine.png"]


def test_a_changed_image_is_refused_before_anything_is_taken_away(folder):
    (folder / "images" / "000001.png").write_bytes(b"changed")
    before = there(folder)
    with pytest.raises(InputError, match=r"000001\.png: was not written by counterpoise or was changed since"):
        take_away(folder, ["images/000000.png", "images/000001.png"], lambda i: b"new")
    assert there(folder) == before


def test_an_image_of_this_very_call_is_none_of_a_user_s(folder):
    (folder / "images" / "000001.png").write_bytes(b"new")
    take_away(folder, ["images/000000.png", "images/000001.png"], lambda i: b"new")
    assert not (folder / ANNOTATIONS).exists()
