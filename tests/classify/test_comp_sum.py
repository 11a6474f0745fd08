"""Comp-sum losses: their members, their minima by search, the bounds on drawn problems, and the adversarial form."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.classify.comp_sum import (
    AdversarialCompSumLoss,
    CompSum,
    CompSumLoss,
    adversarial_comp_sum,
    comp_sum,
    conditional_minimum,
    displacement,
    excess_bound,
    gap_bound,
    minimizability_gap,
    phi,
    transfer,
)
from counterpoise.data.rows import Rows
from counterpoise.errors import InputError
from counterpoise.ops.attacks import pgd
from counterpoise.studies.comp_sum import study
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, 0, 1, 4, 1])
KNOWN = TARGETS >= 0
TAUS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def scores(seed=0, scale=2.0):
    return scale * torch.randn(6, 5, generator=seeded(seed), dtype=torch.float64)


def of_label(x):
    return x.gather(1, TARGETS.clamp(min=0)[:, None])[:, 0]


# --- the loss ---


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize(("inner", "rho"), [("exp", 1.0), ("exp", 0.7), ("margin", 1.0), ("margin", 2.5)])
def test_it_is_the_transform_of_the_sum_over_the_wrong_classes(tau, inner, rho):
    h, found = scores(), comp_sum(scores(), TARGETS, tau, inner, rho)
    for i in range(6):
        y = int(TARGETS[i])
        ahead = [float(h[i, y] - h[i, k]) / rho for k in range(5) if k != y]
        u = sum(math.exp(-v) if inner == "exp" else min(max(0.0, 1 - v), 1.0) for v in ahead)
        expected = math.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
        assert found[i].item() == (0 if y < 0 else pytest.approx(expected))
        assert phi(torch.tensor([u]).double(), tau).item() == pytest.approx(expected)


def test_its_members_are_known_losses():
    p = of_label(scores().softmax(1))[KNOWN]
    for tau, expected in ((0.0, 1 / p - 1), (1.0, -p.log()), (1.7, (1 - p**0.7) / 0.7), (2.0, 1 - p)):
        torch.testing.assert_close(comp_sum(scores(), TARGETS, tau)[KNOWN], expected)
    cross_entropy = F.cross_entropy(scores(), TARGETS, ignore_index=-1)
    torch.testing.assert_close(CompSumLoss()(scores(), TARGETS), cross_entropy)


def test_near_tau_1_it_is_near_cross_entropy():
    exact = comp_sum(scores(), TARGETS)
    for tau in (1 - 1e-6, 1 + 1e-6, 1 + 1e-12):
        torch.testing.assert_close(comp_sum(scores(), TARGETS, tau), exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(comp_sum(scores().float(), TARGETS, tau), exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", TAUS)
def test_its_gradient_is_that_of_cross_entropy_weighted_by_the_labels_probability(tau):
    h = scores().requires_grad_()
    (found,) = torch.autograd.grad(comp_sum(h, TARGETS, tau).sum(), h)
    (plain,) = torch.autograd.grad(comp_sum(h, TARGETS).sum(), h)
    weights = of_label(h.detach().softmax(1)) ** (tau - 1)
    torch.testing.assert_close(found, weights[:, None] * plain)


@pytest.mark.parametrize("tau", TAUS)
def test_equal_scores_give_the_loss_in_closed_form(tau):
    expected = math.log(5) if tau == 1 else (5 ** (1 - tau) - 1) / (1 - tau)
    assert CompSumLoss(tau)(torch.zeros(6, 5), TARGETS).item() == pytest.approx(expected)


def test_a_constant_added_to_all_scores_changes_nothing():
    shift = torch.randn(6, 1, generator=seeded(3), dtype=torch.float64)
    for inner in ("exp", "margin"):
        torch.testing.assert_close(
            comp_sum(scores() + shift, TARGETS, 0.5, inner), comp_sum(scores(), TARGETS, 0.5, inner)
        )
    torch.testing.assert_close(
        displacement(scores(), scores(1) + shift, TARGETS), displacement(scores(), scores(1), TARGETS)
    )


@pytest.mark.parametrize("tau", [1.0, 1.7, 2.0])
def test_logits_of_ten_thousand_give_a_finite_loss_and_gradient(tau):
    h = (1e4 * scores().float()).requires_grad_()
    value = CompSumLoss(tau)(h, TARGETS)
    (gradient,) = torch.autograd.grad(value, h)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_a_row_without_a_label_has_no_part_in_value_and_gradient_however_large():
    h = scores().float()
    h[1] = 1e5 * torch.arange(5)
    h.requires_grad_()
    value = CompSumLoss(0.0)(h, TARGETS)
    (gradient,) = torch.autograd.grad(value, h)
    torch.testing.assert_close(value, CompSumLoss(0.0)(h[KNOWN], TARGETS[KNOWN]))
    assert (gradient[1] == 0).all()
    assert torch.isfinite(gradient).all()


# --- guarantees ---


def distributions():
    return (1.5 * torch.randn(4, 3, generator=seeded(5), dtype=torch.float64)).softmax(1)


@pytest.mark.parametrize("tau", TAUS[:4])
def test_the_conditional_minimum_is_what_a_search_over_all_scores_finds(tau):
    p = distributions()
    h = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([h], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def expected_loss():
        return sum(p[:, k] * comp_sum(h, torch.full((4,), k), tau) for k in range(3))

    def closure():
        search.zero_grad()
        value = expected_loss().sum()
        value.backward()
        return value

    search.step(closure)
    torch.testing.assert_close(conditional_minimum(p, tau), expected_loss().detach(), rtol=1e-6, atol=1e-6)


def test_from_tau_2_on_the_minimum_is_approached_by_naming_the_likeliest_class():
    p = distributions()
    sure = 60.0 * F.one_hot(p.argmax(1), 3).double()
    for tau in (2.0, 3.0):
        reached = sum(p[:, k] * comp_sum(sure, torch.full((4,), k), tau) for k in range(3))
        torch.testing.assert_close(conditional_minimum(p, tau), reached)
    torch.testing.assert_close(conditional_minimum(p, 2 - 1e-9), conditional_minimum(p, 2.0), rtol=1e-6, atol=1e-6)


def test_near_tau_1_the_minimum_is_near_the_entropy_in_single_precision_too():
    p = distributions()
    entropy = -(p * p.log()).sum(1)
    for tau in (1.0, 1 + 1e-5, 1 - 1e-5):
        torch.testing.assert_close(conditional_minimum(p.float(), tau), entropy.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", TAUS)
def test_certain_labels_cost_nothing_unless_scores_are_bounded(tau):
    p = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(conditional_minimum(p, tau), torch.zeros(3, dtype=torch.float64))
    best = torch.tensor([[0.8, -0.8, -0.8]], dtype=torch.float64)
    expected = comp_sum(best, torch.tensor([0]), tau).expand(3)
    torch.testing.assert_close(conditional_minimum(p, tau, bound=0.8), expected)


def test_the_gap_is_0_for_free_scores_and_above_for_a_constant_one():
    p = distributions()
    free = float(conditional_minimum(p, 0.5).mean())
    assert minimizability_gap(free, p, 0.5) == pytest.approx(0, abs=1e-12)
    constant = float(conditional_minimum(p.mean(0), 0.5))
    assert minimizability_gap(constant, p, 0.5) == pytest.approx(constant - free)
    assert constant - free > 0.01
    assert minimizability_gap(2.0, torch.eye(3), 1.0, bound=0.8) == pytest.approx(2 - math.log(1 + 2 * math.exp(-1.6)))


def test_the_gap_without_noise_is_within_its_bound_which_falls_with_tau():
    """One score for both of two points with different labels: the best of the class is 0 for all losses."""
    p, bounds = torch.eye(2, dtype=torch.float64), []
    for tau in TAUS:
        risk = comp_sum(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]), tau).mean().item()
        bounds.append(gap_bound(1.0, 0.0, tau))
        assert minimizability_gap(risk, p, tau) <= bounds[-1] + 1e-9
    assert bounds == sorted(bounds, reverse=True)
    assert gap_bound(3.0, 1.0, 1.0) == pytest.approx(math.log(4 / 2))


def test_the_transfer_has_its_known_values():
    for b in (0.0, 0.3, 1.0):
        assert transfer(b, 0.0) == pytest.approx(1 - math.sqrt(1 - b * b))
        assert transfer(b, 2.0, 7) == pytest.approx(b / 7)
        assert transfer(b, 3.0, 7) == pytest.approx(b / 98)
        assert transfer(b, 1.0, 7) == transfer(b, 1.0)
    assert transfer(1.0) == pytest.approx(math.log(2))
    for near, at in ((1 - 1e-7, 1.0), (1 + 1e-7, 1.0), (2 - 1e-9, 2.0)):
        assert transfer(0.4, near, 3) == pytest.approx(transfer(0.4, at, 3), rel=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.6, 2.0, 2.5])
def test_the_bound_inverts_the_transfer_and_lies_below_its_simple_form(tau):
    grid = [i / 20 for i in range(21)]
    values = [transfer(b, tau, 4) for b in grid]
    assert values[0] == 0
    assert values == sorted(set(values))
    for b, t in zip(grid, values, strict=True):
        assert excess_bound(t, tau, 4) == pytest.approx(b, abs=1e-6)
        assert excess_bound(t, tau, 4) <= excess_bound(t, tau, 4, simple=True) + 1e-9
    assert excess_bound(1.01 * values[-1], tau, 4) == excess_bound(1e300, tau, 4) == 1.0
    small = transfer(1e-4, tau, 4)
    loose = math.sqrt(2 - tau) if 1 < tau < 2 else 1.0  # the paper's simple form drops this factor
    assert excess_bound(small, tau, 4, simple=True) * loose == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("tau", [*TAUS, 0.8, 1.2])
def test_with_two_classes_the_transfer_is_the_excess_of_undecided_scores(tau):
    """At (1 ± b)/2 the excess of scores that are equal, which may name the wrong class: the bound is tight."""
    for b in (0.1, 0.6, 1.0):
        p = torch.tensor([[(1 + b) / 2, (1 - b) / 2]], dtype=torch.float64)
        undecided = comp_sum(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]), tau)
        excess = (undecided - conditional_minimum(p, tau)).item()
        if tau <= 2:
            assert excess == pytest.approx(transfer(b, tau, 2))
        else:
            assert excess >= transfer(b, tau, 2)


@pytest.mark.parametrize("data", ["table", "constant"])
@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5, 2.0])
def test_the_bound_holds_on_drawn_problems_and_comes_near(data, tau):
    found = study(data, seed=7, tau=tau, classes=3, points=1 if data == "table" else 2, problems=40)
    assert found["slack"] > -1e-9
    assert 0.5 < found["tightness"] < 1 + 1e-9
    assert (found["gap"] > 0.01) == (found["gap_01"] > 0.01) == (data == "constant")


# --- the adversarial form ---


def test_the_adversarial_loss_is_the_loss_at_rho_and_how_far_differences_moved():
    clean, attacked, nu = scores(), scores(1), 0.3
    first = comp_sum(clean, TARGETS, 0.4, rho=0.5)
    for i in range(6):
        y = int(TARGETS[i])
        moved = [(attacked[i, y] - attacked[i, k]) - (clean[i, y] - clean[i, k]) for k in range(5)]
        distance = math.sqrt(sum(float(x) ** 2 for x in moved))
        expected = first[i].item() + nu * distance if y >= 0 else 0
        assert adversarial_comp_sum(clean, attacked, TARGETS, 0.4, 0.5, nu)[i].item() == pytest.approx(expected)
        assert displacement(clean, attacked, TARGETS)[i].item() == (pytest.approx(distance) if y >= 0 else 0)
    loss = AdversarialCompSumLoss(0.4, 0.5, nu)(clean, attacked, TARGETS)
    torch.testing.assert_close(loss, adversarial_comp_sum(clean, attacked, TARGETS, 0.4, 0.5, nu)[KNOWN].mean())


def test_without_an_attack_only_the_first_term_is_left_with_a_finite_gradient():
    clean = scores().requires_grad_()
    attacked = clean.detach().clone().requires_grad_()
    value = adversarial_comp_sum(clean, attacked, TARGETS, 1.0, 2.0).sum()
    torch.testing.assert_close(value, comp_sum(clean, TARGETS, rho=2.0).sum())
    ours, none = torch.autograd.grad(value, [clean, attacked])
    torch.testing.assert_close(ours, torch.autograd.grad(comp_sum(clean, TARGETS, rho=2.0).sum(), clean)[0])
    assert (none == 0).all()
    assert torch.equal(
        adversarial_comp_sum(clean, scores(1), TARGETS, nu=0.0), adversarial_comp_sum(clean, clean, TARGETS)
    )


def test_the_second_term_does_not_overflow():
    far = torch.tensor([[1e30, -1e30, 0.0]])
    found = displacement(torch.zeros(1, 3), far, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([math.sqrt(5) * 1e30]))


# --- the method ---


def images(rng):
    return 2 * torch.rand(6, 1, 4, 4, generator=rng) - 1


def test_the_method_is_the_loss_of_one_view(rng):
    method, view = CompSum(Encoder(), classes=5, tau=0.5, inner="margin", rho=2.0), images(rng)
    expected = CompSumLoss(0.5, "margin", 2.0)(method.logits(view), TARGETS)
    torch.testing.assert_close(method.loss([view], TARGETS, torch.arange(6)), expected)


class Normalised(nn.Sequential):
    """An encoder with batch normalisation, one part of which is held in evaluation mode."""

    features = 3

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5).eval())


def test_with_a_radius_the_attack_is_pgd_on_the_displacement_in_evaluation_mode(rng):
    torch.manual_seed(0)
    method = CompSum(Normalised(), classes=5, radius=0.05, attack_steps=3, attack_step=0.5)
    view = images(rng)
    torch.manual_seed(1)
    found = method.attacked(view, TARGETS)
    statistics = method.encoder[2].running_mean.clone()
    net = method.net.eval()
    clean = net(view).detach()
    torch.manual_seed(1)
    expected, _ = pgd(lambda x: displacement(clean, net(x), TARGETS), view, 0.1, 3, 0.05)
    torch.testing.assert_close(found, expected)
    assert (found - view).abs().max() <= 0.1 + 1e-6
    assert torch.equal(statistics, torch.zeros(3))


class Flat(nn.Flatten):
    features = 16


def test_of_a_linear_network_the_attack_moves_the_scores_as_far_as_a_corner_does(rng):
    """With two classes by the radius times the sum of all weights' sizes."""
    method, view = CompSum(Flat(), classes=2, radius=0.05, attack_steps=12), 0.8 * images(rng)
    labels = TARGETS.clamp(max=1)
    w = (method.classifier.weight[1] - method.classifier.weight[0]).detach()
    moved = displacement(method.logits(view), method.logits(method.attacked(view, labels)), labels)
    torch.testing.assert_close(moved[labels >= 0].detach(), (0.1 * w.abs().sum()).expand(5))


