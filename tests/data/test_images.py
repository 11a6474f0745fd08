"""The container that every other part takes its images from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from counterpoise.data import images as module
from counterpoise.data.images import Images, allocate, cache_folder, gather, joined
from counterpoise.errors import InputError

PIXELS = torch.arange(5 * 12, dtype=torch.uint8).view(5, 1, 3, 4)
LABELS = torch.tensor([0, 1, -1, 1, 1])


def make(**changes) -> Images:
    given = {"pixels": PIXELS, "labels": LABELS, "classes": ("cat", "dog"), "name": "pets"}
    return Images(**(given | changes))


def test_one_image_and_its_index():
    pixels, label, index = make()[3]
    assert torch.equal(pixels, PIXELS[3])
    assert (label, index) == (1, 3)
    assert make()[-1][1:] == (1, 4)
    with pytest.raises(IndexError):
        make()[5]


def test_a_loader_fetches_whole_batches():
    batches = list(DataLoader(make(), batch_size=2, collate_fn=lambda batch: batch))
    assert torch.equal(batches[1][0], PIXELS[2:4])
    assert batches[1][1].tolist() == [-1, 1]
    assert batches[2][2].tolist() == [4]


def test_counts_leave_out_the_unlabelled():
    assert make().counts().tolist() == [1, 3]
    assert make(labels=torch.full((5,), -1), classes=()).counts().tolist() == []


def test_subset_takes_everything_along():
    whole = make(paths=tuple("abcde"), original_sizes=torch.arange(10).view(5, 2), notes=("first",))
    part = whole.subset(torch.tensor([4, 0]), note="second")
    assert torch.equal(part.pixels, PIXELS[[4, 0]])
    assert part.labels.tolist() == [1, 0]
    assert part.paths == ("e", "a")
    assert part.original_sizes.tolist() == [[8, 9], [0, 1]]
    assert part.notes == ("first", "second")
    assert whole.notes == ("first",)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64])
def test_labels_and_factors_of_other_integers_are_taken(dtype):
    images = make(labels=torch.tensor([0, 1, 0, 1, 1]).to(dtype), factors={"tint": torch.arange(5).to(dtype)})
    assert images.labels.dtype == images.factors["tint"].dtype == torch.int64
    assert images.counts().tolist() == [2, 3]


def test_digests_go_along_with_their_images():
    digests, hashes = torch.arange(80, dtype=torch.uint8).view(5, 16), torch.arange(40, dtype=torch.uint8).view(5, 8)
    whole = make(digests=digests, hashes=hashes, value_range=(0, 9), reasons={"f.png": "empty file"})
    part = whole.subset(torch.tensor([4, 0]))
    assert torch.equal(part.digests, digests[[4, 0]])
    assert torch.equal(part.hashes, hashes[[4, 0]])
    assert (part.value_range, part.reasons) == ((0, 9), {"f.png": "empty file"})


def test_some_images_in_a_row_are_no_copy():
    whole = make(paths=tuple("abcde"), original_sizes=torch.arange(10).view(5, 2))
    part = whole.rows(1, 3)
    assert part.pixels.data_ptr() == whole.pixels[1].data_ptr()
    assert (part.labels.tolist(), part.paths, part.original_sizes.tolist()) == ([1, -1], ("b", "c"), [[2, 3], [4, 5]])


def test_grey_becomes_rgb_with_equal_channels():
    coloured = make().with_channels(3)
    assert coloured.pixels.shape == (5, 3, 3, 4)
    assert (coloured.pixels == PIXELS).all()
    assert coloured.with_channels(3) is coloured
    assert torch.equal(coloured.with_channels(1).pixels, make().pixels)
    with pytest.raises(InputError, match="channels: expected 1 or 3, got 2"):
        coloured.with_channels(2)


def test_grey_is_what_pillow_makes_of_colours():
    pixels = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ours = Images(pixels, torch.tensor([-1]), (), "x").with_channels(1).pixels[0, 0]
    theirs = torch.from_numpy(np.asarray(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L")).copy())
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": PIXELS.float()}, r"pixels: expected uint8 .*got torch.float32"),
        ({"pixels": PIXELS[:, 0]}, r"pixels: expected uint8 .*\[5, 3, 4\]"),
        ({"labels": LABELS[:4]}, "labels: expected one integer for each of the 5 rows"),
        ({"labels": LABELS + 1}, "labels: expected integers from -1 to 1, got 2"),
        ({"labels": LABELS - 1}, "labels: expected integers from -1 to 1, got -2"),
        ({"labels": LABELS.float()}, "labels: expected integers, got torch.float32"),
        ({"paths": ("a",)}, "paths: expected one for each of the 5 images, got 1"),
        ({"digests": torch.zeros(4, 16, dtype=torch.uint8)}, "digests: expected one for each of the 5 images, got 4"),
        ({"hashes": torch.zeros(6, 8, dtype=torch.uint8)}, "hashes: expected one for each of the 5 images, got 6"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_large_arrays_lie_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    index = torch.tensor([3, 1, 1])
    in_memory = gather(PIXELS, index)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(module, "MEMORY_LIMIT", 10)
    mapped = gather(PIXELS, index)
    assert torch.equal(mapped, in_memory)
    assert list((tmp_path / "cache").iterdir()) == []
    assert allocate((10,)).shape == (10,)


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"1000000000.0 GB are needed, .* GB are free; set COUNTERPOISE_CACHE"):
        cache_folder(room=10**18)


def test_a_cache_that_is_a_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        cache_folder()


def test_parts_are_joined_with_all_that_is_known_of_each_image():
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    whole = Images(
        pixels,
        torch.tensor([0, 1, -1, 0, 1]),
        ("cat", "dog"),
        "pets",
        notes=("rare",),
        paths=tuple("abcde"),
        original_sizes=torch.arange(10).view(5, 2),
        factors={"tint": torch.arange(5)},
    )
    parts = [
        whole.subset(torch.arange(*rows), note) for rows, note in (((0, 2), None), ((2, 5), "new"), ((5, 5), "new"))
    ]
    found = joined(parts)
    assert torch.equal(found.pixels, whole.pixels)
    assert torch.equal(found.labels, whole.labels)
    assert torch.equal(found.original_sizes, whole.original_sizes)
    assert torch.equal(found.factors["tint"], torch.arange(5))
    assert (found.paths, found.classes, found.notes) == (whole.paths, whole.classes, ("rare", "new"))
    assert joined([replace(parts[0], paths=None), parts[1]]).paths is None


def test_names_of_factors_go_along_with_their_images():
    named = make().with_factor("client", torch.tensor([0, 1, 1, -1, 0]), ["north", "south"])
    assert named.factor_names == {"client": ("north", "south")}
    for images in (
        named.subset(torch.tensor([3, 1])),
        named.with_channels(3),
        named.rows(0, 2),
        joined([named, named]),
    ):
        assert images.factor_names == named.factor_names
    assert joined([named, named]).factors["client"].tolist() == [0, 1, 1, -1, 0] * 2
    assert named.with_factor("client", torch.arange(5)).factor_names == {}
    assert named.without_factor("client").factors == named.without_factor("client").factor_names == {}
    assert named.without_factor("step") is named
    assert make().factor_names == {}


def test_a_factor_that_a_part_lacks_is_minus_one_there():
    named = make().with_factor("client", torch.zeros(5, dtype=torch.int64), ["north"])
    whole = joined([make(), named])
    assert whole.factors["client"].tolist() == [-1] * 5 + [0] * 5
    assert whole.factor_names == {"client": ("north",)}


def test_other_names_of_the_same_values_are_not_joined():
    zeros = torch.zeros(5, dtype=torch.int64)
    parts = [make().with_factor("client", zeros, names) for names in (["north"], ["south"])]
    with pytest.raises(InputError, match="the same names of the values of 'client' in all parts, got north and south"):
        joined(parts)


@pytest.mark.usefixtures("plain_shapes")
def test_names_that_do_not_fit_a_factor_are_refused():
    with pytest.raises(InputError, match="factor_names: factor 'client' is not known"):
        make(factor_names={"client": ("north",)})
    with pytest.raises(InputError, match="factors: client: expected integers from -1 to 0, got 1"):
        make().with_factor("client", torch.ones(5, dtype=torch.int64), ["north"])
