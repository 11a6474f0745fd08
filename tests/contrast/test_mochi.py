"""MoCHi: mixtures worked by hand, the loss against the table of logits, and the method step by step."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.mochi import (
    Draws,
    HardNegativeMixing,
    MixedNCELoss,
    MoCHi,
    draw,
    hardest_indices,
    mix,
    mixed_nce,
    shuffled_groups,
)
from counterpoise.contrast.moco import MoCo, queue_nce
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.nets.momentum import update_momentum_encoder
from worlds import Encoder, seeded

B, M, D, N = 6, 20, 5, 7


def unit(rng, *shape):
    return F.normalize(torch.randn(*shape, generator=rng, dtype=torch.float64), dim=-1)


Q, P, K, H = unit(seeded(0), B, D), unit(seeded(1), B, D), unit(seeded(2), M, D), unit(seeded(3), B, 9, D)
OWNERS = (torch.arange(B), torch.arange(M) % 9)
MIXING = HardNegativeMixing(N, pairs=40, query_pairs=30)


def logits(queries, positives, negatives, synthetic, temperature, exclude=None):
    """All 1 + M + s + s' of each query."""
    queue = queries @ negatives.T
    if exclude is not None:
        queue = queue.masked_fill(exclude[0][:, None] == exclude[1], -torch.inf)
    parts = [(queries * positives).sum(1, keepdim=True), queue, torch.einsum("nd,nsd->ns", queries, synthetic)]
    return torch.cat(parts, dim=1) / temperature


def plain(*given):
    return F.cross_entropy(logits(*given), torch.zeros(B, dtype=torch.int64))


