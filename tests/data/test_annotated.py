"""Images with maps and objects: what a batch, a subset, a resized copy and files of two layouts keep of them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from annotated import COUNT, same, tiny
from counterpoise.data.annotated import Objects, hide_maps
from counterpoise.data.annotated_parts import join
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.framing import resized
from counterpoise.errors import InputError


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
        ({"factor_names": {"domain": ("day",)}}, "factor_names: factor 'domain' is not known"),
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
