"""Scenes: what belongs together in one, what differs between two, and what COCO's own reader makes of them."""

import json
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from counterpoise.commands.scenes import scenes
from counterpoise.data import load
from counterpoise.data.scenes import (
    COLOURS,
    DOMAINS,
    LARGER,
    PREDICATES,
    VISIBLE,
    Scenes,
    box_of,
    collate,
    find_relations,
)
from counterpoise.errors import InputError, MissingExtra
from counterpoise.measure.ap_pool import ap_fixed
from counterpoise.measure.detection import Detections, read_truth

COUNT = 60


@pytest.fixture(scope="module")
def some():
    made = Scenes(COUNT, most=7)
    return made, [made[i] for i in range(COUNT)]


def equal(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


def test_a_scene_depends_on_seed_and_index_alone(some):
    made, all_of_them = some
    again = Scenes(2 * COUNT, most=7)  # the length does not matter, nor the order
    for i in (COUNT - 1, 3, 0):
        assert equal(again[i], all_of_them[i])
    assert equal(made[-1], all_of_them[-1])
    assert not equal(Scenes(COUNT, most=7, seed=1)[3], all_of_them[3])
    assert not equal(Scenes(COUNT, "test", most=7)[3], all_of_them[3])
    assert len({scene.image.numpy().tobytes() for scene in all_of_them}) == COUNT
    with pytest.raises(IndexError, match="scene 60 of 60"):
        made[COUNT]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(some, workers):
    made, all_of_them = some
    batches = list(DataLoader(made, batch_size=16, num_workers=workers, collate_fn=collate))
    assert torch.equal(torch.cat([batch.image for batch in batches]), torch.stack([s.image for s in all_of_them]))
    for name in ("masks", "shapes", "boxes", "labels", "colours"):
        expected = torch.cat([getattr(s, name) for s in all_of_them])
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), expected)
    assert [c for batch in batches for c in batch.captions] == [s.caption for s in all_of_them]


def test_a_batch_keeps_apart_what_belongs_to_each_scene(some):
    few = some[1][:9]
    batch = collate(few)
    for i, scene in enumerate(few):
        own = (batch.scene == i).nonzero().flatten()
        assert torch.equal(batch.boxes[own], scene.boxes)
        mine = batch.relations[torch.isin(batch.relations[:, 0], own)]
        assert torch.equal(mine - own[0] * torch.tensor([1, 0, 1]), scene.relations)


def test_every_pixel_belongs_to_the_object_in_front(some):
    for scene in some[1]:
        assert 1 <= len(scene.masks) <= 7
        seen = torch.zeros_like(scene.masks[0])
        for mask, shape in zip(scene.masks, scene.shapes, strict=True):
            assert torch.equal(mask, shape & ~seen)
            assert mask.sum() >= VISIBLE * shape.sum()
            seen |= shape
        assert torch.equal(scene.instances > 0, seen)
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            assert (scene.semantic[mask] == label + 1).all()
        assert torch.equal(scene.semantic > 0, seen)


def test_boxes_are_tight(some):
    for scene in some[1]:
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes.tolist(), strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum()
            for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
                assert edge.any()


def test_relations_are_those_that_hold(some):
    """Found again pair by pair, from boxes and shapes."""
    kinds = set()
    for scene in some[1]:
        n, boxes = len(scene.boxes), scene.boxes.tolist()
        expected = set()
        for i, j in [(i, j) for i in range(n) for j in range(n) if i != j]:
            (left, top, right, bottom), (left2, top2, right2, bottom2) = boxes[i], boxes[j]
            covers = bool((scene.shapes[i] & scene.shapes[j]).any())
            holds = {
                "left of": right <= left2,
                "right of": right2 <= left,
                "above": bottom <= top2,
                "below": bottom2 <= top,
                "in front of": covers and i < j,
                "behind": covers and j < i,
            }
            expected |= {(i, PREDICATES.index(name), j) for name, held in holds.items() if held}
        found = {tuple(row) for row in scene.relations.tolist()}
        sizes = {row for row in found if PREDICATES[row[1]] in ("larger than", "smaller than")}
        assert found - sizes == expected
        assert {(o, p ^ 1, s) for s, p, o in found} == found  # each has its inverse
        kinds |= {p for _, p, _ in found}
    assert kinds == set(range(len(PREDICATES)))


