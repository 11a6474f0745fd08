"""Players take turns: each loss moves its own player alone, in order, whatever they share."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from counterpoise.errors import Diverged, InputError
from counterpoise.learners.alternating import Alternating
from counterpoise.training.trainer import ProcessGroupConfig, fit


class Points(Dataset):
    """Pairs of numbers and their index."""

    def __init__(self, count=32):
        self.values = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.values)

    def __getitems__(self, indices):
        index = torch.tensor(indices)
        return self.values[index], index


class Pair(Alternating):
    """Two linear maps, each with a loss of its own, in which the other one stands as well."""

    def __init__(self, seen=None, **recipe):
        super().__init__(**{"optimizer": "sgd", "lr": 0.1, "warmup": 0.0, **recipe})
        self.net, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.seen = [] if seen is None else seen

    def players(self):
        return {"critic": self.critic.parameters(), "net": self.net.parameters()}

    def turns(self, inputs, index):
        self.seen.append((self.net.weight.detach().clone(), self.critic.weight.detach().clone()))
        yield "critic", self.critic(self.net(inputs)).square().mean()
        self.seen.append((self.net.weight.detach().clone(), self.critic.weight.detach().clone()))
        yield "net", -self.critic(self.net(inputs)).mean()
        self.seen.append((self.net.weight.detach().clone(), self.critic.weight.detach().clone()))


def trained(folder, learner, epochs=1, **options):
    torch.manual_seed(0)
    return fit(learner, Points(), epochs=epochs, batch_size=32, seed=0, folder=folder, device="cpu", **options)


def made(kind=Pair, **recipe):
    torch.manual_seed(1)
    return kind(**recipe)


def test_a_loss_moves_its_player_alone_and_the_next_sees_it_moved(tmp_path):
    learner = made()
    trained(tmp_path, learner)
    (net0, critic0), (net1, critic1), (net2, critic2) = learner.seen
    assert torch.equal(net0, net1)
    assert not torch.equal(critic0, critic1)
    assert torch.equal(critic1, critic2)
    assert not torch.equal(net1, net2)


def test_a_step_is_that_of_the_player_s_own_gradient(tmp_path):
    learner, values = made(weight_decay=0.0), Points().values
    reference = made(weight_decay=0.0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))  # the mean does not depend on it
    loss = reference.critic(reference.net(values[order])).square().mean()
    (slope,) = torch.autograd.grad(loss, [reference.critic.weight])
    trained(tmp_path, learner)
    torch.testing.assert_close(learner.seen[1][1], reference.critic.weight - 0.1 * slope)


def test_the_curve_has_every_player_s_loss(tmp_path):
    (row,) = trained(tmp_path, made())
    assert row["loss"] == pytest.approx(row["loss_critic"] + row["loss_net"], rel=1e-5)


def test_a_parameter_that_both_hold_is_moved_by_both(tmp_path):
    class Shared(Pair):
        def players(self):
            return {"critic": self.net.parameters(), "net": self.net.parameters()}

    learner = made(Shared)
    trained(tmp_path, learner)
    weights = [net for net, _ in learner.seen]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_ready_gradients_are_taken_in_the_order_of_the_player(tmp_path):
    class Ready(Pair):
        def turns(self, inputs, index):
            yield "critic", [torch.full_like(p, i + 1.0) for i, p in enumerate(self.critic.parameters())]

    learner, before = made(Ready, weight_decay=0.0), made(Ready)
    trained(tmp_path, learner)
    torch.testing.assert_close(learner.critic.weight, before.critic.weight - 0.1)
    torch.testing.assert_close(learner.critic.bias, before.critic.bias - 0.2)


@pytest.mark.parametrize(("clip", "expected"), [("value", 0.01), ("norm", 0.01 / 2**0.5), ("none", 5.0)])
def test_gradients_are_clipped_by_player(clip, expected, tmp_path):
    class Steep(Pair):
        def turns(self, inputs, index):
            yield "critic", [torch.full_like(self.critic.weight, 5.0), torch.zeros_like(self.critic.bias)]

    learner, before = made(Steep, weight_decay=0.0, clip=clip, clip_at=0.01), made(Steep)
    trained(tmp_path, learner)
    torch.testing.assert_close(before.critic.weight - learner.critic.weight, torch.full((1, 2), 0.1 * expected))


def test_a_learning_rate_counts_batches_however_many_turns_they_have(tmp_path):
    rates = []

    class Often(Pair):
        def turns(self, inputs, index):
            for _ in range(3):
                yield "critic", self.critic(inputs).square().mean()
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()])

        def player_lr_factor(self, player, step, steps):
            assert steps == 4
            return 1.0 if player == "net" else 0.5**step

    trained(tmp_path, made(Often), epochs=4)
    assert rates == [[0.1 * 0.5**k, 0.1] for k in range(4)]


class Stop(lightning.Callback):
    """Ends training in the middle of an epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2:
            raise ConnectionAbortedError


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    def adam():
        return made(optimizer="adamw", lr=0.01, warmup=0.1)

    whole, cut, resumed = adam(), adam(), adam()
    curve = trained(tmp_path / "whole", whole, epochs=4)
    with pytest.raises(ConnectionAbortedError):
        trained(tmp_path / "cut", cut, epochs=4, callbacks=(Stop(),))
    continued = trained(tmp_path / "cut", resumed, epochs=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert [row["loss"] for row in curve] == [row["loss"] for row in continued]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, "accumulate: expected 1, since players take turns, got 2"),
        ({"process_group": ProcessGroupConfig(devices=2)}, "devices: Pair trains in turns, in one process, got 2"),
    ],
)
def test_what_would_change_a_turn_is_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        trained(tmp_path, made(), **options)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (("critik", torch.zeros(())), "player 'critik' is not known; did you mean 'critic'"),
        (("critic", [torch.zeros(1, 2)]), "expected a gradient for each of 2 parameters of critic, got 1"),
    ],
)
def test_a_turn_that_makes_no_sense_is_refused(turn, message, tmp_path):
    class Wrong(Pair):
        def turns(self, inputs, index):
            yield turn

    with pytest.raises(InputError, match=message):
        trained(tmp_path, made(Wrong))


def test_a_player_without_parameters_is_named(tmp_path):
    class Empty(Pair):
        def players(self):
            return {"critic": self.critic.parameters(), "nobody": []}

    with pytest.raises(InputError, match="expected nobody to have parameters that learn"):
        trained(tmp_path, made(Empty))


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    class Broken(Pair):
        def turns(self, inputs, index):
            yield "net", self.net(inputs).mean() * torch.nan

    with pytest.raises(Diverged, match="the loss of Broken became nan"):
        trained(tmp_path, made(Broken))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(("recipe", "message"), [({"clip": "size"}, "clip 'size'"), ({"clip_at": 0.0}, "clip_at")])
def test_clipping_is_checked(recipe, message):
    with pytest.raises(InputError, match=message):
        Pair(**recipe)
