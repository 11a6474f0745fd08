import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, ncx2, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from counterpoise.errors import InputError
from counterpoise.measure import inductive_bias as module
from counterpoise.measure.inductive_bias import (
    LossModel,
    bias_interval,
    fit_losses,
    inductive_bias,
    kernel_losses,
    kernel_posterior,
    network_losses,
    perceptron,
)

POINTS = 2 * torch.rand(21, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
TRAIN, TEST = POINTS[:12], POINTS[12:]


def answer(x):
    return torch.stack([(2 * x.sum(1)).sin(), x.prod(1)], 1)


TARGETS, TEST_TARGETS = answer(TRAIN), answer(TEST)
LOSSES = kernel_losses(TRAIN, TARGETS, TEST, TEST_TARGETS, width=0.7, hypotheses=3000)


def drawn(df, nc, scale, size, seed=0):
    return torch.from_numpy(scale * np.random.default_rng(seed).noncentral_chisquare(df, nc, size))


def of_moments(x):
    return LossModel(*module._parameters(*module._of_moments(x), float(x.mean())))


@pytest.mark.parametrize("error", [1e-8, 1e-3, 0.1, 1.0, 30.0])
def test_two_degrees_of_freedom_are_an_exponential(error):
    expected = -math.log(-math.expm1(-error / (2 * 0.3)))
    assert LossModel(2, 0, 0.3).surprise(error) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("df", "nc"), [(0.5, 0.0), (1, 3.0), (60, 10.0), (4, 300.0), (3000, 1.0)])
