"""Networks compiled by `torch.compile` while they train."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.backbones import Backbone

COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that PyTorch calls by default; elsewhere g++


def check_compiler(device: str) -> None:
    """Refuse to compile where PyTorch finds no compiler, before anything is written.

    Args:
        device: "cpu", "cuda" or "mps".

    Raises:
        InputError: if there is no C++ compiler, or for CUDA no Triton.
    """
    name = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    if shutil.which(name) is None:
        raise InputError(
            f"compile: needs a C++ compiler, and '{name}' was not found; install one, or name it in the variable CXX"
        )
    if device == "cuda" and find_spec("triton") is None:
        raise InputError("compile: needs Triton on CUDA, and it is not installed: pip install triton")


@contextmanager
def compiled(net: nn.Module) -> Iterator[None]:
    """Compile a network's backbones while the block runs; names in its state dict stay as they are.

    Every size of batch gets kernels of its own, so that which one is computed how does not depend on what came before.

    Args:
        net: a learner. Of one without a `Backbone`, its `net` is compiled.

    Raises:
        InputError: if the compiler fails in the block.

    Examples:
        >>> from counterpoise.nets import backbone
        >>> net = backbone("small", 1, 16)
        >>> with compiled(net):
        ...     net._compiled_call_impl is not None
        True
        >>> net._compiled_call_impl is None, list(net.state_dict())[0]
        (True, 'model.stages.0.0.weight')
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    parts = _to_compile(net)
    torch.compiler.reset()  # what earlier runs of this process compiled counts towards a limit
    for part in parts:
        part.compile(dynamic=False)
    try:
        yield
    except TorchDynamoException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"compile: does not work here ({reason}); train without it") from error
    finally:
        for part in parts:
            part._compiled_call_impl = None


@contextmanager
def uncompiled(net: nn.Module) -> Iterator[None]:
    """Call a network's modules as they are while the block runs.

    Measuring and clustering take batches of other sizes in evaluation mode, for which compiling would not pay.
    """
    kept = [(module, module._compiled_call_impl) for module in net.modules()]
    try:
        for module, _ in kept:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in kept:
            module._compiled_call_impl = call


def _to_compile(net: nn.Module) -> list[nn.Module]:
    """The outermost backbones, a momentum encoder's among them; or what a learner keeps."""
    found = [module for module in net.modules() if isinstance(module, Backbone)]
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    return [module for module in found if id(module) not in inner] or [getattr(net, "net", net)]
