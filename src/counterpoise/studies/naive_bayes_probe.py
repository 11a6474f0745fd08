"""The study of naive Bayes beside logistic regression: labels that many features need, and errors with few labels.

Zheng, Wu, Bao, Cao, Li, Zhu, "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications", ICML
2023, arXiv 2302.02334. The classifier itself is in `counterpoise.classify.naive_bayes_probe`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from torch import Tensor, nn
from torch.nn import functional

from counterpoise.classify.naive_bayes_probe import naive_bayes
from counterpoise.data import Images, load
from counterpoise.data.rows import is_rows, load_rows
from counterpoise.data.views import to_input
from counterpoise.errors import InputError, unknown
from counterpoise.nets import backbone, embed
from counterpoise.nets.minimize import train_one_cycle
from counterpoise.ops.checks import check_number, check_seed

Mode = Literal["easy", "hard"]
Fitted = Literal["naive-bayes", "logistic"]

SIMULATED = "gaussians"
DIMENSIONS = (50, 100, 200, 400)  # of the simulation
SIZES = (20, 30, 50, 100, 200, 500, 1000)  # labels of a probe
FEW, MANY = 30, 200  # at most so many labels are few; at least so many are many
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of logistic regression
ITERATIONS = 1000
EPOCHS = 3  # of the network whose features are probed
TEST = 10_000


def study(
    data: str,
    seed: int,
    classes: int = 3,
    mode: Mode = "easy",
    source: str | None = None,
    floor: float = 1e-9,
    relative: float = 0.0,
    repeats: int = 5,
    tuned: bool = True,
) -> dict[str, float]:
    """Run one seed of the claim: naive Bayes needs fewer labels than logistic regression, which needs more of them.

    Args:
        data: "gaussians" for the simulation, in 50, 100, 200 and 400 dimensions; or a data set, whose inputs are probed
            with 20 to 1,000 labels.
        seed: of all that is drawn.
        classes: of the simulation, at least 2.
        mode: of the simulation: "easy" for features that are independent within a class, "hard" for dependent ones.
        source: a data set; a small network is trained on its classes first, and its features are probed instead of the
            inputs of the other.
        floor: as of `naive_bayes`, above 0.
        relative: as of `naive_bayes`.
        repeats: draws of the labelled rows of a probe, at least 1.
        tuned: whether to probe with a logistic regression, too, whose strength is chosen by cross-validation.

    Returns:
        Of the simulation: "nb N" and "lr N", the least number of labels in N dimensions by which an error within 0.01
        of the least possible is reached; "slope nb", "slope lr" and "slope difference" (of the second less the first),
        of their logarithms over that of N. Of a data set: "nb M", "lr M", "cv M" and "mean M", the errors with M labels
        of naive Bayes, of logistic regression (C = 1), of the one that is tuned, and of the nearest class mean; "few"
        and "many", what naive Bayes' error is above that of logistic regression, as the mean over at most 30 and over
        at least 200 labels; "few cv" and "many cv", the same beside the tuned one; "crossing", the least M by which
        logistic regression is better, NaN where it never is.

    Raises:
        InputError: for an unknown word, a number out of range, or too little data.

    Examples:
        >>> found = study("digits", seed=1, repeats=1, tuned=False)
        >>> found["nb 1000"] > found["lr 1000"]
        True
    """
    if mode not in get_args(Mode):
        raise unknown("mode", mode, get_args(Mode))
    check_seed(seed)
    check_number("classes", classes, at_least=2, whole=True)
    check_number("floor", floor, above=0)
    check_number("relative", relative, at_least=0)
    check_number("repeats", repeats, at_least=1, whole=True)
    if data == SIMULATED:
        return _simulation(classes, mode, seed)
    rows = _inputs(data) if source is None else _network_features(source, data, seed)
    return _probes(rows, seed, floor, relative, repeats, tuned)


# --- the simulation ---


def simulate(
    samples: int, features: int, classes: int, mode: Mode = "easy", seed: int = 0
) -> tuple[Float64[Tensor, "samples features"], Int64[Tensor, " samples"]]:
    r"""Rows of Gaussian classes, of which naive Bayes in "easy" mode is the right model.

    The mean of class 0 is -1 in every coordinate, that of class k is $2^{k-1}$. Within a class the variance is n =
    `features` in the first half of the coordinates and 1 in the others. With more than 2 classes, x becomes $(x - s) /
    s$ with $s = 2^{K-3}$. In "hard" mode coordinates depend on each other: off the diagonal of the covariance stands
    that of $A^\top A$, A with entries uniform in [-1, 1], the same for every seed. Such a matrix has negative
    eigenvalues, of which the absolute values are taken, as NumPy does in the authors' code.

    Args:
        samples: rows, as evenly divided among the classes as can be, class by class.
        features: n, at least 1.
        classes: K, at least 2.
        mode: "easy" or "hard".
        seed: of the rows.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> x, labels = simulate(6, features=2, classes=3)
        >>> x.shape, labels.tolist()
        (torch.Size([6, 2]), [0, 0, 1, 1, 2, 2])
    """
    check_number("samples", samples, at_least=1, whole=True)
    check_number("features", features, at_least=1, whole=True)
    check_number("classes", classes, at_least=2, whole=True)
    check_seed(seed)
    labels = (torch.arange(samples) * classes) // samples
    return _World(features, classes, mode).rows(labels, torch.Generator().manual_seed(seed)), labels


def sample_complexity(
    classifier: Fitted,
    features: int,
    classes: int = 3,
    mode: Mode = "easy",
    seed: int = 0,
    least: float = 0.0,
    excess: float = 0.01,
) -> int | None:
    """The least number of labels with which a classifier's error on 10,000 simulated rows is near the least possible.

    Numbers of labels are tried from 2 a class on, in steps of the logarithm of the number of features, rounded up; for
    each, labels are drawn from 100 rows a feature, again where a class is missing.

    Args:
        classifier: "naive-bayes", or "logistic" for logistic regression (C = 1, L-BFGS, at most 1,000 steps).
        features: of the simulation, see `simulate`.
        classes: of the simulation.
        mode: of the simulation.
        seed: of all that is drawn.
        least: the least possible error; 0 for 40 features or more.
        excess: above 0; how far above it counts as near.

    Returns:
        That number; `None` where as many as 100 labels a feature do not suffice.

    Raises:
        InputError: for an unknown word or a number out of range.

    Examples:
        >>> sample_complexity("naive-bayes", features=40, classes=2) < sample_complexity("logistic", 40, classes=2)
        True
    """
    if classifier not in get_args(Fitted):
        raise unknown("classifier", classifier, get_args(Fitted))
    check_number("features", features, at_least=1, whole=True)
    check_number("classes", classes, at_least=2, whole=True)
    check_number("least", least, at_least=0, below=1)
    check_number("excess", excess, above=0)
    check_seed(seed)
    world, generator = _World(features, classes, mode), torch.Generator().manual_seed(seed)
    asked = (torch.arange(TEST) * classes) // TEST
    test = world.rows(asked, generator)
    pool = torch.arange(100 * features) % classes
    error: Callable[[_Rows], float] = _nb_error if classifier == "naive-bayes" else _lr_error
    for samples in range(2 * classes, len(pool), max(1, math.ceil(math.log(features)))):
        labels = pool[_draw(pool, samples, generator)]
        if error(_Rows(world.rows(labels, generator), labels, test, asked)) < least + excess:
            return samples
    return None


class _World:
    """What rows of the simulation are drawn from."""

    def __init__(self, features: int, classes: int, mode: Mode):
        if mode not in get_args(Mode):
            raise unknown("mode", mode, get_args(Mode))
        self.means = torch.tensor([-1.0, *(2.0**k for k in range(classes - 1))], dtype=torch.float64)
        self.centre = 2.0 ** (classes - 3) if classes > 2 else None
        variances = torch.ones(features, dtype=torch.float64)
        variances[: features // 2] = features
        self.scale, self.mixing = variances.sqrt(), None
        if mode == "hard":
            generator = torch.Generator().manual_seed(0)
            uniform = 2 * torch.rand(features, features, generator=generator, dtype=torch.float64) - 1
            covariance = uniform.T @ uniform
            covariance.diagonal().copy_(variances)
            values, vectors = torch.linalg.eigh(covariance)
            self.mixing = (vectors * values.abs().sqrt()).T

    def rows(self, labels: Tensor, generator: torch.Generator) -> Float64[Tensor, "n features"]:
        """One row for each label."""
        noise = torch.randn(len(labels), len(self.scale), generator=generator, dtype=torch.float64)
        noise = noise * self.scale if self.mixing is None else noise @ self.mixing
        x = self.means[labels][:, None] + noise
        return x if self.centre is None else (x - self.centre) / self.centre


def _simulation(classes: int, mode: Mode, seed: int) -> dict[str, float]:
    found, logs = {}, {}
    for name, classifier in (("nb", "naive-bayes"), ("lr", "logistic")):
        needed = []
        for features in DIMENSIONS:
            samples = sample_complexity(classifier, features, classes, mode, seed)  # type: ignore[arg-type]
            needed.append(100 * features if samples is None else samples)
            found[f"{name} {features}"] = float(needed[-1])
        logs[f"slope {name}"] = float(np.polyfit(np.log(DIMENSIONS), np.log(needed), 1)[0])
    return {**found, **logs, "slope difference": logs["slope lr"] - logs["slope nb"]}


# --- probes ---


class _Rows(NamedTuple):
    """Rows to draw from and rows to judge by, with their labels."""

    x: Tensor
    labels: Tensor
    test: Tensor
    asked: Tensor


def _probes(rows: _Rows, seed: int, floor: float, relative: float, repeats: int, tuned: bool) -> dict[str, float]:
    sizes = [size for size in SIZES if size <= len(rows.labels)]
    if not sizes or sizes[0] > FEW or sizes[-1] < MANY:
        raise InputError(f"data: expected at least {MANY} labelled training rows, got {len(rows.labels)}")
    generator = torch.Generator().manual_seed(seed)
    judges: dict[str, Callable[[_Rows], float]] = {
        "nb": lambda split: _nb_error(split, floor, relative),
        "lr": _lr_error,
        **({"cv": _cv_error} if tuned else {}),
        "mean": _mean_error,
    }
    errors = {(name, size): 0.0 for name in judges for size in sizes}
    for size in sizes:
        for _ in range(repeats):
            drawn = _draw(rows.labels, size, generator)
            split = _scaled(rows._replace(x=rows.x[drawn], labels=rows.labels[drawn]))
            for name, judge in judges.items():
                errors[name, size] += judge(split) / repeats
    found = {f"{name} {size}": error for (name, size), error in errors.items()}
    for name, own in (("", "lr"), *([(" cv", "cv")] if tuned else [])):
        above = {size: errors["nb", size] - errors[own, size] for size in sizes}
        found[f"few{name}"] = float(np.mean([above[size] for size in sizes if size <= FEW]))
        found[f"many{name}"] = float(np.mean([above[size] for size in sizes if size >= MANY]))
    better = (size for size in sizes if errors["lr", size] < errors["nb", size])
    return {**found, "crossing": float(next(better, math.nan))}


def _draw(labels: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Rows drawn without replacement, with every class among them: else they are drawn again."""
    classes = len(labels.unique())
    for _ in range(10_000):
        drawn = torch.randperm(len(labels), generator=generator)[:samples]
        if len(labels[drawn].unique()) == classes:
            return drawn
    raise InputError(f"data: no draw of {samples} of {len(labels)} rows has all {classes} classes")


