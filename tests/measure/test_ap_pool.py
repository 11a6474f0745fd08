import contextlib
import io
import json
import math
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

import worlds
from counterpoise.errors import InputError, MissingExtra
from counterpoise.measure import ap_pool as module
from counterpoise.measure.ap_pool import (
    THRESHOLDS,
    Calibration,
    Detections,
    LargeVocabularyAP,
    Truth,
    ap_fixed,
    ap_image_cap,
    ap_pool,
    box_iou,
    calibrate,
    calibration_errors,
    expected_calibration_error,
    fit_beta,
    fit_histogram,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    frequency_groups,
    match,
    precision_at_recalls,
    read_detections,
    read_truth,
    simulate,
    study,
)

MEASURES = (ap_fixed, ap_pool, ap_image_cap)
GROUPS = {"r": [4], "c": [2, 3], "f": [0, 1]}


def made(seed, images=12, classes=5, objects=60, found=240, federated=False, grid=True):
    """Random data: coarse coordinates and scores make many ties; crowds, ignored objects, objects of every size."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        drawn = np.column_stack([rng.uniform(0, 60, (n, 2)), rng.uniform(4, 70, (n, 2))])
        return np.floor(drawn / 4) * 4 + 4 if grid else drawn

    pairs = np.stack(np.meshgrid(np.arange(images), np.arange(classes)), axis=-1).reshape(-1, 2)
    truth = Truth(
        rng.integers(images, size=objects),
        rng.integers(classes, size=objects),
        boxes(objects),
        areas=rng.uniform(0, 4000, objects),
        crowd=None if federated else rng.random(objects) < 0.15,
        ignored=rng.random(objects) < 0.15 if federated else None,
        negative=pairs[rng.random(len(pairs)) < 0.4] if federated else None,
        not_exhaustive=pairs[rng.random(len(pairs)) < 0.3] if federated else None,
        classes=np.arange(classes),
        groups=GROUPS,
    )
    near = rng.integers(objects, size=found // 2)  # half of them near an object
    shifted = truth.boxes[near] + np.round(rng.normal(0, 2, (len(near), 4)) / 2) * 2
    shifted[:, 2:] = shifted[:, 2:].clip(min=2)
    n = found - len(near)
    order = rng.permutation(found)
    detections = Detections(
        np.concatenate([truth.images[near], rng.integers(images, size=n)])[order],
        np.concatenate([truth.labels[near], rng.integers(classes, size=n)])[order],
        np.round(rng.random(found), 1 if grid else 6),
        np.concatenate([shifted, boxes(n)])[order],
    )
    return detections, truth


def only(one, rows):
    fields = ("images", "labels", "scores", "boxes", "areas", "crowd", "ignored", "ties")
    return replace(one, **{f: getattr(one, f)[rows] for f in fields if getattr(one, f, None) is not None})


# What it is, written out in plain loops.


def plain_iou(a, b, crowd):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + (0 if crowd else b[2] * b[3] - shared))


def plain_outcomes(detections, truth, threshold, rows):
    """(score, tie, image, label, row, outcome) of every detection that counts; the outcome is True, False or None."""
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    ignored = crowd if truth.ignored is None else crowd | truth.ignored
    negative = None if truth.negative is None else {tuple(pair) for pair in truth.negative.tolist()}
    partly = set() if truth.not_exhaustive is None else {tuple(pair) for pair in truth.not_exhaustive.tolist()}
    ties = np.zeros(len(detections)) if detections.ties is None else detections.ties
    found = []
    for cell in sorted({(int(i), int(c)) for i, c in zip(detections.images, detections.labels, strict=True)}):
        inside = [g for g in range(len(truth)) if (truth.images[g], truth.labels[g]) == cell]
        if negative is not None and not inside and cell not in negative:
            continue
        mine = [d for d in rows if (detections.images[d], detections.labels[d]) == cell]
        left = set(inside)
        for d in sorted(mine, key=lambda d: (-detections.scores[d], -ties[d], d)):
            overlaps = {g: plain_iou(detections.boxes[d], truth.boxes[g], crowd[g]) for g in left}
            wanted = [g for g in left if overlaps[g] >= threshold]
            wanted = [g for g in wanted if not ignored[g]] or wanted
            outcome = None if cell in partly else False
            if wanted:
                g = max(wanted, key=lambda g: (overlaps[g], g))
                outcome = None if ignored[g] else True
                if not crowd[g]:
                    left.remove(g)
            found.append((-detections.scores[d], -ties[d], *cell, d, outcome))
    return sorted(found)


def plain_ap(outcomes, expected):
    hits = wrong = 0
    points = []
    for *_, outcome in outcomes:
        hits, wrong = hits + (outcome is True), wrong + (outcome is False)
        points.append((hits / expected, hits / (hits + wrong) if hits else 0.0))
    levels = np.linspace(0, 1, 101)
    return np.mean([max((precision for recall, precision in points if recall >= level), default=0) for level in levels])


def plain(kind, detections, truth, cap, members=None, thresholds=THRESHOLDS):
    """AP by its definition, of the categories `members`."""
    ties = np.zeros(len(detections)) if detections.ties is None else detections.ties
    rows = sorted(range(len(detections)), key=lambda d: (-detections.scores[d], -ties[d], d))
    key = detections.images if kind == "image" else detections.labels
    kept, counts = [], {}
    for d in rows:
        counts[key[d]] = counts.get(key[d], 0) + 1
        if counts[key[d]] <= cap:
            kept.append(d)
    ignored = np.zeros(len(truth), bool)
    for flags in (truth.crowd, truth.ignored):
        ignored |= False if flags is None else flags
    classes = range(5) if members is None else members
    expected = {c: int(((truth.labels == c) & ~ignored).sum()) for c in classes}
    found = []
    for threshold in thresholds:
        outcomes = [o for o in plain_outcomes(detections, truth, threshold, kept) if o[3] in expected]
        if kind == "pool":
            found.append(plain_ap(outcomes, sum(expected.values())))
        else:
            found += [plain_ap([o for o in outcomes if o[3] == c], n) for c, n in expected.items() if n]
    return np.mean(found)


@pytest.mark.parametrize("federated", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_plain_loops(seed, federated):
    detections, truth = made(seed, federated=federated)
    if seed % 2:
        detections = replace(detections, ties=np.round(np.random.default_rng(seed).random(len(detections)), 1))
    fixed, pool, capped = (
        ap_fixed(detections, truth, 30),
        ap_pool(detections, truth, 30),
        ap_image_cap(detections, truth, 9),
    )
    assert fixed.value == pytest.approx(plain("class", detections, truth, 30), abs=1e-12)
    assert pool.value == pytest.approx(plain("pool", detections, truth, 30), abs=1e-12)
    assert capped.value == pytest.approx(plain("image", detections, truth, 9), abs=1e-12)
    for name, members in GROUPS.items():
        assert fixed.groups[name] == pytest.approx(plain("class", detections, truth, 30, members), abs=1e-12)
        assert pool.groups[name] == pytest.approx(plain("pool", detections, truth, 30, members), abs=1e-12)
    for label, value in fixed.per_class.items():
        assert value == pytest.approx(plain("class", detections, truth, 30, [label]), abs=1e-12)


def coco_json(truth):
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in range(12)],
        "categories": [{"id": c, "name": str(c)} for c in range(5)],
        "annotations": [
            {
                "id": g + 1,
                "image_id": int(truth.images[g]),
                "category_id": int(truth.labels[g]),
                "bbox": truth.boxes[g].tolist(),
                "area": float(truth.areas[g]),
                "iscrowd": int(crowd[g]),
                "ignore": g % 2,  # which pycocotools overwrites
            }
            for g in range(len(truth))
        ],
    }


def results_json(detections):
    columns = (detections.images, detections.labels, detections.scores, detections.boxes)
    names = ("image_id", "category_id", "score", "bbox")
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def cocoeval(truth_json, found_json, kind, cap, area):
    """pycocotools' precision [thresholds recalls classes]."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth_json
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found_json), kind)
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [cap], [list(area)], ["all"]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][..., 0, 0]


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


