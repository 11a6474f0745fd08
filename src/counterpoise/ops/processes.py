"""One batch over several processes: rows are gathered with exact gradients, or passed around a ring.

Each process of `torch.distributed` holds some rows of the batch. An objective that compares rows sees the others' rows
through `similarity_logsumexp(…, gather_distributed=True)` and `gather`s the results of its own rows, so that every
process has the loss of the whole batch. DDP's average of the gradients over processes then equals the gradient of the
whole batch in one process. All processes must take part in every call, but may hold different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError, ProcessLost, unknown
from counterpoise.ops.checks import check_integers, check_number

Exchange = Literal["gather", "ring", "none"]

_exchange: Exchange = "gather"


@contextmanager
def exchanging(how: Exchange) -> Iterator[None]:
    """Set how processes exchange rows while the block runs.

    Args:
        how: "gather" (the default): each process holds the rows of all; fewest messages. "ring": rows are passed from
            process to process, so that each holds the rows of two at a time. "none": each process has a batch of its
            own, as if there were no others.

    Raises:
        InputError: for an unknown word.

    Examples:
        >>> with exchanging("none"):
        ...     exchange()
        'none'
    """
    global _exchange
    if how not in get_args(Exchange):
        raise unknown("exchange", how, get_args(Exchange))
    before, _exchange = _exchange, how
    try:
        yield
    finally:
        _exchange = before


def exchange() -> Exchange:
    """The current exchange of rows: "none" unless `torch.distributed` runs with several processes.

    Examples:
        >>> exchange()
        'none'
    """
    return _exchange if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else "none"


def is_first() -> bool:
    """Whether this is process 0, or the only one.

    Examples:
        >>> is_first()
        True
    """
    return exchange() == "none" or dist.get_rank() == 0


def gather(x: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all processes, those of process 0 first; `x` itself if there is one process.

    The gradient of a row is the sum of its gradients in all processes. NaN and infinity propagate.

    Examples:
        >>> gather(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    return x if exchange() == "none" else _Gather.apply(x)


def labelled_mean(losses: Float[Tensor, " rows"], labels: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
    """The mean of the losses over the rows of all processes that have a label; 0, with a gradient of 0, if none has.

    Args:
        losses: of this process's rows; 0 where there is no label.
        labels: -1 where there is none.

    Raises:
        InputError: for labels that are no integers, below -1, or not as many as there are losses.

    Examples:
        >>> labelled_mean(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4, -1, 0]))
        tensor(2.)
    """
    if losses.ndim != 1:
        raise InputError(f"losses: expected one for each row, got shape {list(losses.shape)}")
    labels = check_integers("labels", labels, rows=len(losses), low=-1)
    return masked_mean(losses, labels >= 0)


def masked_mean(losses: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"]) -> Float[Tensor, ""]:
    """The mean of the losses over the rows of all processes that are kept; 0, with a gradient of 0, if none is.

    Args:
        losses: of this process's rows; 0 where they are not kept.
        kept: which rows count.

    Raises:
        InputError: for other shapes, or anything but true and false.

    Examples:
        >>> masked_mean(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([True, False, True]))
        tensor(2.)
    """
    if losses.ndim != 1:
        raise InputError(f"losses: expected one for each row, got shape {list(losses.shape)}")
    if kept.dtype != torch.bool or kept.shape != losses.shape:
        what = f"{kept.dtype} of shape {list(kept.shape)}"
        raise InputError(f"kept: expected true or false for each of {len(losses)} rows, got {what}")
    return gather(losses).sum() / gather(kept.long()).sum().clamp(min=1)


def global_row_indices(x: Shaped[Tensor, "rows ..."], name: str = "", at_least: int = 1) -> Int[Tensor, " rows"]:
    """The index of each row of `x` among the rows of all processes.

    Args:
        x: this process's rows.
        name: name of the argument, for the error.
        at_least: smallest number of rows of all processes together.

    Raises:
        InputError: if there are fewer.

    Examples:
        >>> global_row_indices(torch.zeros(3, 2))
        tensor([0, 1, 2])
    """
    check_number("at_least", at_least, at_least=0, whole=True)
    sizes, rank = ([len(x)], 0) if exchange() == "none" else (_sizes(x), dist.get_rank())
    if sum(sizes) < at_least:
        raise InputError(f"{name}: expected at least {at_least} rows, got {sum(sizes)}")
    return torch.arange(len(x), device=x.device) + sum(sizes[:rank])


def maximum(x: Tensor) -> Tensor:
    """The elementwise maximum over all processes, without a gradient; NaN and infinity propagate.

    Examples:
        >>> maximum(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    x = x.detach().clone()
    if exchange() != "none":
        with _together():
            dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def around(
    tensors: dict[str, Tensor],
    accumulators: dict[str, Tensor],
    visit: Callable[[int, dict[str, Tensor], dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    """Pass every process's rows around all processes, calling `visit(step, tensors, accumulators)` in each.

    A process holds its own tensors and those of one other process at a time.

    Args:
        tensors: this process's rows, [rows …] each; they are sent around unchanged.
        accumulators: likewise; `visit` adds to them in place, and they return with the tensors in the end.
        visit: called once for the rows of each process, its own at step 0.

    Returns:
        The accumulators of this process's rows, to which all processes have added. NaN and infinity propagate.

    Examples:
        >>> def visit(step, others, sums):
        ...     sums["sum"].add_(others["x"])
        >>> around({"x": torch.ones(2)}, {"sum": torch.zeros(2)}, visit)
        {'sum': tensor([1., 1.])}
    """
    if exchange() == "none":
        visit(0, tensors, accumulators)
        return accumulators
    size, rank = dist.get_world_size(), dist.get_rank()
    sizes = _sizes(next(iter(tensors.values())))
    for step in range(size):
        visit(step, tensors, accumulators)
        coming = sizes[(rank - step - 1) % size]
        if step < size - 1:
            tensors = _pass_on(tensors, coming)
        accumulators = _pass_on(accumulators, coming)
    return accumulators


def _pass_on(tensors: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Send the tensors to the next process, and receive those of the previous one, which have `rows` rows."""
    if not tensors:
        return {}
    size, rank = dist.get_world_size(), dist.get_rank()
    received = {name: x.new_empty(rows, *x.shape[1:]) for name, x in tensors.items()}
    with _together():
        messages = [dist.P2POp(dist.isend, x.contiguous(), (rank + 1) % size) for x in tensors.values()]
        messages += [dist.P2POp(dist.irecv, x, (rank - 1) % size) for x in received.values()]
        for work in dist.batch_isend_irecv(messages):
            work.wait()
    return received


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes, rank = _sizes(x), dist.get_rank()
        ctx.start, ctx.rows = sum(sizes[:rank]), len(x)
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        with _together():
            dist.all_gather(parts, padded)
        return torch.cat([part[:rows] for part, rows in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        with _together():
            dist.all_reduce(grad)
        return grad[ctx.start : ctx.start + ctx.rows]


def _sizes(x: Tensor) -> list[int]:
    """The number of rows of each process."""
    rows = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    with _together():
        dist.all_gather(sizes, rows)
    return torch.cat(sizes).tolist()


@contextmanager
def _together() -> Iterator[None]:
    """Wraps collective calls: turns the loss of another process into an error that says so."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][-160:]
        raise ProcessLost(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost another one, which has stopped, hangs, or does "
            f"not call the same functions in the same order; look at its own error ({reason})"
        ) from error
