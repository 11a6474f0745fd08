"""The similarity matrix in tiles, one at a time, for both passes of `ops.similarity`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise.ops import processes

# Side of a tile: on a CPU 1 MB in float32, which stays in a core's cache; accelerators need larger tiles.
SIDE = {"cpu": 512}
OTHER_SIDE = 8192
# Logits up to this size need no shift: e^60 times a billion keys stays within float32, and so does e^-60.
BOUND = 60.0
LARGEST = 1e30  # replaces infinity where another infinity is subtracted
EXACT = 2**24  # float32 holds all integers up to this size
HIDE = 1e38  # subtracted from the logit of an excluded pair


class Rule(NamedTuple):
    """Identities of the queries and of the keys; pairs with equal (or with different) ones are excluded."""

    queries: Tensor
    keys: Tensor


class Inputs(NamedTuple):
    """The tensors from which similarities are computed."""

    queries: Float[Tensor, "n dim"]
    keys: Float[Tensor, "m dim"] | None  # None: the queries themselves
    scales: Float[Tensor, " n"] | None  # None: 1
    log_weights: Float[Tensor, " m"] | None  # None: 0

    @property
    def compared(self) -> Float[Tensor, "m dim"]:
        """The keys, or the queries in their place."""
        return self.queries if self.keys is None else self.keys


class Plan(NamedTuple):
    """How the sums are computed; the same in both passes.

    Attributes:
        exclude: pairs with equal identities are left out.
        only: pairs with different identities are left out.
        ring: whether keys of all processes are compared, passed from one to the next.
        bounded: whether all logits are so small that exponentials need no shift.
        top: the largest log-weight, which is subtracted from all.
        dtype: dtype of the tiles.
    """

    exclude: Rule | None
    only: Rule | None
    ring: bool
    bounded: bool
    top: float
    dtype: torch.dtype

    @classmethod
    def of(cls, inputs: Inputs, exclude: Rule | None, only: Rule | None, ring: bool) -> Plan:
        """Bound the logits by the norms of the rows times the scale."""
        queries = lengths = torch.linalg.vector_norm(inputs.queries, dim=1)
        if inputs.scales is not None:
            queries = lengths * inputs.scales.abs()
        keys = lengths if inputs.keys is None else torch.linalg.vector_norm(inputs.keys, dim=1)
        weights = keys.new_zeros(1) if inputs.log_weights is None else inputs.log_weights
        of_keys = torch.stack([keys.amax(), weights.amax()])
        if ring:
            of_keys = processes.maximum(of_keys)
        bound, top = torch.stack([queries.amax() * of_keys[0], of_keys[1]]).tolist()
        low = torch.get_float32_matmul_precision() == "medium" and queries.dtype == torch.float32
        return cls(exclude, only, ring, bound <= BOUND, max(top, -LARGEST), torch.bfloat16 if low else queries.dtype)

    def visit(
        self, inputs: Inputs, found: dict[str, Tensor], add: Callable[[Matrix, dict[str, Tensor]], None]
    ) -> dict[str, Tensor]:
        """Call `add` with this process's queries against the keys of each process to compare with.

        Args:
            inputs: tensors of this process.
            found: accumulators with one row per key; they travel with their keys, and `add` adds to them in place.
            add: called with a matrix and the accumulators of its keys.

        Returns:
            The accumulators of this process's keys.
        """
        own = {"keys": inputs.compared}
        if inputs.log_weights is not None:
            own["weights"] = (inputs.log_weights - self.top).exp()
        own |= {name: rule.keys for name, rule in (("exclude", self.exclude), ("only", self.only)) if rule}

        def see(step: int, others: dict[str, Tensor], found: dict[str, Tensor]) -> None:
            with torch.autocast(inputs.queries.device.type, enabled=False):
                add(Matrix(inputs, others, self, mirrored=inputs.keys is None and step == 0), found)

        if self.ring:
            return processes.around(own, found, see)
        see(0, own, found)
        return found


class Tile(NamedTuple):
    """Some rows and columns of the matrix; `counts` is 1 for pairs that count and 0 for others, `None` if all count."""

    rows: slice
    columns: slice
    similarity: Any  # [rows columns]; None in a kept tile that does not need it again
    counts: Float[Tensor, "rows columns"] | None

    @property
    def twin(self) -> Tile:
        """The mirror tile on the other side of the diagonal."""
        similarity, counts = (None if x is None else x.T for x in (self.similarity, self.counts))
        return Tile(self.columns, self.rows, similarity, counts)


class Matrix:
    """Similarities of this process's queries to the keys of one process.

    Args:
        inputs: tensors of this process.
        others: keys, their weights and identities, of any process.
        plan: how sums are computed.
        mirrored: whether the keys are the queries; only tiles on and above the diagonal are then computed.
    """

    def __init__(self, inputs: Inputs, others: dict[str, Tensor], plan: Plan, mirrored: bool):
        self.queries = inputs.queries.to(plan.dtype)
        self.keys = self.queries if mirrored else others["keys"].to(plan.dtype)
        self.scales, self.weights, self.mirrored = inputs.scales, others.get("weights"), mirrored
        # Exponentials are then symmetric, as similarities are.
        self.symmetric = mirrored and plan.bounded and inputs.scales is None
        side = SIDE.get(self.queries.device.type, OTHER_SIDE)
        self.rows, self.columns = _slices(len(self.queries), side), _slices(len(self.keys), side)
        self.exclude, self.only = (
            _Identities(rule.queries, others[name], self.rows, self.columns) if rule else None
            for name, rule in (("exclude", plan.exclude), ("only", plan.only))
        )

    def tiles(self) -> Iterator[Tile]:
        """Compute all tiles with a pair that counts."""
        for i, rows in enumerate(self.rows):
            for j, columns in enumerate(self.columns):
                if (self.mirrored and j < i) or (self.only and not self.only.meet(i, j)):
                    continue
                counts = self.only.compare(torch.eq, rows, columns) if self.only else None
                if self.exclude and self.exclude.meet(i, j):
                    differ = self.exclude.compare(torch.ne, rows, columns)
                    counts = differ if counts is None else counts * differ
                counts = None if counts is None else counts.to(self.queries.dtype)
                yield Tile(rows, columns, self.queries[rows] @ self.keys[columns].T, counts)

    @property
    def single(self) -> bool:
        """Whether the matrix is a single tile."""
        return len(self.rows) == len(self.columns) == 1

    def has_twin(self, tile: Tile) -> bool:
        """Whether the tile also serves its twin, which is not computed."""
        return self.mirrored and tile.rows != tile.columns

    def logits(self, tile: Tile) -> Tensor:
        """The scaled similarities, including excluded pairs."""
        return tile.similarity if self.scales is None else tile.similarity * self.scales[tile.rows, None]

    def low_logits(self, tile: Tile) -> Tensor:
        """The scaled similarities, with excluded pairs far below all others."""
        logits = self.logits(tile)
        return logits if tile.counts is None else logits.add(tile.counts - 1, alpha=HIDE)

    def exponentials(self, tile: Tile, shift: Float[Tensor, " n"] | None) -> Tensor:
        """Exponentials of the logits minus the shift of their rows; 0 for excluded pairs."""
        if shift is not None:
            return (self.low_logits(tile) - shift[tile.rows, None]).exp()
        # Mask after exponentiating: exponentials of such low numbers take ten times as long.
        exponentials = self.logits(tile).exp()
        return exponentials if tile.counts is None else exponentials.mul_(tile.counts)

    def row_sums(self, tile: Tile, x: Tensor) -> Float[Tensor, " rows"]:
        """Weighted sums over the tile's columns, in float32 at least."""
        if self.weights is None:
            return x.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
        return x.to(self.weights.dtype) @ self.weights[tile.columns]


