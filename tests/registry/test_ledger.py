import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from counterpoise.errors import InputError
from counterpoise.registry import catalogue, fingerprint, ledger
from counterpoise.registry.ledger import (
    ARM_KEYS,
    REFERENCES,
    Claim,
    Statement,
    expectation,
    ledger_page,
    modules_of,
    statement_line,
)

ROOT = Path(__file__).parents[2]
DECLARED = """
[dcl]
says = "DCL is better"
data = "digits"
seeds = 5
settings = { epochs = 2 }

[dcl.arms]
dcl = { method = "dcl", arguments = { temperature = 0.1 } }
simclr = { method = "simclr" }

[[dcl.statements]]
says = "kNN: DCL less SimCLR"
metric = "knn"
of = { dcl = 1, simclr = -1 }
"""
REQUIRED = """
[[dcl.requires]]
says = "SimCLR less raw inputs"
metric = "knn"
of = { simclr = 1, raw = -1 }
"""
TUNED = ("settings", 'tune = { lr = [0.01, 0.02] }\nby = "knn"\nsettings')


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """Reads a claim that is declared by a text."""

    def read(text: str) -> Claim:
        path = tmp_path / "claims.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(ledger, "DECLARED", path)
        return ledger.declared.__wrapped__()["dcl"]

    return read


def record(**changes):
    statement = {
        "says": "a less b",
        "metric": "knn",
        "of": {"a": 1, "b": -1},
        "expect": "above",
        "margin": 0,
        "mean": -0.0035,
        "low": -0.0171,
        "high": 0.0101,
        "verdict": "inconclusive",
    }
    arm = {"knn": {"mean": 0.5}, "linear": {"mean": 0.25}, "bend": {"mean": 3.0}, "seconds": 7.0}
    made = {
        "slug": "dcl",
        "says": "a is better",
        "verdict": "inconclusive",
        "statements": [{**statement, **changes.pop("statement", {})}],
        "arms": {"a": arm, "b": arm},
        "data": "digits",
        "notes": ["8 × 8 pixels"],
        "date": "2025-01-31",
        "stale": False,
    }
    return {**made, **changes}


@pytest.mark.slow
def test_the_declared_claims_are_right():
    for slug, claim in ledger.declared().items():
        claim.check()
        assert claim.slug == slug


def test_what_is_left_out_has_its_default(declare):
    claim = declare(DECLARED)
    assert (claim.task, claim.imperfect, claim.requires, claim.references, claim.spaces) == ("pretrain", (), (), (), {})
    (statement,) = claim.statements
    assert (statement.expect, statement.margin) == ("above", 0)
    claim.check()


def test_everything_that_can_be_declared_is_read(declare):
    text = DECLARED.replace(*TUNED).replace("by =", 'best = "lowest"\nimperfect = ["fewer=0.5"]\nby =')
    claim = declare(text + 'expect = "below"\nmargin = -0.01\n' + REQUIRED)
    assert (claim.by, claim.best, claim.imperfect) == ("knn", "lowest", ("fewer=0.5",))
    assert claim.statements[0].expect == "below"
    assert claim.statements[0].margin == -0.01
    assert claim.requires == (Statement("SimCLR less raw inputs", "knn", {"simclr": 1, "raw": -1}),)
    assert claim.references == ("raw",)
    assert claim.spaces == {"dcl": {"lr": [0.01, 0.02]}, "simclr": {"lr": [0.01, 0.02]}}
    claim.check()


