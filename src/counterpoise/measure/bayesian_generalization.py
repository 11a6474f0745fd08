"""The complexity of concepts for a classifier, and generalisation from examples by rule and by similarity.

Shi, Xu, Hopcroft, He, Tenenbaum, Zhu, Wu, Han, Zhu, "On the Complexity of Bayesian Generalization", ICML 2023, arXiv
2211.11033. Each channel of a classifier's last feature maps is an attribute. Its representativeness (RoA) is high for a
concept that has much of it while other concepts have little. The subjective complexity of a concept grows with the
number of its most representative attributes that the classifier needs to recognise it.

The code of the paper's experiment on generalisation is published only in part. `hypothesis_posterior` and `generalise`
follow Tenenbaum & Griffiths, "Generalization, similarity, and Bayesian inference", Behavioral and Brain Sciences 24,
2001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from counterpoise.errors import InputError, unknown
from counterpoise.measure.accuracy import known_classes
from counterpoise.nets.features import embed
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number

EPSILON = 1e-12  # added to 1 - P(c | a), which is 0 if only one concept has an attribute
MOST = 50  # images that describe a concept
REJECT = tuple(k / 200 for k in range(41, 121))  # the authors' grid of thresholds
CONVERGE = tuple(k / 200 for k in range(4, 40))
TILE = 1 << 22  # logits in memory at once
LEVELS = 256
Normalisation = Literal["proper", "padded"]


# Attributes of images


class Pooled(NamedTuple):
    """Feature maps, pooled over positions.

    Attributes:
        peak: the largest value of each channel, which measures how strongly an image has an attribute.
        mean: the mean of each channel, the input of the classifier's head.
    """

    peak: Float[Tensor, "n dim"]
    mean: Float[Tensor, "n dim"]


def pool(maps: Float[Tensor, "n dim height width"]) -> Pooled:
    """Peak and mean of each channel of feature maps, which are all that this module needs of them.

    Args:
        maps: the last feature maps of a classifier, after their ReLU.

    Raises:
        InputError: for wrong shapes, NaN or infinity.

    Examples:
        >>> pool(torch.tensor([[[[0.0, 4.0]], [[1.0, 1.0]]]]))
        Pooled(peak=tensor([[4., 1.]]), mean=tensor([[2., 1.]]))
    """
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise InputError(f"maps: expected [images, channels, height, width], got shape {list(maps.shape)}")
    check_finite("maps", maps)
    return Pooled(maps.amax((2, 3)), maps.mean((2, 3)))


def pool_images(network: nn.Module, images: Float[Tensor, "n *shape"], batch_size: int = 256) -> Pooled:
    """Peak and mean of each channel of a network's feature maps, on the CPU.

    Args:
        network: a classifier up to its last convolution and ReLU, such as
            `nn.Sequential(*list(resnet.children())[:-2])` for torchvision's ResNets. It runs on the device of its
            parameters, in evaluation mode, without gradients.
        images: inputs of the network.
        batch_size: number of images at a time, at least 1; it affects only memory and speed.

    Raises:
        InputError: as `pool` does, without images, or for a batch size that is not a whole number of at least 1.

    Examples:
        >>> pool_images(nn.Conv2d(3, 8, 3), torch.rand(5, 3, 9, 9)).peak.shape
        torch.Size([5, 8])
    """
    check_number("batch_size", batch_size, at_least=1, whole=True)
    check_finite("images", images)
    both = embed(_Pooling(network), _Rows(images), lambda batch: batch, batch_size)
    return Pooled._make(both.tensor_split(2, dim=1))


class _Pooling(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(pool(self.network(images)), 1)


class _Rows(Dataset):
    """A tensor in the form that `embed` takes."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, None, None]:
        return self.rows[indices], None, None


# Representativeness


