r"""Times to an event by discrete hazards, with one head for short lifetimes and one for long ones.

Kitada, Iyatomi, Seki, "Ad Creative Discontinuation Prediction with Multi-Modal Multi-Task Neural Survival Networks",
Applied Sciences 12(7), 2022, arXiv 2204.11588; and the authors' earlier "Ad creative discontinuation prediction", JSAI
2020. The likelihood is that of Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural
networks", PeerJ 2019, arXiv 1805.00917.

Time is divided into intervals. The hazard $h_l$ of an interval is the probability that the event falls into it if it
did not come before, a sigmoid of a logit of the network. Two heads on one network have grids of their own, since what
shortens short lifetimes may lengthen long ones; an item that outlives the short grid is censored at its end for that
head. Each item's loss is multiplied by 1 + its click-through rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from counterpoise.data.survival import Survival, check_outcomes
from counterpoise.errors import InputError, unknown
from counterpoise.learners.hazard import (
    Closed,
    Events,
    HazardLearner,
    Inputs,
    Times,
    Weights,
    alike,
    check_edges,
    interval_of,
)
from counterpoise.learners.method import Index
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_matrix, check_number, check_numbers, check_values
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32

TABLE = {"cpu": 1 << 17}  # numbers of a part of the rows: on a processor as many as its cache holds
ELSEWHERE = 1 << 25
Weighting = Literal["ctr1p", "ctr1p-scaled", "impression", "none"]


def hazard_nll(
    logits: Float[Tensor, "batch intervals"],
    times: Real[Tensor, " batch"],
    events: Bool[Tensor, " batch"] | Int[Tensor, " batch"],
    edges: Float[Tensor, " _"],
    closed: Closed = "right",
) -> Float[Tensor, " batch"]:
    r"""The negative log-likelihood of times under hazards of intervals, summed over the intervals.

    With $h = \sigma(\text{logits})$: $-\log h_l - \sum_{k<l} \log(1 - h_k)$ of an event in interval l;
    $-\sum_k \log(1 - h_k)$ over all intervals where the item outlives the grid, and over those whose middle it has
    reached where it is censored before.

    Args:
        logits: of the hazards.
        times: above 0; those at or below the first edge count to the first interval.
        events: whether the event was observed at that time; otherwise the item is censored.
        edges: rising, one more than there are intervals.
        closed: which end of an interval belongs to it: "right", (a, b], as in the paper of 2022, or "left", [a, b).

    Returns:
        One loss an item, at least 0, in float32 at least.

    Raises:
        InputError: for wrong shapes, a time that is not above 0, edges that do not rise, an unknown end, or NaN.

    Examples:
        >>> edges = torch.tensor([1.0, 3.0, 5.0])
        >>> times, events = torch.tensor([4.0, 9.0, 4.5]), torch.tensor([True, True, False])
        >>> hazard_nll(torch.zeros(3, 2), times, events, edges) / torch.tensor(2.0).log()
        tensor([2., 2., 2.])
        >>> hazard_nll(torch.zeros(1, 2), torch.tensor([3.0]), torch.tensor([True]), edges, "left").exp()
        tensor([4.])
    """
    check_matrix("logits", logits)
    times, events = check_outcomes(times, events, len(logits))
    times, edges = alike(times, check_edges(edges, logits.shape[1]))
    place = interval_of(times, edges, closed)
    reached = torch.searchsorted((edges[1:] + edges[:-1]) / 2, times, right=True)
    counted = torch.where(events, place + 1, reached)
    return _Likelihood.apply(at_least_float32(logits), place, counted, events & (place < logits.shape[1]))


def two_term(
    short: Float[Tensor, " batch"],
    long: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    lam: float = 0.5,
) -> Float[Tensor, ""]:
    r"""The loss of both heads, $\frac1B \sum_i w_i (\lambda \ell_i^{short} + (1 - \lambda) \ell_i^{long})$.

    Args:
        short: loss of the short head of each item.
        long: loss of the long head.
        weight: of each item, at least 0; it gets no gradient, and is not normalised.
        lam: $\lambda$, from 0 to 1.

    Returns:
        The mean over the items of all processes.

    Raises:
        InputError: for wrong shapes, numbers out of range, or NaN.

    Examples:
        >>> two_term(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 5.0]), torch.tensor([1.0, 2.0]), lam=1.0)
        tensor(3.5000)
    """
    for name, losses in (("short", short), ("long", long)):
        _check_losses(name, losses, max(1, short.numel()))
    check_number("lam", lam, at_least=0, at_most=1)
    return _weighted_mean(lam * short + (1 - lam) * long, weight)


def click_weights(
    ctr: Float[Tensor, " batch"], how: Weighting = "ctr1p", largest: float | None = None
) -> Float[Tensor, " batch"]:
    """Weights of items by how much they are clicked or shown, without a gradient.

    Args:
        ctr: click-through rates, from 0 to 1; numbers of impressions, 0 or more, for "impression".
        how: "ctr1p", 1 + ctr, from 1 to 2, so that items without clicks still count; "ctr1p-scaled", 1 + ctr / largest,
            for rates of a few per cent, which change weights hardly; "impression", ctr / largest; or "none", all 1.
        largest: the largest number of all training items, above 0; that of `ctr` if not given.

    Raises:
        InputError: for an unknown way, numbers out of range, NaN, or where all are 0 and `largest` is needed.

    Examples:
        >>> ctr = torch.tensor([0.0, 0.25, 0.5])
        >>> click_weights(ctr), click_weights(ctr, "impression")
        (tensor([1.0000, 1.2500, 1.5000]), tensor([0.0000, 0.5000, 1.0000]))
    """
    _check_one_of("how", how, Weighting)
    if ctr.ndim != 1:
        raise InputError(f"ctr: expected one number for each item, got shape {list(ctr.shape)}")
    ctr = ctr.detach()
    check_values("ctr", ctr, at_least=0)
    if largest is not None:
        check_number("largest", largest, above=0)
    if how == "none":
        return torch.ones_like(ctr)
    if how == "ctr1p":
        check_values("ctr", ctr, at_most=1)
        return 1 + ctr
    if largest is None and not ctr.any():
        raise InputError(f"ctr: expected some number above 0 for how='{how}', got {len(ctr)} of 0")
    share = ctr / (ctr.max() if largest is None else largest)
    return share if how == "impression" else 1 + share


class HazardLoss(nn.Module):
    """`hazard_nll` as a module: `loss(logits, times, events)`, the mean over items.

    Args:
        edges: of the intervals, rising.
        closed: which end of an interval belongs to it, "right" or "left".

    Examples:
        >>> loss = HazardLoss([0.0, 1.0, 2.0])
        >>> loss(torch.zeros(1, 2), torch.tensor([0.5]), torch.tensor([True]))
        tensor(0.6931)
    """

    edges: Tensor

    def __init__(self, edges: Sequence[float] | Float[Tensor, " _"], closed: Closed = "right"):
        super().__init__()
        given = edges if isinstance(edges, Tensor) else torch.tensor(check_numbers("edges", edges, at_least=0))
        _check_one_of("closed", closed, Closed)
        self.register_buffer("edges", check_edges(given).float())
        self.closed = closed

    def forward(
        self,
        logits: Float[Tensor, "batch intervals"],
        times: Real[Tensor, " batch"],
        events: Bool[Tensor, " batch"] | Int[Tensor, " batch"],
        weights: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean of the items' losses, each times its weight; weights are not normalised.

        Args:
            logits: of the hazards, one an interval.
            times: above 0.
            events: whether the event was observed at that time.
            weights: of the items, 0 or more, such as those of `click_weights`; all 1 if not given.

        Raises:
            InputError: as of `hazard_nll`; for weights below 0.
        """
        losses = hazard_nll(logits, times, events, self.edges, self.closed)
        return gather(losses).mean() if weights is None else _weighted_mean(losses, weights, "weights")


