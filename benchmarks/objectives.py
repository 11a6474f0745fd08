"""Every objective of the contrast room at a batch of 16,384: time and memory of a forward and a backward pass.

Each figure is a process of its own. Exits with status 1 where an objective takes as much memory as the matrix of all
similarities of its batch alone would, or where twice the batch takes more than 2.6 times the memory, and as much as a
mask of all pairs, one byte each; below that, growth is the allocator's: `python -m benchmarks.objectives [--batch B]`.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Measured, alone, machine_line, markdown_table, write_results
from counterpoise.registry import catalogue

BATCH, DIM, CLASSES, KEYS, VIEWS = 16384, 64, 100, 4096, 2
GROWTH = 2.6  # of memory, at the most, where the batch doubles; a matrix of all pairs grows by 4

Case = tuple[str, int]


def objectives() -> list[str]:
    """Paper and class of each."""
    rooms = catalogue.select(room="contrast", done=True)
    return [f"{row.slug}:{kind.__name__}" for row in rooms for kind in catalogue.load_objectives(row.slug)]


def inputs(kind: type[nn.Module], batch: int) -> dict[str, Tensor]:
    """What its `forward` takes, by the names of its parameters; an unknown one with a default is left out."""
    labels = torch.arange(batch) % CLASSES
    made: dict[str, Callable[[], Tensor]] = {
        "negatives": lambda: torch.randn(KEYS, DIM),
        "prototypes": lambda: torch.randn(CLASSES, DIM),
        "views": lambda: torch.randn(VIEWS, batch, DIM, requires_grad=True),
        "gates": lambda: torch.rand(batch, DIM),
        "phi1": lambda: torch.randn(batch, DIM),
        "phi2": lambda: torch.randn(batch, DIM),
        "labels": lambda: labels,
        "partners": lambda: labels.roll(1),
        "subclasses": lambda: torch.arange(batch) % (4 * CLASSES),
        "clusters": lambda: torch.stack([labels, labels.roll(1)], 1),
        "targets": lambda: labels,
        "time_index": lambda: torch.arange(batch) % 1000,
        **dict.fromkeys(("index", "image_index", "text_index"), lambda: torch.arange(batch)),
    }
    rows = ("z1", "z2", "embeddings", "queries", "positives", "keys", "image", "text", "noise", "predicted", "residual")
    found = {}
    for name, parameter in list(inspect.signature(kind.forward).parameters.items())[1:]:
        if name in rows:
            found[name] = torch.randn(batch, DIM, requires_grad=True)
        elif name in made:
            found[name] = made[name]()
        elif parameter.default is parameter.empty:
            raise RuntimeError(f"{kind.__name__}: how to make its '{name}' is not known")
    return found


def step(objective: nn.Module, given: dict[str, Tensor]) -> None:
    """A forward and a backward pass."""
    for x in given.values():
        x.grad = None
    objective(**given).backward()


def prepare(name: str, batch: int) -> Callable[[], None]:
    """The step to be timed."""
    slug, _, wanted = name.partition(":")
    kind = next(kind for kind in catalogue.load_objectives(slug) if kind.__name__ == wanted)
    sizes = {"dim": DIM, "samples": batch, "images": batch, "texts": batch, "classes": CLASSES}
    parameters = inspect.signature(kind).parameters.values()
    required = {p.name: sizes[p.name] for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD}
    return partial(step, kind(**required), inputs(kind, batch))


def faults(found: dict[Case, Measured], name: str, batch: int) -> list[str]:
    """What of its target an objective misses."""
    half, whole = (found[name, n].peak_mb for n in (batch // 2, batch))
    matrix = 4 * batch**2 / 2**20
    missed = []
    if whole >= matrix:
        missed.append(f"{name}: {whole:.0f} MB, as much as a matrix of all pairs ({matrix:.0f} MB)")
    if whole >= matrix / 4 and whole > GROWTH * half:
        missed.append(f"{name}: {whole / half:.1f} times the memory for twice the batch")
    return missed


def page(found: dict[Case, Measured], names: list[str], batch: int) -> str:
    """The table."""
    rows: list[list[Any]] = []
    for name in names:
        half, whole = found[name, batch // 2], found[name, batch]
        slug, _, kind = name.partition(":")
        times = f"{whole.median / half.median:.1f}"
        rows.append([f"[{slug}](../papers/{slug}.md)", kind, f"{whole.median:.2f}", times, f"{whole.peak_mb:.0f}"])
    return "\n\n".join(
        [
            "# The objectives of the contrast room on large batches",
            f"A forward and a backward pass with {batch:,} samples of {DIM} numbers, each in a process of its own on "
            f"one thread. One matrix of {batch:,}² similarities alone would take {4 * batch**2 / 2**20:,.0f} MB. "
            f"Growth is how many times the seconds are those of {batch // 2:,} samples.",
            markdown_table(["paper", "objective", "s", "growth", "MB"], rows),
            f"{machine_line()} `python -m benchmarks.objectives`",
        ]
    )


def main() -> None:
    """Measure all, write the page, and tell what misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=BATCH, help="samples (default: %(default)s)")
    batch = parser.parse_args().batch
    names, found = objectives(), {}
    for name in names:
        for n in (batch // 2, batch):
            found[name, n] = alone(prepare, name, n, repeats=1, threads=1)
            print(f"{name} at {n}: {found[name, n].median:.2f} s, {found[name, n].peak_mb:.0f} MB", flush=True)
    results = [
        {"objective": name, "batch": n, "seconds": one.seconds, "peak_mb": one.peak_mb}
        for (name, n), one in found.items()
    ]
    write_results("objectives", {"results": results}, page(found, names, batch))
    if missed := [text for name in names for text in faults(found, name, batch)]:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
