"""Trials: what is asked, what is chosen, and that neither jobs nor a stop changes it."""

import math
import sys
from dataclasses import replace

import pytest

import counterpoise
from counterpoise.engine import execute, pool, tuning
from counterpoise.engine.pool import run_all
from counterpoise.engine.tuning import Arm, Grid, Sampled, trial_run, tune
from counterpoise.errors import InputError, MissingExtra
from counterpoise.registry.search import Range, defaults_of
from counterpoise.terminal import make_console
from counterpoise.training.run import ImageSettings, LearnerSettings, Run

QUIET = make_console(quiet=True)
SPACE = {"lr": Range(1e-4, 1e-1), "temperature": [0.1, 0.5], "norm": [True, 1]}
DEFAULTS = {"lr": 2e-3, "temperature": 0.1, "norm": True}
RUN = Run("simclr", "digits", settings=ImageSettings(epochs=1, batch_size=128, device="cpu"))


def height(values):
    """Highest, 0, at a learning rate of 0.03 and a temperature of 0.5."""
    return -abs(math.log10(values["lr"] / 0.03)) - (values["temperature"] != 0.5)


def searched(trials, objective=height, space=SPACE, defaults=DEFAULTS):
    """All values that were asked for, in waves."""
    proposals, waves = Sampled(space, defaults, trials), []
    while wave := proposals.ask():
        waves.append(wave)
        proposals.tell([objective(values) for values in wave])
    return waves


def test_a_known_optimum_is_found():
    asked = [values for wave in searched(40) for values in wave]
    best = max(asked, key=height)
    assert height(DEFAULTS) < -2
    assert best["temperature"] == 0.5
    assert 0.024 < best["lr"] < 0.0375
    later, earlier = asked[20:], asked[:8]  # it learns: what it asks for gets better
    assert sum(map(height, later)) / len(later) > sum(map(height, earlier)) / len(earlier) + 0.3


def test_the_defaults_come_first_and_numbers_can_be_written():
    first, *others = [values for wave in searched(9) for values in wave]
    assert first == DEFAULTS
    for values in others:
        assert 1e-4 <= values["lr"] <= 1e-1
        assert values["lr"] == float(f"{values['lr']:.3g}")
        assert values["norm"] in SPACE["norm"]
    assert len({values["lr"] for values in others}) == len(others)


def test_what_is_asked_depends_on_the_figures_before_alone():
    assert searched(9) == searched(9)
    assert [len(wave) for wave in searched(9)] == [4, 4, 1]
    assert searched(16)[:2] == searched(9)[:2]  # more trials go on from fewer
    assert searched(16)[2][:1] == searched(9)[2]
    other = searched(16, lambda values: -height(values))
    assert other[:2] == searched(16)[:2]  # at random
    assert other[2:] != searched(16)[2:]


def test_a_failed_trial_is_the_worst_and_teaches_the_sampler():
    def fails(values):
        return -math.inf if values["lr"] > 0.01 else math.log10(values["lr"])

    asked = [values for wave in searched(40, fails) for values in wave]
    best = max(asked, key=fails)
    assert 0.005 < best["lr"] <= 0.01
    assert sum(values["lr"] > 0.01 for values in asked[20:]) < 10
    assert len(searched(12, lambda values: -math.inf)) == 3  # all of them


def test_defaults_that_cannot_be_drawn_are_tried_but_not_learnt_from():
    for defaults in ({**DEFAULTS, "lr": 0.0}, {**DEFAULTS, "temperature": 0.07}):
        first, *others = [values for wave in searched(9, lambda values: 1.0, defaults=defaults) for values in wave]
        assert first == defaults
        assert len(others) == 8


def test_a_grid_is_asked_for_at_once():
    grid = Grid({"a": [1, 2], "b": ["x", "y"]})
    asked = grid.ask()
    assert asked == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    grid.tell([0.0] * 4)
    assert grid.ask() == []


def test_optuna_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"optuna is not installed: pip install 'counterpoise\[tune\]'"):
        Sampled(SPACE, DEFAULTS, 3)


@pytest.fixture
def results(monkeypatch):
    """Lets a trial have the result that a function of its run gives, and lists the runs."""
    made = []

    def use(result):
        def run_all(runs, folder, jobs, console, ray=None):
            made.extend(runs.values())
            return {key: result(run) for key, run in runs.items()}

        monkeypatch.setattr(tuning, "run_all", run_all)
        return made

    return use


def done(**metrics):
    return {"status": "done", "metrics": metrics, "groups": {}, "diagnostics": {"bend": 1.0}, "seconds": 2.0} | {
        "folder": f"runs/{metrics}"
    }


def grid(lrs=(0.1, 0.2, 0.3), run=RUN):
    return {"a": Arm(run, Grid({"lr": list(lrs)}))}


