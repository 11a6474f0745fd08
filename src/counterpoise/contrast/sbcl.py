"""SBCL: large classes are split into subclasses as small as the tail's, and views are contrasted at both levels.

Hou, Zhang, Wang, Zhou, "Subclass-balancing Contrastive Learning for Long-tailed Recognition", ICCV 2023, arXiv
2306.15925: the bi-granularity contrastive loss, the temperatures of the classes, and the clustering into subclasses
that is repeated while the encoder learns.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.contrast.supcon import supcon
from counterpoise.data import Images
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets import embed
from counterpoise.ops.checks import (
    check_counts,
    check_integers,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.clusters import kmeans
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32, normalize_rows, similarity_logsumexp

Clustering = Literal["ordinary", "balanced", "random"]

ITERATIONS = {"ordinary": 35, "balanced": 50}  # largest numbers of k-means steps, as in the authors' code
MOST = 1e9  # largest factor of either level within float32's range
SPREAD = 10  # added to a class's size in the logarithm of its concentration, as in the authors' code
PERCENTILES = (0.2, 0.8)  # bounds that clip the classes' concentrations, as in the authors' code


def sbcl(
    z1: Float[Tensor, "batch dim"],
    z2: Float[Tensor, "batch dim"],
    labels: Integer[Tensor, " batch"],
    subclasses: Integer[Tensor, " batch"],
    temperatures: Float[Tensor, " batch"] | None = None,
    temperature: float = 0.1,
    gamma: float = 0.25,
    base_temperature: float = 0.07,
    ranked: bool = True,
) -> Float[Tensor, ""]:
    r"""The bi-granularity contrastive loss of two views: $\frac{T}{T_0} L_{subclass} + \gamma L_{class}$.

    $L_{subclass}$ is `supcon` with subclasses in place of classes, at temperature T. $L_{class}$ is the mean of
    `class_contrast` over all anchors.

    Args:
        z1: one row per image, first view; normalised here.
        z2: the same images, second view.
        labels: class of each image; an image with -1, for none, is a separate class.
        subclasses: subclass of each image; equal numbers in two classes are different subclasses.
        temperatures: $T_y > 0$ of each image's class, for the class level; all are `temperature` if not given.
        temperature: $T > 0$ of the subclass level.
        gamma: $\gamma \ge 0$, weight of the class level.
        base_temperature: $T_0 > 0$; rescales only the subclass level.
        ranked: restrict the class level to what the subclass level leaves out; otherwise it is `supcon` on the classes,
            at temperature T.

    Returns:
        The loss in nats, above 0.

    Raises:
        InputError: for mismatched shapes, fewer than 2 images, temperatures not above 0, labels below -1, NaN, or a
            number out of range.

    Examples:
        >>> z, label = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> loss = sbcl(z, z, label, torch.arange(4), temperature=1.0, gamma=0.5, base_temperature=1.0)
        >>> round(loss.item(), 6)  # log(1 + 6/e) + (log(e + 6) - 1/3) / 2
        2.081467
    """
    _check_numbers(temperature, gamma, base_temperature)
    row, labels, subclasses = _check(z1, z2, labels, subclasses)
    label, subclass = (number[row].repeat(2) for number in _numbers(labels, subclasses, row))
    both = torch.cat([z1, z2])
    loss = temperature / base_temperature * supcon(both, subclass, temperature)
    if not gamma:
        return loss
    if not ranked:
        return loss + gamma * supcon(both, label, temperature)
    if temperatures is None:
        dtype = torch.promote_types(z1.dtype, torch.float32)
        temperatures = torch.full(labels.shape, temperature, dtype=dtype, device=z1.device)
    return loss + gamma * gather(class_contrast(z1, z2, labels, subclasses, temperatures)).mean()


def class_contrast(
    z1: Float[Tensor, "batch dim"],
    z2: Float[Tensor, "batch dim"],
    labels: Integer[Tensor, " batch"],
    subclasses: Integer[Tensor, " batch"],
    temperatures: Float[Tensor, " batch"],
) -> Float[Tensor, " anchors"]:
    r"""The class level of each anchor: the other subclasses of its class against all other subclasses.

    For anchor a with temperature $T_a$, let a' be the other view of its image, O(a) the rows of its class but not of
    its subclass, and D(a) all rows outside its subclass. Its loss is
    $-\frac{1}{|O|+1} \sum_{p \in O + a'} s_{ap}/T_a + \log \sum_{b \in D + a'} e^{s_{ab}/T_a}$. The rest of its
    subclass appears in neither sum.

    Args:
        z1: one row per image, first view; normalised here.
        z2: the same images, second view.
        labels: class of each image; an image with -1, for none, is a separate class.
        subclasses: subclass of each image; equal numbers in two classes are different subclasses.
        temperatures: $T_a > 0$ of each image.

    Returns:
        The anchors of the first view, then those of the second; 0 if all images have one subclass.

    Raises:
        InputError: for mismatched shapes, fewer than 2 images, temperatures not above 0, labels below -1, or NaN.

    Examples:
        >>> z = torch.eye(2)  # one class, two subclasses: log(e + 2) - 1/3
        >>> class_contrast(z, z, torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.ones(2))
        tensor([1.2181, 1.2181, 1.2181, 1.2181])
    """
    row, labels, subclasses = _check(z1, z2, labels, subclasses)
    if temperatures.shape != labels.shape:
        got = list(temperatures.shape)
        raise InputError(f"temperatures: expected a number above 0 for each image, got shape {got}")
    check_values("temperatures", temperatures, above=0)
    label, subclass = _numbers(labels, subclasses, row)
    z1, z2 = normalize_rows(z1), normalize_rows(z2)
    z, scale = torch.cat([z1, z2]), (1 / temperatures).to(z1.dtype).repeat(2)
    if not subclass.any():
        return 0 * z.sum(1)
    other_view = (z1 * z2).sum(1).repeat(2)
    # Sums by class and subclass make the positives cost N·D, not N².
    others = _sums(z, label, row) - _sums(z, subclass, row)
    count = 2 * (label.bincount()[label] - subclass.bincount()[subclass])[row].repeat(2)
    positive = ((z * others).sum(1) + other_view) / (count + 1)
    outside = similarity_logsumexp(z, scale=scale, exclude=subclass[row].repeat(2), gather_distributed=True)
    return torch.logaddexp(outside, other_view * scale) - positive * scale


class SBCLLoss(nn.Module):
    """`sbcl` as a module: `loss(z1, z2, labels, subclasses)`.

    Args:
        temperature: of the subclass level, above 0.
        gamma: weight of the class level, at least 0.
        base_temperature: above 0; the subclass level is multiplied by `temperature / base_temperature`.
        ranked: restrict the class level to what the subclass level leaves out.
    """

    def __init__(
        self, temperature: float = 0.1, gamma: float = 0.25, base_temperature: float = 0.07, ranked: bool = True
    ):
        super().__init__()
        _check_numbers(temperature, gamma, base_temperature)
        self.temperature, self.gamma, self.base_temperature, self.ranked = temperature, gamma, base_temperature, ranked

    def forward(
        self,
        z1: Float[Tensor, "batch dim"],
        z2: Float[Tensor, "batch dim"],
        labels: Integer[Tensor, " batch"],
        subclasses: Integer[Tensor, " batch"],
        temperatures: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of two views of the same images; see `sbcl`."""
        return sbcl(
            z1,
            z2,
            labels,
            subclasses,
            temperatures,
            self.temperature,
            self.gamma,
            self.base_temperature,
            self.ranked,
        )


