"""The study of the complexity of Bayesian generalisation: a small network on scenes of rising visual complexity.

Shi, Xu, Hopcroft, He, Tenenbaum, Zhu, Wu, Han, Zhu, "On the Complexity of Bayesian Generalization", ICML 2023, arXiv
2211.11033. The measures themselves are in `counterpoise.measure.bayesian_generalization`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from counterpoise.data.scenes import background
from counterpoise.data.sources import load
from counterpoise.errors import InputError, unknown
from counterpoise.measure.bayesian_generalization import (
    MOST,
    concept_activations,
    generalise,
    masked_accuracy,
    parabola,
    pool_images,
    pooled_complexity,
    representativeness,
    subjective_complexity,
    visual_complexity,
)
from counterpoise.nets.backbones import backbone
from counterpoise.ops.checks import check_finite, check_integers, check_number, check_seed

SIDE, SPRITE, SMALL = 32, 20, 10  # side in pixels of a scene, of its object and of the small objects behind it
INK = 0.15  # the value from which a pixel of an object hides the pixel behind it
FAMILIES = ("silhouette", "object", "few", "many", "texture", "noise")
ABOUT = {"few": 2, "many": 8, "texture": 8, "noise": 8}  # number of small objects
NOISE = 0.15  # standard deviation


def study(
    data: str,
    seed: int,
    images: int = 16000,
    epochs: int = 4,
    items: int = 100,
    length: int = 4,
    draws: int = 10,
    rejected: bool = False,
) -> dict[str, float]:
    """Run one seed of the three claims: a small network classifies objects in scenes of six families of rising clutter.

    A concept is a class of objects in one family. 50 training images give its attributes, and test images give all
    scores. Similarity uses one example of a concept, a rule four.

    Args:
        data: grey images as objects, by name as for `load`.
        seed: of the scenes, the network and the examples.
        images: number of training scenes of all families together, at least 6.
        epochs: epochs of training, at least 1.
        items: number of test scenes of each concept, at least 5.
        length: number of attributes of a rule, at least 1.
        draws: number of sets of examples of each concept, at least 1.
        rejected: whether the subjective complexity of a family counts the losses of rejected concepts up to their
            rejection, as in the authors' figures.

    Returns:
        Masks: "over random", "over lowest" and "over activation", the accuracy with the K attributes of highest RoA
            less
        that with K random attributes, with those of lowest RoA, and with those of highest activation, as the mean over
        K and all concepts; the same for single K as "over random at 1", "at 4" and "at 16"; "least over random", the
        minimum over K up to a quarter of the attributes. Complexity: "visual", "subjective", "accuracy" and "validity"
        of each family; "curvature" of the parabola of the logarithms; "turn", the smaller of its slope at the least
        visual complexity and its negative slope at the largest, above 0 for an inverted U. Generalisation: "rule" and
        "similarity", the areas under the ROC curve; "rule high less low" and "similarity high less low", the
        differences between concepts of high and low subjective complexity; "interaction", the difference of these two;
        "interaction within", the same with high and low defined within each family; "mode curvature" of the parabola of
        rule less similarity over the logarithm of the visual complexity.

    Raises:
        InputError: for numbers out of range, or if too few families have a subjective complexity after the training.
    """
    check_seed(seed)
    # Four of each concept's items are examples.
    least = {"images": len(FAMILIES), "epochs": 1, "items": 5, "length": 1, "draws": 1}
    for (name, low), value in zip(least.items(), (images, epochs, items, length, draws), strict=True):
        check_number(name, value, at_least=low, whole=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _study(data, seed, images, epochs, items, length, draws, rejected)


class _Family(NamedTuple):
    """The measures of one family of scenes; rows are concepts."""

    visual: float
    curves: dict[str, Tensor]  # masked accuracy by the order of the attributes
    rule: Tensor
    similarity: Tensor


def _study(
    data: str, seed: int, images: int, epochs: int, items: int, length: int, draws: int, rejected: bool
) -> dict[str, float]:
    train, test = (Objects.of(part.with_channels(1).pixels, part.labels) for part in load(data))
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
    return {**_mask_figures(found), **_complexity_figures(found, rejected), **_mode_figures(found)}


class Objects(NamedTuple):
    """Grey pictures of objects in the size that they have in a scene.

    Attributes:
        pictures: values from 0 to 1.
        labels: class of each object.
    """

    pictures: Float[Tensor, "n side side"]
    labels: Int64[Tensor, " n"]

    @classmethod
    def of(cls, pixels: UInt8[Tensor, "n 1 height width"], labels: Int64[Tensor, " n"]) -> Objects:
        """Make objects from grey images and their classes."""
        return cls(_shrunk(_unit(pixels), SPRITE)[:, 0], labels)

    def some(self, count: int, concepts: int) -> Int64[Tensor, " chosen"]:
        """The numbers of the first `count` objects of each class."""
        return torch.cat([(self.labels == concept).nonzero()[:count, 0] for concept in range(concepts)])


def draw_scenes(
    family: str, objects: Objects, chosen: Int64[Tensor, " n"], rng: np.random.Generator
) -> UInt8[Tensor, "n 1 side side"]:
    """Draw scenes of one family: an object at a random place, before small objects, before a background.

    Args:
        family: one of `FAMILIES`.
        objects: the objects from which scenes are made.
        chosen: number of the main object of each scene.
        rng: source of the backgrounds; torch's global generator is the source of the rest.

    Raises:
        InputError: for an unknown family, and for integers that are no object.

    Examples:
        >>> objects = Objects(torch.rand(3, SPRITE, SPRITE), torch.arange(3))
        >>> draw_scenes("few", objects, torch.tensor([0, 2]), np.random.default_rng(0)).shape
        torch.Size([2, 1, 32, 32])
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    count = len(objects.labels)
    check_finite("objects", objects.pictures)
    if objects.pictures.ndim != 3 or len(objects.pictures) != count or len({*objects.pictures.shape[1:]}) > 1:
        raise InputError(f"objects: expected pictures [{count}, side, side], got {list(objects.pictures.shape)}")
    chosen = check_integers("chosen", chosen, rows=chosen.numel(), low=0, high=count)
    canvas = torch.zeros(len(chosen), SIDE, SIDE)
    if family in ("texture", "noise"):
        backgrounds = np.stack([background(rng, SIDE).mean(2) for _ in range(len(chosen))])
        canvas = torch.from_numpy(backgrounds).float() / 255
    for _ in range(ABOUT.get(family, 0)):
        small = _shrunk(objects.pictures[torch.randint(len(objects.labels), (len(chosen),)), None], SMALL)[:, 0]
        canvas = _put(canvas, small)
    front = objects.pictures[chosen]
    canvas = _put(canvas, (front > INK).float() if family == "silhouette" else front)
    if family == "noise":
        canvas = canvas + NOISE * torch.randn(canvas.shape)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8)[:, None]


