"""Training in turns: several players, each with an optimiser of its own, step one after another on each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import InputError, unknown
from counterpoise.learners.learner import Learner, divergence_named
from counterpoise.ops.checks import check_number

Clip = Literal["none", "value", "norm"]
Turn = tuple[str, "Float[Tensor, ''] | Sequence[Tensor | None]"]


class Alternating(Learner):
    """A `Learner` whose players take turns: adversaries, a teacher and its student, two optimisers of one network.

    A subclass defines `players` and `turns`. For each loss that `turns` yields, the gradient is taken with respect to
    that player's parameters alone, and its optimiser steps before `turns` goes on. So no gradient of one player's loss
    reaches another, but for parameters that both hold, and a later loss of the same batch sees the parameters as they
    are after the earlier steps.

    Args:
        clip: bound each gradient's entries ("value") or its norm over the player's parameters ("norm").
        clip_at: the bound, above 0.
        **recipe: arguments of `Learner`; each player's optimiser is made by them.

    Examples:
        >>> class Pair(Alternating):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        ...     def players(self):
        ...         return {"critic": self.critic.parameters(), "net": self.net.parameters()}
        ...     def turns(self, inputs):
        ...         yield "critic", self.critic(self.net(inputs).detach()).mean()
        ...         yield "net", -self.critic(self.net(inputs)).mean()
        >>> [player for player, _ in Pair().turns(torch.zeros(3, 2))]
        ['critic', 'net']
    """

    def __init__(self, *, clip: Clip = "none", clip_at: float = 1.0, **recipe: Any):
        super().__init__(**recipe)
        if clip not in get_args(Clip):
            raise unknown("clip", clip, get_args(Clip))
        check_number("clip_at", clip_at, above=0)
        self.automatic_optimization = False
        self.clip, self.clip_at = clip, clip_at

    def check_training(self, accumulate: int, precision: str, processes: int) -> None:
        """Refuse what would change the meaning of a turn: added gradients, scaled losses, several processes."""
        if accumulate > 1:
            raise InputError(f"accumulate: expected 1, since players take turns, got {accumulate}")
        if precision == "16-mixed":
            raise InputError("precision: expected '32' or 'bf16-mixed', since players take turns, got '16-mixed'")
        if processes > 1:
            raise InputError(f"devices: {type(self).__name__} trains in turns, in one process, got {processes}")

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """The parameters of each player, by name; a parameter may belong to several."""
        raise NotImplementedError(f"{type(self).__name__} must define players()")

    def turns(self, *batch: Any) -> Iterator[Turn]:
        """What happens on a batch: pairs of a player and the loss that it lowers, in order.

        Instead of a loss, the gradients of the player's parameters may be yielded, in their order, where a method
        forms them itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must define turns(*batch)")

    def batch_turns(self, batch: Any) -> Iterator[Turn]:
        """`turns` of a batch as the loader gives it."""
        return self.turns(*batch)

    def player_lr_factor(self, player: str, step: int, steps: int) -> float:
        """Share of the peak learning rate of a player at a batch; by default `lr_factor`.

        Args:
            player: its name.
            step: batches so far, however many turns each had.
            steps: batches of the whole training.
        """
        return self.lr_factor(step, steps)

    def make_player_optimizer(self, player: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of a player; by default as `make_optimizer` makes it."""
        return self.make_optimizer(groups)

    def configure_optimizers(self) -> Any:
        steps = self.training_steps()
        found = []
        for player, parameters in self.players().items():
            learnt = [p for p in parameters if p.requires_grad]
            if not learnt:
                raise InputError(f"players: expected {player} to have parameters that learn, got none")
            optimizer = self.make_player_optimizer(player, self.groups_of(learnt))
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(self._factor, player, steps))
            found.append({"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}})
        return tuple(found)

    def _factor(self, player: str, steps: int, step: int) -> float:
        return self.player_lr_factor(player, step, steps)

    def training_step(self, batch: Any, batch_index: int) -> None:
        optimizers = dict(zip(self.players(), _as_list(self.optimizers()), strict=True))
        total = torch.zeros((), device=self.device)
        with divergence_named(self):
            for player, outcome in self.batch_turns(batch):
                if player not in optimizers:
                    raise unknown("player", player, optimizers)
                if isinstance(outcome, Tensor):
                    self.check_loss(outcome)
                    total += outcome.detach()
                    self._log(f"loss_{player}", outcome.detach(), batch)
                self._step(player, optimizers[player], outcome)
        for schedule in _as_list(self.lr_schedulers()):
            schedule.step()
        self._log("loss", total, batch)

    def _step(self, player: str, optimizer: Any, outcome: Tensor | Sequence[Tensor | None]) -> None:
        """Step a player's optimiser by the gradients of its parameters alone."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if isinstance(outcome, Tensor):
            gradients: Sequence[Tensor | None] = torch.autograd.grad(outcome, parameters, allow_unused=True)
        else:
            gradients = self._in_order(player, outcome, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip == "value":
            nn.utils.clip_grad_value_(parameters, self.clip_at)
        elif self.clip == "norm":
            nn.utils.clip_grad_norm_(parameters, self.clip_at)
        optimizer.step()
        optimizer.zero_grad()

    def _in_order(
        self, player: str, given: Sequence[Tensor | None], parameters: list[nn.Parameter]
    ) -> list[Tensor | None]:
        """Ready gradients, which come in the order of `players`, in the order of the optimiser's groups."""
        learnt = [p for p in self.players()[player] if p.requires_grad]
        if len(given) != len(learnt):
            raise InputError(
                f"turns: expected a gradient for each of {len(learnt)} parameters of {player}, got {len(given)}"
            )
        by_parameter = {id(p): g for p, g in zip(learnt, given, strict=True)}
        return [by_parameter[id(p)] for p in parameters]

    def _log(self, name: str, value: Tensor, batch: Any) -> None:
        self.log(name, value, on_step=False, on_epoch=True, prog_bar=name == "loss", batch_size=len(batch[0]))


def _as_list(found: Any) -> list[Any]:
    """Lightning gives one optimiser or schedule by itself, and several as a list."""
    return found if isinstance(found, list) else [found]
