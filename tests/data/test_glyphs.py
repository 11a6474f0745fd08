"""Glyphs: what is drawn, what names tell, what is held out, and a cache that withstands what happens to caches."""

import multiprocessing
import os
import unicodedata

import pytest
import torch

from counterpoise.data import glyphs as module
from counterpoise.data import load
from counterpoise.data.glyphs import FACES, attributes, load_glyphs, render
from counterpoise.errors import InputError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One rendering for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(cache))
    render.cache_clear()


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("Q", ("letter", "latin", "capital", "q", ())),
        ("ǖ", ("letter", "latin", "small", "u", ("diaeresis", "macron"))),
        ("Ж", ("letter", "cyrillic", "capital", "zhe", ())),
        ("ᾅ", ("letter", "greek", "small", "alpha", ("dasia", "oxia", "ypogegrammeni"))),
        ("ﬃ", ("letter", "latin", "small", "ffi", ())),
        ("א", ("letter", "hebrew", None, "alef", ())),
        ("٣", ("number", "arabic", None, None, ())),
        ("Ⅷ", ("number", "latin", None, None, ())),
        ("∑", ("symbol", None, None, None, ())),
        ("?", ("punctuation", None, None, None, ())),
    ],
)
def test_attributes(character, expected):
    assert attributes(character) == expected


@pytest.mark.parametrize("wrong", ["", "ab", "\n"])
def test_what_has_no_name_has_no_attributes(wrong):
    with pytest.raises(InputError, match="character: expected one that Unicode names"):
        attributes(wrong)


def test_thousands_of_classes_with_a_long_tail_and_no_two_equal_images_of_one():
    found = render()
    sizes = found.character.bincount()
    assert len(found.characters) == len(sizes) >= 5000
    assert sizes.min() >= 2
    assert sizes.max() == len(FACES) == len(found.faces) == len(found.face.unique())
    assert (sizes <= 3).sum() > 1000
    assert len(set(zip(found.character.tolist(), found.face.tolist(), strict=True))) == len(found.pixels)
    rows = torch.cat([found.character[:, None], found.pixels.flatten(1).long()], 1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert found.pixels.flatten(1).amax(1).min() > 0


def test_characters_are_drawn_at_one_scale_on_one_baseline():
    found = render()
    face = list(FACES).index("DejaVu Sans")

    def ink(character):
        row = (found.character == found.characters.index(character)) & (found.face == face)
        lines = (found.pixels[row][0, 0] > 127).any(1).nonzero()
        return int(lines.min()), int(lines.max())

    assert ink("O")[0] < ink("o")[0]  # capitals are higher,
    assert abs(ink("E")[1] - ink("x")[1]) <= 1  # and stand on the same line
    assert ink("'")[1] < ink(",")[0]
    assert ink("Á")[0] < ink("A")[0]
    assert ink("p")[1] > ink("x")[1]


def test_names_and_the_same_letter_otherwise():
    found = render()
    assert found.names[found.characters.index("é")] == "LATIN SMALL LETTER E WITH ACUTE"
    wanted = attributes("é")._replace(case="capital", diacritics=("circumflex", "grave"))
    assert [found.characters[i] for i in found.find(wanted)] == ["Ề"]


def faces_of(images):
    return {path.split(" ", 1)[1] for path in images.paths}


def test_by_default_every_character_has_one_image_in_test_and_the_rest_in_train():
    train, test = load("glyphs")
    assert test.counts().tolist() == [1] * len(test.classes)
    assert train.counts().min() >= 1
    assert not set(train.paths) & set(test.paths)
    assert train.classes == test.classes
    assert load_glyphs(seed=1).test.paths != test.paths
    assert load_glyphs(seed=0).test.paths == test.paths


def test_splits_by_face_character_and_script():
    train, test = load("glyphs:split=face")
    assert len(faces_of(test)) == 3
    assert not faces_of(train) & faces_of(test)
    train, test = load("glyphs:split=character")
    assert not set(train.labels.tolist()) & set(test.labels.tolist())
    assert 0.15 < len(test.labels.unique()) / len(test.classes) <= 0.2
    train, test = load("glyphs:split=script")
    scripts = [
        {attributes(unicodedata.lookup(images.classes[i])).script for i in images.labels.unique()}
        for images in (train, test)
    ]
    assert len(scripts[1]) >= 1
    assert not scripts[0] & scripts[1]


def test_fewer_classes_one_script_another_size():
    train, test = load("glyphs:classes=200:script=greek", size=16)
    assert len(train.classes) == len(test) == 200
    assert train.pixels.shape[1:] == (1, 16, 16)
    assert {attributes(unicodedata.lookup(name)).script for name in train.classes} == {"greek"}
    assert train.name == "glyphs:classes=200:script=greek"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("clases=5", "option 'clases' is not known; did you mean 'classes'"),
        ("split=faces", "split 'faces' is not known; did you mean 'face'"),
        ("script=latn", "script 'latn' is not known; did you mean 'latin'"),
        ("classes=0", "classes: expected a number from 1 to"),
        ("classes=many", "classes: expected a number from 1 to"),
        ("classes", "expected classes=VALUE, got 'classes'"),
        ("script=greek:split=script", "split=script: too few scripts to hold any out"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        load(f"glyphs:{options}")


def test_a_size_out_of_range_is_refused():
    with pytest.raises(InputError, match="size: expected a number of at least 8"):
        load("glyphs", size=4)


@pytest.fixture
def few(monkeypatch):
    """Two faces only, so that rendering takes a second."""
    monkeypatch.setattr(module, "FACES", {name: FACES[name] for name in ("STIX Italic", "STIX Bold Italic")})


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage"])
def test_a_damaged_cache_is_rendered_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path))
    pixels, face = render(8).pixels.clone(), render(8).face.clone()
    render.cache_clear()
    (folder,) = tmp_path.glob("glyphs-8-*[!k]")
    if damage == "truncated":
        os.truncate(folder / "pixels.npy", 500)
    elif damage == "missing":
        (folder / "face.npy").unlink()
    else:
        (folder / "pixels.npy").write_bytes(b"no array")
    again = render(8)
    assert torch.equal(again.pixels, pixels)
    assert torch.equal(again.face, face)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.usefixtures("few")
def test_changing_the_pixels_changes_neither_the_cache_nor_other_readers(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path))
    found = render(8)
    before = found.pixels.clone()
    found.pixels[:] = 7
    render.cache_clear()
    assert torch.equal(render(8).pixels, before)


def render_in_a_process(folder, start, answers):
    os.environ["COUNTERPOISE_CACHE"] = folder
    drawn = []
    draw_all = module._draw_all
    module.FACES = {name: FACES[name] for name in ("STIX Italic", "STIX Bold Italic")}
    module._draw_all = lambda size: drawn.append(size) or draw_all(size)
    start.wait()
    found = render(8)
    answers.put((len(drawn), int(found.pixels.long().sum()), len(found.pixels)))


def test_of_two_processes_that_start_together_one_renders(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=render_in_a_process, args=(str(tmp_path), start, answers)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = sorted(answers.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    assert (first[0], second[0]) == (0, 1)
    assert first[1:] == second[1:]


def test_a_cache_that_cannot_be_made_is_told_by_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        render(8)
