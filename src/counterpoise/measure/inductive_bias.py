r"""Inductive bias, computed as the surprise of a good solution among random ones that fit the training data.

Boopathy, Yue, Hwang, Iyer, Fiete, "Towards Exact Computation of Inductive Bias", IJCAI 2024, arXiv 2406.15941.

Draw hypotheses that fit the training data from a hypothesis space, compute the test loss of each, fit a distribution to
the losses, and evaluate $I(\varepsilon) = -\ln P(\text{loss} \le \varepsilon)$. A few thousand losses so give an
estimate of a probability of $e^{-1000}$, which is as good as the tail of the fitted distribution.

The module has two hypothesis spaces, `kernel_losses` (a Gaussian process) and `network_losses` (networks from random
starts). `inductive_bias` takes losses of any other space, too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.optimize import minimize
from scipy.special import expit, gammainc, gammaln, hyp1f1, ive, log_ndtr, logit, logsumexp, xlogy
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from counterpoise.errors import InputError
from counterpoise.measure.intervals import Interval
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_finite, check_matrix, check_number, check_seed

# From this many degrees of freedom on, a saddlepoint gives probabilities: SciPy's sums of as many terms lose digits.
MANY = 1e5
# Hypotheses are drawn in blocks of about this many numbers, which take 128 MB.
BLOCK = 1 << 24


@dataclass(frozen=True)
class LossModel:
    r"""A distribution of losses: `scale` times a noncentral chi-square variable.

    The loss of a Gaussian process has this distribution if the test points vary independently and by the same variance.
    For others, whose loss is a weighted sum of such variables, the distribution is a model.

    Args:
        df: degrees of freedom, above 0.
        nc: noncentrality, at least 0: the part of the loss that all hypotheses share.
        scale: factor of the variable, above 0.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> round(LossModel(df=2, nc=0, scale=0.5).surprise(error=0.3), 6), round(-math.log(1 - math.exp(-0.3)), 6)
        (1.350226, 1.350226)
    """

    df: float
    nc: float
    scale: float

    def __post_init__(self) -> None:
        check_number("df", self.df, above=0)
        check_number("nc", self.nc, at_least=0)
        check_number("scale", self.scale, above=0)

    def surprise(self, error: float) -> float:
        r"""$-\ln P(\text{loss} \le \text{error})$ in nats, with a relative error of about 1e-9 however far in the tail.

        Args:
            error: in the units of the losses, at least 0.

        Returns:
            The surprise; infinite for an error of 0.

        Raises:
            InputError: for a negative error.
        """
        check_number("error", error, at_least=0)
        if error == 0:
            return math.inf
        probability = _mixture if self.df + self.nc < MANY else _saddlepoint
        return max(0.0, -probability(error / self.scale, self.df, self.nc))

    def normal_surprise(self, error: float) -> float:
        """The paper's approximation of `surprise` far in the lower tail: half the square of the normal quantile.

        The paper's code uses it where the probability is too small for a float. It leaves out a factor of the normal
        tail, and is therefore a few nats less than `surprise`.

        Examples:
            >>> model = LossModel(df=60, nc=10, scale=1.0)
            >>> round(model.surprise(20), 2), round(model.normal_surprise(20), 2)
            (18.64, 15.53)
        """
        check_number("error", error, at_least=0)
        return min(self.quantile(error), 0.0) ** 2 / 2

    def quantile(self, error: float) -> float:
        """The standard normal quantile of a loss, by Sankaran's approximation of the noncentral chi-square."""
        df, nc = self.df, self.nc
        h = 1 - 2 / 3 * (df + nc) * (df + 3 * nc) / (df + 2 * nc) ** 2
        p = (df + 2 * nc) / (df + nc) ** 2
        m = (h - 1) * (1 - 3 * h)
        centre = 1 + h * p * (h - 1 - (2 - h) * m * p / 2)
        return ((error / self.scale / (df + nc)) ** h - centre) / (h * math.sqrt(2 * p) * (1 + m * p / 2))


