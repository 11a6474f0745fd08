"""Shapes in signatures are checked while the tests run; `plain_shapes` switches that off, so that our errors show."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest

jaxtyping.install_import_hook("counterpoise", "typecheck.check")


@pytest.fixture
def plain_shapes():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
