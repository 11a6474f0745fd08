"""`Method.of`: an objective of two views becomes a method."""

import inspect

import pytest
import torch
from torch import nn

from counterpoise.contrast.dcl import DCLLoss
from counterpoise.contrast.simclr import NTXentLoss, SimCLR
from counterpoise.errors import InputError
from counterpoise.learners.learner import Learner
from counterpoise.learners.method import Method, ObjectiveMethod
from counterpoise.registry.signatures import describe
from worlds import Encoder


class Learnt(nn.Module):
    """An objective with a parameter."""

    def __init__(self, start: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, z1, z2):
        return self.scale * (z1 - z2).square().mean()


def views(count=8):
    x = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return [x, x + 0.1]


def loss_of(learner):
    return learner.loss(views(), torch.zeros(8, dtype=torch.int64), torch.arange(8))


def test_with_simclr_s_objective_it_is_simclr():
    losses = []
    for kind in (Method.of(NTXentLoss), SimCLR):
        torch.manual_seed(0)
        losses.append(loss_of(kind(Encoder(4, features=6), temperature=0.3)))
    assert losses[0] == losses[1]


def test_the_objective_s_arguments_are_the_method_s():
    kind = Method.of(DCLLoss, hidden=10, dim=3)
    found = inspect.signature(kind).parameters
    assert list(found) == ["encoder", *inspect.signature(DCLLoss).parameters, "hidden", "dim", "others"]
    learner = kind(encoder=Encoder(4, features=6), temperature=0.7, lr=0.5, hidden=12)
    assert (learner.objective.temperature, learner.lr) == (0.7, 0.5)
    assert [layer.out_features for layer in learner.head if isinstance(layer, nn.Linear)] == [12, 3]
    with pytest.raises(TypeError, match="tempreature"):
        kind(encoder=Encoder(4, features=6), tempreature=0.7)


def test_an_objective_s_parameters_learn_and_each_run_has_its_own():
    for kind in (Method.of(Learnt), Method.of(Learnt(2.0))):
        first, second = kind(encoder=Encoder(4, features=6)), kind(encoder=Encoder(4, features=6))
        assert first.objective.scale is not second.objective.scale
        assert any(p is first.objective.scale for group in first.parameter_groups() for p in group["params"])
    assert first.objective.scale == 2.0
    assert Method.of(Learnt)(encoder=Encoder(4, features=6), start=3.0).objective.scale == 3.0


def test_it_says_what_it_is_of():
    kind = Method.of(Learnt)
    assert issubclass(kind, ObjectiveMethod)
    assert (kind.__doc__, kind.__name__) == ("An objective with a parameter.", "LearntMethod")
    assert {argument.name for argument in describe("learners.method", "ObjectiveMethod").arguments} >= {"hidden", "dim"}


class OneView(nn.Module):
    def forward(self, z):
        return z.sum()


class Named(nn.Module):
    def __init__(self, lr: float = 1.0):
        super().__init__()

    def forward(self, z1, z2):
        return z1.sum()


class Rows(nn.Module):
    def forward(self, z1, z2):
        return (z1 - z2).square().sum(1)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (OneView, r"OneView: expected an objective of two views, forward\(self, z1, z2\), got forward\(self, z\)"),
        (OneView(), r"OneView: expected an objective of two views"),
        (Named, r"Named: the method has an argument 'lr' of its own; call it otherwise"),
        (SimCLR, r"objective: expected an objective of two views, got SimCLR, which is a method"),
        (Learner, r"expected an nn\.Module with a `forward`|which is a method"),
        (nn.Module, r"objective: expected an nn\.Module with a `forward`, or a class of such, got Module"),
        (int, r"objective: expected an nn\.Module with a `forward`, or a class of such, got int"),
        (3, r"objective: expected an nn\.Module with a `forward`, or a class of such, got int"),
    ],
)
def test_what_is_no_objective_of_two_views_is_refused(objective, message):
    with pytest.raises(InputError, match=message):
        Method.of(objective)


def test_a_loss_that_is_no_scalar_is_refused_by_name():
    with pytest.raises(InputError, match=r"Rows: expected the loss as a scalar tensor, got \[8\]"):
        loss_of(Method.of(Rows)(encoder=Encoder(4, features=6)))


@pytest.mark.parametrize("width", [{"hidden": 0}, {"dim": 1.5}])
@pytest.mark.usefixtures("plain_shapes")
def test_widths_are_checked(width):
    with pytest.raises(InputError, match=next(iter(width))):
        Method.of(Learnt, **width)
