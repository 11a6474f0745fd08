"""Gradient surgery by hand, in its limits, beside torchjd's PCGrad, and on the gradients of a net."""

import math

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.ops.gradients import project_conflict, project_conflicts


def conflicting(*shape, seed=0, dtype=torch.float64):
    """Two random gradients that work against each other."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))
    return (a, b) if (a * b).sum() < 0 else (a, -b)


@pytest.mark.parametrize(("length", "exact", "inexact"), [(1.0, (0.5, 0.5), (0.5, 0.5)), (2.0, (1, 1), (1.5, 0.5))])
def test_two_numbers_by_hand(length, exact, inexact):
    a, b = torch.tensor([length, 0.0]), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(project_conflict(a, b), torch.tensor([*map(float, exact)]))
    torch.testing.assert_close(project_conflict(a, b, exact=False), torch.tensor([*map(float, inexact)]))


def test_what_is_left_is_orthogonal_and_a_step_of_half_the_strength_goes_half_the_way():
    a, b = conflicting(4, 3, 2)
    whole, half = project_conflict(a, b), project_conflict(a, b, strength=0.5)
    assert abs((whole * b).sum()) < 1e-12 < -(a * b).sum()
    torch.testing.assert_close(half, (a + whole) / 2)
    removed = (a - whole).flatten()
    torch.testing.assert_close(removed / removed.norm(), -b.flatten() / b.norm())


def test_the_cosine_form_removes_as_much_whatever_the_lengths_are():
    a, b = conflicting(7)
    cosine = (a @ b) / a.norm() / b.norm()
    for scale in (0.01, 1.0, 100.0):
        for other in (b, 30 * b):
            removed = scale * a - project_conflict(scale * a, other, 0.7, exact=False)
            torch.testing.assert_close(removed, 0.7 * cosine * b / b.norm())


@pytest.mark.parametrize("exact", [True, False])
def test_without_a_conflict_a_comes_back_as_it_is(exact):
    a, b = conflicting(5)
    zeros = torch.zeros(5, dtype=torch.float64)
    minus = torch.tensor([-0.0, 1.0])
    assert project_conflict(a, -b, exact=exact) is a
    assert project_conflict(a, zeros, exact=exact) is a
    assert project_conflict(zeros, b, exact=exact) is zeros
    assert project_conflict(a, b, strength=0, exact=exact) is a
    assert project_conflict(minus, torch.tensor([1.0, 0.0]), exact=exact) is minus  # orthogonal is no conflict


@pytest.mark.parametrize("scales", [(1e-30, 1e-30), (1e30, 1e-30), (1e-30, 1e30), (1e30, 1e30), (1e-36, 1.0)])
def test_huge_and_tiny_gradients_are_projected_as_any(scales):
    """Squares of these numbers leave float32."""
    a, b = (scale * x for scale, x in zip(scales, conflicting(6), strict=True))
    found = project_conflict(a.float(), b.float())
    expected = a.float().double() - (a.float().double() @ b.float().double()) / b.float().double().square().sum() * (
        b.float().double()
    )
    torch.testing.assert_close(found.double() / scales[0], expected / scales[0], rtol=1e-4, atol=1e-3)


def test_half_precision_is_computed_in_float32_and_stays_half_precision():
    a, b = conflicting(2000, dtype=torch.float32)
    a, b = (100 * x.half() for x in (a, b))  # the sum of the squares would be infinite
    found = project_conflict(a, b)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, project_conflict(a.double(), b.double()).half())


def test_a_common_rotation_rotates_the_result():
    a, b = conflicting(5)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    for exact in (True, False):
        turned = project_conflict(rotation @ a, rotation @ b, exact=exact)
        torch.testing.assert_close(turned, rotation @ project_conflict(a, b, exact=exact))


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_added_are_pcgrad_of_torchjd(seed):
    aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is the oracle here")
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    expected = aggregation.PCGrad()(torch.stack([a, b]))
    torch.testing.assert_close(project_conflict(a, b) + project_conflict(b, a), expected)
    if a @ b < 0:
        assert not torch.allclose(a + b, expected)


# --- several parameters ---


def test_of_all_together_the_whole_is_one_vector():
    a, b = conflicting(11)
    sizes = (3, 0, 8)
    found = project_conflicts(a.split(sizes), b.split(sizes), 0.8)
    torch.testing.assert_close(torch.cat(found), project_conflict(a, b, 0.8))


def test_per_tensor_a_conflict_in_one_leaves_all_others_untouched():
    (a, b), (c, d) = conflicting(3, seed=1), conflicting(2, 2, seed=2)
    found = project_conflicts([a, c, None, a], [b, -d, a, None], per_tensor=True)
    torch.testing.assert_close(found[0], project_conflict(a, b))
    assert found[1] is c
    assert found[2] is None
    assert found[3] is a


def test_all_together_without_a_conflict_all_come_back_as_they_are():
    a, b = conflicting(4)
    given = [a, None, b]
    found = project_conflicts(given, [-b, a, None])
    assert all(mine is theirs for mine, theirs in zip(found, given, strict=True))
    assert project_conflicts([None, None], [None, None]) == [None, None]
    assert project_conflicts([], []) == []


def test_what_a_loss_does_not_reach_counts_as_zeros():
    """Two losses with a head each, on shared features: the projection reaches the other loss's head as well."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    trunk, main, auxiliary = (draw(3, 3).requires_grad_() for _ in range(3))
    features = draw(5, 3) @ trunk
    first = (features @ main).square().mean()
    second = -(features @ auxiliary).square().mean() - features.square().mean()
    parameters = [trunk, main, auxiliary]
    b = torch.autograd.grad(first, parameters, retain_graph=True, allow_unused=True)
    a = torch.autograd.grad(second, parameters, allow_unused=True)
    assert a[1] is None
    assert b[2] is None
    assert (a[0] * b[0]).sum() < 0
    found = project_conflicts(a, b)
    share = (a[0] * b[0]).sum() / (b[0].square().sum() + b[1].square().sum())
    torch.testing.assert_close(found[0], a[0] - share * b[0])
    torch.testing.assert_close(found[1], -share * b[1])
    torch.testing.assert_close(found[2], a[2])
    whole = sum((mine * other).sum() for mine, other in zip(found, b, strict=True) if other is not None)
    assert abs(whole) < 1e-12


