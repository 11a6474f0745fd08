"""Scenes, and the annotated images that are made of them."""

import warnings

import pytest

from annotated import COUNT, SIDE
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.scenes import Scenes


@pytest.fixture(scope="module")
def made():
    return Scenes(COUNT, size=SIDE, most=7)


@pytest.fixture(scope="module")
def data(made):
    return from_scenes(made)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
