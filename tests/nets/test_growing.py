"""Buffers that grow take the shapes of what is loaded into them, and nothing else about them changes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.growing import growing


class Rows(nn.Module):
    """A buffer that grows, one that does not, and a weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(2))
        growing(self, "seen")


def state(rows=5, count=3):
    return {"seen": torch.rand(rows, 2, generator=torch.Generator().manual_seed(0)), "count": torch.ones(count)}


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: nn.Sequential(nn.Identity(), rows)])
def test_a_buffer_takes_shape_and_numbers_of_what_is_loaded_in_its_own_dtype(wrap):
    rows = Rows()
    prefix = "1." if isinstance(wrap(rows), nn.Sequential) else ""
    loaded = {prefix + name: x for name, x in {**state(), "weight": torch.zeros(2)}.items()}
    wrap(rows).load_state_dict(loaded)
    assert rows.seen.dtype == torch.float64
    assert torch.equal(rows.seen.float(), state()["seen"])
    wrap(rows).load_state_dict({**loaded, prefix + "seen": state(rows=2)["seen"]})
    assert len(rows.seen) == 2
    assert dict(rows.named_buffers())["seen"] is rows.seen


def test_a_buffer_of_the_same_shape_stays_the_same_tensor():
    rows = Rows()
    rows.load_state_dict(state(), strict=False)
    before = rows.seen
    rows.load_state_dict(state(), strict=False)
    assert rows.seen is before


def test_other_shapes_of_other_buffers_and_missing_ones_are_still_errors():
    with pytest.raises(RuntimeError, match="size mismatch for count"):
        Rows().load_state_dict(state(count=4), strict=False)
    with pytest.raises(RuntimeError, match="seen"):
        Rows().load_state_dict({"count": torch.ones(3), "weight": torch.ones(2)})


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_a_copy_grows_by_itself(duplicate):
    rows = Rows()
    other = duplicate(rows)
    other.load_state_dict(state(), strict=False)
    assert (len(rows.seen), len(other.seen)) == (0, 5)


def test_what_is_no_buffer_of_the_module_is_refused():
    with pytest.raises(InputError, match="names: expected at least one"):
        growing(Rows())
    with pytest.raises(InputError, match=r"names: expected buffers of Rows \(.*count.*seen.*\), got .*weight"):
        growing(Rows(), "seen", "weight")
