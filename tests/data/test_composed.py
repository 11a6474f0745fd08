"""Composed queries: what the words say, that every query has its answer among the images, and what is refused."""

import unicodedata
from dataclasses import fields

import pytest
import torch

from counterpoise.data.composed import (
    ACCENTS,
    CASES,
    FRAME,
    WORDS,
    Composed,
    check_answers,
    compose,
    read,
    wish,
)
from counterpoise.data.glyphs import attributes_of, draw_glyphs, load_glyphs
from counterpoise.data.images import Images
from counterpoise.errors import InputError


def images_of(characters, each=1):
    names = tuple(unicodedata.name(c) for c in characters)
    labels = torch.arange(len(names)).repeat_interleave(each)
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    return Images(pixels, labels, names, "made")


@pytest.fixture(scope="module")
def latin():
    return compose(load_glyphs("glyphs:script=latin").test)


@pytest.mark.parametrize(
    ("reference", "wanted", "says"),
    [
        ("á", "À", "the same letter, capital, with a grave accent"),
        ("á", "à", "the same letter, with a grave accent"),
        ("Á", "á", "the same letter, small"),
        ("Á", "a", "the same letter, small, without accent"),
        ("o", "ǭ", "the same letter, with an ogonek and macron accent"),
        ("b", "ʙ", "the same letter, small capital"),
    ],
)
def test_a_wish_says_what_changes_and_no_more(reference, wanted, says):
    assert wish(attributes_of(reference), attributes_of(wanted)) == says


def test_every_query_is_answered_by_the_letter_that_it_says(latin):
    """Read back by the rules of the language alone: reference and text lead to the answer's character."""
    for i in range(0, len(latin), 7):
        reference, answer = (
            attributes_of(unicodedata.lookup(latin.classes[latin.labels[k]])) for k in (i, latin.answers[i])
        )
        case, accents = reference.case, reference.diacritics
        for part in latin.texts[i].removeprefix("the same letter, ").split(", "):
            if part == "without accent":
                accents = ()
            elif part.startswith("with "):
                accents = tuple(part.split(" ", 2)[2].removesuffix(" accent").split(" and "))
            else:
                case = part
        assert (answer.case, answer.diacritics) == (case, accents) != (reference.case, reference.diacritics)
        assert (answer.base, answer.script, answer.variant) == (reference.base, reference.script, reference.variant)


@pytest.mark.slow
def test_the_words_are_those_that_the_glyphs_need():
    assert compose(draw_glyphs().images).words == set(WORDS)
    assert len(WORDS) == len(set(WORDS)) == len(FRAME) + len(CASES) + len(ACCENTS)


def test_all_letters_that_have_a_sibling_ask_and_no_others():
    found = compose(images_of("aÀ!bç9Ç", each=2))
    assert {found.classes[i] for i in found.labels} == {unicodedata.name(c) for c in "aÀçÇ"}
    assert len(found) == 8
    pairs = {(found.classes[found.labels[i]], found.classes[found.labels[found.answers[i]]]) for i in range(8)}
    assert {frozenset(pair) for pair in pairs} == {frozenset(map(unicodedata.name, pair)) for pair in ("aÀ", "çÇ")}
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 8, 9, 12, 13]


def test_letters_of_other_scripts_and_variants_and_symbols_are_no_siblings():
    with pytest.raises(InputError, match="made: has no letter that is there twice"):
        compose(images_of("aΑᴬ𝐀Ⓐⓐ"))


def test_a_letter_that_needs_an_unknown_word_is_left_out():
    found = compose(images_of("aàá"), words={"small", "grave"})
    assert {found.classes[i] for i in found.labels} == {unicodedata.name(c) for c in "aà"}


