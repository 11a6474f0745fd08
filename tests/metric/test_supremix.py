"""SupReMix against loops that form every mixture, its limits, and the gradients through mixtures."""

import math
from typing import get_args

import pytest
import torch

from counterpoise.contrast.supcon import supcon
from counterpoise.errors import InputError
from counterpoise.metric import supremix as module
from counterpoise.metric.supcon_regression import SupConRegression
from counterpoise.metric.supremix import SupReMix, SupReMixLoss, Weight, bounds_of, hard_positives, log_weight, supremix
from worlds import Encoder, seeded

Y = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0, 3.5, 2.5, 1.0, 8.0], dtype=torch.float64)
Z = torch.randn(9, 4, generator=seeded(0), dtype=torch.float64)
SHARES = torch.rand(9, 9, generator=seeded(4), dtype=torch.float64)
WEIGHTS = {
    "linear": lambda d: abs(d) + 1,
    "square": lambda d: d * d + 1,
    "inverse-linear": lambda d: 1 / (abs(d) + 1),
    "inverse-square": lambda d: 1 / (d * d + 1),
    "none": lambda d: 1.0,
}


def plain(z, y, shares, window, temperature, weight, plus_one=False, parts=None, separate_shift=False):
    """Each anchor's mixtures as vectors, made of `parts`, which do not learn; or each group less its own maximum."""
    unit = z / z.norm(dim=1, keepdim=True)
    parts = unit.detach() if parts is None else parts
    w, n, losses = WEIGHTS[weight], len(z), []
    for a in range(n):
        others = [k for k in range(n) if k != a]
        terms = [(unit[a] @ unit[b] / temperature, w(y[b] - y[a])) for b in others]
        pulls = [unit[a] @ unit[b] / temperature for b in others if y[b] == y[a]]
        rows, real = len(terms), len(pulls)
        for k in others:
            if shares is not None and y[k] != y[a]:
                mixture = shares[a, k] * parts[a] + (1 - shares[a, k]) * parts[k]
                number = shares[a, k] * y[a] + (1 - shares[a, k]) * y[k]
                terms.append((unit[a] @ mixture / temperature, w(number - y[a])))
        for j in others:
            for k in others:
                if y[j] < y[a] < y[k] and y[a] - y[j] < window and y[k] - y[a] < window:
                    share = (y[k] - y[a]) / (y[k] - y[j])
                    pulls.append(unit[a] @ (share * parts[j] + (1 - share) * parts[k]) / temperature)
                    terms.append((pulls[-1], w(0.0)))
        if separate_shift and len(terms) > rows:
            own, mixed = (unit[a] @ unit[a]).item() / temperature, max(s.item() for s, _ in terms[rows:])
            terms = [(s - own, v) for s, v in terms[:rows]] + [(s - mixed, v) for s, v in terms[rows:]]
            pulls = [s - own for s in pulls[:real]] + [s - mixed for s in pulls[real:]]
        log_z = torch.stack([s + math.log(v) for s, v in terms]).logsumexp(0)
        if pulls or plus_one:
            losses.append(sum((log_z - s for s in pulls), torch.zeros(())) / (len(pulls) + plus_one))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("shares", "window"), [(SHARES, 2.5), (None, 2.5), (SHARES, 0.0), (None, 0.0), (SHARES, 1e9)])
@pytest.mark.parametrize("plus_one", [False, True])
def test_mixtures_written_out_give_the_same_value_and_gradient(weight, shares, window, plus_one):
    ours, theirs = (Z.clone().requires_grad_() for _ in range(2))
    value = supremix(ours, Y, shares, window, 0.4, weight, plus_one)
    expected = plain(theirs, Y, shares, window, 0.4, weight, plus_one)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weight", ["linear", "none"])
@pytest.mark.parametrize(("shares", "window"), [(SHARES, 2.5), (None, 2.5), (SHARES, 0.0), (None, 0.0)])
@pytest.mark.parametrize("plus_one", [False, True])
def test_each_group_less_its_own_maximum(weight, shares, window, plus_one):
    """As the authors' code subtracts them, from rows and from mixtures; without mixtures it changes nothing."""
    ours, theirs = (Z.clone().requires_grad_() for _ in range(2))
    value = supremix(ours, Y, shares, window, 0.4, weight, plus_one, separate_shift=True)
    expected = plain(theirs, Y, shares, window, 0.4, weight, plus_one, separate_shift=True)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)
    common = supremix(Z, Y, shares, window, 0.4, weight, plus_one)
    if shares is None and not window:
        assert torch.equal(value, common)
    else:
        assert abs(value - common) > 0.01


