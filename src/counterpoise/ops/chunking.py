"""Row-wise functions in chunks of rows, so that intermediate results exist for one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_number

TABLE = 1 << 20  # numbers of a chunk's largest intermediate, 4 MB in float32: larger ones fragment the heap


def map_row_chunks(
    function: Callable[..., Tensor],
    rows: Sequence[Tensor | None],
    shared: Sequence[Tensor | None],
    columns: int,
    table: int | None = None,
) -> Tensor:
    """`function(*rows, *shared)`, computed in chunks of rows, and recomputed in the backward pass.

    Values are written into one tensor and gradients summed into one per input, so that each chunk reuses the memory of
    the one before; PyTorch's `checkpoint`, called for each chunk, fragments the heap. Differentiable once. Autocast is
    off, since similarities need float32. NaN and infinity are not checked, and propagate.

    Args:
        function: its result for a row must not depend on other rows or on random numbers.
        rows: tensors with the same number of rows; the function gets a chunk of each.
        shared: tensors that the function gets whole. It must use no other tensor that requires a gradient.
        columns: numbers that the function computes for each row, such as one for each key; 0 counts as 1.
        table: numbers that may exist at a time, which sets the rows of a chunk (at least one); `TABLE` by default.

    Returns:
        One row of values for each of `rows`.

    Raises:
        InputError: for numbers out of range, or if there are no rows.

    Examples:
        >>> rows, shared = [torch.zeros(5, 2)], [torch.ones(4, 2)]
        >>> map_row_chunks(lambda x, y: (x @ y.T).logsumexp(1), rows, shared, columns=4, table=8)
        tensor([1.3863, 1.3863, 1.3863, 1.3863, 1.3863])
    """
    check_number("columns", columns, at_least=0, whole=True)
    table = TABLE if table is None else table
    check_number("table", table, at_least=1, whole=True)
    step = max(1, table // max(1, columns))
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
    r"""`reduce` of the similarity matrix, without the whole matrix; for reductions such as a row's maximum.

    Args:
        reduce: maps `[chunk, *heads, m]` similarities to one row of values for each query.
        queries: one row per query; normalise first for cosines.
        keys: one row per key, likewise; compared head by head.
        exclude: identities of queries and of keys; the similarity is $-\infty$ where they are equal.

    Returns:
        The results of `reduce`; NaN and infinity are not checked, and propagate.

    Raises:
        InputError: for shapes that do not match.

    Examples:
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
    return map_row_chunks(part, [queries, numbers], [keys, others], columns=keys.shape[:-1].numel())


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
    """The slice of each chunk, and the function's arguments for it."""
    for start in starts:
        some = slice(start, start + starts.step)
        yield some, [x if x is None or n >= count else x[some] for n, x in enumerate(inputs)]
