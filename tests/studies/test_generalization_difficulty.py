import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.generalization_difficulty import class_distance
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


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("digitz", 0), "digitz"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
