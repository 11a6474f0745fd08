"""GroCo: sort positives and negatives by their similarity to the anchor, and train all positives to rank first.

Shvetsova, Petersen, Kukleva, Schiele, Kuehne, "Learning by Sorting: Self-supervised Learning with Group Ordering
Constraints", ICCV 2023, arXiv 2301.02009; with the differentiable sorting networks of Petersen, Borgelt, Kuehne,
Deussen, ICLR 2022, arXiv 2203.09630.

Both groups are sorted beforehand, so that the nearest negatives stand next to the farthest positives; a soft odd-even
sorting network then yields how much of each element ends up among the ranks of the other group.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.data.views import Views
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Index, Labels, Method
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_matrix,
    check_number,
    check_same_shape,
)
from counterpoise.ops.chunking import reduce_similarities
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32, normalize_rows

Compare = Literal["sorting", "softmax"]
SizedViews = list[Float[Tensor, "batch channel _ _"]]  # of two sizes, the large ones first
LEAST_SIDE = 2  # of a view in pixels


def soft_sort(
    scores: Float[Tensor, "batch n"], columns: Float[Tensor, "n m"], steepness: float = 1.0
) -> Float[Tensor, "batch n m"]:
    r"""The soft permutation of an odd-even sorting network, times `columns`; the identity gives the permutation itself.

    Each of the n layers compares neighbouring wires, alternately from the first and from the second on. For inputs $a$
    and $b$, with $\alpha = 1/2 + \arctan(\beta (b - a)) / \pi$, the left output is $\alpha a + (1-\alpha) b$ and the
    right one $(1-\alpha) a + \alpha b$. The product of the layers' matrices is the permutation $P$: $P_{rc}$ is the
    share of input r at rank c, in ascending order. Its rows and columns sum to 1.

    Args:
        scores: the inputs of each network, in the order of its wires.
        columns: matrix that $P$ multiplies; $P$ itself is never formed, which takes n·m instead of n² numbers a layer.
        steepness: $\beta > 0$; large values approach hard sorting.

    Returns:
        $P$ times the columns; at least float32.

    Raises:
        InputError: for mismatched shapes, NaN, or a steepness that is not above 0.

    Examples:
        >>> soft_sort(torch.zeros(1, 4), torch.eye(4))[0, :, 0]  # in ties, the order of the wires decides
        tensor([0.3750, 0.3750, 0.1250, 0.1250])
        >>> soft_sort(torch.tensor([[3.0, 1.0, 2.0]]), torch.eye(3), steepness=1e9)[0]
        tensor([[0., 0., 1.],
                [1., 0., 0.],
                [0., 1., 0.]])
    """
    check_number("steepness", steepness, above=0)
    check_matrix("scores", scores)
    check_matrix("columns", columns)
    if len(columns) != scores.shape[1]:
        got = f"{list(scores.shape)} and {list(columns.shape)}"
        raise InputError(f"scores and columns: expected [batch, n] and [n, m], got {got}")
    # Half precision is too coarse to sort and sum.
    return _soft_sort(at_least_float32(scores), at_least_float32(columns), steepness)


def _soft_sort(
    scores: Float[Tensor, "batch n"], columns: Float[Tensor, "n m"], steepness: float
) -> Float[Tensor, "batch n m"]:
    wires, alphas = scores, []
    for layer in range(scores.shape[1]):
        left, right = _pairs(wires, layer % 2)
        alphas.append(0.5 + torch.atan(steepness * (right - left)) / math.pi)
        wires = _mix(wires, alphas[-1], layer % 2)
    mass = columns.expand(len(scores), *columns.shape)
    for layer, alpha in reversed(list(enumerate(alphas))):
        mass = _mix(mass, alpha[:, :, None], layer % 2)
    return mass


def _pairs(wires: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The left and right inputs of a layer's comparators."""
    end = first + (wires.shape[1] - first) // 2 * 2
    return wires[:, first:end:2], wires[:, first + 1 : end : 2]


def _mix(wires: Tensor, alpha: Tensor, first: int) -> Tensor:
    """A layer: the wires after its comparators; those without a partner pass through."""
    left, right = _pairs(wires, first)
    mixed = torch.stack([alpha * left + (1 - alpha) * right, (1 - alpha) * left + alpha * right], dim=2).flatten(1, 2)
    return torch.cat([wires[:, :first], mixed, wires[:, first + mixed.shape[1] :]], dim=1)


