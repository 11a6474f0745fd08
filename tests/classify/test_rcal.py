"""RCAL: outliers as scikit-learn has them, Gaussians as NumPy has them, what rare classes borrow, draws, and turns."""

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import nn
from torch.nn import functional as F

from counterpoise.classify import rcal
from counterpoise.classify.rcal import (
    RCAL,
    RCALLoss,
    calibrate,
    draw,
    head_classes,
    individual_calibration,
    inliers,
    local_outlier_factors,
    robust_gaussians,
)
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.gaussians import Gaussians, class_gaussians
from counterpoise.nets.frozen import Frozen
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def gaussians(rng, counts=(50, 40, 30, 5, 3), dim=3):
    """Of drawn means, and covariances without an order."""
    k = len(counts)
    root = normal(rng, k, dim, dim)
    return Gaussians(normal(rng, k, dim), root @ root.mT, torch.tensor(counts))


HEAD = torch.tensor([True, True, True, False, False])


# --- outliers ---


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_our_factors_are_scikit_learn_s(scale, rng, monkeypatch):
    x = torch.cat([normal(rng, 300, 5), 3 + 3 * normal(rng, 20, 5)]) * scale + 7
    expected = -LocalOutlierFactor(n_neighbors=20).fit(x.numpy()).negative_outlier_factor_
    np.testing.assert_array_equal(local_outlier_factors(x), expected)
    monkeypatch.setattr(rcal, "MOST", 100)
    np.testing.assert_allclose(local_outlier_factors(x), expected, rtol=1e-6)


def test_our_factors_are_scikit_learn_s_where_rows_are_equal(rng, monkeypatch):
    x = normal(rng, 60, 3)
    x = torch.cat([x, x[:20], x[:1].expand(30, -1)])  # some twice, one 32 times
    with pytest.warns(UserWarning, match="Duplicate values"):
        expected = -LocalOutlierFactor(n_neighbors=8).fit(x.numpy()).negative_outlier_factor_
    monkeypatch.setattr(rcal, "MOST", 10)
    found = local_outlier_factors(x, neighbours=8)
    defined = torch.from_numpy(expected < rcal.UNDEFINED)
    np.testing.assert_allclose(found[defined], expected[defined.numpy()], rtol=1e-6)
    assert (found[~defined] > rcal.UNDEFINED).all()
    assert inliers(x, torch.zeros(110, dtype=torch.int64), 8)[80:].all()  # the equal ones are no outliers
    assert (~defined).any()
    assert inliers(x, torch.zeros(110, dtype=torch.int64), 8)[~defined].all()  # nor those beside them


def test_an_outlier_is_one_of_its_class_and_not_of_all_rows(rng):
    z = torch.cat([normal(rng, 40, 2), normal(rng, 40, 2) + 50])
    labels = torch.arange(80) // 40
    labels[:3] = 1  # three items of the first class are counted to the second
    kept = inliers(z, labels)
    assert not kept[:3].any()
    assert kept[3:].double().mean() > 0.9


def test_outliers_have_a_factor_above_three_halves(rng):
    z = torch.cat([normal(rng, 60, 2), 3 * normal(rng, 20, 2)])
    factors = local_outlier_factors(z, 5)
    assert ((factors > 1.2) & (factors < 1.5)).any()
    assert ((factors > 1.5) & (factors < 3)).any()
    assert torch.equal(inliers(z, torch.zeros(80, dtype=torch.int64), 5), factors <= 1.5)


