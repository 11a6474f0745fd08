import json
from dataclasses import replace

import pytest

from counterpoise import train
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import Argument, Description
from counterpoise.tasks import measure
from counterpoise.training.run import Run

PAPER = catalogue.Paper("gauge", "", "measure", ("measure",), ("measure",), "", "", done=True, module="gauge")


def study(data, seed, factor=1.0, samples=3):
    """What `gauge` claims."""
    return {"size": factor * len(data), "seed": seed, "samples": samples}


@pytest.fixture(autouse=True)
def gauge(monkeypatch):
    described = Description("", (Argument("data", str), Argument("seed", int, 0), Argument("factor", float, 1.0)))
    monkeypatch.setattr(catalogue, "papers", lambda: {"gauge": replace(PAPER, study="gauge")})
    monkeypatch.setattr(catalogue, "load_class", lambda slug, task=None: study)
    for module in ("tasks.base", "tasks.measure", "registry.catalogue", "registry.signatures"):
        monkeypatch.setattr(f"counterpoise.{module}.describe", lambda module, name: described)


def test_a_study_s_figures_are_its_metrics_and_kept(tmp_path, monkeypatch):
    run = Run("gauge", "digits", 3, {"factor": 0.5}, task="measure")
    result = execute_run(run, tmp_path, progress=True)
    assert result["metrics"] == {"size": 3.0, "seed": 3.0, "samples": 3.0}
    monkeypatch.setattr(execute, "_result", None)
    assert execute_run(run, tmp_path) == json.loads((tmp_path / "result.json").read_text()) == result


def test_an_argument_that_the_study_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="'facto' is not known; did you mean 'factor'"):
        execute_run(Run("gauge", "digits", arguments={"facto": 1.0}, task="measure"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_of_a_study_is_not_made_imperfect(tmp_path):
    with pytest.raises(InputError, match="imperfect: is not for the task measure"):
        execute_run(Run("gauge", "digits", imperfect=("long-tail=5",), task="measure"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_is_neither_trained_nor_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert catalogue.task_of("gauge") == "measure"
    for call in (lambda: train("gauge", "digits"), lambda: measure.TASK.check(Run("gauge", "digits"), scored=True)):
        with pytest.raises(
            InputError, match=r"gauge: is a measure, with nothing .* its study, counterpoise\.gauge\.study$"
        ):
            call()
    assert not list(tmp_path.iterdir())


def test_the_study_beside_a_method_is_a_run_of_this_task_and_the_method_compared_by_its_own_task(monkeypatch):
    both = replace(PAPER, study="gauge", method="Gauge", tasks=("classify", "measure"))
    monkeypatch.setattr(catalogue, "papers", lambda: {"gauge": both})
    run = Run("gauge", "digits", arguments={"factor": 2.0}, task="measure")
    measure.TASK.check_run(run)
    monkeypatch.setattr(catalogue, "load_class", lambda slug, task=None: study if task == "measure" else None)
    assert measure.TASK.make(run, None)()["size"] == 12
    with pytest.raises(
        InputError, match=r"compare its method by the task classify, or call its study, counterpoise\.gauge\.study$"
    ):
        measure.TASK.check(Run("gauge", "digits", task="measure"), scored=True)
