"""Heads: what they compute, which layers they have, and refusals by name."""

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.heads import linear, mlp


def test_linear_has_a_bias():
    head = linear(3, 2)
    x = torch.randn(5, 3)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias)


def test_mlp_written_out():
    head = mlp(3, 4, 2, batch_norm=False)
    first, _, last = head
    x = torch.randn(5, 3)
    torch.testing.assert_close(head(x), (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
        ({"layers": 1}, [nn.Linear]),
        ({"layers": 1, "last_norm": True}, [nn.Linear, nn.BatchNorm1d]),
        ({"layers": 3, "batch_norm": False}, [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]),
    ],
)
def test_layers(options, layers):
    """A linear layer has a bias unless a batch normalisation, which has its own, follows it."""
    head = mlp(6, 5, 4, **options)
    assert [type(module) for module in head] == layers
    for module, following in zip(head, [*head[1:], None], strict=True):
        if isinstance(module, nn.Linear):
            assert (module.bias is None) == isinstance(following, nn.BatchNorm1d)


def test_last_norm_centres_and_scales_the_output():
    output = mlp(6, 5, 4, last_norm=True)(torch.randn(64, 6))
    torch.testing.assert_close(output.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)


def test_a_gradient_reaches_every_parameter():
    head = mlp(6, 5, 4, layers=3)
    head(torch.randn(8, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head[0].weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("name", ["features", "hidden", "out", "layers"])
def test_widths_that_are_no_whole_number_of_at_least_one_are_refused_by_name(name):
    sizes = {"features": 3, "hidden": 3, "out": 3, "layers": 2}
    for wrong, got in (
        (0, "0"),
        (-1, "-1"),
        (2.5, "2.5"),
        (2.0, "2"),
        (float("nan"), "nan"),
        ("x", "'x'"),
        (True, "True"),
    ):
        with pytest.raises(InputError, match=f"{name}: expected a whole number of at least 1, got {got}"):
            mlp(**sizes | {name: wrong})


def test_linear_refuses_no_outputs():
    with pytest.raises(InputError, match="out: expected a whole number of at least 1, got 0"):
        linear(3, 0)
