"""Detections and objects in memory and from files: what is read, and what is refused."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from counterpoise.errors import InputError, MissingExtra
from counterpoise.measure.ap_pool import ap_fixed, ap_pool
from counterpoise.measure.average_precision import (
    ap_image_cap,
)
from counterpoise.measure.detection import Detections, Truth, frequency_groups, read_detections, read_truth
from detections import BOX, GROUPS, HALF, ROW, coco_json, cocoeval, made, results_json

MEASURES = (ap_fixed, ap_pool, ap_image_cap)


def test_frequency_groups_are_those_of_lvis():
    groups = frequency_groups({7: 1, 1: 9, 2: 10, 3: 99, 4: 100, 5: 10**6})
    assert groups == {"r": [7, 1], "c": [2, 3], "f": [4, 5]}


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
        (lambda: frequency_groups({0: -1}), "counts: 0: expected a whole number of at least 0, got -1"),
        (lambda: frequency_groups({0: 1.5}), "counts: 0: expected a whole number of at least 0, got 1.5"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.usefixtures("plain_shapes")
def test_lists_and_tensors_are_welcome():
    detections, truth = made(2)
    lists = Detections(*(getattr(detections, name).tolist() for name in ("images", "labels", "scores", "boxes")))
    names = ("images", "labels", "boxes", "areas", "crowd")
    tensors = Truth(**{name: torch.tensor(getattr(truth, name)) for name in names}, classes=list(range(5)))
    np.testing.assert_array_equal(ap_fixed(lists, tensors).curves, ap_fixed(detections, truth).curves)


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
