"""Numbers of 32 and 16 bits: which a device has, and which it computes fast."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch

from counterpoise.errors import InputError

Precision = Literal["32", "16-mixed", "bf16-mixed", "auto"]
DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
AMPERE = (8, 0)  # compute capability from which CUDA devices multiply bfloat16 in hardware
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")  # of x86, for products of bfloat16


def settled(precision: Precision, device: str) -> Precision:
    """What runs where a precision is asked for: "auto" takes bfloat16 where the device has it in hardware.

    Args:
        precision: one of `Precision`.
        device: "cpu", "cuda" or "mps".

    Examples:
        >>> settled("32", "cpu"), settled("auto", "mps")
        ('32', '32')
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_bfloat16(device) else "32"


def has_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware: a processor by AMX or AVX-512, CUDA from Ampere on.

    Of other devices, MPS among them, PyTorch does not say; emulated, bfloat16 is slower than float32.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= AMPERE and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(_instructions().get(name, False) for name in INSTRUCTIONS)


def _instructions() -> Mapping[str, Any]:
    """Which instructions the processor has, as PyTorch reports it."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    return {  # of a PyTorch without a public query
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
    }


def check_precision(precision: str, device: str) -> None:
    """Refuse a mixed precision that a device does not have, and in whose place libraries would take another.

    Examples:
        >>> check_precision("16-mixed", "cpu")
        Traceback (most recent call last):
        counterpoise.errors.InputError: precision: '16-mixed' is not available on cpu; '32' is, and 'bf16-mixed' may be
    """
    if precision not in DTYPES:
        return
    reason = "" if (precision, device) == ("16-mixed", "cpu") else None  # where Lightning takes bfloat16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch says so, and goes on without
            torch.autocast(device, DTYPES[precision])
    except (UserWarning, RuntimeError) as error:
        reason = f" ({str(error).splitlines()[0][:120]})"
    if reason is not None:
        others = "'32' is" if precision == "bf16-mixed" else "'32' is, and 'bf16-mixed' may be"
        raise InputError(f"precision: '{precision}' is not available on {device}{reason}; {others}")
