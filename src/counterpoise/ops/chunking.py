"""A function of rows, some rows at a time, so that what it forms on its way exists for those rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_number

TABLE = 1 << 20  # similarities that exist at a time, 4 MB in float32: larger ones leave the heap in pieces


def map_row_chunks(
    function: Callable[..., Tensor], rows: Sequence[Tensor | None], shared: Sequence[Tensor | None], step: int
) -> Tensor:
    """`function(*rows, *shared)`, formed for `step` rows at a time, and again in the backward pass.

    The sum of the gradients goes into one tensor per input and the values into one, so that the memory of each part
    serves the next; PyTorch's `checkpoint`, called for each part, leaves a heap in pieces. Differentiable once, and
    without autocast: similarities want float32. NaN and infinity are not looked for, and come out where they go in.

    Args:
        function: what it returns for some rows must not depend on the others, and draw nothing at random.
        rows: tensors of as many rows, of which the function gets some.
        shared: tensors of which it gets all. It must use no other tensor that learns.
        step: from how many rows on to work in parts.

    Returns:
        One row of values for each of `rows`.

    Raises:
        InputError: if `step` is no whole number of at least 1, or there are no rows.

    >>> map_row_chunks(lambda x, y: (x @ y.T).logsumexp(1), [torch.zeros(5, 2)], [torch.ones(4, 2)], step=2)
    tensor([1.3863, 1.3863, 1.3863, 1.3863, 1.3863])
    """
    check_number("step", step, at_least=1, whole=True)
    first = next((x for x in rows if x is not None), None)
    if first is None:
        raise InputError("rows: expected at least one tensor, got none")
    with torch.autocast(first.device.type, enabled=False):
        if len(first) <= step:
            return function(*rows, *shared)
        return _MapRowChunks.apply(function, range(0, len(first), step), len(rows), *rows, *shared)


def reduce_similarities(
    reduce: Callable[[Tensor], Tensor],
    queries: Float[Tensor, "n *heads dim"],
    keys: Float[Tensor, "m *heads dim"],
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " m"]] | None = None,
) -> Tensor:
    r"""`reduce` of the table of similarities, without the table: for what is no softmax, such as a row's largest.

    Args:
        reduce: from `[some, *heads, m]` similarities to one row of values for each query.
        queries: normalise first where cosines are meant.
        keys: likewise; compared head by head.
        exclude: numbers of queries and keys; where they are equal, the similarity is $-\infty$.

    Returns:
        What `reduce` makes of them; NaN and infinity are not looked for, and come out where they go in.

    Raises:
        InputError: for shapes that do not go together.

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> own = torch.arange(3)
    >>> reduce_similarities(lambda s: s.topk(1).indices, z, z, (own, own)).flatten()
    tensor([2, 2, 1])
    """

    def part(queries: Tensor, numbers: Tensor | None, keys: Tensor, others: Tensor | None) -> Tensor:
        similarity = torch.einsum("n...d,m...d->n...m", queries, keys)
        if numbers is not None and others is not None:
            no_pair = (numbers[:, None] == others).view(len(queries), *[1] * (queries.ndim - 2), len(keys))
            similarity = similarity.masked_fill_(no_pair, -torch.inf)
        return reduce(similarity)

    if queries.ndim < 2 or queries.shape[1:] != keys.shape[1:]:
        shapes = f"{list(queries.shape)} and {list(keys.shape)}"
        raise InputError(f"queries and keys: expected rows of the same shape, got {shapes}")
    numbers, others = exclude or (None, None)
    if numbers is not None and others is not None:
        numbers = check_integers("exclude", numbers, rows=len(queries))
        others = check_integers("exclude", others, rows=len(keys))
    a_row = keys.shape[:-1].numel()
    return map_row_chunks(part, [queries, numbers], [keys, others], step=max(1, TABLE // max(1, a_row)))


class _MapRowChunks(torch.autograd.Function):
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
