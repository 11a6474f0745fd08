"""A momentum encoder: a copy of a network whose weights are an exponential moving average (EMA) of the network's.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv 1911.05722, equation 2; also the teacher of Tarvainen, Valpola, "Mean teachers are better role models",
NeurIPS 2017, arXiv 1703.01780.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from counterpoise.errors import InputError, first_few, unknown
from counterpoise.ops.checks import check_number

Module = TypeVar("Module", bound=nn.Module)
Buffers = Literal["own", "copy", "average"]


def momentum_copy(module: Module) -> Module:
    """The initial momentum encoder: a copy with the same weights and mode, without gradients.

    Args:
        module: the trained network; unchanged.

    Examples:
        >>> momentum_copy(nn.Linear(2, 1)).weight.requires_grad
        False
    """
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_momentum_encoder(
    online: nn.Module, momentum_encoder: nn.Module, decay: float, buffers: Buffers = "own"
) -> None:
    r"""Move a momentum encoder towards the trained network: $\theta' \leftarrow d \theta' + (1 - d) \theta$.

    Args:
        online: the trained network.
        momentum_encoder: its copy, with the same parameters, of any precision and on any device; changed in place.
        decay: d, from 0 to 1: the weight of the momentum encoder's own parameters.
        buffers: how to update the momentum encoder's buffers, such as batch-norm statistics. "own" leaves them, since
            its own forward passes in training mode update them; "copy" takes the online network's; "average" averages
            floating-point buffers like the parameters, and copies the others.

    Raises:
        InputError: for a decay out of range, or networks whose parameters or buffers differ in names or shapes.

    Examples:
        >>> online, slow = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> online.weight.data.fill_(1.0), slow.weight.data.fill_(0.0)
        (tensor([[1.]]), tensor([[0.]]))
        >>> update_momentum_encoder(online, slow, decay=0.75)
        >>> slow.weight.item()
        0.25
    """
    check_number("decay", decay, at_least=0, at_most=1)
    if buffers not in get_args(Buffers):
        raise unknown("buffers", buffers, get_args(Buffers))
    for slow, new in _paired(online.named_parameters(), momentum_encoder.named_parameters()):
        slow.lerp_(new.to(slow), 1 - decay)
    if buffers == "own":
        return
    for slow, new in _paired(online.named_buffers(), momentum_encoder.named_buffers()):
        if buffers == "average" and slow.is_floating_point():
            slow.lerp_(new.to(slow), 1 - decay)
        else:
            slow.copy_(new)


def _paired(
    online: Iterable[tuple[str, Tensor]], momentum_encoder: Iterable[tuple[str, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Tensors of the same name, the momentum encoder's first."""
    new, slow = dict(online), dict(momentum_encoder)
    differing = [name for name in {**slow, **new} if name not in new or name not in slow]
    differing += [name for name in slow if name in new and slow[name].shape != new[name].shape]
    if differing:
        raise InputError(
            "momentum_encoder: expected tensors with the names and shapes of the online network, got others for "
            + first_few(differing)
        )
    return [(slow[name], new[name]) for name in slow]
