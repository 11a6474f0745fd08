"""One image file: how it is known, every mode and depth, and why it cannot be read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from counterpoise.data import reading
from counterpoise.data.reading import (
    UNSIGNED,
    Unreadable,
    large_texts,
    looks_like_image,
    open_image,
    perceptual_hash,
    read_extremes,
    read_header,
    read_row,
    readable_suffixes,
    reason_of,
    to_mode,
)


@pytest.fixture
def rng():
    """NumPy's, for Pillow."""
    return np.random.default_rng(0)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_16(values, before=b""):
    """A PNG with all 16 bits of values [height, width, channels], which Pillow writes for grey only."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_16(values, order="<", kind="u2", deflate=False):
    """A TIFF of 16-bit numbers [height, width] or [height, width, 3], in either byte order, packed or not."""
    height, width, *rest = values.shape
    channels = rest[0] if rest else 1
    data = values.astype(order + kind).tobytes()
    data = zlib.compress(data) if deflate else data
    shorts = {258: [16] * channels, 259: [8 if deflate else 1], 262: [2 if rest else 1], 277: [channels]}
    shorts[339] = [2 if kind == "i2" else 1] * channels
    longs = {256: width, 257: height, 278: height, 279: len(data)}
    after = 8 + 2 + 12 * (len(shorts) + len(longs) + 1) + 4
    extra, entries = b"", {}
    for tag, numbers in shorts.items():
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", after + len(extra)), extra + packed
        entries[tag] = struct.pack(order + "HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    for tag, number in {**longs, 273: after + len(extra)}.items():
        entries[tag] = struct.pack(order + "HHII", tag, 4, 1, number)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return start + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + extra + data


def opener(content):
    return lambda: open_image(io.BytesIO(content))


def decoded(content, size, value_range=None, channels=3):
    open_ = opener(content)
    return read_row(open_, read_header(open_()), (channels, size, size), value_range).pixels


def modes():
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    clear = Image.new("P", (2, 2), 1)
    clear.putpalette([0, 0, 0, 10, 20, 30])
    clear.info["transparency"] = 1
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
    ]


@pytest.mark.parametrize(("image", "colour"), modes(), ids=lambda value: getattr(value, "mode", None))
def test_every_mode(image, colour):
    assert to_mode(image, "RGB").getpixel((0, 0)) == colour
    if colour[0] == colour[1] == colour[2]:
        assert to_mode(image, "L").getpixel((1, 1)) == colour[0]


def test_endings_are_those_of_images_that_are_opened():
    endings = readable_suffixes()
    assert {".png", ".jpeg", ".jfif", ".jpe", ".tiff", ".webp", ".gif", ".heic", ".heif", ".qoi"} <= endings
    assert not endings & {".pdf", ".eps", ".ps", ".mpg", ".wmf", ".emf", ".h5", ".hdf", ".fli", ".txt", ""}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI", "DDS"])
def test_an_image_is_known_by_how_it_begins(tmp_path, kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a", kind)
    assert looks_like_image(tmp_path / "a")


@pytest.mark.parametrize(
    "content", [b"", b"P1 is a variable", b"BMW", b"%PDF-1.7", b"\0" * 32, b"GIF", b"name,label\n"]
)
def test_other_files_begin_otherwise(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert not looks_like_image(tmp_path / "a")
    assert not looks_like_image(tmp_path)
    assert not looks_like_image(tmp_path / "nowhere")


def scaled(values, low, high):
    return np.rint((values.clip(low, high) - low) * 255 / (high - low))


@pytest.mark.parametrize("low_high", [(0, 65535), (0, 255), (800, 1200), (0, 1023), (40000, 40400)])
@pytest.mark.parametrize(
    "encode",
    [
        png_16,
        tiff_16,
        lambda values: tiff_16(values, ">"),
        lambda values: tiff_16(values, deflate=True),
        lambda values: tiff_16(values, ">", deflate=True),
    ],
    ids=["png", "tiff", "big-endian tiff", "packed tiff", "packed big-endian tiff"],
)
def test_all_16_bits_of_colours_are_read(encode, low_high, rng):
    values = rng.integers(low_high[0], low_high[1] + 1, (5, 5, 3))
    content = encode(values)
    assert read_header(opener(content)()) == (5, 5, False, True)
    assert read_extremes(opener(content)) == (values.min(), values.max())
    assert (decoded(content, 5, low_high) == scaled(values, *low_high).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("order", "<>")
def test_all_16_bits_of_grey_are_read(order, rng):
    values = rng.integers(100, 301, (5, 5))
    for content in (tiff_16(values, order), tiff_16(values, order, deflate=True), png_16(values[..., None])):
        assert read_header(opener(content)()) == (5, 5, True, True)
        assert (decoded(content, 5, (100, 300), 1)[0] == scaled(values, 100, 300)).all()


@pytest.mark.parametrize("order", "<>")
def test_numbers_below_0(order, rng):
    values = rng.integers(-2000, 3001, (5, 5))
    content = tiff_16(values, order, "i2")
    assert read_extremes(opener(content)) == (values.min(), values.max())
    assert (decoded(content, 5, (-2000, 3000), 1)[0] == scaled(values, -2000, 3000)).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_16_bits_is_no_part_of_the_range(channels, rng):
    values = rng.integers(300, 501, (5, 5, channels))
    values[..., -1] = 65535
    values[0, 0, -1] = 0
    content = png_16(values)
    assert read_header(opener(content)()).grey == (channels == 2)
    low, high = read_extremes(opener(content))
    assert (low, high) == (values[..., :-1].min(), values[..., :-1].max())
    pixels = decoded(content, 5, (low, high)).transpose(1, 2, 0)
    assert (pixels[0, 0] == 255).all()
    assert (pixels[1:] == scaled(values[1:, :, :-1], low, high)).all()


def test_orientation_of_16_bit_colours():
    """Orientation 6: the left column of what is stored is the top row."""
    values = np.zeros((6, 4, 3), int)
    values[:, 0] = 1000
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png_16(values, chunk(b"eXIf", exif.tobytes()[6:]))
    assert read_header(opener(content)())[:2] == (4, 6)
    assert (decoded(content, 4, (0, 1000))[:, 0] == 255).all()
    assert (decoded(content, 4, (0, 1000))[:, 1:] == 0).all()


@pytest.mark.parametrize(("low", "high"), [(0, 70000), (-40000, 0), (-1, 40000)])
def test_integers_beyond_16_bits_are_refused(low, high):
    image = Image.fromarray(np.array([[low, high]], np.int32))
    with pytest.raises(Unreadable, match=f"integers beyond 16 bits: {low:,} to {high:,}"):
        read_extremes(lambda: image.copy())


def test_32_bit_integers_within_16_bits_are_read():
    image = Image.fromarray(np.array([[0x1234, 7]], np.int32))
    assert read_extremes(lambda: image.copy()) == (7, 0x1234)


def test_a_plain_ppm_of_10_bits_is_scaled_by_its_own_white():
    content = b"P6 1 1 1023\n" + struct.pack(">3H", 0, 1023, 512)
    assert decoded(content, 1).ravel().tolist() == [0, 255, 128]


def text_png(rng, megabytes, after=False):
    """A sound PNG with a text that unpacks to so many MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (megabytes << 20), zip=True)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_a_long_text_breaks_no_png(rng):
    before = PngImagePlugin.MAX_TEXT_CHUNK
    content = text_png(rng, 3)
    with pytest.raises(ValueError, match="too large"):
        open_image(io.BytesIO(content))
    with large_texts():
        assert decoded(content, 4).shape == (3, 4, 4)
    assert before == PngImagePlugin.MAX_TEXT_CHUNK


