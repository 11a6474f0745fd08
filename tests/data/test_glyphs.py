"""Glyphs: what is drawn and what is left out, attributes, splits without leaks, the cache, and the page's figures."""

import multiprocessing
import os
import re
import shlex
import time
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch

from counterpoise import cli
from counterpoise.data import Glyphs, Splits, attributes_of, draw_glyphs, glyphs, inspect_images, load
from counterpoise.data.glyphs import ALIKE, FACES, SPLITS, Attributes, load_glyphs
from counterpoise.errors import InputError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/glyphs.md").read_text(encoding="utf-8")
FEW = {"Sans Display": "DejaVuSansDisplay.ttf", "Serif Display": "DejaVuSerifDisplay.ttf"}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """One cache folder for all tests, so that everything is drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTERPOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def drawn(folder):
    """Everything; `load` gets it too, without reading it each time."""
    whole = draw_glyphs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "draw_glyphs", lambda size: whole)
        yield whole


@cache
def loaded(data: str, seed: int = 0) -> Splits:
    return load(data, seed=seed)


@pytest.fixture
def few(tmp_path, monkeypatch) -> Path:
    """Two faces with a few dozen characters, and a cache folder of their own."""
    monkeypatch.setattr(glyphs, "FACES", FEW)
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def label(drawn: Glyphs, char: str) -> int:
    return next(i for i, character in enumerate(drawn.characters) if character.char == char)


def pictures(drawn: Glyphs, char: str) -> dict[str, torch.Tensor]:
    """By face."""
    members = (drawn.images.labels == label(drawn, char)).nonzero().flatten().tolist()
    return {list(FACES)[drawn.faces[i]]: drawn.images.pixels[i, 0] for i in members}


def paths_of_shared(drawn: Glyphs, char: str) -> list[str]:
    """The images of a character whose pixels another character has too."""
    members = (drawn.images.labels == label(drawn, char)).nonzero().flatten().tolist()
    return [drawn.images.paths[i] for i in members if (drawn.drawings == drawn.drawings[i]).sum() > 1]


def ink(picture: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is not black."""
    rows, columns = (picture.amax(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LATIN SMALL LETTER A WITH ACUTE", Attributes("letter", "latin", "small", "A", ("acute",))),
        (
            "LATIN SMALL LETTER S WITH DOT BELOW AND DOT ABOVE",
            Attributes("letter", "latin", "small", "S", ("dot below", "dot above")),
        ),
        ("LATIN LETTER SMALL CAPITAL R", Attributes("letter", "latin", "small capital", "R")),
        ("LATIN SMALL LETTER SHARP S", Attributes("letter", "latin", "small", "SHARP S")),
        ("LATIN SMALL LIGATURE FI", Attributes("ligature", "latin", "small", "FI")),
        (
            "LATIN CAPITAL LETTER D WITH SMALL LETTER Z WITH CARON",
            Attributes("letter", "latin", "capital", "D WITH SMALL LETTER Z WITH CARON"),
        ),
        (
            "GREEK SMALL LETTER ALPHA WITH PSILI AND OXIA AND YPOGEGRAMMENI",
            Attributes("letter", "greek", "small", "ALPHA", ("psili", "oxia", "ypogegrammeni")),
        ),
        ("GREEK KAPPA SYMBOL", Attributes("letter", "greek", None, "KAPPA SYMBOL")),
        ("HEBREW LETTER SHIN WITH DAGESH", Attributes("letter", "hebrew", None, "SHIN", ("dagesh",))),
        ("ARABIC LETTER BEH INITIAL FORM", Attributes("letter", "arabic", None, "BEH", (), "initial form")),
        (
            "ARABIC LIGATURE LAM WITH ALEF FINAL FORM",
            Attributes("ligature", "arabic", None, "LAM WITH ALEF", (), "final form"),
        ),
        ("CANADIAN SYLLABICS WEST-CREE PWI", Attributes("letter", "canadian syllabics", None, "WEST-CREE PWI")),
        ("OLD ITALIC LETTER CHE", Attributes("letter", "old italic", None, "CHE")),
        (
            "MATHEMATICAL BOLD ITALIC CAPITAL A",
            Attributes("letter", None, "capital", "A", (), "mathematical bold italic"),
        ),
        ("BLACK-LETTER CAPITAL C", Attributes("letter", None, "capital", "C", (), "black-letter")),
        ("CIRCLED LATIN CAPITAL LETTER G", Attributes("symbol", "latin", "capital", "G", (), "circled")),
        ("DIGIT SEVEN", Attributes("number", None, None, "SEVEN")),
        ("ARABIC-INDIC DIGIT SEVEN", Attributes("number", "arabic", None, "SEVEN")),
        ("SUPERSCRIPT SEVEN", Attributes("number", None, None, "SEVEN", (), "superscript")),
        ("VULGAR FRACTION ONE HALF", Attributes("number", None, None, "ONE HALF", (), "vulgar fraction")),
        ("SMALL ROMAN NUMERAL FOUR", Attributes("number", None, None, "FOUR", (), "small roman")),
        ("COMBINING ACUTE ACCENT", Attributes("mark")),
        ("QUESTION MARK", Attributes("punctuation")),
        ("LEFTWARDS ARROW WITH STROKE", Attributes("symbol")),
        ("BLACK SMALL SQUARE", Attributes("symbol")),
        ("LATIN CROSS", Attributes("symbol")),
        ("BRAILLE PATTERN DOTS-12", Attributes("symbol", "braille")),
    ],
)
def test_attributes(name, expected):
    assert attributes_of(unicodedata.lookup(name)) == expected


