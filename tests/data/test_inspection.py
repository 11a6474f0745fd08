"""What a look at data finds, and the sheet of samples."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from counterpoise.data import load
from counterpoise.data.images import Images, Splits
from counterpoise.data.inspection import (
    CELL,
    GAP,
    _drawable,
    contact_sheet,
    inspect_images,
    nearly_constant,
    print_inspection,
    show_data,
)
from counterpoise.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)


def part(labels, classes=("cat", "dog"), **others) -> Images:
    pixels = torch.randint(0, 256, (len(labels), 3, 6, 6), generator=GENERATOR, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), classes, "pets", **others)


def shown(inspection) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_inspection(inspection, console)
    return console.file.getvalue()


def test_counts_and_imbalance():
    found = inspect_images(Splits(part([0, 0, 0, 1, -1]), part([1, 1])))
    assert found.counts == {"train": (3, 1), "test": (0, 2)}
    assert found.unlabelled == {"train": 1, "test": 0}
    assert found.rows() == [("cat", "3", "0"), ("dog", "1", "2"), ("(unlabelled)", "1", "0")]
    assert found.imbalance("train") == 3
    assert found.imbalance("test") == 1
    assert found.shape == (3, 6, 6)
    assert found.sizes == {"6×6": 7}


def test_data_without_labels():
    found = inspect_images(Splits(part([-1, -1], ()), part([-1], ())))
    assert found.imbalance("train") is None
    assert found.rows() == [("(unlabelled)", "2", "1")]
    assert "–" in shown(found)


def test_duplicates_within_and_across():
    train, test = part([0, 0, 1, 1]), part([0, 1])
    train.pixels[3] = train.pixels[1]
    test.pixels[0] = train.pixels[2]
    found = inspect_images(Splits(train, test))
    assert found.duplicates == (("train[1]", "train[3]"),)
    assert found.leaks == (("train[2]", "test[0]"),)
    assert "in train and in test: 1 images occur more than once: train[2] = test[0]" in shown(found)


def test_nearly_constant_images():
    images = part([0, 0, 0])
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
    for line in ("original sizes: 10×10 (4), 20×12 (1)", "unreadable: test/ärger/bad.png", "images: RGB, 10×10"):
        assert line in text


@pytest.mark.slow
def test_of_many_classes_the_largest_and_the_smallest_are_told():
    def table(classes):
        labels = [label for label in range(classes) for _ in range(1 + label)] + [-1]
        names = tuple(f"class {label}" for label in range(classes))
        images = Images(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels), names, "many")
        return shown(inspect_images(images))

    assert all(f"class {label} " in table(100) for label in range(100))
    text = table(101)
    assert [label for label in range(101) if f"class {label} " in text] == [*range(10), *range(91, 101)]
    assert text.index("class 100 ") < text.index("… 81 classes in between") < text.index("class 0 ")
    assert "(unlabelled)" in text


def test_markup_in_names_is_only_text():
    assert "[bold]x[/bold]" in shown(inspect_images(part([0], ("[bold]x[/bold]",))))


def test_many_findings_are_cut_short():
    images = part([0] * 9)
    images.pixels[:] = torch.arange(9, dtype=torch.uint8)[:, None, None, None]
    expected = "nearly constant: images[0], images[1], images[2], images[3], images[4] and 4 more"
    assert expected in shown(inspect_images(images))


def test_contact_sheet_shows_the_images(tmp_path):
    images = part([1, 0, 1, -1], ("猫 cat", "größe"))
    contact_sheet(images, tmp_path / "sheet.png", per_class=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 3 * (CELL + GAP) + GAP
    side = CELL // 6 * 6
    enlarged = images.pixels[2].permute(1, 2, 0).repeat_interleave(CELL // 6, 0).repeat_interleave(CELL // 6, 1)
    left, top = sheet.shape[1] - 2 * (CELL + GAP), GAP + CELL + GAP
    assert (sheet[top : top + side, left : left + side] == enlarged.numpy()).all()
    assert (sheet[top : top + CELL, left + CELL + GAP :] == 255).all()
    assert (sheet[:CELL, : left - CELL - GAP] < 128).any()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_contact_sheet_of_many_classes_and_large_grey_images(tmp_path):
    pixels = torch.zeros(30, 1, 100, 100, dtype=torch.uint8)
    images = Images(pixels, torch.arange(30), tuple(map(str, range(30))), "many")
    contact_sheet(images, tmp_path / "sheet.PNG")
    assert Image.open(tmp_path / "sheet.PNG").height == 21 * (CELL + GAP) + GAP


def test_characters_that_the_font_lacks():
    assert _drawable("größe αβγ ё 猫") == "größe αβγ ё [U+732B]"


def test_contact_sheet_refuses(tmp_path):
    images = part([0])
    with pytest.raises(InputError, match=r"path: expected a file ending in \.png, got .*sheet\.jpg"):
        contact_sheet(images, tmp_path / "sheet.jpg")
    with pytest.raises(InputError, match="per_class: expected a number of at least 1, got 0"):
        contact_sheet(images, tmp_path / "sheet.png", per_class=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        contact_sheet(images, tmp_path / "file" / "sheet.png")


def test_show_data_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = show_data("digits", imperfect=["long-tail=10"])
    printed = capsys.readouterr().out
    assert "note: train: long tail, ratio 10" in printed
    assert "contact sheet: digits-sheet.png" in printed
    assert (tmp_path / "digits-sheet.png").is_file()
    assert found.counts["train"][0] == max(found.counts["train"])
