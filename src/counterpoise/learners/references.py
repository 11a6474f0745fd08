"""What costs no training, to measure methods by: raw inputs, an untrained encoder, the weights that methods start from.

A method whose features are no better than these has learnt nothing that its score could show. Each is a method with
`trains = False`, so that it is run, scored and kept like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.views import to_input
from counterpoise.learners.classifier import Classifier
from counterpoise.learners.method import Method
from counterpoise.measure.probes import LinearProbe, linear_probe, stratified_split
from counterpoise.nets import embed
from counterpoise.nets.features import device_of, evaluation

RAW_SIDE = 32  # larger images are averaged to this side, since a linear classifier on all their pixels takes minutes
BATCH = 512
NEVER = 30.0  # below all other biases: that of a class without a training label, which is then never named


class RawInputs(nn.Module):
    """Inputs as features: pixels from -1 to 1, of images larger than 32 pixels averaged over areas; rows as they are.

    Args:
        shape: of one input: (channels, height, width), or (columns,).

    Examples:
        >>> RawInputs((3, 64, 64)).features, RawInputs((13,)).features
        (3072, 13)
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        large = len(shape) == 3 and max(shape[1:]) > RAW_SIDE
        self.reduce = nn.AdaptiveAvgPool2d(RAW_SIDE) if large else nn.Identity()
        self.features = shape[0] * RAW_SIDE**2 if large else prod(shape)

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """One row of numbers for each input."""
        return self.reduce(inputs).flatten(1)


class Reference(Method):
    """An encoder as it is; what those of features have in common.

    Args:
        encoder: inputs to features.
        **recipe: arguments of `Method`; its `augment` gives the views that alignment is measured by.
    """

    trains = False

    def predict(self, features: Float[Tensor, "n dim"]) -> None:
        """No number of its own in regression: a ridge regression on the features predicts."""

    def ask(self, images: Any, texts: Any) -> Float[Tensor, "n dim"]:
        """Of queries of an image and words, the image alone."""
        return embed(self.encoder, images, to_input)


class Raw(Reference):
    """The inputs themselves as features.

    Args:
        encoder: not used; a run's settings may name any.
        shape: of one input.
        **recipe: as of `Reference`.
    """

    def __init__(self, encoder: nn.Module, shape: Sequence[int], **recipe: Any):
        super().__init__(RawInputs(shape), **recipe)


class Untrained(Reference):
    """An encoder with random weights, whose batch normalisation has the statistics of the training images.

    Without these, the scale of random features would depend on layers that nothing has adapted, and the reference would
    be too easy to beat.
    """

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Take the statistics from all training items."""
        settle_batch_norm(self.encoder, data)


class LinearOnFeatures(Classifier):
    """A linear classifier on an encoder as it is: multinomial logistic regression, its penalty chosen on a quarter.

    Args:
        encoder: inputs to features.
        classes: how many there are.
        **recipe: arguments of `Classifier`.
    """

    trains = False

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Fit it to the labelled training items, by the labels that are given."""
        features = embed(self.encoder, data, to_input)
        fitted, valid = stratified_split(data.labels, 0.75, torch.Generator().manual_seed(0))
        rows = ((features[some], data.labels[some]) for some in (fitted, valid))
        _copy_probe(linear_probe(*next(rows), *next(rows), self.classes), self.classifier)


class LinearOnRaw(LinearOnFeatures):
    """A linear classifier on the inputs themselves.

    Args:
        encoder: as of `Raw`.
        classes: how many there are.
        shape: of one input.
        **recipe: arguments of `Classifier`.
    """

    def __init__(self, encoder: nn.Module, classes: int, shape: Sequence[int], **recipe: Any):
        super().__init__(RawInputs(shape), classes, **recipe)


class LinearOnUntrained(LinearOnFeatures):
    """A linear classifier on an untrained encoder; see `Untrained`."""

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Take the statistics of batch normalisation first."""
        settle_batch_norm(self.encoder, data)
        super().start_epoch(data, epoch)


class RawNodes(nn.Module):
    """The features of a graph's labelled nodes as they are.

    Args:
        graph: a `HeteroData`.

    Attributes:
        target: the kind of the nodes, the first with labels and features.
    """

    trains = False

    def __init__(self, graph: Any):
        super().__init__()
        kinds = [kind for kind in graph.node_types if graph[kind].get("y") is not None]
        self.target = next((kind for kind in kinds if graph[kind].get("x") is not None), None)
        self.graph = graph

    def embed(self) -> Float[Tensor, "nodes dim"]:
        """A row for each node."""
        return self.graph[self.target].x.float()


@torch.no_grad()
def settle_batch_norm(encoder: nn.Module, data: Any) -> None:
    """Set the running statistics of an encoder's batch normalisation to those of a data set, each item counted alike.

    Args:
        encoder: changed in place; without batch normalisation it stays as it is.
        data: of images or rows, taken without random views.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1))
        >>> from counterpoise.data import Images
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> settle_batch_norm(net, Images(pixels, torch.tensor([0, 0]), ("dot",), "dots"))
        >>> net[1].running_mean.item()
        0.0
    """
    layers = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    if not layers:
        return
    momenta, device = [layer.momentum for layer in layers], device_of(encoder)
    with evaluation(encoder):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches, not a decaying one
            layer.train()
        for rows in torch.arange(len(data)).tensor_split(-(-len(data) // BATCH)):
            if len(rows) > 1:
                inputs, *_ = data.__getitems__(rows.tolist())
                encoder(to_input(inputs.to(device)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@torch.no_grad()
def _copy_probe(probe: LinearProbe, layer: nn.Module) -> None:
    """A probe's weights as those of a linear layer on features that are not standardised."""
    assert isinstance(layer, nn.Linear)
    weight = probe.weight / probe.scale
    bias = probe.bias - weight @ probe.mean
    never = bias.isinf()
    layer.weight.copy_(weight)
    layer.bias.copy_(bias.where(~never, bias[~never].min() - NEVER))
