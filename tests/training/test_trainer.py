import logging
import math
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from counterpoise.contrast.simclr import SimCLR
from counterpoise.data import Images
from counterpoise.data.views import Views
from counterpoise.errors import Diverged, InputError, MissingExtra
from counterpoise.learners.learner import warmup_cosine
from counterpoise.measure.online import OnlineProbe
from counterpoise.nets import backbone
from counterpoise.ops.checks import check_lengths
from counterpoise.training.trainer import (
    CHECKPOINT,
    Shuffle,
    fit,
    make_logger,
    read_checkpoint,
)


@pytest.fixture(scope="module")
def images():
    """Three classes that differ in where they are bright."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    pixels = torch.randint(0, 90, (48, 1, 16, 16), generator=rng, dtype=torch.uint8)
    for i, y in enumerate(labels.tolist()):
        pixels[i, :, 5 * y : 5 * y + 6] += 150
    return Images(pixels, labels, ("top", "middle", "bottom"), "bars")


def simclr(**recipe):
    torch.manual_seed(3)
    return SimCLR(backbone("small", 1, 16), augment=Views(16), **recipe)


def run(folder, images, epochs=4, method=None, **options):
    method = method or simclr()
    curve = fit(method, images, epochs=epochs, batch_size=16, seed=5, folder=folder, device="cpu", **options)
    return method, curve


class StopAfter(Callback):
    """A run that ends in the middle of an epoch, as one that is killed does."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise ConnectionAbortedError("killed")


