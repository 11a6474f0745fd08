"""What the methods of the metric room share: an embedding that is kept, and batches with several images of a class."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.errors import InputError, MissingExtra
from counterpoise.method import ImageViews, Index, Labels, Method
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import gather


class Embedder(nn.Sequential):
    """A backbone and a linear layer: images to embeddings of `features` numbers."""

    def __init__(self, backbone: nn.Module, features: int, dim: int):
        super().__init__(backbone, linear(features, dim))
        self.features = dim


def class_batches(
    labels: Int[Tensor, " samples"], order: Int[Tensor, " samples"], batch_size: int, per_class: int
) -> list[list[int]]:
    """An epoch's batches, made of groups of images of one class.

    Each class is divided into groups of `per_class`, in the given order; a smaller last group is kept if it has a pair.
    Groups come in the order of their first images. Images without a label are left out.

    Args:
        labels: class of each sample; -1 for none.
        order: the samples in random order.
        batch_size: at most so many samples in a batch.
        per_class: samples in a group, at least 2.

    Returns:
        At most samples / batch_size batches, but one at least, if there is any pair.

    >>> class_batches(torch.tensor([0, 0, 0, 1, 1, 1, -1]), torch.arange(7), batch_size=4, per_class=2)
    [[0, 1, 3, 4]]
    """
    known = order[labels[order] >= 0]
    by_class = known[labels[known].argsort(stable=True)]
    sizes = labels[known].bincount()
    groups = [g for members in by_class.split(sizes[sizes > 0].tolist()) for g in members.split(per_class)]
    place = order.argsort()
    groups = sorted((g.tolist() for g in groups if len(g) > 1), key=lambda g: int(place[g[0]]))
    batches: list[list[int]] = [[]]
    for group in groups:
        if len(batches[-1]) + len(group) > batch_size:
            batches.append([])
        batches[-1] += group
    return [batch for batch in batches[: max(1, len(labels) // batch_size)] if batch]


class MetricLearner(Method):
    """Training of an embedding by the labels: the loss of one view of a batch of several images of each class.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        dim: numbers of an embedding.
        per_class: images of a class in a batch, at least 2.
        **recipe: arguments of `Method`.
    """

    views = 1
    class_of: Tensor

    def __init__(self, encoder: nn.Module, samples: int, dim: int = 64, per_class: int = 4, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("samples", samples, at_least=2)
        check_number("dim", dim, at_least=1)
        check_number("per_class", per_class, at_least=2)
        self.per_class = per_class
        self.encoder = Embedder(self.encoder, self.features, dim)
        self.features = dim
        self.register_buffer("class_of", torch.full((samples,), -1))

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Learn which image is of which class."""
        if len(images.counts()) == 0 or images.counts().max() < 2:
            raise InputError("labels: expected a class with at least 2 training images, got none, so no positive pair")
        self.class_of.copy_(images.labels)

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """`class_batches` of this epoch."""
        return class_batches(self.class_of.cpu(), order, batch_size, self.per_class)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the embeddings of the batch of all processes; images without a label are passed over."""
        embeddings, labels = gather(self.encoder(images[0])), gather(labels)
        return self.compare(embeddings[labels >= 0], labels[labels >= 0])

    def compare(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """What a subclass says its loss is."""
        raise NotImplementedError(f"{type(self).__name__} must define compare(embeddings, labels)")


class ProxyLearner(MetricLearner):
    """A `MetricLearner` whose objective holds a proxy for each class, which learns at a rate of its own.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        classes: how many classes the labels have.
        proxy_lr: peak learning rate of the objective's parameters, above 0.
        **recipe: arguments of `MetricLearner`.
    """

    objective: nn.Module

    def __init__(self, encoder: nn.Module, samples: int, classes: int, proxy_lr: float = 1e-2, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        check_number("classes", classes, at_least=2)
        check_number("proxy_lr", proxy_lr, above=0)
        self.proxy_lr = proxy_lr

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of any method, but that the proxies are a group of their own."""
        proxies = list(self.objective.parameters())
        own, groups = {id(p) for p in proxies}, super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        return [*groups, {"params": proxies, "weight_decay": 0.0, "lr": self.proxy_lr}]


def check_pairs(labels: Labels) -> None:
    """Refuse a batch without a positive pair.

    Raises:
        InputError: if no two labels are equal.

    >>> check_pairs(torch.tensor([0, 1]))
    Traceback (most recent call last):
    counterpoise.errors.InputError: labels: expected 2 of one class in the batch, for a pair, got 2 different ones
    """
    if len(labels.unique()) == len(labels):
        raise InputError(f"labels: expected 2 of one class in the batch, for a pair, got {len(labels)} different ones")


def pml(part: str) -> Any:
    """A module of pytorch-metric-learning.

    Raises:
        MissingExtra: without it.
    """
    try:
        return import_module(f"pytorch_metric_learning.{part}")
    except ModuleNotFoundError as error:
        raise MissingExtra("pytorch-metric-learning", "metric") from error
