"""What a classifier's scores are worth, against sums by hand, scikit-learn and the limits that are known."""

import math

import pytest
import torch
from sklearn import metrics

from counterpoise.errors import InputError
from counterpoise.measure.classification import (
    calibration_error,
    negative_log_likelihood,
    top_accuracy,
    wrong_learnt,
)

CLASSES = 7


@pytest.fixture
def drawn():
    """Logits and labels of 200 rows."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(200, CLASSES, generator=rng), torch.randint(0, CLASSES, (200,), generator=rng)


def test_likelihood_and_top_k_are_those_of_scikit_learn(drawn):
    logits, labels = drawn
    probabilities = logits.double().softmax(1).numpy()
    expected = metrics.log_loss(labels, probabilities, labels=range(CLASSES))
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected)
    for k in (1, 2, 5):
        expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(CLASSES))
        assert top_accuracy(logits, labels, k) == pytest.approx(expected)


def test_log_probabilities_are_as_good_as_logits(drawn):
    logits, labels = drawn
    normalised = logits.log_softmax(1)
    assert negative_log_likelihood(normalised, labels) == pytest.approx(negative_log_likelihood(logits, labels))
    assert calibration_error(normalised, labels) == pytest.approx(calibration_error(logits, labels))


def test_calibration_error_is_the_sum_over_bins_written_out(drawn):
    logits, labels = drawn
    confidence, predicted = logits.softmax(1).max(1)
    total = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        if inside.any():
            right = (predicted == labels)[inside].float().mean()
            total += float(inside.float().mean() * (confidence[inside].mean() - right).abs())
    assert calibration_error(logits, labels, bins=10) == pytest.approx(total, abs=1e-6)


def test_a_network_that_is_right_as_often_as_it_says_is_calibrated():
    logits = torch.tensor([[0.8, 0.2]]).log().expand(10, 2)
    assert calibration_error(logits, torch.tensor([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, torch.tensor([0] * 3 + [1] * 7)) == pytest.approx(0.5, abs=1e-6)


def test_unlabelled_rows_are_left_out(drawn):
    logits, labels = drawn
    kept = torch.arange(200) % 3 > 0
    for score in (negative_log_likelihood, calibration_error, top_accuracy):
        assert score(logits, labels.where(kept, -1)) == score(logits[kept], labels[kept])


def test_equal_scores_are_right_by_chance_wherever_the_class_stands():
    for k, expected in ((1, 1 / 7), (5, 5 / 7), (9, 1.0)):
        for label in (0, 6):
            assert top_accuracy(torch.zeros(1, CLASSES), torch.tensor([label]), k) == pytest.approx(expected)
    scores = torch.tensor([[3.0, 1.0, 1.0, 0.0]])  # one place is left for two
    assert top_accuracy(scores, torch.tensor([2]), k=2) == 0.5


def test_the_likelihood_of_extreme_scores_is_finite():
    logits = torch.tensor([[3e38, -3e38]])
    assert negative_log_likelihood(logits, torch.tensor([0])) == 0
    assert math.isfinite(negative_log_likelihood(logits, torch.tensor([1])))


def test_wrong_labels_learnt_are_counted_among_the_wrong_ones_alone():
    given, truth = torch.tensor([1, 1, 2, 0, -1, 2]), torch.tensor([0, 2, 2, 1, 1, -1])  # the first, second, fourth
    assert wrong_learnt(given, given, truth) == 1.0
    assert wrong_learnt(truth.clamp(min=0), given, truth) == 0.0
    assert wrong_learnt(torch.tensor([1, 2, 0, 2, 0, 0]), given, truth) == pytest.approx(1 / 3)
    assert wrong_learnt(given, given, given) is None


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(drawn):
    logits, labels = drawn
    with pytest.raises(InputError, match="labels: expected integers from -1 to 6, got 7"):
        top_accuracy(logits, labels + 1)
    with pytest.raises(InputError, match="labels: none of the 200 rows is labelled"):
        negative_log_likelihood(logits, torch.full_like(labels, -1))
    with pytest.raises(InputError, match="logits: expected at least 2 columns"):
        calibration_error(logits[:, :1], labels * 0)
    with pytest.raises(InputError, match="truth: expected one integer for each of the 200 rows"):
        wrong_learnt(labels, labels, labels[:5])
