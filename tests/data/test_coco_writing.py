"""Annotated images written in COCO's format, and read back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from annotated import COUNT, SIDE, same, tiny, whole
from counterpoise.commands.scenes import scenes
from counterpoise.data.annotated import hide_maps
from counterpoise.data.annotated_parts import join
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.annotated_sources import load_annotated
from counterpoise.data.coco_folders import load_coco
from counterpoise.data.coco_writing import write_coco
from counterpoise.data.scenes import Scenes
from counterpoise.errors import InputError


def test_what_is_written_reads_back_the_same(data, tmp_path):
    write_coco(data, tmp_path)
    same(whole(load_coco(tmp_path, SIDE)), data)


def test_hidden_maps_stuff_boxes_alone_and_factors_read_back_the_same(data, tmp_path):
    hidden = hide_maps(data, 0.5, torch.Generator().manual_seed(0))[0]
    maps = hidden.maps.clone()
    maps[:, :3] = 2  # pixels of a class that belong to no object, also over some that do
    maps[:, 3] = 255
    alone = hidden.labels % 2 == 0  # objects of which the box alone is known
    table = torch.cat([torch.zeros(1, dtype=torch.uint8), torch.arange(1, 256, dtype=torch.uint8)])
    instances = hidden.instances.clone()
    for i in range(COUNT):
        gone = hidden.objects(torch.tensor([i])).numbers[alone[hidden.image == i]]
        own = table.clone()
        own[gone] = 0
        instances[i] = own[instances[i].long()]
    written = replace(
        hidden,
        maps=maps,
        instances=instances,
        factors={**hidden.factors, "group": torch.arange(COUNT) - 3},
        notes=(),
    )
    assert (written.areas == 0).any()
    write_coco(written, tmp_path)
    same(whole(load_coco(tmp_path, SIDE)), written)


def test_pycocotools_reads_what_is_written(data, tmp_path):
    from pycocotools.coco import COCO

    coco = COCO(write_coco(data, tmp_path))
    for i in range(COUNT):
        found, annotations = data.objects(torch.tensor([i])), coco.loadAnns(coco.getAnnIds(i))
        assert all(
            np.array_equal(coco.annToMask(one), mask)
            for one, mask in zip(annotations, found.masks.numpy(), strict=True)
        )
        assert [one["area"] for one in annotations] == found.areas.tolist()


def test_what_the_command_scenes_writes_is_what_from_scenes_makes(made, data, tmp_path):
    scenes(str(tmp_path), count=COUNT, size=SIDE, most=7)
    same(whole(load_annotated(tmp_path, size=SIDE)), data)
    scenes(str(tmp_path / "both" / "train"), count=5, size=SIDE)
    scenes(str(tmp_path / "both" / "test"), count=3, size=SIDE, split="test")
    train, test = load_annotated(tmp_path / "both", size=SIDE)
    same(train, from_scenes(Scenes(5, size=SIDE)))
    same(test, from_scenes(Scenes(3, "test", size=SIDE)))


def test_a_folder_is_written_again_and_what_a_user_made_in_it_is_left(data, tmp_path):
    write_coco(data, tmp_path)
    (tmp_path / "images" / "mine.png").write_bytes(b"a user's own")
    write_coco(data.rows(0, 3), tmp_path)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
        "mine.png",
    ]
    (tmp_path / "images" / "000001.png").write_bytes(b"a user's own")
    with pytest.raises(InputError, match=r"000001.png: was not written by counterpoise or was changed since"):
        write_coco(data, tmp_path)
    assert (tmp_path / "images" / "000002.png").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.png").touch()
    with pytest.raises(InputError, match=r"holds what counterpoise did not write \(photo.png\)"):
        write_coco(data, other)
    with pytest.raises(InputError, match="expected images of 1 or 3 channels, got 2"):
        write_coco(replace(tiny(), pixels=torch.zeros(1, 2, 8, 8, dtype=torch.uint8)), tmp_path / "new")


def test_grey_images_are_written_and_read_as_grey(tmp_path):
    grey = join([tiny(((0, 0, 2, 2),)), tiny(((3, 3, 4, 4), (5, 5, 8, 8)))])
    grey = replace(grey, pixels=torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8))
    write_coco(grey, tmp_path)
    same(whole(load_coco(tmp_path, 8)), grey)
