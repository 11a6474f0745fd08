"""Composed queries: an image and a wish in words, such as "the same letter, capital, with a grave accent".

What is sought is an image of another character: that of the image with another case, other accents, or both. Characters
are found by their Unicode names, as those of the glyphs are; what the words leave open, such as the face, stays open.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from counterpoise.data.glyphs import LAST_SEED, Attributes, attributes_of
from counterpoise.data.images import Images
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_integers, check_number

ARTICLES = ("a", "an", "the")
FRAME = ("same", "letter", "with", "without", "accent", "and")
CASES = ("capital", "small")
# fmt: off
ACCENTS = (
    "above", "acute", "back", "bar", "below", "belt", "breve", "caron", "cedilla", "circumflex", "comma",
    "crossed-tail", "curl", "dagesh", "dasia", "descender", "diaeresis", "diagonal", "dialytika", "dot", "double",
    "fathatan", "fishhook", "flourish", "grave", "half", "hamza", "high", "hiriq", "holam", "hook", "horizontal",
    "horn", "inside", "inverted", "left", "leg", "line", "long", "low", "macron", "madda", "mapiq", "middle",
    "oblique", "ogonek", "overlay", "oxia", "palatal", "patah", "perispomeni", "prosgegrammeni", "psili", "qamats",
    "rafe", "retroflex", "right", "ring", "shin", "sin", "stroke", "swash", "symbol", "tail", "through", "tick",
    "tilde", "titlo", "tonos", "topbar", "upturn", "varia", "vertical", "vrachy", "yer", "ypogegrammeni",
)
# fmt: on
WORDS = (*FRAME, *CASES, *ACCENTS)
"""What a wish can say; of accents, all that distinguish the glyphs' letters."""