@pytest.mark.parametrize("character", ["", "ab", "\n", "\ue000"])
def test_attributes_need_one_named_character(character):
    with pytest.raises(InputError, match="character: expected one character that Unicode names, got"):
        attributes_of(character)


def test_no_two_letters_have_the_same_attributes(drawn):
    counted = Counter(character.attributes for character in drawn.characters if character.attributes.base)
    assert len(counted) > 3000
    assert max(counted.values()) == 1


def test_composed_queries(drawn):
    def chars(*given, **wanted):
        return [drawn.characters[i].char for i in drawn.find(*given, **wanted)]

    assert chars("á", case="capital", diacritics=("grave",)) == ["À"]
    assert chars("Ω", case="small") == ["ω"]
    assert chars("7", variant="circled") == ["⑦"]
    assert chars("á", diacritics=("grave", "acute")) == []
    assert set(chars(base="A", script="latin", kind="letter")) > {"a", "A", "ậ"}
    with pytest.raises(InputError, match="attribute 'bas' is not known; did you mean 'base'"):
        drawn.find(bas="A")


def test_what_is_drawn(drawn):
    categories = {unicodedata.category(character.char)[0] for character in drawn.characters}
    assert categories == set("LMNPS")
    codes = [ord(character.char) for character in drawn.characters]
    assert codes == sorted(set(codes))
    assert drawn.images.classes == tuple(unicodedata.name(chr(code)) for code in codes)
    assert drawn.faces.unique().tolist() == list(range(len(FACES)))
    assert drawn.images.paths[int((drawn.images.labels == label(drawn, "é")).nonzero()[0])] == "U+00E9 DejaVu Sans"


def test_every_picture_has_ink_and_a_black_border(drawn):
    pixels = drawn.images.pixels[:, 0]
    assert pixels.amax((1, 2)).min() > 50
    for border in (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]):
        assert border.max() == 0


