"""Methods on views of images."""

import pytest
import torch

from counterpoise.data.views import Views, to_float
from counterpoise.errors import InputError
from counterpoise.learners.method import Method
from worlds import Encoder


class Kinds(Method):
    """Sees each image as it is, a little changed, and much changed."""

    views = ("plain", "mild", "random")

    def loss(self, images, labels, index):
        return torch.stack([view.sum() for view in images])


def test_kinds_of_views_come_in_the_order_that_is_declared():
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    method = Kinds(Encoder(64), augment=Views(8))
    plain, mild, strong = method.views_of(pixels, torch.zeros(4).long(), torch.arange(4))
    torch.testing.assert_close(plain, to_float(pixels))
    assert mild.shape == strong.shape == plain.shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = Views(8, crop=(0.8, 1.0), flip=0.5, jitter=0.0, grayscale=0.0)(pixels)
        torch.manual_seed(0)
        assert torch.equal(method.view(pixels, "mild"), expected)


@pytest.mark.usefixtures("plain_shapes")
def test_an_unknown_kind_of_view_is_refused():
    with pytest.raises(InputError, match="kind of view 'wild' is not known; did you mean 'mild'"):
        Kinds(Encoder(64)).view(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "wild")


def test_a_number_of_views_draws_as_before():
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    method = Kinds(Encoder(64), augment=Views(8))
    method.views = 2
    torch.manual_seed(3)
    found = method.views_of(pixels, torch.zeros(4).long(), torch.arange(4))
    torch.manual_seed(3)
    assert all(torch.equal(view, method.augment(pixels)) for view in found)
