"""Folders of images beside masks: every kind of mask, legends, splits and files at fault."""

import numpy as np
import pytest
import torch
from PIL import Image

from annotated import whole
from counterpoise.data.annotated_sources import annotated_files, load_annotated
from counterpoise.data.coco_folders import load_coco
from counterpoise.data.coco_writing import write_coco
from counterpoise.data.mask_folders import load_masks, read_legend
from counterpoise.errors import InputError


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