def test_the_best_trial_is_chosen_whichever_direction_is_better(results, tmp_path):
    made = results(lambda run: done(knn={0.1: 1.0, 0.2: 2.0, 0.3: 1.0}[run.arguments["lr"]]))
    found = tune(grid(), "knn", "higher", tmp_path, 1, QUIET)["a"]
    assert (found.arguments, found.settings, found.seconds) == ({"lr": 0.2}, {}, 4.0)  # two have one folder
    assert [trial.figure for trial in found.trials] == [1.0, 2.0, 1.0]
    assert tune(grid(), "knn", "lower", tmp_path, 1, QUIET)["a"].arguments == {"lr": 0.1}  # of equal ones the first
    assert {(run.seed, run.division, run.tuning) for run in made} == {(100, 100, True)}


def test_trials_that_fail_or_have_no_figure_are_worst(results, tmp_path):
    def result(run):
        if run.arguments["lr"] == 0.1:
            return {"seed": 100, "status": "failed", "error": "Diverged: loss nan"}
        return done(knn=math.nan) if run.arguments["lr"] == 0.2 else done(knn=-5.0)

    results(result)
    found = tune(grid(), "knn", "higher", tmp_path, 1, QUIET)["a"]
    assert found.arguments == {"lr": 0.3}
    assert [trial.figure for trial in found.trials] == [None, None, -5.0]
    assert [trial.error for trial in found.trials] == ["Diverged: loss nan", found.trials[1].error, None]
    assert "has no knn" in found.trials[1].error
    assert found.error is None
    failed = tune(grid((0.1, 0.2)), "knn", "higher", tmp_path, 1, QUIET)["a"]
    assert (failed.arguments, failed.settings) == ({}, {})
    assert failed.error == "all 2 trials failed; the first of them: Diverged: loss nan"
    with pytest.raises(InputError, match="tune: figure to choose by 'knm' is not known; did you mean 'knn'"):
        tune(grid(), "knm", "higher", tmp_path, 1, QUIET)
    assert tune(grid(), "bend", "higher", tmp_path, 1, QUIET)["a"].arguments == {"lr": 0.2}  # a diagnostic


def test_settings_are_tuned_beside_arguments(results, tmp_path):
    made = results(lambda run: done(knn=run.settings.batch_size + run.arguments["lr"]))
    arms = {"a": Arm(RUN, Grid({"lr": [0.1, 0.2], "batch_size": [16, 32]}))}
    found = tune(arms, "knn", "higher", tmp_path, 1, QUIET)["a"]
    assert (found.arguments, found.settings) == ({"lr": 0.2}, {"batch_size": 32})
    assert {run.settings.batch_size for run in made} == {16, 32}


def test_a_trial_keeps_what_the_user_fixed_and_the_division_of_its_arm():
    run = replace(RUN, arguments={"temperature": 0.3}, division=7, imperfect=("long-tail=2",))
    trial = trial_run(run, {"lr": 0.1})
    assert trial.arguments == {"temperature": 0.3, "lr": 0.1}
    assert (trial.seed, trial.division, trial.tuning, trial.imperfect) == (100, 7, True, ("long-tail=2",))


def test_the_order_in_which_trials_end_changes_no_choice(monkeypatch, tmp_path):
    def chosen(order):
        def run_all(runs, folder, jobs, console, ray=None):
            found = {key: done(mae=abs(math.log(run.arguments["lr"] / 0.01))) for key, run in runs.items()}
            return {key: found[key] for key in order(found)}

        monkeypatch.setattr(tuning, "run_all", run_all)
        return tune({**sampled(12), "b": sampled(12)["a"]}, "mae", "lower", tmp_path, 1, QUIET)

    assert chosen(list) == chosen(lambda found: list(found)[::-1])


def test_rows_that_are_one_run_are_run_once(monkeypatch, tmp_path):
    made = []

    def attempt(run, shelf, callbacks=()):
        made.append(run)
        return {"seed": run.seed, "status": "done"}

    monkeypatch.setattr(pool, "attempt", attempt)
    other = replace(RUN, arguments={"lr": 0.1})
    found = run_all({("a", 0): RUN, ("b", 0): RUN, ("c", 0): other}, tmp_path, 1, QUIET)
    assert len(made) == 2
    assert {*found} == {("a", 0), ("b", 0), ("c", 0)}


ROWS = LearnerSettings(epochs=2, batch_size=64, device="cpu")


def sampled(trials=6):
    space = {"lr": Range(1e-4, 1e-1), "error": ["l1", "l2"]}
    run = Run("regression", "diabetes", settings=ROWS, task="regress")
    return {"a": Arm(run, Sampled(space, defaults_of("regression", space), trials))}


