import pytest
import torch
from sklearn import metrics

from counterpoise.errors import InputError
from counterpoise.measure import accuracy, balanced_accuracy, class_accuracy, group_accuracy, knn_accuracy
from counterpoise.measure.retrieval import retrieval
from worlds import seeded

LABELS = torch.randint(0, 5, (200,), generator=seeded(0))
PREDICTED = torch.where(
    torch.rand(200, generator=seeded(1)) < 0.6, LABELS, torch.randint(0, 6, (200,), generator=seeded(2))
)


def test_against_scikit_learn():
    assert accuracy(PREDICTED, LABELS) == pytest.approx(metrics.accuracy_score(LABELS, PREDICTED))
    recall = metrics.recall_score(LABELS, PREDICTED, labels=range(5), average=None)
    assert class_accuracy(PREDICTED, LABELS, 5).tolist() == pytest.approx(recall)
    assert balanced_accuracy(PREDICTED, LABELS, 5) == pytest.approx(recall.mean())


def test_unlabelled_rows_are_left_out():
    kept = torch.arange(200) % 3 > 0
    masked = LABELS.where(kept, -1)
    assert accuracy(PREDICTED, masked) == accuracy(PREDICTED[kept], LABELS[kept])
    assert torch.equal(class_accuracy(PREDICTED, masked, 5), class_accuracy(PREDICTED[kept], LABELS[kept], 5))


def test_a_class_without_rows_is_nan_and_does_not_count():
    recall = class_accuracy(PREDICTED, LABELS, 7)
    assert recall.isnan().tolist() == [False] * 5 + [True] * 2
    assert balanced_accuracy(PREDICTED, LABELS, 7) == balanced_accuracy(PREDICTED, LABELS, 5)


def test_rare_classes_count_alike():
    labels = torch.tensor([0] * 99 + [1])
    always_zero = torch.zeros(100, dtype=torch.int64)
    assert accuracy(always_zero, labels) == 0.99
    assert balanced_accuracy(always_zero, labels, 2) == 0.5


def test_groups_are_thirds_by_training_count_with_ties_in_class_order():
    """Counts 9 100 9 50 9 9 9: the order is 1 3 0 2 4 5 6, so head is {1 3 0}, medium {2 4}, tail {5 6}."""
    counts = torch.tensor([9, 100, 9, 50, 9, 9, 9])
    labels = torch.arange(7)
    for group, members in {"head": [1, 3, 0], "medium": [2, 4], "tail": [5, 6]}.items():
        predicted = labels.clone()
        predicted[members[0]] = 99
        found = group_accuracy(predicted, labels, counts)
        expected = {"head": 1.0, "medium": 1.0, "tail": 1.0, group: 1 - 1 / len(members)}
        assert found == pytest.approx(expected)


def test_a_group_is_the_mean_over_its_classes_not_its_rows():
    labels = torch.tensor([0] * 9 + [1] + [2] * 2 + [3] * 2)
    predicted = labels.clone()
    predicted[9] = 0
    found = group_accuracy(predicted, labels, torch.tensor([100, 90, 5, 1]))
    assert found == {"head": 0.5, "medium": 1.0, "tail": 1.0}


def test_balanced_training_data_is_one_group():
    assert group_accuracy(PREDICTED, LABELS, torch.tensor([150, 100, 120, 100, 100])) == {
        "all": balanced_accuracy(PREDICTED, LABELS, 5)
    }
    assert set(group_accuracy(PREDICTED, LABELS, torch.tensor([151, 100, 120, 100, 100]))) == {"head", "medium", "tail"}


def test_two_classes_are_head_and_tail_and_groups_without_rows_are_left_out():
    labels = torch.tensor([0, 0, 1])
    assert group_accuracy(torch.tensor([0, 0, 0]), labels, torch.tensor([50, 2])) == {"head": 1.0, "tail": 0.0}
    assert group_accuracy(torch.tensor([0, 0, 0]), labels, torch.tensor([50, 2, 1])) == {"head": 1.0, "medium": 0.0}


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(PREDICTED[:3], LABELS), "predicted: expected one integer for each of the 200 rows"),
        (lambda: accuracy(PREDICTED.float(), LABELS), "predicted: expected integers, got torch.float32"),
        (lambda: accuracy(PREDICTED, LABELS - 9), "labels: expected a class from 0, or -1 for none, got -9"),
        (lambda: accuracy(PREDICTED[:2], torch.tensor([-1, -1])), "labels: none of the 2 rows is labelled"),
        (lambda: accuracy(PREDICTED[:0], LABELS[:0]), "labels: none of the 0 rows is labelled"),
        (lambda: class_accuracy(PREDICTED, LABELS, 4), "labels: expected integers from -1 to 3, got 4"),
        (lambda: class_accuracy(PREDICTED, LABELS, 0), "classes: expected a whole number of at least 1, got 0"),
        (
            lambda: group_accuracy(PREDICTED, LABELS, torch.arange(5) - 1),
            "train_counts: expected integers of",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int32])
def test_labels_of_every_integer_type_are_taken(dtype):
    """Also by the shapes in the signatures, which are checked here."""
    labels = torch.arange(6) % 3
    rows, given = torch.eye(3)[labels] + 0.1 * torch.randn(6, 3), labels.to(dtype)
    assert accuracy(given, given) == 1.0
    assert knn_accuracy(rows, given, rows, given, 3, k=1) == 1.0
    assert retrieval(rows, given, ks=(1,)).recall == retrieval(rows, labels, ks=(1,)).recall
