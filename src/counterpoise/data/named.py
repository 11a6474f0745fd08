"""Named drawings to learn from and to judge by: icons of desktop themes, and emoji of several vendors.

Every class has a name in plain words, which a text encoder can read, and is drawn by several hands: the themes, or the
vendors, are domains. Nothing is downloaded: icons come from the system's themes (Debian packages), emoji from an
unpacked npm package. No drawing has two labels, and no test image repeats a training image (see `drawings`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from counterpoise.data.drawings import (
    ICONS,
    OTHER,
    SIZE,
    THEMES,
    Drawings,
    emoji_files,
    find_vendors,
    icon_files,
    read_emoji,
    read_icons,
)
from counterpoise.data.images import Images, Splits, map_pixels
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number

LEAST = 3  # drawings of a class: two to learn from, so that a probe can have one, and one to judge by
LEAST_APART = 2  # where whole themes or classes are held out
TEST_SHARE = 0.2
LAST_SEED = (1 << 63) - 1  # of a generator


@dataclass(frozen=True)
class Options:
    """What a name such as `icons:themes=tango,gnome:split=theme` asks for.

    Args:
        sources: names of themes, or folders of emoji.
        label: what is the class: "name", or "context"; of emoji "name", "category" or "subcategory".
        split: "drawing", "class", "name", and "theme" (of emoji "vendor").
        test: the themes or vendors that are for test; empty: a fifth of them, at least one, drawn by the seed.
        least: the fewest drawings of a class; None: 3 (or as many as there are themes) where classes are names and
            drawings of each are held out, else 2.
        classes: how many classes: those with the most drawings, then in the order of their names; None: all.
        context: the contexts (of emoji: categories) whose drawings are taken; empty: all.
    """

    sources: tuple[str, ...]
    label: str = "name"
    split: str = "drawing"
    test: tuple[str, ...] = ()
    least: int | None = None
    classes: int | None = None
    context: tuple[str, ...] = ()


class Kind(NamedTuple):
    """How the two kinds of named drawings differ in their options."""

    domain: str
    labels: tuple[str, ...]


KINDS = {
    "icons": Kind("theme", ("name", "context")),
    "emoji": Kind("vendor", ("name", "category", "subcategory")),
}
LISTED = ("themes", "test", "context")  # options of several values, between commas
NUMBERS = ("least", "classes")


def load_icons(data: str = "icons", size: int | None = None, seed: int = 0, root: str | Path = ICONS) -> Splits:
    """Icons of the system's themes to learn from and to judge by; no test image repeats any other image.

    `data` is `icons`, with options as in `icons:themes=tango,gnome,oxygen:split=theme:classes=200`:

    - `themes=NAMES`: some of `THEMES`, or of the folders of `root`; without it, all of `THEMES`.
    - `split=drawing`: a fifth of the drawings of each class, at least one, drawn by the seed, is for test: the default.
    - `split=theme`: whole themes are for test: those that `test=NAMES` gives, or a fifth of them, at least one, drawn
      by the seed. Where classes are names, those are taken that both sides draw.
    - `split=class`: a fifth of the classes, drawn by the seed, is for test and never in train.
    - `split=name`: likewise of the names, where classes are contexts.
    - `label=context`: the class is the freedesktop context (actions, devices, places, …) instead of the icon's name.
    - `least=N`: classes of at least N drawings: of names that is the number of themes that draw them. Without it names
      have 3 with `split=drawing`, or as many as there are themes, else 2; so have contexts.
    - `classes=N`: the N classes with the most drawings, then in the order of their names.
    - `context=NAMES`: the drawings of some contexts only.

    Names are those of the files in plain words: `x-office-document` is "office document". Where two names have the same
    drawing in two themes or more (in one, where it is the only one), they are one class, with the name that most themes
    have. A theme's drawing that repeats an earlier theme's is left out; one that several classes share belongs to the
    one whose own file it is, not a link, and is left out where that is not one of them. The notes give all counts.

    Drawings are laid on white. The factor `domain` is the theme, `context` the context that most themes give the class.

    Args:
        data: the name with its options.
        size: height and width in pixels, at least 8; None: 32. Files are of 48 pixels, or of 32.
        seed: of what is drawn.
        root: the folder of all themes.

    Raises:
        InputError: for an unknown option or value, a theme that is not there (the message names the Debian package), or
            too few drawings.

    Examples:
        >>> load_icons("icons:themes=tango,oxygen", root="/nowhere")
        Traceback (most recent call last):
        counterpoise.errors.InputError: icons: not in /nowhere: tango, oxygen; install Debian's packages …
    """
    options = parse(data, "icons")
    least = _least(options, len(options.sources), data) if options.label == "name" else 1
    return _split(read_icons(options.sources, _side(size), least, root), options, data, "icons", seed)


def load_emoji(data: str, size: int | None = None, seed: int = 0) -> Splits:
    """Emoji of one vendor or several, to learn from and to judge by; no test image repeats any other image.

    `data` is `emoji:FOLDER` or `emoji:FOLDER,FOLDER`: unpacked npm packages such as `emoji-datasource-twitter` and
    `emoji-datasource-google`, with `emoji.json` and `img/VENDOR/64/*.png`. Options follow as in
    `emoji:twitter,google:split=vendor:test=google`; they are those of `load_icons`, but:

    - `split=vendor` stands for `split=theme`, and there is no `themes=`.
    - `label=category`, `label=subcategory`: the class is one of 10 categories or 99 subcategories instead of the name.
    - `context=NAMES`: some categories only, in lower case with hyphens: `context=food-and-drink,activities`.

    The variants of skin colour are not taken. The factor `domain` is the vendor, `context` the category.

    Args:
        data: the name with its folders and options.
        size: height and width in pixels, at least 8; None: 32. Files are of 64 pixels.
        seed: of what is drawn.

    Raises:
        InputError: for an unknown option or value, what is no such folder, or too few drawings.

    Examples:
        >>> load_emoji("emoji:/nowhere")
        Traceback (most recent call last):
        counterpoise.errors.InputError: emoji: /nowhere has no emoji.json; expected an unpacked npm package
    """
    options = parse(data, "emoji")
    vendors = find_vendors(options.sources)
    least = _least(options, len(vendors), data) if options.label == "name" else 1
    return _split(read_emoji(options.sources, _side(size), least), options, data, "emoji", seed)


def source_files(data: str, root: str | Path = ICONS) -> list[Path]:
    """Every file that `load_icons` or `load_emoji` reads, or that says what they read, without decoding any.

    Args:
        data: as for these; whether it begins with `icons` or `emoji` says which.
        root: the folder of all themes.

    Raises:
        InputError: for an unknown option, or emoji that are not there.

    Examples:
        >>> source_files("icons:themes=tango", root="/nowhere")
        [PosixPath('/nowhere/Tango/index.theme')]
    """
    kind = data.partition(":")[0]
    if kind not in KINDS:
        raise unknown("kind of named drawings", kind, KINDS)
    sources = parse(data, kind).sources
    return icon_files(sources, root) if kind == "icons" else emoji_files(sources)


def parse(data: str, kind: str) -> Options:
    """The options in the name of named drawings.

    Args:
        data: such as `icons:themes=tango,gnome:split=theme`, or `emoji:FOLDER,FOLDER:label=category`.
        kind: "icons" or "emoji".

    Raises:
        InputError: for an unknown option or value, one that is given twice, or emoji without a folder.

    Examples:
        >>> options = parse("icons:themes=tango,oxygen:split=theme:test=oxygen:classes=200", "icons")
        >>> options.sources, options.split, options.test, options.classes
        (('tango', 'oxygen'), 'theme', ('oxygen',), 200)
        >>> parse("emoji:C:/twitter,C:/google:split=vendor", "emoji").sources
        ('C:/twitter', 'C:/google')
    """
    said, *rest = data.split(":")
    if said != kind:
        raise InputError(f"data: expected {kind}, with options as in {kind}:classes=200, got '{data}'")
    # A path may hold a colon, but each option has an equals sign.
    first = next((i for i, text in enumerate(rest) if "=" in text), len(rest)) if kind == "emoji" else 0
    options = _pairs(rest[first:], kind, data)
    folders = _list("folders", ":".join(rest[:first]), data)
    sources = folders if kind == "emoji" else options.pop("themes", tuple(THEMES))
    if not sources:
        raise InputError(f"data: expected emoji:FOLDER or emoji:FOLDER,FOLDER, got '{data}'")
    found = Options(sources=sources, **options)
    splits = ("drawing", KINDS[kind].domain, "class", "name")
    for name, value, known in (("label", found.label, KINDS[kind].labels), ("split", found.split, splits)):
        if value not in known:
            raise unknown(f"{name} of {kind}", value, known)
    if found.test and found.split != KINDS[kind].domain:
        raise InputError(f"data: test= needs split={KINDS[kind].domain}, got '{data}'")
    return found


def lay_on_white(pixels: UInt8[Tensor, "drawings 4 height width"]) -> UInt8[Tensor, "drawings 3 height width"]:
    """Drawings with alpha on a white ground.

    Args:
        pixels: red, green, blue and alpha.

    Examples:
        >>> half_red = torch.tensor([255, 0, 0, 127], dtype=torch.uint8).view(1, 4, 1, 1)
        >>> lay_on_white(half_red).flatten().tolist()
        [255, 128, 128]
    """
    colours, alpha = pixels[:, :3].float(), pixels[:, 3:].float() / 255
    return (255 + alpha * (colours - 255)).round().to(torch.uint8)


def _side(size: int | None) -> int:
    return SIZE if size is None else size


def _pairs(pairs: Iterable[str], kind: str, data: str) -> dict[str, Any]:
    """The options by name, with lists and numbers read."""
    known = [name for name in ("label", "split", *LISTED, *NUMBERS) if kind == "icons" or name != "themes"]
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise InputError(f"data: expected {kind}:name=value with {', '.join(known)} as names, got '{data}'")
        if name not in known:
            raise unknown(f"option of {kind}", name, known)
        if name in options:
            raise InputError(f"data: {name} is given twice in '{data}'")
        options[name] = value
        if name in LISTED:
            options[name] = _list(name, value, data)
        if name in NUMBERS:
            options[name] = _number(name, value, data)
    return options


def _list(name: str, text: str, data: str) -> tuple[str, ...]:
    values = tuple(text.split(",")) if text else ()
    values = values if name == "folders" else tuple(value.lower() for value in values)
    if "" in values or len(set(values)) < len(values):
        raise InputError(f"data: expected {name} without gaps and each once, separated by commas, got '{data}'")
    return values


def _number(name: str, text: str, data: str) -> int:
    low = 2 if name == "classes" else 1
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= low):
        raise InputError(f"data: expected {name}=N with a whole number N of at least {low}, got '{data}'")
    return int(text)


def _least(options: Options, domains: int, data: str) -> int:
    """The fewest drawings of a class."""
    if options.label != "name":
        return LEAST_APART if options.least is None else options.least
    wanted = LEAST if options.split == "drawing" else LEAST_APART
    least = min(wanted, domains) if options.least is None else options.least
    if least > domains:
        raise InputError(f"data: expected least=N with N of at most {domains}, who draw each name, got '{data}'")
    if least < 2 and options.split not in ("class", "name"):
        raise InputError(
            f"data: {data} has classes of one drawing, of which none can be held out: name two themes or more, or take "
            "split=class or another label"
        )
    return least


# Train and test


def _split(drawings: Drawings, options: Options, data: str, kind: str, seed: int) -> Splits:
    """The drawings that the options ask for, on white, to learn from and to judge by."""
    check_number("seed", seed, at_least=-LAST_SEED, at_most=LAST_SEED, whole=True)
    generator = torch.Generator().manual_seed(seed)
    domain = KINDS[kind].domain
    labels, words = drawings.group_of(options.label)
    used = _of_contexts(drawings, options, kind)
    notes = list(drawings.notes)
    if options.label == "context" and OTHER in words:
        strange = labels == words.index(OTHER)
        notes.append(f"{kind}: {int((used & strange).sum()):,} drawings under no freedesktop context are left out")
        used = used & ~strange
    held = torch.zeros_like(used)
    if options.split == domain:
        held = _held_domains(drawings, options, domain, generator)
    least = _least(options, len(drawings.domain_names), data)
    used = _chosen(labels, len(words), used, held, options, least, data)
    if options.split == "drawing":
        held = _held_rows(labels, used, generator)
    elif options.split != domain:
        groups = labels if options.split == "class" else drawings.labels
        held = torch.isin(groups, _fifth(groups[used].unique(), generator))
    if not (used & held).any() or not (used & ~held).any():
        raise InputError(f"data: {data} has too few drawings to hold any out")
    images = _images(drawings, labels, words, used, data)
    rule = {
        "drawing": "a fifth of the drawings of each class, at least one, drawn by the seed, is for test",
        "class": "a fifth of the classes, drawn by the seed, is for test and never in train",
        "name": "a fifth of the names, drawn by the seed, is for test and never in train",
        domain: f"for test: {', '.join(_names_of(drawings.domain_names, drawings.domains[used & held]))}",
    }[options.split]
    notes += [
        f"{kind}: {len(images.classes):,} classes by {options.label}; {rule}; on white where they are transparent",
    ]
    in_test = held[used]
    images = replace(images, notes=tuple(notes))
    return Splits(*(images.subset(part.nonzero().flatten()) for part in (~in_test, in_test)))


def _names_of(names: Sequence[str], numbers: Tensor) -> list[str]:
    return [names[i] for i in numbers.unique().tolist()]


def _of_contexts(drawings: Drawings, options: Options, kind: str) -> Bool[Tensor, " drawings"]:
    contexts, words = drawings.group_of("context")
    known = [word.replace(" ", "-") for word in words]
    for wanted in options.context:
        if wanted not in known:
            raise unknown(f"context of {kind}", wanted, known)
    wanted_places = torch.tensor([known.index(wanted) for wanted in options.context], dtype=torch.int64)
    return torch.isin(contexts, wanted_places) if options.context else torch.ones_like(contexts, dtype=torch.bool)


def _held_domains(
    drawings: Drawings, options: Options, domain: str, generator: torch.Generator
) -> Bool[Tensor, " drawings"]:
    """The drawings of the domains that are for test."""
    for name in options.test:
        if name not in drawings.domain_names:
            raise unknown(domain, name, drawings.domain_names)
    named = torch.tensor([drawings.domain_names.index(name) for name in options.test], dtype=torch.int64)
    return torch.isin(
        drawings.domains, named if len(named) else _fifth(torch.arange(len(drawings.domain_names)), generator)
    )


def _fifth(values: Int64[Tensor, " values"], generator: torch.Generator) -> Int64[Tensor, " drawn"]:
    count = max(1, round(TEST_SHARE * len(values)))
    return values[torch.randperm(len(values), generator=generator)[:count]]


def _chosen(
    labels: Int64[Tensor, " drawings"],
    words: int,
    used: Bool[Tensor, " drawings"],
    held: Bool[Tensor, " drawings"],
    options: Options,
    least: int,
    data: str,
) -> Bool[Tensor, " drawings"]:
    """The drawings of the classes with enough of them; where themes are held out, of names that both sides draw."""

    def count(rows: Tensor) -> Tensor:
        return torch.bincount(labels[rows], minlength=words)

    counts = count(used)
    enough = counts >= least
    if held.any() and options.label == "name":
        enough &= (count(used & held) > 0) & (count(used & ~held) > 0)
    if options.classes is not None:
        most = int(enough.sum())
        if options.classes > most:
            raise InputError(f"data: expected classes=N with N from 2 to {most}, the classes that it has, got '{data}'")
        order = torch.where(enough, counts, -1).argsort(descending=True, stable=True)
        enough = torch.zeros_like(enough).index_fill(0, order[: options.classes], True)
    return used & enough[labels]


def _held_rows(
    labels: Int64[Tensor, " drawings"], used: Bool[Tensor, " drawings"], generator: torch.Generator
) -> Bool[Tensor, " drawings"]:
    """A fifth of the used drawings of each class, at least one, but never all."""
    held = torch.zeros_like(used)
    for label in labels[used].unique().tolist():
        rows = (used & (labels == label)).nonzero().flatten()
        if len(rows) > 1:
            held[_fifth(rows, generator)] = True
    return held


def _images(
    drawings: Drawings,
    labels: Int64[Tensor, " drawings"],
    words: Sequence[str],
    used: Bool[Tensor, " drawings"],
    data: str,
) -> Images:
    """The used drawings on white, with the used words as classes."""
    rows = used.nonzero().flatten()
    kept, places = labels[rows].unique(return_inverse=True)
    contexts, context_names = drawings.group_of("context")
    images = Images(
        drawings.pixels[rows],
        places,
        tuple(words[i] for i in kept.tolist()),
        data,
        paths=tuple(drawings.paths[i] for i in rows.tolist()),
        unreadable=drawings.unreadable,
        reasons=drawings.reasons,
        original_sizes=drawings.original_sizes[rows],
        factors={"domain": drawings.domains[rows], "context": contexts[rows]},
        factor_names={"domain": tuple(drawings.domain_names), "context": tuple(context_names)},
    )
    return map_pixels(images, lay_on_white)
