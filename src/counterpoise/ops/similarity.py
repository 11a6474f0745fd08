"""Softmax over similarities, row by row, without keeping the matrix of similarities.

Contrastive objectives need two values for each row i of scaled similarities $a_i \\langle q_i, k_j \\rangle$: the
log-sum-exp, and the mean similarity under the row's softmax. Both come from one pass over square tiles of the matrix;
the backward pass recomputes each tile. Memory grows as N·D, not N².

Three things make it fast. Rows against themselves are symmetric: half of the tiles suffice, and each serves its rows
and its columns. If norms and scale bound all logits, as with cosines, no running maximum is needed, and one exponential
serves both. `torch.set_float32_matmul_precision("medium")` makes the tiles bfloat16, with float32 sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError
from counterpoise.ops import processes
from counterpoise.ops.checks import all_finite, check_integers, check_number
from counterpoise.ops.tiles import LARGEST, Inputs, Matrix, Plan, Rule, Tile

Identities = Int[Tensor, " n"] | tuple[Int[Tensor, " n"], Int[Tensor, " m"]]


class Moments(NamedTuple):
    """Moments of each row's scaled similarities.

    Attributes:
        logsumexp: their log-sum-exp.
        mean: the mean similarity under their softmax.
    """

    logsumexp: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision as float32, in which sums, squares and logarithms are exact enough; other dtypes as they are.

    Examples:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(2).double()).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalize_rows(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Normalise rows to length 1; a row of zeros stays zero, so that its cosine with any row is 0.

    Args:
        x: any floating dtype and any scale; squares of huge or tiny numbers are not formed.

    Returns:
        float32, or float64 for float64. Differentiable; the gradient of a row of zeros is that of the identity. Rows
        are not checked: a row with NaN or infinity becomes NaN, so callers check rows from users first.

    Examples:
        >>> normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-30]]))
        tensor([[0.6000, 0.8000], [0.0000, 0.0000], [0.0000, 1.0000]])
    """
    x = at_least_float32(x)
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
    gather_distributed: bool = False,
) -> Float[Tensor, " n"]:
    r"""The log-sum-exp of each query's scaled similarities, $\log \sum_j w_j e^{a_i \langle q_i, k_j \rangle}$.

    Differentiable once in `queries`, `keys`, `scale` and `log_weights`. Identities, not a mask, select pairs: two
    vectors of integers, one for the queries and one for the keys, or one for both if the queries are the keys. Row
    indices identify an anchor itself, sample indices all views of its sample, labels its class.

    Args:
        queries: one row per anchor; normalise first for cosines.
        keys: one row per candidate; `None` uses the queries themselves, at half the cost.
        scale: $a$, the inverse temperature, for all rows or per row.
        exclude: identities; pairs with equal ones are left out.
        only: identities; pairs with different ones are left out.
        log_weights: $\log w$ of each key; $-\infty$ leaves a key out.
        gather_distributed: compare each query with the keys of all processes; see `ops.processes`.

    Returns:
        float32, or float64 for float64 inputs.

    Raises:
        InputError: if a row has no key left, for shapes that do not match, or for NaN.

    Examples:
        >>> z = torch.eye(3)
        >>> similarity_logsumexp(z, exclude=torch.arange(3))  # two keys at similarity 0 each: log 2
        tensor([0.6931, 0.6931, 0.6931])
        >>> similarity_logsumexp(z, z, scale=2.0, only=(torch.arange(3), torch.arange(3)))  # each with itself
        tensor([2., 2., 2.])
    """
    return _moments(queries, keys, scale, exclude, only, log_weights, gather_distributed, wants_mean=False)[0]


