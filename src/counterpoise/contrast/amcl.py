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
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from counterpoise.contrast.moco import enqueue, queue_nce
from counterpoise.contrast.negatives import Exclude
from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.data import Images
from counterpoise.data.images import fair_sample
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets import embed
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import check_counts, check_finite, check_number, check_same_shape, check_values
from counterpoise.ops.chunking import reduce_similarities
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows

Form = Literal["adaptive", "constant", "nt-xent"]
Base = Literal["simclr", "moco", "simsiam", "barlow-twins"]
PairNetwork = Literal["product", "joint"]
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


class PairTemperature(nn.Sequential):
    r"""The temperature of any pair of embeddings, by one small network that all heads share.

    Args:
        dim: width of the embeddings.
        low: least temperature, at least 0.
        high: largest temperature, at least `low`.
        network: "product" is `pair_temperature` of the network's outputs for each row, equal in both orders. "joint",
            as in the authors' code, gives the network both rows side by side, the anchor first; its single output
            passes the sigmoid.
        hidden: width of the network's hidden layer, and of its output where that is multiplied.

    Examples:
        >>> tau = PairTemperature(dim=8, low=0.5, high=1.5, network="joint")
        >>> tau(torch.ones(4, 3, 8), torch.zeros(4, 3, 8)).shape  # four pairs in each of three heads
        torch.Size([4, 3])
    """

    def __init__(
        self, dim: int, low: float = 0.05, high: float = 2.0, network: PairNetwork = "product", hidden: int = 128
    ):
        if network not in get_args(PairNetwork):
            raise unknown("network", network, get_args(PairNetwork))
        check_number("low", low, at_least=0)
        check_number("high", high, at_least=low)
        check_counts(dim=dim, hidden=hidden)
        widths = (dim, hidden, hidden) if network == "product" else (2 * dim, hidden, 1)
        super().__init__(*mlp(*widths, batch_norm=False))
        self.dim, self.low, self.high, self.joint = dim, low, high, network == "joint"

    def forward(  # type: ignore[override]  # of pairs, where a sequence takes one input
        self, z1: Float[Tensor, "*pairs dim"], z2: Float[Tensor, "*pairs dim"]
    ) -> Float[Tensor, "*pairs"]:
        """The temperature of each pair.

        Args:
            z1: the first embedding of each pair, normalised here; the anchor.
            z2: the second.

        Raises:
            InputError: for different shapes, another width than `dim`, or NaN.
        """
        check_same_shape(z1=z1, z2=z2)
        if not z1.ndim or z1.shape[-1] != self.dim:
            raise InputError(f"z1: expected rows of width {self.dim}, got shape {list(z1.shape)}")
        check_finite("z1", z1)
        check_finite("z2", z2)
        z1, z2 = normalize_rows(z1), normalize_rows(z2)
        if not self.joint:
            return pair_temperature(self.phi(z1), self.phi(z2), self.low, self.high)
        return self.low + (self.high - self.low) * self.phi(torch.cat([z1, z2], dim=-1))[..., 0].sigmoid()

    def phi(self, rows: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """The network's output for each row."""
        return super().forward(rows)


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

    def loss(self, dim: int, beta: float) -> Float[Tensor, ""]:
        """Equation 2.1: `adaptive_contrast`, the sum over the heads and the mean over the anchors of all processes."""
        return gather(adaptive_contrast(*self, dim=dim, beta=beta).sum(1)).mean()


Temperature = Callable[[Tensor, Tensor], Tensor]  # of pairs of embeddings, such as `PairTemperature`


def nearest_pairs(
    anchors: Float[Tensor, "batch *heads dim"],
    positives: Float[Tensor, "batch *heads dim"],
    negatives: Float[Tensor, "queue *heads dim"],
    temperature: Temperature,
    top_k: int = 1,
    exclude: Exclude | None = None,
) -> Pairs:
    r"""What equation 2.1 compares for each anchor, with negatives that all anchors share, such as a queue.

    Args:
        anchors: one row per sample, or one per sample and head; normalised here, as are the others.
        positives: the key of each anchor.
        negatives: keys of other samples.
        temperature: maps two tensors of embeddings [*pairs, dim], anchors first, to $\tau$ [*pairs]; for instance
            `PairTemperature`. Called for the positives and the nearest negatives alone.
        top_k: how many of the most similar negatives count for each anchor and head.
        exclude: identities of anchors and negatives; pairs with equal ones are no candidates.

    Raises:
        InputError: for mismatched shapes, NaN, or fewer candidates than `top_k`.

    Examples:
        >>> z = torch.eye(2)
        >>> pairs = nearest_pairs(z, z, torch.tensor([[0.6, 0.8]]), lambda a, b: torch.full(a.shape[:-1], 0.5))
        >>> pairs.negatives.flatten(), pairs.loss(dim=2, beta=0.1)
        (tensor([0.6000, 0.8000]), tensor(-0.6000))
    """
    check_counts(top_k=top_k)
    _check_embeddings(anchors=anchors, positives=positives)
    _check_embeddings(negatives=negatives)
    if negatives.shape[1:] != anchors.shape[1:]:
        got = f"{list(anchors.shape)} and {list(negatives.shape)}"
        raise InputError(f"anchors and negatives: expected rows of the same shape, got {got}")
    z, other, keys = (normalize_rows(_by_head(x)) for x in (anchors, positives, negatives))
    if top_k > len(keys):
        raise InputError(f"negatives: expected at least top_k = {top_k} rows, got {len(keys)}")
    near = _nearest(z, keys, top_k, exclude)
    if exclude is not None and (exclude[0][:, None, None] == exclude[1][near]).any():
        raise InputError(f"negatives: expected at least top_k = {top_k} that are not excluded for each anchor")
    return _pairs(z, other, keys[near, _heads(z)], temperature)


def _nearest(
    z: Float[Tensor, "anchors heads dim"],
    keys: Float[Tensor, "keys heads dim"],
    top_k: int,
    exclude: Exclude | None,
) -> Int64[Tensor, "anchors heads k"]:
    with torch.no_grad():
        return reduce_similarities(lambda s: s.topk(top_k).indices, z, keys, exclude)


def _heads(z: Float[Tensor, "anchors heads dim"]) -> Int64[Tensor, "heads 1"]:
    """The number of each head, to index keys [keys, heads, dim] beside the nearest ones."""
    return torch.arange(z.shape[1], device=z.device)[:, None]


def _pairs(
    z: Float[Tensor, "anchors heads dim"],
    positives: Float[Tensor, "anchors heads dim"],
    negatives: Float[Tensor, "anchors heads k dim"],
    temperature: Temperature,
) -> Pairs:
    anchors = z[:, :, None].expand_as(negatives)
    return Pairs(
        (z * positives).sum(-1),
        (z[:, :, None] * negatives).sum(-1),
        temperature(z, positives).to(z.dtype),
        temperature(anchors, negatives).to(z.dtype),
    )


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
        return self.pairs(z1, z2, phi1, phi2).loss(z1.shape[-1], self.beta)

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
        z, keys, near = self._candidates(z1, z2)
        phi = _by_head(torch.cat([phi1, phi2])).to(z.dtype)
        key_phi, head = gather(phi), _heads(z)
        other, other_phi = z.roll(len(z1), 0), phi.roll(len(z1), 0)
        return Pairs(
            (z * other).sum(-1),
            (z[:, :, None] * keys[near, head]).sum(-1),
            pair_temperature(phi, other_phi, self.low, self.high),
            pair_temperature(phi[:, :, None].expand(-1, -1, self.top_k, -1), key_phi[near, head], self.low, self.high),
        )

    def pairs_by(
        self, z1: Float[Tensor, "batch *heads dim"], z2: Float[Tensor, "batch *heads dim"], temperature: Temperature
    ) -> Pairs:
        """`pairs` with any temperature of two embeddings, as in `nearest_pairs`; `low` and `high` do not matter."""
        _check_embeddings(z1=z1, z2=z2)
        z, keys, near = self._candidates(z1, z2)
        return _pairs(z, z.roll(len(z1), 0), keys[near, _heads(z)], temperature)

    def _candidates(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All rows normalised, those of all processes, and which of the latter are nearest to each of the former."""
        sample = global_row_indices(z1, "z1", at_least=2)
        z = normalize_rows(_by_head(torch.cat([z1, z2])))
        identity = torch.cat([2 * sample, 2 * sample + 1]) if self.positive_competes else sample.repeat(2)
        keys, key_identity = gather(z), gather(identity)
        left = len(keys) - (1 if self.positive_competes else 2)
        if self.top_k > left:
            raise InputError(f"z1: expected enough rows for top_k = {self.top_k} negatives, got {left} negatives")
        return z, keys, _nearest(z, keys, self.top_k, (identity, key_identity))


class MultiHeadProjector(nn.Module):
    """Parallel projection heads of one shape with separate weights: [B features] to [B heads dim].

    Args:
        features: width of the input.
        hidden: width of each head's hidden layer.
        dim: width of each head's output.
        heads: how many.
        batch_norm: batch normalisation after the hidden layer.

    Examples:
        >>> MultiHeadProjector(8, 16, 4, heads=3)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, features: int, hidden: int, dim: int, heads: int = 3, batch_norm: bool = False):
        super().__init__()
        check_counts(features=features, hidden=hidden, dim=dim, heads=heads)
        self.heads = nn.ModuleList(mlp(features, hidden, dim, batch_norm=batch_norm) for _ in range(heads))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch heads dim"]:
        """The output of each head."""
        return torch.stack([head(features) for head in self.heads], dim=1)


class AMCL(Method):
    r"""SimCLR with several heads and a temperature for every pair; heads and temperatures serve the loss alone.

    MoCo, SimSiam and Barlow Twins in the same way: see `base`.

    Args:
        encoder: images to features; what a run keeps.
        heads: how many projection heads; the authors take 3.
        form: "adaptive" is the paper's; "constant" has one temperature for all pairs; "nt-xent" combines that with
            SimCLR's (or MoCo's) loss over all negatives in each head.
        temperature: of all pairs unless the form is "adaptive", above 0; 1 leaves SimSiam and Barlow Twins as they are.
        beta: weight of the temperatures' regulariser, at least 0.
        low: least adaptive temperature, above 0.
        high: largest adaptive temperature, at least `low`.
        top_k: number of nearest negatives in the loss.
        hidden: width of each head's hidden layer.
        dim: width of each head's projection.
        base: whose loss has the heads and temperatures. "simclr" is equation 2.1 with the negatives of the batch;
            "moco" the same with a queue of a momentum encoder's keys; "simsiam" equation 2.2, without negatives, in
            which each head predicts the other view's projection; "barlow-twins" equation 2.3, on correlations.
        positive_competes: search the nearest key of "simclr" among the negatives and the positive: equation 2.4.
        pair_network: what gives the temperature of a pair. "product" multiplies the network's outputs for both rows;
            "joint", as in the authors' code, gives it both rows at once. Barlow Twins has no pairs of images, and
            learns one temperature for each entry of the correlation instead.
        queue: number of keys that serve as negatives in "moco".
        momentum: from 0 to 1; share of the key encoder in "moco" that stays at each step.
        off_diagonal: weight of the correlations between different columns in "barlow-twins", at least 0.
        **recipe: arguments of `Method`.
    """

    queue: Tensor
    pointer: Tensor

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
        base: Base = "simclr",
        positive_competes: bool = False,
        pair_network: PairNetwork = "product",
        queue: int = 4096,
        momentum: float = 0.99,
        off_diagonal: float = 5e-3,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(queue=queue)
        check_number("momentum", momentum, at_least=0, at_most=1)
        _check_choices(form, base, pair_network, positive_competes)
        check_number("temperature", temperature, above=0)
        check_number("off_diagonal", off_diagonal, at_least=0)
        self.form, self.base, self.temperature, self.off_diagonal = form, base, temperature, off_diagonal
        if base == "simsiam":
            # Batch normalisation keeps SimSiam, which has no negatives, from collapsing.
            self.projector = mlp(self.features, hidden, dim, last_norm=True)
            self.head = MultiHeadProjector(dim, hidden, dim, heads, batch_norm=True)
        else:
            self.head = MultiHeadProjector(self.features, hidden, dim, heads)
        bounds = (low, high) if form == "adaptive" else (temperature, temperature)
        self.objective = AMCLLoss(beta, *bounds, top_k, positive_competes)
        if base == "barlow-twins":
            # Before the sigmoid: the middle of the range. With a constant temperature they stay what they are.
            self.entries = nn.Parameter(torch.zeros(heads, dim, dim), requires_grad=form == "adaptive")
        elif form == "nt-xent":
            self.nt_xent = NTXentLoss(temperature)
        elif form == "adaptive":
            self.phi = PairTemperature(dim, low, high, pair_network)
        if base == "moco":
            self._make_queue(queue, momentum, heads, dim)

    def _make_queue(self, queue: int, momentum: float, heads: int, dim: int) -> None:
        self.momentum = momentum
        self.key_encoder = momentum_copy(self.encoder)
        self.key_head = momentum_copy(self.head)
        # Random directions, which the first batches replace, as in MoCo.
        self.register_buffer("queue", normalize_rows(torch.randn(queue, heads, dim)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The base's loss of the projections, summed over the heads; in training mode, moves key encoder and queue."""
        if self.base == "moco":
            return self._queue_loss(images)
        h1, h2 = (self.encoder(view) for view in images)
        if self.base == "simsiam":
            return adaptive_negative_cosine(*self._predictions(h1, h2), self.objective.beta)
        z1, z2 = self.head(h1), self.head(h2)
        if self.base == "barlow-twins":
            tau = self._entry_temperatures().to(z1.dtype)
            return adaptive_cross_correlation(z1, z2, tau, self.objective.beta, self.off_diagonal)
        if self.form == "nt-xent":
            return torch.stack([self.nt_xent(a, b) for a, b in zip(z1.unbind(1), z2.unbind(1), strict=True)]).sum()
        return self._batch_pairs(z1, z2).loss(z1.shape[-1], self.objective.beta)

    def _batch_pairs(self, z1: Float[Tensor, "batch heads dim"], z2: Float[Tensor, "batch heads dim"]) -> Pairs:
        """Of equation 2.1 and 2.4. The rows' own outputs of a "product" network serve all of their pairs."""
        if self.form != "adaptive":  # the bounds are one number, whatever is multiplied
            return self.objective.pairs(z1, z2, z1, z2)
        if self.phi.joint:
            return self.objective.pairs_by(z1, z2, self.phi)
        return self.objective.pairs(z1, z2, *(self.phi.phi(normalize_rows(z)) for z in (z1, z2)))

    def _queue_loss(self, images: ImageViews) -> Float[Tensor, ""]:
        queries = self.head(self.encoder(images[0]))
        with torch.no_grad():
            if self.training:
                update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
                update_momentum_encoder(self.head, self.key_head, self.momentum)
            keys = self.key_head(self.key_encoder(images[1]))
        if self.form == "nt-xent":
            of_heads = zip(queries.unbind(1), keys.unbind(1), self.queue.unbind(1), strict=True)
            loss = torch.stack([queue_nce(*head, self.temperature) for head in of_heads]).sum()
        else:
            loss = self._queue_pairs(queries, keys).loss(queries.shape[-1], self.objective.beta)
        if self.training:
            self.queue, self.pointer = enqueue(self.queue, keys, self.pointer)
        return loss

    def _queue_pairs(self, queries: Float[Tensor, "batch heads dim"], keys: Float[Tensor, "batch heads dim"]) -> Pairs:
        """Of equation 2.1, with the queue's keys as negatives."""
        return nearest_pairs(queries, keys, self.queue.to(queries.dtype), self._temperature, self.objective.top_k)

    def _predictions(
        self, features1: Float[Tensor, "batch features"], features2: Float[Tensor, "batch features"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """SimSiam's: what the heads predict from each view's projection, the projections, and the temperatures."""
        h1, h2 = self.projector(features1), self.projector(features2)
        z1, z2 = self.head(h1), self.head(h2)
        tau1, tau2 = (self._temperature(z, h.detach()[:, None].expand_as(z)) for z, h in ((z1, h2), (z2, h1)))
        return z1, z2, h1, h2, tau1, tau2

    def _temperature(self, z1: Float[Tensor, "*pairs dim"], z2: Float[Tensor, "*pairs dim"]) -> Float[Tensor, "*pairs"]:
        return self.phi(z1, z2) if self.form == "adaptive" else z1.new_full(z1.shape[:-1], self.temperature)

    def _entry_temperatures(self) -> Float[Tensor, "heads dim dim"]:
        """Those of Barlow Twins' correlations."""
        low, high = self.objective.low, self.objective.high
        return low + (high - low) * self.entries.sigmoid()

    @torch.no_grad()
    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """Mean temperatures of two views of a training image, `tau_positive`, and of nearest negatives, `tau_negative`.

        Also `tau_difference`, the second minus the first, and `tau_at_bound`, the share of all temperatures within a
        hundredth of the range of either bound. SimSiam has no negatives. Barlow Twins' positives are the correlations
        of each column with itself, its negatives all others.
        """
        if self.form != "adaptive":
            return {}
        positive, negative = self._temperatures_of(train)
        tau = torch.cat([positive.flatten(), negative.flatten()])
        low, high = self.objective.low, self.objective.high
        found = {"tau_positive": float(positive.mean())}
        if negative.numel():
            found["tau_negative"] = float(negative.mean())
            found["tau_difference"] = float(negative.mean() - positive.mean())
        return found | {
            "tau_at_bound": float(((tau - low).minimum(high - tau) < 0.01 * (high - low)).float().mean()),
        }

    def _temperatures_of(self, train: Images) -> tuple[Tensor, Tensor]:
        """The temperatures of positives and negatives, of some training images."""
        if self.base == "barlow-twins":
            tau = self._entry_temperatures()
            own = torch.eye(tau.shape[-1], dtype=torch.bool, device=tau.device)
            return tau[:, own], tau[:, ~own]
        some = train.subset(fair_sample(train.labels, SEEN))
        encoders = (self.encoder, self.key_encoder if self.base == "moco" else self.encoder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            h1, h2 = (embed(encoder, some, self.view).to(self.device) for encoder in encoders)
        if self.base == "simsiam":
            mode = self.training
            self.eval()  # its heads have batch normalisation
            tau = torch.stack(self._predictions(h1, h2)[4:])
            self.train(mode)
            return tau, tau.new_zeros(0)
        if self.base == "moco":
            pairs = self._queue_pairs(normalize_rows(self.head(h1)), normalize_rows(self.key_head(h2)))
        else:
            pairs = self._batch_pairs(normalize_rows(self.head(h1)), normalize_rows(self.head(h2)))
        return pairs.tau_pos, pairs.tau_neg


def _check_choices(form: Form, base: Base, pair_network: PairNetwork, positive_competes: bool) -> None:
    if form not in get_args(Form):
        raise unknown("form", form, get_args(Form))
    if base not in get_args(Base):
        raise unknown("base", base, get_args(Base))
    if pair_network not in get_args(PairNetwork):
        raise unknown("pair_network", pair_network, get_args(PairNetwork))
    if form == "nt-xent" and base in ("simsiam", "barlow-twins"):
        raise InputError(f"form: expected 'adaptive' or 'constant', since {base} has no NT-Xent loss, got 'nt-xent'")
    if positive_competes and (base != "simclr" or form == "nt-xent"):
        got = f"base '{base}' and form '{form}'"
        raise InputError(
            f"positive_competes: expected False, or the base 'simclr' and not the form 'nt-xent', got {got}"
        )
    if pair_network == "joint" and (base == "barlow-twins" or form != "adaptive"):
        got = f"base '{base}' and form '{form}'"
        raise InputError(f"pair_network: expected 'product', since no network gives a temperature here, got {got}")


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