def test_pycocotools_agrees_on_a_category_without_objects_and_on_one_without_detections():
    detections, truth = made(0)
    truth, detections = only(truth, truth.labels != 3), only(detections, detections.labels != 1)
    theirs = cocoeval(coco_json(truth), results_json(detections), "bbox", 100, (0, 1e10))
    ours = ap_image_cap(detections, truth, 100, per_class=True)
    np.testing.assert_allclose(ours.curves, theirs.transpose(2, 0, 1), rtol=0, atol=1e-12)
    assert ours.per_class[3] == -1
    assert ours.per_class[1] == 0
    assert ours.value == pytest.approx(np.mean([v for c, v in ours.per_class.items() if c != 3]))


# What it must do.


def perfect():
    _, truth = made(1)
    truth = replace(truth, crowd=None)
    return Detections(truth.images, truth.labels, np.linspace(0.2, 0.9, len(truth)), truth.boxes), truth


@pytest.mark.parametrize("measure", MEASURES)
def test_the_objects_themselves_have_precision_1(measure):
    assert measure(*perfect()).value == pytest.approx(1, abs=1e-12)


def test_worked_by_hand():
    """Two categories; at the first threshold category 0 has + -, category 1 has - +; pooled + - - +, of 3 objects."""
    truth = Truth(
        np.array([1, 1, 2]), np.array([0, 1, 1]), np.array([[0.0, 0, 10, 10], [20, 0, 10, 10], [0, 0, 10, 10]])
    )
    boxes = np.array([[0.0, 0, 10, 10], [50, 0, 10, 10], [50, 0, 10, 10], [20, 0, 10, 10]])
    detections = Detections(np.ones(4, int), np.array([0, 0, 1, 1]), np.array([0.9, 0.8, 0.7, 0.6]), boxes)
    fixed, pool = ap_fixed(detections, truth), ap_pool(detections, truth)
    assert fixed.per_class == pytest.approx({0: 1.0, 1: 51 / 101 * 0.5})  # half the recall, at recalls 0 to 0.50
    assert pool.value == pytest.approx((34 * 1 + 33 * 0.5) / 101)  # recall 1/3 from the first, 2/3 at precision 2/4


@pytest.mark.parametrize(("rows", "found"), [([0, 1], 2), ([1, 0], 1)])
def test_of_equal_overlaps_the_last_is_taken(rows, found):
    """The better detection overlaps both objects alike, the other only the one on the left."""
    objects = np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]])[rows]
    boxes = np.array([[2.0, 0, 10, 10], [0, 0, 10, 10]])
    both = np.ones(2, int)
    matches = match(Detections(both, both, np.array([0.9, 0.8]), boxes), Truth(both, both, objects))
    assert matches.matched[:, 0].sum() == found


@pytest.mark.usefixtures("plain_shapes")
def test_lists_and_tensors_are_welcome():
    detections, truth = made(2)
    lists = Detections(*(getattr(detections, name).tolist() for name in ("images", "labels", "scores", "boxes")))
    names = ("images", "labels", "boxes", "areas", "crowd")
    tensors = Truth(**{name: torch.tensor(getattr(truth, name)) for name in names}, classes=list(range(5)))
    np.testing.assert_array_equal(ap_fixed(lists, tensors).curves, ap_fixed(detections, truth).curves)


def test_one_category_is_its_own_pool():
    detections, truth = made(2)
    detections, truth = only(detections, detections.labels == 0), only(truth, truth.labels == 0)
    truth = replace(truth, classes=np.array([0]), groups={})
    assert ap_fixed(detections, truth).value == ap_pool(detections, truth).value


def test_with_caps_larger_than_any_count_ordinary_ap_is_ap_fixed():
    detections, truth = made(3)
    capped = ap_image_cap(detections, truth, len(detections))
    np.testing.assert_array_equal(capped.curves, ap_fixed(detections, truth, len(detections)).curves)


def test_a_category_of_ap_fixed_does_not_see_the_others_and_of_ordinary_ap_it_does():
    detections, truth = made(4)
    alone = only(detections, detections.labels == 2)
    assert ap_fixed(alone, truth, 40).per_class[2] == ap_fixed(detections, truth, 40).per_class[2]
    assert ap_image_cap(alone, truth, 8).per_class[2] > ap_image_cap(detections, truth, 8).per_class[2]


def test_rising_maps_of_scores():
    """One for each category: AP-Fixed is the same to the last bit, AP-Pool is not; one for all changes neither."""
    detections, truth = made(5, grid=False)
    powers = np.array([0.2, 5.0, 1.0, 3.0, 0.5])[detections.labels]
    own = replace(detections, scores=detections.scores**powers)
    common = replace(detections, scores=detections.scores**3)
    np.testing.assert_array_equal(ap_fixed(own, truth).curves, ap_fixed(detections, truth).curves)
    assert abs(ap_pool(own, truth).value - ap_pool(detections, truth).value) > 1e-3
    for measure in MEASURES:
        np.testing.assert_array_equal(measure(common, truth).curves, measure(detections, truth).curves)


def test_equal_scores_with_ties_are_ranked_as_different_ones():
    detections, truth = made(6, grid=False)
    level = replace(detections, scores=np.round(detections.scores, 1), ties=detections.scores)
    for measure in MEASURES:
        for cap in (7, 10_000):
            np.testing.assert_array_equal(measure(level, truth, cap).curves, measure(detections, truth, cap).curves)


def test_the_cap_keeps_the_best_and_not_the_first():
    detections, truth = made(7, grid=False)
    order = np.argsort(detections.scores)  # the worst first
    for measure in MEASURES:
        assert measure(only(detections, order), truth, 5).value == measure(detections, truth, 5).value


def test_the_cap_is_kept_where_it_says():
    detections, truth = made(8, grid=False)
    for keys, cut in (
        (detections.labels, lambda d: ap_fixed(d, truth, 10)),
        (detections.labels, lambda d: ap_pool(d, truth, 10)),
        (detections.images, lambda d: ap_image_cap(d, truth, 10)),
    ):
        kept = np.zeros(len(detections), bool)
        for key in np.unique(keys):
            rows = np.flatnonzero(keys == key)
            kept[rows[np.argsort(-detections.scores[rows])][:10]] = True
        assert cut(only(detections, kept)).value == cut(detections).value != cut(only(detections, ~kept)).value


def test_what_was_not_looked_for_has_no_effect():
    detections, truth = made(9, federated=True)
    judged = match(detections, truth).judged
    assert 20 < judged.sum() < len(detections) - 20
    for measure in (ap_fixed, ap_pool):
        np.testing.assert_array_equal(
            measure(only(detections, judged), truth).curves, measure(detections, truth).curves
        )
        assert measure(detections, replace(truth, negative=None)).value != measure(detections, truth).value


