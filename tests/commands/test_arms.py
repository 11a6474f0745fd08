"""The rows of a comparison: what `--methods` and `--baseline` name."""

import pytest

from counterpoise.commands.arms import choose_baseline, parse_arms
from counterpoise.errors import InputError


def test_methods_are_read_with_their_arguments():
    arms = parse_arms(["simclr,dcl:temperature=0.5:weighted=true", "moco:queue=64"])
    assert [arm.label for arm in arms] == ["simclr", "dcl:temperature=0.5:weighted=true", "moco:queue=64"]
    assert dict(arms[1].arguments) == {"temperature": 0.5, "weighted": True}
    assert {arm.label for arm in parse_arms(["room:contrast"])} >= {
        "simclr",
        "moco",
        "supcon",
        "dcl",
        "cacr",
        "isogclr",
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "expected at least one"),
        (["room:measure"], "methods: no method of room:measure serves the task pretrain; they serve: measure"),
        (["simclr,room:measure"], "no method of room:measure serves the task pretrain"),
        (["simclr", "simclr"], "'simclr' is named more than once"),
        (["simclt"], "did you mean 'simclr'"),
        (["dcl:temperature"], "expected slug:name=value"),
        (["dcl:temprature=1"], "argument of dcl 'temprature' is not known; did you mean 'temperature'"),
        (["dcl:temperature=warm"], "temperature: expected a number, got 'warm'"),
        (["dcl:temperature=1e999"], "temperature: expected a finite number, got '1e999'"),
        (["dcl:temperature=1:temperature=2"], "temperature: is given twice in 'dcl:temperature=1:temperature=2'"),
        (["dcl:weighted=maybe"], "weighted: expected true or false, got 'maybe'"),
        (["dcl:optimizer=adam"], "optimizer: value 'adam' is not known; did you mean 'adamw'"),
        (["dcl:encoder=small"], "encoder: takes no plain value, got 'small'"),
    ],
)
def test_wrong_methods_are_refused(methods, message):
    with pytest.raises(InputError, match=message):
        parse_arms(methods)


def test_values_are_read_as_they_are_written():
    (arm,) = parse_arms(["dcl:hidden=3:lr=1e-3:weighted=off:optimizer=sgd"])
    assert dict(arm.arguments) == {"hidden": 3, "lr": 1e-3, "weighted": False, "optimizer": "sgd"}


def test_the_baseline_is_the_task_s_own_or_the_first():
    assert choose_baseline(parse_arms(["dcl", "simclr"]), None) == "simclr"
    assert choose_baseline(parse_arms(["dcl", "moco"]), None) == "dcl"
    with pytest.raises(InputError, match="baseline 'simclr' is not known"):
        choose_baseline(parse_arms(["dcl", "moco"]), "simclr")
