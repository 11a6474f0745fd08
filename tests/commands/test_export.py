"""Exports: what the files take and say of themselves, and which files they never replace."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from counterpoise import __version__, export
from counterpoise.data.views import to_float
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.tasks import load_encoder
from counterpoise.tasks.weights import net_metadata
from counterpoise.training.run import ImageSettings, Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    execute_run(Run("simclr", "digits", settings=ImageSettings(epochs=1, batch_size=256, device="cpu")), folder)
    return folder


def pixels():
    return torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def features(run):
    with torch.no_grad():
        return load_encoder(run)[0](to_float(pixels())).numpy()


def described(metadata):
    assert json.loads(metadata["classes"]) == [str(k) for k in range(10)]
    assert [metadata[name] for name in ("channels", "height", "width", "shape")] == ["1", "8", "8", "[1, 8, 8]"]
    assert [metadata[name] for name in ("method", "data", "seed", "version")] == ["simclr", "digits", "0", __version__]
    assert json.loads(metadata["counterpoise"])["settings"]["batch_size"] == 256
    return json.loads(metadata["pixel_range"])


@pytest.mark.slow
def test_an_onnx_file_takes_pixels_as_they_are_and_says_so(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export(str(run), str(tmp_path / "e.onnx")))
    assert described(session.get_modelmeta().custom_metadata_map) == [0, 255]
    for count in (5, 1):
        found = session.run(None, {"images": pixels()[:count].float().numpy()})[0]
        np.testing.assert_allclose(found, features(run)[:count], atol=1e-4)


@pytest.mark.slow
def test_an_onnx_file_can_take_what_is_scaled_already(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export(str(run), str(tmp_path / "e.onnx"), normalized_input=True))
    assert described(session.get_modelmeta().custom_metadata_map) == [-1, 1]
    found = session.run(None, {"images": to_float(pixels()).numpy()})[0]
    np.testing.assert_allclose(found, features(run), atol=1e-4)


def test_weights_say_what_they_take_in_the_run_and_exported(run, tmp_path):
    exported = export(str(run), str(tmp_path / "e.safetensors"))
    for path in (run / "net.safetensors", exported):
        with safe_open(path, "pt") as file:
            assert described(file.metadata()) == [-1, 1]
    ours, theirs = load_file(run / "net.safetensors"), load_file(exported)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_the_range_of_16_bit_files_is_carried_where_it_is_known():
    facts = {"shape": [1, 28, 28], "classes": [], "value_range": [0, 4095]}
    assert net_metadata({"method": "dcl"}, facts)["value_range"] == "[0, 4095]"
    rows = net_metadata({"method": "rnc"}, {"shape": [10], "classes": []})
    assert "pixel_range" not in rows
    assert net_metadata({"data": "caf\udce9"}, facts)["data"] == r"caf\udce9"


def test_every_file_of_a_run_has_the_mode_of_the_folder(run, tmp_path):
    exported = export(str(run), str(tmp_path / "e.safetensors"))
    os.umask(umask := os.umask(0))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*run.iterdir(), exported] if path.is_file()}
    assert {"net.safetensors", "gallery.npz", "last.ckpt", "curve.csv", "e.safetensors"} <= modes.keys()
    assert set(modes.values()) == {0o666 & ~umask}


def test_what_is_not_ours_and_the_run_itself_are_never_replaced(run, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"a user's own")
    link = tmp_path / "link.safetensors"
    link.symlink_to(run / "net.safetensors")
    weights = (run / "net.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"mine\.safetensors: is there, and was not written by counterpoise"):
        export(str(run), str(mine))
    for out in (run / "net.safetensors", run / "sub" / "e.onnx", link):
        with pytest.raises(InputError, match="lies in the folder of the run itself; choose a place outside"):
            export(str(run), str(out))
    assert mine.read_bytes() == b"a user's own"
    assert (run / "net.safetensors").read_bytes() == weights
    ours = tmp_path / "ours.safetensors"
    assert export(str(run), str(ours)) == export(str(run), str(ours)) == ours


def test_an_output_that_cannot_be_is_refused_before_the_encoder_is_loaded(tmp_path):
    (tmp_path / "e.onnx").mkdir()
    with pytest.raises(InputError, match=r"e\.onnx: is a folder, expected a file"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "e.onnx"))
    with pytest.raises(InputError, match=r"ends in \.safetensors or \.onnx"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "e.pt"))