def test_an_unmatched_detection_of_a_category_annotated_in_part_has_no_effect():
    detections, truth = perfect()
    image, label = truth.images[0], truth.labels[0]
    extra = Detections(np.array([image]), np.array([label]), np.array([1.0]), np.array([[900.0, 900, 5, 5]]))
    both = Detections(
        *(np.concatenate([getattr(d, f) for d in (extra, detections)]) for f in ("images", "labels", "scores", "boxes"))
    )
    partly = replace(truth, not_exhaustive=np.array([[image, label]]))
    for measure in (ap_fixed, ap_pool):
        assert measure(both, truth).value < 1 - 1e-3
        assert measure(both, partly).value == pytest.approx(1, abs=1e-12)


def test_pooled_a_category_without_objects_brings_false_positives_where_it_is_negative():
    detections, truth = perfect()
    extra = replace(only(detections, np.arange(20)), labels=np.full(20, 4), scores=np.full(20, 0.95))
    both = Detections(
        *(np.concatenate([getattr(d, f) for d in (detections, extra)]) for f in ("images", "labels", "scores", "boxes"))
    )
    truth = only(truth, truth.labels != 4)
    negative = np.column_stack([np.unique(extra.images), np.full(len(np.unique(extra.images)), 4)])
    unknown = replace(truth, negative=np.zeros((0, 2), int))
    known = replace(truth, negative=negative)
    assert ap_fixed(both, known).value == ap_fixed(both, unknown).value == pytest.approx(1, abs=1e-12)
    assert ap_fixed(both, known).groups["r"] == ap_pool(both, known).groups["r"] == -1
    assert ap_pool(both, unknown).value == pytest.approx(1, abs=1e-12)
    assert ap_pool(both, known).value < 0.9


@pytest.mark.parametrize("measure", MEASURES)
def test_without_detections_and_without_objects(measure):
    detections, truth = made(10)
    none = only(detections, np.zeros(0, int))
    assert measure(none, truth).value == 0
    assert measure(detections, only(truth, np.zeros(0, int))).value == -1
    assert measure(none, only(truth, np.zeros(0, int))).value == -1
    assert ap_pool(none, truth).per_class == {}


def test_pairs_in_several_parts_are_the_same(monkeypatch):
    detections, truth = made(11)
    whole = ap_fixed(detections, truth).curves
    monkeypatch.setattr(module, "PAIRS", 50)
    np.testing.assert_array_equal(ap_fixed(detections, truth).curves, whole)


def test_one_crowded_cell_is_matched_in_order():
    """Rounds as many as detections: 60 objects in a row, each found 5 times by boxes that fit worse and worse."""
    objects = np.column_stack([np.arange(60) * 12.0, np.zeros(60), np.full((60, 2), 10.0)])
    truth = Truth(np.zeros(60, int), np.zeros(60, int), objects)
    boxes = np.concatenate([objects + np.array([shift, 0, 0, 0]) for shift in range(5)])
    detections = Detections(np.zeros(300, int), np.zeros(300, int), np.linspace(1, 0, 300), boxes)
    assert match(detections, truth).matched.sum(0).tolist() == [60] * 10
    assert ap_fixed(detections, truth).value == pytest.approx(1, abs=1e-12)


def test_precision_never_falls_to_the_left():
    rng = np.random.default_rng(0)
    curve = precision_at_recalls(rng.random((50, 3)) < 0.5, rng.random((50, 3)) < 0.2, 40)
    assert (np.diff(curve, axis=1) <= 0).all()


def test_frequency_groups_are_those_of_lvis():
    groups = frequency_groups({7: 1, 1: 9, 2: 10, 3: 99, 4: 100, 5: 10**6})
    assert groups == {"r": [7, 1], "c": [2, 3], "f": [4, 5]}


# Calibration.

rng = np.random.default_rng(0)
SCORES = rng.random(3000)
CORRECT = rng.random(3000) < 1 / (1 + np.exp(-(1.7 * np.log(SCORES / (1 - SCORES)) - 1.2)))
LOGITS = np.log(SCORES / (1 - SCORES))[:, None]
GRID = np.linspace(0, 1, 201)
FITS = (fit_histogram, fit_isotonic, fit_platt, fit_beta, fit_temperature)


def test_platt_is_scikit_learn_s_logistic_regression_of_the_logit():
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(LOGITS, CORRECT).predict_proba(LOGITS)[:, 1]
    np.testing.assert_allclose(fit_platt(SCORES, CORRECT)(SCORES), theirs, atol=1e-5)


def test_temperature_is_the_same_without_an_intercept():
    theirs = LogisticRegression(C=np.inf, tol=1e-10, fit_intercept=False).fit(LOGITS, CORRECT)
    np.testing.assert_allclose(fit_temperature(SCORES, CORRECT)(SCORES), theirs.predict_proba(LOGITS)[:, 1], atol=1e-5)


def test_beta_is_logistic_regression_on_two_logarithms():
    features = np.column_stack([np.log(SCORES), -np.log(1 - SCORES)])
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(features, CORRECT).predict_proba(features)[:, 1]
    np.testing.assert_allclose(fit_beta(SCORES, CORRECT)(SCORES), theirs, atol=1e-5)


def test_isotonic_is_scikit_learn_s_and_does_not_fall():
    theirs = IsotonicRegression(out_of_bounds="clip").fit(SCORES, CORRECT)
    np.testing.assert_array_equal(fit_isotonic(SCORES, CORRECT)(GRID), theirs.predict(GRID))
    assert (np.diff(fit_isotonic(SCORES, CORRECT)(GRID)) >= 0).all()


def test_histogram_is_the_share_in_each_of_20_bins():
    found = fit_histogram(SCORES, CORRECT)(np.array([0.0, 0.049, 0.05, 1.0]))
    shares = [CORRECT[(low <= SCORES) & (low + 0.05 > SCORES)].mean() for low in (0.0, 0.05, 0.95)]
    np.testing.assert_allclose(found, [shares[0], shares[0], shares[1], shares[2]])


def test_an_empty_bin_has_its_centre():
    assert fit_histogram(np.array([0.01]), np.array([True]))(np.array([0.52])) == pytest.approx(0.525)


@pytest.mark.parametrize("fit", FITS[2:])
def test_scaling_never_reverses_the_order(fit):
    """Higher scores that are less often right: the best of functions that do not fall is nearly flat."""
    found = fit(SCORES, ~CORRECT)(GRID)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("fit", FITS)
def test_a_single_detection_and_scores_at_the_ends(fit):
    for scores, correct in ((np.array([0.5]), np.array([True])), (np.array([0.0, 1.0]), np.array([False, True]))):
        found = fit(scores, correct)(GRID)
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("method", ["histogram", "isotonic", "platt", "beta", "temperature"])
def test_calibration_fits_each_category_to_matches_at_three_quarters(method):
    detections, truth = made(12, found=600, grid=False)
    matched = match(detections, truth, np.array([0.75])).matched[:, 0]
    calibrated = calibrate(detections, truth, method)(detections)
    fit = dict(zip(("histogram", "isotonic", "platt", "beta", "temperature"), FITS, strict=True))[method]
    for label in range(5):
        rows = detections.labels == label
        expected = fit(detections.scores[rows], matched[rows])(detections.scores[rows])
        np.testing.assert_allclose(calibrated.scores[rows], expected)
    np.testing.assert_array_equal(calibrated.ties, detections.scores)