class Bias(NamedTuple):
    """The bias that a target error needs.

    Attributes:
        nats: bias in nats, from the fitted distribution.
        bits: the same in bits.
        counted: bias in nats from the share of losses that reach the error, without a model; infinite if none does.
        reached: number of losses that reach the error. From about 20 on, `counted` is reliable.
        model: the fitted distribution; `None` if all losses are the same.
    """

    nats: float
    bits: float
    counted: float
    reached: int
    model: LossModel | None


class KernelPosterior(NamedTuple):
    """The posterior of a Gaussian process at the test points.

    Attributes:
        mean: posterior mean of each output.
        covariance: posterior covariance of the test points, the same for all outputs.
    """

    mean: Float64[Tensor, "points outputs"]
    covariance: Float64[Tensor, "points points"]


class NetworkLosses(NamedTuple):
    """The losses of each network.

    Attributes:
        test: mean squared errors on the test data.
        train: mean squared errors on the training data, which show whether the networks fit them.
    """

    test: Float[Tensor, " hypotheses"]
    train: Float[Tensor, " hypotheses"]


def inductive_bias(losses: Float[Tensor, " hypotheses"], error: float) -> Bias:
    r"""The bias that a hypothesis space lacks for a loss of at most `error`: $-\ln P(\text{loss} \le \varepsilon)$.

    The bias depends on the hypothesis space of the losses. A space brings to a task, compared to a broader space, the
    bias that the broader space lacks less the bias that it lacks itself.

    Args:
        losses: test losses of hypotheses that fit the training data, each at least 0.
        error: the loss wanted, in the same units, at least 0; for mean squared errors the mean over points and outputs.

    Returns:
        The bias; infinite for an error of 0.

    Raises:
        InputError: for fewer than 2 losses, negative losses, NaN, or a negative error.

    Examples:
        >>> losses = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)).square().mean(1)
        >>> found = inductive_bias(losses, error=0.1)
        >>> round(found.nats, 1), round(found.counted, 1)
        (3.3, 3.3)
    """
    values = _losses(losses)
    check_number("error", error, at_least=0)
    reached = int((values <= error).sum())
    counted = math.log(len(values) / reached) if reached else math.inf
    if values.min() == values.max():
        warnings.warn("losses: all are the same, so that no distribution can be fitted to them", stacklevel=2)
        return Bias(counted, counted / math.log(2), counted, reached, None)
    model = _fit(values)
    nats = model.surprise(error)
    return Bias(nats, nats / math.log(2), counted, reached, model)


def bias_interval(
    losses: Float[Tensor, " hypotheses"],
    error: float,
    confidence: float = 0.95,
    resamples: int = 100,
    seed: int = 0,
) -> Interval:
    """The bias in nats with its interval over hypotheses: quantiles over bootstrap samples of the losses.

    The interval takes the family of distributions for granted, also in the tail.

    Args:
        losses: as in `inductive_bias`.
        error: as in `inductive_bias`, but above 0; at 0 the bias is infinite.
        confidence: coverage of the interval, above 0 and below 1.
        resamples: number of bootstrap samples, at least 2.
        seed: of the bootstrap samples.

    Raises:
        InputError: as in `inductive_bias`, if all losses are the same, or for numbers out of range.

    Examples:
        >>> losses = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).square().mean(1)
        >>> found = bias_interval(losses, error=0.1, resamples=20)
        >>> found.low < inductive_bias(losses, error=0.1).nats < found.high
        True
    """
    values = _losses(losses)
    check_number("error", error, above=0)
    check_number("confidence", confidence, above=0, below=1)
    check_number("resamples", resamples, at_least=2, whole=True)
    check_seed(seed)
    nats = fit_losses(losses).surprise(error)
    generator = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < resamples:
        drawn = generator.choice(values, len(values))
        if drawn.min() < drawn.max():
            found.append(_fit(drawn).surprise(error))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(nats, float(low), float(high), len(values))


