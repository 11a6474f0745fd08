"""Files of COCO and LVIS as people have them: each is read as pycocotools reads it, or refused by file and entry."""

import contextlib
import io
import json

import numpy as np
import pytest

from counterpoise.data.coco import runs_of
from counterpoise.errors import InputError
from counterpoise.measure.average_precision import ap_image_cap
from counterpoise.measure.detection import read_detections, read_truth

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
TRIANGLE = [[12, 10, 30, 10, 30, 33]]
RUNS = {"size": [50, 50], "counts": [510, 20, 30, 20, 30, 20, 1870]}


def compressed(shape):
    from pycocotools import mask

    made = mask.frPyObjects(shape, 50, 50)
    made = mask.merge(made) if isinstance(made, list) else made
    return {"size": made["size"], "counts": made["counts"].decode()}


@pytest.fixture
def files(tmp_path):
    """Two images with a square of one category each, both of which are found; `change` alters the two files."""

    def make(change=lambda truth, found: None):
        one = {"category_id": 1, "bbox": [10, 10, 20, 20]}
        truth = {
            "images": [{"id": i, "height": 50, "width": 50} for i in (1, 2)],
            "categories": [{"id": 1, "name": "ash"}],
            "annotations": [
                {"id": i, "image_id": i, "area": 400, "iscrowd": 0, "segmentation": SQUARE, **one} for i in (1, 2)
            ],
        }
        found = [{"image_id": i, "score": 0.9, "segmentation": compressed(SQUARE), **one} for i in (1, 2)]
        change(truth, found)
        paths = tmp_path / "truth.json", tmp_path / "found.json"
        for path, content in zip(paths, (truth, found), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        return paths

    return make


def value(paths, masks=False):
    truth = read_truth(paths[0], masks=masks)
    return ap_image_cap(read_detections(paths[1], truth, masks=masks), truth, 100, per_class=True).value


def theirs(paths, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(paths[0])
        judge = COCOeval(coco, coco.loadRes(str(paths[1])), kind)
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [100], [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    return precision[precision > -1].mean()


def an_id(part, **change):
    """Another id for the first image or category, in all places."""

    def alter(truth, found):
        (name, number), *_ = change.items()
        truth[part][0]["id"] = number
        for one in (*truth["annotations"], *found):
            if one[name] == 1:
                one[name] = number

    return alter


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), -5, 0])
@pytest.mark.parametrize(("part", "name"), [("images", "image_id"), ("categories", "category_id")])
def test_ids_of_64_bits_are_kept_apart(files, part, name, number):
    paths = files(an_id(part, **{name: number}))
    assert value(paths) == pytest.approx(1, abs=1e-12)
    assert value(paths) == pytest.approx(theirs(paths, "bbox"), abs=1e-12)


def test_neighbouring_ids_that_are_equal_as_float64_are_two(files):
    def alter(truth, found):
        for part in (truth["images"], *([one] for one in (*truth["annotations"], *found))):
            for one in part:
                name = "id" if "height" in one else "image_id"
                one[name] += 2**62
        found[1]["bbox"] = [0, 0, 5, 5]

    assert value(files(alter)) == pytest.approx(51 / 101, abs=1e-12)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**70, -(2**63) - 1, 10**400])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n: an_id("images", image_id=n),
            r"truth\.json: images\[0\]: expected an integer of at most 64 bits as id",
        ),
        (
            lambda n: an_id("categories", category_id=n),
            r"categories\[0\]: expected an integer of at most 64 bits as id",
        ),
        (
            lambda n: lambda t, f: t["annotations"][1].update(id=n),
            r"annotations\[1\]: expected an integer of at most 64",
        ),
        (
            lambda n: lambda t, f: f[1].update(image_id=n),
            r"found\.json: \[1\]: expected an integer of at most 64 bits as",
        ),
        (
            lambda n: lambda t, f: t["images"][0].update(neg_category_ids=[n], not_exhaustive_category_ids=[]),
            r"images\[0\]: expected integers in neg_category_ids",
        ),
    ],
)
def test_ids_beyond_64_bits_are_refused(files, change, number, message):
    with pytest.raises(InputError, match=message) as error:
        value(files(change(number)))
    assert len(str(error.value)) < 300


