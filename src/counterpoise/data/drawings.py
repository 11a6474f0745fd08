"""Drawings with names: icons of desktop themes and emoji of several vendors, read with their transparent ground.

Themes link many names to one drawing and copy drawings from each other. Names that share drawings are merged here, and
copies left out, so that each drawing has one name and no two are the same.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from counterpoise.data.images import NEARLY_CONSTANT, allocate
from counterpoise.data.reading import Unreadable, digest_of, open_image, read_header, reason_of, to_mode
from counterpoise.errors import InputError, first_few, unknown
from counterpoise.ops.checks import check_number

ICONS = Path("/usr/share/icons")
SIZE, SMALLEST = 32, 8
FILE_SIZES = (48, 32)  # pixels of icon files: the second where a theme has no file of the first
# One drawing rendered twice: scaled to 48 pixels, averaged over squares of 5 and moved by at most 2, it differs nowhere
# by more than 32 of 255. Most of MATE's icons are GNOME's, sharper or half a pixel aside, which differ by less; those
# that were coloured or drawn anew differ by 40 or more.
COMPARED, SMOOTHED, MOVED, ALIKE = 48, 2, 2, 32
COARSE = 5  # every so many pixels are looked at first
COINCIDE = 2  # themes in which two names have one drawing, from which on they are one


class Theme(NamedTuple):
    """Where a theme lies below the folder of all themes, and the Debian package that puts it there."""

    folder: str
    package: str


THEMES = {
    "tango": Theme("Tango", "tango-icon-theme"),
    "gnome": Theme("gnome", "gnome-icon-theme"),
    "oxygen": Theme("oxygen", "oxygen-icon-theme"),
    "mate": Theme("mate", "mate-icon-theme"),
    "faenza": Theme("Faenza", "faenza-icon-theme"),
    "lxde": Theme("nuoveXT2", "lxde-icon-theme"),
    "adwaita": Theme("Adwaita", "adwaita-icon-theme"),
    "elementary-xfce": Theme("elementary-xfce", "elementary-xfce-icon-theme"),
}
"""Themes of Debian that hold PNG files of 48 or 32 pixels; `icons` alone takes all of them."""

CONTEXTS = {
    **{name: name for name in ("actions", "animations", "applications", "categories", "devices", "emblems")},
    **{name: name for name in ("emotes", "international", "mimetypes", "places", "status")},
    **{"apps": "applications", "emotions": "emotes", "intl": "international", "mimes": "mimetypes"},
}
"""The contexts of freedesktop's Icon Naming Specification, and other words that themes have for them."""

OTHER = "other"  # the context of what a theme files under a word of its own, such as "Legacy"


class Drawn(NamedTuple):
    """A file that draws a name.

    `names` is the file's own name, in plain words. `groups` are what the source says of it: "context", of emoji also
    "category" and "subcategory". `own` is false for a link to another file.
    """

    domain: int
    name: str
    groups: Mapping[str, str]
    path: Path
    own: bool


@dataclass(frozen=True, eq=False)
class Drawings:
    """Drawings with a transparent ground, one of each name and domain at most; no two of them are the same.

    Args:
        pixels: red, green, blue, and alpha: 0 where nothing is drawn.
        labels: of each drawing, an index into `names`.
        names: in plain words, in the order of the alphabet.
        domains: of each drawing, an index into `domain_names`.
        domain_names: the themes or vendors, in the order in which they were given.
        groups: by "context" (of emoji also "category" and "subcategory"), of each of `names` the word for it.
        paths: the file of each drawing.
        original_sizes: its height and width.
        notes: what was merged and left out, in words.
        unreadable: files that cannot be read.
        reasons: why each of them cannot be.
    """

    pixels: UInt8[Tensor, "drawings 4 size size"]
    labels: Int64[Tensor, " drawings"]
    names: tuple[str, ...]
    domains: Int64[Tensor, " drawings"]
    domain_names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    paths: tuple[str, ...]
    original_sizes: Int64[Tensor, "drawings 2"]
    notes: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def group_of(self, name: str) -> tuple[Int64[Tensor, " drawings"], tuple[str, ...]]:
        """Of each drawing the index of its word, and the words, in the order of the alphabet.

        Args:
            name: "name", or a key of `groups`.
        """
        if name == "name":
            return self.labels, self.names
        words = tuple(sorted(set(self.groups[name])))
        places = torch.tensor([words.index(word) for word in self.groups[name]], dtype=torch.int64)
        return places[self.labels], words


