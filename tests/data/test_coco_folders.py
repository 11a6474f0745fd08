"""Folders in COCO's format: what becomes of polygons, crowds, boxes and files at fault."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from annotated import whole
from counterpoise.data.annotated_sources import annotated_files, load_annotated
from counterpoise.data.coco_folders import load_coco
from counterpoise.data.coco_writing import write_coco
from counterpoise.errors import InputError, MissingExtra


@pytest.fixture
def coco(tmp_path):
    """Two images with an object each in one square, and a third without; `change` alters the annotations."""

    def make(change=lambda content: None):
        generator = torch.Generator().manual_seed(0)
        for name in ("a", "b", "c"):
            pixels = torch.randint(256, (20, 30, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / f"{name}.png")
        square = {"category_id": 3, "bbox": [10, 5, 10, 10], "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]}
        content = {
            "images": [
                {"id": i, "file_name": f"{name}.png", "height": 20, "width": 30} for i, name in enumerate("abc")
            ],
            "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "ash"}],
            "annotations": [{"id": 7 + i, "image_id": i, **square} for i in range(2)],
        }
        change(content)
        (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return make


def test_polygons_become_masks_boxes_and_maps(coco):
    both = whole(load_coco(coco(), 20))
    assert both.classes == ("ash", "cat")
    assert both.paths == ("a.png", "b.png", "c.png")
    assert both.boxes.tolist() == [[5, 5, 15, 15]] * 2
    assert both.labels.tolist() == [1, 1]
    expected = torch.zeros(20, 20, dtype=torch.uint8)
    expected[5:15, 5:15] = 2
    assert torch.equal(both.maps, torch.stack([expected, expected, torch.zeros_like(expected)]))
    assert both.original_sizes.tolist() == [[20, 30]] * 3
    theirs = np.asarray(Image.open(coco() / "b.png"))[:, 5:25]
    assert np.array_equal(both.pixels[1].permute(1, 2, 0).numpy(), theirs)


def test_of_two_masks_the_smaller_is_in_front(coco):
    def change(content):
        first = content["annotations"][0]
        inner = {"category_id": 1, "bbox": [12, 7, 4, 4], "segmentation": [[12, 7, 16, 7, 16, 11, 12, 11]]}
        content["annotations"].insert(0, {**first, "id": 50, **inner})
        first["segmentation"] = [[10, 5, 20, 5, 20, 15, 10, 15]]

    with pytest.warns(UserWarning, match="1 objects are partly covered by smaller ones"):
        both = whole(load_coco(coco(change), 20))
    assert both.objects(torch.tensor([0])).areas.tolist() == [16, 84]
    assert both.maps[0].flatten().bincount().tolist() == [300, 16, 84]


def test_a_crowd_is_no_object_and_its_pixels_are_not_labelled(coco):
    def change(content):
        crowd = {"size": [20, 30], "counts": [10 * 20, 3 * 20, 17 * 20]}  # columns 10 to 12
        content["annotations"].append(
            {"id": 1, "image_id": 0, "category_id": 3, "bbox": [10, 0, 3, 20], "iscrowd": 1, "segmentation": crowd}
        )

    with pytest.warns(UserWarning, match="1 crowds are no objects; their pixels are not labelled"):
        both = whole(load_coco(coco(change), 20))
    assert both.object_counts.tolist() == [1, 1, 0]
    assert (both.maps[0][:, 5:8] == 255).sum() == 3 * 10
    assert (both.maps[0] == 2).sum() == 100


def test_an_object_without_a_mask_has_its_box_whose_pixels_are_not_labelled(coco):
    def change(content):
        content["annotations"][0]["segmentation"] = []
        del content["annotations"][1]["segmentation"]

    both = whole(load_coco(coco(change), 20))
    assert both.areas.tolist() == [0, 0]
    assert both.instances is None
    assert (both.maps[0, 5:15, 5:15] == 255).all()
    assert (both.maps[0] == 0).sum() == 300
    assert both.labelled.all()


@pytest.mark.filterwarnings("ignore:.*left out")
def test_objects_outside_of_the_square_and_boxes_without_area_are_left_out_and_counted(coco):
    def change(content):
        content["annotations"][0] |= {"bbox": [0, 0, 4, 4], "segmentation": []}
        content["annotations"][1]["bbox"] = [12, 5, 0, 4]
        content["images"][0]["relations"] = [[7, "on", 7]]
        content["images"][0]["domain"] = "day"
        content["annotations"][0]["depth"] = 1

    with pytest.warns(UserWarning, match="2 objects have no pixel in the square images") as said:
        both = whole(load_coco(coco(change), 20))
    assert len(both.labels) == 0
    assert not both.maps.any()
    text = "\n".join(str(one.message) for one in said)
    assert "1 relations are of objects that are left out" in text
    assert "1 properties are left out, since not everything has a word or a whole number there: domain" in text


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