def subclass_counts(sizes: Integer[Tensor, " classes"], delta: int = 10) -> Int64[Tensor, " classes"]:
    r"""Number of subclasses of each class: $\max(1, \lfloor n_j / \max(\min_k n_k, \delta) \rfloor)$.

    Args:
        sizes: $n$, images of each class; the minimum ignores empty classes.
        delta: $\delta$, intended minimum size of a subclass.

    Raises:
        InputError: for sizes below 0, or a delta below 1.

    Examples:
        >>> subclass_counts(torch.tensor([500, 97, 50, 29, 20, 12, 9, 5])).tolist()
        [50, 9, 5, 2, 2, 1, 1, 1]
    """
    check_counts(delta=delta)
    sizes = check_integers("sizes", sizes, sizes.numel(), low=0)
    filled = sizes[sizes > 0]
    smallest = int(filled.min()) if len(filled) else 0
    return (sizes // max(smallest, delta)).clamp(min=1)


def class_temperatures(
    embeddings: Float[Tensor, "samples dim"],
    labels: Integer[Tensor, " samples"],
    classes: int,
    temperature: float = 0.1,
    exponential: bool = False,
) -> Float[Tensor, " classes"]:
    r"""A temperature for each class that grows with the scatter of its images: $T_j = T u_j / \bar u$.

    $u_j$ is the mean distance of the class's images to their mean, divided by $\log(n_j + 10)$ and clipped to the 20th
    and 80th percentile over the classes.

    Args:
        embeddings: one row per image; used as it is.
        labels: class of each image, -1 where it has none.
        classes: how many classes there are; those without images, or whose images are all equal, get `temperature`.
        temperature: $T > 0$.
        exponential: $T_j = T e^{u_j / \bar u}$ instead.

    Returns:
        One temperature per class; at least float32.

    Raises:
        InputError: for mismatched shapes, labels out of range, NaN, or numbers out of range.

    Examples:
        >>> embeddings, labels = torch.tensor([[1.0], [-1.0], [3.0], [-3.0]]), torch.tensor([0, 0, 1, 1])
        >>> class_temperatures(embeddings, labels, classes=2)  # distances 1 and 3, clipped to 1.4 and 2.6
        tensor([0.0700, 0.1300])
    """
    check_counts(classes=classes)
    check_number("temperature", temperature, above=0)
    check_matrix("embeddings", embeddings)
    if not embeddings.shape[1]:
        raise InputError(f"embeddings: expected at least 1 column, got shape {list(embeddings.shape)}")
    check_lengths("embeddings", embeddings)
    labels = check_integers("labels", labels, len(embeddings), low=-1, high=classes)
    embeddings = at_least_float32(embeddings)
    embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
    sizes = labels.bincount(minlength=classes)
    found = embeddings.new_full((classes,), temperature)
    if not len(labels):
        return found
    zeros = embeddings.new_zeros(classes, embeddings.shape[1])
    means = zeros.index_add(0, labels, embeddings) / sizes.clamp(min=1)[:, None]
    distances = torch.linalg.vector_norm(embeddings - means[labels], dim=1)
    concentration = zeros[:, 0].index_add(0, labels, distances) / sizes.clamp(min=1) / (sizes + SPREAD).log()
    concentration = concentration[sizes > 0]
    low, high = concentration.quantile(concentration.new_tensor(PERCENTILES))
    concentration = concentration.clamp(low, high)
    relative = torch.where(concentration > 0, concentration / concentration.mean(), 0 if exponential else 1)
    found[sizes > 0] = temperature * (relative.exp() if exponential else relative)
    return found


def split_class(
    z: Float[Tensor, "images dim"], count: int, clustering: Clustering = "ordinary"
) -> Int64[Tensor, " images"]:
    """Split the images of a class into subclasses by their cosines; draws from torch's global generator.

    Args:
        z: one row per image; normalised here.
        count: number of subclasses, at most that of the images.
        clustering: "ordinary" k-means; "balanced": starts there, and makes sizes differ by at most one; or "random":
            permutes the subclasses of k-means among the images, which keeps only the sizes.

    Returns:
        The subclass of each image, from 0. "ordinary" may leave one empty.

    Raises:
        InputError: for NaN, a number of subclasses out of range, or an unknown clustering.
    """
    check_matrix("z", z)
    if not z.shape[1]:
        raise InputError(f"z: expected at least 1 column, got shape {list(z.shape)}")
    check_number("count", count, at_least=1, at_most=len(z), whole=True)
    if clustering not in get_args(Clustering):
        raise unknown("clustering", clustering, get_args(Clustering))
    return _split_class(normalize_rows(z), count, clustering)


def _split_class(z: Float[Tensor, "images dim"], count: int, clustering: Clustering) -> Int64[Tensor, " images"]:
    if count == 1:
        return torch.zeros(len(z), dtype=torch.int64)
    found = kmeans(z, count, iterations=ITERATIONS["ordinary"], spherical=True)
    if clustering == "balanced":
        return _balanced(z, found.centroids.to(z.dtype))
    return found.labels[torch.randperm(len(z))] if clustering == "random" else found.labels


def assign_evenly(similarity: Float[Tensor, "images clusters"]) -> Int64[Tensor, " images"]:
    """Assign each image to a cluster, best pairs first, so that the clusters' sizes differ by at most one.

    A pair is rated by its similarity divided by the sum of the cluster's similarities. Clusters fill up to n/m images,
    rounded down; then each takes at most one of the remaining images.

    Args:
        similarity: similarity of each image to each cluster, above 0.

    Raises:
        InputError: for no image or cluster, or similarities that are not above 0.

    Examples:
        >>> assign_evenly(torch.tensor([[0.9, 0.8], [0.8, 0.1], [0.7, 0.6], [0.6, 0.5]]))  # two prefer cluster 0
        tensor([1, 0, 1, 0])
    """
    check_matrix("similarity", similarity)
    if not similarity.shape[1]:
        raise InputError(f"similarity: expected at least 1 cluster, got shape {list(similarity.shape)}")
    check_values("similarity", similarity, above=0)
    images, clusters = similarity.shape
    share = images // clusters
    order = (similarity / similarity.sum(0)).flatten().argsort(descending=True, stable=True)
    pairs = list(zip((order // clusters).tolist(), (order % clusters).tolist(), strict=True))
    found, sizes = [-1] * images, [0] * clusters
    for most in (share, share + 1):
        for image, cluster in pairs:
            if found[image] < 0 and sizes[cluster] < most:
                found[image] = cluster
                sizes[cluster] += 1
    return torch.tensor(found)


class SBCL(ProjectedMethod):
    """Contrastive pretraining with long-tailed labels: large classes are split into subclasses while it learns.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        classes: number of classes in the labels.
        temperature: of the subclass level, above 0.
        gamma: weight of the class level, at least 0.
        base_temperature: above 0; the subclass level is multiplied by `temperature / base_temperature`.
        ranked: restrict the class level to what the subclass level leaves out.
        exponential: make a class's temperature grow exponentially with the scatter of its images, not linearly.
        delta: intended minimum size of a subclass; the smallest class's size if that is larger.
        clustering: "ordinary" k-means, "balanced" with subclasses of equal size, or "random" subclasses as a control.
        warm_epochs: epochs of SupCon before the first clustering.
        every: epochs from one clustering to the next.
        **recipe: arguments of `ProjectedMethod`.
    """

    subclasses: Tensor
    temperatures: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        classes: int,
        temperature: float = 0.1,
        gamma: float = 0.25,
        base_temperature: float = 0.07,
        ranked: bool = True,
        exponential: bool = False,
        delta: int = 10,
        clustering: Clustering = "ordinary",
        warm_epochs: int = 1,
        every: int = 1,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(samples=samples, classes=classes, delta=delta, every=every)
        check_number("warm_epochs", warm_epochs, at_least=0, whole=True)
        if clustering not in get_args(Clustering):
            raise unknown("clustering", clustering, get_args(Clustering))
        self.exponential, self.delta, self.clustering = exponential, delta, clustering
        self.warm_epochs, self.every = warm_epochs, every
        self.objective = SBCLLoss(temperature, gamma, base_temperature, ranked)
        self.register_buffer("subclasses", torch.full((samples,), -1))
        self.register_buffer("temperatures", torch.full((classes,), temperature))

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Split the classes again, using one random view of each image, and compute the classes' temperatures."""
        if epoch < self.warm_epochs or (epoch - self.warm_epochs) % self.every:
            return
        z = normalize_rows(embed(nn.Sequential(self.encoder, self.head), images, self.view))
        sizes = images.labels[images.labels >= 0].bincount(minlength=len(self.temperatures))
        counts = subclass_counts(sizes, self.delta)
        first = counts.cumsum(0) - counts
        subclasses = torch.full_like(images.labels, -1)
        for label in sizes.nonzero().flatten().tolist():
            rows = (images.labels == label).nonzero().flatten()
            subclasses[rows] = first[label] + _split_class(z[rows], int(counts[label]), self.clustering)
        temperature = self.objective.temperature
        temperatures = class_temperatures(z, images.labels, len(counts), temperature, self.exponential)
        self.subclasses.copy_(subclasses)
        self.temperatures.copy_(temperatures.where(counts > 1, temperature))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """SBCL of the projections of both views; SupCon before the first clustering."""
        z1, z2 = self.projections(images)
        if not (self.subclasses >= 0).any():
            temperature = self.objective.temperature
            one = torch.zeros_like(labels)
            return sbcl(z1, z2, labels, one, None, temperature, gamma=0, base_temperature=temperature)
        # An image without a label is alone in its class, which keeps the temperature of unsplit classes.
        of_class = self.temperatures[labels].where(labels >= 0, self.objective.temperature)
        return self.objective(z1, z2, labels, self.subclasses[index], of_class)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`subclasses`: their number; `subclass_size`: mean number of images in an image's own subclass.

        Empty before the first clustering. In a batch of B of N images, an image meets B·(`subclass_size` - 1)/N others
        of its subclass on average.
        """
        sizes = self.subclasses[self.subclasses >= 0].bincount().double()
        if not len(sizes):
            return {}
        return {"subclasses": float((sizes > 0).sum()), "subclass_size": float(sizes.square().sum() / sizes.sum())}


def _check_numbers(temperature: float, gamma: float, base_temperature: float) -> None:
    check_number("temperature", temperature, above=0)
    check_number("gamma", gamma, at_least=0, at_most=MOST)
    check_number("base_temperature", base_temperature, above=0)
    check_number("temperature / base_temperature", temperature / base_temperature, at_most=MOST)


def _check(z1: Tensor, z2: Tensor, labels: Tensor, subclasses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments; return each image's index over all processes, its class and its subclass."""
    check_same_shape(z1=z1, z2=z2)
    check_matrix("z1", z1)
    check_matrix("z2", z2)
    labels = check_integers("labels", labels, len(z1), low=-1)
    subclasses = check_integers("subclasses", subclasses, len(z1))
    return global_row_indices(z1, "z1", at_least=2), labels, subclasses


def _numbers(labels: Tensor, subclasses: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Class and subclass of all processes' images, renumbered from 0 without gaps."""
    label = gather(torch.where(labels < 0, -1 - row, labels))
    pairs = torch.stack([label, gather(subclasses)], 1)
    return label.unique(return_inverse=True)[1], pairs.unique(dim=0, return_inverse=True)[1]


def _sums(z: Float[Tensor, "anchors dim"], number: Tensor, row: Tensor) -> Float[Tensor, "anchors dim"]:
    """The sum over all rows with each anchor's number: both views, all processes."""
    own = number[row].repeat(2)
    sums = z.new_zeros(1, int(number.max()) + 1, z.shape[1]).index_add(1, own, z[None])
    return gather(sums).sum(0)[own]


def _balanced(z: Tensor, centres: Tensor) -> Int64[Tensor, " images"]:
    """k-means from the given centres, with clusters of equal size."""
    found = None
    for _ in range(ITERATIONS["balanced"]):
        # Cosines may be negative, and dividing by a negative sum would reverse the order.
        before, found = found, assign_evenly((1 + z @ centres.T) / 2 + 1e-6)
        if before is not None and torch.equal(before, found):
            break
        centres = normalize_rows(torch.zeros_like(centres).index_add(0, found, z))
    assert found is not None
    return found