def test_planted_outliers_are_not_in_the_mean_and_without_them_it_is_numpy_s(rng):
    z = normal(rng, 60, 3).fmod(1)
    labels = torch.arange(60) % 2
    planted, both = torch.cat([z, z[:4] + 100]), torch.cat([labels, labels[:4]])
    kept = inliers(planted, both)
    assert not kept[60:].any()
    found = robust_gaussians(planted, both, 2, kept)
    for label in range(2):
        own = planted[kept & (both == label)].numpy()
        np.testing.assert_allclose(found.mean[label], own.mean(0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.covariance[label], np.cov(own.T, ddof=1), rtol=1e-10, atol=1e-14)
    assert found.counts.tolist() == [32, 32]  # of the labels


def test_a_class_of_at_most_two_rows_is_kept_with_a_warning_and_one_row_has_no_covariance(rng):
    z, labels = normal(rng, 13, 2), torch.tensor([0] * 10 + [1, 1, 2])
    z[11] += 1000
    with pytest.warns(UserWarning, match="of the classes 1, 2, with at most 2 rows each"):
        kept = inliers(z, labels)
    assert kept[10:].all()
    found = robust_gaussians(z, labels, 4, kept)
    assert not found.covariance[2:].any()
    torch.testing.assert_close(found.mean[2], z[12])
    assert found.counts.tolist() == [10, 2, 1, 0]


def test_rows_without_a_label_count_for_nothing(rng):
    z, labels = normal(rng, 30, 2), torch.arange(30) % 3 - 1
    kept = inliers(z, labels, neighbours=5)
    assert not kept[labels < 0].any()
    known = labels >= 0
    assert torch.equal(kept[known], inliers(z[known], labels[known], neighbours=5))
    assert robust_gaussians(z, labels, 2).counts.tolist() == [10, 10]


# --- frequent and rare classes ---


@pytest.mark.parametrize(
    ("counts", "changes", "expected"),
    [
        ([50, 30, 20], {}, [0]),
        ([20, 49, 31], {}, [1, 2]),  # 49 of 100 are not half
        ([10, 10, 10, 10], {}, [0, 1, 2, 3]),  # none is rarer
        ([9, 5, 5, 1], {"share": 0.6}, [0, 1, 2]),  # the third is as frequent as the second
        ([9, 5, 4, 1], {"number": 3}, [0, 1, 2]),
        ([9, 0, 4], {"share": 1.0}, [0, 2]),
    ],
)
def test_as_few_classes_as_possible_have_the_share(counts, changes, expected):
    assert head_classes(torch.tensor(counts), **changes).nonzero().flatten().tolist() == expected


# --- calibration ---


def test_frequent_classes_stay_and_without_borrowing_rare_ones_do_too(rng):
    g = gaussians(rng)
    found = calibrate(g, HEAD)
    torch.testing.assert_close(found.mean[:3], g.mean[:3], rtol=0, atol=0)
    torch.testing.assert_close(found.covariance[:3], g.covariance[:3], rtol=0, atol=0)
    assert (found.mean[3:] != g.mean[3:]).all()
    own = calibrate(g, HEAD, gamma=0.0, alpha=0.0)
    for a, b in zip(own, g, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_borrowing_all_from_the_nearest_is_being_it(rng):
    g = gaussians(rng)
    found = calibrate(g, HEAD, q=1, gamma=1.0, alpha=0.0)
    for label in (3, 4):
        near = (g.mean[:3] - g.mean[label]).norm(dim=1).argmin()
        torch.testing.assert_close(found.mean[label], g.mean[near])
        torch.testing.assert_close(found.covariance[label], g.covariance[near])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("count-distance", [3 * 1, 2 * 9]),  # of two as frequent, the farther has the weight of its squared distance
        ("count", [3, 2]),
        ("inverse-distance", [3 / 1, 2 / 9]),
    ],
)
def test_weights_by_hand(weights, expected):
    g = Gaussians(
        torch.tensor([[1.0, 0.0], [0.0, 3.0], [90.0, 0.0], [0.0, 0.0]]).double(),
        torch.stack([torch.eye(2).double() * x for x in (1, 2, 3, 4)]),
        torch.tensor([3, 2, 100, 1]),
    )
    head = torch.tensor([True, True, True, False])
    found = calibrate(g, head, q=2, gamma=0.25, alpha=0.5, weights=weights)
    omega = torch.tensor(expected).double() / sum(expected)
    torch.testing.assert_close(found.mean[3], 0.25 * (omega @ g.mean[:2]))
    scale = 0.25 * (omega[0] + 2 * omega[1]) + 0.75 * 4
    torch.testing.assert_close(found.covariance[3], scale * torch.eye(2).double() + 0.5)
    apart = calibrate(g, head, q=2, gamma=0.25, alpha=0.5, weights=weights, disturbance="eye")
    torch.testing.assert_close(apart.covariance[3], (scale + 0.5) * torch.eye(2).double())