def test_one_scale_and_one_baseline(drawn):
    """What sets o apart from O, and a comma from an apostrophe."""
    for face in FACES:
        o, capital = (ink(pictures(drawn, char)[face]) for char in "oO")
        assert abs(o[1] - capital[1]) <= 1
        assert o[0] - capital[0] >= 3
    comma, apostrophe = (ink(pictures(drawn, char)["DejaVu Sans"]) for char in ",'")
    assert apostrophe[1] < comma[0]
    top, bottom, left, right = ink(pictures(drawn, "o")["DejaVu Sans"])
    assert abs(left + right - 27) <= 1
    assert pictures(drawn, "o")["DejaVu Sans"][(top + bottom) // 2, 14] == 0


def test_no_face_repeats_another_s_drawing(drawn):
    assert "DejaVu Sans Oblique" not in pictures(drawn, "→")  # the oblique face has the upright arrow
    assert "DejaVu Sans Bold" in pictures(drawn, "→")
    labels = drawn.images.labels
    for apart in range(1, len(FACES)):
        same = (labels[apart:] == labels[:-apart]).nonzero().flatten()
        for part in same.split(4096):
            one, other = drawn.images.pixels[part].short(), drawn.images.pixels[part + apart].short()
            assert (one - other).abs().amax((1, 2, 3)).min() > ALIKE


def test_drawings_number_equal_pictures_alike(drawn):
    latin, greek = ((drawn.images.labels == label(drawn, char)) & (drawn.faces == 0) for char in "AΑ")
    assert drawn.drawings[latin] == drawn.drawings[greek]
    assert torch.equal(drawn.images.pixels[latin], drawn.images.pixels[greek])
    _, inverse = drawn.images.pixels[:3000].flatten(1).unique(dim=0, return_inverse=True)
    assert len(drawn.drawings[:3000].unique()) == int(inverse.max()) + 1


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_no_test_image_equals_any_other(drawn, split):
    train, test = loaded(f"glyphs:split={split}")
    assert train.classes == test.classes
    assert train.name == f"glyphs:split={split}"
    found = inspect_images(Splits(train, test))
    assert found.leaks == ()
    assert not any(name in test.paths for group in found.duplicates for name in group)
    assert found.nearly_constant == ()
    assert not set(train.paths) & set(test.paths)


def test_by_default_a_fifth_of_every_class_is_in_test(drawn):
    train, test = load("glyphs")
    assert len(train.classes) >= 5000
    assert train.counts().min() == 2
    whole = train.counts() + test.counts()
    assert (test.counts() <= (whole / 5).round().clamp(min=1)).all()
    assert test.counts().min() == 1
    assert test.counts()[test.classes.index("LATIN SMALL LETTER Q")] == 3
    assert train.pixels.shape[1:] == (1, 28, 28)
    row = test.labels.tolist().index(test.classes.index("LATIN SMALL LETTER Q"))
    face = test.paths[row].removeprefix("U+0071 ")
    assert torch.equal(test.pixels[row, 0], pictures(drawn, "q")[face])
    assert len({path.partition(" ")[2] for path in test.paths}) == len(FACES)


def test_by_family(drawn):
    train, test = loaded("glyphs:split=family")
    assert {path.split()[1] for path in train.paths} == {"DejaVu"}
    assert {path.split()[1] for path in test.paths} == {"STIX"}
    assert train.counts().min() >= 2
    assert test.counts().min() >= 1


def test_by_style(drawn):
    train, test = loaded("glyphs:split=style")
    assert {path.partition(" ")[2] for path in train.paths} == {face for face in FACES if "Sans" in face}
    assert {path.partition(" ")[2] for path in test.paths} == {face for face in FACES if "Sans" not in face}
    assert train.counts().min() >= 2
    assert test.counts().min() >= 2
    counts = [images.counts() for images in loaded("glyphs:split=style:script=latin:classes=50")]
    assert all(found.float().mean() > 5 for found in counts)


@pytest.mark.parametrize("data", ["glyphs", "glyphs:split=style", "glyphs:script=greek"])
def test_the_domain_of_an_image_is_its_face(data):
    for images in loaded(data):
        faces = [images.factor_names["domain"][face] for face in images.factors["domain"].tolist()]
        assert faces == [path.partition(" ")[2] for path in images.paths]


def test_by_character(drawn):
    train, test = loaded("glyphs:split=character:classes=100")
    assert len(train.classes) == 100
    assert (train.counts() > 0).sum() == 80
    assert ((train.counts() > 0) ^ (test.counts() > 0)).all()
    assert test.counts()[test.counts() > 0].min() >= 2


def test_by_script(drawn):
    def scripts(images):
        return {attributes_of(unicodedata.lookup(images.classes[i])).script for i in images.labels.unique().tolist()}

    train, test = loaded("glyphs:split=script")
    assert None in scripts(train)
    assert scripts(test)
    assert not scripts(train) & scripts(test)
    assert 0.05 < len(test.labels.unique()) / len(train.classes) <= 0.2


def test_script_and_classes(drawn):
    train, _ = load("glyphs:script=latin:classes=26")
    assert train.classes[0] == "LATIN CAPITAL LETTER A"
    assert [unicodedata.lookup(name) for name in train.classes] == [chr(code) for code in range(65, 91)]
    assert len(load("glyphs:script=canadian-syllabics").train.classes) > 300


def test_alike_characters_count_only_where_both_are_used(drawn):
    """Latin A has the pictures of Greek Alpha in most faces; these cannot be for test where both are classes."""

    def held(data, seed):
        test = load(data, seed=seed).test
        return test.paths[test.labels.tolist().index(test.classes.index("LATIN CAPITAL LETTER A"))]

    shared = set(paths_of_shared(drawn, "A"))
    assert len(shared) > 8
    seeds = range(4)
    assert any(held("glyphs:script=latin:classes=2", seed) in shared for seed in seeds)
    assert not any(held("glyphs:classes=1000", seed) in shared for seed in seeds)


@pytest.mark.parametrize("split", ["face", "character", "script"])
def test_the_seed_decides_what_is_held_out(drawn, split):
    data = f"glyphs:split={split}"
    first, again, other = loaded(data).test, load(data).test, load(data, seed=1).test
    assert first.paths == again.paths
    assert first.paths != other.paths


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("glyphs:clases=5", "option of glyphs 'clases' is not known; did you mean 'classes'"),
        ("glyphs:split=charcter", "split of glyphs 'charcter' is not known; did you mean 'character'"),
        ("glyphs:script=old italic", "script of glyphs 'old italic' is not known; did you mean 'old-italic'"),
        ("glyphs:full", "expected glyphs:name=value with classes, script, split as names, got 'glyphs:full'"),
        ("glyphs:", "expected glyphs:name=value"),
        ("glyphs:classes=", "expected glyphs:name=value"),
        ("glyphs:classes=2:classes=3", "classes is given twice"),
        (
            "glyphs:classes=1",
            r"expected classes=N with N from 2 to 5067, the characters it has, got 'glyphs:classes=1'",
        ),
        ("glyphs:classes=9999", "with N from 2 to 5067"),
        *(
            (f"glyphs:classes={wrong}", "with N from 2 to 5067")
            for wrong in ("many", "1.5", "0", "-3", "nan", "²", "9" * 5000)
        ),
        ("glyphs:split=face:split=face", "split is given twice"),
        ("glyphs::", "expected glyphs:name=value"),
        ("glyphs:script=nko:split=script", "too few scripts"),
        ("glyphs:script=hiragana", "too few characters"),
        ("glyhps", "'glyhps' is not known; did you mean 'glyphs'"),
    ],
)
def test_refused_names(drawn, data, message):
    with pytest.raises(InputError, match=message):
        load(data)