def read_icons(
    themes: Sequence[str] = tuple(THEMES), size: int = SIZE, least: int = 1, root: str | Path = ICONS
) -> Drawings:
    """The icons of some themes with their alpha, by names in plain words: see `load_icons` for what is merged.

    Args:
        themes: some of `THEMES`, or of the folders of `root`.
        size: height and width in pixels, at least 8.
        least: names that at least so many themes draw differently.
        root: the folder of all themes.

    Raises:
        InputError: for a theme that is not there or holds no icons, or where no name has enough drawings.

    Examples:
        >>> read_icons(["nimbus"], root="/nowhere")
        Traceback (most recent call last):
        counterpoise.errors.InputError: theme 'nimbus' is not known. Known: adwaita, elementary-xfce, faenza, …
    """
    root = Path(root)
    folders = _theme_folders(themes, root)
    drawn = [one for domain, folder in enumerate(folders) for one in _list_theme(folder, domain)]
    return _read(drawn, tuple(name.lower() for name in themes), "icons", "theme", root, size, least)


def read_emoji(folders: Sequence[str | Path], size: int = SIZE, least: int = 1) -> Drawings:
    """The emoji of some unpacked npm packages with their alpha, by their names in lower case.

    Args:
        folders: each with `emoji.json` and `img/VENDOR/64/*.png`.
        size: height and width in pixels, at least 8.
        least: names that at least so many vendors draw differently.

    Raises:
        InputError: for what is no such folder, a malformed entry, or where no name has enough drawings.

    Examples:
        >>> read_emoji([])
        Traceback (most recent call last):
        counterpoise.errors.InputError: emoji: expected at least one folder, got none
    """
    vendors = find_vendors(folders)
    drawn = [
        one for domain, (folder, vendor) in enumerate(vendors.values()) for one in _list_vendor(folder, vendor, domain)
    ]
    return _read(drawn, tuple(vendors), "emoji", "vendor", None, size, least)


def plain_words(name: str) -> str:
    """An icon's name in plain words: without punctuation, and without the mark of what is no standard.

    Args:
        name: of a file, without its ending.

    Examples:
        >>> plain_words("x-office-document"), plain_words("folder_home"), plain_words("text-x-c++src")
        ('office document', 'folder home', 'text c++src')
        >>> plain_words("gnome-mime-application-vnd.sun.xml.calc")
        'gnome mime application vnd sun xml calc'
    """
    words = re.sub(r"[-_\s]+|(?<!\d)\.|\.(?!\d)", " ", name).lower().split()
    return " ".join(word for word in words if word != "x") or name.lower()


def icon_files(themes: Sequence[str] = tuple(THEMES), root: str | Path = ICONS) -> list[Path]:
    """Every file that `read_icons` reads, or that says what it reads, without decoding any.

    Args:
        themes: as for `read_icons`.
        root: likewise.

    Returns:
        Of each theme its `index.theme`, whether it is there or not, and its icons.

    Examples:
        >>> icon_files(["tango"], root="/nowhere")
        [PosixPath('/nowhere/Tango/index.theme')]
    """
    root = Path(root)
    folders = [_theme_folder(name, root) or root / _known_folder(name) for name in themes]
    icons = {path for theme in folders for place, _ in _icon_folders(theme) for path in _pngs(place)}
    return sorted(icons.union(theme / "index.theme" for theme in folders))


def emoji_files(folders: Sequence[str | Path]) -> list[Path]:
    """Every file that `read_emoji` reads, or that says what it reads, without decoding any.

    Args:
        folders: as for `read_emoji`.

    Raises:
        InputError: for what is no such folder.
    """
    found = find_vendors(folders).values()
    return sorted({folder / "emoji.json" for folder, _ in found}.union(*(_pngs(place) for _, place in found)))