def test_where_all_distances_are_0_counts_decide_and_the_inverse_takes_those_at_0():
    mean = torch.tensor([[1.0], [1.0], [5.0], [1.0]]).double()
    covariance = torch.tensor([1.0, 2.0, 4.0, 0.0]).double().view(4, 1, 1)
    g, head = Gaussians(mean, covariance, torch.tensor([3, 1, 9, 1])), torch.tensor([True, True, True, False])
    assert calibrate(g, head, q=2, gamma=1.0, alpha=0.0).covariance[3].item() == 3 / 4 + 2 / 4
    inverse = calibrate(g, head, q=3, gamma=1.0, alpha=0.0, weights="inverse-distance")
    assert inverse.covariance[3].item() == 3 / 4 + 2 / 4
    assert calibrate(g, head, q=3, gamma=1.0, alpha=0.0).covariance[3].item() == 4  # only the far one has a weight


def test_a_shift_of_all_features_moves_means_and_leaves_covariances(rng):
    g, shift = gaussians(rng), normal(rng, 3)
    found, moved = calibrate(g, HEAD), calibrate(g._replace(mean=g.mean + shift), HEAD)
    torch.testing.assert_close(moved.mean, found.mean + shift)
    torch.testing.assert_close(moved.covariance, found.covariance)


def test_calibrated_covariances_are_covariances(rng):
    g = gaussians(rng)
    g.covariance[3:] = 0  # as of a single row
    ones, eye = calibrate(g, HEAD, alpha=0.3), calibrate(g, HEAD, gamma=0.0, alpha=0.3, disturbance="eye")
    torch.testing.assert_close(ones.covariance, ones.covariance.mT)
    assert (torch.linalg.eigvalsh(ones.covariance) > -1e-12).all()
    assert (torch.linalg.eigvalsh(eye.covariance[3:]) > 0.29).all()
    assert torch.linalg.matrix_rank(calibrate(g, HEAD, gamma=0.0, alpha=0.3).covariance[3]) == 1


def test_an_empty_class_is_refused_or_left_as_it_is(rng):
    g = gaussians(rng, counts=(50, 40, 30, 5, 0))
    with pytest.raises(InputError, match=r"g.counts: expected items of every class, got none of class 4"):
        calibrate(g, HEAD)
    found = calibrate(g, HEAD, allow_empty=True)
    torch.testing.assert_close(found.mean[4], g.mean[4])
    assert not torch.equal(found.mean[3], g.mean[3])


def test_an_empty_class_gives_nothing_to_others(rng):
    g = gaussians(rng, counts=(50, 40, 0, 5, 3))
    without = Gaussians(*(x[[0, 1, 3, 4]] for x in g))
    expected = calibrate(without, torch.tensor([True, True, False, False]))
    torch.testing.assert_close(calibrate(g, HEAD, allow_empty=True).mean[3:], expected.mean[2:])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gamma": 1.5}, "gamma: expected a number of at least 0 and of at most 1"),
        ({"alpha": -0.1}, "alpha: expected a number of at least 0"),
        ({"q": 0}, "q: expected a whole number of at least 1"),
        ({"weights": "far"}, "weights 'far' is not known"),
        ({"disturbance": "noise"}, "disturbance 'noise' is not known"),
        ({"head": torch.zeros(5, dtype=torch.bool)}, "head: expected a frequent class to borrow from, got none"),
        ({"head": torch.ones(4, dtype=torch.bool)}, "head: expected true or false for each of 5 classes"),
    ],
)
def test_what_calibration_refuses(changes, named, rng, plain_shapes):
    with pytest.raises(InputError, match=named):
        calibrate(**{"g": gaussians(rng), "head": HEAD} | changes)


