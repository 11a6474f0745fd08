"""Constants in the precision that their module has; what was trained or loaded is left as it is."""

import copy

import torch
from torch import nn

from counterpoise.nets.constants import ExactConstants

THIRD = torch.ones(2, dtype=torch.float64) / 3


class Thirds(ExactConstants):
    def __init__(self):
        super().__init__()
        self.register_exact("buffer", THIRD)
        self.register_exact("hidden", THIRD, persistent=False)
        self.register_exact("learnt", THIRD, learn=True)
        self.register_exact("fixed", THIRD[:1].expand(3), learn=False)


def test_they_start_in_the_default_precision():
    thirds = Thirds()
    assert torch.equal(thirds.buffer, THIRD.float())
    assert {*thirds.state_dict()} == {"buffer", "learnt", "fixed"}
    assert thirds.learnt.requires_grad
    assert not thirds.fixed.requires_grad
    assert thirds.fixed.is_contiguous()


def test_each_precision_has_its_own_rounding_of_them():
    module = nn.Sequential(Thirds())  # through the module that holds it, too
    for cast in (nn.Module.double, nn.Module.half, nn.Module.double, nn.Module.float, nn.Module.bfloat16):
        (thirds,) = cast(module)
        for x in (thirds.buffer, thirds.hidden, thirds.learnt):
            assert torch.equal(x, THIRD.to(x.dtype))
    assert thirds.learnt.requires_grad


def test_what_is_no_longer_the_start_is_left_alone():
    thirds = Thirds()
    with torch.no_grad():
        thirds.learnt[0] = 0.1
    thirds.load_state_dict({**thirds.state_dict(), "buffer": torch.tensor([0.2, 0.3])})
    thirds.double()
    assert thirds.learnt.tolist() == torch.tensor([0.1, 1 / 3]).tolist()
    assert thirds.buffer.tolist() == torch.tensor([0.2, 0.3]).tolist()
    assert torch.equal(thirds.hidden, THIRD)


def test_copies_and_modules_without_storage():
    thirds = copy.deepcopy(Thirds()).double()
    assert torch.equal(thirds.buffer, THIRD)
    assert Thirds().to("meta").buffer.is_meta