def test_a_separate_shift_by_hand():
    """As below, but the mixture, at 1/4T, is raised to 1/T: its weight is that of the anchor itself."""
    z, y = torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.tensor([1, 4, 1, 4])
    expected = math.log(math.e**2 + 2 * 4 + 2 * 3.25 * math.e**2) - 2
    found = supremix(z, y, 0.25, temperature=0.5, separate_shift=True)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    loss = SupReMixLoss(0.5, separate_shift=True)
    torch.testing.assert_close(loss(z, y), supremix(z, y, 0.2, temperature=0.5, separate_shift=True))


def test_a_separate_shift_is_finite_in_parts_and_at_the_least_temperature(monkeypatch):
    expected = plain(Z, Y, SHARES, 2.5, 1e-3, "linear", separate_shift=True)
    torch.testing.assert_close(supremix(Z, Y, SHARES, 2.5, 1e-3, separate_shift=True), expected)
    whole = supremix(Z, Y, SHARES, 2.5, 0.4, separate_shift=True)
    monkeypatch.setattr(module, "PART", 1)
    torch.testing.assert_close(supremix(Z, Y, SHARES, 2.5, 0.4, separate_shift=True), whole)
    alone = torch.full((6,), 7)  # no mixture to shift
    torch.testing.assert_close(supremix(Z[:6], alone, separate_shift=True), supremix(Z[:6], alone))


def test_the_gradient_is_the_slope_while_the_parts_of_mixtures_stay():
    parts = (Z / Z.norm(dim=1, keepdim=True)).clone()
    ours = Z.clone().requires_grad_()
    supremix(ours, Y, SHARES, 2.5, 0.4).backward()
    for place in [(0, 0), (3, 1), (4, 2), (8, 3)]:
        step = torch.zeros_like(Z)
        step[place] = 1e-6
        up, down = (plain(Z + s, Y, SHARES, 2.5, 0.4, "linear", parts=parts) for s in (step, -step))
        assert ours.grad[place].item() == pytest.approx(((up - down) / 2e-6).item(), abs=1e-7)
        free = [supremix(Z + s, Y, SHARES, 2.5, 0.4) for s in (step, -step)]
        assert abs(ours.grad[place] - (free[0] - free[1]) / 2e-6) > 1e-4  # with the parts, it is another


def test_formed_in_parts_it_is_the_same(monkeypatch):
    given = [(Z.clone().requires_grad_(), part) for part in (module.PART, 1)]
    values = []
    for z, part in given:
        monkeypatch.setattr(module, "PART", part)
        values.append(supremix(z, Y, SHARES, 2.5, 0.4))
        values[-1].backward()
    torch.testing.assert_close(*values)
    torch.testing.assert_close(given[0][0].grad, given[1][0].grad)


def test_how_many_mixtures_there_are():
    y = torch.tensor([1, 3, 4, 4]).repeat(2)
    numbers = y.double().sort().values
    found = hard_positives(numbers, numbers, bounds_of(numbers, numbers, 3.5))
    assert len(found.anchor) == 16
    assert set(numbers[found.anchor].tolist()) == {3.0}
    # Where all similarities are 0, an anchor's loss is the logarithm of how many terms it has: 7 rows, 6 or 4 hard
    # negatives (40 in all), and of the threes 8 hard positives.
    expected = (2 * math.log(7 + 6) + 2 * math.log(7 + 6 + 8) + 4 * math.log(7 + 4)) / 8
    assert supremix(torch.zeros(8, 3), y, 0.2, 3.5, weight="none").item() == pytest.approx(expected)
    assert not len(hard_positives(numbers, numbers, bounds_of(numbers, numbers, 1.0)).anchor)  # just so far is outside


def test_the_numbers_of_a_hard_positive_mix_to_the_anchors():
    numbers = Y.sort().values
    anchor, below, above, share = hard_positives(Y, numbers, bounds_of(Y, numbers, 4.0))
    assert len(share) > 20
    assert (share > 0).all()
    assert (share < 1).all()
    torch.testing.assert_close(share * numbers[below] + (1 - share) * numbers[above], Y[anchor])
    for side in (below, above):
        assert ((numbers[side] - Y[anchor]).abs() < 4).all()


def test_a_hard_negative_by_hand():
    # Two numbers 3 apart, two views each, orthogonal; the anchor's share is 1/4. Of an anchor: its other view at 1/T of
    # weight 1, two rows at 0 of weight 4, two mixtures at 1/4T of weight 1 + 3 · 3/4.
    z, y = torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.tensor([1, 4, 1, 4])
    expected = math.log(math.e**2 + 2 * 4 + 2 * 3.25 * math.exp(0.5)) - 2
    assert supremix(z, y, 0.25, temperature=0.5).item() == pytest.approx(expected, abs=1e-12)


