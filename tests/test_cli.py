import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from counterpoise import catalogue, cli
from counterpoise.contrast import simclr

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
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--room", "contrast", "--done"], ["show", "dcl"], ["--help"], ["train", "--help"]]
)
def test_what_needs_no_torch_does_not_load_it(words):
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
    status, _, told = call(capsys, *words)
    assert status == 2
    assert told.startswith("counterpoise: ")
    assert told.count("\n") == 1
    assert message in told


def test_refused_training_leaves_nothing_behind(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "only.png")
    out = tmp_path / "out"
    status, _, told = call(capsys, "train", "--method", "simclr", "--data", str(tmp_path / "photos"), "--out", str(out))
    assert (status, told.count("\n")) == (2, 1)
    assert "photos: no class has two images" in told
    assert not out.exists()


def test_debug_shows_where():
    with pytest.raises(ValueError, match="not known"):
        cli.main(["show", "dclx", "--debug"])
    done = command("show", "dclx", "--debug", check=False)
    assert "Traceback" in done.stderr


def test_no_command_tells_the_commands(capsys):
    status, told, _ = call(capsys)
    assert status == 0
    assert all(name in told for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(capsys, name):
    status, told, _ = call(capsys, name, "--help")
    assert status == 0
    assert name in told


def test_a_method_s_arguments_are_flags_with_their_docstring_as_help(capsys):
    _, told, _ = call(capsys, "train", "--method", "simclr", "--help")
    assert "--temperature" in told
    assert "width of the projection head's hidden layer" in " ".join(told.split())
    assert simclr.SimCLR.__init__.__kwdefaults__ is None
    assert "--samples" not in call(capsys, "train", "--method", "isogclr", "--help")[1]


@pytest.mark.slow
def test_train_embed_export(tmp_path, capsys):
    run = str(tmp_path / "run")
    status, told, _ = call(
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
    assert "knn" in told
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
    from counterpoise.tasks.images import load_encoder

    encoder, config = load_encoder(tmp_path / "run")
    images = torch.rand(5, *config["shape"]) * 2 - 1
    with torch.no_grad():
        expected = encoder(images).numpy()
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-4)
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert '"method": "simclr"' in file.metadata()["counterpoise"]