def test_with_a_radius_rows_of_numbers_are_refused():
    rows = Rows(torch.zeros(2, 16), torch.tensor([0, 1]), ("a", "b"), "rows")
    CompSum(Encoder(), classes=2).check_data(rows, 2)
    with pytest.raises(InputError, match="data: the radius of CompSum is a share of the range of values"):
        CompSum(Encoder(), classes=2, radius=0.1).check_data(rows, 2)


def test_its_loss_sees_clean_and_attacked_images_in_one_batch_and_leaves_modes_as_they_were(rng):
    torch.manual_seed(0)
    method = CompSum(Normalised(), classes=5, tau=0.4, rho=0.5, radius=0.05, nu=0.3)
    view = images(rng)
    torch.manual_seed(1)
    found = method.loss([view], TARGETS, torch.arange(6))
    found.backward()
    assert [part.training for part in method.encoder] == [True, True, True, False]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    method.encoder[2].reset_running_stats()
    torch.manual_seed(1)
    attacked = method.attacked(view, TARGETS)
    clean, moved = method.logits(torch.cat([view, attacked])).chunk(2)
    torch.testing.assert_close(found, AdversarialCompSumLoss(0.4, 0.5, 0.3)(clean, moved, TARGETS))


def test_training_with_a_radius_shortens_the_way_of_an_attack(rng):
    view, labels, ways = images(rng), TARGETS.clamp(min=0), {}
    for nu in (0.0, 5.0):
        torch.manual_seed(0)
        method = CompSum(Encoder(), classes=5, radius=0.1, nu=nu, attack_steps=2)
        optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            method.loss([view], labels, torch.arange(6)).backward()
            optimizer.step()
        torch.manual_seed(2)
        ways[nu] = displacement(method.logits(view), method.logits(method.attacked(view, labels)), labels).mean()
    assert ways[5.0] < ways[0.0] / 2


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CompSumLoss(-0.1), "tau: expected a number of at least 0, got -0.1"),
        (lambda: CompSumLoss(rho=0), "rho: expected a number above 0, got 0"),
        (lambda: CompSumLoss(inner="hinge"), "inner 'hinge' is not known"),
        (lambda: AdversarialCompSumLoss(nu=-1), "nu: expected a number of at least 0, got -1"),
        (lambda: CompSum(Encoder(), 5, radius=-0.1), "radius: expected a number of at least 0 and of at most 1"),
        (lambda: CompSum(Encoder(), 5, radius=0.1, inner="margin"), "inner: expected 'exp' beside a radius"),
        (lambda: CompSum(Encoder(), 5, attack_steps=0), "attack_steps: expected a whole number of at least 1, got 0"),
        (lambda: CompSum(Encoder(), 5, attack_step=0), "attack_step: expected a number above 0, got 0"),
        (
            lambda: CompSum(Encoder(), 5, radius=0.1).attacked(torch.full((6, 1, 4, 4), 2.0), TARGETS),
            "images: expected a number of at least -1 and of at most 1, got 2",
        ),
        (lambda: comp_sum(scores()[:, :1], TARGETS.clamp(max=0)), "logits: expected at least 2 columns"),
        (lambda: comp_sum(scores().float(), TARGETS, rho=1e-300), "logits divided by rho: .* NaN or infinite"),
        (lambda: displacement(scores(), scores()[:, :4], TARGETS), "logits and attacked: expected the same shape"),
        (lambda: phi(torch.tensor([-1.0])), "u: expected a number of at least 0, got -1"),
        (lambda: conditional_minimum(torch.tensor([0.5, 0.6])), "p: expected probabilities that sum to 1"),
        (lambda: conditional_minimum(torch.ones(2, 1)), "p: expected probabilities of at least 2 classes"),
        (lambda: conditional_minimum(torch.tensor([0.5, 0.5]), bound=1.0), "bound: .* certain labels alone"),
        (lambda: transfer(1.1), "b: expected a number of at least 0 and of at most 1, got 1.1"),
        (lambda: transfer(0.5, 500.0, 10), "tau: expected n\\^\\(tau - 1\\) within float64"),
        (lambda: excess_bound(-1), "t: expected a number of at least 0, got -1"),
        (lambda: gap_bound(1.0, 2.0), "minimum: expected a number of at least 0 and of at most 1, got 2"),
        (lambda: minimizability_gap(-1, torch.eye(2)), "risk: expected a number of at least 0, got -1"),
        (lambda: study("tables", 0), "data 'tables' is not known"),
    ],
)
def test_bad_input_is_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
