"""The streaming softmax against the matrix written out."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from counterpoise.errors import InputError
from counterpoise.ops import tiles
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp, similarity_softmax
from worlds import seeded

QUERIES = torch.randn(7, 3, generator=seeded(0), dtype=torch.float64)
KEYS = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)
SCALES = 0.5 + torch.rand(7, generator=seeded(2), dtype=torch.float64)
WEIGHTS = {
    7: torch.randn(7, generator=seeded(3), dtype=torch.float64),
    5: torch.randn(5, generator=seeded(4), dtype=torch.float64),
}
LABELS = {7: torch.tensor([0, 1, 2, 0, 1, 2, 0]), 5: torch.tensor([1, 0, 2, 2, 0])}
SIDES = [1, 3, 1024]  # one pair a tile, ragged last tiles, all in one
GROUPS = {"self": None, "cross": KEYS}
SCALE = {"one": 2.5, "learnt": torch.tensor(1.5, dtype=torch.float64), "per row": SCALES, "negative": -1.5}


def plain(queries, keys=None, scale=1.0, *, exclude=None, only=None, log_weights=None):
    s = queries @ (queries if keys is None else keys).T
    logits = s * (scale[:, None] if isinstance(scale, torch.Tensor) and scale.ndim else scale)
    if log_weights is not None:
        logits = logits + log_weights
    for rule, drop in ((exclude, torch.eq), (only, torch.ne)):
        if rule is not None:
            mine, theirs = rule if isinstance(rule, tuple) else (rule, rule)
            logits = logits.masked_fill(drop(mine[:, None], theirs), -torch.inf)
    return logits.logsumexp(1), (logits.softmax(1) * s).sum(1)


def rules(keys, exclude, only):
    """Row numbers to leave out, or labels to keep to, for the queries or for both sides."""
    m = 7 if keys is None else 5
    given = {
        "exclude": (torch.arange(7), torch.arange(m)) if exclude else None,
        "only": (LABELS[7], LABELS[m]) if only else None,
    }
    return {name: rule[0] if rule and keys is None else rule for name, rule in given.items()}


@pytest.fixture(params=["bounded", "shifted"])
def form(request, monkeypatch):
    """Both ways to keep exponentials in range."""
    monkeypatch.setattr(tiles, "BOUND", 60.0 if request.param == "bounded" else -1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("exclude", "only"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("scale", SCALE.values(), ids=SCALE)
@pytest.mark.parametrize("keys", GROUPS.values(), ids=GROUPS)
def test_values_and_gradients_equal_the_plain_form(keys, scale, exclude, only, weighted, side, monkeypatch, rng):
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    upstream = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    given = rules(keys, exclude, only)
    found = []
    for of in (similarity_softmax, plain):
        leaves = [QUERIES, keys, scale, WEIGHTS[7 if keys is None else 5] if weighted else None]
        leaves = [x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in leaves]
        lse, mean = of(*leaves[:3], **given, log_weights=leaves[3])
        (upstream[0] @ lse + upstream[1] @ mean).backward()
        found.append([lse, mean, *(x.grad for x in leaves if isinstance(x, torch.Tensor))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("scale", SCALE.values(), ids=SCALE)
@pytest.mark.parametrize("keys", GROUPS.values(), ids=GROUPS)
def test_the_logsumexp_alone_has_the_same_value_and_gradient(keys, scale, side, monkeypatch):
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    given, found = rules(keys, exclude=True, only=False), []
    for of in (similarity_logsumexp, lambda *a, **k: plain(*a, **k)[0]):
        leaves = [x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in (QUERIES, keys, scale)]
        lse = of(*leaves, **given)
        (lse * SCALES).sum().backward()
        found.append([lse, *(x.grad for x in leaves if isinstance(x, torch.Tensor))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("keys", GROUPS.values(), ids=GROUPS)
def test_gradient(keys):
    weights = WEIGHTS[7 if keys is None else 5]
    leaves = [None if x is None else x.clone().requires_grad_() for x in (QUERIES, keys, SCALES, weights)]

    def moments(queries, *rest):
        keys, scales, weights = rest if len(rest) == 3 else (None, *rest)
        return tuple(similarity_softmax(queries, keys, scales, log_weights=weights, **rules(keys, True, False)))

    assert torch.autograd.gradcheck(moments, [x for x in leaves if x is not None])


@pytest.mark.parametrize("side", [3, 1024])
def test_a_second_pass_backward_gives_the_same_gradient(side, monkeypatch):
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    z = QUERIES.clone().requires_grad_()
    total = sum(x.sum() for x in similarity_softmax(z, scale=SCALES, exclude=torch.arange(7)))
    first, second = (torch.autograd.grad(total, z, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_gradient_that_nobody_wants_is_not_made():
    queries = QUERIES.clone().requires_grad_()
    similarity_logsumexp(queries, KEYS).sum().backward()
    ours, queries.grad = queries.grad, None
    plain(queries, KEYS)[0].sum().backward()
    torch.testing.assert_close(ours, queries.grad)


def test_one_tensor_as_queries_and_keys_gets_both_gradients():
    z = normalize(QUERIES, dim=1).requires_grad_()
    row = torch.arange(7)
    found = []
    for lse in (similarity_logsumexp(z, z, 5.0, exclude=(row, row)), similarity_logsumexp(z, scale=5.0, exclude=row)):
        found.append(torch.autograd.grad(lse.sum(), z)[0])
    (expected,) = torch.autograd.grad(plain(z, z, 5.0, exclude=row)[0].sum(), z)
    for ours in found:
        torch.testing.assert_close(ours, expected)


def test_tiles_that_no_identity_reaches_are_skipped_and_those_it_reaches_are_not(monkeypatch):
    """Sorted labels leave the far tiles out; the values are those of unsorted ones."""
    monkeypatch.setitem(tiles.SIDE, "cpu", 2)
    labels, order = LABELS[7].sort()
    made = []
    monkeypatch.setattr(
        tiles.Matrix,
        "logits",
        lambda self, tile, of=tiles.Matrix.logits: made.append(tile) or of(self, tile),
    )
    found = similarity_logsumexp(QUERIES[order], only=labels)
    assert len(made) < len(list(itertools.combinations_with_replacement(range(4), 2)))
    torch.testing.assert_close(found, plain(QUERIES, only=LABELS[7])[0][order])


def test_a_large_scale_finds_the_nearest_key_and_zero_takes_the_plain_mean():
    s = QUERIES @ KEYS.T
    torch.testing.assert_close(similarity_softmax(QUERIES, KEYS, 1e6).mean, s.max(1).values)
    torch.testing.assert_close(similarity_softmax(QUERIES, KEYS, 0.0).mean, s.mean(1))


@pytest.mark.parametrize("length", [1e-3, 1.0, 7.0, 1e3, 1e6])
def test_rows_of_any_length_stay_finite_and_right_in_single_precision(length, rng):
    z = length * normalize(torch.randn(50, 8, generator=rng), dim=1)
    row = torch.arange(50)
    torch.testing.assert_close(similarity_logsumexp(z, exclude=row), plain(z, exclude=row)[0])


def test_weights_of_any_size_stay_finite_and_minus_infinity_leaves_a_key_out():
    log_weights = torch.tensor([500.0, 499.0, -torch.inf, 400.0, 500.0], dtype=torch.float64)
    found, expected = (
        similarity_softmax(QUERIES, KEYS, log_weights=log_weights),
        plain(QUERIES, KEYS, log_weights=log_weights),
    )
    torch.testing.assert_close(tuple(found), expected)


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


@pytest.mark.parametrize("with_mean", [False, True])
def test_medium_precision_makes_tiles_of_bfloat16_whose_sums_are_single(with_mean):
    """No further from the exact value than half the step of a bfloat16 between 8 and 16; on average much less."""
    own = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(300, 32, generator=own), dim=1).requires_grad_()
    row, found = torch.arange(300), []
    for precision in ("medium", "highest"):
        torch.set_float32_matmul_precision(precision)
        try:
            lse, mean = similarity_softmax(z, scale=10.0, exclude=row)
            found.append((lse, mean, torch.autograd.grad((lse + mean if with_mean else lse).mean(), z)[0]))
        finally:
            torch.set_float32_matmul_precision("highest")
    assert found[0][0].dtype == torch.float32
    assert 0 < (found[0][0] - found[1][0]).abs().max() < 1 / 32
    assert (found[0][0] - found[1][0]).mean().abs() < 5e-4
    assert (found[0][1] - found[1][1]).abs().max() < 5e-3
    assert (found[0][2] - found[1][2]).norm() < 0.02 * found[1][2].norm()


@pytest.mark.parametrize("rule", ["exclude", "only"])
def test_a_row_without_a_key_is_refused(rule):
    identities = (torch.zeros(1, dtype=torch.int64), torch.full((1,), int(rule == "only")))
    with pytest.raises(InputError, match="row 0 has no key left"):
        similarity_softmax(QUERIES[:1], KEYS[:1], **{rule: identities})


def test_memory_grows_with_rows_not_with_pairs(rng):
    """The largest tensor kept between the passes is the input itself."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        z = torch.randn(3000, 4, generator=rng).requires_grad_()
        row = torch.arange(3000)
        similarity_softmax(z, exclude=row).logsumexp.sum()
    assert max(kept) == z.numel()


def test_unit_rows_gradient_is_that_of_normalising(rng):
    x = torch.randn(3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normalize_rows, x)
    zero = torch.zeros(1, 3, requires_grad=True)
    normalize_rows(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