def find_vendors(folders: Sequence[str | Path]) -> dict[str, tuple[Path, Path]]:
    """The vendors whose emoji are in some unpacked npm packages.

    Args:
        folders: each with `emoji.json` and `img/VENDOR/64`.

    Returns:
        By vendor, in the order of the folders: the package, and the folder of its pictures.

    Raises:
        InputError: for a folder without `emoji.json` or pictures, or two folders of one vendor.
    """
    if not folders:
        raise InputError("emoji: expected at least one folder, got none")
    vendors: dict[str, tuple[Path, Path]] = {}
    for folder in (Path(os.path.expanduser(folder)) for folder in folders):
        if not (folder / "emoji.json").is_file():
            raise InputError(
                f"emoji: {folder} has no emoji.json; expected an unpacked npm package such as emoji-datasource-twitter"
            )
        places = sorted(place for place in folder.glob("img/*/64") if place.is_dir())
        if not places:
            raise InputError(f"emoji: {folder} has no img/VENDOR/64; expected the pictures of at least one vendor")
        for place in places:
            vendor = place.parent.name.lower()
            if vendor in vendors:
                raise InputError(f"emoji: two folders hold the pictures of {vendor}; give one of them")
            vendors[vendor] = folder, place
    return vendors


# Where drawings are


def _known_folder(name: str) -> str:
    known = THEMES.get(name.lower())
    return known.folder if known else name


def _theme_folder(name: str, root: Path) -> Path | None:
    """A theme's folder, whose name may be written in other cases; None where it is not there."""
    there = [root / _known_folder(name), *(sorted(root.iterdir()) if root.is_dir() else [])]
    wanted = _known_folder(name).lower()
    return next((path for path in there if path.name.lower() == wanted and (path / "index.theme").is_file()), None)


def _theme_folders(themes: Sequence[str], root: Path) -> list[Path]:
    """The folders of some themes.

    Raises:
        InputError: naming all that are not there, and the Debian packages that put them there.
    """
    if not themes:
        raise InputError("themes: expected at least one, got none")
    if len({name.lower() for name in themes}) < len(themes):
        raise InputError(f"themes: expected each once, got {', '.join(themes)}")
    folders = {name: _theme_folder(name, root) for name in themes}
    missing = [name for name, folder in folders.items() if folder is None]
    if strange := [name for name in missing if name.lower() not in THEMES]:
        there = [path.parent.name.lower() for path in root.glob("*/index.theme")]
        raise unknown("theme", strange[0], [*THEMES, *there])
    if missing:
        packages = " ".join(THEMES[name.lower()].package for name in missing)
        there = [name for name in THEMES if _theme_folder(name, root)]
        others = f", or take those that are there: icons:themes={','.join(there)}" if there else ""
        raise InputError(
            f"icons: not in {root}: {', '.join(missing)}; install Debian's packages {packages} "
            f"(apt-get install {packages}){others}"
        )
    return [folder for folder in folders.values() if folder is not None]


def _icon_folders(theme: Path) -> list[tuple[Path, str]]:
    """The folders of a theme's icons of the sizes that are read, and their contexts; in the order of preference."""
    index = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        index.read(theme / "index.theme", encoding="utf-8")
        listed = [name.strip() for name in index.get("Icon Theme", "Directories", fallback="").split(",")]
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"icons: {theme / 'index.theme'} cannot be read: {str(error).splitlines()[0]}") from error
    sections = {name: index[name] for name in listed if index.has_section(name)}
    return [
        (theme / name, CONTEXTS.get(section.get("Context", "").lower(), OTHER))
        for size in FILE_SIZES
        for name, section in sections.items()
        if section.get("Size") == str(size) and section.get("Scale", "1") == "1"
    ]


def _pngs(folder: Path) -> list[Path]:
    """The PNG files of a folder in the order of their names; none where it is not there, as some that are listed."""
    return sorted(folder.glob("*.png"))


