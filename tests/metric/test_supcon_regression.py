"""SupCon for regression: equal targets, or those of one bin, are a class."""

import pytest
import torch

from counterpoise.contrast.supcon import SupConLoss
from counterpoise.data.targets import Targets
from counterpoise.errors import InputError
from counterpoise.metric.supcon_regression import SupConRegression
from worlds import Encoder


@pytest.mark.parametrize(("bin", "classes"), [(0.0, [0, 1, 0, 2, 3, 1]), (1.0, [0, 0, 0, 1, 2, 0])])
def test_the_loss_is_supcon_s_of_the_bins_of_all_views(bin, classes, rng):
    method = SupConRegression(Encoder(channels=1), bin=bin, temperature=0.5).eval()
    views = [torch.randn(6, 1, 4, 4, generator=rng) for _ in range(2)]
    targets = torch.tensor([0.1, 0.9, 0.1, 1.5, 7.0, 0.9])
    embeddings = torch.cat([method.head(method.encoder(view)) for view in views])
    expected = SupConLoss(0.5)(embeddings, torch.tensor(classes * 2))
    torch.testing.assert_close(method.loss(views, targets, torch.arange(6)), expected)


def data(*targets):
    return Targets(torch.zeros(len(targets), 16), torch.tensor(targets), "rows")


def test_bins_without_both_kinds_of_pairs_are_refused_before_training():
    with pytest.raises(InputError, match="bin: expected bins that divide the 3 targets, got all in one bin of width 9"):
        SupConRegression(Encoder(), bin=9.0).check_data(data(1.0, 2.0, 3.0), 2)
    with pytest.raises(InputError, match=r"bin: expected bins of several targets, got 3 of one target, width 0\.5"):
        SupConRegression(Encoder(), bin=0.5).check_data(data(1.0, 2.0, 3.0), 2)
    SupConRegression(Encoder(), bin=2.0).check_data(data(1.0, 2.0, 3.0), 2)
    SupConRegression(Encoder(channels=1), bin=0.5).check_data(data(1.0, 2.0, 3.0), 2)  # the views are the pairs


def test_a_width_below_0_is_refused():
    with pytest.raises(InputError, match="bin: expected a number of at least 0, got -1"):
        SupConRegression(Encoder(), bin=-1.0)