class _Identities:
    """Comparison of identities as small floats, several times faster than that of integers."""

    def __init__(self, mine: Tensor, theirs: Tensor, rows: list[slice], columns: list[slice]):
        numbers = torch.cat([mine, theirs])
        if max(map(abs, torch.stack(numbers.aminmax()).tolist())) > EXACT:
            numbers = numbers.unique(return_inverse=True)[1]
        self.mine, self.theirs = numbers.float().split([len(mine), len(theirs)])
        self.ranges = _ranges(self.mine, rows), _ranges(self.theirs, columns)

    def meet(self, i: int, j: int) -> bool:
        """Whether the i-th rows and the j-th columns may share an identity, by their ranges."""
        (least, most), (their_least, their_most) = self.ranges[0][i], self.ranges[1][j]
        return least <= their_most and their_least <= most

    def compare(self, how: Callable[..., Tensor], rows: slice, columns: slice) -> Float[Tensor, "rows columns"]:
        """1 where the comparison holds, else 0."""
        mine, theirs = self.mine[rows, None], self.theirs[columns]
        return how(mine, theirs, out=mine.new_empty(len(mine), len(theirs)))


def _slices(length: int, side: int) -> list[slice]:
    return [slice(start, min(start + side, length)) for start in range(0, length, side)]


def _ranges(identities: Float[Tensor, " n"], slices: list[slice]) -> list[list[float]]:
    """The smallest and the largest identity of each slice."""
    return [torch.stack(identities[part].aminmax()).tolist() for part in slices]