def concept_activations(
    peaks: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"], concepts: int, most: int = MOST
) -> Float64[Tensor, "concepts dim"]:
    r"""The embedding $m_c$ of each concept: the mean peak of each attribute over the concept's first images.

    Args:
        peaks: from `pool`, at least 0.
        labels: the concept of each image; -1 leaves an image out.
        concepts: number of concepts.
        most: number of images taken of each concept, at least 1.

    Raises:
        InputError: for a concept without images, negative peaks, NaN, wrong shapes, or numbers out of range.

    Examples:
        >>> concept_activations(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), concepts=2)
        tensor([[2., 0.],
                [0., 5.]], dtype=torch.float64)
    """
    check_number("most", most, at_least=1, whole=True)
    members = _members(labels, peaks, "peaks", concepts)
    _check_activations("peaks", peaks)
    return torch.stack([peaks[rows[:most]].double().mean(0) for rows in members])


@dataclass(frozen=True, eq=False)
class Representativeness:
    """How typical attributes are of concepts; rows are concepts, and columns are attributes.

    Attributes:
        attributes: P(a | c), the share of an attribute in a concept; rows sum to 1, and rows without activation to 0.
        concepts: P(c | a), the share of a concept in an attribute; columns sum to 1, those of dead attributes to 0.
        roa: P(a | c) / (1 - P(c | a)), at least 0. It is not a probability: it is about 1e12 if no other concept has
            the attribute.
    """

    attributes: Float64[Tensor, "concepts dim"]
    concepts: Float64[Tensor, "concepts dim"]
    roa: Float64[Tensor, "concepts dim"]

    @property
    def maximum(self) -> Float64[Tensor, " concepts"]:
        """The largest RoA of each concept."""
        return self.roa.amax(1)

    @property
    def mean(self) -> Float64[Tensor, " concepts"]:
        """The mean RoA of each concept."""
        return self.roa.mean(1)

    @property
    def variance(self) -> Float64[Tensor, " concepts"]:
        """The unbiased variance of each concept's RoA; 0 for a single attribute."""
        return self.roa.var(1, correction=int(self.roa.shape[1] > 1))

    @property
    def entropy(self) -> Float64[Tensor, " concepts"]:
        r"""$-\sum_a R \log R$ of each concept's RoA R, in nats; it may be negative, since RoA is not a probability."""
        return torch.special.entr(self.roa).sum(1)

    @property
    def attribute_entropy(self) -> Float64[Tensor, " concepts"]:
        """Entropy of P(a | c) in nats, a fast substitute for a concept's complexity."""
        return torch.special.entr(self.attributes).sum(1)


def representativeness(activations: Float[Tensor, "concepts dim"]) -> Representativeness:
    r"""RoA, $R(a, c) = \frac{P(a \mid c)}{\sum_{c' \ne c} P(c' \mid a)}$.

    With the concepts' embeddings $m$, $P(a \mid c) = m_{ca} / \sum_b m_{cb}$, $P(c \mid a) = m_{ca} / \sum_d m_{da}$,
    and the denominator is $1 - P(c \mid a)$, to which 1e-12 is added.

    Args:
        activations: from `concept_activations`, at least 0.

    Raises:
        InputError: for fewer than 2 concepts, negative activations, or NaN.

    Examples:
        >>> representativeness(torch.tensor([[2.0, 2.0], [6.0, 0.0]])).roa  # P(c | a) of the first row is 1/4 and 1
        tensor([[6.6667e-01, 5.0000e+11],
                [4.0000e+00, 0.0000e+00]], dtype=torch.float64)
    """
    check_matrix("activations", activations, at_least=2)
    _check_activations("activations", activations)
    m = activations.detach().double()
    attributes, concepts = _shares(m, 1), _shares(m, 0)
    return Representativeness(attributes, concepts, attributes / (1 - concepts + EPSILON))


