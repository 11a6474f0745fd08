"""Measures of classifiers that name classes which training has seen, and others by their descriptions alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from sklearn.metrics import auc
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_integers, check_logits, check_number


def harmonic(seen: float, new: float) -> float:
    """The harmonic mean of the accuracies on seen and on new classes; 0 where one of them is 0.

    Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly",
    PAMI 2018, arXiv 1707.00600.

    Raises:
        InputError: for a number that is not from 0 to 1.

    Examples:
        >>> harmonic(0.75, 0.25), harmonic(0.9, 0.0)
        (0.375, 0.0)
    """
    for name, value in (("seen", seen), ("new", new)):
        check_number(name, value, at_least=0, at_most=1)
    return 2 * seen * new / (seen + new) if seen + new else 0.0


def seen_new_curve(
    scores: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], is_new: Integer[Tensor, " classes"]
) -> Float[Tensor, "points two"]:
    """Accuracies on images of seen and of new classes, for every constant that seen classes could be lowered by.

    Chao, Changpinyo, Gong, Sha, "An Empirical Study and Analysis of Generalized Zero-Shot Learning", ECCV 2016, arXiv
    1605.04253, section 3.3. Of each image it only counts how far the best seen class is above the best new one; both
    accuracies are means over classes.

    Args:
        scores: of each image for all classes.
        labels: class of each; -1 where it is not known, which leaves it out.
        is_new: of each class 1 where training has not seen it, else 0; there must be some of either.

    Returns:
        One row a point, of seen and new accuracy: from all images taken for new classes, to all taken for seen ones.

    Raises:
        InputError: for wrong shapes, NaN, no labelled image of either kind, or classes that are all of one kind.

    Examples:
        >>> scores = torch.tensor([[2.0, 0.0], [1.0, 0.5]])  # an image of a seen class, one of a new class
        >>> seen_new_curve(scores, torch.tensor([0, 1]), torch.tensor([0, 1])).tolist()
        [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    """
    check_logits("scores", scores)
    labels = known_classes("labels", labels, len(scores), scores.shape[1]).cpu()
    new = check_integers("is_new", is_new, rows=scores.shape[1], low=0, high=2).bool().cpu()
    if new.all() or not new.any():
        raise InputError("is_new: expected some classes of either kind, got one kind alone")
    scores, labels = scores.detach().double().cpu()[labels >= 0], labels[labels >= 0]
    of_new = new[labels]
    if of_new.all() or not of_new.any():
        raise InputError("labels: expected images of seen and of new classes, got one kind alone")
    best_seen, named_seen = scores[:, ~new].max(1)
    best_new, named_new = scores[:, new].max(1)
    right = torch.where(of_new, new.nonzero().flatten()[named_new], (~new).nonzero().flatten()[named_seen]) == labels
    # A constant above the margin takes an image for a new class, one below it for a seen class.
    margin, counts = best_seen - best_new, labels.bincount(minlength=len(new)).double()
    weight = right.double() / counts[labels]
    order = margin.argsort(descending=True, stable=True)
    rises = torch.where(of_new, 0.0, weight)[order].cumsum(0) / (counts[~new] > 0).sum()
    falls = torch.where(of_new, weight, 0.0)[order].cumsum(0) / (counts[new] > 0).sum()
    last = torch.cat([margin[order].diff() != 0, torch.ones(1, dtype=torch.bool)])  # images of one margin go together
    seen, lost = (torch.cat([torch.zeros(1).double(), x[last]]) for x in (rises, falls))
    return torch.stack([seen, lost[-1] - lost], 1)


def area_seen_new(
    scores: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], is_new: Integer[Tensor, " classes"]
) -> float:
    """The area under `seen_new_curve`, between 0 and 1: how good a classifier is for the best constant, whatever it is.

    Args:
        scores: as of `seen_new_curve`; so are the others.
        labels: class of each image.
        is_new: of each class.

    Raises:
        InputError: as `seen_new_curve`.

    Examples:
        >>> scores = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
        >>> area_seen_new(scores, torch.tensor([0, 1]), torch.tensor([0, 1]))
        1.0
    """
    curve = seen_new_curve(scores, labels, is_new)
    return float(auc(*curve.T.numpy()))
