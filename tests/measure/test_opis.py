"""OPIS against the whole matrix of distances, and by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.measure import opis as module
from counterpoise.measure.opis import epsilon_opis, harmonic_mean, opis, utility_curves
from worlds import seeded

SIZES = (2, 9, 5, 20, 12)
LABELS = torch.arange(5).repeat_interleave(torch.tensor(SIZES))
CENTRES = torch.randn(5, 4, generator=seeded(0), dtype=torch.float64)
ROWS = CENTRES[LABELS] + torch.randn(48, 4, generator=seeded(1), dtype=torch.float64) * (LABELS[:, None] + 1) / 6


def at(*degrees):
    """Points of the unit circle."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def range_by_matrix(distances, y, far):
    return [np.quantile(distances[y[:, None] != y], share, method="inverted_cdf") for share in far]


def utility_by_matrix(distances, y, grid):
    """Class by class, from its pairs and from those with one row of it."""
    curves = []
    for c in np.unique(y):
        own = [distances[i, j] for i in range(len(y)) for j in range(i) if y[i] == y[j] == c]
        others = [distances[i, j] for i in range(len(y)) for j in range(len(y)) if y[i] == c != y[j]]
        sensitivity = np.mean(np.array(own)[:, None] <= grid, axis=0)
        specificity = np.mean(np.array(others)[:, None] > grid, axis=0)
        total = sensitivity + specificity
        curves.append(2 * sensitivity * specificity / np.where(total > 0, total, 1))
    return np.array(curves)


@pytest.mark.parametrize("far", [(0.01, 0.1), (0.1, 0.6), (0.3, 1.0)])
def test_curves_from_the_matrix_of_distances(far, monkeypatch):
    z, y = F.normalize(ROWS, dim=1).numpy(), LABELS.numpy()
    distances = np.linalg.norm(z[:, None] - z[None], axis=2)
    found = utility_curves(ROWS, LABELS, far)
    low, high = range_by_matrix(distances, y, far)
    np.testing.assert_allclose(found.thresholds, np.linspace(low, high, 101), atol=2e-6)
    assert found.thresholds[0] > low
    assert found.thresholds[-1] > high
    expected = utility_by_matrix(distances, y, found.thresholds.numpy())
    np.testing.assert_allclose(found.utility, expected, atol=1e-12)
    assert expected.std() > 0.03
    assert opis(found.utility) == pytest.approx(np.mean((expected - expected.mean(0)) ** 2), abs=1e-12)
    monkeypatch.setattr(module, "TILE", 130)
    assert all(distances.numel() <= 130 for _, distances in module._distances(ROWS))
    in_parts = utility_curves(ROWS, LABELS, far)
    torch.testing.assert_close(in_parts.utility, found.utility, rtol=0, atol=0)


@pytest.mark.parametrize("grid", [(0.2, 0.9, 1.0, 1.7), (0.6,), (0.0, 2.0)])
def test_shares_at_a_users_distances_from_the_matrix(grid):
    z, y = F.normalize(ROWS, dim=1).numpy(), LABELS.numpy()
    distances = np.linalg.norm(z[:, None] - z[None], axis=2)
    found = utility_curves(ROWS, LABELS, distances=grid)
    assert found.thresholds.tolist() == list(grid)
    for c in range(5):
        own = np.array([distances[i, j] for i in range(48) for j in range(i) if y[i] == y[j] == c])
        others = distances[y == c][:, y != c].ravel()
        np.testing.assert_allclose(found.sensitivity[c], [(own <= d).mean() for d in grid], atol=1e-12)
        np.testing.assert_allclose(found.specificity[c], [(others > d).mean() for d in grid], atol=1e-12)
    torch.testing.assert_close(found.utility, harmonic_mean(found.sensitivity, found.specificity), rtol=0, atol=0)


def test_the_calibration_range_as_a_users_distances_is_the_same():
    found = utility_curves(ROWS, LABELS)
    again = utility_curves(ROWS, LABELS, distances=found.thresholds.tolist())
    for name in ("thresholds", "utility", "sensitivity", "specificity"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), rtol=0, atol=0)


