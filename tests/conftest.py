"""Shapes in signatures are checked while the tests run; `plain_shapes` switches that off, so that our errors show."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("counterpoise", "typecheck.check")


@pytest.fixture
def plain_shapes():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def rng():
    """What this test alone draws from.

    The seed is none that `torch.manual_seed` or a module's constants (`worlds.seeded`) are drawn with: one seed gives
    the same numbers again, so that drawn rows would be those of a constant, or of a network's weights.
    """
    return torch.Generator().manual_seed(1000)
