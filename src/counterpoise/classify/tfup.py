"""TFUP: a cache of confident unlabelled images corrects a zero-shot classifier, without any label or training.

Long, Wang, Zhao, Tan, Wu, Wang, Wang, "Training-Free Unsupervised Prompt for Vision-Language Models", 2024, arXiv
2404.16339, in the form of the authors' code; with TFUP-T, which trains small adapters by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data.parts import Labelled
from counterpoise.errors import InputError, unknown
from counterpoise.learners.classifier import cross_entropy
from counterpoise.learners.describer import Describer, frozen_towers
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.features import evaluation
from counterpoise.ops.checks import check_counts, check_integers, check_matrix, check_number, check_values
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.similarity import at_least_float32, normalize_rows

Choice = Literal["prototype", "confidence"]
Similarity = Literal["both", "feature"]


def semantic(
    rows: Float[Tensor, "n dim"], texts: Float[Tensor, "classes dim"], scale: float = 10.0
) -> Float[Tensor, "n classes"]:
    """Logarithms of the probabilities of the classes, `log_softmax(scale · cosine)`: what an image is taken for.

    Args:
        rows: of images; normalised here.
        texts: one row a class; normalised here.
        scale: of the cosines, above 0.

    Raises:
        InputError: for wrong shapes, NaN, or a scale out of range.

    Examples:
        >>> semantic(torch.tensor([[1.0, 0.0]]), torch.eye(2), scale=1.0).exp()
        tensor([[0.7311, 0.2689]])
    """
    check_number("scale", scale, above=0)
    return (scale * _cosines("rows", rows, "texts", texts)).log_softmax(1)


class Cache(NamedTuple):
    """Images that stand for classes.

    Attributes:
        rows: which images of the pool, class by class, and within a class the most typical first.
        labels: the class that each stands for.
    """

    rows: Int64[Tensor, " keys"]
    labels: Int64[Tensor, " keys"]


def shots_of(images: int, classes: int, share: float = 0.3, most: int | None = 16, least: int = 9) -> int:
    """How many images of each class are kept: a share of those that a class has on average, within limits.

    Args:
        images: of the pool, at least 1.
        classes: at least 1.
        share: of the images of an average class, above 0; 0.3 for the cache, 0.75 for training.
        most: at most so many; `None` sets no limit, as in training.
        least: at least so many.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> shots_of(1000, 10), shots_of(400, 10), shots_of(100, 10), shots_of(1000, 10, 0.75, None)
        (16, 12, 9, 75)
    """
    check_counts(images=images, classes=classes, least=least, **({} if most is None else {"most": most}))
    check_number("share", share, above=0)
    shots = max(least, int(share * images / classes))
    return shots if most is None else min(most, shots)


def _cosines(first: str, a: Tensor, second: str, b: Tensor) -> Tensor:
    """Cosines of rows that are checked by their names."""
    check_matrix(first, a)
    check_matrix(second, b)
    _check_width(first, a, second, b)
    return normalize_rows(at_least_float32(a)) @ normalize_rows(at_least_float32(b)).T


def _check_width(first: str, a: Tensor, second: str, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"{first}: expected rows of width {b.shape[1]}, as {second} has, got {a.shape[1]}")


def _negative_entropy(log_p: Tensor) -> Tensor:
    """The sum of p log p of each row: its negative entropy."""
    return (log_p.exp() * log_p).sum(1)


def _check_log_p(name: str, log_p: Tensor) -> None:
    """Refuse anything but the logarithms of probabilities of two classes or more."""
    check_matrix(name, log_p, columns=2)
    if (log_p.detach().float().logsumexp(1).abs() > 0.01).any():
        raise InputError(f"{name}: expected logarithms of probabilities, whose exponentials add up to 1 in each row")


def select(log_p: Float[Tensor, "n classes"], shots: int, choice: Choice = "prototype") -> Cache:
    r"""For each class, of the $2s$ images that are surest of it, the $s$ that are most like the others.

    The score of candidate $j$ is $\sum_i KL(P_j \| P_i)$ over the candidates of the class; the smallest are kept, in
    ascending order. An image may stand for several classes. Of fewer than $2s$ images all are candidates.

    Args:
        log_p: of each image of the pool, from `semantic`.
        shots: how many are kept of each class, at least 1.
        choice: "prototype" as above; "confidence" keeps the $s$ that are surest.

    Raises:
        InputError: for no images, what is no logarithm of probabilities, a number out of range or an unknown choice.

    Examples:
        >>> log_p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]]).log()
        >>> select(log_p, 1, "confidence")
        Cache(rows=tensor([0, 3]), labels=tensor([0, 1]))
    """
    _check_log_p("log_p", log_p)
    check_counts(shots=shots)
    if choice not in get_args(Choice):
        raise unknown("choice", choice, get_args(Choice))
    log_p = at_least_float32(log_p)
    found = []
    for confidence in log_p.T:
        order = confidence.argsort(descending=True, stable=True)
        if choice == "prototype":
            candidates = order[: 2 * shots]
            of_class = log_p[candidates]
            # The candidate's own entropy is in every term; its divergence from itself is 0.
            score = len(candidates) * _negative_entropy(of_class) - of_class.exp() @ of_class.sum(0)
            order = candidates[score.argsort(stable=True)]
        found.append(order[:shots])
    kept = len(found[0])
    labels = torch.arange(log_p.shape[1], device=log_p.device).repeat_interleave(kept)
    return Cache(torch.cat(found), labels)


def agreement(log_p: Float[Tensor, "n classes"], log_q: Float[Tensor, "keys classes"]) -> Float[Tensor, "n keys"]:
    r"""How much alike images and keys are taken for: 2 for the nearest key of an image, 0 for the farthest.

    $2 (\max_m k_m - k_m) / (\max_m k_m - \min_m k_m)$ with $k_m = KL(P \| Q_m)$, as two products; no array of images ×
    keys × classes is formed. Where all keys are equally far, each is nearest. (The code standardises $k$ over the keys
    first, which cancels.)

    Args:
        log_p: of each image, from `semantic`.
        log_q: of each key.

    Raises:
        InputError: for different classes, no key, or what is no logarithm of probabilities.

    Examples:
        >>> log_p = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]).log()
        >>> agreement(log_p[:1], log_p)
        tensor([[2.0000, 1.5812, 0.0000]])
    """
    _check_log_p("log_p", log_p)
    _check_log_p("log_q", log_q)
    if log_p.shape[1] != log_q.shape[1]:
        raise InputError(f"log_q: expected {log_p.shape[1]} classes, as log_p has, got {log_q.shape[1]}")
    return _agreement(at_least_float32(log_p), at_least_float32(log_q))


def _agreement(log_p: Tensor, log_q: Tensor) -> Tensor:
    divergence = _negative_entropy(log_p)[:, None] - log_p.exp() @ log_q.T
    low, high = divergence.aminmax(dim=1, keepdim=True)
    span = high - low
    # Rounding of the two products leaves a span where all are equal.
    noise = 8 * torch.finfo(span.dtype).eps * (1 + log_q.abs().amax())
    return torch.where(span > noise, 2 * (high - divergence) / span.clamp(min=noise), 2.0)


def residual(
    affinity: Float[Tensor, "n keys"], labels: Int64[Tensor, " keys"], classes: int, beta: float = 1.0
) -> Float[Tensor, "n classes"]:
    r"""What the cache says of each class: the sum over its keys of $e^{-\beta (1 - A)}$.

    Args:
        affinity: of each image with each key, $A$: from -2 to 2, but for rounding.
        labels: class of each key.
        classes: how many there are.
        beta: sharpness, 0 or more; at 0 each class gets the number of its keys.

    Raises:
        InputError: for wrong shapes, NaN, labels that are no class, or a number out of range.

    Examples:
        >>> residual(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([0, 0, 1]), 2)
        tensor([[1.3679, 1.0000]])
    """
    check_matrix("affinity", affinity)
    check_values("affinity", affinity, at_least=-2.01, at_most=2.01)
    check_counts(classes=classes)
    check_number("beta", beta, at_least=0)
    labels = check_integers("labels", labels, rows=affinity.shape[1], low=0, high=classes)
    return _residual(at_least_float32(affinity), labels, classes, beta)


def _residual(affinity: Tensor, labels: Tensor, classes: int, beta: float) -> Tensor:
    votes = (beta * (affinity - 1)).exp()
    return votes.new_zeros(len(votes), classes).index_add_(1, labels, votes)


def corrected(
    rows: Float[Tensor, "n dim"],
    texts: Float[Tensor, "classes dim"],
    keys: Float[Tensor, "keys dim"],
    labels: Int64[Tensor, " keys"],
    *,
    alpha: float = 0.3,
    beta: float = 1.0,
    scale: float = 100.0,
    similarity: Similarity = "both",
    semantic_scale: float = 10.0,
) -> Float[Tensor, "n classes"]:
    r"""The logits of TFUP, $s\, x W^\top + \alpha \sum_m e^{-\beta(1 - A_m)} V_m$.

    $A = (x K^\top) \odot$ `agreement` of the images with the keys, whose classes are $V$.

    Args:
        rows: of images; normalised here, as are the others.
        texts: one row a class.
        keys: the images of the cache.
        labels: the class that each of them stands for.
        alpha: weight of the cache, 0 or more; it suits a scale of 100, so another scale wants another weight.
        beta: sharpness, 0 or more.
        scale: of the cosines with the texts, above 0.
        similarity: "both"; "feature" leaves the agreement out, as Tip-Adapter does (Zhang et al., ECCV 2022).
        semantic_scale: of `semantic`.

    Raises:
        InputError: for wrong shapes, NaN, numbers out of range, or an unknown similarity.

    Examples:
        >>> texts, keys = torch.eye(2), torch.tensor([[1.0, 0.2], [0.2, 1.0]])
        >>> corrected(torch.tensor([[1.0, 0.9]]), texts, keys, torch.tensor([0, 1]), alpha=0.0)
        tensor([[74.3294, 66.8965]])
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        check_number(name, value, at_least=0)
    for name, value in (("scale", scale), ("semantic_scale", semantic_scale)):
        check_number(name, value, above=0)
    if similarity not in get_args(Similarity):
        raise unknown("similarity", similarity, get_args(Similarity))
    log_q = (semantic_scale * _cosines("keys", keys, "texts", texts)).log_softmax(1)
    labels = check_integers("labels", labels, rows=len(keys), low=0, high=len(texts))
    check_matrix("rows", rows)
    _check_width("rows", rows, "texts", texts)

    def part(rows: Tensor, texts: Tensor, keys: Tensor, log_q: Tensor) -> Tensor:
        logits, affinity = rows @ texts.T, rows @ keys.T
        if similarity == "both":
            affinity = affinity * _agreement((semantic_scale * logits).log_softmax(1), log_q)
        return scale * logits + alpha * _residual(affinity, labels, len(texts), beta)

    rows, texts, keys = (normalize_rows(at_least_float32(x)) for x in (rows, texts, keys))
    return map_row_chunks(part, [rows], [texts, keys, log_q], columns=len(keys) + len(texts))


