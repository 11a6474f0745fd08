"""Traces: what makes them differ (an equation, an argument), and what does not (a name, a seed, rounding)."""

from dataclasses import replace

import pytest
import torch

from counterpoise import tasks
from counterpoise.contrast import simclr
from counterpoise.engine.traces import SEED, TOLERANCE, Trace, agree, difference, processor, shortened, trace
from counterpoise.learners import classifier
from counterpoise.training.run import Run, make_settings

DATA = {"regress": "diabetes", "compose": "glyphs:script=greek", "graph": "planted:nodes=160"}


def made(task="pretrain", method="simclr", **changes):
    settings = {"epochs": 50, "batch_size": 512, **({"size": 16} if task == "compose" else {})}
    if task == "graph":
        settings = {"epochs": 50}
    return Run(
        method,
        DATA.get(task, "digits"),
        settings=make_settings(tasks.find(task).settings, settings),
        task=task,
        **changes,
    )


@pytest.fixture(scope="module")
def of_simclr():
    return trace(made())


@pytest.mark.slow
def test_a_trace_is_in_float64_and_the_same_again(of_simclr):
    assert of_simclr["dtype"] == "float64"
    assert trace(made()) == of_simclr
    assert len(of_simclr["losses"]) == 2


@pytest.mark.slow
def test_seed_budget_and_batch_of_the_run_itself_do_not_matter(of_simclr):
    run = made(seed=3)
    assert shortened(run).seed == SEED
    assert trace(replace(run, settings=replace(run.settings, epochs=7, precision="bf16-mixed"))) == of_simclr


@pytest.mark.slow
def test_a_changed_equation_breaks_a_trace(of_simclr, monkeypatch):
    loss = simclr.nt_xent
    monkeypatch.setattr(simclr, "nt_xent", lambda *args, **options: loss(*args, **options) * 1.0001)
    assert difference(of_simclr, trace(made())).startswith("losses 1:")


@pytest.mark.slow
def test_another_argument_breaks_a_trace(of_simclr):
    assert difference(of_simclr, trace(made(arguments={"temperature": 0.1001})))


@pytest.mark.slow
def test_a_renaming_does_not_break_a_trace(of_simclr, monkeypatch):
    monkeypatch.setattr(simclr, "contrast_of_two_views", simclr.nt_xent, raising=False)
    monkeypatch.setattr(simclr, "nt_xent", lambda *args, **options: simclr.contrast_of_two_views(*args, **options))
    assert difference(of_simclr, trace(made())) is None


@pytest.mark.slow
def test_another_order_of_sums_does_not_break_a_trace(monkeypatch):
    before, loss = trace(made("classify", "cross-entropy")), classifier.cross_entropy
    turned = lambda logits, targets, *args: loss(logits.flip(0), targets.flip(0), *args)  # noqa: E731
    monkeypatch.setattr("counterpoise.classify.cross_entropy.cross_entropy", turned)
    after = trace(made("classify", "cross-entropy"))
    assert difference(before, after) is None


@pytest.mark.slow
@pytest.mark.parametrize("task", [*DATA, "retrieve", "few-shot"])
def test_every_task_has_traces(task):
    few = {"arguments": {"clusters": "5", "hidden": 8}} if task == "graph" else {}
    run = made(task, tasks.find(task).baseline.partition(":")[0], **few)
    found = trace(run)
    assert found["projections"]
    assert tasks.find(task).main in found["scores"]
    assert all(map(torch.tensor(found["projections"]).isfinite().tolist().__getitem__, range(8)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tolerances_are_of_each_number_and_of_one_test_item(dtype):
    first = Trace(dtype=dtype, losses=[1.0, 4.0], projections=[0.1, 10.0], scores={"knn": 0.5, "nll": 2.0}, items=10)
    small, large = TOLERANCE[dtype] / 2, TOLERANCE[dtype] * 2
    assert difference(first, {**first, "losses": [1 + small, 4.0]}) is None
    assert difference(first, {**first, "losses": [1.0, 4 * (1 + large)]}).startswith("losses 2:")
    assert difference(first, {**first, "projections": [0.1 + 10 * small, 10.0]}) is None
    assert difference(first, {**first, "projections": [0.1 + 10 * large, 10.0]}).startswith("projections 1:")
    assert difference(first, {**first, "scores": {"knn": 0.6, "nll": 2.0}}) is None
    assert difference(first, {**first, "scores": {"knn": 0.3, "nll": 2.0}}).startswith("knn:")
    assert difference(first, {**first, "scores": {"knn": 0.5}}).startswith("scores:")
    assert difference(first, {**first, "losses": [1.0]}) == "losses: 1, recorded 2"


def test_arms_are_compared_by_name():
    one = Trace(dtype="float64", losses=[1.0], projections=[], scores={}, items=0)
    assert agree({"a": one}, {"a": one}) is None
    assert agree({"a": one}, {"b": one}) == "arms: b, recorded a"
    assert agree({"a": one}, {"a": {**one, "losses": [2.0]}}) == "a: losses 1: 2.0, recorded 1.0"


def test_the_processor_has_a_name():
    assert processor().endswith(torch.backends.cpu.get_cpu_capability())
