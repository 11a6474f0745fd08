"""RCAL: classes as Gaussians of features without labels, cleaned of outliers, repaired for rare classes, drawn from.

Zhang, Zhao, Yao, Yuan, Huang, "When Noisy Labels Meet Long Tail Dilemmas: A Representation Calibration Method",
ICCV 2023, arXiv 2211.10955 (version 3). No code of the authors is known; what the paper leaves open is an argument, and
its page says so.

Features of an encoder that has seen no label are not touched by wrong ones: an item with a wrong label is an outlier of
the class that it is counted to. So the items that are left show the class's mean and covariance. Those of a rare class,
known from few items, borrow from the frequent classes nearest to it. Drawn features make all classes equally frequent.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Integer
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn

from counterpoise.classify.cross_entropy import balanced_weights
from counterpoise.data.views import to_input
from counterpoise.errors import InputError, first_few, unknown
from counterpoise.learners.alternating import Alternating, Clip, Turn
from counterpoise.learners.classifier import Classifier, cross_entropy
from counterpoise.learners.gaussians import Gaussians, check_gaussians, class_gaussians
from counterpoise.learners.method import Index, InputViews, Labels, View
from counterpoise.nets import embed
from counterpoise.nets.frozen import Frozen
from counterpoise.nets.growing import growing
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_matrix,
    check_number,
    check_same_shape,
)
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32

Weights = Literal["count-distance", "count", "inverse-distance"]
Disturbance = Literal["ones", "eye"]
Balance = Literal["virtual", "weights", "none"]
Virtual = Literal["second-optimizer", "joint"]
Aligned = Literal["images", "mixtures"]

MOST = 20_000  # rows up to which scikit-learn finds the neighbours
OUTLIER = 1.5  # factors above it are outliers: scikit-learn's contamination="auto"
UNDEFINED = 1e7  # factors above it come of rows that are equal to all their neighbours, whose density has no bound
FLOOR = 1e-10  # of a mean distance, as scikit-learn's
ALONE = 2  # rows that are too few to be outliers of each other
TINY = 1e-300  # variance of a class whose rows are all equal
# Numbers of the covariances that are factorised at once. A processor factorises one after the other in any case, and
# fastest where memory is used again; an accelerator has more to do at a time.
TOGETHER = {"cpu": 2**20, "cuda": 2**26}


def local_outlier_factors(x: Float[Tensor, "n dim"], neighbours: int = 20) -> Float64[Tensor, " n"]:
    r"""How much sparser the surroundings of a row are than those of its neighbours: about 1 among others, more outside.

    With the k nearest rows N(i) of a row, and d the Euclidean distance, the density of a row is
    $\rho_i = 1 / \operatorname{mean}_{j \in N(i)} \max(d_{ij}, d_k(j))$, $d_k(j)$ being the distance of j to its own
    k-th neighbour, and the factor is $\operatorname{mean}_{j \in N(i)} \rho_j / \rho_i$ (Breunig, Kriegel, Ng, Sander,
    "LOF: Identifying density-based local outliers", SIGMOD 2000). Up to 20,000 rows it is scikit-learn's; for more it
    is computed with the exact search of `ops.neighbours`, equal to 1e-6.

    Args:
        x: at least 2 rows; used as they are.
        neighbours: k, at least 1; of fewer other rows, all of them.

    Returns:
        One factor a row, above 0. That of a row near more than k equal ones is huge, 1e7 and more, and says nothing.

    Raises:
        InputError: for other shapes, NaN or infinity, or fewer than 1 neighbour.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0]])
        >>> local_outlier_factors(x, neighbours=2)
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 4.3333], dtype=torch.float64)
    """
    check_matrix("x", x, at_least=2)
    check_counts(neighbours=neighbours)
    rows, k = x.detach().cpu().double(), min(neighbours, len(x) - 1)
    if len(rows) <= MOST:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Duplicate values")  # the docstring says what they lead to
            found = LocalOutlierFactor(n_neighbors=k).fit(rows.numpy())
        return torch.from_numpy(-found.negative_outlier_factor_)
    return _factors(rows, k)


def _factors(x: Float64[Tensor, "n dim"], k: int) -> Float64[Tensor, " n"]:
    distance, index = nearest(x, x, k + 1, metric="euclidean")
    own = index == torch.arange(len(x))[:, None]
    own[:, -1] |= ~own.any(1)  # of more than k equal rows, a row need not be among its own nearest
    distance, index = distance[~own].view(-1, k).double(), index[~own].view(-1, k)
    reached = torch.maximum(distance, distance[:, -1][index])
    density = 1 / (reached.mean(1) + FLOOR)
    return density[index].mean(1) / density


def inliers(z: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"], neighbours: int = 20) -> Bool[Tensor, " n"]:
    """Which rows lie among those of their class: whose local outlier factor within it is at most 1.5.

    Args:
        z: features; used as they are.
        labels: class of each row; -1 where it has none.
        neighbours: of each row in its class, see `local_outlier_factors`. Of a class with at most 2 rows all are
            inliers, with a warning, and so are rows whose factor says nothing.

    Returns:
        False for the outliers, and for rows without a label.

    Raises:
        InputError: for other shapes, NaN or infinity, labels below -1, or fewer than 1 neighbour.

    Examples:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0], [9.0], [9.5], [7.0]])
        >>> inliers(z, torch.tensor([0, 0, 0, 0, 0, 1, 1, -1]), neighbours=2)
        tensor([ True,  True,  True,  True, False,  True,  True, False])
    """
    check_matrix("z", z)
    check_counts(neighbours=neighbours)
    labels = check_integers("labels", labels, len(z), low=-1).cpu()
    kept, few = labels >= 0, []
    for label in labels[kept].unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) <= ALONE:
            few.append(str(label))
            continue
        factors = local_outlier_factors(z[rows.to(z.device)], neighbours)
        kept[rows] = (factors <= OUTLIER) | (factors > UNDEFINED)
    if few:
        warnings.warn(f"inliers: of the classes {first_few(few)}, with at most {ALONE} rows each, all rows are kept")
    return kept.to(z.device)


def robust_gaussians(
    z: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    classes: int,
    kept: Bool[Tensor, " n"] | None = None,
) -> Gaussians:
    r"""Mean and covariance of each class's inliers; covariances are divided by the number of inliers less 1.

    The counts are those of the labels, outliers among them: $n_k$ of the paper, by which classes are frequent or rare.

    Args:
        z: features; used as they are.
        labels: class of each row, below `classes`; -1 leaves a row out.
        classes: how many there are.
        kept: which rows are inliers, see `inliers`; by default all of them.

    Returns:
        The Gaussians. Of a class with one inlier the covariance is 0, of one without any the mean, too.

    Raises:
        InputError: for other shapes, NaN or infinity, labels that are no class, or numbers out of range.

    Examples:
        >>> z, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0]]), torch.zeros(5, dtype=torch.int64)
        >>> found = robust_gaussians(z, labels, classes=1, kept=inliers(z, labels, neighbours=2))
        >>> found.mean.item(), round(found.covariance.item(), 4), found.counts.item()  # of 0, 1, 2 and 3
        (1.5, 1.6667, 5)
    """
    check_matrix("z", z)
    check_counts(classes=classes)
    labels = check_integers("labels", labels, len(z), low=-1, high=classes).to(z.device)
    if kept is None:
        kept = torch.ones_like(labels, dtype=torch.bool)
    if kept.dtype != torch.bool or kept.shape != labels.shape:
        raise InputError(
            f"kept: expected true or false for each of {len(z)} rows, got {kept.dtype} of {list(kept.shape)}"
        )
    counts = labels[labels >= 0].bincount(minlength=classes)
    found = class_gaussians(z, labels.where(kept.to(z.device), -1), classes)
    # It divides by the number of rows itself; of a single one the covariance is 0 all the same.
    found.covariance.mul_((found.counts.double() / (found.counts - 1).clamp(min=1))[:, None, None])
    return found._replace(counts=counts)


def head_classes(
    counts: Integer[Tensor, " classes"], share: float = 0.5, number: int | None = None
) -> Bool[Tensor, " classes"]:
    """The frequent classes: as few as possible that together have this share of the items. The others are the tail.

    Classes as frequent as the last one of them are of the head, too, so that their order does not matter.

    Args:
        counts: items of each class.
        share: above 0, at most 1.
        number: how many classes are of the head, at least 1, in place of the share.

    Raises:
        InputError: for what is no vector of integers of at least 0, for no item at all, or numbers out of range.

    Examples:
        >>> head_classes(torch.tensor([5, 40, 25, 20, 10]))
        tensor([False,  True,  True, False, False])
        >>> head_classes(torch.tensor([5, 40, 25, 20, 10]), number=1)
        tensor([False,  True, False, False, False])
    """
    counts = check_integers("counts", counts, counts.numel(), low=0)
    check_number("share", share, above=0, at_most=1)
    if number is not None:
        check_number("number", number, at_least=1, at_most=len(counts), whole=True)
    if not counts.any():
        raise InputError("counts: expected a class with items, got none")
    ordered = counts.sort(descending=True).values
    reached = ordered.cumsum(0) >= share * counts.sum()
    last = int(reached.nonzero()[0]) if number is None else number - 1
    return (counts >= ordered[last]) & (counts > 0)


def calibrate(
    g: Gaussians,
    head: Bool[Tensor, " classes"],
    q: int = 3,
    gamma: float = 0.5,
    alpha: float = 0.1,
    weights: Weights = "count-distance",
    disturbance: Disturbance = "ones",
    allow_empty: bool = False,
) -> Gaussians:
    r"""Gaussians whose rare classes borrow from the q frequent classes with the nearest means.

    With $d_c = \|\mu_c - \mu_k\|_2$ and $n_c$ the counts, $\omega_c = n_c d_c^2 / \sum_j n_j d_j^2$ over the q nearest,

    $\mu'_k = \gamma \sum_c \omega_c \mu_c + (1 - \gamma) \mu_k$ and
    $\Sigma'_k = \gamma \sum_c \omega_c \Sigma_c + (1 - \gamma) \Sigma_k + \alpha 1 1^\top$.

    So of the q nearest the farthest counts most, as the paper has it in formula and words. Frequent classes stay.

    Args:
        g: with whole covariances; see `robust_gaussians`.
        head: which classes are frequent; see `head_classes`.
        q: at least 1; of fewer frequent classes, all of them.
        gamma: $\gamma$, from 0 to 1: how much comes from the frequent classes.
        alpha: $\alpha$, at least 0.
        weights: "count-distance" as above; "count", $n_c$ alone; "inverse-distance", $n_c / d_c^2$. Where all
            distances of the first are 0 the counts decide, and of the last those classes share that are at 0.
        disturbance: "ones" adds $\alpha$ to every entry, as the paper does, which is of rank 1; "eye" adds it to the
            variances alone.
        allow_empty: whether classes without any item stay as they are; else they are refused.

    Raises:
        InputError: for other shapes, NaN or infinity, numbers out of range, unknown words, an empty class, or where
            classes are rare and none is frequent.

    Examples:
        >>> g = Gaussians(torch.tensor([[0.0], [6.0], [2.0]]).double(), torch.ones(3, 1, 1).double(),
        ...     torch.tensor([20, 20, 2]))
        >>> found = calibrate(g, torch.tensor([True, True, False]), q=2, gamma=0.5, alpha=0.25)
        >>> round(found.mean[2].item(), 4), found.covariance[2].item()  # weights of 1/5 at 2, and 4/5 at 4
        (3.4, 1.25)
    """
    check_gaussians("g", g)
    _check_whole("g", g)
    classes, dim = g.mean.shape
    if head.dtype != torch.bool or list(head.shape) != [classes]:
        raise InputError(
            f"head: expected true or false for each of {classes} classes, got {head.dtype} of {list(head.shape)}"
        )
    check_counts(q=q)
    check_number("gamma", gamma, at_least=0, at_most=1)
    check_number("alpha", alpha, at_least=0)
    for name, word, known in (("weights", weights, Weights), ("disturbance", disturbance, Disturbance)):
        if word not in get_args(known):
            raise unknown(name, word, get_args(known))
    mean, covariance, counts = g.mean.double(), g.covariance.double().clone(), g.counts.long()
    empty = counts == 0
    if empty.any() and not allow_empty:
        raise InputError(f"g.counts: expected items of every class, got none of {_listed(empty)}; see allow_empty")
    head, tail = head.to(mean.device) & ~empty, (~head.to(mean.device) & ~empty).nonzero().flatten()
    if not len(tail):
        return Gaussians(mean, covariance, counts)
    if not head.any():
        raise InputError("head: expected a frequent class to borrow from, got none")
    omega = _shares(mean[tail], mean[head], counts[head], q, weights)
    mean = mean.index_copy(0, tail, gamma * omega @ mean[head] + (1 - gamma) * mean[tail])
    borrowed = (omega @ covariance[head].flatten(1)).view(-1, dim, dim)
    added = torch.ones(dim, dim) if disturbance == "ones" else torch.eye(dim)
    covariance[tail] = gamma * borrowed + (1 - gamma) * covariance[tail] + alpha * added.to(covariance)
    check_finite("g, alpha: covariance", covariance)
    return Gaussians(mean, covariance, counts)


def _shares(
    tail: Float64[Tensor, "tail dim"],
    head: Float64[Tensor, "head dim"],
    counts: Int64[Tensor, " head"],
    q: int,
    weights: Weights,
) -> Float64[Tensor, "tail head"]:
    """What each frequent class gives to each rare one; 0 unless it is one of the q nearest."""
    distance = torch.cdist(tail, head, compute_mode="donot_use_mm_for_euclid_dist")
    near = distance.argsort(dim=1, stable=True)[:, :q]
    n, d2 = counts[near].double(), distance.gather(1, near).square()
    if weights == "count-distance":
        share = n * d2
    elif weights == "inverse-distance":
        share = n * torch.where((d2 == 0).any(1, keepdim=True), (d2 == 0).double(), 1 / d2.where(d2 > 0, 1))
    else:
        share = n
    share = share.where(share.any(1, keepdim=True), n)
    return torch.zeros_like(distance).scatter_(1, near, share / share.sum(1, keepdim=True))


def draw(
    g: Gaussians, counts: Integer[Tensor, " classes"], generator: torch.Generator | None = None, jitter: float = 1e-6
) -> tuple[Float64[Tensor, "drawn dim"], Int64[Tensor, " drawn"]]:
    r"""Features drawn from the Gaussians of classes, and the class of each.

    They are $\mu_k + L_k \epsilon$ with $L_k L_k^\top = \Sigma_k$, the covariances of several classes being factorised
    together. Those of fewer rows than features are singular, so a multiple of the unit matrix is added to each.

    Args:
        g: with whole covariances.
        counts: how many of each class, at least 0.
        generator: of the random numbers; by default torch's own.
        jitter: what is added to the variances, as a share of their mean in the class; above 0.

    Returns:
        The features, class by class; and their classes.

    Raises:
        InputError: for other shapes, NaN or infinity, counts below 0, a jitter of 0 or less, or a matrix that is no
            covariance.

    Examples:
        >>> g = Gaussians(torch.tensor([[0.0], [9.0]]).double(), torch.tensor([[[1.0]], [[0.0]]]).double(),
        ...     torch.tensor([5, 5]))
        >>> z, labels = draw(g, torch.tensor([1, 2]))
        >>> z.shape, z[1:].flatten().tolist(), labels.tolist()
        (torch.Size([3, 1]), [9.0, 9.0], [0, 1, 1])
    """
    check_gaussians("g", g)
    _check_whole("g", g)
    counts = check_integers("counts", counts, len(g.mean), low=0).to(g.mean.device)
    check_number("jitter", jitter, above=0)
    drawn = counts.nonzero().flatten()
    mean, labels = g.mean.double(), drawn.repeat_interleave(counts[drawn])
    device = generator.device if generator else mean.device
    noise = torch.randn(len(labels), mean.shape[1], generator=generator, dtype=mean.dtype, device=device).to(mean)
    parts = iter(noise.split(counts[drawn].tolist()))
    together = TOGETHER.get(mean.device.type, TOGETHER["cuda"]) // mean.shape[1] ** 2
    for some in drawn.split(max(1, together)):
        for factor in _factorised(g.covariance[some].double(), jitter):
            part = next(parts)
            part.copy_(part @ factor.T)
    return noise.add_(mean[labels]), labels


def _factorised(covariance: Float64[Tensor, "k dim dim"], jitter: float) -> Float64[Tensor, "k dim dim"]:
    """Their lower triangular factors; the matrices get the jitter."""
    variances = covariance.diagonal(dim1=1, dim2=2)
    variances += (jitter * variances.mean(1, keepdim=True).clamp(min=0)).clamp(min=TINY)
    factors, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():
        raise InputError("g.covariance: expected matrices without negative eigenvalues, got others; see jitter")
    return factors


def _check_whole(name: str, g: Gaussians) -> None:
    if g.covariance.ndim != 3:
        raise InputError(f"{name}.covariance: expected whole matrices, got variances of {list(g.covariance.shape)}")
    if not g.covariance.shape[1]:
        raise InputError(f"{name}.mean: expected at least 1 column, got none")


def _listed(chosen: Bool[Tensor, " classes"]) -> str:
    return f"class {first_few([str(label) for label in chosen.nonzero().flatten().tolist()])}"


def individual_calibration(z: Float[Tensor, "batch dim"], zbar: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    r"""How far features have moved from those that no label has touched: the mean of $\|z_i - \bar z_i\|_2^2$.

    Args:
        z: features of a batch; used as they are.
        zbar: of the same items, by the frozen encoder; a constant.

    Returns:
        The mean over the rows, of all processes, at least float32.

    Raises:
        InputError: for different shapes, NaN, infinity, or distances whose squares are too large.

    Examples:
        >>> individual_calibration(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2))
        tensor(13.)
    """
    check_same_shape(z=z, zbar=zbar)
    check_matrix("z", z)
    check_matrix("zbar", zbar)
    squares = (at_least_float32(z) - at_least_float32(zbar.detach())).square().sum(1)
    check_finite("z, zbar: squared distance", squares)
    return gather(squares).mean()


class RCALLoss(nn.Module):
    r"""Cross-entropy and $\beta$ times `individual_calibration`, as a module: `loss(logits, targets, z, zbar)`.

    Args:
        beta: $\beta$, at least 0.

    Examples:
        >>> loss = RCALLoss(beta=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([1]), torch.ones(1, 4), torch.zeros(1, 4))  # log 2, and half of 4
        tensor(2.6931)
    """

    def __init__(self, beta: float = 0.5):
        super().__init__()
        check_number("beta", beta, at_least=0)
        self.beta = beta

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
        z: Float[Tensor, "batch dim"],
        zbar: Float[Tensor, "batch dim"],
        partners: Int[Tensor, " batch"] | None = None,
        share: float | Float[Tensor, ""] = 1.0,
        weights: Float[Tensor, " classes"] | None = None,
    ) -> Float[Tensor, ""]:
        r"""The loss of a batch.

        Args:
            logits: one score a class, of images or of mixtures.
            targets: class of each row; -1 where it has none.
            z: features.
            zbar: those of the frozen encoder.
            partners: class of the second image of each mixture.
            share: of the first image, $\lambda$ in $\lambda H(y_i, p) + (1 - \lambda) H(y_j, p)$.
            weights: of the classes, see `cross_entropy`.
        """
        if len(z) != len(logits):
            raise InputError(f"z: expected a row for each of {len(logits)} logits, got {len(z)}")
        loss = cross_entropy(at_least_float32(logits), targets, weights=weights)
        if partners is not None:
            loss = share * loss + (1 - share) * cross_entropy(at_least_float32(logits), partners, weights=weights)
        return loss + self.beta * individual_calibration(z, zbar)


class Modelled(NamedTuple):
    """What the labels say of classes.

    Attributes:
        plain: Gaussians of all rows of each class.
        calibrated: those that are drawn from.
        head: which classes are frequent.
        outliers: how many rows were left out.
    """

    plain: Gaussians
    calibrated: Gaussians
    head: Bool[Tensor, " classes"]
    outliers: int


class RCAL(Classifier, Alternating):
    """Training from a self-supervised start whose features make classes Gaussian, with features drawn to balance them.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        samples: how many training items there are.
        start: an encoder of the same kind that was trained without labels, with whose weights training begins; without
            one, the encoder as it is, which then has such weights already.
        balance: how classes come to count alike: "virtual" draws features of the rarer ones for the classifier,
            "weights" weighs the images of each class by the inverse of their number, "none" leaves them.
        virtual: how the classifier learns drawn features: "second-optimizer", by steps of its own after each batch, or
            "joint", by a term of the same loss.
        virtual_lr: learning rate of the second optimiser, SGD; it stays the same, as the paper's does.
        virtual_momentum: of the second optimiser, 0 to below 1.
        redraw: whether features are drawn anew in each epoch.
        max_virtual: features drawn of a class at most; else as many as it has items less than the largest class.
        lof: whether outliers of a class are left out of its Gaussian.
        neighbours: by which outliers are found, at least 1.
        head_share: share of the items that the frequent classes have together, above 0 and at most 1.
        head_number: how many classes are frequent, in place of the share; 0 for none given.
        q: nearest frequent classes from which a rare one borrows, at least 1.
        borrow: how much of a rare class's Gaussian comes from them, 0 to 1; gamma in the paper.
        alpha: what is added to the covariance of rare classes, at least 0.
        weights: of the frequent classes: "count-distance", "count" or "inverse-distance"; see `calibrate`.
        disturbance: "ones" adds alpha to the whole covariance, "eye" to the variances alone.
        allow_empty: whether a class without labels is left out; else it is refused, since it cannot be modelled.
        beta: weight of the squared distance of features from those of the start, at least 0.
        align: what is held near the start: the "images" of the batch themselves, or their "mixtures".
        mixup: alpha of the Beta distribution of the share of two images in their mixture, one a batch; 0 mixes none.
        head_lr: learning rate of the classifier as a multiple of the encoder's, above 0.
        sees: the kind of view that is learnt from: "mild", "random" or "plain"; see `Method.view`.
        clip: of either optimiser's gradients, bound each entry ("value") or the norm ("norm"), or "none".
        clip_at: the bound, above 0.
        **recipe: arguments of `Classifier`.

    Attributes:
        anchors: features of each training item by the start.
        bank: drawn features, of which each batch takes as many as it has images.
        bank_labels: their classes.
        class_weights: with "weights", those of the classes; 1 else.
    """

    views = 1
    anchors: Tensor
    bank: Tensor
    bank_labels: Tensor
    class_weights: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        samples: int,
        start: nn.Module | None = None,
        balance: Balance = "virtual",
        virtual: Virtual = "second-optimizer",
        virtual_lr: float = 0.001,
        virtual_momentum: float = 0.9,
        redraw: bool = False,
        max_virtual: int = 5000,
        lof: bool = True,
        neighbours: int = 20,
        head_share: float = 0.5,
        head_number: int = 0,
        q: int = 3,
        borrow: float = 0.5,
        alpha: float = 0.1,
        weights: Weights = "count-distance",
        disturbance: Disturbance = "ones",
        allow_empty: bool = False,
        beta: float = 0.5,
        align: Aligned = "images",
        mixup: float = 1.0,
        head_lr: float = 1.0,
        sees: View = "mild",
        clip: Clip = "none",
        clip_at: float = 1.0,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, clip=clip, clip_at=clip_at, **recipe)
        check_counts(samples=samples, max_virtual=max_virtual, neighbours=neighbours, q=q)
        for name, word, known in (
            ("balance", balance, Balance),
            ("virtual", virtual, Virtual),
            ("weights", weights, Weights),
            ("disturbance", disturbance, Disturbance),
            ("align", align, Aligned),
            ("sees: kind of view", sees, View),
        ):
            if word not in get_args(known):
                raise unknown(name, word, get_args(known))
        check_number("virtual_lr", virtual_lr, above=0)
        check_number("virtual_momentum", virtual_momentum, at_least=0, below=1)
        check_number("head_share", head_share, above=0, at_most=1)
        check_number("head_number", head_number, at_least=0, at_most=classes, whole=True)
        check_number("borrow", borrow, at_least=0, at_most=1)
        check_number("alpha", alpha, at_least=0)
        check_number("mixup", mixup, at_least=0)
        check_number("head_lr", head_lr, above=0)
        if not isinstance(self.bottleneck, nn.Identity):
            raise InputError("bottleneck: expected 0, since its batch normalisation would see drawn features")
        self.objective = RCALLoss(beta)
        self.balance, self.virtual, self.redraw, self.max_virtual = balance, virtual, redraw, max_virtual
        self.virtual_lr, self.virtual_momentum, self.head_lr = virtual_lr, virtual_momentum, head_lr
        self.lof, self.neighbours, self.head_share, self.head_number = lof, neighbours, head_share, head_number
        self.calibration = {"q": q, "gamma": borrow, "alpha": alpha, "weights": weights, "disturbance": disturbance}
        self.allow_empty, self.align, self.mixup, self.sees = allow_empty, align, mixup, sees
        if start is not None:
            _begin_with(self.encoder, start)
        # A copy, since the encoder changes; where nothing else holds these weights, the checkpoint does.
        self.start = Frozen(copy.deepcopy(self.encoder if start is None else start), stored=start is None)
        self.register_buffer("anchors", torch.zeros(samples, self.features))
        self.register_buffer("bank", torch.zeros(0, self.features))
        self.register_buffer("bank_labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("class_weights", torch.ones(classes))
        growing(self, "bank", "bank_labels")

    def check_data(self, images: Any, batch_size: int, shares: int = 1) -> None:
        """As of any classifier; refuse a class without labels, too, where classes are modelled."""
        super().check_data(images, batch_size, shares)
        empty = images.labels[images.labels >= 0].bincount(minlength=self.classes) == 0
        if self.balance == "virtual" and not self.allow_empty and empty.any():
            raise InputError(f"labels: expected some of every class, got none of {_listed(empty)}; see allow_empty")

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Before the first epoch find the start's features, count or model the classes, and draw; later, redraw."""
        super().start_epoch(data, epoch)
        if epoch == 0:
            self.anchors.copy_(embed(self.start.module, data, to_input))
            if self.balance == "weights":
                counts = data.labels[data.labels >= 0].bincount(minlength=self.classes)
                self.class_weights.copy_(balanced_weights(counts))
        if self.balance == "virtual" and (epoch == 0 or self.redraw):
            self._draw(self.modelled(data).calibrated)
            if not len(self.bank) and epoch == 0:
                warnings.warn("RCAL: all classes are as frequent, so that no features are drawn")

    def modelled(self, data: Any) -> Modelled:
        """The classes as Gaussians of the start's features, which `start_epoch` must have found.

        Args:
            data: the training data.
        """
        z, labels = self.anchors.cpu(), data.labels
        kept = inliers(z, labels, self.neighbours) if self.lof else labels >= 0
        found, plain = (robust_gaussians(z, labels, self.classes, rows) for rows in (kept, None))
        head = head_classes(found.counts, self.head_share, self.head_number or None)
        calibrated = calibrate(found, head, **self.calibration, allow_empty=self.allow_empty)  # type: ignore[arg-type]
        return Modelled(plain, calibrated, head, int((labels >= 0).sum() - kept.sum()))

    def _draw(self, found: Gaussians) -> None:
        """Fill the bank, so that with it every class that has labels is as frequent as the largest."""
        missing = (found.counts.max() - found.counts).clamp(max=self.max_virtual)
        z, labels = draw(found, missing.where(found.counts > 0, 0))
        self.bank, self.bank_labels = z.to(self.anchors), labels.to(self.anchors.device)

    def views_of(self, pixels: Tensor, labels: Labels, index: Index) -> InputViews:
        """One view, of the kind that is asked for."""
        return [self.view(pixels, self.sees).to(self.dtype)]

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the images; with "joint", and that of drawn features."""
        loss = self._loss_of_images(images[0], labels, self.anchors[index])
        return loss + self.virtual_loss(len(labels)) if self.virtual == "joint" and len(self.bank) else loss

    def _loss_of_images(self, inputs: Tensor, labels: Labels, zbar: Tensor) -> Float[Tensor, ""]:
        weights = self.class_weights if self.balance == "weights" else None
        if not self.mixup:
            features = self.encoder(inputs)
            return self.objective(self.classifier(features), labels, features, zbar, weights=weights)
        partners, share = self._mixture(labels)
        features = self.encoder(share * inputs + (1 - share) * inputs[partners])
        if self.align == "mixtures":
            z, zbar = features, share * zbar + (1 - share) * zbar[partners]
        else:  # without a weight, a second pass would change the statistics of batch normalisation alone
            z = self.encoder(inputs) if self.objective.beta else zbar
        return self.objective(self.classifier(features), labels, z, zbar, labels[partners], share, weights)

    def virtual_loss(self, count: int) -> Float[Tensor, ""]:
        """Cross-entropy of the classifier on drawn features; no gradient reaches the encoder.

        Args:
            count: how many of the bank, drawn with replacement.
        """
        rows = torch.randint(len(self.bank), (count,), device=self.bank.device)
        return cross_entropy(self.classifier(self.bank[rows].to(self.dtype)), self.bank_labels[rows])

    def _mixture(self, labels: Labels) -> tuple[Int64[Tensor, " batch"], Float[Tensor, ""]]:
        """The partner of each image in its mixture, and the share of the image; one without a label is not mixed."""
        share = torch.distributions.Beta(self.mixup, self.mixup).sample((1,)).to(self.anchors)[0]
        known = (labels >= 0).nonzero().flatten()
        partners = torch.arange(len(labels), device=labels.device)
        partners[known] = known[torch.randperm(len(known), device=labels.device)]
        return partners, share

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The whole network; and the classifier by itself, where drawn features have an optimiser of their own."""
        net = {"net": list(self.parameters())}
        if self.balance == "virtual" and self.virtual == "second-optimizer":
            return {**net, "head": list(self.classifier.parameters())}
        return net

    def batch_turns(self, batch: Any) -> Iterator[Turn]:
        """`turns` of the views of a batch."""
        pixels, labels, index = batch
        return self.turns(self.views_of(pixels, labels, index), labels, index)

    def turns(self, images: InputViews, labels: Labels, index: Index) -> Iterator[Turn]:
        """The network learns the images, then the classifier as many drawn features."""
        yield "net", self.loss(images, labels, index)
        if self.balance == "virtual" and self.virtual == "second-optimizer" and len(self.bank):
            yield "head", self.virtual_loss(len(labels))

    def groups_of(self, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        """As of any learner, the classifier's with a learning rate of their own."""
        own = {id(p) for p in self.classifier.parameters()}
        first, second = ([p for p in parameters if (id(p) in own) == mine] for mine in (False, True))
        groups = [{**group, "lr": self.lr * self.head_lr} for group in super().groups_of(second)]
        return [*super().groups_of(first), *groups] if first else groups

    def make_player_optimizer(self, player: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """For drawn features SGD with a step of its own."""
        if player == "net":
            return self.make_optimizer(groups)
        own = [{**group, "lr": self.virtual_lr} for group in groups]
        return torch.optim.SGD(own, lr=self.virtual_lr, momentum=self.virtual_momentum)

    def player_lr_factor(self, player: str, step: int, steps: int) -> float:
        """The schedule is the network's; the learning rate for drawn features stays."""
        return self.lr_factor(step, steps) if player == "net" else 1.0

    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """What the Gaussians are worth, where classes are modelled.

        `outliers` is the share of the labelled training items that are left out, `virtual` how many features are drawn.
        `tail_distance` is how far the calibrated means of rare classes are from those of their test items, all by the
        start, the mean over these classes; `tail_gain` by how much less that is than of the plain means.
        """
        if self.balance != "virtual":
            return {}
        found = self.modelled(train)
        figures = {
            "outliers": found.outliers / int((train.labels >= 0).sum()),
            "virtual": float(len(self.bank)),
        }
        if not len(test) or not (test.labels >= 0).any():
            return figures
        clean = class_gaussians(embed(self.start.module, test, to_input), test.labels, self.classes, diagonal=True)
        tail = ~found.head & (found.plain.counts > 0) & (clean.counts > 0)
        if not tail.any():
            return figures
        plain, calibrated = (
            float((g.mean - clean.mean)[tail].norm(dim=1).mean()) for g in (found.plain, found.calibrated)
        )
        return {**figures, "tail_distance": calibrated, "tail_gain": plain - calibrated}


def _begin_with(encoder: nn.Module, start: nn.Module) -> None:
    """Give an encoder the weights of the start."""
    try:
        encoder.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise InputError(
            "start: expected an encoder of the kind that is trained, whose weights training begins with, "
            f"got other weights: {' '.join(str(error).split())[:200]}"
        ) from error
