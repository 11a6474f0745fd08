"""Compiled training: what it computes, what it keeps as it was, and what it says of resuming."""

import shutil
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from counterpoise.contrast.simclr import SimCLR
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.method import Method
from counterpoise.measure.online import OnlineProbe
from counterpoise.nets import backbone
from counterpoise.nets.backbones import Backbone
from counterpoise.nets.momentum import momentum_copy
from counterpoise.training.compiling import compiled, uncompiled
from counterpoise.training.trainer import fit

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def images():
    rng = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (24, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(24) % 2, ("a", "b"), "noise")


def tiny():
    """A backbone that is compiled in a second or two."""
    return Backbone(nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8), nn.GELU()), 1, 8)


class Plain(SimCLR):
    """SimCLR, its backbone's calls being counted by whether they were compiled."""

    def __init__(self, encoder=None):
        torch.manual_seed(2)
        super().__init__(encoder or tiny(), hidden=8, dim=4)
        self.by_compiler = []

    def loss(self, images, labels, index):
        self.by_compiler.append(self.encoder._compiled_call_impl is not None)
        return super().loss(images, labels, index)


class Small(Plain):
    """With the network that all methods have by default."""

    def __init__(self):
        torch.manual_seed(2)
        super().__init__(backbone("small", 1, 8))


class Varied(Plain):
    """Has batches of other sizes in the second epoch."""

    def start_epoch(self, images, epoch):
        self.epoch, self.before = epoch, self.encoder._compiled_call_impl

    def batches(self, order, batch_size):
        return super().batches(order, batch_size - 2 * self.epoch)


class Stop(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ConnectionAbortedError("killed")


def trained(folder, images, kind=Plain, compile=True, **options):
    learner = kind()
    curve = fit(
        learner, images, epochs=2, batch_size=12, seed=0, folder=folder, device="cpu", compile=compile, **options
    )
    return learner, curve


@pytest.mark.slow  # compiling takes half a minute at its first time
@pytest.mark.parametrize(
    ("kind", "precision"),
    [(Plain, "32"), (Plain, "bf16-mixed"), (Small, "32"), (Small, "bf16-mixed")],
)
def test_a_compiled_run_that_is_resumed_has_the_same_bits_and_says_nothing(images, tmp_path, kind, precision):
    options = {"kind": kind, "probe": OnlineProbe(images, images), "precision": precision}
    whole, curve = trained(tmp_path / "whole", images, **options)
    with pytest.raises(ConnectionAbortedError):
        trained(tmp_path / "cut", images, callbacks=(Stop(),), **options)
    torch.compiler.reset()  # as in a new process
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed, continued = trained(tmp_path / "cut", images, **options)
    assert all([*whole.by_compiler, *resumed.by_compiler])
    assert [row["loss"] for row in curve] == [row["loss"] for row in continued]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not [w for w in caught if "to rounding" in str(w.message)]


@pytest.mark.slow
def test_compiling_changes_rounding_alone_and_no_name(images, tmp_path):
    fast, _ = trained(tmp_path / "a", images)
    slow, _ = trained(tmp_path / "b", images, compile=False)
    assert slow.by_compiler == [False] * 4
    assert fast.state_dict().keys() == slow.state_dict().keys()
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert fast.encoder._compiled_call_impl is None  # scores are of the network as it is


@pytest.mark.slow
def test_a_resumed_run_whose_batches_vary_says_that_it_is_the_same_to_rounding(images, tmp_path):
    with pytest.raises(ConnectionAbortedError):
        trained(tmp_path, images, Varied, callbacks=(Stop(),))
    with pytest.warns(UserWarning, match="resumed after epoch 1: a compiled run is the same .* to rounding only"):
        learner, _ = trained(tmp_path, images, Varied)
    assert learner.before is None  # what looks at all data before an epoch is not compiled for it


@pytest.mark.slow
def test_every_backbone_of_a_method_is_compiled_once_and_only_in_the_block():
    class Two(Method):
        def __init__(self):
            super().__init__(backbone("small", 1, 8))
            self.slow = momentum_copy(self.encoder)

    method = Two()
    with compiled(method):
        calls = [name for name, module in method.named_modules() if module._compiled_call_impl is not None]
        assert calls == ["encoder", "slow"]
        assert momentum_copy(method.encoder)._compiled_call_impl is None  # a copy is not called in its place
        with uncompiled(method):
            assert not [module for module in method.modules() if module._compiled_call_impl is not None]
        assert method.slow._compiled_call_impl is not None
    assert not [module for module in method.modules() if module._compiled_call_impl is not None]


@pytest.mark.slow
def test_what_the_compiler_fails_with_is_an_error_of_the_input():
    from torch._dynamo.exc import TorchDynamoException

    expected = r"compile: does not work here \(Python.h: not found\); train without it"
    with pytest.raises(InputError, match=expected), compiled(tiny()):
        raise TorchDynamoException("Python.h: not found\nand more")
    with pytest.raises(ConnectionAbortedError), compiled(tiny()):
        raise ConnectionAbortedError("killed")
