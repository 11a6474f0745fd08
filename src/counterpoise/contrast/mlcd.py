"""MLCD: cluster the images once, and train each to be near the centres of several clusters.

An, Yang, Dai, Feng, Deng, "Multi-label Cluster Discrimination for Visual Representation Learning", ECCV 2024, arXiv
2407.17331: the multi-label loss with separate terms for positives and negatives, its predecessor (MLC) and the
single-label softmax.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64, Integer
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.measure import probe_factors
from counterpoise.nets import embed
from counterpoise.ops.checks import check_counts, check_integers, check_matrix, check_number
from counterpoise.ops.clusters import kmeans
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import normalize_rows

Form = Literal["mlcd", "mlc", "bce", "softmax"]
Start = Literal["random", "centres"]


def mlcd(
    positive: Float[Tensor, "batch positives"], negative: Float[Tensor, "batch negatives"]
) -> Float[Tensor, " batch"]:
    r"""Multi-label cluster discrimination: $\log(1 + \sum_i e^{-s_i}) + \log(1 + \sum_j e^{s_j})$.

    It is `mlc` with each side also added inside the logarithm:
    $\log(1 + \sum_j e^{s_j} \sum_i e^{-s_i} + \sum_j e^{s_j} + \sum_i e^{-s_i})$. So it is not invariant when all
    scores rise together.

    Args:
        positive: scores $s_i$ of the classes that each image belongs to.
        negative: scores $s_j$ of the classes that it does not belong to; $-\infty$ excludes one.

    Returns:
        The loss of each image in nats, above 0.

    Raises:
        InputError: for mismatched shapes, or NaN.

    Examples:
        >>> mlcd(torch.zeros(1, 2), torch.zeros(1, 5))  # log 3 + log 6
        tensor([2.8904])
    """
    _check_scores(positive, negative)
    return _log1p((-positive).logsumexp(1)) + _log1p(negative.logsumexp(1))


def mlc(
    positive: Float[Tensor, "batch positives"], negative: Float[Tensor, "batch negatives"]
) -> Float[Tensor, " batch"]:
    r"""Pairwise multi-label classification: $\log(1 + \sum_j \sum_i e^{s_j - s_i})$; the softmax loss for one positive.

    Args:
        positive: scores $s_i$ of the classes that each image belongs to.
        negative: scores $s_j$ of the classes that it does not belong to; $-\infty$ excludes one.

    Returns:
        The loss of each image in nats, at least 0.

    Raises:
        InputError: for mismatched shapes, or NaN.

    Examples:
        >>> mlc(torch.zeros(1, 2), torch.zeros(1, 5))  # log 11
        tensor([2.3979])
    """
    _check_scores(positive, negative)
    return _log1p(negative.logsumexp(1) + (-positive).logsumexp(1))


def bce(
    positive: Float[Tensor, "batch positives"], negative: Float[Tensor, "batch negatives"]
) -> Float[Tensor, " batch"]:
    r"""Binary cross-entropy, class by class: $\sum_i \log(1 + e^{-s_i}) + \sum_j \log(1 + e^{s_j})$.

    Args:
        positive: scores $s_i$ of the classes that each image belongs to.
        negative: scores $s_j$ of the classes that it does not belong to; $-\infty$ excludes one.

    Returns:
        The loss of each image in nats, above 0.

    Raises:
        InputError: for mismatched shapes, or NaN.

    Examples:
        >>> bce(torch.zeros(1, 2), torch.zeros(1, 5))  # 7 log 2
        tensor([4.8520])
    """
    _check_scores(positive, negative)
    return _log1p(-positive).sum(1) + _log1p(negative).sum(1)


def sample_negatives(
    targets: Integer[Tensor, "batch positives"], classes: int, ratio: float, generator: Generator | None = None
) -> tuple[Int64[Tensor, " candidates"], Bool[Tensor, "batch candidates"]]:
    """Sample a share of each image's negative classes, the same number for every image.

    The classes are shuffled once for all images, and each image takes the first ones that are not its own. So all share
    nearly the same few prototypes, and no others need be scored.

    Args:
        targets: the classes of each image, without repeats.
        classes: number of classes.
        ratio: share of the other classes that is sampled, above 0, at most 1; at least one class if there is any.
        generator: source of the random numbers, on the CPU.

    Returns:
        The candidate classes of all images, and a mask of those that each image takes.

    Raises:
        InputError: for targets that are not classes, or a number out of range.

    Examples:
        >>> candidates, taken = sample_negatives(torch.tensor([[0, 1], [2, 3]]), classes=6, ratio=0.5)
        >>> len(candidates), taken.sum(1)
        (4, tensor([2, 2]))
    """
    check_counts(classes=classes)
    check_number("ratio", ratio, above=0, at_most=1)
    return _sample_negatives(
        _checked(targets, targets.shape[0] if targets.ndim else 0, classes), classes, ratio, generator
    )


def _sample_negatives(
    targets: Int64[Tensor, "batch positives"], classes: int, ratio: float, generator: Generator | None
) -> tuple[Int64[Tensor, " candidates"], Bool[Tensor, "batch candidates"]]:
    others = classes - targets.shape[1]
    count = max(1, round(ratio * others)) if others else 0
    size = count + targets.shape[1] if others else 0
    candidates = torch.randperm(classes, generator=generator)[:size].to(targets.device)
    place = candidates.new_full((classes,), size).index_copy(0, candidates, torch.arange(size).to(candidates))
    free = torch.ones(len(targets), size + 1, dtype=torch.bool, device=targets.device)
    free = free.scatter(1, place[targets], False)[:, :size]
    return candidates, free & (free.cumsum(1) <= count)


class MLCDLoss(nn.Module):
    r"""Multi-label cluster discrimination over sampled classes: `loss(embeddings, prototypes, targets)`.

    The score of a class is `scale` times the cosine of the image's embedding and the class's prototype. Only an image's
    own classes and the sampled ones are scored, and only their prototypes get a gradient. The sample depends on the
    number of calls in training mode, so all processes draw the same one.

    Args:
        form: "mlcd"; "mlc" and "bce", the losses of those names; or "softmax", MLC with only an image's first class.
        ratio: share of an image's negative classes that is sampled at each call, above 0, at most 1.
        scale: factor of the cosines, above 0. The paper's equations have none, which is 1; with many negatives the
            range of cosines is too small, and 16 to 64 are usual.
        seed: seed of the sampling.

    Examples:
        >>> loss = MLCDLoss(scale=2.0)
        >>> value = loss(torch.eye(2), torch.eye(2), torch.tensor([[0], [1]]))  # log(1 + e^-2) + log 2
        >>> round(value.item(), 6)
        0.820075
    """

    draw: Tensor

    def __init__(self, form: Form = "mlcd", ratio: float = 0.1, scale: float = 1.0, seed: int = 0):
        super().__init__()
        if form not in get_args(Form):
            raise unknown("form", form, get_args(Form))
        check_number("ratio", ratio, above=0, at_most=1)
        check_number("scale", scale, above=0)
        check_number("seed", seed, at_least=0, whole=True)
        self.form, self.ratio, self.scale = form, ratio, scale
        self.register_buffer("draw", torch.tensor(seed, dtype=torch.int64))

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        prototypes: Float[Tensor, "classes dim"],
        targets: Integer[Tensor, "batch *positives"],
    ) -> Float[Tensor, ""]:
        """The loss, mean over the batch.

        Args:
            embeddings: one row per image; normalised here.
            prototypes: one row per class; normalised here.
            targets: the classes of each image, the same number for each, without repeats; or one class for each.

        Returns:
            The loss in nats, above 0.

        Raises:
            InputError: for mismatched shapes, targets that are not classes, NaN, or, with the forms "mlc" and
                "softmax", which would be 0, images to which all classes belong.
        """
        check_matrix("embeddings", embeddings)
        check_matrix("prototypes", prototypes)
        if embeddings.shape[1] != prototypes.shape[1]:
            widths = f"{embeddings.shape[1]} and {prototypes.shape[1]}"
            raise InputError(f"embeddings and prototypes: expected the same width, got {widths}")
        targets = _checked(targets, len(embeddings), len(prototypes))
        if self.form == "softmax":
            targets = targets[:, :1]
        if targets.shape[1] == len(prototypes) and self.form in ("mlc", "softmax"):
            raise InputError(f"targets: all {len(prototypes)} classes belong to each image, which leaves no negative")
        generator = Generator().manual_seed(int(self.draw))
        candidates, taken = _sample_negatives(targets, len(prototypes), self.ratio, generator)
        z = normalize_rows(embeddings)
        positive = self.scale * torch.einsum("nd,npd->np", z, normalize_rows(prototypes[targets]))
        negative = self.scale * z @ normalize_rows(prototypes[candidates]).T
        loss = {"mlcd": mlcd, "bce": bce}.get(self.form, mlc)
        losses = loss(positive, negative.masked_fill(~taken, -torch.inf))
        if self.training:
            self.draw += 1
        return gather(losses).mean()


class PatchFeatures(nn.Module):
    """Features without labels or gradients: how much of each kind of patch an image contains, anywhere in it.

    Patches are normalised for brightness and contrast, whitened, and clustered. Feature k is the mean over the image's
    patches of how much nearer centre k is than the average centre. Coates, Lee, Ng, "An Analysis of Single-Layer
    Networks in Unsupervised Feature Learning", AISTATS 2011, section 3, with one pooling region instead of four.

    Args:
        images: source of the patches; the same images give the same features.
        kinds: number of kinds of patches.
        side: side of the patches in pixels; that of the images if it is smaller.
        stride: pixels from one patch to the next.
        patches: number of patches that are clustered.
    """

    mean: Tensor
    whitening: Tensor
    centres: Tensor

    def __init__(self, images: Images, kinds: int = 128, side: int = 6, stride: int = 2, patches: int = 20_000):
        super().__init__()
        check_counts(kinds=kinds, side=side, stride=stride, patches=patches)
        self.side, self.stride = min(side, *images.pixels.shape[2:]), stride
        some = self.random_patches(images, patches)
        self.register_buffer("mean", some.mean(0))
        variances, axes = torch.linalg.eigh(some.T.cov())
        self.register_buffer("whitening", axes / (variances.clamp(min=0) + 0.1).sqrt())
        self.register_buffer("centres", kmeans((some - self.mean) @ self.whitening, kinds, seed=0).centroids)

    def random_patches(self, images: Images, count: int) -> Float[Tensor, "patches pixels"]:
        """Patches from random positions of random images, the same ones at every call."""
        generator = Generator().manual_seed(0)
        image = torch.randint(len(images), (count, 1, 1), generator=generator)
        places = images.pixels.shape[2] - self.side + 1, images.pixels.shape[3] - self.side + 1
        top, left = (torch.randint(many, (count, 1, 1), generator=generator) for many in places)
        within = torch.arange(self.side)
        pixels = images.pixels.movedim(1, 3)[image, top + within[:, None], left + within]
        return _without_contrast(to_float(pixels.movedim(3, 1)).flatten(1))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch kinds"]:
        """The features of each image, at least 0."""
        patches = _without_contrast(F.unfold(images, self.side, stride=self.stride).mT)
        distances = torch.cdist((patches - self.mean) @ self.whitening, self.centres)
        return F.relu(distances.mean(2, keepdim=True) - distances).mean(1)


class MLCD(Method):
    """Pretraining without labels: several pseudo-classes for each image, from one clustering of frozen features.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        clusters: number of classes, at most that of the training images.
        positives: number of nearest clusters that are an image's classes.
        ratio: share of an image's negative classes that is sampled at each step, above 0, at most 1.
        scale: factor of the cosines, above 0.
        form: "mlcd", or one of its baselines: "mlc", "bce", and "softmax", which uses only the nearest cluster.
        prototypes: what they start from: "random" directions, or the "centres" of the clusters. Centres of another
            width than the encoder's features are turned into theirs by random orthonormal axes.
        frozen: off-the-shelf encoder of images in [-1, 1], whose features are clustered; `None` takes `PatchFeatures`.
        **recipe: arguments of `Method`.
    """

    views = 1
    targets: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        clusters: int = 128,
        positives: int = 8,
        ratio: float = 0.1,
        scale: float = 16.0,
        form: Form = "mlcd",
        prototypes: Start = "random",
        frozen: nn.Module | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        if prototypes not in get_args(Start):
            raise unknown("prototypes", prototypes, get_args(Start))
        check_counts(samples=samples)
        check_number("clusters", clusters, at_least=2, whole=True)
        clusters = min(clusters, samples)
        positives = 1 if form == "softmax" else positives
        check_number("positives", positives, at_least=1, at_most=clusters, whole=True)
        if positives == clusters and form in ("mlc", "softmax"):
            raise InputError(f"positives: expected fewer than the {clusters} clusters, or no class is a negative")
        self.start, self.frozen = prototypes, None if frozen is None else frozen.requires_grad_(False)
        self.prototypes = nn.Parameter(normalize_rows(torch.randn(clusters, self.features)))
        self.objective = MLCDLoss(form, ratio, scale, seed=int(torch.randint(1 << 62, ())))
        # Until the images are clustered, each gets classes by its number.
        targets = (torch.arange(samples)[:, None] + torch.arange(positives)) % clusters
        self.register_buffer("targets", targets)

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Before the first epoch, cluster the frozen features: an image's classes are the centres of largest cosine."""
        if epoch > 0:
            return
        features = normalize_rows(embed(self.off_the_shelf(images), images, to_float, batch_size=64))
        centres = kmeans(features, len(self.prototypes)).centroids
        self.targets.copy_(nearest(features, centres, self.targets.shape[1])[1])
        if self.start == "centres":
            self._start_from(centres)

    @torch.no_grad()
    def _start_from(self, centres: Float[Tensor, "clusters width"]) -> None:
        """Give the prototypes the directions of the centres; one whose centre is 0 keeps its own."""
        found = normalize_rows(_turned(centres, self.features)).to(self.prototypes)
        self.prototypes.copy_(found.where(found.any(1, keepdim=True), self.prototypes))
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.prototypes, 0)  # an accelerator's sums may differ in the last bits

    def off_the_shelf(self, train: Images) -> nn.Module:
        """The encoder whose features are clustered; if none is given, `PatchFeatures` of the training images."""
        return PatchFeatures(train) if self.frozen is None else self.frozen

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss between the encoder's features, without a head, and the prototypes."""
        return self.objective(self.encoder(images[0]), self.prototypes, self.targets[index])

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """Alignment with the prototypes, and the quality of the clustered features.

        `positive_cosine` and `negative_cosine`: mean cosine of the training images and the prototypes of their own and
        of other classes. `off_the_shelf`, where a probe can read some factors: the score `factors` of the frozen
        features.
        """
        z = normalize_rows(embed(self.encoder, train, to_float)).to(self.prototypes.device)
        prototypes = normalize_rows(self.prototypes.detach())
        own = (z * prototypes[self.targets].sum(1)).sum(1)
        others = (z @ prototypes.sum(0) - own) / max(1, len(prototypes) - self.targets.shape[1])
        found = {
            "positive_cosine": float(own.mean()) / self.targets.shape[1],
            "negative_cosine": float(others.mean()),
        }
        if test.factors and len(probe):
            frozen = self.off_the_shelf(train)
            known, unseen = (embed(frozen, images, to_float, batch_size=64) for images in (probe, test))
            if values := probe_factors(known, probe.factors, unseen, test.factors).values():
                found["off_the_shelf"] = sum(values) / len(values)
        return found


