"""A look at data before anything is learnt from it: counts, sizes, duplicates, damaged files, a sheet of samples."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from counterpoise.data.images import CHUNK, UNLABELLED, Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.data.sources import load
from counterpoise.errors import InputError
from counterpoise.files import written
from counterpoise.ops.checks import check_number

NEARLY_CONSTANT = 2.0  # standard deviation of every channel, of 255: no one sees anything in such an image
EXAMPLES = 5
MOST_CLASSES = 20
MOST_ROWS = 100  # of the printed table; of more classes only the largest and the smallest are told
CELL, GAP = 56, 4  # pixels of the contact sheet


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
        duplicates: groups of identical images within one split, by name.
        leaks: groups of identical images that lie in more than one split, by name.
        nearly_constant: images in which nothing can be seen.
        unreadable: files that were left out.
        notes: what was done to the data.
    """

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    unlabelled: dict[str, int]
    shape: tuple[int, int, int]
    sizes: dict[str, int]
    duplicates: tuple[tuple[str, ...], ...]
    leaks: tuple[tuple[str, ...], ...]
    nearly_constant: tuple[str, ...]
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]

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
    """Count, and look for what spoils a comparison: duplicates, test images that are in train, empty and damaged ones.

    Images are duplicates when their decoded pixels are equal.

    >>> import torch
    >>> images = Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 0]), ("cat",), "pets")
    >>> found = inspect_images(images)
    >>> found.duplicates, found.rows()
    ((('images[0]', 'images[1]'),), [('cat', '2')])
    """
    parts = data._asdict() if isinstance(data, Splits) else {"images": data}
    groups: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    constant: list[str] = []
    sizes: Counter[str] = Counter()
    for split, images in parts.items():
        for start in range(0, len(images), CHUNK):
            pixels = images.pixels[start : start + CHUNK]
            for i, image in enumerate(pixels.numpy(), start):
                groups[hashlib.blake2b(image.tobytes(), digest_size=16).digest()].append(
                    (split, _name(images, split, i))
                )
            empty = nearly_constant(pixels).nonzero().flatten() + start
            constant += [_name(images, split, i) for i in empty.tolist()]
        height, width = images.pixels.shape[2:]
        originals = [[height, width]] * len(images) if images.original_sizes is None else images.original_sizes.tolist()
        sizes.update(f"{height}×{width}" for height, width in originals)
    equal = [group for group in groups.values() if len(group) > 1]
    across = [len({split for split, _ in group}) > 1 for group in equal]
    named = [tuple(name for _, name in group) for group in equal]
    first = next(iter(parts.values()))
    channels, height, width = first.pixels.shape[1:]
    return Inspection(
        name=first.name,
        classes=first.classes,
        counts={split: tuple(images.counts().tolist()) for split, images in parts.items()},
        unlabelled={split: int((images.labels == UNLABELLED).sum()) for split, images in parts.items()},
        shape=(channels, height, width),
        sizes=dict(sizes.most_common()),
        duplicates=tuple(group for group, leak in zip(named, across, strict=True) if not leak),
        leaks=tuple(group for group, leak in zip(named, across, strict=True) if leak),
        nearly_constant=tuple(constant),
        unreadable=tuple(dict.fromkeys(file for images in parts.values() for file in images.unreadable)),
        notes=tuple(dict.fromkeys(note for images in parts.values() for note in images.notes)),
    )