def test_variances_alone_cannot_be_calibrated(rng):
    g = gaussians(rng)
    with pytest.raises(InputError, match=r"g.covariance: expected whole matrices, got variances of \[5, 3\]"):
        calibrate(g._replace(covariance=g.covariance.diagonal(dim1=1, dim2=2)), HEAD)


# --- draws ---


def test_draws_have_the_mean_and_covariance_of_their_class(rng):
    g = gaussians(rng)
    z, labels = draw(g, torch.tensor([40_000, 0, 1, 20_000, 0]), rng)
    assert labels.bincount(minlength=5).tolist() == [40_000, 0, 1, 20_000, 0]
    found = class_gaussians(z, labels, 5)
    for label in (0, 3):
        scale = g.covariance[label].trace().sqrt()
        torch.testing.assert_close(found.mean[label], g.mean[label], rtol=0, atol=0.03 * scale.item())
        torch.testing.assert_close(found.covariance[label], g.covariance[label], rtol=0, atol=0.05 * scale.item() ** 2)


def test_draws_of_a_singular_covariance_stay_on_its_plane(rng):
    g = gaussians(rng)
    direction = normal(rng, 3)
    g.covariance[1] = torch.outer(direction, direction)
    z, _ = draw(g, torch.tensor([0, 500, 0, 0, 0]), rng, jitter=1e-9)
    rest = z - g.mean[1]
    along = rest @ direction[:, None] * direction / direction.square().sum()
    assert (rest - along).norm() < 1e-3 * along.norm()
    g.covariance[1] = 0
    assert torch.equal(draw(g, torch.tensor([0, 2, 0, 0, 0]), rng)[0], g.mean[[1, 1]])


def test_draws_come_from_the_generator_alone_and_no_class_gives_none(rng):
    g, counts = gaussians(rng), torch.tensor([2, 0, 3, 0, 1])
    assert torch.equal(draw(g, counts, seeded(3))[0], draw(g, counts, seeded(3))[0])
    assert draw(g, torch.zeros(5, dtype=torch.int64))[0].shape == (0, 3)


def test_draws_are_products_with_factors_however_many_are_made_at_once(rng, monkeypatch):
    g, counts = gaussians(rng), torch.tensor([3, 1, 0, 2, 4])
    noise, expected = torch.randn(10, 3, generator=seeded(3), dtype=torch.float64), []
    for label, part in zip((0, 1, 3, 4), noise.split([3, 1, 2, 4]), strict=True):
        covariance = g.covariance[label]
        added = 1e-6 * covariance.diagonal().mean() * torch.eye(3)
        expected.append(g.mean[label] + part @ torch.linalg.cholesky(covariance + added).T)
    for together in (9, 18, 2**20):  # one, two and all classes
        monkeypatch.setitem(rcal.TOGETHER, "cpu", together)
        found, labels = draw(g, counts, seeded(3))
        torch.testing.assert_close(found, torch.cat(expected))
        assert labels.tolist() == [0, 0, 0, 1, 3, 3, 4, 4, 4, 4]


def test_draws_refuse_what_is_no_covariance(rng):
    g = gaussians(rng)
    g.covariance[2] *= -1
    with pytest.raises(InputError, match=r"g.covariance: expected matrices without negative eigenvalues"):
        draw(g, torch.ones(5, dtype=torch.int64))


# --- the objective ---


