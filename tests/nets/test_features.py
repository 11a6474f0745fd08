"""Features: the encoder's own numbers, in order, and an encoder left as it was found."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from counterpoise.errors import InputError
from counterpoise.nets import backbone, embed


class Pictures(Dataset):
    """The contract of an image data set, in the least lines."""

    name = "pictures"

    def __init__(self, n):
        self.pixels = torch.randint(
            0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )

    def __len__(self):
        return len(self.pixels)

    def __getitems__(self, indices):
        index = torch.tensor(indices)
        return self.pixels[index], torch.zeros(len(index), dtype=torch.long), index


def unit(pixels):
    return pixels.float() / 255


def test_rows_are_the_encoders_output_in_order():
    """Whatever the batch size, also where the last batch is of one image."""
    torch.manual_seed(0)
    encoder, images = backbone("small", 1, 28), Pictures(21)
    expected = backbone("small", 1, 28)
    expected.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        expected = expected.eval()(unit(images.pixels))
    for batch_size in (1, 4, 21, 512):
        features = embed(encoder, images, unit, batch_size)
        assert features.dtype == torch.float32
        assert not features.requires_grad
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_comes_out_as_float32():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).bfloat16()
    features = embed(encoder, Pictures(4), lambda pixels: unit(pixels).bfloat16())
    assert features.dtype == torch.float32


def test_the_encoder_is_left_as_it_was():
    """Weights, running statistics and each module's mode, a frozen part staying frozen."""
    encoder = backbone("small", 1, 28)
    encoder.model.stages[1].eval()
    modes = [module.training for module in encoder.modules()]
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    embed(encoder, Pictures(6), unit, 4)
    assert [module.training for module in encoder.modules()] == modes
    assert set(modes) == {True, False}
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key])


def test_the_modes_come_back_after_an_error():
    encoder = backbone("small", 1, 28)

    def fails(pixels):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        embed(encoder, Pictures(2), fails)
    assert all(module.training for module in encoder.modules())


def test_no_random_number_is_drawn():
    """So that measuring in the middle of a training run does not change the run."""
    state = torch.get_rng_state()
    embed(nn.Flatten(), Pictures(3), unit)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_empty_data_set_is_refused_by_name():
    with pytest.raises(InputError, match="images: the data set 'pictures' is empty"):
        embed(nn.Flatten(), Pictures(0), unit)


def test_an_encoder_that_gives_maps_is_refused():
    with pytest.raises(InputError, match=r"encoder: expected to get \[batch, features\] from it, got \[2, 1, 28, 28\]"):
        embed(nn.Identity(), Pictures(2), unit)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(InputError, match="batch_size: expected a whole number of at least 1, got 0"):
        embed(nn.Flatten(), Pictures(2), unit, 0)