def nearly_constant(pixels: Tensor) -> Bool[Tensor, " batch"]:
    """Whether every channel of an image [B C H W] varies by less than anyone can see."""
    return (pixels.float().std((2, 3), correction=0) < NEARLY_CONSTANT).all(1)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print an inspection: a table of counts, then a line for each finding.

    Of more than 100 classes the table tells the 10 largest and the 10 smallest of the first split.
    """
    table = Table("class", title=escape(inspection.name))
    for split in inspection.counts:
        table.add_column(split, justify="right")
    for row in _told_rows(inspection):
        table.add_row(*map(escape, row))
    totals = [sum(counts) + inspection.unlabelled[split] for split, counts in inspection.counts.items()]
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in totals))
    ratios = [inspection.imbalance(split) for split in inspection.counts]
    table.add_row(
        "imbalance (largest class / smallest)", *("–" if ratio is None else f"{ratio:.4g}" for ratio in ratios)
    )
    console.print(table)
    channels, height, width = inspection.shape
    for line in (
        f"images: {'grey' if channels == 1 else 'RGB'}, {height}×{width}",
        f"original sizes: {_several([f'{size} ({count:,})' for size, count in inspection.sizes.items()])}",
        f"in train and in test: {_groups(inspection.leaks)}",
        f"duplicates: {_groups(inspection.duplicates)}",
        f"nearly constant: {_several(inspection.nearly_constant)}",
        f"unreadable: {_several(inspection.unreadable)}",
        *(f"note: {note}" for note in inspection.notes),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def contact_sheet(images: Images, path: str | Path, per_class: int = 8) -> None:
    """Write a PNG with the first images of each class, one class a row, at most 20 classes.

    Args:
        images: what to show; unlabelled ones get a row of their own.
        path: of the PNG file.
        per_class: how many images of each class.

    Raises:
        InputError: for a number below 1, a path that does not end in .png or cannot be written.
    """
    path = Path(path)
    check_number("per_class", per_class, at_least=1)
    if path.suffix.lower() != ".png":
        raise InputError(f"path: expected a file ending in .png, got {path}")
    counts = images.counts().tolist()
    rows = [(label, f"{name} ({counts[label]:,})") for label, name in enumerate(images.classes)][:MOST_CLASSES]
    without = int((images.labels == UNLABELLED).sum())
    if without:
        rows.append((UNLABELLED, f"unlabelled ({without:,})"))
    font = ImageFont.truetype(_font_file(), 15)
    texts = [_drawable(text) for _, text in rows]
    if len(images.classes) > MOST_CLASSES:
        texts.append(f"and {len(images.classes) - MOST_CLASSES:,} more classes")
    indent = int(max(font.getlength(text) for text in texts)) + 4 * GAP
    sheet = Image.new("RGB", (indent + per_class * (CELL + GAP), len(texts) * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(texts):
        draw.text((2 * GAP, GAP + row * (CELL + GAP) + CELL // 2), text, "black", font, anchor="lm")
    for row, (label, _) in enumerate(rows):
        for column, i in enumerate((images.labels == label).nonzero().flatten()[:per_class].tolist()):
            sheet.paste(_thumbnail(images.pixels[i]), (indent + column * (CELL + GAP), GAP + row * (CELL + GAP)))
    with written(path) as aside:
        sheet.save(aside)


def show_data(
    data: str,
    *,
    imperfect: Sequence[str] = (),
    sheet: str | Path | None = None,
    size: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> Inspection:
    """Load data, print its inspection and write its contact sheet: `counterpoise data`.

    Args:
        data: a name or a path, as `load` takes it.
        imperfect: specs, as `make_imperfect` takes them.
        sheet: where the contact sheet of the train images goes; None: NAME-sheet.png in the current folder.
        size: as for `load`.
        data_dir: as for `load`.
        download: as for `load`.
        seed: of the division into train and test, and of the imperfections.

    Returns:
        What was printed.

    Raises:
        InputError: for data, specs or a path that are at fault.
    """
    splits = make_imperfect(load(data, size=size, data_dir=data_dir, download=download, seed=seed), imperfect, seed)
    inspection = inspect_images(splits)
    console = Console()
    print_inspection(inspection, console)
    path = Path(sheet or f"{inspection.name.replace(':', '-').replace('/', '-')}-sheet.png")
    contact_sheet(splits.train, path)
    console.print(f"contact sheet: {path}", markup=False, highlight=False, soft_wrap=True)
    return inspection


def _name(images: Images, split: str, index: int) -> str:
    return images.paths[index] if images.paths else f"{split}[{index}]"


def _told_rows(inspection: Inspection) -> list[tuple[str, ...]]:
    rows, classes = inspection.rows(), len(inspection.classes)
    if classes <= MOST_ROWS:
        return rows
    counts = next(iter(inspection.counts.values()))
    order = sorted(range(classes), key=lambda label: -counts[label])
    ends = MOST_CLASSES // 2
    between = (f"… {classes - MOST_CLASSES:,} classes in between", *[""] * len(inspection.counts))
    return [*(rows[i] for i in order[:ends]), between, *(rows[i] for i in order[-ends:]), *rows[classes:]]


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more if names else "none"


def _groups(groups: Sequence[tuple[str, ...]]) -> str:
    if not groups:
        return "none"
    return f"{len(groups):,} images occur more than once: {_several([' = '.join(group[:3]) for group in groups])}"


def _thumbnail(pixels: Tensor) -> Image.Image:
    """One image in a cell: small ones enlarged without smoothing, by a whole factor."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
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
