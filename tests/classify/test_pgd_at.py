"""Adversarial training: the loss is that of attacked images alone, and a linear network has it in closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.classify.pgd_at import PGDTraining
from counterpoise.errors import InputError
from counterpoise.learners.classifier import cross_entropy
from worlds import Encoder, seeded

TARGETS = torch.tensor([1, -1, 0, 1, 0, 1])


def images():
    return 1.6 * torch.rand(6, 1, 4, 4, generator=seeded(3)) - 0.8


class Flat(nn.Flatten):
    features = 16


def test_of_a_linear_network_the_loss_has_a_closed_form():
    """With two classes the worst image moves every pixel by the radius, against the sign of the label's weights."""
    method, x = PGDTraining(Flat(), classes=2, radius=0.05, attack_steps=12, attack_step=0.25), images()
    w = (method.classifier.weight[1] - method.classifier.weight[0]).detach()
    bias = (method.classifier.bias[1] - method.classifier.bias[0]).detach()
    sign = 2 * TARGETS.clamp(min=0) - 1
    ahead = sign * (x.flatten(1) @ w + bias) - 0.1 * w.abs().sum()
    known = TARGETS >= 0
    torch.testing.assert_close(method.loss([x], TARGETS, torch.arange(6)), F.softplus(-ahead)[known].mean())
    worst = x - 0.1 * (sign[:, None] * w.sign()).view(6, 1, 4, 4)
    torch.testing.assert_close(method.attacked(x, TARGETS)[known], worst[known])


def test_the_loss_is_cross_entropy_of_the_attacked_view_and_no_other():
    torch.manual_seed(0)
    method, x = PGDTraining(Encoder(), classes=5, radius=0.1, attack_steps=4), images()
    torch.manual_seed(1)
    attacked = method.attacked(x, TARGETS)
    torch.manual_seed(1)
    loss = method.loss([x], TARGETS, torch.arange(6))
    torch.testing.assert_close(loss, cross_entropy(method.logits(attacked), TARGETS))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    assert loss > cross_entropy(method.logits(x), TARGETS)


def test_images_out_of_range_are_refused():
    with pytest.raises(InputError, match="images: expected a number of at least -1 and of at most 1, got 2"):
        PGDTraining(Encoder(), 5).loss([torch.full((6, 1, 4, 4), 2.0)], TARGETS, torch.arange(6))
