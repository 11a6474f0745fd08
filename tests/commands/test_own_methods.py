"""A method in a user's own file, from comparison and training to what is done with a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import counterpoise
from counterpoise import cli
from counterpoise.errors import InputError
from counterpoise.registry import user_files

QUICK = {"epochs": 1, "batch_size": 8, "device": "cpu", "quiet": True}
MINE = '''
from torch import nn
from counterpoise import Method
from counterpoise.contrast.simclr import SimCLR


class Weighted(SimCLR):
    """SimCLR, weighted.

    Args:
        weight: of the loss.
    """

    def __init__(self, encoder, weight: float = 1.0, **recipe):
        super().__init__(encoder, **recipe)
        self.weight = weight

    def loss(self, images, labels, index):
        return self.weight * super().loss(images, labels, index)


class Apart(nn.Module):
    def forward(self, z1, z2):
        return (z1 - z2).square().mean()


class Fails(Method):
    def loss(self, images, labels, index):
        return images.nothing
'''

OBJECTIVE = '''
from torch import nn
from counterpoise import Method


class Spread(nn.Module):
    """How far two views are apart.

    Args:
        power: of the distance.
    """

    def __init__(self, power: int = 2):
        super().__init__()
        self.power = power

    def forward(self, z1, z2):
        return (z1 - z2).abs().pow(self.power).mean()


Narrow = Method.of(Spread, dim=8)
'''

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The present folder: a user's file, and images."""
    draw = np.random.default_rng(0)
    for name, level in (("a", 40), ("b", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = (level + draw.integers(-20, 20, (8, 8))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(method="./mine.py:Weighted", out="run", **options):
    return counterpoise.train(method, "photos", out=out, loggers=(), **{**QUICK, **options})


@pytest.mark.slow
def test_it_is_trained_and_used_while_its_file_is_the_same(place):
    result = train(weight=0.5)
    config = json.loads((place / "run" / "config.json").read_text())
    assert re.fullmatch(re.escape(f"{place}/mine.py:Weighted@") + "[0-9a-f]{12}", config["method"])
    assert config["arguments"] == {"weight": 0.5}
    assert train(weight=0.5) == result
    found = counterpoise.predict("run", "photos", "p.csv")
    assert [row.label for row in found] == [row.path[0] for row in found]
    assert counterpoise.embed("run", "photos", "e.npy").shape[0] == 24
    (place / "mine.py").write_text(MINE.replace("self.weight *", "-self.weight *"))
    with pytest.raises(InputError, match=r"holds a run of another configuration \(method: "):
        train(weight=0.5)
    user_files._kept.clear()  # as another process begins
    for use in (lambda: counterpoise.predict("run", "photos", "p.csv"),
                lambda: counterpoise.embed("run", "photos", "e.npy"),
                lambda: counterpoise.export("run", "e.safetensors")):  # fmt: skip
        with pytest.raises(InputError, match=r"mine\.py: has been changed since: its content is"):
            use()
    (place / "mine.py").write_text(f"# a comment\n{MINE}")
    assert len(counterpoise.predict("run", "photos", "p.csv")) == 24


def test_an_argument_with_the_name_of_a_flag_of_every_run_is_given_with_the_method(place, capsys):
    (place / "mine.py").write_text(MINE.replace("weight: float = 1.0,", "weight: float = 1.0, size: int = 3,"))
    train("./mine.py:Weighted:size=5", weight=2.0, size=16)
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["arguments"] == {"size": 5, "weight": 2.0}
    assert config["settings"]["size"] == 16
    with pytest.raises(SystemExit):
        cli.main(["train", "--method", "./mine.py:Weighted:size=5", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "of ./mine.py:Weighted: --method ./mine.py:Weighted:size=… (default: 3); --size is the run's" in shown


@pytest.mark.slow
def test_it_stands_beside_others_in_a_comparison(place):
    words = ["simclr", "./mine.py:Weighted:weight=2", "mine.py:Apart"]
    content = counterpoise.compare(words, "photos", seeds=1, out="o", references=False, **QUICK)
    assert [row["label"] for row in content["methods"]] == words
    assert [run["status"] for row in content["methods"] for run in row["runs"]] == ["done"] * 3
    assert [row["title"] for row in content["methods"][1:]] == ["SimCLR, weighted.", "Apart"]
    assert content["baseline"] == "simclr"
    before = {path.name for path in (place / "o" / "runs").iterdir()}
    assert len(before) == 3
    (place / "mine.py").write_text(MINE.replace("square()", "abs()"))
    counterpoise.compare(words, "photos", seeds=1, out="o", references=False, **QUICK)
    assert len({path.name for path in (place / "o" / "runs").iterdir()} - before) == 2  # those of the file run again


@pytest.mark.slow
def test_it_has_the_baseline_s_result_where_it_does_the_same():
    same = [train("simclr", "a"), train("./mine.py:Weighted", "b")]
    assert same[0]["metrics"] == same[1]["metrics"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["--method", "mine.py:Fails"],
            1,
            "mine.py, line 29: AttributeError: 'list' object has no attribute 'nothing'",
        ),
        (["--method", "mine.py:Weighted", "--wieght", "2"], 2, "did you mean '--weight'"),
        (["--method", "mine.py:Weighted:wieght=2"], 2, "'wieght' is not known; did you mean 'weight'"),
        (["--method", "mine.py:Weighted:batch_size=2"], 2, "argument of mine.py:Weighted 'batch_size' is not known"),
        (["--method", "mine.py:Weighted:weight=2", "--weight", "3"], 2, "weight: is given with the method, in"),
        (["--method", "mine.py:Weigthed"], 2, "mine.py: has no class 'Weigthed'; its classes: Weighted, Apart, Fails"),
        (["--method", "broken.py:M"], 2, "broken.py, line 2: ValueError: no luck"),
        (["--method", "broken.py"], 2, "expected PATH.py:CLASS; the file has the classes: M"),
    ],
)
def test_what_is_at_fault_is_one_line_of_the_user_s_own(capsys, place, words, status, message):
    (place / "broken.py").write_text("\nraise ValueError('no\\nluck')\nclass M:\n    pass\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["train", *words, "--data", "photos", "--epochs", "1", "--batch-size", "8", "--quiet", "--device", "cpu"]
        )
    printed = capsys.readouterr().err
    assert stop.value.code == status
    assert message in printed
    assert printed.count("\n") == 1


def test_its_arguments_are_flags_with_its_docstring_as_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--method", "./mine.py:Weighted", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "of ./mine.py:Weighted:" in printed
    assert "--weight X of the loss. (default: 1.0)" in printed


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        (
            "Weighted",
            "method",
            ["SimCLR, weighted.", "weight number 1.0 of the loss.", "temperature number 0.1 "],
        ),
        (
            "Spread",
            "objective, method",
            ["How far", "power whole number 2 of the distance.", "dim whole number 64 "],
        ),
        (
            "Narrow",
            "objective, method",
            ["How far", "power whole number 2 of the distance.", "dim whole number 8 "],
        ),
    ],
)
def test_it_is_shown_with_its_arguments_and_their_help(capsys, place, name, kind, shown):
    (place / "mine.py").write_text(f"{MINE}{OBJECTIVE}")
    with pytest.raises(SystemExit) as stop:
        cli.main(["show", f"./mine.py:{name}"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert f"tasks pretrain, retrieve, few-shot kind {kind} file mine.py method {name} " in text
    assert [words for words in shown if words not in text] == []
    assert f"--methods simclr,./mine.py:{name} " in text


def test_a_file_that_drives_a_terminal_is_shown_harmless(capsys, place):
    (place / "mine.py").write_text(OBJECTIVE.replace("How far", "How\\x1b[31m far").replace("of the", "\\x1b[2J"))
    with pytest.raises(SystemExit):
        cli.main(["show", "./mine.py:Spread"])
    text = capsys.readouterr().out
    assert "How\\x1b[31m far" in text
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.slow
def test_the_page_s_examples_are_trained(place):
    page = Path(__file__).parents[2] / "docs" / "own-methods.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    for i, (code, options) in enumerate(zip(examples, ({"weight": 2.0}, {"power": 1}), strict=True)):
        (place / f"page{i}.py").write_text(code)
        assert train(f"page{i}.py:MyMethod", f"run{i}", **options)["status"] == "done"
