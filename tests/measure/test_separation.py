"""How well a number tells two kinds apart: by the count of all pairs, and where it is undefined."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.separation import auroc


def test_it_is_the_share_of_pairs_in_the_right_order_a_tie_counting_half(rng):
    values = torch.randint(6, (40,), generator=rng).double()
    kinds = torch.rand(40, generator=rng) < 0.3
    first, second = values[kinds], values[~kinds]
    pairs = (first[:, None] > second).double() + (first[:, None] == second).double() / 2
    assert auroc(values, kinds) == pytest.approx(float(pairs.mean()))
    assert auroc(values, kinds.long()) == auroc(values, kinds)
    assert auroc(-values, kinds) == pytest.approx(1 - float(pairs.mean()))
    assert auroc(values.exp(), kinds) == auroc(values, kinds)


@pytest.mark.parametrize("kind", [0, 1])
def test_one_kind_alone_is_undefined_with_a_warning(kind):
    with pytest.warns(UserWarning, match="AUROC is undefined"):
        assert auroc(torch.arange(3.0), torch.full((3,), kind)) is None


@pytest.mark.parametrize(
    ("values", "kinds", "named"),
    [
        (torch.zeros(2, 1), torch.tensor([0, 1]), "values: expected a vector"),
        (torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]), "values"),
        (torch.zeros(2), torch.tensor([0, 2]), "positive: expected integers from 0 to 1, got 2"),
        (torch.zeros(2), torch.tensor([0]), "positive: expected one integer for each of the 2 rows"),
    ],
)
def test_what_it_refuses(values, kinds, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        auroc(values, kinds)
