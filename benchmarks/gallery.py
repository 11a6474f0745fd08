"""Retrieval measures over a gallery of a million embeddings of 128 numbers: time, and memory with the embeddings.

Exits with status 1 where the whole process takes more than 2 GB: `python -m benchmarks.gallery [--items N]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measuring import alone, machine_line, markdown_table, write_results
from counterpoise.measure.retrieval import retrieval

ITEMS, DIM, PER_CLASS = 1_000_000, 128, 20
QUERIES = (1_000, 10_000)
MOST = 2048  # MB, the embeddings and what Python and PyTorch take among them


def prepare(items: int, queries: int) -> Callable[[], object]:
    """A gallery of classes of 20 items around random centres, and queries from the same classes."""
    rng = torch.Generator().manual_seed(0)
    classes = items // PER_CLASS
    centres = torch.randn(classes, DIM, generator=rng)
    labels = torch.arange(items) % classes
    gallery = torch.randn(items, DIM, generator=rng)
    for rows in torch.arange(items).split(1 << 16):
        gallery[rows] += centres[labels[rows]]
    asked = torch.randint(classes, (queries,), generator=rng)
    return partial(retrieval, centres[asked] + torch.randn(queries, DIM, generator=rng), asked, gallery, labels)


def whole(items: int, queries: int) -> Callable[[], object]:
    """The same, with making the data inside, so that its memory counts."""
    return lambda: prepare(items, queries)()


def main() -> None:
    """Measure, write the page, and tell what misses the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=ITEMS, help="rows of the gallery (default: %(default)s)")
    items = parser.parse_args().items
    found = {n: alone(prepare, items, n, repeats=1) for n in QUERIES}
    most = alone(whole, items, QUERIES[-1], repeats=1).peak_mb
    rows = [[f"{n:,}", f"{one.median:.1f}", f"{1000 * one.median / n:.1f}"] for n, one in found.items()]
    page = "\n\n".join(
        [
            "# Retrieval over a large gallery",
            f"Recall@k, MAP@R and R-precision of queries among {items:,} items of {DIM} numbers, exact, in classes of "
            f"{PER_CLASS}, on two threads. The process grows by {most:,.0f} MB at most, the gallery's own "
            f"{4 * items * DIM / 2**20:,.0f} MB among them.",
            markdown_table(["queries", "s", "ms a query"], rows),
            f"{machine_line()} `python -m benchmarks.gallery`",
        ]
    )
    results = [{"queries": n, "seconds": one.seconds} for n, one in found.items()]
    write_results("gallery", {"items": items, "peak_mb": most, "results": results}, page)
    if most > MOST:
        sys.exit(f"{most:.0f} MB, more than {MOST}")


if __name__ == "__main__":
    main()
