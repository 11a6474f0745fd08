"""TCM against pairs one by one and pytorch-metric-learning, OPIS against the whole matrix of distances."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from torch import nn
from torch.nn import functional as F

from counterpoise import catalogue
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.metric import tcm as module
from counterpoise.metric.learner import ProxyLearner
from counterpoise.metric.tcm import BASES, TCM, TCMLoss, epsilon_opis, harmonic_mean, opis, tcm, utility_curves
from counterpoise.nets import embed

rng = torch.Generator().manual_seed(0)
Z = torch.randn(14, 3, generator=rng, dtype=torch.float64)
Y = torch.arange(14) % 4
TURN = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64)).Q


def at(*degrees):
    """Points of the unit circle."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def degrees_of(cosine):
    return math.degrees(math.acos(cosine))


def gradient(z, y, **arguments):
    z = z.clone().requires_grad_()
    tcm(z, y, **arguments).backward()
    return z.grad


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("margins", [(0.9, 0.5), (0.2, -0.3)])
def test_pairs_one_by_one(margins, weights):
    plus, minus = [], []
    for i in range(14):
        for j in range(i):
            s = F.cosine_similarity(Z[i], Z[j], dim=0).item()
            if Y[i] == Y[j] and s <= margins[0]:
                plus.append(margins[0] - s)
            elif Y[i] != Y[j] and s >= margins[1]:
                minus.append(s - margins[1])
    assert min(len(plus), len(minus)) > 3
    assert 14 * 13 / 2 - len(plus) - len(minus) > 10  # the others are easy
    expected = weights[0] * np.mean(plus) + weights[1] * np.mean(minus)
    assert TCMLoss(*margins, *weights)(Z, Y).item() == pytest.approx(expected, abs=1e-12)


def test_one_pair_of_each_kind():
    positive, negative = at(0, degrees_of(0.4)), at(0, degrees_of(0.8))
    assert tcm(positive, torch.tensor([0, 0]), lambda_plus=3.0).item() == pytest.approx(3 * 0.5)
    assert tcm(negative, torch.tensor([0, 1]), lambda_minus=2.0).item() == pytest.approx(2 * 0.3)


def test_pairs_inside_the_margins_give_nothing_at_all():
    z, y = torch.cat([at(0, 20), at(100, 120)]), torch.tensor([0, 0, 1, 1])
    assert tcm(z, y).item() == 0
    assert gradient(z, y).abs().max() == 0
    assert tcm(at(0), torch.tensor([0])).item() == 0
    assert gradient(at(0, 0), torch.tensor([0, 0])).abs().max() == 0  # duplicates


def test_easy_pairs_change_nothing():
    z, y = at(0, 40, 50), torch.tensor([0, 0, 1])
    more = torch.cat([z, at(180, 190)]), torch.tensor([0, 0, 1, 2, 2])
    torch.testing.assert_close(tcm(*more), tcm(z, y))
    torch.testing.assert_close(gradient(*more)[:3], gradient(z, y))


def test_a_pair_on_its_margin_is_counted():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # cosines 1, 0 and 0
    assert tcm(z, torch.arange(3), margin_minus=0.0).item() == pytest.approx(1 / 3)
    assert tcm(z, torch.zeros(3).long(), margin_plus=1.0).item() == pytest.approx(2 / 3)


def test_rows_without_a_label_and_invariances():
    more = torch.cat([Z, torch.randn(2, 3, generator=rng, dtype=torch.float64)]), torch.cat([Y, torch.tensor([-1, -1])])
    expected = TCMLoss()(Z, Y)
    torch.testing.assert_close(TCMLoss()(*more), expected)
    scales = torch.rand(14, 1, generator=rng, dtype=torch.float64) + 0.1
    torch.testing.assert_close(TCMLoss()(scales * Z @ TURN, 9 - Y), expected)


