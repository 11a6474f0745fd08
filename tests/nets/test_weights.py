"""Weights from files: every kind of file and wrapper, what does not fit by name, and what is refused."""

import argparse
import copy
import math
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from counterpoise.errors import InputError, NonFinite
from counterpoise.nets import backbone
from counterpoise.nets.frozen import Frozen
from counterpoise.nets.weights import load_weights


def net(seed=0, channels=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return [*a] == [*b] and all(torch.equal(x, b[name]) for name, x in a.items())


def prefixed(module, prefix):
    return {prefix + name: x for name, x in module.state_dict().items()}


@pytest.fixture(autouse=True)
def no_warning():
    """A test that expects one says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- kinds of files ---


def written(kind, module, path):
    state = module.state_dict()
    if kind == "safetensors":
        save_file(state, path / "w.safetensors")
        return path / "w.safetensors"
    if kind in ("net", "encoder"):
        save_file(state, path / f"{kind}.safetensors")
        return path
    content = {
        "state dict": state,
        "checkpoint": {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {0: {"x": torch.ones(2)}}}]},
        "optimizer": {"model": state, "optimizer": torch.optim.Adam(module.parameters()).state_dict()},
        "parameters": dict(module.named_parameters()) | dict(module.named_buffers()),
    }[kind]
    torch.save(content, path / "w.pth")
    return path / "w.pth"


KINDS = ["safetensors", "net", "encoder", "state dict", "checkpoint", "optimizer", "parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_weights(kind, tmp_path):
    given, module = net(1), net(2)
    given(torch.randn(4, 3, 3, 3))
    source = written(kind, given, tmp_path)
    found = load_weights(module, source)
    assert same(module, given)
    assert found.whole
    assert {*found.fitted} == {*given.state_dict()}
    assert found.source == (source / f"{kind}.safetensors" if source.is_dir() else source)
    assert str(found) == f"{found.source}: {len(found.fitted)} of the module's {len(found.fitted)} tensors loaded"
    assert all(p.requires_grad for p in module.parameters())


def test_a_lightning_checkpoint_is_read(tmp_path):
    import lightning

    class Method(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"lr": 0.1})
            self.encoder, self.head, self.key_encoder = net(1), nn.Linear(2, 2), net(3)

        def training_step(self, batch, _):
            return self.encoder(batch).sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    method, module = Method(), net(2)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_steps=1, default_root_dir=tmp_path, enable_checkpointing=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(method, torch.utils.data.DataLoader(torch.randn(4, 3, 3, 3), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(
        UserWarning, match=r"in the file but not in the module \(11\): state_dict\.head\.weight, state_dict\.head\.b"
    ):
        found = load_weights(module, tmp_path / "last.ckpt")
    assert found.prefix == "state_dict.encoder."
    assert same(module, method.encoder)


def test_a_run_s_net_comes_before_its_encoder(tmp_path):
    module = net(3)
    for name, seed in (("net", 1), ("encoder", 2)):
        save_file(net(seed).state_dict(), tmp_path / f"{name}.safetensors")
    load_weights(module, str(tmp_path))
    assert same(module, net(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_tensors_keep_the_module_s_precision(dtype, tmp_path):
    given, module = net(1).to(dtype), net(2)
    load_weights(module, written("safetensors", given, tmp_path))
    assert same(module, copy.deepcopy(given).float())


# --- prefixes ---


@pytest.mark.parametrize(
    "prefix", ["", "module.", "encoder.", "backbone.", "model.", "encoder_q.", "net.", "a.b.", "state_dict.module.net."]
)
def test_what_wrapped_the_file_s_net_is_found_beside_other_tensors(prefix, tmp_path):
    given, module = net(1), net(2)
    torch.save({**prefixed(given, prefix), "queue": torch.zeros(3), "other.0.weight": torch.zeros(7)}, tmp_path / "w")
    with pytest.warns(UserWarning, match=r"in the file but not in the module \(2\): queue, other\.0\.weight$"):
        found = load_weights(module, tmp_path / "w")
    assert same(module, given)
    assert found.prefix == prefix
    assert found.unexpected == ("queue", "other.0.weight")
    assert not found.missing


@pytest.mark.parametrize("name", ["timm:resnet10t", "small"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "encoder.model."])
def test_what_wraps_the_module_s_net_is_found_too(name, prefix, tmp_path):
    """A backbone's tensors are named `model.`; those of a file of its library are not."""
    torch.manual_seed(0)
    given = backbone(name, 3, 32)
    torch.manual_seed(1)
    module = backbone(name, 3, 32)
    torch.save(prefixed(given.model, prefix), tmp_path / "w")
    assert load_weights(module, tmp_path / "w").whole
    assert same(module, given)


def test_a_module_of_one_layer_deep_inside_gets_its_file(tmp_path):
    module = nn.ModuleDict({"model": nn.ModuleDict({"conv": nn.Linear(2, 3)})})
    torch.save({"conv.weight": torch.ones(3, 2), "conv.bias": torch.zeros(3)}, tmp_path / "w")
    assert load_weights(module, tmp_path / "w").whole
    assert module["model"]["conv"].weight.min() == 1


def test_of_two_prefixes_the_one_that_fits_more_is_taken_and_of_equal_ones_the_usual_one(tmp_path):
    given, module = net(1), net(3)
    torch.save({**prefixed(net(2), "encoder_k."), **prefixed(given, "encoder_q.")}, tmp_path / "w")
    with pytest.warns(UserWarning, match=r"in the file but not in the module \(9\): encoder_k\.0\.weight"):
        assert load_weights(module, tmp_path / "w").prefix == "encoder_q."
    assert same(module, given)
    part = {name: x for name, x in prefixed(given, "encoder.").items() if "0" not in name}
    torch.save({**prefixed(net(2), "rare."), **part}, tmp_path / "w")
    with pytest.warns(UserWarning, match="but not in the module"):
        assert load_weights(module, tmp_path / "w").prefix == "rare."
    assert same(module, net(2))


def test_the_user_chooses_between_two_prefixes_that_fit_as_well(tmp_path):
    module, before = net(3), net(3)
    torch.save({"student": net(1).state_dict(), "teacher": net(2).state_dict()}, tmp_path / "w")
    with pytest.raises(InputError, match=r"prefix: 'student\.' and 'teacher\.' in '.*w' fit 9 of the module's tensors"):
        load_weights(module, tmp_path / "w")
    assert same(module, before)
    with pytest.warns(UserWarning, match=r"in the file but not in the module \(9\): student\.0\.weight"):
        assert load_weights(module, tmp_path / "w", prefix="teacher.").prefix == "teacher."
    assert same(module, net(2))
    with pytest.raises(
        InputError, match=r"prefix: expected one that names .* got 'pupil\.'; it has student\.0\.weight"
    ):
        load_weights(module, tmp_path / "w", prefix="pupil.")
    with pytest.raises(InputError, match=r"fits 0 of the 9 tensors"):
        load_weights(module, tmp_path / "w", prefix="")


def test_copies_of_the_same_weights_need_no_choice(tmp_path):
    """Under two names of one mapping, such as `model.` of the file being that of the module."""
    given = nn.ModuleDict({"model": net(1)})
    torch.save(given.state_dict(), tmp_path / "w")
    module = nn.ModuleDict({"model": net(2)})
    assert load_weights(module, tmp_path / "w").prefix == ""
    assert same(module, given)


# --- what does not fit ---


def test_what_does_not_fit_is_named_counted_and_left_as_it_was(tmp_path):
    given, module = net(1).state_dict(), net(2)
    before = copy.deepcopy(module.state_dict())
    del given["1.running_mean"], given["3.bias"]
    given |= {
        "0.weight": torch.zeros(4, 1, 3, 3),
        "1.num_batches_tracked": torch.tensor(0.5),
        "fc.weight": torch.ones(1),
    }
    torch.save(given, tmp_path / "w")
    with pytest.warns(UserWarning, match="of the module's") as caught:
        found = load_weights(module, tmp_path / "w")
    assert found.fitted == ("0.bias", "1.weight", "1.bias", "1.running_var", "3.weight")
    assert found.missing == ("1.running_mean", "3.bias")
    assert found.unexpected == ("fc.weight",)
    assert found.differing == {
        "0.weight": ("[4, 1, 3, 3]", "[4, 3, 3, 3]"),
        "1.num_batches_tracked": ("[]", "int64 []"),
    }
    assert not found.whole
    (warning,) = caught
    assert str(warning.message) == (
        f"{tmp_path / 'w'}: 5 of the module's 9 tensors loaded; "
        "different in the file (2): 0.weight ([4, 1, 3, 3], not [4, 3, 3, 3]), "
        "1.num_batches_tracked ([], not int64 []); "
        "missing from the file (2): 1.running_mean, 3.bias; in the file but not in the module (1): fc.weight"
    )
    for name, x in module.state_dict().items():
        assert torch.equal(x, (given if name in found.fitted else before)[name])


@pytest.mark.parametrize("fitting", [0, 4, 5])
def test_less_than_half_is_refused_by_the_first_names_of_each_side(fitting, tmp_path):
    given, module = net(1).state_dict(), net(2)
    names = [*given]
    torch.save({name if i < fitting else f"layer{i}.x": given[name] for i, name in enumerate(names)}, tmp_path / "w")
    if fitting == 5:
        with pytest.warns(UserWarning, match="5 of the module's 9 tensors loaded"):
            load_weights(module, tmp_path / "w")
        return
    first, more = ("0.weight", 6) if fitting == 0 else ("1.running_mean", 2)
    with pytest.raises(InputError) as caught:
        load_weights(module, tmp_path / "w")
    message = str(caught.value)
    assert f"fits {fitting} of the 9 tensors of the Sequential, expected at least half" in message
    assert f"the file has layer{fitting}.x, " in message
    assert f"the module has {first}, " in message
    assert message.endswith(f"and {more} more")
    assert same(module, net(2))


def test_only_shapes_that_differ_are_refused_by_them(tmp_path):
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "w")
    with pytest.raises(
        InputError, match=r"fits 0 of the 2 .* others differ: weight \(\[2, 3\], not \[3, 2\]\), bias \("
    ):
        load_weights(nn.Linear(2, 3), tmp_path / "w")


