"""Frozen modules: teachers, judges, and copies of a network's earlier state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from counterpoise.errors import InputError


class Frozen(nn.Module):
    """A module permanently in evaluation mode, whose parameters get no gradient; gradients reach its input.

    The module is held outside the module tree, since calls that walk the surrounding network's tree would otherwise
    undo the freezing: `train()`, `requires_grad_()`, `apply(reset)`, an optimiser over `parameters()`. It is therefore
    in no `parameters()`, `buffers()` or `modules()`, and DistributedDataParallel does not synchronise it: each process
    must get the same weights. `to()`, `double()`, `copy.deepcopy` and pickling include it.

    Args:
        module: changed in place to evaluation mode and without gradients; pass a copy of a network that is still
            trained.
        stored: whether its weights are part of the state dict, under the names that a submodule would have. Not needed
            for a teacher that is loaded from its own file, but for a copy that cannot be made again.

    Raises:
        InputError: for anything but a module.

    Attributes:
        module: the module itself. Its public attributes, such as `features`, can also be read from this one.

    Examples:
        >>> teacher = Frozen(nn.Linear(2, 3))
        >>> teacher.train().training, list(teacher.parameters()), list(teacher.state_dict()), teacher.out_features
        (False, [], [], 3)
        >>> list(Frozen(nn.Linear(2, 3), stored=True).state_dict())
        ['weight', 'bias']
    """

    def __init__(self, module: nn.Module, stored: bool = False):
        super().__init__()
        if not isinstance(module, nn.Module):
            raise InputError(f"module: expected a module, got {type(module).__name__}")
        self.stored = stored
        self._held = (module.eval().requires_grad_(False),)  # in a tuple, since torch registers a module
        for parameter in module.parameters():
            parameter.grad = None
        super().train(False)

    @property
    def module(self) -> nn.Module:
        """The module that is frozen."""
        return self._held[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; gradients reach the arguments."""
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode for any `mode`."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Frozen:
        """Stay without gradients for any `requires_grad`."""
        return self

    def extra_repr(self) -> str:
        """The module, which is not listed among the submodules."""
        return f"{self.module}, stored={self.stored}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_held" not in self.__dict__:
            return super().__getattr__(name)
        return getattr(self.module, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Called by `to`, `double`, `half` and similar methods."""
        super()._apply(fn, recurse)
        if recurse:
            self.module._apply(fn)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.stored:
            self.module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load a stored module; if it is not stored, its names are unexpected like any others."""
        if not self.stored:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
            return
        own = {name[len(prefix) :]: value for name, value in state_dict.items() if name.startswith(prefix)}
        assign = local_metadata.get("assign_to_params_buffers", False)
        try:
            wrong = self.module.load_state_dict(own, strict=False, assign=assign)
        except RuntimeError as error:  # shapes that do not fit, by their names in the module
            error_msgs.append(f"{prefix.removesuffix('.') or 'Frozen'}: {error}")
            return
        self.module.requires_grad_(False)  # `assign` may bring parameters with a gradient
        missing_keys += [prefix + name for name in wrong.missing_keys]
        unexpected_keys += [prefix + name for name in wrong.unexpected_keys]
