"""Towers of images and texts: rows of length 1 in one space, a frozen reader, and what is refused."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.nets.towers import Towers
from worlds import Encoder


def towers(**options):
    torch.manual_seed(0)
    return Towers(Encoder(), **options)


def test_rows_have_length_1_and_the_width_of_the_space(rng):
    ours = towers(dim=12)
    images, texts = ours.images(torch.rand(5, 1, 4, 4, generator=rng)), ours.texts(["a", "b c"])
    assert (images.shape, texts.shape, ours.features) == ((5, 12), (2, 12), 12)
    for rows in (images, texts):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert torch.equal(ours(torch.zeros(1, 1, 4, 4)), ours.images(torch.zeros(1, 1, 4, 4)))


def test_equal_texts_have_equal_rows_and_words_in_common_bring_them_near():
    ours = towers()
    a, b, c, d = ours.texts(["red cat", "red cat", "red dog", "green bird"])
    assert torch.equal(a, b)
    assert a @ c > a @ d


def test_only_projections_and_encoder_learn():
    names = {name.partition(".")[0] for name, _ in towers().named_parameters()}
    assert names == {"encoder", "image_head", "text_head", "log_scale"}


@pytest.mark.parametrize("names", ["cat", [], [1, 2]])
@pytest.mark.usefixtures("plain_shapes")
def test_anything_but_texts_is_refused(names):
    with pytest.raises(InputError, match="names: expected a sequence of at least one text"):
        towers().texts(names)
