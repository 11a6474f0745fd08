"""Glyphs: the characters that matplotlib's DejaVu and STIX fonts draw, in up to sixteen faces.

Thousands of classes with names in plain language, few images of each, domains (the faces), and attributes that
compose: the same letter, capital, with a grave accent. Drawn once for each size and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont, features
from PIL import __version__ as pillow_version
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from counterpoise.data.images import Images, Splits, allocate, cache_folder, cache_path
from counterpoise.errors import InputError, unknown
from counterpoise.files import written
from counterpoise.ops.checks import check_number

FACES = {
    "DejaVu Sans": "DejaVuSans.ttf",
    "DejaVu Sans Bold": "DejaVuSans-Bold.ttf",
    "DejaVu Sans Oblique": "DejaVuSans-Oblique.ttf",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique.ttf",
    "DejaVu Sans Mono": "DejaVuSansMono.ttf",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold.ttf",
    "DejaVu Sans Mono Oblique": "DejaVuSansMono-Oblique.ttf",
    "DejaVu Sans Mono Bold Oblique": "DejaVuSansMono-BoldOblique.ttf",
    "DejaVu Serif": "DejaVuSerif.ttf",
    "DejaVu Serif Bold": "DejaVuSerif-Bold.ttf",
    "DejaVu Serif Italic": "DejaVuSerif-Italic.ttf",
    "DejaVu Serif Bold Italic": "DejaVuSerif-BoldItalic.ttf",
    "STIX": "STIXGeneral.ttf",
    "STIX Bold": "STIXGeneralBol.ttf",
    "STIX Italic": "STIXGeneralItalic.ttf",
    "STIX Bold Italic": "STIXGeneralBolIta.ttf",
}
"""The faces with more than a thousand characters, and their files among matplotlib's."""

SIZE, SMALLEST = 28, 8
# All faces share one scale and one baseline, so that o and O, comma and apostrophe stay apart.
EM, BASELINE, MARGIN = 0.8, 0.77, 1 / 28  # shares of the image's side
FINER = 4  # glyphs are drawn so many times larger and averaged
ALIKE = 16  # of 255: where no pixel differs by more, a face repeats another's drawing
TEST_SHARE = 0.2
LAST_SEED = (1 << 63) - 1  # of a generator

OPTIONS = ("classes", "script", "split")
SPLITS = ("face", "family", "style", "character", "script")
SCRIPTS = (
    *("arabic", "armenian", "braille", "canadian syllabics", "coptic", "cyrillic", "georgian", "greek", "hebrew"),
    *("hiragana", "lao", "latin", "lisu", "nko", "ogham", "old italic", "tifinagh"),
)
"""The scripts that the faces draw characters of."""

KINDS = {"L": "letter", "M": "mark", "N": "number", "P": "punctuation", "S": "symbol"}  # by Unicode's general category
SCRIPT = re.compile(rf"\b({'|'.join(SCRIPTS).upper()})(?:-INDIC)?\b(?! CROSS)")
FORM = re.compile(r" ((?:ISOLATED|INITIAL|MEDIAL|FINAL) FORM)$")
NAMED = re.compile(
    r"(?P<variant>.*?)(?<![\w-])(?:(?P<case>CAPITAL|SMALL) )?(?:LETTER|LIGATURE|DIGIT|NUMBER|NUMERAL) "
    r"(?:(?P<late>SMALL CAPITAL|CAPITAL|SMALL) )?(?P<base>.+)"
)
UNNAMED = {  # letters and numbers whose names do not say that they are
    "letter": re.compile(r"(?P<variant>.*?)\b(?P<case>CAPITAL|SMALL) (?P<base>.+)"),
    "number": re.compile(r"(?P<variant>SUPERSCRIPT|SUBSCRIPT|VULGAR FRACTION) (?P<base>.+)"),
}


@dataclass(frozen=True)
class Attributes:
    """What a character's Unicode name says of it.

    Args:
        kind: "letter", "ligature", "mark", "number", "punctuation" or "symbol".
        script: one of `SCRIPTS`; None where the name says none of them.
        case: "capital", "small" or "small capital"; None without case.
        base: the letter or number below all diacritics, as Unicode names it ("A", "ALPHA", "SHARP S"); None for others.
        diacritics: in the order of the name ("dot above", "macron").
        variant: what else the name says of the form ("mathematical bold", "circled", "final form"); None: nothing.
    """

    kind: str
    script: str | None = None
    case: str | None = None
    base: str | None = None
    diacritics: tuple[str, ...] = ()
    variant: str | None = None