def group_ordering(
    negatives: Float[Tensor, "batch k"], positives: Float[Tensor, "batch p"], steepness: float = 1.0
) -> Float[Tensor, " batch"]:
    r"""How far each anchor's positives are from all ranking above its negatives, by differentiable sorting.

    Let $s$ be the K negatives in ascending order, then the positives in ascending order, and $P$ as in `soft_sort`. The
    loss is the mean over the rows of $-\log$ of the mass of row r in its own group: $\sum_{c<K} P_{rc}$ for negatives,
    $\sum_{c \ge K} P_{rc}$ for positives. The order within a group does not matter. With one of each it is
    $-\log(1/2 + \arctan(\beta (p - n)) / \pi)$.

    Args:
        negatives: similarities of each anchor to its negatives.
        positives: similarities of each anchor to its positives.
        steepness: $\beta > 0$. With 1 and cosines, the loss is above 0 even in perfect order.

    Returns:
        One value per anchor in nats, above 0, at most 100; at least float32.

    Raises:
        InputError: for mismatched shapes, an anchor without a positive or a negative, NaN, or a steepness that is not
            above 0.

    Examples:
        >>> group_ordering(torch.tensor([[0.0]]), torch.tensor([[1.0]]))  # -log(3/4)
        tensor([0.2877])
    """
    check_number("steepness", steepness, above=0)
    check_matrix("negatives", negatives)
    check_matrix("positives", positives)
    if len(negatives) != len(positives) or not negatives.numel() or not positives.numel():
        got = f"{list(negatives.shape)} and {list(positives.shape)}"
        raise InputError(f"negatives and positives: expected at least 1 of each for the same anchors, got {got}")
    return _group_ordering(at_least_float32(negatives), at_least_float32(positives), steepness)


def _group_ordering(negatives: Tensor, positives: Tensor, steepness: float) -> Float[Tensor, " batch"]:
    scores = torch.cat([negatives.sort(dim=1).values, positives.sort(dim=1).values], dim=1)
    is_positive = torch.arange(scores.shape[1], device=scores.device) >= negatives.shape[1]
    groups = torch.stack([~is_positive, is_positive], dim=1).to(scores.dtype)
    own = (_soft_sort(scores, groups, steepness) * groups).sum(2)
    # The clamp keeps the logarithm of a mass of 0, and its gradient, finite.
    return F.binary_cross_entropy(own.clamp(0, 1), torch.ones_like(own), reduction="none").mean(1)


def hardest_similarities(
    anchors: Float[Tensor, "batch dim"],
    candidates: Float[Tensor, "all dim"],
    exclude: tuple[Integer[Tensor, " batch"], Integer[Tensor, " all"]],
    k: int,
) -> Float[Tensor, "batch k"]:
    """The cosines of each anchor and its k most similar candidates, largest first.

    Args:
        anchors: one row per sample; normalised here.
        candidates: one row per candidate; normalised here.
        exclude: sample numbers of anchors and candidates; pairs with equal numbers are excluded.
        k: number of candidates, at most the fewest that any anchor has.

    Raises:
        InputError: for mismatched shapes, NaN, or k out of range.

    Examples:
        >>> z, sample = 2 * torch.eye(3)[[0, 0, 1, 2]], torch.arange(4)
        >>> hardest_similarities(z, z, (sample, sample), k=1)
        tensor([[1.], [1.], [0.], [0.]])
    """
    check_matrix("anchors", anchors)
    check_matrix("candidates", candidates)
    if anchors.shape[1] != candidates.shape[1]:
        widths = f"{anchors.shape[1]} and {candidates.shape[1]}"
        raise InputError(f"anchors and candidates: expected the same width, got {widths}")
    check_number("k", k, at_least=1, at_most=len(candidates), whole=True)
    anchor, candidate = (
        check_integers("exclude", number, len(rows))
        for number, rows in zip(exclude, (anchors, candidates), strict=True)
    )
    found = _hardest_similarities(normalize_rows(anchors), normalize_rows(candidates), (anchor, candidate), k)
    if torch.isneginf(found).any():
        raise InputError(f"k: expected at most the fewest candidates of any anchor, got {k}")
    return found


def _hardest_similarities(
    anchors: Tensor, candidates: Tensor, exclude: tuple[Tensor, Tensor], k: int
) -> Float[Tensor, "batch k"]:
    return reduce_similarities(lambda similarity: similarity.topk(k).values, anchors, candidates, exclude)