def fit_losses(losses: Float[Tensor, " hypotheses"]) -> LossModel:
    """Fit a scaled noncentral chi-square distribution to losses by maximum likelihood.

    Many pairs of degrees of freedom and noncentrality have nearly the same likelihood. Their probabilities agree, and
    the parameters themselves are uncertain.

    Args:
        losses: not all the same, each at least 0.

    Raises:
        InputError: for fewer than 2 losses, if all are the same, for negative ones, or NaN.

    Examples:
        >>> fit_losses(torch.tensor([1.0, 2.0, 3.0, 6.0])).scale > 0
        True
    """
    values = _losses(losses)
    if values.min() == values.max():
        raise InputError("losses: expected at least 2 different ones")
    return _fit(values)


def kernel_posterior(
    train: Float[Tensor, "n inputs"],
    targets: Float[Tensor, "n outputs"],
    test: Float[Tensor, "points inputs"],
    width: float = 1.0,
    jitter: float = 1e-8,
) -> KernelPosterior:
    r"""Posterior at the test points of functions $\phi(x) \theta$, $\theta \sim N(0, I)$, that fit the training data.

    The mean is $K_*^\top K^{-1} y$ and the covariance $K_{**} - K_*^\top K^{-1} K_*$ for the kernel
    $K(a, b) = e^{-|a-b|^2 / 2s^2}$, by a Cholesky decomposition in double precision. The outputs are independent.

    Args:
        train: training inputs, whose units matter.
        targets: training outputs.
        test: test inputs.
        width: width s of the kernel, above 0; the smaller, the less a training point determines its neighbourhood.
        jitter: added to the diagonal of K, which is 1; the smaller, the closer the fit to the training data.

    Raises:
        InputError: for wrong shapes, NaN, numbers out of range, or if K is singular in spite of the jitter.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> mean, covariance = kernel_posterior(x, torch.tensor([[1.0], [-1.0]]), x)
        >>> (mean.flatten() * 1000).round().tolist(), covariance.abs().max().item() < 1e-6
        ([1000.0, -1000.0], True)
    """
    check_number("width", width, above=0)
    check_number("jitter", jitter, at_least=0)
    _check_data(train, targets, test)
    train, targets, test = (x.detach().double() for x in (train, targets, test))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return (-(distances / width).square() / 2).exp()

    known = kernel(train, train) + jitter * torch.eye(len(train), dtype=torch.float64, device=train.device)
    factor, failed = torch.linalg.cholesky_ex(known)
    if failed:
        raise InputError(f"jitter: {jitter:g} is too small for training points as near as these; take a larger one")
    across = torch.linalg.solve_triangular(factor, kernel(train, test), upper=False)
    weights = torch.linalg.solve_triangular(factor, targets, upper=False)
    return KernelPosterior(across.T @ weights, kernel(test, test) - across.T @ across)


