"""NT-Xent, forward and backward: time and memory against the plain form, lightly and pytorch-metric-learning.

Every figure is a process of its own on two threads, D = 128, N = 2B rows of two views. Exits with status 1 where a
target is missed: `python -m benchmarks.similarity [--largest B]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib
import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import RESULTS, Measured, alone, machine_line, markdown_table, repeat, write_results
from counterpoise.contrast.simclr import nt_xent
from counterpoise.files import written
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp, similarity_softmax

DIM, TEMPERATURE, THREADS = 128, 0.1, 2
SIZES = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
SMALL, FORMS_AT, LARGE, LARGEST = 256, 4096, 16384, 65536
ROOM = 0.85  # of the free memory that a form may be expected to take
GROWTH = {"ours": 2, "ours, bfloat16 tiles": 2, "pytorch-metric-learning": 8}  # of memory with B doubled; others: 4


def plain(z1: Tensor, z2: Tensor) -> Tensor:
    """NT-Xent as one writes it: the whole matrix into a cross-entropy."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def ours(z1: Tensor, z2: Tensor) -> Tensor:
    """NT-Xent on the streaming primitive."""
    return nt_xent(z1, z2, TEMPERATURE)


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function behind a column's name."""
    if name == "lightly":
        from lightly.loss import NTXentLoss

        return NTXentLoss(TEMPERATURE)
    if name == "pytorch-metric-learning":
        from pytorch_metric_learning.losses import NTXentLoss

        loss = NTXentLoss(TEMPERATURE)
        return lambda z1, z2: loss(torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2))
    if name == "ours, bfloat16 tiles":
        torch.set_float32_matmul_precision("medium")
    return plain if name == "plain" else ours


NAMES = ["ours", "ours, bfloat16 tiles", "plain", "lightly", "pytorch-metric-learning"]


def step(loss: Callable[[Tensor, Tensor], Tensor], z1: Tensor, z2: Tensor) -> Tensor:
    """One forward and backward pass."""
    z1.grad = z2.grad = None
    value = loss(z1, z2)
    value.backward()
    return value


def prepare(name: str, batch: int) -> Callable[[], Tensor]:
    """The step to be timed."""
    z1, z2 = (torch.randn(batch, DIM, requires_grad=True) for _ in range(2))
    return partial(step, loss_of(name), z1, z2)


