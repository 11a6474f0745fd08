"""What a look at data finds, and the sheet of samples."""

import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from counterpoise.commands.data import show_data
from counterpoise.data import inspection, load
from counterpoise.data.images import Images, Splits
from counterpoise.data.inspection import (
    CELL,
    GAP,
    _drawable,
    _folded,
    contact_sheet,
    inspect_images,
    join_near,
    nearly_constant,
)
from counterpoise.data.sources import load_all
from counterpoise.errors import InputError
from pictures import folder_of, part, photo, shown


def test_counts_and_imbalance(rng):
    found = inspect_images(Splits(part(rng, [0, 0, 0, 1, -1]), part(rng, [1, 1])))
    assert found.counts == {"train": (3, 1), "test": (0, 2)}
    assert found.unlabelled == {"train": 1, "test": 0}
    assert found.rows() == [("cat", "3", "0"), ("dog", "1", "2"), ("(unlabelled)", "1", "0")]
    assert found.imbalance("train") == 3
    assert found.imbalance("test") == 1
    assert found.shape == (3, 6, 6)
    assert found.sizes == {"6×6": 7}


def test_data_without_labels(rng):
    found = inspect_images(Splits(part(rng, [-1, -1], ()), part(rng, [-1], ())))
    assert found.imbalance("train") is None
    assert found.rows() == [("(unlabelled)", "2", "1")]
    assert "–" in shown(found)


def test_duplicates_conflicts_and_leaks_are_distinguished(rng):
    train, test = part(rng, [0, 0, 0, 1, 1, 0, -1]), part(rng, [0, 1, 0])
    train.pixels[1] = train.pixels[0]  # a duplicate
    train.pixels[3] = train.pixels[2]  # a conflict
    test.pixels[0] = train.pixels[5]  # a leak
    test.pixels[2] = train.pixels[4]  # both
    train.pixels[6] = train.pixels[0]  # without a label, which is no other label
    found = inspect_images(Splits(train, test))
    assert found.duplicates == (("train[0]", "train[1]", "train[6]"),)
    assert found.conflicts == (("train[2]", "train[3]"), ("train[4]", "test[2]"))
    assert found.leaks == (("train[4]", "test[2]"), ("train[5]", "test[0]"))
    text = shown(found)
    both = "train[4] (dog) = test[2] (cat)"
    assert f"in train and in test: 2 images occur more than once: {both}, train[5] = test[0]\n" in text
    assert f"under different labels: 2 images occur more than once: train[2] (cat) = train[3] (dog), {both}\n" in text
    assert "duplicates: 1 images occur more than once: train[0] = train[1] = train[6]\n" in text


def changed_at_the_left(picture):
    changed = picture.copy()
    changed.paste("black", (0, 0, 8, picture.height))
    return changed


def test_duplicates_are_judged_on_whole_images(tmp_path):
    """What is learnt from is the middle, 72 of 96 pixels wide; it is the same in a and b."""
    first, second = photo(0), photo(1)
    pictures = {"x/a.png": first, "x/b.png": changed_at_the_left(first), "x/c.png": second, "y/d.bmp": second}
    others = {"test/x/e.png": photo(2), "test/y/f.png": photo(3)}
    found = inspect_images(folder_of(tmp_path, {f"train/{name}": image for name, image in pictures.items()} | others))
    assert found.alike == (inspection.Alike(("train/x/c.png", "train/y/d.bmp"), ("x", "y"), ("train", "train")),)
    assert (found.conflicts, found.leaks, found.duplicates) == ((("train/x/c.png", "train/y/d.bmp"),), (), ())


