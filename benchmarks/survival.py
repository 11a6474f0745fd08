"""Concordance of 100,000 items against scikit-survival, and the likelihood of hazards against PyTorch's cross-entropy.

Exits with status 1 where concordance is slower than scikit-survival's or another figure, or the likelihood takes more
than 1.1 times as long as cross-entropy: `python -m benchmarks.survival`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import numpy as np
import torch
from sksurv.metrics import concordance_index_censored
from torch.nn import functional as F

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.classify.ad_survival import hazard_nll
from counterpoise.measure.survival import concordance

ITEMS, INTERVALS, MOST, TURNS = 100_000, 20, 1.1, 15


def ranking() -> tuple[dict[str, float], float]:
    """Seconds of both concordances, and how far the figures are apart."""
    rng = np.random.default_rng(0)
    times, events, risk = rng.exponential(size=ITEMS) + 1e-6, rng.random(ITEMS) < 0.7, rng.normal(size=ITEMS)
    found: dict[str, float | None] = {}

    def ours() -> None:
        found["ours"] = concordance(torch.from_numpy(times), torch.from_numpy(events), torch.from_numpy(risk))

    def theirs() -> None:
        found["scikit-survival"] = concordance_index_censored(events, times, risk, tied_tol=0)[0]

    seconds = {"ours": repeat(ours, 1, warmup=0)[0], "scikit-survival": repeat(theirs, 1, warmup=0)[0]}
    assert found["ours"] is not None
    assert found["scikit-survival"] is not None
    return seconds, abs(found["ours"] - found["scikit-survival"])


def likelihood() -> tuple[dict[str, float], float]:
    """Median seconds of both passes of each loss, taken in turn; and the median of ours over cross-entropy's."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ITEMS, INTERVALS, generator=generator, requires_grad=True)
    edges = torch.arange(INTERVALS + 1.0)
    times = INTERVALS * torch.rand(ITEMS, generator=generator) + 1e-3
    events = torch.rand(ITEMS, generator=generator) < 0.7
    targets = torch.rand(ITEMS, INTERVALS, generator=generator).round()

    def seconds(loss: Callable[[], torch.Tensor]) -> float:
        def step() -> None:
            logits.grad = None
            loss().backward()

        return repeat(step, 1, warmup=0)[0]

    losses = {
        "hazards": lambda: hazard_nll(logits, times, events, edges).mean(),
        "cross-entropy": lambda: F.binary_cross_entropy_with_logits(logits, targets),
    }
    turns = [{name: seconds(loss) for name, loss in losses.items()} for _ in range(TURNS + 1)][1:]
    ratio = statistics.median(turn["hazards"] / turn["cross-entropy"] for turn in turns)
    return {name: statistics.median(turn[name] for turn in turns) for name in losses}, ratio


def main() -> None:
    """Compare, write the results and judge them."""
    torch.set_num_threads(1)
    ranks, apart = ranking()
    losses, losses_ratio = likelihood()
    ranks_ratio = ranks["ours"] / ranks["scikit-survival"]
    rows = [
        [
            "concordance",
            f"{ranks['ours']:.2f} s",
            f"scikit-survival {ranks['scikit-survival']:.2f} s",
            f"{ranks_ratio:.3f}",
        ],
        [
            "likelihood of hazards, both passes",
            f"{1000 * losses['hazards']:.0f} ms",
            f"binary cross-entropy {1000 * losses['cross-entropy']:.0f} ms",
            f"{losses_ratio:.2f}",
        ],
    ]
    reached = ranks_ratio <= 1 and apart < 1e-12 and losses_ratio <= MOST
    page = [
        "# Survival: speed",
        "",
        f"{ITEMS:,} items, 30 % of them censored; {INTERVALS} intervals. One thread; one call of each concordance, and",
        f"medians of {TURNS} turns of the losses. The concordances differ by {apart:.0e}.",
        "Written by `python -m benchmarks.survival`.",
        "",
        machine_line(),
        "",
        markdown_table(["", "ours", "against", "ours over it"], rows),
        "",
        "Target: concordance no slower than scikit-survival's, the likelihood at most "
        f"{MOST} times binary cross-entropy: {'reached' if reached else '**missed**'}.",
    ]
    ratios = {"concordance": ranks_ratio, "likelihood": losses_ratio}
    write_results("survival", {"seconds": {**ranks, **losses}, "ratios": ratios, "apart": apart}, "\n".join(page))
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
