"""How long must the description of a concept be, and does one generalise from it by rule or by likeness?

Shi, Xu, Hopcroft, He, Tenenbaum, Zhu, Wu, Han, Zhu, "On the Complexity of Bayesian Generalization", ICML 2023, arXiv
2211.11033. Each channel of a classifier's last feature maps is an attribute. Its representativeness (RoA) tells how
typical it is of a concept and not of others; the more of the most representative attributes the classifier needs to
know a concept again, the higher is its subjective complexity.

The code of the paper's experiment on generalisation is only partly published: `hypothesis_posterior` and `generalise`
are rebuilt after Tenenbaum & Griffiths, "Generalization, similarity, and Bayesian inference", Behavioral and Brain
Sciences 24, 2001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt8
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from counterpoise.data.scenes import background
from counterpoise.data.sources import load
from counterpoise.errors import InputError, unknown
from counterpoise.measure.accuracy import known_classes
from counterpoise.nets.backbones import backbone
from counterpoise.nets.features import embed
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number, check_seed

EPSILON = 1e-12  # added to Q, which is 0 where a single concept has an attribute
MOST = 50  # images that describe a concept
REJECT = tuple(k / 200 for k in range(41, 121))  # the grid over which the authors' figures go
CONVERGE = tuple(k / 200 for k in range(4, 40))
TILE = 1 << 22  # logits kept at once
LEVELS = 256
Normalisation = Literal["proper", "padded"]


# Attributes of images


class Pooled(NamedTuple):
    """Feature maps without their places.

    Attributes:
        peak: the largest value of each channel: how strongly an image has an attribute.
        mean: the mean of each channel: what the classifier's head reads.
    """

    peak: Float[Tensor, "n dim"]
    mean: Float[Tensor, "n dim"]


def pool(maps: Float[Tensor, "n dim height width"]) -> Pooled:
    """Peak and mean of each channel of feature maps; nothing else of the maps is needed here.

    Args:
        maps: the last feature maps of a classifier, after their ReLU.

    Raises:
        InputError: for other shapes, NaN or infinity.

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
        network: a classifier up to its last convolution and ReLU, as `nn.Sequential(*list(resnet.children())[:-2])` for
            torchvision's ResNets; runs where its parameters are, in evaluation mode and without gradients.
        images: what the network takes.
        batch_size: images at a time; matters for memory and speed only.

    Raises:
        InputError: as `pool` does, without images, or for a batch size that is no whole number of at least 1.

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
        concepts: how many there are.
        most: images taken of each.

    Raises:
        InputError: for a concept without images, negative peaks, NaN, other shapes, or numbers out of range.

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
    """How typical attributes are of concepts; rows are concepts, columns attributes.

    Attributes:
        attributes: P(a | c), the share of an attribute in a concept; rows sum to 1, those without any activation to 0.
        concepts: P(c | a), the share of a concept in an attribute; columns sum to 1, those of dead attributes to 0.
        roa: P(a | c) / (1 - P(c | a)), no probability: at least 0, and about 1e12 where no other concept has the
            attribute.
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
        r"""$-\sum_a R \log R$ of each concept's RoA, in nats; RoA is no probability, so it may be negative."""
        return torch.special.entr(self.roa).sum(1)

    @property
    def attribute_entropy(self) -> Float64[Tensor, " concepts"]:
        """Entropy of P(a | c) in nats: a quick stand-in for a concept's complexity."""
        return torch.special.entr(self.attributes).sum(1)


def representativeness(activations: Float[Tensor, "concepts dim"]) -> Representativeness:
    r"""RoA, $R(a, c) = \frac{P(a \mid c)}{\sum_{c' \ne c} P(c' \mid a)}$.

    With the concepts' embeddings $m$, $P(a \mid c) = m_{ca} / \sum_b m_{cb}$, $P(c \mid a) = m_{ca} / \sum_d m_{da}$,
    and the denominator is $1 - P(c \mid a)$, to which 1e-12 is added.

    Args:
        activations: from `concept_activations`, at least 0.

    Raises:
        InputError: for fewer than 2 concepts, negative activations, or NaN.

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
    """Weights of concepts, each summing to 1.

    Attributes:
        relatedness: high for concepts of many attributes.
        analogy: high for concepts of few.
    """

    relatedness: Float64[Tensor, " concepts"]
    analogy: Float64[Tensor, " concepts"]


def importance(entropy: Float[Tensor, " concepts"]) -> Importance:
    r"""The authors' "uninformative prior" of concepts: $r_c \propto e^{H_c - \bar H}$, $a_c \propto e^{\bar H - H_c}$.

    Args:
        entropy: `Representativeness.attribute_entropy`; to weigh a novel example too, make it one more concept.

    Raises:
        InputError: for NaN, or no concept.

    >>> importance(torch.tensor([0.0, math.log(3.0)])).relatedness
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    _check_values("entropy", entropy)
    return Importance(entropy.double().softmax(0), (-entropy.double()).softmax(0))


