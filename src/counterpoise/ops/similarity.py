"""Softmax over similarities, row by row, without keeping the matrix of similarities.

Contrastive objectives need two things of each row i of scaled similarities $a_i \\langle q_i, k_j \\rangle$: its
log-sum-exp, and the mean similarity under its softmax. Both come from one pass over square tiles of the matrix; the
backward pass forms each tile again. Memory grows as N·D, not N².

Three things make it fast. Rows against themselves are symmetric: half the tiles suffice, each serves its rows and its
columns. Where lengths and scale bound all logits, as with cosines, no running maximum is needed, and one exponential
serves both. And `torch.set_float32_matmul_precision("medium")` makes the tiles bfloat16, with float32 sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError
from counterpoise.ops import processes

# Rows and columns of a tile: on a CPU, 1 MB in float32, which stays in a core's cache; accelerators want larger ones.
SIDE = {"cpu": 512}
OTHER_SIDE = 8192
# Logits up to this size are exponentiated as they are: e^60 times a billion keys stays within float32, e^-60 as well.
BOUND = 60.0
LARGEST = 1e30  # stands in for an infinity from which another is to be subtracted
HIDE = 1e38  # taken from a hidden logit: twice this is still a float32

Identities = Int[Tensor, " n"] | tuple[Int[Tensor, " n"], Int[Tensor, " m"]]


class Moments(NamedTuple):
    """Of each row: `logsumexp` of its scaled similarities, and the `mean` similarity under their softmax."""

    logsumexp: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]


def unit_rows(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Rows scaled to length 1; a row of zeros stays zero, so that its cosine with anything is 0.

    Args:
        x: any floating dtype and any scale: squares of huge or tiny numbers are not formed.

    Returns:
        float32, or float64 for float64. Differentiable; the gradient of a row of zeros is that of the identity.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-30]]))
    tensor([[0.6000, 0.8000], [0.0000, 0.0000], [0.0000, 1.0000]])
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.shape[-1] == 0:
        return x
    largest = x.detach().abs().amax(-1, keepdim=True)
    x = x / largest.where(largest > 0, 1)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.where(length > 0, 1)


def similarity_logsumexp(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"] | None = None,
    scale: float | Float[Tensor, ""] | Float[Tensor, " n"] = 1.0,
    *,
    exclude: Identities | None = None,
    only: Identities | None = None,
    log_weights: Float[Tensor, " m"] | None = None,
    across: bool = False,
) -> Float[Tensor, " n"]:
    r"""Of each query, the log-sum-exp of its scaled similarities: $\log \sum_j w_j e^{a_i \langle q_i, k_j \rangle}$.

    Differentiable once in `queries`, `keys`, `scale` and `log_weights`. Pairs are told by identities, not by a mask:
    two vectors of integers, one for the queries and one for the keys, or one for both where the queries are the keys.
    Row numbers tell an anchor from itself, sample numbers from all views of its sample, labels from its class.

    Args:
        queries: one row per anchor; normalise first where cosines are meant.
        keys: one row per candidate; `None` takes the queries themselves, at half the cost.
        scale: $a$, the inverse temperature, for all rows or per row.
        exclude: pairs of equal identity are left out.
        only: pairs of unequal identity are left out.
        log_weights: $\log w$ of each key; $-\infty$ leaves a key out.
        across: let each query see the keys of all processes, not only of its own; see `ops.processes`.

    Returns:
        float32, or float64 for float64 inputs.

    Raises:
        InputError: if a row has no key left.

    >>> z = torch.eye(3)
    >>> similarity_logsumexp(z, exclude=torch.arange(3))  # two keys at similarity 0 each: log 2
    tensor([0.6931, 0.6931, 0.6931])
    >>> similarity_logsumexp(z, z, scale=2.0, only=(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])))  # its own alone
    tensor([2., 2., 2.])
    """
    return _moments(queries, keys, scale, exclude, only, log_weights, across, wants_mean=False)[0]


def similarity_softmax(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"] | None = None,
    scale: float | Float[Tensor, ""] | Float[Tensor, " n"] = 1.0,
    *,
    exclude: Identities | None = None,
    only: Identities | None = None,
    log_weights: Float[Tensor, " m"] | None = None,
    across: bool = False,
) -> Moments:
    r"""`similarity_logsumexp`, and the mean similarity under a row's softmax, $\sum_j p_{ij} \langle q_i, k_j \rangle$.

    Takes and refuses what `similarity_logsumexp` does; $p_{ij} \propto w_j e^{a_i \langle q_i, k_j \rangle}$.

    >>> z = torch.eye(3)
    >>> round(similarity_softmax(z, scale=50.0).mean[0].item(), 4)  # a sharp softmax sees the nearest key alone
    1.0
    >>> similarity_softmax(z, scale=0.0).mean  # a flat one sees all alike
    tensor([0.3333, 0.3333, 0.3333])
    """
    return Moments(*_moments(queries, keys, scale, exclude, only, log_weights, across, wants_mean=True))


Rules = list[tuple[Tensor, Tensor] | None]


Rules = list[tuple[Tensor, Tensor] | None]


def _moments(
    queries: Tensor,
    keys: Tensor | None,
    scale: float | Tensor,
    exclude: Identities | None,
    only: Identities | None,
    log_weights: Tensor | None,
    across: bool,
    wants_mean: bool,
) -> tuple[Tensor, Any]:
    dtype = torch.float32
    for x in (queries, keys, log_weights):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    queries = queries.to(dtype)
    keys, log_weights = (None if x is None else x.to(dtype) for x in (keys, log_weights))
    rules: Rules = [rule if rule is None or isinstance(rule, tuple) else (rule, rule) for rule in (exclude, only)]
    how = processes.exchange() if across else "none"
    if how == "gather":
        keys = processes.gather(queries if keys is None else keys)
        log_weights = None if log_weights is None else processes.gather(log_weights)
        rules = [None if rule is None else (rule[0], processes.gather(rule[1])) for rule in rules]
    # One scale for all goes into the rows, so that no tile need be scaled.
    single = not isinstance(scale, Tensor) and scale > 0
    scales = None if single else torch.as_tensor(scale, dtype=dtype, device=queries.device).expand(len(queries))
    if single and scale != 1:
        queries = queries * (scale**0.5 if keys is None else scale)
    logsumexp, mean = _Softmax.apply(queries, keys, scales, log_weights, rules, wants_mean, how == "ring")
    if not torch.isfinite(logsumexp.detach()).all():
        row = int((~torch.isfinite(logsumexp)).nonzero()[0])
        raise InputError(f"queries: row {row} has no key left to compare with, or its similarities are not finite")
    return logsumexp, mean / scale if single and wants_mean else mean


class _Softmax(torch.autograd.Function):
    """Both moments, of queries against keys, or against themselves where `keys` is None."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor | None,
        scales: Tensor | None,
        log_weights: Tensor | None,
        rules: Rules,
        wants_mean: bool,
        ring: bool,
    ) -> Any:
        wants_mean = wants_mean or ctx.needs_input_grad[2]  # it is the log-sum-exp's derivative by the scale
        ctx.limits = _Limits.of(queries, keys, scales, log_weights, ring)
        ctx.rules, ctx.ring = rules, ring
        sums = _Sums(queries, ctx.limits.bounded, wants_mean)
        _visit(ctx, (queries, keys, scales, log_weights), {}, lambda matrix, _: sums.add(matrix))
        logsumexp = sums.shift + sums.total.log() + ctx.limits.top
        mean = None if sums.product is None else sums.product / sums.total
        ctx.set_materialize_grads(False)
        kept = (None, None) if ring else sums.kept
        ctx.save_for_backward(queries, keys, scales, log_weights, logsumexp, mean, *kept)
        return logsumexp, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logsumexp: Tensor | None, grad_mean: Tensor | None) -> Any:
        *inputs, logsumexp, mean, similarity, exponentials = ctx.saved_tensors
        queries, keys, _, log_weights = inputs
        found = {}
        if keys is None or ctx.needs_input_grad[1]:
            found["keys"] = torch.zeros_like(queries if keys is None else keys)
        if ctx.needs_input_grad[3]:
            found["weights"] = torch.zeros_like(log_weights)
        moments, gradients = (logsumexp - ctx.limits.top, mean), (grad_logsumexp, grad_mean)
        slopes = _Slopes(inputs, moments, gradients, ctx.limits.bounded, ctx.needs_input_grad[2])
        slopes.kept = similarity, exponentials
        found = _visit(ctx, inputs, found, slopes.add)
        if keys is None:
            slopes.queries += found.pop("keys")
        return slopes.queries, found.get("keys"), slopes.scales, found.get("weights"), None, None, None