HUGE = 10**400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, f: f[0].update(score=HUGE), r"found\.json: \[0\]: expected a number as score, got 1000"),
        (
            lambda t, f: f[0].update(bbox=[HUGE, 1, 1, 1]),
            r"found\.json: \[0\]: expected left, top, width and height as",
        ),
        (
            lambda t, f: f[0].update(bbox=[1, 1, 1e200, 1]),
            r"found\.json: \[0\]: expected left, top, width and height as",
        ),
        (
            lambda t, f: f[0].update(bbox=[True, 1, 1, 1]),
            r"found\.json: \[0\]: expected left, top, width and height as",
        ),
        (lambda t, f: f[0].update(bbox=None), r"found\.json: \[0\]: expected a list as bbox, got null"),
        (
            lambda t, f: t["annotations"][1].update(bbox=[HUGE, 1, 1, 1]),
            r"truth\.json: annotations\[1\]: expected left",
        ),
        (lambda t, f: t["annotations"][1].update(bbox=[]), r"truth\.json: annotations\[1\]: expected left, top"),
        (lambda t, f: t["annotations"][1].update(bbox=["1"] * 4), r"truth\.json: annotations\[1\]: expected left, top"),
        (lambda t, f: t["annotations"][1].update(area=HUGE), r"annotations\[1\]: expected a number as area, got 1000"),
        (lambda t, f: t["annotations"][1].update(area=-1), r"annotations\[1\]: expected an area of at least 0, got -1"),
        (lambda t, f: t["annotations"][1].update(area=None), r"annotations\[1\]: expected a number as area, got null"),
        (
            lambda t, f: t["annotations"][1].update(category_id=7),
            r"category_id 7 is not in the annotations' categories",
        ),
        (lambda t, f: t["annotations"][1].update(image_id=7), r"\[1\]: image_id 7 is not in the annotations' images"),
        (lambda t, f: t["annotations"][1].update(image_id=1.0), r"\[1\]: expected an integer .* as image_id, got 1.0"),
        (lambda t, f: t.update(categories=None), r"truth\.json: expected a list as categories, got null"),
        (lambda t, f: t["images"].__setitem__(0, []), r"truth\.json: images\[0\]: expected an object, got a list"),
        (lambda t, f: t["images"][0].pop("id"), r"truth\.json: images\[0\]: has no id"),
        (lambda t, f: f[1].pop("image_id"), r"found\.json: \[1\]: has no image_id"),
    ],
)
def test_a_number_at_fault_is_named_by_file_and_entry(files, change, message):
    with pytest.raises(InputError, match=message) as error:
        value(files(change))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("part", ["images", "categories", "annotations"])
def test_an_id_that_is_there_twice_is_refused(files, part):
    """pycocotools takes the last one for both."""

    def repeat(truth, found):
        truth[part] = [*truth[part], dict(truth[part][0])]

    with pytest.raises(InputError, match=rf"{part}\[\d\]: id 1 is also that of {part}\[0\]; give each its own"):
        value(files(repeat))