@pytest.mark.parametrize("exclude", [None, OWNERS], ids=["all", "some excluded"])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 2.0])
def test_value_and_gradient_are_those_of_the_table_of_logits(temperature, exclude):
    ours, theirs = ([x.clone().requires_grad_() for x in (Q, P, K, H)] for _ in range(2))
    value = mixed_nce(*(3 * x for x in ours), temperature, exclude)
    expected = plain(*(F.normalize(x, dim=-1) for x in theirs), temperature, exclude)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for mine, reference in zip(torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_without_mixtures_it_is_moco_to_the_last_bit():
    for dtype in (torch.float32, torch.float64):
        q, p, k = (x.to(dtype) for x in (2 * Q, P, K / 3))
        expected = queue_nce(q, p, k, 0.2)
        assert torch.equal(mixed_nce(q, p, k), expected)
        assert torch.equal(mixed_nce(q, p, k, HardNegativeMixing(N, 0, 0)(q, k)), expected)


def test_mixtures_raise_the_loss():
    mixtures = MIXING(Q, K)
    losses = torch.stack([mixed_nce(Q, P, K, mixtures[:, :n]) for n in (0, 1, 40, 70)])
    assert (losses.diff() > 0).all()


@pytest.mark.slow
def test_gradient_in_double_precision():
    assert torch.autograd.gradcheck(
        MixedNCELoss(0.3), [x.clone().requires_grad_() for x in (Q[:2], P[:2], K[:5], H[:2, :2])]
    )


def test_gradient_of_the_queries_holds_the_mixtures_constant():
    """On unit queries it is (sum_j p_j x_j - k) / (T B), less its part along the query; nothing reaches the queue."""
    queries, negatives = Q.clone().requires_grad_(), K.clone().requires_grad_()
    mixtures = MIXING(queries, negatives)
    assert not mixtures.requires_grad
    (found,) = torch.autograd.grad(mixed_nce(queries, P, K, mixtures), queries)
    p = logits(Q, P, K, mixtures, 0.2).softmax(1)[..., None]
    compared = torch.cat([P[:, None], K.expand(B, M, D), mixtures], dim=1)
    slope = ((p * compared).sum(1) - P) / (0.2 * B)
    torch.testing.assert_close(found, slope - (slope * Q).sum(1, keepdim=True) * Q)


@pytest.mark.parametrize("exclude", [None, OWNERS], ids=["all", "some excluded"])
def test_the_hardest_are_the_nearest_of_each_query(exclude):
    index, counts = hardest_indices(Q, K, N, exclude)
    assert counts.tolist() == [N] * B
    for i, found in enumerate(index.tolist()):
        allowed = [j for j in range(M) if exclude is None or exclude[0][i] != exclude[1][j]]
        assert found == sorted(allowed, key=lambda j: -float(Q[i] @ K[j]))[:N]


def test_the_order_of_the_queue_does_not_matter_to_the_hardest(rng):
    order = torch.randperm(M, generator=rng)
    assert torch.equal(order[hardest_indices(Q, K[order], N)[0]], hardest_indices(Q, K, N)[0])


def test_a_table_in_parts_is_the_table(monkeypatch):
    whole = hardest_indices(Q, K, N, OWNERS)
    monkeypatch.setattr("counterpoise.ops.chunking.TABLE", 2 * M)
    assert all(
        torch.equal(ours, expected) for ours, expected in zip(hardest_indices(Q, K, N, OWNERS), whole, strict=True)
    )


def test_of_a_short_queue_all_are_mixed():
    index, counts = hardest_indices(Q, K[:3], 1000)
    assert (index.sort(1).values == torch.arange(3)).all()
    assert counts.tolist() == [3] * B


def one(ranks, alpha=0.3, partner=0, beta=0.2):
    """The same draws for each query: one pair and one partner."""
    return Draws(
        torch.tensor([[ranks]] * B),
        torch.full((B, 1), alpha, dtype=torch.float64),
        torch.full((B, 1), partner),
        torch.full((B, 1), beta, dtype=torch.float64),
    )


def test_mixtures_written_out():
    """Each query's own hardest are mixed, by rank."""
    found = MIXING(2 * Q, 3 * K, draws=one((2, 5), 0.3, 4, 0.2))
    assert found.shape == (B, 2, D)
    for query, (of_negatives, with_query) in zip(Q, found, strict=True):
        nearest = K[(K @ query).argsort(descending=True)]
        torch.testing.assert_close(of_negatives, F.normalize(0.3 * nearest[2] + 0.7 * nearest[5], dim=0))
        torch.testing.assert_close(with_query, F.normalize(0.2 * query + 0.8 * nearest[4], dim=0))


@pytest.mark.parametrize(("alpha", "rank"), [(1.0, 1), (0.0, 3)])
def test_the_whole_share_of_one_is_that_one(alpha, rank):
    nearest = K[hardest_indices(Q, K, N)[0]]
    found = MIXING(Q, K, draws=one((1, 3), alpha, partner=2, beta=0.0))
    torch.testing.assert_close(found, torch.stack([nearest[:, rank], nearest[:, 2]], dim=1))


def test_mixtures_of_orthogonal_rows():
    e = torch.eye(4, dtype=torch.float64)
    query = F.normalize(torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64))
    half = torch.tensor([0.5], dtype=torch.float64)
    found = (query * mix(e[:1], e[1:2], half)).sum()
    torch.testing.assert_close(found, (query[0, 0] + query[0, 1]) / math.sqrt(2))
    assert (e[0] @ mix(e[:1], e[1:2], half)[0]).item() == pytest.approx(1 / math.sqrt(2))


def test_opposite_rows_cancel_out():
    assert torch.equal(mix(K, -K, torch.full((M,), 0.5, dtype=torch.float64)), torch.zeros_like(K))
    value = mixed_nce(Q, P, K, torch.zeros(B, 1, D, dtype=torch.float64))
    expected = plain(Q, P, K, torch.zeros(B, 1, D, dtype=torch.float64), 0.2)
    torch.testing.assert_close(value, expected)


def test_a_mixture_with_the_query_is_harder_than_its_source_and_one_of_near_negatives_than_its_farther():
    generator = torch.Generator().manual_seed(1)
    draws = draw(torch.full((B,), N), 40, 30, generator)
    index, _ = hardest_indices(Q, K, N)
    similarity = (Q @ K.T).gather(1, index)
    found = torch.einsum("nd,nsd->ns", Q, MIXING(Q, K, draws=draws))
    source = similarity.gather(1, draws.partners)
    assert (found[:, 40:] > source).all()
    assert (found[:, 40:] < 1).all()
    farther = torch.minimum(*(similarity.gather(1, ranks) for ranks in draws.pairs.unbind(2)))
    near = farther >= 0
    assert near.sum() > 20
    assert (found[:, :40] >= farther - 1e-12)[near].all()
    torch.testing.assert_close(MIXING(Q, K).norm(dim=2), torch.ones(B, 70, dtype=torch.float64))


