import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import binom, gamma
from sklearn.datasets import load_digits

from counterpoise.errors import InputError
from counterpoise.measure import generalization_difficulty
from counterpoise.measure.generalization_difficulty import (
    HypothesisSpace,
    class_distance,
    classification_space,
    control_difficulty,
    difficulty,
    error_bound,
    extreme_class_distance,
    intrinsic_dimension,
    meta_learning_space,
    union,
)

POINTS = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(300) % 3
SPACE = HypothesisSpace(dimension=5, radius=2.0, resolution=0.5, combinations=4, outputs=3, bound=1.5)
MNIST = HypothesisSpace(14, 17.179045827183984, 2.3987084824335305, combinations=10, outputs=9)


def direct(space, n, error):
    """The formula as it is printed, without logarithms of sizes."""
    m, radius, d, outputs = space.dimension, space.radius, space.combinations, space.outputs
    frequency = 2 * np.pi * radius / space.resolution
    degree = (np.sqrt((m - 1) ** 2 + 4 * frequency**2) - (m - 1)) / 2
    eigenfunctions = binom(m + degree, m) + binom(m + degree - 1, m)
    sphere = 2 * np.pi ** ((m + 1) / 2) / gamma((m + 1) / 2)
    wasserstein = np.sqrt(m / 6) * (sphere * d / n) ** (1 / m) * radius
    lipschitz = degree * np.sqrt(outputs) / radius
    ratio = space.bound * np.sqrt(outputs * d) * lipschitz * wasserstein / error
    return (2 * outputs * d * eigenfunctions - n * outputs) * np.log2(ratio)


def on_sphere(dimension, n, ambient=20):
    rng = torch.Generator().manual_seed(1)
    points = torch.randn(n, dimension + 1, generator=rng, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    return (
        points @ torch.linalg.qr(torch.randn(ambient, ambient, generator=rng, dtype=torch.float64)).Q[: dimension + 1]
    )


@pytest.mark.parametrize(
    ("space", "n", "error", "bits"),
    [
        (MNIST, 60_000, 0.001, "1.4848e+16"),
        (HypothesisSpace(19, 53.86932485133339, 1.5766998174969105, 10, 9), 73_257, 0.01, "1.2129e+31"),
        (HypothesisSpace(27, 54.9156786783691, 2.7506414616587023, 10, 9), 50_000, 0.01, "3.4377e+32"),
        (HypothesisSpace(48, 943.5923, 65, 1000, 999), 1_280_901, 0.1, "3.5833e+41"),
    ],
)
def test_the_paper_s_constants_give_its_numbers(space, n, error, bits):
    assert f"{difficulty(space, n, error).bits:.4e}" == bits


@pytest.mark.parametrize(
    ("found", "bits"),
    [
        (control_difficulty(2, samples=1e4), "4.4147e+09"),
        (control_difficulty(10, samples=1e4), "1.1873e+40"),
        (control_difficulty(6, actions=2), "2.9142e+25"),
        (control_difficulty(15, actions=4), "7.6130e+58"),
        (control_difficulty(17, actions=6), "1.7184e+66"),
    ],
)
def test_the_paper_s_control_tasks(found, bits):
    assert f"{found.bits:.4e}" == bits


@pytest.mark.parametrize("m", [1, 1.5, 3, 20, 60])
@pytest.mark.parametrize("resolution", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 37.5])
def test_logarithms_and_the_formula_written_out_agree(m, resolution, n):
    space = replace(SPACE, dimension=m, resolution=resolution)
    assert difficulty(space, n, 0.02).bits == pytest.approx(max(0, direct(space, n, 0.02)), rel=1e-9)


@pytest.mark.parametrize("m", [1, 2, 7, 400, 1e6])
@pytest.mark.parametrize("resolution", [1e-6, 0.3, 4.0])
def test_degree_solves_its_equation(m, resolution):
    space = replace(SPACE, dimension=m, resolution=resolution)
    assert space.degree * (space.degree + m - 1) == pytest.approx(space.frequency**2, rel=1e-9)


