"""AMCL against its equations written out pair by pair, its limits, and the temperatures' gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.amcl import (
    AMCL,
    AMCLLoss,
    MultiHeadProjector,
    PairTemperature,
    adaptive_contrast,
    adaptive_cross_correlation,
    adaptive_negative_cosine,
    nearest_pairs,
    omega,
    pair_temperature,
)
from counterpoise.contrast.moco import MoCo
from counterpoise.contrast.simclr import nt_xent
from counterpoise.data import Images
from counterpoise.errors import InputError
from worlds import Encoder, seeded

N, C, D, W = 6, 3, 5, 4  # samples, heads, width of z, width of phi
LOW, HIGH, BETA = 0.05, 2.0, 0.1


def random(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


Z1, Z2 = random(seeded(0), 2, N, C, D)
P1, P2 = random(seeded(1), 2, N, C, W)


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def temperature(a, b, low=LOW, high=HIGH):
    return low + (high - low) / (1 + math.exp(-(a @ b).item()))


def written_out(z1, z2, phi1, phi2, beta=BETA, low=LOW, high=HIGH, top_k=1, positive_competes=False):
    """Equation 2.1 (or 2.4) as the paper has it: anchor by anchor, head by head, in plain numbers."""
    z, phi, n = torch.cat([z1, z2]), torch.cat([phi1, phi2]), len(z1)

    def prior(tau):
        return beta * (z.shape[-1] / 2 * math.log(tau) + 1 / tau)

    total = 0.0
    for i in range(2 * n):
        for c in range(z.shape[1]):
            p = (i + n) % (2 * n)
            tau = temperature(phi[i, c], phi[p, c], low, high)
            total += prior(tau) - cosine(z[i, c], z[p, c]) / tau
            others = [k for k in range(2 * n) if k != i and (positive_competes or k != p)]
            nearest = sorted(others, key=lambda k: -cosine(z[i, c], z[k, c]))[:top_k]
            for k in nearest:
                tau = temperature(phi[i, c], phi[k, c], low, high)
                total += (cosine(z[i, c], z[k, c]) / tau - prior(tau)) / top_k
    return total / (2 * n)


@pytest.mark.parametrize("dim", [2, 4, 128])
def test_omega_has_its_least_value_at_two_over_the_width(dim):
    assert omega(torch.ones(1), dim).item() == 1
    tau = torch.tensor([2 / dim, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(omega(tau, dim).sum(), tau)
    torch.testing.assert_close(slope, dim / (2 * tau) - 1 / tau**2)
    assert slope[0].item() == pytest.approx(0, abs=1e-12)


def test_omega_is_minus_the_log_likelihood_of_a_pair_of_unit_vectors_but_for_constants(rng):
    a, b = F.normalize(random(rng, 2, D), dim=1)
    constant = []
    for tau in (0.3, 1.0, 1.9):
        gaussian = torch.distributions.MultivariateNormal(b, tau * torch.eye(D, dtype=torch.float64))
        ours = omega(torch.tensor(tau, dtype=torch.float64), D) - a @ b / tau
        constant.append((-gaussian.log_prob(a) - ours).item())
    assert constant == pytest.approx([D / 2 * math.log(2 * math.pi)] * 3, abs=1e-12)


@pytest.mark.parametrize("top_k", [1, 3, 10])
@pytest.mark.parametrize("positive_competes", [False, True])
def test_all_pairs_written_out(top_k, positive_competes):
    loss = AMCLLoss(BETA, LOW, HIGH, top_k, positive_competes)
    expected = written_out(Z1, Z2, P1, P2, top_k=top_k, positive_competes=positive_competes)
    assert loss(Z1, Z2, P1, P2).item() == pytest.approx(expected, abs=1e-12)


def test_two_samples_worked_by_hand():
    """All positives are at 0.6; outer rows have their nearest negative at 0.8, inner ones at 0.96, across the views."""
    z1 = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    z2 = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    root = torch.full((2, 1), math.sqrt(math.log(3)), dtype=torch.float64)
    # phi has the product log 3 within a view and -log 3 across: sigmoids 3/4 and 1/4, temperatures 3/2 and 1/2.
    loss = AMCLLoss(beta=0, low=1e-12, high=2)(z1, z2, root, -root)
    assert loss.item() == pytest.approx((0.8 / 1.5 + 0.96 / 0.5) / 2 - 0.6 / 0.5)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_constant_temperature_is_a_hardest_negative_loss_without_margin(tau):
    """Whatever phi and beta: the regularisers of both temperatures cancel."""
    expected = 0.0
    for c in range(C):
        z = F.normalize(torch.cat([Z1[:, c], Z2[:, c]]), dim=1)
        paired = torch.eye(N).bool().repeat(2, 2)
        nearest = (z @ z.T).masked_fill(paired, -2).amax(1)
        expected += ((nearest - (z * z.roll(N, 0)).sum(1)) / tau).mean()
    for beta in (0.0, 0.1, 7.0):
        torch.testing.assert_close(AMCLLoss(beta, tau, tau)(Z1, Z2, P1, P2), expected)


def test_heads_add_up():
    one = [AMCLLoss()(Z1[:, c], Z2[:, c], P1[:, c], P2[:, c]) for c in range(C)]
    torch.testing.assert_close(AMCLLoss()(Z1, Z2, P1, P2), sum(one))
    same = [x[:, :1].expand(-1, 4, -1) for x in (Z1, Z2, P1, P2)]
    torch.testing.assert_close(AMCLLoss()(*same), 4 * one[0])


def test_gradients_by_the_temperatures(rng):
    """Of the positive's s/tau² + beta Omega'(tau), of a counted negative's the opposite."""
    s, t = torch.rand(4, generator=rng, dtype=torch.float64), torch.rand(4, generator=rng, dtype=torch.float64) + 0.2
    s_neg, t_neg = s.flip(0)[:, None] / 2, (t.flip(0)[:, None] + 0.1).requires_grad_()
    t.requires_grad_()
    adaptive_contrast(s, s_neg, t, t_neg, dim=D, beta=BETA).sum().backward()
    for tau, cos, sign in ((t, s, 1), (t_neg, s_neg, -1)):
        torch.testing.assert_close(tau.grad, sign * (cos / tau**2 + BETA * (D / (2 * tau) - 1 / tau**2)))


