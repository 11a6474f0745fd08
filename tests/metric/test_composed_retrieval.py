"""Composed retrieval: coarse targets and both losses written out, their limits, and the method."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from counterpoise.data.composed import WORDS, read
from counterpoise.data.composed import compose as composed
from counterpoise.data.glyphs import load_glyphs
from counterpoise.data.images import Images
from counterpoise.errors import InputError
from counterpoise.metric.composed_retrieval import (
    ComposedRetrieval,
    Jitter,
    UncertaintyLoss,
    coarse_share,
    info_nce,
    jitter,
    uncertainty,
)
from counterpoise.nets import backbone
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint
from worlds import Encoder, seeded

Q, T, A, B = torch.randn(4, 6, 5, generator=seeded(0), dtype=torch.float64)


def cross_entropy(queries, keys):
    return F.cross_entropy(queries @ keys.T, torch.arange(len(keys)))


def scaled(x, norm=4.0):
    return norm * x / x.norm(dim=1, keepdim=True)


def plain(q, t, share, a, b, alpha=1.0, beta=1.0, norm=4.0):
    """The loss with loops over the rows."""
    q, t = scaled(q, norm), scaled(t, norm)
    rows = []
    for row, scale, shift in zip(t, a, b, strict=True):
        mean, deviation = row.mean(), row.std()
        flat = (row - mean) / (row.var(correction=0) + 1e-5).sqrt()
        rows.append(alpha * (1 + deviation * scale) * flat + beta * (mean + deviation * shift))
    coarse = torch.stack(rows)
    u = coarse.flatten().std()
    return share * 0.5 * ((-u).exp() * cross_entropy(q, coarse) + u) + (1 - share) * cross_entropy(q, t)


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("options", [{}, {"norm": 2.0, "alpha": 0.5, "beta": 1.5}])
def test_the_loss_written_out(share, options):
    norm, alpha, beta = ({"norm": 4.0, "alpha": 1.0, "beta": 1.0} | options).values()
    found = UncertaintyLoss(norm)(Q, T, jitter(scaled(T, norm), A, B, alpha, beta), share)
    assert found.item() == pytest.approx(plain(Q, T, share, A, B, **options).item(), abs=1e-10)


def test_without_coarse_matching_it_is_info_nce_gradient_and_all():
    q, t = (x.clone().requires_grad_() for x in (Q, T))
    loss = UncertaintyLoss()(q, t, None, 0.0)
    assert UncertaintyLoss()(q, t, A, 0.0) == loss
    expected = cross_entropy(scaled(q), scaled(t))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, (q, t)), torch.autograd.grad(expected, (q, t)), strict=True):
        torch.testing.assert_close(ours, theirs)
    unit = 16 * F.normalize(Q) @ F.normalize(T).T  # of unit rows, a temperature of 1/16
    assert loss.item() == pytest.approx(F.cross_entropy(unit, torch.arange(6)).item(), abs=1e-12)


def test_without_noise_a_coarse_target_is_the_standardised_row_about_its_mean():
    none = torch.zeros_like(T)
    expected = (T - T.mean(1, keepdim=True)) / (T.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(jitter(T, none, none), expected + T.mean(1, keepdim=True))
    constant = jitter(torch.full((2, 3), 7.0), torch.ones(2, 3), torch.ones(2, 3))
    assert torch.equal(constant, torch.full((2, 3), 7.0))


def test_the_noise_of_coarse_targets_has_the_mean_and_deviation_of_their_rows(rng):
    draws = torch.randn(2, 40_000, 5, generator=rng, dtype=torch.float64)
    found = jitter(T[:1].expand(40_000, 5), *draws)
    still = jitter(T[:1], torch.zeros(1, 5), torch.zeros(1, 5))
    flat, variance = still - T[0].mean(), T[0].var()
    torch.testing.assert_close(found.mean(0), still[0], atol=0.05, rtol=0)
    torch.testing.assert_close(found.var(0), (variance * (flat**2 + 1))[0], atol=0, rtol=0.05)


def test_one_query_alone_has_no_negative_and_is_refused():
    for value in (lambda: UncertaintyLoss()(Q[:1], T[:1], A[:1], 0.8), lambda: info_nce(Q[:1], T[:1])):
        with pytest.raises(InputError, match="queries: expected at least 2 rows, got 1"):
            value()


def test_the_fluctuation_that_costs_least_is_the_logarithm_of_the_loss():
    queries, coarse = torch.zeros(6, 5, dtype=torch.float64), T / T.std()  # InfoNCE is log 6, whatever the fluctuation
    for u in (0.2, math.log(math.log(6)), 2.0):
        scale = torch.tensor(u, dtype=torch.float64, requires_grad=True)
        value = uncertainty(queries, scale * coarse)
        assert value.item() == pytest.approx((math.exp(-u) * math.log(6) + u) / 2)
        (slope,) = torch.autograd.grad(value, scale)
        assert slope.item() == pytest.approx((1 - math.exp(-u) * math.log(6)) / 2, abs=1e-12)
    assert 0.2 < math.log(math.log(6)) < 2  # so the slope was below, at and above 0


@pytest.mark.slow
def test_gradients_flow_through_all_but_the_statistics_of_the_noise(rng):
    assert torch.autograd.gradcheck(uncertainty, (Q.clone().requires_grad_(), T.clone().requires_grad_()))
    assert torch.autograd.gradcheck(info_nce, (Q.clone().requires_grad_(), T.clone().requires_grad_()))
    deviation, mean = T.std(1, keepdim=True), T.mean(1, keepdim=True)  # held still

    def still(t):
        flat = (t - t.mean(1, keepdim=True)) / (t.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return (1 + deviation * A) * flat + mean + deviation * B

    t = T.clone().requires_grad_()
    weights = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    (ours,) = torch.autograd.grad((jitter(t, A, B) * weights).sum(), t)
    (theirs,) = torch.autograd.grad((still(t) * weights).sum(), t)
    torch.testing.assert_close(ours, theirs)
    a = A.clone().requires_grad_()
    assert not jitter(T, a, a).requires_grad


def test_the_order_of_the_batch_does_not_matter_and_lengths_neither(rng):
    loss, order = UncertaintyLoss(), torch.randperm(6, generator=rng)
    value = loss(Q, T, A)
    torch.testing.assert_close(loss(Q[order], T[order], A[order]), value)
    torch.testing.assert_close(loss(3 * Q, T * torch.arange(1, 7)[:, None], A), value)
    assert (loss(Q, T, 2 * A) - value).abs() > 1e-3


@pytest.mark.parametrize("options", [(4.0, 1.0, 1.0), (2.0, 0.5, 1.5)])
def test_noise_is_drawn_anew_for_rows_of_one_length(options):
    module = Jitter(*options)
    assert not torch.equal(module(T), module(T))
    torch.manual_seed(3)
    found = module(3 * T)
    torch.manual_seed(3)
    draws = torch.randn_like(T), torch.randn_like(T)
    assert not torch.equal(*draws)
    torch.testing.assert_close(found, jitter(scaled(T, options[0]), *draws, *options[1:]))


def test_coarse_gives_way_to_fine():
    assert [coarse_share(epoch, 4, 2.0) for epoch in (0, 2, 4)] == pytest.approx([1, math.exp(-1), math.exp(-2)])
    assert coarse_share(3, 4, 0.0) == 1


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UncertaintyLoss()(Q, T[:5], A), "queries and positives and coarse: expected the same shape"),
        (lambda: UncertaintyLoss()(Q, T, None), "coarse: expected coarse targets where their share is 0.5, got none"),
        (lambda: UncertaintyLoss()(Q, T, A, 1.5), "share: expected a number of at least 0 and of at most 1, got 1.5"),
        (lambda: UncertaintyLoss()(Q, T, A * math.nan), "coarse: 30 of 30 numbers are NaN"),
        (lambda: UncertaintyLoss(norm=0), "norm: expected a number above 0"),
        (lambda: Jitter(norm=0), "norm: expected a number above 0"),
        (lambda: Jitter(alpha=-1), "alpha: expected a number of at least 0"),
        (lambda: Jitter(beta=-1), "beta: expected a number of at least 0"),
        (lambda: Jitter()(T[:, :1]), "targets: expected at least 2 columns, got 1"),
        (lambda: Jitter()(T * math.nan), "targets: 30 of 30 numbers are NaN"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture(scope="module")
def few():
    letters = load_glyphs("glyphs:script=latin:classes=120", size=16).train
    return composed(letters.subset(torch.arange(0, len(letters), 8)))


def made(images, **options):
    torch.manual_seed(0)
    return ComposedRetrieval(backbone("small", 1, 16), len(images), dim=16, norm=1.0, **options)


def test_a_batch_is_its_queries_then_their_answers(few, rng):
    method = made(few)
    method.start_epoch(few, 0)
    batches = method.batches(torch.randperm(len(few), generator=rng), 16)
    assert len(batches) == len(few) // 16
    for batch in batches:
        assert few.answers[batch[:16]].tolist() == batch[16:]
    assert len({i for batch in batches for i in batch[:16]}) == 16 * len(batches)


def test_the_method_compares_composed_queries_with_plain_answers(few):
    method = made(few, uncertain=False).eval()
    method.start_epoch(few, 0)
    batch = method.batches(torch.arange(len(few)), 8)[0]
    pixels, labels, index = few.__getitems__(batch)
    view = method.view(pixels)
    queries = method.encoder.query(method.encoder.backbone(view[:8]), read([few.texts[i] for i in batch[:8]]))
    answers = method.encoder(view[8:])
    expected = cross_entropy(F.normalize(queries), F.normalize(answers))
    assert method.loss([view], labels, index).item() == pytest.approx(expected.item(), abs=1e-5)
    asked = method.ask(few.subset(torch.tensor(batch[:8])), [few.texts[i] for i in batch[:8]])
    torch.testing.assert_close(asked, queries, atol=1e-5, rtol=1e-4)


def test_image_and_every_word_change_a_query(few, rng):
    encoder = made(few).encoder
    x = torch.randn(2, 320, generator=rng)
    words = torch.eye(len(WORDS), dtype=torch.int64)
    queries = encoder.query(x[:1].expand(len(WORDS), 320), words)
    assert torch.pdist(queries).min() > 1e-4
    assert (encoder.query(x[1:], words[:1]) - queries[0]).abs().max() > 1e-3


def test_the_composition_by_hand(few, rng):
    encoder = made(few).encoder
    x, words = (
        torch.randn(3, 320, generator=rng),
        read(["small", "the same letter, capital", "with a ring above accent"]),
    )
    t = words.float() @ encoder.words.weight.T + encoder.words.bias
    both = torch.cat([x, t], 1)
    expected = encoder.project(encoder.gate(both).sigmoid() * x + encoder.change(both))
    torch.testing.assert_close(encoder.query(x, words), expected)


def test_the_baseline_has_the_same_weights_and_no_noise(few):
    ours, plain = made(few), made(few, uncertain=False)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    batch = few.__getitems__(list(range(8)))
    for method, same in ((plain, True), (ours, False)):
        method.eval()
        method.start_epoch(few, 0)
        first, second = (method.loss([method.view(batch[0])], *batch[1:]) for _ in range(2))
        assert torch.equal(first, second) == same
        assert torch.equal(
            method.ask(few.subset(torch.arange(4)), few.texts[:4]), ours.ask(few.subset(torch.arange(4)), few.texts[:4])
        )


def test_its_share_follows_the_epoch(few, monkeypatch):
    method = made(few, gamma=2.0)
    monkeypatch.setattr(ComposedRetrieval, "trainer", SimpleNamespace(max_epochs=4))
    for epoch in (3, 0, 2):
        method.start_epoch(few, epoch)
        assert method.share == coarse_share(epoch, 4, 2.0)
    plain = made(few, uncertain=False)
    plain.start_epoch(few, 3)
    assert plain.share == 0


@pytest.mark.slow
def test_every_weight_learns_and_the_checkpoint_restores_it(few, tmp_path):
    method = made(few)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    rows = fit(method, few, epochs=2, batch_size=16, seed=0, folder=tmp_path, device="cpu")
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert method.share == coarse_share(1, 2)
    assert not [name for name, p in method.named_parameters() if torch.equal(p, before[name])]
    fresh = made(few)
    fresh.load_state_dict(read_checkpoint(tmp_path / CHECKPOINT)["state_dict"])
    for name, value in method.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


def test_a_step_lowers_the_loss(few):
    method = made(few)
    method.start_epoch(few, 0)
    batch = few.__getitems__(method.batches(torch.arange(len(few)), 16)[0])
    view = method.view(batch[0])

    def loss():
        torch.manual_seed(1)
        return method.loss([view], *batch[1:])

    before = loss()
    before.backward()
    torch.optim.SGD(method.parameters(), lr=1e-2).step()
    assert loss() < before - 1e-4


@pytest.mark.usefixtures("plain_shapes")
def test_what_the_method_cannot_use_is_refused(few):
    method = made(few)
    with pytest.raises(InputError, match="images: expected composed queries, got Images"):
        method.start_epoch(few.subset(torch.arange(len(few))), 0)
    with pytest.raises(InputError, match="word 'blue' is not known"):
        method.ask(few.subset(torch.arange(1)), ["the same letter, blue"])
    with pytest.raises(InputError, match="texts: expected one for each of the 2 images, got 1"):
        method.ask(few.subset(torch.arange(2)), ["small"])
    for options, message in (({"gamma": -1}, "gamma"), ({"dim": 1}, "dim"), ({"samples": 1}, "samples")):
        with pytest.raises(InputError, match=f"{message}: expected a (whole )?number of at least"):
            ComposedRetrieval(Encoder(features=5), **{"samples": 4, **options})
    with pytest.raises(InputError, match="images: the data set"):
        method.ask(Images(few.pixels[:0], few.labels[:0], few.classes, "none"), [])