def _scaled(split: _Rows) -> _Rows:
    """Each feature of the drawn rows from 0 to 1, the others by the same scale; constant ones are only shifted."""
    low, high = split.x.aminmax(dim=0)
    span = torch.where(high > low, high - low, 1.0)
    return split._replace(x=(split.x - low) / span, test=(split.test - low) / span)


def _nb_error(split: _Rows, floor: float = 1e-9, relative: float = 0.0) -> float:
    found = naive_bayes(split.x, split.labels, floor=floor, relative=relative)
    return _wrong(found.predict(split.test), split)


def _lr_error(split: _Rows) -> float:
    return _fitted_error(LogisticRegression(max_iter=ITERATIONS), split)


def _cv_error(split: _Rows) -> float:
    """Of a strength that cross-validation on the drawn rows chooses; C = 1 where a class has a single row of them."""
    folds = min(5, int(split.labels.bincount().min()))
    if folds < 2:
        return _lr_error(split)
    return _fitted_error(LogisticRegressionCV(Cs=list(STRENGTHS), cv=folds, max_iter=ITERATIONS), split)


def _fitted_error(model: Any, split: _Rows) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the paper's baseline takes at most so many steps
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(split.x.numpy(), split.labels.numpy())
    return _wrong(torch.from_numpy(model.predict(split.test.numpy())), split)


