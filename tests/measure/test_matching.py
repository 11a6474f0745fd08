"""The matching: which object a detection takes, in parts and in rounds."""

from dataclasses import replace

import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.measure import matching
from counterpoise.measure.ap_pool import ap_fixed
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import box_iou, match
from detections import BOX, HALF, OBJECT, ONE, RLE, ROW, made


@pytest.mark.parametrize(("rows", "found"), [([0, 1], 2), ([1, 0], 1)])
def test_of_equal_overlaps_the_last_is_taken(rows, found):
    """The better detection overlaps both objects alike, the other only the one on the left."""
    objects = np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]])[rows]
    boxes = np.array([[2.0, 0, 10, 10], [0, 0, 10, 10]])
    both = np.ones(2, int)
    matches = match(Detections(both, both, np.array([0.9, 0.8]), boxes), Truth(both, both, objects))
    assert matches.matched[:, 0].sum() == found


def test_pairs_in_several_parts_are_the_same(monkeypatch):
    detections, truth = made(11)
    whole = ap_fixed(detections, truth).curves
    monkeypatch.setattr(matching, "PAIRS", 50)
    np.testing.assert_array_equal(ap_fixed(detections, truth).curves, whole)


def test_one_crowded_cell_is_matched_in_order():
    """Rounds as many as detections: 60 objects in a row, each found 5 times by boxes that fit worse and worse."""
    objects = np.column_stack([np.arange(60) * 12.0, np.zeros(60), np.full((60, 2), 10.0)])
    truth = Truth(np.zeros(60, int), np.zeros(60, int), objects)
    boxes = np.concatenate([objects + np.array([shift, 0, 0, 0]) for shift in range(5)])
    detections = Detections(np.zeros(300, int), np.zeros(300, int), np.linspace(1, 0, 300), boxes)
    assert match(detections, truth).matched.sum(0).tolist() == [60] * 10
    assert ap_fixed(detections, truth).value == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
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
        (lambda: box_iou(BOX, BOX[:, :3], ROW > 0), r"others: expected shape \[1, 4\], got \[1, 3\]"),
        (lambda: box_iou(-BOX, BOX, ROW > 0), "boxes: expected left, top, width and height"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
