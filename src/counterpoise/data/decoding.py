"""Users' image files become one uint8 array: decoded once, to one size and mode, without what cannot be read."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from counterpoise.data.images import (
    CHUNK,
    UNLABELLED,
    Images,
    Splits,
    allocate,
    cache_folder,
    fits_in_memory,
    nearly_constant,
)
from counterpoise.data.reading import (
    SIGNED,
    UNSIGNED,
    Header,
    Opener,
    Row,
    has_frames,
    large_texts,
    open_image,
    read_extremes,
    read_header,
    read_row,
    reason_of,
)
from counterpoise.data.reading import Unreadable as Unreadable
from counterpoise.data.reading import first_line as first_line
from counterpoise.data.reading import looks_like_image as looks_like_image
from counterpoise.data.reading import readable_suffixes as readable_suffixes
from counterpoise.errors import InputError, first_few
from counterpoise.files import written
from counterpoise.ops.checks import check_number, check_seed

LARGEST_DEFAULT_SIZE = 64
TEST_SHARE = 0.2
NAMED = 3  # how many files a warning names; of more, it counts the reasons, too
LAYOUT = 3  # of the cached files; a new number where what they hold changes

Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One image before it is decoded.

    Args:
        name: the file, or another name that shows a user which image it is.
        open: gives the image, not yet decoded where the format allows it.
        label: an index into the classes, or -1.
        split: "train" or "test"; None where the data does not say.
        stamp: changes when the image changes; part of the key under which decoded pixels are kept.
        factors: what else is known of the image: by name a value from 0, or -1. All items have the same names.
    """

    name: str
    open: Opener
    label: int = UNLABELLED
    split: str | None = None
    stamp: str = ""
    factors: Mapping[str, int] = field(default_factory=dict)


class Scan(NamedTuple):
    """What is known of an image before it is decoded, and of the numbers of one with more than 8 bits."""

    header: Header
    extremes: tuple[int, int] | None
    frames: bool


class Packed(NamedTuple):
    """Decoded images without gaps: `good` are the indices of those that could be read, `failures` says why others not.

    `digests` and `hashes` are those of `Images`; the latter None where they were not asked for.
    """

    pixels: UInt8[Tensor, "kept channels size size"]
    digests: UInt8[Tensor, "kept 16"]
    hashes: UInt8[Tensor, "kept 8"] | None
    good: list[int]
    failures: dict[int, str]


class Decoded(NamedTuple):
    """Items in one array.

    `kept` are the indices of those that could be read, `unreadable` the names of the others, and `reasons` says why
    they could not be. `value_range` are the numbers that became 0 and 255 in images of more than 8 bits, None without
    any. `digests` and `hashes` are those of `Images`, the latter None where they were not asked for. `notes` says in
    words what was done.
    """

    pixels: UInt8[Tensor, "kept channels size size"]
    kept: list[int]
    sizes: Int64[Tensor, "kept 2"]
    unreadable: tuple[str, ...]
    reasons: Mapping[str, str]
    value_range: tuple[int, int] | None
    digests: UInt8[Tensor, "kept 16"]
    hashes: UInt8[Tensor, "kept 8"] | None
    notes: tuple[str, ...]


class Undivided(InputError):
    """Data of which nothing can be kept apart for a test split."""


def file_item(path: Path, name: str, label: int, split: str | None) -> Item:
    """The item for an image file, which may be missing."""
    return Item(name, partial(open_image, path), label, split, file_stamp(path))