@pytest.mark.parametrize("degree", [1, 2, 9, 1000])
@pytest.mark.parametrize("m", [1, 2, 3, 10])
def test_eigenfunctions_are_those_of_the_sphere(m, degree):
    """Homogeneous polynomials of degree k in m + 1 variables, less those of degree k - 2, summed over k."""
    resolution = 2 * math.pi / math.sqrt(degree * (degree + m - 1))
    space = replace(SPACE, radius=1.0, dimension=m, resolution=resolution)
    harmonics = sum(math.comb(m + k, m) - (math.comb(m + k - 2, m) if k > 1 else 0) for k in range(degree + 1))
    assert space.log_eigenfunctions == pytest.approx(math.log(harmonics), abs=1e-9)
    if m == 1:
        assert harmonics == 2 * degree + 1


@pytest.mark.parametrize(("m", "degree"), [(3, 10**6), (20, 10**9)])
def test_many_eigenfunctions_are_counted_without_loss(m, degree):
    space = replace(SPACE, radius=1.0, dimension=m, resolution=2 * math.pi / math.sqrt(degree * (degree + m - 1)))
    exact = math.comb(m + degree, m) + math.comb(m + degree - 1, m)
    assert space.log_eigenfunctions == pytest.approx(math.log(exact), abs=1e-9)


def test_distance_and_lipschitz_constant_by_hand():
    """On a circle of radius 2: length of one circle 2 pi; W = sqrt(1/6) 2 pi d R / n, L = K sqrt(D) / R."""
    circle = replace(SPACE, dimension=1)
    assert math.exp(circle.log_distance(10)) == pytest.approx(math.sqrt(1 / 6) * 2 * math.pi * 4 * 2.0 / 10)
    assert math.exp(circle.log_lipschitz) == pytest.approx(circle.frequency * math.sqrt(3) / 2.0)


def test_twice_the_outputs_are_twice_the_dimensions_and_a_bit_each():
    one, two = difficulty(SPACE, 50, 0.01), difficulty(replace(SPACE, outputs=6), 50, 0.01)
    assert two.log10_free - one.log10_free == pytest.approx(math.log10(2))
    assert two.bits_each - one.bits_each == pytest.approx(1)


def test_half_the_resolution_is_two_to_the_m_times_the_functions():
    fine = replace(SPACE, resolution=1e-4)
    ratio = replace(fine, resolution=5e-5).log_eigenfunctions - fine.log_eigenfunctions
    assert ratio == pytest.approx(SPACE.dimension * math.log(2), abs=1e-3)


def test_trends():
    """More in m up to about M, in 1 / error and in 1 / resolution; less in n, and linearly so but for the slow log."""
    assert 25 < SPACE.frequency < 26
    by_m = [difficulty(replace(SPACE, dimension=m), 10, 0.01).log10_bits for m in range(1, 26)]
    assert np.all(np.diff(by_m) > 0)
    by_error = [difficulty(SPACE, 10, error).bits for error in (0.1, 0.01, 0.001)]
    assert by_error[2] - by_error[1] == pytest.approx(by_error[1] - by_error[0])
    assert by_error[1] > by_error[0]
    by_n = [difficulty(SPACE, n, 0.01).bits for n in (1, 10, 100, 1000)]
    assert np.all(np.diff(by_n) < 0)


def test_far_above_the_frequency_the_space_shrinks_with_the_dimension():
    sizes = [replace(SPACE, dimension=m).log_eigenfunctions for m in range(1, 200)]
    assert 1 + int(np.argmax(sizes)) == pytest.approx(1.55 * SPACE.frequency, rel=0.05)
    assert sizes[-1] < max(sizes)


