"""What do frozen features hold? Read them with labels: by nearest neighbours, by a linear classifier, by few examples.

Rows whose label is -1, unlabelled, are left out everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import accuracy, known_classes
from counterpoise.measure.intervals import interval
from counterpoise.ops.checks import check_matrix, check_number, check_numbers, check_seed
from counterpoise.ops.neighbours import Ranked, ranked_in_parts
from counterpoise.ops.similarity import at_least_float32, normalize_rows

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def knn_predict(
    train_features: Float[Tensor, "n dim"],
    train_labels: Integer[Tensor, " n"],
    features: Float[Tensor, "m dim"],
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Int64[Tensor, " m"]:
    r"""Class of each row by a vote of its `k` nearest training rows, each with weight $e^{\cos / T}$.

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
    arXiv 1805.01978, section 3.4. Where the k-th nearest row is as near as others beyond it, these share the votes that
    are left, so that the order of the rows does not matter.

    Args:
        train_features: rows that vote; directions count, lengths do not.
        train_labels: their classes, below `classes`; -1 leaves a row out.
        features: rows to classify.
        classes: number of classes.
        k: voters, at least 1; all training rows where there are fewer.
        temperature: $T > 0$; small $T$ listens to the nearest alone.

    Returns:
        The class with most votes; of several, the lowest.

    Raises:
        InputError: for other shapes, NaN, numbers out of range, or if no training row is labelled.

    Examples:
        >>> train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> knn_predict(train, torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0.5], [0.1, 1.0]]), classes=2, k=1)
        tensor([0, 1])
    """
    check_matrix("features", features, at_least=0)
    check_number("k", k, at_least=1, whole=True)
    check_number("temperature", temperature, above=0)
    train_features, train_labels = _labelled("train", train_features, train_labels, classes)
    if not len(train_labels):
        raise InputError("train_labels: no row is labelled, so there is none to vote")
    _check_same_width(train_features, features)
    train_labels = train_labels.cpu()
    votes = torch.zeros(len(features), classes, dtype=torch.float64)
    for found in ranked_in_parts(features, train_features, min(k, len(train_features))):
        votes[found.rows] = knn_votes(found, train_labels, classes, temperature)
    return votes.argmax(1).to(features.device)


def knn_votes(found: Ranked, train_labels: Tensor, classes: int, temperature: float) -> Float64[Tensor, "n classes"]:
    """Of each class, the mean over all choices of the k nearest rows where these are tied with others."""
    # Weights relative to the nearest row's: no exponential overflows, however small the temperature.
    weights = ((found.cosine - found.cosine[:, :1]).double() / temperature).exp()
    votes = weights.new_zeros(len(weights), classes)
    if found.edge is None:
        return votes.scatter_add_(1, train_labels[found.numbers], weights)
    last = found.group == found.group[:, -1:]
    votes.scatter_add_(1, train_labels[found.numbers], weights.masked_fill(last, 0))
    each = (weights * last).amax(1) * last.sum(1) / found.edge.sum(1)
    members = found.edge.double() @ functional.one_hot(train_labels, classes).double()
    return votes + each[:, None] * members


def knn_accuracy(
    train_features: Float[Tensor, "n dim"],
    train_labels: Integer[Tensor, " n"],
    features: Float[Tensor, "m dim"],
    labels: Integer[Tensor, " m"],
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of rows, from 0 to 1, that `knn_predict` classifies as their label says; rows labelled -1 are left out.

    Args:
        train_features: as in `knn_predict`.
        train_labels: as in `knn_predict`.
        features: rows to classify.
        labels: their true classes.
        classes: number of classes.
        k: as in `knn_predict`.
        temperature: as in `knn_predict`.

    Raises:
        InputError: as in `knn_predict`, or if no row is labelled.

    Examples:
        >>> knn_accuracy(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 0]), classes=2, k=1)
        0.5
    """
    features, labels = _labelled("", features, labels, classes)
    return accuracy(knn_predict(train_features, train_labels, features, classes, k, temperature), labels)


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted linear classifier; `predict(features)`.

    Attributes:
        weight: [classes, dim], over standardised features; rows of classes that were not in training are 0.
        bias: [classes]; minus infinity for classes that were not in training.
        mean: [dim], of the training features.
        scale: [dim], their standard deviation; 1 for a feature that is constant.
        strength: the penalty that was chosen.
        valid_accuracy: what it was chosen by, from 0 to 1; `None` without labelled validation rows.
    """

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    mean: Float[Tensor, " dim"]
    scale: Float[Tensor, " dim"]
    strength: float
    valid_accuracy: float | None

    def predict(self, features: Float[Tensor, "m dim"]) -> Int64[Tensor, " m"]:
        """Class of each row; of several equally likely, the lowest."""
        return self.logits(features).argmax(1)

    def logits(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m classes"]:
        """Of each class the logarithm of its probability, up to a constant for each row."""
        check_matrix("features", features, at_least=0)
        _check_same_width(self.mean[None], features)
        x = (features.to(self.mean) - self.mean) / self.scale
        return torch.addmm(self.bias, x, self.weight.T)


def linear_probe(
    train_features: Float[Tensor, "n dim"],
    train_labels: Integer[Tensor, " n"],
    valid_features: Float[Tensor, "m dim"],
    valid_labels: Integer[Tensor, " m"],
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
    tolerance: float = 1e-4,
    iterations: int = 500,
) -> LinearProbe:
    r"""Multinomial logistic regression on frozen features, its penalty chosen on validation rows.

    Minimises $\frac1n \sum_i -\log p_{y_i}(x_i) + \frac{\lambda}{2} \lVert W \rVert^2$ over all rows at once (L-BFGS),
    the bias being free. Features are standardised by the training rows' mean and deviation. In scikit-learn's terms
    $C = 1 / (n \lambda)$.

    Args:
        train_features: rows to fit.
        train_labels: their classes, below `classes`; -1 leaves a row out.
        valid_features: rows that choose the strength by their accuracy; of equal ones the strongest is taken.
        valid_labels: their classes; without any labelled one the middle strength is taken, with a warning.
        classes: number of classes. A class without training rows is never predicted.
        strengths: the $\lambda > 0$ to try, each fit starting from the next stronger one's.
        tolerance: a fit ends where no entry of the loss's gradient is larger (scikit-learn's `tol`, and its default).
        iterations: most steps of the solver for each strength.

    Returns:
        The classifier, in float32 (float64 for float64 features). A warning is given if its fit did not converge.

    Raises:
        InputError: for other shapes, NaN, numbers out of range, or if no training row is labelled.

    Examples:
        >>> x, y = torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1])
        >>> probe = linear_probe(x, y, x, y, classes=2)
        >>> probe.predict(torch.tensor([[2.0], [3.0]])), probe.strength
        (tensor([0, 1]), 1.0)
    """
    check_number("tolerance", tolerance, above=0)
    check_number("iterations", iterations, at_least=1, whole=True)
    strengths = check_numbers("strengths", strengths, above=0)
    x, y = _labelled("train", train_features, train_labels, classes)
    valid_x, valid_y = _labelled("valid", valid_features, valid_labels, classes)
    _check_same_width(x, valid_x)
    if not len(y):
        raise InputError("train_labels: no row is labelled, so there is nothing to fit")
    descending = sorted(strengths, reverse=True)
    if not len(valid_y) and len(descending) > 1:
        descending = descending[len(descending) // 2 :][:1]
        warnings.warn(f"linear probe: no labelled validation rows, so its strength is {descending[0]:g}, not chosen")
    mean, scale = _standard(x)
    present, target = y.unique(return_inverse=True)
    x = (x.to(mean) - mean) / scale
    weight, bias = x.new_zeros(len(present), x.shape[1]), x.new_zeros(len(present))
    probes = []
    for strength in descending:
        weight, bias, slope = _fit(x, target, strength, weight, bias, tolerance, iterations)
        all_weight = weight.new_zeros(classes, x.shape[1]).index_copy(0, present, weight)
        all_bias = bias.new_full((classes,), -torch.inf).index_copy(0, present, bias)
        probe = LinearProbe(all_weight, all_bias, mean, scale, float(strength), None)
        if len(valid_y):
            valid_accuracy = accuracy(probe.predict(valid_x), valid_y)
            probe = LinearProbe(all_weight, all_bias, mean, scale, float(strength), valid_accuracy)
        probes.append((probe, slope))
    best, slope = max(probes, key=lambda fitted: fitted[0].valid_accuracy or 0.0)
    # A strong penalty makes the loss steep: there, float32 cannot resolve losses down to the tolerance.
    if slope > 10 * tolerance * max(1.0, best.strength):
        warnings.warn(
            f"linear probe: not converged at strength {best.strength:g} in at most {iterations} iterations "
            f"(an entry of the gradient is {slope:.1g})"
        )
    return best


def probe_factors(
    train_features: Float[Tensor, "n dim"],
    train_factors: Mapping[str, Integer[Tensor, " n"]],
    features: Float[Tensor, "m dim"],
    factors: Mapping[str, Integer[Tensor, " m"]],
) -> dict[str, float]:
    """How well a linear probe reads each factor off the features.

    Args:
        train_features: rows to fit; a quarter of them, stratified by the factor, chooses the probe's strength.
        train_factors: of each factor the value of each row, from 0; -1 leaves a row out.
        features: rows to judge by.
        factors: the same factors of those.

    Returns:
        By factor, from 0 to 1: the accuracy; for a factor of two values, the average precision of the second. A factor
        is left out that has a single value in either (or none), or of which no value of one is among the other's: no
        probe could read it. So the result is empty where no factor can be read.

    Raises:
        InputError: for other shapes, NaN, or a factor that is not given of both.

    Examples:
        >>> x, y = torch.tensor([[0.0], [1.0], [4.0], [5.0], [0.5], [4.5]]), torch.tensor([0, 0, 1, 1, 0, 1])
        >>> probe_factors(x, {"large": y}, x, {"large": y})
        {'large': 1.0}
    """
    check_matrix("features", features)
    if missing := [name for name in train_factors if name not in factors]:
        raise InputError(f"factors: expected all of train_factors, got none for {', '.join(missing)}")
    found = {}
    for name in train_factors:
        values = known_classes(f"train_factors: {name}", train_factors[name], len(train_features))
        asked = known_classes(f"factors: {name}", factors[name], len(features))
        kept = asked >= 0
        learnt, judged = values[values >= 0].unique(), asked[kept].unique()
        if min(len(learnt), len(judged)) < 2 or not torch.isin(judged, learnt).any():
            continue
        classes = 1 + int(max(values.max(), asked.max()))
        fitted, valid = stratified_split(values, 0.75, torch.Generator().manual_seed(0))
        probe = linear_probe(train_features[fitted], values[fitted], train_features[valid], values[valid], classes)
        logits, target = probe.logits(features[kept]), asked[kept]
        if classes == 2:
            found[name] = float(average_precision_score(target, logits[:, 1] - logits[:, 0]))
        else:
            found[name] = accuracy(logits.argmax(1), target)
    return found


def _fit(
    x: Tensor, target: Tensor, strength: float, weight: Tensor, bias: Tensor, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor, float]:
    """Weight and bias at the minimum, from those given, and the largest entry of the gradient there."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        # With the classes first, the softmax runs along the long dimension: 20 times faster for few classes.
        logits = weight @ x.T + bias[:, None]
        value = functional.cross_entropy(logits[None], target[None]) + strength / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
        loss()
    slope = max(float(part.grad.abs().amax()) for part in (weight, bias) if part.grad is not None)
    return weight.detach(), bias.detach(), slope


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    x = at_least_float32(x)
    mean, scale = x.mean(0), x.std(0, correction=0)
    constant = scale <= 10 * torch.finfo(x.dtype).eps * mean.abs()
    return mean, scale.masked_fill(constant, 1.0)


