"""Named drawings, on tiny themes and emoji made here: classes, what is left out, how train and test are apart."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data.drawings import ICONS, THEMES, icon_files, read_icons
from counterpoise.data.named import load_emoji, load_icons, parse, source_files
from counterpoise.errors import InputError
from drawn import CONTEXTS, by_name, make_package, make_theme


def make_themes(root: Path, names: int = 10) -> Path:
    """Three themes that draw the same names, each in its own way."""
    for domain, folder in enumerate(("Tango", "gnome", "oxygen")):
        icons = {f"{list(CONTEXTS)[i % 3]}/thing-{i}": 100 * domain + i for i in range(names)}
        make_theme(root, folder, icons)
    return root


THREE = "icons:themes=tango,gnome,oxygen"


def make_vendors(root: Path, count: int = 10) -> str:
    """Two packages, by their spec."""
    for i, vendor in enumerate(("twitter", "google")):
        make_package(root / vendor, vendor, {f"FACE {k}": 100 * i + k for k in range(count)})
    return f"emoji:{root / 'twitter'},{root / 'google'}"


def test_classes_are_names_in_plain_words_with_theme_and_context_as_factors(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/x-do_it.now": 1, "devices/printer": 2})
    make_theme(tmp_path, "gnome", {"actions/x-do_it.now": 3, "devices/printer": 4})
    for images in load_icons("icons:themes=tango,gnome", root=tmp_path):
        assert images.classes == ("do it now", "printer")
        assert images.pixels.shape[1:] == (3, 32, 32)
        for i, path in enumerate(images.paths):
            folder, _, context, file = path.split("/")
            assert images.factor_names["domain"][images.factors["domain"][i]] == folder.lower()
            assert images.factor_names["context"][images.factors["context"][i]] == context
            assert ("x-do_it.now.png", "printer.png")[images.labels[i]] == file


def test_unreadable_files_are_left_out_counted_and_named(tmp_path):
    theme = make_theme(tmp_path, "Tango", {"actions/save": 1, "actions/open": 2, "actions/quit": "actions/gone"})
    (theme / "48x48/actions/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)).save(theme / "48x48/devices/deep.png")
    with pytest.warns(UserWarning, match="3 unreadable images left out"):
        train, test = load_icons("icons:themes=tango:split=class", root=tmp_path)
    names = [f"Tango/48x48/{name}.png" for name in ("actions/broken", "actions/quit", "devices/deep")]
    assert sorted(train.unreadable) == names
    assert train.unreadable == test.unreadable
    assert train.reasons[names[2]] == "grey of more than 8 bits"
    assert any("3 unreadable images left out" in note for note in train.notes)
    for path in (*theme.glob("48x48/actions/save.png"), *theme.glob("48x48/actions/open.png")):
        path.unlink()
    with pytest.raises(InputError, match="no name is drawn by 1 of tango; unreadable: Tango/48x48/actions/broken"):
        read_icons(["tango"], root=tmp_path)


def test_all_missing_themes_and_their_debian_packages_are_named(tmp_path):
    make_theme(tmp_path, "gnome", {"actions/save": 1})
    with pytest.raises(InputError) as error:
        load_icons("icons:themes=tango,gnome,lxde", root=tmp_path)
    assert "tango, lxde; install Debian's packages tango-icon-theme lxde-icon-theme" in str(error.value)
    assert "icons:themes=gnome" in str(error.value)
    with pytest.raises(InputError) as error:
        load_icons("icons", root=tmp_path / "nowhere")
    assert all(theme.package in str(error.value) for theme in THEMES.values())


def test_a_theme_of_another_name_is_found_by_its_folder_in_any_case(tmp_path):
    make_theme(tmp_path, "MyTheme", {"actions/save": 1, "actions/open": 2})
    assert by_name(read_icons(["mytheme"], root=tmp_path)) == {"save": ["mytheme"], "open": ["mytheme"]}
    assert load_icons("icons:themes=MyTheme:split=class", root=str(tmp_path)).train.classes == ("open", "save")
    with pytest.raises(InputError, match="theme 'mythem' is not known; did you mean 'mytheme'"):
        read_icons(["mythem"], root=tmp_path)


def test_the_same_seed_gives_the_same_images_and_another_one_others(tmp_path):
    make_themes(tmp_path)
    first, again, other = (load_icons(THREE, seed=seed, root=tmp_path) for seed in (3, 3, 4))
    assert first.test.paths == again.test.paths != other.test.paths
    assert torch.equal(first.train.pixels, again.train.pixels)
    assert sorted(first.train.paths + first.test.paths) == sorted(other.train.paths + other.test.paths)


def test_every_class_has_a_fifth_of_its_drawings_but_at_least_one_in_test(tmp_path):
    train, test = load_icons(THREE, root=make_themes(tmp_path))
    assert train.counts().tolist() == [2] * 10
    assert test.counts().tolist() == [1] * 10
    assert not set(train.paths) & set(test.paths)
    contexts = load_icons(f"{THREE}:label=context", root=tmp_path)
    assert contexts.train.classes == ("actions", "applications", "devices")
    assert contexts.train.counts().tolist() == [10, 7, 7]
    assert contexts.test.counts().tolist() == [2, 2, 2]


def test_the_themes_that_are_asked_for_are_for_test_or_one_drawn_by_the_seed(tmp_path):
    make_themes(tmp_path)
    train, test = load_icons(f"{THREE}:split=theme:test=gnome", root=tmp_path)
    assert test.factors["domain"].unique().tolist() == [1]
    assert train.factors["domain"].unique().tolist() == [0, 2]
    assert any(note.endswith("for test: gnome; on white where they are transparent") for note in test.notes)
    drawn = [load_icons(f"{THREE}:split=theme", seed=seed, root=tmp_path).test for seed in range(6)]
    assert {len(images.factors["domain"].unique()) for images in drawn} == {1}
    assert len({int(images.factors["domain"][0]) for images in drawn}) > 1
    with pytest.raises(InputError, match="theme 'mate' is not known"):
        load_icons(f"{THREE}:split=theme:test=mate", root=tmp_path)
    with pytest.raises(InputError, match="too few drawings to hold any out"):
        load_icons("icons:themes=tango,gnome:split=theme:test=gnome,tango", root=tmp_path)


def test_names_are_those_that_both_sides_draw_where_themes_are_for_test(tmp_path):
    make_themes(tmp_path)
    for path in (*tmp_path.glob("gnome/48x48/*/thing-1.png"), *tmp_path.glob("gnome/48x48/*/thing-2.png")):
        path.unlink()
    train, test = load_icons(f"{THREE}:split=theme:test=gnome:least=2", root=tmp_path)
    assert set(train.classes) == {f"thing {i}" for i in range(10)} - {"thing 1", "thing 2"}
    assert (train.counts() == 2).all()
    assert (test.counts() == 1).all()


def test_contexts_that_one_side_alone_has_stay_where_themes_are_for_test(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/a": 1, "actions/b": 2, "devices/c": 3, "devices/d": 4})
    make_theme(tmp_path, "oxygen", {"actions/e": 5, "actions/f": 6, "apps/g": 7, "apps/h": 8})
    train, test = load_icons("icons:themes=tango,oxygen:split=theme:test=oxygen:label=context", root=tmp_path)
    assert train.classes == ("actions", "applications", "devices")
    assert train.counts().tolist() == [2, 0, 2]
    assert test.counts().tolist() == [2, 2, 0]


def test_classes_that_are_for_test_are_never_in_train(tmp_path):
    train, test = load_icons(f"{THREE}:split=class", root=make_themes(tmp_path))
    assert train.counts().tolist() == [0 if n else 3 for n in test.counts().tolist()]
    assert int((test.counts() > 0).sum()) == 2


def test_names_that_are_for_test_are_never_in_train_though_their_contexts_are(tmp_path):
    train, test = load_icons(f"{THREE}:label=context:split=name", root=make_themes(tmp_path))
    names = [{path.split("/")[-1] for path in images.paths} for images in (train, test)]
    assert not names[0] & names[1]
    assert len(names[1]) == 2
    assert (train.counts() > 0).all()


def test_fewer_classes_are_those_with_the_most_drawings_then_the_first_by_name(tmp_path):
    make_themes(tmp_path, names=6)
    for name in ("thing-0", "thing-1"):
        next(tmp_path.glob(f"oxygen/48x48/*/{name}.png")).unlink()
    assert load_icons(f"{THREE}:least=2:classes=5", root=tmp_path).train.classes == tuple(
        f"thing {i}" for i in (0, 2, 3, 4, 5)
    )
    assert load_icons(THREE, root=tmp_path).train.classes == tuple(f"thing {i}" for i in (2, 3, 4, 5))
    assert len(load_icons(f"{THREE}:split=class", root=tmp_path).train.classes) == 6
    with pytest.raises(InputError, match="expected classes=N with N from 2 to 4"):
        load_icons(f"{THREE}:classes=5", root=tmp_path)


def test_what_lies_under_no_freedesktop_context_is_no_class_of_contexts(tmp_path):
    make_theme(tmp_path, "Tango", {"actions/a": 1, "actions/b": 2, "odd/c": 3, "devices/d": 4, "devices/e": 5})
    train, test = load_icons("icons:themes=tango:label=context", root=tmp_path)
    assert train.classes == ("actions", "devices")
    assert "icons: 1 drawings under no freedesktop context are left out" in train.notes
    assert len(train) + len(test) == 4


def test_the_drawings_of_some_contexts_alone(tmp_path):
    train, _ = load_icons(f"{THREE}:context=devices,actions", root=make_themes(tmp_path))
    assert train.classes == tuple(f"thing {i}" for i in (0, 2, 3, 5, 6, 8, 9))
    with pytest.raises(InputError, match="context of icons 'places' is not known"):
        load_icons(f"{THREE}:context=places", root=tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("icon", "expected icons, with options"),
        ("icons:themes", "expected icons:name=value"),
        ("icons:themes=", "expected icons:name=value"),
        ("icons:theme=tango", "option of icons 'theme' is not known; did you mean 'themes'"),
        ("icons:themes=tango,tango", "expected themes without gaps and each once"),
        ("icons:themes=tango,,gnome", "expected themes without gaps and each once"),
        ("icons:split=theme:split=class", "split is given twice"),
        ("icons:split=vendor", "split of icons 'vendor' is not known"),
        ("icons:label=category", "label of icons 'category' is not known"),
        ("icons:test=tango", "test= needs split=theme"),
        ("icons:classes=1", "classes=N with a whole number N of at least 2"),
        ("icons:classes=two", "classes=N with a whole number N of at least 2"),
        ("icons:classes=²", "classes=N with a whole number N of at least 2"),
        ("icons:least=0", "least=N with a whole number N of at least 1"),
        ("icons:themes=tango,gnome:least=3", "expected least=N with N of at most 2"),
        ("icons:themes=tango", "name two themes or more"),
        ("icons:themes=tango,gnome:least=1", "name two themes or more"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        load_icons(data, root=tmp_path)


@pytest.mark.parametrize(("argument", "value"), [("size", 7), ("size", 0), ("seed", 1 << 64), ("seed", -(1 << 64))])
def test_sizes_and_seeds_that_make_no_sense_are_refused_by_name(tmp_path, argument, value):
    make_themes(tmp_path)
    with pytest.raises(InputError, match=argument):
        load_icons(THREE, root=tmp_path, **{argument: value})


def test_the_files_that_icons_stand_on_are_the_index_and_the_icons_with_links(tmp_path):
    theme = make_theme(tmp_path, "Tango", {"actions/save": 1, "actions/filesave": "actions/save"}, sizes=(16, 32, 48))
    icons = {theme / f"{side}x{side}/actions/{name}.png" for side in (32, 48) for name in ("save", "filesave")}
    wanted = icons | {theme / "index.theme"}
    assert source_files("icons:themes=tango", tmp_path) == sorted(wanted) == icon_files(["Tango"], tmp_path)
    absent = tmp_path / "oxygen/index.theme"
    assert source_files("icons:themes=tango,oxygen:split=theme", tmp_path) == sorted(wanted | {absent})


def test_reading_touches_no_file_that_is_not_said_to_be_read(tmp_path, monkeypatch):
    make_themes(tmp_path, names=4)
    data = make_vendors(tmp_path / "emoji", 4)
    opened = set()

    def record(path: Path) -> Image.Image:
        opened.add(os.path.realpath(path))
        return Image.open(path)

    monkeypatch.setattr("counterpoise.data.drawings.open_image", record)
    load_icons(THREE, root=tmp_path)
    load_emoji(data)
    said = {os.path.realpath(path) for path in (*source_files(THREE, tmp_path), *source_files(data))}
    assert opened
    assert opened <= said


def test_emoji_have_the_vendor_as_domain_and_the_category_as_context(tmp_path):
    data = make_vendors(tmp_path)
    for images in load_emoji(data, size=24):
        assert images.classes == tuple(f"face {k}" for k in range(10))
        assert images.pixels.shape[1:] == (3, 24, 24)
        assert images.counts().tolist() == [1] * 10
        for i, path in enumerate(images.paths):
            assert images.factor_names["domain"][images.factors["domain"][i]] == Path(path).parent.parent.name
        categories = images.factor_names["context"]
        assert categories == ("flags", "food and drink")
        assert [categories[c] for c in images.factors["context"]] == [categories[1 - k % 2] for k in images.labels]


def test_emoji_are_divided_by_vendor_by_class_and_by_category(tmp_path):
    data = make_vendors(tmp_path)
    train, test = load_emoji(f"{data}:split=vendor:test=google:label=subcategory:least=4")
    assert train.classes == ("kind 0", "kind 1", "kind 2")
    assert train.counts().tolist() == [4, 3, 3]
    assert test.factors["domain"].unique().tolist() == [1]
    train, test = load_emoji(f"{data}:split=class")
    assert (train.counts() * test.counts() == 0).all()
    assert int(test.counts().sum()) == 4
    train, _ = load_emoji(f"{data}:context=food-and-drink")
    assert train.classes == tuple(f"face {k}" for k in (0, 2, 4, 6, 8))


def test_a_single_vendor_is_enough_for_categories_but_not_for_names(tmp_path):
    make_vendors(tmp_path)
    train, _ = load_emoji(f"emoji:{tmp_path / 'twitter'}:label=category")
    assert train.classes == ("flags", "food and drink")
    with pytest.raises(InputError, match="take split=class or another label"):
        load_emoji(f"emoji:{tmp_path / 'twitter'}")


def test_folders_that_hold_no_emoji_or_one_vendor_twice_are_refused(tmp_path):
    make_vendors(tmp_path)
    make_package(tmp_path / "again", "twitter", {"CAT": 1})
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/emoji.json").write_text("[]")
    for data, message in (
        ("emoji", "expected emoji:FOLDER"),
        ("emoji:", "expected emoji:FOLDER"),
        (f"emoji:{tmp_path / 'nowhere'}", "has no emoji.json; expected an unpacked npm package"),
        (f"emoji:{tmp_path / 'bare'}", "has no img/VENDOR/64"),
        (f"emoji:{tmp_path / 'again'},{tmp_path / 'twitter'}", "two folders hold the pictures of twitter"),
        (f"emoji:{tmp_path / 'twitter'}:split=theme", "split of emoji 'theme' is not known"),
        (f"emoji:{tmp_path / 'twitter'}:themes=tango", "option of emoji 'themes' is not known"),
    ):
        with pytest.raises(InputError, match=message):
            load_emoji(data)


def test_a_folder_may_have_a_colon_in_its_name_or_stand_under_the_home_folder(tmp_path, monkeypatch):
    make_package(tmp_path / "a:b", "twitter", {f"FACE {k}": k for k in range(5)})
    assert len(load_emoji(f"emoji:{tmp_path / 'a:b'}:split=class").train) == 4
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_emoji("emoji:~/a:b:split=class").train) == 4
    assert parse("emoji:~/a:b,c:classes=2", "emoji").sources == ("~/a:b", "c")


def test_the_files_that_emoji_stand_on_are_the_table_and_the_pictures(tmp_path):
    data = make_vendors(tmp_path, 3)
    files = {path.relative_to(tmp_path).as_posix() for path in source_files(f"{data}:label=category")}
    pictures = {f"{vendor}/img/{vendor}/64/{i}.png" for vendor in ("twitter", "google") for i in range(3)}
    assert files == pictures | {"twitter/emoji.json", "google/emoji.json"}
    with pytest.raises(InputError, match="kind of named drawings 'glyphs' is not known"):
        source_files("glyphs")


INSTALLED = [name for name, theme in THEMES.items() if (ICONS / theme.folder / "index.theme").is_file()]


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) < 2, reason=f"needs two icon themes of Debian, of {', '.join(THEMES)}")
def test_the_systems_themes_draw_many_names_apart():
    themes = INSTALLED[:2]
    train, test = load_icons(f"icons:themes={','.join(themes)}:split=theme:test={themes[1]}")
    assert len(train) == len(test) == len(train.classes) >= 30
    pixels = torch.cat([train.pixels, test.pixels]).flatten(1)
    assert len(pixels.unique(dim=0)) == len(pixels)
    assert all(images.factors["context"].unique().numel() > 1 for images in (train, test))
    assert not train.unreadable
