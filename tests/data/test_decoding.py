"""Image files of every kind become one array; those that cannot be read are counted and named."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data import decoding
from counterpoise.data import images as images_module
from counterpoise.data.decoding import decode, divide, file_item, to_mode
from counterpoise.data.images import Images
from counterpoise.errors import InputError


def items(folder):
    return [file_item(path, path.name, -1, None) for path in sorted(folder.iterdir())]


def save(path, array, **how):
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **how)


def test_grey_files_keep_their_values(tmp_path):
    values = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    for i, value in enumerate(values):
        save(tmp_path / f"{i}.png", value)
    decoded = decode(items(tmp_path), "x")
    assert torch.equal(decoded.pixels, torch.from_numpy(values)[:, None])
    assert decoded.sizes.tolist() == [[8, 8], [8, 8]]
    assert decoded.unreadable == ()


def test_one_colour_image_makes_all_rgb(tmp_path):
    save(tmp_path / "a.png", np.full((4, 4), 7))
    save(tmp_path / "b.png", np.broadcast_to([1, 2, 3], (4, 4, 3)))
    assert decode(items(tmp_path), "x").pixels[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


def test_short_side_is_resized_and_the_middle_cut_out(tmp_path):
    """12×4 with thirds of 0, 100 and 200: only the middle third is left."""
    save(tmp_path / "a.png", np.repeat(np.repeat([[0, 100, 200]], 4, 0), 4, 1))
    assert (decode(items(tmp_path), "x").pixels == 100).all()


def test_default_size_is_the_median_short_side_up_to_64(tmp_path):
    for i, shape in enumerate([(10, 30), (20, 20), (50, 40)]):
        save(tmp_path / f"{i}.png", np.zeros(shape))
    decoded = decode(items(tmp_path), "x")
    assert decoded.pixels.shape == (3, 1, 20, 20)
    assert decoded.sizes.tolist() == [[10, 30], [20, 20], [50, 40]]
    assert decode(items(tmp_path), "x", size=9).pixels.shape[-1] == 9
    for i in range(3):
        save(tmp_path / f"{i}.png", np.zeros((100, 90)))
    assert decode(items(tmp_path), "x").pixels.shape[-1] == 64


def test_large_jpegs_come_close_to_a_plain_resize(tmp_path):
    y, x = np.mgrid[:640, :640] / 640
    save(tmp_path / "a.jpg", np.stack([255 * x, 255 * y, 127 + 127 * np.sin(6 * x)], -1), quality=95)
    plain = Image.open(tmp_path / "a.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    decoded = decode(items(tmp_path), "x", size=32).pixels[0].permute(1, 2, 0)
    assert np.abs(decoded.numpy().astype(int) - np.asarray(plain, int)).max() <= 4


def modes():
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    clear = Image.new("P", (2, 2), 1)
    clear.putpalette([0, 0, 0, 10, 20, 30])
    clear.info["transparency"] = 1
    sixteen = Image.fromarray(np.full((2, 2), 0x1234, np.uint16))
    return [
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("L", (2, 2), 9), (9, 9, 9)),
        (Image.new("LA", (2, 2), (9, 255)), (9, 9, 9)),
        (Image.new("LA", (2, 2), (9, 0)), (255, 255, 255)),
        (palette, (10, 20, 30)),
        (clear, (255, 255, 255)),
        (Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3)),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (100, 0, 0, 51)), (224, 204, 204)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("YCbCr", (2, 2), (50, 128, 128)), (50, 50, 50)),
        (sixteen, (0x12, 0x12, 0x12)),
        (Image.fromarray(np.full((2, 2), 0x1234, np.int32)), (0x12, 0x12, 0x12)),
    ]


@pytest.mark.parametrize(("image", "colour"), modes(), ids=lambda value: getattr(value, "mode", None))
def test_every_mode(image, colour):
    assert to_mode(image, "RGB").getpixel((0, 0)) == colour
    if colour[0] == colour[1] == colour[2]:
        assert to_mode(image, "L").getpixel((1, 1)) == colour[0]


@pytest.mark.parametrize(
    "image", [Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), 70000), Image.new("I", (2, 2), -1)]
)
def test_values_without_a_known_white_are_refused(image):
    with pytest.raises(ValueError, match=r"floating-point|beyond 16 bits"):
        to_mode(image, "L")


def test_sixteen_bit_files(tmp_path):
    Image.fromarray(np.full((4, 4), 0xABCD, np.uint16)).save(tmp_path / "a.png")
    decoded = decode(items(tmp_path), "x")
    assert decoded.pixels.shape == (1, 1, 4, 4)
    assert (decoded.pixels == 0xAB).all()


def test_exif_orientation_is_honoured(tmp_path):
    """Orientation 6: stored on its side, the left column is the top row as it is meant to be seen."""
    stored = np.zeros((8, 8), np.uint8)
    stored[:, 0] = 255
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    upright = decode(items(tmp_path), "x").pixels[0, 0]
    assert upright[0].tolist() == [255] * 8
    assert (upright[1:] == 0).all()
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert decode(items(tmp_path), "x").sizes.tolist() == [[9, 4]]


def bomb() -> bytes:
    """A PNG whose header claims 10,000 × 10,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10_001 * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_what_cannot_be_read_is_counted_and_named(tmp_path):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole.getvalue())
    (tmp_path / "b-truncated.jpg").write_bytes(whole.getvalue()[:-400])
    (tmp_path / "c-empty.png").write_bytes(b"")
    (tmp_path / "d-text.png").write_text("no image")
    (tmp_path / "e-bomb.png").write_bytes(bomb())
    Image.new("F", (4, 4)).save(tmp_path / "f-float.tiff")
    os.symlink(tmp_path / "nowhere", tmp_path / "g-broken.png")
    save(tmp_path / "h.png", np.zeros((40, 40)))
    message = (
        r"pets: 6 of 8 images cannot be read and are left out: b-truncated.jpg, c-empty.png, d-text.png and 3 more"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        decoded = decode(items(tmp_path), "pets")
    assert len(caught) == 1
    assert decoded.kept == [0, 7]
    assert [name[0] for name in decoded.unreadable] == list("bcdefg")
    assert decoded.pixels.shape == (2, 3, 40, 40)
    assert np.abs(decoded.pixels[0].permute(1, 2, 0).numpy() - np.asarray(Image.open(tmp_path / "a.jpg"))).max() == 0
    assert (decoded.pixels[1] == 0).all()


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"pets: none of the 1 images can be read: a\.png"):
        decode(items(tmp_path), "pets")
    with pytest.raises(InputError, match="pets: holds no images"):
        decode([], "pets")