def test_as_many_mixtures_of_each_kind_as_are_asked_for():
    for pairs, query_pairs in ((3, 3), (0, 2), (2, 0), (0, 0)):
        assert HardNegativeMixing(4, pairs, query_pairs)(Q, K).shape == (len(Q), pairs + query_pairs, Q.shape[1])


def test_draws_are_uniform_and_independent():
    """Over ranks below each query's count, alpha in (0, 1) and beta in (0, 1/2): means and spreads of 60,000 draws."""
    counts = torch.tensor([1, 4, 1000])
    draws = draw(counts, 30_000, 60_000, torch.Generator().manual_seed(2))
    for i, count in enumerate(counts.tolist()):
        pair = draws.pairs[i]
        for ranks in (*pair.unbind(1), draws.partners[i]):
            assert ranks.min() >= 0
            assert ranks.max() < count
            assert ranks.double().mean().item() == pytest.approx((count - 1) / 2, abs=0.01 * count)
        if count == 4:
            same = (pair[:, 0] == pair[:, 1]).double().mean().item()  # with replacement
            assert same == pytest.approx(1 / 4, abs=0.01)
        for share, most in ((draws.alpha[i], 1.0), (draws.beta[i], 0.5)):
            assert 0 <= share.min() < 0.01 * most
            assert 0.99 * most < share.max() <= most
            assert share.mean().item() == pytest.approx(most / 2, abs=0.01)
    columns = torch.stack([draws.alpha[2], draws.pairs[2, :, 0].float(), draws.pairs[2, :, 1].float(), draws.alpha[1]])
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max() < 0.03


def test_equal_generators_draw_alike_and_each_query_for_itself():
    def mixtures(seed):
        return MIXING(Q[:1].expand(B, -1), K, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(mixtures(3), mixtures(3))
    assert not torch.equal(mixtures(3), mixtures(4))
    assert not torch.equal(mixtures(3)[0], mixtures(3)[1])


def test_excluded_negatives_are_never_mixed(rng):
    """All allowed negatives lie in a plane, and so do their mixtures; the excluded ones are the nearest."""
    plane = F.pad(unit(rng, 8, 2), (0, 1))
    negatives = torch.cat([plane, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(5, -1)])
    queries = torch.tensor([[0.0, 0.1, 1.0]], dtype=torch.float64)
    owners = torch.tensor([0] * 8 + [7] * 5)
    mixing = HardNegativeMixing(10, 50, 0)
    assert mixing(queries, negatives)[..., 2].abs().max() > 0.5
    found = mixing(queries, negatives, (torch.tensor([7]), owners))
    assert (found[..., 2] == 0).all()
    assert hardest_indices(queries, negatives, 10, (torch.tensor([7]), owners))[1].item() == 8
    with pytest.raises(InputError, match="negatives: query 0 has none left to mix"):
        mixing(queries, negatives[8:], (torch.tensor([7]), owners[8:]))


def test_autocast_does_not_lower_the_precision():
    q, p, k, h = (x.float() for x in (Q, P, K, H))
    with torch.autocast("cpu", torch.bfloat16):
        low, index = mixed_nce(q, p, k, h, 0.05), hardest_indices(q, k, N)[0]
    torch.testing.assert_close(low, mixed_nce(q, p, k, h, 0.05), rtol=1e-6, atol=1e-6)
    assert torch.equal(index, hardest_indices(q, k, N)[0])


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = MixedNCELoss()
    with pytest.raises(InputError, match=r"queries and positives: expected the same shape, got \[6, 5\] and \[5, 5\]"):
        loss(Q, P[:5], K)
    for call in (lambda k: loss(Q, P, k), lambda k: MIXING(Q, k)):
        with pytest.raises(InputError, match="queries and negatives: expected the same width, got 5 and 4"):
            call(K[:, :4])
        with pytest.raises(InputError, match="negatives: expected at least 1 rows, got 0"):
            call(K[:0])
        with pytest.raises(InputError, match="negatives: 100 of 100 numbers are NaN"):
            call(K * math.nan)
    with pytest.raises(InputError, match="positives: 30 of 30 numbers are NaN"):
        loss(Q, P * math.nan, K)
    for wrong in (H[:5], H[:, :, :4], H[:, 0]):
        with pytest.raises(InputError, match=r"synthetic: expected \[6, mixtures, 5\], got"):
            loss(Q, P, K, wrong)
    with pytest.raises(InputError, match="synthetic: 270 of 270 numbers are NaN"):
        loss(Q, P, K, H * math.nan)
    with pytest.raises(InputError, match="exclude: expected one integer for each of the 20 rows, got shape"):
        loss(Q, P, K, exclude=(OWNERS[0], OWNERS[0]))
    with pytest.raises(InputError, match="queries: row 3 has no key left"):
        loss(Q, P, K, exclude=(OWNERS[0], torch.full((M,), 3)))


def made(kind=MoCHi, **arguments):
    torch.manual_seed(0)
    return kind(Encoder(), **{"queue": 10, "hidden": 8, "dim": 3, **arguments})


def images_of(rng, count):
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 2, ("a", "b"), "noise")


