"""Gradient descent with large steps: first steps by hand, the paper's counts, perceptrons as limits, and bounds."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional as F

from counterpoise.classify import normalized_lr_gd as module
from counterpoise.classify.normalized_lr_gd import (
    NormalizedLogistic,
    NormalizedLogisticLoss,
    bounds,
    direction,
    normalized_logistic,
    separate,
)
from counterpoise.data import Images
from counterpoise.data.rows import Rows
from counterpoise.errors import InputError
from counterpoise.training.trainer import fit
from worlds import Encoder

RULES = ("normalized", "logistic", "batch-perceptron", "normalized-perceptron", "perceptron")


def separable(rng, n=60, d=5, gap=0.3):
    """Rows on both sides of a plane through the origin, none of them near."""
    plane = F.normalize(torch.randn(d, generator=rng, dtype=torch.float64), dim=0)
    a = torch.randn(n, d, generator=rng, dtype=torch.float64)
    y = torch.where(a @ plane > 0, 1, -1)
    return a + gap * y[:, None] * plane, y


def slow_form(a, y, gamma, rule, most):
    """Autograd's gradient, from the definition of the loss; normalised by the mean weight."""
    theta = torch.zeros(a.shape[1], dtype=torch.float64, requires_grad=True)
    path = [theta.detach().clone()]
    for _ in range(most):
        margins = y * (a @ theta)
        if (margins > 0).all():
            break
        (gradient,) = torch.autograd.grad(torch.log1p(torch.exp(-margins)).mean(), theta)
        beta = 1 / (1 / (1 + torch.exp(margins))).mean() if rule == "normalized" else 1.0
        theta = (theta - gamma * beta * gradient).detach().requires_grad_()
        path.append(theta.detach().clone())
    return path