def test_larger_is_judged_by_the_side():
    shapes, boxes = np.zeros((3, 2, 2), dtype=bool), np.zeros((3, 4), dtype=int)
    boxes[:, 2:] = 5  # none beside another
    found = find_relations(shapes, boxes, np.array([10, round(10 * LARGER), 11]))
    named = {(int(s), PREDICATES[p], int(o)) for s, p, o in found}
    assert named == {(1, "larger than", 0), (0, "smaller than", 1)}


def test_captions_name_what_is_there(some):
    made, all_of_them = some
    words = {"day": "by day", "night": "at night", "dusk": "at dusk", "fog": "in fog"}
    for scene in all_of_them:
        for label, colour in zip(scene.labels, scene.colours, strict=True):
            assert f"{list(COLOURS)[colour]} {made.classes[label]}" in scene.caption
        assert scene.caption.endswith(words[scene.domain])


@pytest.mark.slow
def test_domains_show_the_same_scene_in_another_light():
    day, night, fog = (Scenes(5, domain=name)[2] for name in ("day", "night", "fog"))
    assert torch.equal(day.masks, night.masks)
    assert night.image.float().mean() < 0.6 * day.image.float().mean()
    assert fog.image.float().std() < 0.7 * day.image.float().std()
    assert {Scenes(40)[i].domain for i in range(40)} == set(DOMAINS)


def test_objects_have_their_colour():
    scene = Scenes(3, domain="day", least=1, most=1)[0]
    paint = torch.tensor(list(COLOURS.values())[scene.colours[0]]).float()
    pixels = scene.image[:, scene.masks[0]].float()
    brightest = pixels[:, pixels.sum(0).argmax()]
    assert torch.nn.functional.cosine_similarity(brightest, paint, dim=0) > 0.99


def test_train_and_test_share_no_sprite():
    splits = load("fashion-mnist")
    for split in ("train", "test"):
        assert np.array_equal(Scenes(5, split).sprites, getattr(splits, split).pixels[:, 0].numpy())


def test_held_out_combinations_are_seen_in_test_alone():
    def seen(split):
        made = Scenes(150, split, held_out=0.25)
        all_of_them = [made[i] for i in range(150)]
        return {(int(y), int(c)) for s in all_of_them for y, c in zip(s.labels, s.colours, strict=True)}, made.held_out

    (train, held_out), (test, same) = seen("train"), seen("test")
    assert held_out == same
    assert len(held_out) == 2 * 10
    assert not train & held_out
    assert test & held_out


def test_other_sprites_and_sizes():
    made = Scenes(3, sprites="mnist", size=96)
    assert made[0].image.shape == (3, 96, 96)
    assert made.classes == tuple("0123456789")


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count: expected a whole number of at least 1"),
        ({"count": 2.5}, "count: expected a whole number of at least 1, got 2.5"),
        ({"count": "3"}, "count: expected a whole number of at least 1, got '3'"),
        ({"size": 16}, "size: expected a whole number of at least 32"),
        ({"size": float("nan")}, "size: expected a whole number of at least 32, got nan"),
        ({"least": 0}, "least: expected a whole number of at least 1, got 0"),
        ({"least": 1.5}, "least: expected a whole number of at least 1, got 1.5"),
        ({"least": 4, "most": 3}, "most: expected a whole number of at least 4"),
        ({"most": True}, "most: expected a whole number of at least 3, got True"),
        ({"seed": -1}, "seed: expected a whole number of at least 0 and of at most"),
        ({"seed": 2**62}, "seed: expected a whole number of at least 0 and of at most"),
        ({"seed": 0.5}, "seed: expected a whole number of at least 0"),
        ({"held_out": float("nan")}, "held_out: expected a number of at least 0 and of at most 0.875, got nan"),
        ({"held_out": "0.5"}, "held_out: expected a number of at least 0 and of at most 0.875, got '0.5'"),
        ({"domain": 3}, "domain '3' is not known"),
        ({"domain": "nigth"}, "domain 'nigth' is not known; did you mean 'night'"),
        ({"split": "tset"}, "split 'tset' is not known"),
        ({"held_out": 1.0}, "held_out: expected a number of at least 0 and of at most 0.875"),
        ({"sprites": "fashion-mnits"}, "did you mean 'fashion-mnist'"),
    ],
)
def test_what_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Scenes(**{"count": 3, **wrong})