def batch(rng, labels=(0, 1, 1, -1), index=(5, 2, 8, 3)):
    size = len(index)
    return [torch.randn(size, 1, 4, 4, generator=rng) for _ in range(2)], torch.tensor(labels), torch.tensor(index)


def test_without_mixtures_the_method_is_moco_to_the_last_bit(rng):
    ours, moco = made(pairs=0, query_pairs=0), made(MoCo)
    for _ in range(3):
        given = batch(rng)
        assert torch.equal(ours.loss(*given), moco.loss(*given))
    for name, value in moco.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_loss_contrasts_with_the_queue_as_it_was_and_with_mixtures_of_it(rng):
    method = made(temperature=0.3, num_hard=4, pairs=6, query_pairs=5)
    twin, given = copy.deepcopy(method), batch(rng)
    torch.manual_seed(7)
    value = method.loss(*given)
    torch.manual_seed(7)
    queries = F.normalize(twin.head(twin.encoder(given[0][0])), dim=1)
    keys = F.normalize(twin.key_head(twin.key_encoder(given[0][1])), dim=1)
    mixtures = HardNegativeMixing(4, 6, 5)(queries, twin.queue)
    assert mixtures.shape == (4, 11, 3)
    table = logits(queries, keys, twin.queue, mixtures, 0.3)
    torch.testing.assert_close(value, F.cross_entropy(table, torch.zeros(4, dtype=torch.int64)))
    # The mixtures are not put into the queue.
    torch.testing.assert_close(method.queue, torch.cat([keys, twin.queue[4:]]))
    assert method.pointer.item() == 4


def test_mixtures_begin_after_the_plain_epochs(rng):
    method, moco, given = made(plain_epochs=2), made(MoCo), batch(rng)
    for epoch, plain_still in ((1, True), (2, False)):
        method.start_epoch(images_of(rng, 4), epoch)
        expected = moco.loss(*given)
        assert (method.loss(*given) == expected).item() == plain_still


def test_owners_of_the_queue_go_around_with_it(rng):
    method = made(queue=6, negatives="other-images")
    for index in ((5, 2, 8, 3), (1, 0, 4, 7)):
        method.loss(*batch(rng, index=index))
    assert method.owners.tolist() == [4, 7, 8, 3, 1, 0]
    method.eval().loss(*batch(rng))
    assert method.owners.tolist() == [4, 7, 8, 3, 1, 0]


@pytest.mark.parametrize(
    ("negatives", "owners"),
    [
        ("other-images", [5, 2, 8, 3]),
        ("other-classes", [0, 1, 1, -2]),  # an unlabelled image has no class, and excludes nobody
    ],
)
def test_excluded_keys_are_in_neither_queue_nor_mixtures(negatives, owners, rng):
    method = made(negatives=negatives, queue=8, pairs=0, query_pairs=0, temperature=0.3)
    method.loss(*batch(rng))
    assert method.owners.tolist() == owners + [-2] * 4
    twin, given = copy.deepcopy(method), batch(rng, labels=(1, 0, -1, 1), index=(3, 9, 5, 10))
    value = method.loss(*given)
    update_momentum_encoder(twin.encoder, twin.key_encoder, twin.momentum)
    update_momentum_encoder(twin.head, twin.key_head, twin.momentum)
    queries = F.normalize(twin.head(twin.encoder(given[0][0])), dim=1)
    keys = F.normalize(twin.key_head(twin.key_encoder(given[0][1])), dim=1)
    own = given[2] if negatives == "other-images" else given[1]
    exclude = (own, twin.owners)
    table = logits(queries, keys, twin.queue, torch.zeros(4, 0, 3), 0.3, exclude)
    assert torch.isinf(table).sum() == (2 if negatives == "other-images" else 5)
    torch.testing.assert_close(value, F.cross_entropy(table, torch.zeros(4, dtype=torch.int64)))
    seen = []
    twin.mixing.forward = lambda queries, negatives, exclude: seen.append(exclude)
    twin.loss(*given)
    assert torch.equal(seen[0][0], own)


