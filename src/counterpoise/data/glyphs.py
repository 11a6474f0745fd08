"""Glyphs: every character that matplotlib's own fonts draw, in up to 16 faces; thousands of classes with names.

DejaVu and STIX come with matplotlib, so nothing is downloaded. The class of an image is its character, its domain the
face it is drawn in, its name the one that Unicode gives it, and its attributes are read from that name. Images are
rendered once for each size and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from counterpoise.data.images import Images, Splits, cache_folder
from counterpoise.errors import InputError, unknown
from counterpoise.fingerprint import fingerprint
from counterpoise.ops.checks import check_number

FACES = {
    "DejaVu Sans": "DejaVuSans",
    "DejaVu Sans Bold": "DejaVuSans-Bold",
    "DejaVu Sans Oblique": "DejaVuSans-Oblique",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique",
    "DejaVu Sans Mono": "DejaVuSansMono",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold",
    "DejaVu Sans Mono Oblique": "DejaVuSansMono-Oblique",
    "DejaVu Sans Mono Bold Oblique": "DejaVuSansMono-BoldOblique",
    "DejaVu Serif": "DejaVuSerif",
    "DejaVu Serif Bold": "DejaVuSerif-Bold",
    "DejaVu Serif Italic": "DejaVuSerif-Italic",
    "DejaVu Serif Bold Italic": "DejaVuSerif-BoldItalic",
    "STIX": "STIXGeneral",
    "STIX Bold": "STIXGeneralBol",
    "STIX Italic": "STIXGeneralItalic",
    "STIX Bold Italic": "STIXGeneralBolIta",
}
SIZE = 28
# One scale and one baseline for all, so that "c" and "C", or a comma and an apostrophe, stay different.
EM, BASELINE = 0.7, 0.73  # of the image's side
FEWEST = 2  # images of a character: one to learn from, one to judge by
HELD_OUT = 0.2  # of the faces, characters or scripts, where these are what test is made of
Split = Literal["image", "face", "character", "script"]
KINDS = {"L": "letter", "M": "mark", "N": "number", "P": "punctuation", "S": "symbol"}
NAME = re.compile(r"(?:LETTER|LIGATURE) (?P<base>.+?)(?: WITH (?P<marks>.+))?$")


class Attributes(NamedTuple):
    """What a character's Unicode name and category tell.

    Args:
        kind: "letter", "mark", "number", "punctuation" or "symbol".
        script: such as "latin"; `None` for what several scripts share.
        case: "capital" or "small"; `None` without either.
        base: the letter without case and diacritics, such as "a" or "alpha"; `None` for what is no letter.
        diacritics: such as ("circumflex", "acute").
    """

    kind: str
    script: str | None
    case: str | None
    base: str | None
    diacritics: tuple[str, ...]


def attributes(character: str) -> Attributes:
    """Read a character's attributes from its Unicode name.

    Raises:
        InputError: for more or less than one character, or one without a name.

    >>> attributes("á")
    Attributes(kind='letter', script='latin', case='small', base='a', diacritics=('acute',))
    >>> attributes("ᾅ")[1:]
    ('greek', 'small', 'alpha', ('dasia', 'oxia', 'ypogegrammeni'))
    >>> attributes("ﬁ")[2:], attributes("7")[:2], attributes("→")
    (('small', 'fi', ()), ('number', None), Attributes(kind='symbol', script=None, case=None, base=None, diacritics=()))
    """
    from fontTools.unicodedata import script, script_name

    if len(character) != 1 or not (name := unicodedata.name(character, "")):
        raise InputError(f"character: expected one that Unicode names, got {character!r}")
    words, found = name.split(), NAME.search(name)
    case = next((word.lower() for word in ("CAPITAL", "SMALL") if word in words), None)
    base, marks = (found["base"], found["marks"]) if found else (None, None)
    written = script_name(script(character)).lower()
    return Attributes(
        kind=KINDS.get(unicodedata.category(character)[0], "other"),
        script=None if written in ("common", "inherited", "unknown") else written,
        case=case,
        base=None if base is None else base.lower(),
        diacritics=() if marks is None else tuple(mark.lower() for mark in re.split(r" AND |, ", marks)),
    )


@dataclass(frozen=True, eq=False)
class Glyphs:
    """All images of all characters, in the order of characters and then of faces.

    Args:
        pixels: white on black; no two images of one character are the same.
        character: which of `characters` each image shows.
        face: which of `faces` it is drawn in.
        characters: in the order of their code points.
        faces: the names of the faces.

    >>> glyphs = render()
    >>> len(glyphs.characters) > 5000, glyphs.pixels.shape[1:]
    (True, torch.Size([1, 28, 28]))
    >>> wanted = attributes("á")._replace(case="capital", diacritics=("grave",))  # as this one, but capital, and grave
    >>> [glyphs.characters[i] for i in glyphs.find(wanted)]
    ['À']
    """

    pixels: UInt8[Tensor, "images 1 size size"]
    character: Int64[Tensor, " images"]
    face: Int64[Tensor, " images"]
    characters: tuple[str, ...]
    faces: tuple[str, ...] = tuple(FACES)

    @cached_property
    def attributes(self) -> tuple[Attributes, ...]:
        """Of each character."""
        return tuple(map(attributes, self.characters))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of each character, such as "LATIN SMALL LETTER A WITH ACUTE"."""
        return tuple(map(unicodedata.name, self.characters))

    def find(self, wanted: Attributes) -> list[int]:
        """The characters with just these attributes."""
        return [i for i, found in enumerate(self.attributes) if found == wanted]

    def subset(self, kept: Bool[Tensor, " characters"]) -> Glyphs:
        """Some of the characters, numbered anew."""
        rows, number = kept[self.character], kept.cumsum(0) - 1
        names = tuple(c for c, keep in zip(self.characters, kept.tolist(), strict=True) if keep)
        return Glyphs(self.pixels[rows], number[self.character[rows]], self.face[rows], names, self.faces)

    def images(self, rows: Bool[Tensor, " images"], name: str, note: str) -> Images:
        """Some of the images, with characters as classes; `paths` tell character and face."""
        index = rows.nonzero().flatten()
        paths = tuple(
            f"U+{ord(self.characters[c]):04X} {self.faces[f]}"
            for c, f in zip(self.character[index].tolist(), self.face[index].tolist(), strict=True)
        )
        return Images(self.pixels[index], self.character[index], self.names, name, (note,), paths)


