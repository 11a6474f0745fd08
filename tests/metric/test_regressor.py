"""What methods for regression share: targets, their bins and ranks, and as many views as inputs allow."""

import pytest
import torch

from counterpoise.data.targets import Targets
from counterpoise.errors import InputError
from counterpoise.metric.regressor import Regressor, binned, check_targets, ranks_of
from worlds import Encoder


def test_images_have_two_views_and_rows_one():
    assert Regressor(Encoder(channels=1)).views == 2
    assert Regressor(Encoder()).views == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_targets_of_every_type_become_float64(dtype):
    found = check_targets(torch.tensor([1, 0, 3], dtype=dtype), rows=3)
    assert found.dtype == torch.float64
    assert found.tolist() == [1, 0, 3]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(2), r"targets: expected one for each of 3 rows, got \[2\]"),
        (torch.zeros(3, 1), r"targets: expected one for each of 3 rows, got \[3, 1\]"),
        (torch.tensor([0, torch.nan, 1]), "targets: 1 of 3 numbers are NaN or infinite"),
        (torch.tensor([True, False, True]), "targets: expected numbers, got torch.bool"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(targets, message):
    with pytest.raises(InputError, match=message):
        check_targets(targets, rows=3)


def test_a_bin_holds_its_lower_edge_and_a_width_of_0_changes_nothing():
    targets = torch.tensor([-0.1, 0.0, 1.9, 2.0])
    assert binned(targets, 2.0).tolist() == [-2, 0, 0, 2]
    assert torch.equal(binned(targets, 0), targets)
    with pytest.raises(InputError, match="width: expected a number of at least 0, got -1"):
        binned(targets, -1.0)


def test_ranks_keep_the_order_and_equal_targets_share_one():
    targets = torch.tensor([2.5, -1.0, 7.0, 2.5])
    assert ranks_of(targets).tolist() == [1, 0, 2, 1]
    assert torch.equal(ranks_of(10 * targets - 3), ranks_of(targets))


def test_targets_that_are_all_equal_are_refused_before_training():
    with pytest.raises(InputError, match="targets: expected different numbers, got 2 3 times"):
        Regressor(Encoder()).check_data(Targets(torch.zeros(3, 16), torch.full((3,), 2.0), "flat"), 2)


def test_a_method_must_say_what_its_loss_is():
    method = Regressor(Encoder())
    assert method.predict(torch.zeros(2, 4)) is None
    with pytest.raises(NotImplementedError, match="Regressor must define loss"):
        method.loss([torch.zeros(2, 16)], torch.zeros(2), torch.arange(2))
