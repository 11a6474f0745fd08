"""The study of comp-sum losses: whether their H-consistency bounds hold, and how tight, on problems solved exactly.

Mao, Mohri, Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML 2023, arXiv 2304.07288.
The losses and the bounds are in `counterpoise.classify.comp_sum`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoise.classify.comp_sum import comp_sum, conditional_minimum, excess_bound
from counterpoise.errors import unknown
from counterpoise.ops.checks import check_number, check_seed

DATA = ("table", "constant")
SCALES = (0.01, 0.1, 1.0, 5.0)  # of the drawn scores


def study(
    data: str, seed: int, tau: float = 1.0, classes: int = 4, points: int = 3, problems: int = 200
) -> dict[str, float]:
    r"""Draw problems of a few points with known distributions of the label, and compare both sides of the bound.

    Both sets of functions are symmetric and complete, so that the bound holds: every zero-one excess is at most
    $\Gamma_\tau$ of the loss's excess, the gaps included. With a constant function both gaps are above 0.

    Args:
        data: "table", functions that give each point scores of its own; or "constant", the same scores to all points.
        seed: of distributions and scores.
        tau: at least 0.
        classes: at least 2.
        points: number of points of a problem, which all weigh alike, at least 1.
        problems: how many, at least 1.

    Returns:
        "slack", the least over the problems of bound less excess, below 0 only where the bound fails; "tightness", the
        largest ratio of excess and bound; and the means of "gap" and "gap_01", the minimizability gaps of the loss and
        of the zero-one loss.

    Examples:
        >>> found = study("constant", seed=0, problems=50)
        >>> found["slack"] > -1e-9, found["gap"] > 0, found["tightness"] <= 1
        (True, True, True)
    """
    if data not in DATA:
        raise unknown("data", data, DATA)
    check_seed(seed)
    check_number("tau", tau, at_least=0)
    check_number("classes", classes, at_least=2, whole=True)
    check_number("points", points, at_least=1, whole=True)
    check_number("problems", problems, at_least=1, whole=True)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(problems):
        concentration = 3 * torch.rand(1, generator=generator, dtype=torch.float64)
        p = (torch.randn(points, classes, generator=generator, dtype=torch.float64) * concentration).softmax(1)
        rows = points if data == "table" else 1
        scores = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * SCALES[number % len(SCALES)]
        found.append(_sides(p, scores.expand(points, classes), data, tau))
    excess, bound, gap, gap_01 = torch.tensor(found, dtype=torch.float64).T
    return {
        "slack": float((bound - excess).min()),
        "tightness": float((excess / bound.clamp(min=1e-12)).max()),
        "gap": float(gap.mean()),
        "gap_01": float(gap_01.mean()),
    }


def _sides(p: Tensor, scores: Tensor, data: str, tau: float) -> tuple[float, float, float, float]:
    """The zero-one excess and its bound, gaps included; and the gaps.

    Risk less least risk plus gap is risk less the mean of the pointwise minima, for both losses; the least risk of
    constants is the pointwise minimum of the mean distribution.
    """
    classes = p.shape[1]
    each = torch.stack([comp_sum(scores, torch.full((len(p),), k), tau) for k in range(classes)], dim=1)
    pointwise, pointwise_01 = conditional_minimum(p, tau).mean(), 1 - p.amax(1).mean()
    excess = (1 - p.gather(1, scores.argmax(1)[:, None]).mean()) - pointwise_01
    bound = excess_bound(max(0.0, float((p * each).sum(1).mean() - pointwise)), tau, classes)
    if data == "table":
        return float(excess), bound, 0.0, 0.0
    whole = p.mean(0)
    gap, gap_01 = conditional_minimum(whole, tau) - pointwise, (1 - whole.amax()) - pointwise_01
    return float(excess), bound, float(gap), float(gap_01)
