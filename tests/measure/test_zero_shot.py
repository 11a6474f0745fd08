"""Seen and new classes: harmonic mean and the curve over all constants, against plain definitions."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.zero_shot import area_seen_new, harmonic, seen_new_curve

IS_NEW = torch.tensor([0, 1, 0, 1, 0])


@pytest.fixture
def scored(rng):
    labels = torch.arange(60) % 5
    labels[::11] = -1
    scores = torch.randn(60, 5, generator=rng)
    return scores + 1.5 * torch.nn.functional.one_hot(labels.clamp(min=0), 5), labels


def accuracies(scores, labels, constant):
    """Both accuracies where seen classes are lowered by a constant."""
    found = (scores - constant * (1 - IS_NEW)).argmax(1)
    of = {k: (found == k)[labels == k].float().mean().item() for k in range(5)}
    return [sum(of[k] for k in kind) / len(kind) for kind in ((0, 2, 4), (1, 3))]


def test_the_harmonic_mean_is_0_where_one_is_0_and_never_above_the_smaller_twice():
    assert harmonic(0.5, 0.5) == 0.5
    assert harmonic(0.0, 0.0) == harmonic(1.0, 0.0) == 0.0
    assert harmonic(0.9, 0.1) == pytest.approx(0.18)
    for wrong in (1.5, float("nan")):
        with pytest.raises(InputError, match="new: expected"):
            harmonic(0.5, wrong)


def test_the_curve_holds_what_each_constant_gives(scored):
    scores, labels = scored
    curve = seen_new_curve(scores, labels, IS_NEW)
    assert curve[0, 0] == 0
    assert curve[-1, 1] == 0
    for constant in (-3.0, -0.7, 0.0, 0.4, 2.0):
        there = torch.tensor(accuracies(scores, labels, constant), dtype=torch.float64)
        assert (curve - there).abs().sum(1).min() < 1e-6
    assert (curve[1:, 0] >= curve[:-1, 0]).all()
    assert (curve[1:, 1] <= curve[:-1, 1]).all()


def test_the_area_does_not_change_where_seen_classes_are_lowered(scored):
    scores, labels = scored
    found = area_seen_new(scores, labels, IS_NEW)
    assert 0 < found < 1
    assert area_seen_new(scores - 5.0 * (1 - IS_NEW), labels, IS_NEW) == pytest.approx(found)
    perfect = torch.nn.functional.one_hot(labels.clamp(min=0), 5).float()
    assert area_seen_new(perfect, labels, IS_NEW) == pytest.approx(1)
    assert area_seen_new(-perfect, labels, IS_NEW) == 0


def test_images_of_one_margin_move_together():
    """Two images with equal scores, one of each kind: there is no constant that names both rightly or both wrongly."""
    scores = torch.tensor([[1.0, 0.5], [1.0, 0.5]])
    curve = seen_new_curve(scores, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert curve.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert area_seen_new(scores, torch.tensor([0, 1]), torch.tensor([0, 1])) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_new": torch.zeros(5, dtype=torch.int64)}, "is_new"),
        ({"is_new": torch.ones(4, dtype=torch.int64)}, "is_new"),
        ({"labels": torch.zeros(60, dtype=torch.int64)}, "labels: expected images of seen and of new classes"),
        ({"labels": torch.full((60,), 5)}, "labels"),
        ({"scores": torch.full((60, 5), torch.nan)}, "scores"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_what_makes_no_sense_is_refused_by_name(scored, changes, message):
    given = {"scores": scored[0], "labels": scored[1], "is_new": IS_NEW, **changes}
    with pytest.raises(InputError, match=message):
        area_seen_new(**given)