class GroCoLoss(nn.Module):
    r"""GroCo among two or more views of a batch: `loss(views)`.

    Every view of a sample is an anchor. Its positives are the sample's other views, its negatives the most similar ones
    of the other samples in the same view. Only anchors get a gradient, positives and negatives do not, so the gradient
    is not the derivative of the value; with `stop_gradient=False` it is.

    Args:
        negatives: number of an anchor's most similar negatives that are sorted, at least 1; all if there are fewer.
        steepness: $\beta$ of the comparisons, above 0.
        positive_views: with crops of two sizes, the number of large ones, which come first. All views are anchors, but
            only large ones are positives. 0: all views.
        stop_gradient: only anchors get a gradient.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> GroCoLoss()(torch.stack([z, z]))  # each anchor: one positive at 1, one negative at 0
        tensor(0.2877)
    """

    surrogate = True

    def __init__(
        self, negatives: int = 10, steepness: float = 1.0, positive_views: int = 0, stop_gradient: bool = True
    ):
        super().__init__()
        check_counts(negatives=negatives)
        check_number("steepness", steepness, above=0)
        check_number("positive_views", positive_views, at_least=0, whole=True)
        if positive_views == 1:
            raise InputError(f"positive_views: expected at least 2, or 0 for all views, got {positive_views}")
        self.negatives, self.steepness = negatives, steepness
        self.positive_views, self.stop_gradient = positive_views, stop_gradient

    def forward(self, views: Float[Tensor, "views batch dim"]) -> Float[Tensor, ""]:
        """The loss in nats, above 0: the mean over all samples and views.

        Args:
            views: embeddings of all views of the same samples, those that serve as positives first.

        Raises:
            InputError: for fewer than two views or samples, fewer views than `positive_views`, a wrong shape, and NaN.
        """
        least = max(2, self.positive_views)
        if views.ndim != 3 or len(views) < least:
            raise InputError(f"views: expected [at least {least} views, batch, dim], got shape {list(views.shape)}")
        check_finite("views", views)
        row = global_row_indices(views[0], "views", at_least=2)
        large = self.positive_views or len(views)
        with torch.autocast(views.device.type, enabled=False):
            z = normalize_rows(views)
            keys = z.detach() if self.stop_gradient else z
            # Large and small views have different numbers of positives to sort.
            terms = [
                self._anchors(z, keys, row, anchors, large)
                for anchors in (range(large), range(large, len(z)))
                if anchors
            ]
            return gather(torch.cat(terms).T).mean()

    def _anchors(self, z: Tensor, keys: Tensor, row: Tensor, anchors: range, large: int) -> Float[Tensor, "some batch"]:
        everyone = gather(row)
        k = min(self.negatives, len(everyone) - 1)
        negatives = [_hardest_similarities(z[a], gather(keys[a]), (row, everyone), k) for a in anchors]
        positives = [torch.stack([(z[a] * keys[v]).sum(1) for v in range(large) if v != a], dim=1) for a in anchors]
        losses = _group_ordering(torch.cat(negatives), torch.cat(positives), self.steepness)
        return losses.view(len(anchors), -1)


class HardNTXentLoss(nn.Module):
    """NT-Xent with only the anchor's most similar negatives: `loss(z1, z2)`. The paper's ablation of GroCo.

    Anchors, positives and candidates are those of `contrast.simclr.nt_xent`, which it equals with all negatives and
    without `stop_gradient`. With `stop_gradient`, the gradient is not the derivative of the value. Further views of the
    samples, as of the authors' baseline for more than two views, are negatives of all other samples.

    Args:
        negatives: number of an anchor's most similar negatives that are kept, at least 1; all if there are fewer.
        temperature: above 0; the authors take 0.5.
        stop_gradient: only anchors get a gradient.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> HardNTXentLoss(negatives=1, temperature=1.0)(z, z)  # log(1 + 1/e)
        tensor(0.3133)
    """

    surrogate = True

    def __init__(self, negatives: int = 10, temperature: float = 0.5, stop_gradient: bool = True):
        super().__init__()
        check_counts(negatives=negatives)
        check_number("temperature", temperature, above=0)
        self.negatives, self.temperature, self.stop_gradient = negatives, temperature, stop_gradient

    def forward(
        self,
        z1: Float[Tensor, "batch dim"],
        z2: Float[Tensor, "batch dim"],
        further: Sequence[Float[Tensor, "batch dim"]] = (),
    ) -> Float[Tensor, ""]:
        """The loss in nats, above 0.

        Args:
            z1: one row per sample, first view; normalised here.
            z2: the same samples, second view.
            further: other views of the same samples, which are negatives alone.

        Raises:
            InputError: for different shapes, fewer than 2 samples, or NaN.
        """
        views = {"z1": z1, "z2": z2, **{f"further[{k}]": z for k, z in enumerate(further)}}
        check_same_shape(**views)
        for name, z in views.items():
            check_matrix(name, z)
        row = global_row_indices(z1, "z1", at_least=2)
        with torch.autocast(z1.device.type, enabled=False):
            unit = [normalize_rows(z) for z in views.values()]
            anchors, others = torch.cat(unit[:2]), torch.cat(unit[1::-1])
            keys = torch.cat([gather(z) for z in unit])
            if self.stop_gradient:
                others, keys = others.detach(), keys.detach()
            samples = row.repeat(2), gather(row).repeat(len(unit))
            negative = _hardest_similarities(anchors, keys, samples, min(self.negatives, len(keys) - len(unit)))
            positive = (anchors * others).sum(1, keepdim=True)
            logits = torch.cat([positive, negative], dim=1) / self.temperature
            return gather(-logits.log_softmax(1)[:, 0]).mean()


