"""A function of rows, some rows at a time, so that what it forms on its way exists for those rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def by_rows(
    function: Callable[..., Tensor], rows: Sequence[Tensor | None], shared: Sequence[Tensor | None], step: int
) -> Tensor:
    """`function(*rows, *shared)`, formed for `step` rows at a time, and again in the backward pass.

    The sum of the gradients goes into one tensor per input and the values into one, so that the memory of each part
    serves the next; PyTorch's `checkpoint`, called for each part, leaves a heap in pieces. Differentiable once, and
    without autocast: similarities want float32.

    Args:
        function: what it returns for some rows must not depend on the others, and draw nothing at random.
        rows: tensors of as many rows, of which the function gets some.
        shared: tensors of which it gets all. It must use no other tensor that learns.
        step: from how many rows on to work in parts.

    Returns:
        One row of values for each of `rows`.

    >>> by_rows(lambda x, y: (x @ y.T).logsumexp(1), [torch.zeros(5, 2)], [torch.ones(4, 2)], step=2)
    tensor([1.3863, 1.3863, 1.3863, 1.3863, 1.3863])
    """
    first = next(x for x in rows if x is not None)
    with torch.autocast(first.device.type, enabled=False):
        if len(first) <= step:
            return function(*rows, *shared)
        return _ByRows.apply(function, range(0, len(first), step), len(rows), *rows, *shared)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], starts: range, count: int, *inputs: Tensor | None) -> Tensor:
        ctx.function, ctx.starts, ctx.count = function, starts, count
        ctx.save_for_backward(*inputs)
        values: Tensor | None = None
        for some, part in _parts(inputs, starts, count):
            found = function(*part)
            if values is None:
                values = found.new_empty(starts.stop, *found.shape[1:])
            values[some] = found
        assert values is not None
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_values: Tensor) -> Any:
        inputs, count = ctx.saved_tensors, ctx.count
        wanted = [n for n, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        gradients: list[Tensor | None] = [None] * len(inputs)
        for n in wanted:
            gradients[n] = torch.zeros_like(inputs[n])
        for some, part in _parts(inputs, ctx.starts, count):
            given: list[Any] = [x if x is None else x.detach().requires_grad_(n in wanted) for n, x in enumerate(part)]
            with torch.enable_grad():
                values = ctx.function(*given)
            slopes = torch.autograd.grad(values, [given[n] for n in wanted], by_values[some], allow_unused=True)
            for n, slope in zip(wanted, slopes, strict=True):
                total = gradients[n]
                if slope is not None and total is not None:
                    (total[some] if n < count else total).add_(slope)
        return None, None, None, *gradients


def _parts(inputs: Sequence[Tensor | None], starts: range, count: int) -> Iterator[tuple[slice, list[Tensor | None]]]:
    """Which rows, and what the function gets of them."""
    for start in starts:
        some = slice(start, start + starts.step)
        yield some, [x if x is None or n >= count else x[some] for n, x in enumerate(inputs)]