class HazardNet(nn.Module):
    """An encoder, and one head for each grid: inputs to the logits of all hazards, head by head.

    Args:
        encoder: inputs to features; has an attribute `features`.
        intervals: how many each grid has.
        dropout: share of the features that is dropped in training.

    Attributes:
        edges: of the intervals, those of one grid after those of the other.

    Examples:
        >>> encoder = nn.Flatten()
        >>> encoder.features = 5
        >>> HazardNet(encoder, [2, 1])(torch.zeros(3, 5)).shape
        torch.Size([3, 3])
    """

    edges: Tensor

    def __init__(self, encoder: nn.Module, intervals: Sequence[int], dropout: float = 0.0):
        super().__init__()
        width: int = encoder.features  # type: ignore[assignment]
        self.intervals = list(intervals)
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.heads = nn.ModuleList(linear(width, count) for count in intervals)
        self.register_buffer("edges", torch.cat([torch.arange(count + 1.0) for count in intervals]))

    def grids(self) -> list[Float[Tensor, " _"]]:
        """The edges of each grid."""
        return list(self.edges.split([count + 1 for count in self.intervals]))

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch intervals"]:
        """The logits of the hazards of all heads."""
        features = self.dropout(self.encoder(inputs))
        return torch.cat([head(features) for head in self.heads], 1)


