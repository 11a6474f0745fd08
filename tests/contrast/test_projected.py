"""What methods on projections share: a head that serves the loss alone, and is the same for all methods of one seed."""

import pytest
import torch

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.contrast.simclr import SimCLR
from counterpoise.contrast.supcon import SupCon
from counterpoise.errors import InputError
from worlds import Encoder


def test_projections_are_the_head_s_of_the_features_of_each_view(rng):
    method = ProjectedMethod(Encoder(16, 4), hidden=8, dim=3).eval()
    views = [torch.randn(5, 1, 4, 4, generator=rng) for _ in range(3)]
    found = method.projections(views)
    assert [z.shape for z in found] == [(5, 3)] * 3
    for z, view in zip(found, views, strict=True):
        torch.testing.assert_close(z, method.head(method.encoder(view)))


def test_a_run_keeps_the_encoder_without_the_head():
    encoder = Encoder(16, 4)
    assert ProjectedMethod(encoder).net is encoder


def test_one_seed_gives_all_methods_the_same_head():
    heads = []
    for kind in (SimCLR, SupCon):
        torch.manual_seed(3)
        heads.append(kind(Encoder(16, 4)).head.state_dict())
    for name, x in heads[0].items():
        assert torch.equal(x, heads[1][name])


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("width", [{"hidden": 0}, {"dim": 2.0}])
def test_widths_are_refused_by_name(width):
    with pytest.raises(InputError, match=f"{next(iter(width))}: expected a whole number of at least 1"):
        ProjectedMethod(Encoder(16, 4), **width)
