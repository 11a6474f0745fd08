"""Users' files stay as they are whatever is written beside them; results belong to the files as they are now."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faults.commands import make_photos

pytestmark = pytest.mark.slow

many = pytest.mark.faults
SHORT = ["--epochs", "1", "--batch-size", "16", "--device", "cpu"]
TRAIN = ["train", "--method", "simclr", "--quiet", *SHORT]
COMPARE = ["compare", "--methods", "simclr", "--seeds", "1", "--no-references", "--quiet", *SHORT]

# What a user may have: names that programs give to half-written files, names of ours, hidden files, links.
USERS = [
    "thesis/chapter.part", "backup.tar.gz.part", ".notes.partial.txt", ".x.123.part.json", ".lock", "results.csv",
    "results.json", "report.html", "config.json", "result.json", "last.ckpt", "net.safetensors", "runs/a/last.part",
    ".counterpoise-notes.txt", "annotations.json", "images/000000.png", "photos-sheet.png", "out.npy", "out.csv",
    "out.parquet", "out.onnx", "out.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(server, photos, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "run"
    server.run([*TRAIN, *photos, "--out", str(out)])
    return out


@pytest.fixture
def home(photos, tmp_path):
    """A folder with a user's files of all sorts, a table among them."""
    folder = tmp_path / "home"
    for name in USERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
    images = sorted(Path(photos[1]).glob("*/*.png"))
    rows = [f"{path},{path.parent.name},checked" for path in images[::6]]
    (folder / "list.csv").write_text("\n".join(["path,label,remark", *rows]) + "\n")
    (folder / "link.npy").symlink_to(folder / "thesis" / "chapter.part")
    return folder


def commands(run, photos, home):
    """Every command that writes, asked to write where a user's files are."""
    embed = ["embed", "--run", str(run), "--data"]
    return [
        [*TRAIN, *photos, "--out", str(home)],
        [*TRAIN, *photos, "--out", str(home / "runs")],
        [*COMPARE, *photos, "--out", str(home)],
        ["scenes", "--count", "2", "--out", str(home)],
        ["data", photos[1], "--sheet", str(home / "photos-sheet.png")],
        [*embed, str(home / "list.csv"), "--out", str(home / "list.npy")],
        [*embed, str(home / "list.csv"), "--out", str(home / "out.npy")],
        [*embed, photos[1], "--out", str(home / "out.parquet")],
        [*embed, photos[1], "--out", str(home / "link.npy")],
        ["export", "--run", str(run), "--out", str(home / "out.onnx")],
        ["export", "--run", str(run), "--out", str(home / "out.safetensors")],
        ["export", "--run", str(run), "--out", str(run / "net.safetensors")],
    ]


def content(folder):
    """Every file's bytes by name."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("k", [0, 2, 4, 5, *(pytest.param(k, marks=many) for k in (1, 3, 6, 7, 8, 9, 10, 11))])
def test_no_command_replaces_or_deletes_a_users_file(server, photos, run, home, k):
    before = {**content(home), **content(run)}
    refusal = server.refused(commands(run, photos, home)[k])
    assert {**content(home), **content(run)} == before
    assert str(home) in refusal or str(run) in refusal


@pytest.mark.parametrize("words", [TRAIN, COMPARE], ids=["train", "compare"])
def test_files_that_a_user_adds_to_an_output_folder_stay(server, photos, tmp_path, words):
    out = tmp_path / "out"
    server.run([*words, *photos, "--out", str(out)])
    for name in ("notes.part", ".thesis.1.part.txt", "sub/film.part", ".lock"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    server.run([*words, *photos, "--out", str(out)])
    assert all((out / name).read_text() == "mine" for name in ("notes.part", ".thesis.1.part.txt", "sub/film.part"))


# What can happen to a user's images between two calls.


def repaint(path: Path) -> None:
    """Other pixels under the same name, size and time of change."""
    status, pixels = path.stat(), np.asarray(Image.open(path))
    Image.fromarray(255 - pixels).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "other pixels": repaint,
    "gone": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name(f"new-{path.name}")),
    "another class": lambda path: path.rename(next(f for f in path.parents[1].iterdir() if f != path.parent) / "x.png"),
    "one more": lambda path: shutil.copy(path, path.with_name(f"copy-{path.name}")),
}


@pytest.fixture
def world(tmp_path):
    """The same images as a folder, behind a link, and as a table."""
    make_photos(tmp_path / "photos")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    images = sorted((tmp_path / "photos").glob("*/*.png"))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in images]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return tmp_path


def figures(out):
    """What the only run of a comparison found."""
    return [run["metrics"] for row in json.loads((out / "results.json").read_text())["methods"] for run in row["runs"]]


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=() if name == "other pixels" else many) for name in CHANGES]
)
@pytest.mark.parametrize("data", ["photos", pytest.param("linked", marks=many), pytest.param("list.csv", marks=many)])
def test_a_result_belongs_to_the_files_that_it_was_computed_on(server, world, data, change):
    """A second call on changed files finds what a first call on them finds; a training does not go on with them."""
    draw = random.Random(0)
    command = [*COMPARE, "--data", str(world / data)]
    train = [*TRAIN, "--data", str(world / data), "--out", str(world / "train")]
    server.run([*command, "--out", str(world / "out")])
    server.run(train)
    for path in draw.sample(sorted((world / "photos").glob("*/*.png")), 12):
        CHANGES[change](path)
    server.run([*command, "--out", str(world / "out")])
    server.run([*command, "--out", str(world / "fresh")])
    assert figures(world / "out") == figures(world / "fresh")
    if data != "list.csv" or change in ("other pixels", "gone", "renamed", "another class"):
        assert len(list((world / "out" / "runs").iterdir())) == 2
        assert "is not as it was when the run" in server.refused(train)
