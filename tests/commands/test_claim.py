import json
import random
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from counterpoise import commands
from counterpoise.commands.claim import check_runnable, judge, judge_claim, reference_runs, runs, settle
from counterpoise.engine import tuning
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


@pytest.mark.slow
def test_every_done_paper_has_a_claim_and_every_claim_can_run():
    papers = {p.slug for p in catalogue.papers().values() if p.done and not p.baseline}
    assert set(declared()) == papers
    for claim in declared().values():
        assert len(claim.all_seeds) >= (3 if claim.slug in SLOW else 5)
        assert {run.method for run in runs(claim).values()} >= {claim.slug}
        check_runnable(claim)


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
    found = judge(Statement("", "knn", {"a": 1, "b": -1}), results, (0, 1))
    assert found["values"] == pytest.approx([0.4, 0.3])
    assert found["mean"] == pytest.approx(0.35)
    assert judge(Statement("", "tail", {"a": 2}), results, (0, 1))["values"] == [1.0, 1.0]
    assert judge(Statement("", "bend", {"a": 1}), results, (0, 1))["verdict"] == "confirmed"
    assert judge(Statement("", "bend", {"a": 1}, "below"), results, (0, 1))["verdict"] == "refuted"
    with pytest.raises(InputError, match="did you mean 'knn'"):
        judge(Statement("", "knnn", {"a": 1}), results, (0, 1))


def test_a_margin_is_added_to_the_figure_of_each_seed():
    results = {(arm, seed): result(knn=knn) for seed in (0, 1) for arm, knn in (("a", 0.5), ("b", 0.5078125))}
    difference = {"a": 1, "b": -1}
    assert judge(Statement("", "knn", difference), results, (0, 1))["verdict"] == "refuted"
    found = judge(Statement("", "knn", difference, margin=0.015625), results, (0, 1))
    assert found["margin"] == 0.015625
    assert found["values"] == [0.0078125, 0.0078125]
    assert (found["mean"], found["verdict"]) == (0.0078125, "confirmed")
    assert judge(Statement("", "knn", difference, margin=0.00390625), results, (0, 1))["verdict"] == "refuted"


def test_a_margin_of_zero_changes_no_bit():
    generator = random.Random(0)
    results = {(arm, seed): result(knn=generator.random()) for arm in "ab" for seed in range(50)}
    values = [1 / 3 * results["a", seed]["metrics"]["knn"] - results["b", seed]["metrics"]["knn"] for seed in range(50)]
    assert judge(Statement("", "knn", {"a": 1 / 3, "b": -1}), results, range(50))["values"] == values


def in_regime(*requires, **knn):
    """A claim over two seeds with requirements, judged; figures are those of both seeds by arm."""
    claim = replace(CLAIM, requires=requires)
    results = {(arm, seed): result(knn=value) for arm, values in knn.items() for seed, value in enumerate(values)}
    return judge_claim(claim, results)


FLOOR = Statement("b is above 0.5", "knn", {"b": 1}, margin=-0.5)


def test_a_claim_whose_requirement_fails_is_out_of_regime():
    found = in_regime(FLOOR, a=[0.9, 0.9], b=[0.4, 0.4])
    assert found["verdict"] == "out of regime"
    assert [s["verdict"] for s in found["statements"]] == ["out of regime"]
    assert found["statements"][0]["values"] == [0.5, 0.5]  # its figures are recorded all the same
    (requirement,) = found["requires"]
    assert requirement["verdict"] == "does not hold"
    assert requirement["values"] == pytest.approx([-0.1, -0.1])
    assert in_regime(FLOOR, a=[0.1, 0.1], b=[0.4, 0.4])["verdict"] == "out of regime"  # neither is it refuted


