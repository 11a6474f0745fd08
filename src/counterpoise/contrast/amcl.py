"""AMCL: several projection heads, and a predicted temperature for every pair of embeddings in every head.

Wang, Koniusz, Gedeon, Zheng, "Adaptive Multi-head Contrastive Learning", ECCV 2024, arXiv 2310.05615: the loss for
SimCLR and MoCo (equation 2.1), SimSiam (2.2), Barlow Twins (2.3) and InfoNCE (2.4).

Under strong augmentations some positives look unlike and some negatives alike, so no single similarity and temperature
fits all pairs. Model a pair as a Gaussian of variance tau: with unit vectors of width d, its negative log-likelihood is
-s/tau + (d/2) log tau + 1/tau. The temperature is then the pair's uncertainty, and the terms besides s/tau keep it from
going to infinity.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.data import Images
from counterpoise.data.images import fair_sample
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets import embed
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_counts, check_finite, check_number, check_same_shape, check_values
from counterpoise.ops.chunking import reduce_similarities
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows

Form = Literal["adaptive", "constant", "nt-xent"]
SEEN = 500  # training images whose temperatures the diagnostics report


def omega(tau: Float[Tensor, "*pairs"], dim: int) -> Float[Tensor, "*pairs"]:
    r"""Regulariser of a temperature: $\Omega(\tau) = \frac{d}{2} \log \tau + \frac1\tau$.

    Args:
        tau: $\tau > 0$.
        dim: $d$, the width of the embeddings. The minimum is at $\tau = 2/d$.

    Raises:
        InputError: for temperatures or a width that are not above 0.

    Examples:
        >>> omega(torch.tensor([1.0, 0.5]), dim=4)
        tensor([1.0000, 0.6137])
    """
    check_values("tau", tau, above=0)
    check_counts(dim=dim)
    return _omega(tau, dim)


def _omega(tau: Tensor, dim: int) -> Tensor:
    return dim / 2 * tau.log() + 1 / tau


def pair_temperature(
    phi1: Float[Tensor, "*pairs width"], phi2: Float[Tensor, "*pairs width"], low: float = 0.05, high: float = 2.0
) -> Float[Tensor, "*pairs"]:
    r"""$\tau = l + (u - l)\, \sigma(\langle \phi(z_1), \phi(z_2) \rangle)$, the same in both orders.

    Args:
        phi1: $\phi(z_1)$ of each pair, the output of a small network that all heads share.
        phi2: $\phi(z_2)$.
        low: $l$, at least 0.
        high: $u$, at least `low`.

    Raises:
        InputError: for different shapes, NaN, rows whose inner product is NaN, or bounds out of range.

    Examples:
        >>> pair_temperature(torch.zeros(1, 3), torch.ones(1, 3), low=0.5, high=1.5)
        tensor([1.])
    """
    check_number("low", low, at_least=0)
    check_number("high", high, at_least=low)
    check_same_shape(phi1=phi1, phi2=phi2)
    check_finite("phi1", phi1)
    check_finite("phi2", phi2)
    product = (phi1 * phi2).sum(-1)
    if product.isnan().any():
        raise InputError("phi1 and phi2: expected shorter rows, since an inner product sums infinities of both signs")
    return low + (high - low) * product.sigmoid()


def adaptive_contrast(
    positive: Float[Tensor, "*anchors"],
    negatives: Float[Tensor, "*anchors k"],
    tau_pos: Float[Tensor, "*anchors"],
    tau_neg: Float[Tensor, "*anchors k"],
    dim: int,
    beta: float = 0.1,
) -> Float[Tensor, "*anchors"]:
    r"""Equation 2.1, one head: $-\frac{s^+}{\tau^+} + \frac{s^-}{\tau^-} + \beta\Omega(\tau^+) - \beta\Omega(\tau^-)$.

    Args:
        positive: $s^+$, the cosine of each anchor and its positive.
        negatives: $s^-$, the cosine of the anchor and its nearest negative; the terms of several are averaged.
        tau_pos: $\tau^+$ of the anchor and its positive.
        tau_neg: $\tau^-$ of the anchor and that negative.
        dim: $d$ of `omega`.
        beta: $\beta$, at least 0.

    Returns:
        One value for each anchor. It has no lower bound where `tau_neg` can go to 0: there $-\beta\Omega$ outgrows
        $s^-/\tau^-$ for every $s^- < \beta$.

    Raises:
        InputError: for mismatched shapes, NaN, temperatures not above 0, or a number out of range.

    Examples:
        >>> s, tau = torch.tensor([0.75]), torch.tensor([0.5])
        >>> adaptive_contrast(s, torch.tensor([[0.25]]), tau, tau[:, None], dim=4, beta=0)  # (0.25 - 0.75) / 0.5
        tensor([-1.])
    """
    check_counts(dim=dim)
    check_number("beta", beta, at_least=0)
    check_same_shape(positive=positive, tau_pos=tau_pos)
    check_same_shape(negatives=negatives, tau_neg=tau_neg)
    if negatives.shape[:-1] != positive.shape or not negatives.shape[-1:].numel():
        got = f"{list(positive.shape)} and {list(negatives.shape)}"
        raise InputError(f"positive and negatives: expected [*anchors] and [*anchors, at least 1], got {got}")
    check_finite("positive", positive)
    check_finite("negatives", negatives)
    check_values("tau_pos", tau_pos, above=0)
    check_values("tau_neg", tau_neg, above=0)
    attraction = beta * _omega(tau_pos, dim) - positive / tau_pos
    repulsion = negatives / tau_neg - beta * _omega(tau_neg, dim)
    return attraction + repulsion.mean(-1)


def adaptive_negative_cosine(
    z1: Float[Tensor, "batch *heads dim"],
    z2: Float[Tensor, "batch *heads dim"],
    h1: Float[Tensor, "batch dim"],
    h2: Float[Tensor, "batch dim"],
    tau1: Float[Tensor, "batch *heads"],
    tau2: Float[Tensor, "batch *heads"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    r"""Equation 2.2, for SimSiam: $-\frac{s(z_1, h_2)}{2\tau_1} - \frac{s(z_2, h_1)}{2\tau_2} + \beta\Omega(\tau_1) +
    \beta\Omega(\tau_2)$, the sum over the heads and the mean over the batch.

    Args:
        z1: predictions for the first view, of one head or of several; normalised here, as are the others.
        z2: predictions for the second view.
        h1: the first view's projection, the target of all heads; gets no gradient.
        h2: the second view's projection.
        tau1: temperature of each pair (z1, h2).
        tau2: temperature of each pair (z2, h1).
        beta: $\beta$, at least 0.

    Raises:
        InputError: for mismatched shapes, NaN, temperatures that are not above 0, and a beta below 0.

    Examples:
        >>> z, one = torch.tensor([[0.0, 1.0]]), torch.ones(1)
        >>> adaptive_negative_cosine(z, z, z, z, one, one, beta=0.25)  # -1 + 2 · 0.25 · Omega(1)
        tensor(-0.5000)
    """
    check_number("beta", beta, at_least=0)
    _check_embeddings(z1=z1, z2=z2)
    _check_embeddings(h1=h1, h2=h2)
    if h1.shape != (len(z1), z1.shape[-1]):
        raise InputError(f"z1 and h1: expected matching rows and columns, got {list(z1.shape)} and {list(h1.shape)}")
    for name, tau in {"tau1": tau1, "tau2": tau2}.items():
        _check_temperatures(name, tau, z1.shape[:-1])
    to2, to1 = (
        (_by_head(normalize_rows(z)) * normalize_rows(h.detach())[:, None]).sum(-1) for z, h in ((z1, h2), (z2, h1))
    )
    tau1, tau2 = tau1.view_as(to2), tau2.view_as(to1)
    priors = _omega(tau1, z1.shape[-1]) + _omega(tau2, z1.shape[-1])
    return gather((beta * priors - to2 / (2 * tau1) - to1 / (2 * tau2)).sum(1)).mean()


def adaptive_cross_correlation(
    z1: Float[Tensor, "batch *heads dim"],
    z2: Float[Tensor, "batch *heads dim"],
    tau: Float[Tensor, "*heads dim dim"],
    beta: float = 0.1,
    off_diagonal: float = 5e-3,
) -> Float[Tensor, ""]:
    r"""Equation 2.3, for Barlow Twins: $\sum_l (1 - C_{ll}/\tau_{ll})^2 + \lambda \sum_{l \ne m} C_{lm}^2 / \tau_{lm} +
    \beta \sum_l \Omega(\tau_{ll}) - \beta \sum_{l \ne m} \Omega(\tau_{lm})$, the sum over the heads.

    Args:
        z1: one row per sample, first view.
        z2: the same samples, second view.
        tau: $\tau$, a temperature for each entry of the cross-correlation $C$ of the two views' columns.
        beta: $\beta$, at least 0.
        off_diagonal: $\lambda$, at least 0.

    Raises:
        InputError: for mismatched shapes, fewer than 2 samples, NaN, temperatures not above 0, and a beta or
            off_diagonal below 0.

    Examples:
        >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> ones = torch.ones(2, 2)
        >>> round(adaptive_cross_correlation(z, z, ones, beta=0).item(), 6)  # C = 3/4 on the diagonal, 0 elsewhere
        0.125
    """
    check_number("beta", beta, at_least=0)
    check_number("off_diagonal", off_diagonal, at_least=0)
    _check_embeddings(z1=z1, z2=z2)
    global_row_indices(z1, "z1", at_least=2)
    dim = z1.shape[-1]
    _check_temperatures("tau", tau, (*z1.shape[1:], dim))
    a, b = (_standardised_columns(gather(z)) for z in (z1, z2))
    correlation = torch.einsum("...ln,...mn->...lm", a, b) / a.shape[-1]
    own = torch.eye(dim, dtype=torch.bool, device=tau.device)
    attraction = (1 - correlation / tau).square() + beta * _omega(tau, dim)
    repulsion = off_diagonal * correlation.square() / tau - beta * _omega(tau, dim)
    return torch.where(own, attraction, repulsion).sum()


class Pairs(NamedTuple):
    """Inputs of equation 2.1: the positive and the nearest negatives of each anchor in each head."""

    positive: Float[Tensor, "anchors heads"]
    negatives: Float[Tensor, "anchors heads k"]
    tau_pos: Float[Tensor, "anchors heads"]
    tau_neg: Float[Tensor, "anchors heads k"]


class AMCLLoss(nn.Module):
    r"""Equation 2.1 for two views: `loss(z1, z2, phi1, phi2)`.

    All 2N rows are anchors; the negatives of a sample are both views of the others, and each head takes the one nearest
    to the anchor. The value is summed over the heads and averaged over the anchors. Its gradient reaches the embeddings
    and, through the temperatures, $\phi$.

    Args:
        beta: weight of the temperatures' regulariser, at least 0.
        low: least temperature, above 0; see `adaptive_contrast` for why not 0.
        high: largest temperature, at least `low`. If equal, the temperature is constant and $\beta$ has no effect.
        top_k: number of nearest negatives, whose terms are averaged.
        positive_competes: search the nearest key among the negatives and the positive: equation 2.4.

    Examples:
        >>> z = torch.eye(3)
        >>> loss = AMCLLoss(low=0.5, high=0.5)
        >>> loss(z, z, z, z)  # the positive's similarity is 1, the nearest negative's 0
        tensor(-2.)
        >>> heads = torch.stack([z, z], dim=1)
        >>> loss(heads, heads, heads, heads)
        tensor(-4.)
    """

    def __init__(
        self,
        beta: float = 0.1,
        low: float = 0.05,
        high: float = 2.0,
        top_k: int = 1,
        positive_competes: bool = False,
    ):
        super().__init__()
        check_number("beta", beta, at_least=0)
        check_number("low", low, above=0)
        check_number("high", high, at_least=low)
        check_counts(top_k=top_k)
        self.beta, self.low, self.high = beta, low, high
        self.top_k, self.positive_competes = top_k, positive_competes

    def forward(
        self,
        z1: Float[Tensor, "batch *heads dim"],
        z2: Float[Tensor, "batch *heads dim"],
        phi1: Float[Tensor, "batch *heads width"],
        phi2: Float[Tensor, "batch *heads width"],
    ) -> Float[Tensor, ""]:
        r"""The loss; may be negative.

        Args:
            z1: one row per sample, or one per sample and head, first view; normalised here.
            z2: the same samples, second view.
            phi1: $\phi$ of each normalised row of `z1`, for `pair_temperature`.
            phi2: $\phi$ of `z2`.

        Raises:
            InputError: for mismatched shapes, fewer than 2 samples, more `top_k` than negatives, and NaN.
        """
        pairs = self.pairs(z1, z2, phi1, phi2)
        return gather(adaptive_contrast(*pairs, dim=z1.shape[-1], beta=self.beta).sum(1)).mean()

    def pairs(
        self,
        z1: Float[Tensor, "batch *heads dim"],
        z2: Float[Tensor, "batch *heads dim"],
        phi1: Float[Tensor, "batch *heads width"],
        phi2: Float[Tensor, "batch *heads width"],
    ) -> Pairs:
        """The similarities and temperatures in the loss; same arguments and errors as `forward`."""
        _check_embeddings(z1=z1, z2=z2)
        _check_embeddings(phi1=phi1, phi2=phi2)
        if phi1.shape[:-1] != z1.shape[:-1]:
            raise InputError(f"z1 and phi1: expected matching rows, got {list(z1.shape)} and {list(phi1.shape)}")
        sample = global_row_indices(z1, "z1", at_least=2)
        z = normalize_rows(_by_head(torch.cat([z1, z2])))
        phi = _by_head(torch.cat([phi1, phi2])).to(z.dtype)
        identity = torch.cat([2 * sample, 2 * sample + 1]) if self.positive_competes else sample.repeat(2)
        keys, key_phi, key_identity = gather(z), gather(phi), gather(identity)
        left = len(keys) - (1 if self.positive_competes else 2)
        if self.top_k > left:
            raise InputError(f"z1: expected enough rows for top_k = {self.top_k} negatives, got {left} negatives")
        with torch.no_grad():
            near = reduce_similarities(lambda s: s.topk(self.top_k).indices, z, keys, (identity, key_identity))
        head = torch.arange(z.shape[1], device=z.device)[:, None]
        other, other_phi = z.roll(len(z1), 0), phi.roll(len(z1), 0)
        return Pairs(
            (z * other).sum(-1),
            (z[:, :, None] * keys[near, head]).sum(-1),
            pair_temperature(phi, other_phi, self.low, self.high),
            pair_temperature(phi[:, :, None].expand(-1, -1, self.top_k, -1), key_phi[near, head], self.low, self.high),
        )


class MultiHeadProjector(nn.Module):
    """Parallel projection heads of one shape with separate weights: [B features] to [B heads dim].

    Args:
        features: width of the input.
        hidden: width of each head's hidden layer.
        dim: width of each head's output.
        heads: how many.

    Examples:
        >>> MultiHeadProjector(8, 16, 4, heads=3)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, features: int, hidden: int, dim: int, heads: int = 3):
        super().__init__()
        check_counts(features=features, hidden=hidden, dim=dim, heads=heads)
        self.heads = nn.ModuleList(mlp(features, hidden, dim, batch_norm=False) for _ in range(heads))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch heads dim"]:
        """The output of each head."""
        return torch.stack([head(features) for head in self.heads], dim=1)


