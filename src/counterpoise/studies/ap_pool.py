"""The study of AP-Fixed and AP-Pool: a simulated detector of many, long-tailed categories.

Dave, Dollár, Ramanan, Kirillov, Girshick, "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details",
arXiv 2102.01066. The measures themselves are in `counterpoise.measure.ap_pool`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from counterpoise.errors import unknown
from counterpoise.measure.ap_pool import ap_fixed_from_matches, ap_pool_from_matches
from counterpoise.measure.average_precision import ap_image_cap_from_matches, best_per_class
from counterpoise.measure.calibration import Grouping, Method, calibrate, calibration_errors
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import match
from counterpoise.ops.arrays import as_numbers
from counterpoise.ops.checks import check_number


class Simulated(NamedTuple):
    """A simulated detector, from `simulate`.

    Attributes:
        detections: what it finds.
        truth: the objects.
        counts: number of images that show each category.
    """

    detections: Detections
    truth: Truth
    counts: Int[np.ndarray, " classes"]


def simulate(
    images: int, score_maps: Float[np.ndarray, "classes 2"], rng: np.random.Generator, spread: float = 1.0
) -> Simulated:
    """Draw objects whose categories have Zipf's frequencies, and a detector that finds most of them among clutter.

    The evidence for a detection has the same quality in all categories. Each category maps it to scores in its own way.

    Args:
        images: number of images, each with 8 objects and 200 wrong detections.
        score_maps: slope and offset of the logit of the score over the evidence, the most frequent category first.
        rng: source of all random numbers.
        spread: the share of a category in the wrong detections is proportional to its frequency to this power; with 0,
            all categories have the same share.

    Raises:
        InputError: for numbers out of range, and for `score_maps` of another shape or with NaN.

    Examples:
        >>> made = simulate(3, np.ones((4, 2)), np.random.default_rng(0))
        >>> len(made.truth), len(made.detections) > 600, made.counts.shape
        (24, True, (4,))
    """
    check_number("images", images, at_least=1, whole=True)
    check_number("spread", spread)
    score_maps = as_numbers("score_maps", score_maps, (len(score_maps), 2))
    check_number("score_maps", len(score_maps), at_least=1)
    frequency = 1 / np.arange(1, len(score_maps) + 1)
    at, clutter_at = np.repeat(np.arange(images), 8), np.repeat(np.arange(images), 200)
    labels = rng.choice(len(score_maps), len(at), p=frequency / frequency.sum())
    weights = frequency**spread
    clutter_labels = rng.choice(len(score_maps), len(clutter_at), p=weights / weights.sum())
    boxes, clutter = (
        np.column_stack([rng.uniform(0, 400, (n, 2)), rng.uniform(20, 100, (n, 2))]) for n in (len(at), len(clutter_at))
    )
    found = rng.random(len(at)) < 0.9
    misfit = rng.gamma(2.0, 0.03, found.sum())
    near = boxes[found] + rng.normal(0, 1, (found.sum(), 4)) * misfit[:, None] * np.tile(boxes[found, 2:], 2)
    near[:, 2:] = near[:, 2:].clip(min=1)
    # Boxes that fit worse come with weaker evidence.
    evidence = np.concatenate([rng.normal(3.0, 1.0, found.sum()) - 10 * misfit, rng.normal(0.0, 1.0, len(clutter_at))])
    seen = np.concatenate([labels[found], clutter_labels])
    scores = expit(score_maps[seen, 0] * evidence + score_maps[seen, 1])
    places = np.concatenate([at[found], clutter_at])
    shown = np.unique(np.column_stack([at, labels]), axis=0)[:, 1]
    return Simulated(
        Detections(places, seen, scores, np.concatenate([near, clutter])),
        Truth(at, labels, boxes, classes=np.arange(len(score_maps))),
        np.bincount(shown, minlength=len(score_maps)),
    )


def study(
    data: str,
    seed: int,
    calibration: Method = "isotonic",
    spread: float = 1.0,
    images: int = 1000,
    classes: int = 60,
    max_dets: int = 20,
    top: int = 600,
    grouping: Grouping = "class",
) -> dict[str, float]:
    """Run one seed of the claim: ordinary AP can be gamed, AP-Fixed cannot, and calibration raises AP-Pool alone.

    Two changes game ordinary AP without a better detector: scores that put rarer categories first ("rarity"), and
    categories that keep only their best detections ("top").

    Args:
        data: "simulated".
        seed: of objects and detections.
        calibration: a method of `calibrate`; it is fitted on twice as many other images.
        spread: see `simulate`.
        images: number of images on which the detector is evaluated.
        classes: number of categories; a third of them is rare, a third common, and a third frequent.
        max_dets: number of detections that ordinary AP keeps of each image.
        top: number of detections that each category keeps over all images in the change "top".
        grouping: what has a calibration of its own: "class", each category, "group", the rare, the common and the
            frequent ones, or "overall", all together.

    Returns:
        In points: "rarity gain" and "top gain", what these changes add to the rare categories' ordinary AP; "rarity
        fixed" and "top fixed", what they add to the rare categories' AP-Fixed; "pool gain", what calibration adds to
        AP-Pool; "fixed change", the absolute change of AP-Fixed by calibration; "rarity fixed room", "top fixed room"
        and "fixed change room", 0.3 less the figure; "capped", "fixed" and "pool", ordinary AP, AP-Fixed and AP-Pool
        without a change; "capped r" and "fixed r", the same of rare categories. From 0 to 1: "ece" and "ece
        calibrated", the expected calibration error before and after calibration.

    Raises:
        InputError: for other data, or numbers out of range.

    Examples:
        >>> study("simulated", 1, images=50, classes=12)["rarity fixed"]
        0.0
    """
    if data != "simulated":
        raise unknown("data", data, ("simulated",))
    check_number("seed", seed, at_least=0, whole=True)
    if calibration not in get_args(Method):
        raise unknown("calibration", calibration, get_args(Method))
    if grouping not in get_args(Grouping):
        raise unknown("grouping", grouping, get_args(Grouping))
    check_number("images", images, at_least=1, whole=True)
    check_number("classes", classes, at_least=3, whole=True)
    check_number("top", top, at_least=1, whole=True)
    rng = np.random.default_rng(seed)
    # Trained on a long tail, a detector is less sure of rarer categories, and its scores differ between categories.
    offset = -1.0 - 1.5 * np.arange(classes) / (classes - 1) + rng.normal(0, 0.7, classes)
    score_maps = np.column_stack([np.exp(rng.normal(0, 0.4, classes)), offset])
    train, test = (simulate(n, score_maps, rng, spread) for n in (2 * images, images))
    order = np.argsort(-train.counts, kind="stable")
    groups = {name: part.tolist() for name, part in zip("fcr", np.array_split(order, 3), strict=True)}
    learnt, truth = (replace(one.truth, groups=groups) for one in (train, test))
    plain = test.detections
    changed = {
        "plain": plain,
        "rarity": _rarest_first(plain, order),
        "top": _best_alone(plain, top),
        "calibrated": calibrate(train.detections, learnt, calibration, grouping=grouping)(plain),
    }
    errors = {"ece": plain, "ece calibrated": changed["calibrated"]}
    return _points(changed, truth, max_dets) | {
        name: calibration_errors(detections, truth).overall for name, detections in errors.items()
    }


def _rarest_first(detections: Detections, order: np.ndarray) -> Detections:
    """Scores that put rarer categories first; `order` has the most frequent category first."""
    rarity = np.argsort(order)[detections.labels]
    return replace(detections, scores=(rarity + detections.scores) / len(order), ties=detections.scores)


def _best_alone(detections: Detections, top: int) -> Detections:
    """Only the best detections of each category."""
    kept = best_per_class(detections, top)
    assert detections.boxes is not None
    columns = (detections.images, detections.labels, detections.scores, detections.boxes)
    return Detections(*(column[kept] for column in columns))


def _points(changed: dict[str, Detections], truth: Truth, max_dets: int) -> dict[str, float]:
    """The average precisions of the detections as they are, and what each change adds to them, in points."""
    matches = {name: match(detections, truth) for name, detections in changed.items()}
    capped = {name: ap_image_cap_from_matches(one, max_dets) for name, one in matches.items()}
    fixed = {name: ap_fixed_from_matches(one) for name, one in matches.items()}
    pool = {name: ap_pool_from_matches(one) for name, one in matches.items()}
    figures = {"capped": capped["plain"].value, "capped r": capped["plain"].groups["r"]}
    figures |= {"fixed": fixed["plain"].value, "fixed r": fixed["plain"].groups["r"], "pool": pool["plain"].value}
    for name in ("rarity", "top"):
        figures[f"{name} gain"] = capped[name].groups["r"] - capped["plain"].groups["r"]
        figures[f"{name} fixed"] = fixed[name].groups["r"] - fixed["plain"].groups["r"]
    figures["pool gain"] = pool["calibrated"].value - pool["plain"].value
    figures["fixed change"] = abs(fixed["calibrated"].value - fixed["plain"].value)
    points = {name: 100 * value for name, value in figures.items()}
    return points | {f"{name} room": 0.3 - points[name] for name in ("rarity fixed", "top fixed", "fixed change")}
