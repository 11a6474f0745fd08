"""Heads: what they compute, which layers they have, and refusals by name."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.nets.heads import cosine_head, linear, mlp


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
@pytest.mark.parametrize("name", ["features", "hidden", "dim", "layers"])
def test_widths_that_are_no_whole_number_of_at_least_one_are_refused_by_name(name):
    sizes = {"features": 3, "hidden": 3, "dim": 3, "layers": 2}
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


# --- cosines ---


def rows(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("scale", [0.5, 1.0, 10])
@pytest.mark.parametrize("learn_scale", [False, True])
def test_cosine_head_written_out(scale, learn_scale):
    head, x = cosine_head(4, 3, scale, learn_scale).double(), rows(6, 4)
    expected = scale * F.cosine_similarity(x[:, None], head.direction[None], dim=2)
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_lengths_of_features_and_of_prototypes_do_not_matter():
    head, x = cosine_head(4, 3, scale=5).double(), rows(6, 4)
    expected = head(x)
    torch.testing.assert_close(head(x * torch.logspace(-20, 20, 6, dtype=torch.float64)[:, None]), expected)
    with torch.no_grad():
        head.direction.mul_(torch.tensor([[1e-30], [1.0], [1e30]]))
    torch.testing.assert_close(head(x), expected)


def test_an_input_that_is_not_normalised_keeps_its_length():
    head, x = cosine_head(4, 3, scale=20, normalize_input=False).double(), rows(6, 4)
    torch.testing.assert_close(head(x), 20 * x @ F.normalize(head.direction, dim=1).T)
    torch.testing.assert_close(head(2 * x), 2 * head(x))


def test_a_row_of_zeros_has_logits_of_zero_and_a_finite_gradient():
    head, x = cosine_head(4, 3), torch.zeros(2, 4, requires_grad=True)
    assert head(x).abs().max() == 0
    F.cross_entropy(head(x), torch.tensor([0, 1])).backward()
    assert x.grad.isfinite().all()
    assert head.direction.grad.isfinite().all()


@pytest.mark.parametrize("normalize_input", [True, False])
def test_the_gradient_of_a_cosine_head_in_double_precision(normalize_input):
    head, x = cosine_head(3, 2, 2.0, learn_scale=True, normalize_input=normalize_input).double(), rows(4, 3)

    def logits(x, direction, log_scale):
        given = {"direction": direction, "log_scale": log_scale}
        return torch.func.functional_call(head, given, (x,))

    leaves = [x, *(head.get_parameter(name).detach() for name in ("direction", "log_scale"))]
    assert torch.autograd.gradcheck(logits, [leaf.clone().requires_grad_() for leaf in leaves])


def test_a_scale_is_learnt_only_where_asked_and_stays_above_zero():
    fixed, learnt = cosine_head(4, 3, 10), cosine_head(4, 3, 10, learn_scale=True)
    assert [name for name, _ in fixed.named_parameters()] == ["direction"]
    assert {name for name, _ in learnt.named_parameters()} == {"direction", "log_scale"}
    assert learnt.double().scale.item() == pytest.approx(10, rel=1e-14)
    optimizer = torch.optim.SGD(learnt.parameters(), lr=1.0)
    for _ in range(20):  # labels that are always wrong push the scale down
        x = learnt.weight.detach()
        optimizer.zero_grad()
        F.cross_entropy(learnt(x), torch.tensor([1, 2, 0])).backward()
        learnt.direction.grad.zero_()
        optimizer.step()
    assert 0 < learnt.scale.item() < 5


def test_prototypes_are_drawn_by_the_seed_in_all_directions():
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(cosine_head(8, 2000))
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    second = heads[0].weight.T @ heads[0].weight / 2000
    torch.testing.assert_close(second, torch.eye(8) / 8, atol=0.02, rtol=0)
    fourth = heads[0].weight.pow(4).mean().item()  # 3 / (d (d + 2)) on the sphere; a cube's corners have less
    assert fourth == pytest.approx(3 / 80, rel=0.03)


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head)), lambda head: loaded(head)]
)
def test_copies_and_loaded_ones_are_the_same(learn_scale, duplicate):
    head = cosine_head(4, 3, 7, learn_scale)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3)
    x = rows(6, 4, dtype=torch.float32)
    assert torch.equal(duplicate(head)(x), head(x))


def loaded(head):
    other = cosine_head(4, 3, 7, head.learn_scale)
    other.load_state_dict(head.state_dict(), strict=True)
    return other


def test_half_precision_is_normalised_in_float32():
    head, x = cosine_head(64, 3, 10).bfloat16(), rows(6, 64).bfloat16()
    expected = 10 * F.cosine_similarity(x.float()[:, None], head.direction.float()[None], dim=2)
    torch.testing.assert_close(head(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cosine_head(64, 3)(x).float().abs().max() < 1, torch.tensor(True))
    bare = cosine_head(64, 3, normalize_input=False).bfloat16()
    assert bare(x).dtype == torch.bfloat16


@pytest.mark.usefixtures("plain_shapes")
def test_a_cosine_head_refuses_numbers_out_of_range():
    for scale in (0, -1, math.nan, math.inf, "1"):
        with pytest.raises(InputError, match="scale: expected a number above 0, got"):
            cosine_head(3, 2, scale)
    for name, sizes in (("features", (0, 2)), ("classes", (3, 2.5))):
        with pytest.raises(InputError, match=f"{name}: expected a whole number of at least 1, got"):
            cosine_head(*sizes)


def test_a_cosine_head_shows_its_arguments():
    assert repr(cosine_head(4, 3, 10, learn_scale=True)) == (
        "CosineHead(in_features=4, out_features=3, scale=10 (learnt), normalize_input=True)"
    )
