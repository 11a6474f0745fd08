"""Generalised cross-entropy: its equation, both ends, what truncation stops, and the method's first epochs."""

import pytest
import torch
from torch.nn import functional as F

from counterpoise.classify.gce import GCELoss, GeneralizedCrossEntropy, generalized_cross_entropy
from counterpoise.errors import InputError
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, 0, 1, 4, 1])
KNOWN = TARGETS >= 0


def scores():
    return 2 * torch.randn(6, 5, generator=seeded(0), dtype=torch.float64)


def probabilities(h):
    return h.softmax(1).gather(1, TARGETS.clamp(min=0)[:, None])[:, 0]


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_against_the_equation_and_the_gradient_it_promises(q):
    h = scores().requires_grad_()
    found = generalized_cross_entropy(h, TARGETS, q)
    p = probabilities(h.detach())
    torch.testing.assert_close(found, torch.where(KNOWN, (1 - p**q) / q, 0.0))
    (ours,) = torch.autograd.grad(found.sum(), h)
    (plain,) = torch.autograd.grad(F.cross_entropy(h, TARGETS, ignore_index=-1, reduction="sum"), h)
    torch.testing.assert_close(ours, (p**q)[:, None] * plain)


def test_towards_0_it_is_cross_entropy():
    expected = F.cross_entropy(scores(), TARGETS, ignore_index=-1)
    torch.testing.assert_close(GCELoss(1e-9)(scores(), TARGETS), expected)


def test_truncated_rows_cost_the_loss_at_the_threshold_without_a_gradient():
    h, p, k = scores().requires_grad_(), probabilities(scores()), 0.2
    below = (p <= k) & KNOWN
    assert 0 < below.sum() < KNOWN.sum()
    found = generalized_cross_entropy(h, TARGETS, 0.7, truncate=k)
    (gradient,) = torch.autograd.grad(found.sum(), h)
    (whole,) = torch.autograd.grad(generalized_cross_entropy(h, TARGETS, 0.7).sum(), h)
    torch.testing.assert_close(found[below], torch.full_like(found[below], (1 - k**0.7) / 0.7))
    assert (gradient[below] == 0).all()
    torch.testing.assert_close(gradient[~below], whole[~below])
    torch.testing.assert_close(GCELoss(0.7, k)(h, TARGETS), found[KNOWN].mean())


def test_the_method_truncates_after_its_warm_epochs(rng, monkeypatch):
    view = torch.randn(6, 1, 4, 4, generator=rng)
    method = GeneralizedCrossEntropy(Encoder(), classes=5, q=0.5, truncate=0.4, warm=2)
    logits = method.logits(view)
    for epoch, truncate in ((0, 0.0), (1, 0.0), (2, 0.4)):
        monkeypatch.setattr(GeneralizedCrossEntropy, "current_epoch", epoch)
        found = method.loss([view], TARGETS, torch.arange(6))
        torch.testing.assert_close(found, GCELoss(0.5, truncate)(logits, TARGETS))
    assert GCELoss(0.5, 0.4)(logits, TARGETS) < GCELoss(0.5)(logits, TARGETS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: GCELoss(0), "q: expected a number above 0 and of at most 1, got 0"),
        (lambda: GCELoss(truncate=1), "truncate: expected a number of at least 0 and below 1, got 1"),
        (lambda: generalized_cross_entropy(scores(), TARGETS, 1.1), "q: expected a number above 0"),
        (lambda: generalized_cross_entropy(scores(), TARGETS, truncate=-1), "truncate: expected a number of at least"),
        (lambda: GeneralizedCrossEntropy(Encoder(), 5, warm=-1), "warm: expected a whole number of at least 0"),
    ],
)
def test_bad_input_is_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
