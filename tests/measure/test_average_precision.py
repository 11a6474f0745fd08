"""Average precision beside pycocotools, and the order in which detections count."""

from dataclasses import replace

import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.measure.ap_pool import ap_fixed
from counterpoise.measure.average_precision import (
    ap_image_cap,
    best_per_class,
    mean_over_classes,
    precision_at_recalls,
    ranking,
    recall_reached,
)
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import match
from detections import BOX, OBJECT, ONE, ROW, coco_json, cocoeval, made, only, results_json


@pytest.mark.parametrize("area", [(0, 1e10), (0, 32**2), (32**2, 96**2)])
@pytest.mark.parametrize("cap", [1, 4, 10_000])
@pytest.mark.parametrize("grid", [True, False])
def test_ordinary_ap_is_pycocotools(area, cap, grid):
    """With ties of scores and of overlaps, overlaps at a threshold, crowds, and a cap that binds."""
    for seed in range(3):
        detections, truth = made(seed, grid=grid)
        theirs = cocoeval(coco_json(truth), results_json(detections), "bbox", cap, area)
        ours = ap_image_cap(detections, truth, cap, per_class=True, area=area)
        np.testing.assert_allclose(ours.curves, theirs.transpose(2, 0, 1), rtol=0, atol=1e-12)
        assert ours.value == pytest.approx(theirs[theirs > -1].mean(), abs=1e-12)
    if cap == 10_000:
        assert ap_fixed(detections, truth, area=area).value == ours.value


@pytest.mark.parametrize("cap", [1, 4, 100])
def test_average_recall_is_pycocotools(cap):
    detections, truth = made(30)
    truth = only(truth, truth.labels != 3)  # no object of this category
    detections = only(detections, detections.labels != 1)
    for area in ((0, 1e10), (32**2, 96**2)):
        theirs = cocoeval(coco_json(truth), results_json(detections), "bbox", cap, area, "recall")
        ours = ap_image_cap(detections, truth, cap, per_class=True, area=area).recall
        np.testing.assert_array_equal(ours.recalls, theirs.T)
        assert ours.value == pytest.approx(theirs[theirs > -1].mean(), abs=1e-12)
        assert ours.per_class == pytest.approx(dict(enumerate(theirs.mean(0))))
        assert ours.per_class[3] == -1
        assert ours.groups["f"] == pytest.approx(theirs[:, :2].mean())
        assert ours.groups["c"] == pytest.approx(theirs[:, 2].mean())


def test_recall_worked_by_hand():
    matched = np.array([[True, True], [True, False], [False, False], [True, False]])
    ignored = np.array([[False, False], [False, False], [True, False], [True, False]])
    assert recall_reached(matched, ignored, 4).tolist() == [0.5, 0.25]
    assert recall_reached(matched[:0], ignored[:0], 4).tolist() == [0, 0]
    assert recall_reached(matched, ignored, 0).tolist() == [-1, -1]


def test_recall_is_the_last_one_with_a_precision():
    detections, truth = made(31)
    found = ap_fixed(detections, truth, 20)
    reached = found.curves > 0
    last = np.where(reached.any(2), reached.shape[2] - 1 - reached[..., ::-1].argmax(2), 0) / 100
    assert ((found.recall.recalls >= last - 1e-12) & (found.recall.recalls < last + 0.01)).all()
    better = ap_fixed(detections, truth, 40).recall
    assert better.value > found.recall.value
    assert (better.recalls >= found.recall.recalls).all()


def test_pycocotools_agrees_on_a_category_without_objects_and_on_one_without_detections():
    detections, truth = made(0)
    truth, detections = only(truth, truth.labels != 3), only(detections, detections.labels != 1)
    theirs = cocoeval(coco_json(truth), results_json(detections), "bbox", 100, (0, 1e10))
    ours = ap_image_cap(detections, truth, 100, per_class=True)
    np.testing.assert_allclose(ours.curves, theirs.transpose(2, 0, 1), rtol=0, atol=1e-12)
    assert ours.per_class[3] == -1
    assert ours.per_class[1] == 0
    assert ours.value == pytest.approx(np.mean([v for c, v in ours.per_class.items() if c != 3]))


def test_the_best_of_a_category_are_those_of_highest_score_and_then_of_highest_tie():
    scores, ties = np.array([0.5, 0.9, 0.5, 0.1]), np.array([0.1, 0.0, 0.2, 0.0])
    one = Detections(np.arange(4), np.array([3, 3, 3, 8]), scores, np.zeros((4, 4)), ties=ties)
    assert best_per_class(one, 2).tolist() == [False, True, True, True]
    assert best_per_class(replace(one, ties=None), 2).tolist() == [True, True, False, True]


def test_equal_scores_are_ranked_by_image_then_by_category_then_as_given():
    images, labels = np.array([2, 1, 1, 1, 1]), np.array([0, 5, 4, 4, 0])
    one = Detections(images, labels, np.array([0.5, 0.5, 0.5, 0.5, 0.6]), np.zeros((5, 4)))
    matches = match(one, Truth(ROW, ROW, BOX))
    assert ranking(matches, np.ones(5, bool)).tolist() == [4, 2, 3, 1, 0]
    assert ranking(matches, np.arange(5) != 2).tolist() == [4, 3, 1, 0]


def test_only_what_is_kept_and_judged_is_ranked():
    detections, truth = made(28, federated=True)
    matches = match(detections, truth)
    assert sorted(ranking(matches, np.ones(len(detections), bool))) == np.flatnonzero(matches.judged).tolist()
    nothing = mean_over_classes(matches, np.zeros(len(detections), bool))
    assert nothing.value == 0


def test_precision_never_falls_to_the_left():
    rng = np.random.default_rng(0)
    curve = precision_at_recalls(rng.random((50, 3)) < 0.5, rng.random((50, 3)) < 0.2, 40)
    assert (np.diff(curve, axis=1) <= 0).all()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking(match(ONE, OBJECT), ROW), r"kept: expected 1 of true and false, got int64 of shape"),
        (
            lambda: mean_over_classes(match(ONE, OBJECT), np.ones(2, bool)),
            "kept: expected 1 of true and false, got bool",
        ),
        (lambda: best_per_class(ONE, 0), "dets_per_class: expected a whole number of at least 1, got 0"),
        (lambda: ap_image_cap(ONE, OBJECT, np.nan), "max_dets: expected a whole number of at least 1, got nan"),
        (lambda: precision_at_recalls(BOX > 0, BOX > 0, -1), "expected: expected a whole number of at least 0, got -1"),
        (
            lambda: precision_at_recalls(BOX > 0, BOX[0] > 0, 1),
            r"expected one shape \[n, thresholds\], got \[1, 4\] and",
        ),
        (lambda: recall_reached(BOX > 0, BOX > 0, 0.5), "expected: expected a whole number of at least 0, got 0.5"),
        (lambda: recall_reached(BOX > 0, BOX[:0] > 0, 1), r"matched and ignored: expected one shape \[n, thresholds\]"),
        (lambda: ap_image_cap(ONE, OBJECT, 0), "max_dets: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