@pytest.mark.parametrize("method", ["isotonic", "platt", "beta", "temperature"])
def test_calibration_leaves_ap_fixed_as_it_was(method):
    detections, truth = made(13, found=600, grid=False)
    train, train_truth = made(14, found=600, grid=False)
    calibrated = calibrate(train, train_truth, method)(detections)
    assert abs(ap_pool(calibrated, truth).value - ap_pool(detections, truth).value) > 1e-4
    np.testing.assert_array_equal(ap_fixed(calibrated, truth).curves, ap_fixed(detections, truth).curves)


def test_a_category_without_a_correct_detection():
    """Category 3 has none, 4 has no detection at all."""
    detections, truth = made(15, found=600, grid=False)
    train = only(detections, detections.labels != 4)
    seen = only(truth, truth.labels != 3)
    rows = detections.labels >= 3
    assert (calibrate(train, seen)(detections).scores[rows] == 0).all()
    kept = calibrate(train, seen, otherwise="keep")(detections).scores
    np.testing.assert_array_equal(kept[rows], detections.scores[rows])
    grouped = calibrate(train, seen, otherwise="group")(detections).scores
    both = np.isin(train.labels, GROUPS["c"])
    matched = match(train, seen, np.array([0.75])).matched[:, 0]
    three = detections.labels == 3
    theirs = fit_isotonic(train.scores[both], matched[both])(detections.scores[three])
    np.testing.assert_allclose(grouped[three], theirs)
    assert (grouped[detections.labels == 4] == 0).all()  # nothing is known of its group
    others = ~rows
    np.testing.assert_array_equal(grouped[others], kept[others])


def test_what_calibration_counts():
    """A detection not looked for, one unmatched of a category annotated in part, one that matched what is ignored."""
    box = np.array([[0.0, 0, 10, 10]])
    truth = Truth(
        np.array([1, 2]),
        np.array([0, 0]),
        np.repeat(box, 2, axis=0),
        ignored=np.array([False, True]),
        negative=np.zeros((0, 2), int),
        not_exhaustive=np.array([[1, 0]]),
    )
    detections = Detections(
        np.array([1, 1, 2, 3]),
        np.zeros(4, int),
        np.array([0.52, 0.53, 0.54, 0.51]),
        np.concatenate([box, box + np.array([50, 0, 0, 0]), box, box]),
    )
    at = replace(only(detections, np.array([0])), scores=np.array([0.5]))
    assert calibrate(detections, truth, "histogram")(at).scores == pytest.approx(2 / 3)
    assert calibrate(detections, truth, "histogram", drop_ignored=True)(at).scores == pytest.approx(1)
    assert calibrate(detections, truth, "histogram", dets_per_class=1)(at).scores == pytest.approx(1)
    assert calibration_errors(detections, truth).overall == pytest.approx(abs(0.53 - 2 / 3))


def test_a_calibration_can_be_kept():
    detections, truth = made(16, grid=False)
    for method in ("histogram", "isotonic", "platt", "beta", "temperature"):
        calibration = calibrate(detections, truth, method)
        again = pickle.loads(pickle.dumps(calibration))
        np.testing.assert_array_equal(again(detections).scores, calibration(detections).scores)


def test_calibration_error_by_hand_and_of_calibrated_scores():
    scores, correct = np.array([0.11, 0.13, 0.92, 0.96]), np.array([True, False, True, True])
    assert expected_calibration_error(scores, correct) == pytest.approx((2 * abs(0.12 - 0.5) + 0.08 + 0.04) / 4)
    many = rng.random(200_000)
    assert expected_calibration_error(many, rng.random(200_000) < many) < 0.01
    assert expected_calibration_error(many, rng.random(200_000) < many**3) > 0.2


def test_calibration_errors_of_categories_and_groups():
    detections, truth = made(17, found=600, grid=False)
    detections = only(detections, detections.labels != 3)
    matched = match(detections, truth, np.array([0.75])).matched[:, 0]
    found = calibration_errors(detections, truth)

    def error(*labels):
        rows = np.isin(detections.labels, labels)
        return expected_calibration_error(detections.scores[rows], matched[rows])

    assert found.per_class == pytest.approx({label: error(label) for label in (0, 1, 2, 4)})
    assert found.overall == pytest.approx(error(0, 1, 2, 4))
    assert found.groups == pytest.approx({"r": error(4), "c": error(2), "f": error(0, 1)})
    assert found.mean == pytest.approx(np.mean([error(c) for c in (0, 1, 2, 4)]))
    assert found.group_means == pytest.approx({"r": error(4), "c": error(2), "f": (error(0) + error(1)) / 2})
    nothing = calibration_errors(only(detections, np.zeros(0, int)), truth)
    assert math.isnan(nothing.overall)
    assert math.isnan(nothing.group_means["r"])


# The metric.


def batches(detections, truth, images=range(12), corners=True):
    """What `update` takes, one image after the other."""
    preds, target = [], []
    for i in images:
        d, g = detections.images == i, truth.images == i
        boxes = [torch.tensor(one.boxes[rows]) for one, rows in ((detections, d), (truth, g))]
        if corners:
            boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1) for b in boxes]
        labels = [torch.tensor(one.labels[rows]) for one, rows in ((detections, d), (truth, g))]
        preds.append({"boxes": boxes[0], "labels": labels[0], "scores": torch.tensor(detections.scores[d])})
        listed = {
            name: torch.tensor([c for j, c in getattr(truth, name).tolist() if j == i], dtype=torch.long)
            for name in ("negative", "not_exhaustive")
            if getattr(truth, name) is not None
        }
        crowd = {} if truth.crowd is None else {"iscrowd": torch.tensor(truth.crowd[g])}
        area = {"area": torch.tensor(truth.areas[g])}
        target.append({"boxes": boxes[1], "labels": labels[1], **crowd, **area, **listed})
    return preds, target


def functions(detections, truth, max_dets=9):
    found = {"ap_fixed": ap_fixed(detections, truth, 30), "ap_pool": ap_pool(detections, truth, 30)}
    found["ap_image_cap"] = ap_image_cap(detections, truth, max_dets)
    values = {name: one.value for name, one in found.items()}
    return values | {f"{name} {group}": value for name, one in found.items() for group, value in one.groups.items()}


@pytest.mark.parametrize("federated", [False, True])
def test_the_metric_gives_what_the_functions_give(federated):
    detections, truth = made(18, federated=federated)
    detections = only(detections, np.argsort(detections.images, kind="stable"))  # as the metric gets them
    truth = replace(truth, ignored=None)
    metric = LargeVocabularyAP(30, 9, GROUPS, federated)
    preds, target = batches(detections, truth)
    for start in range(0, 12, 5):
        metric.update(preds[start : start + 5], target[start : start + 5])
    expected = functions(detections, replace(truth, classes=None))
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(expected)
    metric.reset()
    metric.update(*batches(detections, truth, images=[99]))  # an image with nothing in it
    assert all(value == -1 for value in metric.compute().values())


def test_the_metric_takes_coco_s_boxes():
    detections, truth = made(19, grid=False)
    metric = LargeVocabularyAP(30, 9, GROUPS, box_format="xywh")
    metric.update(*batches(detections, truth, corners=False))
    expected = functions(detections, replace(truth, classes=None))
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(expected)