def test_units_do_not_matter():
    scaled = replace(SPACE, radius=2.0e6, resolution=0.5e6)
    assert difficulty(scaled, 50, 0.01).bits == pytest.approx(difficulty(SPACE, 50, 0.01).bits, rel=1e-12)
    space, scaled = (classification_space(points, LABELS) for points in (POINTS, POINTS * 1e3))
    assert difficulty(scaled, 300, 0.01).bits == pytest.approx(difficulty(space, 300, 0.01).bits, rel=1e-5)


def test_nothing_overflows():
    huge = difficulty(replace(SPACE, dimension=1000, resolution=1e-9), 50, 1e-300)
    assert huge.bits == math.inf
    assert 1000 < huge.log10_bits < 10_000
    assert huge.clamped == ""
    assert math.isfinite(replace(SPACE, resolution=1e99).log_eigenfunctions)
    assert math.isfinite(replace(SPACE, resolution=1e-99).log_eigenfunctions)


def test_the_formula_is_never_negative_and_says_why():
    size = math.exp(SPACE.log_size) / SPACE.outputs
    assert difficulty(SPACE, 0.999 * size, 0.01).bits > 0
    spent = difficulty(SPACE, 1.001 * size, 0.01)
    assert (spent.bits, spent.log10_bits, spent.log10_free, spent.clamped) == (0, -math.inf, -math.inf, "data")
    free = error_bound(SPACE, 50, bits=0)
    assert difficulty(SPACE, 50, 0.999 * free).bits > 0
    lenient = difficulty(SPACE, 50, 1.001 * free)
    assert (lenient.bits, lenient.clamped) == (0, "error")
    assert lenient.bits_each < 0


@pytest.mark.parametrize("error", [0.5, 1e-3, 1e-12])
def test_the_bound_on_the_error_is_the_inverse(error):
    assert error_bound(SPACE, 50, difficulty(SPACE, 50, error).bits) == pytest.approx(error, rel=1e-9)


def test_the_bound_on_the_error_by_hand():
    """Without inductive bias: B sqrt(D d) L W."""
    expected = 1.5 * math.sqrt(12) * math.exp(SPACE.log_lipschitz + SPACE.log_distance(50))
    assert error_bound(SPACE, 50, bits=0) == pytest.approx(expected)
    free = math.exp(SPACE.log_size) - 50 * 3
    assert error_bound(SPACE, 50, bits=free) == pytest.approx(expected / 2)
    assert error_bound(SPACE, 1e30, bits=1) == 0
    assert error_bound(SPACE, 50, bits=1e300) == 0


def test_two_tasks_at_once():
    other = HypothesisSpace(27, 54.9156786783691, 2.7506414616587023, combinations=10, outputs=9)
    both = union(MNIST, other)
    assert both == HypothesisSpace(41, math.hypot(MNIST.radius, other.radius), MNIST.resolution, 100, 10)
    assert f"{difficulty(both, 60_000 * 50_000, 0.001).bits:.4e}" == "8.3834e+44"  # authors' formula, their constants


def test_few_shot_tasks_by_hand():
    """2 ways on circles of M = K = 2, E = 5: 2 * 2 * 1 * 5 outputs; m = 1 + 1 * 1."""
    space = meta_learning_space(within=1, across=1, radius=1.0, resolution=math.pi, ways=2)
    expected = HypothesisSpace(2, math.sqrt(2), math.pi, combinations=1, outputs=20, bound=math.sqrt(2))
    assert (space.dimension, space.combinations) == (2, 1)
    for name in ("radius", "resolution", "outputs", "bound"):
        assert getattr(space, name) == pytest.approx(getattr(expected, name))
    omniglot = meta_learning_space(22, 29, radius=49.4064773081425, resolution=5.477225575051661)
    assert f"{difficulty(omniglot, 1e30, 0.01).bits:.4e}" == "1.7911e+145"  # authors' formula, their constants


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_dimension_of_a_sphere(dimension):
    assert intrinsic_dimension(on_sphere(dimension, 2000)) == pytest.approx(dimension, abs=0.1 * dimension)