class Importance(NamedTuple):
    """Weights of concepts; those of each kind sum to 1.

    Attributes:
        relatedness: high for concepts with many attributes.
        analogy: high for concepts with few attributes.
    """

    relatedness: Float64[Tensor, " concepts"]
    analogy: Float64[Tensor, " concepts"]


def importance(entropy: Float[Tensor, " concepts"]) -> Importance:
    r"""The authors' "uninformative prior" of concepts: $r_c \propto e^{H_c - \bar H}$, $a_c \propto e^{\bar H - H_c}$.

    Args:
        entropy: `Representativeness.attribute_entropy`; a novel example gets a weight if it is one of the concepts.

    Raises:
        InputError: for NaN, or no concept.

    Examples:
        >>> importance(torch.tensor([0.0, math.log(3.0)])).relatedness
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    _check_values("entropy", entropy)
    return Importance(entropy.double().softmax(0), (-entropy.double()).softmax(0))


def quadruple_importance(
    weights: Float[Tensor, " concepts"], triples: Integer[Tensor, "triples 3"], novel: int = -1
) -> Float64[Tensor, " triples"]:
    r"""Importance of three concepts and a novel one, $\frac{xyzw}{x + y + z + w}$ of their weights x, y, z and w.

    Args:
        weights: one of the weights of `importance`.
        triples: rows of three concepts.
        novel: the novel concept; -1 is the last.

    Raises:
        InputError: for wrong shapes, and for integers that are not concepts.

    Examples:
        >>> quadruple_importance(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([[0, 1, 2]]))
        tensor([0.0024], dtype=torch.float64)
    """
    _check_values("weights", weights)
    count = len(weights)
    if triples.ndim != 2 or triples.shape[1] != 3:
        raise InputError(f"triples: expected three concepts a row, got shape {list(triples.shape)}")
    triples = check_integers("triples", triples.flatten(), triples.numel(), low=0, high=count).view_as(triples)
    check_number("novel", novel, at_least=-count, below=count, whole=True)
    four = torch.cat([weights.double()[triples], weights.double()[novel].expand(len(triples), 1)], 1)
    return four.prod(1) / four.sum(1).clamp_min(torch.finfo(torch.float64).tiny)  # 0 where all four are 0


# Subjective complexity


def masked_accuracy(
    features: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    head: nn.Linear,
    scores: Float[Tensor, "concepts dim"],
) -> Float64[Tensor, "concepts dim"]:
    r"""Share of each concept's images that a classifier recognises by the concept's K best attributes alone.

    All other attributes are set to 0. Since the true concept selects the attributes, the share is not the accuracy of a
    classifier, and is often near 1 for small K.

    Args:
        features: mean-pooled feature maps, from `pool`.
        labels: the concept of each image; -1 leaves an image out.
        head: the classifier's last layer, whose output c belongs to concept c.
        scores: rank the attributes of each concept, the best first, such as `Representativeness.roa`; attributes of
            equal score keep their order.

    Returns:
        The share for K attributes in column K - 1; the last column is the accuracy without a mask.

    Raises:
        InputError: for a concept without images or without an output of the head, wrong shapes, or NaN.

    Examples:
        >>> head = nn.Linear(3, 2, bias=False)
        >>> _ = head.weight.data.copy_(torch.tensor([[2.0, 0.0, -3.0], [1.0, 1.5, 0.0]]))
        >>> roa = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
        >>> masked_accuracy(torch.ones(2, 3), torch.tensor([0, 1]), head, roa)
        tensor([[1., 0., 0.],
                [1., 1., 1.]], dtype=torch.float64)
    """
    check_matrix("scores", scores)
    members = _members(labels, features, "features", len(scores))
    if features.shape[1] != scores.shape[1] or head.in_features != scores.shape[1]:
        widths = f"{features.shape[1]}, {head.in_features} and {scores.shape[1]}"
        raise InputError(f"features, head and scores: expected as many attributes, got {widths}")
    if head.out_features < len(scores):
        raise InputError(f"head: expected an output for each of the {len(scores)} concepts, got {head.out_features}")
    weight = head.weight.detach().double()
    bias = torch.zeros_like(weight[:, 0]) if head.bias is None else head.bias.detach().double()
    order = scores.argsort(dim=1, descending=True, stable=True)
    curves = []
    for concept, (rows, best) in enumerate(zip(members, order, strict=True)):
        # A mask commutes with mean pooling, and each attribute has its own term in the logits.
        right = torch.zeros(len(best), dtype=torch.float64, device=weight.device)
        for part in features.detach()[rows].double()[:, best].split(max(1, TILE // weight.numel())):
            logits = (part[:, :, None] * weight.T[best]).cumsum(1) + bias
            right += (logits.argmax(2) == concept).sum(0)
        curves.append(right / len(rows))
    return torch.stack(curves)


def description_length(accuracy: Float[Tensor, "concepts dim"], threshold: float) -> Int64[Tensor, " concepts"]:
    """The smallest number of attributes by which a share of a concept's images is recognised.

    Args:
        accuracy: from `masked_accuracy`.
        threshold: the share, from 0 to 1.

    Returns:
        The number for each concept; the number of all attributes where no number reaches the share.

    Raises:
        InputError: for NaN or numbers out of range.

    Examples:
        >>> description_length(torch.tensor([[0.2, 0.7, 0.6], [0.1, 0.1, 0.3]]), threshold=0.5)
        tensor([2, 3])
    """
    check_matrix("accuracy", accuracy)
    check_number("threshold", threshold, at_least=0, at_most=1)
    reached = accuracy >= threshold
    return torch.where(reached.any(1), reached.long().argmax(1) + 1, accuracy.shape[1])


class SubjectiveComplexity(NamedTuple):
    """The accuracy that concepts lose when a few attributes describe them.

    Attributes:
        concepts: for each concept the loss with K attributes, summed over K.
        valid: whether each concept is valid, that is, not rejected.
        validity: the share of valid concepts.
        log: logarithm of the mean loss over valid concepts; minus infinity for no loss, `None` without valid concepts.
    """

    concepts: Float64[Tensor, " concepts"]
    valid: Bool[Tensor, " concepts"]
    validity: float
    log: float | None


def subjective_complexity(
    accuracy: Float[Tensor, "concepts dim"], reject: float = 0.4, converge: float = 0.1, rejected: bool = False
) -> SubjectiveComplexity:
    r"""The area between the accuracy with all attributes and the accuracies with fewer attributes.

    Let $d_K = \text{acc}_c - \text{acc}_c(K)$. A concept is rejected if any $d_K < -r$, since K attributes then
    recognise it better than all attributes. Its complexity is the sum of all $d_K \ge t$ with K below the number of
    attributes.

    Args:
        accuracy: from `masked_accuracy`.
        reject: the threshold r, at least 0; the authors use .205 to .6.
        converge: the threshold t, at least 0; the authors use .02 to .195.
        rejected: whether to add to the sum over valid concepts the loss of each rejected concept up to the K that
            rejects it, as the authors' code does.

    Raises:
        InputError: for fewer than 2 attributes, NaN, or numbers out of range.

    Examples:
        >>> found = subjective_complexity(torch.tensor([[0.5, 0.85, 1.0, 0.9], [1.0, 0.2, 0.2, 0.5]]))
        >>> found.concepts, found.valid, round(found.log, 4)  # log 0.4
        (tensor([0.4000, 0.6000], dtype=torch.float64), tensor([ True, False]), -0.9163)
    """
    check_number("reject", reject, at_least=0)
    check_number("converge", converge, at_least=0)
    loss = _losses(accuracy)
    over = loss < -reject
    valid = ~over.any(1)
    counted = loss.where(loss >= converge, 0)
    concepts = counted.sum(1)
    total = float((counted * (over.cumsum(1) == 0) if rejected else counted[valid]).sum())
    log = None if not valid.any() else math.log(total / int(valid.sum())) if total else -math.inf
    return SubjectiveComplexity(concepts, valid, float(valid.double().mean()), log)


class ComplexityGrid(NamedTuple):
    """Subjective complexity for the authors' grid of 80 values of `reject` and 36 of `converge`.

    Attributes:
        log: `SubjectiveComplexity.log` of each pair; NaN where all concepts are rejected, minus infinity for no loss.
        validity: share of valid concepts for each `reject`.
    """

    log: Float64[Tensor, "80 36"]
    validity: Float64[Tensor, " 80"]


def complexity_grid(accuracy: Float[Tensor, "concepts dim"], rejected: bool = False) -> ComplexityGrid:
    """Logarithmic subjective complexity for each pair of the authors' grid of `reject` and `converge`.

    The finite ones are the points of the authors' figures of the subjective complexity of a set, where `rejected` is
    set.

    Args:
        accuracy: from `masked_accuracy`.
        rejected: as in `subjective_complexity`.

    Raises:
        InputError: as `subjective_complexity` does.

    Examples:
        >>> found = complexity_grid(torch.tensor([[0.5, 0.85, 1.0, 0.9], [1.0, 0.2, 0.2, 0.5]]))
        >>> round(found.log[0, 0].item(), 4), found.validity[[0, -1]].tolist()  # of the second a loss is -.5
        (-0.7985, [0.5, 1.0])
    """
    loss = _losses(accuracy)
    valid = torch.stack([(loss >= -reject).all(1) for reject in REJECT]).double()
    counted = [loss.where(loss >= converge, 0) for converge in CONVERGE]
    if rejected:  # of each concept what comes before its rejection; of a valid one that is all
        before = torch.stack([((loss < -reject).cumsum(1) == 0) for reject in REJECT]).double()
        sums = torch.einsum("rck,tck->rt", before, torch.stack(counted))
    else:
        sums = valid @ torch.stack([one.sum(1) for one in counted]).T
    log = (sums / valid.sum(1, keepdim=True)).log()
    return ComplexityGrid(log.where(valid.any(1, keepdim=True), math.nan), valid.mean(1))


def pooled_complexity(accuracy: Float[Tensor, "concepts dim"], rejected: bool = False) -> float | None:
    """Mean of the logarithmic subjective complexity over the authors' grid of `reject` and `converge`.

    As in the authors' figures, the mean leaves out pairs that reject all concepts or give a complexity of 0.

    Args:
        accuracy: from `masked_accuracy`.
        rejected: whether rejected concepts count as in the authors' figures; see `subjective_complexity`.

    Returns:
        The mean; `None` if it leaves out all pairs.

    Raises:
        InputError: as `subjective_complexity` does.

    Examples:
        >>> accuracy = torch.tensor([[0.5, 0.85, 1.0, 0.9], [1.0, 0.5, 0.2, 0.5], [0.1, 0.0, 0.9, 0.4]])
        >>> round(pooled_complexity(accuracy), 4), round(pooled_complexity(accuracy, rejected=True), 4)
        (-0.8598, -0.1228)
    """
    log = complexity_grid(accuracy, rejected).log
    kept = log[log.isfinite()]
    return float(kept.mean()) if len(kept) else None


def _losses(accuracy: Tensor) -> Tensor:
    """The accuracy with all attributes less the accuracies with fewer attributes."""
    check_matrix("accuracy", accuracy)
    if accuracy.shape[1] < 2:
        raise InputError(f"accuracy: expected at least 2 attributes, got {accuracy.shape[1]}")
    accuracy = accuracy.double()
    return accuracy[:, -1:] - accuracy[:, :-1]


# Visual complexity


def visual_complexity(
    images: UInt8[Tensor, "n channels height width"] | Float[Tensor, "n channels height width"],
    size: int | None = 224,
    normalisation: Normalisation = "proper",
) -> Float64[Tensor, " n"]:
    """Two-dimensional entropy of each image: the entropy of pairs of a pixel and the mean of its eight neighbours.

    The entropy is the mean over channels. Pixels outside of the image have the lowest value of all its channels. Pixels
    have 256 levels, so that the comparison of pairs is exact.

    Args:
        images: uint8, or floats from 0 to 1.
        size: height and width to which images are resized first; `None` does not resize them.
        normalisation: "proper" divides the counts of pairs by the number of pixels; "padded" divides them by the number
            of pixels with a frame around the image, as the authors' code does, so that shares do not sum to 1.

    Returns:
        The entropies in bits. With "proper" they are from 0, for a constant image, to log2 of the number of pixels.

    Raises:
        InputError: for wrong shapes, NaN, values out of range, or an unknown normalisation.

    Examples:
        >>> visual_complexity(torch.tensor([[0, 0, 0], [0, 0, 1]], dtype=torch.uint8)[None, None], size=None)
        tensor([1.4591], dtype=torch.float64)
    """
    if normalisation not in get_args(Normalisation):
        raise unknown("normalisation", normalisation, get_args(Normalisation))
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InputError(f"images: expected [images, channels, height, width], got shape {list(images.shape)}")
    if images.dtype != torch.uint8:
        check_finite("images", images)
        if images.numel() and (images.min() < 0 or images.max() > 1):
            raise InputError(f"images: expected values from 0 to 1, got {images.min():g} to {images.max():g}")
        images = (images * (LEVELS - 1)).round().to(torch.uint8)
    if size is not None:
        check_number("size", size, at_least=1, whole=True)
    return torch.tensor([_entropy(image, size, normalisation) for image in images.cpu()], dtype=torch.float64)


def _entropy(image: Tensor, size: int | None, normalisation: Normalisation) -> float:
    pixels = image[None].float()
    if size is not None:
        pixels = functional.interpolate(pixels, (size, size), mode="bilinear").round()
    pixels = (pixels - pixels.min())[0]
    around = _sums_of_three(_sums_of_three(functional.pad(pixels, (1, 1, 1, 1)), 2), 1) - pixels
    pairs = pixels + LEVELS * around  # whole numbers below 2^24: exact
    height, width = pairs.shape[-2:]
    total = height * width if normalisation == "proper" else (height + 2) * (width + 2)
    shares = [channel.unique(return_counts=True)[1].double() / total for channel in pairs]
    bits = [float(torch.special.entr(share).sum()) / math.log(2) for share in shares]
    return sum(bits) / len(bits)


def _sums_of_three(x: Tensor, dim: int) -> Tensor:
    """Sums of three successive numbers."""
    return x.unfold(dim, 3, 1).sum(-1)


class Spread(NamedTuple):
    """Mean and variance over each concept's images.

    Attributes:
        mean: the mean.
        variance: the biased variance, which divides by the number of images.
    """

    mean: Float64[Tensor, " concepts"]
    variance: Float64[Tensor, " concepts"]


def by_concept(values: Float[Tensor, " n"], labels: Integer[Tensor, " n"], concepts: int) -> Spread:
    """Mean and variance of a value over each concept's images, such as their visual complexity.

    Args:
        values: the value of each image.
        labels: the concept of each image; -1 leaves an image out.
        concepts: number of concepts.

    Raises:
        InputError: for a concept without images, NaN, or wrong shapes.

    Examples:
        >>> by_concept(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), concepts=2)
        Spread(mean=tensor([2., 5.], dtype=torch.float64), variance=tensor([1., 0.], dtype=torch.float64))
    """
    _check_values("values", values)
    parts = [values[rows].double() for rows in _members(labels, values[:, None], "values", concepts)]
    return Spread(torch.stack([part.mean() for part in parts]), torch.stack([part.var(correction=0) for part in parts]))


class Parabola(NamedTuple):
    """A parabola fitted to points.

    Attributes:
        curvature: the coefficient of the square.
        rise: the slope at the smallest x.
        fall: the slope at the largest x.
        vertex: the x of the extremum; infinite for a line.
    """

    curvature: float
    rise: float
    fall: float
    vertex: float

    @property
    def inverted_u(self) -> bool:
        """Whether the parabola rises at the smallest x and falls at the largest."""
        return self.rise > 0 > self.fall


def parabola(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Parabola:
    """The least-squares parabola of `y` over `x`.

    Args:
        x: at least 3 different values, such as the logarithm of the visual complexity.
        y: a value for each x, such as the logarithm of the subjective complexity.

    Raises:
        InputError: for fewer values, for another number of `y` than of `x`, and for NaN or infinity.

    Examples:
        >>> parabola(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0])).inverted_u
        True
    """
    _check_values("x", x)
    _check_values("y", y)
    if x.shape != y.shape or len(x.unique()) < 3:
        raise InputError(f"x and y: expected as many, of at least 3 different x, got {x.tolist()} and {y.tolist()}")
    a, b, _ = map(float, np.polyfit(x.double().cpu().numpy(), y.double().cpu().numpy(), 2))
    low, high = float(x.min()), float(x.max())
    return Parabola(a, 2 * a * low + b, 2 * a * high + b, -b / (2 * a) if a else math.inf)


# Generalisation


def hypothesis_posterior(
    inside: Bool[Tensor, "examples hypotheses"],
    sizes: Integer[Tensor, " hypotheses"],
    prior: Float[Tensor, " hypotheses"],
) -> Float64[Tensor, " hypotheses"]:
    r"""Posterior of sets of items ("hypotheses") after n examples, $p(h \mid X) \propto p(h) \, |h|^{-n}$.

    Examples are drawn from the set itself ("strong sampling"), so that the likelihood is 0 if one of them is outside.
    With each example the posterior of smaller sets rises, the "size principle" of Tenenbaum & Griffiths (2001).

    Args:
        inside: whether each example is in each set.
        sizes: number of items of each set.
        prior: prior of each set, at least 0; its sum does not matter.

    Returns:
        The posterior, with sum 1; all 0 if no set of positive prior contains all examples.

    Raises:
        InputError: for wrong shapes, no example, or negative numbers.

    Examples:
        >>> inside, sizes = torch.tensor([[True, True, False]]), torch.tensor([1, 3, 5])
        >>> hypothesis_posterior(inside, sizes, torch.ones(3))
        tensor([0.7500, 0.2500, 0.0000], dtype=torch.float64)
        >>> hypothesis_posterior(inside.repeat(2, 1), sizes, torch.ones(3))
        tensor([0.9000, 0.1000, 0.0000], dtype=torch.float64)
    """
    if inside.ndim != 2 or not len(inside) or inside.dtype != torch.bool:
        raise InputError(f"inside: expected booleans [examples, hypotheses], got {inside.dtype}, {list(inside.shape)}")
    sizes = check_integers("sizes", sizes, rows=inside.shape[1])
    _check_values("prior", prior)
    if prior.shape != sizes.shape or (prior < 0).any():
        raise InputError(f"prior: expected a number of at least 0 for each of the {len(sizes)} hypotheses")
    holds = inside.all(0) & (prior > 0)
    if (sizes[holds] < 1).any():
        raise InputError("sizes: expected at least 1 where an example is inside")
    if not holds.any():
        return torch.zeros_like(prior, dtype=torch.float64)
    log = prior.double().log() - len(inside) * sizes.double().log()
    return log.where(holds, -math.inf).softmax(0)


class Generalisation(NamedTuple):
    r"""The generalisation of a concept from a few examples to all items.

    Attributes:
        similarity: $p(y \in C \mid X) = \sum_{h \ni y} p(h \mid X)$ of each item y, which is graded.
        rule: whether each item has all of the most probable attributes.
        posterior: posterior of each attribute.
    """

    similarity: Float64[Tensor, " items"]
    rule: Bool[Tensor, " items"]
    posterior: Float64[Tensor, " dim"]


def generalise(
    peaks: Float[Tensor, "items dim"],
    examples: Integer[Tensor, " examples"],
    known: Float[Tensor, "concepts dim"],
    length: int = 4,
) -> Generalisation:
    """Generalise from examples to items, by similarity and by rule.

    An attribute is a hypothesis: the set of items whose peak exceeds the mean peak. Its prior is the RoA of the
    examples as a further concept beside the known concepts. Similarity is the mean over all attributes with their
    posterior as weights. The rule is the conjunction of the most probable attributes. This is a reconstruction, since
    the authors' code is not published in full.

    Args:
        peaks: peaks of all items, from `pool`, at least 0.
        examples: rows of the items that are examples, at least one.
        known: embeddings of other concepts, from `concept_activations`, at least 0.
        length: number of attributes of the rule, at least 1. The rule has fewer where fewer attributes hold for all
            examples; if none does, it contains no item.

    Raises:
        InputError: for wrong shapes, negative peaks, NaN, or numbers out of range.

    Examples:
        >>> peaks = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
        >>> found = generalise(peaks, torch.tensor([0]), known=torch.tensor([[1.0, 1.0]]), length=2)
        >>> found.rule, found.similarity
        (tensor([ True,  True, False, False]), tensor([1.0000, 1.0000, 0.6667, 0.0000], dtype=torch.float64))
    """
    check_matrix("peaks", peaks)
    _check_activations("peaks", peaks)
    examples = check_integers("examples", examples, rows=examples.numel(), low=0, high=len(peaks))
    check_number("length", length, at_least=1, whole=True)
    if known.ndim != 2 or not len(known) or known.shape[1] != peaks.shape[1]:
        raise InputError(f"known: expected a matrix [concepts, {peaks.shape[1]}], got shape {list(known.shape)}")
    check_matrix("known", known)
    _check_activations("known", known)
    if not len(examples):
        raise InputError("examples: expected at least one, got none")
    seen = peaks[examples].double().mean(0)
    prior = representativeness(torch.cat([known.double(), seen[None]])).roa[-1]
    has = peaks > peaks.mean(0)
    posterior = hypothesis_posterior(has[examples], has.sum(0), prior)
    best = posterior.argsort(descending=True, stable=True)[: min(length, int((posterior > 0).sum()))]
    rule = has[:, best].all(1) if len(best) else torch.zeros_like(has[:, 0])
    return Generalisation(has.double() @ posterior, rule, posterior)


# Checks of arguments that several functions share


def _members(labels: Tensor, rows: Tensor, name: str, concepts: int) -> list[Tensor]:
    """The row numbers of each concept."""
    check_number("concepts", concepts, at_least=1, whole=True)
    check_matrix(name, rows, at_least=0)
    labels = known_classes("labels", labels, len(rows), concepts)
    members = [(labels == concept).nonzero().flatten() for concept in range(concepts)]
    for concept, found in enumerate(members):
        if not len(found):
            raise InputError(f"labels: concept {concept} of {concepts} has no image")
    return members


def _check_activations(name: str, x: Tensor) -> None:
    if x.numel() and x.min() < 0:
        raise InputError(f"{name}: expected activations of at least 0, as after a ReLU, got {x.min():g}")


def _check_values(name: str, x: Tensor) -> None:
    if x.ndim != 1 or not len(x):
        raise InputError(f"{name}: expected a vector with at least one number, got shape {list(x.shape)}")
    check_finite(name, x)


def _shares(m: Tensor, dim: int) -> Tensor:
    """Shares of the sum along a dimension, all 0 where the sum is 0."""
    total = m.sum(dim, keepdim=True)
    return m / total.where(total > 0, 1)