@pytest.mark.parametrize("arguments", [(), (0.7, 0.1, 0.5, 2.0)])
def test_agrees_with_pytorch_metric_learning(arguments):
    plus, minus, *weights = arguments or (0.9, 0.5)
    theirs = losses.ThresholdConsistentMarginLoss(*weights, margin_plus=plus, margin_minus=minus)
    found = []
    for loss in (TCMLoss(*arguments), theirs):
        z = torch.randn(40, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        value = loss(z, torch.arange(40) % 7)
        value.backward()
        found.append((value, z.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


# OPIS.

SIZES = (2, 9, 5, 20, 12)
LABELS = torch.arange(5).repeat_interleave(torch.tensor(SIZES))
CENTRES = torch.randn(5, 4, generator=rng, dtype=torch.float64)
ROWS = CENTRES[LABELS] + torch.randn(48, 4, generator=rng, dtype=torch.float64) * (LABELS[:, None] + 1) / 6


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


def test_curves_depend_on_classes_and_angles_alone():
    found = utility_curves(ROWS, LABELS)
    order = torch.randperm(48, generator=rng)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    scales = torch.rand(48, 1, generator=rng, dtype=torch.float64) + 0.1
    other = utility_curves((scales * ROWS @ turn)[order], 10 * LABELS[order] + 3)
    torch.testing.assert_close(other.utility, found.utility)
    assert other.classes.tolist() == [3, 13, 23, 33, 43]
    torch.testing.assert_close(utility_curves(ROWS.float(), LABELS).utility, found.utility)


def test_a_class_of_one_and_rows_without_a_label_are_left_out():
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


def test_epsilon_opis_compares_the_best_and_the_worst():
    curves = torch.rand(30, 11, generator=rng, dtype=torch.float64)
    order = np.argsort([float(curve.mean()) for curve in curves])
    for epsilon, some in ((0.1, 3), (0.01, 1), (0.11, 4), (0.5, 15)):
        gap = curves[order[-some:].copy()].mean(0) - curves[order[:some].copy()].mean(0)
        assert epsilon_opis(curves, epsilon) == pytest.approx(float((gap**2).mean()))


def test_a_finer_grid_changes_little():
    labels = torch.arange(2000) % 50
    centres = torch.randn(50, 16, generator=rng)
    rows = centres[labels] + torch.randn(2000, 16, generator=rng) * torch.linspace(0.3, 1.0, 50)[labels, None]
    coarse, fine = (opis(utility_curves(rows, labels, thresholds=count).utility) for count in (101, 1001))
    assert coarse == pytest.approx(fine, rel=0.05)
    assert fine > 0.001


# The method.


class Encoder(nn.Linear):
    features = 5

    def __init__(self):
        super().__init__(16, 5)

    def forward(self, images):
        return super().forward(images.flatten(1))


def made(**arguments):
    torch.manual_seed(0)
    return TCM(Encoder(), 24, 3, dim=4, **arguments)


VIEW, OF = torch.randn(12, 1, 4, 4, generator=rng), torch.arange(12) % 3


@pytest.mark.parametrize("base", BASES)
def test_the_penalty_is_added_to_the_base_loss(base):
    method, alone = made(base=base, lambda_plus=0.5, margin_minus=0.1), made(base=base, lambda_plus=0, lambda_minus=0)
    z = method.encoder(VIEW)
    loss = alone.loss([VIEW], OF, torch.arange(12))
    penalty = TCMLoss(0.9, 0.1, 0.5, 1.0)(z, OF)
    assert penalty > 0.1
    torch.testing.assert_close(method.loss([VIEW], OF, torch.arange(12)), loss + penalty)


@pytest.mark.parametrize("slug", ["multi-similarity", "contrastive", "triplet", "proxy-anchor", "arcface"])
def test_the_base_is_the_method_of_its_name(slug):
    method, kind = made(base=slug, lambda_plus=0.0, lambda_minus=0.0), catalogue.load_class(slug)
    classes = {"classes": 3} if issubclass(kind, ProxyLearner) else {}
    other = kind(Encoder(), 24, dim=4, **classes)
    state = {name.replace("objective.objective.", "objective."): x for name, x in method.state_dict().items()}
    other.load_state_dict(state)  # and it has nothing else
    given = [VIEW], OF, torch.arange(12)
    torch.testing.assert_close(method.loss(*given), other.loss(*given), rtol=0, atol=0)


def test_normalized_softmax_is_a_softmax_of_cosines():
    method = made(base="normalized-softmax")
    z, proxies = method.encoder(VIEW), F.normalize(method.objective.objective.W, dim=0)
    expected = F.cross_entropy(20 * F.normalize(z, dim=1) @ proxies, OF)
    torch.testing.assert_close(method.objective.compare(z, OF), expected, rtol=1e-4, atol=1e-5)
    assert [len(group["params"]) for group in method.parameter_groups()] == [2, 2, 1]


def test_it_tells_opis_of_the_unseen_classes():
    method = made()
    pixels = torch.randint(0, 256, (40, 1, 4, 4), generator=rng, dtype=torch.uint8)
    parts = [Images(pixels[a:b], torch.arange(a, b) % 3, ("a", "b", "c"), "noise") for a, b in ((0, 15), (15, 40))]
    found = method.diagnostics(parts[0], *parts)
    z = torch.cat([embed(method.encoder, part, to_float) for part in parts])
    utility = utility_curves(z, torch.arange(40) % 3).utility
    assert found == {"opis": opis(utility), "epsilon_opis": epsilon_opis(utility), "utility": utility.mean().item()}
    assert found["opis"] > 0
    few = Images(pixels[:2], torch.tensor([0, 1]), ("a", "b", "c"), "noise")
    assert method.diagnostics(parts[0], few, few.subset(torch.tensor([0]))) == {}


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
    with pytest.raises(InputError, match="thresholds: expected a number of at least 1"):
        utility_curves(ROWS, LABELS, thresholds=0)
    with pytest.raises(InputError, match=r"epsilon: expected a number above 0 and of at most 0\.5"):
        epsilon_opis(torch.eye(2), 0.6)
    for wrong in ({"margin_plus": 1.1}, {"margin_minus": -2}, {"lambda_plus": -1}, {"lambda_minus": math.nan}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TCMLoss(**wrong)
    with pytest.raises(InputError, match="did you mean 'triplet'"):
        made(base="triplets")
