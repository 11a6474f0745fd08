"""Naive Bayes on a million rows of 512 features beside the linear probe: time, and memory beside the features.

Exits with status 1 where naive Bayes is less than 20 times as fast, or needs as much memory as a tenth of the features:
`python -m benchmarks.naive_bayes_probe [--rows N]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring import Measured, alone, machine_line, markdown_table, write_results
from counterpoise.classify.naive_bayes_probe import naive_bayes
from counterpoise.measure.probes import linear_probe

ROWS, DIM, CLASSES, LEAST = 1_000_000, 512, 10, 20
VALID = 1000  # rows that choose the strength of the linear probe


def rows(count: int) -> tuple[Tensor, Tensor]:
    """Gaussian classes that overlap, so that the linear probe has something to find."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    means = 0.1 * torch.randn(CLASSES, DIM, generator=generator)
    x = torch.empty(count, DIM)
    for part, own in zip(x.split(4096), labels.split(4096), strict=True):  # what else is made does not raise the peak
        part.normal_(generator=generator).add_(means[own])
    return x, labels


def prepare(name: str, count: int) -> Callable[[], object]:
    """The fit to be timed, of one reader."""
    x, y = rows(count + VALID)
    if name == "naive Bayes":
        return partial(naive_bayes, x[:count], y[:count], CLASSES)
    return partial(linear_probe, x[:count], y[:count], x[count:], y[count:], CLASSES)


def page(found: dict[str, Measured], count: int, ratio: float) -> str:
    """The table."""
    table = [[name, f"{one.median:.1f}", f"{one.peak_mb:.0f}"] for name, one in found.items()]
    return "\n\n".join(
        [
            "# Naive Bayes beside the linear probe",
            f"A fit to {count:,} rows of {DIM} features in {CLASSES} classes, each in a process of its own on one "
            f"thread. The features take {count * DIM * 4 / 2**20:,.0f} MB. The linear probe chooses among six "
            f"strengths on {VALID:,} further rows; naive Bayes has nothing to choose.",
            markdown_table(["reader", "s", "MB beside the features"], table),
            f"Naive Bayes is {ratio:.0f} times as fast; the target is {LEAST}.",
            f"{machine_line()} `python -m benchmarks.naive_bayes_probe`",
        ]
    )


def main() -> None:
    """Measure both, write the page and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows (default: %(default)s)")
    count = parser.parse_args().rows
    found = {"naive Bayes": alone(prepare, "naive Bayes", count, repeats=1, threads=1)}
    print(f"naive Bayes: {found['naive Bayes']}", flush=True)
    found["linear probe"] = alone(prepare, "linear probe", count, repeats=1, threads=1)
    ratio = found["linear probe"].median / found["naive Bayes"].median
    results = {name: {"seconds": one.seconds, "peak_mb": one.peak_mb} for name, one in found.items()}
    write_results("naive_bayes_probe", {"rows": count, "results": results, "ratio": ratio}, page(found, count, ratio))
    if ratio < LEAST or found["naive Bayes"].peak_mb > count * DIM * 4 / 2**20 / 10:
        sys.exit(f"{ratio:.1f} times as fast, {found['naive Bayes'].peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
