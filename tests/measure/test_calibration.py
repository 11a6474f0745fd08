import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from counterpoise.errors import InputError
from counterpoise.measure.ap_pool import ap_fixed, ap_pool
from counterpoise.measure.calibration import (
    Calibration,
    calibrate,
    calibration_errors,
    expected_calibration_error,
    fit_beta,
    fit_histogram,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import match
from detections import GROUPS, HALF, OBJECT, ONE, ROW, made, only

# Calibration.

SCORES, LEVELS = np.random.default_rng(0).random((2, 3000))
CORRECT = 1 / (1 + np.exp(-(1.7 * np.log(SCORES / (1 - SCORES)) - 1.2))) > LEVELS
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


@pytest.mark.parametrize("method", ["histogram", "isotonic", "platt"])
def test_one_map_for_all_categories_or_for_each_group(method):
    detections, truth = made(33, found=600, grid=False)
    matched = match(detections, truth, np.array([0.75])).matched[:, 0]
    fit = dict(zip(("histogram", "isotonic", "platt", "beta", "temperature"), FITS, strict=True))[method]
    overall = calibrate(detections, truth, method, grouping="overall")
    np.testing.assert_array_equal(
        overall(detections).scores, fit(detections.scores, matched)(detections.scores).clip(0, 1)
    )
    unseen = replace(ONE, labels=np.array([99]))
    assert overall(unseen).scores == fit(detections.scores, matched)(unseen.scores)
    grouped = calibrate(detections, truth, method, grouping="group")
    for members in GROUPS.values():
        rows = np.isin(detections.labels, members)
        expected = fit(detections.scores[rows], matched[rows])(detections.scores[rows])
        np.testing.assert_allclose(grouped(detections).scores[rows], expected)
    assert grouped(unseen).scores == 0
    kept = calibrate(detections, truth, method, otherwise="keep", grouping="group")
    assert kept(unseen).scores == unseen.scores
    np.testing.assert_array_equal(kept(detections).scores, grouped(detections).scores)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(overall))(detections).scores, overall(detections).scores)


def test_groupings_of_one_category_are_one():
    detections, truth = made(34, found=600, grid=False)
    detections, truth = only(detections, detections.labels == 4), only(truth, truth.labels == 4)
    found = [calibrate(detections, truth, grouping=g)(detections).scores for g in ("class", "group", "overall")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_one_map_for_all_leaves_the_order_of_all():
    """A rising map of all scores changes neither measure; one for each group changes the pool, and no category."""
    detections, truth = made(35, found=600, grid=False)
    train, train_truth = made(36, found=600, grid=False)
    overall = calibrate(train, train_truth, "platt", grouping="overall")(detections)
    grouped = calibrate(train, train_truth, "platt", grouping="group")(detections)
    np.testing.assert_array_equal(ap_pool(overall, truth).curves, ap_pool(detections, truth).curves)
    assert abs(ap_pool(grouped, truth).value - ap_pool(detections, truth).value) > 1e-4
    np.testing.assert_array_equal(ap_fixed(grouped, truth).curves, ap_fixed(detections, truth).curves)


def test_groups_and_all_without_a_correct_detection():
    detections, truth = made(37, grid=False)
    nothing = replace(truth, boxes=truth.boxes + 1000.0)
    for grouping in ("group", "overall"):
        assert (calibrate(detections, nothing, grouping=grouping)(detections).scores == 0).all()
        kept = calibrate(detections, nothing, otherwise="keep", grouping=grouping)(detections)
        np.testing.assert_array_equal(kept.scores, detections.scores)


def test_a_category_without_detections_apart_from_one_with_wrong_ones():
    """In training, category 3 has wrong detections alone, 2 has none; both are of one group."""
    detections, truth = made(38, found=900, grid=False)
    truth = replace(truth, groups={"a": [0, 2, 3], "b": [1, 4]})
    train, seen = only(detections, detections.labels != 2), only(truth, truth.labels != 3)
    two, three = detections.labels == 2, detections.labels == 3

    def found(**choices):
        return calibrate(train, seen, **choices)(detections).scores

    group = found(otherwise="group")
    assert (group[three] > 0).any()
    values = {"zero": np.zeros(len(detections)), "keep": detections.scores, "group": group}
    for otherwise, wrong in values.items():
        for missing, none in values.items():
            scores = found(otherwise=otherwise, missing=missing)
            np.testing.assert_array_equal(scores[three], wrong[three])
            np.testing.assert_array_equal(scores[two], none[two])
            np.testing.assert_array_equal(scores[~(two | three)], group[~(two | three)])
        np.testing.assert_array_equal(found(otherwise=otherwise), found(otherwise=otherwise, missing=otherwise))


def test_calibration_error_of_the_higher_scores():
    detections, truth = made(39, found=600, grid=False)
    high = calibration_errors(detections, truth, min_score=0.3)
    expected = calibration_errors(only(detections, detections.scores > 0.3), truth)
    assert high.overall != calibration_errors(detections, truth).overall
    # Matching goes by descending score, so that those left out change nothing of the others.
    assert high.overall == pytest.approx(expected.overall)
    assert high.per_class == pytest.approx(expected.per_class)


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
    rng = np.random.default_rng(1)
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


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate(ONE, OBJECT, iou=np.nan), "iou: expected a number above 0 and of at most 1, got nan"),
        (lambda: calibrate(ONE, OBJECT, method=3), "method '3' is not known"),
        (lambda: Calibration({}, "kep"), "did you mean 'keep'"),
        (lambda: calibrate(ONE, OBJECT, "isotonc"), "did you mean 'isotonic'"),
        (lambda: calibrate(ONE, OBJECT, otherwise="zeroo"), "did you mean 'zero'"),
        (lambda: calibrate(ONE, OBJECT, grouping="clas"), "did you mean 'class'"),
        (lambda: calibrate(ONE, OBJECT, missing="keeep"), "did you mean 'keep'"),
        (
            lambda: calibrate(ONE, OBJECT, grouping="group", missing="keep"),
            "missing: expected it with grouping 'class'",
        ),
        (lambda: Calibration({}, 3), "otherwise '3' is not known"),
        (
            lambda: calibration_errors(ONE, OBJECT, min_score=1),
            "min_score: expected a number of at least 0 and below 1",
        ),
        (lambda: calibrate(ONE, OBJECT, iou=75), "iou: expected a number above 0 and of at most 1, got 75"),
        (lambda: expected_calibration_error(HALF[:0], ROW[:0] > 0), "scores: expected at least one, got none"),
        (lambda: expected_calibration_error(HALF, ROW > 0, 0), "bins: expected a whole number of at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