def test_the_integral_over_a_grid_is_by_trapezoids(rng):
    curves = torch.rand(30, 6, generator=rng, dtype=torch.float64)
    grid = torch.tensor([0.1, 0.15, 0.5, 0.6, 1.4, 1.9], dtype=torch.float64)

    def mean(values):
        steps = [(values[i] + values[i + 1]) / 2 * (grid[i + 1] - grid[i]) for i in range(5)]
        return float(sum(steps) / 1.8)

    assert opis(curves, grid) == pytest.approx(mean(((curves - curves.mean(0)) ** 2).mean(0)))
    order = np.argsort([mean(curve) for curve in curves])
    gap = curves[order[-3:].copy()].mean(0) - curves[order[:3].copy()].mean(0)
    assert epsilon_opis(curves, 0.1, grid) == pytest.approx(mean(gap**2))
    assert abs(opis(curves, grid) - opis(curves)) > 1e-4
    # A curve that is flat has the same mean on any grid, and one threshold is its own mean.
    flat = curves[:, :1].expand(-1, 6)
    assert opis(flat, grid) == pytest.approx(opis(flat)) == pytest.approx(opis(curves[:, :1], grid[:1]))
    # A grid without equal spaces gives what a fine one does, where the mean of its points does not.
    fine = torch.linspace(0, 1, 1001, dtype=torch.float64)
    coarse = torch.linspace(0, 1, 41, dtype=torch.float64) ** 3
    both = [torch.stack([x, 1 - x**2]) for x in (fine, coarse)]
    assert opis(both[1], coarse) == pytest.approx(opis(both[0]), rel=0.02)
    assert opis(both[1]) != pytest.approx(opis(both[0]), rel=0.2)


def test_curves_depend_on_classes_and_angles_alone(rng):
    found = utility_curves(ROWS, LABELS)
    order = torch.randperm(48, generator=rng)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    scales = torch.rand(48, 1, generator=rng, dtype=torch.float64) + 0.1
    other = utility_curves((scales * ROWS @ turn)[order], 10 * LABELS[order] + 3)
    torch.testing.assert_close(other.utility, found.utility)
    assert other.classes.tolist() == [3, 13, 23, 33, 43]
    torch.testing.assert_close(utility_curves(ROWS.float(), LABELS).utility, found.utility)


def test_a_class_of_one_and_rows_without_a_label_are_left_out(rng):
    more = torch.cat([ROWS, torch.randn(5, 4, generator=rng, dtype=torch.float64)])
    found = utility_curves(more, torch.cat([LABELS, torch.tensor([7, -1, 8, 9, -1])]))
    expected = utility_curves(ROWS, LABELS)
    assert (found.alone, expected.alone) == (3, 0)
    torch.testing.assert_close(found[:3], expected[:3])


def test_mirrored_classes_are_consistent_until_one_shrinks():
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    mirrored = utility_curves(at(80, 40, -20, 100, 140, 200), y, far=(0.2, 0.8))
    assert mirrored.utility.std() > 0.05
    assert opis(mirrored.utility) == pytest.approx(0, abs=1e-12)
    assert epsilon_opis(mirrored.utility) == pytest.approx(0, abs=1e-12)
    shrunk = utility_curves(at(80, 40, -20, 100, 101, 102), y, far=(0.2, 0.8))
    assert opis(shrunk.utility) > 0.001


def test_utility_by_hand():
    """Class 0 has pairs at 60°, 100° and 160°; of the six pairs with class 1, the nearest is at 81°."""
    z, y = at(0, 60, -100, 178, 179), torch.tensor([0, 0, 0, 1, 1])
    found = utility_curves(z, y, far=(1 / 6, 1 / 6), thresholds=1)
    assert found.thresholds.tolist() == pytest.approx([2 * math.sin(math.radians(81 / 2))], abs=2e-6)
    assert found.utility[:, 0].tolist() == pytest.approx([2 * 1 / 3 * 5 / 6 / (1 / 3 + 5 / 6), 2 * 5 / 6 / (11 / 6)])
    assert harmonic_mean(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0])).tolist() == pytest.approx([2 / 3, 0])