@pytest.mark.slow
def test_a_call_that_is_stopped_goes_on_to_the_same_choice(monkeypatch, tmp_path):
    whole = tune(sampled(), "mae", "lower", tmp_path / "whole", 1, QUIET)
    made, measured = [], execute._measured

    def stopped(run, folder, watch, continued):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(run)
        return measured(run, folder, watch, continued)

    monkeypatch.setattr(execute, "_measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(sampled(), "mae", "lower", tmp_path / "cut", 1, QUIET)
    made.clear()
    resumed = tune(sampled(), "mae", "lower", tmp_path / "cut", 1, QUIET)
    assert len(made) == 1  # the others were done
    assert resumed["a"].arguments == whole["a"].arguments
    assert [trial[:3] for trial in resumed["a"].trials] == [trial[:3] for trial in whole["a"].trials]
    assert len({trial.figure for trial in whole["a"].trials}) > 1


@pytest.mark.slow
def test_jobs_change_no_choice(tmp_path):
    one, two = (tune(sampled(), "mae", "lower", tmp_path / f"{jobs}", jobs, QUIET)["a"] for jobs in (1, 2))
    assert one.arguments == two.arguments
    assert [trial[:3] for trial in one.trials] == [trial[:3] for trial in two.trials]


def compared(out, tune, methods=("regression", "rnc:temperature=1.0", "raw"), **settings):
    settings = {"epochs": 1, "batch_size": 64, "device": "cpu"} | settings
    return counterpoise.compare(
        list(methods), "diabetes", task="regress", seeds=2, tune=tune, out=out, quiet=True, **settings
    )


@pytest.mark.slow
def test_a_comparison_reports_what_was_chosen_of_each_method_and_what_it_cost(tmp_path):
    found = compared(tmp_path, 3)
    about = found["tuning"]
    assert (about["trials"], about["seed"], about["by"]) == (3, 100, "mae")
    assert {*about["methods"]} == {"regression", "rnc:temperature=1.0"}  # of raw inputs there is nothing to tune
    for row in found["methods"]:
        if row["label"] == "raw":
            assert row["arguments"] == {}
            continue
        one = about["methods"][row["label"]]
        assert len(one["trials"]) == 3
        assert one["seconds"] > 0
        best = min(one["trials"], key=lambda trial: trial["figure"])
        assert one["arguments"] == best["arguments"]
        assert row["arguments"].items() >= best["arguments"].items()
        assert all((tmp_path / trial["folder"] / "result.json").exists() for trial in one["trials"])
    assert "temperature" not in about["methods"]["rnc:temperature=1.0"]["arguments"]  # the user has fixed it
    assert found["methods"][1]["arguments"]["temperature"] == 1.0
    assert "--tune 3" in found["command"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "How arguments were chosen" in page
    before = (tmp_path / "results.json").read_text(encoding="utf-8")
    again = compared(tmp_path, 3)
    assert again["tuning"] == about
    assert "tuning" in before


def test_a_comparison_without_tuning_says_nothing_of_it(tmp_path):
    found = compared(tmp_path, 0, ("regression",))
    assert "tuning" not in found
    assert "--tune" not in found["command"]
    assert not (tmp_path / "tuning").exists()
    assert "How arguments were chosen" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune": -1}, "tune: expected a whole number of at least 0"),
        ({"tune": 2, "seeds": 101}, "seeds: expected at most 100, since seed 100 tunes, got 101"),
        ({"tune": 2, "methods": ["rnc:lr=0.1:weight_decay=0.1:temperature=1"]}, "all that could be tuned is fixed"),
        (
            {"tune": 2, "methods": ["meow:clusters=5:hidden=8"], "data": "planted:nodes=160", "task": "graph"},
            "tune: is not for the task graph, whose labelled nodes all score",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(tmp_path, given, message):
    given = {"methods": ["rnc"], "data": "diabetes", "task": "regress", "quiet": True} | given
    with pytest.raises(InputError, match=message):
        counterpoise.compare(**given, out=tmp_path / "c", epochs=1, device="cpu")
    assert not (tmp_path / "c").exists()


def test_tuning_without_optuna_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match="tune"):
        compared(tmp_path / "c", 2)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_method_of_which_all_trials_fail_does_not_stop_the_others(tmp_path):
    failing = tmp_path / "mine.py"
    failing.write_text(
        "from counterpoise.metric.regression import Regression\n\n\n"
        "class Fails(Regression):\n    def loss(self, *batch):\n        raise ValueError('no loss')\n"
    )
    found = compared(tmp_path / "c", 2, ("regression", f"{failing}:Fails"))
    good, bad = found["methods"][:2]
    assert [run["status"] for run in good["runs"]] == ["done"] * 2
    assert [run["status"] for run in bad["runs"]] == ["failed"] * 2
    assert bad["arguments"] == {}
    trials = found["tuning"]["methods"][bad["label"]]["trials"]
    assert [trial["figure"] for trial in trials] == [None, None]
    assert all("no loss" in trial["error"] for trial in trials)
    assert "nothing, since all trials failed" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
