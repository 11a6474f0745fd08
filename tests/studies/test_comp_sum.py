"""The study of comp-sum losses: problems solved by hand and by search, and a bound that never fails where it holds."""

import math

import pytest
import torch

from counterpoise.classify.comp_sum import comp_sum, excess_bound
from counterpoise.commands.compare import compare
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.studies import comp_sum as module
from counterpoise.studies.comp_sum import study
from counterpoise.training.run import Run


def sides(p, scores, data, tau):
    return module._sides(torch.tensor(p, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64), data, tau)


def test_a_problem_of_two_points_by_hand():
    """Constant scores 0 with cross-entropy: the risk is log 2, that of the best constant the entropy of the mean."""
    excess, bound, gap, gap_01 = sides([[0.9, 0.1], [0.3, 0.7]], [[0.0, 0.0], [0.0, 0.0]], "constant", 1.0)
    best, first, second = (-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.6, 0.9, 0.3))
    assert gap == pytest.approx(best - (first + second) / 2)
    assert gap_01 == pytest.approx(0.4 - (0.1 + 0.3) / 2)
    assert excess == pytest.approx((0.1 + 0.7) / 2 - (0.1 + 0.3) / 2)  # names class 0 throughout
    assert bound == pytest.approx(excess_bound(math.log(2) - (first + second) / 2))


def test_functions_that_are_free_at_each_point_have_no_gaps():
    p, scores = [[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]
    excess, bound, gap, gap_01 = sides(p, scores, "table", 0.5)
    assert (gap, gap_01) == (0, 0)
    assert excess == pytest.approx((0.7 - 0.2) / 2)
    assert excess <= bound


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_the_gap_of_constants_is_that_of_the_best_constant_which_a_search_finds(tau):
    p = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]], dtype=torch.float64)
    h = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    free = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)

    def risk(scores):
        each = torch.stack([comp_sum(scores, torch.full((2,), k), tau) for k in range(3)], dim=1)
        return (p * each).sum(1).mean()

    optimizer = torch.optim.LBFGS([h, free], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = risk(h.expand(2, 3)) + risk(free)
        loss.backward()
        return loss

    optimizer.step(step)
    expected = (risk(h.expand(2, 3)) - risk(free)).item()
    assert sides(p.tolist(), [[0.0] * 3] * 2, "constant", tau)[2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("b", [0.2, 0.9])
def test_with_two_classes_the_bound_is_attained(tau, b):
    """One point whose label has probabilities (1 ± b) / 2, and scores that just name the wrong class."""
    excess, bound, *_ = sides([[(1 - b) / 2, (1 + b) / 2]], [[1e-7, 0.0]], "table", tau)
    assert excess == pytest.approx(b)
    assert bound == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("data", ["table", "constant"])
def test_the_bound_holds_on_every_drawn_problem(data):
    for tau in (0.0, 0.7, 1.0, 1.3, 2.0, 3.0):
        found = study(data, seed=11, tau=tau, problems=30)
        assert found["slack"] >= -1e-9
        assert found["tightness"] <= 1 + 1e-9
        assert (found["gap"] > 0) == (found["gap_01"] > 0) == (data == "constant")
        assert found == study(data, seed=11, tau=tau, problems=30)
    assert study(data, seed=12, problems=30) != study(data, seed=11, problems=30)


def test_it_is_a_run_of_the_task_measure_which_names_it(tmp_path):
    run = Run("comp-sum", "constant", 11, {"tau": 0.7, "problems": 5}, task="measure")
    assert execute_run(run, tmp_path)["metrics"] == study("constant", 11, tau=0.7, problems=5)
    with pytest.raises(
        InputError, match=r"by the task classify or robust, or call its study, counterpoise\.studies\.comp_sum\.study$"
    ):
        compare("comp-sum", "constant", task="measure", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digits"}, "data 'digits' is not known"),
        ({"seed": -1}, "seed: "),
        ({"tau": -0.1}, "tau: expected a number of at least 0, got -0.1"),
        ({"classes": 1}, "classes: expected a whole number of at least 2, got 1"),
        ({"points": 0}, "points: expected a whole number of at least 1, got 0"),
        ({"problems": 0}, "problems: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        study(**{"data": "table", "seed": 0, **changes})