class Character(NamedTuple):
    """A class: the character, its Unicode name and what that says."""

    char: str
    name: str
    attributes: Attributes


@dataclass(frozen=True, eq=False)
class Glyphs:
    """All pictures of all characters, sorted by character, then by face; a face that repeats another's is left out.

    Args:
        images: `labels` and `classes` stand for `characters`; memory-mapped from the cache folder.
        faces: of each image, an index into `FACES`: its domain.
        drawings: of each image, a number that is the same for images with the same pixels, as those of A and Alpha.
        characters: in the order of their code points.
    """

    images: Images
    faces: Int64[Tensor, " images"]
    drawings: Int64[Tensor, " images"]
    characters: tuple[Character, ...]

    def find(self, like: str | None = None, **wanted: Any) -> tuple[int, ...]:
        """The labels of the characters with the wanted attributes.

        Args:
            like: a character whose other attributes are wanted too.
            **wanted: values of `Attributes`, by name.

        Raises:
            InputError: for an attribute that there is not, or where `like` is not one named character.

        Examples:
            >>> glyphs = draw_glyphs()
            >>> [glyphs.characters[label].char for label in glyphs.find("á", case="capital", diacritics=("grave",))]
            ['À']
            >>> len(glyphs.find(script="greek", case="small", base="ALPHA"))
            27
        """
        for name in wanted:
            if name not in Attributes.__dataclass_fields__:
                raise unknown("attribute", name, Attributes.__dataclass_fields__)
        wanted = {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
        if like is not None:
            wanted = vars(replace(attributes_of(like), **wanted))
        return tuple(
            label
            for label, character in enumerate(self.characters)
            if all(getattr(character.attributes, name) == value for name, value in wanted.items())
        )


def attributes_of(character: str) -> Attributes:
    """What a character's Unicode name says of it; a function of the name and the general category alone.

    Args:
        character: one character that Unicode names; `unicodedata.lookup` gives that of a name.

    Raises:
        InputError: for a text that is not one character, or a character without a name.

    Examples:
        >>> attributes_of("á")
        Attributes(kind='letter', script='latin', case='small', base='A', diacritics=('acute',), variant=None)
        >>> attributes_of("ΐ").base, attributes_of("ΐ").diacritics
        ('IOTA', ('dialytika', 'tonos'))
        >>> attributes_of("ﬁ").kind, attributes_of("ﬁ").base, attributes_of("⑦").base, attributes_of("→").kind
        ('ligature', 'FI', 'SEVEN', 'symbol')
        >>> attributes_of(unicodedata.lookup("MATHEMATICAL BOLD CAPITAL A")).variant
        'mathematical bold'
    """
    name = unicodedata.name(character, None) if isinstance(character, str) and len(character) == 1 else None
    if name is None:
        raise InputError(f"character: expected one character that Unicode names, got {character!r}")
    kind = KINDS.get(unicodedata.category(character)[0], "symbol")
    script, form = SCRIPT.search(name), FORM.search(name)
    rest = FORM.sub("", SCRIPT.sub("", name)).strip()
    match = NAMED.fullmatch(rest) or (UNNAMED[kind].fullmatch(rest) if kind in UNNAMED else None)
    said = match.groupdict("") if match else {}
    base = said.get("base", rest if kind == "letter" else None)
    diacritics: tuple[str, ...] = ()
    if kind == "letter" and "LIGATURE" in rest:
        kind = "ligature"
    elif base and "LETTER" not in base:  # as it is in D WITH SMALL LETTER Z
        base, _, above = base.partition(" WITH ")
        diacritics = tuple(above.lower().split(" and ")) if above else ()
    variant = f"{said.get('variant', '')}{form[1] if form else ''}".strip().lower()
    case = (said.get("case") or said.get("late") or "").lower()
    return Attributes(kind, script[1].lower() if script else None, case or None, base, diacritics, variant or None)


def load_glyphs(data: str = "glyphs", size: int | None = None, seed: int = 0) -> Splits:
    """Glyphs to learn from and to judge by; no test image equals any other image.

    `data` is `glyphs`, with options as in `glyphs:split=character:script=greek`:

    - `split=face`: of each character a fifth of its faces, at least one, drawn by the seed, is for test.
    - `split=family`: the STIX faces are for test, the DejaVu faces for train.
    - `split=style`: the eight faces with serifs (DejaVu Serif and STIX) are for test, the eight without for train.
    - `split=character`: a fifth of the characters, drawn by the seed, is for test and never in train.
    - `split=script`: likewise whole scripts; characters without one are in train.
    - `script=NAME`: the characters of one script, with hyphens for spaces (`canadian-syllabics`).
    - `classes=N`: the first N, in the order of their code points, of the characters with enough images.

    Enough images are three, one of them unlike all others, for `split=face`; two in train and one in test for
    `split=family`; two in each for `split=style`; two that are unlike all others for the other two. The face of an
    image is its factor "domain".

    Args:
        data: the name with its options.
        size: height and width in pixels, at least 8; None: 28.
        seed: of what is drawn.

    Raises:
        InputError: for an unknown option or value, a number out of range, or when there are too few characters for it.

    Examples:
        >>> train, test = load_glyphs("glyphs:script=latin:classes=26")
        >>> test.pixels.shape, test.classes[25], test.counts()[25].item(), train.counts()[25].item()
        (torch.Size([78, 1, 28, 28]), 'LATIN CAPITAL LETTER Z', 3, 13)
    """
    check_number("seed", seed, at_least=-LAST_SEED, at_most=LAST_SEED, whole=True)
    options = _options(data)
    split = options.get("split", "face")
    glyphs = draw_glyphs(SIZE if size is None else size)
    labels = glyphs.images.labels
    chosen = _of_script(glyphs, options.get("script"))
    chosen &= _enough(glyphs, split, _unlike_others(glyphs, chosen[labels]))
    chosen = _first_classes(chosen, options, data)
    used = chosen[labels]
    unlike = used & _unlike_others(glyphs, used)
    held = _held(glyphs, split, chosen, unlike, torch.Generator().manual_seed(seed))
    if not (held & unlike).any() or not (used & ~held).any():
        raise InputError(f"data: {data} has too few {'scripts' if split == 'script' else 'characters'} to hold any out")
    return Splits(*(_part(glyphs, chosen, part, data, split) for part in (used & ~held, held & unlike)))


def draw_glyphs(size: int = SIZE) -> Glyphs:
    """Every character with a Unicode name that any of the faces draws; controls and spaces are left out.

    Drawn at the first call for a size, in seconds, and kept in the cache folder, where a damaged file is drawn again.

    Args:
        size: height and width in pixels, at least 8.

    Raises:
        InputError: for a smaller size, missing fonts, or a cache folder that cannot be written to.

    Examples:
        >>> glyphs = draw_glyphs()
        >>> glyphs.images.classes[0], list(FACES)[glyphs.faces[0]], glyphs.characters[0].char
        ('EXCLAMATION MARK', 'DejaVu Sans', '!')
    """
    check_number("size", size, at_least=SMALLEST, whole=True)
    path = cache_path() / f"glyphs-{size}-{_key()}.safetensors"
    stored = _read(path)
    if stored is None:
        cache_folder(room=_most() * (size**2 + 13))
        with FileLock(path.with_suffix(".lock")):
            stored = _read(path)  # another process may have drawn them meanwhile
            if stored is None:
                stored = _draw_all(size)
                _write(path, stored)
                stored = _read(path) or stored
    codes, labels = stored["codes"].unique(return_inverse=True)
    characters = tuple(_character(chr(code)) for code in codes.tolist())
    names, faces = tuple(character.name for character in characters), stored["faces"].long()
    paths = tuple(
        f"U+{code:04X} {tuple(FACES)[face]}"
        for code, face in zip(stored["codes"].tolist(), faces.tolist(), strict=True)
    )
    images = Images(stored["pixels"], labels, names, "glyphs", paths=paths)
    return Glyphs(images, faces, stored["drawings"], characters)


def _character(char: str) -> Character:
    return Character(char, unicodedata.name(char), attributes_of(char))


def _options(data: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in data.split(":")[1:]:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise InputError(f"data: expected glyphs:name=value with {', '.join(OPTIONS)} as names, got '{data}'")
        if name not in OPTIONS:
            raise unknown("option of glyphs", name, OPTIONS)
        if name in options:
            raise InputError(f"data: {name} is given twice in '{data}'")
        options[name] = value
    for name, known in (("split", SPLITS), ("script", [script.replace(" ", "-") for script in SCRIPTS])):
        if name in options and options[name] not in known:
            raise unknown(f"{name} of glyphs", options[name], known)
    return options


def _of_script(glyphs: Glyphs, script: str | None) -> Bool[Tensor, " characters"]:
    wanted = script and script.replace("-", " ")
    return torch.tensor([wanted in (None, character.attributes.script) for character in glyphs.characters])


def _unlike_others(glyphs: Glyphs, used: Bool[Tensor, " images"]) -> Bool[Tensor, " images"]:
    """Whether no other of the used images has the same pixels; false for images that are not used."""
    _, drawing, counts = glyphs.drawings[used].unique(return_inverse=True, return_counts=True)
    unlike = used.clone()
    unlike[used] = counts[drawing] == 1
    return unlike


def _in_stix(glyphs: Glyphs) -> Bool[Tensor, " images"]:
    return glyphs.faces >= list(FACES).index("STIX")


def _has_serifs(glyphs: Glyphs) -> Bool[Tensor, " images"]:
    return torch.tensor(["Sans" not in face for face in FACES])[glyphs.faces]


def _enough(glyphs: Glyphs, split: str, unlike: Bool[Tensor, " images"]) -> Bool[Tensor, " characters"]:
    """Whether a character has images for train, two of them so that a probe can have one, and for test."""

    def count(images: Tensor) -> Tensor:
        return torch.bincount(glyphs.images.labels[images], minlength=len(glyphs.characters))

    if split == "face":
        return (count(torch.ones_like(unlike)) >= 3) & (count(unlike) >= 1)
    if split == "family":
        return (count(~_in_stix(glyphs)) >= 2) & (count(unlike & _in_stix(glyphs)) >= 1)
    if split == "style":
        return (count(~_has_serifs(glyphs)) >= 2) & (count(unlike & _has_serifs(glyphs)) >= 2)
    return count(unlike) >= 2


def _first_classes(
    chosen: Bool[Tensor, " characters"], options: dict[str, str], data: str
) -> Bool[Tensor, " characters"]:
    most, wanted = int(chosen.sum()), options.get("classes")
    if wanted is None:
        return chosen
    if not wanted.isdecimal() or len(wanted) > 9 or not 2 <= int(wanted) <= most:
        raise InputError(f"data: expected classes=N with N from 2 to {most}, the characters it has, got '{data}'")
    return chosen & (chosen.cumsum(0) <= int(wanted))


def _held(
    glyphs: Glyphs,
    split: str,
    chosen: Bool[Tensor, " characters"],
    unlike: Bool[Tensor, " images"],
    generator: torch.Generator,
) -> Bool[Tensor, " images"]:
    """The images that are kept out of train."""
    labels = glyphs.images.labels
    if split == "family":
        return _in_stix(glyphs)
    if split == "style":
        return _has_serifs(glyphs)
    if split == "face":
        order = torch.randperm(len(labels), generator=generator)
        order = order[(~unlike[order]).int().argsort(stable=True)]  # those that could be for test first
        order = order[labels[order].argsort(stable=True)]
        counts = torch.bincount(labels, minlength=len(chosen))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]
        return unlike & (place < (TEST_SHARE * counts).round().clamp(min=1)[labels])
    held = torch.zeros_like(chosen)
    most = max(1, round(TEST_SHARE * int(chosen.sum())))
    for group in _groups(glyphs, split, chosen, generator):
        if int(held.sum()) + len(group) <= most:
            held[group] = True
    return held[labels]


def _groups(
    glyphs: Glyphs, split: str, chosen: Bool[Tensor, " characters"], generator: torch.Generator
) -> list[list[int]]:
    """The characters that are held out together, one by one or whole scripts, in an order drawn at random."""
    groups: dict[Any, list[int]] = {}
    for label in chosen.nonzero().flatten().tolist():
        script = glyphs.characters[label].attributes.script
        if split == "character" or script:
            groups.setdefault(label if split == "character" else script, []).append(label)
    return [list(groups.values())[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def _part(
    glyphs: Glyphs, chosen: Bool[Tensor, " characters"], part: Bool[Tensor, " images"], data: str, split: str
) -> Images:
    """The images of one side, with the chosen characters as classes."""
    listed = {
        "face": "a fifth of the faces of each, at least one, drawn by the seed, is for test",
        "family": "the STIX faces are for test",
        "style": "the faces with serifs are for test",
        "character": "a fifth of them, drawn by the seed, is for test and never in train",
        "script": "whole scripts, drawn by the seed, are for test and never in train",
    }[split]
    kept = chosen.nonzero().flatten().tolist()
    images = glyphs.images.subset(part.nonzero().flatten())
    return replace(
        images,
        labels=(chosen.cumsum(0) - 1)[images.labels],
        classes=tuple(glyphs.characters[label].name for label in kept),
        name=data,
        factors={"domain": glyphs.faces[part]},
        factor_names={"domain": tuple(FACES)},
        notes=(
            f"glyphs: {len(kept):,} characters in {len(FACES)} faces; {listed}",
            "glyphs: what several characters share, as A and Alpha in one face, is never in test",
        ),
    )


def _font_files() -> list[Path]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [folder / file for file in FACES.values()]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(f"glyphs: matplotlib's fonts are not in {folder}: {', '.join(missing)}")
    return files


def _key() -> str:
    """Changes with all that decides the pixels: the fonts, this file, and the libraries that draw and name."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in _font_files():
        digest.update(file.read_bytes())
    digest.update(f"{pillow_version} {features.version('freetype2')} {unicodedata.unidata_version}".encode())
    return digest.hexdigest()[:16]


def _charmaps() -> tuple[frozenset[int], ...]:
    """The code points that each face draws, without controls, spaces and what Unicode does not name."""
    from matplotlib.ft2font import FT2Font

    return tuple(
        frozenset(code for code in FT2Font(str(file)).get_charmap() if _is_drawn(chr(code))) for file in _font_files()
    )


def _is_drawn(char: str) -> bool:
    return unicodedata.category(char)[0] not in "CZ" and unicodedata.name(char, None) is not None


def _most() -> int:
    return sum(map(len, _charmaps()))


Stored = dict[str, Tensor]


def _draw_all(size: int) -> Stored:
    """All pictures, with the code point, the face and the drawing of each."""
    pixels = allocate((_most(), 1, size, size))
    codes: list[int] = []
    faces: list[int] = []
    drawings: list[int] = []
    for code, face, picture in _pictures(size):
        pixels[len(codes), 0] = torch.from_numpy(picture)
        codes.append(code)
        faces.append(face)
        drawings.append(int.from_bytes(hashlib.blake2b(picture.tobytes(), digest_size=8).digest(), "big", signed=True))
    return {
        "pixels": pixels[: len(codes)],
        "codes": torch.tensor(codes, dtype=torch.int32),
        "faces": torch.tensor(faces, dtype=torch.uint8),
        "drawings": torch.tensor(drawings),
    }


def _pictures(size: int) -> Iterator[tuple[int, int, UInt8[np.ndarray, "size size"]]]:
    """Code point, face and picture, without those that repeat an earlier face's."""
    em = EM * size * FINER
    fonts = [ImageFont.truetype(file, em, layout_engine=ImageFont.Layout.BASIC) for file in _font_files()]
    charmaps = _charmaps()
    kept = np.empty((len(fonts), size, size), np.uint8)
    for code in sorted(frozenset().union(*charmaps)):
        count = 0
        for face, font in enumerate(fonts):
            picture = _picture(font, chr(code), size) if code in charmaps[face] else None
            if picture is None or _is_among(picture, kept[:count]):
                continue
            kept[count], count = picture, count + 1
            yield code, face, picture


def _is_among(picture: np.ndarray, others: np.ndarray) -> bool:
    apart = np.maximum(picture, others) - np.minimum(picture, others)
    return bool((apart.max((1, 2)) <= ALIKE).any())


def _picture(font: ImageFont.FreeTypeFont, char: str, size: int) -> UInt8[np.ndarray, "size size"] | None:
    """White on black: the ink centred between the sides, on the baseline; moved or shrunk where it would not fit."""
    left, top, right, bottom = map(int, font.getbbox(char, anchor="ls"))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), char, 255, font, anchor="ls")
    box = drawn.getbbox()
    if box is None:
        return None
    ink, upper = drawn.crop(box), round(BASELINE * size * FINER) + top + box[1]
    side, margin = size * FINER, round(MARGIN * size * FINER)
    ink.thumbnail((side - 2 * margin, side - 2 * margin), Image.Resampling.BOX)
    sheet = Image.new("L", (side, side))
    sheet.paste(ink, ((side - ink.width) // 2, min(max(upper, margin), side - margin - ink.height)))
    return np.array(sheet.reduce(FINER))


def _write(path: Path, stored: Stored) -> None:
    with written(path) as aside:
        aside.write_bytes(save(stored, metadata={"crc": _checksum(stored)}))


def _read(path: Path) -> Stored | None:
    """Memory-mapped; None where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return stored if (file.metadata() or {}).get("crc") == _checksum(stored) else None
    except (OSError, SafetensorError):
        return None


def _checksum(stored: Stored) -> str:
    crc = 0
    for name in sorted(stored):
        crc = zlib.crc32(stored[name].numpy().data, crc)
    return f"{crc:08x}"