class AdSurvival(HazardLearner):
    """Hazards of short and of long lifetimes, by two heads on one network.

    Without edges, the short grid divides the training events up to the horizon into intervals with equally many of
    them; the long grid has one interval up to the horizon, and so divides the later ones.

    Args:
        encoder: inputs to features.
        horizon: the time at which the short grid ends; the task gives it.
        heads: 2, or 1 head whose grid is the union of both, the logistic-hazard model.
        short: edges of the short grid, such as 1, 3, 5, 7, 10 (days, of the paper); None takes quantiles.
        long: edges of the long grid, such as 1, 10, 30, 60, 90, 120; None takes quantiles.
        short_intervals: of the short grid, where its edges are quantiles.
        long_intervals: of the long grid, where its edges are quantiles; at least 2.
        closed: which end of an interval belongs to it, "right" or "left".
        lam: share of the short head's loss, from 0 to 1.
        weighting: of items by the weights of the data, see `click_weights`: "ctr1p", "ctr1p-scaled", "impression" or
            "none".
        dropout: share of the features that is dropped in training.
        **recipe: arguments of `HazardLearner`.
    """

    largest: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        horizon: float = 1.0,
        heads: int = 2,
        short: tuple[float, ...] | None = None,
        long: tuple[float, ...] | None = None,
        short_intervals: int = 4,
        long_intervals: int = 5,
        closed: Closed = "right",
        lam: float = 0.5,
        weighting: Weighting = "ctr1p",
        dropout: float = 0.0,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("horizon", horizon, above=0)
        check_number("heads", heads, at_least=1, at_most=2, whole=True)
        check_number("short_intervals", short_intervals, at_least=1, whole=True)
        check_number("long_intervals", long_intervals, at_least=2, whole=True)
        check_number("lam", lam, at_least=0, at_most=1)
        check_number("dropout", dropout, at_least=0, below=1)
        _check_one_of("closed", closed, Closed)
        _check_one_of("weighting", weighting, Weighting)
        self.given = _given_edges(short, long)
        self.horizon, self.closed, self.lam, self.weighting = horizon, closed, lam, weighting
        counts = (short_intervals, long_intervals)
        self.counts = [
            count if edges is None else len(edges) - 1 for count, edges in zip(counts, self.given, strict=True)
        ]
        self.model = HazardNet(encoder, self.counts if heads == 2 else [self._union()], dropout)
        self.register_buffer("largest", torch.ones(()))  # weight of all training items

    @property
    def net(self) -> HazardNet:  # type: ignore[override]
        """The encoder with its heads, and the edges of their grids."""
        return self.model

    def check_data(self, data: Survival, batch_size: int, shares: int = 1) -> None:
        """Refuse data whose events cannot be divided into the intervals, or whose weights are no such ones."""
        super().check_data(data, batch_size, shares)
        weights = torch.zeros(1) if data.weights is None else data.weights
        if self.weighting in ("ctr1p-scaled", "impression") and not (weights > 0).any():
            raise InputError(f"weighting: '{self.weighting}' expects data with weights above 0, got none")
        if self.weighting == "ctr1p" and (most := float(weights.max())) > 1:
            raise InputError(
                f"weights: expected click-through rates from 0 to 1 for weighting=ctr1p, got {most:g}; "
                "ctr1p-scaled divides them by the largest"
            )
        self._grids_of(data)

    def start_epoch(self, data: Survival, epoch: int) -> None:
        """Find the edges of the grids, and the largest weight, which are the same in every epoch."""
        self.model.edges.copy_(torch.cat(self._grids_of(data)))
        if data.weights is not None and (data.weights > 0).any():
            self.largest.fill_(float(data.weights.max()))

    def grids(self) -> list[Float[Tensor, " _"]]:
        """The edges of the intervals of each head."""
        return self.model.grids()

    def logits(self, inputs: Inputs) -> list[Float[Tensor, "batch _"]]:
        """The logits of the hazards of each head."""
        return list(self.model(inputs).split(self.model.intervals, 1))

    def hazards(self, inputs: Inputs) -> list[Float[Tensor, "batch _"]]:
        """The hazards of each head."""
        return [logits.sigmoid() for logits in self.logits(inputs)]

    def loss(  # type: ignore[override]
        self, inputs: Inputs, times: Times, events: Events, weights: Weights, index: Index
    ) -> Float[Tensor, ""]:
        """The weighted likelihood of both heads; of one head, without a share."""
        terms = [
            hazard_nll(logits, times, events, grid, self.closed)
            for logits, grid in zip(self.logits(inputs), self.grids(), strict=True)
        ]
        weight = click_weights(weights, self.weighting, float(self.largest))
        if len(terms) == 1:
            return _weighted_mean(terms[0], weight)
        short, long = terms
        return two_term(short, long, weight, self.lam)

    def _union(self) -> int:
        """How many intervals the union of both grids has."""
        short, long = self.given
        if short is None or long is None:
            return sum(self.counts) - 1  # the first interval of the long grid is the whole short one
        return len({*short, *long}) - 1

    def _grids_of(self, data: Survival) -> list[Tensor]:
        """The edges of each head, given or by the quantiles of the training events."""
        times = data.times[data.events]
        short, long = (None if edges is None else torch.tensor(edges).double() for edges in self.given)
        horizon = self.horizon if short is None else float(short[-1])
        if short is None:
            inner = equal_edges(times[times <= horizon], self.counts[0], "up to the horizon")
            short = torch.cat([torch.zeros(1), inner, torch.tensor([horizon])])
        if long is None:
            later = times[times > horizon]
            inner = equal_edges(later, self.counts[1] - 1, "after the horizon")
            last = later.max()
            if self.closed == "left":
                last = torch.nextafter(last.float(), torch.tensor(torch.inf))
            long = torch.cat([short[:1], torch.tensor([horizon]), inner, last[None]])
        intervals = self.model.intervals
        grids = [short, long] if len(intervals) == 2 else [torch.cat([short, long]).unique()]
        return [check_edges(grid.float(), count) for grid, count in zip(grids, intervals, strict=True)]


