"""Softmax over similarities, row by row, without keeping the matrix of similarities.

Contrastive objectives need two things of each row i of scaled similarities $a_i \\langle q_i, k_j \\rangle$: its
log-sum-exp, and the mean similarity under its softmax. Both come from one pass over tiles of rows; the backward pass
forms each tile again. Memory grows as N·D, not N².
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.errors import InputError

# One tile of similarities holds about this many numbers: 16 MB in float32, which stays in a processor's last cache.
TILE = 1 << 22


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


def similarity_softmax(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"],
    scale: float | Float[Tensor, " n"] = 1.0,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " m"]] | None = None,
) -> Moments:
    r"""Log-sum-exp and softmax mean of each query's similarities to all keys.

    With $s_{ij} = \langle q_i, k_j \rangle$ and $p_{ij} \propto e^{a_i s_{ij}}$ over the keys that are not excluded,
    row i yields $\log \sum_j e^{a_i s_{ij}}$ and $\sum_j p_{ij} s_{ij}$. Both are differentiable once in `queries`,
    `keys` and `scale`.

    Args:
        queries: one row per anchor; normalise first where cosines are meant.
        keys: one row per candidate.
        scale: $a$, the inverse temperature, for all rows or per row.
        exclude: two vectors of identities; pair (i, j) is left out where `exclude[0][i] == exclude[1][j]`.
            Row numbers leave out an anchor itself; sample numbers leave out all views of its sample.

    Returns:
        `Moments` in float32 (float64 for float64 inputs).

    Raises:
        InputError: if a row has no key left.

    >>> z = torch.eye(3)
    >>> row = torch.arange(3)
    >>> similarity_softmax(z, z, exclude=(row, row)).logsumexp  # two keys at similarity 0 each: log 2
    tensor([0.6931, 0.6931, 0.6931])
    >>> round(similarity_softmax(z, z, scale=50.0).mean[0].item(), 4)  # a sharp softmax sees the nearest key alone
    1.0
    """
    dtype = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
    queries, keys = queries.to(dtype), keys.to(dtype)
    scales = torch.as_tensor(scale, dtype=dtype, device=queries.device).expand(len(queries))
    with torch.autocast(queries.device.type, enabled=False):
        logsumexp, mean = _SimilaritySoftmax.apply(queries, keys, scales, exclude)
    if not torch.isfinite(logsumexp).all():
        row = int((~torch.isfinite(logsumexp)).nonzero()[0])
        raise InputError(f"queries: row {row} has no key left to compare with, or its similarities are not finite")
    return Moments(logsumexp, mean)


class _SimilaritySoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scales: Tensor, exclude: tuple[Tensor, Tensor] | None) -> Any:
        logsumexp, mean = torch.empty_like(scales, memory_format=torch.contiguous_format), torch.empty_like(scales)
        mean = mean.contiguous()
        for rows in _tiles(len(queries), len(keys)):
            similarity = queries[rows] @ keys.T
            logits = _scaled(similarity, scales[rows], _excluded(exclude, rows))
            logsumexp[rows] = logits.logsumexp(1)
            softmax = logits.sub_(logsumexp[rows, None]).exp_()
            mean[rows] = torch.einsum("nm,nm->n", softmax, similarity)
        ctx.save_for_backward(queries, keys, scales, logsumexp, mean, *(exclude or ()))
        return logsumexp, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logsumexp: Tensor, grad_mean: Tensor) -> Any:
        queries, keys, scales, logsumexp, mean, *exclude = ctx.saved_tensors
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        grad_scales = torch.zeros(len(queries), dtype=queries.dtype, device=queries.device)
        for rows in _tiles(len(queries), len(keys)):
            similarity = queries[rows] @ keys.T
            logits = _scaled(similarity, scales[rows], _excluded(exclude, rows))
            softmax = logits.sub_(logsumexp[rows, None]).exp_()
            # d logsumexp_i / d s_ij = a_i p_ij, and d mean_i / d s_ij = p_ij (1 + a_i (s_ij - mean_i))
            away = similarity.sub_(mean[rows, None])
            if ctx.needs_input_grad[2]:
                variance = torch.einsum("nm,nm,nm->n", softmax, away, away)
                grad_scales[rows] = grad_logsumexp[rows] * mean[rows] + grad_mean[rows] * variance
            slope, offset = scales[rows] * grad_mean[rows], scales[rows] * grad_logsumexp[rows] + grad_mean[rows]
            grad = away.mul_(slope[:, None]).add_(offset[:, None]).mul_(softmax)
            grad_queries[rows] = grad @ keys
            grad_keys.addmm_(grad.T, queries[rows])
        return grad_queries, grad_keys, grad_scales, None


def _tiles(rows: int, columns: int) -> list[slice]:
    step = max(1, TILE // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _excluded(exclude: Any, rows: slice) -> Bool[Tensor, "n m"] | None:
    return exclude[0][rows, None] == exclude[1] if exclude else None


def _scaled(similarity: Tensor, scales: Tensor, excluded: Tensor | None) -> Tensor:
    logits = similarity * scales[:, None]
    return logits if excluded is None else logits.masked_fill_(excluded, -torch.inf)