def _mean_error(split: _Rows) -> float:
    means = naive_bayes(split.x, split.labels).mean
    return _wrong(torch.cdist(split.test, means).argmin(1), split)


def _wrong(predicted: Tensor, split: _Rows) -> float:
    return float((predicted != split.asked).double().mean())


# --- what is probed ---


def _inputs(data: str) -> _Rows:
    """Pixels or columns as they are."""
    train, test = _loaded(data)
    x, y = (_raw(part).flatten(1).double() for part in (train, test))
    return _rows(x, train.labels, y, test.labels)


def _network_features(source: str, data: str, seed: int) -> _Rows:
    """Features of a small network that has learnt the classes of another data set of images."""
    learnt, parts = _loaded(source)[0], _loaded(data)
    for name, part in (("source", learnt), ("data", parts[0])):
        if not isinstance(part, Images):
            raise InputError(f"{name}: expected a data set of images, got rows of numbers")
    shapes = [tuple(part.pixels.shape[1:]) for part in (learnt, parts[0])]
    if shapes[0] != shapes[1]:
        raise InputError(f"source: expected images of the shape of those of data, {shapes[1]}, got {shapes[0]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _trained(learnt)
    x, y = (embed(net, part, to_input).double() for part in parts)
    return _rows(x, parts[0].labels, y, parts[1].labels)


def _trained(images: Images) -> nn.Module:
    net = backbone("small", *images.pixels.shape[1:3])
    whole = nn.Sequential(net, nn.Linear(net.features, len(images.classes)))

    def loss(rows: Tensor) -> Tensor:
        return functional.cross_entropy(whole(to_input(images.pixels[rows])), images.labels[rows])

    train_one_cycle(whole, loss, len(images), EPOCHS, batch_size=64, lr=2e-3)
    return net


def _loaded(data: str) -> list[Any]:
    """The labelled training and test items, images or rows of numbers."""
    parts: Any = load_rows(data) if is_rows(data) else load(data)
    return [part.subset((part.labels >= 0).nonzero().flatten()) for part in parts]


def _raw(part: Any) -> Tensor:
    return part.pixels if isinstance(part, Images) else part.inputs


def _rows(x: Tensor, labels: Tensor, test: Tensor, asked: Tensor) -> _Rows:
    """Labels counted from 0, without gaps: the classes that there are to learn."""
    known, labels = labels.unique(return_inverse=True)
    kept = torch.isin(asked, known)
    return _Rows(x, labels, test[kept], torch.searchsorted(known, asked[kept]))
