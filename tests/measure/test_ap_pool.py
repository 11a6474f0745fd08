from dataclasses import replace

import numpy as np
import pytest
import torch

import worlds
from counterpoise.errors import InputError
from counterpoise.measure.ap_pool import (
    LargeVocabularyAP,
    ap_fixed,
    ap_fixed_from_matches,
    ap_pool,
    ap_pool_from_matches,
)
from counterpoise.measure.average_precision import ap_image_cap, ap_image_cap_from_matches
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import THRESHOLDS, match
from detections import GROUPS, OBJECT, ONE, made, only, perfect

MEASURES = (ap_fixed, ap_pool, ap_image_cap)


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


@pytest.mark.slow
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


def plain_recall(detections, truth, members):
    """Recall of categories taken together, as the mean over thresholds, by plain loops."""
    ignored = truth.crowd if truth.ignored is None else truth.ignored
    expected = int((np.isin(truth.labels, members) & ~ignored).sum())
    found = []
    for threshold in THRESHOLDS:
        outcomes = plain_outcomes(detections, truth, threshold, range(len(detections)))
        found.append(sum(o[3] in members and o[-1] is True for o in outcomes) / expected)
    return np.mean(found)


@pytest.mark.parametrize("federated", [False, True])
def test_recalls_of_categories_and_pools_against_plain_loops(federated):
    detections, truth = made(32, federated=federated)
    fixed, pool = ap_fixed(detections, truth).recall, ap_pool(detections, truth).recall
    classes = {c: plain_recall(detections, truth, [c]) for c in range(5)}
    assert fixed.per_class == pytest.approx(classes)
    assert fixed.value == pytest.approx(np.mean(list(classes.values())))
    assert fixed.groups == pytest.approx({g: np.mean([classes[c] for c in m]) for g, m in GROUPS.items()})
    assert pool.value == pytest.approx(plain_recall(detections, truth, range(5)))
    assert pool.groups == pytest.approx({g: plain_recall(detections, truth, m) for g, m in GROUPS.items()})
    assert pool.per_class == {}
    assert pool.recalls.shape == (4, len(THRESHOLDS))


def test_the_metric_gives_recalls_where_they_are_asked_for():
    boxes, labels = torch.tensor([[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 29.0, 29.0]]), torch.tensor([3, 4])
    target = [{"boxes": boxes, "labels": labels}]
    preds = [{"boxes": boxes[:1], "labels": labels[:1], "scores": torch.tensor([0.7])}]
    found = {}
    for recall in (False, True):
        metric = LargeVocabularyAP(groups={"r": [3], "f": [4]}, recall=recall)
        metric.update(preds, target)
        found[recall] = {name: float(value) for name, value in metric.compute().items()}
    recalls = {name: value for name, value in found[True].items() if name.startswith("ar_")}
    assert {name: value for name, value in found[True].items() if name not in recalls} == found[False]
    names = ("ar_fixed", "ar_pool", "ar_image_cap")
    expected = {f"{name}{group}": value for name in names for group, value in (("", 0.5), (" r", 1.0), (" f", 0.0))}
    assert recalls == expected


@pytest.mark.parametrize("federated", [False, True])
def test_one_matching_serves_all_measures_and_caps(federated):
    detections, truth = made(27, federated=federated)
    matches = match(detections, truth)
    for from_matches, measure in (
        (ap_fixed_from_matches, ap_fixed),
        (ap_pool_from_matches, ap_pool),
        (ap_image_cap_from_matches, ap_image_cap),
    ):
        for cap in (2, 30):
            np.testing.assert_array_equal(from_matches(matches, cap).curves, measure(detections, truth, cap).curves)


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


ENTRY = {"boxes": torch.zeros(1, 4), "labels": torch.ones(1, dtype=torch.long), "scores": torch.zeros(1)}


def update(metric, pred=None, true=None):
    metric.update([{**ENTRY, **(pred or {})}], [{**ENTRY, **(true or {})}])


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ap_fixed(ONE, OBJECT, 2.5), "dets_per_class: expected a whole number of at least 1, got 2.5"),
        (lambda: ap_pool(ONE, OBJECT, "all"), "dets_per_class: expected a whole number of at least 1, got 'all'"),
        (lambda: ap_fixed(ONE, OBJECT, 0), "dets_per_class: expected a whole number of at least 1, got 0"),
        (lambda: LargeVocabularyAP(max_dets=0), "max_dets: expected a whole number of at least 1"),
        (lambda: LargeVocabularyAP(box_format="xyhw"), "did you mean 'xywh'"),
        (
            lambda: LargeVocabularyAP().update([ENTRY], []),
            "preds and target: expected one of each for each image, got 1 and 0",
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
            "preds: expected a list with a dictionary for each image, got dict",
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
