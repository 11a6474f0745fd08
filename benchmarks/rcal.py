"""RCAL's Gaussians of 100 classes: seconds from features to what is drawn from, and drawing beside loops over classes.

Exits with status 1 where modelling and calibrating take more than 15 s, or drawing is less than 10 times as fast as a
loop of PyTorch's factors and products over the classes: `python -m benchmarks.rcal`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Measured, alone, machine_line, markdown_table, write_results
from counterpoise.classify.rcal import calibrate, draw, head_classes, inliers, robust_gaussians
from counterpoise.learners.gaussians import Gaussians

CLASSES, DIM, ROWS, DRAWN = 100, 512, 50_000, 50
MOST, LEAST = 15, 10
OURS, PLAIN = "`draw`", "a loop of factors and products"
TORCH, NUMPY = "a loop of torch's MultivariateNormal", "a loop of NumPy's multivariate_normal"
TOGETHER, LOOP, HALF = "all in one call", "a loop", "all in one call, in float32"
PRODUCT = "as many operations of a matrix product"


def features() -> tuple[Tensor, Tensor]:
    """Features of a long tail of classes, about centres of their own."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.multinomial(0.97 ** torch.arange(CLASSES), ROWS, replacement=True, generator=rng)
    centres = torch.randn(CLASSES, DIM, generator=rng)
    return centres[labels] + torch.randn(ROWS, DIM, generator=rng), labels


def calibrated(z: Tensor, labels: Tensor) -> Gaussians:
    """What RCAL does before it draws: outliers, Gaussians, and what rare classes borrow."""
    found = robust_gaussians(z, labels, CLASSES, inliers(z, labels))
    return calibrate(found, head_classes(found.counts))


def with_factors(g: Gaussians) -> list[Tensor]:
    """One factor after the other, and no more than is needed."""
    added, rows = 1e-6 * torch.eye(DIM, dtype=torch.float64), torch.Size([DRAWN, DIM])
    pairs = zip(g.mean, g.covariance, strict=True)
    return [mean + torch.randn(rows).double() @ torch.linalg.cholesky(cov + added).T for mean, cov in pairs]


def with_torch(g: Gaussians) -> list[Tensor]:
    """One distribution after the other."""
    added = 1e-6 * torch.eye(DIM, dtype=torch.float64)
    pairs = zip(g.mean, g.covariance, strict=True)
    return [torch.distributions.MultivariateNormal(mean, cov + added).sample((DRAWN,)) for mean, cov in pairs]


def with_numpy(g: Gaussians) -> list[np.ndarray]:
    """One class after the other, by singular values."""
    rng = np.random.default_rng(0)
    pairs = zip(g.mean.numpy(), g.covariance.numpy(), strict=True)
    return [rng.multivariate_normal(mean, cov, DRAWN) for mean, cov in pairs]


def factors(name: str, g: Gaussians) -> Callable[[], object]:
    """The factors alone; in float32 of matrices that are farther from singular, as they must be there."""
    single = name == HALF
    matrices = g.covariance.to(torch.float32 if single else torch.float64)
    matrices = matrices + (1e-3 if single else 1e-6) * torch.eye(DIM)
    if (
        name == PRODUCT
    ):  # of a class DIM³ / 3 multiplications with an addition; a product of DIM / 3 columns has as many
        return lambda: [x @ x[:, : DIM // 3] for x in matrices]
    if name == LOOP:
        return lambda: [torch.linalg.cholesky(x) for x in matrices]
    return partial(torch.linalg.cholesky_ex, matrices)


def prepare(name: str) -> Callable[[], object]:
    """The call to be timed."""
    z, labels = features()
    if name == "calibrate":
        return partial(calibrated, z, labels)
    g = calibrate(robust_gaussians(z, labels, CLASSES), torch.arange(CLASSES) < CLASSES // 4)
    if name in (TOGETHER, LOOP, HALF, PRODUCT):
        return factors(name, g)
    if name == OURS:
        return partial(draw, g, torch.full((CLASSES,), DRAWN))
    return partial({PLAIN: with_factors, TORCH: with_torch, NUMPY: with_numpy}[name], g)


def page(calibration: Measured, drawn: dict[str, Measured], factorised: dict[str, Measured]) -> str:
    """The tables and what they mean."""
    reached = drawn[PLAIN].median >= LEAST * drawn[OURS].median
    least = drawn[PLAIN].median / factorised[PRODUCT].median
    return "\n\n".join(
        [
            "# RCAL: Gaussians of classes",
            f"{ROWS:,} features of {DIM} numbers in {CLASSES} classes, each call in its own process. Seconds "
            "are the processor's, on one thread. "
            f"Outliers, models of all classes and what rare ones borrow take {calibration.median:.1f} s; target: at "
            f"most {MOST} s, {'reached' if calibration.median <= MOST else '**missed**'}. Then {DRAWN} features are "
            "drawn of each class:",
            _table("drawn by", drawn, OURS),
            f"Target: `draw` at least {LEAST}× as fast as a plain loop of PyTorch's factors and products: "
            f"{'reached' if reached else '**missed**'}, {drawn[PLAIN].median / drawn[OURS].median:.1f}×. The factors "
            "by themselves:",
            _table("factorised by", factorised, TOGETHER),
            "A processor factorises one matrix after the other, in one call as in a loop. As many operations at the "
            f"rate of a matrix product would make the whole loop {least:.1f}× as fast, and draw nothing. float32 "
            "factorises only covariances that are farther from singular, as those of fewer features than numbers are "
            "not. Whether many at once are faster on an accelerator was not measured.",
            f"{machine_line()} `python -m benchmarks.rcal`",
        ]
    )


def _table(heading: str, found: dict[str, Measured], ours: str) -> str:
    rows = [[name, f"{one.median:.2f}", f"{one.median / found[ours].median:.1f}×"] for name, one in found.items()]
    return markdown_table([heading, "s", "time over the first"], rows)


def main() -> None:
    """Measure, write the page and judge it."""
    calibration = alone(prepare, "calibrate", repeats=1, threads=1, clock=time.process_time)
    drawn, factorised = (
        {name: alone(prepare, name, repeats=5, threads=1, clock=time.process_time) for name in names}
        for names in ((OURS, PLAIN, TORCH, NUMPY), (TOGETHER, LOOP, HALF, PRODUCT))
    )
    found = {"calibrate": calibration, **drawn, **{f"factors: {name}": one for name, one in factorised.items()}}
    ratios = {name: drawn[name].median / drawn[OURS].median for name in (PLAIN, TORCH, NUMPY)}
    seconds = {name: one.seconds for name, one in found.items()}
    write_results("rcal", {"seconds": seconds, "ratios": ratios}, page(calibration, drawn, factorised))
    sys.exit(0 if calibration.median <= MOST and ratios[PLAIN] >= LEAST else 1)


if __name__ == "__main__":
    main()
