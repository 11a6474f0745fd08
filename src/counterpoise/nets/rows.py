"""Encoders of rows of numbers, which tables and precomputed embeddings consist of."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import InputError, unknown
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_number
from counterpoise.ops.columns import column_statistics

ROW_BACKBONES = ("small", "identity")


class RowEncoder(nn.Sequential):
    """A perceptron of two layers: rows to 64 features.

    Args:
        width: how many numbers a row has.

    Examples:
        >>> RowEncoder(13)(torch.zeros(2, 13)).shape
        torch.Size([2, 64])
    """

    features = 64

    def __init__(self, width: int):
        super().__init__(mlp(width, 64, 64), nn.ReLU())


class SameRows(nn.Identity):
    """The rows themselves as features, so that a classifier on top is linear in them.

    Args:
        width: how many numbers a row has.
    """

    def __init__(self, width: int):
        super().__init__()
        self.features = width


class StandardizedRows(nn.Module):
    """An encoder of rows whose columns are first scaled to mean 0 and deviation 1.

    Mean and deviation are buffers, and so part of the weights: what a run keeps takes rows as they come from a file.

    Args:
        encoder: of scaled rows; has an attribute `features`.
        width: how many numbers a row has.

    Attributes:
        mean: of each column; 0 before `fit`.
        scale: deviation of each column, 1 of a constant one; 1 before `fit`.

    Examples:
        >>> encoder = StandardizedRows(SameRows(2), 2).fit(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        >>> encoder(torch.tensor([[5.0, 8.0]]))
        tensor([[3., 1.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        self.features: int = encoder.features  # type: ignore[assignment]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, rows: Float[Tensor, "rows columns"]) -> StandardizedRows:
        """Take mean and deviation from training rows; at least 1 of the encoder's width."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean) or not len(rows):
            raise InputError(f"rows: expected at least 1 of {len(self.mean)} columns, got {list(rows.shape)}")
        for buffer, found in zip((self.mean, self.scale), column_statistics(rows), strict=True):
            buffer.copy_(found)
        return self

    def forward(self, rows: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch features"]:
        """The features of rows; refuse another number of columns by name."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise InputError(f"rows: expected [batch, {len(self.mean)}], got shape {list(rows.shape)}")
        return self.encoder((rows - self.mean) / self.scale)


def row_backbone(name: str, width: int) -> nn.Module:
    """An encoder of rows by name: "small", a perceptron, or "identity", the rows themselves.

    Args:
        name: of `ROW_BACKBONES`.
        width: how many numbers a row has.

    Raises:
        InputError: for another name, or no column.

    Examples:
        >>> row_backbone("small", 13).features, row_backbone("identity", 13).features
        (64, 13)
    """
    check_number("width", width, at_least=1, whole=True)
    if name not in ROW_BACKBONES:
        raise unknown("backbone of rows", name, ROW_BACKBONES)
    return RowEncoder(width) if name == "small" else SameRows(width)