def similarity_softmax(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"] | None = None,
    scale: float | Float[Tensor, ""] | Float[Tensor, " n"] = 1.0,
    *,
    exclude: Identities | None = None,
    only: Identities | None = None,
    log_weights: Float[Tensor, " m"] | None = None,
    gather_distributed: bool = False,
) -> Moments:
    r"""`similarity_logsumexp`, and the mean similarity under a row's softmax, $\sum_j p_{ij} \langle q_i, k_j \rangle$.

    Takes and refuses the same as `similarity_logsumexp`; $p_{ij} \propto w_j e^{a_i \langle q_i, k_j \rangle}$.

    Examples:
        >>> z = torch.eye(3)
        >>> round(similarity_softmax(z, scale=50.0).mean[0].item(), 4)  # a sharp softmax selects the nearest key
        1.0
        >>> similarity_softmax(z, scale=0.0).mean  # a flat one weighs all equally
        tensor([0.3333, 0.3333, 0.3333])
    """
    return Moments(*_moments(queries, keys, scale, exclude, only, log_weights, gather_distributed, wants_mean=True))


def _moments(
    queries: Tensor,
    keys: Tensor | None,
    scale: float | Tensor,
    exclude: Identities | None,
    only: Identities | None,
    log_weights: Tensor | None,
    gather_distributed: bool,
    wants_mean: bool,
) -> tuple[Tensor, Any]:
    exclude, only = _check(queries, keys, scale, exclude, only, log_weights)
    dtype = torch.float32
    for x in (queries, keys, log_weights):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    queries = queries.to(dtype)
    keys, log_weights = (None if x is None else x.to(dtype) for x in (keys, log_weights))
    how = processes.exchange() if gather_distributed else "none"
    if how == "gather":
        keys = processes.gather(queries if keys is None else keys)
        log_weights = None if log_weights is None else processes.gather(log_weights)
        exclude, only = (None if rule is None else Rule(rule[0], processes.gather(rule[1])) for rule in (exclude, only))
    # A single scale is applied to the rows, so that no tile needs scaling.
    single = not isinstance(scale, Tensor) and scale > 0
    scales = None if single else torch.as_tensor(scale, dtype=dtype, device=queries.device).expand(len(queries))
    if single and scale != 1:
        queries = queries * (scale**0.5 if keys is None else scale)
    logsumexp, mean = _Softmax.apply(queries, keys, scales, log_weights, exclude, only, wants_mean, how == "ring")
    if not all_finite(logsumexp):
        row = int((~torch.isfinite(logsumexp)).nonzero()[0])
        raise InputError(f"queries: row {row} has no key left to compare with, or its similarities are not finite")
    return logsumexp, mean / scale if single and wants_mean else mean


def _check(
    queries: Tensor,
    keys: Tensor | None,
    scale: float | Tensor,
    exclude: Identities | None,
    only: Identities | None,
    log_weights: Tensor | None,
) -> tuple[Rule | None, Rule | None]:
    """Refuse shapes that do not match, and return the rules as int64; NaN is found in the result."""
    if not len(queries):
        raise InputError("queries: expected at least 1 row, got none")
    rows, columns = len(queries), len(queries if keys is None else keys)
    for name, x in (("queries", queries), ("keys", queries if keys is None else keys)):
        if x.ndim != 2 or x.shape[1] != queries.shape[1]:
            shapes = " and ".join(str(list(x.shape)) for x in (queries, keys) if x is not None)
            raise InputError(f"{name}: expected matrices [rows, dim] of as many columns, got {shapes}")
    if not isinstance(scale, Tensor):
        check_number("scale", scale)
    elif list(scale.shape) not in ([], [1], [rows]):
        raise InputError(f"scale: expected a number, or one for each of the {rows} queries, got {list(scale.shape)}")
    if log_weights is not None and list(log_weights.shape) != [columns]:
        raise InputError(f"log_weights: expected one for each of the {columns} keys, got {list(log_weights.shape)}")
    return _rule("exclude", exclude, rows, columns), _rule("only", only, rows, columns)


def _rule(name: str, rule: Identities | None, rows: int, columns: int) -> Rule | None:
    if rule is None:
        return None
    queries, keys = (rule, rule) if isinstance(rule, Tensor) else rule
    return Rule(check_integers(name, queries, rows), check_integers(name, keys, columns))


