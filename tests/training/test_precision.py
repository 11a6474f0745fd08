"""Precisions: what is settled for a device, and what it lacks."""

import warnings

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.training import precision
from counterpoise.training.precision import check_precision
from counterpoise.training.run import ImageSettings, Run


@pytest.mark.parametrize(("there", "settles"), [(True, "bf16-mixed"), (False, "32")])
def test_an_automatic_precision_is_settled_before_a_run_is_named(monkeypatch, there, settles):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: there)
    auto = Run("simclr", "digits", settings=ImageSettings(precision="auto", device="cpu"))
    assert auto.config() == Run("simclr", "digits", settings=ImageSettings(precision=settles, device="cpu")).config()
    assert auto.config()["settings"]["precision"] == settles


def test_bfloat16_needs_the_instructions_for_it(monkeypatch):
    monkeypatch.setattr(precision, "_instructions", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert not precision.has_bfloat16("cpu")
    monkeypatch.setattr(precision, "_instructions", lambda: {"amx_bf16": True})
    assert precision.has_bfloat16("cpu")
    assert not precision.has_bfloat16("mps")


@pytest.mark.parametrize(("capability", "found"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_on_cuda_is_had_from_ampere_on(monkeypatch, capability, found):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert precision.has_bfloat16("cuda") == found


def test_a_precision_that_a_device_lacks_is_refused(monkeypatch):
    def autocast(device, dtype):
        warnings.warn("In MPS autocast, but the target dtype is not supported. Disabling autocast.")

    monkeypatch.setattr(torch, "autocast", autocast)
    with pytest.raises(InputError, match=r"'bf16-mixed' is not available on mps \(In MPS autocast.*; '32' is"):
        check_precision("bf16-mixed", "mps")