def load_glyphs(options: str = "", size: int | None = None, seed: int = 0) -> Splits:
    """Glyphs split into train and test; what `load("glyphs")` and `load("glyphs:classes=200:split=character")` give.

    Args:
        options: `name=value`, with colons between. `classes`: only the first so many characters. `script`: only one
            script, such as "latin". `split`: what is held out for test: "image", one image of each character; "face",
            a fifth of the faces; "character" or "script", a fifth of the characters, or scripts with a fifth of them,
            which train then never shows.
        size: side of the images in pixels; 28 by default.
        seed: of what is held out.

    Returns:
        Images of 1 channel, with all characters as classes in both parts.

    Raises:
        InputError: for an unknown option or value.

    >>> train, test = load_glyphs("classes=50")
    >>> len(test), test.classes[33], len(train) > 400
    (50, 'LATIN CAPITAL LETTER B', True)
    """
    given = _parse(options)
    glyphs, held_out = render(size or SIZE), given.get("split", "image")
    if held_out not in get_args(Split):
        raise unknown("glyphs: split", held_out, get_args(Split))
    if "script" in given:
        scripts = [found.script for found in glyphs.attributes]
        if given["script"] not in scripts:
            raise unknown("glyphs: script", given["script"], [script for script in scripts if script])
        glyphs = glyphs.subset(torch.tensor([script == given["script"] for script in scripts]))
    if "classes" in given:
        if not given["classes"].isdecimal() or not 1 <= int(given["classes"]) <= len(glyphs.characters):
            there = len(glyphs.characters)
            raise InputError(f"glyphs: classes: expected a number from 1 to {there}, got '{given['classes']}'")
        glyphs = glyphs.subset(torch.arange(len(glyphs.characters)) < int(given["classes"]))
    test, note = _held_out(glyphs, held_out, torch.Generator().manual_seed(seed))
    if not test.any() or test.all():
        raise InputError(f"glyphs: split={held_out}: too few {held_out}s to hold any out; got '{options}'")
    name = f"glyphs:{options}" if options else "glyphs"
    return Splits(*(glyphs.images(rows, name, f"{note} held out for test") for rows in (~test, test)))


