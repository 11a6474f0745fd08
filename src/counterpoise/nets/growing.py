"""Buffers whose shapes depend on the data: loading a checkpoint gives them the checkpoint's shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from counterpoise.errors import InputError, first_few


def growing(module: nn.Module, *names: str) -> None:
    """Let buffers take the shapes in a loaded state dict, where PyTorch would refuse other shapes.

    A buffer keeps its dtype and device. PyTorch reports a buffer that the state dict lacks, and leaves it unchanged.

    Args:
        module: the module that owns the buffers, not a parent of it.
        *names: names of buffers, at least one.

    Raises:
        InputError: for no name, or a name that is not a buffer of the module.

    Examples:
        >>> rows = nn.Module()
        >>> rows.register_buffer("seen", torch.zeros(0, 2))
        >>> growing(rows, "seen")
        >>> rows.load_state_dict({"seen": torch.ones(3, 2)})
        <All keys matched successfully>
        >>> rows.seen.shape
        torch.Size([3, 2])
    """
    if not names:
        raise InputError("names: expected at least one name of a buffer, got none")
    buffers = dict(module.named_buffers(recurse=False, remove_duplicate=False))
    if wrong := [name for name in names if name not in buffers]:
        known = first_few(sorted(buffers)) or "none"
        raise InputError(f"names: expected buffers of {type(module).__name__} ({known}), got {first_few(wrong)}")
    module.register_load_state_dict_pre_hook(partial(_take_shapes, names=names))


def _take_shapes(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if prefix + name in state:
            buffer = module.get_buffer(name)
            if buffer.shape != state[prefix + name].shape:
                setattr(module, name, torch.empty_like(state[prefix + name], dtype=buffer.dtype, device=buffer.device))
