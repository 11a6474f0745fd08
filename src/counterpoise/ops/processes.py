"""One batch over several processes: rows gathered with exact gradients, or passed on around a ring.

Each process of `torch.distributed` holds some rows of the batch. An objective that compares rows sees the others'
through `similarity_logsumexp(…, gather_distributed=True)`, and `gather`s what it has found for its own rows; so every
process ends with the loss of the whole batch. The gradient that DDP averages over the processes is then that of the
whole batch in one process. All processes must take part in every call, but may hold different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError, ProcessLost, unknown
from counterpoise.ops.checks import check_number

Exchange = Literal["gather", "ring", "none"]

_exchange: Exchange = "gather"


@contextmanager
def exchanging(how: Exchange) -> Iterator[None]:
    """How processes see each other's rows while the block runs.

    Args:
        how: "gather" (what is done without this): each process holds the rows of all; fewest messages. "ring": rows are
            passed on from process to process, so that each holds those of two at a time. "none": each process is a
            batch of its own, as if the others were not there.

    Raises:
        InputError: for another word.

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
    """How rows are exchanged now: "none" unless `torch.distributed` runs with several processes.

    >>> exchange()
    'none'
    """
    return _exchange if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else "none"


def is_first() -> bool:
    """Whether this is process 0, or the only one.

    >>> is_first()
    True
    """
    return exchange() == "none" or dist.get_rank() == 0


def gather(x: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all processes, those of process 0 first; `x` itself where there is one process.

    The gradient of a row is the sum of its gradients in all processes; NaN and infinity pass
    through.

    >>> gather(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return x if exchange() == "none" else _Gather.apply(x)


def global_row_indices(x: Shaped[Tensor, "rows ..."], name: str = "", at_least: int = 1) -> Int[Tensor, " rows"]:
    """The number of each row of `x` among the rows of all processes.

    Args:
        x: this process's rows.
        name: of the argument that an error should tell.
        at_least: rows that all processes together must have.

    Raises:
        InputError: if there are fewer.

    >>> global_row_indices(torch.zeros(3, 2))
    tensor([0, 1, 2])
    """
    check_number("at_least", at_least, at_least=0, whole=True)
    sizes, rank = ([len(x)], 0) if exchange() == "none" else (_sizes(x), dist.get_rank())
    if sum(sizes) < at_least:
        raise InputError(f"{name}: expected at least {at_least} rows, got {sum(sizes)}")
    return torch.arange(len(x), device=x.device) + sum(sizes[:rank])


def maximum(x: Tensor) -> Tensor:
    """The largest of each number over all processes, without a gradient; NaN and infinity stay what they are.

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
    """Let every process's rows visit every process: `visit(step, tensors, accumulators)`, its own rows at step 0.

    What a process holds at any time are its own tensors, and those of one other that it works on or passes on.

    Args:
        tensors: this process's rows, [rows …] each; they travel and are not changed.
        accumulators: likewise; `visit` adds to them in place, and they travel with the tensors and come home.
        visit: called once for the rows of each process.

    Returns:
        The accumulators of this process's rows, to which all processes have added; NaN and infinity
        pass through.

    >>> around({"x": torch.ones(2)}, {"sum": torch.zeros(2)}, lambda step, others, sums: sums["sum"].add_(others["x"]))
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
    """Send the tensors to the next process, and receive those of the one before, which have so many rows."""
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
    """How many rows each process has."""
    rows = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    with _together():
        dist.all_gather(sizes, rows)
    return torch.cat(sizes).tolist()


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes must do: that another one is gone becomes an error that says so."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][-160:]
        raise ProcessLost(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost another one, which has stopped, hangs, or does "
            f"not call the same functions in the same order; look at its own error ({reason})"
        ) from error
