"""Folders of images with a file in COCO's format, read into `Annotated` and written from it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoise.data.annotated import IGNORED, Annotated, AnnotatedSplits, check_class_names
from counterpoise.data.annotated_parts import divided
from counterpoise.data.coco import CocoFile, Entry, read_file, read_images
from counterpoise.data.decoding import decode, file_item, file_stamp
from counterpoise.data.folders import ROLES, counted, is_image, pick_splits
from counterpoise.data.framing import Frame
from counterpoise.data.images import CHUNK, UNLABELLED, allocate
from counterpoise.data.painting import Painted, Painter
from counterpoise.data.scenes import COLOURS, DOMAINS, PREDICATES
from counterpoise.errors import InputError, first_few

ANNOTATIONS = "annotations.json"
NO_BOX = torch.zeros(4, dtype=torch.int64)
# instances_train2017.json, annotations.json, _annotations.coco.json, train.json
FILE = re.compile(
    rf"_?(?:instances|annotations|coco)?[._-]?(?P<split>{'|'.join(ROLES)}|default)?[._-]?\d*(?:[._-]coco)?\.json",
    re.IGNORECASE,
)
ATTRIBUTES = ("colour", "depth")  # of annotations, which are read though the file does not list them
WORDS = {"domain": tuple(DOMAINS), "predicates": PREDICATES, "colour": tuple(COLOURS)}  # their order in `Scenes`


class Part(NamedTuple):
    """One file of annotations, and where its images are.

    Attributes:
        split: the folder's or file's own word for it; None where it has none.
        file: the annotations.
        paths: of the images, by their numbers; one that is nowhere is named as if it lay in the first place looked at.
    """

    split: str | None
    file: CocoFile
    paths: dict[int, Path]


def find_files(root: Path) -> dict[Path, str | None]:
    """The files of annotations in a folder, each with its word for the split.

    These are `annotations.json`, `_annotations.coco.json` or `instances_SPLIT.json`, in the folder itself, in its
    `annotations/`, or in one folder a split.
    """
    found: dict[Path, str | None] = {}
    try:
        splits = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in ROLES]
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror})") from error
    for folder in (root, root / "annotations", *splits):
        for path in sorted(folder.glob("*.json")):
            if match := FILE.fullmatch(path.name):
                word = match["split"] if match["split"] and match["split"].lower() in ROLES else None
                found[path] = folder.name if folder in splits else word
    return found


def is_coco(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder that holds files of annotations."""
    if path.is_dir():
        return bool(find_files(path))
    return path.suffix.lower() == ".json" and path.is_file()


def coco_files(path: Path) -> list[Path]:
    """Every file that `load_coco` reads: the annotations, and each image that they list, whether it is there or not."""
    found = _files(path)
    images = [_paths(file, split, _listed_images(file, file_stamp(file))).values() for file, split in found.items()]
    return sorted({*found, *(image for some in images for image in some)})


@lru_cache(maxsize=4)
def _listed_images(path: Path, stamp: str) -> dict[int, Entry]:
    """The images of a file, which every run of a comparison asks for; read anew where its `stamp` is another."""
    return read_images(path)