def _put(canvas: Tensor, pictures: Tensor) -> Tensor:
    """Draw each picture on its canvas at a random place."""
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
    """Train a classifier of the objects; return it up to its last feature maps, and its head."""
    network = backbone("small:last", 1, SIDE)
    head = nn.Linear(network.features, concepts)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], 0.1, momentum=0.9, weight_decay=1e-4)
    batches = [part for _ in range(epochs) for part in torch.randperm(len(labels)).split(128) if len(part) > 1]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(batches))
    for part in batches:
        optimizer.zero_grad()
        functional.cross_entropy(head(network(_unit(scenes[part]))), labels[part]).backward()
        optimizer.step()
        schedule.step()
    return network.get_submodule("model.stages"), head


def _curves(features: Tensor, labels: Tensor, head: nn.Linear, known: Tensor) -> dict[str, Tensor]:
    roa = representativeness(known).roa
    orders = {"roa": roa, "lowest": -roa, "activation": known}
    curves = {name: masked_accuracy(features, labels, head, scores) for name, scores in orders.items()}
    shuffled = [masked_accuracy(features, labels, head, torch.rand(known.shape)) for _ in range(5)]
    return {**curves, "random": torch.stack(shuffled).mean(0)}


def _modes(peaks: Tensor, labels: Tensor, known: Tensor, concept: int, length: int, draws: int) -> tuple[float, float]:
    """Areas under the ROC curve for the rule from four examples and similarity from one, as means over the draws."""
    members, others = (labels == concept).nonzero().flatten(), torch.arange(len(known)) != concept
    rule, similarity = [], []
    for _ in range(draws):
        examples = members[torch.randperm(len(members))[:4]]
        asked = torch.ones(len(labels), dtype=torch.bool).index_fill(0, examples, False)
        positive = (labels == concept)[asked].numpy()
        by_rule = generalise(peaks, examples, known[others], length).rule
        by_similarity = generalise(peaks, examples[:1], known[others], length).similarity
        rule.append(roc_auc_score(positive, by_rule[asked].numpy()))
        similarity.append(roc_auc_score(positive, by_similarity[asked].numpy()))
    return float(np.mean(rule)), float(np.mean(similarity))


def _mask_figures(found: list[_Family]) -> dict[str, float]:
    mean = {name: torch.cat([one.curves[name] for one in found]).mean(0)[:-1] for name in found[0].curves}
    gaps = {f"over {name}": mean["roa"] - mean[name] for name in ("random", "lowest", "activation")}
    figures = {name: float(gap.mean()) for name, gap in gaps.items()}
    figures |= {f"{name} at {k}": float(gap[k - 1]) for name, gap in gaps.items() for k in (1, 4, 16)}
    return figures | {"least over random": float(gaps["over random"][: len(mean["roa"]) // 4].min())}


def _complexity_figures(found: list[_Family], rejected: bool) -> dict[str, float]:
    figures: dict[str, float] = {}
    points = []
    for name, one in zip(FAMILIES, found, strict=True):
        complexity = pooled_complexity(one.curves["roa"], rejected)
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
    """Mean over the valid concepts above the median complexity less the mean over the others; NaN without either."""
    value, complexity = value[valid], complexity[valid]
    high = complexity > complexity.quantile(0.5) if len(complexity) else valid[:0]
    return float(value[high].mean() - value[~high].mean())
