"""Calibration of the scores of detections, by default a map for each category, and the expected calibration error.

The maps turn a score into an estimate of precision. Dave, Dollár, Ramanan, Kirillov, Girshick, arXiv 2102.01066,
calibrate each category of a detector on its own, so that scores mean the same in all of them, and compare that with one
map for each group of categories of similar frequency, and with one for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from counterpoise.errors import InputError, unknown
from counterpoise.measure.average_precision import best_per_class
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import match
from counterpoise.ops.arrays import as_flags, as_scores
from counterpoise.ops.checks import check_number

Method = Literal["histogram", "isotonic", "platt", "beta", "temperature"]
Otherwise = Literal["zero", "keep", "group"]
Grouping = Literal["class", "group", "overall"]
ScoreMap = Callable[[np.ndarray], np.ndarray]


def fit_histogram(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 20) -> ScoreMap:
    """Histogram binning: map a score to the share of correct detections in its bin, and to the centre of an empty bin.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.
        bins: number of bins of equal width.

    Returns:
        A function from scores to calibrated scores.

    Raises:
        InputError: without scores, for scores that are NaN or out of 0 to 1, and unless `correct` has one of true and
            false for each score; also the function returned, for such scores.

    Examples:
        >>> fit_histogram(np.array([0.1, 0.2, 0.9]), np.array([False, True, True]), bins=2)(np.array([0.0, 0.6]))
        array([0.5, 1. ])
    """
    check_number("bins", bins, at_least=1, whole=True)
    scores, correct = _judged(scores, correct)
    place = _bin(scores, bins)
    counts = np.bincount(place, minlength=bins)
    hits = np.bincount(place, weights=correct, minlength=bins)
    shares = np.divide(hits, counts, out=(np.arange(bins) + 0.5) / bins, where=counts > 0)
    return partial(_mapped, partial(_look_up, shares))


def fit_isotonic(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Isotonic regression: the non-decreasing function of least squared error, linear between the scores fitted.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.

    Returns:
        A function from scores to calibrated scores.

    Raises:
        InputError: as `fit_histogram` does; also the function returned.

    Examples:
        >>> fit_isotonic(np.array([0.1, 0.2, 0.9]), np.array([True, False, True]))(np.array([0.0, 0.55]))
        array([0.5 , 0.75])
    """
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(*_judged(scores, correct))
    return partial(_mapped, fitted.predict)


def fit_platt(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Platt scaling: logistic regression on the logit of the score, with a slope of at least 0.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.

    Returns:
        A function from scores to calibrated scores.

    Raises:
        InputError: as `fit_histogram` does; also the function returned.

    Examples:
        >>> scores, correct = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, True, False, True])
        >>> bool(fit_platt(scores, correct)(np.array([0.3])) < fit_platt(scores, correct)(np.array([0.7])))
        True
    """
    return _fit_logistic(_logit, scores, correct)


def fit_beta(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Beta calibration: logistic regression on ln s and -ln(1 - s), with slopes of at least 0 (Kull et al., 2017).

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.

    Returns:
        A function from scores to calibrated scores.

    Raises:
        InputError: as `fit_histogram` does; also the function returned.

    Examples:
        >>> scores, correct = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, True, False, True])
        >>> bool(fit_beta(scores, correct)(np.array([0.3])) < fit_beta(scores, correct)(np.array([0.7])))
        True
    """
    return _fit_logistic(_two_logs, scores, correct)


def fit_temperature(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Temperature scaling: multiply the logit of the score by a number of at least 0, found by maximum likelihood.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.

    Returns:
        A function from scores to calibrated scores.

    Raises:
        InputError: as `fit_histogram` does; also the function returned.

    Examples:
        >>> scores, correct = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, True, False, True])
        >>> bool(fit_temperature(scores, correct)(np.array([0.3])) < fit_temperature(scores, correct)(np.array([0.7])))
        True
    """
    return _fit_logistic(_logit, scores, correct, bias=False)


FITS: dict[str, Callable[..., ScoreMap]] = {
    "histogram": fit_histogram,
    "isotonic": fit_isotonic,
    "platt": fit_platt,
    "beta": fit_beta,
    "temperature": fit_temperature,
}


def _judged(scores: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check the scores of detections, of which there is at least one, and whether each detection is correct."""
    found = as_scores("scores", scores)
    if not len(found):
        raise InputError("scores: expected at least one, got none")
    return found, as_flags("correct", correct, len(found))