def test_without_mixtures_and_weights_it_is_supcon(rng):
    z, y = torch.randn(12, 4, generator=rng, dtype=torch.float64), torch.arange(12) % 4
    off = SupReMixLoss(0.2, window=0, mix_neg="none", weight="none")
    torch.testing.assert_close(off(z, y, off.draw(y)), supcon(z, y, 0.2))
    lone = torch.cat([y[:-1], torch.tensor([9])])  # a row without a positive is no anchor
    torch.testing.assert_close(off(z, lone), supcon(z, lone, 0.2))
    assert (SupReMixLoss(0.2, weight="none")(z, y) - supcon(z, y, 0.2)).abs() > 0.1


def test_one_number_alone_has_no_mixtures():
    z, y = Z[:6], torch.full((6,), 7)
    torch.testing.assert_close(SupReMixLoss(0.3)(z, y), supcon(z, y, 0.3))


def test_invariances(rng):
    def value(z=Z, y=Y, shares=SHARES, window=2.5, weight="linear"):
        return supremix(z, y, shares, window, 0.4, weight)

    order = torch.randperm(9, generator=rng)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    torch.testing.assert_close(value(Z[order], Y[order], SHARES[order][:, order]), value())
    torch.testing.assert_close(value(Z @ turn * 3), value())
    torch.testing.assert_close(value(y=Y + 40), value())
    torch.testing.assert_close(value(y=-Y), value())
    torch.testing.assert_close(value(y=Y * 8, window=20, weight="none"), value(weight="none"))
    assert abs(value(y=Y * 8, window=20) - value()) > 0.1  # numbers in another unit have other weights


@pytest.mark.parametrize("weight", [weight for weight in get_args(Weight) if weight != "none"])
def test_weights_of_equal_numbers_have_a_finite_gradient(weight):
    gap = torch.tensor([0.0, -3.0, 1e-310, 1e200], dtype=torch.float64, requires_grad=True)
    value = log_weight(gap, weight)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(gap.grad).all()
    d = gap.detach().abs()
    plain = {"linear": d + 1, "square": d**2 + 1}[weight.removeprefix("inverse-")].double()
    expected = plain.log() * (-1 if weight.startswith("inverse") else 1)
    torch.testing.assert_close(value[:3].detach(), expected[:3], rtol=1e-14, atol=1e-16)


def test_more_weight_is_more_loss():
    order = ["inverse-square", "inverse-linear", "none", "linear", "square"]  # where all numbers are at least 1 apart
    values = [supremix(Z, Y.round() * 2, SHARES, 5.0, 0.4, weight).item() for weight in order]
    assert values == sorted(values)
    assert len(set(values)) == 5


def test_numbers_may_be_far_apart_or_near():
    d = torch.tensor([1e30, -1e30])
    assert log_weight(d, "square").tolist() == pytest.approx([2 * math.log(1e30)] * 2)
    y = torch.tensor([0.0, 1e30, 0.0, 1e30])
    assert torch.isfinite(supremix(torch.eye(2).repeat(2, 1), y, weight="square"))
    near = torch.tensor([0.0, 1e-60, 0.0, 1e-60], dtype=torch.float64)  # not equal, however near
    torch.testing.assert_close(supremix(torch.eye(4), near), supremix(torch.eye(4), near * 1e50))
    y = torch.tensor([0.0, 1e25, 2e25])  # rows that weigh next to nothing beside a mixture
    assert supremix(torch.eye(3), y, None, 1e26, weight="inverse-square").item() == pytest.approx(0, abs=1e-6)


def test_the_least_temperature_loses_no_row_and_no_mixture():
    """Each group of terms less its own maximum would weigh the groups anew; less none, all would overflow."""
    expected = plain(Z, Y, SHARES, 2.5, 1e-3, "linear")
    torch.testing.assert_close(supremix(Z, Y, SHARES, 2.5, 1e-3), expected)
    torch.testing.assert_close(supremix(Z.float(), Y, SHARES, 2.5, 1e-3).double(), expected, rtol=1e-4, atol=0)


def test_whole_numbers_are_numbers():
    y = Y.round()
    torch.testing.assert_close(supremix(Z, y.long(), SHARES), supremix(Z, y, SHARES))


@pytest.mark.parametrize(("mix_neg", "mean", "deviation"), [("other", 0.2, 0.1206), ("even", 0.5, 0.1508)])
def test_shares_are_drawn_as_said(mix_neg, mean, deviation):
    torch.manual_seed(0)
    drawn = SupReMixLoss(mix_neg=mix_neg).draw(torch.zeros(100))
    assert drawn.shape == (100, 100)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.005)
    assert drawn.std().item() == pytest.approx(deviation, abs=0.005)


