"""What classifiers without gradients have in common: they read frozen features once, with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from counterpoise.data.views import to_input
from counterpoise.errors import InputError, unknown
from counterpoise.learners.classifier import Classifier
from counterpoise.learners.references import BATCH, NEVER, RawInputs, settle_batch_norm
from counterpoise.nets.features import device_of, dtype_of, evaluation
from counterpoise.ops.checks import check_finite

Reads = Literal["raw", "encoder", "untrained"]


class FeatureReader(Classifier):
    """A linear classifier on features that stay as they are, found in one go from all labelled training items.

    A subclass defines `fit`, which returns the classifier. Nothing is trained by gradients.

    Args:
        encoder: inputs to features; frozen.
        classes: how many there are.
        shape: of one input; "raw" needs it, and the task gives it.
        reads: "raw" reads the inputs themselves (large images averaged to 32 pixels a side); "encoder" the features of
            the run's encoder as it is, such as one with given weights; "untrained" those of one whose batch
            normalisation takes its statistics from the training data first.
        **recipe: arguments of `Method`.

    Examples:
        >>> class Zero(FeatureReader):
        ...     def fit(self, data):
        ...         return nn.Linear(self.features, self.classes)
        >>> Zero(nn.Identity(), classes=3, shape=(1, 8, 8)).classifier
        Linear(in_features=64, out_features=3, bias=True)
    """

    trains = False

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        shape: Sequence[int] | None = None,
        reads: Reads = "raw",
        **recipe: Any,
    ):
        super().__init__(_reading(encoder, reads, shape), classes, head="linear", bottleneck=0, **recipe)
        self.reads = reads

    def fit(self, data: Any) -> nn.Linear:
        """The classifier of the features of the labelled items, on the CPU.

        Args:
            data: the training data, of images or rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must define fit(data)")

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Fit the classifier, by the labels that are given."""
        if self.reads == "untrained":
            settle_batch_norm(self.encoder, data)
        self.classifier.load_state_dict(self.fit(data).state_dict())

    @torch.no_grad()
    def labelled_features(self, data: Any) -> Iterator[tuple[Float64[Tensor, "n dim"], Int64[Tensor, " n"]]]:
        """Features and labels of the labelled items, some at a time, on the CPU.

        Args:
            data: of images or rows, taken without random views.
        """
        device, dtype = device_of(self.encoder), dtype_of(self.encoder)
        with evaluation(self.encoder):
            for rows in (data.labels >= 0).nonzero().flatten().split(BATCH):
                inputs, labels, _ = data.__getitems__(rows.tolist())
                features = self.encoder(to_input(inputs.to(device)).to(dtype))
                if features.ndim != 2:
                    raise InputError(f"encoder: expected to get [batch, features] from it, got {list(features.shape)}")
                yield features.cpu().double(), labels.cpu()


def linear_layer(
    weight: Float64[Tensor, "classes dim"],
    bias: Float64[Tensor, " classes"],
    present: Bool[Tensor, " classes"],
    dtype: torch.dtype = torch.float32,
) -> nn.Linear:
    """A linear layer of given weights, of which classes that were not there to learn are never the largest output.

    Args:
        weight: of each class.
        bias: of each class.
        present: which classes were there, at least one. The output of any other is 30 below that of the first which
            was.
        dtype: of the layer.

    Raises:
        InputError: for other shapes, no class that was there, NaN or infinity.

    Examples:
        >>> layer = linear_layer(torch.eye(2).double(), torch.zeros(2).double(), torch.tensor([True, False]))
        >>> layer(torch.ones(1, 2)).tolist()
        [[1.0, -29.0]]
    """
    if present.dtype != torch.bool:
        raise InputError(f"present: expected true or false for each class, got {present.dtype}")
    if weight.ndim != 2 or not bias.shape == present.shape == weight.shape[:1]:
        raise InputError(
            f"weight, bias, present: expected one row, number and truth for each class, got shapes "
            f"{list(weight.shape)}, {list(bias.shape)} and {list(present.shape)}"
        )
    if not present.any():
        raise InputError("present: expected at least one class that was there, got none")
    check_finite("weight", weight)
    check_finite("bias", bias)
    first = int(present.nonzero()[0])
    layer = nn.Linear(weight.shape[1], len(weight), device=weight.device, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight.where(present[:, None], weight[first]))
        layer.bias.copy_(bias.where(present, bias[first] - NEVER))
    return layer


def _reading(encoder: nn.Module, reads: Reads, shape: Sequence[int] | None) -> nn.Module:
    """What is read: the encoder's features, or the inputs themselves."""
    if reads not in get_args(Reads):
        raise unknown("reads", reads, get_args(Reads))
    if reads != "raw":
        return encoder
    if shape is None:
        raise InputError("shape: expected that of one input, since reads is 'raw', got None")
    return RawInputs(shape)