def _parse(options: str) -> dict[str, str]:
    given = {}
    for text in filter(None, options.split(":")):
        name, _, value = text.partition("=")
        if name not in ("classes", "script", "split"):
            raise unknown("glyphs: option", name, ("classes", "script", "split"))
        if not value:
            raise InputError(f"glyphs: expected {name}=VALUE, got '{text}'")
        given[name] = value
    return given


def _held_out(glyphs: Glyphs, what: str, generator: torch.Generator) -> tuple[Bool[Tensor, " images"], str]:
    """Which images are for test, and what they are in words."""
    if what == "image":
        # Of the images of each character, in an order drawn at random, the first.
        order = torch.randperm(len(glyphs.character), generator=generator)
        test = torch.zeros(len(order), dtype=torch.bool)
        test[order[_first_of_each(glyphs.character[order])]] = True
        return test, "one image of each character"
    if what == "face":
        some = torch.randperm(len(glyphs.faces), generator=generator)[: round(HELD_OUT * len(glyphs.faces))]
        return torch.isin(glyphs.face, some), f"the faces {', '.join(sorted(glyphs.faces[i] for i in some))}"
    groups = [str(found.script) for found in glyphs.attributes] if what == "script" else list(glyphs.characters)
    names = sorted(set(groups))
    chosen: set[str] = set()
    room = HELD_OUT * len(glyphs.characters)
    for i in torch.randperm(len(names), generator=generator).tolist():
        if sum(group in chosen or group == names[i] for group in groups) <= room:
            chosen.add(names[i])
    told = f"the scripts {', '.join(sorted(chosen))}" if what == "script" else f"{len(chosen):,} characters"
    return torch.tensor([group in chosen for group in groups])[glyphs.character], told


def _first_of_each(values: Int64[Tensor, " n"]) -> Int64[Tensor, " distinct"]:
    """Where each value occurs first."""
    order = values.sort(stable=True)
    starts = torch.ones(len(values), dtype=torch.bool)
    starts[1:] = order.values[1:] != order.values[:-1]
    return order.indices[starts]


@lru_cache(maxsize=2)
def render(size: int = SIZE) -> Glyphs:
    """All glyphs at one size; from the cache folder where they are there, whole, and of this code and these fonts.

    Args:
        size: side of the images in pixels, from 8 to 256.

    Raises:
        InputError: for a size out of range, or a cache folder that cannot be written to.
    """
    check_number("size", size, at_least=8, at_most=256)
    folder = cache_folder() / f"glyphs-{size}-{_stamp()}"
    with FileLock(folder.with_suffix(".lock")):  # of two processes that start together, one renders
        glyphs = _read(folder)
        if glyphs is None:
            _write(folder, size)
            glyphs = _read(folder)
    if glyphs is None:
        raise InputError(f"{folder}: cannot be read back; set COUNTERPOISE_CACHE to another folder")
    return glyphs