def in_a_process(rank, world, sizes):
    detections, truth = made(20, grid=False)
    metric = LargeVocabularyAP(30, 9, GROUPS)
    start = sum(sizes[:rank])
    if sizes[rank]:
        metric.update(*batches(detections, truth, range(start, start + sizes[rank])))
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.slow
def test_the_metric_over_processes_one_of_which_has_no_image():
    detections, truth = made(20, grid=False)
    expected = pytest.approx(functions(detections, replace(truth, classes=None)))
    assert worlds.run(2, in_a_process, [12, 0]) == [expected] * 2


# Files.


def lvis_json(truth):
    content = coco_json(replace(truth, crowd=None))
    for image in content["images"]:
        for name, pairs in (
            ("neg_category_ids", truth.negative),
            ("not_exhaustive_category_ids", truth.not_exhaustive),
        ):
            image[name] = [c for i, c in pairs.tolist() if i == image["id"]]
    for g, one in enumerate(content["annotations"]):
        one["ignore"] = int(truth.ignored[g])
    for category in content["categories"]:
        category["frequency"] = next(name for name, members in GROUPS.items() if category["id"] in members)
    return content


@pytest.fixture
def files(tmp_path):
    def write(truth, found):
        for name, content in (("truth", truth), ("found", found)):
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        return tmp_path / "truth.json", tmp_path / "found.json"

    return write


def test_coco_files(files):
    detections, truth = made(21)
    truth = replace(truth, groups={})
    paths = files(coco_json(truth), results_json(detections))
    read = read_truth(paths[0])
    found = read_detections(paths[1], read)
    for measure in MEASURES:
        np.testing.assert_array_equal(measure(found, read).curves, measure(detections, truth).curves)
    assert read.groups == {}


def test_lvis_files(files):
    detections, truth = made(22, federated=True)
    paths = files(lvis_json(truth), results_json(detections))
    read = read_truth(paths[0])
    found = read_detections(paths[1], read)
    assert read.groups == GROUPS
    truth = replace(truth, groups=read.groups)
    for measure in MEASURES:
        np.testing.assert_array_equal(measure(found, read).curves, measure(detections, truth).curves)
        assert measure(found, read).groups == measure(detections, truth).groups


def test_no_detections_in_a_file(files):
    _, truth = made(23)
    paths = files(coco_json(truth), [])
    read = read_truth(paths[0])
    assert ap_fixed(read_detections(paths[1], read), read).value == 0


def masks_json(seed):
    """Polygons, RLE and uncompressed RLE as objects, RLE as detections; boxes that say something else."""
    from pycocotools import mask

    draw = np.random.default_rng(seed)

    def rle(box):
        x, y, w, h = map(int, box)
        bitmap = np.zeros((200, 200), np.uint8, order="F")
        bitmap[y : y + h, x : x + w] = np.tri(h, w, h // 2)  # not a rectangle
        made = mask.encode(bitmap)
        return {"size": made["size"], "counts": made["counts"].decode()}, bitmap

    detections, truth = made(seed)
    content, found = coco_json(truth), results_json(detections)
    for g, one in enumerate(content["annotations"]):
        x, y, w, h = one["bbox"]
        compressed, bitmap = rle(one["bbox"])
        if g % 3 == 0:
            one["segmentation"] = [[x, y, x + w, y, x + w, y + h], [x, y, x, y + h, x + w / 2, y + h]]
        elif g % 3 == 1:
            one["segmentation"] = compressed
        else:
            flat = bitmap.flatten(order="F")
            runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]]))
            counts = runs.tolist() if not flat[0] else [0, *runs.tolist()]
            one["segmentation"] = {"size": [200, 200], "counts": counts}
        one["bbox"] = [0, 0, 1, 1]
    for one in found:
        one["segmentation"] = rle(np.clip(one.pop("bbox"), 1, 100) + draw.integers(0, 2, 4))[0]
    return content, found


@pytest.mark.parametrize("area", [(0, 1e10), (0, 32**2)])
def test_masks_are_pycocotools(files, area):
    for seed in range(2):
        content, found = masks_json(seed)
        paths = files(content, [{**one, "bbox": [0, 0, 1, 1]} for one in found])
        truth = read_truth(paths[0], masks=True)
        detections = read_detections(paths[1], truth, masks=True)  # whose boxes are not looked at
        ours = ap_image_cap(detections, truth, 100, per_class=True, area=area)
        theirs = cocoeval(content, found, "segm", 100, area)
        np.testing.assert_allclose(ours.curves, theirs.transpose(2, 0, 1), rtol=0, atol=1e-12)
        assert 0.02 < ours.value < 0.9


def test_masks_need_pycocotools(monkeypatch, files):
    content, found = masks_json(0)
    paths = files(content, found)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtra, match=r"pip install 'counterpoise\[coco\]'"):
        read_truth(paths[0], masks=True)


def broken(part, change):
    """The files with one thing changed."""
    detections, truth = made(24, federated=True)
    content, found = lvis_json(truth), results_json(detections)
    change(content if part == "truth" else found)
    return content, found


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("truth", lambda c: c.pop("images"), r"truth.json: has no images"),
        ("truth", lambda c: c.update(annotations={}), r"truth.json: expected a list as annotations, got \{\}"),
        ("truth", lambda c: c["annotations"][3].pop("bbox"), r"truth.json: annotations\[3\]: has no bbox"),
        ("truth", lambda c: c["annotations"][3].pop("area"), r"annotations\[3\]: has no area"),
        (
            "truth",
            lambda c: c["annotations"][3].update(image_id=99),
            r"annotations\[3\]: image_id 99 is not in the ann",
        ),
        (
            "truth",
            lambda c: c["annotations"][3].update(category_id="cat"),
            r"expected an integer of at most 64 bits as category_id, got 'cat'",
        ),
        ("truth", lambda c: c["annotations"].append(7), r"annotations\[60\]: expected an object, got 7"),
        ("truth", lambda c: c["images"][2].pop("neg_category_ids"), r"images\[2\]: has no neg_category_ids"),
        ("truth", lambda c: c["images"][2].update(neg_category_ids=["a"]), r"expected integers in neg_category_ids"),
        ("truth", lambda c: c["categories"][0].update(frequency=3), r"expected a string as frequency, got 3"),
        ("found", lambda c: c[5].update(score=1.5), r"found.json: \[5\]: expected a score from 0 to 1, got 1.5"),
        ("found", lambda c: c[5].update(score=-0.1), r"found.json: \[5\]: expected a score from 0 to 1, got -0.1"),
        ("found", lambda c: c[5].update(score=math.nan), r"found.json: \[5\]: expected a number as score, got nan"),
        ("found", lambda c: c[5].update(score="high"), r"\[5\]: expected a number as score, got 'high'"),
        ("found", lambda c: c[5].update(bbox=[1, 2, 3]), r"\[5\]: expected left, top, width and height as bbox"),
        ("found", lambda c: c[5].update(bbox=[1, 2, -3, 4]), r"\[5\]: expected left, top, width and height as bbox"),
        ("found", lambda c: c[5].update(bbox=[1, 2, "3", 4]), r"\[5\]: expected left, top, width and height as bbox"),
        ("found", lambda c: c[5].update(category_id=99), r"category_id 99 is not in the annotations' categories"),
        (
            "found",
            lambda c: c[5].update(image_id=True),
            r"\[5\]: expected an integer of at most 64 bits as image_id, got True",
        ),
    ],
)
def test_a_faulty_entry_is_named(files, part, change, message):
    paths = files(*broken(part, change))
    with pytest.raises(InputError, match=message):
        read_detections(paths[1], read_truth(paths[0]))


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ('{"images": [],\n "annotations": [,]}', "[]", r"truth.json: malformed JSON, line 2"),
        ("[]", "[]", r"truth.json: expected an object with images, annotations and categories, got a list"),
        (None, '[{"image_id": 1},\n\n oops]', r"found.json: malformed JSON, line 3"),
        (None, "{}", r"found.json: expected a list of detections, got an object"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(files, truth, found, message):
    paths = files(truth or coco_json(made(25)[1]), found)
    with pytest.raises(InputError, match=message):
        read_detections(paths[1], read_truth(paths[0]))
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        read_truth("nowhere.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, f: t["annotations"][1].update(segmentation="x"),
            r"annotations\[1\]: expected a segmentation as RLE or",
        ),
        (
            lambda t, f: t["annotations"][1].update(segmentation=[[1, "a"]]),
            r"annotations\[1\]: its segmentation is neither",
        ),
        (lambda t, f: t["images"][0].pop("height"), r"images\[0\]: has no height"),
        (lambda t, f: f[1].pop("segmentation"), r"found.json: \[1\]: expected a segmentation as RLE, got null"),
        (
            lambda t, f: f[1].update(segmentation=[[0, 0, 4, 0, 4, 4]]),
            r"\[1\]: expected a segmentation as RLE, got a list",
        ),
    ],
)
def test_a_faulty_mask_is_named(files, change, message):
    content, found = masks_json(0)
    change(content, found)
    paths = files(content, found)
    with pytest.raises(InputError, match=message):
        read_detections(paths[1], read_truth(paths[0], masks=True), masks=True)


