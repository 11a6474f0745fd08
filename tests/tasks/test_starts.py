"""Where encoders start from, what is kept of them, and scores by group."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterpoise import compare, embed, export
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.nets import backbone
from counterpoise.registry.arguments import given_values
from counterpoise.tasks import find, load_net
from counterpoise.training.run import ImageSettings, Run, weight_files

QUICK = ImageSettings(epochs=1, batch_size=256, device="cpu")


def run(method="simclr", **settings):
    return Run(method, "digits", settings=replace(QUICK, **settings))


def encoder_of(one):
    task = find(one.task)
    return task.make(one, task.load(one)).encoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "run"
    execute_run(run(), folder)
    return folder


@pytest.mark.slow
def test_a_run_s_weights_a_file_and_a_state_dict_start_every_method_alike(trained, tmp_path):
    weights = load_file(trained / "net.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "w.pt")
    for init in (trained, trained / "net.safetensors", tmp_path / "w.pt"):
        for method in ("simclr", "supcon"):
            state = encoder_of(run(method, init=str(init))).state_dict()
            assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_a_start_draws_as_without_it(trained):
    """The projection head, which no file has, is that of the same run with random weights."""
    task = find("pretrain")
    heads = []
    for one in (run(), run(init=str(trained))):
        heads.append(torch.cat([p.flatten() for p in task.make(one, task.load(one)).head.parameters()]))
    assert torch.equal(*heads)


@pytest.mark.slow
def test_what_does_not_fit_is_a_warning_that_names_and_counts_it(trained, tmp_path):
    weights = load_file(trained / "net.safetensors")
    kept = dict(list(weights.items())[:-3]) | {"classifier.weight": torch.zeros(3, 2)}
    save_file(kept, tmp_path / "part.safetensors")
    with pytest.warns(
        UserWarning, match=r"tensors loaded; missing from the file \(3\): .*not in the module \(1\): class"
    ):
        encoder_of(run(init=str(tmp_path / "part.safetensors")))
    result = execute_run(run(init=str(tmp_path / "part.safetensors")), tmp_path / "run")
    assert any("missing from the file (3)" in warning for warning in result["warnings"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other.weight": torch.zeros(2, 2)}, "fit|of the module's"),
        (None, "does not exist"),
        (b"not weights", "damaged"),
    ],
)
def test_weights_that_cannot_be_a_start_are_refused(content, message, tmp_path):
    path = tmp_path / "w.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(InputError, match=message):
        find("pretrain").check(run(init=str(path)))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save(backbone("small", 1, 8), tmp_path / "whole.pt")
    with pytest.raises(InputError, match="made by running code; save the weights alone"):
        find("pretrain").check(run(init=str(tmp_path / "whole.pt")))


@pytest.mark.slow
def test_a_frozen_encoder_stays_and_is_kept_whole(trained, tmp_path):
    weights = load_file(trained / "net.safetensors")
    result = execute_run(run("supcon", init=str(trained), freeze=True), tmp_path / "run")
    kept = load_file(tmp_path / "run" / "net.safetensors")
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], value) for name, value in weights.items()), "statistics of batches, too"
    assert result["metrics"]["knn"] > 0.5
    net, _ = load_net(tmp_path / "run")
    assert all(torch.equal(net.state_dict()[name], value) for name, value in weights.items())
    assert len(embed(str(tmp_path / "run"), "digits", str(tmp_path / "e.parquet"))) == 1797
    assert export(str(tmp_path / "run"), str(tmp_path / "e.safetensors")).exists()


def test_a_changed_file_is_another_run_and_an_old_one_is_refused(trained, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((trained / "net.safetensors").read_bytes())
    before = run(init=str(path))
    path.write_bytes((trained / "net.safetensors").read_bytes() + b"")
    after = run(init=str(path))
    assert before.files
    assert before.files != after.files
    with pytest.raises(InputError, match="were changed while the command ran"):
        find("pretrain").load(before)
    assert not run().files


def test_the_files_of_all_settings_are_watched(trained, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"x")
    settings = replace(QUICK, init=str(trained), given=f"start=small@{tmp_path / 'w.pt'}")
    assert {path.name for path in weight_files(settings)} == {"net.safetensors", "config.json", "w.pt"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": True}, "freeze: keeps an encoder as it starts; expected init with it"),
        ({"given": "start"}, "given: expected ROLE=VALUE, got 'start'"),
        ({"given": "start=a,start=b"}, "given: start is given twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        run(**settings)


def test_values_of_roles_may_hold_anything_but_commas():
    assert given_values("a=x@y=z, b=none") == {"a": "x@y=z", "b": "none"}
    assert given_values(None) == {}


def test_an_earlier_configuration_without_the_new_settings_is_the_same_run(tmp_path):
    one = run()
    result = execute_run(one, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ("init", "freeze", "given", "group"):
        del config["settings"][name]
    path.write_text(json.dumps(config))
    assert execute_run(one, tmp_path / "run") == result


@pytest.mark.slow
def test_scores_by_a_factor_and_the_worst_of_its_values(tmp_path):
    found = compare(
        ["simclr"], "factors:tint", imperfect=["fewer=0.05"], seeds=1, epochs=1, batch_size=64, device="cpu",
        group="tint", out=str(tmp_path / "c"), quiet=True,
    )  # fmt: skip
    (result,) = found["methods"][0]["runs"]
    values = [value for name, value in result["groups"].items() if name.startswith("tint ")]
    assert len(values) == 10
    assert min(values) == result["diagnostics"]["worst tint"]
    assert min(values) <= result["metrics"]["knn"] <= max(values)
    assert "tint lime" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_an_unknown_group_is_refused():
    with pytest.raises(InputError, match="group: factor of the test images 'hue' is not known"):
        find("pretrain").check(replace(run(group="hue"), data="factors:tint"))