def test_only_an_anchor_and_its_nearest_negative_learn_their_temperature():
    angles = torch.tensor([0.0, 0.3, 2.0, -0.1, 0.5, 2.2], dtype=torch.float64)
    z1, z2 = torch.stack([angles.cos(), angles.sin()], 1).chunk(2)
    phi1, phi2 = (x[:3, 0].clone().requires_grad_() for x in (P1, P2))
    pairs = AMCLLoss().pairs(z1, z2, phi1, phi2)
    assert pairs.negatives[0].item() == pytest.approx(math.cos(0.3))
    assert pairs.tau_neg[0].item() == pytest.approx(temperature(phi1[0], phi1[1]))
    pairs.tau_neg[0].sum().backward()
    assert (phi1.grad != 0).any(1).tolist() == [True, True, False]
    assert not phi2.grad.any()


def test_the_nearest_is_sought_by_similarity_and_not_by_similarity_over_temperature():
    z1 = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.435889894354, 0.0], [0.5, -0.866025403784, 0.0]], dtype=torch.float64)
    phi = torch.tensor([[1.0, 0.0], [5.0, 0.0], [-5.0, 0.0]], dtype=torch.float64)  # tau: large for 1, tiny for 2
    pairs = AMCLLoss(low=0.01).pairs(z1, z1, phi, phi)
    assert 0.5 / temperature(phi[0], phi[2], 0.01) > 0.9 / temperature(phi[0], phi[1], 0.01)
    assert pairs.negatives[0].item() == pytest.approx(0.9)
    assert pairs.tau_neg[0].item() == pytest.approx(temperature(phi[0], phi[1], 0.01))


def test_predicted_temperatures_are_symmetric_and_inside_their_range(rng):
    a, b = random(rng, 50, C, W), random(rng, 50, C, W)
    tau = pair_temperature(a, b, LOW, HIGH)
    assert tau.shape == (50, C)
    torch.testing.assert_close(tau, pair_temperature(b, a, LOW, HIGH))
    assert LOW < tau.min() < tau.max() < HIGH
    near_the_ends = pair_temperature(torch.tensor([[5.0], [-5.0]]), torch.tensor([[4.0], [4.0]]), LOW, HIGH)
    assert near_the_ends.tolist() == pytest.approx([HIGH, LOW], abs=1e-6)


