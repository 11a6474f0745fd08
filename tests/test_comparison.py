import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from PIL import Image
from rich.console import Console

import counterpoise
from counterpoise import comparison
from counterpoise.comparison import Arm, choose_baseline, command_line, differences, parse_arms, run_folder, table
from counterpoise.contrast.dcl import DCL
from counterpoise.errors import InputError
from counterpoise.fitting import read_checkpoint
from counterpoise.tasks import retrieve
from counterpoise.tasks.pretrain import METRICS
from counterpoise.tasks.runs import Run, Settings

QUICK = {"epochs": 1, "batch_size": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of PNG files: three classes with names beyond ASCII, two sizes, colour and grey, and one broken file."""
    folder = tmp_path_factory.mktemp("photos")
    rng = torch.Generator().manual_seed(0)
    for y, name in enumerate(["rouge", "vert", "été"]):
        (folder / name).mkdir()
        for i in range(30):
            side = 24 if i % 2 else 20
            pixels = torch.randint(0, 90, (side, side, 3), generator=rng, dtype=torch.uint8)
            pixels[..., y] += 150
            image = Image.fromarray(pixels.numpy())
            (image.convert("L") if i == 3 else image).save(folder / name / f"{i:02}.png")
    (folder / "vert" / "broken.png").write_bytes(b"no image")
    return folder


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
        (["simclr", "simclr"], "'simclr' is named more than once"),
        (["simclt"], "did you mean 'simclr'"),
        (["dcl:temperature"], "expected slug:name=value"),
        (["dcl:temprature=1"], "argument of dcl 'temprature' is not known; did you mean 'temperature'"),
        (["dcl:temperature=warm"], "temperature: expected a number, got 'warm'"),
        (["dcl:temperature=1e999"], "temperature: expected a finite number, got '1e999'"),
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


def test_the_command_says_all_that_is_not_default(tmp_path):
    settings = Settings(epochs=3, download=True)
    line = command_line(
        [Arm("simclr", "simclr")], "a b", "pretrain", ["long-tail=5"], 2, "simclr", 1, None, tmp_path, settings
    )
    assert line == (
        "counterpoise compare --task pretrain --data 'a b' --imperfect long-tail=5 --methods simclr --baseline simclr "
        f"--seeds 2 --epochs 3 --download --jobs 1 --out {tmp_path}"
    )


def test_differences_are_paired_by_seed():
    mine = [{"seed": s, "status": "done", "metrics": {"knn": 0.5 + s + d}} for s, d in ((0, 0.1), (1, 0.2), (2, 0.3))]
    base = [{"seed": s, "status": "done", "metrics": {"knn": 0.5 + s}} for s in (0, 1)] + [
        {"seed": 2, "status": "failed"}
    ]
    found = differences(mine, base)["knn"]
    assert found["n"] == 2
    assert found["mean"] == pytest.approx(0.15)


def test_whatever_decides_a_run_decides_its_folder(tmp_path):
    run = Run("simclr", "digits")
    others = [
        Run("dcl", "digits"),
        Run("simclr", "mnist"),
        Run("simclr", "digits", seed=1),
        Run("simclr", "digits", arguments={"temperature": 0.2}),
        Run("simclr", "digits", imperfect=("noise=0.1",)),
        Run("simclr", "digits", settings=Settings(epochs=3)),
    ]
    folders = {run_folder(r, tmp_path) for r in [run, *others]}
    assert len(folders) == 7
    assert run_folder(Run("simclr", "digits"), tmp_path) in folders


@pytest.mark.parametrize(
    ("task", "data", "method", "main"),
    [
        ("retrieve", "digits", "multi-similarity", "recall_1"),
        ("few-shot", "digits", "protonet", "five_shot"),
        ("regress", "diabetes", "regression", "mae"),
        pytest.param("compose", "glyphs:script=greek", "composed-retrieval", "recall_1", marks=pytest.mark.slow),
    ],
)
def test_tasks_of_the_metric_room_are_compared_like_any(task, data, method, main, tmp_path):
    found = counterpoise.compare([method], data, task=task, seeds=1, out=str(tmp_path), **QUICK)
    (row,) = found["methods"]
    assert row["runs"][0]["status"] == "done"
    assert found["main"] == main
    assert row["summary"][main]["mean"] >= 0
    assert f"--task {task}" in found["command"]
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_changed_files_change_the_folder(photos, tmp_path):
    first = run_folder(Run("simclr", str(photos)), tmp_path)
    os.utime(photos / "rouge" / "00.png", (1, 1))
    assert run_folder(Run("simclr", str(photos)), tmp_path) != first


@pytest.mark.slow
def test_a_folder_of_png_files(photos, tmp_path, capsys):
    out = tmp_path / "out"
    results = counterpoise.compare(["simclr", "dcl"], str(photos), seeds=2, out=str(out), **QUICK)
    told = capsys.readouterr().out
    assert "report:" in told
    assert "dcl" in told
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["data"]["classes"] == ["rouge", "vert", "été"]
    assert any("broken.png" in w for row in results["methods"] for run in row["runs"] for w in run["warnings"])
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(r["label"], r["seed"], r["status"]) for r in rows] == [
        ("simclr", "0", "done"), ("simclr", "1", "done"), ("dcl", "0", "done"), ("dcl", "1", "done"),
    ]  # fmt: skip
    dcl = results["methods"][1]
    mine, base = ([float(r["knn"]) for r in rows if r["label"] == label] for label in ("dcl", "simclr"))
    assert dcl["difference"]["knn"]["mean"] == pytest.approx(sum(a - b for a, b in zip(mine, base, strict=True)) / 2)
    assert "été" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("slug", "marked"), [("supcon", True), ("dcl", False)])
def test_the_table_marks_what_reads_the_labels(slug, marked):
    row = {"label": slug, "labels": marked, "runs": [], "summary": {}, "difference": None}
    content = {"task": "pretrain", "data": {"name": "digits"}, "main": "knn", "baseline": slug, "methods": [row]}
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table({**content, "metrics": {name: {"percent": True} for name in METRICS}}))
    assert (f"{slug}*" in captured.get()) == marked
    assert ("* reads the labels" in captured.get()) == marked


def test_the_table_shows_three_figures_of_a_small_measure():
    found = {"mean": 0.0021, "low": 0.0015, "high": 0.0027, "n": 3}
    certain = {"mean": 0.0004, "low": 0.0001, "high": 0.0007, "n": 3}
    summary = dict.fromkeys(retrieve.SHOWN, found)
    base = {"label": "tcm", "labels": True, "runs": [], "summary": summary, "difference": None}
    other = {**base, "label": "simclr", "labels": False, "difference": {"recall_1": certain}}
    metrics = {name: asdict(metric) for name, metric in retrieve.METRICS.items()}
    content = {"task": "retrieve", "data": {"name": "digits"}, "main": "recall_1", "baseline": "tcm"}
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table({**content, "methods": [base, other], "metrics": metrics}))
    assert captured.get().count("0.0021 ± 0.0006") == 2  # OPIS, which is no share
    assert captured.get().count("0.2 ± 0.1") == 6
    assert "+0.04 [+0.01, +0.07]" in captured.get()


@pytest.mark.slow
def test_a_failing_method_has_its_row_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(self, images, labels, index):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DCL, "loss", broken)
    results = counterpoise.compare(["dcl", "simclr"], "digits", seeds=1, out=str(tmp_path), **QUICK)
    dcl, simclr = results["methods"]
    assert dcl["runs"][0] == {"seed": 0, "status": "failed", "error": "RuntimeError: out of luck"}
    assert simclr["runs"][0]["status"] == "done"
    assert "out of luck" in capsys.readouterr().out
    assert "out of luck" in (tmp_path / "report.html").read_text(encoding="utf-8")
    monkeypatch.undo()
    again = counterpoise.compare(["dcl", "simclr"], "digits", seeds=1, out=str(tmp_path), quiet=True, **QUICK)
    assert [row["runs"][0]["status"] for row in again["methods"]] == ["done", "done"]
    assert again["methods"][1]["runs"] == results["methods"][1]["runs"]


def test_a_comparison_in_which_everything_fails_still_reports(tmp_path, monkeypatch, capsys):
    def broken(self, images, labels, index):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DCL, "loss", broken)
    results = counterpoise.compare(["dcl"], "digits", seeds=2, out=str(tmp_path), **QUICK)
    assert [run["status"] for run in results["methods"][0]["runs"]] == ["failed"] * 2
    assert results["data"]["shape"] == [1, 8, 8]
    assert "out of luck" in capsys.readouterr().out
    assert "out of luck" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_jobs_survive_a_process_that_dies(tmp_path, monkeypatch):
    """In worker processes a method kills its process; its rows fail, the other method's are as without it."""
    monkeypatch.setattr(comparison, "_attempt", _attempt_or_die)
    results = counterpoise.compare(
        ["dcl", "simclr"], "digits", seeds=2, jobs=2, out=str(tmp_path / "o"), quiet=True, **QUICK
    )
    dcl, simclr = results["methods"]
    assert [run["error"] for run in dcl["runs"]] == ["its process died"] * 2
    assert [run["status"] for run in simclr["runs"]] == ["done"] * 2


def _attempt_or_die(run, folder, callbacks=()):
    if run.method == "dcl":
        os.kill(os.getpid(), signal.SIGKILL)
    return comparison_attempt(run, folder, callbacks)


comparison_attempt = comparison._attempt


def results_without_clock(folder):
    content = json.loads((folder / "results.json").read_text())
    kept = []
    for row in content["methods"]:
        for run in row["runs"]:
            curve = [{k: v for k, v in point.items() if k != "seconds"} for point in run["curve"]]
            kept.append((row["label"], run["seed"], run["metrics"], run["per_class"], curve))
    return kept


@pytest.mark.slow
def test_kill_9_loses_nothing_but_the_running_run(tmp_path):
    command = [
        sys.executable, "-m", "counterpoise.cli", "compare", "--methods", "simclr,dcl", "--data", "digits",
        "--seeds", "2", "--epochs", "3", "--batch-size", "64", "--device", "cpu",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    kills = 0
    for wanted in (1, 2):  # once before the first result, once after some
        process = subprocess.Popen([*command, "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(cut.glob("runs/*/last.ckpt"))) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    done = {p: p.stat().st_mtime_ns for p in cut.glob("runs/*/result.json")}
    subprocess.run([*command, "--out", str(cut)], check=True, capture_output=True)
    assert results_without_clock(cut) == results_without_clock(whole)
    assert all(p.stat().st_mtime_ns == then for p, then in done.items())
    assert not list(cut.rglob("*.part*"))


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_stops_at_once_and_the_same_command_goes_on(tmp_path, jobs):
    command = [
        sys.executable, "-m", "counterpoise.cli", "compare", "--methods", "simclr,dcl", "--data", "digits",
        "--seeds", "1", "--epochs", "15", "--batch-size", "64", "--device", "cpu", "--jobs", jobs,
        "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("runs/*/last.ckpt")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    told = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "the same command goes on from here" in told
    assert "Traceback" not in told
    # A row may have been written whose checkpoint was not yet.
    rows = {
        path.parent: len(read_checkpoint(path)["callbacks"]["History"]["rows"])
        for path in tmp_path.glob("runs/*/last.ckpt")
    }
    curves = {folder: (folder / "curve.csv").read_text().splitlines()[: 1 + rows[folder]] for folder in rows}
    assert all(len(lines) > 1 for lines in curves.values())
    assert curves
    assert not list(tmp_path.glob("runs/*/result.json"))
    subprocess.run(command, check=True, capture_output=True)
    for folder, before in curves.items():
        assert (folder / "curve.csv").read_text().splitlines()[: len(before)] == before
        assert (folder / "result.json").exists()


def test_two_comparisons_in_one_folder_are_refused(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another comparison is running there"):
        counterpoise.compare(["simclr"], "digits", seeds=1, out=str(tmp_path), quiet=True, **QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: expected a number of at least 1"),
        ({"jobs": 0}, "jobs: expected a number of at least 1"),
        ({"task": "pretrian"}, "did you mean 'pretrain'"),
        ({"epoch": 3}, "setting 'epoch' is not known; did you mean 'epochs'"),
        ({"data": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(changes, message, tmp_path):
    given = {"data": "digits", "out": str(tmp_path / "o"), "quiet": True, **changes}
    with pytest.raises(InputError, match=message):
        counterpoise.compare(["simclr"], **given)
    assert not list(tmp_path.iterdir())
