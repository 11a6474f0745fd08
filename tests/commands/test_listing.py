"""What `list` and `show` print."""

import json

import pytest
from rich.console import Console

from counterpoise.commands import listing
from counterpoise.errors import InputError
from counterpoise.registry import catalogue


def printed(call, *arguments, width=100, **options):
    console = Console(width=width)
    with console.capture() as captured:
        call(console, *arguments, **options)
    return captured.get()


@pytest.mark.parametrize("width", [30, 100])
def test_the_catalogue_is_never_cut(width):
    assert "…" not in printed(listing.print_list, width=width)


@pytest.mark.parametrize(
    "chosen", [{"room": "measure"}, {"task": "regress"}, {"state": "done"}, {"room": "classify", "state": "planned"}]
)
def test_the_json_list_holds_what_is_asked_for_and_its_table_the_same(chosen):
    rows = json.loads(printed(listing.print_list, as_json=True, **chosen))
    done = {"done": True, "planned": False}.get(chosen.get("state"))
    expected = catalogue.select(room=chosen.get("room"), task=chosen.get("task"), done=done)
    assert [row["slug"] for row in rows] == [paper.slug for paper in expected]
    table = printed(listing.print_list, **chosen)
    for paper in expected:
        assert f"  {paper.slug} " in table
    ready = sum(paper.done for paper in expected)
    assert f"{ready} done, {len(expected) - ready} planned" in table


def test_an_unknown_choice_is_refused_with_what_is_near():
    for wrong, near in (
        ({"state": "don"}, "done"),
        ({"room": "contrats"}, "contrast"),
        ({"task": "retrive"}, "retrieve"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{near}'"):
            listing.print_list(Console(), **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("slug", [paper.slug for paper in catalogue.select(done=True)])
def test_what_is_there_is_shown_with_its_arguments_its_claim_and_an_example(slug):
    paper, text = catalogue.find(slug), printed(listing.print_show, slug, width=200)
    assert paper.title in text
    assert "try it" in text
    for objective in paper.objectives:
        assert f"objective {objective}" in text
    if paper.method:
        assert f"method {paper.method.rpartition('.')[2]}" in text or "method " in text
        assert "counterpoise compare --task" in text


def test_what_is_planned_is_said_to_be():
    for paper in catalogue.select(done=False):
        text = printed(listing.print_show, paper.slug, width=200)
        assert "planned: not there yet" in text
        assert "try it" not in text