def test_annotations_need_no_id_of_their_own(files):
    def drop(truth, found):
        for one in truth["annotations"]:
            del one["id"]

    assert value(files(drop)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("flag", [0, 1, False, True, 0.0, 1.0])
def test_a_crowd_is_read_as_pycocotools_does(files, flag):
    def mark(truth, found):
        truth["annotations"][0]["iscrowd"] = flag
        found[1]["bbox"] = [12, 12, 20, 20]

    paths = files(mark)
    assert value(paths) == pytest.approx(theirs(paths, "bbox"), abs=1e-12)


@pytest.mark.parametrize("flag", ["0", "1", "false", 2, -1, 0.5, None, []])
@pytest.mark.parametrize("federated", [False, True])
def test_a_flag_that_is_not_0_or_1_is_refused(files, flag, federated):
    """A text of "0" was taken for a crowd, which is not looked for."""
    name = "ignore" if federated else "iscrowd"

    def mark(truth, found):
        truth["annotations"][1][name] = flag
        for one in truth["images"] if federated else ():
            one.update(neg_category_ids=[], not_exhaustive_category_ids=[])

    with pytest.raises(InputError, match=rf"truth\.json: annotations\[1\]: expected 0 or 1 as {name}, got "):
        value(files(mark))


@pytest.mark.parametrize(
    ("truth_shape", "found_shape"),
    [
        (SQUARE, compressed(TRIANGLE)),
        (TRIANGLE, compressed(SQUARE)),
        ([*TRIANGLE, *SQUARE], compressed(SQUARE)),
        ([*TRIANGLE, [1, 1, 40, 40]], compressed(SQUARE)),  # a part of two points covers nothing
        (RUNS, compressed(SQUARE)),
        (compressed(TRIANGLE), compressed(SQUARE)),
        ([[10.5, 10.2, 30.7, 10, 80, 70, -20, 30]], compressed(SQUARE)),  # in part outside of the image
        ([[5, 5, 5, 5, 5, 5]], compressed(SQUARE)),  # covers nothing, and so is not found
    ],
)
def test_masks_are_read_as_pycocotools_does(files, truth_shape, found_shape):
    def shapes(truth, found):
        truth["annotations"][0]["segmentation"], found[0]["segmentation"] = truth_shape, found_shape
        for one in found:
            del one["bbox"]  # by which pycocotools would take them for boxes

    paths = files(shapes)
    assert value(paths, masks=True) == pytest.approx(theirs(paths, "segm"), abs=1e-12)


def test_parts_of_two_points_are_passed_over_wherever_they_stand(files):
    """pycocotools fails where the first is one, which it takes for a box."""
    first, last = (
        files(lambda truth, found, parts=parts: truth["annotations"][0].update(segmentation=parts))
        for parts in ([[1, 1, 40, 40], *TRIANGLE], TRIANGLE)
    )
    assert value(first, masks=True) == value(last, masks=True)


def test_uncompressed_runs_in_results_are_compressed(files):
    packed = files(lambda truth, found: found[0].update(segmentation=compressed(RUNS)))
    expected = value(packed, masks=True)
    plain = files(lambda truth, found: found[0].update(segmentation=RUNS))
    assert value(plain, masks=True) == expected
    assert 0 < expected < 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([[10, 10, 30, 10]], "covers nothing: expected polygons of 3 points or more, got 2"),
        ([[10, 10], [10, 10, 30, 10]], "covers nothing: expected polygons of 3 points or more, got 1, 2"),
        ([], "covers nothing: expected polygons of 3 points or more, got no polygon"),
        ([[]], "covers nothing: expected polygons of 3 points or more, got 0"),
        (
            [[10, 10, 30, 10, 30, 30, 10]],
            "neither RLE nor polygons: expected x, y of each point in turn, got 7 numbers",
        ),
        ([10, 10, 30, 10, 30, 30], "expected x, y of each point in turn, got 10"),
        ([["10", 10, 30, 10, 30, 30]], "expected x, y of each point in turn, got 6 numbers"),
        ([[float("nan"), 10, 30, 10, 30, 30]], "expected x, y of each point in turn"),
        ([[10**12, 10, 30, 10, 30, 30]], "expected x, y of each point in turn"),
        ([[HUGE, 10, 30, 10, 30, 30]], "expected x, y of each point in turn"),
        ("510,20", "expected a segmentation as RLE or polygons, got a string"),
        (None, "expected a segmentation as RLE or polygons, got null"),
        ({}, "segmentation: expected height and width above 0, of fewer than 2^32 pixels, got null"),
        ({"size": [50], "counts": [2500]}, r"expected height and width above 0, .*, got \[50\]"),
        ({"size": [50, 0], "counts": [0]}, r"expected height and width above 0, .*, got \[50, 0\]"),
        ({"size": [2**20, 2**20], "counts": [2**40]}, "expected height and width above 0, of fewer than 2.32 pixels"),
        ({"size": [40, 40], "counts": [1600]}, r"its segmentation has the size \[40, 40\], its image \[50, 50\]"),
        ({"size": [50, 50]}, "has malformed counts, expected runs of 2,500 pixels in all"),
        ({"size": [50, 50], "counts": [2499]}, "has malformed counts"),
        ({"size": [50, 50], "counts": [2600, -100]}, "has malformed counts"),
        ({"size": [50, 50], "counts": [2500.0]}, "has malformed counts"),
        ({"size": [50, 50], "counts": "abc"}, "has malformed counts"),
        ({"size": [50, 50], "counts": ""}, "has malformed counts"),
        ({"size": [50, 50], "counts": "1"}, "has malformed counts"),
        ({"size": [50, 50], "counts": "é"}, "has malformed counts"),
    ],
)
def test_a_mask_at_fault_is_named(files, shape, message):
    where = r"truth\.json: annotations\[1\]: .*"
    with pytest.raises(InputError, match=where + message.replace("^", r"\^")):
        read_truth(files(lambda t, f: t["annotations"][1].update(segmentation=shape))[0], masks=True)
    if isinstance(shape, dict):  # pycocotools reads on in memory, or answers with a mask that is not there
        with pytest.raises(InputError, match=r"found\.json: \[1\]: .*" + message.replace("^", r"\^")):
            value(files(lambda t, f: f[1].update(segmentation=shape)), masks=True)


@pytest.mark.parametrize("height", [0, -50, 2**40, 50.0, "50", None])
def test_the_height_of_an_image_is_checked_where_polygons_need_it(files, height):
    paths = files(lambda truth, found: truth["images"][0].update(height=height))
    with pytest.raises(InputError, match=r"truth\.json: images\[0\]: expected (an integer|height and width)"):
        read_truth(paths[0], masks=True)
    assert value(paths) == pytest.approx(1, abs=1e-12)  # boxes do not


def test_runs_are_what_pycocotools_packs():
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for _ in range(200):
        size = rng.integers(1, 300, 2).tolist()
        cuts = np.sort(rng.choice(size[0] * size[1] + 1, min(9, size[0] * size[1]), replace=False))
        runs = np.diff(np.concatenate([[0], cuts, [size[0] * size[1]]])).tolist()
        packed = mask.frPyObjects({"size": size, "counts": runs}, *size)
        assert runs_of(packed["counts"].decode()) == runs


def test_a_file_with_a_byte_order_mark_is_read_and_one_with_endless_digits_is_named(files):
    paths = files()
    for path in paths:
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert value(paths) == pytest.approx(1, abs=1e-12)
    paths[1].write_text("[" + "9" * 100_000 + "]", encoding="utf-8")
    with pytest.raises(InputError, match=r"found\.json: "):
        value(paths)


def test_results_and_annotations_mixed_up_are_named(files):
    truth, found = files()
    with pytest.raises(InputError, match=r"found\.json: expected an object with images, .* got a list"):
        read_truth(found)
    with pytest.raises(InputError, match=r"truth\.json: expected a list of detections, got an object"):
        read_detections(truth, read_truth(truth))