def test_individual_calibration_is_0_at_the_start_and_its_gradient_twice_the_distance_over_the_batch(rng):
    zbar = normal(rng, 6, 4)
    z = zbar.clone().requires_grad_()
    (at_start,) = torch.autograd.grad(individual_calibration(z, zbar), z)
    assert not at_start.any()
    moved, anchor = (zbar + normal(rng, 6, 4)).requires_grad_(), zbar.clone().requires_grad_()
    value = individual_calibration(moved, anchor)
    torch.testing.assert_close(value, (moved - zbar).square().sum() / 6)
    value.backward()
    torch.testing.assert_close(moved.grad, 2 * (moved.detach() - zbar) / 6)
    assert anchor.grad is None


def test_the_loss_is_its_terms(rng):
    logits, z, zbar = normal(rng, 5, 3), normal(rng, 5, 4), normal(rng, 5, 4)
    targets, partners = torch.tensor([0, 1, 2, -1, 1]), torch.tensor([2, 0, 1, -1, 1])
    first, second = (F.cross_entropy(logits, x, ignore_index=-1) for x in (targets, partners))
    expected = 0.3 * first + 0.7 * second + 0.2 * (z - zbar).square().sum(1).mean()
    torch.testing.assert_close(RCALLoss(beta=0.2)(logits, targets, z, zbar, partners, 0.3), expected)
    torch.testing.assert_close(RCALLoss(beta=0.0)(logits, targets, z, zbar), first)


# --- the method ---

COUNTS = (10, 6, 4, 2)


def images(rng, counts=COUNTS, side=4):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    pixels = torch.randint(0, 256, (len(labels), 1, side, side), generator=rng, dtype=torch.uint8)
    return Images(pixels, labels, tuple("abcd")[: len(counts)], "noise")


def method(samples=22, start=None, **changes):
    return RCAL(Encoder(), classes=4, samples=samples, start=start, **{"neighbours": 3, "sees": "plain"} | changes)


pytestmark = pytest.mark.filterwarnings("ignore:inliers. of the classes 3, with at most 2 rows")  # of `COUNTS`


def begun(rng, **changes):
    """A method at the start of training, and its data."""
    torch.manual_seed(0)
    data, learner = images(rng), method(**changes)
    learner.start_epoch(data, 0)
    return learner, data


def batch_of(data, rows):
    return [data.pixels[rows] / 127.5 - 1], data.labels[rows], rows


@pytest.mark.slow
def test_training_begins_with_the_weights_of_the_start_which_stays_as_it_is(rng, tmp_path):
    start, data = Encoder(), images(rng)
    before = copy.deepcopy(start.state_dict())
    learner = method(start=start)
    assert torch.equal(learner.encoder.weight, start.weight)
    fit(learner, data, epochs=2, batch_size=8, seed=0, folder=tmp_path, device="cpu")
    for kept in (start, learner.start.module):
        assert all(torch.equal(before[name], x) for name, x in kept.state_dict().items())
    assert not torch.equal(learner.encoder.weight, start.weight)
    torch.testing.assert_close(learner.anchors, start(data.pixels / 127.5 - 1).detach())
    assert not [name for name in learner.state_dict() if name.startswith("start")]
    assert [name for name in method().state_dict() if name.startswith("start")]  # without one, it is the checkpoint's


def test_a_start_of_another_kind_is_refused():
    with pytest.raises(InputError, match="start: expected an encoder of the kind that is trained"):
        method(start=Encoder(features=5))


def test_a_frozen_encoder_can_begin_too():
    start = Encoder()
    learner = RCAL(Frozen(Encoder(), stored=True), classes=4, samples=22, start=start)
    assert torch.equal(learner.encoder.weight, start.weight)


def test_drawn_features_make_classes_as_frequent_as_the_largest(rng):
    learner, data = begun(rng)
    total = learner.bank_labels.bincount(minlength=4) + data.counts()
    assert total.tolist() == [10] * 4
    capped, _ = begun(rng, max_virtual=5)
    assert capped.bank_labels.bincount(minlength=4).tolist() == [0, 4, 5, 5]