@pytest.mark.slow
def test_gradient_in_double_precision(rng):
    given = [x.clone().requires_grad_() for x in (Z1, Z2, P1, P2)]
    assert torch.autograd.gradcheck(AMCLLoss(), given, fast_mode=True)
    assert torch.autograd.gradcheck(AMCLLoss(top_k=3, positive_competes=True), given, fast_mode=True)
    z1, z2, h1, h2 = (random(rng, N, D).requires_grad_() for _ in range(4))
    t1, t2 = ((random(rng, N).exp() + 0.1).detach().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda *x: adaptive_negative_cosine(x[0], x[1], h1, h2, *x[2:]), (z1, z2, t1, t2))
    tau = (random(rng, D, D).exp() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(adaptive_cross_correlation, (z1, z2, tau))


def test_invariances(rng):
    """Order of the batch and of the heads, lengths of rows, a rotation of each head, and the two views' places."""
    loss, value = AMCLLoss(), AMCLLoss()(Z1, Z2, P1, P2)
    order, heads = torch.randperm(N, generator=rng), torch.randperm(C, generator=rng)
    turn = torch.linalg.qr(random(rng, D, D)).Q
    for same in (
        loss(*(x[order] for x in (Z1, Z2, P1, P2))),
        loss(*(x[:, heads] for x in (Z1, Z2, P1, P2))),
        loss(100 * Z1 @ turn, Z2 @ turn / 100, P1, P2),
        loss(Z2, Z1, P2, P1),
    ):
        torch.testing.assert_close(same, value)


def test_large_batches_are_looked_through_in_parts(monkeypatch):
    loss = AMCLLoss(top_k=2)
    whole = loss(Z1, Z2, P1, P2)
    monkeypatch.setattr("counterpoise.ops.chunking.TABLE", 3 * 2 * len(Z1))
    torch.testing.assert_close(loss(Z1, Z2, P1, P2), whole)


def test_simsiam_with_temperature_1_is_the_symmetric_negative_cosine(rng):
    z1, z2, h1, h2 = random(rng, N, D), random(rng, N, D), random(rng, N, D), random(rng, N, D)
    one = torch.ones(N, dtype=torch.float64)
    plain = -(F.cosine_similarity(z1, h2) + F.cosine_similarity(z2, h1)).mean() / 2
    torch.testing.assert_close(adaptive_negative_cosine(z1, z2, h1, h2, one, one, beta=0), plain)
    heads = [x[:, None].expand(-1, C, -1) for x in (z1, z2)]
    taus = [one[:, None].expand(-1, C)] * 2
    torch.testing.assert_close(adaptive_negative_cosine(*heads, h1, h2, *taus, beta=0.3), C * (plain + 0.6))


def test_simsiam_s_targets_get_no_gradient_and_its_temperatures_theirs(rng):
    z1, z2, h1, h2 = (random(rng, N, D).requires_grad_() for _ in range(4))
    tau1, tau2 = (torch.rand(N, generator=rng, dtype=torch.float64).add(0.5).requires_grad_() for _ in range(2))
    adaptive_negative_cosine(z1, z2, h1, h2, tau1, tau2, BETA).backward()
    assert h1.grad is None
    assert h2.grad is None
    for tau, z, h in ((tau1, z1, h2), (tau2, z2, h1)):
        expected = F.cosine_similarity(z, h) / (2 * tau**2) + BETA * (D / (2 * tau) - 1 / tau**2)
        torch.testing.assert_close(tau.grad, expected / N)


def barlow(z1, z2, off_diagonal):
    a, b = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
    c = a.T @ b / len(a)
    own = torch.eye(c.shape[0]).bool()
    return (1 - c[own]).square().sum() + off_diagonal * c[~own].square().sum()


def test_cross_correlation_with_temperature_1_is_barlow_twins():
    ones = torch.ones(C, D, D, dtype=torch.float64)
    expected = sum(barlow(Z1[:, c], Z2[:, c], 0.02) for c in range(C))
    torch.testing.assert_close(adaptive_cross_correlation(Z1, Z2, ones, beta=0, off_diagonal=0.02), expected)
    # Omega(1) = 1: D temperatures of a head count plus, D (D - 1) minus.
    regularised = adaptive_cross_correlation(Z1, Z2, ones, beta=0.5, off_diagonal=0.02)
    torch.testing.assert_close(regularised, expected + 0.5 * C * (D - D * (D - 1)))


def test_cross_correlation_s_gradients_by_the_temperatures(rng):
    z1, z2 = random(rng, N, D), random(rng, N, D)
    tau = torch.rand(D, D, generator=rng, dtype=torch.float64).add(0.5).requires_grad_()
    adaptive_cross_correlation(z1, z2, tau, BETA, off_diagonal=0.02).backward()
    a, b = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
    c, t = a.T @ b / N, tau.detach()
    slope = BETA * (D / (2 * t) - 1 / t**2)
    expected = torch.where(torch.eye(D).bool(), 2 * (1 - c / t) * c / t**2 + slope, -0.02 * c**2 / t**2 - slope)
    torch.testing.assert_close(tau.grad, expected)


def test_columns_that_do_not_vary_do_no_harm():
    z = torch.ones(N, D, dtype=torch.float64, requires_grad=True)
    value = adaptive_cross_correlation(z, z, torch.ones(D, D, dtype=torch.float64), beta=0)
    value.backward()
    assert value.item() == D
    assert torch.isfinite(z.grad).all()


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = AMCLLoss()
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        loss(Z1[:1], Z2[:1], P1[:1], P2[:1])
    with pytest.raises(InputError, match=r"z1 and z2: expected the same shape, got \[6, 3, 5\] and \[6, 2, 5\]"):
        loss(Z1, Z2[:, :2], P1, P2)
    with pytest.raises(InputError, match=r"z1 and phi1: expected matching rows, got \[6, 3, 5\] and \[6, 4\]"):
        loss(Z1, Z2, P1[:, 0], P2[:, 0])
    with pytest.raises(InputError, match=r"z1: expected \[batch, dim\] or \[batch, heads, dim\], got shape \[5\]"):
        loss(Z1[0, 0], Z2[0, 0], P1, P2)
    with pytest.raises(InputError, match="phi2: 72 of 72 numbers are NaN or infinite"):
        loss(Z1, Z2, P1, P2 * math.nan)
    with pytest.raises(InputError, match="z1: expected enough rows for top_k = 11 negatives, got 10 negatives"):
        AMCLLoss(top_k=11)(Z1, Z2, P1, P2)
    with pytest.raises(InputError, match="low: expected a number above 0, got 0"):
        AMCLLoss(low=0)
    with pytest.raises(InputError, match=r"high: expected a number of at least 0\.05, got 0\.01"):
        AMCLLoss(high=0.01)
    z, tau = Z1[:, 0], torch.ones(N, dtype=torch.float64)
    with pytest.raises(InputError, match=r"z1 and h1: expected matching rows and columns, got \[6, 5\] and \[6, 4\]"):
        adaptive_negative_cosine(z, z, z[:, :4], z[:, :4], tau, tau)
    with pytest.raises(InputError, match="tau2: expected a number above 0, got -1"):
        adaptive_negative_cosine(z, z, z, z, tau, -tau)
    with pytest.raises(InputError, match=r"tau: expected temperatures of shape \[5, 5\], got \[6\]"):
        adaptive_cross_correlation(z, z, tau)
    with pytest.raises(InputError, match="heads: expected a whole number of at least 1, got 0"):
        MultiHeadProjector(8, 8, 8, heads=0)


def made(form="adaptive", **arguments):
    torch.manual_seed(0)
    return AMCL(Encoder(), form=form, hidden=8, dim=D, **arguments)


VIEWS = list(torch.randn(2, N, 1, 4, 4, generator=seeded(2)))


def loss_of(method):
    return method.loss(VIEWS, torch.full((N,), -1), torch.arange(N))


def test_the_method_predicts_temperatures_from_normalised_projections():
    method = made(heads=2, beta=0.3, low=0.2, high=1.5, top_k=2)
    z = [F.normalize(method.head(method.encoder(view)), dim=-1) for view in VIEWS]
    expected = written_out(*z, *(method.phi.phi(x) for x in z), beta=0.3, low=0.2, high=1.5, top_k=2)
    assert loss_of(method).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_all_heads_and_the_temperatures_network():
    method = made()
    loss_of(method).backward()
    assert len(method.head.heads) == 3
    assert all(p.grad.abs().max() > 1e-6 for p in method.parameters())


@pytest.mark.usefixtures("plain_shapes")
def test_the_forms_with_a_constant_temperature():
    for heads in (1, 3):
        z1, z2 = (made(heads=heads).head(made(heads=heads).encoder(view)) for view in VIEWS)
        single = sum(nt_xent(a, b, 0.2) for a, b in zip(z1.unbind(1), z2.unbind(1), strict=True))
        torch.testing.assert_close(loss_of(made("nt-xent", heads=heads, temperature=0.2)), single)
        nearest = AMCLLoss(0, 0.2, 0.2)(z1, z2, z1, z2)
        torch.testing.assert_close(loss_of(made("constant", heads=heads, temperature=0.2)), nearest)
    with pytest.raises(InputError, match="form 'nt-xnt' is not known; did you mean 'nt-xent'"):
        made("nt-xnt")


def test_diagnostics_report_the_temperatures(rng):
    pixels = torch.randint(0, 256, (9, 1, 4, 4), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(9) % 3, ("a", "b", "c"), "noise")
    method = made(low=0.2, high=1.4, heads=1)
    figures = method.diagnostics(images, images, images)
    phi = method.phi.phi(F.normalize(method.head(method.encoder(method.view(pixels))), dim=-1))[:, 0]
    positive = (0.2 + 1.2 * (phi * phi).sum(1).sigmoid()).mean().item()  # without augmentations both views are equal
    assert figures["tau_positive"] == pytest.approx(positive, rel=1e-5)
    assert figures["tau_negative"] != pytest.approx(positive, rel=1e-5)
    assert figures["tau_difference"] == pytest.approx(figures["tau_negative"] - figures["tau_positive"], abs=1e-6)
    assert figures["tau_at_bound"] == 0
    with torch.no_grad():
        method.phi[-1].bias.fill_(3)  # a product of about 128 · 9 for every pair
    figures = method.diagnostics(images, images, images)
    assert figures == pytest.approx({"tau_positive": 1.4, "tau_negative": 1.4, "tau_difference": 0, "tau_at_bound": 1})
    assert made("constant").diagnostics(images, images, images) == {}


def side_by_side(tau, low=LOW, high=HIGH):
    """The authors' form of a temperature, written out for one pair: a network of both rows, and a sigmoid."""

    def of(a, b):
        first, _, last = tau
        hidden = (first.weight @ torch.cat([a / a.norm(), b / b.norm()]) + first.bias).clamp(min=0)
        return low + (high - low) / (1 + math.exp(-(last.weight @ hidden + last.bias).item()))

    return of


@pytest.mark.parametrize("network", ["product", "joint"])
def test_a_temperature_of_any_pair_by_one_network_for_all_heads(network, rng):
    torch.manual_seed(0)
    tau = PairTemperature(D, LOW, HIGH, network, hidden=16).double()
    a, b = 3 * random(rng, 4, C, D), random(rng, 4, C, D) / 7
    found = tau(a, b)
    assert found.shape == (4, C)
    assert LOW < found.min() < found.max() < HIGH
    torch.testing.assert_close(found[:, 1], tau(a[:, 1], b[:, 1]))
    for i in range(4):
        if network == "joint":
            expected = side_by_side(tau)(a[i, 0], b[i, 0])
        else:
            expected = temperature(*(tau.phi(F.normalize(x[i, 0], dim=0)) for x in (a, b)))
        assert found[i, 0].item() == pytest.approx(expected)
    assert torch.allclose(found, tau(b, a)) == (network == "product")


@pytest.mark.parametrize("top_k", [1, 3, 10])
@pytest.mark.parametrize("positive_competes", [False, True])
def test_any_temperature_of_two_rows_written_out(top_k, positive_competes):
    """A joint network's; and the product's, for which this is the loss by phi of all rows."""
    torch.manual_seed(0)
    loss, tau = AMCLLoss(BETA, LOW, HIGH, top_k, positive_competes), PairTemperature(D, LOW, HIGH).double()
    found = loss.pairs_by(Z1, Z2, tau).loss(D, BETA)
    torch.testing.assert_close(found, loss(Z1, Z2, *(tau.phi(F.normalize(z, dim=-1)) for z in (Z1, Z2))))
    joint = PairTemperature(D, LOW, HIGH, "joint").double()
    pairs, of, z = loss.pairs_by(Z1, Z2, joint), side_by_side(joint), torch.cat([Z1, Z2])
    for i, c in ((0, 0), (4, 2), (N + 1, 1)):
        p = (i + N) % (2 * N)
        others = [k for k in range(2 * N) if k != i and (positive_competes or k != p)]
        nearest = sorted(others, key=lambda k: -cosine(z[i, c], z[k, c]))[:top_k]
        assert pairs.tau_pos[i, c].item() == pytest.approx(of(z[i, c], z[p, c]))
        assert pairs.tau_neg[i, c].tolist() == pytest.approx([of(z[i, c], z[k, c]) for k in nearest])
        assert pairs.negatives[i, c].tolist() == pytest.approx([cosine(z[i, c], z[k, c]) for k in nearest])


QUEUE = random(seeded(4), 9, C, D)


@pytest.mark.parametrize("top_k", [1, 4, 9])
def test_a_queue_of_negatives_written_out(top_k):
    """Equation 2.1, anchor by anchor and head by head; a queue has negatives for each head."""
    torch.manual_seed(0)
    joint = PairTemperature(D, LOW, HIGH, "joint").double()
    of, total = side_by_side(joint), 0.0

    def prior(tau):
        return BETA * (D / 2 * math.log(tau) + 1 / tau)

    for i in range(N):
        for c in range(C):
            tau = of(Z1[i, c], Z2[i, c])
            total += prior(tau) - cosine(Z1[i, c], Z2[i, c]) / tau
            for k in sorted(range(9), key=lambda k: -cosine(Z1[i, c], QUEUE[k, c]))[:top_k]:
                tau = of(Z1[i, c], QUEUE[k, c])
                total += (cosine(Z1[i, c], QUEUE[k, c]) / tau - prior(tau)) / top_k
    found = nearest_pairs(Z1, Z2, QUEUE, joint, top_k).loss(D, BETA)
    assert found.item() == pytest.approx(total / N, abs=1e-12)


def constant(tau):
    return lambda a, b: a.new_full(a.shape[:-1], tau)


def test_excluded_keys_of_a_queue_are_no_candidates():
    owners = (torch.arange(N), torch.arange(9) % N)
    found = nearest_pairs(Z1, Z2, QUEUE, constant(0.5), 2, owners).negatives
    for i in range(N):
        allowed = [k for k in range(9) if k % N != i]
        expected = sorted((cosine(Z1[i, 1], QUEUE[k, 1]) for k in allowed), reverse=True)[:2]
        assert found[i, 1].tolist() == pytest.approx(expected)
    with pytest.raises(InputError, match="negatives: expected at least top_k = 1 that are not excluded for each"):
        nearest_pairs(Z1, Z2, QUEUE, constant(0.5), 1, (torch.zeros(N).long(), torch.zeros(9).long()))


def test_a_queue_s_loss_has_no_gradient_for_its_far_keys_and_one_in_double_precision():
    keys = QUEUE.clone().requires_grad_()
    nearest_pairs(Z1[:1], Z2[:1], keys, constant(0.5)).loss(D, BETA).backward()
    assert (keys.grad.abs().sum(-1) > 0).sum(0).tolist() == [1] * C
    torch.manual_seed(0)
    tau = PairTemperature(D, LOW, HIGH, "joint", hidden=8).double()
    given = [x.clone().requires_grad_() for x in (Z1[:3], Z2[:3], QUEUE)]
    assert torch.autograd.gradcheck(lambda *x: nearest_pairs(*x, tau, 2).loss(D, BETA), given, fast_mode=True)


@pytest.mark.usefixtures("plain_shapes")
def test_a_queue_or_a_pair_of_another_shape_is_refused():
    with pytest.raises(
        InputError, match=r"anchors and negatives: expected rows of the same shape, got \[6, 3, 5\] and"
    ):
        nearest_pairs(Z1, Z2, QUEUE[:, :2], constant(0.5))
    with pytest.raises(InputError, match="negatives: expected at least top_k = 10 rows, got 9"):
        nearest_pairs(Z1, Z2, QUEUE, constant(0.5), top_k=10)
    with pytest.raises(InputError, match="negatives: 135 of 135 numbers are NaN"):
        nearest_pairs(Z1, Z2, QUEUE * math.nan, constant(0.5))
    with pytest.raises(InputError, match="network 'jiont' is not known; did you mean 'joint'"):
        PairTemperature(D, network="jiont")
    with pytest.raises(InputError, match=r"z1: expected rows of width 4, got shape \[6, 3, 5\]"):
        PairTemperature(4).double()(Z1, Z2)


def test_a_joint_network_serves_the_method():
    method = made(pair_network="joint", top_k=2)
    z1, z2 = (method.head(method.encoder(view)) for view in VIEWS)
    expected = AMCLLoss(top_k=2).pairs_by(z1, z2, method.phi).loss(D, 0.1)
    torch.testing.assert_close(loss_of(method), expected)
    loss_of(method).backward()
    assert all(p.grad.abs().max() > 0 for p in method.parameters())


def test_the_positive_may_compete_in_the_method():
    method = made("constant", positive_competes=True)
    z1, z2 = (method.head(method.encoder(view)) for view in VIEWS)
    torch.testing.assert_close(loss_of(method), AMCLLoss(0.1, 0.1, 0.1, positive_competes=True)(z1, z2, z1, z2))
    assert loss_of(method) >= loss_of(made("constant"))


def queued(form="adaptive", **arguments):
    return made(form, base="moco", queue=10, momentum=0.75, **arguments)


def test_with_a_queue_one_head_and_nt_xent_it_is_moco():
    """Step by step: the loss, the key encoder and the queue."""
    ours = queued("nt-xent", heads=1, temperature=0.3)
    torch.manual_seed(0)
    moco = MoCo(Encoder(), temperature=0.3, queue=10, momentum=0.75, hidden=8, dim=D)
    moco.load_state_dict(
        {name.replace("head.heads.0", "head"): x for name, x in ours.state_dict().items()} | {"queue": ours.queue[:, 0]}
    )
    for _ in range(3):
        with torch.no_grad():
            ours.encoder.weight += 0.1
            moco.encoder.weight += 0.1
        given = (VIEWS, torch.full((N,), -1), torch.arange(N))
        torch.testing.assert_close(ours.loss(*given), moco.loss(*given))
    torch.testing.assert_close(ours.queue[:, 0], moco.queue)
    torch.testing.assert_close(ours.key_encoder.weight, moco.key_encoder.weight)
    assert ours.pointer == moco.pointer == 3 * N % 10


@pytest.mark.parametrize("form", ["adaptive", "constant"])
@pytest.mark.parametrize("network", ["product", "joint"])
def test_with_a_queue_the_method_contrasts_with_the_queue_as_it_was(form, network):
    if form == "constant" and network == "joint":
        with pytest.raises(InputError, match="pair_network: expected 'product', since no network gives"):
            queued(form, pair_network=network)
        return
    method = queued(form, pair_network=network, top_k=2)
    before = method.queue.clone()
    queries, keys = method.head(method.encoder(VIEWS[0])), method.key_head(method.key_encoder(VIEWS[1]))
    tau = method.phi if form == "adaptive" else constant(0.1)
    expected = nearest_pairs(queries, keys, before, tau, 2).loss(D, 0.1)
    value = loss_of(method)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(method.queue, torch.cat([F.normalize(keys, dim=-1), before[N:]]))
    value.backward()
    assert all(p.grad is None for p in [*method.key_encoder.parameters(), *method.key_head.parameters()])
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.head.parameters()])
    method.eval()
    assert torch.equal(loss_of(method), loss_of(method))


