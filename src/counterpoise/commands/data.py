"""What a data set holds: `counterpoise data`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoise.data.decoding import Undivided, count_reasons
from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.data.inspection import (
    MOST_CLASSES,
    NEAR,
    Alike,
    Inspection,
    check_sheet,
    contact_sheet,
    inspect_images,
)
from counterpoise.data.reading import HASHED_SIDE
from counterpoise.data.sources import load, load_all, source_files
from counterpoise.errors import InputError, first_few, printable
from counterpoise.terminal import make_console

EXAMPLES = 5
MOST_UNREADABLE = 300  # files that are printed
MOST_ROWS = 100  # of the printed table; of more classes only the largest and the smallest are shown


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
        sheet: where the contact sheet of the train images goes; None: NAME-sheet.png in the current folder. A file
            there that this program did not write, or that is one of the images, is not replaced.
        size: as for `load`.
        data_dir: as for `load`.
        download: as for `load`.
        seed: of the division into train and test, and of the imperfections.

    Returns:
        What was printed.

    Raises:
        InputError: for data, specs or a path that are at fault.
    """
    path = Path(sheet) if sheet else Path(f"{_stem(data)}-sheet.png")
    _refuse_sheet(path, source_files(data, data_dir), named=sheet is not None)
    given: dict[str, Any] = {"size": size, "data_dir": data_dir, "download": download, "hashes": True}
    images: Splits | Images
    try:
        images = make_imperfect(load(data, **given, seed=seed), imperfect, seed)
    except Undivided:  # one image a class: none to be judged by, but all of them can be looked at
        if imperfect:
            raise
        images = load_all(data, **given).images
    inspection = inspect_images(images)
    console = make_console()
    print_inspection(inspection, console)
    contact_sheet(images.train if isinstance(images, Splits) else images, path)
    console.print(Text(f"contact sheet: {printable(path)}"), soft_wrap=True)
    return inspection


def _stem(data: str) -> str:
    """What the contact sheet of data is called after."""
    path = Path(data).expanduser()
    name = path.resolve().name if path.exists() else data
    if name.startswith("hf:"):
        name = f"hf-{Path(name).name}"
    return "".join(c if c.isprintable() and c not in "/\\:" else "-" for c in name)[:80] or "data"


def _refuse_sheet(path: Path, inputs: Sequence[Path], named: bool) -> None:
    """Refuse a place for the contact sheet that is taken, and say how to choose another."""
    try:
        check_sheet(path, inputs)
    except InputError as error:
        raise InputError(f"{error}" if named else f"{error} (--sheet FILE.png names the contact sheet)") from error


def _shown_rows(inspection: Inspection) -> list[tuple[str, ...]]:
    rows, classes = inspection.rows(), len(inspection.classes)
    if classes <= MOST_ROWS:
        return rows
    counts = next(iter(inspection.counts.values()))
    order = sorted(range(classes), key=lambda label: -counts[label])
    ends = MOST_CLASSES // 2
    between = (f"… {classes - MOST_CLASSES:,} classes in between", *[""] * len(inspection.counts))
    return [*(rows[i] for i in order[:ends]), between, *(rows[i] for i in order[-ends:]), *rows[classes:]]


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print an inspection: a table of counts, then a line for each finding, and one for each unreadable file.

    Of more than 100 classes the table shows the 10 largest and the 10 smallest of the first split. A name is printed
    whole, in several lines where the terminal is narrow, and what is no printable character in it is escaped.
    """
    table = Table(title=Text(printable(inspection.name)))
    table.add_column("class", overflow="fold")
    for split in inspection.counts:
        table.add_column(split, justify="right", no_wrap=True)
    for row in _shown_rows(inspection):
        table.add_row(*(Text(printable(cell)) for cell in row))
    totals = [sum(counts) + inspection.unlabelled[split] for split, counts in inspection.counts.items()]
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in totals))
    ratios = [inspection.imbalance(split) for split in inspection.counts]
    table.add_row(
        "imbalance (largest class / smallest)", *("–" if ratio is None else f"{ratio:.4g}" for ratio in ratios)
    )
    console.print(table)
    for line in _lines(inspection):
        console.print(Text(printable(line)), soft_wrap=True)


def _lines(inspection: Inspection) -> Iterator[str]:
    channels, height, width = inspection.shape
    leaks = [group for group in inspection.alike if group.leak]
    conflicts = [group for group in inspection.alike if group.conflict]
    others = [group for group in inspection.alike if not group.leak and not group.conflict]
    yield f"images: {'grey' if channels == 1 else 'RGB'}, {height}×{width}"
    yield f"original sizes: {_several([f'{size} ({count:,})' for size, count in inspection.sizes.items()])}"
    yield f"in train and in test: {_groups(leaks)}"
    yield f"under different labels: {_groups(conflicts)}"
    yield f"duplicates: {_groups(others)}"
    yield f"nearly alike: {_near(inspection)}"
    yield f"nearly constant: {_several(inspection.nearly_constant)}"
    yield from _unreadable(inspection)
    yield from (f"note: {note}" for note in inspection.notes)


def _unreadable(inspection: Inspection) -> Iterator[str]:
    files = inspection.unreadable
    if not files:
        yield "unreadable: none"
        return
    reasons = [inspection.reasons.get(file, "no reason known") for file in files]
    yield f"unreadable: {len(files):,} ({count_reasons(reasons)})"
    yield from (f"  {file}: {reason}" for file, reason in list(zip(files, reasons, strict=True))[:MOST_UNREADABLE])
    if len(files) > MOST_UNREADABLE:
        yield f"  and {len(files) - MOST_UNREADABLE:,} more"


def _near(inspection: Inspection) -> str:
    near = inspection.near
    groups = _several([f"{_members(group, ' ≈ ')} ({group.distance} of 64 bits)" for group in near])
    count = f"{len(near):,} groups, {sum(group.leak for group in near):,} of them in train and in test, "
    count += f"{sum(group.conflict for group in near):,} under different labels: {groups}"
    about = [f"perceptual hashes that differ in at most {NEAR} of 64 bits"]
    if inspection.too_small:
        about.append(f"not judged of {inspection.too_small:,} images of less than {HASHED_SIDE} pixels")
    return f"{count if near else groups} ({'; '.join(about)})"


def _several(names: Sequence[str]) -> str:
    return first_few(names, EXAMPLES) or "none"


def _groups(groups: Sequence[Alike]) -> str:
    if not groups:
        return "none"
    return f"{len(groups):,} images occur more than once: {_several([_members(group, ' = ') for group in groups])}"


def _members(group: Alike, sign: str) -> str:
    """The first few of a group, each with its class and split where these differ."""
    named = []
    for name, label, split in list(zip(group.names, group.labels, group.splits, strict=True))[:3]:
        about = [label or "unlabelled"] if group.conflict else []
        about += [split] if group.leak and not name.startswith(split) else []
        named.append(f"{name} ({', '.join(about)})" if about else name)
    more = f" and {len(group.names) - 3:,} more" if len(group.names) > 3 else ""
    return sign.join(named) + more
