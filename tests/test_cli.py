import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from counterpoise import cli, commands
from counterpoise.commands import compare, embed, listing, train  # noqa: F401
from counterpoise.contrast import simclr
from counterpoise.registry import catalogue

PLANNED = catalogue.select(done=False)[-1].slug
FAST = ["--epochs", "1", "--batch-size", "64", "--device", "cpu"]


def command(*words, check=True):
    done = subprocess.run([sys.executable, "-m", "counterpoise.cli", *words], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def call(capsys, *words):
    """In this process, for speed: exit status, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--room", "contrast", "--done"],
        ["show", "dcl"],
        ["show", "mine.py:Mine"],
        ["--help"],
        ["train", "--help"],
    ],
)
def test_what_needs_no_torch_does_not_load_it(words, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\nfrom counterpoise import Method\nclass Mine(Method):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    code = f"""
import sys
from counterpoise.cli import run
try:
    run({words!r})
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lisst"], "command 'lisst' is not known; did you mean 'list'?"),
        (["show", "dclx"], "did you mean 'dcl'?"),
        (["show"], "show: the following arguments are required: slug"),
        (["list", "--rom", "contrast"], "did you mean '--room'?"),
        (["list", "--room", "contrasts"], "did you mean 'contrast'?"),
        (["compare", "--data", "digits"], "compare: the following arguments are required: --methods"),
        (
            ["compare", "--data", "digits", "--methods", "simclr", "--seeds", "many"],
            "--seeds: expected a whole number, got 'many'",
        ),
        (["train", "--method", "simclr", "--data", "digits", "--temprature", "1"], "did you mean '--temperature'?"),
        (["train", "--method", PLANNED, "--data", "digits"], f"'{PLANNED}' is planned"),
        (["train", "--method", "simclr", "--data", "nowhere/at/all"], "nowhere/at/all"),
        (["embed", "--run", "nowhere", "--data", "digits", "--out", "x.parquet"], "nowhere: holds no finished run"),
        (["embed", "--run", "nowhere", "--data", "digits", "--out", "x.txt"], "ends in .parquet or .npy"),
        (["export", "--run", "nowhere", "--out", "x.pt"], "ends in .safetensors or .onnx"),
        (["claim"], "expected a SLUG or --all"),
        (["data", "fashion-mnits"], "did you mean 'fashion-mnist'?"),
    ],
)
def test_refused_input_is_one_line_and_status_2(capsys, words, message):
    status, _, printed = call(capsys, *words)
    assert status == 2
    assert printed.startswith("counterpoise: ")
    assert printed.count("\n") == 1
    assert message in printed


def test_refused_training_leaves_nothing_behind(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((20, 20), 60).save(tmp_path / "photos" / "only.png")
    out = tmp_path / "out"
    status, _, printed = call(
        capsys, "train", "--method", "simclr", "--data", str(tmp_path / "photos"), "--out", str(out)
    )
    assert (status, printed.count("\n")) == (2, 1)
    assert "photos: no class has two images" in printed
    assert not out.exists()


def outcome(*statuses):
    runs = [{"seed": seed, "status": status, "error": "out\nof luck"} for seed, status in enumerate(statuses)]
    return {"methods": [{"label": "dcl:lr=1", "runs": runs}]}


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
@pytest.mark.parametrize(
    ("content", "status", "printed"),
    [
        (outcome("done", "done"), 0, ""),
        (outcome("done", "failed"), 1, "1 of 2 runs failed; the first of them, dcl:lr=1, seed 1: out\\nof luck\n"),
        (outcome("failed", "failed"), 1, "2 of 2 runs failed; the first of them, dcl:lr=1, seed 0: out\\nof luck\n"),
        ({}, 0, ""),
    ],
)
def test_failed_runs_are_a_status_and_a_line(capsys, monkeypatch, content, status, printed, quiet):
    monkeypatch.setattr(commands.compare, "compare", lambda **_: content)
    words = ["compare", "--methods", "dcl:lr=1", "--data", "digits", *quiet]
    assert call(capsys, *words) == (status, "", f"counterpoise: {printed}" if printed else "")


def test_training_that_diverges_is_one_line_and_status_1(capsys, tmp_path):
    words = ["--method", "simclr", "--data", "digits", "--lr", "1e30", "--quiet", "--out", str(tmp_path / "o"), *FAST]
    status, _, printed = call(capsys, "train", *words)
    assert status == 1
    assert printed.startswith("counterpoise: training diverged by step ")
    assert printed.count("\n") == 1


HOSTILE = "a\x1b[31m\nb[/bold]\u202e"
HARMLESS = "a\\x1b[31m\\nb[/bold]\\u202e"


def test_names_are_shown_whole_and_drive_no_terminal(capsys, monkeypatch):
    found = {"metrics": {"knn": 0.5}, "warnings": [f"{HOSTILE} left out"], "folder": HOSTILE}
    monkeypatch.setattr(commands.train, "train", lambda **_: found)
    _, printed, _ = call(capsys, "train", "--method", "simclr", "--data", "digits")
    assert printed == f"knn             0.5000\nwarning: {HARMLESS} left out\nkept in {HARMLESS}\n"
    monkeypatch.setattr(commands.embed, "embed", lambda **_: None)
    _, printed, _ = call(capsys, "embed", "--run", "r", "--data", "digits", "--out", HOSTILE)
    assert printed == f"wrote {HARMLESS}\n"
    _, _, printed = call(capsys, "show", HOSTILE)
    assert printed.startswith(f"counterpoise: method '{HARMLESS}' is not known")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "| head -n 1"])