def test_an_arm_may_be_tuned_over_values_of_its_own(declare):
    own = DECLARED.replace(*TUNED).replace(
        '{ method = "simclr" }', '{ method = "simclr", tune = { batch_size = [8, 16] } }'
    )
    claim = declare(own)
    assert claim.spaces == {"dcl": {"lr": [0.01, 0.02]}, "simclr": {"batch_size": [8, 16]}}
    claim.check()  # the batch size is a setting


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 5", "sedes = 5", "claim dcl: key 'sedes' is not known; did you mean 'seeds'?"),
        ("seeds = 5", "", "claim dcl: seeds: is missing"),
        ("seeds = 5", "seeds = 0", "claim dcl: seeds: expected a whole number from 1 to 100, got 0"),
        ("seeds = 5", "seeds = 2.5", "claim dcl: seeds: expected a whole number from 1 to 100, got 2.5"),
        ("seeds = 5", "seeds = true", "claim dcl: seeds: expected a whole number from 1 to 100, got True"),
        ("seeds = 5", "seeds = []", r"claim dcl: seeds: expected different whole numbers from 0 to 99, got \[\]"),
        ("seeds = 5", "seeds = [7, 7]", "claim dcl: seeds: expected different whole numbers from 0 to 99"),
        ("seeds = 5", "seeds = [100]", "claim dcl: seeds: expected different whole numbers from 0 to 99"),
        ("seeds = 5", "seeds = [0.5]", "claim dcl: seeds: expected different whole numbers from 0 to 99"),
        ("seeds = 5", "seeds = 101", "claim dcl: seeds: expected a whole number from 1 to 100, got 101"),
        ('"DCL is better"', '" "', "claim dcl: says: expected a text, got ' '"),
        ('data = "digits"', "data = 3", "claim dcl: data: expected a text, got 3"),
        ("seeds", 'task = "pretain"\nseeds', "claim dcl: task: task 'pretain' is not known; did you mean 'pretrain'?"),
        ("seeds", 'imperfect = "fewer"\nseeds', "claim dcl: imperfect: expected a list of texts, got 'fewer'"),
        ("{ epochs = 2 }", "3", "claim dcl: settings: expected a table of names and values, got 3"),
        ('"simclr" }', '"simclt" }', "claim dcl: arm simclr: method: method 'simclt' is not known; did you mean"),
        ('method = "simclr" }', "}", "claim dcl: arm simclr: method: expected a text, got nothing"),
        ('"simclr" }', '"simclr", argument = {} }', "claim dcl: arm simclr: key 'argument' is not known; did you mean"),
        ('"simclr" }', '"simclr", data = [] }', r"claim dcl: arm simclr: data: expected a text, got \[\]"),
        ('"simclr" }', '"simclr", arguments = 1 }', "claim dcl: arm simclr: arguments: expected a table of names"),
        ("simclr = { m", "raw = { m", "claim dcl: arm raw: is the name of a reference"),
        ("simclr = -1", "simclt = -1", "claim dcl: statement 1: of: arm 'simclt' is not known; did you mean 'simclr'?"),
        ("simclr = -1", "raw = -1", "claim dcl: statement 1: of: arm 'raw' is not known"),
        ("simclr = -1", "simclr = nan", "claim dcl: statement 1: of: simclr: expected a finite number other than 0"),
        ("simclr = -1", "simclr = 0", "claim dcl: statement 1: of: simclr: expected a finite number other than 0"),
        ("{ dcl = 1, simclr = -1 }", "{}", "claim dcl: statement 1: of: expected the weight of at least one arm"),
        ('metric = "knn"', "", "claim dcl: statement 1: metric: is missing"),
        ('metric = "knn"', 'metric = ""', "claim dcl: statement 1: metric: expected a text, got ''"),
        ("of =", "if = 1\nof =", "claim dcl: statement 1: key 'if' is not known; did you mean 'of'?"),
        (
            "of =",
            'expect = "abov"\nof =',
            "claim dcl: statement 1: expect: side 'abov' is not known; did you mean 'abo",
        ),
        ("of =", "expect = 0\nof =", "claim dcl: statement 1: expect: side '0' is not known"),
        ("of =", "margin = inf\nof =", "claim dcl: statement 1: margin: expected a finite number, got inf"),
        (
            "of =",
            "margin = 1" + "0" * 400 + "\nof =",
            "claim dcl: statement 1: margin: expected a finite number, got 1",
        ),
        ("{ epochs = 2 }", "[]", r"claim dcl: settings: expected a table of names and values, got \[\]"),
        ("seeds", "tune = []\nseeds", "claim dcl: tune: expected names with lists of values"),
        ("of =", 'margin = "1"\nof =', "claim dcl: statement 1: margin: expected a finite number, got '1'"),
        ("seeds", 'by = "knn"\nseeds', "claim dcl: by: expected nothing, since nothing is tuned"),
        ("seeds", 'best = "highest"\nseeds', "claim dcl: best: expected nothing, since nothing is tuned"),
        ("seeds", "tune = { lr = 0.1 }\nseeds", "claim dcl: tune: lr: expected a list of at least two values, got 0.1"),
        ("seeds", "tune = { lr = [0.1] }\nseeds", "claim dcl: tune: lr: expected a list of at least two values"),
        ("seeds", "tune = { lr = [1, 1.0] }\nseeds", "claim dcl: tune: lr: expected different values, got 1.0 twice"),
        ("seeds", "tune = [1, 2]\nseeds", "claim dcl: tune: expected names with lists of values"),
        (
            "seeds",
            "tune = { epochs = [1, 2] }\nseeds",
            r"claim dcl: arm dcl: tune: epochs: is both fixed \(2\) and tuned",
        ),
        (
            "seeds",
            "tune = { temperature = [1, 2] }\nseeds",
            r"arm dcl: tune: temperature: is both fixed \(0.1\) and tun",
        ),
        (
            '"simclr" }',
            '"simclr", tune = { lr = [1, 2] } }',
            "dcl: tune: expected as many trials for every arm, got dcl 1",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_with_slug_and_key(declare, old, new, message):
    assert old in DECLARED
    with pytest.raises(InputError, match=message):
        declare(DECLARED.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs", "epoch", "claim dcl: settings: setting of pretrain 'epoch' is not known; did you mean 'epochs'?"),
        ("epochs = 2", "epochs = 2.5", "claim dcl: settings: epochs: expected a whole number, got 2.5"),
        (
            "temperature",
            "temprature",
            "claim dcl: arm dcl: arguments: argument of dcl 'temprature' is not known; did you",
        ),
        ("0.1 }", '"warm" }', "claim dcl: arm dcl: arguments: temperature: expected a number, got 'warm'"),
        ('"simclr" }', '"simclr", settings = { size = "a" } }', "arm simclr: settings: size: expected a whole number"),
        (
            "seeds",
            "tune = { lt = [1, 2] }\nseeds",
            "claim dcl: arm dcl: tune: argument of dcl or setting of pretrain 'lt'",
        ),
        ("seeds", 'tune = { lr = [1, "b"] }\nseeds', "claim dcl: arm dcl: tune: lr: expected a number, got 'b'"),
        (
            "seeds",
            "tune = { batch_size = [8, 8.5] }\nseeds",
            "claim dcl: arm dcl: tune: batch_size: expected a whole n",
        ),
    ],
)
def test_what_methods_and_task_do_not_have_is_refused_with_slug_and_key(declare, old, new, message):
    assert old in DECLARED
    claim = declare(DECLARED.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        claim.check()


def test_seeds_are_a_number_of_them_or_each_by_its_number(declare):
    assert declare(DECLARED).all_seeds == (0, 1, 2, 3, 4)
    assert declare(DECLARED.replace("seeds = 5", "seeds = [5, 0, 99]")).all_seeds == (5, 0, 99)


def test_a_claim_states_something(declare):
    with pytest.raises(InputError, match="claim dcl: statements: expected at least one, got none"):
        declare(DECLARED.partition("[[")[0].replace("seeds", "statements = []\nseeds", 1))
    with pytest.raises(InputError, match="claim dcl: statements: is missing"):
        declare(DECLARED.partition("[[")[0])
    with pytest.raises(InputError, match="claim dcl: arms: expected at least one, got none"):
        declare(re.sub(r"(dcl|simclr) = \{ method.*", "", DECLARED))


def test_no_two_statements_say_the_same_of_one_metric(declare):
    again = "[[" + DECLARED.partition("[[")[2]
    with pytest.raises(InputError, match="claim dcl: statement 2: says: another says the same of knn: 'kNN: DCL less"):
        declare(DECLARED + again)
    assert len(declare(DECLARED + again.replace('"knn"', '"linear"')).statements) == 2


def test_a_requirement_compares_with_references_of_the_claim_or_of_an_arm(declare):
    claim = declare(DECLARED + REQUIRED.replace("raw =", '"untrained:dcl" ='))
    assert claim.references == ("untrained:dcl",)
    for old, new, message in (
        (
            "raw =",
            "untraind =",
            "requirement 1: of: arm or reference 'untraind' is not known; did you mean 'untrained'",
        ),
        ("raw =", '"raw:dlc" =', "claim dcl: requirement 1: of: raw: arm 'dlc' is not known; did you mean 'dcl'?"),
        ("knn", "", "claim dcl: requirement 1: metric: expected a text"),
    ):
        with pytest.raises(InputError, match=message):
            declare(DECLARED + REQUIRED.replace(old, new, 1))


def test_arms_have_as_many_trials_each(declare):
    text = DECLARED.replace(*TUNED)
    own = '{ method = "simclr", tune = %s }'
    with pytest.raises(InputError, match="tune: expected as many trials for every arm, got dcl 2, simclr 3"):
        declare(text.replace('{ method = "simclr" }', own % "{ lr = [1, 2, 3] }"))
    with pytest.raises(InputError, match="tune: expected as many trials for every arm, got dcl 2, simclr 1"):
        declare(text.replace('{ method = "simclr" }', own % "{}"))


def test_the_direction_of_a_figure_needs_the_figure(declare):
    text = DECLARED.replace(*TUNED)
    with pytest.raises(InputError, match="claim dcl: best: expected the figure that it is of"):
        declare(text.replace('by = "knn"', 'best = "lowest"'))
    with pytest.raises(InputError, match="claim dcl: best: side 'low' is not known; did you mean 'lowest'"):
        declare(text.replace('by = "knn"', 'by = "knn"\nbest = "low"'))


@pytest.mark.parametrize(
    "change",
    [
        {"requires": (Statement("floor", "knn", {"dcl": 1}, margin=-0.5),)},
        {"tune": {"lr": [0.01, 0.02]}},
        {"tune": {"lr": [0.01, 0.02]}, "by": "linear"},
        {"tune": {"lr": [0.01, 0.02]}, "by": "loss", "best": "lowest"},
        {"statements": (Statement("kNN: DCL less SimCLR", "knn", {"dcl": 1, "simclr": -1}, margin=0.01),)},
        {"imperfect": ("fewer=0.5",)},
        {"seeds": (0, 1, 2, 3, 5)},
    ],
)
def test_a_claims_code_changes_with_every_field(declare, change):
    claim = declare(DECLARED)
    codes = {claim.code(), replace(claim, **change).code()}
    assert len(codes) == 2


def test_a_claims_code_covers_the_modules_of_its_methods_and_task(declare, monkeypatch):
    claim = declare(DECLARED)
    assert modules_of(claim) == ["contrast.dcl", "contrast.simclr", "tasks.pretrain"]
    before = claim.code()
    real = fingerprint.fingerprint
    for module in modules_of(claim):
        monkeypatch.setattr(ledger, "fingerprint", lambda names, m=module: real([n for n in names if n != m] + ["cli"]))
        assert claim.code() != before


@pytest.mark.parametrize(
    ("of", "expect", "margin", "text"),
    [
        ({"a": 1, "b": -1}, "above", 0, "above 0"),
        ({"a": 1, "b": -1}, "above", 0.0, "above 0"),
        ({"a": 1, "b": -1}, "above", 0.01, "above -0.01 (at most 0.01 worse)"),
        ({"a": 1, "b": -1}, "below", -0.01, "below 0.01 (at most 0.01 worse)"),
        ({"a": 1, "b": -0.5, "c": -0.5}, "above", -0.02, "above 0.02 (better by more than 0.02)"),
        ({"a": 1, "b": -1}, "below", 2, "below -2 (better by more than 2)"),
        ({"a": 1}, "above", -0.9, "above 0.9"),
        ({"a": 1}, "below", -0.9, "below 0.9"),
    ],
)
def test_a_margin_is_a_bound(of, expect, margin, text):
    assert expectation({"of": of, "expect": expect, "margin": margin}) == text


def test_a_line_has_figure_interval_bound_and_verdict():
    (statement,) = record()["statements"]
    line = "  a less b: -0.0035 [-0.0171, +0.0101, seeds alone], expected above 0: inconclusive"
    assert statement_line(statement) == line
    old = {name: value for name, value in statement.items() if name != "margin"}  # as they were recorded before
    assert statement_line(old) == line
    judged = {"mean": 0.0265, "low": 0.0129, "high": 0.0401, "margin": 0.03, "verdict": "confirmed"}
    shown = statement_line({**statement, **judged})
    assert shown == (
        "  a less b: -0.0035 [-0.0171, +0.0101, seeds alone], expected above -0.03 (at most 0.03 worse): confirmed"
    )
    known = {"n": 5, "items": 2000, "detectable": 0.0167, "unit": 0.01, "needed": 12}
    power = "80 % power for a difference of 0.0167, 0.01 needs 12 seeds"
    assert statement_line({**statement, **known}) == (
        f"  a less b: -0.0035 [-0.0171, +0.0101], expected above 0: inconclusive; {power}"
    )
    single = statement_line({**statement, "low": None, "high": None, "verdict": "holds"}, "required")
    assert single == "  a less b: -0.0035, required above 0: holds"


def test_the_page_shows_the_columns_that_the_task_names(declare):
    claim = declare(DECLARED)
    page = ledger_page([claim], [record()], {"pretrain": ["linear", "knn", "absent"], "graph": ["bend"]})
    assert "| arm | knn | linear | seconds |\n|---|---|---|---|\n| a | 0.5000 | 0.2500 | 7 |" in page
    assert "| arm | knn | bend | seconds |" in ledger_page([claim], [record()], {"pretrain": ["bend"]})
    assert "| arm | knn | seconds |" in ledger_page([claim], [record()], {})


def test_the_page_shows_margins_requirements_and_tuning(declare):
    claim = declare(DECLARED)
    (statement,) = record()["statements"]
    required = {**statement, "says": "a floor", "metric": "linear", "of": {"a": 1}, "margin": -0.5, "mean": -0.25}
    made = record(
        statement={"margin": 0.01, "verdict": ledger.OUT_OF_REGIME},
        verdict=ledger.OUT_OF_REGIME,
        requires=[{**required, "low": None, "high": None, "verdict": "does not hold"}],
        tune={"a": {"lr": [0.1, 0.2]}, "b": {"lr": [0.3, 0.4]}},
        by="bend",
        best="lowest",
        chosen={
            "a": {"arguments": {"lr": 0.1}, "settings": {"batch_size": 8}, "seconds": 60.0, "trials": []},
            "b": {"arguments": {"lr": 0.4}, "settings": {}, "seconds": 30.0, "trials": []},
        },
    )
    page = ledger_page([claim], [made], {})
    assert "| [dcl](../papers/dcl.md) | out of regime: a floor: +0.2500, required above 0.5 | 5 |" in page
    assert "| a floor (linear) | +0.2500 | — | above 0.5 | does not hold |" in page
    figures = "-0.0135 | -0.0271 to +0.0001"
    assert f"| a less b (knn) | {figures} | above -0.01 (at most 0.01 worse) | out of regime |" in page
    tuned = "Tuned: 2 trials an arm with seed 100, chosen by the lowest bend; a: lr: 0.1, 0.2; b: lr: 0.3, 0.4."
    assert tuned in page
    assert "Chosen: a: lr = 0.1, batch_size = 8; b: lr = 0.4; 90 seconds for all trials." in page
    assert "| arm | knn | linear | seconds |" in page  # the metric of a requirement, too
    assert page.index("a floor") < page.index("| a less b")
    plain = ledger_page([claim], [record()], {})
    assert "Tuned:" not in plain
    assert "Chosen:" not in plain
    assert "required" not in plain


def test_the_documented_declaration_is_one_with_every_key(declare):
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    claim = declare(text)
    claim.check()
    given = {name for name, value in asdict(claim).items() if value}
    assert given == {f.name for f in fields(Claim)}
    assert {key for arm in claim.arms.values() for key in arm} == set(ARM_KEYS)
    assert any(statement.margin for statement in claim.statements)
    assert all(f"`{name}`" in page for name in REFERENCES)
    for row in re.findall(r"^\| `\"(\w+)\"` \| `(-?[\d.]+)` \| [^|]* \| ([^|]*) \|$", page, re.MULTILINE):
        expect, margin, text = row
        if "worse" in text or "better" in text:
            found = expectation({"of": {"a": 1, "b": -1}, "expect": expect, "margin": float(margin)})
            assert text.partition(",")[0] in found


def test_show_prints_what_a_claim_requires_and_tunes(declare, monkeypatch):
    from counterpoise.commands import listing
    from counterpoise.terminal import make_console

    claim = declare(DECLARED.replace(*TUNED) + REQUIRED)
    monkeypatch.setattr(listing, "declared", lambda: {"dcl": claim})

    def shown(result):
        monkeypatch.setattr(listing, "last_result", lambda claim: result)
        console = make_console()
        with console.capture() as captured:
            listing.print_show(console, "dcl")
        return captured.get()

    text = shown(None)
    assert "tuned: 2 trials an arm with seed 100, chosen by knn; lr: 0.01, 0.02" in text
    assert "requires: SimCLR less raw inputs" in text
    (statement,) = record()["statements"]
    text = shown(record(verdict="out of regime", requires=[{**statement, "verdict": "does not hold"}]))
    assert "a less b: -0.0035 [-0.0171, +0.0101], required above 0: does not hold" in text
    assert "out of regime: a less b: -0.0035, required above 0 (2025-01-31)" in text


def test_a_record_of_today_can_be_read_again(declare, tmp_path):
    claim = declare(DECLARED)
    (tmp_path / "dcl.json").write_text(json.dumps({**record(), "code": claim.code()}))
    assert ledger.read(tmp_path, claim)["stale"] is False
    (tmp_path / "dcl.json").write_text("[]")
    with pytest.raises(InputError, match="is no record of a claim"):
        ledger.read(tmp_path, claim)


@pytest.mark.slow
def test_every_module_of_a_claim_is_there():
    for claim in ledger.declared().values():
        for module in modules_of(claim):
            assert (catalogue.Path(ledger.PACKAGE) / f"{module.replace('.', '/')}.py").exists()
