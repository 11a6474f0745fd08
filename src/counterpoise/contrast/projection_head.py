r"""Why a projection head helps, and a fixed one with the same effect: it weights later coordinates down.

Xue, Gan, Ni, Joshi, Mirzasoleiman, "Investigating the Benefits of Projection Head for Representation Learning", ICLR
2024, arXiv 2403.11391.

Data of the theory: $x = \sum_j \phi_j u_j v_j$ with independent signs $u_j$, orthonormal features $v_j$ of strengths
$\phi_j$, and views that preserve feature j to the degree $a_j = E[u_j^+ | u_j] / u_j$. A deep linear net that minimises
the spectral contrastive loss weights its features more unequally with every layer. So features that are weak, or that
the views damage, are better read before the head than after it.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.contrast.supcon import SupConLoss, own_classes
from counterpoise.data import Images, load
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.measure import probe_factors
from counterpoise.nets import embed
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
    check_seed,
    check_values,
)
from counterpoise.ops.processes import gather, global_row_indices, labelled_mean

Head = Literal["none", "mlp", "fixed"]
Objective = Literal["ntxent", "supcon", "cross-entropy", "spectral"]
Overlay = Literal["none", "mnist"]
PART = 256  # images overlaid at a time
SMALLEST = 1e-6  # coordinates of smaller weight hardly train
RED = 0


def spectral_contrastive(z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    r"""The spectral contrastive loss of a batch of two views, $-2 E[f(x)^\top f(x^+)] + E[(f(x)^\top f(x'))^2]$.

    HaoChen, Wei, Gaidon, Ma, NeurIPS 2021, arXiv 2106.04156; here the mean over the positives and over all pairs of
    different samples. As $\sum_{ij} (z_i^\top z'_j)^2 = \langle Z^\top Z, Z'^\top Z' \rangle$, the cost is
    batch · dim², and no matrix of pairs is formed.

    Args:
        z1: one row per sample, first view; not normalised here; of length at most 1e8.
        z2: the same samples, second view.

    Returns:
        The loss; a useful representation makes it negative.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, or rows too long for their fourth power.

    Examples:
        >>> spectral_contrastive(torch.eye(3), torch.eye(3))
        tensor(-2.)
    """
    check_same_shape(z1=z1, z2=z2)
    for name, z in (("z1", z1), ("z2", z2)):
        check_matrix(name, z)
        check_lengths(name, z)
    global_row_indices(z1, "z1", at_least=2)
    dtype = torch.promote_types(z1.dtype, torch.float32)
    z1, z2 = z1.to(dtype), z2.to(dtype)
    positive = gather((z1 * z2).sum(1))
    first, second = (gather((z.T @ z)[None]).sum(0) for z in (z1, z2))
    count = len(positive)
    negatives = (first * second).sum() - positive.square().sum()
    return -2 * positive.mean() + negatives / (count * (count - 1))


class SpectralContrastiveLoss(nn.Module):
    """`spectral_contrastive` as a module: `loss(z1, z2)`."""

    def __init__(self):
        super().__init__()

    def forward(self, z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """The loss of two views of the same samples; see `spectral_contrastive`."""
        return spectral_contrastive(z1, z2)


def population_loss(
    weight: Float[Tensor, "out features"], strength: Float[Tensor, " features"], preserved: Float[Tensor, " features"]
) -> Float[Tensor, ""]:
    r"""The spectral contrastive loss of a linear net $f(x) = W x$ over all data of the theory.

    With $A = W^\top W$, $\Sigma = \text{diag}(\phi^2)$ and $M = \text{diag}(a^2 \phi^2)$:
    $-2\,\text{tr}(A M) + \text{tr}(A \Sigma A \Sigma)$.

    Args:
        weight: $W$ in the coordinates of the features, $W v_j$ its column j; the product of all layers.
        strength: $\phi > 0$ of each feature.
        preserved: $a$ of each feature, from 0 to 1: how well views preserve it.

    Raises:
        InputError: for mismatched shapes, NaN, or numbers out of range.

    Examples:
        >>> strength, preserved = torch.tensor([2.0, 1.0]), torch.tensor([0.9, 0.8])
        >>> round(population_loss(torch.diag(preserved / strength), strength, preserved).item(), 4)
        -1.0657
        >>> round(least_loss(preserved, dim=2).item(), 4)
        -1.0657
    """
    _check_features(strength, preserved)
    check_matrix("weight", weight)
    if weight.shape[1] != len(strength):
        raise InputError(f"weight: expected a column for each of the {len(strength)} features, got {weight.shape[1]}")
    gram, variance = weight.T @ weight, strength.square()
    kept = (gram.diagonal() * preserved.square() * variance).sum()
    loss = -2 * kept + (gram.square() * variance * variance[:, None]).sum()
    if not loss.isfinite():
        raise InputError("weight and strength: expected smaller numbers, whose fourth power is finite")
    return loss


def kept_features(preserved: Float[Tensor, " features"], dim: int) -> Bool[Tensor, " features"]:
    """Mask of the features that a linear net with `dim` outputs keeps: those that the views preserve best.

    Args:
        preserved: $a$ of each feature, from 0 to 1.
        dim: outputs of the net, and largest number of features kept; none with $a = 0$ is kept.

    Raises:
        InputError: if the last kept feature ties with a dropped one, or for numbers out of range.

    Examples:
        >>> kept_features(torch.tensor([0.9, 0.8, 0.7, 0.2]), dim=3)
        tensor([ True,  True,  True, False])
    """
    check_counts(dim=dim)
    _check_vector("preserved", preserved, at_least=0, at_most=1)
    ordered = preserved.sort(descending=True).values
    if dim < len(ordered) and ordered[dim - 1] == ordered[dim] > 0:
        raise InputError(f"preserved: expected no tie between the features of rank {dim} and {dim + 1}, got {ordered}")
    return (preserved >= ordered[min(dim, len(ordered)) - 1]) & (preserved > 0)


def least_loss(preserved: Float[Tensor, " features"], dim: int) -> Float[Tensor, ""]:
    r"""The minimum of `population_loss` over all linear nets with `dim` outputs: minus the sum of the largest $a_j^4$.

    Ties do not change it.

    Args:
        preserved: $a$ of each feature, from 0 to 1.
        dim: outputs of the net, and number of features kept.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> least_loss(torch.tensor([1.0, 0.5, 0.5]), dim=2)
        tensor(-1.0625)
    """
    check_counts(dim=dim)
    _check_vector("preserved", preserved, at_least=0, at_most=1)
    kept = preserved.topk(min(dim, len(preserved))).indices.sort().values
    return -preserved[kept].pow(4).sum()


def linear_weights(
    strength: Float[Tensor, " features"],
    preserved: Float[Tensor, " features"],
    dim: int,
    layer: int,
    layers: int = 2,
) -> Float[Tensor, " features"]:
    r"""Weight of each feature after a layer of the best linear net: $(a_j / \phi_j)^{l/L}$ for those that it keeps.

    The best nets are those with $W^\top W v_j = (a_j^2/\phi_j^2) v_j$. Gradient descent from small weights finds the
    balanced one, whose layers share each singular value equally. With two layers, the first one's output is the
    representation before the projection head, the second one's that after it.

    Args:
        strength: $\phi > 0$ of each feature.
        preserved: $a$ of each feature, from 0 to 1.
        dim: outputs of the net.
        layer: $l$, from 1.
        layers: $L$.

    Returns:
        The norm of each feature's column in the product of the first $l$ layers.

    Raises:
        InputError: for a layer out of range, strengths of 0, or `preserved` out of range.

    Examples:
        >>> strength, preserved = torch.tensor([2.0, 1.0, 0.5, 1.5]), torch.tensor([0.9, 0.8, 0.7, 0.2])
        >>> linear_weights(strength, preserved, dim=3, layer=2)  # after the head
        tensor([0.4500, 0.8000, 1.4000, 0.0000])
        >>> linear_weights(strength, preserved, dim=3, layer=1)  # before it
        tensor([0.6708, 0.8944, 1.1832, 0.0000])
    """
    _check_features(strength, preserved)
    check_counts(layers=layers)
    check_number("layer", layer, at_least=1, at_most=layers, whole=True)
    weights = (preserved / strength).pow(layer / layers)
    return weights.where(kept_features(preserved, dim), 0)


def indicator(weights: Float[Tensor, " features"], strength: Float[Tensor, " features"]) -> Float[Tensor, " features"]:
    r"""Sample complexity of the task "sign of $u_j$" for each feature j, up to a constant.

    The squared radius of the representation divided by the squared margin of the task:
    $\sum_k (w_k \phi_k)^2 / (w_j \phi_j)^2$; infinite for a feature of weight 0.

    Args:
        weights: weight of each feature in the representation, as from `linear_weights` or `feature_weights`.
        strength: $\phi > 0$ of each feature.

    Raises:
        InputError: for different shapes, NaN, strengths of 0, or weights that are all 0.

    Examples:
        >>> indicator(torch.tensor([0.45, 0.8, 1.4, 0.0]), torch.tensor([2.0, 1.0, 0.5, 1.5]))
        tensor([2.3951, 3.0312, 3.9592,    inf])
    """
    check_same_shape(weights=weights, strength=strength)
    _check_vector("weights", weights)
    check_values("strength", strength, above=0)
    size = (weights * strength).square()
    if not 0 < size.sum() < torch.inf:
        raise InputError("weights: expected one that is not 0, and none so large that its square is infinite")
    return size.sum() / size


def feature_weights(
    weight: Float[Tensor, "out dim"], features: Float[Tensor, "dim count"] | None = None
) -> Float[Tensor, " count"]:
    r"""The weights of given features in a linear map: $\lVert W v_j \rVert$.

    Args:
        weight: $W$, the product of the layers so far.
        features: $v_j$, one per column; the coordinates if not given.

    Raises:
        InputError: for mismatched shapes, or NaN.

    Examples:
        >>> feature_weights(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        tensor([5., 1.])
    """
    check_matrix("weight", weight)
    if features is not None:
        check_matrix("features", features)
        if len(features) != weight.shape[1]:
            got = f"{list(weight.shape)} and {list(features.shape)}"
            raise InputError(f"weight and features: expected [out, dim] and [dim, count], got {got}")
    lengths = torch.linalg.vector_norm(weight if features is None else weight @ features, dim=0)
    if not lengths.isfinite().all():
        raise InputError("weight and features: expected smaller numbers, whose squares are finite")
    return lengths


def weight_inequality(weights: Float[Tensor, " features"]) -> Float[Tensor, ""]:
    """The largest weight divided by the smallest: 1 if all features have equal weight, infinite if one is lost.

    Raises:
        InputError: for no weight, NaN, weights below 0, or none above it.

    Examples:
        >>> weight_inequality(torch.tensor([0.45, 0.8, 1.4]))
        tensor(3.1111)
    """
    _check_vector("weights", weights, at_least=0)
    if not weights.max() > 0:
        raise InputError("weights: expected one above 0, got none")
    return weights.max() / weights.min()


def reweighting(dim: int, kappa: float) -> Float[Tensor, " dim"]:
    r"""The weights of the fixed head, $\kappa^{-i}$ for i from 0, in float64.

    Raises:
        InputError: for a width below 1, a kappa that is not above 0, or weights beyond float32.

    Examples:
        >>> reweighting(4, kappa=2.0)
        tensor([1.0000, 0.5000, 0.2500, 0.1250], dtype=torch.float64)
    """
    check_counts(dim=dim)
    check_number("kappa", kappa, above=0)
    weights = torch.as_tensor(kappa, dtype=torch.float64).pow(-torch.arange(dim))
    if weights[-1] > torch.finfo(torch.float32).max:
        raise InputError(
            f"kappa: expected a larger number, since {kappa:g} to the power of {1 - dim} is beyond float32"
        )
    return weights


class FixedReweightHead(ExactConstants):
    r"""A parameter-free projection head: coordinate i times $\kappa^{-i}$. Train on its output, use its input.

    Training decides what each coordinate encodes, and puts what lowers the loss most into those of large weight. A loss
    of cosines after the head sees only relative weights, and batch normalisation undoes it.

    Args:
        dim: width of the input and of the output.
        kappa: 1 changes nothing; larger values weight later coordinates down. The authors take 1.05 for 512 and 2048
            dimensions, up to 1.5 for supervised losses. Its power over all coordinates matters: 1.05 at 512 is 1.22 at
            128.

    Attributes:
        weights: $\kappa^{-i}$, a buffer.

    Warns:
        UserWarning: if weights are below 1e-6, so that their coordinates hardly train.

    Examples:
        >>> FixedReweightHead(3, kappa=2.0)(torch.ones(1, 3))
        tensor([[1.0000, 0.5000, 0.2500]])
    """

    weights: Tensor

    def __init__(self, dim: int, kappa: float):
        super().__init__()
        self.dim, self.kappa = dim, kappa
        weights = reweighting(dim, kappa)
        if low := int((weights < SMALLEST).sum()):
            text = f"kappa {kappa:g} leaves {low} of {dim} coordinates a weight below {SMALLEST:g}: they hardly train"
            warnings.warn(text, stacklevel=2)
        self.register_exact("weights", weights)

    def forward(self, x: Float[Tensor, "*rows {self.dim}"]) -> Float[Tensor, "*rows {self.dim}"]:
        """The weighted coordinates."""
        return x * self.weights

    def extra_repr(self) -> str:
        return f"dim={self.dim}, kappa={self.kappa:g}"


def symmetric_relu(x: Float[Tensor, "*shape"], threshold: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    r"""$\text{relu}(x - b) - \text{relu}(-x - b)$: values within b of 0 become 0, others move towards 0 by b.

    The non-linearity of the paper's diagonal nets: a feature of amplitude below b is lost after it, but present before
    it. It is the soft threshold, with a gradient with respect to b.

    Args:
        x: any numbers.
        threshold: $b \ge 0$.

    Raises:
        InputError: for NaN, or a threshold below 0.

    Examples:
        >>> symmetric_relu(torch.tensor([-2.0, -0.5, 0.5, 2.0]), torch.tensor(1.0))
        tensor([-1.,  0.,  0.,  1.])
    """
    check_finite("x", x)
    check_values("threshold", threshold, at_least=0)
    return _symmetric_relu(x, threshold)


def _symmetric_relu(x: Tensor, threshold: Tensor) -> Tensor:
    return (x - threshold).relu() - (-x - threshold).relu()


class SymmetricReLU(ExactConstants):
    """`symmetric_relu` with a learnable threshold.

    Args:
        threshold: initial value, at least 0; at 0 the module is the identity.
    """

    threshold: nn.Parameter

    def __init__(self, threshold: float = 0.0):
        super().__init__()
        check_number("threshold", threshold, at_least=0)
        self.register_exact("threshold", torch.tensor(threshold, dtype=torch.float64), learn=True)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The soft threshold of each number."""
        return _symmetric_relu(x, self.threshold)


def identity_head(dim: int) -> nn.Sequential:
    """A head for a trained encoder that starts as the identity: two layers around a `SymmetricReLU`.

    Raises:
        InputError: for a width below 1.

    Examples:
        >>> identity_head(3)(torch.tensor([[-1.0, 2.0, 0.0]])).tolist()
        [[-1.0, 2.0, 0.0]]
    """
    check_counts(dim=dim)
    layers = [nn.Linear(dim, dim), nn.Linear(dim, dim)]
    for layer in layers:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], SymmetricReLU(), layers[1])


def drop_red(
    first: Float[Tensor, "batch channel height width"],
    second: Float[Tensor, "batch channel height width"],
    probability: float,
) -> ImageViews:
    """Set the red channel of one of each image's two views to black, -1, with the given probability.

    Raises:
        InputError: for images without colours, different shapes, or a probability out of range.

    Examples:
        >>> views = drop_red(torch.ones(8, 3, 2, 2), torch.ones(8, 3, 2, 2), probability=1.0)
        >>> sum(view[:, 0].mean() for view in views)  # one view of each pair is black
        tensor(0.)
    """
    check_number("probability", probability, at_least=0, at_most=1)
    check_same_shape(first=first, second=second)
    if first.ndim != 4:
        raise InputError(f"first: expected [batch, 3, height, width], got shape {list(first.shape)}")
    check_finite("first", first)
    check_finite("second", second)
    return _drop_red(first, second, probability)


def _drop_red(first: Tensor, second: Tensor, probability: float) -> ImageViews:
    if first.shape[1] != 3:
        raise InputError(f"drop: expected images of 3 channels, one of them red, got {first.shape[1]}")
    views = [first.clone(), second.clone()]
    for view, chosen in zip(views, _lost(len(first), probability, first.device), strict=True):
        view[chosen, RED] = -1.0
    return views


def _lost(count: int, probability: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which images lose something in their first view, and which in their second."""
    drawn = torch.rand(count, device=device)
    # One draw decides both whether and in which view: the lower half of those selected lose it in the first.
    return drawn < probability / 2, (drawn >= probability / 2) & (drawn < probability)


def overlay(
    images: Float[Tensor, "batch channel height width"],
    digits: Float[Tensor, "batch 1 digit_height digit_width"],
    strength: float = 0.7,
) -> Float[Tensor, "batch channel height width"]:
    r"""Images with a digit in the middle, half as high and wide: $(1 - s) \text{image} + s\,\text{digit}$.

    The digit is blended in where its resized picture is above 0; the rest of the image stays as it is. The paper
    puts MNIST on CIFAR-10 in this way: the digit is the downstream task, and views may lose it.

    Args:
        images: from 0 to 1, of at least 2 pixels in height and width.
        digits: one for each image, from 0 to 1, in grey.
        strength: $s$, from 0 to 1; at 1 the digit hides the image behind it.

    Returns:
        The images in float32, or float64 for float64.

    Raises:
        InputError: for different numbers of images and digits, other shapes, NaN, or numbers out of range.

    Examples:
        >>> overlay(torch.full((1, 1, 2, 4), 0.5), torch.ones(1, 1, 8, 8), strength=0.5)
        tensor([[[[0.5000, 0.7500, 0.7500, 0.5000],
                  [0.5000, 0.5000, 0.5000, 0.5000]]]])
    """
    for name, x in (("images", images), ("digits", digits)):
        if x.ndim != 4 or not x.numel():
            raise InputError(f"{name}: expected [batch, channel, height, width], got shape {list(x.shape)}")
        check_values(name, x, at_least=0, at_most=1)
    if digits.shape[1] != 1 or len(digits) != len(images):
        raise InputError(f"digits: expected [{len(images)}, 1, height, width], got shape {list(digits.shape)}")
    check_number("strength", strength, at_least=0, at_most=1)
    height, width = images.shape[2:]
    if min(height, width) < 2:
        raise InputError(f"images: expected at least 2 pixels in height and width, got {height} and {width}")
    dtype = torch.promote_types(torch.promote_types(images.dtype, digits.dtype), torch.float32)
    return _overlay(images.to(dtype), digits.to(dtype), strength)


def _overlay(images: Tensor, digits: Tensor, strength: float) -> Tensor:
    height, width = images.shape[2:]
    small = functional.interpolate(digits, (height // 2, width // 2), mode="bilinear", antialias=True)
    top, left = (height - height // 2) // 2, (width - width // 2) // 2
    shown = functional.pad(small, (left, width - width // 2 - left, top, height - height // 2 - top))
    return torch.where(shown > 0, (1 - strength) * images + strength * shown, images)


class Digits:
    """Digits in a random order, of which each image has one: image i the digit i, and again from the start.

    Args:
        images: the digits, in grey.
        seed: of their order.

    Examples:
        >>> pixels, labels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([4, 7])
        >>> digits = Digits(Images(pixels, labels, tuple("0123456789"), "digits"))
        >>> sorted(digits.labels(torch.arange(4)).tolist())
        [4, 4, 7, 7]
    """

    def __init__(self, images: Images, seed: int = 0):
        check_seed(seed)
        self.images = images
        self.order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))

    def labels(self, index: Index) -> Int64[Tensor, " batch"]:
        """The class of the digit that each image has."""
        return self.images.labels[self._chosen(index)]

    def on(
        self, pixels: UInt8[Tensor, "batch channel height width"], index: Index, strength: float
    ) -> UInt8[Tensor, "batch channel height width"]:
        """The images, each with its digit."""
        parts = zip(pixels.split(PART), self._chosen(index).split(PART), strict=True)
        return torch.cat([self._part(part, self.images.pixels[chosen], strength) for part, chosen in parts])

    def _chosen(self, index: Index) -> Int64[Tensor, " batch"]:
        return self.order[index.cpu() % len(self.order)]

    @staticmethod
    def _part(pixels: Tensor, digits: Tensor, strength: float) -> Tensor:
        made = _overlay(pixels.float() / 255, digits.to(pixels.device).float() / 255, strength)
        return (made * 255).round().to(torch.uint8)


class ProjectionHead(Method):
    """A contrastive or supervised loss with a choice of head, evaluated by linear probes before and after it.

    Args:
        encoder: images to features; what a run keeps.
        head: "fixed" multiplies coordinate i by kappa to the power of -i; "mlp" has one hidden layer as wide as the
            features; "none" compares the features themselves.
        kappa: base of the fixed head's weights; 1 is no head. For 512 features the authors take 1.05 with "ntxent", 1.5
            with "supcon" and 1.2 with "cross-entropy".
        temperature: of "ntxent" and "supcon", above 0.
        dim: width of the "mlp" head's output.
        drop: probability that one view of an image loses its digit, if there is an `overlay`, before all other
            augmentations, or else the red channel of a colour image, after all of them; jitter and grayscale mix the
            channels before.
        objective: loss of the head's outputs: "ntxent", as in SimCLR; "supcon", with labels; "cross-entropy" of a
            linear classifier on them, with labels; "spectral", that of the theory.
        overlay: "mnist" puts a digit in the middle of each training image, which the diagnostics then read as the
            factor "overlay"; "none" takes images as they are.
        strength: of the digit over the image, above 0 and at most 1, where it hides the image.
        classes: number of classes; required by "cross-entropy".
        **recipe: arguments of `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: Head = "fixed",
        kappa: float = 1.05,
        temperature: float = 0.5,
        dim: int = 64,
        drop: float = 0.0,
        objective: Objective = "ntxent",
        overlay: Overlay = "none",
        strength: float = 0.7,
        classes: int | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(dim=dim)
        check_number("drop", drop, at_least=0, at_most=1)
        check_number("strength", strength, above=0, at_most=1)
        if overlay not in get_args(Overlay):
            raise unknown("overlay", overlay, get_args(Overlay))
        self.drop, self.overlay, self.strength, self.kind = drop, overlay, strength, objective
        self.head = _head(head, self.features, kappa, dim)
        if classes is not None:
            check_number("classes", classes, at_least=0, whole=True)
        self.objective = _objective(objective, temperature, dim if head == "mlp" else self.features, classes)
        self.digits = None if overlay == "none" else Digits(load(overlay).train)

    def check_data(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Refuse images without labels for "cross-entropy", and those too small for a digit."""
        super().check_data(images, batch_size, shares)
        if self.kind == "cross-entropy" and not (images.labels >= 0).any():
            raise InputError("labels: expected some for objective 'cross-entropy', got none")
        if self.digits and min(images.pixels.shape[2:]) < 2:
            raise InputError(f"overlay: expected images of at least 2x2 pixels, got {list(images.pixels.shape[2:])}")

    def project(self, images: Float[Tensor, "batch channel size size"]) -> Float[Tensor, "batch dim"]:
        """The head's output, which the loss compares. `encoder(images)` is its input."""
        return self.head(self.encoder(images))

    def views_of(self, pixels: Tensor, labels: Labels, index: Index) -> ImageViews:
        """Two views of each image, of which at most one has lost the digit of an overlay."""
        if self.digits is None:
            return super().views_of(pixels, labels, index)
        shown = self.digits.on(pixels, index, self.strength)
        lost = _lost(len(pixels), self.drop, pixels.device)
        return [self.view(torch.where(x[:, None, None, None], pixels, shown)).to(self.dtype) for x in lost]

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The objective of the head's outputs for both views."""
        first, second = images
        if self.drop and self.digits is None:
            first, second = _drop_red(first, second, self.drop)
        z1, z2 = self.project(first), self.project(second)
        if self.kind == "cross-entropy":
            losses = functional.cross_entropy(
                self.objective(torch.cat([z1, z2])), labels.repeat(2), ignore_index=-1, reduction="none"
            )
            return labelled_mean(losses, labels.repeat(2))
        if self.kind == "supcon":
            return self.objective(torch.cat([z1, z2]), own_classes(labels).repeat(2))
        return self.objective(z1, z2)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """Linear probes before and after the head for each factor of the images, or the label, and their difference.

        The probe standardises its input, so the fixed head makes no difference to it. With an overlay the images have
        digits as in training, those of `test` other ones, and the factor "overlay" is the digit.
        """
        if self.digits:
            test_digits = Digits(load(self.overlay).test)
            probe, test = self._overlaid(probe, Digits(self.digits.images, seed=1)), self._overlaid(test, test_digits)
        before, after = (self._read(net, probe, test) for net in (self.encoder, nn.Sequential(self.encoder, self.head)))
        return {
            **{f"before {name}": value for name, value in before.items()},
            **{f"after {name}": value for name, value in after.items()},
            **{f"gain {name}": value - after[name] for name, value in before.items()},
        }

    def _overlaid(self, images: Images, digits: Digits) -> Images:
        if not len(images):
            return images
        index = torch.arange(len(images))
        factors = {**_factors(images), "overlay": digits.labels(index)}
        return replace(images, pixels=digits.on(images.pixels, index, self.strength), factors=factors)

    def _read(self, net: nn.Module, probe: Images, test: Images) -> dict[str, float]:
        if not len(probe):
            return {}
        known, features = (embed(net, images, to_float) for images in (probe, test))
        return probe_factors(known, _factors(probe), features, _factors(test))


def _head(name: Head, features: int, kappa: float, dim: int) -> nn.Module:
    if name == "mlp":
        return mlp(features, features, dim, batch_norm=False)
    if name == "fixed":
        return FixedReweightHead(features, kappa)
    if name == "none":
        return nn.Identity()
    raise unknown("head", name, get_args(Head))


def _objective(name: Objective, temperature: float, width: int, classes: int | None) -> nn.Module:
    """The loss of the head's outputs; for cross-entropy, the classifier of them."""
    if name == "cross-entropy":
        if classes is None:
            raise InputError("classes: expected the number of classes for objective 'cross-entropy', got none")
        check_counts(classes=classes)
        return nn.Linear(width, classes)
    if name not in get_args(Objective):
        raise unknown("objective", name, get_args(Objective))
    if name == "spectral":
        return SpectralContrastiveLoss()
    return SupConLoss(temperature) if name == "supcon" else NTXentLoss(temperature)


def _factors(images: Images) -> dict[str, Tensor]:
    return dict(images.factors) or {"label": images.labels}


def _check_features(strength: Tensor, preserved: Tensor) -> None:
    check_same_shape(strength=strength, preserved=preserved)
    _check_vector("strength", strength, above=0)
    _check_vector("preserved", preserved, at_least=0, at_most=1)


def _check_vector(name: str, x: Tensor, **bounds: float) -> None:
    if x.ndim != 1 or not len(x):
        raise InputError(f"{name}: expected a number for each feature, got shape {list(x.shape)}")
    check_values(name, x, **bounds)
