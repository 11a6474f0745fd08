"""Training loops for small auxiliary networks of methods and studies, without Lightning, checkpoints or probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.ops.checks import check_counts, check_number

Rows = Int[Tensor, "..."]


def minimize(
    loss: Callable[[Rows], Float[Tensor, ""]],
    batches: Iterable[Rows],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[float]:
    """Take one optimiser step for each batch.

    Args:
        loss: maps the row indices of a batch to its loss.
        batches: the row indices of each batch.
        optimizer: holds the parameters to train.
        schedule: learning-rate schedule, stepped after each batch.

    Returns:
        The loss of each batch before its step.

    Examples:
        >>> x = nn.Parameter(torch.tensor(3.0))
        >>> minimize(lambda rows: (x - rows).square(), torch.tensor([1, 1]), torch.optim.SGD([x], lr=0.25))
        [4.0, 1.0]
    """
    losses = []
    for rows in batches:
        value = loss(rows)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(value.item())
    return losses


def train_one_cycle(
    module: nn.Module,
    loss: Callable[[Rows], Float[Tensor, ""]],
    samples: int,
    epochs: int,
    batch_size: int,
    lr: float,
) -> list[float]:
    """Train with AdamW and a one-cycle learning rate (a rise, then a cosine decay), in random order.

    Args:
        module: trained in place; its parameters require a gradient only while this runs.
        loss: maps the row indices of a batch to its loss; batches are drawn from torch's global generator.
        samples: number of samples; those that do not fill a batch are left out of a pass.
        epochs: passes over the samples; 0 leaves the module unchanged.
        batch_size: samples a step, at most all of them.
        lr: peak learning rate, above 0.

    Returns:
        The loss of each batch of the last pass.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> net = nn.Linear(1, 1)
        >>> len(train_one_cycle(net, lambda rows: net.weight.square().sum(), samples=9, epochs=2, batch_size=4, lr=0.1))
        2
        >>> net.weight.requires_grad, net.weight.grad
        (False, None)
    """
    check_number("epochs", epochs, at_least=0, whole=True)
    check_number("lr", lr, above=0)
    check_counts(samples=samples, batch_size=batch_size)
    batch_size = min(batch_size, samples)
    batches = samples // batch_size
    losses: list[float] = []
    module.requires_grad_()
    if epochs:
        optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * batches + 1, pct_start=0.1)
    for _ in range(epochs):
        order = torch.randperm(samples)[: batches * batch_size].view(batches, batch_size)
        losses = minimize(loss, order, optimizer, schedule)
    module.requires_grad_(False)
    for parameter in module.parameters():
        parameter.grad = None
    return losses