def tuning_loss(
    logits: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    threshold: float = 0.9,
    weight: float = 0.3,
) -> Float[Tensor, ""]:
    r"""Cross-entropy with the classes that the teacher is sure of, and the negative entropy of the mean prediction.

    $\frac1{|B_c|} \sum_{B_c} CE(\text{logits}, \arg\max \text{teacher}) + w \sum_c \bar p_c \log(\bar p_c + 10^{-6})$

    $B_c$ are the images whose largest probability by the teacher is above the threshold; without any the first term is
    0. The second keeps the predicted classes spread, which suits data of about equally frequent classes.

    Args:
        logits: of strong views.
        teacher: logits of the same images as they are; no gradient reaches them.
        threshold: of the teacher's largest probability, from 0 to below 1.
        weight: of the second term, 0 or more.

    Raises:
        InputError: for different shapes, NaN, or a number out of range.

    Examples:
        >>> even = torch.zeros(2, 2)
        >>> round(tuning_loss(even, even).item(), 4)  # nobody is sure: 0.3 log(1/2)
        -0.2079
    """
    check_matrix("logits", logits)
    check_matrix("teacher", teacher)
    if logits.shape != teacher.shape:
        raise InputError(f"teacher: expected shape {list(logits.shape)}, as logits has, got {list(teacher.shape)}")
    check_number("threshold", threshold, at_least=0, below=1)
    check_number("weight", weight, at_least=0)
    logits, (sure, target) = at_least_float32(logits), at_least_float32(teacher).detach().softmax(1).max(1)
    kept = sure > threshold
    agreed = (F.cross_entropy(logits, target, reduction="none") * kept).sum() / kept.sum().clamp(min=1)
    mean = logits.softmax(1).mean(0)
    return agreed + weight * (mean * (mean + 1e-6).log()).sum()


