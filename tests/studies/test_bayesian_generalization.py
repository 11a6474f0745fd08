import math

import numpy as np
import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.bayesian_generalization import visual_complexity
from counterpoise.studies import bayesian_generalization as paper
from counterpoise.studies.bayesian_generalization import Objects, draw_scenes, study


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_families_of_scenes_rise_in_visual_complexity():
    torch.manual_seed(0)
    objects = Objects(torch.rand(5, 20, 20), torch.arange(5))
    objects.pictures[:, :5] = 0
    means = []
    for family in paper.FAMILIES:
        scenes = draw_scenes(family, objects, torch.arange(40) % 5, np.random.default_rng(0))
        assert scenes.shape == (40, 1, 32, 32)
        means.append(float(visual_complexity(scenes, None).mean()))
    assert means == sorted(means)


@pytest.mark.slow
def test_a_small_study_gives_finite_figures_and_the_same_again(monkeypatch):
    monkeypatch.setattr(paper, "MOST", 10)
    options = {"images": 1800, "epochs": 4, "items": 12, "draws": 1}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = study("mnist", 0, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(math.isfinite(value) for value in found.values())
    assert found["over lowest"] > found["over random"] > 0
    assert found["interaction"] == pytest.approx(found["rule high less low"] - found["similarity high less low"])
    assert study("mnist", 0, **options) == found


def test_high_less_low():
    complexity, valid = doubles(1, 2, 3, 4, 99), torch.tensor([True] * 4 + [False])
    assert paper._high_less_low(doubles(1, 2, 5, 6, 7), complexity, valid) == 4
    assert math.isnan(paper._high_less_low(doubles(1.0), doubles(1.0), torch.tensor([False])))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("mnist", 0, images=5), "images: expected a whole number of at least 6"),
        (lambda: study("mnist", 0, epochs=0), "epochs: expected a whole number of at least 1"),
        (lambda: study("mnist", 0, items=4), "items: expected a whole number of at least 5"),
        (lambda: study("mnist", 0, draws=0), "draws: expected a whole number of at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
