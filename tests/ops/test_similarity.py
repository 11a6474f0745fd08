"""The streaming softmax against the matrix written out."""

import pytest
import torch
from torch.nn.functional import normalize

from counterpoise.errors import InputError
from counterpoise.ops import similarity
from counterpoise.ops.similarity import similarity_softmax, unit_rows

rng = torch.Generator().manual_seed(0)
QUERIES = torch.randn(7, 3, generator=rng, dtype=torch.float64)
KEYS = torch.randn(5, 3, generator=rng, dtype=torch.float64)
SCALES = 0.5 + torch.rand(7, generator=rng, dtype=torch.float64)
EXCLUDE = (torch.arange(7), torch.arange(5))
TILES = [1, 12, 1 << 22]  # one row a tile, a ragged last tile, all in one


def plain(queries, keys, scale, exclude=None):
    s = queries @ keys.T
    logits = s * scale[:, None]
    if exclude:
        logits = logits.masked_fill(exclude[0][:, None] == exclude[1], -torch.inf)
    return logits.logsumexp(1), (logits.softmax(1) * s).sum(1)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("exclude", [None, EXCLUDE])
def test_values_and_gradients_equal_the_plain_form(tile, exclude, monkeypatch):
    monkeypatch.setattr(similarity, "TILE", tile)
    weights = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    found = []
    for form in (similarity_softmax, plain):
        inputs = [x.clone().requires_grad_() for x in (QUERIES, KEYS, SCALES)]
        lse, mean = form(*inputs, exclude)
        (weights[0] @ lse + weights[1] @ mean).backward()
        found.append([lse, mean, *(x.grad for x in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradient():
    inputs = [x.clone().requires_grad_() for x in (QUERIES, KEYS, SCALES)]
    assert torch.autograd.gradcheck(lambda q, k, a: tuple(similarity_softmax(q, k, a, EXCLUDE)), inputs)


def test_one_tensor_as_queries_and_keys_gets_both_gradients():
    z = normalize(QUERIES, dim=1).requires_grad_()
    row = torch.arange(7)
    similarity_softmax(z, z, 5.0, (row, row)).logsumexp.sum().backward()
    ours, z.grad = z.grad, None
    plain(z, z, torch.full((7,), 5.0), (row, row))[0].sum().backward()
    torch.testing.assert_close(ours, z.grad)


def test_a_large_scale_finds_the_nearest_key_and_zero_takes_the_plain_mean():
    s = QUERIES @ KEYS.T
    torch.testing.assert_close(similarity_softmax(QUERIES, KEYS, 1e6).mean, s.max(1).values)
    torch.testing.assert_close(similarity_softmax(QUERIES, KEYS, 0.0).mean, s.mean(1))


def test_half_precision_is_computed_in_single():
    found = similarity_softmax(QUERIES.bfloat16(), KEYS.bfloat16(), 100.0)
    expected = similarity_softmax(QUERIES.bfloat16().float(), KEYS.bfloat16().float(), 100.0)
    assert found.logsumexp.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_autocast_does_not_lower_the_precision():
    queries, keys = QUERIES.float(), KEYS.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity_softmax(queries, keys, 10.0)
    torch.testing.assert_close(found, similarity_softmax(queries, keys, 10.0), rtol=0, atol=0)


def test_a_row_without_a_key_is_refused():
    with pytest.raises(InputError, match="row 0 has no key left"):
        similarity_softmax(QUERIES[:1], KEYS[:1], 1.0, (torch.zeros(1, dtype=torch.int64),) * 2)


def test_memory_grows_with_rows_not_with_pairs():
    """The largest tensor kept between the passes is the input itself."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        z = torch.randn(3000, 4, generator=rng).requires_grad_()
        row = torch.arange(3000)
        similarity_softmax(z, z, 1.0, (row, row)).logsumexp.sum()
    assert max(kept) == z.numel()


def test_unit_rows_gradient_is_that_of_normalising():
    x = torch.randn(3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, x)
    zero = torch.zeros(1, 3, requires_grad=True)
    unit_rows(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
