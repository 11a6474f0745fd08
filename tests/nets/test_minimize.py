"""Small trainings: steps are those of the optimiser alone, and what learns is left without gradients."""

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.minimize import minimize, train_one_cycle


def regression():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(23, 3, generator=rng)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
    net = nn.Linear(3, 1)
    nn.init.constant_(net.weight, 0.1)
    nn.init.zeros_(net.bias)
    return net, lambda rows: (net(x[rows])[:, 0] - y[rows]).square().mean()


def test_the_steps_are_those_of_the_optimiser_written_out():
    (net, loss), (other, theirs) = regression(), regression()
    batches = torch.arange(20).view(5, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    found = minimize(loss, batches, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    optimizer, expected = torch.optim.Adam(other.parameters(), lr=0.05), []
    for rows in batches:
        optimizer.zero_grad()
        value = theirs(rows)
        value.backward()
        optimizer.step()
        expected.append(value.item())
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
    assert found == expected
    assert torch.equal(net.weight, other.weight)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 32)


def test_a_net_learns_and_is_left_without_gradients():
    net, loss = regression()
    before = loss(torch.arange(23)).item()
    torch.manual_seed(0)
    losses = train_one_cycle(net, loss, samples=23, epochs=60, batch_size=5, lr=0.1)
    assert len(losses) == 4
    assert sum(losses) / 4 < before / 100
    assert all(not p.requires_grad and p.grad is None for p in net.parameters())


def test_each_pass_sees_other_rows_once_and_a_large_batch_is_cut():
    net, loss = regression()
    seen = []
    train_one_cycle(net, lambda rows: (seen.append(rows), loss(rows))[1], samples=7, epochs=2, batch_size=3, lr=0.1)
    assert [len(rows) for rows in seen] == [3, 3, 3, 3]
    assert len(torch.cat(seen[:2]).unique()) == 6
    assert not torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
    train_one_cycle(net, lambda rows: (seen.append(rows), loss(rows))[1], samples=7, epochs=1, batch_size=99, lr=0.1)
    assert len(seen[-1]) == 7


def test_no_pass_changes_nothing_but_the_gradients():
    net, loss = regression()
    before = net.weight.clone()
    assert train_one_cycle(net, loss, samples=23, epochs=0, batch_size=4, lr=0.1) == []
    assert torch.equal(net.weight, before)
    assert not net.weight.requires_grad


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"epochs": -1}, {"batch_size": 0}, {"lr": 0.0}])
def test_numbers_out_of_range_are_refused_by_name(wrong):
    net, loss = regression()
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected"):
        train_one_cycle(net, loss, **{"samples": 4, "epochs": 1, "batch_size": 2, "lr": 0.1, **wrong})