def test_coco_s_own_reader_finds_masks_boxes_and_classes(tmp_path):
    from pycocotools.coco import COCO

    path = scenes(str(tmp_path / "out"), count=5, seed=2)
    coco, made = COCO(path), Scenes(5, seed=2)
    assert len(coco.getImgIds()) == 5
    for i in range(5):
        scene, info = made[i], coco.loadImgs(i)[0]
        assert (tmp_path / "out" / info["file_name"]).exists()
        assert (info["caption"], info["domain"]) == (scene.caption, scene.domain)
        annotations = sorted(coco.loadAnns(coco.getAnnIds(i)), key=lambda one: one["depth"])
        for annotation, mask, box, label in zip(annotations, scene.masks, scene.boxes, scene.labels, strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask.numpy())
            left, top, width, height = annotation["bbox"]
            assert [left, top, left + width, top + height] == box.tolist()
            assert coco.loadCats(annotation["category_id"])[0]["name"] == made.classes[label]
        numbers = [annotation["id"] for annotation in annotations]
        named = {(numbers.index(s), PREDICATES.index(p), numbers.index(o)) for s, p, o in info["relations"]}
        assert named == {tuple(row) for row in scene.relations.tolist()}
    assert json.loads(path.read_text())["categories"][0] == {"id": 1, "name": "T-shirt/top"}


def contents(folder):
    """The files that a user sees, and what is in them."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".counterpoise"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_our_own_reader_finds_what_was_written(tmp_path):
    path = scenes(str(tmp_path), count=4, seed=2)
    made = Scenes(4, seed=2)
    for masks in (False, True):
        truth = read_truth(path, masks=masks)
        assert len(truth) == sum(len(made[i].labels) for i in range(4))
        found = Detections(truth.images, truth.labels, np.ones(len(truth)), truth.boxes, truth.masks)
        assert ap_fixed(found, truth).value == pytest.approx(1, abs=1e-12)


def test_a_later_call_leaves_no_image_of_an_earlier_one(tmp_path):
    for count, seed, folder in ((5, 0, "out"), (2, 1, "out"), (2, 1, "fresh")):
        scenes(str(tmp_path / folder), count=count, seed=seed)
    found = contents(tmp_path / "out")
    assert found == contents(tmp_path / "fresh")
    listed = [image["file_name"] for image in json.loads(found["annotations.json"])["images"]]
    assert sorted(found) == ["annotations.json", *listed]


def test_a_folder_that_holds_what_a_user_made_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000001.png").write_bytes(b"a user's own")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds what counterpoise did not write \(images\)"):
        scenes(str(tmp_path), count=2)
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["images/000001.png", "images/000004.png", "annotations.json"])
def test_what_a_user_changed_or_added_under_a_name_of_ours_is_refused_and_left(tmp_path, name):
    """000004 is one that no call has written, and that the second call would not write either."""
    scenes(str(tmp_path), count=3)
    (tmp_path / name).write_bytes(b"a user's own")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"{name}: was not written by counterpoise or was changed since"):
        scenes(str(tmp_path), count=3, seed=1)
    assert contents(tmp_path) == before


def test_other_files_in_our_folder_are_left(tmp_path):
    scenes(str(tmp_path), count=3)
    mine = {"notes.txt": b"read", "images/cat.png": b"a cat"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    scenes(str(tmp_path), count=1)
    assert {name: content for name, content in contents(tmp_path).items() if name in mine} == mine


@pytest.mark.parametrize("again", [0, 1])
def test_a_call_that_was_stopped_is_begun_again_and_its_images_are_never_those_of_other_annotations(
    tmp_path, monkeypatch, again
):
    scenes(str(tmp_path), count=4, seed=again)

    def stop(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return whole(self, index)

    whole = Scenes.__getitem__
    monkeypatch.setattr(Scenes, "__getitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        scenes(str(tmp_path), count=4, seed=1)
    monkeypatch.undo()
    assert sorted(contents(tmp_path)) == ["images/000000.png", "images/000001.png"]
    scenes(str(tmp_path), count=4, seed=1)
    scenes(str(tmp_path / "fresh"), count=4, seed=1)
    fresh = contents(tmp_path / "fresh")
    assert {name: content for name, content in contents(tmp_path).items() if not name.startswith("fresh")} == fresh


def test_nothing_is_collated_from_no_scenes_and_boxed_in_an_empty_mask():
    with pytest.raises(InputError, match="scenes: expected at least one"):
        collate([])
    with pytest.raises(InputError, match="mask: expected at least one pixel"):
        box_of(np.zeros((2, 2), dtype=bool))


def test_without_pycocotools_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtra, match=r"pip install 'counterpoise\[coco\]'"):
        scenes(str(tmp_path), count=1)
