"""What a task declares for the page, the defaults for older results, and what is refused."""

import ast
import pathlib
import re

import pytest

import counterpoise.report
from counterpoise import tasks
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.report import declarations

SHARE = {"title": "Accuracy", "better": "higher", "percent": True}


def results(**declared):
    row = {"epoch": 1, "step": 40, "loss": 2.0, "seconds": 1.0, "rank": 3.0, "top": 0.5}
    methods = [{"label": "a", "runs": [{"seed": 0, "status": "done", "curve": [row], "groups": {"head": 0.5}}]}]
    known = {"rank": {"title": "rank", "better": "lower", "percent": False}, "top": SHARE, "low_2": SHARE}
    return {"main": "top", "metrics": known, "methods": methods, "data": {"classes": ["x"]}, **declared}


def literals_of(path):
    """The quoted strings of one file of the report, which is how code looks something up by its name."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"""["']([\w-]+)["']""", text))
    nodes = ast.walk(ast.parse(text))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_report_names_no_metric_no_task_and_no_method():
    folder = pathlib.Path(counterpoise.report.__file__).parent
    files = [path for path in folder.iterdir() if path.is_file()]
    names = {*catalogue.TASKS, *catalogue.papers()}
    names |= {name for task in catalogue.TASKS for name in tasks.find(task).metrics}
    names -= {"accuracy"}  # a title of the page's own, for older results
    assert len(files) > 10
    assert {"knn", "recall_1", "pretrain", "simclr"} <= names
    assert {path.name: found for path in files if (found := literals_of(path) & names)} == {}


def test_columns_start_with_the_main_metric_and_those_shown():
    assert list(declarations.metrics(results())) == ["top", "rank", "low_2"]
    assert list(declarations.metrics(results(shown=["low_2"]))) == ["top", "low_2", "rank"]
    assert list(declarations.metrics(results(shown={"rank": "R", "low_2": "L"}))) == ["top", "rank", "low_2"]


def test_curves_are_those_declared_and_else_all_quantities_but_progress_time_and_loss():
    assert list(declarations.curve(results())) == ["top", "step", "rank"]
    assert list(declarations.curve(results(curve_over="step"))) == ["top", "rank"]
    assert declarations.curve(results())["step"] == {"title": "step", "better": "higher", "percent": False}
    assert declarations.curve(results(curve={"top": SHARE})) == {"top": SHARE}
    assert declarations.curve(results(curve={})) == {}


def test_families_are_those_declared_and_else_metrics_that_differ_in_a_number():
    assert declarations.families(results()) == [], "one metric alone is no family"
    family = {"title": "Under attack", "over": "strength", "metrics": {"top": 0, "low_2": 8}}
    assert declarations.families(results(families=[family])) == [("Under attack", "strength", {"top": 0, "low_2": 8})]
    assert declarations.families(results(families=[])) == []


def test_groups_are_those_of_classes_unless_others_are_declared():
    found = declarations.groups(results())
    assert found.titles == {"head": "Head classes"}
    assert found.metric["title"] == "accuracy"
    assert found.meaning == "", "one group needs no explanation"
    declared = declarations.groups(results(groups={"metric": "rank", "heading": "Domains"}))
    assert declared == (results()["metrics"]["rank"], "Domains", "", {})


def test_classes_are_scored_by_accuracy_unless_another_metric_is_declared():
    assert declarations.per_class(results())["title"] == "accuracy"
    assert declarations.per_class(results(per_class="rank"))["better"] == "lower"


def test_galleries_are_expected_where_there_are_classes_unless_declared_otherwise():
    assert declarations.pictures(results()) == ("gallery",)
    assert declarations.pictures(results(data={"classes": []})) == ()
    assert declarations.pictures(results(pictures=["strips"])) == ["strips"]


@pytest.mark.parametrize(
    ("read", "declared", "message"),
    [
        ("metrics", {"main": "tip"}, "metric of shown 'tip' is not known; did you mean 'top'"),
        ("metrics", {"shown": ["rnak"]}, "metric of shown 'rnak' is not known; did you mean 'rank'"),
        ("curve", {"curve": ["top"]}, "results: curve: expected a mapping to descriptions as in metrics"),
        ("curve", {"curve": {"top": "Accuracy"}}, "results: curve: expected a mapping to descriptions"),
        ("families", {"families": [{"title": "x"}]}, "results: families: expected title, over and metrics in each"),
        (
            "families",
            {"families": [{"title": "x", "over": "k", "metrics": {"low_3": 3}}]},
            "metric of families 'low_3' is not known; did you mean 'low_2'",
        ),
        ("front", {"front": ["top"]}, r"results: front: expected the names of two metrics, got \['top'\]"),
        ("front", {"front": "ab"}, "results: front: expected the names of two metrics, got 'ab'"),
        ("front", {"front": ["top", "top"]}, "results: front: expected the names of two metrics"),
        ("front", {"front": ["top", ["rank"]]}, "metric of front"),
        ("per_class", {"per_class": "rnk"}, "metric of per_class 'rnk' is not known"),
        ("groups", {"groups": ["top"]}, "results: groups: expected metric, titles, heading and meaning"),
        ("groups", {"groups": {"metric": "rnk"}}, "metric of groups 'rnk' is not known"),
        ("pictures", {"pictures": ["strip"]}, "kind of pictures 'strip' is not known; did you mean 'strips'"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(read, declared, message):
    with pytest.raises(InputError, match=message):
        getattr(declarations, read)(results(**declared))
