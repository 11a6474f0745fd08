"""What any learner has: any data, a network of its own, nothing to train where there is nothing; kinds of views."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from counterpoise.errors import InputError
from counterpoise.learners.learner import Learner, warmup_cosine
from counterpoise.training.trainer import fit


class Lines(Dataset):
    """Numbers and twice these numbers: neither images nor targets of the library."""

    def __init__(self, count=64):
        self.x = torch.linspace(-1, 1, count)[:, None]

    def __len__(self):
        return len(self.x)

    def __getitems__(self, indices):
        x = self.x[indices]
        return x, 2 * x[:, 0]


class Regression(Learner):
    """A straight line through pairs of numbers."""

    def __init__(self, **recipe):
        super().__init__(**recipe)
        self.net = nn.Linear(1, 1)

    def loss(self, inputs, targets):
        return nn.functional.mse_loss(self.net(inputs)[:, 0], targets)


class Means(Learner):
    """Nothing to train: it keeps the mean of what it sees."""

    trains = False

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("drawn", torch.zeros(1))

    def start_epoch(self, data, epoch):
        assert epoch == 0
        self.mean.copy_(data.x.mean())
        self.drawn.copy_(torch.rand(1))


def test_any_data_of_batches_is_trained_on(tmp_path):
    torch.manual_seed(0)
    learner = Regression(lr=0.3, optimizer="sgd", weight_decay=0.0)
    seen = []
    curve = fit(
        learner,
        Lines(),
        epochs=20,
        batch_size=16,
        seed=0,
        folder=tmp_path,
        device="cpu",
        probe=lambda trained: (seen.append(trained) or {"weight": float(trained.net.weight)}, None),
    )
    assert float(learner.net.weight) == pytest.approx(2.0, abs=0.05)
    assert all(one is learner for one in seen)
    assert curve[-1]["weight"] == pytest.approx(float(learner.net.weight))
    assert (tmp_path / "curve.csv").read_text().startswith("epoch,loss,seconds,weight")


def test_what_trains_nothing_sees_all_data_once_by_the_seed(tmp_path):
    rows, drawn = [], []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        learner = Means()
        rows.append(fit(learner, Lines(), epochs=5, batch_size=16, seed=seed, folder=tmp_path / name, device="cpu"))
        drawn.append(float(learner.drawn))
    assert drawn[0] == drawn[1] != drawn[2]
    (row,) = rows[0]
    assert row.keys() == {"epoch", "seconds"}, "there is no loss"
    assert not learner.training
    assert (tmp_path / "a" / "curve.csv").exists()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("step", "steps", "warmup", "message"),
    [
        (-1, 10, 0.1, "step: expected a whole number of at least 0, got -1"),
        (0.5, 10, 0.1, "step: expected a whole number"),
        (0, 0, 0.1, "steps: expected a whole number of at least 1, got 0"),
        (0, 10, 1.5, "warmup: expected a number of at least 0 and of at most 1, got 1.5"),
        (0, 10, float("nan"), "warmup: expected .* got nan"),
    ],
)
def test_a_schedule_of_numbers_that_make_no_sense_is_refused(step, steps, warmup, message):
    with pytest.raises(InputError, match=message):
        warmup_cosine(step, steps, warmup)


@pytest.mark.parametrize("warmup", [0, 0.1, 1])
def test_the_schedule_stays_within_0_and_1_rises_and_falls(warmup):
    shares = [warmup_cosine(step, 20, warmup) for step in range(30)]
    top = shares.index(max(shares))
    assert min(shares) >= 0
    assert max(shares) == 1
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert warmup == 1 or shares[20:] == [0] * 10


def test_a_learner_must_say_what_its_loss_is():
    with pytest.raises(NotImplementedError, match="Learner must define loss"):
        Learner().loss()


@pytest.mark.usefixtures("plain_shapes")
def test_an_unknown_optimizer_is_refused():
    with pytest.raises(InputError, match="optimizer 'adam' is not known; did you mean 'adamw'"):
        Learner(optimizer="adam")
