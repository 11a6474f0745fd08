"""What the methods of the metric room share: an embedding that is kept, and batches with several images of a class."""

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
from counterpoise.ops.checks import check_integers, check_number
from counterpoise.ops.processes import exchange, gather, is_first


class Embedder(nn.Sequential):
    """A backbone and a linear layer: images to embeddings of `features` numbers."""

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
    """An epoch's batches, in which images of one class stand side by side, and no batch is of one class alone.

    Each class is divided into groups of `per_class`, or of half a batch where that is less, in the given order; an
    image that is left over joins the last group. Groups come in the order of their first images, and this sequence is
    cut into batches. Where a batch holds one class alone, some of its images change places with those of another batch.

    Left out are images without a label, images that are alone in their class, a last incomplete batch where there are
    samples / batch_size others, and batches for which there is no image of a second class.

    Args:
        labels: class of each sample, of any integer type; -1 for none.
        order: the samples in random order.
        batch_size: samples in a batch, at least 2 · `needed`.
        per_class: samples in a group, at least 2.
        needed: a batch must have a class of so many samples: 2 make a positive pair.

    Returns:
        At most samples / batch_size batches, but one at least.

    Raises:
        InputError: for numbers out of range, labels below -1, or where no batch has two classes, one of them of
            `needed` samples.

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
    """Each class with a pair in groups of `size`, or one more or fewer, by the place of their first images."""
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
    """Let each batch of one class change places of up to `most` images with a batch that can spare other classes'."""
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
    """Larger batches, of which each of several processes takes every `shares`-th image: it gets a given batch whole.

    Args:
        batches: the batches of one process each; those that are left over fill up what no share of them divides.
        shares: how many processes there are.
        batch_size: images of all processes.
        most: how many larger batches.

    Raises:
        InputError: where there are fewer batches than processes.

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


class MetricLearner(Method):
    """Training of an embedding by the labels: the loss of one view of a batch of several images of each class.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        dim: numbers of an embedding.
        per_class: images of a class in a batch, at least 2; at most half of a batch is of one group.
        **recipe: arguments of `Method`.
    """

    views = 1
    needed = 2  # images of one class that a batch must have
    class_of: Tensor

    def __init__(self, encoder: nn.Module, samples: int, dim: int = 64, per_class: int = 4, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("samples", samples, at_least=2, whole=True)
        check_number("dim", dim, at_least=1, whole=True)
        check_number("per_class", per_class, at_least=2, whole=True)
        self.per_class = per_class
        self.encoder = Embedder(self.encoder, self.features, dim)
        self.features = dim
        self.register_buffer("class_of", torch.full((samples,), -1))

    def check_images(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Refuse images or a batch size of which no batch has a positive and a negative pair; see `class_batches`."""
        self.check_classes(images)
        self.divided(images.labels, torch.arange(len(images)), batch_size, shares)

    def check_classes(self, images: Images) -> None:
        """Refuse images without a positive, or without a negative pair.

        Raises:
            InputError: naming the largest class, and how many images it has.
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
        """Learn which image is of which class; before the first epoch, say how many are alone in theirs."""
        self.check_classes(images)
        if (alone := int((images.counts() == 1).sum())) and epoch == 0 and is_first():
            warnings.warn(
                f"{alone} of {len(images)} training images are not learnt from: each is alone in its class, "
                "and a pair needs 2"
            )
        self.class_of.copy_(images.labels)

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """`class_batches` of this epoch; where processes do not exchange rows, each gets batches of its own."""
        apart = exchange() == "none" and dist.is_available() and dist.is_initialized()
        labels = self.class_of.cpu()
        found = self.divided(labels, order.cpu(), batch_size, dist.get_world_size() if apart else 1)
        counts = labels[labels >= 0].bincount()
        paired, used = int(counts[counts > 1].sum()), sum(map(len, found))
        if paired - used >= batch_size and self.current_epoch == 0 and is_first():
            warnings.warn(
                f"{paired - used} of {paired} images are left out of the first epoch: too few of other classes, "
                "or of their own, to make a batch with"
            )
        return found

    def divided(
        self, labels: Int[Tensor, " samples"], order: Int[Tensor, " samples"], batch_size: int, shares: int
    ) -> list[list[int]]:
        """An epoch's batches, each of so many shares that hold pairs.

        Raises:
            InputError: where a share would be too small for a positive and a negative pair.
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
        """The loss of the embeddings of the batch of all processes; images without a label are passed over."""
        embeddings, labels = gather(self.encoder(images[0])), gather(labels)
        return self.embedding_loss(embeddings[labels >= 0], labels[labels >= 0])

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """What a subclass says its loss is."""
        raise NotImplementedError(f"{type(self).__name__} must define embedding_loss(embeddings, labels)")


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
        check_number("classes", classes, at_least=2, whole=True)
        check_number("proxy_lr", proxy_lr, above=0)
        self.proxy_lr, self.classes = proxy_lr, classes

    def check_classes(self, images: Images) -> None:
        """As of any `MetricLearner`; and refuse images of a class that has no proxy."""
        super().check_classes(images)
        if (most := int(images.labels.max()) + 1) > self.classes:
            raise InputError(
                f"classes: expected the number of the labels' classes, at least {most}, got {self.classes}"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of any method, but that the proxies are a group of their own."""
        proxies = list(self.objective.parameters())
        own, groups = {id(p) for p in proxies}, super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        return [*groups, {"params": proxies, "weight_decay": 0.0, "lr": self.proxy_lr}]


def check_pairs(labels: Labels) -> None:
    """Refuse a batch without a positive, or without a negative pair, whose loss would be 0 whatever its embeddings are.

    Args:
        labels: class of each row; rows without a label, -1, are in no pair.

    Raises:
        InputError: if no two labels are equal, or all are.

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
    """A module of pytorch-metric-learning.

    Raises:
        MissingExtra: without it.

    >>> pml("losses").__name__
    'pytorch_metric_learning.losses'
    """
    try:
        return import_module(f"pytorch_metric_learning.{part}")
    except ModuleNotFoundError as error:
        raise MissingExtra("pytorch-metric-learning", "metric") from error