def file_stamp(path: Path) -> str:
    """What changes with a file: its place, size, time of change, and time of change of its entry."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def to_splits(
    items: Sequence[Item],
    classes: tuple[str, ...],
    name: str,
    size: int | None,
    seed: int,
    notes: tuple[str, ...] = (),
    value_range: tuple[int, int] | None = None,
    factor_names: Mapping[str, tuple[str, ...]] | None = None,
    hashes: bool = False,
) -> Splits:
    """Decode items; those without a split are divided 80 to 20 within each class.

    Args:
        items: in a fixed order; either all of them have a split or none.
        classes: the names of the labels.
        name: what the data is called.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division.
        notes: what was done to the data so far.
        value_range: as for `decode`.
        factor_names: of the items' factors, as `Images` has them.
        hashes: as for `decode`.

    Raises:
        InputError: when a split is left without a readable image.
    """
    # Sorted by split, so that each split is a slice of the array and no second copy is made.
    items = sorted(items, key=lambda item: item.split != "train")
    images, kept = decode_images(items, classes, name, size, notes, value_range, factor_names, hashes)
    if items[0].split is None:
        return divide(images, seed)
    of_train = sum(items[i].split == "train" for i in kept)
    for split, count in (("train", of_train), ("test", len(kept) - of_train)):
        if count == 0:
            raise InputError(f"{name}: no readable image in its {split} split")
    return Splits(images.rows(0, of_train), images.rows(of_train, len(kept)))


def decode_images(
    items: Sequence[Item],
    classes: tuple[str, ...],
    name: str,
    size: int | None = None,
    notes: tuple[str, ...] = (),
    value_range: tuple[int, int] | None = None,
    factor_names: Mapping[str, tuple[str, ...]] | None = None,
    hashes: bool = False,
) -> tuple[Images, list[int]]:
    """The items as `Images`, in their order, and the indices of those that could be read; arguments as `to_splits`."""
    decoded = decode(items, name, size, value_range, hashes)
    kept = [items[i] for i in decoded.kept]
    images = Images(
        decoded.pixels,
        torch.tensor([item.label for item in kept]),
        classes,
        name,
        notes=(*notes, *decoded.notes),
        paths=tuple(item.name for item in kept),
        unreadable=decoded.unreadable,
        reasons=decoded.reasons,
        original_sizes=decoded.sizes,
        value_range=decoded.value_range,
        digests=decoded.digests,
        hashes=decoded.hashes,
        factors={name: torch.tensor([item.factors[name] for item in kept]) for name in items[0].factors},
        factor_names=factor_names or {},
    )
    return images, decoded.kept


def divide(images: Images, seed: int) -> Splits:
    """80 % to learn from and 20 % to judge by, drawn within each class; unlabelled images count as one class.

    A class with two images or more has some on both sides; one with a single image stays in train, with a warning.

    Raises:
        InputError: for what is no seed.
        Undivided: when no class has two images.
    """
    parts = draw_division(images.labels, images.classes, images.name, seed)
    note = f"divided at random within each class: {len(parts[0]):,} images for train, {len(parts[1]):,} for test"
    return Splits(*(images.subset(part, note) for part in parts))


def draw_division(
    labels: Int64[Tensor, " items"], classes: Sequence[str], name: str, seed: int, what: str = "image"
) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]:
    """Which items are learnt from and which are judged by: 80 % and 20 %, drawn within each class.

    Args:
        labels: class of each item; -1, no label, counts as one more class.
        classes: their names.
        name: what errors and warnings call the data.
        seed: of the draw.
        what: one item is, in a word.

    Returns:
        Indices in ascending order. Of a class with two items or more there are some on both sides; a single one stays
        in train, with a warning.

    Raises:
        InputError: for what is no seed.
        Undivided: when no class has two items.
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    single = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) == 1:
            single.append(classes[label] if label != UNLABELLED else "unlabelled")
            continue
        for_test = min(max(round(TEST_SHARE * len(members)), 1), len(members) - 1)
        in_test[members[torch.randperm(len(members), generator=generator)[:for_test]]] = True
    if not in_test.any():
        raise Undivided(f"{name}: no class has two {what}s, so none can be kept apart for a test split")
    if single:
        warn(f"{name}: classes with a single {what}, which stays in train ({len(single):,})", single)
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def decode(
    items: Sequence[Item],
    name: str,
    size: int | None = None,
    value_range: tuple[int, int] | None = None,
    hashes: bool = False,
) -> Decoded:
    """Decode items to one size and mode: grey where all are grey, else RGB.

    The short side is resized and the middle cut out. Transparent images are laid on white, EXIF orientation is
    honoured, of several frames the first is taken. Images of more than 8 bits are scaled by one range for all of
    them, from the least to the largest of their numbers. Above the memory limit the array is kept in a file of the
    cache folder, which the next call finds.

    Args:
        items: what to decode.
        name: what errors and warnings call the data.
        size: as for `to_splits`.
        value_range: the numbers of images of more than 8 bits that become 0 and 255, of the images that an encoder was
            trained on; what lies beyond is clipped. None: the least and the largest number of these images.
        hashes: whether to take a perceptual hash of each whole image, by which `inspect_images` finds those that look
            alike. It needs longer than to decode an image of 64×64 pixels (0.4 and 0.1 ms), so training does without.

    Raises:
        InputError: when nothing can be read.
    """
    _check(items, name, size, value_range)
    with warnings.catch_warnings(), large_texts():
        # Pillow warns of such files; here they count as unreadable and are named with the others.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        scans, failures = _scan_all(items)
        if not scans:
            raise _nothing_readable(name, items, failures)
        used = value_range or _common_range(scans.values())
        found = list(scans.values())
        rows = _decode_all([items[i] for i in scans], found, _common_shape(found, size), used, hashes)
    known = list(scans)
    failures |= {known[i]: reason for i, reason in rows.failures.items()}
    if not rows.good:
        raise _nothing_readable(name, items, failures)
    kept = [known[i] for i in rows.good]
    seen = [scans[i] for i in kept]
    if failures:
        count = f"{len(failures):,} of {len(items):,} images cannot be read and are left out"
        warnings.warn(f"{name}: {count}: {_with_reasons(items, failures)}", stacklevel=2)
    _warn_of_range(name, seen, used, given=value_range is not None)
    constant = _constant_note(rows.pixels)
    if constant:
        warnings.warn(f"{name}: {constant}", stacklevel=2)
    left_out = sorted(failures)
    return Decoded(
        rows.pixels,
        kept,
        torch.tensor([scan.header[:2] for scan in seen]),
        tuple(items[i].name for i in left_out),
        {items[i].name: failures[i] for i in left_out},
        used if any(scan.extremes for scan in seen) else None,
        rows.digests,
        rows.hashes,
        (*_notes(seen, used, len(failures)), *([constant] if constant else [])),
    )


