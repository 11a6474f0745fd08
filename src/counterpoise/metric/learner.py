"""Shared by the methods of the metric room: the embedding layer, class-balanced batches, and the loss interfaces."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.errors import InputError, MissingExtra
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.processes import exchange, gather, is_first
from counterpoise.ops.similarity import at_least_float32


class Embedder(nn.Sequential):
    """A backbone and a linear layer: maps images to embeddings of `features` numbers."""

    def __init__(self, backbone: nn.Module, features: int, dim: int):
        super().__init__(backbone, linear(features, dim))
        self.features = dim


def class_batches(
    labels: Int[Tensor, " samples"],
    order: Int[Tensor, " samples"],
    batch_size: int,
    per_class: int,
    needed: int = 2,
) -> list[list[int]]:
    """An epoch's batches of several images per class; every batch holds a positive and a negative pair.

    Each class is divided into groups of `per_class` images, or of half a batch where that is less, in the given order;
    a single image that remains joins the last group. Groups are ordered by their first images, and this sequence is cut
    into batches. A batch that holds only one class swaps some of its images with those of another batch.

    Left out are images without a label, images that are alone in their class, a last incomplete batch where there are
    samples / batch_size others, and batches for which no image of a second class can be found.

    Args:
        labels: class of each sample, of any integer type; -1 for none.
        order: sample indices in random order.
        batch_size: samples in a batch, at least 2 · `needed`.
        per_class: samples in a group, at least 2.
        needed: samples that at least one class of each batch must have: 2 make a positive pair.

    Returns:
        At most samples / batch_size batches, but at least one.

    Raises:
        InputError: for numbers out of range, labels below -1, or if no batch has two classes, one of them with
            `needed` samples.

    Examples:
        >>> class_batches(torch.tensor([0, 0, 0, 1, 1, 1, -1]), torch.arange(7), batch_size=4, per_class=2)
        [[0, 1, 2, 3]]
    """
    check_number("needed", needed, at_least=2, whole=True)
    check_number("per_class", per_class, at_least=needed, whole=True)
    check_number("batch_size", batch_size, whole=True)
    if batch_size < 2 * needed:
        raise InputError(
            f"batch_size: expected at least {2 * needed} for {needed} images of each of 2 classes, got {batch_size}; "
            f"groups of per_class {per_class} are made smaller, but not smaller than {needed}"
        )
    labels = check_integers("labels", labels, rows=len(labels), low=-1)
    order = check_integers("order", order, rows=len(labels), low=0, high=len(labels))
    group = min(per_class, batch_size // 2)
    sequence = [i for members in _grouped(labels, order, group) for i in members]
    class_of = labels.tolist()
    batches = [sequence[i : i + batch_size] for i in range(0, len(sequence), batch_size)]
    _exchange_negatives(batches, class_of, group)
    counts = ((batch, Counter(class_of[i] for i in batch).values()) for batch in batches)
    able = [batch for batch, sizes in counts if len(sizes) > 1 and max(sizes) >= needed]
    if not able:
        raise InputError(
            f"labels: expected at least 2 classes with 2 images, one of them with {needed}, in a batch of {batch_size};"
            f" {int((labels >= 0).sum())} labelled images of {len(set(class_of) - {-1})} classes make no such batch"
        )
    return able[: max(1, len(labels) // batch_size)]


def _grouped(labels: Tensor, order: Tensor, size: int) -> list[list[int]]:
    """Groups of `size` images of one class, or of one more or fewer, ordered by their first images."""
    known = order[labels[order] >= 0]
    by_class = known[labels[known].argsort(stable=True)]
    groups: list[list[int]] = []
    for members in by_class.split(labels[known].unique(return_counts=True)[1].tolist()):
        parts = [part.tolist() for part in members.split(size)]
        if len(parts[-1]) == 1:
            parts[-2:] = [[i for part in parts[-2:] for i in part]]
        groups += [part for part in parts if len(part) > 1]
    place = order.argsort().tolist()
    return sorted(groups, key=lambda members: place[members[0]])


def _exchange_negatives(batches: list[list[int]], class_of: Sequence[int], most: int) -> None:
    """Let each batch of one class swap up to `most` images with a batch that has enough images of other classes."""
    donors: dict[int, deque[list[int]]] = {}
    for batch in batches:
        own = class_of[batch[0]]
        if any(class_of[i] != own for i in batch):
            continue
        waiting = donors.setdefault(own, deque(batches))
        while waiting:
            donor = waiting[0]
            places = [place for place, i in enumerate(donor) if class_of[i] != own]
            count = min(most, len(places) // 2, len(batch) - 2)
            if count > 0:
                for given, taken in zip(places[-count:], range(len(batch) - count, len(batch)), strict=True):
                    donor[given], batch[taken] = batch[taken], donor[given]
                waiting.append(batch)
                break
            waiting.popleft()


def _shared_out(batches: list[list[int]], shares: int, batch_size: int, most: int) -> list[list[int]]:
    """Interleave batches into larger ones, so that a process that takes every `shares`-th image gets one batch whole.

    Args:
        batches: the batches of one process each; images of the remaining ones pad the larger batches.
        shares: number of processes.
        batch_size: images of all processes together.
        most: the largest number of batches to make.

    Raises:
        InputError: where there are fewer batches than processes.

    Examples:
        >>> _shared_out([[0, 1, 2], [3, 4, 5], [6, 7]], shares=2, batch_size=7, most=9)
        [[0, 3, 1, 4, 2, 5, 6]]
    """
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    if len(whole) < shares:
        raise InputError(
            f"batch_size: the labelled images make {len(whole)} batches with pairs for {shares} processes; "
            "choose a smaller batch_size or fewer devices, or exchange 'gather'"
        )
    count = min(most, len(whole) // shares)
    left = (i for batch in batches[count * shares :] for i in batch)
    made = []
    for start in range(0, count * shares, shares):
        batch = [i for row in zip(*whole[start : start + shares], strict=True) for i in row]
        made.append([*batch, *islice(left, batch_size - len(batch))])
    return made


class EmbeddingLoss(nn.Module):
    """A loss of embeddings and class labels: `loss(embeddings, labels)`; a subclass defines `of_all`."""

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch of all processes.

        Args:
            embeddings: one row per image.
            labels: class of each row, of any integer type; rows with -1 are left out.

        Returns:
            The loss, a scalar.

        Raises:
            InputError: for wrong shapes, labels below -1, NaN, or a batch that the loss cannot learn from.
        """
        check_matrix("embeddings", embeddings)
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
        embeddings, labels = gather(embeddings), gather(labels)
        return self.of_all(embeddings[labels >= 0], labels[labels >= 0])

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of labelled rows that are already gathered from all processes."""
        raise NotImplementedError(f"{type(self).__name__} must define of_all(embeddings, labels)")


class PairLoss(EmbeddingLoss):
    """A pair or triplet loss of pytorch-metric-learning as an `EmbeddingLoss`, in float32 at least.

    Args:
        objective: its loss of embeddings, labels and mined pairs or triplets.
        miner: chooses pairs or triplets from embeddings and labels; `None` takes all.
    """

    def __init__(self, objective: nn.Module, miner: nn.Module | None = None):
        super().__init__()
        self.objective, self.miner = objective, miner

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of labelled rows that are already gathered from all processes."""
        check_pairs(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            mined = None if self.miner is None else self.miner(embeddings, labels)
            return self.objective(embeddings, labels, mined)


class ProxyLoss(EmbeddingLoss):
    """A loss of pytorch-metric-learning with a proxy for each class as an `EmbeddingLoss`, in float32 at least.

    Args:
        objective: its loss of embeddings and labels.
        classes: number of classes; labels must be below it.
        weights: name of the parameter that holds the proxies.
    """

    def __init__(self, objective: nn.Module, classes: int, weights: str):
        super().__init__()
        self.objective, self.classes, self.weights = objective, classes, weights
        self.register_load_state_dict_pre_hook(_below_objective)

    @property
    def proxies(self) -> nn.Parameter:
        """The learnt proxies, in the layout of pytorch-metric-learning."""
        return self.objective.get_parameter(self.weights)

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of labelled rows that are already gathered from all processes."""
        labels = check_integers("labels", labels, rows=len(embeddings), low=0, high=self.classes)
        width = self.proxies.numel() // self.classes
        if embeddings.shape[1] != width:
            raise InputError(f"embeddings: expected rows of width {width}, got {embeddings.shape[1]}")
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.objective(at_least_float32(embeddings), labels)


def _below_objective(loss: ProxyLoss, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Accept checkpoints of earlier versions, which hold the proxies in the loss itself."""
    if prefix + loss.weights in state:
        state[f"{prefix}objective.{loss.weights}"] = state.pop(prefix + loss.weights)


class MetricLearner(Method):
    """Trains an embedding from labels: the loss of one view of each image, in batches of several images per class.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        dim: embedding dimension.
        per_class: images of a class in a batch, at least 2; a group takes at most half of a batch.
        **recipe: arguments of `Method`.
    """

    views = 1
    needed = 2  # images that at least one class of each batch must have
    class_of: Tensor
    objective: Any

    def __init__(self, encoder: nn.Module, samples: int, dim: int = 64, per_class: int = 4, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("samples", samples, at_least=2, whole=True)
        check_number("dim", dim, at_least=1, whole=True)
        check_number("per_class", per_class, at_least=2, whole=True)
        self.per_class = per_class
        self.encoder = Embedder(self.encoder, self.features, dim)
        self.features = dim
        self.register_buffer("class_of", torch.full((samples,), -1))

    def check_data(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Refuse images or a batch size without any batch with a positive and a negative pair; see `class_batches`."""
        self.check_classes(images)
        self.divided(images.labels, torch.arange(len(images)), batch_size, shares)

    def check_classes(self, images: Images) -> None:
        """Refuse images without a positive pair or without a negative pair.

        Raises:
            InputError: with the largest class and its number of images.
        """
        if len(images) != len(self.class_of):
            raise InputError(
                f"samples: expected the number of training images, {len(images)}, got {len(self.class_of)}"
            )
        counts = images.counts()
        if not len(counts) or counts.max() < self.needed:
            largest = f"; the largest, '{images.classes[counts.argmax()]}', has {counts.max()}" if len(counts) else ""
            raise InputError(
                f"labels: expected a class with at least {self.needed} training images, got none{largest}: "
                "no positive pair"
            )
        if (counts > 1).sum() < 2:
            raise InputError(
                f"labels: expected at least 2 classes with 2 training images, got {int((counts > 1).sum())} of "
                f"{int((counts > 0).sum())}: no negative pair"
            )

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Store the class of each image; before the first epoch, warn of images that are alone in their class."""
        self.check_classes(images)
        if (alone := int((images.counts() == 1).sum())) and epoch == 0 and is_first():
            warnings.warn(
                f"{alone} of {len(images)} training images are not used: each is alone in its class, and a pair needs 2"
            )
        self.class_of.copy_(images.labels)

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """The `class_batches` of this epoch; each process gets its own where processes do not exchange rows."""
        apart = exchange() == "none" and dist.is_available() and dist.is_initialized()
        labels = self.class_of.cpu()
        found = self.divided(labels, order.cpu(), batch_size, dist.get_world_size() if apart else 1)
        counts = labels[labels >= 0].bincount()
        paired, used = int(counts[counts > 1].sum()), sum(map(len, found))
        if paired - used >= batch_size and self.current_epoch == 0 and is_first():
            warnings.warn(
                f"{paired - used} of {paired} images are left out of the first epoch: too few images of other classes, "
                "or of their own class, to fill a batch"
            )
        return found

    def divided(
        self, labels: Int[Tensor, " samples"], order: Int[Tensor, " samples"], batch_size: int, shares: int
    ) -> list[list[int]]:
        """An epoch's batches, each divided into `shares` parts that hold positive and negative pairs.

        Raises:
            InputError: if a part is too small for a positive and a negative pair.
        """
        if shares > 1 and batch_size < 2 * self.needed * shares:
            raise InputError(
                f"batch_size: expected at least {2 * self.needed} images for each of {shares} processes, which "
                f"exchange no rows, got {batch_size}"
            )
        found = class_batches(labels, order, batch_size // shares, self.per_class, self.needed)
        if shares == 1:
            return found
        return _shared_out(found, shares, batch_size, most=max(1, len(order) // batch_size))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the embeddings of the batch of all processes; images without a label are left out."""
        embeddings, labels = gather(self.encoder(images[0])), gather(labels)
        return self.embedding_loss(embeddings[labels >= 0], labels[labels >= 0])

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of labelled rows of all processes; by default that of `objective`."""
        return self.objective.of_all(embeddings, labels)


class ProxyLearner(MetricLearner):
    """A `MetricLearner` whose objective has a proxy for each class; proxies have a learning rate of their own.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        classes: number of classes.
        proxy_lr: peak learning rate of the objective's parameters, above 0.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(self, encoder: nn.Module, samples: int, classes: int, proxy_lr: float = 1e-2, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        check_number("classes", classes, at_least=2, whole=True)
        check_number("proxy_lr", proxy_lr, above=0)
        self.proxy_lr, self.classes = proxy_lr, classes

    def check_classes(self, images: Images) -> None:
        """Check as `MetricLearner` does, and refuse images of a class that has no proxy."""
        super().check_classes(images)
        if (most := int(images.labels.max()) + 1) > self.classes:
            raise InputError(
                f"classes: expected the number of the labels' classes, at least {most}, got {self.classes}"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of `Method`, with the proxies in a group of their own."""
        proxies = list(self.objective.parameters())
        own, groups = {id(p) for p in proxies}, super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        return [*groups, {"params": proxies, "weight_decay": 0.0, "lr": self.proxy_lr}]


def check_pairs(labels: Labels) -> None:
    """Refuse a batch without a positive or a negative pair, whose loss would be 0 for any embeddings.

    Args:
        labels: class of each row; rows with -1 have no label and form no pair.

    Raises:
        InputError: if all labels differ, or all are equal.

    Examples:
        >>> check_pairs(torch.tensor([0, 0, 1]))
        >>> check_pairs(torch.tensor([0, 1]))
        Traceback (most recent call last):
        counterpoise.errors.InputError: labels: expected 2 of one class in the batch, for a pair, got 2 different ones
        >>> check_pairs(torch.tensor([1, 1]))
        Traceback (most recent call last):
        counterpoise.errors.InputError: labels: expected 2 classes in the batch, for a negative pair, got 2 rows of one
    """
    labels = check_integers("labels", labels, rows=len(labels), low=-1)
    known = labels[labels >= 0]
    classes = len(known.unique())
    if classes == len(known):
        raise InputError(f"labels: expected 2 of one class in the batch, for a pair, got {classes} different ones")
    if classes < 2:
        raise InputError(f"labels: expected 2 classes in the batch, for a negative pair, got {len(known)} rows of one")


def pml(part: str) -> Any:
    """Import a module of pytorch-metric-learning.

    Raises:
        MissingExtra: if it is not installed.

    Examples:
        >>> pml("losses").__name__
        'pytorch_metric_learning.losses'
    """
    try:
        return import_module(f"pytorch_metric_learning.{part}")
    except ModuleNotFoundError as error:
        raise MissingExtra("pytorch-metric-learning", "metric") from error
