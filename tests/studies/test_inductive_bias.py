import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.measure.generalization_difficulty import classification_space, difficulty
from counterpoise.measure.inductive_bias import inductive_bias, kernel_losses, kernel_posterior
from counterpoise.studies import inductive_bias as module
from counterpoise.studies.inductive_bias import study


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"scaled": True}, {"space": "network"}])
def test_a_study_gives_the_same_again(arguments, monkeypatch):
    monkeypatch.setattr(module, "DIMENSIONS", {"sines": (1, 12), "components": (2, 4)})
    found = study("sines", 7, hypotheses=10, **arguments)
    assert found == study("sines", 7, hypotheses=10, **arguments)
    assert found != study("sines", 8, hypotheses=10, **arguments)
    assert found["rise"] > 0
    assert ("train_loss" in found) == ("space" in arguments)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_study_of_a_data_set_compares_the_earlier_bound(scaled, monkeypatch):
    monkeypatch.setattr(module, "DIMENSIONS", {"components": (2, 4)})
    found = study("digits", 7, scaled=scaled, error=0.05, hypotheses=50)
    nats, ratios = [], []
    for dimension in (2, 4):
        task = module._task("digits", dimension, 40, 7)
        bias = inductive_bias(kernel_losses(*task, dimension**0.5 if scaled else 1.0, 50, 7), 0.05)
        labels = (task[1].flatten() == 1).long()
        bound = difficulty(classification_space(task[0], labels, dimension), 40, 0.05).bits
        nats.append(bias.nats)
        ratios.append((1 + bound) / (1 + bias.bits))
    assert found["nats"] == pytest.approx(np.mean(nats))
    assert found["bound_over"] == pytest.approx(np.mean(np.log10(ratios)))
    assert found["bound_over"] > 0


def test_a_task_of_a_data_set_separates_its_first_two_classes():
    train, targets, test, test_targets = module._task("digits", 4, 40, seed=0)
    assert (train.shape, targets.shape, test.shape, test_targets.shape) == ((40, 4), (40, 1), (60, 4), (60, 1))
    assert set(targets.unique().tolist()) == {-1, 1}
    mean = kernel_posterior(train, targets, test, width=2.0).mean
    assert (mean.sign() == test_targets).double().mean() > 0.9


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("sines", 0, space="kernels"), "did you mean 'kernel'"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
