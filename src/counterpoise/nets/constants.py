"""Module constants in the module's own precision, so that `.double()` does not keep values rounded to float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn


class ExactConstants(nn.Module):
    """A module with buffers and parameters whose initial values are known in double precision.

    `module.double()` converts a float32 buffer to float64, but keeps its rounding error. Here, buffers and parameters
    that still hold their initial values are set again in the new precision; trained ones are converted as usual.

    Examples:
        >>> class Third(ExactConstants):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_exact("third", torch.ones((), dtype=torch.float64) / 3)
        >>> Third().third.double().item() == 1 / 3, Third().double().third.item() == 1 / 3
        (False, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_exact(
        self, name: str, exact: Float64[Tensor, "*shape"], persistent: bool = True, learn: bool | None = None
    ) -> None:
        """Register a buffer or a parameter in torch's default precision.

        Args:
            name: name of the attribute.
            exact: its values in float64.
            persistent: whether a buffer is part of the state dict.
            learn: register a parameter instead, whose `requires_grad` this is.
        """
        self._exact[name] = exact
        start = exact.to(torch.get_default_dtype()).clone(memory_format=torch.contiguous_format)
        if learn is None:
            self.register_buffer(name, start, persistent)
        else:
            self.register_parameter(name, nn.Parameter(start, requires_grad=learn))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Called by `to`, `double`, `half` and similar methods."""
        found = {name: getattr(self, name).detach() for name in self._exact}
        untouched = [n for n, x in found.items() if not x.is_meta and torch.equal(x, self._exact[n].to(x))]
        super()._apply(fn, recurse)
        with torch.no_grad():
            for name in untouched:
                getattr(self, name).copy_(self._exact[name])
        return self
