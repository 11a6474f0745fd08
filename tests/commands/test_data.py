"""What `counterpoise data` prints and where its contact sheet goes."""

import io

import pytest
import torch
from PIL import Image
from rich.console import Console

from counterpoise import commands
from counterpoise.commands.data import _stem, print_inspection, show_data
from counterpoise.data.images import Splits
from counterpoise.data.inspection import inspect_images
from counterpoise.errors import InputError, printable
from pictures import folder_of, part, photo, shown

HOSTILE = ("[bold]x[/bold]", "x\x1b[31mred", "x\nduplicates: none", "\u202egnp.exe", "[/]")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_text(name, rng):
    images = part(
        rng, [0, 1, 0], (name, "dog"), paths=(name, f"{name}/b", "c"), unreadable=(f"{name}.png",), notes=(name,)
    )
    images.pixels[1] = images.pixels[0]
    text = shown(inspect_images(images))
    assert text.replace("\n", "").isprintable()
    plain = printable(name)
    for line in (
        f"│ {plain} ",
        f"{plain} ({plain}) = {plain}/b (dog)",
        f"  {plain}.png: no reason",
        f"note: {plain}\n",
    ):
        assert line in text
    assert "\nduplicates: none\n" in text
    assert text.count("\nduplicates:") == 1


def test_on_a_narrow_terminal_names_are_folded_and_never_cut(rng):
    names = (
        "specimen_of_the_herbarium_collected_in_spring_left",
        "specimen_of_the_herbarium_collected_in_spring_right",
    )
    console = Console(file=io.StringIO(), width=40)
    print_inspection(inspect_images(Splits(part(rng, [0] * 1200 + [1], names), part(rng, [0, 1], names))), console)
    text = console.file.getvalue()
    squeezed = "".join(line.split("│")[1].strip() for line in text.splitlines() if line.count("│") >= 3)
    assert all(name in squeezed for name in names)
    assert "1,200 │" in text


def test_every_unreadable_file_is_named_with_its_reason(rng):
    names = tuple(f"{i}.png" for i in range(400))
    reasons = {name: "empty file" if i % 2 else f"no such file: /photos/{name}" for i, name in enumerate(names)}
    text = shown(inspect_images(part(rng, [0], unreadable=names, reasons=reasons)))
    assert "unreadable: 400 (200 no such file, 200 empty file)\n  0.png: no such file: /photos/0.png\n" in text
    assert "  299.png: empty file\n  and 100 more\n" in text


def test_many_findings_are_cut_short(rng):
    images = part(rng, [0] * 9)
    images.pixels[:] = torch.arange(9, dtype=torch.uint8)[:, None, None, None]
    expected = "nearly constant: images[0], images[1], images[2], images[3], images[4] and 4 more"
    assert expected in shown(inspect_images(images))


def test_show_data_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = show_data("digits", imperfect=["long-tail=10"])
    printed = capsys.readouterr().out
    assert "note: train: long tail, ratio 10" in printed
    assert "contact sheet: digits-sheet.png" in printed
    assert (tmp_path / "digits-sheet.png").is_file()
    assert found.counts["train"][0] == max(found.counts["train"])
    show_data("digits")  # its own sheet is replaced


def never(*_, **__):
    pytest.fail("loaded")


def test_a_sheet_never_replaces_what_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "photos", {"x/a.png": photo(0), "x/b.png": photo(1)})
    photo(9).save("photos-sheet.png")
    before = (tmp_path / "photos-sheet.png").read_bytes()
    monkeypatch.setattr(commands.data, "load", never)
    with pytest.raises(InputError, match=r"photos-sheet\.png: .* not written by counterpoise .*--sheet FILE\.png"):
        show_data("photos")
    for taken in ("photos-sheet.png", "photos/x/a.png"):
        with pytest.raises(InputError, match=r"not written by counterpoise|is what the command reads"):
            show_data("photos", sheet=taken)
    with pytest.raises(InputError, match=r"expected a file ending in \.png"):
        show_data("photos", sheet="photos")
    assert (tmp_path / "photos-sheet.png").read_bytes() == before


def test_a_sheet_never_replaces_an_image_of_the_data_even_an_own_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show_data("digits", sheet="mine.png")
    for i in range(3):
        photo(i).save(f"{i}.png")
    (tmp_path / "t.csv").write_text("path,label\nmine.png,x\n0.png,x\n1.png,x\n2.png,x\n")
    with pytest.raises(InputError, match=r"mine\.png: is what the command reads"):
        show_data("t.csv", sheet="mine.png")
    show_data("t.csv")
    assert "contact sheet: t.csv-sheet.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "stem"),
    [
        ("digits", "digits"),
        ("torchvision:CIFAR10", "torchvision-CIFAR10"),
        ("hf:some/where", "hf-where"),
        ("glyphs:split=script", "glyphs-split=script"),
        (".", "ph\u2014otos"),
        ("../a\nb", "a-b"),
    ],
)
def test_what_a_sheet_is_called_after(tmp_path, monkeypatch, data, stem):
    for name in ("ph\u2014otos", "a\nb"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "ph\u2014otos")
    assert _stem(data) == stem


def test_one_image_a_class_can_be_looked_at(tmp_path, capsys):
    for i, name in enumerate(("ann", "ben")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 50 + i).save(tmp_path / "photos" / name / "0.png")
    found = show_data(str(tmp_path / "photos"), sheet=tmp_path / "sheet.png")
    assert found.counts == {"images": (1, 1)}
    assert (tmp_path / "sheet.png").exists()
    with pytest.raises(InputError, match="no class has two images"):
        show_data(str(tmp_path / "photos"), imperfect=["fewer=0.5"], sheet=tmp_path / "sheet.png")
