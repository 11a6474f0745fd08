"""TCM against pairs one by one and pytorch-metric-learning, and beside each base loss."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.measure.opis import opis, utility_curves
from counterpoise.metric.learner import ProxyLearner
from counterpoise.metric.tcm import BASES, TCM, TCMLoss, tcm
from counterpoise.registry import catalogue
from worlds import Encoder, seeded

Z = torch.randn(14, 3, generator=seeded(0), dtype=torch.float64)
Y = torch.arange(14) % 4
TURN = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)).Q


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


def test_rows_without_a_label_and_invariances(rng):
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


# The method.


def made(**arguments):
    torch.manual_seed(0)
    return TCM(Encoder(features=5), 24, 3, dim=4, **arguments)


VIEW, OF = torch.randn(12, 1, 4, 4, generator=seeded(2)), torch.arange(12) % 3


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
    other = kind(Encoder(features=5), 24, dim=4, **classes)
    other.load_state_dict(method.state_dict())  # and it has nothing else
    given = [VIEW], OF, torch.arange(12)
    torch.testing.assert_close(method.loss(*given), other.loss(*given), rtol=0, atol=0)


def test_normalized_softmax_is_a_softmax_of_cosines():
    method = made(base="normalized-softmax")
    z, proxies = method.encoder(VIEW), F.normalize(method.objective.objective.W, dim=0)
    expected = F.cross_entropy(20 * F.normalize(z, dim=1) @ proxies, OF)
    torch.testing.assert_close(method.objective(z, OF), expected, rtol=1e-4, atol=1e-5)
    assert [len(group["params"]) for group in method.parameter_groups()] == [2, 2, 1]


def test_diagnostics_measure_the_test_classes_at_a_users_distances(rng):
    pixels = torch.randint(0, 256, (20, 1, 4, 4), generator=rng, dtype=torch.uint8)
    labels = torch.arange(20) % 3
    test, probe = (Images(pixels[part], labels[part], ("a", "b", "c"), "noise") for part in (slice(12), slice(12, 20)))
    assert made().diagnostics(test, probe, test) == {}
    method = made(distances=(0.3, 0.5, 1.1))
    found = method.diagnostics(test, probe, test)
    z = F.normalize(method.eval().encoder(to_float(pixels)), dim=1).detach()
    curves = utility_curves(z, labels, distances=(0.3, 0.5, 1.1))
    assert found.pop("opis_at_distances") == pytest.approx(opis(curves.utility, curves.thresholds), abs=1e-9)
    assert list(found) == [f"{name}_at_{d}" for name in ("sensitivity", "specificity") for d in (0.3, 0.5, 1.1)]
    expected = [*curves.sensitivity.mean(0).tolist(), *curves.specificity.mean(0).tolist()]
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)
    assert 0 < found["sensitivity_at_0.3"] < found["sensitivity_at_1.1"]


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    for wrong in ({"margin_plus": 1.1}, {"margin_minus": -2}, {"lambda_plus": -1}, {"lambda_minus": math.nan}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TCMLoss(**wrong)
    for wrong in ((0.5, 0.4), (), (3.0,)):
        with pytest.raises(InputError, match="distances: expected"):
            made(distances=wrong)
    with pytest.raises(InputError, match="did you mean 'triplet'"):
        made(base="triplets")
