"""Methods that predict the time of an event: hazards of intervals, survival curves, and risks to rank by."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int, Real
from torch import Tensor, nn

from counterpoise.data.survival import Survival
from counterpoise.data.views import to_input
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Index, Method
from counterpoise.nets.features import evaluation
from counterpoise.ops.checks import check_matrix, check_number, check_values

Score = Literal["intervals", "lifetime"]
Closed = Literal["right", "left"]
Inputs = Float[Tensor, "batch ..."]
Times = Float[Tensor, " batch"]
Events = Bool[Tensor, " batch"]
Weights = Float[Tensor, " batch"]


class Predicted(NamedTuple):
    """What a method predicts of items, on the CPU.

    Attributes:
        risk: of each item, higher where an earlier event is expected.
        short: the same, to rank short times by.
        long: and long ones; both are `risk` where a method has no others.
        survival: probability that the event comes after each of some times.
    """

    risk: Float64[Tensor, " n"]
    short: Float64[Tensor, " n"]
    long: Float64[Tensor, " n"]
    survival: Float64[Tensor, "n times"]


class HazardLearner(Method):
    """A method that predicts times to an event, from training data that are censored in part.

    A subclass defines `hazards` and `grids`, from which survival curves and risks follow; or `risk` and `survival`
    themselves. It trains by `loss(inputs, times, events, weights, index)`.

    Args:
        encoder: inputs to features.
        score: what ranks items by hazards: "intervals", the expected number of intervals that an item survives, or
            "lifetime", the expected time up to the last edge, each with the sign changed.
        **recipe: arguments of `Method`.

    Examples:
        >>> encoder = nn.Flatten()
        >>> encoder.features = 2
        >>> class Half(HazardLearner):
        ...     def grids(self):
        ...         return [torch.tensor([0.0, 1.0, 3.0])]
        ...     def hazards(self, inputs):
        ...         return [torch.full((len(inputs), 2), 0.5)]
        >>> method = Half(encoder)
        >>> method.survival(torch.zeros(1, 2), torch.tensor([0.5, 3.0])), method.risk(torch.zeros(1, 2))
        (tensor([[0.7500, 0.2500]]), tensor([-0.7500]))
    """

    views: Any = 1

    def __init__(self, encoder: nn.Module, *, score: Score = "intervals", **recipe: Any):
        super().__init__(encoder, **recipe)
        if score not in get_args(Score):
            raise unknown("score", score, get_args(Score))
        self.score = score

    def batch_loss(self, batch: Any) -> Float[Tensor, ""]:
        """`loss` of a batch of `Survival`."""
        inputs, times, events, weights, index = batch
        return self.loss(self.view(inputs).to(self.dtype), times, events, weights, index)

    def loss(  # type: ignore[override]
        self, inputs: Inputs, times: Times, events: Events, weights: Weights, index: Index
    ) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            inputs: of the items.
            times: until the event, or until censoring.
            events: whether the event was observed.
            weights: of the data; 0 where it has none.
            index: which training item each row is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(inputs, times, events, weights, index)")

    def check_data(self, data: Survival, batch_size: int, shares: int = 1) -> None:
        """Refuse training data without any event, of which no time to one can be learnt."""
        if not data.events.any():
            raise InputError(f"events: expected some in training, but all {len(data):,} rows are censored")

    def grids(self) -> list[Float[Tensor, " edges"]]:
        """The edges of the intervals of each head, in the order of the heads; none where there are no hazards."""
        return []

    def hazards(self, inputs: Inputs) -> list[Float[Tensor, "batch intervals"]]:
        """For each head the probabilities that the event falls into an interval, if it did not come before it."""
        raise NotImplementedError(f"{type(self).__name__} has no hazards")

    def survival(self, inputs: Inputs, times: Float[Tensor, " times"]) -> Float[Tensor, "batch times"]:
        """Probability that an item's event comes after each time; by default `chained_survival` of the hazards."""
        return chained_survival(self.hazards(inputs), self.grids(), times)

    def risk(self, inputs: Inputs) -> Float[Tensor, " batch"]:
        """A risk of each item, higher where an earlier event is expected; by default by the chained curve."""
        hazards, grids = self.hazards(inputs), self.grids()
        edges = torch.cat(grids).unique()
        return -_expected(chained_survival(hazards, grids, edges[1:]), edges, self.score)

    def risks(self, inputs: Inputs) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Risks to rank all times by, short ones, and long ones; of several heads the first and the last have own ones.

        They are `risk` three times where there is one head, or none.
        """
        risk = self.risk(inputs)
        grids = self.grids()
        if len(grids) < 2:
            return risk, risk, risk
        hazards = self.hazards(inputs)
        short, long = (-_expected(survival_of(hazards[k]), grids[k], self.score) for k in (0, -1))
        return risk, short, long

    @torch.no_grad()
    def predict(self, data: Survival, times: Float[Tensor, " times"], batch_size: int = 512) -> Predicted:
        """What it predicts of each item, in evaluation mode and without gradients, on the CPU.

        Args:
            data: its times and events are not read.
            times: those that survival is wanted at, above 0.
            batch_size: items at a time; matters for memory and speed only.
        """
        check_number("batch_size", batch_size, at_least=1, whole=True)
        if not len(data):
            raise InputError(f"data: expected at least 1 row, got none of '{data.name}'")
        found: list[tuple[Tensor, ...]] = []
        with evaluation(self):
            for some in torch.arange(len(data)).split(batch_size):
                inputs = to_input(data.inputs[some].to(self.device)).to(self.dtype)
                found.append((*self.risks(inputs), self.survival(inputs, times.to(self.device))))
        return Predicted(*(torch.cat(parts).double().cpu() for parts in zip(*found, strict=True)))


def survival_of(hazards: Float[Tensor, "batch intervals"]) -> Float[Tensor, "batch intervals"]:
    r"""The probability to survive each interval and all before it, $S_l = \prod_{j \le l} (1 - h_j)$.

    Args:
        hazards: from 0 to 1.

    Raises:
        InputError: for a wrong shape, numbers out of range, or NaN.

    Examples:
        >>> survival_of(torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    check_matrix("hazards", hazards)
    check_values("hazards", hazards, at_least=0, at_most=1)
    return (1 - hazards).cumprod(1)


def chained_survival(
    hazards: list[Float[Tensor, "batch _"]], edges: list[Float[Tensor, " _"]], times: Float[Tensor, " times"]
) -> Float[Tensor, "batch times"]:
    r"""The survival curve of heads whose grids end one after the other, at some times.

    The first head's curve holds up to its last edge e; from there on the next one's, given survival up to e:
    $S(t) = S_1(e) S_2(t) / S_2(e)$. Between two edges a curve is linear; after the last edge of all it is constant.

    Args:
        hazards: of each head, from 0 to 1.
        edges: of each head, rising, one more than it has intervals.
        times: in any order.

    Raises:
        InputError: for wrong shapes, edges that do not rise, numbers out of range, or NaN.

    Examples:
        >>> half = torch.tensor([[0.5]])
        >>> chained_survival([half, half], [torch.tensor([0.0, 2.0]), torch.tensor([0.0, 4.0])], torch.tensor([2.0, 4]))
        tensor([[0.5000, 0.3333]])
    """
    if not hazards or len(hazards) != len(edges):
        raise InputError(f"edges: expected those of each of {len(hazards)} heads, at least 1, got {len(edges)}")
    check_values("times", times)
    end, found, reached = -torch.inf, hazards[0].new_ones(()), hazards[0].new_ones(())
    for each, grid in zip(hazards, edges, strict=True):
        whole = survival_of(each)
        grid = check_edges(grid, each.shape[1]).to(each)
        if (last := float(grid[-1])) <= end:
            raise InputError(f"edges: expected the last one of each head to rise, got {end:g} and then {last:g}")
        passed = _interpolated(whole, grid, grid.new_tensor([end])).clamp(min=torch.finfo(whole.dtype).tiny)
        ahead = torch.minimum(reached * _interpolated(whole, grid, times.to(grid)) / passed, reached)
        found = torch.where(times.to(grid) > end, ahead, found)
        reached = torch.minimum(reached * whole[:, -1:] / passed, reached)
        end = last
    return found


def check_edges(edges: Real[Tensor, " _"], intervals: int | None = None) -> Float[Tensor, " _"]:
    """Refuse edges that do not rise, or are not one more than there are intervals.

    Args:
        edges: numbers of at least 0.
        intervals: how many there are, at least 1; as many as the edges say if not given.

    Returns:
        The edges, floating-point.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_edges(torch.tensor([0, 2]), 1)
        tensor([0., 2.], dtype=torch.float64)
        >>> check_edges(torch.tensor([0.0, 2.0, 2.0]), 2)
        Traceback (most recent call last):
        counterpoise.errors.InputError: edges: expected rising numbers, got [0.0, 2.0, 2.0]
    """
    if intervals is None:
        intervals = max(1, edges.numel() - 1)
    check_number("intervals", intervals, at_least=1, whole=True)
    edges = edges if edges.is_floating_point() else edges.double()
    check_values("edges", edges, at_least=0)
    if list(edges.shape) != [intervals + 1]:
        raise InputError(
            f"edges: expected {intervals + 1}, one more than there are intervals, got shape {list(edges.shape)}"
        )
    if not bool((edges.diff() > 0).all()):
        raise InputError(f"edges: expected rising numbers, got {edges.tolist()}")
    return edges


def interval_of(times: Real[Tensor, " n"], edges: Float[Tensor, " _"], closed: Closed = "right") -> Int[Tensor, " n"]:
    """The number of the interval that each time lies in, from 0; as many as there are intervals after the last edge.

    Args:
        times: those at or below the first edge count to the first interval.
        edges: rising.
        closed: which end of an interval belongs to it: "right", (a, b], or "left", [a, b).

    Raises:
        InputError: for edges that do not rise, an unknown end, or NaN.

    Examples:
        >>> times, edges = torch.tensor([0.5, 3.0, 5.0, 9.0]), torch.tensor([1.0, 3.0, 5.0])
        >>> interval_of(times, edges).tolist(), interval_of(times, edges, "left").tolist()
        ([0, 0, 1, 2], [0, 1, 2, 2])
    """
    if closed not in get_args(Closed):
        raise unknown("closed", closed, get_args(Closed))
    times, edges = alike(times, edges)
    return torch.searchsorted(edges[1:].contiguous(), times.contiguous(), right=closed == "left")


def alike(times: Real[Tensor, " n"], edges: Float[Tensor, " _"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " _"]]:
    """Times and edges of one precision, the lower of both: a time on an edge stays on it.

    Args:
        times: of items.
        edges: of intervals, rising.

    Raises:
        InputError: for edges that do not rise in that precision, a wrong shape, or NaN.

    Examples:
        >>> times, edges = alike(torch.tensor([0.1]), torch.tensor([0.0, 0.1]).double())
        >>> times.dtype, bool(times[0] == edges[1])
        (torch.float32, True)
    """
    times = times if times.is_floating_point() else times.double()
    check_values("times", times)
    if times.ndim != 1:
        raise InputError(f"times: expected a row of numbers, got shape {list(times.shape)}")
    edges = check_edges(edges)
    low = torch.float64 if times.dtype == edges.dtype == torch.float64 else torch.float32
    return times.to(low), check_edges(edges.to(low))


def _interpolated(survival: Tensor, edges: Tensor, times: Tensor) -> Tensor:
    """A curve between the edges: 1 at the first and before it, its last value after the last."""
    place = torch.searchsorted(edges[1:-1].contiguous(), times.contiguous())
    share = ((times - edges[place]) / (edges[place + 1] - edges[place])).clamp(0, 1)
    whole = torch.cat([torch.ones_like(survival[:, :1]), survival], 1)
    return whole[:, place] + share * (whole[:, place + 1] - whole[:, place])


def _expected(survival: Tensor, edges: Tensor, score: Score) -> Tensor:
    """The expected number of intervals survived, or the expected time, by the curve at the edges but the first."""
    return survival.sum(1) if score == "intervals" else survival @ edges.diff().to(survival)