def load_coco(
    path: Path, size: int | None = None, seed: int = 0, classes: Sequence[str] | None = None
) -> AnnotatedSplits:
    """A folder of images with annotations in COCO's format, or one such file, split into train and test.

    What is where: see `find_files`. Images lie beside the file, in `images/`, or in a folder of the split's name.
    Without a split of its own the data is divided 80 to 20. Images are decoded as everywhere (`data.decoding`): those
    that cannot be read are left out, counted and named.

    - An image without annotations shows background.
    - Where masks overlap, the smaller object is in front, and the larger one loses these pixels.
    - An object without a mask is known by its box alone; pixels of the box that belong to no other object are 255.
    - A crowd (`iscrowd`) is no object; its pixels that belong to none are 255.
    - A relation of an object that is left out goes, too, and is counted.
    - Boxes are in whole pixels of the square image, rounded outwards. An object of which no pixel is left there, or
      whose box has no area, is left out and counted.
    - `caption`, `domain`, `relations` of images and `colour`, `depth` of annotations are read as `counterpoise scenes`
      writes them; so is what `write_coco` writes besides.

    Args:
        path: the folder or file.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division where the data has none.
        classes: the categories to keep, in this order; None: all. The pixels of others are background.

    Raises:
        InputError: for a malformed file, an annotation of an image or category that is not in the file, a box outside
            of its image, an image of another size than the file says, or where no image can be read.
        MissingExtra: without pycocotools, where there are masks.
    """
    files = [(file, split, read_file(file)) for file, split in _files(path).items()]
    parts = [Part(split, content, _paths(file, split, content.images)) for file, split, content in files]
    words = [part.split for part in parts if part.split is not None]
    roles = pick_splits(words)
    notes = []
    if words:
        if "train" not in roles.values():
            raise InputError(f"{path}: expected annotations of a split named train, found: {', '.join(words)}")
        if others := [part.file.path.name for part in parts if part.split not in roles]:
            notes.append(counted("files of annotations that are left out", others))
        parts = [part for part in parts if part.split in roles]
        parts.sort(key=lambda part: roles[str(part.split)] != "train")
    elif len(parts) > 1:
        named = ", ".join(part.file.path.name for part in parts)
        raise InputError(f"{path}: expected one file of annotations, or one for each split, found: {named}")
    whole, of_part = _read(path.resolve().stem if path.is_file() else path.resolve().name, parts, size, classes, notes)
    if "test" not in roles.values():
        return divided(whole, seed)
    is_train = [roles[str(part.split)] == "train" for part in parts]
    of_train = sum(is_train[i] for i in of_part)
    for split, count in (("train", of_train), ("test", len(whole) - of_train)):
        if not count:
            raise InputError(f"{path}: no readable image in its {split} split")
    return AnnotatedSplits(whole.rows(0, of_train), whole.rows(of_train, len(whole)))


def _files(path: Path) -> dict[Path, str | None]:
    files: dict[Path, str | None] = find_files(path) if path.is_dir() else {path: None}
    if not files:
        raise InputError(f"{path}: holds no annotations ({ANNOTATIONS}, annotations/instances_train.json)")
    return files


def _paths(path: Path, split: str | None, images: Mapping[int, Entry]) -> dict[int, Path]:
    """The images of a file, each in the first of the places where it is."""
    year = path.stem.rpartition("_")[2]  # train2017
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    places = [path.parent, path.parent / "images", above, above / "images"]
    places += [
        above / folder / name for name in dict.fromkeys((year, split or "")) if name for folder in (".", "images")
    ]
    paths = {}
    for number, (where, image) in images.items():
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise InputError(f"{where}: expected the path of an image as file_name, got {name!r}")
        paths[number] = next((place / name for place in places if (place / name).is_file()), places[0] / name)
    return paths


@dataclass
class _Gathered:
    """The objects of all images so far."""

    image: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)

    def add(self, row: int, image: Entry, own: Sequence[Entry], objects: Sequence[Painted], said: Counter[str]) -> None:
        """Take the objects of one more image, and the relations between those of its own that are kept."""
        known = {one.get("id") for _, one in own}
        first = len(self.image)
        rows = {one.entry.get("id"): first + i for i, one in enumerate(objects)}
        self.image += [row] * len(objects)
        self.labels += [one.label for one in objects]
        self.boxes += [one.box for one in objects]
        self.entries += [one.entry for one in objects]
        where, content = image
        relations = content.get("relations", [])
        for relation in relations if isinstance(relations, list) else [relations]:
            subject, word, other = _relation(where, relation)
            if alien := {subject, other} - known:
                raise InputError(f"{where}: relations: {alien.pop()} is the id of no annotation of this image")
            if subject in rows and other in rows:
                self.relations.append((rows[subject], word, rows[other]))
            else:
                said["relations are of objects that are left out"] += 1


def _relation(where: str, relation: Any) -> tuple[int, str, int]:
    kinds = [type(one) for one in relation] if isinstance(relation, list) else []
    if kinds != [int, str, int]:
        raise InputError(f"{where}: expected annotation, predicate and annotation as a relation, got {relation!r}")
    return relation[0], relation[1], relation[2]