def test_proxy_accuracy_counts_positives_that_come_first(rng):
    """Both views and both encoders are the same here, so that a positive's similarity is 1."""
    method, images = made(queue=12, pairs=0, query_pairs=0), images_of(rng, 12)
    queries = F.normalize(method.head(method.encoder(method.view(images.pixels))), dim=1).detach()
    far = -queries.mean(0).expand(12, -1)

    def found():
        (accuracy,) = method.diagnostics(images, images, images).values()
        return accuracy

    method.queue.copy_(far)
    assert found() == 1
    method.queue[:3] = 1.001 * queries[:3]
    nearer = (queries @ method.queue.T).amax(1) > 1
    assert nearer[:3].all()
    assert not nearer.all()
    assert found() == pytest.approx(1 - nearer.double().mean().item())
    method.queue.copy_(far)
    method.mixing.forward = lambda queries, negatives: 1.001 * queries[:, None]
    assert found() == 0


@pytest.mark.parametrize(("name", "value"), [("num_hard", 0), ("pairs", -1), ("query_pairs", -1), ("plain_epochs", -1)])
def test_arguments_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name}: expected a (whole )?number .*, got {value:g}"):
        made(**{name: value})


@pytest.mark.usefixtures("plain_shapes")
def test_unknown_negatives_are_refused():
    with pytest.raises(InputError, match="negatives 'other-image' is not known; did you mean 'other-images'"):
        made(negatives="other-image")


def test_explicit_ranks_beyond_what_is_there_are_refused():
    """A query whose own keys are left out has fewer negatives than others; what follows them is no negative."""
    own, owners = torch.arange(2), torch.tensor([0, 0, 0, 1, 5])
    mixing, queries, queue = HardNegativeMixing(4, 1, 1), Q[:2], K[:5]  # query 0 has 2 negatives, query 1 has 4

    def draws(first=0, partner=0, alpha=0.3, beta=0.2):
        pairs = torch.tensor([[[first, 1]], [[3, 1]]])
        share = torch.full((2, 1), alpha), torch.full((2, 1), beta)
        return Draws(pairs, share[0], torch.tensor([[partner], [3]]), share[1])

    exclude = (own, owners)
    assert mixing(queries, queue, exclude, draws(first=1)).shape == (2, 2, D)
    with pytest.raises(InputError, match=r"draws.pairs: expected ranks below 2, the negatives of query 0, got 2"):
        mixing(queries, queue, exclude, draws(first=2))
    with pytest.raises(InputError, match=r"draws.partners: expected ranks below 2, the negatives of query 0, got 3"):
        mixing(queries, queue, exclude, draws(partner=3))
    with pytest.raises(InputError, match=r"draws.pairs: expected integers of at least 0, got -1"):
        mixing(queries, queue, exclude, draws(first=-1))
    for name in ("alpha", "beta"):
        with pytest.raises(InputError, match=rf"draws.{name}: expected a number of at least 0 and of at most 1, got 2"):
            mixing(queries, queue, exclude, draws(**{name: 2.0}))


@pytest.mark.usefixtures("plain_shapes")
def test_draws_of_other_shapes_are_refused():
    good = one([0, 1])
    for name, wrong in (("pairs", good.pairs[..., :1]), ("partners", good.partners[0]), ("pairs", good.pairs[:0])):
        with pytest.raises(InputError, match=f"draws.{name}: expected"):
            MIXING(Q, K, draws=good._replace(**{name: wrong}))