def warn(message: str, names: Sequence[str]) -> None:
    """A warning that names the first few of what it is about."""
    warnings.warn(f"{message}: {first_few(names)}", stacklevel=3)


def count_reasons(reasons: Iterable[str]) -> str:
    """How many images were left out for which kind of fault.

    Examples:
        >>> count_reasons(["no such file: a.png", "empty file", "no such file: b.png"])
        '2 no such file, 1 empty file'
    """
    kinds = Counter(reason.partition(":")[0] for reason in reasons)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def _with_reasons(items: Sequence[Item], failures: Mapping[int, str]) -> str:
    """The first few images with their reasons, and where there are more, the number of all by reason."""
    named = first_few([f"{items[i].name} ({failures[i]})" for i in sorted(failures)])
    return f"{named} ({count_reasons(failures.values())})" if len(failures) > NAMED else named


def _nothing_readable(name: str, items: Sequence[Item], failures: Mapping[int, str]) -> InputError:
    return InputError(f"{name}: none of the {len(items):,} images can be read: {_with_reasons(items, failures)}")


def _check(items: Sequence[Item], name: str, size: int | None, value_range: tuple[int, int] | None) -> None:
    if size is not None:
        check_number("size", size, at_least=1, whole=True)
    if value_range is not None:
        low, high = value_range
        check_number("value_range: its low end", low, whole=True)
        check_number("value_range: its high end", high, above=low, whole=True)
    if not items:
        raise InputError(f"{name}: holds no images")


def _notes(seen: Sequence[Scan], value_range: tuple[int, int] | None, unreadable: int) -> tuple[str, ...]:
    """What was done to images, in words."""
    frames = sum(scan.frames for scan in seen)
    return (
        *([_range_note(seen, value_range)] if value_range and any(scan.extremes for scan in seen) else []),
        *([f"{frames:,} files hold several images, of which the first is taken"] if frames else []),
        *([f"{unreadable:,} unreadable images left out"] if unreadable else []),
    )


def _range_note(seen: Sequence[Scan], value_range: tuple[int, int]) -> str:
    low, high = value_range
    deep = sum(scan.extremes is not None for scan in seen)
    return f"{deep:,} images of more than 8 bits: their values from {low:,} to {high:,} become 0 to 255"


def _warn_of_range(name: str, seen: Sequence[Scan], value_range: tuple[int, int] | None, given: bool) -> None:
    """Say how numbers are scaled where the data alone decides, and how many images a given range does not hold."""
    extremes = [scan.extremes for scan in seen if scan.extremes]
    if not extremes or value_range is None:
        return
    beyond = sum(low < value_range[0] or high > value_range[1] for low, high in extremes)
    if not given:
        warnings.warn(f"{name}: {_range_note(seen, value_range)}", stacklevel=3)
    elif beyond:
        low, high = value_range
        warnings.warn(
            f"{name}: {beyond:,} images have values outside {low:,} to {high:,}, which are clipped", stacklevel=3
        )


def _constant_note(pixels: Tensor) -> str | None:
    """What is said where most images show nothing; judged by at most `CHUNK` of them, spread evenly."""
    looked_at = pixels[torch.linspace(0, len(pixels) - 1, min(len(pixels), CHUNK), dtype=torch.float64).long()]
    empty = int(nearly_constant(looked_at).sum())
    if 2 * empty <= len(looked_at):
        return None
    count = f"{empty:,} of {len(looked_at):,} images looked at"
    return f"{count} are nearly constant (black, or of one colour): nothing can be learnt from them"


def _scan_all(items: Sequence[Item]) -> tuple[dict[int, Scan], dict[int, str]]:
    """What is known of the images that can be opened, and why others cannot, by their indices."""
    found = list(enumerate(_in_threads(partial(_or_reason, _scan), items)))
    return {i: scan for i, scan in found if not isinstance(scan, str)}, {i: s for i, s in found if isinstance(s, str)}


def _scan(item: Item) -> Scan:
    with item.open() as image:
        header, frames = read_header(image), has_frames(image)
    return Scan(header, read_extremes(item.open) if header.deep else None, frames)


