from dataclasses import replace
from types import MappingProxyType

import pytest

from counterpoise.commands import listing
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.registry.search import check_space, check_space_of, number_of_trials, search_space, space_text
from counterpoise.terminal import make_console


@pytest.fixture
def search(monkeypatch):
    """Gives DCL a search space in the catalogue."""

    def declare(space):
        rows = {**catalogue.papers()}
        rows["dcl"] = replace(rows["dcl"], search=space)
        monkeypatch.setattr(catalogue, "papers", lambda: MappingProxyType(rows))

    return declare


def test_the_catalogues_search_spaces_fit_their_methods():
    for paper in catalogue.select(done=True):
        if paper.search:
            assert number_of_trials(search_space(paper.slug)) > 1
        else:
            assert paper.search == {}


def test_a_row_of_the_catalogue_can_still_be_hashed():
    assert len({catalogue.find("dcl"), catalogue.find("simclr")}) == 2


@pytest.mark.usefixtures("plain_shapes")
def test_a_search_space_is_checked_against_the_methods_arguments(search):
    space = {"temperature": [0.05, 0.1], "lr": [0.001, 0.003, 0.01], "weighted": [True, False]}
    search(space)
    assert search_space("dcl") == space
    assert number_of_trials(space) == 12
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