class Grouped(SimCLR):
    """Draws groups before every second epoch, which its batches keep apart, and goes at full pace all the time."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("group", torch.zeros(48, dtype=torch.int64))
        self.seen = []

    def start_epoch(self, images, epoch):
        if epoch % 2 == 0:
            self.group = torch.randint(0, 2, (len(images),))

    def batches(self, order, batch_size):
        groups = [order[self.group[order] == label] for label in (0, 1)]
        return [part.tolist() for group in groups for part in group.split(batch_size)][:3]

    def lr_factor(self, step, steps):
        return 1.0

    def loss(self, images, labels, index):
        self.seen.append(self.group[index].unique().tolist())
        return super().loss(images, labels, index)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"accumulate": 1}, {"accumulate": 2}, {"precision": "bf16-mixed"}])
def test_a_resumed_run_ends_with_the_same_bits(images, tmp_path, options):
    whole, curve = run(tmp_path / "whole", images, **options)
    with pytest.raises(ConnectionAbortedError):
        run(tmp_path / "cut", images, callbacks=(StopAfter(2, 1),), **options)
    resumed, continued = run(tmp_path / "cut", images, **options)
    assert same(whole, resumed)
    assert [row["loss"] for row in curve] == [row["loss"] for row in continued]
    assert [row["epoch"] for row in continued] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_method_that_groups_images_has_its_batches_and_resumes_with_the_same_bits(images, tmp_path):
    def grouped():
        torch.manual_seed(3)
        return Grouped(backbone("small", 1, 16), augment=Views(16))

    whole, curve = run(tmp_path / "whole", images, method=grouped())
    assert all(len(groups) == 1 for groups in whole.seen)
    assert whole.trainer.optimizers[0].param_groups[0]["lr"] == whole.lr
    for stop in ((0, 1), (3, 0)):
        with pytest.raises(ConnectionAbortedError):
            run(tmp_path / f"cut{stop}", images, method=grouped(), callbacks=(StopAfter(*stop),))
        resumed, continued = run(tmp_path / f"cut{stop}", images, method=grouped())
        assert same(whole, resumed)
        assert [row["loss"] for row in curve] == [row["loss"] for row in continued]


def rates(folder, images, epochs, seen):
    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    run(folder, images, epochs=epochs, callbacks=(Watch(),))


@pytest.mark.slow
def test_more_epochs_have_the_learning_rates_of_the_longer_run(images, tmp_path):
    longer, continued = [], []
    rates(tmp_path / "a", images, 4, longer)
    rates(tmp_path / "b", images, 2, [])
    rates(tmp_path / "b", images, 4, continued)
    assert continued == longer[6:]
    assert len(continued) == 6


def test_a_resumed_run_has_the_warnings_of_the_epochs_before(images, tmp_path):
    class Warns(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                warnings.warn("the first epoch is special")
                warnings.warn("does not have many workers")

    with pytest.raises(ConnectionAbortedError), pytest.warns(UserWarning, match="special"):
        run(tmp_path, images, callbacks=(Warns(), StopAfter(2, 1)))
    with warnings.catch_warnings(record=True) as caught:
        run(tmp_path, images)
    assert [str(w.message) for w in caught] == ["the first epoch is special"]


def test_lightning_s_loggers_are_as_before(images, tmp_path):
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    run(tmp_path, images, epochs=1)
    assert logger.level == before


def test_different_seeds_differ_and_equal_ones_do_not(images, tmp_path):
    first, _ = run(tmp_path / "a", images, epochs=1)
    again, _ = run(tmp_path / "b", images, epochs=1)
    other = simclr()
    fit(other, images, epochs=1, batch_size=16, seed=6, folder=tmp_path / "c", device="cpu")
    assert same(first, again)
    assert not same(first, other)


def test_the_order_changes_with_the_epoch_and_the_seed_alone():
    def order(seed, epoch):
        shuffle = Shuffle(20, seed)
        shuffle.set_epoch(epoch)
        return list(shuffle)

    assert sorted(order(0, 0)) == list(range(20))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_every_epoch_sees_other_batches(images, tmp_path):
    seen = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(tuple(batch[2].tolist()))

    run(tmp_path, images, epochs=2, callbacks=(Watch(),))
    assert sorted(sum(seen[:3], ())) == sorted(sum(seen[3:], ())) == list(range(48))
    assert seen[:3] != seen[3:]


def test_the_probe_measures_what_is_learnt(images, tmp_path):
    _, curve = run(tmp_path, images, epochs=2, probe=OnlineProbe(images, images, neighbours=5))
    assert set(curve[0]) == {"epoch", "loss", "seconds", "knn", "effective_rank", "uniformity"}
    assert curve[-1]["knn"] > 0.6


def test_measuring_does_not_change_what_is_learnt(images, tmp_path):
    with_probe, _ = run(tmp_path / "a", images, epochs=2, probe=OnlineProbe(images, images))
    without, _ = run(tmp_path / "b", images, epochs=2)
    assert same(with_probe, without)


def test_collapse_is_called_by_name(images, tmp_path):
    class Constant(torch.nn.Module):
        features = 4

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, 4))

        def forward(self, x):
            return self.weight.expand(len(x), 4) + 1

    with pytest.warns(UserWarning, match="collapse"):
        run(tmp_path, images, epochs=1, method=SimCLR(Constant()), probe=OnlineProbe(images, images))


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision_trains(images, tmp_path, precision):
    _, curve = run(tmp_path, images, epochs=1, precision=precision)
    assert curve[0]["loss"] > 0


def test_accumulating_two_halves_equals_one_step_of_plain_sgd(images, tmp_path):
    """With a loss that is a mean over samples and no batch statistics, the gradients add up."""

    class Mean(SimCLR):
        views = 1

        def loss(self, views, labels, index):
            return self.encoder(views[0]).square().mean()

    def weights(batch_size, accumulate, folder):
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4))
        encoder.features = 4
        method = Mean(encoder, optimizer="sgd", lr=0.1, warmup=0.0)
        fit(
            method,
            images,
            epochs=1,
            batch_size=batch_size,
            seed=0,
            folder=tmp_path / folder,
            accumulate=accumulate,
            device="cpu",
        )
        return method.encoder[1].weight

    torch.testing.assert_close(weights(48, 1, "whole"), weights(24, 2, "halves"))


def test_logs_are_written(images, tmp_path):
    run(tmp_path, images, epochs=2, loggers=("tensorboard",), probe=OnlineProbe(images, images))
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert {"epoch", "loss", "knn"} <= set(lines[0].split(","))
    assert len(lines) == 3
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'wandb'"):
        make_logger("wandbb", tmp_path)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_library_is_missing_names_its_extra(name, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError(f"No module named '{name}'")

    kind = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}.__init__", missing)
    with pytest.raises(MissingExtra, match=rf"{name} is not installed: pip install 'counterpoise\[{name}\]'"):
        make_logger(name, tmp_path)


def test_a_truncated_checkpoint_is_refused_by_name(images, tmp_path):
    run(tmp_path, images, epochs=1)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt: not a whole checkpoint"):
        run(tmp_path, images, epochs=2)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("this ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="loaded safely"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_another_method_s_checkpoint_is_refused(images, tmp_path):
    run(tmp_path, images, epochs=1)
    with pytest.raises(InputError, match="belongs to another configuration"):
        run(tmp_path, images, epochs=2, method=SimCLR(backbone("small", 1, 16), dim=7))


def test_a_loss_that_is_not_finite_stops_the_run(images, tmp_path):
    class Broken(SimCLR):
        def loss(self, views, labels, index):
            return self.encoder(views[0]).sum() * torch.inf

    with pytest.raises(Diverged, match=r"by step 0, at a learning rate of 0\.002: the loss of Broken became"):
        run(tmp_path, images, epochs=1, method=Broken(backbone("small", 1, 16), warmup=0.0))


class Spoiling(SimCLR):
    """Fails at one step, in one of the ways in which training that diverges does."""

    def __init__(self, way, at):
        torch.manual_seed(3)
        super().__init__(backbone("small", 1, 16), augment=Views(16), lr=0.5)
        self.way, self.at = way, at

    def loss(self, views, labels, index):
        if self.global_step == self.at:
            if self.way == "outputs":
                return self.objective(*(self.head(self.encoder(view)) * math.inf for view in views))
            if self.way == "lengths":
                check_lengths("z1", self.encoder(views[0]) * 1e30)
            next(self.encoder.parameters()).data.fill_(math.nan)
            if self.way == "library":
                raise ValueError("Input X contains NaN")
        return super().loss(views, labels, index) if self.way != "silent" else self.head[0].weight.sum()


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("outputs", "z1: 1024 of 1024 numbers are NaN"),
        ("lengths", "z1: expected rows of a length"),
        ("parameter", "the parameter encoder.* holds NaN or infinity"),
        ("library", "the parameter encoder.* holds NaN or infinity"),
        ("silent", "the parameter encoder.* holds NaN or infinity"),
    ],
)
def test_divergence_is_called_so_whatever_comes_of_it(images, tmp_path, way, reason):
    probe = OnlineProbe(images, images)
    with pytest.raises(Diverged, match=f"diverged by step ., at a learning rate of .*: {reason}.*than 0.5 may help"):
        run(tmp_path, images, epochs=2, method=Spoiling(way, 2), probe=probe)


def test_other_errors_are_no_divergence(images, tmp_path):
    class Wrong(SimCLR):
        def loss(self, views, labels, index):
            raise InputError("labels: expected integers")

    with pytest.raises(InputError, match="labels: expected integers"):
        run(tmp_path, images, epochs=1, method=Wrong(backbone("small", 1, 16)))


def test_a_batch_too_small_for_its_processes_is_refused(images, tmp_path):
    class Small(SimCLR):
        def batches(self, order, batch_size):
            return [order[:1].tolist()]

    with pytest.raises(InputError, match="batch_size: expected 2 images for each of 1 processes, got a batch of 1"):
        run(tmp_path, images, epochs=1, method=Small(backbone("small", 1, 16)))


def test_what_lightning_puts_in_the_place_of_an_option_is_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr("counterpoise.training.trainer.check_precision", lambda *_: None)
    with pytest.raises(InputError, match="precision: asked for 16-mixed, for which Lightning takes bf16-mixed here"):
        run(tmp_path, images, epochs=1, precision="16-mixed")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 1}, {"accumulate": 0}])
def test_numbers_out_of_range_are_refused(images, tmp_path, wrong):
    options = {"epochs": 1, "batch_size": 4, **wrong}
    with pytest.raises(InputError, match=next(iter(wrong))):
        fit(simclr(), images, seed=0, folder=tmp_path, **options)


def test_biases_and_norms_are_not_decayed(images, tmp_path):
    method, _ = run(tmp_path, images, epochs=1)
    decayed, free = method.optimizers().param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim <= 1 for p in free["params"])
    assert free["weight_decay"] == 0


def test_the_schedule_rises_then_falls():
    values = [warmup_cosine(step, 50, 0.2) for step in range(51)]
    assert values[:10] == sorted(values[:10])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert max(values) == 1.0
    assert values[-1] == 0.0
    assert warmup_cosine(0, 10, 0.0) == 1.0