class _Softmax(torch.autograd.Function):
    """Both moments, of queries against keys, or against themselves if `keys` is None."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor | None,
        scales: Tensor | None,
        log_weights: Tensor | None,
        exclude: Rule | None,
        only: Rule | None,
        wants_mean: bool,
        ring: bool,
    ) -> Any:
        inputs = Inputs(queries, keys, scales, log_weights)
        ctx.plan = Plan.of(inputs, exclude, only, ring)
        # The mean is the derivative of the log-sum-exp with respect to the scale.
        sums = _Sums(queries, ctx.plan, wants_mean or ctx.needs_input_grad[2])
        ctx.plan.visit(inputs, {}, lambda matrix, _: sums.add(matrix))
        logsumexp = sums.shift + sums.total.log() + ctx.plan.top
        mean = None if sums.product is None else sums.product / sums.total
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, logsumexp, mean, *sums.kept)
        return logsumexp, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logsumexp: Tensor | None, by_mean: Tensor | None) -> Any:
        queries, keys, scales, log_weights, logsumexp, mean, *kept = ctx.saved_tensors
        inputs = Inputs(queries, keys, scales, log_weights)
        found = {}
        if keys is None or ctx.needs_input_grad[1]:
            found["keys"] = torch.zeros_like(inputs.compared)
        if ctx.needs_input_grad[3]:
            found["weights"] = torch.zeros_like(log_weights)
        wants_scales = ctx.needs_input_grad[2]
        slopes = _Slopes(inputs, ctx.plan, logsumexp - ctx.plan.top, mean, by_logsumexp, by_mean, kept, wants_scales)
        found = ctx.plan.visit(inputs, found, slopes.add)
        if keys is None:
            slopes.queries += found.pop("keys")
        return slopes.queries, found.get("keys"), slopes.scales, found.get("weights"), None, None, None, None


class _Sums:
    """Each row's shift, its sum of exponentials, and, if wanted, its sum of exponential × similarity."""

    def __init__(self, queries: Tensor, plan: Plan, wants_mean: bool):
        self.plan = plan
        self.shift = queries.new_full((len(queries),), 0.0 if plan.bounded else -LARGEST)
        self.total = torch.zeros_like(self.shift)
        self.product = torch.zeros_like(self.shift) if wants_mean else None
        self.kept: tuple[Tensor | None, Tensor | None] = (None, None)

    def add(self, matrix: Matrix) -> None:
        for tile in matrix.tiles():
            exponentials = self.exponentials(matrix, tile)
            self.count(matrix, tile, exponentials)
            if matrix.has_twin(tile):
                theirs = exponentials.T if matrix.symmetric else self.exponentials(matrix, tile.twin)
                self.count(matrix, tile.twin, theirs)
            if matrix.single and self.plan.bounded and not self.plan.ring:  # small enough to keep for the backward pass
                self.kept = (None if self.product is None else tile.similarity, exponentials)

    def exponentials(self, matrix: Matrix, tile: Tile) -> Tensor:
        """Exponentials of the logits minus the shift, first raised to the running maximum unless logits are bounded."""
        if self.plan.bounded:
            return matrix.exponentials(tile, None)
        raised = torch.maximum(self.shift[tile.rows], matrix.low_logits(tile).amax(1))
        fall = (self.shift[tile.rows] - raised).exp()
        self.total[tile.rows] *= fall
        if self.product is not None:
            self.product[tile.rows] *= fall
        self.shift[tile.rows] = raised
        return matrix.exponentials(tile, self.shift)

    def count(self, matrix: Matrix, tile: Tile, exponentials: Tensor) -> None:
        self.total[tile.rows] += matrix.row_sums(tile, exponentials)
        if self.product is not None:
            self.product[tile.rows] += matrix.row_sums(tile, exponentials * tile.similarity)


