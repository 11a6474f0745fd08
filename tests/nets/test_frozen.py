"""Frozen modules: nothing around them trains, moves or stores them by accident; gradients pass through them."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.frozen import Frozen

THIRD = torch.ones((), dtype=torch.float64) / 3


class Teacher(nn.Sequential):
    features = 2

    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    def logits(self, x, scale=1.0):
        return scale * self(x)


class Student(nn.Module):
    """A net around a frozen one."""

    def __init__(self, stored):
        super().__init__()
        self.own = nn.Linear(3, 2)
        self.inner = nn.ModuleDict({"old": Frozen(Teacher(), stored)})

    def forward(self, x):
        return self.own(x) - self.inner["old"](x)


def batch(dtype=torch.float32):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


either = pytest.mark.parametrize("stored", [False, True])


@either
def test_it_computes_what_the_module_does_in_evaluation(stored):
    teacher = Teacher()
    teacher(batch())  # so that its statistics are not those of the start
    expected = copy.deepcopy(teacher).eval()(batch())
    frozen = Frozen(teacher, stored)
    assert torch.equal(frozen(batch()), expected)
    assert torch.equal(frozen.logits(batch(), scale=2.0), 2 * expected)
    assert frozen.features == 2
    assert frozen.module is teacher
    with pytest.raises(AttributeError, match="absent"):
        _ = frozen.absent
    assert not hasattr(frozen, "absent")
    assert "Dropout" in repr(frozen)


@either
def test_nothing_around_it_puts_it_in_training(stored):
    net = Student(stored)
    before = copy.deepcopy(net.inner["old"].module.state_dict())
    expected = net.inner["old"](batch())

    def reset(module):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    net.train().requires_grad_().apply(reset)
    net.inner["old"].train().requires_grad_()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, weight_decay=0.5)
    own = net.own.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        net(batch()).square().sum().backward()
        optimizer.step()
    teacher = net.inner["old"].module
    assert not torch.equal(net.own.weight, own)
    assert not any(module.training for module in [net.inner["old"], *teacher.modules()])
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert torch.equal(net.inner["old"](batch()), expected)


@either
def test_the_gradient_of_its_input_passes(stored):
    teacher = Teacher().double()
    frozen = Frozen(copy.deepcopy(teacher), stored)
    x, same = batch(torch.float64).requires_grad_(), batch(torch.float64).requires_grad_()
    frozen(x).square().sum().backward()
    teacher.eval()(same).square().sum().backward()
    assert x.grad.abs().min() > 0
    assert torch.equal(x.grad, same.grad)
    assert not frozen(batch(torch.float64)).requires_grad


@either
def test_it_counts_for_no_parameters(stored):
    net = Student(stored)
    assert [name for name, _ in net.named_parameters()] == ["own.weight", "own.bias"]
    assert not list(net.buffers())
    assert not any(isinstance(module, Teacher) for module in net.modules())


def test_gradients_from_before_are_dropped():
    teacher = Teacher()
    teacher(batch()).sum().backward()
    assert all(p.grad is None for p in Frozen(teacher).module.parameters())


# --- state dicts ---


def test_what_is_not_stored_is_neither_saved_nor_missed():
    net, other = Student(stored=False), Student(stored=False)
    before = copy.deepcopy(other.inner["old"].module.state_dict())
    assert [*net.state_dict()] == ["own.weight", "own.bias"]
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.own.weight, net.own.weight)
    assert all(torch.equal(x, before[name]) for name, x in other.inner["old"].module.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*inner\.old\.0\.weight"):
        other.load_state_dict(Student(stored=True).state_dict())


def test_what_is_stored_is_saved_and_loaded_by_the_names_of_a_submodule():
    net, other = Student(stored=True), Student(stored=True)
    plain = nn.ModuleDict({"own": nn.Linear(3, 2), "inner": nn.ModuleDict({"old": Teacher()})})
    saved = net.state_dict()
    assert [*saved] == [*plain.state_dict()]
    plain.load_state_dict(saved)
    assert not torch.equal(other(batch()), net(batch()))
    assert str(other.load_state_dict(saved, strict=True)) == "<All keys matched successfully>"
    assert torch.equal(other(batch()), net(batch()))
    assert torch.equal(Frozen(Teacher(), stored=True).state_dict()["1.running_var"], torch.ones(4))


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_frozen_too(assign):
    net = Student(stored=True)
    saved = {name: nn.Parameter(x + 1) if "weight" in name else x for name, x in net.state_dict().items()}
    other = Student(stored=True)
    other.load_state_dict(saved, assign=assign)
    assert torch.equal(other.inner["old"].module[0].weight, saved["inner.old.0.weight"])
    assert not any(p.requires_grad for p in other.inner["old"].module.parameters())


def test_names_that_do_not_fit_are_said_as_of_any_module():
    net, saved = Student(stored=True), Student(stored=True).state_dict()
    del saved["inner.old.3.bias"]
    saved["inner.old.9.bias"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match=r"Missing key.*inner\.old\.3\.bias"):
        net.load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*inner\.old\.9\.bias"):
        net.load_state_dict(saved)
    wrong = net.load_state_dict(saved, strict=False)
    assert wrong.missing_keys == ["inner.old.3.bias"]
    assert wrong.unexpected_keys == ["inner.old.9.bias"]
    saved["inner.old.0.weight"] = torch.zeros(4, 9)
    with pytest.raises(RuntimeError, match=r"(?s)inner\.old: .*size mismatch for 0\.weight"):
        net.load_state_dict(saved)


# --- copies and moves ---


@either
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_has_a_frozen_module_of_its_own(stored, duplicate):
    net = Student(stored)
    twin = duplicate(net)
    mine, theirs = net.inner["old"], twin.inner["old"]
    assert torch.equal(twin(batch()), net(batch()))
    assert theirs.stored == stored
    with torch.no_grad():
        theirs.module[3].weight.add_(1)
    assert not torch.equal(twin(batch()), net(batch()))
    assert mine.module is not theirs.module
    assert not any(p.requires_grad for p in theirs.module.parameters())
    assert not any(module.training for module in twin.train().inner["old"].module.modules())


@either
def test_it_moves_with_the_net_around_it(stored):
    net = Student(stored).double()
    assert net(batch(torch.float64)).dtype == torch.float64
    assert not any(p.requires_grad for p in net.inner["old"].module.parameters())
    net.to("meta")
    assert all(x.is_meta for x in net.inner["old"].module.state_dict().values())


def test_exact_constants_in_it_are_exact_after_a_move():
    class Third(ExactConstants):
        def __init__(self):
            super().__init__()
            self.register_exact("third", THIRD)

    assert torch.equal(nn.Sequential(Frozen(Third())).double()[0].third, THIRD)


@either
def test_distributed_training_takes_it(stored, tmp_path):
    """A gradient for the net's own parameters, none for it, and no parameter that waits for a gradient in vain."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(Student(stored))
        for _ in range(2):
            net(batch()).square().sum().backward()
    finally:
        dist.destroy_process_group()
    assert all(p.grad is not None for p in net.parameters())
    assert not any(p.grad is not None for p in net.module.inner["old"].module.parameters())


@pytest.mark.usefixtures("plain_shapes")
def test_what_is_no_module_is_refused_by_name():
    with pytest.raises(InputError, match="module: expected a module, got function"):
        Frozen(lambda x: x)
