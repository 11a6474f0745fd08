"""WAD: a self-supervised teacher labels unlabelled images, and weighs them by how clearly it prefers one class.

Du, Zhao, Sheng, Li, Chen, "Semi-Supervised Learning via Weight-aware Distillation under Class Distribution Mismatch",
ICCV 2023, arXiv 2308.11874. The body of the paper could not be had; the formulas are those of the authors' code.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, get_args

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data.views import to_input
from counterpoise.errors import InputError, unknown
from counterpoise.learners.classifier import Classifier, cross_entropy
from counterpoise.learners.method import Index, InputViews, Labels, View
from counterpoise.learners.pools import two_pools
from counterpoise.nets import embed
from counterpoise.nets.frozen import Frozen
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_logits,
    check_matrix,
    check_number,
    check_same_columns,
    check_values,
)
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.processes import masked_mean
from counterpoise.ops.similarity import at_least_float32, normalize_rows

UNKNOWN = -1  # in place of a class


def class_affinity(
    queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], labels: Integer[Tensor, " m"], classes: int
) -> Float[Tensor, "n classes"]:
    r"""How near a query is to each class: $s_c(u) = \max_{l: y_l = c} \cos(g(u), g(l))$, its nearest key's cosine.

    Computed for some queries at a time, so that the matrix of all cosines never exists.

    Args:
        queries: features of unlabelled items, one row each; normalised here. A row of zeros has cosine 0 with all.
        keys: features of labelled items; normalised here.
        labels: class of each key; a key with -1, for none, is left out.
        classes: how many there are.

    Returns:
        Cosines from -1 to 1; minus infinity for a class without a key. At least float32.

    Raises:
        InputError: for other shapes, NaN, labels that are no class, numbers out of range, or no key with a label.

    Examples:
        >>> keys, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 1])
        >>> class_affinity(torch.tensor([[3.0, 4.0]]), keys, labels, classes=2)
        tensor([[0.6000, 0.9899]])
    """
    check_matrix("queries", queries)
    check_matrix("keys", keys)
    check_same_columns(queries=queries, keys=keys)
    check_counts(classes=classes)
    labels = check_integers("labels", labels, rows=len(keys), low=-1, high=classes)
    sizes = labels[labels >= 0].bincount(minlength=classes)
    if not sizes.any():
        raise InputError(f"labels: expected a label of at least one of {len(keys)} keys, got none")
    # With the keys of equally large classes beside each other, the maxima of all these classes are one reduction over
    # a block of rows, however many classes there are. Different sizes are few: their sum is at most the keys' number.
    by_size = sizes.argsort(stable=True)
    place = torch.empty_like(by_size).index_copy(0, by_size, torch.arange(classes, device=by_size.device))
    known = (labels >= 0).nonzero().flatten()
    known = known[place[labels[known]].argsort(stable=True)]
    found, repeats = (x.tolist() for x in sizes[by_size].unique_consecutive(return_counts=True))
    blocks = list(zip(found, repeats, strict=True))
    empty = repeats[0] if found[0] == 0 else 0

    def part(some: Tensor, keys: Tensor) -> Tensor:
        cosines, row = keys @ some.T, 0
        maxima = [cosines.new_full((empty, len(some)), -torch.inf)] if empty else []
        for size, count in blocks:
            if size:
                block = cosines[row : row + size * count]
                maxima.append(block.view(count, size, len(some)).amax(1).clamp(-1, 1))
                row += size * count
        return torch.cat(maxima)[place].T

    queries, keys = normalize_rows(queries), normalize_rows(keys[known])
    wide = torch.promote_types(queries.dtype, keys.dtype)
    return map_row_chunks(part, [queries.to(wide)], [keys.to(wide)], columns=len(keys))


def weigh(affinity: Float[Tensor, "n classes"]) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Pseudo-labels and their weights: the nearest class, and by how much it is nearer than the second one.

    $\hat y = \arg\max_c s_c$ and $w = s_{(1)} (1 - s_{(2)} / s_{(1)}) = s_{(1)} - s_{(2)}$, of the two largest; the
    difference is what is computed, since the ratio has no value at 0. No gradient flows.

    Args:
        affinity: of each row to each class; minus infinity for a class that cannot be. Where only one class can be, the
            weight is its affinity, or 0 where that is negative, with a warning.

    Returns:
        The classes; and the weights, of cosines from 0 to 2. At least float32.

    Raises:
        InputError: for NaN, plus infinity, a row without any class, or differences that are infinite.

    Examples:
        >>> weigh(torch.tensor([[0.5, 0.75, -1.0], [0.5, 0.5, 0.25]]))
        (tensor([1, 0]), tensor([0.2500, 0.0000]))
    """
    _check_affinity(affinity)
    values = at_least_float32(affinity.detach())
    largest = values.topk(min(2, values.shape[1]), dim=1).values
    pseudo, best = values.argmax(1), largest[:, 0]  # of equally near classes the first, which topk does not promise
    second = largest[:, 1] if values.shape[1] > 1 else torch.full_like(best, -torch.inf)
    alone = second.isinf()
    if alone.any():
        warnings.warn("affinity: of one class alone there is no second one; the weight is the affinity, at least 0")
    weight = torch.where(alone, best.clamp(min=0), best - second.where(~alone, best))
    check_finite("affinity", weight)
    return pseudo, weight


