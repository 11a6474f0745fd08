"""Icons and emoji as drawings: which of them are one class, and which are left out."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data.drawings import read_emoji, read_icons
from counterpoise.data.named import lay_on_white
from counterpoise.errors import InputError
from drawn import by_name, drawing, make_package, make_theme


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write, of red, green, blue and alpha [height, width, 4]."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_names_whose_drawings_coincide_in_two_themes_are_one_class(tmp_path):
    for domain, folder in enumerate(("Tango", "gnome", "oxygen")):
        alias = "actions/document-save" if domain < 2 else 77
        make_theme(tmp_path, folder, {"actions/document-save": domain, "actions/filesave": alias})
    drawings = read_icons(["tango", "gnome", "oxygen"], root=tmp_path)
    # Called by the name that more files of their own have.
    assert by_name(drawings) == {"document save": ["tango", "gnome", "oxygen"]}
    assert "oxygen/48x48/actions/document-save.png" in drawings.paths
    assert "2 names in 3 themes" in drawings.notes[0]
    assert "merged into 1," in drawings.notes[0]


def test_a_drawing_of_two_names_belongs_to_the_one_whose_own_file_it_is(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/exit": 1, "actions/leave": "actions/exit"})
    make_theme(tmp_path, "gnome", {"actions/exit": 2, "actions/leave": 3})
    drawings = read_icons(["tango", "gnome"], root=tmp_path)
    assert by_name(drawings) == {"exit": ["tango", "gnome"], "leave": ["gnome"]}
    assert ", 1 that several names share" in drawings.notes[1]


def test_a_drawing_that_two_names_have_as_files_of_their_own_is_left_out(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/exit": 1, "actions/leave": 1})
    make_theme(tmp_path, "gnome", {"actions/exit": 2, "actions/leave": 3})
    drawings = read_icons(["tango", "gnome"], root=tmp_path)
    assert by_name(drawings) == {"exit": ["gnome"], "leave": ["gnome"]}
    assert ", 2 that several names share" in drawings.notes[1]


def test_aliases_of_a_single_theme_are_one_class(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/save": 1, "actions/filesave": "actions/save", "actions/open": 2})
    assert by_name(read_icons(["tango"], root=tmp_path)) == {"open": ["tango"], "save": ["tango"]}


def test_of_names_that_a_theme_draws_apart_a_class_has_the_one_that_it_is_called_by(tmp_path):
    for domain, folder in enumerate(("Tango", "gnome")):
        make_theme(tmp_path, folder, {"actions/pack": domain, "actions/zip": "actions/pack"})
    make_theme(tmp_path, "oxygen", {"actions/pack": 5, "actions/zip": 6})
    make_theme(tmp_path, "mate", {"actions/zip": 7})
    drawings = read_icons(["tango", "gnome", "oxygen", "mate"], root=tmp_path)
    assert by_name(drawings) == {"zip": ["tango", "gnome", "oxygen", "mate"]}
    assert "oxygen/48x48/actions/zip.png" in drawings.paths


@pytest.mark.parametrize("change", ["same", "half a pixel aside", "a little lighter"])
def test_a_theme_that_repeats_an_earlier_ones_drawing_has_it_left_out(tmp_path, change):
    first = drawing(1)
    copy = {
        "same": first,
        "half a pixel aside": first.transform(first.size, Image.Transform.AFFINE, (1, 0, 1.5, 0, 1, 1.0)),
        "a little lighter": Image.blend(first, Image.new("RGBA", first.size, (255, 255, 255, 0)), 0.05),
    }[change]
    make_theme(tmp_path, "Tango", {"actions/save": first, "actions/open": 2})
    make_theme(tmp_path, "gnome", {"actions/save": copy, "actions/open": 3})
    drawings = read_icons(["tango", "gnome"], root=tmp_path)
    assert by_name(drawings) == {"save": ["tango"], "open": ["tango", "gnome"]}
    assert "left out: 1 drawings that repeat an earlier theme's" in drawings.notes[1]
    assert by_name(read_icons(["gnome", "tango"], root=tmp_path))["save"] == ["gnome"]


def test_a_drawing_moved_by_more_than_a_rendering_does_is_another(tmp_path):
    first = drawing(1)
    moved = first.transform(first.size, Image.Transform.AFFINE, (1, 0, 6, 0, 1, 0))
    make_theme(tmp_path, "Tango", {"actions/save": first})
    make_theme(tmp_path, "gnome", {"actions/save": moved})
    assert by_name(read_icons(["tango", "gnome"], root=tmp_path)) == {"save": ["tango", "gnome"]}


def test_what_is_white_on_white_is_left_out_and_counted(tmp_path):
    white = Image.new("RGBA", (48, 48), (255, 255, 255, 0))
    white.paste((255, 255, 255, 255), (8, 8, 40, 40))
    make_theme(tmp_path, "Tango", {"actions/pale": white, "actions/save": 1})
    drawings = read_icons(["tango"], root=tmp_path)
    assert by_name(drawings) == {"save": ["tango"]}
    assert "1 that cannot be seen on white" in drawings.notes[1]


def test_transparent_grounds_are_white_and_the_alpha_is_kept_apart(tmp_path):
    image = Image.new("RGBA", (48, 48), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 24, 48))
    image.paste((0, 0, 100, 51), (24, 0, 48, 24))
    make_theme(tmp_path, "Tango", {"actions/save": image})
    pixels = read_icons(["tango"], size=48, root=tmp_path).pixels
    assert pixels[0, :, 40, 10].tolist() == [200, 0, 0, 255]
    assert pixels[0, 3, 40, 40] == 0
    white = lay_on_white(pixels)[0]
    assert white[:, 40, 10].tolist() == [200, 0, 0]
    assert white[:, 10, 40].tolist() == [204, 204, 224]
    assert white[:, 40, 40].tolist() == [255, 255, 255]


def test_files_of_48_pixels_are_taken_and_those_of_32_where_there_are_none(tmp_path):
    theme = make_theme(tmp_path, "Tango", {"actions/save": 1, "actions/open": 2}, sizes=(32, 48))
    (theme / "48x48/actions/open.png").unlink()
    drawings = read_icons(["tango"], root=tmp_path)
    assert drawings.paths == ("Tango/32x32/actions/open.png", "Tango/48x48/actions/save.png")
    assert drawings.original_sizes.tolist() == [[32, 32], [48, 48]]


def test_symbolic_icons_are_not_taken(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/save": 1, "actions/open-symbolic": 2, "actions/go-symbolic.symbolic": 3})
    assert by_name(read_icons(["tango"], root=tmp_path)) == {"save": ["tango"]}


def test_what_is_no_square_is_centred_on_a_transparent_one(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/line": drawing(1).crop((0, 12, 48, 36))})
    pixels = read_icons(["tango"], size=48, root=tmp_path).pixels[0]
    assert torch.equal(pixels[:, 12:36].permute(1, 2, 0), torch.from_numpy(np.array(drawing(1)))[12:36])
    assert (pixels[3, :12] == 0).all()
    assert (pixels[3, 36:] == 0).all()


def test_colours_of_16_bits_are_read(tmp_path):
    theme = make_theme(tmp_path, "Tango", {"actions/save": 1})
    (theme / "48x48/actions/deep.png").write_bytes(deep_png(np.asarray(drawing(2)).astype(np.uint16) * 257))
    drawings = read_icons(["tango"], size=48, root=tmp_path)
    assert drawings.names == ("deep", "save")
    assert np.array_equal(drawings.pixels[0].permute(1, 2, 0).numpy(), np.asarray(drawing(2)))


def test_the_context_is_the_one_that_most_files_of_a_class_have_but_no_word_of_a_themes_own(tmp_path):
    make_theme(tmp_path, "Tango", {"devices/disk": 1})
    make_theme(tmp_path, "gnome", {"actions/disk": 2})
    make_theme(tmp_path, "oxygen", {"devices/disk": 3})
    for domain, folder in enumerate(("mate", "Faenza", "Adwaita", "nuoveXT2")):
        make_theme(tmp_path, folder, {"odd/disk": 4 + domain})
    themes = ["tango", "gnome", "oxygen", "mate", "faenza", "adwaita", "lxde"]
    assert read_icons(themes, root=tmp_path).groups["context"] == ("devices",)


def test_a_theme_without_png_files_is_refused_by_name(tmp_path):
    make_theme(tmp_path, "gnome", {})
    with pytest.raises(InputError, match="gnome has no PNG files of 48 or 32 pixels"):
        read_icons(["gnome"], root=tmp_path)


def test_an_index_that_is_none_is_refused_by_name(tmp_path):
    make_theme(tmp_path, "gnome", {"actions/save": 1})
    (tmp_path / "gnome/index.theme").write_text("Name=gnome")
    with pytest.raises(InputError, match=r"index\.theme cannot be read"):
        read_icons(["gnome"], root=tmp_path)


def test_emoji_of_one_name_are_called_by_their_short_names(tmp_path):
    folder = make_package(tmp_path, "twitter", {"MAN": 1, "man": 2, "WOMAN": 3})
    entries = json.loads((folder / "emoji.json").read_text())
    entries[0]["short_name"], entries[1]["short_name"] = "person_in_tuxedo", "man_in_tuxedo"
    (folder / "emoji.json").write_text(json.dumps(entries))
    assert read_emoji([folder]).names == ("man in tuxedo", "person in tuxedo", "woman")
    entries[1]["short_name"] = "person-in-tuxedo"
    (folder / "emoji.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="two emoji are called 'person in tuxedo'"):
        read_emoji([folder])


def test_emoji_that_a_vendor_does_not_draw_are_passed_over(tmp_path):
    folder = make_package(tmp_path, "twitter", {"CAT": 1, "DOG": 2})
    entries = json.loads((folder / "emoji.json").read_text())
    entries[0]["has_img_twitter"] = False
    (folder / "emoji.json").write_text(json.dumps(entries))
    drawings = read_emoji([folder])
    assert drawings.names == ("dog",)
    assert not drawings.unreadable


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": " "},
        {"short_name": 3},
        {"category": None},
        {"subcategory": ["a"]},
        {"image": "../../secret.png"},
        {"image": ""},
    ],
)
def test_a_malformed_emoji_is_refused_by_its_entry(tmp_path, change):
    folder = make_package(tmp_path, "twitter", {"CAT": 1, "DOG": 2}, **change)
    with pytest.raises(InputError, match=f"entry 0: expected .* {next(iter(change))}"):
        read_emoji([folder])


@pytest.mark.parametrize("text", ["{}", "[]", "[3]", "{", "\xff"])
def test_a_table_of_emoji_that_is_none_is_refused_by_name(tmp_path, text):
    folder = make_package(tmp_path, "twitter", {"CAT": 1})
    (folder / "emoji.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"emoji\.json"):
        read_emoji([folder])
