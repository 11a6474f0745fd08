"""The mean absolute error: its equation, and the sum over all labels that makes it robust."""

import torch
from torch.nn import functional as F

from counterpoise.classify.mae import MAELoss, MeanAbsoluteError, mean_absolute_error
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, 0, 1, 4, 1])
KNOWN = TARGETS >= 0


def scores():
    return 2 * torch.randn(6, 5, generator=seeded(0), dtype=torch.float64)


def test_it_is_the_distance_of_the_probabilities_from_the_label():
    distance = (F.one_hot(TARGETS.clamp(min=0), 5) - scores().softmax(1)).abs().sum(1)
    torch.testing.assert_close(mean_absolute_error(scores(), TARGETS), torch.where(KNOWN, distance, 0.0))
    torch.testing.assert_close(MAELoss()(scores(), TARGETS), distance[KNOWN].mean())


def test_its_sum_over_all_labels_is_the_same_for_all_logits():
    sums = sum(mean_absolute_error(scores(), torch.full((6,), label)) for label in range(5))
    torch.testing.assert_close(sums, torch.full((6,), 8.0, dtype=torch.float64))


def test_the_method_is_the_loss_of_one_view(rng):
    view = torch.randn(6, 1, 4, 4, generator=rng)
    method = MeanAbsoluteError(Encoder(), classes=5)
    expected = MAELoss()(method.logits(view), TARGETS)
    torch.testing.assert_close(method.loss([view], TARGETS, torch.arange(6)), expected)
