"""LDR-KL and ALDR-KL of 65,536 rows of 1,000 classes: time and memory of both passes against PyTorch's cross-entropy.

Times are taken in turn, in one process; memory in processes of their own. Exits with status 1 where the adaptive loss
takes more than 2.5 times as long as cross-entropy, or more than 3 times the memory of the logits:
`python -m benchmarks.ldr [--rows N]`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.measuring import alone, machine_line, markdown_table, repeat, write_results
from counterpoise.classify.ldr import ALDRLoss, LDRLoss

ROWS, CLASSES, MOST, MEMORY, TURNS = 65_536, 1000, 2.5, 3.0, 5
NAMES = ("cross-entropy", "LDR-KL", "ALDR-KL", "ALDR-KL, l1")


def prepare(rows: int) -> dict[str, Callable[[], None]]:
    """A forward and a backward pass of each loss, all over the same logits."""
    logits = torch.randn(rows, CLASSES, requires_grad=True)
    targets, index = torch.randint(CLASSES, (rows,)), torch.arange(rows)
    plain, aldr, signed = LDRLoss(), ALDRLoss(rows), ALDRLoss(rows, normalize="l1")
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "cross-entropy": lambda: F.cross_entropy(logits, targets),
        "LDR-KL": lambda: plain(logits, targets),
        "ALDR-KL": lambda: aldr(logits, targets, index),
        "ALDR-KL, l1": lambda: signed(logits, targets, index),
    }
    return {name: partial(_step, logits, loss) for name, loss in losses.items()}


def prepare_one(name: str, rows: int) -> Callable[[], None]:
    """The pass of one of them."""
    return prepare(rows)[name]


def _step(logits: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
    logits.grad = None
    loss().backward()


def main() -> None:
    """Compare, write the results and judge them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="examples (default: %(default)s)")
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    matrix = 4 * rows * CLASSES / 2**20
    memory = {name: alone(prepare_one, name, rows, repeats=1, threads=1).peak_mb / matrix for name in NAMES}
    calls = prepare(rows)
    for call in calls.values():
        call()
    turns = [{name: repeat(call, 1, warmup=0)[0] for name, call in calls.items()} for _ in range(TURNS)]
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in NAMES}
    ratios = {name: statistics.median(turn[name] / turn["cross-entropy"] for turn in turns) for name in NAMES}
    table = [[n, f"{seconds[n]:.2f}", f"{ratios[n]:.2f}", f"{memory[n]:.1f}"] for n in NAMES]
    reached = ratios["ALDR-KL"] <= MOST and memory["ALDR-KL"] <= MEMORY
    page = [
        "# LDR and ALDR: speed",
        "",
        f"A forward and a backward pass of {rows:,} rows of {CLASSES:,} classes, on one thread, the median of {TURNS}",
        "turns. Memory is what a process needs beyond the logits, in multiples of them; one of these is the gradient.",
        "Written by `python -m benchmarks.ldr`.",
        "",
        machine_line(),
        "",
        markdown_table(["", "s", "times cross-entropy", "times the logits' memory"], table),
        "",
        f"Target: ALDR-KL at most {MOST} times as long, and at most {MEMORY:.0f} times the memory: "
        f"{'reached' if reached else '**missed**'}.",
    ]
    write_results("ldr", {"rows": rows, "seconds": seconds, "ratios": ratios, "memory": memory}, "\n".join(page))
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
