"""Constants of modules in the precision that the module has: `.double()` does not keep what float32 made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn


class ExactConstants(nn.Module):
    """A module some of whose buffers and parameters start from numbers that are known in double precision.

    `module.double()` turns a buffer of float32 into float64, but what was rounded away stays lost. Here buffers and
    parameters that still hold what they started with get it anew, in the new precision; trained ones are left alone.

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
        """Register a buffer, or a parameter, of torch's default precision.

        Args:
            name: of the attribute.
            exact: its numbers.
            persistent: of a buffer, whether it is part of the state dict.
            learn: register a parameter instead, which requires a gradient or not.
        """
        self._exact[name] = exact
        start = exact.to(torch.get_default_dtype()).clone(memory_format=torch.contiguous_format)
        if learn is None:
            self.register_buffer(name, start, persistent)
        else:
            self.register_parameter(name, nn.Parameter(start, requires_grad=learn))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `to`, `double`, `half` and their like go through."""
        found = {name: getattr(self, name).detach() for name in self._exact}
        untouched = [n for n, x in found.items() if not x.is_meta and torch.equal(x, self._exact[n].to(x))]
        super()._apply(fn, recurse)
        with torch.no_grad():
            for name in untouched:
                getattr(self, name).copy_(self._exact[name])
        return self