class Adapters(nn.Module):
    r"""What TFUP-T trains: a correction of each name's row, and a small network of images' rows.

    $W' \propto (1 - b) W + b\, r$ with $r = 0$ at first, and $x' \propto (1 - a) x + a\, m(x)$ with a perceptron $m$
    without biases, of a ReLU after both layers; all rows of length 1.

    Args:
        classes: how many names.
        dim: of the rows, at least 4.
        text_share: $b$, from 0 to below 1.
        image_share: $a$, from 0 to below 1.

    Examples:
        >>> adapters = Adapters(3, 8)
        >>> names = F.normalize(torch.rand(3, 8))
        >>> torch.allclose(adapters.names(names), names)
        True
    """

    def __init__(self, classes: int, dim: int, text_share: float = 0.5, image_share: float = 0.2):
        super().__init__()
        check_counts(classes=classes, dim=dim // 4)
        for name, value in (("text_share", text_share), ("image_share", image_share)):
            check_number(name, value, at_least=0, below=1)
        self.text_share, self.image_share = text_share, image_share
        self.correction = nn.Parameter(torch.zeros(classes, dim))
        self.down, self.up = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim // 4, dim, bias=False)

    def names(self, names: Float[Tensor, "classes dim"]) -> Float[Tensor, "classes dim"]:
        """Corrected rows of names."""
        return normalize_rows((1 - self.text_share) * names + self.text_share * self.correction)

    def images(self, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Corrected rows of images."""
        small = self.up(self.down(rows).relu()).relu()
        return normalize_rows((1 - self.image_share) * rows + self.image_share * small)


class TFUP(Describer):
    """Zero-shot classification with a cache of unlabelled images; with `tuned`, adapters that are trained by it.

    Args:
        encoder: not used; that of the towers is.
        towers: images and names in one space.
        samples: how many training images there are.
        unlabelled: how many of them have no label.
        batch_size: images a step.
        new_names: of the classes that the unlabelled images may show.
        alpha: weight of the cache, 0 or more.
        beta: sharpness, 0 or more.
        choice: which images are kept: "prototype" or "confidence".
        similarity: "both"; "feature" leaves out how much alike images are taken for.
        share: of the images of an average class that are kept, within 9 and 16.
        tuned: train adapters on the unlabelled images (TFUP-T); then the cache only teaches them.
        tuning_share: as `share`, without an upper limit, of the images that they are trained on first.
        first: share of the steps in which they are trained on these alone.
        tuning_epochs: over the images without a label, at most as many as the run has; training then ends.
        threshold: of the teacher's probability, afterwards.
        spread: weight of the negative entropy of the mean prediction.
        scale: of the cosines with names; `alpha` suits 100.
        semantic_scale: of the cosines in the probabilities by which images are compared.
        lr: peak learning rate.
        weight_decay: decay of the weights.
        eps: of AdamW: so large that small gradients move the adapters little.
        **recipe: arguments of `Method`.
    """

    plain: Tensor
    pool: Tensor
    pseudo: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        towers: nn.Module | None,
        samples: int,
        unlabelled: int,
        batch_size: int,
        new_names: Sequence[str],
        alpha: float = 0.3,
        beta: float = 1.0,
        choice: Choice = "prototype",
        similarity: Similarity = "both",
        share: float = 0.3,
        tuned: bool = False,
        tuning_share: float = 0.75,
        first: float = 1 / 6,
        tuning_epochs: int = 30,
        threshold: float = 0.9,
        spread: float = 0.3,
        scale: float = 100.0,
        semantic_scale: float = 10.0,
        lr: float = 0.012,
        weight_decay: float = 0.1,
        eps: float = 3e-3,
        **recipe: Any,
    ):
        super().__init__(frozen_towers(towers), lr=lr, weight_decay=weight_decay, **recipe)
        check_number("eps", eps, above=0)
        check_counts(samples=samples, batch_size=batch_size, tuning_epochs=tuning_epochs)
        check_number("unlabelled", unlabelled, at_least=0, whole=True)
        self.eps, self.tuning_epochs = eps, tuning_epochs
        self.epoch_batches = max(1, unlabelled // batch_size)
        self.scale, self.semantic_scale = scale, semantic_scale
        self.correct: Callable[..., Tensor] = partial(
            corrected,
            alpha=alpha,
            beta=beta,
            scale=scale,
            similarity=similarity,
            semantic_scale=semantic_scale,
        )
        self.choice, self.share, self.tuning_share = choice, share, tuning_share
        self.first, self.threshold, self.spread = first, threshold, spread
        self._check()
        self.trains = tuned
        self.new_names = list(new_names)
        self.adapters = Adapters(len(self.new_names), self.features) if tuned else None
        self.new_rows: Tensor  # of the new names, and
        self.teaching: Cache  # their cache: both are found again before each epoch
        self.register_buffer("plain", torch.zeros(samples, self.features))  # rows of the images as they are
        self.register_buffer("pool", torch.zeros(samples, dtype=torch.bool))  # which images have no label
        self.register_buffer("pseudo", torch.full((samples,), -1))  # labels of those that are trained on first

    def _check(self) -> None:
        """Refuse arguments that are out of range, before anything is trained."""
        eye = torch.eye(2)
        self.correct(eye, eye, eye, torch.tensor([0, 1]))
        select(semantic(eye, eye), 1, self.choice)
        for share in (self.share, self.tuning_share):
            shots_of(1, 1, share)
        check_number("first", self.first, at_least=0, at_most=1)
        tuning_loss(eye, eye, self.threshold, self.spread)

    def check_data(self, images: Labelled, batch_size: int, shares: int = 1) -> None:
        """Refuse data without an unlabelled image, of which there would be no cache."""
        if not (images.labels < 0).any():
            raise InputError(f"labels: TFUP needs images without one, but all {len(images)} have one")

    def start_epoch(self, data: Any, epoch: int) -> None:
        """See all images as they are, once; of those that are trained on first, find the pseudo-labels."""
        if epoch == 0:
            self.plain.copy_(self.rows(data))
            self.pool.copy_(data.labels < 0)
        if self.adapters is None:
            return
        names = self.new_rows = self.names(self.new_names).to(self.plain)
        self.teaching = self.cache_of(names)
        if epoch == 0:
            pool = self.pool.nonzero().flatten()
            chosen = pool[self.chosen(names, shots_of(len(pool), len(names), self.tuning_share, None)).rows.unique()]
            self.pseudo[chosen] = self.cached(self.plain[chosen], names, self.teaching).argmax(1)

    def chosen(self, names: Float[Tensor, "classes dim"], shots: int) -> Cache:
        """Images of the pool that stand for names."""
        return select(semantic(self.plain[self.pool].to(names), names, self.semantic_scale), shots, self.choice)

    def cache_of(self, names: Float[Tensor, "classes dim"]) -> Cache:
        """The images of the pool that correct the logits of names."""
        return self.chosen(names, shots_of(int(self.pool.sum()), len(names), self.share))

    def cached(
        self, rows: Float[Tensor, "n dim"], names: Float[Tensor, "classes dim"], cache: Cache
    ) -> Float[Tensor, "n classes"]:
        """Logits with a cache, whose classes are those of the names."""
        keys = self.plain[self.pool].to(rows)[cache.rows.to(rows.device)]
        return self.correct(rows, names, keys, cache.labels.to(rows.device))

    def scores(self, rows: Float[Tensor, "n dim"], names: Sequence[str]) -> Float[Tensor, "n classes"]:
        """Logits with the cache; of trained adapters, without it.

        Args:
            rows: of the images, from `rows`.
            names: of the classes that it is chosen between. Adapters correct the rows of those that they were trained
                for.
        """
        found = self.names(names)
        if self.adapters is None:
            return self.cached(rows, found, self.cache_of(found))
        with torch.no_grad():
            own = dict(zip(self.new_names, self.adapters.names(self.names(self.new_names).to(self.plain)), strict=True))
            found = torch.stack([own.get(name, row) for name, row in zip(names, found.to(self.plain), strict=True)])
            return (self.scale * self.adapters.images(rows.to(self.plain)) @ found.T).cpu()

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW with the method's `eps`, or SGD."""
        if self.optimizer == "sgd":
            return super().make_optimizer(groups)
        return torch.optim.AdamW(groups, lr=self.lr, eps=self.eps)

    def training_steps(self) -> int:
        """Those of the epochs that it trains for."""
        epoch = math.ceil(self.epoch_batches / self.trainer.accumulate_grad_batches)
        return min(super().training_steps(), self.tuning_epochs * epoch)

    def on_train_epoch_end(self) -> None:
        """End training after the last epoch, whatever the run has left."""
        self.trainer.should_stop |= self.current_epoch + 1 >= self.tuning_epochs

    def batches(self, order: Int64[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """Of unlabelled images alone."""
        order = order[self.pool.cpu()[order]]
        return super().batches(order, min(batch_size, len(order)))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy with the pseudo-labels at first; then `tuning_loss`, which the cache teaches."""
        assert self.adapters is not None
        with torch.no_grad(), evaluation(self.towers.module):
            rows = self.towers.images(images[0])
        names = self.adapters.names(self.new_rows)
        logits = self.scale * self.adapters.images(rows) @ names.T
        if self.global_step < self.first * self.training_steps():
            return cross_entropy(logits, self.pseudo[index])
        with torch.no_grad():
            weak = self.cached(self.adapters.images(self.plain[index]), names, self.teaching)
        return tuning_loss(logits, weak, self.threshold, self.spread)