def equal_edges(times: Float[Tensor, " n"], intervals: int, where: str = "") -> Float[Tensor, " _"]:
    """Inner edges that divide times into intervals of equally many, or else of equally many different ones.

    Args:
        times: of events.
        intervals: how many, at least 1; there is one inner edge fewer.
        where: the times lie, for the error.

    Raises:
        InputError: where there are fewer different times than intervals.

    Examples:
        >>> equal_edges(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2)
        tensor([2.])
        >>> equal_edges(torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0]), 3)
        tensor([1., 2.])
    """
    check_number("intervals", intervals, at_least=1, whole=True)
    if times.ndim != 1:
        raise InputError(f"times: expected a row of numbers, got shape {list(times.shape)}")
    check_values("times", times)
    found = times.unique()
    if len(found) < intervals:
        raise InputError(
            f"intervals: expected at most as many as there are different times of events {where}, {len(found)}, "
            f"got {intervals}"
        )
    for some in (times.sort().values, found):  # quantiles of all; where two of these are one, of the different ones
        place = torch.arange(1, intervals) * len(some) // intervals - 1
        edges = some[place.clamp(min=0)]
        if (edges.diff() > 0).all() and (not len(edges) or edges[-1] < found[-1]):
            break
    return edges


class _Likelihood(torch.autograd.Function):
    """`hazard_nll` by the interval of each time, some items at a time, so that a cache holds what lies in between.

    The gradient is found on the way. With u the logit, but for its sign in the interval of an event, each interval that
    counts adds softplus(u): nothing is lost where a hazard is near 0 or 1.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, place: Tensor, counted: Tensor, observed: Tensor) -> Tensor:
        losses = logits.new_empty(len(logits))
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        numbers = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
        sign = torch.where(observed, -1.0, 1.0).to(logits)[:, None]
        place = place.clamp(max=logits.shape[1] - 1)[:, None]
        counted = counted.int()[:, None]
        for part in _parts(logits):
            u = logits[part].masked_fill(numbers >= counted[part], -torch.inf)
            own = u.gather(1, place[part]).mul_(sign[part])
            u.scatter_(1, place[part], own)
            losses[part] = _softplus(u).sum(1)
            if gradient is not None:
                slope = torch.sigmoid(u, out=gradient[part])
                slope.scatter_(1, place[part], own.sigmoid_().mul_(sign[part]))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None if gradient is None else upstream[:, None] * gradient, None, None, None


def _parts(logits: Tensor) -> list[slice]:
    """Rows of which a cache holds as many as there are in a part."""
    rows = max(1, TABLE.get(logits.device.type, ELSEWHERE) // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def _softplus(u: Tensor) -> Tensor:
    """log(1 + e^u) from vectorised functions alone, which PyTorch's own is not on a processor; 0 of minus infinity."""
    small = u.abs().neg_().exp_()
    whole = 1 + small
    lost = small.sub_(whole - 1).div_(whole)  # what rounding took from 1 + e, to first order of its logarithm
    return whole.log_().add_(lost).add_(u.clamp(min=0))