class _Limits(NamedTuple):
    """What keeps sums in range: whether no logit needs a shift; and the largest log-weight, which is taken out."""

    bounded: bool
    top: float
    tiles: torch.dtype

    @classmethod
    def of(
        cls, queries: Tensor, keys: Tensor | None, scales: Tensor | None, log_weights: Tensor | None, ring: bool
    ) -> _Limits:
        lengths = torch.linalg.vector_norm(queries, dim=1)
        longest_key = (lengths if keys is None else torch.linalg.vector_norm(keys, dim=1)).amax()
        top = torch.zeros_like(longest_key) if log_weights is None else log_weights.amax()
        of_keys = torch.stack([longest_key, top])
        if ring:
            of_keys = processes.maximum(of_keys)
        own = (lengths if scales is None else lengths * scales.abs()).amax()
        bound, top = torch.stack([own * of_keys[0], of_keys[1]]).tolist()
        low = torch.get_float32_matmul_precision() == "medium" and queries.dtype == torch.float32
        return cls(bound <= BOUND, max(top, -LARGEST), torch.bfloat16 if low else queries.dtype)


def _visit(
    ctx: Any, inputs: Sequence[Tensor | None], found: dict[str, Tensor], add: Callable[[_Matrix, Any], None]
) -> dict[str, Tensor]:
    """Let `add` see this process's queries against the keys of every process, which carry what was `found` for them."""
    queries, keys, scales, log_weights = inputs
    own = {"keys": queries if keys is None else keys}
    if log_weights is not None:
        own["weights"] = (log_weights - ctx.limits.top).exp()
    own |= {str(i): rule[1] for i, rule in enumerate(ctx.rules) if rule is not None}

    def visit(step: int, others: dict[str, Tensor], found: dict[str, Tensor]) -> None:
        rules = [None if rule is None else (rule[0], others[str(i)]) for i, rule in enumerate(ctx.rules)]
        mirrored = keys is None and step == 0
        with torch.autocast(queries.device.type, enabled=False):
            add(_Matrix(queries, others["keys"], scales, others.get("weights"), rules, mirrored, ctx.limits), found)

    if ctx.ring:
        return processes.around(own, found, visit)
    visit(0, own, found)
    return found