def _turned(centres: Float[Tensor, "clusters width"], dim: int) -> Float[Tensor, "clusters dim"]:
    """The centres as they are, or in `dim` numbers by random orthonormal axes.

    More numbers keep all inner products, fewer keep them on average, up to a factor.
    """
    if centres.shape[1] == dim:
        return centres
    return centres @ nn.init.orthogonal_(centres.new_empty(dim, centres.shape[1])).T


def _check_scores(positive: Tensor, negative: Tensor) -> None:
    check_matrix("positive", positive, at_least=0, columns=0)
    if negative.ndim != 2 or len(negative) != len(positive):
        raise InputError(f"negative: expected scores of the {len(positive)} images, got shape {list(negative.shape)}")
    if not negative.is_floating_point():
        raise InputError(f"negative: expected floating-point numbers, got {negative.dtype}")
    if negative.numel() and not negative.detach().amax() < torch.inf:  # also true for NaN
        raise InputError("negative: expected numbers, or -infinity to leave a class out, got NaN or infinity")


def _log1p(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without the linear shortcut of PyTorch's softplus for large x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _without_contrast(patches: Float[Tensor, "*patches pixels"]) -> Float[Tensor, "*patches pixels"]:
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 0.01).sqrt()


def _checked(targets: Tensor, rows: int, classes: int) -> Int64[Tensor, "batch positives"]:
    """Check the classes of each image; return them as a matrix."""
    if targets.ndim not in (1, 2) or len(targets) != rows or not targets.numel():
        raise InputError(f"targets: expected the classes of each of the {rows} rows, got shape {list(targets.shape)}")
    targets = check_integers("targets", targets.flatten(), targets.numel(), low=0, high=classes).view(rows, -1)
    if (targets.sort(1).values.diff(dim=1) == 0).any():
        raise InputError("targets: expected different classes in each row, got one twice")
    return targets