def test_without_shares_all_are_the_mean():
    for mix_neg, mean in (("other", 0.2), ("even", 0.5), ("anchor", 0.8)):
        torch.testing.assert_close(
            SupReMixLoss(mix_neg=mix_neg)(Z, Y), supremix(Z, Y, torch.full((9, 9), mean).double())
        )


def test_rows_without_any_positive():
    y = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="targets: expected two equal ones"):
        supremix(Z[:3], y, window=1.0)
    z = Z[:3].clone().requires_grad_()
    value = supremix(z, y, window=1.0, plus_one=True)
    value.backward()
    assert value == 0
    assert (z.grad == 0).all()


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="embeddings: expected at least 3 rows, got 2"):
        supremix(Z[:2], torch.ones(2))  # of two views of one sample the loss would be 0
    with pytest.raises(InputError, match=r"targets: expected one for each of 9 rows, got \[9, 1\]"):
        supremix(Z, Y[:, None])
    with pytest.raises(InputError, match="targets: 9 of 9 numbers are NaN"):
        supremix(Z, Y * math.nan)
    with pytest.raises(InputError, match=r"shares: expected \[9, 9\], got \[9, 8\]"):
        supremix(Z, Y, SHARES[:, 1:])
    with pytest.raises(InputError, match="temperature: expected a number above 0"):
        SupReMixLoss(0)
    with pytest.raises(InputError, match="window: expected a number of at least 0"):
        SupReMixLoss(window=-1)
    with pytest.raises(InputError, match="weight 'l1' is not known"):
        SupReMixLoss(weight="l1")
    with pytest.raises(InputError, match=r"shares: expected numbers from 0 to 1, got -?\d"):
        supremix(Z, Y, SHARES + 1)
    with pytest.raises(InputError, match="numbers: expected ascending order"):
        bounds_of(Y, torch.tensor([1.0, 0.0]), 1.0)
    with pytest.raises(InputError, match="mix_neg 'both' is not known"):
        SupReMixLoss(mix_neg="both")


def made(kind=SupReMix, inputs=9, channels=1, **given):
    torch.manual_seed(0)
    return kind(Encoder(inputs, 5, channels), hidden=8, dim=4, **given).eval()


VIEWS = list(torch.randn(2, 6, 1, 3, 3, generator=seeded(2)))
LABELS = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0, 9.0])


def test_the_method_is_the_loss_of_all_views_and_without_its_parts_that_of_supcon():
    method = made()
    torch.manual_seed(1)
    value = method.loss(VIEWS, LABELS, torch.arange(6))
    torch.manual_seed(1)
    targets = LABELS.repeat(2)
    z = torch.cat([method.head(method.encoder(view)) for view in VIEWS])
    torch.testing.assert_close(value, supremix(z, targets, method.objective.draw(targets), 5.0, 0.3))
    off = made(window=0.0, mix_neg="none", weight="none", temperature=0.2, bin=2.0)
    expected = made(SupConRegression, temperature=0.2, bin=2.0)
    given = VIEWS, LABELS, torch.arange(6)
    torch.testing.assert_close(off.loss(*given), expected.loss(*given))


def test_the_method_reaches_the_separate_shift_and_the_authors_width():
    torch.manual_seed(0)
    method = SupReMix(Encoder(9, 5, 1), mix_neg="none", dim=128, separate_shift=True).eval()
    z = torch.cat([method.head(method.encoder(view)) for view in VIEWS])
    assert z.shape == (12, 128)
    expected = supremix(z, LABELS.repeat(2), None, 5.0, 0.3, separate_shift=True)
    torch.testing.assert_close(method.loss(VIEWS, LABELS, torch.arange(6)), expected)
    assert abs(expected - supremix(z, LABELS.repeat(2), None, 5.0, 0.3)) > 1e-3


def test_bins_keep_the_unit():
    method = made(mix_neg="none", bin=2.0)
    z = torch.cat([method.head(method.encoder(view)) for view in VIEWS])
    binned = torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0, 8.0]).repeat(2)
    torch.testing.assert_close(method.loss(VIEWS, LABELS, torch.arange(6)), supremix(z, binned, None, 5.0, 0.3))


def test_rows_have_one_view_and_those_without_a_positive_count_as_nothing(rng):
    method = made(inputs=3, channels=None, mix_neg="none")
    rows = torch.randn(6, 3, generator=rng)
    z = method.head(method.encoder(rows))
    assert method.views == 1
    torch.testing.assert_close(
        method.loss([rows], LABELS, torch.arange(6)), supremix(z, LABELS, None, 5.0, 0.3, plus_one=True)
    )