def test_masks_of_another_size_are_refused(files):
    content, found = masks_json(0)
    for image in content["images"]:
        image["height"] = 100
    with pytest.raises(InputError, match=r"has the size \[200, 200\], its image \[100, 200\]"):
        read_truth(files(content, found)[0], masks=True)
    small, large = ({"size": [side, side], "counts": counts} for side, counts in ((5, "02g0"), (6, "02R1")))
    with pytest.raises(InputError, match=r"masks: expected those of an image to be of one size, got \[6, 6\]"):
        ap_fixed(Detections(ROW, ROW, HALF, masks=[large]), Truth(ROW, ROW, masks=[small]))


ROW = np.array([1])
BOX = np.array([[0.0, 0.0, 5.0, 5.0]])
HALF = np.array([0.5])
RLE = {"size": [5, 5], "counts": "02g0"}
ONE, OBJECT = Detections(ROW, ROW, HALF, BOX), Truth(ROW, ROW, BOX)
ENTRY = {"boxes": torch.zeros(1, 4), "labels": torch.ones(1, dtype=torch.long), "scores": torch.zeros(1)}


def update(metric, pred=None, true=None):
    metric.update([{**ENTRY, **(pred or {})}], [{**ENTRY, **(true or {})}])


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Detections(ROW, ROW, np.array([1.1]), BOX), "scores: expected numbers from 0 to 1, got 1.1 in row 0"),
        (lambda: Detections(ROW, ROW, np.array([-0.5]), BOX), "scores: expected numbers from 0 to 1, got -0.5"),
        (lambda: Detections(ROW, ROW, np.array([np.nan]), BOX), "scores: 1 of 1 numbers are NaN"),
        (lambda: Detections(ROW, ROW, np.array([0.1, 0.2]), BOX), r"scores: expected shape \[1\], got \[2\]"),
        (lambda: Detections(ROW, HALF, HALF, BOX), "labels: expected integers of at most 64 bits, got float64"),
        (lambda: Detections(HALF, ROW, HALF, BOX), "images: expected integers of at most 64 bits, got float64"),
        (lambda: Detections(ROW, ROW, HALF, BOX[:, :3]), r"boxes: expected shape \[1, 4\], got \[1, 3\]"),
        (lambda: Detections(ROW, ROW, HALF, -BOX), r"boxes: expected left, top, width and height, got .* in row 0"),
        (lambda: Detections(ROW, ROW, HALF, BOX + np.inf), "boxes: 4 of 4 numbers are NaN or infinite"),
        (lambda: Detections(ROW, ROW, HALF), "boxes and masks: expected one of them"),
        (lambda: Detections(ROW, ROW, HALF, BOX, [{}]), "boxes and masks: expected one of them"),
        (lambda: Detections(ROW, ROW, HALF, masks=[]), "masks: expected 1, got 0"),
        (lambda: Detections(ROW, ROW, HALF, BOX, ties=BOX), r"ties: expected shape \[1\], got \[1, 4\]"),
        (lambda: Detections(ROW, ROW, HALF, masks=[None]), r"masks: expected a compressed RLE .* in row 0"),
        (lambda: Detections(ROW, ROW, HALF, masks=[{"size": [5, 5], "counts": [25]}]), "masks: expected a compressed"),
        (
            lambda: Detections(ROW, ROW, HALF, 1e200 * BOX),
            "boxes: expected left, top, width and height, got .* in row 0",
        ),
        (
            lambda: Detections([2**64], [1], [0.5], BOX),
            "images: expected integers of at most 64 bits, got object, as 1844",
        ),
        (lambda: Detections([2**63], [1], [0.5], BOX), "images: expected integers of at most 64 bits, got uint64"),
        (lambda: Detections(1, 1, 0.5, BOX[0]), r"images: expected integers of shape \[1\], got \[\]"),
        (lambda: Detections(ROW, [True], HALF, BOX), "labels: expected integers of at most 64 bits, got bool"),
        (lambda: Detections(ROW, ["ash"], HALF, BOX), "labels: expected integers of at most 64 bits, got <U3, as"),
        (lambda: Detections(ROW, ROW, ["0.5"], BOX), "scores: expected numbers, got <U3, as"),
        (lambda: Detections(ROW, ROW, [10**400], BOX), "scores: expected numbers, got object, as 1000"),
        (lambda: Detections(ROW, ROW, HALF, [[1, 2], [3]]), "boxes: expected numbers in rows of one length"),
        (lambda: Truth(ROW, ROW, BOX, areas=[-1.0]), "areas: expected numbers of at least 0, got -1 in row 0"),
        (lambda: Truth(ROW, ROW, BOX, classes=[0.5]), "classes: expected integers of at most 64 bits, got float64"),
        (lambda: Truth(ROW, ROW, BOX, known_images=BOX), "known_images: expected integers of at most 64 bits"),
        (lambda: Truth(ROW, ROW, BOX, groups={"r": ["ash"]}), "groups: r: expected integers of at most 64 bits"),
        (lambda: Truth(ROW, ROW, BOX, groups={"r": 4}), "groups: r: expected integers of shape"),
        (lambda: Truth(ROW, np.array([1, 2]), BOX), r"labels: expected integers of shape \[1\], got \[2\]"),
        (lambda: Truth(ROW, ROW, BOX, areas=BOX), r"areas: expected shape \[1\]"),
        (lambda: Truth(ROW, ROW, BOX, crowd=ROW), "crowd: expected 1 of true and false, got int64"),
        (
            lambda: Truth(ROW, ROW, BOX, ignored=BOX > 0),
            r"ignored: expected 1 of true and false, got bool of shape \[1, 4\]",
        ),
        (lambda: Truth(ROW, ROW, BOX, negative=ROW), "negative: expected rows of an image and a category"),
        (
            lambda: Truth(ROW, ROW, BOX, not_exhaustive=BOX[:, :2]),
            "not_exhaustive: expected rows of an image and a cat",
        ),
        (lambda: match(ONE, replace(OBJECT, known_images=ROW + 1)), "images: 1 in row 0 of the detections is not in"),
        (lambda: match(ONE, replace(OBJECT, classes=ROW + 1)), "labels: 1 in row 0 of the detections is not in"),
        (lambda: match(Detections(ROW, ROW, HALF, masks=[RLE]), OBJECT), "expected boxes in both or masks in both"),
        (lambda: match(ONE, OBJECT, np.array([0.0])), "thresholds: expected numbers above 0 and at most 1"),
        (lambda: match(ONE, OBJECT, np.array([])), r"thresholds: expected numbers above 0 and at most 1, got \[\]"),
        (
            lambda: match(ONE, OBJECT, np.array([75.0])),
            r"thresholds: expected numbers above 0 and at most 1, got \[75.0\]",
        ),
        (lambda: match(ONE, OBJECT, np.array([np.nan])), "thresholds: expected numbers above 0 and at most 1, got"),
        (lambda: match(ONE, OBJECT, ["0.5"]), "thresholds: expected numbers above 0 and at most 1, got"),
        (
            lambda: match(ONE, OBJECT, area=(9, 1)),
            "area: expected a smallest area of at least 0 and a largest one, got",
        ),
        (
            lambda: match(ONE, OBJECT, area=(np.nan, 1)),
            "area: expected a smallest area of at least 0 and a largest one",
        ),
        (lambda: match(ONE, OBJECT, area="all"), "area: expected a smallest area of at least 0 and a largest one"),
        (lambda: ap_fixed(ONE, OBJECT, 2.5), "dets_per_class: expected a whole number of at least 1, got 2.5"),
        (lambda: ap_pool(ONE, OBJECT, "all"), "dets_per_class: expected a whole number of at least 1, got 'all'"),
        (lambda: ap_image_cap(ONE, OBJECT, np.nan), "max_dets: expected a whole number of at least 1, got nan"),
        (lambda: calibrate(ONE, OBJECT, iou=np.nan), "iou: expected a number above 0 and of at most 1, got nan"),
        (lambda: calibrate(ONE, OBJECT, method=3), "method '3' is not known"),
        (lambda: Calibration({}, "kep"), "did you mean 'keep'"),
        (lambda: frequency_groups({0: -1}), "counts: 0: expected a whole number of at least 0, got -1"),
        (lambda: frequency_groups({0: 1.5}), "counts: 0: expected a whole number of at least 0, got 1.5"),
        (lambda: precision_at_recalls(BOX > 0, BOX > 0, -1), "expected: expected a whole number of at least 0, got -1"),
        (
            lambda: precision_at_recalls(BOX > 0, BOX[0] > 0, 1),
            r"expected one shape \[n, thresholds\], got \[1, 4\] and",
        ),
        (lambda: box_iou(BOX, BOX[:, :3], ROW > 0), r"others: expected shape \[1, 4\], got \[1, 3\]"),
        (lambda: box_iou(-BOX, BOX, ROW > 0), "boxes: expected left, top, width and height"),
        (lambda: simulate(0, BOX[:, :2], np.random.default_rng(0)), "images: expected a whole number of at least 1"),
        (lambda: simulate(1, BOX, np.random.default_rng(0)), r"habits: expected shape \[1, 2\], got \[1, 4\]"),
        (lambda: simulate(1, BOX[:, :2], np.random.default_rng(0), np.nan), "spread: expected a number that is finite"),
        (lambda: study("simulated", -1), "seed: expected a whole number of at least 0, got -1"),
        (lambda: study("simulated", 0, classes=2), "classes: expected a whole number of at least 3, got 2"),
        (lambda: ap_fixed(ONE, OBJECT, 0), "dets_per_class: expected a whole number of at least 1, got 0"),
        (lambda: ap_image_cap(ONE, OBJECT, 0), "max_dets: expected a whole number of at least 1, got 0"),
        (lambda: calibrate(ONE, OBJECT, "isotonc"), "did you mean 'isotonic'"),
        (lambda: calibrate(ONE, OBJECT, otherwise="zeroo"), "did you mean 'zero'"),
        (lambda: calibrate(ONE, OBJECT, iou=75), "iou: expected a number above 0 and of at most 1, got 75"),
        (lambda: expected_calibration_error(HALF[:0], ROW[:0] > 0), "scores: expected at least one, got none"),
        (lambda: expected_calibration_error(HALF, ROW > 0, 0), "bins: expected a whole number of at least 1"),
        (lambda: study("simulatd", 0), "did you mean 'simulated'"),
        (lambda: LargeVocabularyAP(max_dets=0), "max_dets: expected a whole number of at least 1"),
        (lambda: LargeVocabularyAP(box_format="xyhw"), "did you mean 'xywh'"),
        (
            lambda: LargeVocabularyAP().update([ENTRY], []),
            "preds and target: expected one of each an image, got 1 and 0",
        ),
        (
            lambda: update(LargeVocabularyAP(), {"boxes": torch.zeros(4)}),
            r"preds\[0\]: expected boxes of shape \[n, 4\]",
        ),
        (lambda: update(LargeVocabularyAP(), {"labels": torch.ones(1)}), r"preds\[0\]: labels: expected integers"),
        (
            lambda: update(LargeVocabularyAP(), {"scores": torch.ones(2)}),
            r"preds\[0\]: scores: expected 1 numbers, got",
        ),
        (
            lambda: update(LargeVocabularyAP(), {}, {"iscrowd": torch.ones(2)}),
            r"target\[0\]: iscrowd: expected 1 numbers, got",
        ),
        (lambda: update(LargeVocabularyAP(), {}, {"negative": torch.ones(2)}), "negative: expected integers"),
        (
            lambda: LargeVocabularyAP(dets_per_class=0.5),
            "dets_per_class: expected a whole number of at least 1, got 0.5",
        ),
        (lambda: LargeVocabularyAP(groups={"r": [0.5]}), "groups: r: expected integers"),
        (
            lambda: LargeVocabularyAP().update(ENTRY, [ENTRY]),
            "preds: expected a list of a dictionary an image, got dict",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


WRONG = torch.tensor
FAULTS = [  # in the second image
    ("preds", {"scores": WRONG([3.9])}, "scores: expected numbers from 0 to 1, got 3.9 in row 0"),
    ("preds", {"scores": WRONG([-0.1])}, "scores: expected numbers from 0 to 1, got -0.1 in row 0"),
    ("preds", {"scores": WRONG([torch.nan])}, "scores: expected numbers from 0 to 1, got nan in row 0"),
    ("preds", {"scores": WRONG([])}, r"scores: expected 1 numbers, got shape \[0\]"),
    ("preds", {"scores": [0.5]}, "scores: expected a tensor of numbers, got list"),
    ("preds", {"scores": WRONG([0.5j])}, "scores: expected a tensor of numbers, got torch.complex64"),
    ("preds", {"scores": None}, "scores: expected a tensor of numbers, got NoneType"),
    ("preds", {"labels": WRONG([])}, "labels: expected 1 integers, got none"),
    ("preds", {"labels": WRONG([2**53 + 1])}, "labels: expected integers from -9007199254740992 to 9007199254740992"),
    ("preds", {"labels": WRONG([2**63], dtype=torch.uint64)}, "labels: expected integers"),
    ("preds", {"boxes": WRONG([])}, "labels: expected one integer for each of the 0 rows"),
    (
        "preds",
        {"boxes": WRONG([[1, 2, torch.nan, 4]])},
        r"boxes: expected xyxy: left, .*, got \[1.0, 2.0, nan, 4.0\] in row",
    ),
    (
        "target",
        {"boxes": WRONG([[1, 2, torch.inf, 4]])},
        "boxes: expected xyxy: left, top, right and bottom, with right",
    ),
    (
        "target",
        {"boxes": WRONG([[3.0, 3, 1, 1]])},
        r"boxes: expected xyxy: left, .*, got \[3.0, 3.0, 1.0, 1.0\] in row 0",
    ),
    ("target", {"boxes": torch.zeros(1, 5)}, r"expected boxes of shape \[n, 4\], got \[1, 5\]"),
    ("target", {"iscrowd": WRONG([2])}, "iscrowd: expected 0 or 1, got 2 in row 0"),
    ("target", {"iscrowd": WRONG([torch.nan])}, "iscrowd: expected 0 or 1, got nan in row 0"),
    ("target", {"area": WRONG([-1.0])}, "area: expected finite numbers of at least 0, got -1 in row 0"),
    ("target", {"area": WRONG([torch.inf])}, "area: expected finite numbers of at least 0, got inf in row 0"),
    ("target", {"not_exhaustive": WRONG([0.5])}, "not_exhaustive: expected integers, got torch.float32"),
    ("target", {"negative": WRONG([[1]])}, "negative: expected one integer for each of the 1 rows"),
]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(("side", "change", "message"), FAULTS)
def test_a_fault_is_named_with_its_image_when_it_comes_and_its_batch_is_not_kept(side, change, message):
    metric, sides = LargeVocabularyAP(), {"preds": [ENTRY, dict(ENTRY)], "target": [ENTRY, dict(ENTRY)]}
    sides[side][1] |= change
    with pytest.raises(InputError, match=rf"^{side}\[1\]: {message}"):
        metric.update(**sides)
    assert metric.found == metric.counts == []


@pytest.mark.parametrize(("side", "key"), [("preds", "scores"), ("preds", "boxes"), ("target", "labels")])
def test_a_field_that_is_missing_is_named_with_its_image(side, key):
    sides = {"preds": [ENTRY, dict(ENTRY)], "target": [ENTRY, dict(ENTRY)]}
    del sides[side][1][key]
    with pytest.raises(InputError, match=rf"^{side}\[1\]: has no {key}"):
        LargeVocabularyAP().update(**sides)


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
def test_a_box_at_fault_is_shown_in_the_format_that_it_came_in(box_format):
    metric = LargeVocabularyAP(box_format=box_format)
    with pytest.raises(InputError, match=rf"{box_format}: .*width and height.* got \[9.0, 8.0, -2.0, 1.0\] in row 0"):
        update(metric, {"boxes": torch.tensor([[9.0, 8.0, -2.0, 1.0]])})


EMPTY = [
    torch.tensor([], dtype=dtype) for dtype in (torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool)
]
EMPTY += [torch.zeros(0, 4), torch.zeros(1, 0), torch.zeros(0, 0, 4)]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("nothing", EMPTY, ids=lambda x: f"{x.dtype} {list(x.shape)}")
def test_an_empty_tensor_of_any_shape_and_dtype_is_none(nothing):
    one = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    none = dict.fromkeys(("boxes", "labels", "scores", "iscrowd", "area", "negative", "not_exhaustive"), nothing)
    missed = {**one, "labels": torch.tensor([2])}
    values = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        pairs = [(one, one), (none, missed), ({**one, "scores": torch.tensor([0.5])}, none)]
        metric = LargeVocabularyAP()
        metric.update([pairs[i][0] for i in order], [pairs[i][1] for i in order])
        values.append({name: float(value) for name, value in metric.compute().items()})
    assert values[0] == values[1] == values[2]
    assert values[0]["ap_fixed"] == pytest.approx(0.5, abs=1e-12)  # 1 and 0


@pytest.mark.usefixtures("plain_shapes")
def test_arrays_in_any_order_type_and_none_at_all_are_taken():
    detections, truth = made(26)
    expected = ap_fixed(detections, truth).curves
    parts = [getattr(detections, name) for name in ("images", "labels", "scores", "boxes")]
    backwards = Detections(*(part[::-1].copy()[::-1] for part in parts))  # negative strides
    small = Detections(parts[0].astype(np.uint8), parts[1].astype(">u2"), *parts[2:])
    graph = Detections(parts[0], parts[1], torch.tensor(parts[2], requires_grad=True), parts[3])
    for one in (backwards, small, graph):
        np.testing.assert_array_equal(ap_fixed(one, truth).curves, expected)
    sets = replace(truth, groups={name: set(members) for name, members in GROUPS.items()})
    assert ap_fixed(detections, sets).groups == ap_fixed(detections, truth).groups
    none = Detections([], [], [], [])
    assert ap_fixed(none, Truth([], [], [], crowd=[], negative=[], known_images=[], classes=[])).value == -1


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("fit", [expected_calibration_error, *FITS])
@pytest.mark.parametrize(
    ("scores", "correct", "message"),
    [
        ([0.2, np.nan], [True, False], "scores: 1 of 2 numbers are NaN or infinite"),
        ([0.2, 1.5], [True, False], "scores: expected numbers from 0 to 1, got 1.5 in row 1"),
        ([-0.2, 0.5], [True, False], "scores: expected numbers from 0 to 1, got -0.2 in row 0"),
        ([0.2, 0.5], [True], r"correct: expected 2 of true and false, got bool of shape \[1\]"),
        ([0.2], [True, False], r"correct: expected 1 of true and false, got bool of shape \[2\]"),
        ([0.2, 0.5], [0.5, 0.5], "correct: expected 2 of true and false, got float64"),
        ([0.2, 0.5], [1.0, np.nan], "correct: expected 2 of true and false, got float64"),
        (["0.2", "0.5"], [True, False], "scores: expected numbers, got <U3"),
        ([[0.2, 0.5]], [True], r"scores: expected shape \[1\], got \[1, 2\]"),
        (0.5, True, "scores: "),
        ([], [], "scores: expected at least one, got none"),
    ],
)
def test_calibration_refuses_scores_that_are_none(fit, scores, correct, message):
    with pytest.raises(InputError, match=message):
        fit(np.array(scores), np.array(correct))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("wrong", [np.nan, 1.5, -0.5])
def test_a_fitted_map_refuses_scores_that_are_none(fit, wrong):
    with pytest.raises(InputError, match="scores: "):
        fit(SCORES, CORRECT)(np.array([0.5, wrong]))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("bins", [0, -1, 2.5, np.nan, "20", True])
def test_bins_are_a_whole_number(bins):
    for call in (fit_histogram, expected_calibration_error):
        with pytest.raises(InputError, match="bins: expected a whole number of at least 1"):
            call(SCORES, CORRECT, bins=bins)


# The claim.


def test_the_study_measures_what_it_says():
    found = study("simulated", 7, images=150, classes=12, max_dets=20, top=150)
    assert found["rarity fixed"] == 0
    assert found["rarity gain"] > 1
    assert found["pool gain"] > 1
    assert found["fixed change"] < 1e-9
    assert found["ece calibrated"] < found["ece"]
    assert found["top fixed room"] == pytest.approx(0.3 - found["top fixed"])
    assert found == study("simulated", 7, images=150, classes=12, max_dets=20, top=150)
    assert found["capped r"] != study("simulated", 8, images=150, classes=12, max_dets=20, top=150)["capped r"]