def test_what_is_drawn_from_is_what_the_functions_say(rng):
    learner, data = begun(rng, borrow=0.3, alpha=0.2, q=1, weights="count", disturbance="eye", head_share=0.7)
    kept = inliers(learner.anchors, data.labels, 3)
    g = robust_gaussians(learner.anchors, data.labels, 4, kept)
    head = torch.tensor([True, True, False, False])
    expected = calibrate(g, head, q=1, gamma=0.3, alpha=0.2, weights="count", disturbance="eye")
    found = learner.modelled(data)
    for a, b in zip(found.calibrated, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(found.head, head)
    assert found.outliers == int((~kept).sum())
    torch.manual_seed(5)
    learner._draw(expected)
    torch.manual_seed(5)
    torch.testing.assert_close(learner.bank, draw(expected, torch.tensor([0, 4, 6, 8]))[0].float())


def test_without_lof_outliers_count(rng):
    data = images(rng)
    data.pixels[3] = 255
    torch.manual_seed(0)
    learner = method(lof=False)
    learner.anchors.copy_(data.pixels.flatten(1)[:, :4])
    found = learner.modelled(data)
    assert found.outliers == 0
    torch.testing.assert_close(found.plain.mean[0], learner.anchors[:10].double().mean(0))
    torch.testing.assert_close(found.calibrated.mean[0], found.plain.mean[0])
    assert method(head_number=3).modelled(data).head.tolist() == [True, True, True, False]


def test_the_bank_is_drawn_once_or_in_each_epoch(rng):
    for redraw in (False, True):
        learner, data = begun(rng, redraw=redraw)
        before = learner.bank.clone()
        learner.start_epoch(data, 1)
        assert torch.equal(learner.bank, before) != redraw


def test_drawn_features_move_the_classifier_alone(rng):
    learner, data = begun(rng)
    (net, loss), (head, virtual) = learner.turns(*batch_of(data, torch.arange(8)))
    assert (net, head) == ("net", "head")
    gradients = torch.autograd.grad(virtual, list(learner.parameters()), allow_unused=True)
    moved = {name for (name, _), g in zip(learner.named_parameters(), gradients, strict=True) if g is not None}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert set(learner.players()) == {"net", "head"}
    assert loss.requires_grad


def test_drawn_features_have_labels_of_their_class(rng):
    learner, _ = begun(rng)
    torch.manual_seed(1)
    found = learner.virtual_loss(7)
    torch.manual_seed(1)
    rows = torch.randint(len(learner.bank), (7,))
    expected = F.cross_entropy(learner.classifier(learner.bank[rows]), learner.bank_labels[rows])
    torch.testing.assert_close(found, expected)


def test_jointly_the_loss_of_drawn_features_is_added(rng):
    learner, data = begun(rng, virtual="joint", mixup=0.0)
    batch = batch_of(data, torch.arange(8))
    torch.manual_seed(1)
    ((player, found),) = learner.turns(*batch)
    torch.manual_seed(1)
    virtual = learner.virtual_loss(8)
    learner.bank = learner.bank[:0]
    torch.testing.assert_close(found, learner.loss(*batch) + virtual)
    assert player == "net"
    assert set(learner.players()) == {"net"}


def test_the_steps_of_both_optimisers_are_those_of_the_losses(rng):
    learner, _ = begun(rng, virtual_lr=0.05, virtual_momentum=0.5, head_lr=7.0, lr=0.01, optimizer="sgd")
    players = learner.players()
    head = learner.make_player_optimizer("head", learner.groups_of(players["head"]))
    assert type(head) is torch.optim.SGD
    assert {(g["lr"], g["momentum"]) for g in head.param_groups} == {(0.05, 0.5)}
    assert [learner.player_lr_factor("head", step, 9) for step in (0, 4, 9)] == [1.0] * 3
    factors = [learner.player_lr_factor("net", step, 9) for step in (4, 9)]
    assert factors == [learner.lr_factor(step, 9) for step in (4, 9)]
    assert factors[0] != factors[1]
    net = learner.make_player_optimizer("net", learner.groups_of(players["net"]))
    rates = {id(p): g["lr"] for g in net.param_groups for p in g["params"]}
    assert rates[id(learner.encoder.weight)] == 0.01
    assert rates[id(learner.classifier.weight)] == pytest.approx(0.07)
    assert len(rates) == len(players["net"])


@pytest.mark.parametrize("align", ["images", "mixtures"])
def test_features_of_images_or_of_mixtures_are_held_near_the_start(align, rng):
    learner, data = begun(rng, align=align, beta=0.7)
    with torch.no_grad():
        learner.encoder.weight += 0.1
    (inputs,), labels, rows = batch_of(data, torch.tensor([3, 21, 12, 8, 15]))
    labels = labels.index_fill(0, torch.tensor([1]), -1)
    torch.manual_seed(3)
    partners, share = learner._mixture(labels)
    assert partners[1] == 1  # what has no label is not mixed
    assert sorted(partners.tolist()) == list(range(5))
    assert (partners != torch.arange(5)).sum() >= 2
    assert 0.1 < share < 0.9
    torch.manual_seed(3)
    found = learner.loss([inputs], labels, rows)
    mixed = share * inputs + (1 - share) * inputs[partners]
    zbar, z = learner.anchors[rows], learner.encoder(inputs)
    if align == "mixtures":
        zbar, z = share * zbar + (1 - share) * zbar[partners], learner.encoder(mixed)
    logits = learner.logits(mixed)
    first, second = (F.cross_entropy(logits, x, ignore_index=-1) for x in (labels, labels[partners]))
    expected = share * first + (1 - share) * second + 0.7 * (z - zbar).square().sum(1).mean()
    torch.testing.assert_close(found, expected)


def test_all_parts_off_it_is_cross_entropy_and_with_weights_balanced(rng):
    learner, data = begun(rng, balance="none", beta=0.0, mixup=0.0)
    batch = batch_of(data, torch.tensor([3, 21, 12, 8, 15]))
    logits = learner.logits(batch[0][0])
    torch.testing.assert_close(learner.loss(*batch), F.cross_entropy(logits, batch[1]))
    assert not len(learner.bank)
    assert learner.diagnostics(data, data, data) == {}
    learner, _ = begun(rng, balance="weights", beta=0.0, mixup=0.0)
    weights = 22 / (4 * data.counts())
    torch.testing.assert_close(learner.class_weights, weights)
    logits = learner.logits(batch[0][0])
    torch.testing.assert_close(learner.loss(*batch), F.cross_entropy(logits, batch[1], weights))


def test_without_mixtures_the_network_is_passed_once_and_batch_statistics_see_no_drawn_feature(rng):
    class Normalised(nn.Sequential):
        features = 3

    data = images(rng)
    learner = RCAL(Normalised(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)), classes=4, samples=22, neighbours=3)
    learner.start_epoch(data, 0)
    seen = []
    learner.encoder[2].register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    for mixup, beta, expected in ((0.0, 0.5, [8]), (1.0, 0.5, [8, 8]), (1.0, 0.0, [8])):
        seen.clear()
        learner.mixup, learner.objective.beta = mixup, beta
        list(learner.turns(*batch_of(data, torch.arange(8))))
        assert seen == expected


