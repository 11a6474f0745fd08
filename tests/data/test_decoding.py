"""Image files of every kind become one array; those that cannot be read are counted and named."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from counterpoise.data import decoding, reading
from counterpoise.data import images as images_module
from counterpoise.data.decoding import decode, divide, file_item
from counterpoise.data.images import Images
from counterpoise.data.reading import perceptual_hash
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
        r"pets: 6 of 8 images cannot be read and are left out: b-truncated.jpg \(truncated: the file ends too early\), "
        r"c-empty.png \(empty file\), d-text.png \(not an image\) and 3 more \(1 empty file, 1 not an image, "
        r"1 too large, 1 floating-point numbers, 1 no such file, 1 truncated\)$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        decoded = decode(items(tmp_path), "pets")
    assert len(caught) == 1
    assert decoded.kept == [0, 7]
    assert [name[0] for name in decoded.unreadable] == list("bcdefg")
    assert tuple(decoded.reasons) == decoded.unreadable
    assert decoded.reasons["g-broken.png"] == f"no such file: {tmp_path / 'g-broken.png'}"
    assert decoded.notes == ("6 unreadable images left out",)
    assert decoded.pixels.shape == (2, 3, 40, 40)
    assert np.abs(decoded.pixels[0].permute(1, 2, 0).numpy() - np.asarray(Image.open(tmp_path / "a.jpg"))).max() == 0
    assert (decoded.pixels[1] == 0).all()


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"pets: none of the 1 images can be read: a\.png \(empty file\)"):
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
    assert sorted(path.suffix for path in cache.iterdir()) == [".npy", ".npz"]

    monkeypatch.setattr(decoding, "read_row", lambda *_: pytest.fail("decoded again"))
    with pytest.warns(UserWarning, match="1 of 4 images"):
        again = decode(items(folder), "x")
    assert torch.equal(again.pixels, first.pixels)
    assert (again.kept, again.reasons, again.notes) == (first.kept, first.reasons, first.notes)
    assert torch.equal(again.digests, first.digests)
    assert again.hashes is first.hashes is None

    monkeypatch.undo()
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(cache))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 10)
    save(folder / "2.png", np.full((4, 4), 99))
    with pytest.warns(UserWarning, match="1 of 4 images"):
        assert decode(items(folder), "x").pixels[2, 0, 0, 0] == 99


def test_what_is_kept_in_the_cache_has_one_range_of_numbers(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    deep(folder / "a.png", [[0, 500], [1000, 250]])
    (folder / "b-cut.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 1)
    for _ in range(2):
        with pytest.warns(UserWarning, match="values from 0 to 1,000 become 0 to 255"):
            assert decode(items(folder), "x").pixels.flatten().tolist() == [0, 128, 255, 64]
        with pytest.warns(UserWarning, match="1 of 2 images cannot be read .*b-cut.png"):
            assert decode(items(folder), "x", value_range=(0, 2000)).pixels.flatten().tolist() == [0, 64, 128, 32]


def deep(path, values):
    Image.fromarray(np.asarray(values, np.uint16)).save(path)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (800, 1200), (0, 1023), (0, 4095), (40000, 40400), (0, 65535)])
def test_numbers_of_16_bits_keep_their_range(tmp_path, low, high):
    """One range for all images: 255 levels are left of it, and which image is brighter."""
    middle = (low + high) // 2
    deep(tmp_path / "dark.png", np.linspace(low, middle, 256).reshape(16, 16))
    deep(tmp_path / "light.png", np.linspace(middle, high, 256).reshape(16, 16))
    with pytest.warns(
        UserWarning, match=f"x: 2 images of more than 8 bits: their values from {low:,} to {high:,} become"
    ):
        decoded = decode(items(tmp_path), "x")
    assert decoded.value_range == (low, high)
    assert decoded.notes == (f"2 images of more than 8 bits: their values from {low:,} to {high:,} become 0 to 255",)
    dark, light = decoded.pixels
    assert (dark.min(), light.max()) == (0, 255)
    assert dark.max() <= light.min() + 1
    assert len(decoded.pixels.unique()) >= 200


def test_the_range_of_the_images_that_were_trained_on_is_used_again(tmp_path):
    deep(tmp_path / "new.png", np.full((4, 4), 500))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(become|clipped)")
        warnings.filterwarnings("ignore", message=".*nearly constant")
        decoded = decode(items(tmp_path), "x", value_range=(0, 1000))
    assert decoded.value_range == (0, 1000)
    assert (decoded.pixels == 128).all()
    with pytest.warns(UserWarning, match="x: 1 images have values outside 600 to 1,000, which are clipped"):
        assert (decode(items(tmp_path), "x", value_range=(600, 1000)).pixels == 0).all()


@pytest.mark.parametrize("wrong", [(5, 5), (9, 3), (0, 1.5), (True, 9)])
@pytest.mark.usefixtures("plain_shapes")
def test_ranges_that_are_none(tmp_path, wrong):
    save(tmp_path / "a.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"value_range: its (low|high) end: expected a whole number"):
        decode(items(tmp_path), "x", value_range=wrong)


@pytest.mark.filterwarnings("ignore:.*nearly constant", "ignore:.*more than 8 bits")
def test_16_bit_images_of_a_single_value(tmp_path):
    deep(tmp_path / "a.png", np.full((4, 4), 0xABCD))
    decoded = decode(items(tmp_path), "x")
    assert decoded.pixels.shape == (1, 1, 4, 4)
    assert (decoded.pixels == 0xAB).all()


@pytest.mark.filterwarnings("ignore:.*more than 8 bits")
def test_the_range_of_16_bits_leaves_images_of_8_bits_alone(tmp_path):
    deep(tmp_path / "a.png", [[0, 1000]])
    save(tmp_path / "b.png", [[3, 200]])
    decoded = decode(items(tmp_path), "x", size=1)
    assert decoded.value_range == (0, 1000)
    save(tmp_path / "b.png", [[3]])
    assert decode(items(tmp_path), "x", size=1).pixels[1] == 3


def test_data_without_16_bit_images_has_no_range(tmp_path):
    save(tmp_path / "a.png", [[0, 200]])
    assert decode(items(tmp_path), "x", value_range=(0, 9)).value_range is None


def test_most_images_black_is_a_warning(tmp_path):
    for i in range(6):
        save(tmp_path / f"{i}.png", np.full((8, 8), i))
    with pytest.warns(UserWarning, match=r"x: 6 of 6 images looked at are nearly constant \(black, or of one colour\)"):
        decoded = decode(items(tmp_path), "x")
    assert "6 of 6 images looked at are nearly constant" in decoded.notes[0]
    for i in range(3):
        save(tmp_path / f"{i}.png", np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(items(tmp_path), "x")


def photo(seed: int) -> np.ndarray:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 5), np.uint8))
    return np.asarray(small.resize((40, 40), Image.Resampling.BICUBIC))


def test_perceptual_hashes_are_taken_where_they_are_asked_for(tmp_path, monkeypatch):
    for i in range(2):
        save(tmp_path / f"{i}.png", photo(i))
    hashed = decode(items(tmp_path), "x", hashes=True)
    assert hashed.hashes.tolist() == [perceptual_hash(Image.fromarray(photo(i))).tolist() for i in range(2)]
    monkeypatch.setattr(reading, "perceptual_hash", lambda image: pytest.fail("hashed"))
    plain = decode(items(tmp_path), "x")
    assert plain.hashes is None
    assert torch.equal(plain.pixels, hashed.pixels)
    assert torch.equal(plain.digests, hashed.digests)


@pytest.mark.parametrize("asked", [(False, True, False), (True, False, True)])
def test_kept_pixels_with_and_without_hashes_are_not_taken_for_each_other(tmp_path, monkeypatch, asked):
    (tmp_path / "images").mkdir()
    for i in range(3):
        save(tmp_path / "images" / f"{i}.png", photo(i))
    (tmp_path / "images" / "1.png").write_bytes(b"")
    expected = [perceptual_hash(Image.fromarray(photo(i))).tolist() for i in (0, 2)]
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 10)
    with pytest.warns(UserWarning, match="1 of 3 images"):
        found = [decode(items(tmp_path / "images"), "x", hashes=hashes) for hashes in asked]
    for hashes, decoded in zip(asked, found, strict=True):
        assert (decoded.hashes.tolist() if hashes else decoded.hashes) == (expected if hashes else None)
        assert torch.equal(decoded.pixels, found[0].pixels)
        assert torch.equal(decoded.digests, found[0].digests)
        assert (decoded.kept, decoded.unreadable) == ([0, 2], ("1.png",))
    # What was decoded with hashes serves those who ask for none, too.
    assert len(list((tmp_path / "cache").iterdir())) == (2 if asked[0] else 4)


def test_a_file_that_changes_while_it_is_read_moves_no_row(tmp_path, monkeypatch):
    """Between the look at all headers and decoding, an image becomes another size, and one is gone."""
    for i in range(5):
        save(tmp_path / f"{i}.png", np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8))
    before = decode(items(tmp_path), "x")
    decode_all = decoding._decode_all

    def meanwhile(*arguments):
        save(tmp_path / "1.png", np.zeros((9, 8)))
        (tmp_path / "3.png").unlink()
        return decode_all(*arguments)

    monkeypatch.setattr(decoding, "_decode_all", meanwhile)
    with pytest.warns(UserWarning, match=r"2 of 5 .*1.png \(changed while it was read\), 3.png \(no such file"):
        after = decode(items(tmp_path), "x")
    assert after.kept == [0, 2, 4]
    assert after.unreadable == ("1.png", "3.png")
    assert torch.equal(after.pixels, before.pixels[[0, 2, 4]])
    assert torch.equal(after.digests, before.digests[[0, 2, 4]])
    assert after.sizes.tolist() == [[8, 8]] * 3


def test_of_several_frames_the_first_is_taken_and_this_is_noted(tmp_path):
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)) for i in range(3)]
    frames[1].save(tmp_path / "a.tiff", save_all=True, append_images=frames[2:])
    frames[0].save(tmp_path / "b.png")
    decoded = decode(items(tmp_path), "x")
    assert (decoded.pixels[0, 0].numpy() == np.asarray(frames[1])).all()
    assert decoded.notes == ("1 files hold several images, of which the first is taken",)


@pytest.mark.parametrize("packed", [True, False])
def test_a_png_with_a_long_text_is_no_broken_file(tmp_path, monkeypatch, packed):
    """Some programs keep a whole workflow, of several MB, in the images that they make."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (3 << 20), zip=packed)
    save(tmp_path / "a.png", np.arange(64).reshape(8, 8), pnginfo=info)
    save(tmp_path / "b.png", np.arange(64).reshape(8, 8))
    assert decode(items(tmp_path), "x").unreadable == ()
    monkeypatch.setattr(reading, "MAX_TEXT", 1 << 20)
    monkeypatch.setattr(reading, "MAX_TEXTS", 1 << 20)
    with pytest.warns(UserWarning, match=r"1 of 2 .* a.png \(too large: texts in it of more than 1 MB\)"):
        assert decode(items(tmp_path), "x").unreadable == ("a.png",)


def test_names_that_are_not_utf_8_are_kept_in_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    save(folder / os.fsdecode(b"caf\xe9.png"), np.arange(64).reshape(8, 8))
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 1)
    assert torch.equal(decode(items(folder), "x").pixels, decode(items(folder), "x").pixels)


def test_digests_are_of_the_whole_image(tmp_path):
    """Alike in the middle, but not at the sides; the same pixels in another format; lower bits that 8 bits lose."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (8, 24), np.uint8)
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.bmp", wide)
    wide[:, :8] = 0
    save(tmp_path / "c.png", wide)
    low = rng.integers(0, 60000, (8, 8))
    deep(tmp_path / "d.png", low)
    deep(tmp_path / "e.png", low ^ 1)
    with pytest.warns(UserWarning, match="2 images of more than 8 bits"):
        decoded = decode(items(tmp_path), "x")
    assert torch.equal(decoded.pixels[0], decoded.pixels[2])
    digests = decoded.digests.tolist()
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] != digests[4]


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


def test_postscript_is_never_run_whatever_its_ending(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert Image.open(tmp_path / "a.png").format == "EPS"
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        decode(items(tmp_path), "x")
