"""Disks that are full, read-only or gone, and damaged files: named, nothing lost, nothing half-written."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from faults.commands import Disk, Work, alive, can_mount

pytestmark = pytest.mark.slow

EPOCHS = 2
OPTIONS = ["--batch-size", "16", "--device", "cpu", "--epochs", str(EPOCHS)]
TRAIN = ["train", "--method", "simclr", "--quiet", *OPTIONS]
COMPARE = ["compare", "--methods", "simclr,dcl", "--seeds", "1", "--no-references", *OPTIONS]

many = pytest.mark.faults
mounts = pytest.mark.skipif(not can_mount(), reason="needs unshare, and a system that lets users mount for themselves")


@pytest.fixture(scope="module")
def whole(server, photos, tmp_path_factory):
    """A run and a comparison that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    server.run([*TRAIN, *photos, "--out", str(folder / "train")])
    server.run([*COMPARE, *photos, "--out", str(folder / "compare")])
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A finished run, to be damaged."""
    return shutil.copytree(whole / "train", tmp_path / "run")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    found = Disk(tmp_path_factory.mktemp("disk"), "16m", tmp_path_factory.mktemp("log") / "log")
    yield found
    found.server.close()


@pytest.fixture
def empty(disk):
    """The disk, empty."""
    disk.remount("rw,size=16m")
    for path in disk.seen.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return disk


@mounts
@pytest.mark.parametrize(
    ("words", "size"),
    [
        (TRAIN, "2m"),
        *(pytest.param(TRAIN, size, marks=many) for size in ("4k", "256k", "5m")),
        *(pytest.param(COMPARE, size, marks=many) for size in ("4k", "2m", "5m", "9m")),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_a_full_disk_is_reported_and_the_same_command_goes_on_when_there_is_room(empty, photos, whole, words, size):
    work = Work(empty.seen / "out", 1 if words is TRAIN else 2, EPOCHS)
    command = [*words, *photos, "--out", str(empty.at / "out")]
    empty.remount(f"size={size}")
    refusal = empty.server.refused(command)
    assert refusal.startswith(f"counterpoise: {empty.at}/out")
    assert "No space left on device" in refusal
    work.check()
    before = work.finished()
    empty.remount("size=64m")
    empty.server.run(command)
    assert not work.left_over()
    assert {path: work.finished()[path] for path in before} == before
    assert work.outcome() == Work(whole / words[0], 0, EPOCHS).outcome()


def writers(run, photos, folder):
    """The commands that write one file, and that file."""
    return {
        "embed": (["embed", "--run", str(run), *photos, "--out", str(folder / "e.parquet")], "e.parquet"),
        "embed as NPY": (["embed", "--run", str(run), *photos, "--out", str(folder / "e.npy")], "e.npy"),
        "export": (["export", "--run", str(run), "--out", str(folder / "e.safetensors")], "e.safetensors"),
        "export as ONNX": (["export", "--run", str(run), "--out", str(folder / "e.onnx")], "e.onnx"),
        "data": (["data", photos[1], "--sheet", str(folder / "sheet.png")], "sheet.png"),
    }


@many
@mounts
@pytest.mark.parametrize("options", ["size=4k", "ro"])
@pytest.mark.parametrize("name", writers("", ["", ""], Path()))
def test_a_file_that_cannot_be_written_is_named(empty, whole, photos, name, options):
    words, file = writers(whole / "train", photos, empty.at)[name]
    empty.remount(options)
    refusal = empty.server.refused(words)
    assert refusal.startswith(f"counterpoise: {empty.at}")
    if options == "ro":
        assert "not writable" in refusal
    else:
        assert f"/{file}: cannot be written (No space left on device)" in refusal
    assert not list(empty.seen.iterdir())
    empty.remount("rw,size=64m")
    empty.server.run(words)
    assert (empty.seen / file).stat().st_size


@mounts
@pytest.mark.parametrize("words", [TRAIN, COMPARE], ids=["train", "compare"])
def test_a_read_only_folder_is_reported_before_anything_runs(empty, photos, words):
    empty.remount("ro")
    refusal = empty.server.refused([*words, *photos, "--out", str(empty.at / "out")])
    assert refusal == f"counterpoise: {empty.at / 'out'}: cannot be made (Read-only file system)"
    refusal = empty.server.refused([*words, *photos, "--out", str(empty.at)])
    assert refusal == f"counterpoise: {empty.at}: is not writable"


@pytest.mark.parametrize("words", [TRAIN, COMPARE], ids=["train", "compare"])
def test_a_file_in_the_place_of_the_folder(server, photos, tmp_path, words):
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        refusal = server.refused([*words, *photos, "--out", str(tmp_path / out)])
        assert refusal == f"counterpoise: {tmp_path / out}: is a file, expected a folder"
    assert (tmp_path / "file").read_text() == "mine"


@many
@pytest.mark.parametrize("words", [TRAIN, COMPARE], ids=["train", "compare"])
def test_a_folder_that_vanishes(server, photos, tmp_path, words):
    """Whatever comes of the first call, it is no traceback; a second one ends well once what was left is deleted.

    What is left may have lost its mark, and then nobody can say whose it is.
    """
    work = Work(tmp_path / "out", 1 if words is TRAIN else 2, EPOCHS)
    command = [*words, *photos, "--out", str(work.out)]
    log = tmp_path / "log"
    pid = server.start(command, log)
    while alive(pid) and not list(work.out.rglob("curve.csv")):
        time.sleep(0.002)
    shutil.rmtree(work.out, ignore_errors=True)
    status = server.wait(pid)
    refusal = log.read_text()
    assert status in (0, 1, 2), refusal
    assert "Traceback" not in refusal
    assert str(work.out) in refusal
    shutil.rmtree(work.out, ignore_errors=True)
    server.run(command)
    work.check()
    assert len(work.folders()) == len(work.finished()) == work.runs


LENGTHS = {"nothing": 0, "one byte": 1, "half": 0.5, "all but a byte": -1}


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0, marks=many),
        pytest.param(1, marks=many),
        0.5,
        pytest.param(-1, marks=many),
    ],
)
def test_a_truncated_checkpoint_is_refused_by_name(server, photos, run, length):
    (run / "result.json").unlink()
    whole = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(whole[: int(length * len(whole)) if length == 0.5 else length])
    command = [*TRAIN, *photos, "--out", str(run)]
    refusal = server.refused(command)
    assert f"{run / 'last.ckpt'}: not a whole checkpoint" in refusal
    (run / "last.ckpt").unlink()
    server.run(command)


@many
def test_a_checkpoint_of_garbage_is_refused_by_name(server, photos, run):
    (run / "result.json").unlink()
    draw = np.random.default_rng(0)
    for length in (1, 100, 100_000):
        (run / "last.ckpt").write_bytes(draw.bytes(length))
        assert f"{run / 'last.ckpt'}: not a whole" in server.refused([*TRAIN, *photos, "--out", str(run)])


DAMAGES = {"empty": "", "half": '{"seed": 0, "sta', "list": "[]", "other": "{}", "deep": "[" * 100_000}


@many
@pytest.mark.parametrize("name", ["result.json", "config.json"])
@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_damaged_json_is_refused_by_name_with_what_to_delete(server, photos, whole, run, name, content):
    (run / name).write_text(content)
    command = [*TRAIN, *photos, "--out", str(run)]
    refusal = server.refused(command)
    assert refusal.startswith(f"counterpoise: {run / name}: ")
    delete = run / name if name == "result.json" else run
    assert f"; delete {delete}" in refusal
    shutil.rmtree(delete) if delete.is_dir() else delete.unlink()
    server.run(command)
    assert Work(run, 1, EPOCHS).outcome() == Work(whole / "train", 1, EPOCHS).outcome()


@many
def test_damaged_json_in_a_comparison_costs_its_run_alone(server, photos, whole, tmp_path):
    out = shutil.copytree(whole / "compare", tmp_path / "out")
    damaged, sound = sorted(out.glob("runs/*/result.json"))
    before = sound.read_bytes()
    damaged.write_text("{")
    log = tmp_path / "log"
    assert server.wait(server.start([*COMPARE, *photos, "--out", str(out)], log)) == 1
    assert f"{damaged}: malformed JSON" in log.read_text().replace("\n", "")
    assert sound.read_bytes() == before
    damaged.unlink()
    server.run([*COMPARE, *photos, "--out", str(out)])
    assert Work(out, 2, EPOCHS).outcome() == Work(whole / "compare", 2, EPOCHS).outcome()
    assert not list(out.rglob("error.txt"))


@many
@pytest.mark.parametrize("name", ["curve.csv", "gallery.npz", "net.safetensors"])
def test_what_is_missing_is_written_again(server, photos, run, name):
    (run / "result.json").unlink()
    (run / name).unlink()
    server.run([*TRAIN, *photos, "--out", str(run)])
    assert Work(run, 1, EPOCHS).finished()
    assert name == "curve.csv" or (run / name).exists()


@many
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no arrays")])
def test_a_report_without_a_run_s_pictures(server, photos, whole, tmp_path, damage):
    out = shutil.copytree(whole / "compare", tmp_path / "out")
    for path in out.rglob("gallery.npz"):
        damage(path)
    server.run([*COMPARE, *photos, "--out", str(out)])
    assert (out / "report.html").exists()


@many
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_truncated_weights_are_refused_by_name(server, photos, run, length, tmp_path):
    path = run / "net.safetensors"
    assert load_file(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole)) if length == 0.5 else length])
    for words, _ in writers(run, photos, tmp_path).values():
        if words[0] != "data":
            assert f"{path}: damaged or missing" in server.refused(words)