def stratified_split(
    labels: Integer[Tensor, " n"], share: float, generator: torch.Generator
) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """Numbers of the rows of two parts, the first with `share` of every class.

    Args:
        labels: class of each row; rows labelled -1 are in neither part.
        share: between 0 and 1. A class with several rows has at least one in each part; a single row is in the first.
        generator: on the CPU; draws which rows.

    Returns:
        Row numbers of the first and the second part, ascending.

    Raises:
        InputError: if `labels` are no integers or `share` is out of range.

    Examples:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, -1])
        >>> first, second = stratified_split(labels, 0.75, torch.Generator().manual_seed(0))
        >>> len(first), len(second)
        (4, 2)
    """
    check_number("share", share, above=0, below=1)
    labels = known_classes("labels", labels, labels.numel()).cpu()
    kept = labels >= 0
    first = torch.zeros(len(labels), dtype=torch.bool)
    second = first.clone()
    for label in labels[kept].unique():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = max(1, min(len(rows) - 1, round(share * len(rows))))
        first[rows[:count]] = True
        second[rows[count:]] = True
    return first.nonzero().flatten(), second.nonzero().flatten()


class Episodes(NamedTuple):
    """How rows are classified over episodes; see `few_shot_accuracy`.

    Attributes:
        mean: accuracy over the episodes, from 0 to 1.
        half: half the width of its 95 % interval over the episodes.
        asked: in how many episodes each row was to be classified.
        right: in how many of them it was classified rightly.
    """

    mean: float
    half: float
    asked: Float64[Tensor, " n"]
    right: Float64[Tensor, " n"]


