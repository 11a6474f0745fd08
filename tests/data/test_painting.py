"""What is drawn of annotations: polygons, crowds, boxes, and of two masks the one in front."""

import numpy as np
import pytest
import torch
from PIL import Image

from annotated import whole
from counterpoise.data.coco_folders import load_coco


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