def promoted(round: int, losses: Float[Tensor, " n"], alpha: float = 0.1, split: int = 5) -> Int64[Tensor, " chosen"]:
    r"""The rows that join the labelled ones after a round: $\lfloor \alpha_i n \rfloor$ with the smallest losses.

    $\alpha_i = \alpha (1 - \min(i, S) / S)^2$, so that fewer are chosen in each round, and none from round S on.

    Args:
        round: i, from 1.
        losses: cross-entropy of the student against the pseudo-label, of each row that is still unlabelled.
        alpha: $\alpha$, a share from 0 to 1.
        split: S, at least 1.

    Returns:
        Their indices, the smallest loss first; of equal ones the first.

    Raises:
        InputError: for what is no vector, NaN, infinity, or numbers out of range.

    Examples:
        >>> losses = torch.tensor([3.0, 1.0, 2.0, 0.5, 4.0])
        >>> [promoted(i, losses, alpha=1.0, split=3).tolist() for i in (1, 2, 3)]  # shares of 4/9, 1/9 and 0
        [[3, 1], [], []]
    """
    check_number("round", round, at_least=1, whole=True)
    check_number("alpha", alpha, at_least=0, at_most=1)
    check_counts(split=split)
    if losses.ndim != 1:
        raise InputError(f"losses: expected one for each row, got shape {list(losses.shape)}")
    check_finite("losses", losses)
    share = alpha * (1 - min(round, split) / split) ** 2
    count = math.floor(share * len(losses) * (1 + 1e-12))  # 0.064 of 1,000 is 64, though its product may be below
    return losses.argsort(stable=True)[:count]