def few_shot_accuracy(
    features: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    shots: int = 5,
    ways: int = 5,
    episodes: int = 200,
    queries: int = 15,
    seed: int = 0,
) -> tuple[float, float]:
    """How well a few examples distinguish new classes: nearest class mean, over random episodes.

    An episode draws `ways` classes and from each of them `shots` examples and `queries` rows to classify, all
    different. Rows are scaled to length 1; the nearest mean is by Euclidean distance (Snell et al., NeurIPS 2017,
    arXiv 1703.05175; scaled as in Wang et al., "SimpleShot", arXiv 1911.04623).

    Args:
        features: one row per sample.
        labels: class of each row; -1 leaves a row out. Classes with fewer than `shots + queries` rows are left out.
        shots: examples per class, at least 1.
        ways: classes per episode, at least 2.
        episodes: at least 2.
        queries: rows to classify per class, at least 1.
        seed: decides what is drawn.

    Returns:
        The mean accuracy over the episodes, from 0 to 1, and half the width of its 95 % interval.

    Raises:
        InputError: if fewer than `ways` classes have enough rows, for NaN, other shapes or numbers out of range.

    Examples:
        >>> features, labels = torch.eye(2).repeat(6, 1), torch.tensor([0, 1] * 6)
        >>> few_shot_accuracy(features, labels, shots=2, ways=2, episodes=9, queries=3)
        (1.0, 0.0)
    """
    found = few_shot_episodes(features, labels, shots, ways, episodes, queries, seed)
    return found.mean, found.half


