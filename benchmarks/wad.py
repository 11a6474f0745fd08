"""Affinities of 100,000 queries to the classes of 10,000 keys: memory beside the matrix of cosines, time beside loops.

Exits with status 1 where ours needs more than a twentieth of the matrix, or is less than 5 times as fast as a loop over
the classes that takes their columns of it: `python -m benchmarks.wad`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring import Measured, alone, machine_line, markdown_table, write_results
from counterpoise.classify.wad import class_affinity
from counterpoise.ops.similarity import normalize_rows

QUERIES, KEYS, DIM, CLASSES = 100_000, 10_000, 128, 100
SMALLER, LEAST = 20, 5
MATRIX = QUERIES * KEYS * 4 / 2**20  # MB
AGREE = 1000  # queries by which the three are compared


def columns(queries: Tensor, keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """All cosines, then the largest among each class's columns."""
    cosines = normalize_rows(queries) @ normalize_rows(keys).T
    return torch.stack([cosines[:, labels == label].amax(1) for label in range(classes)], 1)


def products(queries: Tensor, keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """A product for each class."""
    queries, keys = normalize_rows(queries), normalize_rows(keys)
    return torch.stack([(queries @ keys[labels == label].T).amax(1) for label in range(classes)], 1)


FORMS = {
    "ours": class_affinity,
    "a loop over columns of the matrix": columns,
    "a loop with a product for each class": products,
}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and labels; classes of about as many keys."""
    rng = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(QUERIES, DIM, generator=rng), torch.randn(KEYS, DIM, generator=rng)
    return queries, keys, torch.randint(CLASSES, (KEYS,), generator=rng)


def prepare(name: str) -> Callable[[], object]:
    """The call to be timed, after one on few queries, which takes the memory that torch itself needs."""
    queries, keys, labels = inputs()
    FORMS[name](queries[:AGREE], keys, labels, CLASSES)
    return partial(FORMS[name], queries, keys, labels, CLASSES)


def smaller(ours: Measured) -> float:
    """How many times the matrix is larger than what ours needs.

    That is by how much the peak rose, or the tensors that are whole if these are larger, since some may lie where the
    inputs were made: normalised queries and keys, and the result.
    """
    whole = ((QUERIES + KEYS) * DIM + QUERIES * CLASSES) * 4 / 2**20
    return MATRIX / max(ours.peak_mb, whole)


def page(found: dict[str, Measured], ratios: dict[str, float]) -> str:
    """The table and what it means."""
    table = [
        [name, f"{one.median:.1f}", f"{one.peak_mb:,.0f}", f"{ratios.get(name, 1):.1f}×"] for name, one in found.items()
    ]
    return "\n\n".join(
        [
            "# WAD: affinities to classes",
            f"{QUERIES:,} queries of {DIM} numbers, {KEYS:,} keys in {CLASSES} classes, each form in a process of its "
            f"own on one thread. The matrix of cosines takes {MATRIX:,.0f} MB.",
            markdown_table(["form", "s", "MB by which the peak rose", "time over ours"], table),
            "With its tensors that are whole, normalised rows and the result, ours needs "
            f"1/{smaller(found['ours']):.0f} of the matrix; the target is 1/{SMALLER}. The target of time is {LEAST} "
            "times that of the loop over columns. A loop with a product for each class needs little memory, too, and "
            "is about as fast where classes are large: most of the time of ours is the product itself.",
            f"{machine_line()} `python -m benchmarks.wad`",
        ]
    )


def main() -> None:
    """Measure all forms, write the page and judge it."""
    queries, keys, labels = inputs()
    expected = class_affinity(queries[:AGREE], keys, labels, CLASSES)
    for form in FORMS.values():
        torch.testing.assert_close(form(queries[:AGREE], keys, labels, CLASSES), expected)
    found = {name: alone(prepare, name, repeats=3, threads=1) for name in FORMS}
    ratios = {name: one.median / found["ours"].median for name, one in found.items() if name != "ours"}
    results = {name: {"seconds": one.seconds, "peak_mb": one.peak_mb} for name, one in found.items()}
    part = smaller(found["ours"])
    write_results("wad", {"results": results, "times": ratios, "smaller": part}, page(found, ratios))
    if part < SMALLER or ratios["a loop over columns of the matrix"] < LEAST:
        sys.exit(f"1/{part:.1f} of the matrix, {ratios}")


if __name__ == "__main__":
    main()