@pytest.mark.parametrize("network", ["product", "joint"])
def test_simsiam_s_heads_predict_the_other_view_s_projection(network):
    method = made(base="simsiam", pair_network=network, beta=0.3)
    h1, h2 = (method.projector(method.encoder(view)) for view in VIEWS)
    z1, z2 = method.head(h1), method.head(h2)
    taus = [method.phi(z, h[:, None].expand(-1, C, -1)) for z, h in ((z1, h2), (z2, h1))]
    expected = adaptive_negative_cosine(z1, z2, h1, h2, *taus, beta=0.3)
    torch.testing.assert_close(loss_of(method), expected)
    loss_of(method).backward()
    assert all(p.grad is not None for p in method.parameters())


def test_simsiam_with_one_head_and_temperature_1_is_simsiam():
    method = made("constant", base="simsiam", heads=1, temperature=1.0, beta=0.0)
    h1, h2 = (method.projector(method.encoder(view)) for view in VIEWS)
    p1, p2 = (method.head.heads[0](h) for h in (h1, h2))
    plain = -(F.cosine_similarity(p1, h2.detach()) + F.cosine_similarity(p2, h1.detach())).mean() / 2
    torch.testing.assert_close(loss_of(method), plain)
    found, expected = (torch.autograd.grad(loss, method.encoder.weight) for loss in (loss_of(method), plain))
    torch.testing.assert_close(found, expected)