def test_a_requirement_holds_by_its_mean_over_the_seeds():
    found = in_regime(FLOOR, a=[1.5, 1.5], b=[0.25, 1.0])  # one seed is below, and the interval is wide
    assert [r["verdict"] for r in found["requires"]] == ["holds"]
    assert found["verdict"] == "inconclusive"
    assert in_regime(FLOOR, a=[0.9, 0.9], b=[0.5, 0.5])["verdict"] == "out of regime"  # on the bound is not above it
    below = Statement("b is below 0.5", "knn", {"b": 1}, "below", -0.5)
    assert in_regime(below, a=[0.9, 0.9], b=[0.4, 0.4])["verdict"] == "confirmed"
    assert in_regime(below, FLOOR, a=[0.9, 0.9], b=[0.4, 0.4])["verdict"] == "out of regime"  # all of them must hold
    assert in_regime(a=[0.9, 0.9], b=[0.4, 0.4])["verdict"] == "confirmed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tune": {"lr": [0.01, 0.1]}, "by": "bend"},
            "claim dcl: best: expected highest or lowest, since bend is no metric of the task pretrain",
        ),
        (
            {
                "tune": {"tau": [0.2, 0.4]},
                "task": "graph",
                "arms": {"a": {"method": "meow"}, "b": {"method": "meow"}},
                "settings": {"epochs": 1},
            },
            "claim dcl: tune: is not for the task graph, whose labelled nodes all score",
        ),
        (
            {"requires": (Statement("s", "knn", {"b": 1, "teacher": -1}),)},
            "claim dcl: requires: teacher: the arm a has no teacher to score",
        ),
        (
            {"requires": (Statement("s", "knn", {"start:b": 1, "untrained:a": -1}),)},
            "claim dcl: requires: start:b: the arm b has no start to score",
        ),
        ({"settings": {"epoch": 1}}, "claim dcl: settings: setting of pretrain 'epoch' is not known"),
    ],
)
def test_a_claim_that_cannot_be_run_is_refused_before_anything_is(tmp_path, monkeypatch, change, message):
    claim = replace(CLAIM, **change)
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": claim})
    monkeypatch.setattr(commands.claim, "run_all", lambda *_: pytest.fail("it was run"))
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o"), "page": str(tmp_path / "p.md")}
    with pytest.raises(InputError, match=message):
        commands.claim.claim(["dcl"], quiet=True, **folders)
    with pytest.raises(InputError, match=message):
        settle(claim, tmp_path / "o", console=Console(quiet=True))
    assert not any(tmp_path.iterdir())
    commands.claim.claim(["dcl"], report=True, quiet=True, **folders)  # the page can be written all the same
    assert "not run yet" in (tmp_path / "p.md").read_text()
    assert commands.claim.claim(["dcl"], verify=True, quiet=True, **folders) == []  # so are the others verified
    (tmp_path / "l").mkdir(exist_ok=True)
    old = {"code": "of old", "verdict": "confirmed", "seeds": 2, "tune": claim.spaces, "by": claim.by}
    old["chosen"] = {label: {"arguments": {}, "settings": {}} for label in claim.spaces}
    old |= {"statements": [asdict(s) for s in claim.statements], "requires": [asdict(s) for s in claim.requires]}
    (tmp_path / "l" / "dcl.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match=message):
        commands.claim.claim(["dcl"], verify=True, quiet=True, **folders)


@pytest.fixture
def figures(monkeypatch):
    """Runs and traces without running: the kNN accuracy of an arm by its method."""
    knn = {"dcl": 0.75, "simclr": 0.5, "raw": 0.375, "untrained": 0.25}

    def trace_all(runs):
        rest = {"dtype": "float64", "projections": [], "scores": {}, "items": 0}
        return {label: {**rest, "losses": [knn[run.method]]} for label, run in runs.items()}

    monkeypatch.setattr(commands.claim, "trace_all", trace_all)

    def run_all(runs, out, jobs, console):
        done = {"status": "done", "seconds": 1.0, "notes": ["a note"]}
        return {key: {**done, **result(knn=knn[run.method], linear=0.5)} for key, run in runs.items()}

    monkeypatch.setattr(commands.claim, "run_all", run_all)
    return knn


@pytest.mark.slow
def test_a_record_holds_what_was_required_and_is_verified_with_it(tmp_path, monkeypatch, capsys, figures):
    claim = replace(CLAIM, requires=(Statement("b is above 0.4", "knn", {"b": 1}, margin=-0.4),))
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": claim})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], **folders)
    said = " ".join(capsys.readouterr().out.split())
    assert "b is above 0.4: +0.5000 [+0.5000, +0.5000], required above 0.4: holds" in said
    assert "a beats b: +0.2500 [+0.2500, +0.2500, seeds alone], expected above 0: confirmed" in said
    path = tmp_path / "l" / "dcl.json"
    assert (record["verdict"], record["tune"], record["by"], record["best"]) == ("confirmed", {}, None, None)

    def verify(**changes):
        path.write_text(json.dumps({**record, "code": "of old", **changes}))
        found = commands.claim.claim(["dcl"], verify=True, **folders)
        return found, " ".join(capsys.readouterr().out.split())

    assert len(verify()[0]) == 1
    assert verify(requires=[]) == ([], "dcl: is declared in another way since; it must be run again")
    assert verify(tune={"a": {"lr": [1, 2]}})[0] == []
    other = [{**record["requires"][0], "margin": -0.25}]
    assert "declared in another way" in verify(requires=other)[1]
    figures["simclr"] = figures["dcl"] = 0.625  # both statements differ, the requirement first
    assert "must be run again. b is above 0.4" in verify()[1]


def test_a_record_stands_by_its_traces_and_nothing_is_run(tmp_path, monkeypatch, capsys, figures):
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": CLAIM})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    assert record["traces"].keys() == {"a", "b"}
    assert record["processor"]
    path = tmp_path / "l" / "dcl.json"
    path.write_text(json.dumps({**record, "code": "of old"}))
    run_all = commands.claim.run_all
    monkeypatch.setattr(commands.claim, "run_all", lambda *_: pytest.fail("it was run"))
    (stands,) = commands.claim.claim(["dcl"], verify=True, **folders)
    assert stands["code"] == CLAIM.code()
    assert "stands, the traces of all arms agree" in capsys.readouterr().out
    monkeypatch.setattr(commands.claim, "run_all", run_all)
    figures["dcl"] = 0.8125
    path.write_text(json.dumps({**record, "code": "of old"}))
    assert commands.claim.claim(["dcl"], verify=True, **folders) == []
    said = " ".join(capsys.readouterr().out.split())
    assert "its traces differ, so that the first seed is run: a: losses 1: 0.8125, recorded 0.75" in said
    assert "must be run again" in said


def test_a_claim_may_require_more_than_what_costs_no_training(tmp_path, figures):
    over = Statement("a beats raw inputs", "knn", {"a": 1, "raw": -1})
    claim = replace(CLAIM, requires=(over, Statement("raw beats untrained", "knn", {"raw:b": 1, "untrained": -1})))
    record = settle(claim, tmp_path, console=Console(quiet=True))
    assert [one["verdict"] for one in record["requires"]] == ["holds", "holds"]
    assert record["references"].keys() == {"raw", "raw:b", "untrained"}
    assert record["verdict"] == "confirmed"
    figures["raw"] = 0.875
    assert settle(claim, tmp_path, console=Console(quiet=True))["verdict"] == "out of regime"
    own = runs(claim)
    found = reference_runs(claim, own)
    assert {run.seed for run in found.values()} == {0, 1}
    assert found["raw:b", 0].data == own["b", 0].data


TUNED = replace(CLAIM, tune={"lr": [0.001, 0.01], "batch_size": [16, 32]}, settings={"epochs": 1, "device": "cpu"})


@pytest.fixture
def trials(monkeypatch):
    """Trials without running: their figures by a function of the run; lists the runs."""
    made = []

    def use(figure):
        def run_all(runs, folder, jobs, console, ray=None):
            made.extend(runs.values())
            facts = {"status": "done", "seconds": 2.0}
            return {
                key: {**facts, "folder": str(key), **result(knn=figure(run), linear=-figure(run))}
                for key, run in runs.items()
            }

        monkeypatch.setattr(tuning, "run_all", run_all)
        return made

    return use


def height(run):
    """Best with a learning rate of 0.01 for DCL, of 0.001 for SimCLR; and small batches."""
    return (run.arguments["lr"] == (0.01 if run.method == "dcl" else 0.001)) - run.settings.batch_size / 100


def test_arms_are_tuned_before_they_are_judged_and_the_record_says_how(tmp_path, monkeypatch, figures, trials):
    made = trials(height)
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": TUNED})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o"), "page": str(tmp_path / "p.md")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    assert len(made) == 8
    assert {(run.seed, run.division, run.tuning) for run in made} == {(100, 100, True)}
    assert made[4].arguments["temperature"] == 0.5  # what is fixed stays
    chosen = {label: (found["arguments"], found["settings"]) for label, found in record["chosen"].items()}
    assert chosen == {"a": ({"lr": 0.01}, {"batch_size": 16}), "b": ({"lr": 0.001}, {"batch_size": 16})}
    assert [len(found["trials"]) for found in record["chosen"].values()] == [4, 4]
    assert record["chosen"]["a"]["seconds"] == 8.0
    judged = runs(TUNED, record["chosen"])
    assert judged["b", 1].arguments == {"temperature": 0.5, "lr": 0.001}
    assert judged["b", 1].settings.batch_size == 16
    assert {(run.division, run.tuning) for run in judged.values()} == {(100, False)}
    commands.claim.claim(["dcl"], report=True, quiet=True, **folders)
    page = (tmp_path / "p.md").read_text()
    assert "Chosen: a: lr = 0.01, batch_size = 16; b: lr = 0.001, batch_size = 16; 16 seconds for all trials." in page