def _list_theme(theme: Path, domain: int) -> list[Drawn]:
    """A theme's icons, each name once; symbolic ones, which are of one colour, are not taken."""
    found: dict[str, Drawn] = {}
    for folder, context in _icon_folders(theme):
        for path in _pngs(folder):
            if not path.stem.endswith("symbolic"):
                name = plain_words(path.stem)
                found.setdefault(name, Drawn(domain, name, {"context": context}, path, not path.is_symlink()))
    if not found:
        sizes = " or ".join(map(str, FILE_SIZES))
        raise InputError(f"icons: {theme} has no PNG files of {sizes} pixels; take another theme")
    return list(found.values())


def _list_vendor(folder: Path, pictures: Path, domain: int) -> list[Drawn]:
    """A vendor's emoji, by name; those that have one name in common are called by their short names."""
    path = folder / "emoji.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"emoji: {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"emoji: {path}: expected a list of emoji")
    for i, entry in enumerate(entries):
        _check_entry(entry, f"{path}: entry {i}")
    common = Counter(entry["name"].lower() for entry in entries)
    found = []
    for entry in entries:
        if not entry.get(f"has_img_{pictures.parent.name}", True):
            continue
        name = " ".join(entry["name"].lower().split())
        if common[entry["name"].lower()] > 1:
            name = plain_words(entry["short_name"])
        groups = {key: _group_words(entry[key]) for key in ("category", "subcategory")}
        groups["context"] = groups["category"]
        found.append(Drawn(domain, name, groups, pictures / entry["image"], True))
    if len({one.name for one in found}) < len(found):
        twice = next(name for name, count in Counter(one.name for one in found).items() if count > 1)
        raise InputError(f"emoji: {path}: two emoji are called '{twice}'")
    return found


def _check_entry(entry: Any, where: str) -> None:
    texts = ("name", "short_name", "category", "subcategory", "image")
    if not isinstance(entry, dict):
        raise InputError(f"emoji: {where}: expected an object, got {entry!r:.60}")
    for key in texts:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise InputError(f"emoji: {where}: expected a text as {key}, got {entry.get(key)!r:.60}")
    if Path(entry["image"]).name != entry["image"]:
        raise InputError(f"emoji: {where}: expected the name of a file as image, got {entry['image']!r:.60}")


def _group_words(text: str) -> str:
    """A category in plain words: "Food & Drink" is "food and drink", "animal-bird" is "animal bird"."""
    return " ".join(text.lower().replace("&", " and ").replace("-", " ").split())


# What is merged and left out


class Seen(NamedTuple):
    """What is compared of a drawing: its digest, itself on white and smoothed, and whether there is anything to see."""

    digest: bytes
    smooth: UInt8[np.ndarray, "side side 3"]
    visible: bool


def _read(
    drawn: Sequence[Drawn], domains: tuple[str, ...], kind: str, domain: str, root: Path | None, size: int, least: int
) -> Drawings:
    """Merge names, leave out what is repeated or shared, and read what is left."""
    check_number("size", size, at_least=SMALLEST, whole=True)
    check_number("least", least, at_least=1, at_most=len(domains), whole=True)
    seen, reasons = _look_at(drawn, root)
    drawn = [one for one in drawn if one.path in seen]
    class_of = _merged(drawn, seen, min(COINCIDE, len(domains)))
    chosen = _one_each(drawn, class_of)
    apart, repeated, invisible = _apart(chosen, seen)
    enough = _with_enough(apart, least)
    kept, shared = _owned(enough, drawn, class_of, seen)
    kept = _with_enough(kept, least)
    if not kept:
        said = f"; unreadable: {first_few(list(reasons))}" if reasons else ""
        raise InputError(f"{kind}: no name is drawn by {least} of {', '.join(domains)}{said}")
    if reasons:
        unreadable = first_few([f"{name} ({reason})" for name, reason in reasons.items()])
        warnings.warn(f"{kind}: {len(reasons):,} unreadable images left out: {unreadable}", stacklevel=2)
    by_name = Counter(one.name for one in drawn)
    notes = (
        f"{kind}: {len(by_name):,} names in {_count(len(domains), domain)}, {_reach(by_name, least):,} of them in "
        f"{least} or more; those that share drawings are merged into {len(set(class_of.values())):,}, "
        f"{_reach(Counter(name for name, _ in chosen), least):,} in {least} or more",
        f"{kind}: left out: {repeated:,} drawings that repeat an earlier {domain}'s, {shared:,} that several names "
        f"share, {invisible:,} that cannot be seen on white; {len(kept):,} drawings of "
        f"{len({name for name, _ in kept}):,} names are left, of {least} or more {domain}s each",
        *([f"{kind}: {len(reasons):,} unreadable images left out: {first_few(list(reasons))}"] if reasons else []),
    )
    return _drawings(kept, _groups_of(drawn, class_of), domains, root, size, notes, reasons)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' if number > 1 else ''}"