def test_a_text_that_would_fill_the_memory_is_refused(monkeypatch, rng):
    monkeypatch.setattr(reading, "MAX_TEXT", 1 << 20)
    with large_texts(), pytest.raises(ValueError, match="too large"):
        open_image(io.BytesIO(text_png(rng, 2)))


def test_an_image_that_changed_since_its_header_was_read():
    grey, larger = png_16(np.ones((4, 4, 1), int)), png_16(np.ones((5, 4, 1), int))
    with pytest.raises(Unreadable, match="changed while it was read"):
        read_row(opener(larger), read_header(opener(grey)()), (1, 4, 4), UNSIGNED)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_images_in_a_file(tmp_path, kind, rng):
    frames = [Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(3)]
    for several in (True, False):
        frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:] if several else [])
        with open_image(tmp_path / "a") as image:
            assert reading.has_frames(image) == several


def failure(function):
    try:
        function()
    except Exception as error:
        return reason_of(error)


def test_why_an_image_cannot_be_read(tmp_path, rng):
    sound = png_16(rng.integers(0, 9, (20, 20, 1)))
    files = {
        "empty": b"",
        "text": b"a letter",
        "cut": sound[:-90],
        "header": sound[:20],
        "garbage": b"\xff\xd8\xff" + bytes(99),
        "float": b"Pf 1 1 -1\n" + bytes(4),
        "broken": sound[:60] + bytes(30) + sound[90:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def reason(name):
        def read():
            header = read_header(open_image(tmp_path / name))
            read_row(lambda: open_image(tmp_path / name), header, (1, 9, 9), UNSIGNED)

        return failure(read)

    assert reason("nowhere") == f"no such file: {tmp_path / 'nowhere'}"
    assert reason("") == "is a folder"
    assert reason("text/within") == "cannot be opened: Not a directory"
    assert reason("empty") == "empty file"
    assert reason("text") == "not an image"
    assert reason("cut") == "truncated: the file ends too early"
    assert reason("header") == "truncated: the file ends too early"
    assert reason("garbage") == "damaged: begins as an image, but this version of Pillow cannot open it"
    assert reason("float") == "floating-point numbers: nothing says which of them is white"
    assert reason("broken").startswith("damaged: ")
    assert reason_of(PermissionError(13, "Permission denied")) == "cannot be opened: Permission denied"
    assert reason_of(Image.DecompressionBombError("…")) == "too large: at most 89,478,485 pixels are read"
    wide = Image.new("1", (12_000, 9_000))
    assert failure(lambda: read_header(wide)) == "too large: 12,000×9,000 pixels, at most 89,478,485 are read"


def test_heif_is_read_with_its_plugin(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))).convert("RGB")
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=95)
    with open_image(tmp_path / "a.heic") as found:
        assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 3


def test_heif_without_its_plugin_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    monkeypatch.setattr(reading, "_formats", lambda: ["PNG", "JPEG"])
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    assert failure(opener(start)) == "needs the extra heif: pip install 'counterpoise[heif]'"


def test_the_perceptual_hash_is_the_same_for_another_size_and_format(rng):
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    other = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    packed = io.BytesIO()
    smooth.resize((200, 150)).save(packed, "JPEG", quality=60)

    def distance(a, b):
        return int(np.unpackbits(perceptual_hash(a) ^ perceptual_hash(b)).sum())

    assert distance(smooth, Image.open(packed)) <= 4
    assert distance(smooth, other) > 16