def test_the_seed_draws_who_is_sought_and_which_image_answers():
    images = images_of("aàáâãAÀÁÂÃ", each=4)
    first, again, other = compose(images, 0), compose(images, 0), compose(images, 1)
    assert first.texts == again.texts != other.texts
    assert torch.equal(first.answers, again.answers)
    assert not torch.equal(first.answers, other.answers)
    sought = first.labels[first.answers]
    assert len(sought.unique()) == 10
    assert (sought != first.labels).all()
    many = compose(images_of("aàáâã", each=100))
    drawn = {(int(many.labels[k]), int(k) % 100 // 25) for k in many.answers[:100]}
    assert len(drawn) == 4 * 4  # who is sought says nothing of the image


def test_images_without_a_label_ask_nothing():
    images = images_of("aà", each=3)
    images.labels[:2] = -1
    found = compose(images)
    assert len(found) == 4
    assert found.labels.tolist() == [0, 1, 1, 1]


def test_texts_are_bags_of_words():
    found = read(
        ["The same letter, capital, with a dot above and dot below accent", "small capital", "SMALL, capital."]
    )
    said = {WORDS[i]: int(found[0, i]) for i in found[0].nonzero().flatten()}
    expected = dict.fromkeys(["same", "letter", "capital", "with", "above", "and", "below", "accent"], 1) | {"dot": 2}
    assert said == expected
    assert torch.equal(found[1], found[2])
    assert read([]).shape == (0, len(WORDS))


def test_a_subset_is_plain_images(latin):
    part = latin.subset(torch.tensor([3, 1]), note="two")
    assert type(part) is Images
    assert part.notes[-1] == "two"
    assert torch.equal(part.pixels[1], latin.pixels[1])
    assert latin.with_channels(3).texts == latin.texts


@pytest.mark.usefixtures("plain_shapes")
def test_what_is_no_query_is_refused_by_name():
    plain = images_of("aÀ")
    given = {f.name: getattr(plain, f.name) for f in fields(Images)}
    right = {"texts": ("capital", "small"), "answers": torch.tensor([1, 0])}
    assert len(Composed(**given, **right)) == 2
    for wrong, message in (
        ({"texts": ("capital",)}, "texts: expected one for each of the 2 images, got 1"),
        ({"texts": ("capital", "blue")}, "word 'blue' is not known"),
        ({"texts": ("capital", "the")}, "texts: expected words such as .*, got 'the'"),
        ({"answers": torch.tensor([1, 2])}, "answers: query 1 seeks image 2, which is not among the 2 of the gallery"),
        ({"answers": torch.tensor([-1, 0])}, "answers: query 0 seeks image -1, which is not among the 2"),
        ({"answers": torch.tensor([1, 1])}, "answers: query 1 seeks image 1, which is its own"),
        ({"answers": torch.tensor([1.0, 0.0])}, "answers: expected integers, got torch.float32"),
    ):
        with pytest.raises(InputError, match=message):
            Composed(**given, **{**right, **wrong})
    with pytest.raises(InputError, match="gallery: expected at least 1 image to find, got an empty one"):
        check_answers(torch.tensor([0]), torch.tensor([0]), 0)
    small = Composed(**given, **{**right, "answers": torch.tensor([1, 0], dtype=torch.uint8)})
    assert small.answers.dtype == torch.int64
    for call, message in (
        (
            lambda: check_answers(torch.tensor([1]), torch.tensor([0]), 1.5),
            "items: expected a whole number of at least 0",
        ),
        (lambda: check_answers(torch.tensor([1]), torch.tensor([0.0]), 2), "references: expected integers"),
        (lambda: read("the same letter"), "texts: expected a list of texts, got 'the same letter'"),
        (lambda: read([3]), r"texts: expected a list of texts, got \[3\]"),
        (lambda: compose(plain, 0.5), "seed: expected a whole number"),
        (lambda: compose(plain, 0, "grave"), "words: expected several words, got the text 'grave'"),
        (lambda: compose(plain, 0, ["gravy"]), "word 'gravy' is not known; did you mean 'grave'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="classes: expected Unicode names of characters, as glyphs have, got 'cat'"):
        compose(Images(plain.pixels, plain.labels, ("cat", "dog"), "pets"))  # CAT is a character
