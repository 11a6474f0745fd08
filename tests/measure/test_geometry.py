import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import cosine_similarity

from counterpoise.errors import InputError
from counterpoise.measure import alignment, collapse, effective_rank, tolerance, uniformity
from counterpoise.ops import tiles
from worlds import seeded

Z = torch.randn(30, 5, generator=seeded(0), dtype=torch.float64)
Z2 = Z + 0.3 * torch.randn(30, 5, generator=seeded(1), dtype=torch.float64)
LABELS = torch.arange(30) % 4


def unit(z):
    return (z / z.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("alpha", [1, 2, 3.5])
def test_alignment_against_the_sum_written_out(alpha):
    expected = np.mean(np.linalg.norm(unit(Z) - unit(Z2), axis=1) ** alpha)
    assert alignment(Z, Z2, alpha).item() == pytest.approx(expected)


def test_alignment_at_its_ends():
    assert alignment(Z, 3 * Z).item() == pytest.approx(0, abs=1e-20)
    assert alignment(Z, -Z).item() == pytest.approx(4)
    assert alignment(Z, -Z, alpha=1).item() == pytest.approx(2)


@pytest.mark.parametrize("t", [0.5, 2, 10])
def test_uniformity_against_scipy(t):
    expected = np.log(np.mean(np.exp(-t * pdist(unit(Z), "sqeuclidean"))))
    assert uniformity(Z, t).item() == pytest.approx(expected)


def test_uniformity_of_rows_on_a_circle_nears_its_integral():
    """For even points on the circle the mean of e^{-t|u - v|^2} over all pairs tends to e^{-2t} I_0(2t)."""
    angle = torch.arange(1000, dtype=torch.float64) * 2 * math.pi / 1000
    z = torch.stack([angle.cos(), angle.sin()], 1)
    assert uniformity(z).item() == pytest.approx(-4 + math.log(np.i0(4.0)), abs=1e-2)


def test_uniformity_in_tiles_is_the_same(monkeypatch):
    whole = uniformity(Z)
    monkeypatch.setitem(tiles.SIDE, "cpu", 7)
    torch.testing.assert_close(uniformity(Z), whole)


def test_uniformity_of_collapsed_rows_is_zero_even_at_the_origin():
    assert uniformity(torch.ones(6, 3)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.zeros(6, 3)).item() == 0
    half_dead = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # one row on the sphere, one at its centre: distance 1
    assert uniformity(half_dead).item() == pytest.approx(-2)


def test_tolerance_against_the_matrix_of_cosines():
    cosine = cosine_similarity(Z)
    same = (LABELS[:, None] == LABELS).numpy() & ~np.eye(30, dtype=bool)
    assert tolerance(Z, LABELS).item() == pytest.approx(cosine[same].mean())


def test_tolerance_leaves_out_the_unlabelled():
    kept = torch.arange(30) % 5 > 0
    assert tolerance(Z, LABELS.where(kept, -1)).item() == pytest.approx(tolerance(Z[kept], LABELS[kept]).item())


def test_tolerance_at_its_ends():
    rows = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, 0.0], [-3.0, 0.0]])
    assert tolerance(rows, torch.tensor([7, 7, 3, 3])).item() == pytest.approx(1)
    assert tolerance(torch.tensor([[1.0], [-2.0]]), torch.tensor([0, 0])).item() == pytest.approx(-1)


def test_effective_rank_against_numpy():
    singular = np.linalg.svd(Z.numpy(), compute_uv=False)
    p = singular / singular.sum()
    assert effective_rank(Z).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_effective_rank_worked_by_hand():
    """Singular values 3 and 1: shares 3/4 and 1/4."""
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))).item() == pytest.approx(expected)


def test_effective_rank_bounds():
    assert effective_rank(torch.linalg.qr(Z).Q).item() == pytest.approx(5)
    assert effective_rank(Z[:3]).item() <= 3
    assert effective_rank(torch.outer(Z[:, 0], Z[0])).item() == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(4, 3)).item() == 0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_scale_does_not_matter(size):
    z, z2 = Z.float(), Z2.float()
    for measure in (uniformity, effective_rank, lambda x: tolerance(x, LABELS), lambda x: alignment(x, z2)):
        torch.testing.assert_close(measure(z * size), measure(z), rtol=1e-4, atol=1e-5)
    assert collapse(z * size) is None


