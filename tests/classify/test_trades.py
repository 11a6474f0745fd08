"""TRADES: its two terms by hand, its limits, the attack and where it starts."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.classify.trades import Trades, TradesLoss, divergence, trades
from counterpoise.errors import InputError
from counterpoise.learners.classifier import cross_entropy
from counterpoise.ops.attacks import pgd
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, 0, 1, 4, 1])
KNOWN = TARGETS >= 0


def scores(seed=0):
    return 2 * torch.randn(6, 5, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_a_row_costs_its_cross_entropy_and_the_divergence_of_both_softmaxes(beta):
    clean, attacked = scores(), scores(1)
    for i in range(6):
        p, q = clean[i].softmax(0).tolist(), attacked[i].softmax(0).tolist()
        far = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert divergence(clean, attacked)[i].item() == pytest.approx(far)
        expected = -math.log(p[TARGETS[i]]) + beta * far if KNOWN[i] else 0
        assert trades(clean, attacked, TARGETS, beta)[i].item() == pytest.approx(expected)
    found = TradesLoss(beta)(clean, attacked, TARGETS)
    torch.testing.assert_close(found, trades(clean, attacked, TARGETS, beta)[KNOWN].mean())


def test_without_a_weight_or_an_attack_it_is_cross_entropy():
    plain = F.cross_entropy(scores(), TARGETS, ignore_index=-1)
    torch.testing.assert_close(TradesLoss(0.0)(scores(), scores(1), TARGETS), plain)
    torch.testing.assert_close(TradesLoss(6.0)(scores(), scores(), TARGETS), plain)


def test_the_gradient_reaches_both_and_a_constant_for_a_row_changes_nothing():
    clean, attacked = scores().requires_grad_(), scores(1).requires_grad_()
    both = torch.autograd.grad(TradesLoss(2.0)(clean, attacked, TARGETS), [clean, attacked])
    assert all((g[KNOWN].abs().amax(1) > 0).all() and (g[~KNOWN] == 0).all() for g in both)
    assert torch.autograd.gradcheck(lambda a, b: trades(a, b, TARGETS, 2.0), (clean, attacked))
    shifted = trades(scores() + torch.arange(6.0)[:, None], scores(1) - 7, TARGETS)
    torch.testing.assert_close(shifted, trades(scores(), scores(1), TARGETS))


def test_logits_of_ten_thousand_give_a_finite_loss_and_gradient():
    clean, attacked = (1e4 * scores(seed).float().requires_grad_() for seed in (0, 1))
    loss = TradesLoss()(clean, attacked, TARGETS)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [clean, attacked]))


# --- the method ---


class Normalised(nn.Sequential):
    features = 3

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))


def images():
    return 2 * torch.rand(6, 1, 4, 4, generator=seeded(3)) - 1


def test_the_attack_raises_the_divergence_from_a_start_beside_the_image():
    method, x = Trades(Normalised(), classes=5, radius=0.05, attack_steps=3, attack_step=0.5), images()
    torch.manual_seed(1)
    found = method.attacked(x)
    torch.manual_seed(1)
    start = x + 0.002 * torch.randn_like(x)  # of pixels in [-1, 1]: 0.001 of the range
    net = method.net.eval()
    clean = net(x).detach()
    expected, _ = pgd(lambda x: divergence(clean, net(x)), x, 0.1, 3, 0.05, start=start)
    torch.testing.assert_close(found, expected)
    assert divergence(clean, net(found)).min() > 0


class Flat(nn.Flatten):
    features = 16


def test_of_a_linear_network_the_attack_ends_in_one_of_two_corners():
    """With two classes the divergence is convex in the difference of logits, and so largest at an end of its range."""
    method, x = Trades(Flat(), classes=2, radius=0.05, attack_steps=12), 0.8 * images()
    w = (method.classifier.weight[1] - method.classifier.weight[0]).detach().sign().view(1, 1, 4, 4)
    moved = (method.attacked(x) - x) / 0.1
    sides = torch.stack([(moved - w).flatten(1).abs().amax(1), (moved + w).flatten(1).abs().amax(1)])
    torch.testing.assert_close(sides.amin(0), torch.zeros(6), atol=1e-5, rtol=0)


def test_its_loss_sees_clean_and_attacked_images_as_batches_of_their_own():
    torch.manual_seed(0)
    method, x = Trades(Normalised(), classes=5, beta=2.0, radius=0.05), images()
    torch.manual_seed(1)
    found = method.loss([x], TARGETS, torch.arange(6))
    found.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    method.encoder[2].reset_running_stats()
    torch.manual_seed(1)
    attacked = method.attacked(x)
    torch.testing.assert_close(found, TradesLoss(2.0)(method.logits(x), method.logits(attacked), TARGETS))


def test_a_larger_beta_makes_training_keep_the_probabilities_under_attack():
    x, labels, far = images(), TARGETS.clamp(min=0), {}
    for beta in (0.0, 6.0):
        torch.manual_seed(0)
        method = Trades(Encoder(), classes=5, beta=beta, radius=0.2, attack_steps=4)
        optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            method.loss([x], labels, torch.arange(6)).backward()
            optimizer.step()
        torch.manual_seed(2)
        far[beta] = divergence(method.logits(x), method.logits(method.attacked(x))).mean()
    assert far[6.0] < far[0.0] / 10


def test_a_weight_of_0_is_cross_entropy_on_clean_images():
    method, x = Trades(Encoder(), classes=5, beta=0.0), images()
    torch.testing.assert_close(method.loss([x], TARGETS, torch.arange(6)), cross_entropy(method.logits(x), TARGETS))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TradesLoss(-1), "beta: expected a number of at least 0, got -1"),
        (lambda: trades(scores(), scores(), TARGETS, -1), "beta: expected a number of at least 0, got -1"),
        (lambda: trades(scores(), scores(), TARGETS + 1), "targets: expected"),
        (lambda: divergence(scores(), scores()[:, :4]), "logits and attacked: expected the same shape"),
        (lambda: divergence(scores()[:, :1], scores()[:, :1]), "logits: expected at least 2 columns"),
        (lambda: divergence(scores(), scores() * math.nan), "attacked: 30 of 30 numbers are NaN"),
        (lambda: Trades(Encoder(), 5, radius=0), "radius: expected a number above 0"),
    ],
)
def test_bad_input_is_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