class AMCL(Method):
    r"""SimCLR with several heads and a temperature for every pair; heads and temperatures serve the loss alone.

    Args:
        encoder: images to features; what a run keeps.
        heads: how many projection heads; the authors take 3.
        form: "adaptive" is the paper's; "constant" has one temperature for all pairs; "nt-xent" combines that with
            SimCLR's loss over all negatives in each head.
        temperature: of all pairs unless the form is "adaptive", above 0.
        beta: weight of the temperatures' regulariser, at least 0.
        low: least adaptive temperature, above 0.
        high: largest adaptive temperature, at least `low`.
        top_k: number of nearest negatives in the loss.
        hidden: width of each head's hidden layer.
        dim: width of each head's projection.
        **recipe: arguments of `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: int = 3,
        form: Form = "adaptive",
        temperature: float = 0.1,
        beta: float = 0.1,
        low: float = 0.05,
        high: float = 2.0,
        top_k: int = 1,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        if form not in get_args(Form):
            raise unknown("form", form, get_args(Form))
        check_number("temperature", temperature, above=0)
        self.form = form
        self.head = MultiHeadProjector(self.features, hidden, dim, heads)
        if form == "adaptive":
            self.phi: nn.Module = mlp(dim, 128, 128, batch_norm=False)
            self.objective = AMCLLoss(beta, low, high, top_k)
        elif form == "constant":
            self.phi = nn.Identity()
            self.objective = AMCLLoss(beta, temperature, temperature, top_k)
        else:
            self.nt_xent = NTXentLoss(temperature)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the projections, summed over the heads."""
        z1, z2 = (self.head(self.encoder(view)) for view in images)
        if self.form == "nt-xent":
            return torch.stack([self.nt_xent(a, b) for a, b in zip(z1.unbind(1), z2.unbind(1), strict=True)]).sum()
        return self.objective(z1, z2, *(self.phi(normalize_rows(z)) for z in (z1, z2)))

    @torch.no_grad()
    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """Mean temperatures of two views of a training image, `tau_positive`, and of nearest negatives, `tau_negative`.

        Also `tau_difference`, the second minus the first, and `tau_at_bound`, the share of all temperatures within a
        hundredth of the range of either bound.
        """
        if self.form != "adaptive":
            return {}
        some = train.subset(fair_sample(train.labels, SEEN))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            views = [embed(self.encoder, some, self.view).to(self.device) for _ in range(2)]
        z1, z2 = (normalize_rows(self.head(view)) for view in views)
        pairs = self.objective.pairs(z1, z2, self.phi(z1), self.phi(z2))
        tau = torch.cat([pairs.tau_pos.flatten(), pairs.tau_neg.flatten()])
        low, high = self.objective.low, self.objective.high
        return {
            "tau_positive": float(pairs.tau_pos.mean()),
            "tau_negative": float(pairs.tau_neg.mean()),
            "tau_difference": float(pairs.tau_neg.mean() - pairs.tau_pos.mean()),
            "tau_at_bound": float(((tau - low).minimum(high - tau) < 0.01 * (high - low)).float().mean()),
        }


def _check_embeddings(**embeddings: Tensor) -> None:
    for name, x in embeddings.items():
        if x.ndim not in (2, 3):
            raise InputError(f"{name}: expected [batch, dim] or [batch, heads, dim], got shape {list(x.shape)}")
        if not x.numel():
            raise InputError(f"{name}: expected at least 1 row, got shape {list(x.shape)}")
        check_finite(name, x)
    check_same_shape(**embeddings)


def _check_temperatures(name: str, tau: Tensor, shape: tuple[int, ...]) -> None:
    if tau.shape != torch.Size(shape):
        raise InputError(f"{name}: expected temperatures of shape {list(shape)}, got {list(tau.shape)}")
    check_values(name, tau, above=0)


def _by_head(x: Tensor) -> Float[Tensor, "rows heads dim"]:
    return x if x.ndim == 3 else x[:, None]


def _standardised_columns(z: Float[Tensor, "batch *heads dim"]) -> Float[Tensor, "*heads dim batch"]:
    """Each column as a row, standardised to mean 0 and sample standard deviation 1; a constant column becomes 0."""
    return normalize_rows((z - z.mean(0)).movedim(0, -1)) * math.sqrt(len(z) - 1)