class _Tile(NamedTuple):
    """Some rows and columns of the matrix of similarities; `hidden` is above 0 where a pair does not count."""

    rows: slice
    columns: slice
    similarity: Float[Tensor, "rows columns"] | None  # of a kept tile only where it is needed again
    hidden: Float[Tensor, "rows columns"] | None

    @property
    def transposed(self) -> _Tile:
        """The tile on the other side of the diagonal."""
        similarity, hidden = (None if x is None else x.T for x in (self.similarity, self.hidden))
        return _Tile(self.columns, self.rows, similarity, hidden)


class _Matrix:
    """Similarities of this process's queries to the keys of one process; a tile at a time."""

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        scales: Tensor | None,
        weights: Tensor | None,
        rules: Rules,
        mirrored: bool,
        limits: _Limits,
    ):
        self.queries = queries.to(limits.tiles)
        self.keys = self.queries if mirrored else keys.to(limits.tiles)
        self.scales, self.weights, self.mirrored = scales, weights, mirrored
        # Then the exponentials are, like the similarities, the same on both sides of the diagonal.
        self.symmetric = mirrored and limits.bounded and scales is None
        side = SIDE.get(queries.device.type, OTHER_SIDE)
        self.rows, self.columns = _slices(len(queries), side), _slices(len(keys), side)
        self.exclude, self.only = (None if rule is None else _Rule(*rule, self.rows, self.columns) for rule in rules)

    @property
    def single(self) -> bool:
        """Whether one tile is all there is."""
        return len(self.rows) == len(self.columns) == 1

    def tiles(self) -> Iterator[_Tile]:
        """All tiles with a pair that counts; where the keys are the queries, only those on and above the diagonal."""
        for i, rows in enumerate(self.rows):
            for j, columns in enumerate(self.columns):
                if (self.mirrored and j < i) or (self.only and not self.only.meet(i, j)):
                    continue
                hidden = self.only.compare(torch.ne, rows, columns) if self.only else None
                if self.exclude and self.exclude.meet(i, j):
                    same = self.exclude.compare(torch.eq, rows, columns)
                    hidden = same if hidden is None else hidden + same
                yield _Tile(rows, columns, self.queries[rows] @ self.keys[columns].T, hidden)

    def has_twin(self, tile: _Tile) -> bool:
        """Whether the tile serves its columns as well as its rows."""
        return self.mirrored and tile.rows != tile.columns

    def logits(self, tile: _Tile) -> Tensor:
        """The scaled similarities, lower than any other where hidden."""
        logits = tile.similarity if self.scales is None else tile.similarity * self.scales[tile.rows, None]
        return logits if tile.hidden is None else logits.add(tile.hidden.to(logits.dtype), alpha=-HIDE)

    def exponentials(self, tile: _Tile, shift: Tensor | None) -> Tensor:
        """Of the logits less the `shift` of their rows."""
        logits = self.logits(tile)
        return (logits if shift is None else logits - shift[tile.rows, None]).exp()

    def row_sums(self, tile: _Tile, x: Tensor) -> Tensor:
        """Sums over the tile's columns, by their weights, in float32 at least."""
        if self.weights is None:
            return x.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
        return x.to(self.weights.dtype) @ self.weights[tile.columns]


