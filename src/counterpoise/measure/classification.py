"""What a classifier's scores are worth: likelihood, calibration, the best few classes; wrong labels learnt.

Rows whose label is -1, unlabelled, are left out everywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_integers, check_logits, check_number


def negative_log_likelihood(logits: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"]) -> float:
    """Mean of the negative logarithm of the probability that is given to a row's label, in nats.

    Args:
        logits: one score a class, or log-probabilities, which are their own log-softmax.
        labels: true class of each row; -1 leaves a row out.

    Raises:
        InputError: for other shapes or dtypes, NaN, labels out of range, or if no row is labelled.

    Examples:
        >>> round(negative_log_likelihood(torch.zeros(2, 4), torch.tensor([0, -1])), 6)  # log 4
        1.386294
    """
    logits, labels = _kept(logits, labels)
    return float(torch.nn.functional.nll_loss(logits.log_softmax(1), labels))


def each_negative_log_likelihood(
    logits: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"]
) -> Float64[Tensor, " labelled"]:
    """The terms whose mean is `negative_log_likelihood`, one for each labelled row.

    Args:
        logits: one score a class, or log-probabilities.
        labels: true class of each row; -1 leaves a row out.

    Raises:
        InputError: as in `negative_log_likelihood`.

    Examples:
        >>> float(each_negative_log_likelihood(torch.zeros(2, 4), torch.tensor([0, -1])).exp().round(decimals=6))
        4.0
    """
    logits, labels = _kept(logits, labels)
    return torch.nn.functional.nll_loss(logits.log_softmax(1), labels, reduction="none")


def calibration_error(logits: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], bins: int = 15) -> float:
    r"""Expected calibration error of the predicted class, $\sum_b \frac{|B_b|}{n} |\bar p_b - a_b|$, by torchmetrics.

    Bin b holds the rows whose largest probability lies in it; $\bar p_b$ is the mean of these probabilities and $a_b$
    the share of rows that are predicted rightly (Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
    equation 3).

    Args:
        logits: one score a class, or log-probabilities.
        labels: true class of each row; -1 leaves a row out.
        bins: number of bins of equal width.

    Returns:
        From 0, where the network is right as often as it says, to 1.

    Raises:
        InputError: for other shapes or dtypes, NaN, labels out of range, `bins` that is no whole number of at least 1,
            or if no row is labelled.

    Examples:
        >>> calibration_error(torch.tensor([[0.0, 99.0], [0.0, 99.0]]), torch.tensor([0, 1]))  # sure, and half right
        0.5
    """
    check_number("bins", bins, at_least=1, whole=True)
    logits, labels = _kept(logits, labels)
    return float(multiclass_calibration_error(logits.softmax(1), labels, logits.shape[1], n_bins=bins))


def top_accuracy(logits: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], k: int = 5) -> float:
    """Share of rows whose label is among the k classes with the highest scores, from 0 to 1.

    Where scores are equal at the k-th place, a row counts as the share of orders in which its label is among them, so
    that the order of the classes gives no advantage.

    Args:
        logits: one score a class.
        labels: true class of each row; -1 leaves a row out.
        k: how many classes.

    Raises:
        InputError: for other shapes or dtypes, NaN, labels out of range, `k` that is no whole number of at least 1, or
            if no row is labelled.

    Examples:
        >>> top_accuracy(torch.tensor([[3.0, 2.0, 1.0]] * 3), torch.tensor([0, 1, 2]), k=2)
        0.6666666666666666
        >>> top_accuracy(torch.zeros(1, 4), torch.tensor([0]), k=1)
        0.25
    """
    return float(each_in_top(logits, labels, k).mean())


def each_in_top(
    logits: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], k: int = 5
) -> Float64[Tensor, " labelled"]:
    """Whether the label is among the k classes with the highest scores: terms whose mean is `top_accuracy`.

    Args:
        logits: one score a class.
        labels: true class of each row; -1 leaves a row out.
        k: how many classes.

    Returns:
        From 0 to 1 for each labelled row; a share where scores are equal at the k-th place.

    Raises:
        InputError: as in `top_accuracy`.

    Examples:
        >>> each_in_top(torch.tensor([[3.0, 2.0, 1.0]] * 3), torch.tensor([0, 2, -1]), k=2)
        tensor([1., 0.], dtype=torch.float64)
    """
    check_number("k", k, at_least=1, whole=True)
    logits, labels = _kept(logits, labels)
    own = logits.gather(1, labels[:, None])
    higher, equal = (logits > own).sum(1), (logits == own).sum(1)
    return ((k - higher).double() / equal).clamp(0, 1)


def wrong_learnt(
    predicted: Integer[Tensor, " n"], given: Integer[Tensor, " n"], truth: Integer[Tensor, " n"]
) -> float | None:
    """Of the training rows whose given label is wrong, the share that is predicted as that wrong label.

    A network that has memorised its labels has 1; one that has not been misled at all, next to 0.

    Args:
        predicted: class of each training row as predicted.
        given: the label that it was trained with; -1 leaves a row out.
        truth: its true class; -1 leaves a row out.

    Returns:
        From 0 to 1; `None` where no given label is wrong.

    Raises:
        InputError: for other shapes or dtypes.

    Examples:
        >>> wrong_learnt(torch.tensor([1, 0, 2]), given=torch.tensor([1, 1, 2]), truth=torch.tensor([0, 0, 2]))
        0.5
    """
    given = known_classes("given", given, given.numel())
    truth = known_classes("truth", truth, len(given))
    predicted = check_integers("predicted", predicted, rows=len(given))
    wrong = (given >= 0) & (truth >= 0) & (given != truth)
    return int((predicted[wrong] == given[wrong]).sum()) / int(wrong.sum()) if wrong.any() else None


def _kept(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled rows; in double precision, in which the softmax of any scores in single precision is finite."""
    check_logits("logits", logits)
    labels = known_classes("labels", labels, len(logits), logits.shape[1])
    kept = labels >= 0
    if not kept.any():
        raise InputError(f"labels: none of the {len(labels)} rows is labelled")
    return logits[kept].double(), labels[kept]