@pytest.mark.parametrize("rule", ["normalized", "logistic"])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("gram", [False, True])
def test_it_takes_the_steps_of_autograd_s_gradient(rule, gamma, gram, rng):
    a, y = separable(rng, gap=0.05)
    path = slow_form(a, y, gamma, rule, 40)
    for updates in (1, 2, 5, len(path) - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = separate(a, y, gamma, rule, most=updates, gram=gram)
        torch.testing.assert_close(found.theta, path[updates], rtol=1e-8, atol=1e-10)
    assert len(path) > 5


def test_the_first_step_is_half_the_mean_of_the_rows_or_all_of_it(rng):
    a, y = separable(rng)
    mean = (y[:, None] * a).mean(0)
    for rule, share in zip(RULES[:4], (3.0, 1.5, 0.5, 1.0), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = separate(a, y, 3.0, rule, most=1)
        torch.testing.assert_close(found.theta, share * mean)


def worst(n):
    a = torch.tensor([[0.5, -1.0]] + [[-0.5, -1.0]] * (n - 1))
    return a, torch.tensor([1] + [-1] * (n - 1))


@pytest.mark.parametrize(
    ("rule", "gamma", "n", "updates"),
    [
        ("normalized", 100, 1000, 2),
        ("normalized", 10, 1000, 2),
        ("normalized", 1, 1000, 16),
        ("normalized", 0.1, 1000, 157),
        ("logistic", 100, 1000, 308),
        ("logistic", 100, 10, 4),
        ("logistic", 100, 100, 31),
        ("normalized", 1, 10_000, 21),
    ],
)
def test_the_counts_of_the_paper_s_table_1_are_exact(rule, gamma, n, updates):
    found = separate(*worst(n), gamma, rule)
    assert (found.updates, found.solved) == (updates, True)


@pytest.mark.parametrize("gram", [False, True])
def test_the_batch_perceptrons_are_the_limits_of_large_steps(gram, rng):
    a, y = separable(rng, gap=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rule, limit in (("logistic", "batch-perceptron"), ("normalized", "normalized-perceptron")):
            for updates in (1, 2, 4):
                large = separate(a, y, 1e7, rule, most=updates, gram=gram).theta / 1e7
                perceptron = separate(a, y, 1.0, limit, most=updates, gram=gram).theta
                torch.testing.assert_close(large, perceptron, rtol=1e-6, atol=1e-6)


def test_the_batch_perceptron_adds_the_rows_that_are_not_strictly_right_and_perceptrons_take_turns():
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    y = torch.tensor([1, 1, 1])  # no plane
    with pytest.warns(UserWarning, match="separate: 2 of 3 rows are not on their side after 2 updates"):
        found = separate(a, y, rule="batch-perceptron", most=2)
    first = a.sum(0) / 6  # (0, -0.0833): margins 0, -0.0417, 0.0833
    torch.testing.assert_close(found.theta, (first + (a[0] + a[1]) / 3).double(), check_dtype=False)
    assert not found.solved
    with pytest.warns(UserWarning, match="after 1 updates"):
        assert separate(a, y, rule="perceptron", most=1).theta.tolist() == [1.0, 0.0]  # row 0
    with pytest.warns(UserWarning, match="after 2 updates"):
        assert separate(a, y, rule="perceptron", most=2).theta.tolist() == [0.0, 0.5]  # and row 1
    with pytest.warns(UserWarning, match="after 3 updates"):
        # Rows 0 (margin 0) and 2 are wrong; it is row 2's turn.
        assert separate(a, y, rule="perceptron", most=3).theta.tolist() == [0.0, -0.5]


def test_an_example_where_the_loss_misleads():
    """The loss grows without bound with the step, and yet the second step separates."""
    a, y = torch.tensor([[1.0, -1.0], [-1.0, -4.0]]), torch.tensor([1, -1])
    for gamma in (100.0, 10_000.0):
        found = separate(a, y, gamma, "logistic")
        assert found.updates == 2
        assert found.losses[1].item() == pytest.approx(gamma / 8, rel=1e-3)
        torch.testing.assert_close(found.theta / gamma, torch.tensor([1.0, 0.25]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_recorded_is_that_of_the_weights_on_the_way(rule, rng):
    a, y = separable(rng, gap=0.05)
    whole = separate(a, y, 2.0, rule)
    assert whole.solved
    assert len(whole.losses) == len(whole.accuracies) == len(whole.norms) + 1 == whole.updates + 1
    before = torch.zeros(5, dtype=torch.float64)
    for updates in range(min(4, whole.updates)):
        margins = y * (a @ before)
        assert whole.losses[updates].item() == pytest.approx(F.softplus(-margins).mean().item(), abs=1e-8)
        assert whole.accuracies[updates].item() == pytest.approx((margins > 0).double().mean().item())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = separate(a, y, 2.0, rule, most=updates + 1).theta
        length = (after - before).norm().item() / (2.0 if rule in ("normalized", "logistic") else 1.0)
        assert whole.norms[updates].item() == pytest.approx(length)
        before = after
    assert whole.accuracies[-1] == 1
    assert (y * (a @ whole.theta) > 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_updates_respect_all_four_bounds(seed):
    a, y = separable(torch.Generator().manual_seed(seed), n=40, d=4, gap=0.1)
    known = bounds(a, y)
    assert separate(a, y, rule="perceptron").updates <= known.perceptron
    assert separate(a, y, rule="normalized-perceptron").updates <= known.perceptron
    assert separate(a, y, rule="batch-perceptron").updates <= known.batch_perceptron
    for gamma in (0.1, 1.0, 100.0):
        assert separate(a, y, gamma).updates <= known.normalized(gamma)


def test_bounds_have_the_largest_margin_as_a_support_vector_machine_has_it(rng):
    a, y = separable(rng, n=30, d=3, gap=0.2)
    found = bounds(a, y)
    # With every row and its mirror image, the machine's bias is 0.
    z = (a * y[:, None]).numpy()
    machine = SVC(C=1e9, kernel="linear", tol=1e-9).fit(np.concatenate([z, -z]), np.repeat([1, -1], 30))
    assert found.margin == pytest.approx(1 / np.linalg.norm(machine.coef_), rel=1e-5)
    assert found.radius == pytest.approx(float(a.norm(dim=1).max()))
    assert found.rows == 30
    assert found.perceptron == pytest.approx((found.radius / found.margin) ** 2)
    assert found.batch_perceptron == pytest.approx(30 * found.perceptron)
    expected = found.perceptron + 2 * math.log(59) / (0.5 * found.margin**2)
    assert found.normalized(0.5) == pytest.approx(expected)
    scaled = bounds(1e12 * a, y)
    assert scaled.margin == pytest.approx(1e12 * found.margin)


def test_weights_are_those_of_the_loss_and_stay_finite_where_all_margins_are_large(rng):
    margins = 3 * torch.randn(50, generator=rng, dtype=torch.float64)
    w = 1 / (1 + margins.exp())
    torch.testing.assert_close(direction(margins), w / w.sum())
    found = direction(torch.tensor([5e3, 5e3 + 2, 9e9]))
    torch.testing.assert_close(found[:2], torch.tensor([0.0, -2.0]).softmax(0).double())
    assert found[2] == 0


@pytest.mark.parametrize("rule", RULES[:4])
def test_all_rows_twice_change_nothing_and_no_update_is_longer_than_a_row(rule, rng):
    a, y = separable(rng, gap=0.05)
    once, twice = separate(a, y, 1.0, rule), separate(torch.cat([a, a]), torch.cat([y, y]), 1.0, rule)
    torch.testing.assert_close(twice.theta, once.theta, rtol=1e-7, atol=1e-9)
    assert twice.updates == once.updates
    assert (once.norms <= a.norm(dim=1).max()).all()


@pytest.mark.parametrize("rule", RULES)
def test_by_products_of_pairs_or_by_all_rows_it_takes_the_same_path(rule, rng):
    a, y = separable(rng, n=40, d=60, gap=0.01)
    for gamma in (0.1, 50.0):
        rows, pairs, usual = (separate(a, y, gamma, rule, gram=gram) for gram in (False, True, None))
        torch.testing.assert_close(pairs.theta, rows.theta, rtol=1e-7, atol=1e-9)
        assert pairs.updates == rows.updates
        torch.testing.assert_close(pairs.norms, rows.norms, rtol=1e-6, atol=1e-8)
        assert torch.equal(usual.theta, pairs.theta)


def planes_without_rounding(monkeypatch):
    """All rows are computed in float64 in every update."""
    monkeypatch.setattr(module._Planes, "margins", module._Planes.exact_margins)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gamma", [0.5, 100.0])
def test_leaving_out_rows_that_do_not_count_changes_nothing(rule, gamma, rng, monkeypatch):
    a, y = separable(rng, n=1000, d=40, gap=0.02)
    a = (20 if rule in ("normalized", "logistic") else 1000) * a  # perceptrons have no step size
    most = 150 if rule == "perceptron" else 30
    counted = []
    chosen = module._Planes.margins

    def counting(self):
        rows, margins = chosen(self)
        counted.append(margins.shape[1])
        assert (self.exact_of_all()[:, ~kept(rows, 1000)] > 40).all()
        return rows, margins

    def exact_of_all(self):
        return self.signs * (self.a @ self.weights.T).T

    def kept(rows, n):
        found = torch.ones(n, dtype=torch.bool)
        if rows is not None:
            found[:] = False
            found[rows] = True
        return found

    monkeypatch.setattr(module._Planes, "exact_of_all", exact_of_all, raising=False)
    monkeypatch.setattr(module._Planes, "margins", counting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = separate(a, y, gamma, rule, most=most)
        planes_without_rounding(monkeypatch)
        exact = separate(a, y, gamma, rule, most=most)
    torch.testing.assert_close(found.theta, exact.theta, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.losses, exact.losses, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(found.accuracies, exact.accuracies)
    if gamma == 100:
        assert min(counted) < 200


def test_rows_that_are_left_out_do_not_count_for_any_weights_within_reach(rng):
    """In the worst direction, against the row itself; and the first of those that are kept may count there."""
    a, y = separable(rng, n=1000, d=40, gap=0.02)
    planes = module._Planes(20 * a, y[None].double())
    planes.weights = 1e3 * (y[:, None] * a).mean(0, keepdim=True)
    planes._choose()
    assert planes.rows is not None
    assert planes.reach > 0
    margins = planes.signs[0] * (planes.a @ planes.weights[0]) - planes.reach * planes.a.norm(dim=1)
    left = torch.ones(1000, dtype=torch.bool)
    left[planes.rows] = False
    least = math.log(2 * 1000 / 2**-52) + 1
    assert margins[left].min() > least
    assert margins[planes.rows].max() < least + 2  # no more are kept than the reach asks for


def test_rows_that_no_plane_separates_end_with_a_warning():
    a, y = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, -1])
    for rule in RULES:
        with pytest.warns(UserWarning, match="separate: . of 2 rows are not on their side after 7 updates"):
            found = separate(a, y, 1e6, rule, most=7)
        assert (found.solved, found.updates) == (False, 7)
        assert found.theta.isfinite().all()
    with pytest.raises(InputError, match="a: expected rows that a plane through the origin separates by y; none does"):
        bounds(a, y)


def test_of_one_class_the_mean_may_already_do():
    found = separate(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([-1, -1]))
    assert (found.updates, found.theta.tolist()) == (1, [-1.5, -1.5])


# --- the objective ---


def test_its_gradient_is_that_of_the_logistic_loss_over_the_mean_weight_of_each_class(rng):
    """The value is no integral of it (`surrogate`)."""
    logits = torch.randn(12, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(12) % 4 - 1  # -1 is none
    (found,) = torch.autograd.grad(normalized_logistic(logits, targets), logits)
    kept = targets >= 0
    signs = 2.0 * F.one_hot(targets[kept], 3) - 1
    margins = signs * logits[kept]
    (plain,) = torch.autograd.grad(F.softplus(-margins).mean(0).sum(), logits)
    mean_weight = torch.sigmoid(-margins).mean(0)
    torch.testing.assert_close(found, plain / mean_weight)
    assert not found[~kept].any()


def test_of_a_single_column_it_is_the_direction_of_separate(rng):
    a, y = separable(rng, gap=0.05)
    layer = nn.Linear(5, 1, bias=False).double()
    nn.init.zeros_(layer.weight)
    for _ in range(3):
        layer.weight.grad = None
        NormalizedLogisticLoss()(layer(a), (y > 0).long()).backward()
        with torch.no_grad():
            layer.weight -= 2.0 * layer.weight.grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = separate(a, y, 2.0, most=3).theta
    torch.testing.assert_close(layer.weight[0].detach(), expected)


def test_its_value_is_minus_the_weighted_mean_margin(rng):
    logits, targets = torch.randn(6, 1, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, -1])
    margins = (2 * targets[:5] - 1) * logits[:5, 0]
    expected = -(direction(margins) * margins).sum()
    torch.testing.assert_close(normalized_logistic(logits, targets), expected)


def test_without_a_label_it_and_its_gradient_are_zero():
    logits = torch.ones(2, 3, requires_grad=True)
    value = normalized_logistic(logits, torch.tensor([-1, -1]))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


# --- the method ---


def clusters(rng, n=300, classes=4, dim=6):
    labels = torch.arange(n) % classes
    means = F.one_hot(torch.arange(classes), dim) * (
        2.0 + torch.arange(classes)[:, None]
    )  # some are nearer than others
    return means[labels] + 0.3 * torch.randn(n, dim, generator=rng), labels


def applied(method, data, folder):
    fit(method, data, epochs=1, batch_size=8, seed=0, folder=folder, device="cpu")
    return method


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gram", [False, True])
def test_the_method_separates_each_class_from_the_others_as_separate_does(rule, gram, rng, tmp_path):
    x, labels = clusters(rng)
    data = Rows(x, labels, tuple("abcd"), "clusters")
    made = NormalizedLogistic(Encoder(6), classes=4, shape=(6,), rule=rule, gamma=3.0, gram=gram)
    method = applied(made, data, tmp_path)
    one = torch.cat([x.double(), torch.ones(len(x), 1).double()], 1)
    for label in range(4):
        found = separate(one, torch.where(labels == label, 1, -1), 3.0, rule)
        torch.testing.assert_close(method.classifier.weight[label], found.theta[:6].float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.classifier.bias[label], found.theta[6].float(), rtol=1e-4, atol=1e-5)
        assert method.updates[label] == found.updates
    assert len(method.updates.unique()) > 1
    assert (method.predict(data).argmax(1) == labels).all()
    assert method.diagnostics() == {"separated": 1.0, "updates": float(method.updates.double().mean())}


def test_without_a_bias_its_planes_pass_through_the_origin(rng, tmp_path):
    x, labels = clusters(rng)
    data = Rows(x, labels, tuple("abcd"), "clusters")
    made = NormalizedLogistic(Encoder(6), classes=4, shape=(6,), bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = applied(made, data, tmp_path)
    assert not method.classifier.bias.any()
    blank = Rows(torch.cat([x, torch.zeros(1, 6)]), torch.cat([labels, torch.tensor([0])]), tuple("abcd"), "blank")
    with pytest.raises(InputError, match=r"a: expected no row of zeros, .* got 1, the first of them row 300"):
        made.fit(blank)


def test_classes_that_are_not_separated_are_counted_and_those_without_labels_never_named(rng, tmp_path):
    x, labels = clusters(rng)
    labels = torch.where(labels == 3, -1, labels)
    swapped = labels.clone()
    swapped[0], swapped[1] = 1, 0
    data = Rows(x, swapped, tuple("abcde"), "clusters")
    made = NormalizedLogistic(Encoder(6), classes=5, shape=(6,), most=20)
    with pytest.warns(UserWarning, match="2 of 3 classes are not separated from the others after 20 updates"):
        method = applied(made, data, tmp_path)
    assert method.solved.tolist() == [0, 0, 1, 0, 0]
    assert method.updates.tolist()[:2] == [20, 20]
    assert method.updates.tolist()[3:] == [0, 0]
    assert (method.predict(data).argmax(1) < 3).all()
    assert method.diagnostics()["separated"] == 0.2


def test_images_are_read_as_pixels(rng, tmp_path):
    labels = torch.arange(60) % 3
    pixels = (40 + 80 * labels.view(-1, 1, 1, 1) + torch.randint(-30, 30, (60, 1, 8, 8), generator=rng)).to(torch.uint8)
    data = Images(pixels, labels, ("a", "b", "c"), "greys")
    method = applied(NormalizedLogistic(nn.Identity(), classes=3, shape=(1, 8, 8), most=3000), data, tmp_path)
    assert method.solved.all()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direction(torch.zeros(0)), "margins: expected a vector of at least 1 number"),
        (lambda: direction(torch.tensor([math.nan])), "margins: 1 of 1 numbers are NaN"),
        (lambda: separate(torch.ones(2, 1), torch.tensor([1, 0])), "y: expected 1 or -1 for each row, got 0 for 1 of"),
        (lambda: separate(torch.ones(2, 1), torch.tensor([1, 2])), "y: expected integers from -1 to 1, got 2"),
        (lambda: separate(torch.ones(2, 1), torch.tensor([1.0, 1.0])), "y: expected integers, got torch.float32"),
        (lambda: separate(torch.tensor([[1.0], [0.0]]), torch.tensor([1, 1])), "a: expected no row of zeros, .* row 1"),
        (lambda: separate(torch.tensor([[math.inf]]), torch.tensor([1])), "a: 1 of 1 numbers are NaN or infinite"),
        (lambda: separate(torch.ones(1, 1), torch.tensor([1]), gamma=0.0), "gamma: expected a number above 0"),
        (lambda: separate(torch.ones(1, 1), torch.tensor([1]), most=0), "most: expected a whole number of at least 1"),
        (lambda: separate(torch.ones(1, 1), torch.tensor([1]), rule="sgd"), "rule 'sgd' is not known"),
        (lambda: bounds(torch.ones(1, 1), torch.tensor([1])).normalized(-1.0), "gamma: expected a number above 0"),
        (
            lambda: normalized_logistic(torch.zeros(2, 3), torch.tensor([0, 3])),
            "targets: expected integers from -1 to 2",
        ),
        (lambda: NormalizedLogistic(Encoder(), 3, shape=(16,), gamma=-1.0), "gamma: expected a number above 0"),
        (lambda: NormalizedLogistic(Encoder(), 3, shape=(16,), most=0), "most: expected a whole number of at least 1"),
        (lambda: NormalizedLogistic(Encoder(), 3, shape=(16,), rule="sgd"), "rule 'sgd' is not known"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