def _stamp() -> str:
    """Changes with the fonts, the library that draws them, and this code."""
    digest = hashlib.sha256(f"{features.version('freetype2')} {fingerprint(['data.glyphs'])}".encode())
    for file in map(_file, FACES.values()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _read(folder: Path) -> Glyphs | None:
    """What is in the cache; `None` where it is missing or damaged."""
    try:
        pixels = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)  # changes stay in this process
        character, face, codes = (np.load(folder / f"{name}.npy") for name in ("character", "face", "codes"))
    except (OSError, ValueError, EOFError):
        return None
    if not len(pixels) == len(character) == len(face):
        return None
    characters = tuple(map(chr, codes.tolist()))
    return Glyphs(torch.from_numpy(pixels), torch.from_numpy(character), torch.from_numpy(face), characters)


def _write(folder: Path, size: int) -> None:
    """Draw everything into a folder aside, which then takes its place."""
    aside = folder.with_suffix(f".{os.getpid()}.part")
    for old in (aside, folder):
        shutil.rmtree(old, ignore_errors=True)
    drawn = sorted(_draw_all(size), key=lambda glyph: glyph[:2])
    codes, character = np.unique([code for code, *_ in drawn], return_inverse=True)
    enough = np.bincount(character)[character] >= FEWEST
    drawn = [glyph for glyph, keep in zip(drawn, enough, strict=True) if keep]
    codes, character = np.unique([code for code, *_ in drawn], return_inverse=True)
    pixels = np.stack([pixels for *_, pixels in drawn])[:, None]
    cache_folder(pixels.nbytes)
    try:
        aside.mkdir()
        arrays = {"pixels": pixels, "character": character, "face": np.array([face for _, face, _ in drawn])}
        for name, array in {**arrays, "codes": codes}.items():
            np.save(aside / f"{name}.npy", array)
        os.replace(aside, folder)
    except OSError as error:
        raise InputError(f"cache folder {folder.parent}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _draw_all(size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Code point, face and pixels of every glyph; of equal images of one character only the first face's."""
    from fontTools.ttLib import TTFont

    seen: set[tuple[int, bytes]] = set()
    for number, file in enumerate(map(_file, FACES.values())):
        fonts = _Fonts(file, size)
        for code in sorted(TTFont(file, lazy=True).getBestCmap()):
            if not unicodedata.name(chr(code), "") or unicodedata.category(chr(code))[0] in "ZC":
                continue  # spaces, controls, and what is for private use
            pixels = fonts.draw(chr(code))
            key = (code, pixels.tobytes())
            if pixels.any() and key not in seen:
                seen.add(key)
                yield code, number, pixels


class _Fonts:
    """One face at one scale, and at smaller ones for the few glyphs that are too large for the image."""

    def __init__(self, file: Path, size: int):
        self.file, self.size = file, size
        self.fonts: dict[int, ImageFont.FreeTypeFont] = {}

    def font(self, pixels: int) -> ImageFont.FreeTypeFont:
        if pixels not in self.fonts:
            layout = ImageFont.Layout.BASIC  # glyph by glyph, whatever else is installed
            self.fonts[pixels] = ImageFont.truetype(self.file, pixels, layout_engine=layout)
        return self.fonts[pixels]

    def draw(self, character: str) -> UInt8[np.ndarray, "size size"]:
        """In the middle, on the baseline; moved up or down where it would stick out."""
        pixels = round(EM * self.size)
        left, top, right, bottom = self.font(pixels).getbbox(character, anchor="ls")
        while max(right - left, bottom - top) > self.size and pixels > 1:
            pixels -= 1
            left, top, right, bottom = self.font(pixels).getbbox(character, anchor="ls")
        baseline = min(max(round(BASELINE * self.size), -top), self.size - bottom)
        image = Image.new("L", (self.size, self.size))
        at = ((self.size - right - left) // 2, baseline)
        ImageDraw.Draw(image).text(at, character, 255, self.font(pixels), anchor="ls")
        return np.asarray(image)


def _file(name: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