def test_what_a_claim_chooses_by_and_which_side_is_best_can_be_declared(figures, trials, tmp_path):
    trials(height)

    def chosen(**changes):
        found = settle(replace(TUNED, **changes), tmp_path / "o")["chosen"]
        return {label: one["arguments"]["lr"] for label, one in found.items()}

    best = {"a": 0.01, "b": 0.001}
    assert chosen() == chosen(by="knn") == chosen(by="linear", best="lowest") == best
    assert chosen(by="linear") == {"a": 0.001, "b": 0.01}


def test_a_claim_that_is_tuned_is_verified_with_what_was_chosen(tmp_path, monkeypatch, figures, trials):
    made = trials(height)
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": TUNED})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    made.clear()
    seen = []
    (tmp_path / "l" / "dcl.json").write_text(json.dumps({**record, "code": "of old", "chosen": {}}))
    assert commands.claim.claim(["dcl"], verify=True, quiet=True, **folders) == []
    del record["traces"]  # by which it would stand
    (tmp_path / "l" / "dcl.json").write_text(json.dumps({**record, "code": "of old"}))

    def run_all(runs, out, jobs, console):
        seen.extend(runs.values())
        done = {"status": "done", "seconds": 1.0, "notes": []}
        return {key: {**done, **result(knn=figures[run.method], linear=0.5)} for key, run in runs.items()}

    monkeypatch.setattr(commands.claim, "run_all", run_all)
    (stands,) = commands.claim.claim(["dcl"], verify=True, quiet=True, **folders)
    assert stands["code"] == TUNED.code()
    assert made == []
    assert {run.method: run.arguments["lr"] for run in seen} == {"dcl": 0.01, "simclr": 0.001}