PLACE = {word: place for place, word in enumerate(WORDS)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Composed(Images):
    """Images each of which is also the reference of one query: its text, and the image that answers it.

    Args:
        texts: of each query, in `WORDS` and articles.
        answers: of each query, the number of the image that answers it, among these images; not the reference itself.

    Raises:
        InputError: for an unknown word, or a query whose answer is not among the images.

    Examples:
        >>> pixels, names = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), tuple(map(unicodedata.name, "aÀ"))
        >>> texts = ("the same letter, capital, with a grave accent", "the same letter, small, without accent")
        >>> pair = Composed(pixels, torch.tensor([0, 1]), names, "two", texts=texts, answers=torch.tensor([1, 0]))
        >>> len(pair), pair.answers.tolist(), type(pair.subset(torch.tensor([0]))).__name__
        (2, [1, 0], 'Images')
    """

    texts: tuple[str, ...]
    answers: Int64[Tensor, " images"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.texts) != len(self):
            raise InputError(f"texts: expected one for each of the {len(self)} images, got {len(self.texts)}")
        answers = check_integers("answers", self.answers, rows=len(self))
        object.__setattr__(self, "answers", answers)
        check_answers(answers, torch.arange(len(self)), len(self))
        read(self.texts)

    @property
    def words(self) -> frozenset[str]:
        """The words that the texts say."""
        return frozenset(WORDS[place] for place in read(self.texts).sum(0).nonzero().flatten().tolist())

    def subset(self, index: Int64[Tensor, " kept"], note: str | None = None) -> Images:
        """The images at `index`, without the queries, whose answers may be left out."""
        images = Images(**{field.name: getattr(self, field.name) for field in fields(Images)})
        return images.subset(index, note)


def check_answers(answers: Int64[Tensor, " queries"], references: Int64[Tensor, " queries"], items: int) -> None:
    """Refuse queries whose answer is not in the gallery, or is their own reference, which they do not seek.

    Args:
        answers: of each query, the number of the image that answers it.
        references: of each query, the number of its own image.
        items: how many images the gallery has.

    Raises:
        InputError: naming the query, or for what is no integer.

    Examples:
        >>> check_answers(torch.tensor([1, 7]), torch.tensor([0, 1]), 2)
        Traceback (most recent call last):
        counterpoise.errors.InputError: answers: query 1 seeks image 7, which is not among the 2 of the gallery
    """
    check_number("items", items, at_least=0, whole=True)
    if items == 0:
        raise InputError("gallery: expected at least 1 image to find, got an empty one")
    answers = check_integers("answers", answers, rows=len(references))
    references = check_integers("references", references, rows=len(references))
    outside = (answers < 0) | (answers >= items)
    for found, says in ((outside, f"is not among the {items} of the gallery"), (answers == references, "is its own")):
        if found.any():
            query = int(found.nonzero()[0])
            raise InputError(f"answers: query {query} seeks image {int(answers[query])}, which {says}")


def read(texts: Sequence[str]) -> Int64[Tensor, "texts words"]:
    """How often each of `WORDS` is in each text; articles and commas are passed over.

    Raises:
        InputError: for any other word, a text that says nothing, or one text in the place of a list.

    Examples:
        >>> places = [PLACE["acute"], PLACE["letter"], PLACE["small"]]
        >>> read(["The same letter, with an acute accent"])[0, places].tolist()
        [1, 1, 0]
        >>> read(["the same letter, with a gravy accent"])
        Traceback (most recent call last):
        counterpoise.errors.InputError: word 'gravy' is not known; did you mean 'grave'?
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"texts: expected a list of texts, got {texts!r:.100}")
    said = [_places(text) for text in texts]
    rows = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(places) for places in said], dtype=torch.int64))
    places = torch.tensor([place for places in said for place in places], dtype=torch.int64)
    counts = torch.zeros(len(texts), len(WORDS), dtype=torch.int64)
    return counts.index_put((rows, places), torch.ones_like(rows), accumulate=True)


@lru_cache(maxsize=1 << 14)
def _places(text: str) -> tuple[int, ...]:
    words = [word for word in re.split(r"[\s,.]+", text.lower()) if word and word not in ARTICLES]
    for word in words:
        if word not in PLACE:
            raise unknown("word", word, WORDS)
    if not words:
        raise InputError(f"texts: expected words such as 'the same letter, capital', got '{text}'")
    return tuple(PLACE[word] for word in words)


def compose(images: Images, seed: int = 0, words: Collection[str] = WORDS) -> Composed:
    """A query for every image whose letter, with another case or other accents, is there, too.

    The seed draws which of these other characters is sought, and which of its images is said to be the answer.

    Args:
        images: their classes are Unicode names of characters.
        seed: of what is drawn.
        words: by which letters are distinguished; one that needs other words is left out.

    Returns:
        The images that have a query; every answer is one of them.

    Raises:
        InputError: for a class that is no character's name, an unknown word, a seed that is no whole number of 64 bits,
            or where no image has a query.

    Examples:
        >>> pixels, names = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), tuple(map(unicodedata.name, "aà!"))
        >>> found = compose(Images(pixels, torch.tensor([0, 1, 2]), names, "three"))
        >>> found.texts, found.answers.tolist()
        (('the same letter, with a grave accent', 'the same letter, without accent'), [1, 0])
    """
    check_number("seed", seed, at_least=-LAST_SEED, at_most=LAST_SEED, whole=True)
    if isinstance(words, str):
        raise InputError(f"words: expected several words, got the text '{words}'")
    for word in words:
        if word not in PLACE:
            raise unknown("word", word, WORDS)
    attributes = [_of_name(name) for name in images.classes]
    counts = images.counts().tolist()
    letters: dict[tuple[Attributes, bool], list[int]] = {}
    for label, found in enumerate(attributes):
        if counts[label] and found.kind == "letter" and found.base and told_by(found) <= {*words}:
            letters.setdefault((replace(found, case=None, diacritics=()), found.case is None), []).append(label)
    others = {label: [other for other in same if other != label] for same in letters.values() for label in same}
    kept = [i for i, label in enumerate(images.labels.tolist()) if others.get(label)]
    if not kept:
        raise InputError(f"{images.name}: has no letter that is there twice, with another case or other accents")
    images = images.subset(torch.tensor(kept))
    labels, order = images.labels.tolist(), images.labels.argsort(stable=True)
    members = dict(enumerate(order.split(images.counts().tolist())))
    drawn = torch.rand(2, len(labels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    wanted = [others[label][int(x * len(others[label]))] for label, x in zip(labels, drawn[0], strict=True)]
    answers = [int(members[label][int(x * len(members[label]))]) for label, x in zip(wanted, drawn[1], strict=True)]
    return Composed(
        **{field.name: getattr(images, field.name) for field in fields(Images)},
        texts=tuple(wish(attributes[a], attributes[b]) for a, b in zip(labels, wanted, strict=True)),
        answers=torch.tensor(answers),
    )


def wish(reference: Attributes, wanted: Attributes) -> str:
    """What makes one letter of another, in words.

    Examples:
        >>> wish(attributes_of("a"), attributes_of("À"))
        'the same letter, capital, with a grave accent'
        >>> wish(attributes_of("ạ"), attributes_of("ǡ")), wish(attributes_of("ạ"), attributes_of("a"))
        ('the same letter, with a dot above and macron accent', 'the same letter, without accent')
    """
    said = ["the same letter"]
    if wanted.case != reference.case:
        said.append(str(wanted.case))
    if wanted.diacritics != reference.diacritics:
        accents = " and ".join(wanted.diacritics)
        said.append(f"with {'an' if accents[0] in 'aeiou' else 'a'} {accents} accent" if accents else "without accent")
    return ", ".join(said)


def told_by(found: Attributes) -> set[str]:
    """The words for a letter's case and accents."""
    return set(" ".join([found.case or "", *found.diacritics]).split())


def _of_name(name: str) -> Attributes:
    try:
        character = unicodedata.lookup(name)
    except KeyError:
        character = ""
    if len(character) != 1 or unicodedata.name(character, None) != name:
        raise InputError(f"classes: expected Unicode names of characters, as glyphs have, got '{name}'")
    return attributes_of(character)