def test_surprise_against_scipy(df, nc):
    for x in np.array([0.5, 0.8, 1.0, 1.3]) * (df + nc):
        assert LossModel(df, nc, 0.1).surprise(0.1 * x) == pytest.approx(-ncx2.logcdf(x, df, nc), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize(
    ("df", "nc", "x", "log"),  # by mpmath, in 40 digits
    [
        (60, 9e4, 100.0, -42157.074473477181),
        (1e4, 1e4, 100.0, -23031.275063480146),
        (2e4, 50, 1e4, -1948.8132663455581),
        (5, 3000, 10.0, -1342.379801202183),
        (2, 1e-3, 1e-5, -12.206575144279133),
    ],
)
def test_surprise_far_below_the_range_of_a_float(df, nc, x, log):
    assert LossModel(df, nc, 7.0).surprise(7.0 * x) == pytest.approx(-log, rel=1e-11)


@pytest.mark.parametrize(
    ("df", "nc", "x", "log"),  # by mpmath, in 40 digits
    [
        (60, 1e5, 100.0, -46996.397596059519),
        (1e5, 8e4, 1.5e5, -969.04579279871109),
        (2e5, 1.0, 1000.0, -430338.90454443752),
    ],
)
def test_surprise_of_many_degrees_of_freedom(df, nc, x, log):
    assert LossModel(df, nc, 7.0).surprise(7.0 * x) == pytest.approx(-log, rel=2e-9)


def test_surprise_falls_from_infinity_to_zero():
    for model in (LossModel(3, 40.0, 1e-3), LossModel(3e7, 9e7, 1.0), LossModel(1e13, 0, 1e-13)):
        mean = model.scale * (model.df + model.nc)
        found = [model.surprise(share * mean) for share in (0, 1e-200, 1e-6, 0.1, 0.5, 0.9, 1.0, 1.1, 3, 100)]
        assert found[0] == math.inf
        assert np.all(np.diff(found) <= 0)
        assert found[6] == pytest.approx(math.log(2), abs=0.1)
        assert found[-1] == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize(("df", "nc"), [(9e4, 0.0), (5e4, 4e4), (3.0, 9e4)])
def test_the_saddlepoint_is_the_mixture_where_both_can_be_had(df, nc):
    deviation = math.sqrt(2 * df + 4 * nc)
    for z in (-100, -30, -5, -1, -0.051, -0.049, 0, 0.02, 1, 3):
        x = df + nc + z * deviation
        assert module._saddlepoint(x, df, nc) == pytest.approx(module._mixture(x, df, nc), rel=1e-6)
    for share in (1e-6, 0.1, 0.5):
        x = share * (df + nc)
        assert module._saddlepoint(x, df, nc) == pytest.approx(module._mixture(x, df, nc), rel=1e-6)


@pytest.mark.parametrize(("df", "nc"), [(1e7, 0.0), (1e13, 1e12), (1.0, 1e10)])
def test_very_many_degrees_of_freedom_are_normal_but_for_their_skewness(df, nc):
    deviation, skew = math.sqrt(2 * df + 4 * nc), (8 * df + 24 * nc) / (2 * df + 4 * nc) ** 1.5
    for z in (-3, -0.5, 0, 2):
        edgeworth = norm.cdf(z) - skew / 6 * (z**2 - 1) * norm.pdf(z)
        assert LossModel(df, nc, 1.0).surprise(df + nc + z * deviation) == pytest.approx(-math.log(edgeworth), rel=1e-3)


def test_quantile_without_noncentrality_is_the_cube_root_s():
    """Wilson and Hilferty: (x/k)^(1/3) is normal with mean 1 - 2/9k and variance 2/9k."""
    for df, error in ((2, 0.1), (40, 15.0)):
        expected = ((error / 0.5 / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))
        assert LossModel(df, 0, 0.5).quantile(error) == pytest.approx(expected)


def test_quantile_by_hand():
    """df = 2, nc = 3: h = 41/96, p = 8/25, m = 55/96 · 9/32."""
    assert LossModel(2, 3, 0.1).quantile(0.1) == pytest.approx(-1.179140010185, abs=1e-11)
    assert LossModel(2, 3, 0.1).quantile(0.4) == pytest.approx(-0.020143968102, abs=1e-11)


@pytest.mark.parametrize(("df", "nc"), [(30, 20.0), (5, 100.0), (200, 3.0)])
def test_quantile_is_nearly_the_exact_one(df, nc):
    for x in ncx2.ppf([0.05, 0.5, 0.95], df, nc):
        assert LossModel(df, nc, 2.0).quantile(2 * x) == pytest.approx(norm.ppf(ncx2.cdf(x, df, nc)), abs=0.01)


def test_normal_surprise():
    """Half a squared quantile on the left: the exact tail less the logarithm of its factor; nothing on the right."""
    model = LossModel(60, 10, 1.0)
    z = model.quantile(25.0)
    assert model.normal_surprise(25.0) == pytest.approx(z**2 / 2)
    factor = math.log(-z * math.sqrt(2 * math.pi))
    assert factor > 2
    assert model.surprise(25.0) == pytest.approx(z**2 / 2 + factor, abs=0.5)
    assert model.normal_surprise(100.0) == 0


def test_the_fit_starts_from_the_losses_moments():
    x = drawn(5, 10, 0.2, 500).numpy()
    found = of_moments(x)
    assert found.nc > 0
    assert found.scale * (found.df + found.nc) == pytest.approx(x.mean())
    assert 2 * found.scale**2 * (found.df + 2 * found.nc) == pytest.approx(x.var())
    assert 8 * found.scale**3 * (found.df + 3 * found.nc) == pytest.approx(((x - x.mean()) ** 3).mean())


@pytest.mark.parametrize(("x", "share"), [([1.0] * 50 + [9.0], 0), ([1.0, 2.0, 3.0], 0.98)])
def test_two_moments_where_three_have_no_distribution(x, share):
    """Too skew for any share of the noncentral part, and too little."""
    found = of_moments(np.array(x))
    assert found.nc / (found.df + found.nc) == pytest.approx(share)
    assert found.scale * (found.df + found.nc) == pytest.approx(np.mean(x))
    assert 2 * found.scale**2 * (found.df + 2 * found.nc) == pytest.approx(np.var(x))


@pytest.mark.parametrize(("df", "nc"), [(1, 3.0), (4, 12.0), (99, 40.0), (103, 40.0), (500, 500.0)])
def test_density_against_scipy(df, nc):
    x = np.linspace(0.3, 2, 20) * (df + nc)
    found = module._log_density(0.1 * x, df, nc, 0.1)
    np.testing.assert_allclose(found, ncx2.logpdf(x, df, nc) - np.log(0.1), atol=1e-7)


@pytest.mark.parametrize(
    ("order", "z", "log"),  # by mpmath, in 40 digits
    [
        (50, 0.001, -528.52288992397519),
        (50, 7, -85.599973875685582),
        (80, 1000, 992.42741566583949),
        (10000, 50, -49920.107094576954),
        (1000, 3000, 2829.8790804283814),
    ],
)
def test_bessel_function_of_large_order(order, z, log):
    assert module._log_bessel(order, np.array([z]))[0] == pytest.approx(log, rel=1e-11, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("df", "nc", "scale"), [(4, 12.0, 0.01), (50, 0.0, 1.0), (1, 30.0, 5.0), (3e5, 1.0, 1e-5)])
def test_fitted_probabilities_are_those_that_losses_are_drawn_from(df, nc, scale):
    found, true = fit_losses(drawn(df, nc, scale, 20_000)), LossModel(df, nc, scale)
    for quantile in (1e-4, 0.01, 0.3, 0.9):
        error = scale * ncx2.ppf(quantile, df, nc)
        assert found.surprise(error) == pytest.approx(true.surprise(error), rel=0.05, abs=0.01)


@pytest.mark.parametrize(
    ("df", "nc", "size"),
    [(4, 12.0, 2000), (1, 30.0, 1000), (5, 3000.0, 1000), (300, 1.0, 1000), (50, 0.0, 500), (60, 10, 40)],
)
def test_the_fit_is_at_least_as_likely_as_scipy_s_as_its_start_and_as_the_truth(df, nc, size):
    x = drawn(df, nc, 1 / (df + nc), size, seed=1).numpy()
    found, start, true = fit_losses(torch.from_numpy(x)), of_moments(x), LossModel(df, max(nc, 1e-6), 1 / (df + nc))
    with np.errstate(all="ignore"):
        df_0, nc_0, _, scale_0 = ncx2.fit(x, df, nc, floc=0, scale=1 / (df + nc))
    models = (found, start, true, LossModel(df_0, nc_0, scale_0))
    likelihood = [module._log_density(x, model.df, model.nc, model.scale).sum() for model in models]
    assert likelihood[0] >= max(likelihood) - 1e-3
    assert found.scale * (found.df + found.nc) == pytest.approx(x.mean())


def test_a_loss_of_zero_leaves_the_moments():
    losses = torch.cat([LOSSES, torch.zeros(1, dtype=torch.float64)])
    found, start = fit_losses(losses), of_moments(losses.numpy())
    assert (found.df, found.nc, found.scale) == pytest.approx((start.df, start.nc, start.scale))


@pytest.mark.parametrize("size", [1e-12, 4.0, 1e9])
def test_units_and_order_do_not_matter(size):
    losses = LOSSES[:1000]
    model, larger = fit_losses(losses), fit_losses(losses * size)
    turned = fit_losses(losses.flip(0))
    for error in (0.02, 0.1, 0.5):
        expected = pytest.approx(model.surprise(error), rel=1e-3, abs=1e-9)
        assert larger.surprise(error * size) == expected
        assert turned.surprise(error) == expected


def test_the_bias_is_in_nats_in_bits_and_by_counting():
    error = float(LOSSES.quantile(0.25))
    found = inductive_bias(LOSSES, error)
    assert found.bits == pytest.approx(found.nats / math.log(2))
    assert found.reached == 750
    assert found.counted == pytest.approx(-math.log(0.25))
    assert found.model.surprise(error) == found.nats
    assert inductive_bias(LOSSES, float(LOSSES.min()) / 2).counted == math.inf
    assert inductive_bias(LOSSES, float(LOSSES.max())).counted == 0
    assert inductive_bias(LOSSES, 0.0).nats == math.inf


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_counting_and_the_fit_agree_within_the_interval(share):
    """For losses that have the distribution, within the bootstrap interval of the fit and the error of counting."""
    losses = drawn(4, 12, 0.01, 200, seed=3)
    error = float(losses.quantile(share))
    found = bias_interval(losses, error, resamples=20, confidence=0.99)
    counting = math.sqrt((1 - share) / share / 200)
    assert found.low - 2.6 * counting < inductive_bias(losses, error).counted < found.high + 2.6 * counting


@pytest.mark.slow
def test_interval():
    found = bias_interval(LOSSES[:200], 0.05, resamples=20)
    assert found == bias_interval(LOSSES[:200], 0.05, resamples=20)
    assert found != bias_interval(LOSSES[:200], 0.05, resamples=20, seed=1)
    assert found.low < found.mean < found.high
    assert found.mean == inductive_bias(LOSSES[:200], 0.05).nats
    assert found.n == 200
    narrow = bias_interval(LOSSES[:200], 0.05, resamples=20, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    fewer = bias_interval(LOSSES[:20], 0.05, resamples=20)
    assert (fewer.high - fewer.low) / (found.high - found.low) == pytest.approx(math.sqrt(10), rel=0.5)


def test_the_interval_is_of_quantiles():
    """Of two resamples they lie between the two, as far from either end, and as far apart as the confidence says."""
    wide, narrow = (bias_interval(LOSSES[:50], 0.05, c, resamples=2) for c in (0.9, 0.5))
    assert wide.low + wide.high == pytest.approx(narrow.low + narrow.high)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(0.9 / 0.5)


def test_an_interval_draws_resamples_that_are_all_the_same_again():
    found = bias_interval(torch.tensor([1.0, 2.0]), 1.2, resamples=8)
    assert found.low == pytest.approx(found.mean)
    assert found.high == pytest.approx(found.mean)


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    true, held = LossModel(30, 10, 0.01), 0
    for seed in range(12):
        found = bias_interval(drawn(30, 10, 0.01, 50, seed), 0.25, resamples=15, confidence=0.5)
        held += found.low < true.surprise(0.25) < found.high
    assert 2 < held < 10


def test_losses_that_are_all_the_same():
    same = torch.full((5,), 0.25)
    with pytest.warns(UserWarning, match="losses: all are the same"):
        assert inductive_bias(same, 0.25)[:4] == (0, 0, 0, 5)
    with pytest.warns(UserWarning, match="losses: all are the same"):
        assert inductive_bias(same, 0.2)[:4] == (math.inf, math.inf, math.inf, 0)


def test_losses_too_nearly_equal_for_a_density_leave_the_moments():
    losses = 1 + 1e-9 * drawn(50, 0, 1, 500)
    found, start = fit_losses(losses), of_moments(losses.numpy())
    assert (found.df, found.nc, found.scale) == pytest.approx((start.df, start.nc, start.scale), rel=1e-6)
    for share in (0.02, 0.5, 0.9):
        counted = inductive_bias(losses, float(losses.quantile(share))).counted
        assert found.surprise(float(losses.quantile(share))) == pytest.approx(counted, rel=0.2)


def test_nearly_equal_losses_far_below_the_error_need_no_bias():
    generator = torch.Generator().manual_seed(1)
    losses = 1e-9 * (1 + 1e-3 * torch.randn(500, generator=generator, dtype=torch.float64))
    assert inductive_bias(losses, 0.2).nats == 0
    assert inductive_bias(losses, 0.9e-9).nats > 1000
    assert inductive_bias(losses, float(losses.median())).nats == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("width", [0.3, 1.5])
def test_posterior_against_scikit_learn(width):
    process = GaussianProcessRegressor(RBF(width, "fixed"), alpha=1e-8, optimizer=None).fit(TRAIN, TARGETS)
    mean, covariance = process.predict(TEST, return_cov=True)
    found = kernel_posterior(TRAIN, TARGETS, TEST, width)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance, covariance[..., 0], atol=1e-7)


def test_posterior_fits_the_training_data():
    found = kernel_posterior(TRAIN, TARGETS, TRAIN, width=0.4)
    torch.testing.assert_close(found.mean, TARGETS, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.covariance, torch.zeros(12, 12, dtype=torch.float64), atol=1e-6, rtol=0)


def test_posterior_far_from_the_training_data_is_the_prior():
    found = kernel_posterior(TRAIN, TARGETS, TEST, width=1e-4)
    torch.testing.assert_close(found.mean, torch.zeros_like(TEST_TARGETS))
    torch.testing.assert_close(found.covariance, torch.eye(9, dtype=torch.float64))


def test_more_training_points_never_raise_the_variance():
    variances = torch.stack([kernel_posterior(TRAIN[:n], TARGETS[:n], TEST).covariance.diag() for n in range(1, 13)])
    assert (variances.diff(dim=0) < 1e-9).all()
    assert (variances.diff(dim=0).sum(0) < -1e-3).all()


def test_moments_of_the_kernel_s_losses():
    """Of |d + z|² / pk with z of covariance C for each of k outputs: mean (|d|² + k tr C) / pk, and so on."""
    mean, covariance = kernel_posterior(TRAIN, TARGETS, TEST, width=0.7)
    d, count = mean - TEST_TARGETS, TEST_TARGETS.numel()
    expected = (d.square().sum() + 2 * covariance.trace()) / count
    variance = (2 * 2 * covariance.square().sum() + 4 * (d * (covariance @ d)).sum()) / count**2
    error = (variance / len(LOSSES)).sqrt()
    assert abs(LOSSES.mean() - expected) < 4 * error
    assert LOSSES.var() == pytest.approx(variance.item(), rel=0.2)
    assert 0.2 < d.square().sum() / count / expected < 0.8  # neither the means nor the deviations alone


def test_losses_are_those_of_functions_drawn_whole():
    mean, covariance = kernel_posterior(TRAIN, TARGETS, TEST, width=0.7)
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(9, dtype=torch.float64))
    noise = torch.randn(3000, 9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = (mean + root @ noise - TEST_TARGETS).square().mean((1, 2))
    assert ks_2samp(LOSSES, whole).pvalue > 0.01
    assert ks_2samp(LOSSES, 1.1 * whole).pvalue < 1e-4


def test_one_test_point_and_one_output_are_a_noncentral_chi_square():
    inputs = (TRAIN[:4], TARGETS[:4, :1], TEST[:1], TEST_TARGETS[:1, :1])
    losses = kernel_losses(*inputs, width=0.7)
    mean, covariance = kernel_posterior(*inputs[:3], width=0.7)
    variance = float(covariance)
    true = LossModel(1, float(mean - inputs[3]) ** 2 / variance, variance)
    found = fit_losses(losses)
    for quantile in (0.002, 0.05, 0.5):
        error = float(losses.quantile(quantile))
        assert found.surprise(error) == pytest.approx(true.surprise(error), rel=0.05)


def test_hypotheses_in_blocks_and_seeds(monkeypatch):
    inputs = (TRAIN, TARGETS, TEST, TEST_TARGETS)
    assert torch.equal(kernel_losses(*inputs, hypotheses=50), kernel_losses(*inputs, hypotheses=50))
    assert not torch.equal(kernel_losses(*inputs, hypotheses=50), kernel_losses(*inputs, hypotheses=50, seed=1))
    whole = kernel_losses(*inputs, hypotheses=50)
    monkeypatch.setattr(module, "BLOCK", 18 * 7)
    parts = kernel_losses(*inputs, hypotheses=50)
    assert len(parts) == 50
    assert len(parts.unique()) == 50
    assert parts.mean() == pytest.approx(whole.mean().item(), rel=0.3)


def alone(which, hypotheses, epochs, batch_size, seed):
    """Network number `which` of so many, trained by a plain loop."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = [perceptron(2, 2, width=8)() for _ in range(hypotheses)][which].double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = [torch.randperm(12, generator=generator) for _ in range(hypotheses)][which]
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(TRAIN[rows]), TARGETS[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return [torch.nn.functional.mse_loss(net(x), y).item() for x, y in ((TEST, TEST_TARGETS), (TRAIN, TARGETS))]


@pytest.mark.parametrize("batch_size", [5, 12, 100])
def test_networks_trained_together_are_those_trained_alone(batch_size):
    made, inputs = perceptron(2, 2, width=8), (TRAIN, TARGETS, TEST, TEST_TARGETS)
    found = network_losses(made, *inputs, hypotheses=3, epochs=10, batch_size=batch_size, lr=0.01, seed=4)
    assert len(found.test.unique()) == 3
    for which in range(3):
        expected = alone(which, 3, 10, batch_size, seed=4)
        assert [found.test[which].item(), found.train[which].item()] == pytest.approx(expected, rel=1e-9)


def test_networks_come_again_with_their_seed_and_leave_torch_s_generator():
    state = torch.get_rng_state()
    first, second, other = (
        network_losses(perceptron(2, 2), TRAIN, TARGETS, TEST, TEST_TARGETS, 2, epochs=3, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.test, second.test)
    assert not torch.equal(first.test, other.test)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_paper_s_network():
    kinds = [type(part).__name__ for part in perceptron(3, 2, width=5, depth=2)()]
    assert kinds == ["Linear", "ReLU"] * 3 + ["Linear"]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LossModel(0, 1, 1), "df: expected a number above 0, got 0"),
        (lambda: LossModel(1, -1, 1), "nc: expected a number of at least 0, got -1"),
        (lambda: LossModel(1, 1, math.inf), "scale: expected a number above 0, got inf"),
        (lambda: LossModel(1, 1, 1).surprise(-1), "error: expected a number of at least 0, got -1"),
        (lambda: inductive_bias(LOSSES, -0.1), "error: expected a number of at least 0, got -0.1"),
        (lambda: inductive_bias(LOSSES[:1], 0.1), r"losses: expected at least 2 of them in a vector, got shape \[1\]"),
        (lambda: inductive_bias(-LOSSES, 0.1), "losses: expected none below 0, got -"),
        (lambda: inductive_bias(LOSSES / 0, 0.1), "losses: 3000 of 3000 numbers are NaN or infinite"),
        (lambda: fit_losses(torch.ones(4)), "losses: expected at least 2 different ones"),
        (lambda: bias_interval(torch.ones(4), 0.1), "losses: expected at least 2 different ones"),
        (lambda: bias_interval(LOSSES, 0.1, confidence=1), "confidence: expected a number above 0 and below 1, got 1"),
        (lambda: bias_interval(LOSSES, 0.1, resamples=1), "resamples: expected a whole number of at least 2, got 1"),
        (lambda: kernel_posterior(TRAIN, TARGETS[:3], TEST), "targets: expected 12 rows as in train, got 3"),
        (lambda: kernel_posterior(TRAIN, TARGETS, TEST[:, :1]), "test: expected 2 columns as in train, got 1"),
        (lambda: kernel_posterior(TRAIN, TARGETS, TEST, width=0), "width: expected a number above 0, got 0"),
        (lambda: kernel_posterior(TRAIN * 0, TARGETS, TEST, jitter=0), "jitter: 0 is too small for training points"),
        (lambda: kernel_losses(TRAIN, TARGETS, TEST, TARGETS), r"test_targets: expected shape \[9, 2\], got \[12, 2\]"),
        (
            lambda: kernel_losses(TRAIN, TARGETS, TEST, TEST_TARGETS, hypotheses=0),
            "hypotheses: expected a whole",
        ),
        (lambda: networks(perceptron(2, 1)), r"network: expected outputs of shape \[12, 2\], got \[12, 1\]"),
        (lambda: networks(perceptron(2, 2), epochs=0), "epochs: expected a whole number of at least 1, got 0"),
        (lambda: networks(perceptron(2, 2), lr=0), "lr: expected a number above 0, got 0"),
        (lambda: perceptron(2, 2, depth=-1), "depth: expected a whole number of at least 0, got -1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def networks(made, **arguments):
    return network_losses(made, TRAIN, TARGETS, TEST, TEST_TARGETS, hypotheses=2, **arguments)