def test_barlow_twins_learns_a_temperature_for_each_entry():
    plain = made("constant", base="barlow-twins", temperature=1.0, beta=0.0, off_diagonal=0.02)
    z1, z2 = (plain.head(plain.encoder(view)) for view in VIEWS)
    expected = sum(barlow(z1[:, c], z2[:, c], 0.02) for c in range(3))
    torch.testing.assert_close(loss_of(plain), expected)
    method = made(base="barlow-twins", low=0.2, high=1.4, beta=0.3, off_diagonal=0.02)
    with torch.no_grad():
        method.entries[1] += 0.5
    tau = torch.full((3, D, D), 0.8)
    tau[1] = 0.2 + 1.2 / (1 + math.exp(-0.5))
    torch.testing.assert_close(loss_of(method), adaptive_cross_correlation(z1, z2, tau, 0.3, 0.02))
    loss_of(method).backward()
    assert (method.entries.grad != 0).all()
    assert not any(name == "entries" for name, p in plain.named_parameters() if p.requires_grad)


def test_each_base_reports_its_temperatures(rng):
    pixels = torch.randint(0, 256, (9, 1, 4, 4), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(9) % 3, ("a", "b", "c"), "noise")
    for base in ("moco", "simsiam", "barlow-twins"):
        method = made(base=base, low=0.2, high=1.4)
        state = {name: x.clone() for name, x in method.state_dict().items()}
        figures = method.diagnostics(images, images, images)
        assert all(torch.equal(state[name], x) for name, x in method.state_dict().items())
        assert method.training
        assert 0.2 < figures["tau_positive"] < 1.4
        assert figures["tau_at_bound"] == 0
        assert ("tau_negative" in figures) == (base != "simsiam")
        if base == "barlow-twins":
            expected = {"tau_positive": 0.8, "tau_negative": 0.8, "tau_difference": 0, "tau_at_bound": 0}
            assert figures == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("plain_shapes")
def test_choices_that_mean_nothing_are_refused():
    for base in ("simsiam", "barlow-twins"):
        with pytest.raises(InputError, match=f"form: expected 'adaptive' or 'constant', since {base} has no NT-Xent"):
            made("nt-xent", base=base)
        with pytest.raises(InputError, match="positive_competes: expected False, or the base 'simclr'"):
            made(base=base, positive_competes=True)
    with pytest.raises(InputError, match="base 'mocco' is not known; did you mean 'moco'"):
        made(base="mocco")
    with pytest.raises(InputError, match="pair_network 'sum' is not known"):
        made(pair_network="sum")
    with pytest.raises(InputError, match="queue: expected a whole number of at least 1, got 0"):
        made(base="moco", queue=0)
    with pytest.raises(InputError, match="momentum: expected a number"):
        made(base="moco", momentum=2)
    with pytest.raises(InputError, match="off_diagonal: expected a number"):
        made(base="barlow-twins", off_diagonal=-1)