def _given_edges(
    short: Sequence[float] | None, long: Sequence[float] | None
) -> tuple[list[float] | None, list[float] | None]:
    """The edges of both grids, checked: each rising, and the long grid with the short one and beyond it."""
    if long is None:
        return (None if short is None else _rising("short", short)), None
    if short is None:
        raise InputError("long: expected short with it, since the two grids belong together")
    short, long = _rising("short", short), _rising("long", long)
    if short[-1] >= long[-1]:
        raise InputError(f"long: expected edges beyond {short[-1]:g}, the last of short, got {long}")
    return short, long


def _rising(name: str, edges: Sequence[float]) -> list[float]:
    listed = [float(edge) for edge in check_numbers(name, edges, at_least=0)]
    if len(listed) < 2 or any(b <= a for a, b in pairwise(listed)):
        raise InputError(f"{name}: expected at least 2 rising edges, got {listed}")
    return listed


def _check_one_of(name: str, value: str, known: Any) -> None:
    if value not in get_args(known):
        raise unknown(name, value, get_args(known))


def _check_losses(name: str, losses: Tensor, rows: int) -> None:
    if list(losses.shape) != [rows]:
        raise InputError(f"{name}: expected one number for each of {rows} items, got shape {list(losses.shape)}")
    check_values(name, losses)


def _weighted_mean(losses: Tensor, weight: Tensor, name: str = "weight") -> Tensor:
    """The mean over all processes of losses times weights."""
    if weight.shape != losses.shape:
        raise InputError(f"{name}: expected one for each of {len(losses)} items, got shape {list(weight.shape)}")
    check_values(name, weight, at_least=0)
    return gather(losses * weight.detach().to(losses)).mean()
