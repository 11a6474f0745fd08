"""PGD: it finds the corner where that is the best, keeps what was best, and stays within ball and range."""

import math

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.ops.attacks import pgd
from worlds import seeded


def inputs():
    return 1.8 * torch.rand(5, 2, 3, generator=seeded(0), dtype=torch.float64) - 0.9


def test_of_a_linear_score_it_finds_the_best_corner_of_ball_and_range():
    x, weight = inputs(), torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)
    found, score = pgd(lambda x: (x * weight).sum((1, 2)), x, 0.3, steps=8, step=0.1)
    corner = (x + 0.3 * weight.sign()).clamp(-1, 1)
    torch.testing.assert_close(found, corner)
    torch.testing.assert_close(score, (corner * weight).sum((1, 2)))


def test_it_starts_anywhere_in_ball_and_range():
    x = torch.tensor([[0.95, -0.2]]).expand(4000, 2)
    start, _ = pgd(lambda x: x.sum(1), x, 0.1, steps=0, step=1.0, generator=seeded(2))
    for column, (low, high) in zip(start.T, ((0.85, 1.0), (-0.3, -0.1)), strict=True):
        assert low <= column.min() < low + 1e-3
        assert high - 1e-3 < column.max() <= high
        assert column.mean().item() == pytest.approx((low + high) / 2, abs=0.005)


def test_more_steps_never_lower_the_score_which_is_that_of_the_point_returned():
    """Steps of twice the radius jump about, so that the last point is rarely the best."""
    x = inputs()

    def score(x):
        return torch.sin(9 * x).sum((1, 2))

    scores = []
    for steps in range(7):
        found, best = pgd(score, x, 0.4, steps, step=0.8, generator=seeded(3))
        torch.testing.assert_close(score(found), best)
        assert ((found - x).abs() <= 0.4 + 1e-12).all()
        assert found.abs().max() <= 1
        scores.append(best)
    assert (torch.stack(scores).diff(dim=0) >= 0).all()
    assert (scores[-1] > scores[0]).sum() >= 3


def test_a_step_goes_its_length_in_every_number():
    x, weight = inputs() / 2, torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)

    def after(steps):
        return pgd(lambda x: (x * weight).sum((1, 2)), x, 0.4, steps, 0.003, generator=seeded(2))[0]

    inside = (after(1) - x).abs() < 0.39
    assert inside.sum() > 20
    torch.testing.assert_close((after(1) - after(0))[inside], (0.003 * weight.sign()).expand(5, 2, 3)[inside])


def test_it_starts_where_that_is_asked_for_within_ball_and_range():
    x = torch.tensor([[0.95, -0.2, 0.0]])
    start = torch.tensor([[2.0, -0.25, -1.0]])
    found, score = pgd(lambda x: x.sum(1), x, 0.1, steps=0, step=1.0, start=start)
    torch.testing.assert_close(found, torch.tensor([[1.0, -0.25, -0.1]]))
    torch.testing.assert_close(score, torch.tensor([0.65]))
    moved, _ = pgd(lambda x: x.sum(1), x, 0.1, steps=1, step=0.02, start=x)
    torch.testing.assert_close(moved, x + 0.02)


def test_another_range_bounds_the_inputs():
    found, _ = pgd(lambda x: x.sum(1), torch.tensor([[0.5, 3.9]]), 1.0, 9, 0.5, low=0.0, high=4.0)
    assert found.tolist() == [[1.5, 4.0]]


def test_the_same_generator_gives_the_same_attack():
    one, other = (pgd(lambda x: -x.square().sum((1, 2)), inputs(), 0.1, 2, 0.02, generator=seeded(4)) for _ in range(2))
    assert torch.equal(one[0], other[0])


def test_parameters_and_inputs_get_no_gradient_even_where_gradients_are_off():
    net, x = nn.Linear(3, 1), torch.zeros(4, 3, requires_grad=True)
    with torch.no_grad():
        found, _ = pgd(lambda x: net(x)[:, 0], x, 0.5, 4, 0.25)
    torch.testing.assert_close(found, 0.5 * net.weight.detach().sign().expand(4, 3))
    assert net.weight.grad is None
    assert x.grad is None
    assert not found.requires_grad
    assert not pgd(lambda x: x.sum(1), x, 0.5, 0, 0.25)[0].requires_grad


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0}, "radius: expected a number above 0, got 0"),
        ({"steps": -1}, "steps: expected a whole number of at least 0, got -1"),
        ({"step": 0.0}, "step: expected a number above 0, got 0"),
        ({"high": -1.0}, "high: expected a number above -1, got -1"),
        ({"x": torch.full((2, 3), 1.5)}, "x: expected numbers from -1 to 1, got 1.5 to 1.5"),
        ({"x": torch.full((2, 3), -1.5)}, "x: expected numbers from -1 to 1, got -1.5 to -1.5"),
        ({"x": torch.full((2, 3), math.nan)}, "x: 6 of 6 numbers are NaN"),
        ({"x": torch.tensor(0.5)}, "x: expected one row or more of inputs, got a single number"),
        ({"start": torch.full((2, 2), 0.5)}, "x and start: expected the same shape"),
        ({"start": torch.full((2, 3), math.nan)}, "start: 6 of 6 numbers are NaN"),
        ({"score": lambda x: x.sum()}, "score: expected one number for each of the 2 rows of x, got \\[\\]"),
        ({"score": lambda x: x.sum(1) / 0}, "score: became NaN or infinite"),
    ],
)
def test_bad_input_is_refused_by_name(changes, message):
    given = {"score": lambda x: x.sum(1), "x": torch.full((2, 3), 0.5), "radius": 0.1, "steps": 2, "step": 0.05}
    with pytest.raises(InputError, match=message):
        pgd(**{**given, **changes})