def test_a_claim_of_which_all_trials_of_an_arm_fail_is_not_judged(tmp_path, monkeypatch, figures):
    def run_all(runs, folder, jobs, console, ray=None):
        failed = {"seed": 100, "status": "failed", "error": "Diverged: nan"}
        done = {"status": "done", "seconds": 1.0, "folder": "f", **result(knn=0.5)}
        return {key: failed if run.method == "dcl" else done for key, run in runs.items()}

    monkeypatch.setattr(tuning, "run_all", run_all)
    with pytest.raises(RunFailed, match="claim dcl: tune: a: all 4 trials failed; the first of them: Diverged: nan"):
        settle(TUNED, tmp_path / "o")


def test_a_claim_without_tuning_has_the_division_of_each_seed():
    assert {run.division for run in runs(CLAIM).values()} == {None}


def test_a_record_older_than_margins_and_requirements_can_be_verified(tmp_path, monkeypatch, figures):
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": CLAIM})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    old = {name: value for name, value in record.items() if name not in ("requires", "tune", "by", "best", "chosen")}
    (statement,) = old["statements"]
    old |= {"statements": [{n: v for n, v in statement.items() if n != "margin"}], "code": "of old"}
    (tmp_path / "l" / "dcl.json").write_text(json.dumps(old))
    (stands,) = commands.claim.claim(["dcl"], verify=True, quiet=True, **folders)
    assert stands["code"] == CLAIM.code()
    assert "margin" not in stands["statements"][0]


