"""Arguments as flags: what is collected, what is refused in one line, what the help shows."""

import argparse
from pathlib import Path

import pytest

from counterpoise.registry.arguments import add_flags, collect
from counterpoise.registry.signatures import describe


def parse(description, *words, skip=()):
    parser = argparse.ArgumentParser(prog="p")
    add_flags(parser, description, skip)
    return collect(parser.parse_args(words), description)


def test_only_what_is_given_is_collected(package):
    part = describe("room.part", "Part", package=package)
    assert parse(part, "--folder", "a") == {"folder": Path("a")}
    words = ["--no-fast", "--queue", "7", "--scale", "0.5,0.75", "--names", "x", "--names", "y,z", "--lr=1e-2"]
    assert parse(part, "--folder=a", *words) == {
        "folder": Path("a"),
        "fast": False,
        "queue": 7,
        "scale": (0.5, 0.75),
        "names": ["x", "y", "z"],
        "lr": 0.01,
    }


def test_one_or_several(package):
    part = describe("room.part", "Part", package=package)
    assert parse(part, "--folder=a", "--seeds=5")["seeds"] == 5
    assert parse(part, "--folder=a", "--seeds=5,6")["seeds"] == [5, 6]
    assert parse(part, "--folder=a", "--names=x")["names"] == ["x"]


def test_skipped_and_objects_get_no_flag(package):
    parser = argparse.ArgumentParser()
    add_flags(parser, describe("room.part", "Part", package=package), skip=("folder", "out"))
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    plain = {"--queue", "--scale", "--fast", "--no-fast", "--share", "--names", "--seeds", "--lr", "--precision"}
    assert flags == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queue", "1.5"], "argument --queue: expected a whole number, got '1.5'"),
        (["--lr", "fast"], "argument --lr: expected a number, got 'fast'"),
        (["--seeds", "1,x"], "argument --seeds: expected a whole number, got 'x'"),
        (["--names", "a,,b"], "argument --names: expected values separated by commas, got 'a,,b'"),
        (["--precision", "16mixed"], "value '16mixed' is not known; did you mean '16-mixed'? Known: 16-mixed, 32"),
        ([], "the following arguments are required: --folder"),
    ],
)
def test_bad_values_are_one_clear_line(package, capsys, words, message):
    with pytest.raises(SystemExit):
        parse(describe("room.part", "Part", package=package), *words, *(["--folder=a"] if words else []))
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_choices_of_numbers(package):
    settings = describe("room.part", "Settings", package=package)
    assert parse(settings, "--level=2") == {"level": 2}
    with pytest.raises(SystemExit):
        parse(settings, "--level=3")


def test_help_shows_the_docstring_and_the_default(package):
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=200))
    add_flags(parser, describe("room.part", "Part", package=package))
    text = parser.format_help()
    assert "how many keys, 100 % of them kept. (default: -16)" in text
    assert "--fast, --no-fast" in text
    assert "(default: on)" in text
    assert "the range. (default: 0.2,1.0)" in text
    assert "(required)" in text
    assert "==SUPPRESS==" not in text
