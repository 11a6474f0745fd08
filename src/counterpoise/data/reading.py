"""One image file: what is opened, its size and the range of its numbers, its pixels, and why it cannot be read."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # 256 MB of RGB: Pillow's own limit against files that unpack to fill the memory
MAX_TEXT, MAX_TEXTS = 1 << 26, 1 << 27  # bytes of one text in a PNG, and of all: programs keep whole workflows there
UNSIGNED, SIGNED = (0, 0xFFFF), (-0x8000, 0x7FFF)  # what 16 bits can hold
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
EXIF_ORIENTATION = 0x0112
SIDEWAYS = {5, 6, 7, 8}  # the orientations that swap height and width
HASHED_SIDE = 32  # pixels: the perceptual hash scales images to this side, and says nothing of smaller ones

HEIF = {".heic", ".heif", ".hif"}
HEIF_START = rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)"
# What Pillow opens and is no photo: documents, vectors (which run Ghostscript), videos, containers of numbers.
NO_PHOTOS = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
USUAL = {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"}  # asked first: some of the others read a file to know it
STARTS = (
    rb"\x89PNG\r\n", rb"\xff\xd8\xff", rb"GIF8[79]a", rb"RIFF....WEBP", rb"BM.{4}\0{4}", rb"II[*+]\0", rb"MM\0[*+]",
    HEIF_START, rb"....ftypavi[fs]", rb"\0\0\0\x0cjP  \r\n", rb"\xff\x4f\xff\x51", rb"P[1-6]\s+(#|\d)", rb"qoif",
    rb"8BPS\0\x01", rb"DDS ", rb"\xff\x0a", rb"\0\0\0\x0cJXL ",
)  # fmt: skip

# Pillow reads the upper byte of colours of 16 bits. Under the name of the other byte order it reads the lower one;
# grey with transparency has four bytes a pixel, which RGBA has, too.
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LOWER_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in _SWAPPED.items()
}
GREY_ALPHA = "LA;16B"

Opener = Callable[[], Image.Image]


class Unreadable(ValueError):
    """Why an image is left out: the kind of fault, and after a colon what is particular to this one."""


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    height: int
    width: int
    grey: bool
    deep: bool
    """Whether its numbers have more than 8 bits."""


class Deep(NamedTuple):
    """An image of 16-bit integers: grey or RGB, and the alpha channel where it has one."""

    colours: Integer[np.ndarray, "height width colours"]
    alpha: Integer[np.ndarray, "height width any"]


class Row(NamedTuple):
    """A decoded image: its part of the array, and what distinguishes the whole of it from others."""

    pixels: UInt8[np.ndarray, "channels size size"]
    digest: UInt8[np.ndarray, " 16"]
    hash: UInt8[np.ndarray, " 8"] | None


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are opened, whatever a file's ending: PostScript that calls itself .png is not."""
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(sorted(set(Image.OPEN) - NO_PHOTOS, key=lambda name: (name not in USUAL, name)))


@cache
def readable_suffixes() -> frozenset[str]:
    """The endings of image files, in lower case: what Pillow and its plugins open, and HEIF without its plugin.

    Examples:
        >>> sorted(readable_suffixes() & {".jfif", ".png", ".heic", ".pdf", ".mpg"})
        ['.heic', '.jfif', '.png']
    """
    formats = _formats()
    return frozenset(HEIF | {suffix for suffix, name in Image.registered_extensions().items() if name in formats})


def looks_like_image(path: Path) -> bool:
    """Whether a file begins as an image does, whatever its name; False for what cannot be opened."""
    try:
        return _starts_like(_start(path), *STARTS)
    except OSError:
        return False


def open_image(source: str | Path | BufferedIOBase) -> Image.Image:
    """Open an image of any format in `readable_suffixes`, not yet decoded.

    Raises:
        Unreadable: when it is none.
        OSError: when it cannot be opened.
    """
    try:
        opened: Any = source
        return Image.open(opened, formats=_formats())
    except UnidentifiedImageError as error:
        raise Unreadable(_unidentified(_start(source))) from error


def _start(source: str | Path | BufferedIOBase) -> bytes:
    if isinstance(source, BufferedIOBase):
        source.seek(0)
        return source.read(16)
    with open(source, "rb") as file:
        return file.read(16)


def _starts_like(start: bytes, *patterns: bytes) -> bool:
    return any(re.match(pattern, start, re.DOTALL) for pattern in patterns)


def _unidentified(start: bytes) -> str:
    """Why Pillow does not know what a file is."""
    if not start:
        return "empty file"
    if _starts_like(start, HEIF_START) and not find_spec("pillow_heif"):
        return "needs the extra heif: pip install 'counterpoise[heif]'"
    if _starts_like(start, *STARTS):
        return "damaged: begins as an image, but this version of Pillow cannot open it"
    return "not an image"


@contextmanager
def large_texts() -> Iterator[None]:
    """Let PNGs have longer texts than Pillow does, whose limit is 1 MB."""
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT, MAX_TEXTS
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


