"""SupReMix: contrastive regression with hard pairs mixed from the batch's own embeddings.

Wu, Dong, Chen, Zhou, Zhou, "Mixup Your Own Pairs", 2023, arXiv 2309.16633 (later retitled "SupReMix: Supervised
Contrastive Learning for Medical Imaging Regression with Mixup").

A mixture of two embeddings has the target that results from mixing their targets by the same share. A mixture of the
anchor with a sample of another target is a hard negative, since it is near the anchor (Mix-neg). A mixture of samples
with targets below and above the anchor's that yields the anchor's target is a hard positive, since it need not be near
(Mix-pos). Negatives weigh more the farther their targets are ("distance magnifying").
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from counterpoise.data.targets import Targets
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Index
from counterpoise.metric.regressor import Inputs, Numbers, Regressor, binned, check_targets
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows

Weight = Literal["linear", "square", "inverse-linear", "inverse-square", "none"]
MixNeg = Literal["other", "even", "anchor", "none"]
BETA = {"other": (2.0, 8.0), "even": (5.0, 5.0), "anchor": (8.0, 2.0)}  # Beta(a, b) of the anchor's share
PART = 1 << 22  # numbers computed at a time


class Mixtures(NamedTuple):
    r"""Hard positives $\lambda z_j + (1 - \lambda) z_k$ of a batch whose rows are sorted by target.

    Attributes:
        anchor: index of the anchor of each.
        below: j, whose target is below the anchor's by less than the window.
        above: k, whose target is above the anchor's by less than the window.
        share: $\lambda = (y_k - y) / (y_k - y_j)$, so that the targets mix to the anchor's.
    """

    anchor: Int[Tensor, " mixtures"]
    below: Int[Tensor, " mixtures"]
    above: Int[Tensor, " mixtures"]
    share: Float[Tensor, " mixtures"]


def bounds_of(
    anchors: Float[Tensor, " batch"], numbers: Float[Tensor, " all"], window: float
) -> Int[Tensor, "batch 4"]:
    """Indices into sorted targets: start of each anchor's window, start and end of its own target, end of the window.

    Args:
        anchors: targets of the anchors.
        numbers: targets of all rows, in ascending order.
        window: distance below which a target lies in the window, at least 0.

    Raises:
        InputError: for wrong shapes, NaN, or a window out of range.

    Examples:
        >>> bounds_of(torch.tensor([4.0]), torch.tensor([0.0, 1, 2, 3, 4, 4, 5, 6, 7]), window=3.0)
        tensor([[2, 4, 6, 8]])
    """
    _check_numbers(anchors, numbers)
    check_number("window", window, at_least=0)
    start, end = torch.searchsorted(numbers, anchors), torch.searchsorted(numbers, anchors, right=True)
    first = torch.searchsorted(numbers, anchors - window, right=True).minimum(start)
    last = torch.searchsorted(numbers, anchors + window).maximum(end)
    return torch.stack([first, start, end, last], 1)


def hard_positives(
    anchors: Float[Tensor, " batch"], numbers: Float[Tensor, " all"], bounds: Int[Tensor, "batch 4"]
) -> Mixtures:
    """All pairs of a row below and a row above each anchor's target, within its window.

    Args:
        anchors: targets of the anchors.
        numbers: targets of all rows, in ascending order.
        bounds: from `bounds_of`.

    Raises:
        InputError: for wrong shapes, NaN, or bounds that are not valid indices.

    Examples:
        >>> numbers = torch.tensor([0.0, 3.0, 4.0])
        >>> hard_positives(numbers, numbers, bounds_of(numbers, numbers, window=5.0))[1:]
        (tensor([0]), tensor([2]), tensor([0.2500]))
    """
    _check_numbers(anchors, numbers)
    if bounds.shape != (len(anchors), 4):
        raise InputError(f"bounds: expected [{len(anchors)}, 4], one row for each anchor, got {list(bounds.shape)}")
    whole = check_integers("bounds", bounds.flatten(), rows=bounds.numel(), low=0, high=len(numbers) + 1)
    first, start, end, last = whole.view(-1, 4).T
    rows_above, counts = last - end, (start - first) * (last - end)
    anchor = torch.repeat_interleave(counts)
    nth = torch.arange(len(anchor), device=anchor.device) - (counts.cumsum(0) - counts)[anchor]
    below = first[anchor] + nth // rows_above[anchor]
    above = end[anchor] + nth % rows_above[anchor]
    width = numbers[above] - numbers[below]
    if (width <= 0).any():
        raise InputError("bounds: expected a larger number above the anchor than below it, got the same")
    share = (numbers[above] - anchors[anchor]) / width
    return Mixtures(anchor, below, above, share)


def log_weight(gap: Float[Tensor, "*pairs"], weight: Weight) -> Float[Tensor, "*pairs"]:
    """Logarithm of a pair's weight in the denominator: $|d| + 1$, $d^2 + 1$, the inverse of either, or 1.

    Args:
        gap: d, the distance of the two targets.
        weight: "linear", "square", "inverse-linear", "inverse-square" or "none".

    Raises:
        InputError: for an unknown weight, or NaN.

    Examples:
        >>> gap = torch.tensor([0.0, 3.0])
        >>> log_weight(gap, "linear").exp(), log_weight(gap, "inverse-square").exp()
        (tensor([1., 4.]), tensor([1.0000, 0.1000]))
    """
    check_finite("gap", gap)
    if weight not in get_args(Weight):
        raise unknown("weight", weight, get_args(Weight))
    if weight == "none":
        return torch.zeros_like(gap)
    # `hypot` forms no square that could overflow, and `log1p` has a finite gradient at 0, unlike the logarithm.
    log = 2 * torch.hypot(gap, torch.ones_like(gap)).log() if weight.endswith("square") else gap.abs().log1p()
    return -log if weight.startswith("inverse") else log


def supremix(
    embeddings: Float[Tensor, "batch dim"],
    targets: Real[Tensor, " batch"],
    shares: Float[Tensor, "batch all"] | float | None = 0.2,
    window: float = 5.0,
    temperature: float = 0.3,
    weight: Weight = "linear",
    plus_one: bool = False,
    separate_shift: bool = False,
) -> Float[Tensor, ""]:
    r"""Mean over anchors of $-\frac{1}{|P|} \sum_{p \in P} \big( s_p/T - \log \sum_{b \ne a} w_b e^{s_b/T} \big)$.

    P are an anchor's positives: the other rows with its target, and its hard positives (`hard_positives`). The inner
    sum runs over all other rows and all mixtures, including hard negatives $m = \alpha z_a + (1 - \alpha) z_k$, one for
    each row with another target; their targets are mixed by the same share. $s$ are inner products with the anchor;
    rows are normalised, mixtures are not. $w$ grows with the distance of the targets, from 1 for positives.

    Mixtures pass no gradient to their components. A mixture's similarity is the mixture of two entries of the
    similarity matrix, so no mixture is formed; memory per anchor grows with its numbers of rows and of hard positives.

    Args:
        embeddings: one row per view; normalised here.
        targets: target of each row; views of a sample share it, and only equal targets are real positives.
        shares: $\alpha$, the anchor's share in each of its hard negatives, from 0 to 1, one for all or for each pair
            (columns: the rows of all processes); `None` mixes no hard negatives.
        window: distance below which the two targets of a hard positive must lie; 0 mixes none.
        temperature: T, above 0.
        weight: w as a function of the distance, see `log_weight`.
        plus_one: divide by $|P| + 1$, so that an anchor without a positive counts as 0; otherwise it is left out.
        separate_shift: raise the similarities of each anchor's mixtures, as the authors' code does, until the largest
            is that of the anchor with itself, 1. Mixtures then weigh more in the inner sum.

    Raises:
        InputError: for wrong shapes, fewer than 3 rows (the loss of 2 is 0), NaN, numbers out of range, or if no row
            has a positive and `plus_one` is not set.

    Examples:
        >>> z, y = torch.eye(3), torch.tensor([0, 1, 2])  # only the middle one has a positive, the mean of both others
        >>> round(supremix(z, y, shares=None, window=2.0, weight="none").item(), 6)  # log 3: two others and the mixture
        1.098612
    """
    check_matrix("embeddings", embeddings)
    numbers = check_targets(targets, rows=len(embeddings))
    _check(window, temperature, weight)
    row = global_row_indices(embeddings, "embeddings", at_least=3)
    z = normalize_rows(embeddings)
    anchors, (numbers, order) = numbers, gather(numbers).sort(stable=True)
    if isinstance(shares, Tensor):
        if shares.shape != (len(z), len(order)):
            raise InputError(f"shares: expected [{len(z)}, {len(order)}], got {list(shares.shape)}")
        check_finite("shares", shares)
        if len(shares) and not 0 <= float(shares.min()) <= float(shares.max()) <= 1:
            raise InputError(f"shares: expected numbers from 0 to 1, got {shares.min():g} to {shares.max():g}")
        shares = shares.to(z.dtype)[:, order]
    elif shares is not None:
        check_number("shares", shares, at_least=0, at_most=1)
        shares = z.new_full((len(z), 1), shares)
    bounds = bounds_of(anchors, numbers, window)
    first, start, end, last = bounds.T
    mixed = (start - first) * (last - end)
    positives = end - start - 1 + mixed
    losses = map_row_chunks(
        partial(_losses, temperature=temperature, weight=weight, separate_shift=separate_shift),
        [z, order.argsort()[row], anchors, bounds, positives, shares],
        [gather(z)[order], numbers],
        columns=8 * (len(order) + int(mixed.max())),
        table=PART,
    )
    if plus_one:
        return gather(losses / (positives + 1)).mean()
    losses = gather(losses / positives.clamp(min=1))[gather(positives) > 0]
    if not len(losses):
        raise InputError(
            "targets: expected two equal ones, or one with others on both sides within the window; got neither"
        )
    return losses.mean()


def _losses(
    z: Float[Tensor, "batch dim"],
    place: Int[Tensor, " batch"],
    anchors: Float[Tensor, " batch"],
    bounds: Int[Tensor, "batch 4"],
    positives: Int[Tensor, " batch"],
    shares: Float[Tensor, "batch columns"] | None,
    keys: Float[Tensor, "all dim"],
    numbers: Float[Tensor, " all"],
    temperature: float,
    weight: Weight,
    separate_shift: bool,
) -> Float[Tensor, " batch"]:
    """The sum of each anchor's terms over its positives; keys are sorted by target, `place` is the anchor's index."""
    real, fixed = z @ keys.T / temperature, z @ keys.detach().T / temperature
    gap = numbers - anchors[:, None]
    is_self = place[:, None] == torch.arange(len(keys), device=place.device)
    is_positive = (gap == 0) & ~is_self
    logits = [(real + log_weight(gap, weight).to(z.dtype)).masked_fill(is_self, -torch.inf)]
    anchor, below, above, share = hard_positives(anchors, numbers, bounds)
    share = share.to(z.dtype)
    hard = share * fixed[anchor, below] + (1 - share) * fixed[anchor, above]
    negatives = None
    if shares is not None:
        negatives = shares * fixed.gather(1, place[:, None]) + (1 - shares) * fixed
        negatives = negatives.masked_fill(gap == 0, -torch.inf)
    if separate_shift:
        raised = _raised(real, negatives, hard, anchor)
        hard = hard + raised[anchor]
        negatives = None if negatives is None else negatives + raised[:, None]
    if negatives is not None and shares is not None:
        logits.append(negatives + log_weight((1 - shares) * gap, weight).to(z.dtype))
    shared = torch.cat(logits, 1)
    # Subtract one maximum from all logits, so that real rows and mixtures keep their proportion.
    top = shared.detach().amax(1).scatter_reduce(0, anchor, hard.detach(), "amax")
    total = (shared - top[:, None]).exp().sum(1).index_add(0, anchor, (hard - top[anchor]).exp())
    pull = real.masked_fill(~is_positive, 0).sum(1).index_add(0, anchor, hard)
    return positives * (top + total.log()) - pull


def _raised(
    real: Float[Tensor, "batch all"],
    negatives: Float[Tensor, "batch all"] | None,
    hard: Float[Tensor, " mixtures"],
    anchor: Int[Tensor, " mixtures"],
) -> Float[Tensor, " batch"]:
    """The largest logit of each anchor's rows, itself included, less that of its mixtures; 0 where it has none."""
    top = real.detach().amax(1)
    mixed = torch.full_like(top, -torch.inf) if negatives is None else negatives.detach().amax(1)
    mixed = mixed.scatter_reduce(0, anchor, hard.detach(), "amax")
    return (top - mixed).where(mixed.isfinite(), 0)