def test_a_step_along_the_projection_does_not_raise_the_protected_loss():
    """To first order: half the descent of one loss would raise the other."""
    generator = torch.Generator().manual_seed(0)
    net, x = nn.Linear(4, 2).double(), torch.randn(16, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def kept():
        return (net(x)[:, 0] - 1).square().mean()

    forgotten = -(net(x) + 1).square().mean()
    parameters = list(net.parameters())
    b = torch.autograd.grad(kept(), parameters)
    a = torch.autograd.grad(forgotten, parameters)
    slopes = [
        sum((mine * other).sum().item() for mine, other in zip(direction, b, strict=True))
        for direction in (a, project_conflicts(a, b))
    ]
    assert slopes[0] < -0.1
    assert abs(slopes[1]) < 1e-12
    before = kept().item()
    with torch.no_grad():
        for parameter, step in zip(parameters, project_conflicts(a, b), strict=True):
            parameter.sub_(1e-5 * step)
    assert kept().item() - before < 1e-8


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    a, b = conflicting(3)
    with pytest.raises(InputError, match=r"a and b: expected the same shape, got \[3\] and \[2\]"):
        project_conflict(a, b[:2])
    with pytest.raises(InputError, match="b: 1 of 3 numbers are NaN"):
        project_conflict(a, torch.tensor([1.0, math.nan, 2.0]))
    with pytest.raises(InputError, match="a: expected floating-point numbers, got "):
        project_conflict(torch.arange(3), b)
    with pytest.raises(InputError, match="strength: expected a number of at least 0, got -1"):
        project_conflict(a, b, strength=-1)
    with pytest.raises(InputError, match="a and b: expected a gradient or None for each parameter, got 2 and 1"):
        project_conflicts([a, a], [b])
    for per_tensor in (True, False):
        with pytest.raises(InputError, match=r"a and b: expected the same shape, got \[3\] and \[2\]"):
            project_conflicts([a], [b[:2]], per_tensor=per_tensor)
        with pytest.raises(InputError, match="strength: expected a number of at least 0, got nan"):
            project_conflicts([], [], math.nan, per_tensor=per_tensor)
