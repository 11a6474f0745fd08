from dataclasses import replace
from types import MappingProxyType

import pytest
import torch

from counterpoise.commands import listing
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.registry.search import (
    Range,
    check_space,
    check_space_of,
    combinations,
    defaults_of,
    number_of_trials,
    search_space,
    settings_of,
    space_text,
    tuning_space,
)
from counterpoise.terminal import make_console
from counterpoise.training.run import Run
from worlds import build


@pytest.fixture
def search(monkeypatch):
    """Gives DCL a search space in the catalogue."""

    def declare(space):
        rows = {**catalogue.papers()}
        rows["dcl"] = replace(rows["dcl"], search=space)
        monkeypatch.setattr(catalogue, "papers", lambda: MappingProxyType(rows))

    return declare


METHODS = [paper.slug for paper in catalogue.select(done=True) if paper.method]


@pytest.mark.parametrize("slug", METHODS)
def test_every_method_has_a_search_space_and_is_tuned_over_learning_rate_and_weight_decay_too(slug):
    space, defaults = search_space(slug), defaults_of(slug, search_space(slug))
    assert number_of_trials(space) > 1 or not catalogue.load_class(slug).trains
    assert all(defaults[name] in values for name, values in space.items())  # the first trial is one of them
    settings = {name for task in catalogue.TASKS for name in settings_of(task)}
    assert not settings & {*space}  # which all methods of a comparison share
    whole = tuning_space(slug)
    assert {*whole} == {*space, "lr", "weight_decay"}
    assert all(isinstance(whole[name], Range) for name in ("lr", "weight_decay"))
    assert whole["lr"].low < defaults_of(slug, ["lr"])["lr"] < whole["lr"].high


IMAGES = Images(torch.zeros(24, 1, 16, 16, dtype=torch.uint8), torch.arange(24) % 4, tuple("abcd"), "made")


ON_IMAGES = [slug for slug in METHODS if {*catalogue.find(slug).tasks} & {*catalogue.IMAGE_TASKS, "classify"}]


@pytest.mark.parametrize("slug", ON_IMAGES)
def test_a_method_takes_every_value_of_its_search_space(slug):
    space = search_space(slug)
    sizes = {"clusters", "pairs", "query_pairs"}  # those of more images than these are
    base = {"queue": 16, "num_hard": 4} if slug == "mochi" else {"queue": 16} if slug == "moco" else {}
    for place in range(max(map(len, space.values()))):
        values = {name: some[place % len(some)] for name, some in space.items() if name not in sizes}
        run = Run(slug, "digits", arguments={**base, **values}, task=catalogue.task_of(slug))
        build(run, IMAGES)


def test_what_is_fixed_is_not_tuned():
    assert {*tuning_space("moco", ["lr", "momentum"])} == {"temperature", "weight_decay"}
    with pytest.raises(InputError, match="tune: nothing is to be tuned of rnc: all that could be tuned is fixed"):
        tuning_space("rnc", ["lr", "weight_decay", "temperature"])


def test_a_declared_learning_rate_is_tried_as_declared(search):
    search({"lr": [0.001, 0.01]})
    assert tuning_space("dcl")["lr"] == [0.001, 0.01]


def test_a_default_of_zero_has_a_range_of_its_own():
    assert tuning_space("meow")["weight_decay"] == Range(1e-6, 1e-2)


@pytest.mark.parametrize("slug", ["inductive-bias"])
def test_what_has_nothing_to_tune_is_refused(slug):
    with pytest.raises(InputError, match=f"tune: nothing is to be tuned of {slug}: it declares no values to try"):
        tuning_space(slug)


def test_a_method_of_a_users_file_declares_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from counterpoise.contrast.simclr import SimCLR\n\n\n"
        "class Mine(SimCLR):\n    search = {'temperature': [0.2, 0.3]}\n\n\n"
        "class Wrong(SimCLR):\n    search = {'temprature': [0.2, 0.3]}\n"
    )
    space = tuning_space(f"{tmp_path / 'mine.py'}:Mine")
    assert space["temperature"] == [0.2, 0.3]
    assert {*space} == {"temperature", "lr", "weight_decay"}
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        tuning_space(f"{tmp_path / 'mine.py'}:Wrong")


def test_a_row_of_the_catalogue_can_still_be_hashed():
    assert len({catalogue.find("dcl"), catalogue.find("simclr")}) == 2


@pytest.mark.usefixtures("plain_shapes")
def test_a_search_space_is_checked_against_the_methods_arguments(search):
    space = {"temperature": [0.05, 0.1], "lr": [0.001, 0.003, 0.01], "weighted": [True, False]}
    search(space)
    assert search_space("dcl") == space
    assert number_of_trials(space) == len(list(combinations(space))) == 12
    for wrong, message in (
        (
            {"temprature": [0.1, 0.2]},
            "dcl: search: argument of dcl 'temprature' is not known; did you mean 'temperature'",
        ),
        ({"epochs": [1, 2]}, "dcl: search: argument of dcl 'epochs' is not known"),  # a setting is all methods'
        ({"lr": [0.1, "b"]}, "dcl: search: lr: expected a number, got 'b'"),
        ({"lr": [0.1, float("nan")]}, "dcl: search: lr: expected a finite number, got nan"),
        ({"weighted": [1, 0]}, "dcl: search: weighted: expected true or false, got 1"),
        ({"lr": [0.1, 0.1]}, "dcl: search: lr: expected different values, got 0.1 twice"),
        ({"lr": []}, "dcl: search: lr: expected a list of at least two values, got"),
        ([0.1], "dcl: search: expected names with lists of values"),
        ({"encoder": [1, 2]}, "dcl: search: argument of dcl 'encoder' is not known"),
    ):
        search(wrong)
        with pytest.raises(InputError, match=message):
            search_space("dcl")


def test_values_may_be_lists_themselves():
    space = {"widths": [[8, 16], [16, 32]]}
    check_space("search", space)
    check_space_of("search", space, "scatsimclr")
    with pytest.raises(InputError, match=r"search: widths: expected a whole number, got 0\.5"):
        check_space_of("search", {"widths": [[8, 0.5], [16, 32]]}, "scatsimclr")


def test_true_is_not_one():
    check_space("search", {"x": [True, 1, False, 0]})
    assert space_text({"x": [True, 1]}) == "x: on, 1"


def test_a_planned_method_has_no_search_space():
    planned = catalogue.select(done=False)[0].slug
    with pytest.raises(InputError, match="planned"):
        search_space(planned)


def test_show_prints_the_search_space(search):
    search({"lr": [0.001, 0.01]})
    console = make_console()
    with console.capture() as captured:
        listing.print_show(console, "dcl")
    assert "search" in captured.get()
    assert "lr: 0.001, 0.01" in captured.get()