def _reach(counts: Mapping[str, int], least: int) -> int:
    return sum(count >= least for count in counts.values())


def _look_at(drawn: Sequence[Drawn], root: Path | None) -> tuple[dict[Path, Seen], dict[str, str]]:
    """What is compared of each file that can be read, and why the others cannot be; each real file is read once."""
    known: dict[Path, Seen | str] = {}
    seen: dict[Path, Seen] = {}
    reasons: dict[str, str] = {}
    for one in drawn:
        real = one.path if one.own else Path(os.path.realpath(one.path))
        if real not in known:
            known[real] = _seen_or_reason(one.path)
        found = known[real]
        if isinstance(found, str):
            reasons[_path_name(one.path, root)] = found
        else:
            seen[one.path] = found
    return seen, reasons


def _seen_or_reason(path: Path) -> Seen | str:
    try:
        return _seen(path)
    except Exception as error:  # Pillow's plugins raise all sorts of errors on damaged files
        return reason_of(error)


def _path_name(path: Path, root: Path | None) -> str:
    """The name of an icon's file below the folder of all themes, of an emoji's file below that of all vendors."""
    return path.relative_to(root or path.parents[2]).as_posix()


def _seen(path: Path) -> Seen:
    image = _open(path)
    numbers = np.array(image)
    numbers[numbers[..., 3] == 0] = 0  # the colour of what is transparent says nothing
    white = to_mode(_resized(image, COMPARED), "RGB")
    smooth = ImageOps.expand(white, MOVED + SMOOTHED, "white").filter(ImageFilter.BoxBlur(SMOOTHED))
    visible = np.asarray(white).std((0, 1)).max() >= NEARLY_CONSTANT
    return Seen(digest_of(numbers).tobytes(), np.asarray(smooth), bool(visible))


def _open(path: Path) -> Image.Image:
    """A drawing with alpha, square: what is missing is transparent."""
    with open_image(path) as opened:
        read_header(opened)  # refuses what is too large
        if opened.mode.startswith("I"):
            raise Unreadable("grey of more than 8 bits")
        image = opened.convert("RGBA")  # of colours of 16 bits Pillow reads the upper byte
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _resized(image: Image.Image, size: int) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def _merged(drawn: Sequence[Drawn], seen: Mapping[Path, Seen], themes: int) -> dict[str, str]:
    """Of each name its class: names whose drawings coincide in so many domains are one.

    A class is called by the name that most domains have, then most as a file of their own, then the shortest.
    """
    alike: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for one in drawn:
        alike[one.domain, seen[one.path].digest].append(one.name)
    pairs = Counter(pair for names in alike.values() for pair in combinations(sorted(names), 2))
    group = {one.name: [one.name] for one in drawn}
    for (first, second), count in pairs.items():
        if count >= themes and group[first] is not group[second]:
            group[first].extend(group[second])
            for name in group[second]:
                group[name] = group[first]
    domains, own = Counter(one.name for one in drawn), Counter(one.name for one in drawn if one.own)
    return {
        name: min(names, key=lambda other: (-domains[other], -own[other], len(other), other))
        for name, names in group.items()
    }


Chosen = dict[tuple[str, int], Drawn]
"""By class and domain, in the order of these."""


def _one_each(drawn: Sequence[Drawn], class_of: Mapping[str, str]) -> Chosen:
    """One drawing of each class and domain: that of the class's own name, else of the name that most domains have."""
    domains = Counter(one.name for one in drawn)

    def rank(one: Drawn) -> tuple[Any, ...]:
        name = class_of[one.name]
        return name, one.domain, one.name != name, -domains[one.name], one.name

    chosen: Chosen = {}
    for one in sorted(drawn, key=rank):
        chosen.setdefault((class_of[one.name], one.domain), one)
    return chosen


