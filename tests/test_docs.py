"""Every example in the documentation runs, and every command in it is one that the command line takes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise import cli
from counterpoise.data.imperfect import IMPERFECTIONS
from counterpoise.registry import catalogue

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/papers/*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page):
    examples = blocks(page, "python")
    assert examples
    for code in examples:
        torch.manual_seed(0)
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("page", ["data", "models", "scaling", "scenes", "tuning"])
def test_the_examples_of_other_pages_run(page):
    examples = blocks(ROOT / "docs" / f"{page}.md", "python")
    assert examples
    for code in examples:
        exec(compile(code, page, "exec"), {})


def test_the_architecture_quotes_the_figures_of_the_similarity_benchmark():
    found = json.loads((ROOT / "docs/results/similarity.json").read_text(encoding="utf-8"))
    names = ("ours", "ours, bfloat16 tiles")
    kinds = ("products", "exponentials", "sums", "the rest")
    shares = [found["share_of_peak"][name] for name in names]
    shares += [found["breakdown"][name][kind] for kind in kinds for name in names]
    section = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Where the time")[2]
    assert re.findall(r"\d+%", section) == [f"{share:.0%}" for share in shares]
    bounds = [f"{found['bound_over_lightly'][name]:.0f}" for name in names]
    assert re.findall(r"about (\d+) times.* (\d+) times with", " ".join(section.split())) == [tuple(bounds)]


def test_the_page_of_flowaug_quotes_the_share_of_its_benchmark():
    found = json.loads((ROOT / "docs/results/flowaug.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/papers/flowaug.md").read_text(encoding="utf-8")
    assert re.findall(r"go (\d+%) of the way", page) == [f"{found['shares_of_ground']['default']:.0%}"]


def test_every_method_has_its_page():
    assert {page.stem for page in PAGES} == {paper.slug for paper in catalogue.select(done=True)}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folders that README's examples speak of, tiny."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("photos", "new-photos"):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(12):
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                    tmp_path / folder / name / f"{i}.png"
                )
    return tmp_path


@pytest.mark.slow
def test_readme_s_examples_run(photos):
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})
    assert (photos / "encoder.onnx").exists()
    assert (photos / "new.parquet").exists()


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in re.findall(r"^    (counterpoise .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("command", commands())
def test_readme_s_commands_are_read(command, monkeypatch):
    """Up to the call: that the flags exist and their values are accepted."""
    called = []
    monkeypatch.setattr(
        cli, "call", lambda *given: called.append(given) or {"metrics": {}, "warnings": [], "folder": ""}
    )
    cli.run(shlex.split(command)[1:])
    assert called


def test_readme_has_commands():
    assert {shlex.split(command)[1] for command in commands()} >= {
        "compare",
        "data",
        "train",
        "embed",
        "export",
        "scenes",
    }


def test_the_page_on_data_lists_every_imperfection_and_where_it_falls():
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (train|test|both) \|$", page, re.MULTILINE))
    assert listed == {name: known.splits[0] for name, known in IMPERFECTIONS.items()}
