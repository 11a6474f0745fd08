"""The study of generalization difficulty: its bits against the error of nearest neighbours, on images and on spheres.

Boopathy, Liu, Hwang, Ge, Mohammedsaleh, Fiete, "Model-agnostic Measure of Generalization Difficulty", ICML 2023, arXiv
2305.01034. The measure itself is in `counterpoise.measure.generalization_difficulty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import linregress, spearmanr
from torch import Tensor

from counterpoise.data import load
from counterpoise.errors import unknown
from counterpoise.measure.generalization_difficulty import (
    ESTIMATES,
    classification_space,
    difficulty,
    intrinsic_dimension,
)
from counterpoise.measure.probes import knn_accuracy
from counterpoise.ops.checks import check_number, check_seed

SPHERES = range(2, 11)  # dimensions
GAP = 0.3  # distance between the two classes on a sphere of radius 1


def study(
    data: str,
    seed: int,
    samples: int = 1000,
    error: float = 0.01,
    resolution: Literal["sample", "evt"] = "sample",
    above: float = 0.0,
) -> dict[str, float]:
    """Run one seed of the claim: tasks that demand more inductive bias have a larger error of nearest neighbours.

    Args:
        data: names of data sets, separated by commas; "spheres" stands for nine tasks, the quarters of spheres of
            dimension 2 to 10 in a space of 50 dimensions, with a known distance between classes.
        seed: of the subsets.
        samples: number of training points of each task, at least 2.
        error: the error wanted of each task, above 0.
        resolution: estimate of the smallest distance between classes, but for the spheres, where it is known: "sample"
            takes the smallest one of the training points, "evt", the authors' default, extrapolates it to all pairs.
        above: distances between classes up to this one do not count in that estimate.

    Returns:
        Means over the tasks: "log10_bits", "dimension" before it is rounded, "resolution", "frequency", and
        "knn_error", the test error of nearest neighbours. For several tasks also "rank_correlation" of bits and error,
        and "slope", that of "log10_bits" over the dimension.

    Raises:
        InputError: for an unknown data set or estimate, or numbers out of range.

    Examples:
        >>> found = study("spheres", seed=1, samples=200)
        >>> found["slope"] > 0.1, round(found["frequency"])
        (True, 21)
    """
    check_seed(seed)
    check_number("samples", samples, at_least=2, whole=True)
    check_number("error", error, above=0)
    check_number("above", above, at_least=0)
    if resolution not in ESTIMATES:
        raise unknown("resolution", resolution, ESTIMATES)
    tasks = [task for name in data.split(",") for task in _tasks(name, seed, samples, resolution)]
    found = [_evaluate(task, error, seed, above) for task in tasks]
    figures = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    if len(found) > 1:
        bits = [one["log10_bits"] for one in found]
        figures["rank_correlation"] = float(spearmanr(bits, [one["knn_error"] for one in found]).statistic)
        figures["slope"] = float(linregress([one["dimension"] for one in found], bits).slope)
    return figures


@dataclass(frozen=True, eq=False)
class _Task:
    """Training and test points with their labels, and the resolution where it is known."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    resolution: float | str


def _tasks(name: str, seed: int, samples: int, resolution: str) -> list[_Task]:
    generator = torch.Generator().manual_seed(seed)
    if name == "spheres":
        return [_quarters(dimension, samples, generator) for dimension in SPHERES]
    train, test = load(name)
    drawn = torch.randperm(len(train), generator=generator)[:samples]
    train = train.subset(drawn)
    points, asked = (part.pixels.flatten(1).float() / 255 for part in (train, test))
    return [_Task(points, train.labels, asked, test.labels, resolution)]


def _quarters(dimension: int, samples: int, generator: torch.Generator, ambient: int = 50) -> _Task:
    """A task on a randomly rotated sphere: its quarters without the bands between; opposite quarters form a class."""
    rotation = torch.linalg.qr(torch.randn(ambient, ambient, generator=generator)).Q
    points = torch.randn(12 * samples, dimension + 1, generator=generator)
    points = points / torch.linalg.vector_norm(points, dim=1, keepdim=True)
    points = points[(points[:, :2].abs() >= GAP / 2).all(1)][: 2 * samples]
    train, test = (points @ rotation[: dimension + 1]).split(samples)
    train_labels, test_labels = (points[:, 0] * points[:, 1] > 0).long().split(samples)
    return _Task(train, train_labels, test, test_labels, GAP)


def _evaluate(task: _Task, error: float, seed: int, above: float) -> dict[str, float]:
    dimension = intrinsic_dimension(task.train, seed=seed)
    space = classification_space(task.train, task.train_labels, max(1, round(dimension)), task.resolution, seed, above)
    classes = int(max(task.train_labels.max(), task.test_labels.max())) + 1
    accuracy = knn_accuracy(task.train, task.train_labels, task.test, task.test_labels, classes)
    return {
        "log10_bits": difficulty(space, len(task.train), error).log10_bits,
        "dimension": dimension,
        "resolution": space.resolution,
        "frequency": space.frequency,
        "knn_error": 1 - accuracy,
    }