def quadruple_importance(
    weights: Float[Tensor, " concepts"], triples: Integer[Tensor, "triples 3"], novel: int = -1
) -> Float64[Tensor, " triples"]:
    r"""Importance of three concepts x, y, z beside a novel one w: $\frac{xyzw}{x + y + z + w}$ of their weights.

    Args:
        weights: of `importance`.
        triples: three concepts a row.
        novel: the novel one; -1 is the last.

    Raises:
        InputError: for numbers that are none of a concept.

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
    return four.prod(1) / four.sum(1)


# Subjective complexity


def masked_accuracy(
    features: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    head: nn.Linear,
    scores: Float[Tensor, "concepts dim"],
) -> Float64[Tensor, "concepts dim"]:
    r"""Share of each concept's images that a classifier knows by the concept's K best attributes, all others being 0.

    The concept itself chooses the attributes, so this is no accuracy of a classifier: for small K it may well be 1.

    Args:
        features: mean-pooled, from `pool`.
        labels: the concept of each image; -1 leaves an image out.
        head: the classifier's last layer; its output c stands for concept c.
        scores: of each concept's attributes, the best ones high: `Representativeness.roa`. Of equal scores the first
            attribute comes first.

    Returns:
        Column K - 1 is for K attributes; the last column is the accuracy without a mask.

    Raises:
        InputError: for a concept without images or without an output of the head, other shapes, or NaN.

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
        # A mask commutes with mean pooling, and each attribute adds its own part to the logits.
        right = torch.zeros(len(best), dtype=torch.float64, device=weight.device)
        for part in features.detach()[rows].double()[:, best].split(max(1, TILE // weight.numel())):
            logits = (part[:, :, None] * weight.T[best]).cumsum(1) + bias
            right += (logits.argmax(2) == concept).sum(0)
        curves.append(right / len(rows))
    return torch.stack(curves)


def description_length(accuracy: Float[Tensor, "concepts dim"], threshold: float) -> Int64[Tensor, " concepts"]:
    """The fewest attributes by which a share `threshold` of a concept's images is known; all where none suffice.

    Args:
        accuracy: from `masked_accuracy`.
        threshold: from 0 to 1.

    Raises:
        InputError: for NaN or numbers out of range.

    >>> description_length(torch.tensor([[0.2, 0.7, 0.6], [0.1, 0.1, 0.3]]), threshold=0.5)
    tensor([2, 3])
    """
    check_matrix("accuracy", accuracy)
    check_number("threshold", threshold, at_least=0, at_most=1)
    reached = accuracy >= threshold
    return torch.where(reached.any(1), reached.long().argmax(1) + 1, accuracy.shape[1])


class SubjectiveComplexity(NamedTuple):
    """How much is lost by short descriptions.

    Attributes:
        concepts: of each concept, what is lost with K attributes, summed over K.
        valid: whether a concept is not rejected.
        validity: the share of those.
        log: logarithm of the mean over the valid concepts: minus infinity where nothing is lost, `None` without any.
    """

    concepts: Float64[Tensor, " concepts"]
    valid: Bool[Tensor, " concepts"]
    validity: float
    log: float | None


def subjective_complexity(
    accuracy: Float[Tensor, "concepts dim"], reject: float = 0.4, converge: float = 0.1, rejected: bool = False
) -> SubjectiveComplexity:
    r"""The area between the full accuracy and that of short descriptions.

    With $d_K = \text{acc}_c - \text{acc}_c(K)$, a concept is rejected if any $d_K < -r$, for a few attributes then know
    it better than all do. Its complexity is the sum of those $d_K$ that are at least t, over all K below the number of
    attributes.

    Args:
        accuracy: from `masked_accuracy`.
        reject: r, at least 0; the authors' figures go over .205 to .6.
        converge: t, at least 0; the authors' figures go over .02 to .195.
        rejected: as the authors' code does, add to the valid concepts' sum what each rejected one lost up to the K at
            which it is rejected.

    Raises:
        InputError: for fewer than 2 attributes, NaN, or numbers out of range.

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


def pooled_complexity(accuracy: Float[Tensor, "concepts dim"]) -> float | None:
    """Mean of the logarithmic subjective complexity over the authors' grid of `reject` and `converge`.

    Pairs by which all concepts are rejected, or none is complex, are left out, as in the authors' figures.

    Args:
        accuracy: from `masked_accuracy`.

    Returns:
        The mean; `None` where all pairs are left out.

    Raises:
        InputError: as `subjective_complexity` does.

    >>> round(pooled_complexity(torch.tensor([[0.5, 0.85, 1.0, 0.9], [1.0, 0.2, 0.2, 0.5]])), 4)
    -0.8411
    """
    loss = _losses(accuracy)
    valid = torch.stack([(loss >= -reject).all(1) for reject in REJECT]).double()
    concepts = torch.stack([loss.where(loss >= converge, 0).sum(1) for converge in CONVERGE])
    means = (valid @ concepts.T) / valid.sum(1, keepdim=True)  # NaN where all concepts are rejected
    kept = means[means > 0]
    return float(kept.log().mean()) if len(kept) else None


def _losses(accuracy: Tensor) -> Tensor:
    """What is lost with fewer attributes than all."""
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
    """Two-dimensional entropy of each image in bits: of the pairs of a pixel and the mean of its eight neighbours.

    It is taken channel by channel and averaged. Outside the image lies the lowest value of all its channels. Pixels
    have 256 levels, so that pairs are told apart exactly.

    Args:
        images: uint8, or from 0 to 1.
        size: height and width to which images are brought first; `None` leaves them.
        normalisation: "proper" counts in shares of the pixels; "padded" in shares of the pixels and a frame around
            them, as the authors' code does, whose shares then do not sum to 1.

    Returns:
        From 0, for a constant image, to log2 of the number of pixels, if "proper".

    Raises:
        InputError: for other shapes, NaN, values out of range, or an unknown normalisation.

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
    """Sums of each three numbers that follow each other."""
    return x.unfold(dim, 3, 1).sum(-1)


class Spread(NamedTuple):
    """Mean and (biased) variance over each concept's images."""

    mean: Float64[Tensor, " concepts"]
    variance: Float64[Tensor, " concepts"]


def by_concept(values: Float[Tensor, " n"], labels: Integer[Tensor, " n"], concepts: int) -> Spread:
    """Mean and variance of a value over each concept's images, such as their visual complexity.

    Args:
        values: one an image.
        labels: the concept of each image; -1 leaves an image out.
        concepts: how many there are.

    Raises:
        InputError: for a concept without images, NaN, or other shapes.

    >>> by_concept(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), concepts=2)
    Spread(mean=tensor([2., 5.], dtype=torch.float64), variance=tensor([1., 0.], dtype=torch.float64))
    """
    _check_values("values", values)
    parts = [values[rows].double() for rows in _members(labels, values[:, None], "values", concepts)]
    return Spread(torch.stack([part.mean() for part in parts]), torch.stack([part.var(correction=0) for part in parts]))


class Parabola(NamedTuple):
    """A parabola through points, and how it runs over their range.

    Attributes:
        curvature: the coefficient of the square.
        rise: its slope at the smallest x.
        fall: its slope at the largest x.
        vertex: where it turns; infinite for a line.
    """

    curvature: float
    rise: float
    fall: float
    vertex: float

    @property
    def inverted_u(self) -> bool:
        """Whether it bends down and turns inside the range: it rises at first and falls at last."""
        return self.rise > 0 > self.fall


def parabola(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Parabola:
    """The least-squares parabola of `y` over `x`.

    Args:
        x: such as the logarithm of the visual complexity; at least 3 different values.
        y: such as the logarithm of the subjective complexity.

    Raises:
        InputError: for fewer values, as many of both, NaN or infinity.

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
    r"""Posterior of hypotheses, each a set of items, after examples: $p(h \mid X) \propto p(h) \, |h|^{-n}$.

    Examples are drawn from the set itself ("strong sampling"), so the likelihood is 0 if one lies outside. Tenenbaum &
    Griffiths 2001, the "size principle": smaller sets gain with each example.

    Args:
        inside: whether an example is in the set.
        sizes: how many items each set has.
        prior: of each set, at least 0; need not sum to 1.

    Returns:
        Sums to 1; all 0 if no set of positive prior holds all examples.

    Raises:
        InputError: for other shapes, no example, or negative numbers.

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
    r"""To which items a concept extends that was seen in a few examples.

    Attributes:
        similarity: $p(y \in C \mid X) = \sum_{h \ni y} p(h \mid X)$ of each item: graded.
        rule: whether an item has all of the most probable attributes: all or none.
        posterior: of each attribute.
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
    """Generalise from examples to items, by likeness and by rule.

    An attribute is a hypothesis: the set of those items whose peak exceeds the mean peak. Its prior is the examples'
    RoA as one more concept beside those known. Similarity averages over all attributes by their posterior; the rule is
    the conjunction of the most probable ones. This is a reconstruction: the authors' code is not published in full.

    Args:
        peaks: of all items, from `pool`, at least 0.
        examples: which of them are examples; few make similarity graded, more make the rule sure.
        known: embeddings of other concepts, from `concept_activations`.
        length: attributes of the rule; fewer where not as many hold of all examples. With none, no item is in.

    Raises:
        InputError: for other shapes, negative peaks, NaN, or numbers out of range.

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


# Arguments that several functions refuse alike


def _members(labels: Tensor, rows: Tensor, name: str, concepts: int) -> list[Tensor]:
    """The numbers of each concept's rows."""
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
    """Parts of the sum along a dimension, all 0 where it is."""
    total = m.sum(dim, keepdim=True)
    return m / total.where(total > 0, 1)


# What the paper claims, on scenes of rising clutter

SIDE, SPRITE, SMALL = 32, 20, 10  # pixels of a scene, of its object and of what lies about
INK = 0.15  # from where an object hides what is behind it
FAMILIES = ("silhouette", "object", "few", "many", "texture", "noise")
ABOUT = {"few": 2, "many": 8, "texture": 8, "noise": 8}  # small objects about
NOISE = 0.15


def study(
    data: str,
    seed: int,
    images: int = 16000,
    epochs: int = 4,
    items: int = 100,
    length: int = 4,
    draws: int = 10,
) -> dict[str, float]:
    """One seed of the paper's three claims: a small net classifies the objects of scenes of six families, ever fuller.

    A concept is a class of objects in one family. Its attributes are described by 50 training images; what is scored
    are test images. Similarity sees one example of a concept, a rule four.

    Args:
        data: grey images as objects, by name as for `load`.
        seed: of the scenes, of the net and of all that is drawn.
        images: training scenes, of all families together.
        epochs: of training.
        items: test scenes of each concept.
        length: attributes of a rule.
        draws: sets of examples of each concept.

    Returns:
        Masks: "over random" and "over lowest", how much more accurate the K attributes of highest RoA are than K random
        ones, and than the lowest, in the mean over K and all concepts; the same followed by " at 1", " at 4" and " at
        16"; "least over random", the least of all K up to a quarter of the attributes; "over activation".
        Complexity: of each family its "visual", "subjective", "accuracy" and "validity"; "curvature" of the parabola of
        the logarithms, and "turn", above 0 if it rises at the least visual complexity and falls at the largest, the
        smaller of both slopes. Generalisation: "rule" and "similarity", the area under the ROC curve; "rule high
        less low" and "similarity high less low", of concepts of high and low subjective complexity; "interaction",
        their difference; "interaction within", with high and low told apart family by family; and "mode curvature", of
        the parabola of rule less similarity over the logarithm of visual complexity.

    Raises:
        InputError: for numbers out of range, or a net too poor for its concepts to have a subjective complexity.
    """
    check_seed(seed)
    # Of each concept's items, four are examples.
    least = {"images": len(FAMILIES), "epochs": 1, "items": 5, "length": 1, "draws": 1}
    for (name, low), value in zip(least.items(), (images, epochs, items, length, draws), strict=True):
        check_number(name, value, at_least=low, whole=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _study(data, seed, images, epochs, items, length, draws)


class _Family(NamedTuple):
    """What is found of one family of scenes; rows are concepts."""

    visual: float
    curves: dict[str, Tensor]  # masked accuracy by what orders the attributes
    rule: Tensor
    similarity: Tensor


def _study(data: str, seed: int, images: int, epochs: int, items: int, length: int, draws: int) -> dict[str, float]:
    train, test = (_Objects.of(part.with_channels(1).pixels, part.labels) for part in load(data))
    concepts = int(train.labels.max()) + 1
    rng = np.random.default_rng(seed)
    chosen = torch.randint(len(train.labels), (images,))
    scenes = [
        draw_scenes(family, train, part, rng)
        for family, part in zip(FAMILIES, chosen.tensor_split(len(FAMILIES)), strict=True)
    ]
    network, head = _train(torch.cat(scenes), train.labels[chosen], concepts, epochs)
    shown, asked = (part.some(count, concepts) for part, count in ((train, MOST), (test, items)))
    found = []
    for family in FAMILIES:
        described, scored = (draw_scenes(family, *part, rng) for part in ((train, shown), (test, asked)))
        known = concept_activations(pool_images(network, _unit(described)).peak, train.labels[shown], concepts)
        pooled, labels = pool_images(network, _unit(scored)), test.labels[asked]
        curves = _curves(pooled.mean, labels, head, known)
        modes = [_modes(pooled.peak, labels, known, concept, length, draws) for concept in range(concepts)]
        found.append(_Family(float(visual_complexity(described).mean()), curves, *torch.tensor(modes).T))
    return {**_mask_figures(found), **_complexity_figures(found), **_mode_figures(found)}


class _Objects(NamedTuple):
    """Grey pictures of objects, from 0 to 1, in the size that they have in a scene."""

    pictures: Float[Tensor, "n side side"]
    labels: Int64[Tensor, " n"]

    @classmethod
    def of(cls, pixels: Tensor, labels: Tensor) -> _Objects:
        return cls(_shrunk(_unit(pixels), SPRITE)[:, 0], labels)

    def some(self, count: int, concepts: int) -> Int64[Tensor, " chosen"]:
        """The numbers of the first objects of each class."""
        return torch.cat([(self.labels == concept).nonzero()[:count, 0] for concept in range(concepts)])


def draw_scenes(
    family: str, objects: _Objects, chosen: Int64[Tensor, " n"], rng: np.random.Generator
) -> UInt8[Tensor, "n 1 side side"]:
    """Scenes of one family: the chosen objects at random places, before what lies about, before a ground.

    Args:
        family: of `FAMILIES`.
        objects: what may be in the scenes.
        chosen: number of the object of each scene.
        rng: of the grounds; the rest comes from torch's own generator.

    Raises:
        InputError: for an unknown family, or numbers that are none of an object.

    >>> objects = _Objects(torch.rand(3, SPRITE, SPRITE), torch.arange(3))
    >>> draw_scenes("few", objects, torch.tensor([0, 2]), np.random.default_rng(0)).shape
    torch.Size([2, 1, 32, 32])
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    count = len(objects.labels)
    if objects.pictures.ndim != 3 or len(objects.pictures) != count:
        raise InputError(f"objects: expected pictures [{count}, side, side], got {list(objects.pictures.shape)}")
    chosen = check_integers("chosen", chosen, rows=chosen.numel(), low=0, high=count)
    canvas = torch.zeros(len(chosen), SIDE, SIDE)
    if family in ("texture", "noise"):
        grounds = np.stack([background(rng, SIDE).mean(2) for _ in range(len(chosen))])
        canvas = torch.from_numpy(grounds).float() / 255
    for _ in range(ABOUT.get(family, 0)):
        small = _shrunk(objects.pictures[torch.randint(len(objects.labels), (len(chosen),)), None], SMALL)[:, 0]
        canvas = _put(canvas, small)
    front = objects.pictures[chosen]
    canvas = _put(canvas, (front > INK).float() if family == "silhouette" else front)
    if family == "noise":
        canvas = canvas + NOISE * torch.randn(canvas.shape)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8)[:, None]


def _put(canvas: Tensor, pictures: Tensor) -> Tensor:
    """Pictures before the canvases, each at a place of its own."""
    side = pictures.shape[1]
    row, column = (torch.randint(SIDE - side + 1, (len(canvas), 1)) + torch.arange(side) for _ in range(2))
    place = (torch.arange(len(canvas))[:, None, None], row[:, :, None], column[:, None, :])
    canvas[place] = pictures.where(pictures > INK, canvas[place])
    return canvas


def _shrunk(images: Tensor, side: int) -> Tensor:
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _train(scenes: Tensor, labels: Tensor, concepts: int, epochs: int) -> tuple[nn.Module, nn.Linear]:
    """A classifier of the objects, up to its last feature maps, and its head."""
    network = backbone("small", 1, SIDE)
    head = nn.Linear(network.features, concepts)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], 0.1, momentum=0.9, weight_decay=1e-4)
    batches = [part for _ in range(epochs) for part in torch.randperm(len(labels)).split(128) if len(part) > 1]
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(batches))
    for part in batches:
        optimizer.zero_grad()
        functional.cross_entropy(head(network(_unit(scenes[part]))), labels[part]).backward()
        optimizer.step()
        pace.step()
    return nn.Sequential(*list(network.model.children())[:-2]), head


def _curves(features: Tensor, labels: Tensor, head: nn.Linear, known: Tensor) -> dict[str, Tensor]:
    roa = representativeness(known).roa
    orders = {"roa": roa, "lowest": -roa, "activation": known}
    curves = {name: masked_accuracy(features, labels, head, scores) for name, scores in orders.items()}
    shuffled = [masked_accuracy(features, labels, head, torch.rand(known.shape)) for _ in range(5)]
    return {**curves, "random": torch.stack(shuffled).mean(0)}


def _modes(peaks: Tensor, labels: Tensor, known: Tensor, concept: int, length: int, draws: int) -> tuple[float, float]:
    """Area under the ROC curve of the rule from four examples and of similarity from one, in the mean over draws."""
    members, others = (labels == concept).nonzero().flatten(), torch.arange(len(known)) != concept
    rule, similarity = [], []
    for _ in range(draws):
        examples = members[torch.randperm(len(members))[:4]]
        asked = torch.ones(len(labels), dtype=torch.bool).index_fill(0, examples, False)
        positive = (labels == concept)[asked].numpy()
        by_rule = generalise(peaks, examples, known[others], length).rule
        by_likeness = generalise(peaks, examples[:1], known[others], length).similarity
        rule.append(roc_auc_score(positive, by_rule[asked].numpy()))
        similarity.append(roc_auc_score(positive, by_likeness[asked].numpy()))
    return float(np.mean(rule)), float(np.mean(similarity))


def _mask_figures(found: list[_Family]) -> dict[str, float]:
    mean = {name: torch.cat([one.curves[name] for one in found]).mean(0)[:-1] for name in found[0].curves}
    gaps = {f"over {name}": mean["roa"] - mean[name] for name in ("random", "lowest", "activation")}
    figures = {name: float(gap.mean()) for name, gap in gaps.items()}
    figures |= {f"{name} at {k}": float(gap[k - 1]) for name, gap in gaps.items() for k in (1, 4, 16)}
    return figures | {"least over random": float(gaps["over random"][: len(mean["roa"]) // 4].min())}


def _complexity_figures(found: list[_Family]) -> dict[str, float]:
    figures: dict[str, float] = {}
    points = []
    for name, one in zip(FAMILIES, found, strict=True):
        complexity = pooled_complexity(one.curves["roa"])
        figures |= {f"visual {name}": one.visual, f"accuracy {name}": float(one.curves["roa"][:, -1].mean())}
        figures[f"validity {name}"] = subjective_complexity(one.curves["roa"]).validity
        if complexity is not None:
            figures[f"subjective {name}"] = complexity
            points.append((math.log(one.visual), complexity))
    if len(points) < 3:
        raise InputError(
            f"data: only {len(points)} of {len(FAMILIES)} families have a subjective complexity; train longer"
        )
    bend = parabola(*torch.tensor(points, dtype=torch.float64).T)
    return figures | {"curvature": bend.curvature, "turn": min(bend.rise, -bend.fall)}


def _mode_figures(found: list[_Family]) -> dict[str, float]:
    rule, similarity = (torch.stack([getattr(one, name) for one in found]) for name in ("rule", "similarity"))
    complexity, valid = zip(*(subjective_complexity(one.curves["roa"])[:2] for one in found), strict=True)
    complexity, valid = torch.stack(complexity), torch.stack(valid)
    within = [_high_less_low(*rows) for rows in zip(rule - similarity, complexity, valid, strict=True)]
    visual = torch.tensor([one.visual for one in found]).log()
    return {
        "rule": float(rule.mean()),
        "similarity": float(similarity.mean()),
        "rule high less low": _high_less_low(rule, complexity, valid),
        "similarity high less low": _high_less_low(similarity, complexity, valid),
        "interaction": _high_less_low(rule - similarity, complexity, valid),
        "interaction within": float(np.nanmean(within)),
        "mode curvature": parabola(visual, (rule - similarity).mean(1)).curvature,
    }


def _high_less_low(value: Tensor, complexity: Tensor, valid: Tensor) -> float:
    """Mean over the valid concepts above the median complexity less that over the others; NaN without either."""
    value, complexity = value[valid], complexity[valid]
    high = complexity > complexity.quantile(0.5) if len(complexity) else valid[:0]
    return float(value[high].mean() - value[~high].mean())