def read_header(image: Image.Image) -> Header:
    """Size and kind of an image, upright, without decoding it.

    Raises:
        Unreadable: for more pixels than are decoded, and for floating-point numbers: nothing says what their white is.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"too large: {width:,}×{height:,} pixels, at most {MAX_PIXELS:,} are read")
    if image.mode == "F":
        raise Unreadable("floating-point numbers: nothing says which of them is white")
    raw = _raw_mode(image)  # before getexif, which decodes a PNG
    if image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS:
        width, height = height, width
    deep = image.mode.startswith("I") or raw in LOWER_BYTES or raw == GREY_ALPHA
    return Header(height, width, image.mode in GREY_MODES or raw == GREY_ALPHA, deep)


def has_frames(image: Image.Image) -> bool:
    """Whether a file holds several images: an animation, pages, or what a telephone adds to a photo."""
    with suppress(Exception):  # a damaged second frame does not make the first one unreadable
        return bool(getattr(image, "is_animated", False))
    return True


def read_extremes(open_: Opener) -> tuple[int, int]:
    """The least and the largest number of an image of more than 8 bits.

    Raises:
        Unreadable: for integers beyond 16 bits.
    """
    colours = _read_deep(open_).colours
    low, high = int(colours.min()), int(colours.max())
    if not any(least <= low and high <= most for least, most in (UNSIGNED, SIGNED)):
        raise Unreadable(f"integers beyond 16 bits: {low:,} to {high:,}")
    return low, high


def _raw_mode(image: Image.Image) -> str:
    """How a file lays out its pixels; empty for an image that is not from a file, or already decoded."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else ""


def _read_deep(open_: Opener) -> Deep:
    """The numbers of an image of more than 8 bits, upright."""
    with open_() as image:
        raw = _raw_mode(image)
        if raw == GREY_ALPHA:
            pairs = _decode(image, "RGBA").astype(np.uint16)
            values = pairs[..., 0::2] << 8 | pairs[..., 1::2]
            return Deep(values[..., :1], values[..., 1:])
        values = _decode(image)
    if raw not in LOWER_BYTES:
        return Deep(values[..., None], values[..., None][..., :0])
    with open_() as image:
        values = values.astype(np.uint16) << 8 | _decode(image, LOWER_BYTES[raw])
    return Deep(values[..., :3], values[..., 3:])


def _decode(image: Image.Image, layout: str | None = None) -> Integer[np.ndarray, "height width *channels"]:
    """The numbers that Pillow makes of an image, read as if the file had them in another layout."""
    if layout:
        file: Any = image
        file.tile = [_with_layout(tile, layout) for tile in file.tile]
    return np.asarray(ImageOps.exif_transpose(image))


def _with_layout(tile: Any, layout: str) -> Any:
    arguments = layout if isinstance(tile[3], str) else (layout, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)  # since Pillow 11


def to_8_bits(image: Deep, value_range: tuple[int, int]) -> Image.Image:
    """An image whose numbers from the low to the high end of a range become 0 to 255; those beyond become the ends."""
    low, high = value_range
    scaled = (image.colours.astype(np.float32) - low) * (255 / (high - low))
    colours = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    channels = np.concatenate([colours, (image.alpha >> 8).astype(np.uint8)], 2)
    return Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image of 8 bits as "L" or "RGB", on white where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def read_row(
    open_: Opener,
    header: Header,
    shape: tuple[int, ...],
    value_range: tuple[int, int] | None,
    hashed: bool = False,
) -> Row:
    """Decode an image to `shape` [channels, size, size]: the short side is resized and the middle cut out.

    Args:
        open_: gives the image, not yet decoded where the format allows it.
        header: as it was read before.
        shape: of the result.
        value_range: numbers of an image of more than 8 bits that become 0 and 255.
        hashed: whether to take its perceptual hash, which needs longer than to decode an image of 64×64 pixels.

    Raises:
        Unreadable: when the image is not the one whose header was read.
    """
    channels, size, _ = shape
    mode = "L" if channels == 1 else "RGB"
    with open_() as opened:
        if read_header(opened) != header:
            raise Unreadable("changed while it was read")
        if not header.deep:
            opened.draft(None, (2 * size, 2 * size))  # JPEG: decode at a fraction of the size where that is enough
            image = to_mode(ImageOps.exif_transpose(opened), mode)
            numbers = np.asarray(image)
    if header.deep:
        deep = _read_deep(open_)
        image = to_mode(to_8_bits(deep, value_range or UNSIGNED), mode)
        numbers = np.concatenate(deep, 2)
    digest = digest_of(numbers, header.height, header.width)
    alike = None
    if hashed:
        alike = perceptual_hash(image) if min(header[:2]) >= HASHED_SIDE else np.zeros(8, np.uint8)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return Row(np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1), digest, alike)


def digest_of(numbers: np.ndarray, *size: int) -> UInt8[np.ndarray, " 16"]:
    """What is equal for two images exactly when all their numbers and sizes are."""
    state = hashlib.sha256(repr((size, numbers.shape)).encode())  # processors compute this one themselves
    state.update(np.ascontiguousarray(numbers).data)
    return np.frombuffer(state.digest()[:16], np.uint8)


def perceptual_hash(image: Image.Image) -> UInt8[np.ndarray, " 8"]:
    """The 64 bits of pHash: those of images that look alike differ in few places, whatever their size and format."""
    import imagehash  # which takes PyWavelets and a part of SciPy along

    # Averages of areas, which take half the time of imagehash's own way to this size.
    small = image.convert("L").resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX)
    bits: Bool[np.ndarray, "8 8"] = imagehash.phash(small).hash
    return np.packbits(bits)


def reason_of(error: Exception) -> str:
    """Why an image could not be read: the kind of fault, and after a colon what is particular to this one.

    Examples:
        >>> reason_of(FileNotFoundError(2, "No such file or directory", "cat.png"))
        'no such file: cat.png'
    """
    if isinstance(error, FileNotFoundError):
        return f"no such file: {error.filename}" if error.filename else "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: at most {MAX_PIXELS:,} pixels are read"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be opened: {error.strerror}"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    said = first_line(error)
    if "MAX_TEXT" in said:
        return f"too large: texts in it of more than {MAX_TEXT >> 20} MB"
    if isinstance(error, Unreadable):
        return said
    if re.search(r"truncat|end of (file|data|stream)|\beof\b|not enough|incomplete", said, re.IGNORECASE):
        return "truncated: the file ends too early"
    return f"damaged: {said}"


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