def test_pairs_without_replacement_are_uniform_over_pairs_of_different_negatives():
    counts = torch.tensor([2, 4, 1000])
    draws = draw(counts, 30_000, 0, torch.Generator().manual_seed(2), replace=False)
    for i, count in enumerate(counts.tolist()):
        first, second = draws.pairs[i].unbind(1)
        assert (first != second).all()
        for ranks in (first, second):
            assert 0 <= ranks.min() <= ranks.max() < count
            assert ranks.double().mean().item() == pytest.approx((count - 1) / 2, abs=0.01 * count)
    table = torch.bincount(4 * draws.pairs[1, :, 0] + draws.pairs[1, :, 1], minlength=16).view(4, 4)
    apart = table[~torch.eye(4, dtype=torch.bool)].double()
    assert ((apart - 2500).square() / 2500).sum() < 40  # chi-squared: 11 degrees of freedom
    same = draw(counts, 30_000, 0, torch.Generator().manual_seed(2))
    assert torch.equal(draws.pairs[..., 0], same.pairs[..., 0])
    assert torch.equal(draws.alpha, same.alpha)


def test_pairs_without_replacement_need_two_negatives():
    with pytest.raises(InputError, match="counts: expected at least 2 negatives for pairs without replacement, got 1"):
        HardNegativeMixing(N, pairs=2, query_pairs=1, replace=False)(Q, K[:1])
    assert HardNegativeMixing(N, pairs=0, query_pairs=3, replace=False)(Q, K[:1]).shape == (B, 3, D)


def test_without_replacement_no_mixture_of_two_is_a_key_of_the_queue():
    """Of two opposite corners of a square, a mixture lies on a key only where both are that key."""
    keys = torch.eye(2, dtype=torch.float64)
    query = F.normalize(torch.ones(1, 2, dtype=torch.float64))
    for replace in (True, False):
        mixing = HardNegativeMixing(2, 50, 0, replace)
        found = mixing(query, keys, generator=torch.Generator().manual_seed(0))[0]
        assert (found.amax(1) > 1 - 1e-9).any() == replace


def test_mixtures_with_the_query_may_begin_later_or_sooner_than_those_of_negatives(rng):
    given, images = batch(rng), images_of(rng, 4)
    for plain, query_plain in ((1, 2), (2, 1)):
        method = made(plain_epochs=plain, query_plain_epochs=query_plain, num_hard=4, pairs=6, query_pairs=5)
        queries = method.head(method.encoder(given[0][0])).detach()
        for epoch in range(3):
            method.start_epoch(images, epoch)
            torch.manual_seed(epoch)
            found = method.mixtures(queries, None)
            torch.manual_seed(epoch)
            both = method.mixing(queries, method.queue)
            expected = [both[:, :6]] * (epoch >= plain) + [both[:, 6:]] * (epoch >= query_plain)
            assert (found is None) == (not expected)
            if expected:
                assert torch.equal(found, torch.cat(expected, dim=1))
    assert made(plain_epochs=3).query_plain_epochs == 3


def test_groups_of_the_batch_have_statistics_of_their_own_and_keys_their_places(rng):
    images = torch.randn(7, 3, generator=rng)
    seen = []

    def centred(some):
        seen.append(some)
        return some - some.mean(0)

    torch.manual_seed(0)
    found = shuffled_groups(centred, images, groups=3)
    assert sorted(len(some) for some in seen) == [2, 2, 3]
    for some in seen:
        rows = [int((images == row).all(1).nonzero()) for row in some]
        torch.testing.assert_close(found[rows], some - some.mean(0))
    assert sorted(torch.cat(seen)[:, 0].tolist()) == sorted(images[:, 0].tolist())
    assert torch.equal(shuffled_groups(centred, images, groups=1), images - images.mean(0))
    with pytest.raises(InputError, match="groups: expected at most 3 for 7 images a process, got 4"):
        shuffled_groups(centred, images, groups=4)


def test_the_key_encoder_normalises_groups_in_training_alone(rng):
    method, given = made(key_groups=2), batch(rng)
    method.key_head = torch.nn.Sequential(torch.nn.BatchNorm1d(4, affine=False), *method.key_head)
    torch.manual_seed(1)
    found = method.keys(given[0][1])
    order = (torch.manual_seed(1), torch.randperm(4))[1]
    for some in order.chunk(2):
        torch.testing.assert_close(found[some], method.key_head(method.key_encoder(given[0][1][some])))
    method.eval()
    torch.testing.assert_close(method.keys(given[0][1]), method.key_head(method.key_encoder(given[0][1])))
    with pytest.raises(InputError, match="key_groups: expected a whole number of at least 1, got 0"):
        made(key_groups=0)
    with pytest.raises(InputError, match="query_plain_epochs: expected a whole number of at least 0, got -1"):
        made(query_plain_epochs=-1)
