"""LDR: the maximum that it stands for, its limits, the temperatures' step, and the fast rows against the plain ones."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.classify import ldr
from counterpoise.classify.ldr import LDR, ALDRLoss, LDRLoss, adapt_temperature, ldr_kl, normalized_scores
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, 0, 1, 4, 1])
KNOWN = TARGETS >= 0
HOW = ("softplus", "l1", "none")


def scores(seed=0, scale=3.0):
    return scale * torch.randn(6, 5, generator=seeded(seed), dtype=torch.float64)


def differences(h, targets, margin):
    """$h_k + c_k - h_y$ by hand."""
    return torch.stack(
        [
            torch.stack([row[k] - row[y] + (margin if k != y else 0) for k in range(5)])
            for row, y in zip(h, targets.clamp(min=0), strict=True)
        ]
    )


# --- the loss of a row ---


@pytest.mark.parametrize("temperature", [0.5, 10.0])
def test_it_is_the_largest_penalised_mean_over_distributions_of_the_label(temperature):
    """No drawn distribution gives more, and the softmax of the differences gives as much."""
    h = scores()
    found = ldr_kl(h, TARGETS, temperature, margin=0.7)
    d = differences(h, TARGETS, 0.7)

    def objective(p):
        return (p * d).sum(1) - temperature * (p * (5 * p).log()).sum(1)

    for seed in range(20):
        drawn = (4 * torch.randn(6, 5, generator=seeded(seed), dtype=torch.float64)).softmax(1)
        assert (objective(drawn)[KNOWN] < found[KNOWN]).all()
    torch.testing.assert_close(objective((d / temperature).softmax(1))[KNOWN], found[KNOWN])
    assert found[1] == 0


def test_at_temperature_1_without_a_margin_it_is_cross_entropy_less_log_k():
    h = scores().requires_grad_()
    expected = F.cross_entropy(h, TARGETS, ignore_index=-1) - math.log(5)
    (wanted,) = torch.autograd.grad(expected, h)
    found = LDRLoss(temperature=1.0, margin=0.0, normalize="none")(h, TARGETS)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, h)[0], wanted)


def test_at_a_tiny_temperature_it_is_the_multiclass_hinge():
    h = scores()
    hinge = differences(h, TARGETS, 1.0).amax(1)
    torch.testing.assert_close(ldr_kl(h, TARGETS, 1e-9, 1.0)[KNOWN], hinge[KNOWN])
    assert torch.isfinite(ldr_kl(1e30 * h.float(), TARGETS, 1e-30)).all()


def test_at_a_huge_temperature_it_is_the_mean_and_symmetric():
    """The sum over all labels is then the same whatever the scores: uniform noise adds a constant."""
    h = scores()
    torch.testing.assert_close(
        ldr_kl(h, TARGETS, 1e7, 0.5)[KNOWN], differences(h, TARGETS, 0.5).mean(1)[KNOWN], rtol=1e-5, atol=1e-5
    )
    sums = sum(ldr_kl(h, torch.full((6,), k), 1e7, 0.5) for k in range(5))
    torch.testing.assert_close(sums, torch.full((6,), 4 * 0.5, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert sum(ldr_kl(h, torch.full((6,), k), 1.0, 0.5) for k in range(5)).std() > 1


def test_it_falls_with_the_temperature_is_convex_and_knows_no_constant():
    h, other = scores(), scores(1)
    values = torch.stack([ldr_kl(h, TARGETS, t, 0.3)[KNOWN] for t in (0.1, 1.0, 5.0, 50.0)])
    assert (values.diff(dim=0) < 0).all()
    middle = ldr_kl((h + other) / 2, TARGETS, 2.0)
    assert (middle <= (ldr_kl(h, TARGETS, 2.0) + ldr_kl(other, TARGETS, 2.0)) / 2).all()
    torch.testing.assert_close(ldr_kl(h + 7.0, TARGETS, 2.0), ldr_kl(h, TARGETS, 2.0))


@pytest.mark.parametrize("adaptive", [False, True])
def test_equal_logits_give_the_loss_in_closed_form(adaptive):
    logits = torch.full((6, 5), 0.3, dtype=torch.float64)
    expected = 10 * math.log((1 + 4 * math.exp(0.1 / 10)) / 5)
    found = ALDRLoss(6).double()(logits, TARGETS, torch.arange(6)) if adaptive else LDRLoss()(logits, TARGETS)
    assert found.item() == pytest.approx(expected)


def test_each_row_has_its_own_temperature():
    h, temperatures = scores(), torch.rand(6, generator=seeded(2), dtype=torch.float64) + 0.5
    expected = torch.stack([ldr_kl(h, TARGETS, t.item())[i] for i, t in enumerate(temperatures)])
    torch.testing.assert_close(ldr_kl(h, TARGETS, temperatures), expected)


# --- scores ---


def test_softplus_scores_are_positive_with_mean_1_and_l1_scores_keep_signs_with_mean_size_1():
    logits = scores()
    soft, signed = normalized_scores(logits), normalized_scores(logits, "l1")
    assert (soft > 0).all()
    torch.testing.assert_close(soft.mean(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(soft[:, 0] / soft[:, 1], (1 + logits[:, 0].exp()).log() / (1 + logits[:, 1].exp()).log())
    torch.testing.assert_close(signed.abs().mean(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(signed.sign(), logits.sign())
    torch.testing.assert_close(normalized_scores(8 * logits, "l1"), signed)
    assert torch.equal(normalized_scores(logits, "none"), logits)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("extreme", [0.0, 1e4, -1e4, 1e-12])
def test_at_extreme_logits_value_and_gradient_are_finite(how, extreme):
    logits = (scores().float().sign() * extreme if extreme == 1e-12 else torch.full((6, 5), extreme)).requires_grad_()
    logits.data[0, 0] *= -1
    for found in (
        LDRLoss(normalize=how)(logits, TARGETS),
        ALDRLoss(6, normalize=how)(logits, TARGETS, torch.arange(6)),
    ):
        (gradient,) = torch.autograd.grad(found, logits)
        assert torch.isfinite(found)
        assert torch.isfinite(gradient).all()


# --- temperatures ---


def test_the_step_lowers_the_temperature_by_the_divergence_from_uniform():
    h, before = scores(), torch.linspace(0.5, 3.0, 6, dtype=torch.float64)
    p = (h / before[:, None]).softmax(1)
    smoothed = (p + 1e-2) / (p + 1e-2).sum(1, keepdim=True)
    for q, smoothing in ((p, 0.0), (smoothed, 1e-2)):
        kl = (q * (5 * q).log()).sum(1)
        found = adapt_temperature(h, TARGETS, before, initial=4.0, alpha=3.0, smoothing=smoothing)
        torch.testing.assert_close(found, 4.0 - 4.0 * kl / (3.0 * math.log(5)))


def test_with_the_margin_p_is_that_of_the_loss():
    h = scores()
    p = differences(h, TARGETS, 0.8).div(2.0).softmax(1)
    expected = 2.0 - 2.0 * (p * (5 * p).log()).sum(1) / (2.0 * math.log(5))
    found = adapt_temperature(h, TARGETS, 2.0, initial=2.0, margin=0.8, smoothing=0.0)
    torch.testing.assert_close(found[KNOWN], expected[KNOWN])
    without = adapt_temperature(h, TARGETS, 2.0, initial=2.0, smoothing=0.0)
    assert torch.equal(found[~KNOWN], without[~KNOWN])


def test_the_fixed_point_maximises_the_penalised_loss_over_the_temperature():
    h, temperature = scores(scale=1.0), torch.full((6,), 2.0, dtype=torch.float64)
    for _ in range(60):
        temperature = adapt_temperature(h, TARGETS, temperature, initial=2.0, margin=0.3, smoothing=0.0)
    free = temperature.clone().requires_grad_()
    penalised = ldr_kl(h, TARGETS, free, 0.3) - 2.0 * math.log(5) / (2 * 2.0) * (free - 2.0).square()
    (slope,) = torch.autograd.grad(penalised[KNOWN].sum(), free)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)
    assert (temperature[KNOWN] < 1.99).all()


def test_temperatures_stay_in_their_range_and_reach_both_ends():
    extremes = torch.tensor([[0.0, 0.0, 0.0], [1e30, 0.0, 0.0], [-1e30, 0.0, 5.0]])
    found = adapt_temperature(extremes, torch.tensor([0, 0, 0]), torch.full((3,), 1e-9), alpha=1.001, smoothing=0.0)
    least = 10 * (1 - 1 / 1.001)
    torch.testing.assert_close(found, torch.tensor([10.0, least, least]))
    assert (found >= least * (1 - 1e-6)).all()
    assert (found <= 10).all()


def test_a_large_alpha_keeps_the_temperature_so_that_aldr_is_ldr():
    logits = scores()
    found = ALDRLoss(6, temperature=3.0, alpha=1e9).double()(logits, TARGETS, torch.arange(6))
    torch.testing.assert_close(found, LDRLoss(temperature=3.0)(logits, TARGETS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adapt_with_margin", [False, True])
def test_aldr_steps_first_and_then_takes_the_loss_with_the_new_temperatures(adapt_with_margin):
    """Twice, so that the second step starts from what the first has left."""
    loss = ALDRLoss(9, 2.0, 1.5, 0.4, "softplus", adapt_with_margin).double()
    index, now = torch.tensor([8, 1, 0, 3, 5, 2]), torch.full((6,), 2.0, dtype=torch.float64)
    for seed in range(2):
        h = normalized_scores(logits := scores(seed))
        now = adapt_temperature(h, TARGETS, now, 2.0, 1.5, 0.4 if adapt_with_margin else 0.0)
        now[1] = 2.0  # it has no label
        each = ldr_kl(h, TARGETS, now, 0.4) - 1.5 * math.log(5) / 4 * (now - 2.0).square()
        torch.testing.assert_close(loss(logits, TARGETS, index), each[KNOWN].mean())
        torch.testing.assert_close(loss.temperatures[index], now)
    assert torch.equal(loss.temperatures[[4, 6, 7]], torch.full((3,), 2.0, dtype=torch.float64))


def test_its_gradient_takes_the_new_temperatures_as_constants():
    logits = scores().requires_grad_()
    loss = ALDRLoss(6, temperature=2.0).double()
    (found,) = torch.autograd.grad(loss(logits, TARGETS, torch.arange(6)), logits)
    expected = ldr_kl(normalized_scores(logits), TARGETS, loss.temperatures, 0.1)[KNOWN].mean()
    torch.testing.assert_close(found, torch.autograd.grad(expected, logits)[0])


def test_outside_training_temperatures_are_used_but_not_kept():
    loss, twin = ALDRLoss(6).eval(), ALDRLoss(6)
    logits = scores().float()
    assert loss(logits, TARGETS, torch.arange(6)) == twin(logits, TARGETS, torch.arange(6))
    assert torch.equal(loss.temperatures, torch.full((6,), 10.0))
    assert not torch.equal(twin.temperatures, loss.temperatures)


def test_an_example_that_occurs_twice_keeps_the_mean_of_its_new_temperatures():
    loss, apart = ALDRLoss(6, 1.0), ALDRLoss(6, 1.0)
    logits = scores().float()
    loss(logits, TARGETS, torch.tensor([0, 1, 3, 3, 4, 5]))
    apart(logits, TARGETS, torch.arange(6))
    torch.testing.assert_close(loss.temperatures[3], apart.temperatures[2:4].mean())
    assert loss.temperatures[2] == 1.0


# --- rows in parts ---


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_in_parts_are_the_plain_form_with_its_gradient(how, dtype, monkeypatch):
    """7 rows of 4, in parts of 2, one of them tiny and one negative throughout."""
    monkeypatch.setitem(ldr.TABLE, "cpu", 8)
    plain = 5 * torch.randn(7, 4, generator=seeded(4), dtype=dtype)
    plain[3], plain[4] = plain[3] * 1e-12, -plain[4].abs() - 20
    plain.requires_grad_()
    targets, weights = torch.tensor([0, 3, -1, 2, 1, 1, 0]), torch.rand(7, generator=seeded(5), dtype=dtype)
    step = ldr.Adaptation(2.0, 2.0, 0.2, 1e-5)
    found, temperatures = ldr._Rows.apply(plain, targets, torch.full((7, 1), 2.0, dtype=dtype), 0.2, how, step)
    expected = ldr_kl(h := normalized_scores(plain, how), targets, temperatures, 0.2)
    adapted = adapt_temperature(h, targets, 2.0, 2.0, 2.0, 0.2)
    torch.testing.assert_close(temperatures, torch.where(targets >= 0, adapted, 2.0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), plain)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=1e-6)


def test_the_own_softplus_is_exact_from_end_to_end():
    x = torch.cat([torch.linspace(-80, 40, 997), torch.tensor([0.0, -1e4, 1e4])])
    exact = torch.log1p(x.double().exp()).where(x < 40, x.double())
    torch.testing.assert_close(ldr._softplus(x), exact.float(), rtol=1e-6, atol=0)


# --- refusals ---


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ALDRLoss(6, alpha=1.0), "alpha: expected a number above 1, got 1"),
        (lambda: ALDRLoss(6, temperature=0), "temperature: expected a number above 0, got 0"),
        (lambda: ALDRLoss(0), "samples: expected a whole number of at least 1, got 0"),
        (lambda: LDRLoss(margin=-1), "margin: expected a number of at least 0, got -1"),
        (lambda: LDRLoss(normalize="l2"), "normalize 'l2' is not known"),
        (lambda: ALDRLoss(6, normalize="l2"), "normalize 'l2' is not known"),
        (lambda: ALDRLoss(6, smoothing=-1), "smoothing: expected a number of at least 0, got -1"),
        (lambda: LDRLoss()(torch.zeros(6, 1), TARGETS.clamp(max=0)), "logits: expected at least 2 columns"),
        (lambda: LDRLoss()(torch.zeros(6, 4), TARGETS), "targets: expected integers from -1 to 3, got 4"),
        (
            lambda: ALDRLoss(5)(torch.zeros(6, 5), TARGETS, torch.arange(6)),
            "index: expected integers from 0 to 4, got 5",
        ),
        (
            lambda: ALDRLoss(6).bfloat16()(torch.zeros(6, 5), TARGETS, torch.arange(6)),
            "the temperatures were cast to torch.bfloat16: use mixed precision",
        ),
        (
            lambda: ldr_kl(torch.zeros(6, 5), TARGETS, torch.ones(5)),
            "temperature: expected one for each of the 6 rows, got shape \\[5\\]",
        ),
    ],
)
def test_bad_input_is_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


# --- the method ---


def images():
    """Two classes in noise, and some without a label."""
    rng = seeded(0)
    labels = torch.tensor([0, 1] * 10 + [-1] * 4)
    return Images(torch.randint(0, 256, (24, 1, 4, 4), generator=rng, dtype=torch.uint8), labels, ("a", "b"), "two")


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_method_is_the_loss_of_one_view_with_its_arguments(adaptive, rng):
    view = torch.randn(6, 1, 4, 4, generator=rng)
    given = {"temperature": 3.0, "margin": 0.3, "normalize": "l1"}
    method = LDR(Encoder(), 5, 6, adaptive, alpha=1.2, adapt_with_margin=True, smoothing=0.01, **given)
    logits, index = method.logits(view), torch.arange(6).flip(0)
    if adaptive:
        twin = ALDRLoss(6, alpha=1.2, adapt_with_margin=True, smoothing=0.01, **given)
        expected = twin(logits, TARGETS, index)
    else:
        expected = LDRLoss(**given)(logits, TARGETS)
    torch.testing.assert_close(method.loss([view], TARGETS, index), expected)
    if adaptive:
        assert torch.equal(method.objective.temperatures, twin.temperatures)


def test_training_moves_the_temperatures_of_labelled_images_alone(tmp_path):
    data = images()
    torch.manual_seed(0)
    method = LDR(Encoder(), classes=2, samples=24, temperature=0.5, lr=0.05)
    fit(method, data, epochs=2, batch_size=12, seed=0, folder=tmp_path, device="cpu", loggers=())
    temperatures = method.objective.temperatures
    assert (temperatures[:20] < 0.5).all()
    assert (temperatures[20:] == 0.5).all()
    found = method.diagnostics(data, data, data)
    assert found == {"temperature": pytest.approx(temperatures[:20].mean().item())}
    assert LDR(Encoder(), 2, 24, adaptive=False).diagnostics(data, data, data) == {}
