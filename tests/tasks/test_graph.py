import json

import pytest
import torch
from safetensors.torch import load_file

from counterpoise import compare, train
from counterpoise.data.graphs import planted_graph
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.tasks import graph
from counterpoise.training.run import ImageSettings, Run, Settings

ARGUMENTS = {"clusters": "5", "hidden": 8}


def run(seed=0, **changes):
    given = {"arguments": ARGUMENTS, "settings": Settings(epochs=3, device="cpu"), **changes}
    return Run("meow", "planted:nodes=160", seed, task="graph", **given)


@pytest.mark.slow
def test_a_run_keeps_its_rows_and_is_not_run_twice(tmp_path, monkeypatch):
    result = execute_run(run(), tmp_path)
    assert set(result["metrics"]) == set(graph.TASK.metrics)
    assert load_file(tmp_path / "nodes.safetensors")["z"].shape == (160, 8)
    assert [row["epoch"] for row in result["curve"]] == [1, 2, 3]
    assert result["sizes"]["author"] == 53
    papers = graph.TASK.load(run())["paper"]
    over = result["metrics"]["macro_f1"] - graph.score(papers.x, papers.y)["macro_f1"]
    assert result["diagnostics"]["over features"] == over
    monkeypatch.setattr(execute, "_result", None)
    assert execute_run(run(), tmp_path) == json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.slow
def test_the_seed_decides(tmp_path):
    rows = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        execute_run(run(seed), tmp_path / name)
        rows.append(load_file(tmp_path / name / "nodes.safetensors")["z"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_rows_that_hold_the_class_score_one_and_others_as_chance():
    labels = torch.arange(4).repeat(30)
    exact = graph.score(torch.eye(4)[labels] + 0.01 * torch.randn(120, 4), labels)
    assert exact == dict.fromkeys(graph.TASK.metrics, 1.0)
    torch.manual_seed(0)
    chance = graph.score(torch.randn(120, 4), labels)
    assert chance["micro_f1"] < 0.4
    assert abs(chance["ari"]) < 0.1


def test_a_class_with_too_few_nodes_is_refused():
    with pytest.raises(InputError, match="more than 20 labelled nodes of each class, got 20"):
        graph.score(torch.randn(60, 4), torch.tensor([0] * 40 + [1] * 20))


LABELS = torch.arange(4).repeat(30)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((120,), -1), "expected labelled nodes of at least 2 classes, got 0"),
        (torch.zeros(120, dtype=torch.int64), "expected labelled nodes of at least 2 classes, got 1"),
        (LABELS - 2, "labels: expected integers of at least -1, got -2"),
        (LABELS.float(), "labels: expected integers, got torch.float32"),
        (LABELS > 1, "labels: expected integers, got torch.bool"),
        (LABELS[:100], "labels: expected one integer for each of the 120 rows"),
    ],
)
def test_labels_that_nothing_can_be_fitted_to_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        graph.score(torch.randn(120, 4), labels)


def test_rows_that_are_not_numbers_are_refused():
    with pytest.raises(InputError, match="rows: 480 of 480 numbers are NaN or infinite"):
        graph.score(torch.full((120, 4), torch.nan), LABELS)


@pytest.mark.usefixtures("plain_shapes")
def test_unsigned_labels_gaps_and_nodes_without_one_are_as_good_as_others():
    rows = torch.randn(120, 4)
    expected = graph.score(rows, LABELS)
    assert graph.score(rows, LABELS.to(torch.uint8)) == expected
    assert graph.score(rows, 3 * LABELS) == expected
    more, some = torch.cat([rows, torch.randn(5, 4)]), torch.cat([LABELS, torch.full((5,), -1)])
    assert graph.score(more, some) == expected


def with_labels(y):
    made = planted_graph(nodes=60, classes=2)
    made["paper"].y = y
    return made


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.uint16])
def test_facts_count_labels_of_any_integer_type(dtype):
    assert graph.TASK.facts(with_labels((torch.arange(60) % 2).to(dtype)))["counts"]["train"] == [30, 30]


def test_facts_leave_out_nodes_without_a_label():
    labels = torch.arange(60) % 2
    labels[:10] = -1
    assert graph.TASK.facts(with_labels(labels))["counts"]["train"] == [25, 25]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "graph: expected labels y of the nodes of type paper, got none"),
        (torch.arange(60) * 0.5, "graph: labels of paper: expected integers, got torch.float32"),
        (torch.full((60,), -2), "graph: labels of paper: expected integers of at least -1, got -2"),
        (torch.zeros(10, dtype=torch.int64), "graph: labels of paper: expected one integer for each of the 60 rows"),
    ],
)
def test_labels_of_a_graph_are_refused_by_name(labels, message):
    with pytest.raises(InputError, match=message):
        graph.TASK.facts(with_labels(labels))


def test_a_graph_that_cannot_be_scored_is_refused_before_training():
    with pytest.raises(InputError, match="more than 20 labelled nodes of each class, got 16"):
        graph.TASK.check(Run("meow", "planted:nodes=80", 0, task="graph", arguments=ARGUMENTS, settings=run().settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ImageSettings(batch_size=32)}, "batch_size: is no setting of the task graph, which takes epochs"),
        ({"settings": ImageSettings(augmentations="crop")}, "augmentations: is no setting of the task graph"),
        ({"imperfect": ("long-tail=10",)}, "imperfect: is not for the task graph"),
        ({"arguments": {"clutsers": "5"}}, "argument of meow 'clutsers'"),
        ({"arguments": {"paths": "paper-editor-paper"}}, "node type 'editor'"),
    ],
)
def test_what_does_not_fit_a_graph_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        graph.TASK.check(run(**changes))


def test_a_method_of_images_is_refused_for_graphs_and_the_other_way_round(tmp_path):
    with pytest.raises(InputError, match="method 'simclr' does not serve the task graph"):
        compare("simclr", "planted", task="graph", out=str(tmp_path / "a"), quiet=True)
    with pytest.raises(InputError, match="method 'meow' does not serve the task pretrain"):
        compare("meow", "digits", out=str(tmp_path / "b"), quiet=True)
    assert catalogue.task_of("meow") == "graph"


@pytest.mark.slow
def test_methods_are_compared_and_one_is_trained(tmp_path):
    content = compare(
        ["meow:clusters=5:hidden=8", "meow:negatives=uniform:hidden=8"],
        "planted:nodes=160",
        task="graph",
        seeds=2,
        epochs=3,
        out=str(tmp_path / "compared"),
        quiet=True,
    )
    assert content["main"] == "macro_f1"
    assert [len(row["runs"]) for row in content["methods"]] == [2, 2]
    page = (tmp_path / "compared" / "report.html").read_text(encoding="utf-8")
    assert "macro F1" in page
    result = train(
        "meow", "planted:nodes=160", epochs=3, out=str(tmp_path / "trained"), loggers=(), quiet=True, **ARGUMENTS
    )
    assert result["metrics"]["macro_f1"] > 0.2