class _Slopes:
    r"""The gradients of all inputs.

    Let $g$ and $h$ be the incoming gradients of the log-sum-exp and of the mean $\bar s$. The gradient of a key's
    log-weight is the sum over rows of $p_{ij} (g_i + h_i (s_{ij} - \bar s_i))$. That of a similarity is $a_i$ times the
    summand, plus $p_{ij} h_i$. Both are the softmax times a linear function of the similarity, with a level and a slope
    for each row.
    """

    def __init__(
        self,
        inputs: Inputs,
        plan: Plan,
        logsumexp: Tensor,
        mean: Any,
        by_logsumexp: Tensor | None,
        by_mean: Tensor | None,
        kept: Sequence[Any],
        wants_scales: bool,
    ):
        self.mean, self.by_mean, self.kept = mean, by_mean, kept
        by_logsumexp = torch.zeros_like(logsumexp) if by_logsumexp is None else by_logsumexp
        # Bounded exponentials have no shift; the levels and slopes contain the softmax's normalisation.
        self.shift = None if plan.bounded else logsumexp
        self.unit = (-logsumexp).exp() if plan.bounded else torch.ones_like(logsumexp)
        scales = 1.0 if inputs.scales is None else inputs.scales
        self.weight_level, self.weight_slope, self.slope = self.unit * by_logsumexp, None, None
        self.level = self.weight_level * scales
        if by_mean is not None:
            self.weight_slope = self.unit * by_mean
            self.slope = self.weight_slope * scales
            self.weight_level = self.weight_level - self.weight_slope * mean
            self.level = self.level + self.weight_slope - self.slope * mean
        self.queries = torch.zeros_like(inputs.queries)
        self.scales = by_logsumexp * mean if wants_scales else None

    def add(self, matrix: Matrix, found: dict[str, Tensor]) -> None:
        for tile, exponentials in self.tiles(matrix):
            self.add_others(matrix, tile, exponentials, found)
            twin, theirs, factor = tile.twin, exponentials, self.factor(matrix, tile)
            if matrix.has_twin(tile):
                theirs = exponentials.T if matrix.symmetric else matrix.exponentials(twin, self.shift)
                self.add_others(matrix, twin, theirs, found)
            if matrix.symmetric:
                gradient = _times(exponentials, factor + self.factor(matrix, twin).T)
            elif matrix.mirrored:
                gradient = _times(exponentials, factor).add_(_times(theirs, self.factor(matrix, twin)).T)
            else:
                gradient = _times(exponentials, factor)
            _add_product(self.queries[tile.rows], gradient, matrix.keys[tile.columns])
            if "keys" in found and (matrix.has_twin(tile) or not matrix.mirrored):
                _add_product(found["keys"][tile.columns], gradient.T, matrix.queries[tile.rows])

    def tiles(self, matrix: Matrix) -> Iterator[tuple[Tile, Tensor]]:
        """Each tile with its exponentials; a single tile was kept from the forward pass."""
        similarity, exponentials = self.kept
        if exponentials is not None:
            yield Tile(matrix.rows[0], matrix.columns[0], similarity, None), exponentials
            return
        for tile in matrix.tiles():
            yield tile, matrix.exponentials(tile, self.shift)

    def factor(self, matrix: Matrix, tile: Tile) -> Tensor:
        """The factor from exponentials to the gradients of the similarities."""
        factor = self.level[tile.rows, None]
        if self.slope is not None:
            factor = torch.addcmul(factor, self.slope[tile.rows, None], tile.similarity)
        return factor if matrix.weights is None else factor * matrix.weights[tile.columns]

    def add_others(self, matrix: Matrix, tile: Tile, exponentials: Tensor, found: dict[str, Tensor]) -> None:
        """Add to the gradients of the scales and of the keys' log-weights."""
        if self.scales is not None and self.by_mean is not None:
            away = tile.similarity - self.mean[tile.rows, None]
            variance = matrix.row_sums(tile, exponentials * away.square_())
            self.scales[tile.rows] += self.by_mean[tile.rows] * self.unit[tile.rows] * variance
        if "weights" in found and matrix.weights is not None:
            columns = exponentials.T.to(self.unit.dtype)
            sums = columns @ self.weight_level[tile.rows]
            if self.weight_slope is not None:
                sums += (columns * tile.similarity.T) @ self.weight_slope[tile.rows]
            found["weights"][tile.columns] += sums * matrix.weights[tile.columns]


def _times(exponentials: Tensor, factor: Tensor) -> Tensor:
    """The product; a factor of the same shape is cast first, since products of mixed dtypes are slow."""
    return exponentials * (factor.to(exponentials.dtype) if factor.shape == exponentials.shape else factor)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a.to(b.dtype) @ b
