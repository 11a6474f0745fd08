"""ScatSimCLR: SimCLR on a fixed scattering transform with a small adapter, and a pretext task that regularises it.

Kinakh, Taran, Voloshynovskiy, "ScatSimCLR: self-supervised contrastive learning with pretext task regularization for
small-scale datasets", ICCV 2021 workshop on visual inductive priors, arXiv 2108.13939.

The scattering transform (Mallat, 2012; Bruna & Mallat, 2013; here kymatio's) is fixed: wavelets and moduli, stable to
small deformations. The learnt part on top of it is small, so that few images suffice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.measure import probe_factors
from counterpoise.nets import embed
from counterpoise.nets.heads import linear, mlp
from counterpoise.ops.checks import check_counts, check_finite, check_integers, check_number
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32

Pretext = Literal["rotation", "jigsaw", "none"]
Pixels = UInt8[Tensor, "batch channels height width"]

WIDTHS = {
    8: (32, *[64] * 4, *[128] * 4),
    12: (256, *[128] * 4, *[64] * 4, *[128] * 4),
    16: (256, *[128] * 6, *[64] * 4, *[128] * 6),
    30: (256, *[128] * 30),
    45: (256, *[128] * 15, *[64] * 15, *[128] * 15),
}
"""The adapters of the paper by their depth: the width of the first convolution, then of each residual block."""

TURNS = 4
TILES = 9  # tiles of the jigsaw, in 3 rows


def scattering_channels(channels: int, scale: int, orientations: int) -> int:
    """Number of maps of a scattering transform of order 2: C (1 + L J + L² J (J-1) / 2).

    Args:
        channels: C, channels of the images; each is transformed separately.
        scale: J; the maps are 2^J times smaller than the images.
        orientations: L, orientations of the wavelets.

    Raises:
        InputError: for a number below 1.

    Examples:
        >>> scattering_channels(3, scale=2, orientations=16)
        867
    """
    check_counts(channels=channels, scale=scale, orientations=orientations)
    return channels * (1 + orientations * scale + orientations**2 * scale * (scale - 1) // 2)


class Scattering(nn.Module):
    """The scattering transform of order 2, for images of any size, without parameters.

    The filters for a size are built at the first images of that size. Half precision is too coarse, so the transform is
    computed in float32 or float64.

    Args:
        scale: J, from 1.
        orientations: L, from 1.

    Raises:
        MissingExtra: without kymatio.
        InputError: for a number out of range.
    """

    def __init__(self, scale: int = 2, orientations: int = 8):
        super().__init__()
        check_counts(scale=scale, orientations=orientations)
        _transform()
        self.scale, self.orientations = scale, orientations
        self.filters: dict[tuple[int, int], nn.Module] = {}  # not registered, since they need not be saved

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch maps small_height small_width"]:
        """The coefficients of each image, channel by channel, in the orders 0, 1, 2.

        Args:
            images: at least 2^J pixels high and wide.

        Returns:
            `scattering_channels` maps per image, each side divided by 2^J and rounded down.

        Raises:
            InputError: for smaller images.
        """
        if images.ndim != 4:
            raise InputError(f"images: expected [batch, channels, height, width], got shape {list(images.shape)}")
        check_finite("images", images)
        size, least = (images.shape[2], images.shape[3]), 2**self.scale
        if min(size) < least:
            raise InputError(
                f"images: expected at least {least} pixels a side at scale {self.scale}, got {size[0]}x{size[1]}"
            )
        if size not in self.filters:
            self.filters[size] = _transform()(J=self.scale, shape=size, L=self.orientations, max_order=2)
        images = at_least_float32(images).contiguous()
        transform = self.filters[size].to(images.device, images.dtype)
        with torch.autocast(images.device.type, enabled=False):
            return transform(images).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, orientations={self.orientations}"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation plus a skip connection, a 1x1 convolution if widths differ."""

    def __init__(self, width: int, out: int):
        super().__init__()
        check_counts(width=width, out=out)
        first, second = _convolution(width, out, 3), _convolution(out, out, 3)
        self.convolutions = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
        self.shortcut = nn.Sequential(*([] if width == out else _convolution(width, out, 1)))

    def forward(self, x: Float[Tensor, "batch width height width_"]) -> Float[Tensor, "batch out height width_"]:
        """The sum, after a ReLU."""
        return F.relu(self.convolutions(x) + self.shortcut(x))


