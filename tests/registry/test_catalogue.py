"""The catalogue: complete, consistent with the code, and quick to read."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import counterpoise
from counterpoise.commands import listing
from counterpoise.errors import InputError
from counterpoise.registry import catalogue, ledger
from counterpoise.registry.fingerprint import fingerprint
from counterpoise.terminal import make_console

SOURCE = Path(counterpoise.__file__).parent
PAPERS = catalogue.papers()
DONE = [slug for slug, paper in PAPERS.items() if paper.done]
BASELINES = {
    *("simclr", "moco", "supcon", "cross-entropy", "logit-adjusted", "gce", "mae", "fixmatch", "clip", "zero-shot"),
    *("pgd-at", "trades", "pruned"),
    *("km", "cox", "survival-forest"),
    *("triplet", "contrastive", "multi-similarity", "proxy-anchor", "arcface", "protonet"),
    *("regression", "supcon-regression", "rnc"),
}
# fmt: off
ROOMS = [
    "contrast", "metric", "classify", "discover", "adapt", "continual", "federate", "distill", "forget", "scene",
    "generate", "act", "measure",
]
TASKS = {
    "pretrain", "retrieve", "compose", "few-shot", "zero-shot", "classify", "regress", "survival", "discover", "adapt",
    "continual", "federate", "distill", "forget", "segment", "detect", "scene-graphs", "objects", "generate", "control",
    "prefer", "measure", "graph", "robust",
}
# fmt: on


def printed(function, *args, width=120, **options) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    function(console, *args, **options)
    return console.export_text()


def test_all_papers_and_baselines_are_there_in_order_of_the_rooms():
    assert len(PAPERS) == 81 + len(BASELINES)
    assert {slug for slug, paper in PAPERS.items() if paper.baseline} == BASELINES
    assert list(dict.fromkeys(paper.room for paper in PAPERS.values())) == ROOMS


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_row(paper):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", paper.slug)
    assert paper.title
    assert set(paper.tasks) <= TASKS
    assert paper.tasks
    assert paper.kind
    for text in (paper.summary, paper.when):
        assert text.endswith(".")
        assert "\n" not in text
        assert 20 < len(text) < 160
    if paper.arxiv is None:
        assert paper.baseline
    else:
        assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
        assert paper.year == 2000 + int(paper.arxiv[:2])  # the year of the preprint is in its number
    assert (paper.module is not None) == paper.done
    assert paper.done or not (paper.method or paper.study or paper.objectives)
    assert not paper.study or "measure" in paper.tasks


def test_no_preprint_or_title_comes_twice():
    rows = [paper for paper in PAPERS.values() if paper.arxiv]
    assert len({paper.arxiv for paper in rows}) == len({paper.title for paper in rows}) == len(rows)


@pytest.mark.parametrize("slug", DONE)
def test_what_is_done_is_in_the_file_of_its_slug(slug):
    paper = PAPERS[slug]
    assert paper.module == f"{paper.room}.{slug.replace('-', '_')}"
    assert (SOURCE / paper.room / f"{slug.replace('-', '_')}.py").is_file()
    if paper.method:
        assert catalogue.load_class(slug).__name__ == paper.method
    if paper.study:
        assert paper.study == f"studies.{slug.replace('-', '_')}"
        assert catalogue.load_class(slug, "measure").__name__ == "study"
    assert tuple(kind.__name__ for kind in catalogue.load_objectives(slug)) == paper.objectives


@pytest.mark.parametrize("slug", DONE)
def test_no_objective_of_a_done_paper_is_left_out(slug):
    """Every public class named …Loss in a paper's file is in its row, so that the conformance suite finds it."""
    text = SOURCE.joinpath(*PAPERS[slug].module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert set(re.findall(r"^class ([A-Z]\w*Loss)\b", text, re.MULTILINE)) == set(PAPERS[slug].objectives)


def test_papers_cannot_be_changed():
    with pytest.raises(TypeError):
        PAPERS["dcl"] = None
    with pytest.raises(AttributeError):
        PAPERS["dcl"].title = ""


def test_select():
    assert {paper.room for paper in catalogue.select(room="forget")} == {"forget"}
    assert all("segment" in paper.tasks for paper in catalogue.select(task="segment"))
    assert len(catalogue.select(done=True)) + len(catalogue.select(done=False)) == len(PAPERS)
    assert len(catalogue.select(baseline=False)) == 81
    assert catalogue.select(room="act", done=True, baseline=True) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"room": "contarst"}, "room 'contarst' is not known; did you mean 'contrast'?"),
        ({"task": "pretrian"}, "task 'pretrian' is not known; did you mean 'pretrain'?"),
    ],
)
def test_select_refuses_unknown_names(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        catalogue.select(**options)


def test_methods_named():
    assert catalogue.methods_named("simclr,dcl") == ["simclr", "dcl"]
    assert catalogue.methods_named("dcl,room:contrast")[0] == "dcl"
    assert set(catalogue.methods_named("room:contrast")) == {
        paper.slug for paper in PAPERS.values() if paper.room == "contrast" and paper.done and paper.method
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simclt", "method 'simclt' is not known; did you mean 'simclr'?"),
        ("", "methods: expected at least one name, got ''"),
        ("room:generate", "room 'generate' has no method yet"),
        ("room:nowhere", "room 'nowhere' is not known"),
    ],
)
def test_methods_named_refuses(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        catalogue.methods_named(text)


def test_what_is_planned_is_refused_by_name(monkeypatch):
    planned = catalogue.Paper("later", "Later", "contrast", ("method",), ("pretrain",), "Does.", "When.")
    analysis = catalogue.Paper(
        "shows", "Shows", "contrast", ("analysis",), ("measure",), "Does.", "When.", done=True, module="contrast.shows"
    )
    monkeypatch.setattr(catalogue, "papers", lambda: {"later": planned, "shows": analysis})
    for refused in (catalogue.load_class, catalogue.load_objectives, catalogue.methods_named):
        with pytest.raises(InputError, match="'later' is planned but not there yet"):
            refused("later")
    with pytest.raises(InputError, match="'shows' has no method to train; it offers: analysis"):
        catalogue.methods_named("shows")


def test_a_paper_about_measuring_has_a_study_in_place_of_a_method():
    studied = [paper.slug for paper in PAPERS.values() if paper.study and not paper.method]
    assert studied == [paper.slug for paper in catalogue.select(room="measure", done=True)]
    assert catalogue.methods_named("room:measure") == studied


def test_a_method_may_have_a_study_beside_it():
    """The task says which of them is meant."""
    both = [slug for slug, paper in PAPERS.items() if paper.study and paper.method]
    assert "naive-bayes-probe" in both
    for slug in both:
        paper = PAPERS[slug]
        assert (
            catalogue.method_source(slug) == catalogue.method_source(slug, "classify") == (paper.module, paper.method)
        )
        assert catalogue.method_source(slug, "measure") == (paper.study, "study")
        assert catalogue.task_of(slug) != "measure"


@pytest.mark.parametrize("paper", [paper for paper in PAPERS.values() if paper.study], ids=lambda paper: paper.slug)
def test_the_fingerprint_of_a_study_covers_its_measure(paper):
    assert fingerprint([paper.study]) == fingerprint([paper.study, paper.module]) != fingerprint([paper.module])


def test_list_shows_every_slug_once_at_phone_and_desktop_width():
    for width in (80, 160):
        lines = printed(listing.print_list, width=width).splitlines()
        slugs = [line.split()[0] for line in lines if re.match(r"  \S+ +(done|planned|baseline) ", line)]
        assert slugs == list(PAPERS)
    assert f"{len(DONE)} done, {len(PAPERS) - len(DONE)} planned" in "\n".join(lines)


def test_list_filters_and_json():
    options = {"room": "contrast", "task": "retrieve", "state": "done"}
    rows = json.loads(printed(listing.print_list, **options, as_json=True, width=40))
    expected = [paper.slug for paper in catalogue.select(room="contrast", task="retrieve", done=True)]
    assert [row["slug"] for row in rows] == expected
    assert rows[0]["title"] == PAPERS[expected[0]].title
    with pytest.raises(InputError, match="state 'dome' is not known; did you mean 'done'"):
        printed(listing.print_list, state="dome")


@pytest.mark.parametrize("slug", [*DONE, "tcm", "ap-pool"])
def test_show(slug):
    paper = PAPERS[slug]
    text = " ".join(printed(listing.print_show, slug).split())
    for part in (paper.title, paper.summary, paper.when, *paper.objectives):
        assert part in text
    if paper.done:
        assert f"from counterpoise.{paper.module} import" in text
        if "pretrain" in paper.tasks:
            assert f"--methods {'moco' if slug == 'simclr' else 'simclr'},{slug}" in text
            assert "weight_decay number 0.0001 decay of the weights" in text
        elif paper.study and not paper.method:
            assert f"src/counterpoise/{paper.study.replace('.', '/')}.py" in text
            assert "counterpoise compare" not in text
            assert f"counterpoise claim {slug} from" in text
        else:
            assert f"--task {paper.tasks[0]} --data" in text
    else:
        assert "planned" in text
        assert "try it" not in text


def test_the_example_of_dcl_runs():
    import torch

    text = printed(listing.print_show, "dcl")
    code = "\n".join(line.strip() for line in text[text.index("from counterpoise") :].splitlines())
    names = {"z1": torch.randn(4, 3), "z2": torch.randn(4, 3)}
    exec(code, names)
    assert torch.isfinite(names["loss"])


DECLARED = """
[tcm]
says = "Thresholds agree [more]."
data = "digits"
seeds = 5
arms = {dcl = {method = "dcl"}}
statements = [{says = "OPIS falls", metric = "opis", of = {dcl = 1}, expect = "below"}]
"""


def test_show_says_how_a_study_is_run_whether_or_not_the_claim_runs_it():
    assert "counterpoise claim naive-bayes-probe" in printed(listing.print_show, "naive-bayes-probe")
    text = printed(listing.print_show, "comp-sum")
    assert "from counterpoise.studies.comp_sum import study" in text
    assert "counterpoise claim comp-sum" not in text.partition("try it")[2]


def test_show_prints_the_claim_and_its_last_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ledger, "PACKAGE", tmp_path / "checkout" / "src" / "counterpoise")
    monkeypatch.setattr(ledger, "DECLARED", tmp_path / "claims.toml")
    monkeypatch.setattr(ledger, "declared", ledger.declared.__wrapped__)
    monkeypatch.setattr(listing, "declared", ledger.declared)
    (tmp_path / "claims.toml").write_text("")
    assert "claim" not in printed(listing.print_show, "tcm").split()
    (tmp_path / "claims.toml").write_text(DECLARED)
    assert "Thresholds agree [more]." in printed(listing.print_show, "tcm")
    assert "not run yet: counterpoise claim tcm" in printed(listing.print_show, "tcm")
    result = tmp_path / "checkout" / "results" / "claims" / "tcm.json"
    result.parent.mkdir(parents=True)
    statements = [
        {"says": "OPIS falls", "mean": -0.25, "low": -0.5, "high": -0.125, "expect": "below", "verdict": "confirmed"},
        {"says": "one seed", "mean": 1.0, "low": None, "high": None, "expect": "above", "verdict": "inconclusive"},
    ]
    code = ledger.declared()["tcm"].code()
    record = {"verdict": "inconclusive", "date": "2025-01-31", "statements": statements, "code": code}
    result.write_text(json.dumps(record))
    text = printed(listing.print_show, "tcm")
    assert "inconclusive (2025-01-31)" in text
    assert "OPIS falls: -0.2500 [-0.5000, -0.1250, seeds alone], expected below 0: confirmed" in text
    assert "one seed: +1.0000, expected above 0: inconclusive" in text
    here = tmp_path / "results" / "claims" / "tcm.json"  # what was run in this folder comes first
    here.parent.mkdir(parents=True)
    here.write_text(json.dumps({**record, "verdict": "refuted", "code": "another"}))
    assert "refuted (2025-01-31; stale: the code has changed since)" in printed(listing.print_show, "tcm")


@pytest.mark.parametrize("call", ["print_list(Console())", "print_show(Console(), 'dcl')"])
def test_answers_without_torch(call):
    code = f"""
import sys
from rich.console import Console
from counterpoise.commands.listing import print_list, print_show
{call}
heavy = [name for name in ("torch", "numpy", "lightning", "pygments") if name in sys.modules]
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("slug", ["dcl", "ap-pool", "simclr"])
def test_a_pipe_gets_no_padding_to_a_width_that_it_does_not_have(slug):
    console = make_console()
    with console.capture() as captured:
        listing.print_show(console, slug)
    assert max(map(len, captured.get().splitlines())) < 1000