def test_dimension_is_the_inverse_of_the_mean_log_ratio():
    distances = np.sort(cdist(POINTS, POINTS))
    expected = 1 / np.mean(np.log(distances[:, 3:4] / distances[:, 1:3]))
    assert intrinsic_dimension(POINTS, neighbours=3) == pytest.approx(expected, rel=1e-5)


def test_dimension_and_distance_depend_on_neither_rotation_nor_order_nor_duplicates():
    rng = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    order = torch.randperm(300, generator=rng)
    for points, labels in ((POINTS @ turn, LABELS), (POINTS[order], LABELS[order]), (POINTS * 1e-5, LABELS)):
        assert intrinsic_dimension(points) == pytest.approx(intrinsic_dimension(POINTS), rel=1e-4)
        scale = float(points.norm() / POINTS.norm())
        assert class_distance(points, labels) == pytest.approx(scale * class_distance(POINTS, LABELS), rel=1e-4)
    twice, both = POINTS.repeat(2, 1), LABELS.repeat(2)
    assert intrinsic_dimension(twice) == pytest.approx(intrinsic_dimension(POINTS))
    assert class_distance(twice, both) == class_distance(POINTS, LABELS)
    relabelled = torch.tensor([7, 2, 40])[LABELS]
    assert classification_space(POINTS, relabelled) == classification_space(POINTS, LABELS)


def test_dimension_from_a_part_of_the_points():
    assert intrinsic_dimension(POINTS, queries=100, seed=1) == pytest.approx(intrinsic_dimension(POINTS), rel=0.2)
    assert intrinsic_dimension(POINTS, queries=100, seed=1) != intrinsic_dimension(POINTS, queries=100, seed=2)


def test_class_distance_against_all_distances():
    distances = cdist(POINTS, POINTS)[(LABELS[:, None] != LABELS).numpy()]
    for above in (0.0, 0.5, 2.0, np.sort(np.unique(distances))[-2]):
        expected = distances[distances > above].min()
        assert class_distance(POINTS, LABELS, above=above) == pytest.approx(expected, rel=1e-6)
    sampled = class_distance(POINTS, LABELS, most=30, seed=1)
    assert sampled > class_distance(POINTS, LABELS)


def test_equal_points_of_different_classes_are_ignored():
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0], [5.0]])
    assert class_distance(points, torch.tensor([0, 1, 1, 0, 1])) == pytest.approx(1)
    assert class_distance(points, torch.tensor([0, 1, -1, -1, 1])) == pytest.approx(5)


def test_extreme_distance_by_hand(monkeypatch):
    """Inverses 1 and 1/2 over 1/4, and 1560 = 40² (1 - 1/40) pairs of 40 classes of one point, of which 4 are drawn."""
    drawn = torch.tensor([9.0, 1, 4, 2], dtype=torch.float64)
    monkeypatch.setattr(generalization_difficulty, "_random_distances", lambda *_: drawn)
    points, labels = torch.zeros(40, 1), torch.arange(40)

    def estimate(pairs):
        return extreme_class_distance(points, labels, pairs=pairs, extremes=2)

    drawn[3] = 3.9
    first = (math.log(4) + math.log(4 / 3.9)) / 2
    second = (math.log(4) ** 2 + math.log(4 / 3.9) ** 2) / 2
    index = first + 1 - 0.5 / (1 - first**2 / second)
    assert index > 0.5
    assert estimate(4) == pytest.approx(4 / (1 + first * ((2 * 1560 / 4) ** index - 1) / index))
    # With logs 2.25 and 0.75 the index is 3/2 + 1 - 5/2, and the power becomes a logarithm.
    drawn[1], drawn[3] = 4 * math.exp(-2.25), 4 * math.exp(-0.75)
    assert estimate(4) == pytest.approx(4 / (1 + 1.5 * math.log(780)))
    # Nothing to extrapolate to, or from: the smallest that was drawn.
    assert estimate(2 * 1560) == pytest.approx(drawn[1].item())
    drawn[:] = torch.tensor([2.0, 1, 1, 2])
    assert estimate(4) == 1