def few_shot_episodes(
    features: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    shots: int = 5,
    ways: int = 5,
    episodes: int = 200,
    queries: int = 15,
    seed: int = 0,
) -> Episodes:
    """As `few_shot_accuracy`, with what became of each row.

    Args:
        features: one row per sample.
        labels: class of each row; -1 leaves a row out.
        shots: as in `few_shot_accuracy`; so are the others.
        ways: classes per episode.
        episodes: at least 2.
        queries: rows to classify per class.
        seed: decides what is drawn.

    Raises:
        InputError: as in `few_shot_accuracy`.

    Examples:
        >>> features, labels = torch.eye(2).repeat(6, 1), torch.tensor([0, 1] * 6)
        >>> found = few_shot_episodes(features, labels, shots=2, ways=2, episodes=9, queries=3)
        >>> int(found.asked.sum()), int(found.right.sum())
        (54, 54)
    """
    for name, value, least in (
        ("shots", shots, 1),
        ("ways", ways, 2),
        ("episodes", episodes, 2),
        ("queries", queries, 1),
    ):
        check_number(name, value, at_least=least, whole=True)
    check_seed(seed)
    check_matrix("features", features)
    labels = known_classes("labels", labels, len(features)).cpu()
    kept, u = labels >= 0, normalize_rows(features.detach())
    members = [(labels == label).nonzero().flatten() for label in labels[kept].unique()]
    members = [rows for rows in members if len(rows) >= shots + queries]
    if len(members) < ways:
        raise InputError(
            f"labels: {len(members)} classes have at least {shots + queries} rows (shots + queries), "
            f"too few for {ways} ways"
        )
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(ways, device=u.device)[:, None]
    accuracies, tally = [], torch.zeros(2, len(labels), dtype=torch.float64)
    for _ in range(episodes):
        drawn = [members[i] for i in torch.randperm(len(members), generator=generator)[:ways]]
        rows = torch.stack([m[torch.randperm(len(m), generator=generator)[: shots + queries]] for m in drawn])
        support, asked = u[rows.to(u.device)].split([shots, queries], dim=1)
        nearest_mean = torch.cdist(asked, support.mean(1)[None]).argmin(2)
        right = (nearest_mean == target).cpu()
        accuracies.append(int(right.sum()) / right.numel())
        tally[0, rows[:, shots:]] += 1
        tally[1, rows[:, shots:]] += right
    found = interval(accuracies)
    assert found.high is not None
    return Episodes(found.mean, found.high - found.mean, tally[0], tally[1])


def _labelled(part: str, features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The labelled rows, after checking both; `part` is the prefix of the arguments' names."""
    check_number("classes", classes, at_least=1, whole=True)
    prefix = f"{part}_" if part else ""
    check_matrix(f"{prefix}features", features, at_least=0)
    labels = known_classes(f"{prefix}labels", labels, len(features), classes)
    kept = labels >= 0
    return features.detach()[kept], labels[kept]


def _check_same_width(train_features: Tensor, features: Tensor) -> None:
    if train_features.shape[1] != features.shape[1]:
        width = train_features.shape[1]
        raise InputError(f"features: expected {width} columns as in training, got {features.shape[1]}")