def test_other_sizes_are_drawn_not_resized(few):
    small, large = draw_glyphs(8), draw_glyphs(65)
    assert small.images.pixels.shape[1:] == (1, 8, 8)
    assert large.images.pixels.shape[1:] == (1, 65, 65)
    assert large.images.pixels.amax() > 250


@pytest.mark.usefixtures("plain_shapes")
def test_numbers_are_refused_by_name():
    for size in (7, 0, 8.5, float("nan"), "28", True):
        with pytest.raises(InputError, match="size: expected a whole number of at least 8, got "):
            draw_glyphs(size)
    for seed in (1.5, float("nan"), "0", 2**63):
        with pytest.raises(InputError, match="seed: expected a whole number"):
            load_glyphs("glyphs:script=greek", seed=seed)


def stored(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def count_drawings(monkeypatch) -> list[int]:
    sizes = []
    draw = glyphs._draw_all
    monkeypatch.setattr(glyphs, "_draw_all", lambda size: sizes.append(size) or draw(size))
    return sizes


def test_drawn_once(few, monkeypatch):
    sizes = count_drawings(monkeypatch)
    first, again = draw_glyphs(), draw_glyphs()
    assert sizes == [28]
    assert torch.equal(first.images.pixels, again.images.pixels)
    first.images.pixels[:] = 0
    assert draw_glyphs().images.pixels.any()


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "a flipped bit":
        content[len(content) // 2] ^= 1
    elif how == "cut short":
        del content[-1000:]
    elif how == "empty":
        content.clear()
    else:
        content[:] = b"not these tensors" * 100
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["a flipped bit", "cut short", "empty", "something else"])
def test_a_damaged_file_is_drawn_again(few, monkeypatch, how):
    whole = draw_glyphs().images.pixels.clone()
    sizes = count_drawings(monkeypatch)
    damage(stored(few), how)
    assert torch.equal(draw_glyphs().images.pixels, whole)
    draw_glyphs()
    assert sizes == [28]


@pytest.mark.parametrize("part", ["fonts", "code", "library"])
def test_whatever_decides_the_pixels_names_the_file(few, tmp_path, monkeypatch, part):
    before = glyphs._key()
    if part == "fonts":
        monkeypatch.setattr(glyphs, "FACES", {"Sans": "DejaVuSans.ttf"})
    elif part == "code":
        (tmp_path / "glyphs.py").write_text("changed")
        monkeypatch.setattr(glyphs, "__file__", str(tmp_path / "glyphs.py"))
    else:
        monkeypatch.setattr(glyphs, "pillow_version", "0")
    assert glyphs._key() != before


def test_a_cache_that_cannot_be_written_to(few, tmp_path, monkeypatch):
    few.write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        draw_glyphs()
    few.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *given: False)
        with pytest.raises(InputError, match="is not writable"):
            draw_glyphs()
    draw_glyphs()
    monkeypatch.setattr(os, "access", lambda *given: False)
    assert len(draw_glyphs().images)  # what is there can be read


