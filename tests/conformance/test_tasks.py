"""What every task must do, whatever its data: a run ends and is resumed to the bit, its models stay as they were.

A new task adds one line to `SPECS`, under its name, or under TASK:KIND for another kind of data; `make cuda` goes over
the same lines.
"""

from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

import counterpoise
from counterpoise import tasks
from counterpoise.commands.arms import parse_arms
from counterpoise.engine.execute import execute_run
from counterpoise.engine.items import read_items
from counterpoise.registry import catalogue
from counterpoise.registry.signatures import describe_settings
from counterpoise.training.run import Run, make_settings


class Spec(NamedTuple):
    """The smallest thing that a task can run on.

    Attributes:
        data: its data.
        methods: as `--methods` takes them; the first is run by itself, too.
        settings: besides the device.
        resumes: whether a run that was stopped goes on from its last epoch; else it starts again, with the same bits.
    """

    data: str
    methods: tuple[str, ...]
    settings: dict = {"epochs": 3, "batch_size": 64}  # noqa: RUF012
    resumes: bool = True


ROWS = {"epochs": 3, "batch_size": 32}
SPECS = {
    "pretrain": Spec("digits", ("simclr", "supcon")),
    "classify": Spec("digits", ("cross-entropy", "logit-adjusted:when=posthoc")),
    "classify:rows": Spec(
        "sklearn:wine", ("cross-entropy:mixup=0.2", "logit-adjusted"), {"epochs": 3, "batch_size": 32}
    ),
    "robust": Spec(
        "digits", ("pgd-at:attack_steps=2", "cross-entropy"), {"epochs": 3, "batch_size": 256, "pgd_steps": 3}
    ),
    "retrieve": Spec("digits", ("multi-similarity", "tcm")),
    "few-shot": Spec("digits", ("protonet", "susana")),
    "regress": Spec("diabetes", ("regression", "rnc")),
    "compose": Spec("glyphs:script=greek", ("composed-retrieval",), {"epochs": 2, "batch_size": 64, "size": 16}),
    "zero-shot": Spec("glyphs:script=greek:split=family", ("clip", "tfup"), {"epochs": 2, "batch_size": 64, "size": 8}),
    "survival": Spec("two-regimes:items=200", ("ad-survival", "cox"), ROWS),
    "graph": Spec("planted:nodes=160", ("meow:clusters=5:hidden=8",), {"epochs": 3}, resumes=False),
}
OF_MEASURES = {"measure"}  # whose studies are run by their claims alone
every = pytest.mark.parametrize("name", SPECS)


def task_of(name):
    return tasks.find(name.partition(":")[0])


def run_of(name, device="cpu"):
    spec, task = SPECS[name], task_of(name)
    (arm, *_) = parse_arms(spec.methods, task.name)
    settings = make_settings(task.settings, {**spec.settings, "device": device})
    return Run(arm.method, spec.data, 0, dict(arm.arguments), settings=settings, task=task.name)


class StopAfter(Callback):
    """Ends training at the start of an epoch, as a kill would."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epochs:
            raise ConnectionAbortedError


def test_every_task_has_a_spec():
    assert set(catalogue.TASKS) == {task_of(name).name for name in SPECS} | OF_MEASURES


@pytest.mark.parametrize("name", catalogue.TASKS)
def test_a_task_declares_what_reports_need(name):
    task = tasks.find(name)
    assert task.name == name
    if name not in OF_MEASURES:
        assert task.main in task.metrics
        assert set(task.shown) <= set(task.metrics)
        assert task.main in task.shown
        assert set(task.front or ()) <= set(task.metrics)
        assert task.per_class in (None, *task.metrics)
        (arm,) = parse_arms([task.baseline], name)
        assert name in catalogue.find(arm.method).tasks
    assert all(metric.better in ("higher", "lower") for metric in (*task.metrics.values(), *task.curve.values()))


@pytest.mark.parametrize("name", catalogue.TASKS)
def test_the_flags_that_are_read_from_source_are_the_task_s_settings(name):
    read = describe_settings(catalogue.task_source(name)).arguments
    assert {argument.name for argument in read} == {f.name for f in fields(tasks.find(name).settings)}
    assert all(argument.help for argument in read)


@every
def test_a_room_stands_for_its_methods_that_serve_the_task(name):
    task, methods = task_of(name).name, SPECS[name].methods
    rooms = {catalogue.find(arm.method).room for arm in parse_arms(methods, task)}
    arms = [arm.method for room in rooms for arm in parse_arms([f"room:{room}"], task)]
    assert {arm.method for arm in parse_arms(methods, task)} <= set(arms)
    assert all(task in catalogue.find(slug).tasks for slug in arms)


@pytest.mark.slow
@every
def test_a_run_ends_with_all_that_a_result_holds_and_is_resumed_to_the_bit(name, tmp_path):
    run, task = run_of(name), task_of(name)
    whole = execute_run(run, tmp_path / "whole")
    assert whole["status"] == "done"
    assert task.main in whole["metrics"]
    assert set(whole["metrics"]) <= set(task.metrics)
    assert all(len(counts) == len(whole["classes"]) for counts in whole["counts"].values())
    assert len(whole["curve"]) == run.settings.epochs
    (tmp_path / "cut").mkdir()
    with pytest.raises(ConnectionAbortedError):
        execute_run(run, tmp_path / "cut", callbacks=(StopAfter(1),))
    assert (tmp_path / "cut" / "last.ckpt").exists() == SPECS[name].resumes
    resumed = execute_run(run, tmp_path / "cut")
    same = ("metrics", "groups", "per_class", "diagnostics", "parameters", "offered", "classes", "counts", "sizes")
    assert {key: whole[key] for key in same} == {key: resumed[key] for key in same}
    assert [row.get("loss") for row in whole["curve"]] == [row.get("loss") for row in resumed["curve"]]
    (kept,) = (tmp_path / "whole").glob("*.safetensors")
    ours, theirs = load_file(kept), load_file(tmp_path / "cut" / kept.name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
@every
def test_the_items_and_the_network_that_are_kept_come_back(name, tmp_path):
    result = execute_run(replace(run_of(name), settings=replace(run_of(name).settings, epochs=1)), tmp_path)
    items = read_items(tmp_path)
    assert items is not None
    assert {name: values.mean(dtype=np.float64) for name, values in items.metrics.items()} == pytest.approx(
        {name: result["metrics"][name] for name in items.metrics}, rel=1e-5, abs=1e-6
    )
    assert task_of(name).main in items.metrics or name == "graph"  # whose macro F1 is no mean over nodes
    if not result["shape"]:
        return  # of a graph, the rows of its nodes are kept
    net, about = tasks.load_net(tmp_path)
    assert not net.training
    assert about["shape"] == result["shape"]
    found = net(torch.zeros(2, *result["shape"]))
    assert found.shape[0] == 2
    assert torch.isfinite(found).all()


@pytest.mark.slow
@every
def test_methods_are_compared_from_the_command_s_function_to_the_report(name, tmp_path):
    spec = SPECS[name]
    settings = {**spec.settings, "epochs": 1, "device": "cpu"}
    found = counterpoise.compare(
        list(spec.methods), spec.data, task=task_of(name).name, seeds=2, out=str(tmp_path / "c"), quiet=True, **settings
    )
    runs = [run for row in found["methods"] for run in row["runs"]]
    assert [run.get("error") for run in runs] == [None] * len(runs)
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert task_of(name).metrics[task_of(name).main].title in page