def test_images_that_look_alike_are_found_with_their_distance(tmp_path):
    pictures = {f"train/x/{i}.png": photo(i) for i in range(6)} | {f"train/y/{i}.png": photo(i) for i in range(6, 12)}
    pictures["test/x/smaller.jpg"] = photo(0).resize((80, 60))
    pictures["test/y/darker.png"] = photo(7).point(lambda value: value * 9 // 10)
    pictures["train/y/again.webp"] = photo(1)
    found = inspect_images(folder_of(tmp_path, pictures))
    assert found.alike == ()
    groups = {group.names: group for group in found.near}
    leak, darker = groups["train/x/0.png", "test/x/smaller.jpg"], groups["train/y/7.png", "test/y/darker.png"]
    conflict = groups["train/x/1.png", "train/y/again.webp"]
    assert len(groups) == 3
    assert (leak.leak, leak.conflict, darker.leak, conflict.leak, conflict.conflict) == (True, False, True, False, True)
    assert all(0 <= group.distance <= inspection.NEAR for group in found.near)
    text = shown(found)
    assert "nearly alike: 3 groups, 2 of them in train and in test, 1 under different labels: " in text
    assert f"train/x/1.png (x) ≈ train/y/again.webp (y) ({conflict.distance} of 64 bits)" in text


def test_copies_of_what_looks_alike_are_in_its_group_and_flat_images_in_none(tmp_path):
    flat = {f"train/x/flat{i}.png": Image.new("RGB", (40, 40), (i, 9, 9)) for i in range(2)}
    pictures = {
        "train/x/a.png": photo(0),
        "train/x/b.png": photo(0),
        "test/x/c.jpg": photo(0),
        "test/x/d.png": photo(1),
    }
    found = inspect_images(folder_of(tmp_path, pictures | flat))
    assert [group.names for group in found.near] == [("train/x/a.png", "train/x/b.png", "test/x/c.jpg")]
    assert found.duplicates == (("train/x/a.png", "train/x/b.png"),)


def test_of_small_images_it_is_not_judged_what_looks_alike(rng):
    found = inspect_images(part(rng, [0, 0]))
    assert (found.near, found.too_small) == ((), 2)
    assert "nearly alike: none (perceptual hashes that differ in at most 4 of 64 bits; not judged of 2 images" in shown(
        found
    )


def test_images_that_are_no_files_are_compared_by_their_pixels():
    pixels = torch.from_numpy(np.stack([np.asarray(photo(i, (40, 40))) for i in (0, 1, 0)])).permute(0, 3, 1, 2).clone()
    images = Images(pixels, torch.tensor([0, 0, 1]), ("cat", "dog"), "pets")
    assert inspect_images(images).conflicts == (("images[0]", "images[2]"),)
    images.pixels[2] = images.pixels[2] // 10 * 9
    found = inspect_images(images)
    assert found.conflicts == ()
    assert [group.names for group in found.near] == [("images[0]", "images[2]")]


def test_whole_images_are_hashed_where_they_are_looked_at_and_not_where_they_are_learnt_from(tmp_path, monkeypatch):
    names = {f"{split}/{kind}/{i}.png": photo(i) for i, split, kind in
             ((0, "train", "a"), (1, "train", "b"), (2, "test", "b"))}  # fmt: skip
    folder_of(tmp_path / "pets", {**names, "test/a/0.png": photo(0, size=(192, 144))})
    monkeypatch.chdir(tmp_path)
    found = show_data("pets", size=16)
    assert [alike.names for alike in found.near] == [("train/a/0.png", "test/a/0.png")]
    plain = load("pets", size=16)
    assert plain.train.hashes is plain.test.hashes is None
    assert plain.train.digests is not None
    assert inspect_images(plain).near == ()
    assert inspect_images(load("pets", size=16, hashes=True)).near == found.near
    assert load_all("pets", size=16).images.hashes is None
    assert len(load_all("pets", size=16, hashes=True).images.hashes) == 4


def joined_plainly(hashes):
    bits = np.unpackbits(hashes, axis=1).astype(int)
    near = (bits[:, None] != bits[None]).sum(2) <= inspection.NEAR
    groups, left = [], set(range(len(hashes)))
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = set(np.flatnonzero(near[sorted(new)].any(0)).tolist()) - group
        left -= group
        groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]