class SupReMixLoss(nn.Module):
    """`supremix` as a module: `loss(embeddings, targets, loss.draw(targets))`.

    The value is not the integral of the gradient, since mixtures pass no gradient to their components.

    Args:
        temperature: above 0; the authors take 0.1 to 0.5.
        window: distance, in the targets' unit, below which the targets of a hard positive must lie; 0 mixes none.
        mix_neg: the larger part of hard negatives: the "other" (the anchor's share is drawn from Beta(2, 8)), "even"
            (Beta(5, 5)), the "anchor" (Beta(8, 2)); "none" mixes none.
        weight: weight in the denominator of a pair at distance d: "linear" is d + 1, "square" is d² + 1,
            "inverse-linear" and "inverse-square" are their inverses, "none" is 1.
        plus_one: divide by the number of positives plus one, so that anchors without positives count as 0.
        separate_shift: raise the similarities of each anchor's mixtures as the authors' code does, see `supremix`.
    """

    surrogate = True

    def __init__(
        self,
        temperature: float = 0.3,
        window: float = 5.0,
        mix_neg: MixNeg = "other",
        weight: Weight = "linear",
        plus_one: bool = False,
        separate_shift: bool = False,
    ):
        super().__init__()
        _check(window, temperature, weight)
        if mix_neg not in get_args(MixNeg):
            raise unknown("mix_neg", mix_neg, get_args(MixNeg))
        self.temperature, self.window, self.weight, self.plus_one = temperature, window, weight, plus_one
        self.mix_neg, self.separate_shift = mix_neg, separate_shift

    def draw(self, targets: Real[Tensor, " batch"]) -> Float[Tensor, "batch all"] | None:
        """Draw the anchor's share in each of its hard negatives; `None` if none are mixed.

        Args:
            targets: target of each row.
        """
        if self.mix_neg == "none":
            return None
        own, other = torch.tensor(BETA[self.mix_neg], device=targets.device)
        return torch.distributions.Beta(own, other).sample((len(targets), len(gather(targets))))

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        targets: Real[Tensor, " batch"],
        shares: Float[Tensor, "batch all"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch; see `supremix`.

        Args:
            embeddings: one row per view; normalised here.
            targets: target of each row.
            shares: from `draw`; without them, all are the mean of their distribution.
        """
        given: Tensor | float | None = shares
        if self.mix_neg == "none":
            given = None
        elif shares is None:
            own, other = BETA[self.mix_neg]
            given = own / (own + other)
        return supremix(
            embeddings,
            targets,
            given,
            self.window,
            self.temperature,
            self.weight,
            self.plus_one,
            self.separate_shift,
        )


class SupReMix(Regressor):
    """Supervised contrastive regression, with hard positives and negatives mixed from the batch's embeddings.

    Without `mix_neg`, `window` and `weight` it is SupCon. For rows, which have one view, the loss gets `plus_one`, as
    in the authors' code.

    Args:
        encoder: maps images or rows to features; a run keeps it.
        temperature: above 0.
        window: distance, in the targets' unit, below which the targets of a hard positive must lie; 0 mixes none.
        mix_neg: the larger part of hard negatives: the "other", "even", or the "anchor"; "none" mixes none.
        weight: weight in the denominator of a pair at distance d: "linear" is d + 1, "square" is d² + 1,
            "inverse-linear" and "inverse-square" are their inverses, "none" is 1.
        bin: width of the bins into which targets are put; 0 leaves targets unchanged.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection; 128 in the authors' code.
        separate_shift: raise the similarities of each anchor's mixtures until the largest is 1, as the authors' code
            does; mixtures then weigh more beside samples.
        **recipe: arguments of `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.3,
        window: float = 5.0,
        mix_neg: MixNeg = "other",
        weight: Weight = "linear",
        bin: float = 0.0,
        hidden: int = 256,
        dim: int = 64,
        separate_shift: bool = False,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("bin", bin, at_least=0)
        self.bin = bin
        self.head = mlp(self.features, hidden, dim)
        self.objective = SupReMixLoss(
            temperature, window, mix_neg, weight, plus_one=self.views == 1, separate_shift=separate_shift
        )

    def check_data(self, images: Targets, batch_size: int, shares: int = 1) -> None:
        """Check as `Regressor` does, and refuse rows without any positive, since the loss of one view is then 0."""
        super().check_data(images, batch_size, shares)
        if batch_size * self.views < 3:
            raise InputError(f"batch_size: expected at least 3, for a pair and a negative, got {batch_size}")
        numbers = binned(images.targets, self.bin).double().sort().values
        first, start, end, last = bounds_of(numbers, numbers, self.objective.window).T
        if self.views == 1 and not ((end - start > 1) | ((start > first) & (last > end))).any():
            raise InputError(
                f"window: expected one that pairs some of the {len(numbers)} targets, got {self.objective.window:g}; "
                "no two are equal, and none lies between two others within it"
            )

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The loss of the projections of all views together."""
        targets = binned(labels, self.bin).repeat(len(images))
        embeddings = torch.cat([self.head(self.encoder(view)) for view in images])
        return self.objective(embeddings, targets, self.objective.draw(targets))


def _check_numbers(anchors: Tensor, numbers: Tensor) -> None:
    check_targets(anchors, rows=anchors.numel(), name="anchors")
    check_targets(numbers, rows=numbers.numel(), name="numbers")
    if (numbers[1:] < numbers[:-1]).any():
        raise InputError("numbers: expected ascending order, got a number that is less than the one before it")


def _check(window: float, temperature: float, weight: str) -> None:
    check_number("window", window, at_least=0)
    check_number("temperature", temperature, above=0)
    if weight not in get_args(Weight):
        raise unknown("weight", weight, get_args(Weight))