class _Rule:
    """Which identities of queries and keys agree; as small floats, which compare faster than integers."""

    def __init__(self, mine: Tensor, theirs: Tensor, rows: list[slice], columns: list[slice]):
        numbers = torch.cat([mine, theirs]).unique(return_inverse=True)[1].float()
        self.mine, self.theirs = numbers.split([len(mine), len(theirs)])
        self.ranges = (_ranges(self.mine, rows), _ranges(self.theirs, columns))

    def meet(self, i: int, j: int) -> bool:
        """Whether any identity of the i-th rows may be one of the j-th columns."""
        (least, most), (their_least, their_most) = self.ranges[0][i], self.ranges[1][j]
        return least <= their_most and their_least <= most

    def compare(self, how: Callable[..., Tensor], rows: slice, columns: slice) -> Tensor:
        """1 where `how` holds, else 0."""
        mine, theirs = self.mine[rows, None], self.theirs[columns]
        return how(mine, theirs, out=mine.new_empty(mine.shape[0], len(theirs)))


class _Sums:
    """Of each row: its shift, the sum of its exponentials, and where it is wanted that of exponential × similarity."""

    def __init__(self, queries: Tensor, bounded: bool, wants_mean: bool):
        self.bounded = bounded
        self.shift = queries.new_full((len(queries),), 0.0 if bounded else -LARGEST)
        self.total = torch.zeros_like(self.shift)
        self.product = torch.zeros_like(self.shift) if wants_mean else None
        self.kept: tuple[Tensor | None, Tensor | None] = (None, None)

    def add(self, matrix: _Matrix) -> None:
        for tile in matrix.tiles():
            exponentials = self.exponentials(matrix, tile)
            self.count(matrix, tile, exponentials)
            if matrix.single and self.bounded:  # small enough to be kept for the backward pass
                self.kept = (None if self.product is None else tile.similarity, exponentials)
            if matrix.has_twin(tile):
                twin = tile.transposed
                self.count(matrix, twin, exponentials.T if matrix.symmetric else self.exponentials(matrix, twin))

    def exponentials(self, matrix: _Matrix, tile: _Tile) -> Tensor:
        """Of the logits less the shift; unless they are bounded, the shift is first raised to the largest so far."""
        if self.bounded:
            return matrix.exponentials(tile, None)
        rows = tile.rows
        raised = torch.maximum(self.shift[rows], matrix.logits(tile).amax(1))
        fall = (self.shift[rows] - raised).exp()
        self.total[rows] *= fall
        if self.product is not None:
            self.product[rows] *= fall
        self.shift[rows] = raised
        return matrix.exponentials(tile, self.shift)

    def count(self, matrix: _Matrix, tile: _Tile, exponentials: Tensor) -> None:
        self.total[tile.rows] += matrix.row_sums(tile, exponentials)
        if self.product is not None:
            self.product[tile.rows] += matrix.row_sums(tile, exponentials * tile.similarity)