def test_the_page_has_the_columns_of_the_task(tmp_path, monkeypatch, figures):
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": CLAIM})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o"), "page": str(tmp_path / "p.md")}
    commands.claim.claim(["dcl"], quiet=True, **folders)
    commands.claim.claim(["dcl"], report=True, quiet=True, **folders)
    assert "| arm | knn | linear | seconds |\n" in (tmp_path / "p.md").read_text()


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
    assert "stale" in ledger_page([changed], [read(tmp_path / "l", changed)], {})


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
    assert f"verified {stands['verified']}" in ledger_page([CLAIM], [stands | {"stale": False}], {})

    other = {**record["statements"][0], "values": [0.125, *record["statements"][0]["values"][1:]]}
    for changed, said in (
        ({"statements": [other]}, "must be run again. "),
        ({"seeds": 7}, "dcl: is declared in another way since"),
    ):
        bare = {name: value for name, value in record.items() if name != "traces"}  # by which it would stand
        path.write_text(json.dumps({**bare, "code": "of old", **changed}))
        assert commands.claim.claim(["dcl"], verify=True, **folders) == []
        assert said in " ".join(capsys.readouterr().out.split())
        assert read(tmp_path / "l", CLAIM)["stale"]


def test_a_claim_runs_and_judges_the_seeds_that_it_names(tmp_path, monkeypatch, figures):
    claim = replace(CLAIM, seeds=(5, 7))
    assert set(runs(claim)) == {(arm, seed) for arm in "ab" for seed in (5, 7)}
    assert {(seed, run.seed) for (_, seed), run in runs(claim).items()} == {(5, 5), (7, 7)}
    results = {("a", 0): result(knn=0.0), ("a", 5): result(knn=0.25), ("a", 7): result(knn=0.5)}
    assert judge(Statement("", "knn", {"a": 1}), results, claim.all_seeds)["values"] == [0.25, 0.5]
    monkeypatch.setattr(commands.claim, "declared", lambda: {"dcl": claim})
    folders = {"ledger": str(tmp_path / "l"), "out": str(tmp_path / "o")}
    (record,) = commands.claim.claim(["dcl"], quiet=True, **folders)
    assert json.loads((tmp_path / "l" / "dcl.json").read_text())["seeds"] == [5, 7]
    assert "| 5, 7 |" in ledger_page([claim], [record | {"stale": False}], {})
    old = {name: value for name, value in record.items() if name != "traces"}
    for seeds, stands in (([5, 7], True), (2, False), ([5, 8], False)):
        (tmp_path / "l" / "dcl.json").write_text(json.dumps({**old, "code": "of old", "seeds": seeds}))
        assert bool(commands.claim.claim(["dcl"], verify=True, quiet=True, **folders)) == stands


def test_a_claim_not_run_yet_says_so():
    assert "not run yet" in ledger_page([CLAIM], [None], {})


@pytest.mark.slow
def test_a_failed_run_gives_no_verdict(tmp_path):
    broken = replace(CLAIM, arms={**CLAIM.arms, "a": {"method": "dcl", "arguments": {"temperature": -1.0}}})
    with pytest.raises(RunFailed, match="claim dcl: a, seed 0 failed: InputError: temperature"):
        settle(broken, tmp_path, console=Console(quiet=True))


def test_which_claim_must_be_said():
    with pytest.raises(InputError, match=r"expected a SLUG or --all"):
        commands.claim.claim()
    with pytest.raises(InputError, match="did you mean 'dcl'"):
        commands.claim.claim(["dcll"])