def _mapped(function: ScoreMap, scores: Any) -> np.ndarray:
    """Apply a map to scores, which must be from 0 to 1 as those it was fitted to."""
    return function(as_scores("scores", scores))


def _bin(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each score; a score of 1 is in the last bin."""
    return np.minimum((scores * bins).astype(int), bins - 1)


def _look_up(shares: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return shares[_bin(scores, len(shares))]


def _open(scores: np.ndarray) -> np.ndarray:
    eps = np.finfo(float).eps
    return scores.clip(eps, 1 - eps)


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(_open(scores))[:, None]


def _two_logs(scores: np.ndarray) -> np.ndarray:
    inside = _open(scores)
    return np.stack([np.log(inside), -np.log1p(-inside)], axis=1)


def _fit_logistic(
    features: Callable[[np.ndarray], np.ndarray], scores: np.ndarray, correct: np.ndarray, bias: bool = True
) -> ScoreMap:
    """Fit a logistic function that does not decrease with the score, by maximum likelihood.

    scikit-learn's `LogisticRegression` cannot keep slopes at 0 or above.
    """
    scores, correct = _judged(scores, correct)
    x, sign = features(scores), np.where(correct, 1.0, -1.0)
    x = np.column_stack([x, np.ones(len(x))]) if bias else x
    slopes = x.shape[1] - bias
    start = np.repeat([1.0, 0.0], [slopes, bias])
    bounds = [(0.0, None)] * slopes + [(None, None)] * bias

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ weight)
        slope = -sign * expit(-margin)
        return float(np.logaddexp(0, -margin).mean()), x.T @ slope / len(x)

    # With SciPy's default tolerance on the loss, the search stops far from the optimum of rare classes.
    weight = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8}).x
    return partial(_mapped, partial(_logistic, features, weight))


def _logistic(features: Callable[[np.ndarray], np.ndarray], weight: np.ndarray, scores: np.ndarray) -> np.ndarray:
    x = features(scores)
    return expit(x @ weight[: x.shape[1]] + (weight[-1] if len(weight) > x.shape[1] else 0.0))


def _same(scores: np.ndarray) -> np.ndarray:
    return scores


FIXED: dict[str, ScoreMap] = {"zero": np.zeros_like, "keep": _same}  # maps that need no fit


@dataclass(frozen=True)
class Calibration:
    """A map of scores for each category, as `calibrate` fits it; a call with detections calibrates them.

    Attributes:
        maps: a function from scores to calibrated scores for each category.
        otherwise: the scores of other categories: "zero" sets them to 0, "keep" leaves them; or a map for all of them.

    Raises:
        InputError: for another value of `otherwise`.

    Examples:
        >>> found = Detections(np.array([1, 1]), np.array([0, 5]), np.array([0.4, 0.9]), np.zeros((2, 4)))
        >>> Calibration({0: np.sqrt}, otherwise="keep")(found).scores.round(2)
        array([0.63, 0.9 ])
    """

    maps: Mapping[int, ScoreMap]
    otherwise: Literal["zero", "keep"] | ScoreMap = "zero"

    def __post_init__(self) -> None:
        if self.otherwise not in tuple(FIXED) and not callable(self.otherwise):
            raise unknown("otherwise", self.otherwise, FIXED)

    def __call__(self, detections: Detections) -> Detections:
        """Return the detections with calibrated scores; the given scores rank those that become equal."""
        scores = np.zeros(len(detections))
        otherwise = self.otherwise if callable(self.otherwise) else FIXED[self.otherwise]
        for label, rows in _by_label(detections.labels):
            scores[rows] = np.clip(self.maps.get(label, otherwise)(detections.scores[rows]), 0, 1)
        return replace(detections, scores=scores, ties=detections.scores)


def calibrate(
    detections: Detections,
    truth: Truth,
    method: Method = "isotonic",
    iou: float = 0.75,
    otherwise: Otherwise = "zero",
    dets_per_class: int = 10_000,
    drop_ignored: bool = False,
    grouping: Grouping = "class",
    missing: Otherwise | None = None,
) -> Calibration:
    """Fit for each category, or for several together, a map from their scores to the share of correct detections.

    Args:
        detections: on images set aside for calibration. Detections in images that were not checked for their category
            are left out.
        truth: the objects of those images.
        method: "histogram" (20 bins), "isotonic", "platt", "beta" or "temperature".
        iou: the overlap with an object from which a detection is correct, above 0 and at most 1.
        otherwise: the scores of a category without a correct detection: "zero" sets them to 0, "keep" leaves them, and
            "group" applies the map fitted to all detections of its group. With "group", categories of no group, or of a
            group without a correct detection, get 0.
        dets_per_class: number of detections kept of each category over all images.
        drop_ignored: whether to leave out detections that are neither true nor false positives. The authors count them
            as correct if they match an object and as wrong if not.
        grouping: what has a map of its own: "class", each category; "group", each group of the truth (as
            `frequency_groups` makes them); "overall", all detections together. With the last two, `otherwise` holds for
            categories of no group and for groups without a correct detection, where "group" means "zero".
        missing: with grouping "class", the scores of a category without any detection, if other than `otherwise`.

    Raises:
        InputError: for an unknown name, a number out of range, `missing` with another grouping than "class", and as
            `match` does.

    Examples:
        >>> truth = Truth(np.array([1, 2]), np.array([0, 0]), np.array([[0.0, 0.0, 9.0, 9.0]] * 2))
        >>> boxes = np.array([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
        >>> found = Detections(np.array([1, 1, 2]), np.array([0, 0, 1]), np.array([0.3, 0.2, 0.9]), boxes)
        >>> calibrate(found, truth)(found).scores  # category 1 has no correct detection
        array([1., 0., 0.])
    """
    if method not in FITS:
        raise unknown("method", method, FITS)
    _check_choices(otherwise, grouping, missing)
    labels, scores, correct = _outcomes(detections, truth, iou, dets_per_class, drop_ignored)

    def fitted(rows: np.ndarray) -> ScoreMap | None:
        return FITS[method](scores[rows], correct[rows]) if correct[rows].any() else None

    rest: Literal["zero", "keep"] = "keep" if otherwise == "keep" else "zero"
    if grouping == "overall":
        return Calibration({}, fitted(np.arange(len(labels))) or rest)
    by_group: dict[int, ScoreMap] = {}
    if "group" in (grouping, otherwise, missing):
        for members in truth.groups.values():
            if found := fitted(np.isin(labels, members)):
                by_group |= dict.fromkeys(map(int, members), found)
    if grouping == "group":
        return Calibration(by_group, rest)
    by_class = {label: fitted(rows) for label, rows in _by_label(labels)}
    own = {label: found for label, found in by_class.items() if found}
    if missing is None or missing == otherwise:
        return Calibration((by_group if otherwise == "group" else {}) | own, rest)
    wrong = by_class.keys() - own.keys()
    maps = dict(by_group) if missing == "group" else {}
    maps |= {label: by_group.get(label, FIXED["zero"]) if otherwise == "group" else FIXED[rest] for label in wrong}
    return Calibration(maps | own, "keep" if missing == "keep" else "zero")


def _check_choices(otherwise: str, grouping: str, missing: str | None) -> None:
    if otherwise not in get_args(Otherwise):
        raise unknown("otherwise", otherwise, get_args(Otherwise))
    if grouping not in get_args(Grouping):
        raise unknown("grouping", grouping, get_args(Grouping))
    if missing is not None and missing not in get_args(Otherwise):
        raise unknown("missing", missing, get_args(Otherwise))
    if missing is not None and grouping != "class":
        raise InputError(f"missing: expected it with grouping 'class' alone, got grouping '{grouping}'")


def _by_label(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each category with its rows."""
    order = np.argsort(labels, kind="stable")
    there, starts = np.unique(labels[order], return_index=True)
    yield from zip(there.tolist(), np.split(order, starts[1:]), strict=False)


def _outcomes(
    detections: Detections, truth: Truth, iou: float, dets_per_class: int, drop_ignored: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label and score of the detections that count, and whether each is correct."""
    check_number("iou", iou, above=0, at_most=1)
    matches = match(detections, truth, np.array([iou]))
    rows = best_per_class(detections, dets_per_class) & matches.judged
    if drop_ignored:
        rows &= ~matches.ignored[:, 0]
    return detections.labels[rows], detections.scores[rows], matches.matched[rows, 0]


def expected_calibration_error(
    scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 20
) -> float:
    r"""Mean distance between score and precision over bins, $\sum_b \frac{|B_b|}{n} \, |\bar s_b - p_b|$.

    Bin b holds $|B_b|$ of the n detections, with mean score $\bar s_b$ and precision $p_b$.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether each detection is correct.
        bins: number of bins of equal width.

    Raises:
        InputError: without scores, for scores that are NaN or out of 0 to 1, unless `correct` has one of true and false
            for each score, and for `bins` that is not a whole number of at least 1.

    Examples:
        >>> round(expected_calibration_error(np.array([0.8, 0.82, 0.1]), np.array([True, False, False])), 4)
        0.24
    """
    check_number("bins", bins, at_least=1, whole=True)
    scores, correct = _judged(scores, correct)
    place = _bin(scores, bins)
    return float(np.abs(np.bincount(place, weights=scores - correct)).sum() / len(scores))


class CalibrationErrors(NamedTuple):
    """Expected calibration errors (ECE); NaN without detections.

    Attributes:
        overall: ECE of all detections.
        per_class: ECE of each category that has detections.
        groups: ECE of all detections of each group.
        mean: mean of the ECE of categories.
        group_means: mean of the ECE of categories in each group.
    """

    overall: float
    per_class: dict[int, float]
    groups: dict[str, float]
    mean: float
    group_means: dict[str, float]


def calibration_errors(
    detections: Detections,
    truth: Truth,
    iou: float = 0.75,
    bins: int = 20,
    dets_per_class: int = 10_000,
    min_score: float = 0.0,
) -> CalibrationErrors:
    """Expected calibration error of detections: overall, of each category and of each group.

    Args:
        detections: in any order. Detections in images that were not checked for their category are left out.
        truth: the objects.
        iou: the overlap with an object from which a detection is correct, above 0 and at most 1.
        bins: number of bins of equal width.
        dets_per_class: number of detections kept of each category over all images.
        min_score: if above 0, only detections of a higher score count; the authors take 0.3 to compare with others, and
            else 0.

    Raises:
        InputError: as `match` does, and for numbers out of range.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 9.0, 9.0]])
        >>> truth = Truth(np.array([1]), np.array([0]), boxes[:1])
        >>> found = Detections(np.array([1, 1]), np.array([0, 0]), np.array([0.75, 0.2]), boxes)
        >>> calibration_errors(found, truth).overall
        0.225
    """
    check_number("min_score", min_score, at_least=0, below=1)
    labels, scores, correct = _outcomes(detections, truth, iou, dets_per_class, drop_ignored=False)
    if min_score:
        labels, scores, correct = (column[scores > min_score] for column in (labels, scores, correct))

    def error(rows: np.ndarray) -> float:
        return expected_calibration_error(scores[rows], correct[rows], bins) if len(rows) else math.nan

    per_class = {label: error(rows) for label, rows in _by_label(labels)}

    def mean(members: Sequence[int]) -> float:
        known = [per_class[int(label)] for label in members if int(label) in per_class]
        return float(np.mean(known)) if known else math.nan

    return CalibrationErrors(
        error(np.arange(len(labels))),
        per_class,
        {name: error(np.flatnonzero(np.isin(labels, members))) for name, members in truth.groups.items()},
        mean(list(per_class)),
        {name: mean(members) for name, members in truth.groups.items()},
    )
