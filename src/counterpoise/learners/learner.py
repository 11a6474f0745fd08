"""What everything that trains shares: a loss of a batch, an optimiser with its schedule, and a network that is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.errors import Diverged, NonFinite, unknown
from counterpoise.ops.checks import all_finite, check_counts, check_number

Optimizer = Literal["adamw", "sgd"]


class Learner(lightning.LightningModule):
    """A `LightningModule` that any data can train: a subclass sets `net` and defines `loss`.

    Args:
        optimizer: "adamw", or "sgd" with momentum 0.9.
        lr: peak learning rate; reached after the warm-up, then lowered along a cosine to 0.
        weight_decay: decay of the weights; biases and normalisation parameters are never decayed.
        warmup: share of all steps in which the learning rate rises linearly from 0.

    Attributes:
        net: the network that a run keeps and scores.
        trains: whether there is anything to train. Where there is not, `start_epoch` is called once with all data.
        max_steps: steps of the optimiser after which training ends; `None` where a number of epochs ends it.

    Examples:
        >>> class LinearRegression(Learner):
        ...     def __init__(self, width, **recipe):
        ...         super().__init__(**recipe)
        ...         self.net = nn.Linear(width, 1)
        ...     def loss(self, inputs, targets):
        ...         return nn.functional.mse_loss(self.net(inputs)[:, 0], targets)
        >>> LinearRegression(3, lr=0.1).loss(torch.zeros(2, 3), torch.zeros(2)).shape
        torch.Size([])
    """

    net: nn.Module
    trains: bool = True
    max_steps: int | None = None

    def __init__(
        self,
        *,
        optimizer: Optimizer = "adamw",
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.1,
    ):
        super().__init__()
        if optimizer not in get_args(Optimizer):
            raise unknown("optimizer", optimizer, get_args(Optimizer))
        check_number("lr", lr, above=0)
        check_number("weight_decay", weight_decay, at_least=0)
        check_number("warmup", warmup, at_least=0, at_most=1)
        self.optimizer, self.lr, self.weight_decay, self.warmup = optimizer, lr, weight_decay, warmup

    def loss(self, *batch: Any) -> Float[Tensor, ""]:
        """The loss of one batch, which comes as the data set's `__getitems__` returns it."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(*batch)")

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Called before an epoch with all training data, to cluster it or to learn from it first; nothing by default.

        Random numbers drawn here come from the run's seed and the epoch alone. What is found must be kept in buffers
        or parameters, so that a checkpoint holds it. Of several processes, each does the same with all data.

        Args:
            data: the training data, in the order of its index.
            epoch: from 0.
        """

    def check_data(self, data: Any, batch_size: int, shares: int = 1) -> None:
        """Refuse training data that it cannot learn from, before anything is written; nothing by default.

        Args:
            data: as `start_epoch` takes it.
            batch_size: items a step, of all processes together.
            shares: how many processes divide a batch without seeing each other's rows.
        """

    def check_training(self, accumulate: int, precision: str, processes: int) -> None:
        """Refuse a way of training that it does not have, before anything is written; nothing by default.

        Args:
            accumulate: batches whose gradients are added up before each step.
            precision: "32", "16-mixed" or "bf16-mixed".
            processes: how many train together.
        """

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """How an epoch's items are divided into batches; by default as they come, without a last smaller batch.

        Args:
            order: the indices of all training items, in random order.
            batch_size: items a step, of all processes together.

        Returns:
            The indices of each batch; at most as many batches as by default.
        """
        return order[: len(order) // batch_size * batch_size].view(-1, batch_size).tolist()

    def lr_factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at a step; by default `warmup_cosine`."""
        return warmup_cosine(step, steps, self.warmup)

    def training_steps(self) -> int:
        """Steps of the whole training, which the schedule is fitted to."""
        return self.max_steps or int(self.trainer.estimated_stepping_batches)

    def diagnostics(self, *parts: Any) -> dict[str, float]:
        """Figures that the method alone knows after training, by name; nothing by default.

        Args:
            *parts: of the task's data; those of a task on images are train, probe and test.
        """
        return {}

    def training_step(self, batch: Any, batch_index: int) -> Any:
        with divergence_named(self):
            loss = self.batch_loss(batch)
            self.check_loss(loss)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def batch_loss(self, batch: Any) -> Float[Tensor, ""]:
        """`loss` of a batch as the loader gives it."""
        return self.loss(*batch)

    def check_loss(self, loss: Float[Tensor, ""]) -> None:
        """Refuse a loss that is NaN or infinite."""
        if not torch.isfinite(loss):
            raise NonFinite(f"the loss of {type(self).__name__} became {loss.item()}")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns, divided by what is decayed and what is not, as an optimiser of torch takes it."""
        return self.groups_of([p for p in self.parameters() if p.requires_grad])

    def groups_of(self, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Parameters divided by whether they are decayed: those of more than one dimension are."""
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of some groups of parameters, by the learner's own settings."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
        return torch.optim.AdamW(groups, lr=self.lr)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameter_groups())
        steps = self.training_steps()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextmanager
def divergence_named(module: Any) -> Iterator[None]:
    """Where weights or what they give are no finite numbers any more, that is the error, whatever else came of it.

    Args:
        module: a `LightningModule` with an attribute `lr`.

    Raises:
        Diverged: with the step and the learning rate, in place of the error that this led to.
    """
    try:
        yield
    except Exception as error:
        broken = broken_parameter(module)
        if broken is None and not isinstance(error, NonFinite):
            raise
        raise diverged(module, broken or str(error)) from error


def broken_parameter(module: nn.Module) -> str | None:
    """The first parameter that holds NaN or infinity, in words; `None` where there is none.

    Examples:
        >>> broken_parameter(nn.Linear(2, 2))
    """
    names = (name for name, x in module.named_parameters() if not all_finite(x))
    return next((f"the parameter {name} holds NaN or infinity" for name in names), None)


def diverged(module: Any, reason: str) -> Diverged:
    """The error for training that has left all bounds, with its step and learning rate."""
    optimizers = module.trainer.optimizers if module._trainer else []
    lr = optimizers[0].param_groups[0]["lr"] if optimizers else module.lr
    return Diverged(
        f"training diverged by step {module.global_step}, at a learning rate of {lr:.3g}: {reason}; "
        f"a smaller lr than {module.lr:g} may help"
    )


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, then half a cosine down to 0.

    Args:
        step: from 0; beyond the last one the share is 0.
        steps: how many there are, at least 1.
        warmup: share of the steps in which it rises, from 0 to 1.

    Returns:
        From 0 to 1.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> [round(warmup_cosine(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    check_number("step", step, at_least=0, whole=True)
    check_counts(steps=steps)
    check_number("warmup", warmup, at_least=0, at_most=1)
    rise = warmup * steps
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise))))
