r"""The naive Bayes probe: a linear classifier in closed form, for frozen features and few labels.

Zheng, Wu, Bao, Cao, Li, Zhu, "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications", ICML
2023, arXiv 2302.02334. The simulation and the comparison with logistic regression are in
`counterpoise.studies.naive_bayes_probe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor, nn

from counterpoise.errors import InputError
from counterpoise.learners.gaussians import Gaussians, check_gaussians, class_gaussians, merge, shared_covariance
from counterpoise.learners.readers import FeatureReader, linear_layer
from counterpoise.ops.checks import check_finite, check_integers, check_number


@dataclass(frozen=True, eq=False)
class NaiveBayes:
    r"""A Gaussian for each class, all with one diagonal covariance, so that the border of two classes is a plane.

    The score of class k is $\log \pi_k - \frac12 \sum_j (x_j - \mu_{kj})^2 / v_j$, with its share $\pi_k$ of the rows,
    its mean $\mu_k$, and $v_j = \sum_k \pi_k \sigma^2_{kj} + \varepsilon$, the variance of feature j about the means of
    the classes. The softmax of the scores is the posterior.

    Attributes:
        counts: rows of each class.
        mean: of each class.
        variance: of each feature in each class, divided by the number of rows.
        floor: $\varepsilon$, which is added to the shared variance.
        relative: the shared variance of a feature is at least this share of its mean over the features.

    Raises:
        InputError: for parts that do not fit together, NaN, or numbers out of range.

    Examples:
        >>> x, labels = torch.tensor([[0.0], [2.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1])
        >>> found = naive_bayes(x, labels)
        >>> found.shared_variance.item(), found.predict(torch.tensor([[3.0], [4.0]])).tolist()
        (1.000000001, [0, 1])
        >>> found.update(torch.tensor([[9.0]]), torch.tensor([1])).mean.flatten().tolist()
        [1.0, 7.0]
    """

    counts: Int64[Tensor, " classes"]
    mean: Float64[Tensor, "classes dim"]
    variance: Float64[Tensor, "classes dim"]
    floor: float = 1e-9
    relative: float = 0.0

    def __post_init__(self) -> None:
        check_number("floor", self.floor, at_least=0)
        check_number("relative", self.relative, at_least=0)
        check_gaussians("NaiveBayes", self.gaussians)
        if self.variance.shape != self.mean.shape:
            raise InputError(
                f"variance: expected the shape of mean, {list(self.mean.shape)}, got {list(self.variance.shape)}"
            )

    @property
    def gaussians(self) -> Gaussians:
        """The statistics of the classes, with variances alone."""
        return Gaussians(self.mean, self.variance, self.counts)

    @property
    def shared_variance(self) -> Float64[Tensor, " dim"]:
        """$v$: of each feature, within classes, with both floors.

        Raises:
            InputError: if there is no row; with a floor of 0, for a feature that is constant within every class.
        """
        within = shared_covariance(self.gaussians)
        found = (within + self.floor).clamp(min=self.relative * float(within.mean()))
        if not found.all():
            raise InputError(
                f"floor: expected a number above 0, got {self.floor:g}: {int((found == 0).sum())} of {len(found)} "
                "features are constant within every class"
            )
        return found

    @property
    def raised(self) -> Bool[Tensor, " dim"]:
        """Which features have a larger variance by `relative` than they would have by `floor` alone."""
        within = shared_covariance(self.gaussians)
        return within + self.floor < self.relative * float(within.mean())

    def update(self, x: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"]) -> NaiveBayes:
        """The classifier of its rows and of more of them; exact, whatever the order.

        Args:
            x: rows of as many features.
            labels: their classes; -1 leaves a row out.

        Raises:
            InputError: for other shapes, labels that are no class of this one, NaN or infinity.
        """
        _check_width(self, x)
        merged = merge(self.gaussians, class_gaussians(x.to(self.mean.device), labels, len(self.mean), diagonal=True))
        return replace(self, counts=merged.counts, mean=merged.mean, variance=merged.covariance)

    def weights(self) -> tuple[Float64[Tensor, "classes dim"], Float64[Tensor, " classes"], Float64[Tensor, " dim"]]:
        r"""Weight, bias and centre of the linear form: $w_k \cdot (x - c) + b_k$ is the score up to a constant.

        $w_k = (\mu_k - c) / v$ and $b_k = \log \pi_k - \frac12 \sum_j (\mu_{kj} - c_j)^2 / v_j$. Whatever the centre,
        differences of scores are the same; with c the mean of all rows, least is lost to rounding where a variance is
        small, and a feature that never varies has a weight of 0.

        Returns:
            The bias of a class without rows is minus infinity, its weight 0.
        """
        share = self.counts.double() / self.counts.sum()
        variance, centre = self.shared_variance, share @ self.mean
        apart = (self.mean - centre) * (self.counts > 0)[:, None]
        return apart / variance, share.log() - 0.5 * (apart.square() / variance).sum(1), centre

    def logits(self, x: Float[Tensor, "n dim"]) -> Float64[Tensor, "n classes"]:
        """Of each class the logarithm of its posterior, up to a constant for each row; see `weights`.

        Args:
            x: rows of as many features.

        Returns:
            Minus infinity for classes without rows.

        Raises:
            InputError: for another shape, NaN or infinity.
        """
        _check_width(self, x)
        check_finite("x", x)
        weight, bias, centre = self.weights()
        return torch.addmm(bias, x.to(centre) - centre, weight.T)

    def predict(self, x: Float[Tensor, "n dim"]) -> Int64[Tensor, " n"]:
        """Class of each row; of several equally likely, the lowest."""
        return self.logits(x).argmax(1)

    def linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """The same as a linear layer: to be exported, or trained further.

        A class without rows has a bias as finite as the others': its logit is always 30 below that of the first class
        with rows, so that it is never predicted.

        Args:
            dtype: of its weights. In float32 they are rounded, which shows where a variance is tiny.

        Examples:
            >>> naive_bayes(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), floor=1.0).linear().weight.flatten()
            tensor([-0.5000,  0.5000], grad_fn=<ViewBackward0>)
        """
        weight, bias, centre = self.weights()
        present = self.counts > 0
        return linear_layer(weight, bias.where(present, 0) - weight @ centre, present, dtype)


def naive_bayes(
    x: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    classes: int | None = None,
    floor: float = 1e-9,
    relative: float = 0.0,
) -> NaiveBayes:
    r"""Fit `NaiveBayes`, in one pass over the rows and in float64.

    Args:
        x: features; used as they are. Shifting a feature, or scaling one, changes no prediction, but for the floor.
        labels: class of each row; -1 leaves a row out.
        classes: how many there are. A class without rows then has a prior of 0 and is never predicted; without this
            number it is the largest label and one, and each must have rows.
        floor: $\varepsilon \ge 0$, added to the shared variance. The authors' is 1e-9, so that a feature that never
            varied within a class decides alone.
        relative: at least 0; the least variance of a feature as a share of the mean variance; 1e-3 keeps features that
            hardly vary from deciding alone. 0, the authors' form, has no such bound.

    Raises:
        InputError: for other shapes, NaN, numbers out of range, no labelled row, or a class without rows.

    Examples:
        >>> x, labels = torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, 1.5], [7.0, 0.5]]), torch.tensor([0, 0, 1, 1])
        >>> found = naive_bayes(x, labels, relative=0.01)
        >>> found.counts.tolist(), found.mean.tolist(), found.shared_variance.tolist()
        ([2, 2], [[1.0, 1.0], [6.0, 1.0]], [1.000000001, 0.125000001])
        >>> found.logits(torch.tensor([[3.0, 0.0]])).softmax(1).argmax()
        tensor(0)
    """
    check_number("floor", floor, at_least=0)
    check_number("relative", relative, at_least=0)
    labels = check_integers("labels", labels, len(x), low=-1)
    if not (labels >= 0).any():
        raise InputError("labels: no row is labelled, so there is nothing to fit")
    wanted = int(labels.max()) + 1
    found = class_gaussians(x, labels, wanted if classes is None else classes, diagonal=True)
    if classes is None and not found.counts.all():
        missing = (found.counts == 0).nonzero().flatten().tolist()
        raise InputError(
            f"labels: {len(missing)} of {wanted} classes have no row, the first of them {missing[0]}; give classes "
            "where that is meant"
        )
    return NaiveBayes(found.counts, found.mean, found.covariance, floor, relative)


class NaiveBayesProbe(FeatureReader):
    """A naive Bayes classifier on frozen features: nothing is trained, and all labels are read once.

    Args:
        encoder: inputs to features; frozen.
        classes: how many there are.
        shape: of one input; needed unless an encoder is read, and given by the task.
        floor: above 0; added to the variances, see `naive_bayes`.
        relative: least variance of a feature, as a share of their mean; see `naive_bayes`.
        **recipe: arguments of `FeatureReader`.

    Attributes:
        raised: how many features `relative` gave a larger variance.
    """

    raised: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        shape: Sequence[int] | None = None,
        floor: float = 1e-9,
        relative: float = 0.0,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, shape, **recipe)
        check_number("floor", floor, above=0)  # of real data, some feature may never vary
        check_number("relative", relative, at_least=0)
        self.floor, self.relative = floor, relative
        self.register_buffer("raised", torch.tensor(0))

    def fit(self, data: Any) -> nn.Linear:
        """The classifier of the labelled training items, whose features are computed some at a time."""
        empty = torch.zeros(self.classes, self.features, dtype=torch.float64)
        counts = torch.zeros(self.classes, dtype=torch.int64)
        found = NaiveBayes(counts, empty, empty, self.floor, self.relative)
        for features, labels in self.labelled_features(data):
            found = found.update(features, labels)
        self.raised.fill_(int(found.raised.sum()))
        return found.linear()

    def diagnostics(self, *parts: Any) -> dict[str, float]:
        """How many features have a larger variance by `relative`, where it is above 0."""
        return {"raised": float(self.raised)} if self.relative else {}


def _check_width(found: NaiveBayes, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] != found.mean.shape[1]:
        raise InputError(f"x: expected rows of {found.mean.shape[1]} columns as in training, got {list(x.shape)}")
