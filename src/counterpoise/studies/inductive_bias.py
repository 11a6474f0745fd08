"""The study of inductive bias: tasks of rising dimension, from sines and from two classes of a data set.

Boopathy, Yue, Hwang, Iyer, Fiete, "Towards Exact Computation of Inductive Bias", IJCAI 2024, arXiv 2406.15941. The
measure itself is in `counterpoise.measure.inductive_bias`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from counterpoise.data import load
from counterpoise.errors import unknown
from counterpoise.measure.generalization_difficulty import classification_space, difficulty
from counterpoise.measure.inductive_bias import Bias, inductive_bias, kernel_losses, network_losses, perceptron
from counterpoise.ops.checks import check_number, check_seed

Task = tuple[Tensor, Tensor, Tensor, Tensor]  # training points and targets, test points and targets

SPACES = ("kernel", "network")
DIMENSIONS = {"sines": range(1, 13), "components": range(2, 17, 2)}  # of the tasks


def study(
    data: str,
    seed: int,
    space: str = "kernel",
    scaled: bool = False,
    error: float = 0.2,
    hypotheses: int = 2000,
    samples: int = 40,
) -> dict[str, float]:
    r"""Run one seed of the claim: tasks of more dimensions need more inductive bias.

    Args:
        data: "sines" for $\sin(2 \sum x)$ on uniform x in [-1, 1] in 1 to 12 dimensions; or a data set, for the
            classification (±1) of its first two classes by their first 2 to 16 principal components.
        seed: of points, hypotheses and weights.
        space: "kernel" (a Gaussian process) or "network" (perceptrons from random starts).
        scaled: whether the kernel's width is $\sqrt d$ in d dimensions; if not, it is 1.
        error: the mean squared error wanted, above 0.
        hypotheses: number of hypotheses for each task, at least 2.
        samples: number of training points of each task, at least 1; each has 60 test points.

    Returns:
        Means over the tasks: "nats" of bias, the hypotheses' "loss", for networks their "train_loss", and for a data
        set "bound_over", the decimal logarithm of the ratio (1 + bound) / (1 + bias) in bits, with the bound of
        `generalization_difficulty`. Also "rank_correlation" of nats and dimensions (NaN if all nats are equal), and
        "rise", the nats of the task of most dimensions less those of the task of fewest.

    Examples:
        >>> found = study("sines", seed=1, hypotheses=200)
        >>> found["rank_correlation"] > 0, found["rise"] > 0
        (True, True)
    """
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    check_seed(seed)
    check_number("error", error, above=0)
    check_number("hypotheses", hypotheses, at_least=2, whole=True)
    check_number("samples", samples, at_least=1, whole=True)
    dimensions = DIMENSIONS["sines" if data == "sines" else "components"]
    found: list[dict[str, float]] = []
    for dimension in dimensions:
        task = _task(data, dimension, samples, seed)
        if space == "kernel":
            losses = kernel_losses(*task, math.sqrt(dimension) if scaled else 1.0, hypotheses, seed)
            fitted = {}
        else:
            network = perceptron(dimension, 1, width=32)
            losses, train = network_losses(network, *task, hypotheses, 100, batch_size=samples, lr=0.01, seed=seed)
            fitted = {"train_loss": float(train.mean())}
        bias = inductive_bias(losses, error)
        bound = {} if data == "sines" else {"bound_over": _bound_over(task, bias, error)}
        found.append({"nats": bias.nats, "loss": float(losses.mean()), **fitted, **bound})
    nats = [one["nats"] for one in found]
    figures = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return {**figures, "rank_correlation": float(spearmanr(dimensions, nats).statistic), "rise": nats[-1] - nats[0]}


def _bound_over(task: Task, bias: Bias, error: float) -> float:
    """Decimal logarithm of the ratio of the bound on the bias to the bias, one bit added to either."""
    points, targets = task[:2]
    functions = classification_space(points, (targets[:, 0] > 0).long(), points.shape[1])
    bound = difficulty(functions, len(points), error).bits
    return math.log10(1 + bound) - math.log10(1 + bias.bits)


def _task(data: str, dimension: int, samples: int, seed: int, asked: int = 60) -> Task:
    generator = torch.Generator().manual_seed(seed)
    if data == "sines":
        points = 2 * torch.rand(samples + asked, dimension, generator=generator) - 1
        targets = (2 * points.sum(1)).sin()
    else:
        scores, labels = _components(data)
        points = scores[:, :dimension]
        points = (points / points.square().mean().sqrt()).float()
        drawn = torch.randperm(len(points), generator=generator)[: samples + asked]
        points, targets = points[drawn], 2.0 * labels[drawn] - 1
    targets = targets[:, None]
    return points[:samples], targets[:samples], points[samples:], targets[samples:]


@lru_cache(maxsize=1)
def _components(data: str) -> tuple[Tensor, Tensor]:
    """The principal components of images of a data set's first two classes, and the labels of these images."""
    images = load(data).train
    images = images.subset((images.labels < 2).nonzero().flatten())
    pixels = images.pixels.flatten(1).double()
    scores = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    return scores.U * scores.S, images.labels