def hashes_with_neighbours(count, seed=0):
    """Random hashes; every second one is another one with some bits changed."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, 64), np.uint8)
    for row in range(1, count, 2):
        bits[row] = bits[rng.integers(row)]
        bits[row, rng.choice(64, rng.integers(0, 8), replace=False)] ^= 1
    return np.packbits(bits, 1)


def test_hashes_are_joined_as_all_pairs_say():
    hashes = hashes_with_neighbours(600)
    groups = join_near(hashes)
    assert [group for group, _ in groups] == joined_plainly(hashes)
    assert {distance for _, distance in groups} == {0, 1, 2, 3, 4}
    assert join_near(hashes[:0]) == []


def test_hashes_that_are_all_near_are_joined_in_parts(monkeypatch):
    monkeypatch.setattr(inspection, "MOST_PAIRS", 50)
    one = np.zeros((300, 64), np.uint8)
    one[np.arange(300), np.arange(300) % 64] = 1
    one[np.arange(300), np.arange(300) // 64 * 9] = 1
    other = hashes_with_neighbours(60)
    hashes = np.concatenate([np.packbits(one, 1), other])
    assert [group for group, _ in join_near(hashes)] == joined_plainly(hashes)


def test_twenty_thousand_hashes_take_no_time():
    hashes = hashes_with_neighbours(20_000)
    start = time.process_time()
    join_near(hashes)
    assert time.process_time() - start < 10


def test_nearly_constant_images(rng):
    images = part(rng, [0, 0, 0])
    images.pixels[1] = torch.tensor([200, 10, 90], dtype=torch.uint8)[:, None, None]
    images.pixels[2, 1:] = 0
    assert nearly_constant(images.pixels).tolist() == [False, True, False]
    assert inspect_images(images).nearly_constant == ("images[1]",)


def test_a_folder_with_all_that_can_be_wrong(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("a", (10, 10, 3)), ("b", (10, 10, 3)), ("c", (20, 12, 3)), ("d", (10, 10))):
        (tmp_path / "train" / "ärger").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / "train" / "ärger" / f"{name}.png")
    (tmp_path / "test" / "ärger").mkdir(parents=True)
    (tmp_path / "test" / "ärger" / "leak.png").write_bytes((tmp_path / "train" / "ärger" / "b.png").read_bytes())
    (tmp_path / "test" / "ärger" / "bad.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="bad.png"):
        found = inspect_images(load(tmp_path))
    assert found.sizes == {"10×10": 4, "20×12": 1}
    assert found.unreadable == ("test/ärger/bad.png",)
    assert found.leaks == (("train/ärger/b.png", "test/ärger/leak.png"),)
    text = shown(found)
    for line in ("original sizes: 10×10 (4), 20×12 (1)", "  test/ärger/bad.png: empty file", "images: RGB, 10×10"):
        assert line in text


def test_of_many_classes_the_largest_and_the_smallest_are_named():
    def table(classes):
        labels = [label for label in range(classes) for _ in range(1 + label)] + [-1]
        names = tuple(f"class {label}" for label in range(classes))
        images = Images(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels), names, "many")
        return shown(inspect_images(images))

    text = table(100)
    assert all(f"class {label} " in text for label in range(100))
    text = table(101)
    assert [label for label in range(101) if f"class {label} " in text] == [*range(10), *range(91, 101)]
    assert text.index("class 100 ") < text.index("… 81 classes in between") < text.index("class 0 ")
    assert "(unlabelled)" in text


def test_contact_sheet_shows_the_images(tmp_path, rng):
    images = part(rng, [1, 0, 1, -1], ("猫 cat", "größe"))
    contact_sheet(images, tmp_path / "sheet.png", per_class=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 3 * (CELL + GAP) + GAP
    side = CELL // 6 * 6
    enlarged = images.pixels[2].permute(1, 2, 0).repeat_interleave(CELL // 6, 0).repeat_interleave(CELL // 6, 1)
    left, top = sheet.shape[1] - 2 * (CELL + GAP), GAP + CELL + GAP
    assert (sheet[top : top + side, left : left + side] == enlarged.numpy()).all()
    assert (sheet[top : top + CELL, left + CELL + GAP :] == 255).all()
    assert (sheet[:CELL, : left - CELL - GAP] < 128).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".counterpoise.json", "sheet.png"]


def test_contact_sheet_draws_from_the_whole_class(tmp_path):
    """In a class of 200, whose images get brighter, the first eight would all be dark."""
    pixels = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, CELL, CELL).clone()
    images = Images(pixels, torch.zeros(200, dtype=torch.int64), ("cat",), "pets")
    contact_sheet(images, tmp_path / "a.png")
    contact_sheet(images, tmp_path / "b.png")
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    drawn = sheet[GAP + 5, -8 * (CELL + GAP) :: CELL + GAP, 0].tolist()
    assert drawn == sorted(set(drawn))
    assert drawn[0] < 60 < 140 < drawn[-1]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_wide_class_names_stay_apart(tmp_path, rng):
    font = ImageFont.truetype(inspection._font_file(), inspection.LETTERS)
    herbarium = "specimen_from_the_herbarium_of_the_university_collected_in_the_spring_of_nineteen_hundred_" * 2
    for stem in (herbarium, "w" * 5000):
        folded = [_folded(stem + end, font) for end in ("left", "right")]
        assert [text.endswith(end) for text, end in zip(folded, ("left", "right"), strict=True)] == [True, True]
        assert all(text.count("\n") < inspection.LINES for text in folded)
        assert all(font.getlength(line) <= inspection.MOST_INDENT for text in folded for line in text.splitlines())
    contact_sheet(part(rng, [0, 1], (stem + "left", stem + "right\n\x1b")), tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width < inspection.MOST_INDENT + 9 * (CELL + GAP)


def test_contact_sheet_of_many_classes_and_large_grey_images(tmp_path):
    pixels = torch.zeros(30, 1, 100, 100, dtype=torch.uint8)
    images = Images(pixels, torch.arange(30), tuple(map(str, range(30))), "many")
    contact_sheet(images, tmp_path / "sheet.PNG")
    assert Image.open(tmp_path / "sheet.PNG").height == 21 * (CELL + GAP) + GAP


def test_characters_that_the_font_lacks():
    assert _drawable("größe αβγ ё 猫") == "größe αβγ ё [U+732B]"


def test_contact_sheet_refuses(tmp_path, rng):
    images = part(rng, [0])
    with pytest.raises(InputError, match=r"path: expected a file ending in \.png, got .*sheet\.jpg"):
        contact_sheet(images, tmp_path / "sheet.jpg")
    with pytest.raises(InputError, match="per_class: expected a whole number of at least 1, got 0"):
        contact_sheet(images, tmp_path / "sheet.png", per_class=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        contact_sheet(images, tmp_path / "file" / "sheet.png")