def kernel_losses(
    train: Float[Tensor, "n inputs"],
    targets: Float[Tensor, "n outputs"],
    test: Float[Tensor, "points inputs"],
    test_targets: Float[Tensor, "points outputs"],
    width: float = 1.0,
    hypotheses: int = 10_000,
    seed: int = 0,
    jitter: float = 1e-8,
) -> Float64[Tensor, " hypotheses"]:
    """Test losses of random functions of a Gaussian process that fit the training data.

    A loss depends only on the norm of a function's deviation. So the deviations are drawn along the axes of the
    covariance, at a cost of points³ once and of points · outputs for each hypothesis.

    Args:
        train: as in `kernel_posterior`.
        targets: as in `kernel_posterior`; ±1, one-hot, or any numbers.
        test: as in `kernel_posterior`.
        test_targets: the right outputs at the test inputs.
        width: as in `kernel_posterior`.
        hypotheses: number of functions, at least 1.
        seed: of the functions.
        jitter: as in `kernel_posterior`.

    Returns:
        Mean squared errors over test points and outputs.

    Raises:
        InputError: as in `kernel_posterior`.

    Examples:
        >>> x = torch.linspace(-1, 1, 7)[:, None]
        >>> losses = kernel_losses(x[::2], x[::2].sin(), x, x.sin(), hypotheses=100)
        >>> losses.shape, bool(losses.max() < 0.1)
        (torch.Size([100]), True)
    """
    check_number("hypotheses", hypotheses, at_least=1, whole=True)
    check_seed(seed)
    _check_data(train, targets, test, test_targets)
    mean, covariance = kernel_posterior(train, targets, test, width, jitter)
    variance, axes = torch.linalg.eigh(covariance)
    deviation, spread = axes.T @ (mean - test_targets.detach().double()), variance.clamp_min(0).sqrt()[:, None]
    generator = torch.Generator(mean.device).manual_seed(seed)
    blocks = []
    for block in torch.arange(hypotheses).split(max(1, BLOCK // deviation.numel())):
        noise = torch.randn(len(block), *deviation.shape, generator=generator, dtype=torch.float64, device=mean.device)
        blocks.append((deviation + spread * noise).square().mean((1, 2)))
    return torch.cat(blocks)


def network_losses(
    network: Callable[[], nn.Module],
    train: Float[Tensor, "n inputs"],
    targets: Float[Tensor, "n outputs"],
    test: Float[Tensor, "points inputs"],
    test_targets: Float[Tensor, "points outputs"],
    hypotheses: int = 40,
    epochs: int = 300,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> NetworkLosses:
    """Test losses of networks that are trained from random starts, all at once.

    Adam trains each network on mean squared errors, with its own initial weights and its own order of the data. The
    weights are stacked, so that one step updates all networks, independently of each other.

    Args:
        network: returns a new network, such as `perceptron(2, 1)`, with weights but no buffers and no random layers.
        train: training inputs.
        targets: training outputs; ±1, one-hot, or any numbers.
        test: test inputs.
        test_targets: the right outputs at the test inputs.
        hypotheses: number of networks, at least 1.
        epochs: passes over the training data, at least 1; enough of them to fit the data.
        batch_size: training points of a step, at least 1; the last batch of an epoch may be smaller.
        lr: learning rate of Adam, above 0.
        seed: of weights and orders; torch's global generator does not change.

    Returns:
        Mean squared errors over points and outputs, of the test and of the training data.

    Raises:
        InputError: for wrong shapes, NaN, or numbers out of range.

    Examples:
        >>> x = torch.linspace(-1, 1, 16)[:, None]
        >>> test, train = network_losses(perceptron(1, 1), x[::2], x[::2], x, x, hypotheses=3, epochs=100, lr=0.01)
        >>> test.shape, bool(test.max() < 0.01)
        (torch.Size([3]), True)
    """
    for name, value in (("hypotheses", hypotheses), ("epochs", epochs), ("batch_size", batch_size)):
        check_number(name, value, at_least=1, whole=True)
    check_seed(seed)
    check_number("lr", lr, above=0)
    _check_data(train, targets, test, test_targets)
    dtype = torch.promote_types(train.dtype, torch.float32)  # Adam divides by what half precision takes for 0
    train, targets, test, test_targets = (x.to(dtype) for x in (train, targets, test, test_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = [network().to(train.device, train.dtype) for _ in range(hypotheses)]
    weights, state = stack_module_state(networks)
    optimizer = torch.optim.Adam(weights.values(), lr=lr)

    def loss(weights: dict[str, Tensor], state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        found = functional_call(networks[0], (weights, state), (x,))
        if found.shape != y.shape:
            raise InputError(f"network: expected outputs of shape {list(y.shape)}, got {list(found.shape)}")
        return (found - y).square().mean()

    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        orders = torch.stack([torch.randperm(len(train), generator=generator) for _ in networks]).to(train.device)
        for rows in orders.split(batch_size, dim=1):
            optimizer.zero_grad()
            # The gradient of the sum is each network's own.
            vmap(loss)(weights, state, train[rows], targets[rows]).sum().backward()
            optimizer.step()
    with torch.no_grad():
        over = vmap(loss, in_dims=(0, 0, None, None))
        return NetworkLosses(over(weights, state, test, test_targets), over(weights, state, train, targets))


def perceptron(inputs: int, outputs: int, width: int = 64, depth: int = 1) -> Callable[[], nn.Module]:
    """A factory of the paper's network: `depth + 1` hidden layers of `width` with ReLU, then a linear layer.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        width: width of the hidden layers.
        depth: number of hidden layers beyond the first, at least 0.

    Returns:
        A function without arguments that returns a new network.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> perceptron(2, 1, width=8, depth=0)()
        Sequential(
          (0): Linear(in_features=2, out_features=8, bias=True)
          (1): ReLU(inplace=True)
          (2): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    for name, value, least in (
        ("inputs", inputs, 1),
        ("outputs", outputs, 1),
        ("width", width, 1),
        ("depth", depth, 0),
    ):
        check_number(name, value, at_least=least, whole=True)
    return lambda: mlp(inputs, width, outputs, layers=depth + 2, batch_norm=False)


def _mixture(x: float, df: float, nc: float) -> float:
    r"""$\ln P(\chi^2 \le x)$, $\chi^2$ being a mixture of central ones: $df + 2j$ with the Poisson weight of $j$.

    The terms' logarithms are concave in j, and terms beyond 12 deviations of the largest are negligible.
    """
    half, mean, y = df / 2, nc / 2, x / 2
    # Terms grow by about mean y / (j (half + j)) in the lower tail, and by mean / j above it.
    top = min(mean, 2 * mean * y / (half + math.sqrt(half**2 + 4 * mean * y)))
    reach = 12 * math.sqrt(top + 1) + 50
    j = np.arange(max(0, math.floor(top - reach)), math.ceil(top + reach) + 1)
    logs = xlogy(j, mean) - mean - gammaln(j + 1)
    below = gammainc(half + j, y)
    normal = below > 1e-290
    logs[normal] += np.log(below[normal])
    # Where a float cannot hold the incomplete gamma function, its series gives the logarithm in a few terms.
    a = half + j[~normal]
    logs[~normal] += a * math.log(y) - y - gammaln(a + 1) + np.log(hyp1f1(1, a + 1, y))
    return float(logsumexp(logs))


def _saddlepoint(x: float, df: float, nc: float) -> float:
    r"""$\ln P(\chi^2 \le x)$ for many degrees of freedom (Barndorff-Nielsen's form of Lugannani and Rice's formula).

    $\ln \Phi(r + \ln(v/r)/r)$ with $r^2/2 = s x - K(s)$ and $v = s \sqrt{K''(s)}$ at the saddlepoint $K'(s) = x$ of
    $K(s) = -\frac{df}2 \ln(1-2s) + nc \frac{s}{1-2s}$, all in terms of $u = \frac{1}{1-2s}$ and $t = u - 1$. Near the
    mean t is tiny, far below it u is.
    """
    above = x - df - nc
    t = 2 * above / (df + 2 * nc + math.sqrt((df + 2 * nc) ** 2 + 4 * nc * above))
    u = 2 * x / (df + math.sqrt(df**2 + 4 * nc * x))
    log_u = math.log1p(t) if t > -0.5 else math.log(u)
    r = math.copysign(math.sqrt(df * (t - log_u) + nc * t**2), t)
    v = t * math.sqrt(df / 2 + nc * u)
    # At the mean the second term's limit is a sixth of the skewness.
    skew = (8 * df + 24 * nc) / (2 * df + 4 * nc) ** 1.5
    return float(log_ndtr(r + (math.log(v / r) / r if abs(r) > 0.05 else skew / 6)))


def _fit(losses: np.ndarray) -> LossModel:
    """The model of maximum likelihood, searched by its relative variance and the share of its mean from noncentrality.

    These two parameters are nearly independent, which degrees of freedom and noncentrality are not. The scale follows,
    since the model of maximum likelihood has the mean of the losses.
    """
    mean = float(losses.mean())
    x = losses / mean
    start = _of_moments(x)
    if x.var() < 1e-10:  # the density is too inaccurate for its shape
        return LossModel(*_parameters(*start, mean))

    def unlikeliness(place: np.ndarray) -> float:
        value = -_log_density(x, *_parameters(math.exp(place[0]), float(expit(place[1])))).mean()
        return float(value) if np.isfinite(value) else math.inf

    first = np.array([math.log(start[0]), logit(max(start[1], 0.02))])
    if unlikeliness(first) == math.inf:  # for example with a loss of 0
        return LossModel(*_parameters(*start, mean))
    simplex = first + np.array([[0, 0], [0.1, 0], [0, 1]])
    options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9}
    bounds = [(None, None), (-14, 14)]  # shares nearer to 0 or 1 have the same likelihood
    variance, share = minimize(unlikeliness, first, method="Nelder-Mead", bounds=bounds, options=options).x
    return LossModel(*_parameters(math.exp(variance), float(expit(share)), mean))


def _parameters(variance: float, share: float, mean: float = 1.0) -> tuple[float, float, float]:
    r"""From the relative variance $2 (k + 2 \lambda) / (k + \lambda)^2$ and the share $\lambda / (k + \lambda)$."""
    total = 2 * (1 + share) / variance
    return total * (1 - share), total * share, mean / total


def _of_moments(x: np.ndarray) -> tuple[float, float]:
    r"""Relative variance and share of the model that has the first three moments of x.

    The moments are $c (k + \lambda)$, $2 c^2 (k + 2 \lambda)$ and $8 c^3 (k + 3 \lambda)$, so that
    $\mu c^2 - \sigma^2 c + \mu_3 / 8 = 0$. If x is too skewed for any share, or too little, the nearest share is taken.
    """
    mean, variance, third = (float(moment) for moment in (x.mean(), x.var(), ((x - x.mean()) ** 3).mean()))
    root = math.sqrt(max(0.0, variance**2 - mean * third / 2))
    share = root / (variance - root) if root < variance / 2 else 1.0
    return variance / mean**2, min(share, 0.98)


def _log_density(x: np.ndarray, df: float, nc: float, scale: float) -> np.ndarray:
    x = x / scale
    with np.errstate(all="ignore"):
        bessel = _log_bessel(df / 2 - 1, np.sqrt(nc * x))
        return bessel + (df / 4 - 0.5) * np.log(x / nc) - (x + nc) / 2 - math.log(2 * scale)


def _log_bessel(order: float, z: np.ndarray) -> np.ndarray:
    r"""$\ln I_\nu(z)$; for large orders, where SciPy's function underflows, by Debye's expansion (DLMF 10.41.3)."""
    if order < 50:
        return np.log(ive(order, z)) + z
    s = np.hypot(1, z / order)
    t = 1 / s
    terms = (
        (3 * t - 5 * t**3) / 24,
        (81 * t**2 - 462 * t**4 + 385 * t**6) / 1152,
        (30375 * t**3 - 369603 * t**5 + 765765 * t**7 - 425425 * t**9) / 414720,
    )
    eta = s + np.log(z / order) - np.log1p(s)
    series = sum(term / order**k for k, term in enumerate(terms, 1))
    return order * eta - np.log(2 * math.pi * order * s) / 2 + np.log1p(series)


def _losses(losses: Tensor) -> np.ndarray:
    check_finite("losses", losses)
    if losses.ndim != 1 or len(losses) < 2:
        raise InputError(f"losses: expected at least 2 of them in a vector, got shape {list(losses.shape)}")
    if losses.min() < 0:
        raise InputError(f"losses: expected none below 0, got {float(losses.min()):g}")
    return losses.detach().cpu().double().numpy()


def _check_data(train: Tensor, targets: Tensor, test: Tensor, test_targets: Tensor | None = None) -> None:
    for name, x in (("train", train), ("targets", targets), ("test", test)):
        check_matrix(name, x)
    if len(targets) != len(train):
        raise InputError(f"targets: expected {len(train)} rows as in train, got {len(targets)}")
    if test.shape[1] != train.shape[1]:
        raise InputError(f"test: expected {train.shape[1]} columns as in train, got {test.shape[1]}")
    if test_targets is not None:
        check_matrix("test_targets", test_targets)
        shape = [len(test), targets.shape[1]]
        if list(test_targets.shape) != shape:
            raise InputError(f"test_targets: expected shape {shape}, got {list(test_targets.shape)}")