def test_extreme_distance_of_uniform_points_is_the_smallest_of_as_many_pairs():
    """In a square, P pi r² of P pairs are nearer than r: the smallest distance is about (P pi)^(-1/2)."""
    square = torch.rand(2000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.arange(2000) % 2
    estimates = [extreme_class_distance(square, labels, pairs=40_000, extremes=400, seed=s) for s in range(5)]
    assert np.median(estimates) == pytest.approx((2000**2 / 2 * math.pi) ** -0.5, rel=0.25)
    observed = generalization_difficulty._random_distances(square, labels, 40_000, 0).min()
    assert estimates[0] < 0.5 * observed


def test_random_pairs_are_of_different_classes_and_all_alike():
    points, labels = torch.tensor([[0.0], [1.0], [10.0], [100.0]]), torch.tensor([0, 0, 1, 2])
    distances = generalization_difficulty._random_distances(points, labels, 50_000, 0)
    found, counts = distances.unique(return_counts=True)
    assert found.tolist() == [9, 10, 90, 99, 100]
    torch.testing.assert_close(counts / 50_000, torch.full((5,), 0.2), atol=0.01, rtol=0)


def test_pairs_in_pieces_are_as_many(monkeypatch):
    monkeypatch.setattr(generalization_difficulty, "TILE", 40)
    assert len(generalization_difficulty._random_distances(POINTS, LABELS, 123, 0)) == 123


@pytest.mark.slow
def test_space_of_a_data_set():
    found = classification_space(POINTS, LABELS)
    radius = float(POINTS.norm(dim=1).max())
    assert found == HypothesisSpace(4, radius, class_distance(POINTS, LABELS), 3, 2)
    assert classification_space(POINTS, LABELS.where(LABELS > 0, -1), dimension=4).outputs == 1
    evt = classification_space(POINTS, LABELS, dimension=2.5, resolution="evt", seed=3)
    assert evt.resolution == extreme_class_distance(POINTS, LABELS, seed=3)
    assert classification_space(POINTS, LABELS, dimension=2.5, resolution=0.1).frequency == pytest.approx(
        2 * math.pi * radius / 0.1
    )


FEWER = partial(extreme_class_distance, pairs=400_000, extremes=200)


@pytest.mark.parametrize(("resolution", "estimate"), [("sample", class_distance), ("evt", FEWER)])
def test_the_resolution_of_a_data_set_leaves_out_distances_that_are_too_small(resolution, estimate, monkeypatch):
    """A copy of a point of another class: by "sample" its distance is the resolution, unless it does not count."""
    monkeypatch.setattr(generalization_difficulty, "extreme_class_distance", FEWER)
    points, labels = torch.cat([POINTS, POINTS[:1] + 1e-3]), torch.cat([LABELS, (LABELS[:1] + 1) % 3])
    found = classification_space(points, labels, dimension=2, resolution=resolution, seed=3, above=0.01)
    assert found.resolution == estimate(points, labels, above=0.01, seed=3)
    assert found.resolution != estimate(points, labels, seed=3)
    assert found.radius == classification_space(points, labels, dimension=2).radius
    if resolution == "sample":
        assert found.resolution == pytest.approx(class_distance(POINTS, LABELS), rel=0.5)
        assert classification_space(points, labels, dimension=2).resolution == pytest.approx(2e-3, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    points = POINTS.to(dtype)
    found, exact = classification_space(points, LABELS), classification_space(points.double(), LABELS)
    assert found.radius == pytest.approx(exact.radius, rel=1e-6)
    assert found.resolution == pytest.approx(exact.resolution, rel=1e-6)
    assert found.dimension == exact.dimension


def test_noise_raises_the_dimension_but_the_resolution_with_it():
    digits = load_digits()
    points, labels = torch.from_numpy(digits.data[:1000]).float() / 16, torch.from_numpy(digits.target[:1000])
    noisy = points + 0.4 * torch.randn(points.shape, generator=torch.Generator().manual_seed(4))
    clean, found = classification_space(points, labels), classification_space(noisy, labels)
    assert found.dimension > 2 * clean.dimension
    assert found.resolution > 2 * clean.resolution
    assert difficulty(found, 1000, 0.01).bits < difficulty(clean, 1000, 0.01).bits
    sharp = replace(found, resolution=clean.resolution)
    assert difficulty(sharp, 1000, 0.01).bits > 1e6 * difficulty(clean, 1000, 0.01).bits


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replace(SPACE, dimension=0.5), "dimension: expected a number of at least 1, got 0.5"),
        (lambda: replace(SPACE, outputs=0), "outputs: expected a number of at least 1, got 0"),
        (lambda: replace(SPACE, radius=0), "radius: expected a number above 0, got 0"),
        (lambda: replace(SPACE, resolution=1e-200), "radius / resolution: expected a number .* of at most 1e"),
        (lambda: replace(SPACE, bound=math.nan), "bound: expected a number above 0, got nan"),
        (lambda: difficulty(SPACE, 0, 0.1), "samples: expected a number of at least 1, got 0"),
        (lambda: difficulty(SPACE, 10, 0), "error: expected a number above 0, got 0"),
        (lambda: error_bound(SPACE, 10, -1), "bits: expected a number of at least 0, got -1"),
        (lambda: meta_learning_space(2, 2, 1.0, 1.0, ways=1), "ways: expected a whole number of at least 2, got 1"),
        (lambda: meta_learning_space(500, 2, 1.0, 1e-3), "within: expected at most about 1e304 outputs"),
        (lambda: control_difficulty(0), "observations: expected a whole number of at least 1, got 0"),
        (lambda: control_difficulty(2, error=0), "error: expected a number above 0, got 0"),
        (lambda: intrinsic_dimension(POINTS[:5]), "points: expected more than 5 different rows, got 5"),
        (lambda: intrinsic_dimension(torch.ones(50, 2)), "points: expected more than 5 different rows, got 1"),
        (lambda: intrinsic_dimension(torch.eye(9)), "points: all neighbours are equally near"),
        (lambda: intrinsic_dimension(POINTS / 0), "points: .* are NaN or infinite"),
        (lambda: intrinsic_dimension(POINTS, neighbours=1), "neighbours: expected a whole number of at least 2, got 1"),
        (lambda: class_distance(POINTS, LABELS * 0), "labels: expected at least 2 classes, got 1"),
        (lambda: class_distance(POINTS, LABELS[:4]), "labels: expected one integer for each of the 300 rows"),
        (lambda: class_distance(POINTS, LABELS, above=1e9), r"points: no distance between classes is above 1e\+09"),
        (lambda: extreme_class_distance(POINTS, LABELS, pairs=9, extremes=9), "pairs: expected a whole number above 9"),
        (
            lambda: extreme_class_distance(POINTS, LABELS, above=9.0, pairs=9, extremes=2),
            "points: expected more than 2",
        ),
        (lambda: classification_space(POINTS, LABELS, resolution="evd"), "did you mean 'evt'"),
        (lambda: classification_space(POINTS, LABELS, above=-1), "above: expected a number of at least 0, got -1"),
        (lambda: classification_space(POINTS, LABELS, 2, 0.1, above=-1), "above: expected a number of at least 0"),
        (lambda: classification_space(POINTS, LABELS, 2, above=1e9), r"points: no distance between classes is above"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