def test_output_that_nobody_reads_is_no_failure(closed):
    line = f"set -o pipefail; {sys.executable} -m counterpoise.cli list {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_work(tmp_path):
    code = """
import os, sys
from counterpoise.terminal import make_console
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
console = make_console()
for _ in range(3):
    console.print("x" * 100_000)
open(sys.argv[1], "w").write("done")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a").read_text() == "done"


def test_debug_shows_where():
    with pytest.raises(ValueError, match="not known"):
        cli.main(["show", "dclx", "--debug"])
    done = command("show", "dclx", "--debug", check=False)
    assert "Traceback" in done.stderr


def test_without_a_command_the_commands_are_listed(capsys):
    status, printed, _ = call(capsys)
    assert status == 0
    assert all(name in printed for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(capsys, name):
    status, printed, _ = call(capsys, name, "--help")
    assert status == 0
    assert name in printed


def test_a_method_s_arguments_are_flags_with_their_docstring_as_help(capsys):
    _, printed, _ = call(capsys, "train", "--method", "simclr", "--help")
    assert "--temperature" in printed
    assert "width of the projection head's hidden layer" in " ".join(printed.split())
    assert simclr.SimCLR.__init__.__kwdefaults__ is None
    for method, of_the_data in (("isogclr", "samples"), ("clip", "names"), ("tfup", "new-names")):
        assert f"--{of_the_data}" not in call(capsys, "train", "--method", method, "--help")[1]


def test_an_argument_whose_flag_is_the_run_s_is_shown_and_given_with_the_method(capsys, monkeypatch):
    line = "of meow: --method meow:seed=… seed of the masks, which are drawn once. (default: 0); --seed is the run's"
    assert line in " ".join(call(capsys, "train", "--method", "meow", "--help")[1].split())
    assert "--method dcl:" not in call(capsys, "train", "--method", "dcl", "--help")[1]
    given = []
    monkeypatch.setattr(
        commands.train, "train", lambda **found: given.append(found) or {"metrics": {}, "warnings": [], "folder": "o"}
    )
    call(capsys, "train", "--method", "meow:seed=3", "--seed", "1", "--tau", "0.5", "--data", "planted")
    assert given == [{"method": "meow:seed=3", "data": "planted", "seed": 1, "tau": 0.5}]


@pytest.mark.slow
def test_train_embed_export(tmp_path, capsys):
    run = str(tmp_path / "run")
    status, printed, _ = call(
        capsys,
        "train",
        "--method",
        "simclr",
        "--data",
        "digits",
        "--temperature",
        "0.3",
        "--lr",
        "1e-3",
        "--out",
        run,
        *FAST,
    )
    assert status == 0
    assert "knn" in printed
    assert '"temperature": 0.3' in (tmp_path / "run" / "config.json").read_text()
    assert call(capsys, "embed", "--run", run, "--data", "digits", "--out", str(tmp_path / "e.parquet"))[0] == 0
    assert call(capsys, "embed", "--run", run, "--data", "digits", "--out", str(tmp_path / "e.npy"))[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["path", "split", "label", "embedding"]
    matrix = np.load(tmp_path / "e.npy", allow_pickle=False)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), matrix)
    assert len((tmp_path / "e.csv").read_text().splitlines()) == len(matrix) + 1 == 1798
    for name in ("encoder.safetensors", "encoder.onnx"):
        assert call(capsys, "export", "--run", run, "--out", str(tmp_path / name))[0] == 0
    import onnxruntime
    from safetensors import safe_open

    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    from counterpoise.tasks import load_encoder

    encoder, config = load_encoder(tmp_path / "run")
    images = torch.randint(0, 256, (5, *config["shape"])).float()
    with torch.no_grad():
        expected = encoder(images / 127.5 - 1).numpy()
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-4)
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert '"method": "simclr"' in file.metadata()["counterpoise"]


@pytest.mark.parametrize(("standing", "status"), [([], 1), ([{}], 0)])
def test_a_record_that_does_not_stand_is_a_status(capsys, monkeypatch, standing, status):
    monkeypatch.setattr(cli, "call", lambda module, name, given: standing)
    found, _, said = call(capsys, "claim", "dcl", "--verify")
    assert found == status
    assert said == ("counterpoise: 1 of 1 records do not stand\n" if status else "")
