"""How well a number tells two kinds of items apart."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float, Integer
from sklearn.metrics import roc_auc_score
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_finite, check_integers


def auroc(values: Float[Tensor, " n"], positive: Integer[Tensor, " n"] | Bool[Tensor, " n"]) -> float | None:
    """The probability that an item of the first kind has the larger number, a tie counting half.

    Args:
        values: of each item.
        positive: true, or 1, for items of the first kind; false, or 0, for the others.

    Returns:
        From 0 to 1, 0.5 by chance: the area under the receiver operating characteristic. `None`, with a warning, where
        all items are of one kind.

    Raises:
        InputError: for what is no vector, different lengths, kinds but 0 and 1, NaN or infinity.

    Examples:
        >>> auroc(torch.tensor([0.9, 0.2, 0.4, 0.4]), torch.tensor([1, 0, 1, 0]))
        0.875
    """
    if values.ndim != 1:
        raise InputError(f"values: expected a vector, got shape {list(values.shape)}")
    check_finite("values", values)
    kinds = positive.long() if positive.dtype == torch.bool else positive
    kinds = check_integers("positive", kinds, rows=len(values), low=0, high=2)
    if not kinds.any() or kinds.all():
        warnings.warn("AUROC is undefined: all items are of one kind")
        return None
    return float(roc_auc_score(kinds.cpu().numpy(), values.detach().cpu().double().numpy()))
