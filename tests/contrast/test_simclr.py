"""NT-Xent against the plain 2N×2N cross-entropy, values by hand, limits and invariances; what SimCLR feeds it."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.simclr import NTXentLoss, SimCLR, nt_xent
from counterpoise.errors import InputError
from worlds import Encoder, seeded

Z1 = torch.randn(9, 5, generator=seeded(0), dtype=torch.float64)
Z2 = Z1 + torch.randn(9, 5, generator=seeded(1), dtype=torch.float64)


def plain(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 3.0])
def test_value_and_gradient_are_those_of_the_plain_form(temperature):
    ours, theirs = ([z.clone().requires_grad_() for z in (Z1, Z2)] for _ in range(2))
    value, expected = nt_xent(*ours, temperature), plain(*theirs, temperature)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-10, atol=1e-12)


def test_worked_by_hand():
    """Each of the 4 anchors has its positive at cosine 1 and 2 negatives at cosine 0."""
    value = nt_xent(torch.eye(2), 7 * torch.eye(2), temperature=0.5)
    assert value.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_infinite_temperature_forgets_geometry():
    assert nt_xent(Z1, Z2, 1e9).item() == pytest.approx(math.log(17))


def test_gradient():
    leaves = (Z1[:4].clone().requires_grad_(), Z2[:4].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), leaves)


def test_invariances(rng):
    """The order of the batch and of the views, a rotation of the space and the length of each row do not matter."""
    order = torch.randperm(9, generator=rng)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64)).Q
    length = torch.rand(9, 1, generator=rng, dtype=torch.float64) + 0.1
    for same in (nt_xent(Z1[order], Z2[order]), nt_xent(Z2, Z1), nt_xent(Z1 @ rotation, Z2 @ rotation)):
        torch.testing.assert_close(same, nt_xent(Z1, Z2))
    torch.testing.assert_close(nt_xent(Z1 * length, Z2), nt_xent(Z1, Z2))


def test_a_zero_row_has_similarity_zero_to_all():
    z1 = Z1.clone()
    z1[0] = 0
    torch.testing.assert_close(nt_xent(z1, Z2), plain(z1, Z2, 0.1))


def test_half_precision_is_computed_in_float32():
    z1, z2 = Z1.bfloat16(), Z2.bfloat16()
    value = nt_xent(z1, z2, 0.05)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain(z1.float(), z2.float(), 0.05))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = NTXentLoss()
    with pytest.raises(InputError, match=r"z1 and z2: expected the same shape, got \[9, 5\] and \[8, 5\]"):
        loss(Z1, Z2[:8])
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        loss(Z1[:1], Z2[:1])
    with pytest.raises(InputError, match="z2: 45 of 45 numbers are NaN or infinite"):
        loss(Z1, Z2 * math.nan)
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        NTXentLoss(temperature=0)


def test_the_method_compares_the_projections_of_both_views(rng):
    method = SimCLR(Encoder(), temperature=0.3, hidden=8, dim=3)
    views = [torch.randn(6, 1, 4, 4, generator=rng) for _ in range(2)]
    z1, z2 = (method.head(method.encoder(view)) for view in views)
    assert z1.shape == (6, 3)
    value = method.loss(views, torch.full((6,), -1), torch.arange(6))
    torch.testing.assert_close(value, plain(z1, z2, 0.3))


def test_more_views_give_the_mean_over_their_pairs(rng):
    method = SimCLR(Encoder(4), temperature=0.3, views=3).eval()
    images = [torch.randn(5, 1, 2, 2, generator=rng) for _ in range(3)]
    nothing = torch.zeros(5, dtype=torch.int64)
    pairs = [method.loss([images[a], images[b]], nothing, nothing) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(method.loss(images, nothing, nothing), sum(pairs) / 3)
    assert method.views == 3
    with pytest.raises(InputError, match="views: expected a whole number of at least 2"):
        SimCLR(Encoder(4), views=1)