def _or_reason(function: Callable[[Source], Result], source: Source) -> Result | str:
    """What a function returns, or why an image cannot be read."""
    try:
        return function(source)
    except Exception as error:  # Pillow's plugins raise all sorts of errors on damaged files
        return reason_of(error)


def _common_shape(scans: Sequence[Scan], size: int | None) -> tuple[int, int, int]:
    headers = [scan.header for scan in scans]
    if size is None:
        size = min(LARGEST_DEFAULT_SIZE, int(statistics.median(min(header[:2]) for header in headers)))
    return 1 if all(header.grey for header in headers) else 3, size, size


def _common_range(scans: Iterable[Scan]) -> tuple[int, int] | None:
    """The least and the largest number of all images of more than 8 bits; what 16 bits hold where all are the same."""
    extremes = [scan.extremes for scan in scans if scan.extremes]
    if not extremes:
        return None
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    return (low, high) if low < high else UNSIGNED if low >= 0 else SIGNED


def _decode_all(
    items: Sequence[Item],
    scans: Sequence[Scan],
    shape: tuple[int, int, int],
    value_range: tuple[int, int] | None,
    hashes: bool,
) -> Packed:
    """Decode the items that can be read, into memory or into a file of the cache folder."""
    count = len(items) * math.prod(shape)
    if fits_in_memory(count):
        pixels = allocate((len(items), *shape))
        rows = _fill(pixels.numpy(), items, scans, value_range, hashes)
        return rows._replace(pixels=pixels[: len(rows.good)])
    about = [str((LAYOUT, shape, value_range)), *(f"{item.name} {item.stamp}" for item in items)]
    key = hashlib.sha256("\n".join(about).encode(errors="surrogatepass")).hexdigest()
    plain, hashed = (cache_folder() / f"{key[:32]}{ending}" for ending in (".npy", "-hashed.npy"))
    path = hashed if hashes or hashed.exists() else plain
    if not path.exists():
        cache_folder(room=count)
        with written(path) as aside:
            array = np.lib.format.open_memmap(aside, "w+", np.uint8, (len(items), *shape))
            _keep(path.with_suffix(".npz"), _fill(array, items, scans, value_range, hashes))
            array.flush()
    # Copy-on-write: torch refuses to promise that it leaves a read-only array alone.
    return _kept_rows(path.with_suffix(".npz"), torch.from_numpy(np.load(path, mmap_mode="c")), hashes)


def _keep(path: Path, rows: Packed) -> None:
    """Keep what was found beside the pixels."""
    hashes = rows.hashes if rows.hashes is not None else torch.zeros(0, 8, dtype=torch.uint8)
    with written(path) as aside:
        np.savez(
            aside,
            digests=rows.digests.numpy(),
            hashes=hashes.numpy(),
            good=np.array(rows.good, np.int64),
            failed=np.array(list(rows.failures), np.int64),
            reasons=np.array(list(rows.failures.values()), np.str_),
        )


def _kept_rows(path: Path, pixels: Tensor, hashes: bool) -> Packed:
    with np.load(path, allow_pickle=False) as kept:
        good = kept["good"].tolist()
        failures = dict(zip(kept["failed"].tolist(), kept["reasons"].tolist(), strict=True))
        found = torch.from_numpy(kept["hashes"]) if hashes else None
        return Packed(pixels[: len(good)], torch.from_numpy(kept["digests"]), found, good, failures)


def _fill(
    array: np.ndarray,
    items: Sequence[Item],
    scans: Sequence[Scan],
    value_range: tuple[int, int] | None,
    hashed: bool,
) -> Packed:
    """Decode items into the first rows of `array`, without gaps."""

    def decode_one(pair: tuple[Item, Scan]) -> Row:
        return read_row(pair[0].open, pair[1].header, array.shape[1:], value_range, hashed)

    good: list[int] = []
    failures: dict[int, str] = {}
    digests, hashes = np.zeros((len(items), 16), np.uint8), np.zeros((len(items), 8), np.uint8)
    pairs = zip(items, scans, strict=True)
    for i, row in enumerate(_in_threads(partial(_or_reason, decode_one), pairs)):
        if isinstance(row, str):
            failures[i] = row
            continue
        array[len(good)], digests[len(good)] = row.pixels, row.digest
        if row.hash is not None:
            hashes[len(good)] = row.hash
        good.append(i)
    kept = [torch.from_numpy(numbers[: len(good)]) for numbers in (array, digests, hashes)]
    return Packed(kept[0], kept[1], kept[2] if hashed else None, good, failures)


def _in_threads(function: Callable[[Source], Result], items: Iterable[Source]) -> Iterator[Result]:
    """`map` over threads, in order, with a bounded number of results ahead."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(remaining, 256)):
            yield from pool.map(function, chunk)
