"""Encoders of rows: what they give, what they keep of the training rows, and what they refuse."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.nets.rows import ROW_BACKBONES, SameRows, StandardizedRows, row_backbone


def drawn(rows=50, columns=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=generator) * torch.tensor([1.0, 1e3, 1e-3, 5.0]) + 1e4


@pytest.mark.parametrize("name", ROW_BACKBONES)
def test_a_backbone_gives_as_many_features_as_it_says(name):
    net = row_backbone(name, 4)
    assert net(torch.zeros(3, 4)).shape == (3, net.features)


def test_columns_have_mean_0_and_deviation_1_of_the_training_rows():
    rows = drawn()
    scaled = StandardizedRows(SameRows(4), 4).fit(rows)(rows.double())
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4).double(), atol=1, rtol=0)  # float32 holds 1e4 to 1e-3
    torch.testing.assert_close(scaled[:, 1].std(correction=0), torch.tensor(1.0).double(), atol=1e-4, rtol=0)


def test_a_constant_column_is_shifted_alone():
    rows = torch.tensor([[7.0, 1.0], [7.0, 3.0]])
    assert StandardizedRows(SameRows(2), 2).fit(rows)(torch.tensor([[9.0, 2.0]])).tolist() == [[2.0, 0.0]]


def test_the_scale_is_kept_with_the_weights():
    trained, fresh = (StandardizedRows(row_backbone("small", 4), 4) for _ in range(2))
    trained.fit(drawn())
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(drawn()), fresh(drawn()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: row_backbone("resnet18", 4), "backbone of rows 'resnet18' is not known"),
        (lambda: row_backbone("small", 0), "width: expected a whole number of at least 1"),
        (lambda: StandardizedRows(SameRows(2), 2).fit(torch.zeros(0, 2)), "rows: expected at least 1 of 2 columns"),
        (lambda: StandardizedRows(SameRows(2), 2).fit(torch.zeros(3, 5)), "rows: expected at least 1 of 2 columns"),
        (lambda: StandardizedRows(SameRows(2), 2)(torch.zeros(3, 5)), r"rows: expected \[batch, 2\]"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