def _read(
    name: str, parts: Sequence[Part], size: int | None, chosen: Sequence[str] | None, notes: Sequence[str]
) -> tuple[Annotated, list[int]]:
    """The images of all parts, one part after the other, and of which part each is."""
    classes = _class_names(parts, chosen)
    records = [(i, number) for i, part in enumerate(parts) for number in part.file.images]
    items = [
        file_item(parts[i].paths[number], parts[i].file.images[number][1]["file_name"], UNLABELLED, parts[i].split)
        for i, number in records
    ]
    decoded = decode(items, name, size)
    records = [records[i] for i in decoded.kept]
    side = decoded.pixels.shape[-1]
    gathered, said = _Gathered(), Counter[str]()
    rows = [_rows_of_images(part.file) for part in parts]
    shape = (len(records), side, side)
    many = max((len(own) for some in rows for own in some.values()), default=0) > IGNORED
    maps, instances = allocate(shape), torch.zeros(shape, dtype=torch.int16) if many else allocate(shape)
    said["objects are in images that cannot be read"] = sum(len(part.file.annotations) for part in parts)
    for row, ((i, number), original) in enumerate(zip(records, decoded.sizes.tolist(), strict=True)):
        image, own = parts[i].file.images[number], rows[i].get(number, [])
        _check_size(image, original)
        painter = Painter(parts[i].file, _labels(parts[i].file, classes), Frame(original[0], original[1], side), said)
        painted = painter.paint(image, own, maps[row], instances[row])
        gathered.add(row, image, [parts[i].file.annotations[k] for k in own], painted, said)
        said["objects are in images that cannot be read"] -= len(own)
    facts, odd = _facts(gathered, [parts[i].file.images[number] for i, number in records], [p.file for p in parts])
    said["properties are left out, since not everything has a word or a whole number there: " + first_few(odd)] += len(
        odd
    )
    notes = [*notes, *_unlisted(parts), *(f"{count:,} {what}" for what, count in said.items() if count)]
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=3)
    made = Annotated(
        decoded.pixels,
        maps,
        classes,
        name,
        image=torch.tensor(gathered.image, dtype=torch.int64),
        labels=torch.tensor(gathered.labels, dtype=torch.int64),
        boxes=torch.stack([NO_BOX, *gathered.boxes])[1:],
        instances=instances if any(map(torch.any, instances.split(CHUNK))) else None,
        notes=(*decoded.notes, *notes),
        paths=tuple(items[i].name for i in decoded.kept),
        unreadable=decoded.unreadable,
        reasons=decoded.reasons,
        original_sizes=decoded.sizes,
        **facts,
    )
    return made, [i for i, _ in records]


def _class_names(parts: Sequence[Part], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes: of the first file in the order of their numbers, then those that others add."""
    names: dict[str, None] = {}
    for part in parts:
        own = [name for _, name in sorted(part.file.categories.items())]
        if twice := [name for name, count in Counter(own).items() if count > 1]:
            raise InputError(f"{part.file.path}: two categories are called '{twice[0]}'; rename one")
        names |= dict.fromkeys(own)
    if isinstance(chosen, str) or (chosen is not None and not names.keys() >= set(chosen)):
        others = chosen if isinstance(chosen, str) else next(name for name in chosen if name not in names)
        raise InputError(f"classes: expected a list of categories of {parts[0].file.path}, got '{others}'")
    found = tuple(names) if chosen is None else tuple(chosen)
    check_class_names(f"{parts[0].file.path}: categories (choose some of them as classes)", found)
    return found


def _labels(file: CocoFile, classes: Sequence[str]) -> dict[int, int]:
    """The classes of a file's categories, by their numbers."""
    index = {name: i for i, name in enumerate(classes)}
    return {number: index[name] for number, name in file.categories.items() if name in index}


def _rows_of_images(file: CocoFile) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, (_, one) in enumerate(file.annotations):
        rows.setdefault(one["image_id"], []).append(row)
    return rows


def _unlisted(parts: Sequence[Part]) -> list[str]:
    """What is said of images that lie beside those that are listed."""
    listed = {path.resolve() for part in parts for path in part.paths.values()}
    folders = dict.fromkeys(path.parent for part in parts for path in part.paths.values() if path.is_file())
    there = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file() and is_image(path)]
    others = [path.name for path in there if path.resolve() not in listed and not path.name.startswith(".")]
    return [counted("images that no annotations list are left out", others)] if others else []


