"""Folders in COCO's format: what becomes of polygons, crowds, boxes and files at fault."""

import json
import sys

import pytest

from annotated import whole
from counterpoise.data.annotated_sources import annotated_files, load_annotated
from counterpoise.data.coco_folders import load_coco
from counterpoise.data.coco_writing import write_coco
from counterpoise.errors import InputError, MissingExtra


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_truncated_and_a_missing_image_are_counted_and_named_with_their_objects(coco):
    def change(content):
        content["annotations"].append({**content["annotations"][0], "id": 90})

    folder = coco(change)
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:400])
    (folder / "d.png").write_bytes((folder / "b.png").read_bytes())
    with pytest.warns(UserWarning, match="cannot be read") as said:
        both = whole(load_coco(folder, 20))
    assert both.unreadable == ("a.png",)
    assert both.reasons == {"a.png": "truncated: the file ends too early"}
    assert both.paths == ("b.png", "c.png")
    text = "\n".join(str(one.message) for one in said)
    assert "1 of 3 images cannot be read and are left out: a.png (truncated: the file ends too early)" in text
    assert "2 objects are in images that cannot be read" in text
    assert "images that no annotations list are left out (1): d.png" in text


def test_splits_are_those_of_the_files_and_share_their_classes(coco, tmp_path):
    folder = coco()
    content = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations").mkdir()
    for split, numbers in (("train2017", [0, 2]), ("val2017", [1])):
        (folder / split).mkdir()
        for i in numbers:
            name = content["images"][i]["file_name"]
            (folder / name).rename(folder / split / name)
        part = {
            **content,
            "images": [content["images"][i] for i in numbers],
            "annotations": [one for one in content["annotations"] if one["image_id"] in numbers],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(part))
        (folder / "annotations" / f"captions_{split}.json").write_text("{}")
    (folder / "annotations.json").unlink()
    train, test = load_annotated(folder, size=20)
    assert (train.paths, test.paths) == (("a.png", "c.png"), ("b.png",))
    assert (train.object_counts.tolist(), test.object_counts.tolist()) == ([1, 0], [1])
    files = annotated_files(folder)
    assert {path.name for path in files} == {
        "instances_train2017.json", "instances_val2017.json", "a.png", "b.png", "c.png",
    }  # fmt: skip


def test_chosen_classes_are_kept_and_others_are_background(coco):
    def change(content):
        content["annotations"][0]["category_id"] = 1

    with pytest.warns(UserWarning, match="1 objects are of classes that were not chosen"):
        both = whole(load_annotated(coco(change), size=20, classes=["cat"]))
    assert both.classes == ("cat",)
    assert both.object_counts.tolist() == [0, 1, 0]
    assert not both.maps[0].any()


def first(content):
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c).update(image_id=9), r"annotations\[0\]: image_id 9 is not in the annotations' images"),
        (lambda c: first(c).update(category_id=9), r"annotations\[0\]: category_id 9 is not in the .* categories"),
        (lambda c: first(c).update(bbox=[25, 5, 10, 10]), r"annotations\[0\]: its bbox .* reaches out .* 30×20 pixels"),
        (lambda c: first(c).update(bbox=[-5, 5, 10, 10]), r"annotations\[0\]: its bbox .* reaches out"),
        (lambda c: first(c).pop("bbox"), r"annotations\[0\]: has no bbox"),
        (lambda c: first(c).update(segmentation=[[1, 2]]), r"annotations\[0\]: its segmentation covers nothing"),
        (lambda c: first(c).update(iscrowd=2), "expected 0 or 1 as iscrowd, got 2"),
        (lambda c: c["images"][0].update(height=21), r"a.png has 30×20 pixels .* the file says 30×21"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\]: expected the path of an image as file_name"),
        (lambda c: c["images"][0].update(relations=[[7, 7]]), r"images\[0\]: expected annotation, predicate and annot"),
        (lambda c: c["images"][0].update(relations=[[7, "on", 8]]), "relations: 8 is the id of no annotation of this"),
        (lambda c: c["images"][0].update(regions=[{"category_id": 9}]), r"regions\[0\]: category_id 9 is not in"),
        (lambda c: c["categories"][1].update(name="cat"), "two categories are called 'cat'"),
        (lambda c: c["categories"][1].pop("name"), r"categories\[1\]: has no name"),
        (lambda c: c["categories"].extend({"id": i, "name": str(i)} for i in range(9, 999)), "expected at most 254"),
        (lambda c: c.pop("images"), "has no images"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "holds no images"),
    ],
)
def test_files_that_are_malformed_are_refused_by_entry(coco, change, message):
    with pytest.raises(InputError, match=message):
        load_coco(coco(change), 20)


@pytest.mark.usefixtures("quiet")
def test_without_pycocotools_its_extra_is_named(coco, data, tmp_path, monkeypatch):
    folder = coco()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for call in (lambda: load_coco(folder, 20), lambda: write_coco(data, tmp_path / "out")):
        with pytest.raises(MissingExtra, match=r"pip install 'counterpoise\[coco\]'"):
            call()
    assert not (tmp_path / "out").exists()