def test_equal_distances_stay_together():
    """All others at one distance, and all rows at one point: a single threshold, within which all lie."""
    z = torch.eye(4, dtype=torch.float64)[torch.arange(12) % 4] @ torch.linalg.qr(torch.randn(4, 4).double()).Q
    found = utility_curves(z, torch.arange(12) % 4)
    assert found.thresholds.tolist() == pytest.approx([math.sqrt(2)] * 101, abs=2e-6)
    assert found.utility.abs().max() == 0  # specificity 0
    collapsed = utility_curves(ROWS[:1].expand(6, -1), torch.arange(6) % 2)
    assert (collapsed.utility.abs().max(), opis(collapsed.utility)) == (0, 0)


def test_the_largest_opis_and_the_largest_difference():
    utility = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert opis(utility) == 0.25
    assert epsilon_opis(utility) == 1


def test_epsilon_opis_compares_the_best_and_the_worst(rng):
    curves = torch.rand(30, 11, generator=rng, dtype=torch.float64)
    order = np.argsort([float(curve.mean()) for curve in curves])
    for epsilon, some in ((0.1, 3), (0.01, 1), (0.11, 4), (0.5, 15)):
        gap = curves[order[-some:].copy()].mean(0) - curves[order[:some].copy()].mean(0)
        assert epsilon_opis(curves, epsilon) == pytest.approx(float((gap**2).mean()))


def test_a_finer_grid_changes_little(rng):
    labels = torch.arange(2000) % 50
    centres = torch.randn(50, 16, generator=rng)
    rows = centres[labels] + torch.randn(2000, 16, generator=rng) * torch.linspace(0.3, 1.0, 50)[labels, None]
    coarse, fine = (opis(utility_curves(rows, labels, thresholds=count).utility) for count in (101, 1001))
    assert coarse == pytest.approx(fine, rel=0.05)
    assert fine > 0.001


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="labels: expected at least 2 classes with 2 rows or more, got 1 of 1 classes"):
        utility_curves(ROWS, torch.zeros(48).long())
    with pytest.raises(InputError, match="got 1 of 3 classes"):
        utility_curves(ROWS[:4], torch.tensor([0, 0, 1, 2]))
    with pytest.raises(InputError, match="embeddings: 192 of 192 numbers are NaN"):
        utility_curves(ROWS * math.nan, LABELS)
    with pytest.raises(InputError, match="labels: expected one integer for each of the 48 rows"):
        utility_curves(ROWS, LABELS[:5])
    for far, name in (((0.0, 0.1), r"far\[0\]"), ((0.2, 0.1), r"far\[1\]"), ((0.2, 1.1), r"far\[1\]")):
        with pytest.raises(InputError, match=name):
            utility_curves(ROWS, LABELS, far)
    for wrong in ((), (0.5, 0.5), (0.6, 0.5), (-0.1,), (2.1,), (math.nan,), 0.5):
        with pytest.raises(InputError, match="distances: expected"):
            utility_curves(ROWS, LABELS, distances=wrong)
    for beside in ({"far": (0.1, 0.2)}, {"thresholds": 11}):
        with pytest.raises(InputError, match="distances: expected none beside far or thresholds"):
            utility_curves(ROWS, LABELS, distances=(0.5,), **beside)
    for grid in (torch.ones(2), torch.tensor([0.2, 0.1]), torch.ones(3), torch.tensor([0.1, math.nan])):
        for measure in (opis, lambda utility, grid: epsilon_opis(utility, 0.1, grid)):
            with pytest.raises(InputError, match="thresholds: "):
                measure(torch.eye(2), grid)
    with pytest.raises(InputError, match="thresholds: expected a whole number of at least 1"):
        utility_curves(ROWS, LABELS, thresholds=0)
    with pytest.raises(InputError, match=r"epsilon: expected a number above 0 and of at most 0\.5"):
        epsilon_opis(torch.eye(2), 0.6)