def _check_size(image: Entry, original: Sequence[int]) -> None:
    where, one = image
    said = [one.get(name, length) for name, length in zip(("height", "width"), original, strict=True)]
    if said != list(original):
        raise InputError(
            f"{where}: {one['file_name']} has {original[1]}×{original[0]} pixels (width×height), "
            f"the file says {said[1]}×{said[0]}"
        )


def _facts(gathered: _Gathered, images: Sequence[Entry], files: Sequence[CocoFile]) -> tuple[dict[str, Any], list[str]]:
    """What is known besides: relations, attributes of objects, captions and factors of images; and what is left out."""
    predicates = _words("predicates", [word for _, word, _ in gathered.relations], files)
    triples = [(subject, predicates.index(word), other) for subject, word, other in gathered.relations]
    listed = [name for file in files for name in _listed(file, "attributes")]
    attributes, odd = _columns([*ATTRIBUTES, *listed], gathered.entries, "attributes", files)
    about = [{**_named(entry, "factors"), **{k: v for k, v in entry[1].items() if k == "domain"}} for entry in images]
    factors, strange = _columns([name for one in about for name in one], about, "factors", files)
    captions = [one.get("caption") or "" for _, one in images]
    facts = {
        "relations": torch.tensor(triples, dtype=torch.int64).view(-1, 3),
        "predicates": predicates,
        "attributes": {name: values for name, (values, _) in attributes.items()},
        "attribute_names": {name: words for name, (_, words) in attributes.items() if words},
        "factors": {name: values for name, (values, _) in factors.items()},
        "factor_names": {name: words for name, (_, words) in factors.items() if words},
        "captions": tuple(map(str, captions)) if any(captions) else (),
    }
    return facts, [*odd, *strange]


def _columns(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], kind: str, files: Sequence[CocoFile]
) -> tuple[dict[str, tuple[Tensor, tuple[str, ...]]], list[str]]:
    """Those fields that all rows have, as integers; of words their numbers, and the words. And those that some have."""
    found, odd = {}, []
    if not rows:
        empty = torch.zeros(0, dtype=torch.int64)
        known = [name for name in names if name in _listed(files[0], kind)]
        return {name: (empty, _words(name, [], files, kind)) for name in known}, []
    for name in dict.fromkeys(names):
        values = [row.get(name) for row in rows]
        if all(isinstance(value, str) for value in values):
            words = _words(name, [str(value) for value in values], files, kind)
            found[name] = torch.tensor([words.index(str(value)) for value in values]), words
        elif all(type(value) is int and -(1 << 63) <= value < 1 << 63 for value in values):
            found[name] = torch.tensor(values), ()
        elif any(value is not None for value in values):
            odd.append(name)
    return found, odd


def _words(name: str, used: Sequence[str], files: Sequence[CocoFile], kind: str = "") -> tuple[str, ...]:
    """The words of a field in their order: that of the first file, of `Scenes`, or of the alphabet."""
    said = (_listed(files[0], kind) if kind else files[0].other).get(name)
    orders = [tuple(map(str, said)) if isinstance(said, list) else (), WORDS.get(name, ()) if used else ()]
    return next((order for order in orders if order and set(order) >= set(used)), tuple(sorted(set(used))))


def _listed(file: CocoFile, name: str) -> dict[str, Any]:
    return _named((str(file.path), file.other), name)


def _named(entry: Entry, name: str) -> dict[str, Any]:
    """A field that holds an object; an empty one where it is not there."""
    value = entry[1].get(name, {})
    if not isinstance(value, dict):
        raise InputError(f"{entry[0]}: expected an object as {name}, got {value!r}")
    return value
