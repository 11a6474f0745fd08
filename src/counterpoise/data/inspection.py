"""A look at data before anything is learnt from it: counts, sizes, duplicates, damaged files, a sheet of samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from counterpoise.data.images import CHUNK, UNLABELLED, Images, Splits, nearly_constant
from counterpoise.data.reading import HASHED_SIDE, digest_of, perceptual_hash
from counterpoise.errors import InputError, printable
from counterpoise.files import check_output, check_writable, output
from counterpoise.ops.checks import check_number

NEAR = (
    4  # of the 64 bits of a perceptual hash: other sizes and qualities of one photo differ in 0 to 4, two photos in 20
)
MOST_PAIRS = 1 << 22  # of alike hashes that are held at once
MOST_CLASSES = 20
CELL, GAP = 56, 4  # pixels of the contact sheet
LETTERS, LINES, MOST_INDENT = 15, 3, 700  # of its class names: height in pixels, lines of one, width in pixels


@dataclass(frozen=True)
class Alike:
    """Images that are the same, or nearly so.

    Args:
        names: of the images.
        labels: the name of each one's class, None without one.
        splits: in which each lies.
        distance: how many of the 64 bits of their perceptual hashes differ at most, from one to the next; 0 where the
            images are the same.
    """

    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    splits: tuple[str, ...]
    distance: int = 0

    @property
    def conflict(self) -> bool:
        """Whether they lie in different classes."""
        return len(set(self.labels) - {None}) > 1

    @property
    def leak(self) -> bool:
        """Whether they lie in different splits."""
        return len(set(self.splits)) > 1


@dataclass(frozen=True)
class Inspection:
    """What `inspect_images` found; every dictionary has one entry for each split.

    Args:
        name: what the data is called.
        classes: the names of the classes.
        counts: labelled images of each class.
        unlabelled: images without a label.
        shape: channels, height and width of the images as they are learnt from.
        sizes: how many images had which original size, "height×width", the most frequent first.
        alike: groups of images that are the same.
        near: groups of images that look alike.
        too_small: images of less than 32 pixels, of which it is not judged what looks alike.
        nearly_constant: images in which nothing can be seen.
        unreadable: files that were left out.
        reasons: why, by their names.
        notes: what was done to the data.
    """

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    unlabelled: dict[str, int]
    shape: tuple[int, int, int]
    sizes: dict[str, int]
    alike: tuple[Alike, ...]
    near: tuple[Alike, ...]
    too_small: int
    nearly_constant: tuple[str, ...]
    unreadable: tuple[str, ...]
    reasons: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def conflicts(self) -> tuple[tuple[str, ...], ...]:
        """Groups of the same images in different classes, by name."""
        return tuple(group.names for group in self.alike if group.conflict)

    @property
    def leaks(self) -> tuple[tuple[str, ...], ...]:
        """Groups of the same images in different splits, by name; one that is a conflict, too, is in both."""
        return tuple(group.names for group in self.alike if group.leak)

    @property
    def duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Groups of the same images in one class of one split, by name."""
        return tuple(group.names for group in self.alike if not group.leak and not group.conflict)

    def imbalance(self, split: str) -> float | None:
        """The largest class's size over that of the smallest one that has any; None without labelled images."""
        counts = [count for count in self.counts[split] if count]
        return max(counts) / min(counts) if counts else None

    def rows(self) -> list[tuple[str, ...]]:
        """For each class its name and its count in each split, as text; unlabelled images last where there are any."""
        rows = [
            (name, *(f"{self.counts[split][label]:,}" for split in self.counts))
            for label, name in enumerate(self.classes)
        ]
        if any(self.unlabelled.values()):
            rows.append(("(unlabelled)", *(f"{count:,}" for count in self.unlabelled.values())))
        return rows


def inspect_images(data: Splits | Images) -> Inspection:
    """Count, and look for what spoils a comparison: duplicates, conflicts, leaks, empty and damaged images.

    Images of files are duplicates when all of their decoded pixels are equal, those that were cut off at the sides
    included; other images when the pixels that they have are. They look alike when their perceptual hashes (pHash, of
    the library imagehash) differ in at most 4 of 64 bits; of images of less than 32 pixels it is not judged. These are
    hashes of the whole images where they were loaded with `hashes=True`, else of the pixels that they have.

    Examples:
        >>> import torch
        >>> images = Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 0]), ("cat",), "pets")
        >>> found = inspect_images(images)
        >>> found.duplicates, found.rows()
        ((('images[0]', 'images[1]'),), [('cat', '2')])
    """
    parts = data._asdict() if isinstance(data, Splits) else {"images": data}
    every = [_Place(split, images, i) for split, images in parts.items() for i in range(len(images))]
    empty = np.concatenate([_constant_rows(images) for images in parts.values()])
    groups = _equal_groups(list(parts.values()))
    first = next(iter(parts.values()))
    channels, height, width = first.pixels.shape[1:]
    return Inspection(
        name=first.name,
        classes=first.classes,
        counts={split: tuple(images.counts().tolist()) for split, images in parts.items()},
        unlabelled={split: int((images.labels == UNLABELLED).sum()) for split, images in parts.items()},
        shape=(channels, height, width),
        sizes=_sizes(parts.values()),
        alike=tuple(_alike([every[i] for i in group]) for group in groups if len(group) > 1),
        near=_near(list(parts.values()), every, groups, empty),
        too_small=sum(int((~_large_enough(images)).sum()) for images in parts.values()),
        nearly_constant=tuple(every[i].name for i in np.flatnonzero(empty)),
        unreadable=tuple(dict.fromkeys(file for images in parts.values() for file in images.unreadable)),
        reasons={name: reason for images in parts.values() for name, reason in images.reasons.items()},
        notes=tuple(dict.fromkeys(note for images in parts.values() for note in images.notes)),
    )