def test_rotation_and_order_do_not_matter(rng):
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64)).Q
    order = torch.randperm(30, generator=rng)
    for measure in (uniformity, effective_rank):
        torch.testing.assert_close(measure(Z[order] @ rotation), measure(Z))
    torch.testing.assert_close(tolerance(Z[order] @ rotation, LABELS[order]), tolerance(Z, LABELS))


def test_gradients():
    z, z2 = Z[:7].clone().requires_grad_(), Z2[:7].clone().requires_grad_()
    assert torch.autograd.gradcheck(alignment, (z, z2))
    assert torch.autograd.gradcheck(lambda x: alignment(x, z2, 1.0), z)
    assert torch.autograd.gradcheck(uniformity, z)
    assert torch.autograd.gradcheck(lambda x: tolerance(x, LABELS[:7]), z)
    assert torch.autograd.gradcheck(effective_rank, z)


def test_gradient_of_equal_views_is_zero():
    z = Z.clone().requires_grad_()
    alignment(z, Z, alpha=1.0).backward()
    assert torch.equal(z.grad, torch.zeros_like(Z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, z2 = Z.to(dtype), Z2.to(dtype)
    measures = (lambda x: alignment(x, z2.to(x)), uniformity, lambda x: tolerance(x, LABELS), effective_rank)
    for measure in measures:
        assert measure(z).dtype == torch.float32
        torch.testing.assert_close(measure(z), measure(z.float()))


SAME_POINT = "complete collapse: all embeddings are the same point"
NOISE = torch.randn(1000, 128, generator=seeded(2))


def test_complete_collapse():
    assert collapse(torch.zeros(9, 4)) == SAME_POINT
    assert collapse(torch.full((9, 4), 0.1)) == SAME_POINT
    assert collapse(torch.full((9, 1), -3.0)) == SAME_POINT


@pytest.mark.parametrize(("deviation", "found"), [(0.009, SAME_POINT), (0.011, None)])
def test_complete_collapse_starts_at_a_hundredth_of_the_length(deviation, found):
    """In two dimensions, where the effective rank, 1.046, is above its own threshold of 1.02."""
    noise = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) / math.sqrt(2)
    assert collapse(torch.tensor([1.0, 0.0]) + deviation * noise) == found


@pytest.mark.parametrize(
    ("rank", "found"), [(3, "dimensional collapse: effective rank 3.0 of 128"), (4, None), (128, None)]
)
def test_dimensional_collapse_starts_below_three_and_a_half_of_128(rank, found):
    """1 + 0.02 * 127 = 3.54; orthogonal columns make the effective rank exactly the number of them."""
    columns = torch.linalg.qr(NOISE).Q
    assert collapse(columns[:, :rank] @ torch.eye(128)[:rank]) == found


def test_healthy_features_with_a_large_mean_are_not_called_collapsed():
    assert collapse(NOISE) is None
    assert collapse(NOISE.relu()) is None
    assert collapse(NOISE + 5) is None


def test_ten_tight_classes_are_not_called_collapsed():
    assert collapse(torch.eye(128)[torch.arange(1000) % 10] + 0.01 * NOISE) is None


def test_one_row_or_one_dimension_has_no_dimensions_to_lose():
    assert collapse(NOISE[:1]) is None
    assert collapse(NOISE[:, :1]) is None


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment(Z, Z[:3]), r"z1 and z2: expected the same shape, got \[30, 5\] and \[3, 5\]"),
        (lambda: alignment(Z[:0], Z[:0]), "z1: expected at least 1 rows, got 0"),
        (lambda: alignment(Z, Z.log()), r"z2: \d+ of 150 numbers are NaN"),
        (lambda: alignment(Z, Z, 0), "alpha: expected a number above 0, got 0"),
        (lambda: uniformity(Z[:1]), "z: expected at least 2 rows, got 1"),
        (lambda: uniformity(Z, -1), "t: expected a number above 0, got -1"),
        (lambda: tolerance(Z[:4], torch.tensor([0, 1, -1, -1])), "labels: no two of the 4 rows share a class"),
        (lambda: tolerance(Z, LABELS[:3]), "labels: expected one integer for each of the 30 rows"),
        (lambda: tolerance(Z, LABELS - 2), "labels: expected a class from 0, or -1 for none, got -2"),
        (lambda: effective_rank(Z[0]), r"z: expected a matrix \[rows, dim\], got shape \[5\]"),
        (lambda: effective_rank(Z[:0]), "z: expected at least 1 rows, got 0"),
        (lambda: collapse(Z / 0), "z: 150 of 150 numbers are NaN or infinite"),
        (lambda: collapse(LABELS[:, None]), "z: expected floating-point numbers, got torch.int64"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
