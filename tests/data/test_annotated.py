"""Images with maps and objects: what a batch, a subset, a resized copy and files of two layouts keep of them."""

import json
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from counterpoise.commands.scenes import scenes
from counterpoise.data.annotated import Annotated, Objects, divided, from_scenes, hide_maps, join, ragged
from counterpoise.data.annotated_sources import annotated_files, is_annotated, load_annotated
from counterpoise.data.coco_folders import load_coco
from counterpoise.data.coco_writing import write_coco
from counterpoise.data.framing import Frame, resized
from counterpoise.data.mask_folders import load_masks, read_legend
from counterpoise.data.scenes import COLOURS, DOMAINS, PREDICATES, Scenes
from counterpoise.errors import InputError, MissingExtra

COUNT, SIDE = 24, 40


@pytest.fixture(scope="module")
def made():
    return Scenes(COUNT, size=SIDE, most=7)


@pytest.fixture(scope="module")
def data(made):
    return from_scenes(made)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same(a, b, but=()):
    """Whether two hold the same images, maps and objects."""
    fields = ("pixels", "maps", "image", "labels", "boxes", "instances", "relations")
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields if name not in but)
    words = ("classes", "predicates", "captions", "attribute_names", "factor_names")
    assert [getattr(a, name) for name in words] == [getattr(b, name) for name in words]
    for kind in ("attributes", "factors"):
        ours, theirs = getattr(a, kind), getattr(b, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def whole(splits):
    """The images of both parts in the order of their files."""
    both = join(splits)
    return both.subset(torch.tensor(sorted(range(len(both)), key=lambda i: both.paths[i])))


def tiny(filled=(), side=8, **fields):
    """One grey image of one class with objects that have these boxes, each filled by its mask."""
    instances = torch.zeros(1, side, side, dtype=torch.uint8)
    for i, (left, top, right, bottom) in enumerate(filled):
        instances[0, top:bottom, left:right] = i + 1
    count = len(filled)
    given = {
        "pixels": torch.zeros(1, 1, side, side, dtype=torch.uint8),
        "maps": (instances > 0).byte(),
        "classes": ("cat",),
        "name": "tiny",
        "image": torch.zeros(count, dtype=torch.int64),
        "labels": torch.zeros(count, dtype=torch.int64),
        "boxes": torch.tensor(filled, dtype=torch.int64).view(count, 4),
        "instances": instances,
    }
    return Annotated(**{**given, **fields})


# The data set


def test_scenes_are_kept_as_they_are_made(made, data):
    assert len(data) == COUNT
    for i in range(COUNT):
        scene, found = made[i], data.objects(torch.tensor([i]))
        assert torch.equal(data.pixels[i], scene.image)
        assert torch.equal(data.maps[i].long(), scene.semantic)
        assert torch.equal(found.masks, scene.masks)
        assert torch.equal(found.areas, scene.masks.sum((1, 2)))
        for ours, theirs in zip(
            (found.boxes, found.labels, found.attributes["colour"], found.relations),
            (scene.boxes, scene.labels, scene.colours, scene.relations),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
        assert found.attributes["depth"].tolist() == list(range(len(scene.labels)))
        assert data.captions[i] == scene.caption
        assert data.factor_names["domain"][data.factors["domain"][i]] == scene.domain
    assert data.predicates == PREDICATES
    assert data.attribute_names == {"colour": tuple(COLOURS)}
    assert data.factor_names == {"domain": tuple(DOMAINS)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_pixels_maps_and_index_and_objects_where_they_are_asked_for(data, workers):
    loader = DataLoader(
        replace(data, with_objects=True), batch_size=7, num_workers=workers, collate_fn=lambda batch: batch
    )
    for pixels, maps, index, objects in loader:
        assert torch.equal(pixels, data.pixels[index])
        assert torch.equal(maps, data.maps[index])
        assert isinstance(objects, Objects)
        assert torch.equal(objects.image.bincount(minlength=len(index)), data.object_counts[index])
    assert len(data.__getitems__([0, 1])) == 3
    pixels, semantic, index = data[-1]
    assert index == COUNT - 1
    assert torch.equal(semantic, data.maps[-1])
    assert len(replace(data, with_objects=True)[2][3].labels) == data.object_counts[2]
    with pytest.raises(IndexError, match="image 24 of 24"):
        data[COUNT]


def test_objects_of_any_images_in_any_order_are_those_of_each_image(data):
    index = torch.tensor([5, 0, 5, 17])
    found = data.objects(index)
    for place, i in enumerate(index.tolist()):
        own, alone = (found.image == place).nonzero().flatten(), data.objects(torch.tensor([i]))
        for name in ("labels", "boxes", "areas", "numbers", "masks"):
            assert torch.equal(getattr(found, name)[own], getattr(alone, name))
        assert torch.equal(found.attributes["colour"][own], alone.attributes["colour"])
        mine = found.relations[torch.isin(found.relations[:, 0], own)]
        assert torch.equal(mine - own[0] * torch.tensor([1, 0, 1]), alone.relations)


def test_a_subset_of_a_subset_is_the_subset_of_both(data):
    first, second = torch.tensor([9, 3, 3, 20, 1]), torch.tensor([3, 0, 2])
    same(data.subset(first).subset(second), data.subset(first[second]))
    same(data.rows(4, 9), data.subset(torch.arange(4, 9)))
    assert data.subset(second, "three").notes == (*data.notes, "three")
    assert len(data.subset(torch.zeros(0, dtype=torch.int64))) == 0


def test_counts_are_of_images_and_pixels(data, made):
    kept = [made[i] for i in range(COUNT)]
    expected = [sum(bool((scene.labels == label).any()) for scene in kept) for label in range(10)]
    assert data.counts().tolist() == expected
    pixels = torch.stack([scene.semantic for scene in kept]).flatten().bincount(minlength=11)
    assert torch.equal(data.pixel_counts(), pixels)
    only_maps = replace(tiny(), maps=torch.ones(1, 8, 8, dtype=torch.int32))
    assert only_maps.counts().tolist() == [1]
    assert tiny(((0, 0, 1, 1),), maps=torch.full((1, 8, 8), 255)).counts().tolist() == [1]


def test_erased_classes_have_neither_pixels_nor_objects_nor_relations(data):
    gone = data.classes[3], data.classes[7]
    for value in (0, 255):
        left = data.erase_classes(gone, value)
        hidden = (data.maps == 4) | (data.maps == 8)
        assert torch.equal(left.maps[~hidden], data.maps[~hidden])
        assert (left.maps[hidden] == value).all()
        assert torch.equal(left.instances > 0, (data.instances > 0) & ~hidden)
        assert torch.equal(left.labels, data.labels[(data.labels != 3) & (data.labels != 7)])
        ends = data.labels[data.relations[:, [0, 2]]]
        kept = ~((ends == 3) | (ends == 7)).any(1)
        assert torch.equal(left.labels[left.relations[:, [0, 2]]], ends[kept])
        assert left.classes == data.classes


def test_chosen_classes_are_numbered_in_their_order(data):
    chosen = (data.classes[7], data.classes[3])
    few = data.of_classes(chosen)
    assert few.classes == chosen
    assert torch.equal(few.maps == 1, data.maps == 8)
    assert torch.equal(few.maps == 2, data.maps == 4)
    for i in range(COUNT):
        found = few.objects(torch.tensor([i]))
        for mask, label, area in zip(found.masks, found.labels, found.areas, strict=True):
            assert (few.maps[i][mask] == label + 1).all()
            assert mask.sum() == area > 0


def test_hidden_images_have_no_annotations_and_a_larger_share_hides_more(data):
    def seen(share):
        return hide_maps(data, share, torch.Generator().manual_seed(3))[0].labelled

    made, note = hide_maps(data, 0.75, torch.Generator().manual_seed(3))
    hidden = ~made.labelled
    assert note == "18 of 24 maps taken away"
    assert hidden.sum() == 18
    assert (made.maps[hidden] == 255).all()
    assert (made.object_counts[hidden] == 0).all()
    assert all(not made.captions[i] for i in hidden.nonzero().flatten().tolist())
    same(made.subset((~hidden).nonzero().flatten()), data.subset((~hidden).nonzero().flatten()))
    assert torch.equal(made.pixels, data.pixels)
    assert not (seen(0.75) & ~seen(0.25)).any()
    assert seen(0).all()
    assert not seen(1).any()
    assert (data.maps != 255).any()  # the given ones stay as they are
    with pytest.raises(InputError, match="share: expected a number of at least 0 and of at most 1, got 2"):
        hide_maps(data, 2, torch.Generator())
    with pytest.raises(InputError, match="annotated: expected an image that is labelled"):
        hide_maps(hide_maps(data, 1, torch.Generator())[0], 0.5, torch.Generator())


def test_joined_parts_are_all_there(data):
    same(join([data.rows(0, 5), data.rows(5, COUNT)]), data)
    box = replace(tiny(((1, 1, 3, 3),)), instances=None)
    both = join([box, tiny(((0, 0, 2, 2), (4, 4, 5, 5)))])
    assert both.areas.tolist() == [0, 4, 1]
    with pytest.raises(InputError, match="expected the same classes, got those of 'scenes' and 'tiny'"):
        join([data, tiny()])
    other = replace(data, attribute_names={"colour": tuple(reversed(COLOURS))})
    with pytest.raises(InputError, match="the same names for the values of attribute 'colour'"):
        join([data, other])
    assert "colour" not in join([data, replace(data, attributes={}, attribute_names={})]).attributes
    with pytest.raises(InputError, match="expected images of one shape"):
        join([tiny(), tiny(side=9)])
    with pytest.raises(InputError, match="parts: expected at least one"):
        join([])


def test_the_division_is_of_all_images_and_by_the_seed(data):
    train, test = divided(data, 0)
    assert (len(train), len(test)) == (19, 5)
    assert sorted(train.captions + test.captions) == sorted(data.captions)
    assert divided(data, 1).test.captions != test.captions
    with pytest.raises(InputError, match="tiny: has a single image"):
        divided(tiny(), 0)


def test_plain_images_have_the_same_pixels_and_no_labels(data):
    images = data.images()
    assert images.pixels is data.pixels
    assert (images.labels == -1).all()
    assert torch.equal(images.factors["domain"], data.factors["domain"])
    assert images.factor_names == data.factor_names != {}


def test_images_without_objects_with_one_of_one_pixel_and_with_many_are_data():
    empty = tiny()
    assert empty.objects(torch.tensor([0, 0])).masks.shape == (0, 8, 8)
    one = tiny(((3, 4, 4, 5),))
    assert one.areas.tolist() == [1]
    assert resized(one, 8) is one
    numbers = torch.arange(400)
    left, top = numbers % 20, numbers // 20
    many = tiny(
        side=20,
        image=torch.zeros(400, dtype=torch.int64),
        labels=torch.zeros(400, dtype=torch.int64),
        boxes=torch.stack([left, top, left + 1, top + 1], 1),
        instances=(numbers + 1).view(1, 20, 20).to(torch.int16),
        maps=torch.ones(1, 20, 20, dtype=torch.uint8),
    )
    assert (many.areas == 1).all()
    assert (many.subset(torch.tensor([0, 0])).areas == 1).all()
    few = many.keep_objects(numbers % 2 == 1)
    assert torch.equal(few.objects(torch.tensor([0])).masks, many.objects(torch.tensor([0])).masks[1::2])


def test_above_the_memory_limit_all_is_in_files_and_the_same(made, data, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    index, generator = torch.arange(COUNT).flip(0), torch.Generator()
    expected = [
        data,
        data.subset(index),
        resized(data, 24),
        join([data, data]),
        data.of_classes(data.classes[:4]),
        hide_maps(data, 0.5, generator.manual_seed(0))[0],
    ]
    monkeypatch.setattr("counterpoise.data.images.MEMORY_LIMIT", 1000)
    mapped = from_scenes(made)
    found = [
        mapped,
        mapped.subset(index),
        resized(mapped, 24),
        join([mapped, mapped]),
        mapped.of_classes(data.classes[:4]),
        hide_maps(mapped, 0.5, generator.manual_seed(0))[0],
    ]
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    assert (tmp_path / "cache").is_dir()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pixels": torch.zeros(1, 1, 8, 8)}, r"pixels: expected uint8 .* got torch.float32 of shape \[1, 1, 8, 8\]"),
        ({"maps": torch.full((1, 8, 8), 2)}, "maps: expected 0 to 1, for the background and 1 classes, or 255, got 2"),
        ({"maps": torch.full((1, 8, 8), -1)}, "maps: expected 0 to 1, .* got -1"),
        ({"maps": torch.zeros(1, 8, 9, dtype=torch.uint8)}, r"maps: expected integers of shape \[1, 8, 8\]"),
        ({"maps": torch.zeros(1, 8, 8)}, "maps: expected integers .* got torch.float32"),
        ({"classes": ("cat", "cat")}, "classes: expected names that differ, got 'cat' twice"),
        ({"classes": tuple(map(str, range(255)))}, "classes: expected at most 254, since 255 means not labelled"),
        ({"image": torch.tensor([0, 1])}, "image: expected integers from 0 to 0, got 1"),
        ({"labels": torch.tensor([0, 1])}, "labels: expected integers from 0 to 0, got 1"),
        ({"boxes": torch.tensor([[0, 0, 2, 2], [7, 0, 9, 2]])}, r"boxes: .* right ≤ 8 .* got \[7, 0, 9, 2\] of obj"),
        ({"boxes": torch.tensor([[0, 0, 2, 2], [4, 4, 4, 5]])}, r"boxes: expected left < right .* got \[4, 4, 4, 5\]"),
        ({"boxes": torch.tensor([[0, 0, 2, 2], [-1, 4, 4, 5]])}, r"boxes: .* all from 0, got \[-1, 4, 4, 5\]"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes: expected integers of shape \[2, 4\]"),
        ({"instances": torch.full((1, 8, 8), 3, dtype=torch.uint8)}, "instances: expected 0 to 2 in an image .* got 3"),
        ({"instances": torch.zeros(1, 8, 8, dtype=torch.int64)}, "instances: expected uint8 or int16"),
        ({"relations": torch.tensor([[0, 0, 2]]), "predicates": ("on",)}, "relations: object: .* from 0 to 1"),
        ({"relations": torch.tensor([[0, 0, 1]])}, "relations: predicate"),
        ({"relations": torch.tensor([0, 0, 1])}, "relations: expected rows of subject, predicate and object"),
        ({"captions": ("a", "b")}, "captions: expected one for each of the 1 images, got 2"),
        ({"attributes": {"colour": torch.tensor([0])}}, "attributes: colour: expected one integer for each of the 2"),
        ({"factors": {"domain": torch.tensor([0, 1])}}, "factors: domain: expected one integer for each of the 1"),
        ({"factor_names": {"domain": ("day",)}}, "factor_names: names the values of 'domain', which is not among"),
        ({"factors": {"domain": torch.tensor([1])}, "factor_names": {"domain": ("day",)}}, "from -1 to 0, got 1"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        tiny(((0, 0, 2, 2), (4, 4, 5, 5)), **wrong)


def test_objects_out_of_order_and_relations_across_images_are_refused(data):
    with pytest.raises(InputError, match="image: expected the objects in the order of their images"):
        replace(data, image=data.image.flip(0))
    with pytest.raises(InputError, match="relations: expected subject and object in one image"):
        replace(data, relations=torch.tensor([[0, 0, len(data.image) - 1]]))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: data.of_classes(["Cota"]), r"classes: expected names of classes \(T-shirt/top.*\), got Cota"),
        (lambda data: data.of_classes("Coat"), "classes: expected names .* got the text 'Coat'"),
        (lambda data: data.of_classes(["Coat", "Coat"]), "classes: expected each class once"),
        (lambda data: data.erase_classes(["Coat"], 7), "value: expected 0 for the background or 255"),
        (lambda data: data.subset(torch.tensor([COUNT])), "index: expected integers from 0 to 23, got 24"),
        (lambda data: data.objects(torch.tensor([0.5])), "index: expected integers, got torch.float32"),
        (lambda data: data.keep_objects(torch.ones(3)), "keep: expected a truth value for each"),
        (lambda data: resized(data, 0), "size: expected a whole number of at least 1, got 0"),
    ],
)
def test_calls_that_make_no_sense_are_refused(data, call, message):
    with pytest.raises(InputError, match=message):
        call(data)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16])
def test_lists_are_found_by_integers_of_every_type(dtype):
    starts, index = torch.tensor([0, 2, 2, 5]), torch.tensor([2, 1, 0])
    for found, expected in zip(ragged(starts.to(dtype), index.to(dtype)), ragged(starts, index), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("starts", "index", "message"),
    [
        ([0, 2, 2, 5], [3], "index: expected integers from 0 to 2, got 3"),
        ([0, 2, 2, 5], [0.5], "index: expected integers, got torch.float32"),
        ([0.0, 2.0], [0], "starts: expected integers, got torch.float32"),
        ([3, 1], [0], "starts: expected ascending numbers"),
    ],
)
def test_lists_that_are_none_are_refused(starts, index, message):
    with pytest.raises(InputError, match=message):
        ragged(torch.tensor(starts), torch.tensor(index))


# Sizes


def test_a_resized_copy_keeps_maps_masks_and_boxes_in_step(data):
    small = resized(data, 16)
    assert small.pixels.shape == (COUNT, 3, 16, 16)
    for i in range(COUNT):
        found = small.objects(torch.tensor([i]))
        for mask, label, (left, top, right, bottom) in zip(
            found.masks, found.labels, found.boxes.tolist(), strict=True
        ):
            assert (small.maps[i][mask] == label + 1).all()
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
    assert torch.equal(small.maps > 0, small.instances > 0)
    large = resized(data, 2 * SIDE)  # each pixel four times, each box twice as large
    assert torch.equal(large.maps, data.maps.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(large.boxes, 2 * data.boxes)
    assert torch.equal(large.areas, 4 * data.areas)
    assert torch.equal(large.relations, data.relations)


def test_of_a_long_image_the_middle_is_kept_and_objects_beside_it_go():
    pixels = torch.zeros(1, 1, 4, 12, dtype=torch.uint8)
    pixels[..., 4:8] = 200
    instances = torch.zeros(1, 4, 12, dtype=torch.uint8)
    instances[0, 1:3, 0:3], instances[0, 1:3, 6:11] = 1, 2
    long = Annotated(
        pixels, (instances > 0).byte(), ("cat",), "long", torch.tensor([0, 0]), torch.tensor([0, 0]),
        torch.tensor([[0, 1, 3, 3], [6, 1, 11, 3]]), instances, relations=torch.tensor([[1, 0, 0]]), predicates=("by",),
    )  # fmt: skip
    middle = resized(long, 4)
    assert (middle.pixels == 200).all()
    assert middle.boxes.tolist() == [[2, 1, 4, 3]]
    assert middle.instances[0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert len(middle.relations) == 0
    assert middle.notes == ("1 objects without a pixel at 4×4 left out",)


@pytest.mark.parametrize("shape", [(40, 40), (64, 48), (31, 90), (7, 5)])
@pytest.mark.parametrize("size", [1, 8, 33])
def test_maps_take_the_pixels_that_pillow_s_nearest_takes_of_the_same_middle(shape, size):
    from PIL import ImageOps

    values = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    theirs = np.asarray(ImageOps.fit(Image.fromarray(values), (size, size), Image.Resampling.NEAREST))
    rows, columns = (x.numpy() for x in Frame(*shape, size).samples())
    # Where a pixel's middle falls between two others, rounding decides in Pillow; here it is the one after.
    middles = (2 * np.arange(size) + 1) * min(shape)
    row_is_between, column_is_between = (((length - min(shape)) * size + middles) % (2 * size) == 0 for length in shape)
    clear = ~(row_is_between[:, None] | column_is_between) | (min(shape) % size == 0)  # which floats hold exactly
    assert clear.mean() > 0.5
    assert np.array_equal(values[rows[:, None], columns][clear], theirs[clear])


def test_a_box_holds_its_mask_at_every_size():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        height, width, size = torch.randint(1, 60, (3,), generator=generator).tolist()
        (left, right), (top, bottom) = (
            sorted(torch.randint(n + 1, (2,), generator=generator).tolist()) for n in (width, height)
        )
        frame = Frame(height, width, size)
        rows, columns = frame.samples()
        a, b, c, d = frame.boxes(torch.tensor([[left, top, right, bottom]]))[0].tolist()
        inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
        assert inside[b:d, a:c].sum() == inside.sum()


# COCO


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


# Masks


@pytest.fixture
def masked(tmp_path):
    """Images of 20×30 with masks of values 0 to 2, written by `save`."""
    folder = tmp_path / "set"

    def make(classes="background\ncat\ndog\n", names=("a", "b", "c"), save=Image.fromarray, place=folder):
        generator = torch.Generator().manual_seed(0)
        masks = {}
        for kind in ("images", "masks"):
            (place / kind).mkdir(parents=True)
        for name in names:
            pixels = torch.randint(256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
            masks[name] = torch.randint(3, (20, 30), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(place / "images" / f"{name}.png")
            save(masks[name]).save(place / "masks" / f"{name}.png")
        (folder / "classes.txt").write_text(classes, encoding="utf-8")
        return folder, masks

    return make


def palette(mask):
    image = Image.fromarray(mask, "P")
    image.putpalette([0, 0, 0, 128, 64, 128, 0, 0, 142])
    return image


def painted(mask):
    return Image.fromarray(np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142]], dtype=np.uint8)[mask])


def grey_rgb(mask):
    return Image.fromarray(np.repeat(mask[..., None], 3, 2))


COLOURS_OF = "background #000000\ncat #804080\ndog #00008e\n"


@pytest.mark.parametrize(
    ("save", "classes"),
    [
        (Image.fromarray, "background\ncat\ndog\n"),
        (palette, "background\ncat\ndog\n\n"),
        (lambda mask: Image.fromarray(mask.astype(np.uint16)), "\ufeffbackground\ncat\ndog"),
        (grey_rgb, "background\ncat\ndog"),
        (painted, COLOURS_OF),
        (palette, COLOURS_OF),
    ],
)
def test_masks_of_every_kind_become_the_same_maps(masked, save, classes):
    folder, masks = masked(classes, save=save)
    both = whole(load_masks(folder, 20))
    assert both.classes == ("cat", "dog")
    assert both.paths == ("images/a.png", "images/b.png", "images/c.png")
    for found, mask in zip(both.maps.numpy(), masks.values(), strict=True):
        assert np.array_equal(found, mask[:, 5:25])
    assert len(both.labels) == 0
    assert both.instances is None


def test_values_are_lines_whichever_is_background_or_not_labelled(masked):
    folder, masks = masked("cat\nvoid\ndog")
    with pytest.warns(UserWarning, match="classes.txt has no line 'background': every labelled pixel is of a class"):
        both = whole(load_masks(folder, 20))
    assert both.classes == ("cat", "dog")
    assert np.array_equal(both.maps[0].numpy(), np.array([1, 255, 2])[masks["a"][:, 5:25]])
    (folder / "classes.txt").write_text("cat\nBackground\ndog")
    assert np.array_equal(whole(load_masks(folder, 20)).maps[0].numpy(), np.array([1, 0, 2])[masks["a"][:, 5:25]])


def test_255_is_not_labelled_and_an_image_without_a_mask_is_kept(masked):
    folder, masks = masked()
    masks["b"][:4] = 255
    Image.fromarray(masks["b"]).save(folder / "masks" / "b.png")
    (folder / "masks" / "c.png").unlink()
    with pytest.warns(UserWarning, match=r"images without a mask, which are not labelled \(1\): images/c.png"):
        both = whole(load_masks(folder, 20))
    assert (both.maps[1, :4] == 255).all()
    assert (both.maps[2] == 255).all()
    assert both.labelled.tolist() == [True, True, False]


def test_splits_are_folders_above_or_inside(masked, tmp_path):
    folder = tmp_path / "set"
    for split, names in (("train", "ab"), ("val", "c")):
        masked(names=names, place=folder / split)
    above = load_annotated(folder, size=20)
    inside = tmp_path / "inside"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (inside / kind).mkdir(parents=True, exist_ok=True)
            (folder / split / kind).rename(inside / kind / split)
    (folder / "classes.txt").rename(inside / "classes.txt")
    for one, other in zip(above, load_annotated(inside, size=20), strict=True):
        assert torch.equal(one.maps, other.maps)
        assert torch.equal(one.pixels, other.pixels)
    assert [len(part) for part in above] == [2, 1]
    images = {f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("train/a", "train/b", "val/c")}
    assert {path.relative_to(inside).as_posix() for path in annotated_files(inside)} == {"classes.txt", *images}


def test_a_pair_of_which_one_file_is_truncated_is_left_out_counted_and_named(masked):
    folder, _ = masked(names="abcd")
    for path in (folder / "images" / "a.png", folder / "masks" / "c.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read") as said:
        both = whole(load_masks(folder, 20))
    assert both.paths == ("images/b.png", "images/d.png")
    assert both.unreadable == ("images/a.png", "masks/c.png")
    assert set(both.reasons.values()) == {"truncated: the file ends too early"}
    text = "\n".join(str(one.message) for one in said)
    assert "1 of 4 images cannot be read and are left out: images/a.png (truncated" in text
    assert "1 images whose mask cannot be read are left out: masks/c.png (truncated" in text


def write_mask(folder, values, name="a.png"):
    Image.fromarray(values).save(folder / "masks" / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "images" / "b.png").unlink(), r"1 masks have no image of their name in images/: masks/b.png"),
        (
            lambda f: write_mask(f, np.full((20, 30), 3, np.uint8)),
            r"a.png: has the value 3 at row 0, .* 0 to 2",
        ),
        (lambda f: write_mask(f, np.full((20, 30), 700, np.uint16)), r"a.png: has the value 700 at row 0"),
        (lambda f: write_mask(f, np.zeros((20, 20), np.uint8)), r"masks/a.png: has 20×20 pixels, its image 30×20"),
        (lambda f: write_mask(f, np.eye(3, dtype=np.uint8)[np.zeros((20, 30), int)]), "a.png: is in colour; write"),
        (lambda f: (f / "classes.txt").unlink(), "classes.txt: no such file; write one class a line"),
        (lambda f: (f / "classes.txt").write_text("background\n\ndog"), "line 2: expected the name of a class, got ''"),
        (lambda f: (f / "classes.txt").write_text("background\ndog #ff0000"), "expected a colour .* got 'background'"),
        (lambda f: (f / "classes.txt").write_text("a #ff0000\nb #FF0000"), "has the colour #ff0000 twice"),
        (lambda f: (f / "classes.txt").write_text("dog\ndog"), "expected names that differ, got 'dog' twice"),
        (lambda f: (f / "classes.txt").write_text("background"), "names no class"),
        (lambda f: (f / "classes.txt").write_bytes(b"\xff\xfe\x00"), "cannot be read as UTF-8 text"),
        (lambda f: (f / "classes.txt").write_text(COLOURS_OF), r"has the colour #010101 at row \d+, .* has 3 others"),
        (lambda f: write_mask(f, np.zeros((20, 30), np.uint8), "a.tif"), "a.png and a.tif have one name"),
        (lambda f: (f / "labels").mkdir(), r"has labels/ and masks/, expected one folder of images and one of masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_file(masked, change, message):
    folder, _ = masked()
    change(folder)
    with pytest.raises(InputError, match=message):
        load_masks(folder, 20)


def test_masks_of_0_and_255_alone_are_refused_and_read_by_colour(masked):
    folder, masks = masked("background\ncat", save=lambda mask: Image.fromarray((255 * (mask > 0)).astype(np.uint8)))
    with pytest.raises(InputError, match="its masks hold 0 and 255 alone, and 255 means not labelled"):
        load_masks(folder, 20)
    (folder / "classes.txt").write_text("background #000000\ncat #ffffff")
    assert np.array_equal(whole(load_masks(folder, 20)).maps[2].numpy(), masks["c"][:, 5:25] > 0)


def test_a_jpeg_is_no_mask(masked):
    folder, masks = masked()
    (folder / "masks" / "a.png").unlink()
    Image.fromarray(masks["a"]).save(folder / "masks" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg: a JPEG changes the values of a mask"):
        load_masks(folder, 20)


def test_masks_written_as_coco_read_back_the_same(masked, tmp_path):
    both = whole(load_masks(masked()[0], 20))
    write_coco(both, tmp_path / "out")
    again = whole(load_coco(tmp_path / "out", 20))
    assert torch.equal(again.maps, both.maps)
    assert torch.equal(again.pixels, both.pixels)
    assert again.classes == both.classes
    assert len(again.labels) == 0


def test_a_legend_of_the_largest_size_is_read(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(f"class {i}" for i in range(254)))
    assert read_legend(path).values.tolist() == list(range(1, 255))
    path.write_text("\n".join(f"class {i}" for i in range(255)))
    with pytest.raises(InputError, match="expected at most 254"):
        read_legend(path)


# Names


def test_scenes_by_name_are_those_of_their_options(tmp_path):
    train, test = load_annotated(
        "scenes:count=4:test=2:objects=2-4:size=32:sprites=mnist:domain=fog:held_out=0.5", seed=3
    )
    options = {"sprites": "mnist", "size": 32, "least": 2, "most": 4, "domain": "fog", "held_out": 0.5, "seed": 3}
    same(train, from_scenes(Scenes(4, **options)))
    same(test, from_scenes(Scenes(2, "test", **options)))
    small = load_annotated("scenes:count=2:size=32", size=24, classes=["Coat", "Bag"]).train
    assert small.pixels.shape == (2, 3, 24, 24)
    assert small.classes == ("Coat", "Bag")
    assert is_annotated("scenes")
    assert not is_annotated("mnist")
    assert not is_annotated(tmp_path)
    assert annotated_files("scenes:count=3") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:cout=3", "option of scenes 'cout' is not known; did you mean 'count'"),
        ("scenes:count=x", "scenes: count: expected a whole number, got 'x'"),
        ("scenes:count=3:count=4", "scenes: count is given twice"),
        ("scenes:count=3:held_out=y", "scenes: held_out: expected a number, got 'y'"),
        ("scenes:count=3:objects=5-2", "most: expected a whole number of at least 5"),
        ("nothing/there", "data: expected scenes, a folder or a JSON file, got 'nothing/there', which is not there"),
        (".", r"data: \. holds no annotations: expected annotations.json"),
    ],
)
def test_names_that_are_not_known_are_refused(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_annotated(spec)