@dataclass(frozen=True)
class _Place:
    """One image among those of all splits."""

    split: str
    images: Images
    index: int

    @property
    def name(self) -> str:
        return self.images.paths[self.index] if self.images.paths else f"{self.split}[{self.index}]"

    @property
    def label(self) -> str | None:
        label = int(self.images.labels[self.index])
        return None if label == UNLABELLED else self.images.classes[label]


def _alike(places: Sequence[_Place], distance: int = 0) -> Alike:
    return Alike(
        tuple(place.name for place in places),
        tuple(place.label for place in places),
        tuple(place.split for place in places),
        distance,
    )


def _constant_rows(images: Images) -> np.ndarray:
    chunks = [nearly_constant(images.pixels[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
    return torch.cat(chunks).numpy() if chunks else np.zeros(0, bool)


def _sizes(parts: Iterable[Images]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for images in parts:
        height, width = images.pixels.shape[2:]
        known = images.original_sizes
        originals = [[height, width]] * len(images) if known is None else known.tolist()
        sizes.update(f"{height}×{width}" for height, width in originals)
    return dict(sizes.most_common())


def _equal_groups(parts: Sequence[Images]) -> list[list[int]]:
    """Which images of all parts together are the same: every image is in one group, alone or not."""
    whole = all(images.digests is not None for images in parts)
    groups: dict[bytes, list[int]] = defaultdict(list)
    row = 0
    for images in parts:
        digests = images.digests.numpy() if whole and images.digests is not None else map(digest_of, _arrays(images))
        for digest in digests:
            groups[digest.tobytes()].append(row)
            row += 1
    return list(groups.values())


def _arrays(images: Images) -> Iterator[UInt8[np.ndarray, "channels height width"]]:
    for start in range(0, len(images), CHUNK):
        yield from images.pixels[start : start + CHUNK].numpy()


def _near(
    parts: Sequence[Images], every: Sequence[_Place], groups: Sequence[list[int]], empty: np.ndarray
) -> tuple[Alike, ...]:
    """Groups of images that look alike and are not all the same, those that matter most first."""
    judged = np.concatenate([_large_enough(images) for images in parts]) & ~empty
    ours = [group for group in groups if judged[group[0]]]
    hashes = np.concatenate([_hashes(images) for images in parts])
    joined = join_near(hashes[[group[0] for group in ours]])
    found = [_alike([every[i] for k in group for i in ours[k]], distance) for group, distance in joined]
    return tuple(sorted(found, key=lambda group: (-group.leak - group.conflict, group.distance)))


def _large_enough(images: Images) -> np.ndarray:
    """Which images are large enough for a perceptual hash."""
    if images.hashes is not None and images.original_sizes is not None:
        return (images.original_sizes.amin(1) >= HASHED_SIDE).numpy()
    return np.full(len(images), min(images.pixels.shape[2:]) >= HASHED_SIDE)


def _hashes(images: Images) -> UInt8[np.ndarray, "images 8"]:
    if images.hashes is not None:
        return images.hashes.numpy()
    if not _large_enough(images).any():
        return np.zeros((len(images), 8), np.uint8)
    return np.stack([perceptual_hash(_picture(pixels)) for pixels in _arrays(images)])


def join_near(hashes: UInt8[np.ndarray, "rows 8"]) -> list[tuple[list[int], int]]:
    """Rows that are joined by steps of at most `NEAR` bits: each group of two or more, and its largest step.

    Examples:
        >>> join_near(np.array([[0] * 8, [255] * 8, [0] * 7 + [3], [0] * 7 + [63]], np.uint8))
        [([0, 2, 3], 4)]
    """
    if not len(hashes):
        return []
    unique, places = np.unique(hashes, axis=0, return_inverse=True)
    component, step = np.arange(len(unique)), np.zeros(len(unique), int)
    waiting: list[np.ndarray] = []
    for pairs, distances in _near_pairs(unique):
        np.maximum.at(step, pairs[0], distances)
        waiting.append(pairs)
        if sum(pairs.shape[1] for pairs in waiting) > MOST_PAIRS:
            component, waiting = _connected(component, waiting), []
    component = _connected(component, waiting)
    groups: dict[int, list[int]] = defaultdict(list)
    for row, place in enumerate(places.ravel().tolist()):
        groups[component[place]].append(row)
    largest = np.zeros(len(unique), int)
    np.maximum.at(largest, component, step)
    return [(group, int(largest[key])) for key, group in groups.items() if len(group) > 1]


def _near_pairs(hashes: UInt8[np.ndarray, "rows 8"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs of hashes that differ in at most `NEAR` bits, [2, pairs], each once; and in how many."""
    import faiss

    # Two hashes that differ in at most 4 bits agree in one of 5 parts of 12 bits, by which they are looked up.
    index = faiss.IndexBinaryMultiHash(64, NEAR + 1, 12)
    index.add(hashes)
    for start in range(0, len(hashes), CHUNK):
        limits, distances, found = index.range_search(hashes[start : start + CHUNK], NEAR + 1)
        asked = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(int))) + start
        once = asked < found
        yield np.stack([asked, found])[:, once], distances.astype(int)[once]


def _connected(component: np.ndarray, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """For each row the first one of its component, once the two of each pair are in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(component))
    edges = np.concatenate([np.stack([rows, component]), *pairs], 1)
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), (len(rows), len(rows)))
    numbers = connected_components(graph, directed=False)[1]
    return np.unique(numbers, return_index=True)[1][numbers]


def contact_sheet(images: Images, path: str | Path, per_class: int = 8) -> None:
    """Write a PNG with images of each class, drawn from all of it, one class a row, at most 20 classes.

    Args:
        images: what to show; unlabelled ones get a row of their own.
        path: of the PNG file.
        per_class: how many images of each class.

    Raises:
        InputError: for a number below 1, a path that does not end in .png or cannot be written, or a file there that
            this program did not write.
    """
    path = Path(path)
    check_number("per_class", per_class, at_least=1, whole=True)
    check_sheet(path)
    counts = images.counts().tolist()
    rows = [(label, f"{name} ({counts[label]:,})") for label, name in enumerate(images.classes)][:MOST_CLASSES]
    without = int((images.labels == UNLABELLED).sum())
    if without:
        rows.append((UNLABELLED, f"unlabelled ({without:,})"))
    font = ImageFont.truetype(_font_file(), LETTERS)
    texts = [_folded(_drawable(printable(text)), font) for _, text in rows]
    if len(images.classes) > MOST_CLASSES:
        texts.append(f"and {len(images.classes) - MOST_CLASSES:,} more classes")
    indent = int(max(font.getlength(line) for text in texts for line in text.splitlines())) + 4 * GAP
    sheet = Image.new("RGB", (indent + per_class * (CELL + GAP), len(texts) * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(texts):
        draw.text((2 * GAP, GAP + row * (CELL + GAP) + CELL // 2), text, "black", font, anchor="lm", spacing=1)
    for row, (label, _) in enumerate(rows):
        for column, i in enumerate(_sample(images, label, per_class)):
            sheet.paste(_thumbnail(images.pixels[i]), (indent + column * (CELL + GAP), GAP + row * (CELL + GAP)))
    with output(path) as aside:
        sheet.save(aside)


def check_sheet(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse a path that no contact sheet can be written to, or one of the images themselves."""
    if path.suffix.lower() != ".png":
        raise InputError(f"path: expected a file ending in .png, got {path}")
    check_output(path, inputs)
    if path.parent.is_dir():
        check_writable(path.parent, path)


def _sample(images: Images, label: int, count: int) -> list[int]:
    """Some images of a class, drawn from all of it, the same at every call."""
    members = (images.labels == label).nonzero().flatten()
    drawn = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:count]
    return members[drawn.sort().values].tolist()


def _folded(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text in lines that are not too wide; the middle of one that is too long for them is left out."""
    lines, start = [], 0
    while start < len(text):
        stop = start + 1
        while stop < len(text) and font.getlength(text[start : stop + 1]) <= MOST_INDENT:
            stop += 1
        lines.append(text[start:stop])
        start = stop
    if len(lines) <= LINES:
        return "\n".join(lines)
    half = min(map(len, lines[:-1])) * LINES // 2 - 2
    return _folded(f"{text[:half]} … {text[-half:]}", font)


def _picture(pixels: UInt8[np.ndarray, "channels height width"]) -> Image.Image:
    array = pixels.transpose(1, 2, 0)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _thumbnail(pixels: Tensor) -> Image.Image:
    """One image in a cell: small ones enlarged without smoothing, by a whole factor."""
    image = _picture(pixels.numpy())
    longest = max(image.size)
    if longest > CELL:
        image.thumbnail((CELL, CELL))
    else:
        factor = CELL // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image


def _font_file() -> Path:
    """DejaVu Sans, which comes with matplotlib and draws most alphabets."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _drawn_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def _drawable(text: str) -> str:
    """The text with the code points of characters that the font lacks."""
    return "".join(char if ord(char) in _drawn_characters() else f"[U+{ord(char):04X}]" for char in text)
