from functools import partial

import pytest
import torch

from counterpoise.data import load
from counterpoise.errors import InputError
from counterpoise.measure import generalization_difficulty as measure
from counterpoise.measure.generalization_difficulty import class_distance, extreme_class_distance
from counterpoise.studies import generalization_difficulty
from counterpoise.studies.generalization_difficulty import study


def test_the_quarters_of_the_study_are_as_far_apart_as_it_says():
    task = generalization_difficulty._quarters(2, 3000, torch.Generator().manual_seed(0))
    gap = generalization_difficulty.GAP
    assert gap <= class_distance(task.train, task.train_labels) < 1.2 * gap
    assert task.train.shape == task.test.shape == (3000, 50)
    assert 0.4 < task.train_labels.double().mean() < 0.6


def test_a_study_gives_the_same_again_and_means_over_its_tasks():
    found = study("digits,spheres", seed=5, samples=100)
    assert found == study("digits,spheres", seed=5, samples=100)
    assert found != study("digits,spheres", seed=6, samples=100)
    digits, spheres = study("digits", seed=5, samples=100), study("spheres", seed=5, samples=100)
    assert set(digits) == {"log10_bits", "dimension", "resolution", "frequency", "knn_error"}
    for name, value in digits.items():
        assert found[name] == pytest.approx((value + 9 * spheres[name]) / 10)


def test_a_study_takes_the_authors_estimate_of_the_resolution_where_it_is_not_known(monkeypatch):
    fewer = partial(extreme_class_distance, pairs=20_000, extremes=200)
    monkeypatch.setattr(measure, "extreme_class_distance", fewer)
    train, _ = load("digits")
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(5))[:300]
    points, labels = train.pixels[chosen].flatten(1).float() / 255, train.labels[chosen]
    found = study("digits", seed=5, samples=300, resolution="evt", above=1.0)
    assert found["resolution"] == fewer(points, labels, above=1.0, seed=5)
    closer = study("digits", seed=5, samples=300, above=1.5)["resolution"]
    assert closer == class_distance(points, labels, above=1.5, seed=5) > 1.5
    assert study("spheres", 5, samples=100, resolution="evt") == study("spheres", 5, samples=100)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("digitz", 0), "digitz"),
        (lambda: study("digits", 0, resolution="evd"), "did you mean 'evt'"),
        (lambda: study("digits", 0, above=-1), "above: expected a number of at least 0, got -1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
