import json

import pytest
from rich.console import Console

from counterpoise import commands
from counterpoise.commands.claim import judge, runs, settle
from counterpoise.errors import InputError, RunFailed
from counterpoise.registry import catalogue
from counterpoise.registry.ledger import Claim, Statement, declared, ledger_page, read

CLAIM = Claim(
    "dcl",
    "a small test",
    "digits",
    seeds=2,
    arms={"a": {"method": "dcl"}, "b": {"method": "simclr", "arguments": {"temperature": 0.5}}},
    statements=(Statement("a beats b", "knn", {"a": 1, "b": -1}),),
    settings={"epochs": 1, "batch_size": 64, "device": "cpu"},
)


SLOW = ("diti", "genview")  # one run takes more than three minutes


def result(**metrics):
    return {"metrics": metrics, "groups": {"tail": 0.5}, "diagnostics": {"bend": 2.0}}


def test_every_done_paper_has_a_claim_and_every_claim_can_run():
    papers = {p.slug for p in catalogue.papers().values() if p.done and not p.baseline}
    assert set(declared()) == papers
    for claim in declared().values():
        assert claim.seeds >= (3 if claim.slug in SLOW else 5)
        assert {run.method for run in runs(claim).values()} >= {claim.slug}
        for statement in claim.statements:
            assert set(statement.of) <= set(claim.arms)
            assert statement.expect in ("above", "below")
        for run in runs(claim).values():
            known = {a.name for a in describe_method(run.method)}
            assert set(run.arguments) <= known


def describe_method(slug):
    from counterpoise.registry.arguments import describe

    paper = catalogue.find(slug)
    return describe(paper.module, paper.method).arguments


@pytest.mark.parametrize("slug", declared())
def test_every_claim_has_a_code(slug):
    assert len(declared()[slug].code()) == 16


def test_a_statement_is_a_weighted_sum_seed_by_seed():
    results = {
        ("a", 0): result(knn=0.9),
        ("b", 0): result(knn=0.5),
        ("a", 1): result(knn=0.8),
        ("b", 1): result(knn=0.5),
    }
    found = judge(Statement("", "knn", {"a": 1, "b": -1}), results, 2)
    assert found["values"] == pytest.approx([0.4, 0.3])
    assert found["mean"] == pytest.approx(0.35)
    assert judge(Statement("", "tail", {"a": 2}), results, 2)["values"] == [1.0, 1.0]
    assert judge(Statement("", "bend", {"a": 1}), results, 2)["verdict"] == "confirmed"
    assert judge(Statement("", "bend", {"a": 1}, "below"), results, 2)["verdict"] == "refuted"
    with pytest.raises(InputError, match="did you mean 'knn'"):
        judge(Statement("", "knnn", {"a": 1}), results, 2)


@pytest.mark.slow
def test_a_claim_is_run_recorded_and_goes_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": CLAIM})
    folders = {"ledger": str(tmp_path / "l"), "page": str(tmp_path / "p.md"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    assert record == json.loads((tmp_path / "l" / "dcl.json").read_text())
    statement = record["statements"][0]
    assert len(statement["values"]) == 2
    assert len(runs(CLAIM)) == 4
    assert record["verdict"] in ("confirmed", "refuted", "inconclusive")
    assert record["arms"]["b"]["knn"]["n"] == 2
    assert not read(tmp_path / "l", CLAIM)["stale"]
    (again,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    assert again["statements"] == record["statements"]
    changed = Claim(**{**CLAIM.__dict__, "seeds": 3})
    assert read(tmp_path / "l", changed)["stale"]
    commands.claim.claim(all=True, report=True, quiet=True, **folders)
    page = (tmp_path / "p.md").read_text()
    assert "| [dcl](../papers/dcl.md) | " + record["verdict"] in page
    assert "stale" in ledger_page([changed], [read(tmp_path / "l", changed)])


@pytest.mark.slow
def test_a_record_stands_for_new_code_if_its_first_seed_gives_the_same_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": CLAIM})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    assert commands.claim.claim(["dcl"], verify=True, **folders) == []
    assert "dcl: is not recorded yet" in capsys.readouterr().out
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    path = tmp_path / "l" / "dcl.json"
    assert commands.claim.claim(["dcl"], verify=True, **folders) == [record]

    path.write_text(json.dumps({**record, "code": "of old"}))
    (stands,) = commands.claim.claim(["dcl"], verify=True, **folders)
    assert {**stands, "verified": None} == {**record, "verified": None}
    assert read(tmp_path / "l", CLAIM) == {**stands, "stale": False}
    assert f"verified {stands['verified']}" in ledger_page([CLAIM], [stands | {"stale": False}])

    other = {**record["statements"][0], "values": [0.125, *record["statements"][0]["values"][1:]]}
    for changed, told in (
        ({"statements": [other]}, "must be run again. "),
        ({"seeds": 7}, "dcl: is declared in another way since"),
    ):
        path.write_text(json.dumps({**record, "code": "of old", **changed}))
        assert commands.claim.claim(["dcl"], verify=True, **folders) == []
        assert told in " ".join(capsys.readouterr().out.split())
        assert read(tmp_path / "l", CLAIM)["stale"]


def test_a_claim_not_run_yet_says_so():
    assert "not run yet" in ledger_page([CLAIM], [None])


@pytest.mark.slow
def test_a_failed_run_gives_no_verdict(tmp_path):
    broken = Claim(**{**CLAIM.__dict__, "arms": {"a": {"method": "dcl", "arguments": {"temperature": -1.0}}}})
    with pytest.raises(RunFailed, match="claim dcl: a, seed 0 failed: InputError: temperature"):
        settle(broken, tmp_path, console=Console(quiet=True))


def test_which_claim_must_be_said():
    with pytest.raises(InputError, match=r"expected a SLUG or --all"):
        commands.claim.claim()
    with pytest.raises(InputError, match="did you mean 'dcl'"):
        commands.claim.claim(["dcll"])
