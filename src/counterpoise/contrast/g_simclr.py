"""G-SimCLR: SimCLR on batches in which no two images share a category, estimated by clustering.

Chakraborty, Gosthipaty, Paul, "G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo
Labelling", ICDM 2020 workshops, arXiv 2009.12007, section III: a denoising auto-encoder, k-means on its codes, batches
of images with different pseudo-labels, and SimCLR's loss on them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Sampler

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.data import Images
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.minimize import minimize
from counterpoise.ops.checks import check_counts, check_integers, check_number, check_numbers, check_torch_device
from counterpoise.ops.clusters import kmeans

WIDTHS = (32, 64, 128)
GUIDES = ("codes", "classes", "none")


class DenoisingAutoencoder(nn.Module):
    """Three 3x3 convolutions, each halving the image, and their mirror image: `autoencoder(images)`.

    Args:
        channels: of the images.
        noise: standard deviation of the Gaussian noise that is added to the pixels while training.

    Examples:
        >>> autoencoder = DenoisingAutoencoder(channels=1).eval()
        >>> images = torch.rand(2, 1, 28, 28)
        >>> autoencoder(images).shape, autoencoder.codes(images).shape
        (torch.Size([2, 1, 28, 28]), torch.Size([2, 128]))
    """

    def __init__(self, channels: int, noise: float = 0.01):
        super().__init__()
        check_counts(channels=channels)
        check_number("noise", noise, at_least=0)
        self.noise = noise
        first, second, third = WIDTHS
        # Rounding up accepts images of any size; it changes nothing for sizes divisible by eight.
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(_convolution(*widths), nn.MaxPool2d(2, ceil_mode=True))
                for widths in ((channels, first), (first, second), (second, third))
            )
        )
        self.decoder = nn.ModuleList(
            _convolution(*widths) for widths in ((third, third), (third, second), (second, first))
        )
        self.pixels = nn.Conv2d(first, channels, 3, padding=1)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The reconstruction of the images, in [0, 1]."""
        x = images + self.noise * torch.randn_like(images) if self.training else images
        sizes = []
        for halve in self.encoder:
            sizes.append(x.shape[2:])
            x = halve(x)
        for convolve, size in zip(self.decoder, reversed(sizes), strict=True):
            x = convolve(F.interpolate(x, size))
        return torch.sigmoid(self.pixels(x))

    def codes(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 128"]:
        """The bottleneck's maps, averaged over the image."""
        return self.encoder(images).mean((2, 3))


def train_autoencoder(
    images: Images,
    epochs: int,
    noise: float = 0.01,
    patience: int = 2,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> DenoisingAutoencoder:
    """Train a `DenoisingAutoencoder` to reconstruct the clean images: squared error, Adam.

    A tenth of the images is held out. Training stops when their error has not fallen for `patience` epochs, and the
    weights with the lowest error are kept.

    Args:
        images: at least 2; their labels are not read.
        epochs: largest number of passes.
        noise: standard deviation of the noise on pixels in [0, 1].
        patience: epochs without a lower error before training stops.
        batch_size: largest number of images a step.
        device: where to train.

    Returns:
        The auto-encoder in evaluation mode.

    Raises:
        InputError: for fewer than 2 images, a number out of range, or a device that is not there.
    """
    check_number("images", len(images), at_least=2)
    device = check_torch_device("device", device)
    check_counts(epochs=epochs, patience=patience, batch_size=batch_size)
    autoencoder = DenoisingAutoencoder(images.pixels.shape[1], noise).to(device)
    optimizer = torch.optim.Adam(autoencoder.parameters())
    unseen, seen = torch.randperm(len(images)).split([held := max(1, len(images) // 10), len(images) - held])
    least, waited, best = math.inf, 0, autoencoder.state_dict()
    for _ in range(epochs):
        autoencoder.train()
        minimize(partial(_error, autoencoder, images), _parts(seen[torch.randperm(len(seen))], batch_size), optimizer)
        autoencoder.eval()
        with torch.no_grad():
            errors = [len(index) * _error(autoencoder, images, index).item() for index in _parts(unseen, batch_size)]
        if sum(errors) < least:
            least, waited, best = sum(errors), 0, copy.deepcopy(autoencoder.state_dict())
        elif (waited := waited + 1) == patience:
            break
    autoencoder.load_state_dict(best)
    return autoencoder.eval()


def guided_batches(
    labels: Integer[Tensor, " n"], order: Int64[Tensor, " n"], batch_size: int, strict: bool = False
) -> list[list[int]]:
    r"""Batches with distinct pseudo-labels: the first image of every cluster, then the second of every cluster …

    Let $r_i$ be the rank of image i within its cluster, and fix an order of the clusters for the epoch. Images are
    sorted by rank, then cluster, and cut into batches; a smaller last one is dropped. While at least `batch_size`
    clusters have images left, no batch repeats a pseudo-label; afterwards those of the larger clusters repeat.

    `order` is the only source of randomness: it decides the ranks and the order of the clusters and of the batches. The
    order 0, 1, 2 … gives the batches of the authors' notebooks.

    Args:
        labels: the pseudo-label of each image; an image with a negative one is a separate cluster.
        order: all numbers from 0 to n - 1.
        batch_size: images a batch.
        strict: stop where a pseudo-label would repeat, which leaves out images of the largest clusters.

    Returns:
        The indices of each batch.

    Raises:
        InputError: for labels that are not integers, an `order` that is not a permutation, a batch size below 1, and,
            if `strict`, for fewer pseudo-labels than `batch_size`.

    Examples:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 2])
        >>> guided_batches(labels, torch.arange(6), batch_size=2)
        [[0, 3], [5, 1], [4, 2]]
        >>> guided_batches(torch.tensor([0, 0, 0, 1]), torch.arange(4), batch_size=2, strict=True)
        [[0, 3]]
    """
    order = check_integers("order", order, order.numel(), low=0, high=order.numel())
    labels = check_integers("labels", labels, len(order))
    if not len(order) or int(order.bincount().max()) > 1:
        raise InputError(f"order: expected each number from 0 to {len(order) - 1} once")
    check_counts(batch_size=batch_size)
    cluster = _clusters(labels)[order]
    sizes = cluster.bincount()
    rank = torch.empty_like(cluster)
    by_cluster = cluster.argsort(stable=True)
    rank[by_cluster] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[cluster[by_cluster]]
    # Any prefix of the numbers is ordered as randomly within `order` as the whole.
    place = order[order < len(sizes)].argsort()
    sequence = order[(rank * len(sizes) + place[cluster]).argsort()][: _used(sizes, batch_size, strict)]
    batches = sequence[: len(sequence) // batch_size * batch_size].view(-1, batch_size).tolist()
    return [batches[number] for number in order[order < len(batches)].tolist()]


def same_class_share(batches: list[list[int]], classes: Integer[Tensor, " n"]) -> float:
    """The share of image pairs within batches that have one class; G-SimCLR tries to keep it small.

    Args:
        batches: indices of the images in each batch.
        classes: class of each image.

    Returns:
        From 0 to 1; 0 where no batch has a pair.

    Raises:
        InputError: for classes that are not integers, or an index out of range.

    Examples:
        >>> same_class_share([[0, 1, 2]], torch.tensor([5, 5, 6]))  # one of three pairs
        0.3333333333333333
    """
    classes = check_integers("classes", classes, classes.numel())
    rows = [torch.tensor(check_numbers("batches", batch, least=0, whole=True), dtype=torch.int64) for batch in batches]
    for row in rows:
        check_integers("batches", row, len(row), low=0, high=len(classes))
    counts = [classes[row].unique(return_counts=True)[1] for row in rows]
    same = sum(int((count * (count - 1)).sum()) for count in counts)
    return same / max(1, sum(len(row) * (len(row) - 1) for row in rows))


class PseudoLabelBatchSampler(Sampler[list[int]]):
    """`guided_batches` for a `DataLoader`: `DataLoader(images, batch_sampler=PseudoLabelBatchSampler(labels, 64))`.

    If several processes divide a batch, `batch_size` is the total over all of them, and each takes its share of every
    batch.

    Args:
        labels: the pseudo-label of each image; an image with a negative one is a separate cluster.
        batch_size: images a batch.
        shuffle: draw new batches every epoch, see `set_epoch`; if not, the same ones in the order of the images.
        strict: end an epoch when a pseudo-label would repeat within a batch.
        seed: of the shuffling.

    Raises:
        InputError: for no label or labels that are not integers, a number out of range, and, if `strict`, for fewer
            pseudo-labels than `batch_size`.

    Examples:
        >>> sampler = PseudoLabelBatchSampler(torch.tensor([0, 0, 1, 1]), batch_size=2, shuffle=False)
        >>> list(sampler), len(sampler)
        ([[0, 2], [1, 3]], 2)
    """

    def __init__(
        self, labels: Integer[Tensor, " n"], batch_size: int, shuffle: bool = True, strict: bool = False, seed: int = 0
    ):
        labels = check_integers("labels", labels, labels.numel())
        if not len(labels):
            raise InputError("labels: expected at least 1, got none")
        check_counts(batch_size=batch_size)
        check_number("seed", seed, at_least=0, whole=True)
        self.labels, self.batch_size, self.shuffle, self.strict = labels, batch_size, shuffle, strict
        self.seed, self.epoch = seed, 0
        self.length = _used(_clusters(labels).bincount(), batch_size, strict) // batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which, with the seed, the batches depend."""
        check_number("epoch", epoch, at_least=0, whole=True)
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(len(self.labels))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(len(self.labels), generator=generator)
        return iter(guided_batches(self.labels, order, self.batch_size, self.strict))


class GSimCLR(ProjectedMethod):
    """SimCLR on batches with distinct pseudo-labels, found before training by k-means on an auto-encoder's codes.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        clusters: of k-means; with fewer than the batch size, pseudo-labels repeat in every batch. `None` takes the
            batch size, as the authors do, or the number of images if that is smaller.
        guide: source of the pseudo-labels: "codes", the clusters of the auto-encoder's codes; "classes", the images'
            own labels, an upper bound for better clusters; "none", one for every image, which is SimCLR.
        shuffle: new batches every epoch; if not, the same in every epoch, as in the authors' notebooks.
        strict: end an epoch when a pseudo-label would repeat within a batch.
        autoencoder_epochs: largest number of passes to train the auto-encoder.
        noise: standard deviation of the noise that the auto-encoder removes, for pixels in [0, 1].
        temperature: above 0.
        batch_size: images a step, of all processes together; the tasks fill it in.
        **recipe: arguments of `ProjectedMethod`.
    """

    pseudo_labels: Tensor
    batch_size: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        clusters: int | None = None,
        guide: Literal["codes", "classes", "none"] = "codes",
        shuffle: bool = True,
        strict: bool = False,
        autoencoder_epochs: int = 10,
        noise: float = 0.01,
        temperature: float = 0.1,
        batch_size: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(samples=samples, batch_size=batch_size)
        check_counts(autoencoder_epochs=autoencoder_epochs)
        if clusters is None:
            clusters = min(batch_size, samples)
        check_number("clusters", clusters, at_least=1, at_most=samples, whole=True)
        check_number("noise", noise, at_least=0)
        if guide not in GUIDES:
            raise unknown("guide", guide, GUIDES)
        self.clusters, self.guide, self.shuffle, self.strict = clusters, guide, shuffle, strict
        self.autoencoder_epochs, self.noise = autoencoder_epochs, noise
        self.objective = NTXentLoss(temperature)
        self.register_buffer("pseudo_labels", torch.arange(samples))
        self.register_buffer("batch_size", torch.zeros((), dtype=torch.int64))  # of the run, for the diagnostics

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Find the pseudo-labels before the first epoch."""
        if epoch > 0 or self.guide == "none":
            return
        labels = images.labels if self.guide == "classes" else self._clusters_of_codes(images)
        self.pseudo_labels.copy_(labels)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.pseudo_labels, 0)  # an accelerator's sums may differ in the last bits

    def _clusters_of_codes(self, images: Images) -> Int64[Tensor, " samples"]:
        autoencoder = train_autoencoder(images, self.autoencoder_epochs, self.noise, device=self.device)
        with torch.no_grad():
            parts = _parts(torch.arange(len(images)), 512)
            codes = [autoencoder.codes(_pixels(images, index, self.device)) for index in parts]
        return kmeans(torch.cat(codes), self.clusters, restarts=5).labels

    def batches(self, order: Integer[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """`guided_batches` by the pseudo-labels."""
        self.batch_size.fill_(batch_size)
        order = order if self.shuffle else torch.arange(len(order))
        return guided_batches(self.pseudo_labels.cpu(), order, batch_size, self.strict)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """NT-Xent of the projections of both views."""
        z1, z2 = self.projections(images)
        return self.objective(z1, z2)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """For one epoch: `used`, the share of images in its batches, and `same_class`, see `same_class_share`."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        batches = self.batches(order, int(self.batch_size))
        found = {"used": sum(map(len, batches)) / len(train)}
        return found if (train.labels < 0).any() else {**found, "same_class": same_class_share(batches, train.labels)}


def _convolution(wide: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _parts(index: Int64[Tensor, " n"], most: int) -> tuple[Tensor, ...]:
    """The indices in chunks of at most `most`, of nearly equal size: no last chunk is too small to be normalised."""
    return index.tensor_split(math.ceil(len(index) / most))


def _pixels(images: Images, index: Int64[Tensor, " batch"], device: torch.device | str) -> Float[Tensor, "batch ..."]:
    pixels = images.pixels[index].to(device).float() / 255
    return pixels.contiguous(memory_format=torch.channels_last)  # the faster layout on CPU; the layers preserve it


def _error(autoencoder: DenoisingAutoencoder, images: Images, index: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
    clean = _pixels(images, index, autoencoder.pixels.weight.device)
    return F.mse_loss(autoencoder(clean), clean)


def _clusters(labels: Integer[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Labels as 0, 1, 2 … without gaps, a separate one for each negative label."""
    alone = labels < 0
    labels = labels.to(torch.int64, copy=True)
    labels[alone] = labels.amax() + 1 + torch.arange(int(alone.sum()))
    return labels.unique(return_inverse=True)[1]


def _used(sizes: Int64[Tensor, " clusters"], batch_size: int, strict: bool) -> int:
    """Number of images in batches, or in a smaller last one, for clusters of these sizes."""
    if not strict:
        return int(sizes.sum())
    if batch_size > len(sizes):
        raise InputError(f"batch_size: expected at most the {len(sizes)} pseudo-labels, if strict, got {batch_size}")
    # Up to the rank that at least `batch_size` clusters reach.
    return int(sizes.clamp(max=int(sizes.sort(descending=True).values[batch_size - 1])).sum())