def wad_loss(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    weights: Float[Tensor, " batch"],
    labelled: Bool[Tensor, " batch"],
    coefficient: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of the labelled rows, and weighted of the others.

    Mean of $H(y, p)$ over the labelled rows, and $\lambda$ times the mean of $w H(\hat y, p)$ over the others. Each is
    divided by the number of its rows, not by their weights, so that unlikely pseudo-labels have little influence.

    Args:
        logits: one score a class, of at least 2.
        targets: the label of each labelled row, the pseudo-label of each other; -1 where there is none.
        weights: of the pseudo-labels, at least 0; those of labelled rows are not used.
        labelled: which rows are labelled.
        coefficient: $\lambda$, at least 0.

    Returns:
        The loss in nats, at least 0.

    Raises:
        InputError: for other shapes, one class alone, targets that are no class, numbers out of range, or NaN.

    Examples:
        >>> targets, weights = torch.tensor([0, 1, 1]), torch.tensor([0.0, 0.5, 0.25])
        >>> loss = wad_loss(torch.zeros(3, 2), targets, weights, torch.tensor([True, False, False]))
        >>> round(loss.item(), 4)  # log 2, and 3/8 of it
        0.9531
    """
    check_logits("logits", logits)
    targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
    for name, x in {"weights": weights, "labelled": labelled}.items():
        if list(x.shape) != [len(logits)]:
            raise InputError(f"{name}: expected one for each of {len(logits)} rows, got shape {list(x.shape)}")
    if labelled.dtype != torch.bool:
        raise InputError(f"labelled: expected true or false for each row, got {labelled.dtype}")
    check_values("weights", weights, at_least=0)
    check_number("coefficient", coefficient, at_least=0)
    logits = at_least_float32(logits)
    first = cross_entropy(logits, targets.where(labelled, UNKNOWN))
    losses = F.cross_entropy(logits, targets.where(~labelled, UNKNOWN), ignore_index=UNKNOWN, reduction="none")
    return first + coefficient * masked_mean(losses * weights.detach().to(losses), ~labelled)


class WADLoss(nn.Module):
    """`wad_loss` by the affinities of a batch: `loss(logits, targets, affinity)`.

    Args:
        coefficient: weight of the unlabelled rows, at least 0.
        weigh: whether pseudo-labels have the weights of `weigh`; else each counts fully.

    Examples:
        >>> affinity = torch.tensor([[0.0, 0.0], [0.25, 0.75]])
        >>> WADLoss()(torch.zeros(2, 2), torch.tensor([0, -1]), affinity)  # log 2, and half of it
        tensor(1.0397)
    """

    def __init__(self, coefficient: float = 1.0, weigh: bool = True):
        super().__init__()
        check_number("coefficient", coefficient, at_least=0)
        self.coefficient, self.weigh = coefficient, weigh

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
        affinity: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            logits: one score a class.
            targets: class of each row; -1 where it has none.
            affinity: of each row to each class, see `class_affinity`; those of labelled rows are not used.
        """
        if affinity.shape != logits.shape:
            raise InputError(
                f"affinity: expected the shape of logits, {list(logits.shape)}, got {list(affinity.shape)}"
            )
        check_logits("logits", logits)
        targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
        _check_affinity(affinity)
        labelled = targets >= 0
        pseudo, weight = targets.clone(), torch.zeros(len(logits), device=logits.device)
        if not labelled.all():
            pseudo[~labelled], own = weigh(affinity[~labelled])
            weight[~labelled] = own.float() if self.weigh else 1.0
        return wad_loss(logits, pseudo, weight, labelled, self.coefficient)


class WAD(Classifier):
    """Semi-supervised training with the weighted pseudo-labels of a frozen self-supervised encoder.

    Training has `split` + 1 rounds of equal length. At the start of each, the teacher labels and weighs the unlabelled
    images anew; between two, those images whose pseudo-label the student agrees with most join the labelled ones.

    Args:
        encoder: inputs to features; the student's.
        classes: how many classes the labels have.
        samples: how many training items there are.
        start: the teacher, an encoder that is copied and frozen; without one, the student's as it is before training.
        weigh: whether pseudo-labels are weighted; else each counts fully.
        coefficient: weight of the unlabelled images, at least 0; 0 trains on the labels alone, which stay the same.
        share: of labelled images in a batch, above 0 and below 1.
        alpha: share of the unlabelled images by which `promoted` decides how many join the labelled ones, 0 to 1.
        split: rounds after which images may join, at least 1.
        student: the kind of view that the student learns from: "mild", "random" or "plain"; see `Method.view`.
        draws: random views of each image whose mean features the teacher compares; 0 compares the image itself.
        **recipe: arguments of `Classifier`.

    Attributes:
        pseudo: the pseudo-label of each training item, -1 before there is one.
        weight: of each pseudo-label, whether it is used or not.
        labelled: which training items have a label.
        promoted: which others have joined them.
        round: the current one, from 1; 0 before training.
    """

    views = 1
    pseudo: Tensor
    weight: Tensor
    labelled: Tensor
    promoted: Tensor
    round: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        samples: int,
        start: nn.Module | None = None,
        weigh: bool = True,
        coefficient: float = 1.0,
        share: float = 0.5,
        alpha: float = 0.1,
        split: int = 5,
        student: View = "mild",
        draws: int = 0,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_counts(samples=samples, split=split)
        check_number("coefficient", coefficient, at_least=0)
        check_number("share", share, above=0, below=1)
        check_number("alpha", alpha, at_least=0, at_most=1)
        check_number("draws", draws, at_least=0, whole=True)
        if student not in get_args(View):
            raise unknown("student: kind of view", student, get_args(View))
        # A copy, since it is frozen; of the student's encoder, which changes, the checkpoint holds the weights.
        self.teacher = Frozen(copy.deepcopy(encoder if start is None else start), stored=start is None)
        self.weigh, self.coefficient, self.share = weigh, coefficient, share
        self.alpha, self.split, self.student, self.draws = alpha, split, student, draws
        self.register_buffer("pseudo", torch.full((samples,), UNKNOWN))
        self.register_buffer("weight", torch.zeros(samples))
        self.register_buffer("labelled", torch.zeros(samples, dtype=torch.bool))
        self.register_buffer("promoted", torch.zeros(samples, dtype=torch.bool))
        self.register_buffer("round", torch.zeros((), dtype=torch.int64))

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Where a round begins, promote by what the student has learnt, and ask the teacher."""
        before, now = int(self.round), self._round_of(epoch)
        if before == now:
            return
        self.labelled.copy_(data.labels >= 0)
        if self.labelled.all():
            warnings.warn(f"WAD: all training {data.items} have a label, so that it is cross-entropy")
        elif self.coefficient:
            for one in range(before, now):
                if one:
                    self._promote(data, one)
        if not self.labelled.all():
            self._ask_teacher(data)
        self._share_findings()
        self.round.fill_(now)

    def _round_of(self, epoch: int) -> int:
        """The round of an epoch, from 1: rounds divide training evenly; without an end of it, each is an epoch."""
        epochs = self._trainer.max_epochs if self._trainer else None
        passed = epoch * (self.split + 1) // epochs if epochs and epochs > 0 else epoch
        return min(passed, self.split) + 1

    def _promote(self, data: Any, round: int) -> None:
        pool = (~(self.labelled | self.promoted)).nonzero().flatten().cpu()
        if not len(pool):
            return
        losses = F.nll_loss(self.predict(data.subset(pool)), self.pseudo.cpu()[pool], reduction="none")
        self.promoted[pool[promoted(round, losses, self.alpha, self.split)].to(self.promoted.device)] = True

    def _ask_teacher(self, data: Any) -> None:
        """Pseudo-labels and weights of what is unlabelled, by what is labelled or promoted."""
        features = self._features(data)
        labelled = self.labelled.cpu()
        known = labelled | self.promoted.cpu()
        pool = (~known).nonzero().flatten()
        if not len(pool):
            return
        targets = torch.where(labelled, data.labels, self.pseudo.cpu())
        pseudo, weight = weigh(class_affinity(features[pool], features[known], targets[known], self.classes))
        self.pseudo[pool.to(self.pseudo.device)] = pseudo.to(self.pseudo.device)
        self.weight[pool.to(self.weight.device)] = weight.to(self.weight)

    def _features(self, data: Any) -> Float[Tensor, "samples dim"]:
        if not self.draws:
            return embed(self.teacher.module, data, to_input)
        draws = [embed(self.teacher.module, data, self.view) for _ in range(self.draws)]
        return torch.stack(draws).mean(0)

    def _share_findings(self) -> None:
        """What the first process has found, for all: their batch normalisation has seen different images."""
        if dist.is_available() and dist.is_initialized():
            for found in (self.pseudo, self.weight, self.promoted):
                dist.broadcast(found, 0)

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """`two_pools` of labelled or promoted items, and the others."""
        return two_pools((self.labelled | self.promoted).cpu(), order, batch_size, self.share)

    def views_of(self, pixels: Tensor, labels: Labels, index: Index) -> InputViews:
        """One view, of the student's kind."""
        return [self.view(pixels, self.student).to(self.dtype)]

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of one view; labelled and unlabelled images pass the network apart, each with its own statistics."""
        own = labels >= 0
        targets = labels.where(own, self.pseudo[index])
        labelled = own | self.promoted[index]
        weights = self.weight[index] if self.weigh else torch.ones_like(self.weight[index])
        inputs = images[0]
        if not self.coefficient and labelled.sum() > 1:
            inputs, targets, weights, labelled = (x[labelled] for x in (inputs, targets, weights, labelled))
        return wad_loss(self._logits_apart(inputs, labelled), targets, weights, labelled, self.coefficient)

    def _logits_apart(self, inputs: Tensor, labelled: Tensor) -> Float[Tensor, "batch classes"]:
        """Logits of both parts; together where one is of fewer than 2 rows, since batch normalisation needs them."""
        parts = [labelled.nonzero().flatten(), (~labelled).nonzero().flatten()]
        if min(map(len, parts)) < 2:
            return self.logits(inputs)
        logits = torch.cat([self.logits(inputs[part]) for part in parts])
        return logits[torch.cat(parts).argsort()]

    def membership(self, data: Any) -> Float[Tensor, " samples"]:
        """How clearly the teacher prefers one class for each training item; see `weigh`. 0 where it was not asked.

        Args:
            data: the training data.
        """
        return self.weight.cpu()

    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """`promoted`: how many unlabelled items have joined the labelled ones; `weight`: the mean over all of them."""
        pool = ~self.labelled
        if not pool.any():
            return {}
        return {"promoted": float(self.promoted.sum()), "weight": float(self.weight[pool].mean())}


def _check_affinity(affinity: Tensor) -> None:
    if affinity.ndim != 2 or not affinity.shape[1]:
        raise InputError(f"affinity: expected a matrix [rows, classes], got shape {list(affinity.shape)}")
    if not affinity.is_floating_point():
        raise InputError(f"affinity: expected floating-point numbers, got {affinity.dtype}")
    values = affinity.detach()
    check_finite("affinity", values.where(values != -torch.inf, 0))
    if (values == -torch.inf).all(1).any():
        raise InputError("affinity: expected a finite number in each row, got a row of minus infinity")