class GroCo(Method):
    """Contrastive pretraining without labels that constrains the order of similarities instead of their values.

    Args:
        encoder: images to features; what a run keeps. With small views, it must take images of two sizes.
        views: random views of each image, at least 2; the time of a step grows with it.
        negatives: number of an anchor's most similar negatives that are compared; all if there are fewer.
        steepness: of the sorting network's comparisons, above 0.
        compare: positives and negatives by "sorting"; or by "softmax", the ablation: NT-Xent of all pairs of views,
            with the most similar negatives of all views.
        temperature: of that softmax, above 0.
        stop_gradient: only anchors get a gradient.
        small_views: further views of each image, crops of a small part of it at a lower resolution (multi-crop), which
            are anchors but no positives; the authors take 6, or 0.
        small_crop: smallest and largest share of the image's area that a small view keeps; the authors' other views
            keep 0.14 and more, `--augmentations crop=0.14`.
        small_size: side of a small view as a share of the other views', above 0, at most 1; 96 of 224 pixels is 0.43.
        hidden: width of the projection head's hidden layers.
        dim: width of the projection, which is batch-normalised.
        **recipe: arguments of `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        views: int = 2,
        negatives: int = 10,
        steepness: float = 1.0,
        compare: Compare = "sorting",
        temperature: float = 0.5,
        stop_gradient: bool = True,
        small_views: int = 0,
        small_crop: tuple[float, float] = (0.05, 0.14),
        small_size: float = 0.43,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("views", views, at_least=2, whole=True)
        check_number("small_views", small_views, at_least=0, whole=True)
        check_number("small_size", small_size, above=0, at_most=1)
        if compare not in get_args(Compare):
            raise unknown("compare", compare, get_args(Compare))
        _check_shares("small_crop", small_crop)
        self.views, self.compare, self.small_views = views, compare, small_views
        self.full_size, self.small_crop, self.small_size = views, small_crop, small_size
        self.head = mlp(self.features, hidden, dim, layers=3, last_norm=True)
        self.sorting = GroCoLoss(
            negatives, steepness, positive_views=views if small_views else 0, stop_gradient=stop_gradient
        )
        self.softmax = HardNTXentLoss(negatives, temperature, stop_gradient)

    def check_data(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Check as any method does, and refuse small views of what is no image, or that the encoder cannot take."""
        super().check_data(images, batch_size, shares)
        if not self.small_views:
            return
        small = self.small().size
        blank = torch.zeros(1, images.pixels.shape[1], small, small, device=self.device).to(self.dtype)
        encoder = copy.deepcopy(self.encoder).eval()  # so that no statistics of the encoder's change
        try:
            encoder(blank)
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"small_size: the encoder does not take {small}x{small} pixels ({reason})") from error

    def small(self) -> Views:
        """The random views that small views are drawn by: as the others, but for their part of the image and size."""
        large = self.augment
        if not isinstance(large, Views):
            got = "none" if large is None else type(large).__name__
            raise InputError(f"small_views: are crops of images and need `Views` as `augment`, got {got}")
        return Views(
            max(LEAST_SIDE, round(self.small_size * large.size)),
            crop=self.small_crop,
            ratio=large.ratio,
            flip=large.flip,
            jitter=large.jitter,
            jitter_probability=large.jitter_probability,
            grayscale=large.grayscale,
            blur=large.blur,
        )

    def views_of(
        self, pixels: Shaped[Tensor, "batch *shape"], labels: Shaped[Tensor, " batch"], index: Index
    ) -> list[Float[Tensor, "batch ..."]]:
        """The views of each image, and then its small ones."""
        large = super().views_of(pixels, labels, index)
        if not self.small_views:
            return large
        small = self.small()
        return large + [small(pixels).to(self.dtype) for _ in range(self.small_views)]

    def loss(self, images: SizedViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """GroCo, or the softmax, of the projections of all views, of which the small ones come last."""
        embeddings = [self.head(self.encoder(view)) for view in images]
        if self.compare == "sorting":
            return self.sorting(torch.stack(embeddings))
        # Two small views show different parts of the image: no pair.
        pairs = [(a, b) for a, b in itertools.combinations(range(len(embeddings)), 2) if a < self.full_size]
        rest = [[z for k, z in enumerate(embeddings) if k not in pair] for pair in pairs]
        losses = [self.softmax(embeddings[a], embeddings[b], more) for (a, b), more in zip(pairs, rest, strict=True)]
        return torch.stack(losses).mean()


def _check_shares(name: str, shares: tuple[float, float]) -> None:
    if len(shares) != 2 or not 0 < shares[0] <= shares[1] <= 1:
        raise InputError(f"{name}: expected two shares 0 < low <= high <= 1, got {shares}")