def test_nan_is_refused_and_nothing_is_loaded(tmp_path):
    given, module = net(1), net(2)
    with torch.no_grad():
        given[3].weight[0, 0] = math.nan
    with pytest.raises(NonFinite, match=r"w\.pth: 3\.weight: 1 of 8 numbers are NaN or infinite"):
        load_weights(module, written("state dict", given, tmp_path))
    assert same(module, net(2))


def test_a_stored_frozen_module_is_loaded_and_another_is_not_asked_for(tmp_path):
    given = nn.ModuleDict({"own": nn.Linear(2, 2), "old": net(1)})
    torch.save(given.state_dict(), tmp_path / "w")
    stored = nn.ModuleDict({"own": nn.Linear(2, 2), "old": Frozen(net(2), stored=True)})
    assert load_weights(stored, tmp_path / "w").whole
    assert same(stored["old"].module, given["old"])
    other = nn.ModuleDict({"own": nn.Linear(2, 2), "old": Frozen(net(2))})
    with pytest.warns(UserWarning, match=r"in the file but not in the module \(9\): old"):
        load_weights(other, tmp_path / "w")
    assert torch.equal(other["own"].weight, given["own"].weight)
    assert same(other["old"].module, net(2).eval())


# --- files that are refused ---


class Marked:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path):
    torch.save({"state_dict": net().state_dict(), "run": Marked(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(
        InputError, match=r"'.*w\.pt' holds objects of (_?io|builtins)\.open, which are made by running"
    ):
        load_weights(net(), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [(net(), "torch.nn.modules.container.Sequential"), (argparse.Namespace(a=1), "argparse.Names")],
)
def test_whole_modules_and_other_objects_are_refused_by_the_name_of_their_class(content, named, tmp_path):
    torch.save({"weights": content}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"holds objects of {named}.*torch\.save\(net\.state_dict\(\), path\)"):
        load_weights(net(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"nothing", "is not a file by torch.save, or damaged"),
        ("w.pt", b"", "is not a file by torch.save, or damaged"),
        ("w.safetensors", b"nothing", "is not a safetensors file, or damaged"),
        ("w.safetensors", b"", "is not a safetensors file, or damaged"),
    ],
)
def test_damaged_files_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"source: '.*{name}' {message}"):
        load_weights(net(), tmp_path / name)


@pytest.mark.parametrize("kind", ["safetensors", "state dict"])
def test_a_file_that_was_cut_short_is_refused(kind, tmp_path):
    path = written(kind, net(), tmp_path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="or damaged"):
        load_weights(net(), path)


def test_files_that_are_not_there_or_hold_no_tensors_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"source: expected .* but '.*absent\.pt' does not exist"):
        load_weights(net(), tmp_path / "absent.pt")
    with pytest.raises(
        InputError, match=r"is not a run's folder: it holds neither net\.safetensors nor encoder\.safetens"
    ):
        load_weights(net(), tmp_path)
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"'.*list\.pt' holds no tensors by name, but a list"):
        load_weights(net(), tmp_path / "list.pt")
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="module: ReLU has no tensors to load"):
        load_weights(nn.ReLU(), tmp_path / "w.pt")


def test_names_of_a_file_cannot_write_to_the_terminal(tmp_path):
    torch.save({**net(1).state_dict(), "a\x1b[31m\nb": torch.ones(1)}, tmp_path / "w")
    with pytest.warns(UserWarning, match=r"not in the module \(1\): a\\x1b\[31m\\nb$"):
        load_weights(net(2), tmp_path / "w")