def test_shares_of_mixtures_are_of_a_beta_distribution(rng):
    learner, _ = begun(rng, mixup=0.5)
    torch.manual_seed(0)
    share = torch.stack([learner._mixture(torch.zeros(2, dtype=torch.int64))[1] for _ in range(500)])
    assert share.mean().item() == pytest.approx(0.5, abs=0.06)
    assert share.var().item() == pytest.approx(1 / 8, abs=0.015)  # that of Beta(1/2, 1/2)


def test_a_class_without_labels_is_refused_or_left_out(rng):
    data = images(rng)
    data.labels[data.labels == 3] = -1
    with pytest.raises(InputError, match="labels: expected some of every class, got none of class 3; see allow_empty"):
        method().check_data(data, 8)
    method(balance="none").check_data(data, 8)
    learner = method(allow_empty=True)
    learner.check_data(data, 8)
    learner.start_epoch(data, 0)
    assert learner.bank_labels.bincount(minlength=4).tolist() == [0, 4, 6, 0]


def test_classes_that_are_as_frequent_are_warned_of(rng):
    data, learner = images(rng, counts=(5, 5, 5, 5)), method(samples=20)
    with pytest.warns(UserWarning, match="all classes are as frequent"):
        learner.start_epoch(data, 0)
    assert [player for player, _ in learner.turns(*batch_of(data, torch.arange(8)))] == ["net"]