def test_truncated_files_only_is_an_error_too(tmp_path):
    """The header is fine; only decoding finds out."""
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-300])
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        decode(items(tmp_path), "pets")


def test_above_the_memory_limit_the_pixels_are_kept_in_a_file(tmp_path, monkeypatch):
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for i in range(3):
        save(folder / f"{i}.png", np.full((4, 4), i))
    (folder / "bad.png").write_bytes(b"")
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(cache))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 10)
    with pytest.warns(UserWarning, match="1 of 4 images"):
        first = decode(items(folder), "x")
    assert first.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert first.unreadable == ("bad.png",)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]

    monkeypatch.setattr(decoding, "_decode_one", lambda item, shape: pytest.fail("decoded again"))
    with pytest.warns(UserWarning, match="1 of 4 images"):
        again = decode(items(folder), "x")
    assert torch.equal(again.pixels, first.pixels)
    assert again.kept == first.kept

    monkeypatch.undo()
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(cache))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 10)
    save(folder / "2.png", np.full((4, 4), 99))
    with pytest.warns(UserWarning, match="1 of 4 images"):
        assert decode(items(folder), "x").pixels[2, 0, 0, 0] == 99


def test_division_within_each_class():
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 2 + [3] + [-1] * 10)
    images = Images(
        torch.zeros(68, 1, 1, 1, dtype=torch.uint8), labels, tuple("abcd"), "x", paths=tuple(map(str, range(68)))
    )
    with pytest.warns(UserWarning, match=r"classes with a single image, which stays in train \(1\): d"):
        train, test = divide(images, seed=0)
    assert train.counts().tolist() == [40, 4, 1, 1]
    assert test.counts().tolist() == [10, 1, 1, 0]
    assert (test.labels == -1).sum() == 2
    assert sorted([*map(int, train.paths), *map(int, test.paths)]) == list(range(68))
    assert list(map(int, test.paths)) == sorted(map(int, test.paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert divide(images, seed=0).test.paths == test.paths
        assert divide(images, seed=1).test.paths != test.paths


def test_classes_of_one_image_only_cannot_be_divided():
    images = Images(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"), "x")
    with pytest.raises(InputError, match="x: no class has two images"):
        divide(images, seed=0)
