import csv
import json
import os
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import counterpoise
from counterpoise import training
from counterpoise.commands import compare
from counterpoise.commands.arms import Arm, Rows, parse_arms
from counterpoise.commands.compare import command_line, make_runs, table, write_csv
from counterpoise.commands.evidence import summarise
from counterpoise.contrast.dcl import DCL
from counterpoise.engine import execute, pool
from counterpoise.engine.pool import run_folder
from counterpoise.errors import InputError
from counterpoise.files import LOCK
from counterpoise.report import answer
from counterpoise.tasks import classify, pretrain, retrieve
from counterpoise.training.run import ImageSettings, Metric, Run

QUICK = {"epochs": 1, "batch_size": 64, "device": "cpu"}


@pytest.fixture
def photos(tmp_path):
    """A folder of PNG files: three classes with names beyond ASCII, two sizes, colour and grey, and one broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
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


def test_the_command_says_all_that_is_not_default(tmp_path):
    settings = ImageSettings(epochs=3, download=True)
    line = command_line(
        [Arm("simclr", "simclr")], "a b", "pretrain", ["long-tail=5"], 2, "simclr", 1, None, tmp_path, settings
    )
    assert line == (
        "counterpoise compare --task pretrain --data 'a b' --imperfect long-tail=5 --methods simclr --baseline simclr "
        f"--seeds 2 --epochs 3 --download --jobs 1 --out {tmp_path}"
    )


def test_whatever_decides_a_run_decides_its_folder(tmp_path):
    run = Run("simclr", "digits")
    others = [
        Run("dcl", "digits"),
        Run("simclr", "mnist"),
        Run("simclr", "digits", seed=1),
        Run("simclr", "digits", arguments={"temperature": 0.2}),
        Run("simclr", "digits", imperfect=("noise=0.1",)),
        Run("simclr", "digits", settings=ImageSettings(epochs=3)),
    ]
    folders = {run_folder(r, tmp_path) for r in [run, *others]}
    assert len(folders) == 7
    assert run_folder(Run("simclr", "digits"), tmp_path) in folders


@pytest.mark.parametrize(
    ("task", "data", "method", "main"),
    [
        ("classify", "digits", "cross-entropy", "balanced"),
        pytest.param("retrieve", "digits", "multi-similarity", "recall_1", marks=pytest.mark.slow),
        pytest.param("few-shot", "digits", "protonet", "five_shot", marks=pytest.mark.slow),
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


def test_files_are_looked_at_once_for_all_runs_of_a_comparison(photos, tmp_path, monkeypatch):
    looked = []
    for module in (compare, training.run):
        for name in ("data_state", "other_state"):
            own = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *given, name=name, own=own: looked.append(name) or own(*given))
    (tmp_path / "w.pt").write_bytes(b"x")
    settings = ImageSettings(init=str(tmp_path / "w.pt"))
    runs = make_runs(parse_arms(["simclr", "dcl"]), str(photos), "pretrain", (), 2, settings)
    assert list(runs) == [("simclr", 0), ("dcl", 0), ("simclr", 1), ("dcl", 1)]
    assert sorted(looked) == ["data_state", "other_state"]
    assert runs["dcl", 1] == Run("dcl", str(photos), 1, settings=settings)


def test_changed_files_change_the_folder(photos, tmp_path):
    first = run_folder(Run("simclr", str(photos)), tmp_path)
    os.utime(photos / "rouge" / "00.png", (1, 1))
    assert run_folder(Run("simclr", str(photos)), tmp_path) != first


@pytest.mark.slow
def test_a_second_call_in_one_process_sees_the_files_as_they_are(photos, tmp_path):
    """The same times and sizes, other pixels: as a program leaves them that sets the times back."""
    given = {"seeds": 1, "out": str(tmp_path / "o"), "quiet": True, **QUICK}
    first = counterpoise.compare(["simclr"], str(photos), **given)
    for path in photos.glob("*/0*.png"):
        before = path.stat()
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = counterpoise.compare(["simclr"], str(photos), **given)
    fresh = counterpoise.compare(["simclr"], str(photos), **{**given, "out": str(tmp_path / "fresh")})
    metrics = [found["methods"][0]["runs"][0]["metrics"] for found in (first, second, fresh)]
    assert metrics[1] == metrics[2]
    assert metrics[0] != metrics[1]


def test_files_that_change_while_the_command_runs_make_no_result(photos, tmp_path):
    run = Run("simclr", str(photos), settings=ImageSettings(epochs=1, batch_size=8))
    os.utime(photos / "rouge" / "00.png", (1, 1))
    with pytest.raises(InputError, match=r"changed while the command ran \(last: .*00.png\)"):
        pretrain.TASK.load(run)


def test_what_a_user_has_in_the_output_folder_stays(tmp_path):
    (tmp_path / "results.csv").write_text("my,own")
    (tmp_path / "chapter.part").write_text("text")
    with pytest.raises(InputError, match=r"holds what counterpoise did not write \(chapter.part, results.csv\)"):
        counterpoise.compare(["simclr"], "digits", seeds=1, out=str(tmp_path), quiet=True, **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chapter.part", "results.csv"]


@pytest.mark.slow
def test_results_that_a_user_changed_or_of_other_data_are_not_replaced(tmp_path):
    given = {"seeds": 1, "out": str(tmp_path), "quiet": True, **QUICK}
    counterpoise.compare(["simclr"], "digits", **given)
    again = counterpoise.compare(["simclr", "dcl"], "digits", **given)
    assert len(again["methods"]) == 2
    with pytest.raises(InputError, match="holds the comparison of pretrain on digits; choose another folder"):
        counterpoise.compare(["simclr"], "mnist", **given)
    with (tmp_path / "results.csv").open("a") as file:
        file.write("a line of mine\n")
    with pytest.raises(InputError, match=r"results.csv: is there, and was not written by counterpoise or was changed"):
        counterpoise.compare(["simclr"], "digits", **given)


@pytest.mark.slow
def test_a_folder_of_png_files(photos, tmp_path, capsys):
    out = tmp_path / "out"
    results = counterpoise.compare(["simclr", "dcl"], str(photos), seeds=2, out=str(out), **QUICK)
    printed = capsys.readouterr().out
    assert "report:" in printed
    assert "dcl" in printed
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["data"]["classes"] == ["rouge", "vert", "été"]
    assert any("broken.png" in w for row in results["methods"] for run in row["runs"] for w in run["warnings"])
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(r["label"], r["seed"], r["status"]) for r in rows] == [
        (label, seed, "done") for label in ("simclr", "dcl", "raw inputs", "untrained encoder") for seed in "01"
    ]
    dcl = results["methods"][1]
    mine, base = ([float(r["knn"]) for r in rows if r["label"] == label] for label in ("dcl", "simclr"))
    assert dcl["difference"]["knn"]["mean"] == pytest.approx(sum(a - b for a, b in zip(mine, base, strict=True)) / 2)
    assert "été" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("slug", "marked"), [("supcon", True), ("dcl", False)])
def test_the_table_marks_what_reads_the_labels(slug, marked):
    row = {"label": slug, "labels": marked, "runs": [], "summary": {}, "difference": None}
    content = {
        **pretrain.TASK.declared(ImageSettings()),
        "data": {"name": "digits"},
        "baseline": slug,
        "methods": [row],
    }
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(content))
    assert (f"{slug}*" in captured.get()) == marked
    assert ("* reads the labels" in " ".join(captured.get().split())) == marked


def test_the_table_shows_three_figures_of_a_small_measure():
    found = {"mean": 0.0021, "low": 0.0015, "high": 0.0027, "n": 3}
    certain = {"mean": 0.0004, "low": 0.0001, "high": 0.0007, "n": 3}
    summary = dict.fromkeys(retrieve.TASK.shown, found)
    base = {"label": "tcm", "labels": True, "runs": [], "summary": summary, "difference": None}
    other = {**base, "label": "simclr", "labels": False, "difference": {"recall_1": certain}}
    content = {**retrieve.TASK.declared(ImageSettings()), "data": {"name": "digits"}, "baseline": "tcm"}
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table({**content, "methods": [base, other]}))
    assert captured.get().count("0.0021 ± 0.0006") == 2  # OPIS, which is no share
    assert captured.get().count("0.2 ± 0.1") == 6
    assert "+0.04 [+0.01, +0.07]" in captured.get()


def test_the_table_has_no_column_that_no_run_has_a_figure_for():
    found = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    summary = {"balanced": found, "accuracy": found}
    rows = [{"label": name, "labels": True, "runs": [], "summary": summary, "difference": None} for name in "ab"]
    content = {**classify.TASK.declared(ImageSettings()), "data": {"name": "digits"}, "baseline": "a"}

    def shown(rows):
        console = Console(width=200)
        with console.capture() as captured:
            console.print(table({**content, "methods": rows}))
        return captured.get()

    assert "NLL" not in shown(rows)
    assert "NLL" in shown([rows[0], {**rows[1], "summary": {**summary, "nll": found}}])
    assert "balanced" in shown([{**row, "summary": {}} for row in rows])  # the main one, where nothing was measured


def tabled(label, name, width, failed=()):
    runs = [{"seed": seed, "status": "failed", "error": error} for seed, error in enumerate(failed)]
    row = {"label": label, "labels": True, "runs": runs, "summary": {}, "difference": None}
    content = {**pretrain.TASK.declared(ImageSettings()), "data": {"name": name}, "baseline": label, "methods": [row]}
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table(content))
    return captured.get()


@pytest.mark.parametrize("width", [60, 200])
def test_names_stand_whole_and_harmless_in_the_table(width):
    label = "dcl:temperature=0.23333[/bold]\x1b[31m\nred"
    printed = tabled(label, "photos[/x]\x1b]0;title\x07", width, failed=["x"])
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert r"pretrain on photos[/x]\x1b]0;title\x07" in " ".join(printed.split())
    first = "".join(line.partition("—")[0] for line in printed.splitlines()[3:])
    assert r"dcl:temperature=0.23333[/bold]\x1b[31m\nred*(1of1failed)" in "".join(first.split())
    assert "…" not in printed


def test_rows_of_the_csv_file_hold_labels_as_they_are(tmp_path):
    labels = ["=1+1", "@a,b", 'quote"s\nand lines', "-x"]
    run = {"seed": 0, "status": "failed", "error": "one\ntwo"}
    write_csv(tmp_path / "a.csv", {"metrics": {}, "methods": [{"label": label, "runs": [run]} for label in labels]})
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    assert [row["label"] for row in rows] == labels
    assert {row["error"] for row in rows} == {"one\ntwo"}


@pytest.mark.slow
def test_a_data_folder_with_brackets_and_escapes_is_compared_and_shown_harmless(tmp_path, capsys):
    data = tmp_path / "[/bold]x\x1b[31m[red]\ny"
    draw = torch.Generator().manual_seed(0)
    for name in ("[a]", "b\x1b[2J"):
        (data / name).mkdir(parents=True)
        for i in range(8):
            pixels = torch.randint(0, 256, (16, 16), generator=draw, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(data / name / f"{i}.png")
    options = {"seeds": 1, "epochs": 1, "batch_size": 4, "device": "cpu", "out": tmp_path / "[out]\n"}
    counterpoise.compare(["simclr", "dcl:temperature=0.5"], data, **options)
    printed = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert r"[/bold]x\x1b[31m[red]\ny" in printed
    assert printed.endswith("[out]\\n/report.html\n")


def stopping_at(run_number):
    """`execute_run`, but Ctrl-C comes in its place at one of its calls."""
    calls = []

    def execute_run(*given, **options):
        calls.append(given)
        if len(calls) == run_number:
            raise KeyboardInterrupt
        return execute.execute_run(*given, **options)

    return execute_run


@pytest.mark.slow
def test_what_is_done_at_a_stop_is_reported_as_incomplete_and_the_next_call_goes_on(tmp_path, monkeypatch, capsys):
    methods = ["simclr", "dcl", "moco"]
    out = {"out": str(tmp_path), "seeds": 1, "references": False, **QUICK}
    with monkeypatch.context() as patch:
        patch.setattr(pool, "execute_run", stopping_at(3))
        with pytest.raises(KeyboardInterrupt):
            counterpoise.compare(methods, "digits", **out)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["incomplete"] == "Incomplete: stopped when 2 of 3 runs were done."
    assert [row["runs"][0]["status"] for row in content["methods"]] == ["done", "done", "stopped"]
    assert content["incomplete"] in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert content["incomplete"] in page
    assert "Stopped, seed 0:" in page
    with monkeypatch.context() as patch:  # a run that an earlier call has done is done, whether it was reached or not
        patch.setattr(pool, "execute_run", stopping_at(1))
        with pytest.raises(KeyboardInterrupt):
            counterpoise.compare(methods, "digits", **out)
    assert json.loads((tmp_path / "results.json").read_text())["methods"] == content["methods"]
    whole = counterpoise.compare(methods, "digits", **out)
    assert whole["incomplete"] is None
    assert whole["methods"][:2] == [{**row, "difference": row["difference"]} for row in content["methods"][:2]]
    assert "Incomplete" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_stop_before_any_run_is_done_leaves_no_report(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "execute_run", stopping_at(1))
    with pytest.raises(KeyboardInterrupt):
        counterpoise.compare(["simclr"], "digits", out=str(tmp_path), seeds=1, quiet=True, **QUICK)
    assert not (tmp_path / "results.json").exists()


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


@pytest.mark.slow
def test_a_comparison_in_which_everything_fails_still_reports(tmp_path, monkeypatch, capsys):
    def broken(self, images, labels, index):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DCL, "loss", broken)
    results = counterpoise.compare(["dcl"], "digits", seeds=2, out=str(tmp_path), **QUICK)
    assert [run["status"] for run in results["methods"][0]["runs"]] == ["failed"] * 2
    assert results["data"]["shape"] == [1, 8, 8]
    assert "out of luck" in capsys.readouterr().out
    assert "out of luck" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_two_comparisons_in_one_folder_are_refused(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / LOCK), pytest.raises(InputError, match="another comparison is running there"):
        counterpoise.compare(["simclr"], "digits", seeds=1, out=str(tmp_path), quiet=True, **QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: expected a whole number of at least 1"),
        ({"jobs": 0}, "jobs: expected a whole number of at least 1"),
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


def finished(values, metric="knn"):
    cost = {"seconds": 1.0, "memory_mb": 1.0}
    return [{"seed": i, "status": "done", "metrics": {metric: x}, **cost} for i, x in enumerate(values)]


def with_references(methods, references):
    arms, beside = ([Arm(name, "raw") for name in names] for names in (methods, references))
    figures = {**methods, **references}
    results = {(name, run["seed"]): run for name, values in figures.items() for run in finished(values)}
    return summarise(Rows(arms, arms[0].label, beside), results, pretrain.TASK.metrics, main="knn")


@pytest.mark.parametrize(
    ("b", "references", "sentence"),
    [
        ([0.8, 0.8], {"raw": [0.81, 0.83]}, "No method beats raw on kNN accuracy: 82.0 % without"),
        ([0.9, 0.9], {"raw": [0.8, 0.8], "other": [0.5, 0.6]}, "b, the best, beats raw, which"),
        ([0.8, 0.9], {"raw": [0.8, 0.81]}, "perhaps by chance"),
    ],
)
def test_the_answer_begins_with_what_costs_no_training(b, references, sentence):
    metrics = {name: asdict(metric) for name, metric in pretrain.TASK.metrics.items()}
    methods = {"a": [0.7, 0.72], "b": b}
    found = {"main": "knn", "metrics": metrics, "baseline": "a", **with_references(methods, references)}
    first, *_ = answer(found).split(" b is")
    assert sentence in first
    assert first.startswith(("No method", "b, the best"))
    adjusted = [row["difference"]["knn"].get("adjusted") for row in found["methods"] if row["difference"]]
    assert len(adjusted) == 1  # references are no methods, of which Holm's adjustment counts the tests


def test_lower_may_be_better_than_a_reference():
    metrics = {"mae": Metric("error", "lower", percent=False)}
    rows = Rows([Arm("a", "regression")], "a", [Arm("raw", "raw")])
    results = {("a", 0): finished([2.0], "mae")[0], ("raw", 0): finished([1.0], "mae")[0]}
    found = summarise(rows, results, metrics, main="mae")
    content = {"main": "mae", "metrics": {"mae": asdict(metrics["mae"])}, "baseline": "a", **found}
    assert answer(content).startswith("No method beats raw on error: 1.0")


@pytest.mark.slow
def test_references_are_run_beside_methods_and_found_again_whatever_the_budget(tmp_path):
    first = counterpoise.compare("simclr", "digits", seeds=1, out=tmp_path / "c", quiet=True, **QUICK)
    assert [row["label"] for row in first["references"]] == ["raw inputs", "untrained encoder"]
    kept = {row["label"]: row["runs"][0]["folder"] for row in first["references"]}
    again = counterpoise.compare("simclr", "digits", seeds=1, out=tmp_path / "c", quiet=True, **{**QUICK, "epochs": 2})
    assert {row["label"]: row["runs"][0]["folder"] for row in again["references"]} == kept
    assert "raw inputs" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "raw inputs" in (tmp_path / "c" / "results.csv").read_text(encoding="utf-8")
    none = counterpoise.compare("simclr", "digits", seeds=1, out=tmp_path / "d", quiet=True, references=False, **QUICK)
    assert none["references"] == []
    assert "--no-references" in none["command"]
    assert none["learnt"] is None