def test_missing_fonts(monkeypatch):
    monkeypatch.setattr(glyphs, "FACES", {"Gone": "Gone.ttf"})
    with pytest.raises(InputError, match=r"glyphs: matplotlib's fonts are not in .*: Gone\.ttf"):
        draw_glyphs()


def draw_slowly(barrier, log: Path, sums) -> None:
    draw = glyphs._draw_all

    def slowly(size):
        with log.open("a") as file:
            file.write("drawn ")
        time.sleep(0.5)
        return draw(size)

    glyphs._draw_all = slowly
    barrier.wait()
    sums.put(int(draw_glyphs().images.pixels.sum()))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_that_start_together_draw_once(few, tmp_path):
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    barrier, sums = context.Barrier(2), context.Queue()
    both = [context.Process(target=draw_slowly, args=(barrier, log, sums)) for _ in range(2)]
    for process in both:
        process.start()
    got = [sums.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert got == [int(draw_glyphs().images.pixels.sum())] * 2
    assert log.read_text() == "drawn "
    assert [path.suffix for path in sorted(few.iterdir())] == [".lock", ".safetensors"]


def test_the_examples_of_the_page_run(drawn):
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert examples
    for code in examples:
        exec(compile(code, "docs/glyphs.md", "exec"), {})


def commands() -> list[str]:
    return re.findall(r"^    (counterpoise .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_page_are_read_and_their_data_is_there(drawn, command, monkeypatch):
    called = []
    monkeypatch.setattr(
        cli, "call", lambda *given: called.append(given) or {"metrics": {}, "warnings": [], "folder": ""}
    )
    words = shlex.split(command)
    cli.run(words[1:])
    assert called
    data = next(word for word in words if word.startswith("glyphs"))
    assert len(loaded(data).test)


def test_the_figures_of_the_page(drawn):
    counts = torch.bincount(drawn.images.labels)
    listed = re.findall(r"^\| (\d+) \| [\d,]+ \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert listed == [(n, f"{int((counts >= int(n)).sum()):,}") for n, _ in listed]
    assert len(listed) >= 5
    rows = re.findall(r"^\| `split=(\w+)` \|.*\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert {split for split, *_ in rows} == set(SPLITS)
    for split, classes, *sizes in rows:
        splits = loaded(f"glyphs:split={split}")
        assert [classes, *sizes] == [f"{n:,}" for n in (len(splits.train.classes), *map(len, splits))]
    assert f"{len(drawn.images):,} pictures of {len(drawn.characters):,} characters" in " ".join(PAGE.split())