def test_diagnostics_compare_means_of_rare_classes_with_those_of_the_test(rng):
    learner, data = begun(rng)
    test = images(rng, counts=(5, 5, 5, 5))
    found = learner.diagnostics(data, test, test)
    means = torch.stack([learner.start(test.pixels / 127.5 - 1)[test.labels == k].mean(0) for k in range(4)]).double()
    model = learner.modelled(data)
    tail = ~model.head
    near, far = ((g.mean - means)[tail].norm(dim=1).mean().item() for g in (model.calibrated, model.plain))
    assert found["tail_distance"] == pytest.approx(near, rel=1e-5)
    assert found["tail_gain"] == pytest.approx(far - near, rel=1e-4, abs=1e-6)
    assert found["virtual"] == 18
    assert found["outliers"] == model.outliers / 22
    assert "tail_gain" not in learner.diagnostics(data, test, test.subset(torch.arange(0)))


@pytest.mark.slow
@pytest.mark.parametrize("redraw", [False, True])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(redraw, rng, tmp_path):
    data, start = images(rng), Encoder()

    def learner():
        torch.manual_seed(0)
        return method(start=start, redraw=redraw)

    whole, stopped, resumed = learner(), learner(), learner()
    recipe = {"epochs": 4, "batch_size": 8, "seed": 0, "device": "cpu"}
    fit(whole, data, folder=tmp_path / "whole", **recipe)

    class Stop(Exception):
        pass

    def probe(_, calls=[]):  # noqa: B006
        calls.append(0)
        if len(calls) == 3:
            raise Stop
        return {}, None

    with pytest.raises(Stop):
        fit(stopped, data, folder=tmp_path / "stopped", probe=probe, **recipe)
    fit(resumed, data, folder=tmp_path / "stopped", **recipe)
    for name, x in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], x), name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"balance": "even"}, "balance 'even' is not known"),
        ({"virtual": "both"}, "virtual 'both' is not known"),
        ({"align": "all"}, "align 'all' is not known"),
        ({"sees": "weak"}, "sees: kind of view 'weak' is not known"),
        ({"virtual_lr": 0.0}, "virtual_lr: expected a number above 0"),
        ({"virtual_momentum": 1.0}, "virtual_momentum: expected a number of at least 0 and below 1"),
        ({"max_virtual": 0}, "max_virtual: expected a whole number of at least 1"),
        ({"head_share": 0.0}, "head_share: expected a number above 0"),
        ({"head_number": 5}, "head_number: expected a whole number of at least 0 and of at most 4"),
        ({"borrow": 2.0}, "borrow: expected a number of at least 0 and of at most 1"),
        ({"beta": -1.0}, "beta: expected a number of at least 0"),
        ({"mixup": -1.0}, "mixup: expected a number of at least 0"),
        ({"head_lr": 0.0}, "head_lr: expected a number above 0"),
        ({"bottleneck": 2}, "bottleneck: expected 0, since its batch normalisation would see drawn features"),
    ],
)
def test_what_the_method_refuses(arguments, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        method(**arguments)