class _Slopes:
    r"""The gradients. With $p$ the softmax and $g, h$ the gradients by the log-sum-exp and the mean $\bar s$, that by

    a similarity is $p_{ij} (a_i g_i + h_i + a_i h_i (s_{ij} - \bar s_i))$: linear in it, a level and a slope per row.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor | None],
        moments: tuple[Tensor, Tensor | None],
        gradients: tuple[Tensor | None, Tensor | None],
        bounded: bool,
        by_scale: bool,
    ):
        queries, _, scales, _ = inputs
        logsumexp, self.mean = moments
        by_logsumexp, by_mean = gradients
        by_logsumexp = torch.zeros_like(logsumexp) if by_logsumexp is None else by_logsumexp
        # Bounded exponentials are formed without a shift; what makes them the softmax goes into levels and slopes.
        self.shift = None if bounded else logsumexp
        self.unit = (-logsumexp).exp() if bounded else torch.ones_like(logsumexp)
        self.weight_level, self.weight_slope = self.unit * by_logsumexp, None
        self.level, self.slope = self.weight_level, None
        if scales is not None:
            self.level = self.level * scales
        if by_mean is not None:
            self.weight_slope = self.unit * by_mean
            self.slope = self.weight_slope if scales is None else self.weight_slope * scales
            self.weight_level = self.weight_level - self.weight_slope * self.mean
            self.level = self.level + self.weight_slope - self.slope * self.mean
        self.queries = torch.zeros_like(queries)
        self.scales, self.by_mean = None, by_mean
        if by_scale:
            self.scales = by_logsumexp * self.mean

    def add(self, matrix: _Matrix, found: dict[str, Tensor]) -> None:
        for tile, exponentials in self.tiles(matrix):
            self.add_others(matrix, tile, exponentials, found)
            twin, factor = tile.transposed, self.factor(matrix, tile)
            theirs = exponentials
            if matrix.has_twin(tile):
                theirs = exponentials.T if matrix.symmetric else matrix.exponentials(twin, self.shift)
                self.add_others(matrix, twin, theirs, found)
            if matrix.symmetric:
                gradient = _times(exponentials, factor + self.factor(matrix, twin).T)
            elif matrix.mirrored:
                gradient = _times(exponentials, factor) + _times(theirs, self.factor(matrix, twin)).T
            else:
                gradient = _times(exponentials, factor)
            _add_product(self.queries[tile.rows], gradient, matrix.keys[tile.columns])
            if "keys" in found and (matrix.has_twin(tile) or not matrix.mirrored):
                _add_product(found["keys"][tile.columns], gradient.T, matrix.queries[tile.rows])

    def tiles(self, matrix: _Matrix) -> Iterator[tuple[_Tile, Tensor]]:
        """Each tile with its exponentials; a single one was kept."""
        similarity, exponentials = self.kept
        if exponentials is not None:
            yield _Tile(matrix.rows[0], matrix.columns[0], similarity, None), exponentials
            return
        for tile in matrix.tiles():
            yield tile, matrix.exponentials(tile, self.shift)

    def factor(self, matrix: _Matrix, tile: _Tile) -> Tensor:
        """What makes the gradients by the similarities from the exponentials."""
        factor = self.level[tile.rows, None]
        if self.slope is not None:
            factor = torch.addcmul(factor, self.slope[tile.rows, None], tile.similarity)
        return factor if matrix.weights is None else factor * matrix.weights[tile.columns]

    def add_others(self, matrix: _Matrix, tile: _Tile, exponentials: Tensor, found: dict[str, Tensor]) -> None:
        """The gradients by the scales, and by the logarithms of the keys' weights."""
        if self.scales is not None and self.by_mean is not None:
            away = tile.similarity - self.mean[tile.rows, None]
            variance = matrix.row_sums(tile, exponentials * away.square_())
            self.scales[tile.rows] += self.by_mean[tile.rows] * self.unit[tile.rows] * variance
        if "weights" in found:
            columns = exponentials.T.to(self.unit.dtype)
            sums = columns @ self.weight_level[tile.rows]
            if self.weight_slope is not None:
                sums += (columns * tile.similarity.T) @ self.weight_slope[tile.rows]
            found["weights"][tile.columns] += sums * matrix.weights[tile.columns]


def _times(exponentials: Tensor, factor: Tensor) -> Tensor:
    """Their product; in the exponentials' dtype where the factor is as large, since mixed ones are slow."""
    return exponentials * (factor.to(exponentials.dtype) if factor.shape == exponentials.shape else factor)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a.to(b.dtype) @ b


def _slices(length: int, side: int) -> list[slice]:
    return [slice(start, min(start + side, length)) for start in range(0, length, side)]


def _ranges(identities: Float[Tensor, " n"], slices: list[slice]) -> list[list[float]]:
    """The least and the largest identity of each slice."""
    return [torch.stack(identities[part].aminmax()).tolist() for part in slices]