def _apart(chosen: Chosen, seen: Mapping[Path, Seen]) -> tuple[Chosen, int, int]:
    """Without what repeats an earlier domain's drawing of the class, and what is white on white; how many these are."""
    kept: Chosen = {}
    repeated = invisible = 0
    before: dict[str, list[np.ndarray]] = defaultdict(list)
    for (name, domain), one in chosen.items():
        smooth = seen[one.path].smooth
        if not seen[one.path].visible:
            invisible += 1
        elif any(_alike(smooth, other) for other in before[name]):
            repeated += 1
        else:
            before[name].append(smooth)
            kept[name, domain] = one
    return kept, repeated, invisible


def _alike(one: UInt8[np.ndarray, "side side 3"], other: UInt8[np.ndarray, "side side 3"]) -> bool:
    """Whether one drawing, moved a little, is the other."""
    side = len(one) - 2 * MOVED
    centre = other[MOVED : MOVED + side, MOVED : MOVED + side]
    for top, left in product(range(2 * MOVED + 1), repeat=2):
        moved = one[top : top + side, left : left + side]
        if _near(moved[::COARSE, ::COARSE], centre[::COARSE, ::COARSE]) and _near(moved, centre):
            return True
    return False


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.maximum(one, other) - np.minimum(one, other)).max() <= ALIKE)


def _with_enough(chosen: Chosen, least: int) -> Chosen:
    counts = Counter(name for name, _ in chosen)
    return {(name, domain): one for (name, domain), one in chosen.items() if counts[name] >= least}


def _owned(
    chosen: Chosen, drawn: Sequence[Drawn], class_of: Mapping[str, str], seen: Mapping[Path, Seen]
) -> tuple[Chosen, int]:
    """Without drawings that several classes share, but for the one class whose own file it is; how many these are."""
    claiming: dict[bytes, set[str]] = defaultdict(set)
    owning: dict[bytes, set[str]] = defaultdict(set)
    for (name, _), one in chosen.items():
        claiming[seen[one.path].digest].add(name)
    for one in drawn:
        if one.own:
            owning[seen[one.path].digest].add(class_of[one.name])
    kept = {}
    for (name, domain), one in chosen.items():
        digest = seen[one.path].digest
        if len(claiming[digest]) == 1 or claiming[digest] & owning[digest] == {name}:
            kept[name, domain] = one
    return kept, len(chosen) - len(kept)


def _groups_of(drawn: Sequence[Drawn], class_of: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By "context" and the like, of each class the word that most of its files have; one that is known, if any is."""
    votes: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in drawn:
        for key, word in one.groups.items():
            votes[key][class_of[one.name]][word] += 1
    return {
        key: {name: min(words, key=lambda word: (word == OTHER, -words[word], word)) for name, words in by_name.items()}
        for key, by_name in votes.items()
    }


def _drawings(
    kept: Chosen,
    groups: Mapping[str, Mapping[str, str]],
    domains: tuple[str, ...],
    root: Path | None,
    size: int,
    notes: tuple[str, ...],
    reasons: Mapping[str, str],
) -> Drawings:
    names = tuple(sorted({name for name, _ in kept}))
    place = {name: i for i, name in enumerate(names)}
    pixels = allocate((len(kept), 4, size, size))
    sizes = []
    for i, one in enumerate(kept.values()):
        image = _open(one.path)
        sizes.append(image.size)
        pixels[i] = torch.from_numpy(np.array(_resized(image, size)).transpose(2, 0, 1))
    return Drawings(
        pixels,
        torch.tensor([place[name] for name, _ in kept]),
        names,
        torch.tensor([domain for _, domain in kept]),
        domains,
        {key: tuple(words[name] for name in names) for key, words in groups.items()},
        tuple(_path_name(one.path, root) for one in kept.values()),
        torch.tensor(sizes),
        notes,
        tuple(reasons),
        dict(reasons),
    )