class ScatteringEncoder(nn.Module):
    """Images to features: a scattering transform, then the adapter, a learnt residual net.

    Args:
        channels: channels of the images.
        scale: J of the transform.
        orientations: L of the transform.
        widths: channels of the adapter's first convolution, then of each residual block; see `WIDTHS`.
        pool: side of the maps to which the adapter's output is averaged; its features are the last width times pool².
        norm: first normalise each scattering map over the batch; the orders' scales differ by a factor of ten and more.

    Examples:
        >>> ScatteringEncoder(1, orientations=4, widths=(8, 16), pool=2)(torch.zeros(2, 1, 12, 20)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        orientations: int = 8,
        widths: Sequence[int] = WIDTHS[8],
        pool: int = 4,
        norm: bool = False,
    ):
        super().__init__()
        check_counts(pool=pool)
        if not widths:
            raise InputError("widths: expected at least one, got none")
        for width in widths:
            check_counts(widths=width)
        maps = scattering_channels(channels, scale, orientations)
        self.channels, self.features = channels, widths[-1] * pool**2
        self.scattering = Scattering(scale, orientations)
        self.adapter = nn.Sequential(
            nn.BatchNorm2d(maps) if norm else nn.Identity(),
            *_convolution(maps, widths[0], 3),
            nn.ReLU(inplace=True),
            *[ResidualBlock(*pair) for pair in itertools.pairwise(widths)],
            nn.AdaptiveAvgPool2d(pool),
            nn.Flatten(),
        )

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The features of each image."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            expected = f"[batch, {self.channels}, height, width]"
            raise InputError(f"images: expected {expected}, got shape {list(images.shape)}")
        return self.adapter(self.scattering(images))


def turned(images: Pixels) -> tuple[UInt8[Tensor, "turned channels height width"], Int64[Tensor, " turned"]]:
    """Each image rotated clockwise by 0, 90, 180 and 270 degrees, and the number of quarter turns of each.

    Raises:
        InputError: for images that are not square.

    Examples:
        >>> images, quarters = turned(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 1, 2, 2))
        >>> images.flatten(1).tolist(), quarters.tolist()
        ([[1, 2, 3, 4], [3, 1, 4, 2], [4, 3, 2, 1], [2, 4, 1, 3]], [0, 1, 2, 3])
    """
    _check_pixels(images)
    if images.shape[2] != images.shape[3]:
        raise InputError(f"images: expected square ones to turn, got {images.shape[2]}x{images.shape[3]}")
    quarters = torch.arange(TURNS, device=images.device)
    every = torch.stack([torch.rot90(images, -k, (2, 3)) for k in range(TURNS)], 1)
    return every.flatten(0, 1), quarters.repeat(len(images))


def tiles(images: Pixels) -> Float[Tensor, "batch 9 channels height width"]:
    """The nine tiles of each image, row by row, each enlarged to the size of the image, in [-1, 1].

    If a third is not a whole number of pixels, pixels on a cut are left out: from 28, the tiles have 9, 8 and 9.

    Raises:
        InputError: for images that are not uint8, or too small for nine tiles.

    Examples:
        >>> tiles(torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3))[0, :, 0, 0, 0].add(1).mul(127.5).round()
        tensor([0., 1., 2., 3., 4., 5., 6., 7., 8.])
    """
    _check_pixels(images)
    size = images.shape[2:]
    if min(size) < 3 or 4 in size:  # at 4, the middle third is cut on both sides
        raise InputError(f"images: expected 3 or at least 5 pixels a side for nine tiles, got {size[0]}x{size[1]}")
    rows, columns = ([slice(-(-side * k // 3), side * (k + 1) // 3) for k in range(3)] for side in size)
    unit = to_float(images)
    enlarged = [
        F.interpolate(unit[:, :, row, column], size, mode="bilinear", align_corners=False)
        for row in rows
        for column in columns
    ]
    return torch.stack(enlarged, 1)


def permutations(count: int) -> Int64[Tensor, "count 9"]:
    """Permutations of nine tiles with large Hamming distances: any two differ in at least eight places.

    They are the maps x → a x + b of the field of nine elements with a ≠ 0, and any two of these agree in at most one
    point.

    Args:
        count: number of permutations, from 2 to 72.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> permutations(3)
        tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8],
                [1, 2, 0, 4, 5, 3, 7, 8, 6],
                [2, 0, 1, 5, 3, 4, 8, 6, 7]])
    """
    check_number("count", count, at_least=2, at_most=72, whole=True)
    # The field: x = u + v i with u and v modulo 3 and i² = -1, as the number u + 3 v.
    u, v = torch.arange(TILES) % 3, torch.arange(TILES) // 3
    a, b = 1 + torch.arange(count)[:, None] // TILES, torch.arange(count)[:, None] % TILES
    return (u[a] * u - v[a] * v + u[b]) % 3 + 3 * ((u[a] * v + v[a] * u + v[b]) % 3)


def shuffle(
    tiles: Float[Tensor, "batch 9 channels height width"], order: Int64[Tensor, "batch 9"]
) -> Float[Tensor, "batch 9 channels height width"]:
    """The tiles in a given order: place t of an image gets tile `order[t]`.

    Raises:
        InputError: for mismatched shapes, or a tile out of range.
    """
    if tiles.ndim != 5 or tiles.shape[1] != TILES or order.shape != tiles.shape[:2]:
        got = f"{list(tiles.shape)} and {list(order.shape)}"
        raise InputError(f"tiles and order: expected [batch, 9, channels, height, width] and [batch, 9], got {got}")
    order = check_integers("order", order.flatten(), order.numel(), low=0, high=TILES).view(order.shape)
    check_finite("tiles", tiles)
    return _shuffle(tiles, order)


def _shuffle(tiles: Tensor, order: Tensor) -> Tensor:
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], order]


class RotationHead(nn.Sequential):
    """Logits of the four rotations, from the features of a rotated image.

    Args:
        features: width of the encoder's features.
    """

    def __init__(self, features: int):
        check_counts(features=features)
        super().__init__(*_hidden(features, 512), *_hidden(512, 128), nn.Linear(128, TURNS))


class JigsawHead(nn.Module):
    """Logits of the permutations, from the features of nine tiles in their shuffled order.

    Args:
        features: width of the encoder's features.
        count: number of permutations.
    """

    def __init__(self, features: int, count: int):
        super().__init__()
        check_counts(features=features, count=count)
        self.each = nn.Sequential(*_hidden(features, 512))
        self.all = nn.Sequential(*_hidden(TILES * 512, 4096), nn.Linear(4096, count))

    def forward(self, features: Float[Tensor, "batch 9 features"]) -> Float[Tensor, "batch count"]:
        """The logits of each image."""
        return self.all(self.each(features).flatten(1))


class ScatSimCLR(Method):
    """SimCLR on a fixed scattering transform with a small adapter, plus a pretext task: rotations or jigsaws.

    Args:
        encoder: images to features; replaced by the scattering encoder, for images with the same channels, unless
            `scattering` is off.
        scattering: off keeps the backbone, as in SimCLR with a pretext task.
        scale: J of the transform: its maps are 2^J times smaller than the images.
        orientations: L of its wavelets; the cost and the number of maps grow as its square.
        widths: channels of the adapter's first convolution, then of each residual block.
        pool: side of the maps to which the adapter's output is averaged.
        norm: first normalise the scattering maps.
        pretext: "rotation" predicts by how many quarters an image was turned, "jigsaw" how its nine tiles were
            shuffled.
        weight: weight of the pretext loss, at least 0.
        delay: epochs before the pretext loss is added.
        shuffles: number of permutations of the jigsaw, from 2 to 72.
        temperature: temperature of the contrastive loss, above 0.
        dim: width of the projection; its hidden layer is as wide as the features.
        **recipe: arguments of `Method`.
    """

    permutations: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        scattering: bool = True,
        scale: int = 2,
        orientations: int = 8,
        widths: Sequence[int] = (32, 64, 64, 64, 64, 128, 128, 128, 128),
        pool: int = 4,
        norm: bool = False,
        pretext: Pretext = "rotation",
        weight: float = 0.3,
        delay: int = 0,
        shuffles: int = 35,
        temperature: float = 0.5,
        dim: int = 128,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(dim=dim)
        check_number("weight", weight, at_least=0)
        check_number("delay", delay, at_least=0, whole=True)
        check_number("shuffles", shuffles, at_least=2, at_most=72, whole=True)
        if pretext not in get_args(Pretext):
            raise unknown("pretext task", pretext, get_args(Pretext))
        if scattering:
            if not isinstance(getattr(encoder, "channels", None), int):
                raise InputError("encoder: expected an attribute `channels`, that of the images")
            self.encoder = ScatteringEncoder(encoder.channels, scale, orientations, widths, pool, norm)  # type: ignore[arg-type]
            self.features = self.encoder.features
        self.pretext: Pretext = pretext if weight else "none"
        self.weight, self.delay = weight, delay
        self.head = mlp(self.features, self.features, dim, batch_norm=False)
        self.objective = NTXentLoss(temperature)
        if self.pretext == "rotation":
            self.pretext_head: nn.Module = RotationHead(self.features)
        elif self.pretext == "jigsaw":
            self.pretext_head = JigsawHead(self.features, shuffles)
            self.register_buffer("permutations", permutations(shuffles))
        self._epoch = 0
        self._images: Images | None = None

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Keep the images, since the pretext task takes them, not the views."""
        self._epoch, self._images = epoch, images

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """NT-Xent of the projections, plus the weighted pretext loss."""
        z1, z2 = (self.head(self.encoder(view)) for view in images)
        contrast = self.objective(z1, z2)
        if self.pretext == "none":
            return contrast
        if self._epoch < self.delay:
            # Distributed training waits for a gradient of every parameter, even zeros.
            return contrast + 0.0 * sum(p.sum() for p in self.pretext_head.parameters())
        return contrast + self.weight * self.pretext_loss(self._pixels(index))

    def pretext_loss(self, pixels: Pixels) -> Float[Tensor, ""]:
        """Mean cross-entropy of the pretext task; its images pass through the encoder as a separate batch.

        Each rotated image gets a random view. Tiles are taken from the unaugmented image, in a random order.
        """
        if self.pretext == "rotation":
            images, target = turned(pixels)
            logits = self.pretext_head(self.encoder(self.view(images)))
        else:
            target = torch.randint(len(self.permutations), (len(pixels),), device=pixels.device)
            shuffled = _shuffle(tiles(pixels), self.permutations[target])
            features = self.encoder(shuffled.flatten(0, 1)).unflatten(0, (-1, TILES))
            logits = self.pretext_head(features)
        return gather(F.cross_entropy(logits, target, reduction="none")).mean()

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`scattering`: accuracy of a linear probe on the transform; `over scattering`: the gain by the adapter."""
        if not isinstance(self.encoder, ScatteringEncoder):
            return {}
        plain = _label_accuracy(nn.Sequential(self.encoder.scattering, nn.Flatten()), probe, test)
        learnt = _label_accuracy(self.encoder, probe, test)
        return {} if plain is None or learnt is None else {"scattering": plain, "over scattering": learnt - plain}

    def _pixels(self, index: Index) -> Pixels:
        if self._images is None:
            raise InputError("images: expected start_epoch(images, epoch) before a loss with a pretext task")
        return self._images.__getitems__(index.tolist())[0].to(index.device)


def _label_accuracy(net: nn.Module, probe: Images, test: Images) -> float | None:
    """Accuracy of a linear probe on the labels; `None` without labels."""
    if not len(probe):
        return None
    known, features = (embed(net, images, to_float) for images in (probe, test))
    return probe_factors(known, {"label": probe.labels}, features, {"label": test.labels}).get("label")


def _convolution(width: int, out: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out)]


def _check_pixels(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        expected = "uint8 [batch, channels, height, width]"
        raise InputError(f"images: expected {expected}, got {images.dtype} of shape {list(images.shape)}")


def _hidden(width: int, out: int) -> list[nn.Module]:
    return [linear(width, out), nn.ReLU(inplace=True), nn.Dropout(0.5)]


def _transform() -> type[nn.Module]:
    try:
        # Not `kymatio.torch`, which also imports the 3D transform: SciPy 1.17 lacks what that needs.
        from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
    except ImportError as error:
        raise MissingExtra("kymatio", "scattering") from error
    return ScatteringTorch2D