def measure_all(largest: int) -> dict[str, dict[int, Measured]]:
    """Every form at every size for which its memory, as it grew so far, is expected to suffice."""
    found: dict[str, dict[int, Measured]] = {name: {} for name in NAMES}
    for batch in [size for size in SIZES if size <= largest]:
        for name in NAMES:
            before = found[name].get(batch // 2)
            room = ROOM * psutil.virtual_memory().available / 1e6
            if batch > SIZES[0] and (before is None or GROWTH.get(name, 4) * before.peak_mb > room):
                continue
            repeats = 3 if batch >= 8192 else 7 if batch >= 1024 else 50
            found[name][batch] = alone(prepare, name, batch, repeats=repeats, threads=THREADS)
            print(f"{batch} {name}: {found[name][batch].median:.4f} s, {found[name][batch].peak_mb:.0f} MB", flush=True)
    return found


def prepare_side_by_side(batch: int) -> Callable[[], list[float]]:
    """Seconds of ours and of the plain form in turn, in one process, for sizes at which a process's start matters."""
    pairs = [prepare(name, batch) for name in ("ours", "plain")]
    return lambda: [repeat(pair, repeats=1, warmup=0)[0] for pair in pairs]


def small_ratio(batch: int, turns: int = 200) -> float:
    """Median time of ours over that of the plain form, taken in turn."""
    torch.set_num_threads(THREADS)
    both = prepare_side_by_side(batch)
    for _ in range(20):
        both()
    mine, theirs = zip(*(both() for _ in range(turns)), strict=True)
    return sorted(mine)[turns // 2] / sorted(theirs)[turns // 2]


def forms(batch: int) -> dict[str, Callable[[], Tensor]]:
    """The primitive as objectives use it, on the same rows."""
    z = normalize_rows(torch.randn(2 * batch, DIM)).requires_grad_()
    row, sample = torch.arange(2 * batch), torch.arange(batch).repeat(2)
    labels, scales = torch.randint(0, 10, (2 * batch,)), 1 / (0.05 + torch.rand(2 * batch))
    weights, scale = torch.randn(2 * batch), 1 / TEMPERATURE
    made = {
        "InfoNCE: without itself": lambda: similarity_logsumexp(z, scale=scale, exclude=row),
        "DCL: without its sample": lambda: similarity_logsumexp(z, scale=scale, exclude=sample),
        "without its class (10 of them)": lambda: similarity_logsumexp(z, scale=scale, exclude=labels),
        "only its class": lambda: similarity_logsumexp(z, scale=scale, exclude=row, only=labels),
        "a weight for each key": lambda: similarity_logsumexp(z, scale=scale, exclude=row, log_weights=weights),
        "CACR: and the mean": lambda: sum(similarity_softmax(z, scale=2.0, exclude=row)),
        "iSogCLR: a scale for each row, and the mean": lambda: sum(similarity_softmax(z, scale=scales, exclude=sample)),
        "a running maximum (temperature 0.01)": lambda: similarity_logsumexp(z, scale=100.0, exclude=row),
        "rows against other rows": lambda: similarity_logsumexp(z, z.detach(), scale, exclude=(row, row)),
    }
    return {name: partial(_backward, form) for name, form in made.items()}


def _backward(form: Callable[[], Any]) -> None:
    form().mean().backward()


def form_ratios(batch: int, turns: int = 7) -> dict[str, float]:
    """Time of every form over InfoNCE's, the median of ratios taken in turn."""
    torch.set_num_threads(THREADS)
    made = forms(batch)
    ratios: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(turns):
        seconds = {name: repeat(form, repeats=1, warmup=0)[0] for name, form in made.items()}
        first = next(iter(seconds.values()))
        for name, value in seconds.items():
            ratios[name].append(value / first)
    return {name: sorted(values)[turns // 2] for name, values in ratios.items()}


def peak_flops(dtype: torch.dtype, size: int = 4096) -> float:
    """What a large product of square matrices reaches on this machine, in floating-point operations a second."""
    torch.set_num_threads(THREADS)
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / min(repeat(lambda: a @ b, repeats=5))


def breakdown(name: str, batch: int) -> dict[str, float]:
    """The share of the time in each kind of operation."""
    torch.set_num_threads(THREADS)
    run = prepare(name, batch)
    run()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    torch.set_float32_matmul_precision("highest")
    kinds = {"aten::mm": "products", "aten::addmm_": "products", "aten::exp": "exponentials", "aten::sum": "sums"}
    times: dict[str, float] = {"products": 0.0, "exponentials": 0.0, "sums": 0.0, "the rest": 0.0}
    for event in seen.key_averages():
        times[kinds.get(event.key, "the rest")] += event.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def flops(batch: int) -> float:
    """Of the products that the symmetric form needs: half a matrix forward; half of it again, and twice half, back."""
    return 4 * (2 * batch) ** 2 / 2 * 2 * DIM


def plot(found: dict[str, dict[int, Measured]]) -> None:
    """Time and memory against the batch size, on logarithmic axes."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, label, value in zip(
        axes, ("seconds", "peak memory, MB"), (lambda m: m.median, lambda m: max(m.peak_mb, 1)), strict=True
    ):
        for name, measured in found.items():
            axis.loglog(list(measured), [value(m) for m in measured.values()], marker="o", markersize=3, label=name)
        axis.set_xlabel("batch size B (2B rows)")
        axis.set_title(label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    with written(RESULTS / "similarity.png") as aside:
        figure.savefig(aside, dpi=110)


def main() -> None:
    """Measure, write the results, and judge the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=LARGEST, help="the largest batch size")
    largest = parser.parse_args().largest
    found = measure_all(largest)
    small = small_ratio(SMALL)
    ratios = form_ratios(FORMS_AT)
    peaks = {"ours": peak_flops(torch.float32), "ours, bfloat16 tiles": peak_flops(torch.bfloat16)}
    at = max(found["ours"])
    shares = {name: flops(at) / found[name][at].median / peak for name, peak in peaks.items()}
    parts = {name: breakdown(name, FORMS_AT) for name in peaks}
    targets = judged(found, small, ratios)
    slowest = found["lightly"].get(LARGE)
    bounds = {name: slowest.median * peak / flops(LARGE) if slowest else None for name, peak in peaks.items()}
    plot(found)
    content = {
        "dim": DIM,
        "threads": THREADS,
        "measured": {n: {b: m._asdict() for b, m in sizes.items()} for n, sizes in found.items()},
        "small_ratio": small,
        "forms": ratios,
        "peak_gflops": {name: peak / 1e9 for name, peak in peaks.items()},
        "share_of_peak": shares,
        "bound_over_lightly": bounds,
        "breakdown": parts,
        "targets": [{"target": t, "figure": f, "reached": r} for t, f, r in targets],
    }
    write_results("similarity", content, page(found, ratios, peaks, shares, bounds, parts, targets, at))
    sys.exit(0 if all(reached for *_, reached in targets) else 1)


def judged(
    found: dict[str, dict[int, Measured]], small: float, ratios: dict[str, float]
) -> list[tuple[str, str, bool]]:
    """Each target with what was measured, and whether it is reached."""
    targets = []
    lightly = found["lightly"].get(LARGE)
    if lightly:
        for name, least in (("ours", 8), ("ours, bfloat16 tiles", 25)):
            ratio = lightly.median / found[name][LARGE].median
            targets.append(
                (f"{name}: at least {least}× as fast as lightly at {LARGE:,}", f"{ratio:.1f}×", ratio >= least)
            )
        memory = lightly.peak_mb / found["ours"][LARGE].peak_mb
        targets.append((f"ours: at most 1/20 of lightly's memory at {LARGE:,}", f"1/{memory:.0f}", memory >= 20))
    targets.append((f"ours over plain at {SMALL}: at most 1.10", f"{small:.2f}", small <= 1.1))
    if LARGEST in found["ours"]:
        peak = found["ours"][LARGEST].peak_mb
        targets.append((f"ours: at most 2,000 MB at {LARGEST:,}", f"{peak:.0f} MB", peak <= 2000))
    worst = max(ratios, key=ratios.__getitem__)
    figure = f"{ratios[worst]:.2f} ({worst})"
    targets.append(("every other form over InfoNCE: at most 1.50", figure, ratios[worst] <= 1.5))
    return targets


def page(
    found: dict[str, dict[int, Measured]],
    ratios: dict[str, float],
    peaks: dict[str, float],
    shares: dict[str, float],
    bounds: dict[str, float | None],
    parts: dict[str, dict[str, float]],
    targets: list[tuple[str, str, bool]],
    at: int,
) -> str:
    """The results as Markdown."""

    def cell(measured: Measured | None) -> str:
        return "—" if measured is None else f"{measured.median:.4g} s, {measured.peak_mb:,.0f} MB"

    sizes = sorted({size for measured in found.values() for size in measured})
    table = [[f"{size:,}", *(cell(found[name].get(size)) for name in NAMES)] for size in sizes]
    lines = [
        "# Similarity: time and memory of NT-Xent",
        "",
        f"Forward and backward, D = {DIM}, N = 2B rows, {THREADS} threads; the median time, and by how much the peak",
        "memory of the process rose. — where it needs more memory than there is. By `python -m benchmarks.similarity`.",
        "",
        machine_line(),
        "",
        markdown_table(["B", *NAMES], table),
        "",
        "![Time and memory against batch size](similarity.png)",
        "",
        "## Targets",
        "",
        markdown_table(["target", "measured", "reached"], [[t, f, "yes" if r else "**no**"] for t, f, r in targets]),
        "",
        "## Other forms of the primitive",
        "",
        f"Time over InfoNCE's, forward and backward, {2 * FORMS_AT:,} rows, taken in turn in one process.",
        "",
        markdown_table(["form", "time"], [[name, f"{ratio:.2f}"] for name, ratio in ratios.items()]),
        "",
        "## Where the time goes",
        "",
        f"Share of the peak: the products that the symmetric form needs at B = {at:,}, over its time, as a share of",
        f"what a 4096³ product reaches here. Bound: how many times as fast as lightly at B = {LARGE:,} it were with",
        f"these products at the peak and nothing else. The other columns: shares of the time at B = {FORMS_AT:,}.",
        "",
        markdown_table(
            ["", "peak, GFLOP/s", "share of the peak", "bound", *next(iter(parts.values()))],
            [
                [
                    name,
                    f"{peaks[name] / 1e9:.0f}",
                    f"{shares[name]:.0%}",
                    f"{bounds[name]:.1f}×" if bounds[name] else "—",
                    *(f"{x:.0%}" for x in parts[name].values()),
                ]
                for name in peaks
            ],
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
