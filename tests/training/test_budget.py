"""How long is trained: epochs, steps or minutes; and what is settled before a run is named."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import Dataset

from counterpoise.errors import InputError
from counterpoise.learners.alternating import Alternating
from counterpoise.learners.learner import Learner
from counterpoise.training import compiling, run
from counterpoise.training.compiling import check_compiler
from counterpoise.training.run import ImageSettings, LearnerSettings, Run, Settings, begin
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint

ROWS = 40


class Rows(Dataset):
    def __init__(self):
        self.values = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(7))

    def __len__(self):
        return ROWS

    def __getitems__(self, indices):
        index = torch.tensor(indices)
        return self.values[index], index


class Line(Learner):
    """Records the rate and the rows of every batch."""

    def __init__(self):
        torch.manual_seed(1)
        super().__init__(lr=0.1)
        self.net = nn.Linear(3, 1)
        self.rates, self.sizes = [], []

    def loss(self, rows, index):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.sizes.append(len(rows))
        noise = torch.randn(len(rows), 1)
        return (self.net(rows) - noise).square().mean()


class Short(Line):
    """Has fewer batches in every second epoch."""

    def start_epoch(self, data, epoch):
        self.epoch = epoch

    def batches(self, order, batch_size):
        return super().batches(order, batch_size)[: 2 if self.epoch % 2 else None]


class Still(Line):
    trains = False


class Stop(Callback):
    def __init__(self, epoch, batch=0):
        self.at = (epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise ConnectionAbortedError("killed")


def trained(folder, learner=None, **options):
    learner = learner or Line()
    if "epochs" not in options:
        options.setdefault("steps", 9)
    return learner, fit(learner, Rows(), batch_size=10, seed=0, folder=folder, device="cpu", **options)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_steps_cut_the_last_epoch_and_the_schedule_ends_with_them(tmp_path):
    learner, curve = trained(tmp_path, steps=9)  # of 4 an epoch
    assert [row["epoch"] for row in curve] == [1, 2, 3]
    assert len(learner.rates) == 9
    assert learner.trainer.optimizers[0].param_groups[0]["lr"] == 0  # after the ninth
    assert learner.rates[0] == 0.1  # a tenth of 9 steps is less than one
    assert learner.rates == sorted(learner.rates, reverse=True)


def test_steps_that_fill_their_epochs_train_as_these_epochs_do(tmp_path):
    by_epochs, curve = trained(tmp_path / "a", epochs=3)
    by_steps, same_curve = trained(tmp_path / "b", steps=12)
    assert same(by_epochs, by_steps)
    assert [row["loss"] for row in curve] == [row["loss"] for row in same_curve]


def test_a_step_adds_up_its_batches(tmp_path):
    learner, _ = trained(tmp_path, steps=5, accumulate=2)  # two steps an epoch of 4 batches
    assert len(learner.rates) == 10
    learner, curve = trained(tmp_path / "uneven", steps=5, accumulate=3)  # 3 and 1 batches, 3 and 1, then 3
    assert len(learner.rates) == 11
    assert len(curve) == 3


def test_epochs_with_fewer_batches_are_more_of_them(tmp_path):
    learner, curve = trained(tmp_path, Short(), steps=13)
    assert len(learner.rates) == 13  # 4, 2, 4, 2, 1
    assert len(curve) == 5
    assert learner.trainer.optimizers[0].param_groups[0]["lr"] == 0


@pytest.mark.parametrize("kind", [Line, Short])
@pytest.mark.parametrize("stop", [(1, 1), (2, 0)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_of_steps_resumes_with_the_same_bits(tmp_path, kind, stop, accumulate):
    whole, curve = trained(tmp_path / "whole", kind(), accumulate=accumulate)
    with pytest.raises(ConnectionAbortedError):
        trained(tmp_path / "cut", kind(), accumulate=accumulate, callbacks=(Stop(*stop),))
    resumed, continued = trained(tmp_path / "cut", kind(), accumulate=accumulate)
    assert same(whole, resumed)
    assert [row["loss"] for row in curve] == [row["loss"] for row in continued]


@pytest.mark.parametrize("kind", [Line, Short])
def test_what_has_all_its_steps_is_not_trained_again(tmp_path, kind):
    first, curve = trained(tmp_path, kind())
    again, unchanged = trained(tmp_path, kind())
    assert again.rates == []
    assert same(first, again)
    assert unchanged == curve


def test_more_steps_go_on_after_the_epoch_that_was_cut(tmp_path):
    trained(tmp_path, steps=6)  # 4 and 2
    longer, curve = trained(tmp_path, steps=13)  # then 4 and 3
    assert len(longer.rates) == 7
    assert len(curve) == 4
    assert longer.trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_players_that_take_turns_count_their_batches(tmp_path):
    class Pair(Alternating):
        def __init__(self):
            super().__init__(lr=0.1)
            self.net, self.other, self.count = nn.Linear(3, 1), nn.Linear(3, 1), 0

        def players(self):
            return {"net": self.net.parameters(), "other": self.other.parameters()}

        def turns(self, rows, index):
            self.count += 1
            yield "net", self.net(rows).square().mean()
            yield "other", self.other(rows).square().mean()

    learner, _ = trained(tmp_path, Pair(), steps=6)
    assert learner.count == 6
    assert [optimizer.param_groups[0]["lr"] for optimizer in learner.trainer.optimizers] == [0, 0]


def test_what_has_nothing_to_train_takes_any_number_of_steps(tmp_path):
    _, curve = trained(tmp_path, Still(), steps=3)
    assert [row["epoch"] for row in curve] == [1]


def test_epochs_and_steps_are_not_given_together(tmp_path):
    with pytest.raises(InputError, match="expected either epochs or steps, got 2 and 3"):
        trained(tmp_path, epochs=2, steps=3)
    with pytest.raises(InputError, match="expected either epochs or steps, got neither"):
        trained(tmp_path, steps=None)


def test_one_measure_of_length_is_in_the_settings_and_ten_epochs_without():
    assert LearnerSettings().epochs == Settings().epochs == 10
    assert LearnerSettings(steps=50).epochs is None
    assert LearnerSettings(minutes=2).minutes == 2
    with pytest.raises(InputError, match="expected only one of epochs, steps and minutes, got epochs 10 and steps 50"):
        LearnerSettings(epochs=10, steps=50)
    with pytest.raises(InputError, match="got steps 50 and minutes 1"):
        LearnerSettings(steps=50, minutes=1)
    for wrong in ({"steps": 0}, {"minutes": 0.0}, {"epochs": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            LearnerSettings(**wrong)


def test_a_run_goes_on_for_more_steps_and_no_other_change(tmp_path):
    def of(**settings):
        return Run("simclr", "digits", settings=ImageSettings(device="cpu", **settings))

    begin(of(steps=5), tmp_path)
    trained(tmp_path, steps=5)
    assert read_checkpoint(tmp_path / CHECKPOINT)["epoch"] == 1
    assert begin(of(steps=8), tmp_path) == [2]
    for other in ({"steps": 4}, {"epochs": 20}, {"steps": 9, "batch_size": 8}):
        with pytest.raises(InputError, match="holds a run of another configuration"):
            begin(of(**other), tmp_path)


def test_compiling_without_a_compiler_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="compile: needs a C\\+\\+ compiler, and 'no-such-compiler' was not found"):
        LearnerSettings(compile=True, device="cpu")
    LearnerSettings(compile=False, device="cpu")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs Triton on CUDA"):
        check_compiler("cuda")


def test_leaving_out_needs_the_factor():
    with pytest.raises(InputError, match="leave_out: is a value of the factor that group names; expected group"):
        ImageSettings(leave_out="sketch")
    assert run.ImageSettings(group="domain", leave_out="sketch").leave_out == "sketch"
