"""The study of gradient descent with large steps: updates until separable rows are separated, and the loss on the way.

Tyurin, "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes", AAAI
2025, arXiv 2412.08424. The method itself is in `counterpoise.classify.normalized_lr_gd`.
"""

from __future__ import annotations

import math
import warnings
from itertools import permutations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.stats import spearmanr
from torch import Tensor

from counterpoise.classify.normalized_lr_gd import Separation, separate
from counterpoise.data import Images, load
from counterpoise.data.rows import is_rows, load_rows
from counterpoise.errors import InputError
from counterpoise.ops.checks import check_number, check_seed

WORST = "worst-case"
ROWS = (10, 100, 500, 1000, 2000, 5000, 10_000)  # of the worst case
TABLE = {("normalized", 100.0): 2, ("normalized", 10.0): 2, ("normalized", 1.0): 16, ("normalized", 0.1): 157}
TABLE |= {("logistic", 100.0): 308}  # updates at 1,000 rows of the worst case, by rule and step size (table 1)
GAMMAS = (1.0, 10.0, 100.0)
SWEEP = (0.01, 0.1, 1.0, 10.0, 100.0)
PERCEPTRONS = ("perceptron", "batch-perceptron", "normalized-perceptron")


def study(
    data: str, seed: int, majority: int = 800, minority: int = 12, sweep: bool = True, most: int = 5000
) -> dict[str, float]:
    r"""Run one seed of the claim: normalised steps separate imbalanced rows in fewer updates.

    Args:
        data: "worst-case" for the rows of `worst_case`, which no seed changes; or a data set, of which two classes are
            separated. Inputs of images are pixels from 0 to 1; a constant feature of 1 is added.
        seed: which two classes, and which of their rows.
        majority: rows of the first class, at least 1; fewer where there are no more.
        minority: rows of the second class, at least 1.
        sweep: whether gradient descent on the logistic loss is also run with steps from 0.01 to 100.
        most: updates after which a run gives up, at least 1.

    Returns:
        Of the worst case: "apart", the largest difference of five numbers of updates at 1,000 rows from those of the
        paper's table 1; "logistic 100 at N", "normalized 100 at N" and "normalized 1 at N" for 10 to 10,000 rows; and
        "growth logistic 100" and so on, the slope of their logarithms over that of N. Of a data set: "normalized G" and
        "logistic G", the updates by steps G of 1, 10 and 100, and those of three perceptrons; "log ratio", the
        logarithm of the best of the first over the best of the second; "unsolved", how many of these nine were given
        up, and count as `most`. With the sweep "rank loss" and "rank updates", the rank correlations of the step with
        the largest loss and with the number of updates; NaN where all of these are equal.

    Raises:
        InputError: for a number out of range, or data with fewer than two classes.

    Examples:
        >>> found = study("digits", seed=1, majority=60, minority=6, sweep=False, most=500)
        >>> found["unsolved"], found["normalized 100"] > 0
        (0.0, True)
    """
    check_seed(seed)
    for name, value in (("majority", majority), ("minority", minority), ("most", most)):
        check_number(name, value, at_least=1, whole=True)
    if data == WORST:
        return _worst_figures(most)
    a, y = _pair(data, seed, majority, minority)
    found: dict[str, float] = {}
    unsolved = 0
    for rule, gammas in (("normalized", GAMMAS), ("logistic", GAMMAS), *((rule, (1.0,)) for rule in PERCEPTRONS)):
        for gamma in gammas:
            one = _separated(a, y, gamma, rule, most)
            found[rule if rule in PERCEPTRONS else f"{rule} {gamma:g}"] = float(one.updates)
            unsolved += not one.solved
    best = [min(found[f"{rule} {gamma:g}"] for gamma in GAMMAS) for rule in ("normalized", "logistic")]
    found |= {"log ratio": math.log(best[0] / best[1]), "unsolved": float(unsolved)}
    return found | (_sweep(a, y, most) if sweep else {})


def worst_case(rows: int) -> tuple[Float64[Tensor, "rows 2"], Int64[Tensor, " rows"]]:
    """Rows that gradient descent on the logistic loss needs a number of updates for that grows with how many there are.

    Args:
        rows: at least 2: (0.5, -1) of class 1, and copies of (-0.5, -1) of class -1.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> a, y = worst_case(3)
        >>> a.tolist(), y.tolist()
        ([[0.5, -1.0], [-0.5, -1.0], [-0.5, -1.0]], [1, -1, -1])
    """
    check_number("rows", rows, at_least=2, whole=True)
    a = torch.tensor([-0.5, -1.0], dtype=torch.float64).repeat(rows, 1)
    y = torch.full((rows,), -1)
    a[0, 0], y[0] = 0.5, 1
    return a, y


def _worst_figures(most: int) -> dict[str, float]:
    a, y = worst_case(1000)
    apart = max(abs(_separated(a, y, gamma, rule, most).updates - known) for (rule, gamma), known in TABLE.items())
    found = {"apart": float(apart)}
    for rule, gamma in (("logistic", 100.0), ("normalized", 100.0), ("normalized", 1.0)):
        updates = [float(_separated(*worst_case(rows), gamma, rule, most).updates) for rows in ROWS]
        found |= {f"{rule} {gamma:g} at {rows}": one for rows, one in zip(ROWS, updates, strict=True)}
        found[f"growth {rule} {gamma:g}"] = float(np.polyfit(np.log(ROWS), np.log(updates), 1)[0])
    return found


def _sweep(a: Tensor, y: Tensor, most: int) -> dict[str, float]:
    runs = [_separated(a, y, gamma, "logistic", most) for gamma in SWEEP]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's, of equal numbers: the correlation is then NaN, as documented
        return {
            "rank loss": float(spearmanr(SWEEP, [float(run.losses.max()) for run in runs]).statistic),
            "rank updates": float(spearmanr(SWEEP, [run.updates for run in runs]).statistic),
        }


def _separated(a: Tensor, y: Tensor, gamma: float, rule: Any, most: int) -> Separation:
    """Without the warning of a run that gives up, which the figures count."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "separate: ")
        return separate(a, y, gamma, rule, most)


def _pair(data: str, seed: int, majority: int, minority: int) -> tuple[Tensor, Tensor]:
    """Rows of two classes with a constant feature, and 1 or -1; another ordered pair of classes for each seed."""
    train: Any = (load_rows(data) if is_rows(data) else load(data)).train
    classes = [int(label) for label in train.labels.unique() if label >= 0]
    if len(classes) < 2:
        raise InputError(f"data: expected at least 2 classes, got {len(classes)}")
    pairs = list(permutations(classes, 2))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in zip(pairs[int(order[seed % len(pairs)])], (majority, minority), strict=True):
        rows = (train.labels == label).nonzero().flatten()
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    rows = torch.cat(chosen)
    x = train.pixels[rows].flatten(1) / 255.0 if isinstance(train, Images) else train.inputs[rows]
    y = torch.ones(len(rows), dtype=torch.int64)
    y[len(chosen[0]) :] = -1
    return torch.cat([x.double(), x.new_ones(len(x), 1).double()], 1), y
