"""Metrix against its sums written out, the base losses as limits, and what each kind of mixing costs and reaches."""

import math

import faiss
import pytest
import torch
from pytorch_metric_learning import losses
from torch import nn
from torch.nn import functional as F

import worlds
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.metric.contrastive import Contrastive
from counterpoise.metric.metrix import (
    Found,
    MeanAndMax,
    Metrix,
    MetrixLoss,
    SimilarityContrastiveLoss,
    Triples,
    hardest_negatives,
    last_pooling,
    log_one_plus_sum,
    mixed_contrastive,
    mixed_contrastive_similarity,
    mixed_multi_similarity,
    mixed_proxy_anchor,
    mixing_pairs,
    utilization,
)
from counterpoise.metric.multi_similarity import MultiSimilarity
from counterpoise.metric.proxy_anchor import ProxyAnchor
from counterpoise.nets import backbone
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

BASES = ["contrastive", "contrastive-similarity", "multi-similarity", "proxy-anchor"]
KINDS = ["positive-negative", "anchor-negative"]
N, D, C = 8, 5, 4  # the last class is not in the batch, another one has a single image
Z = torch.randn(N, D, generator=seeded(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 1, 0])
each_base = pytest.mark.parametrize("base", BASES)
each_kind = pytest.mark.parametrize(  # proxies are never mixed
    ("base", "kind"), [(base, kind) for base in BASES for kind in KINDS if (base, kind) != ("proxy-anchor", KINDS[1])]
)


def made(base, **arguments):
    torch.manual_seed(1)
    return MetrixLoss(base, **{"classes": C, "dim": D, **arguments}).double()


def listed(pairs):
    """The same triples in any order."""
    return sorted(zip(*(x.tolist() for x in pairs), strict=True))


def written_out(loss, z, labels, share, kind, hardest=None):
    """The mixed loss, anchor by anchor and mixture by mixture."""
    z = F.normalize(z, dim=1)
    proxies = loss.base == "proxy-anchor"
    anchors = F.normalize(loss.loss.proxies, dim=1) if proxies else z
    of = torch.arange(C) if proxies else labels
    sums, terms = [], []
    for a in range(len(anchors)):
        s = anchors[a] @ z.T
        positives = [i for i in range(len(z)) if labels[i] == of[a] and (proxies or i != a)]
        negatives = [i for i in range(len(z)) if labels[i] != of[a]]
        if loss.base == "multi-similarity":
            if not positives or not negatives:
                positives, negatives = [], []
            least, most = min([s[p] for p in positives], default=0), max([s[n] for n in negatives], default=0)
            positives, negatives = (
                [p for p in positives if s[p] - 0.1 < most],
                [n for n in negatives if s[n] + 0.1 > least],
            )
        negatives = sorted(negatives, key=lambda n: -s[n])[:hardest]
        firsts = [a] if kind == "anchor-negative" else positives
        mixtures = [F.normalize(share * z[x] + (1 - share) * z[n], dim=0) for x in firsts for n in negatives]
        c = loss.constants
        if loss.base == "contrastive":
            terms += [(anchors[a] - v).norm() for v in mixtures]
            continue
        if loss.base == "contrastive-similarity":
            pulls = sum(share * -(anchors[a] @ v) for v in mixtures)
            pushes = sum((1 - share) * max(anchors[a] @ v - c["margin"], 0 * z[0, 0]) for v in mixtures)
            sums += [pulls + pushes + 0 * z[0, 0]]
            continue
        plus = sum(share * math.e ** (-c["alpha"] * (anchors[a] @ v - c["margin"])) for v in mixtures)
        if proxies:
            minus = sum((1 - share) * math.e ** (c["alpha"] * (anchors[a] @ v + c["margin"])) for v in mixtures)
            sums += [(1 + plus).log() + (1 + minus).log()] if mixtures else []
        else:
            minus = sum((1 - share) * math.e ** (c["beta"] * (anchors[a] @ v - c["margin"])) for v in mixtures)
            one = torch.ones((), dtype=z.dtype)
            sums += [(one + plus).log() / c["alpha"] + (one + minus).log() / c["beta"]]
    if loss.base == "contrastive":
        pushed = [loss.constants["margin"] - d for d in terms if d < loss.constants["margin"]]
        return share * sum(terms) / len(terms) + (1 - share) * sum(pushed) / max(len(pushed), 1)
    return sum(sums) / len(sums)


@each_kind
@pytest.mark.parametrize("hardest", [None, 1, 3])
def test_the_loss_and_its_mixed_form_written_out(base, kind, hardest):
    loss, plain = made(base, weight=0.7, hardest=hardest), made(base, weight=0.0)
    ours, theirs = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    found = loss(ours, LABELS, 0.3, kind)
    expected = plain(theirs, LABELS) + 0.7 * written_out(loss, theirs, LABELS, 0.3, kind, hardest)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0, 1, 0, 2, 1, 3, 1, 3])])
def test_mixtures_with_hard_labels_are_the_base_losses(labels):
    """V is the clean set: multi-similarity without its miner, and proxy-anchor with its two means over proxies."""
    z = F.normalize(Z, dim=1)
    anchor, item = (~torch.eye(N).bool()).nonzero(as_tuple=True)
    y = (labels[anchor] == labels[item]).double()
    found = mixed_multi_similarity((z[anchor] * z[item]).sum(1), y, anchor, N, 0.4, 3.0, 40.0)
    torch.testing.assert_close(found, losses.MultiSimilarityLoss(3, 40, 0.4)(Z, labels))
    found = mixed_contrastive((z[anchor] - z[item]).norm(dim=1), y, 1.3)
    torch.testing.assert_close(found, losses.ContrastiveLoss(0, 1.3)(Z, labels))
    found = mixed_contrastive_similarity((z[anchor] * z[item]).sum(1), y, N, 0.3)
    torch.testing.assert_close(found, SimilarityContrastiveLoss(0.3)(Z, labels))
    theirs = losses.ProxyAnchorLoss(C, D, 0.2, 20).double()
    anchor, item = torch.ones(C, N).nonzero(as_tuple=True)
    y = (anchor == labels[item]).double()
    proxies = F.normalize(theirs.proxies, dim=1)
    found = mixed_proxy_anchor((proxies[anchor] * z[item]).sum(1), y, anchor, C, 0.2, 20.0)
    torch.testing.assert_close(found, theirs(Z, labels))


def test_a_share_of_one_is_the_positive_part_with_each_positive_as_often_as_there_are_negatives():
    anchor, item = (~torch.eye(N).bool()).nonzero(as_tuple=True)
    same = LABELS[anchor] == LABELS[item]
    pairs = Found(anchor[same], item[same], anchor[~same], item[~same])
    triples, z = mixing_pairs(pairs), F.normalize(Z, dim=1)
    s = (z[triples.anchor] * z[triples.first]).sum(1)
    found = mixed_multi_similarity(s, torch.ones_like(s), triples.anchor, N)
    expected = 0
    for a in range(N):
        negatives = int((LABELS[a] != LABELS).sum())
        positives = [math.exp(-2 * (z[a] @ z[p] - 0.5)) for p in range(N) if p != a and LABELS[p] == LABELS[a]]
        expected += math.log(1 + negatives * sum(positives)) / 2 / N
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
@each_base
def test_a_share_at_its_ends_drops_a_part_and_keeps_the_gradient_finite(base, share):
    z = Z.clone().requires_grad_()
    loss = made(base)
    value = loss(z, LABELS, share)
    expected = made(base, weight=0.0)(Z, LABELS) + 0.4 * written_out(loss, Z, LABELS, share, "positive-negative")
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.isfinite(z.grad).all()


def test_contrastive_is_linear_in_the_label(rng):
    d = torch.rand(20, generator=rng, dtype=torch.float64)
    at = [mixed_contrastive(d, torch.full_like(d, y), 0.5) for y in (0.0, 0.25, 1.0)]
    torch.testing.assert_close(at[1], 0.75 * at[0] + 0.25 * at[2])
    assert at[0] > 0.01
    far = mixed_contrastive(d + 1, torch.zeros_like(d), 0.5)
    assert far == 0


@pytest.mark.parametrize("margin", [0.5, -0.2])
def test_the_papers_contrastive_loss_anchor_by_anchor(margin):
    """Without a margin on the positives, and with an anchor that has none."""
    ours, theirs = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    z, sums = F.normalize(theirs, dim=1), []
    for a in range(N):
        others = [b for b in range(N) if b != a]
        sums += [-(z[a] @ z[b]) if LABELS[a] == LABELS[b] else (z[a] @ z[b] - margin).relu() for b in others]
    value = SimilarityContrastiveLoss(margin)(ours, LABELS)
    torch.testing.assert_close(value, sum(sums) / N)
    value.backward()
    (sum(sums) / N).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert sum(s.item() > 0 for s in sums) > 4


def test_a_single_mixture_of_the_papers_contrastive_loss():
    """By hand: pulled by -y up to the margin; beyond it the slope is 1 - 2y, so only y above a half still pulls."""
    s = torch.tensor([0.4, 0.8], dtype=torch.float64, requires_grad=True)
    for y, expected, slopes in ((0.25, [-0.1, 0.025], [-0.25, 0.5]), (0.75, [-0.3, -0.525], [-0.75, -0.5])):
        for i in range(2):
            value = mixed_contrastive_similarity(s[i, None], torch.full((1,), y, dtype=s.dtype), anchors=1)
            assert value.item() == pytest.approx(expected[i])
            (slope,) = torch.autograd.grad(value, s)
            assert slope[i].item() == pytest.approx(slopes[i])
    with_more = mixed_contrastive_similarity(s, torch.ones_like(s), anchors=4)
    assert with_more.item() == pytest.approx(-(0.4 + 0.8) / 4)  # anchors without mixtures count
    assert mixed_contrastive_similarity(s[:0], s[:0], anchors=3) == 0


def test_the_papers_constants_fill_what_is_not_given():
    loss = MetrixLoss(preset="paper")
    assert loss.constants == {"margin": 0.77, "alpha": 17.97, "beta": 75.66}
    assert loss.loss.miner.epsilon == 0.39
    assert (loss.loss.objective.base, loss.loss.objective.alpha, loss.loss.objective.beta) == (0.77, 17.97, 75.66)
    own = MetrixLoss()
    assert (own.constants, own.loss.miner.epsilon) == ({"margin": 0.5, "alpha": 2.0, "beta": 50.0}, 0.1)
    some = MetrixLoss(preset="paper", alpha=3.0, epsilon=0.2)
    assert (some.constants["alpha"], some.constants["beta"], some.loss.miner.epsilon) == (3.0, 75.66, 0.2)
    for base in ("contrastive", "contrastive-similarity", "proxy-anchor"):
        assert made(base, preset="paper").constants == made(base).constants
    reached = method(mixing="embedding", preset="paper", epsilon=0.3).objective
    assert (reached.constants, reached.loss.miner.epsilon) == (loss.constants, 0.3)
    found = MetrixLoss(preset="paper", weight=0.0).double()(Z, LABELS)
    mined = reached.loss.miner.__class__(0.39)(Z, LABELS)
    torch.testing.assert_close(found, losses.MultiSimilarityLoss(17.97, 75.66, 0.77)(Z, LABELS, mined))


def test_where_a_mixture_starts_to_be_a_positive():
    """A single mixture is pulled below a similarity of m + log(y / (1 - y)) / (alpha + beta), and pushed above it."""
    m, alpha, beta, zero = 0.77, 18.0, 75.0, torch.zeros(1, dtype=torch.int64)
    for y in (0.1, 0.5, 0.8):
        edge = m + math.log(y / (1 - y)) / (alpha + beta)
        s = torch.tensor([edge, edge - 0.01, edge + 0.01], dtype=torch.float64, requires_grad=True)
        for i in range(3):
            mixed_multi_similarity(s[i, None], torch.full_like(s[:1], y), zero, 1, m, alpha, beta).backward()
        assert s.grad[0].item() == pytest.approx(0, abs=1e-12)
        assert s.grad[1] < -1e-3
        assert s.grad[2] > 1e-3


def test_sharp_sums_do_not_overflow():
    s = torch.tensor([1.0, -1.0, 0.9])
    y, anchor = torch.tensor([0.5, 0.5, 1e-6]), torch.tensor([0, 0, 2])
    for scale in (75.0, -75.0, 1e4):
        found = log_one_plus_sum(scale * s, y, anchor, 4)
        logits = (scale * s.double() + y.double().log()).tolist()
        expected = [max(0, *logits[:2]), 0, max(0, logits[2]), 0]
        expected[0] += math.log(sum(math.exp(x - expected[0]) for x in (0, *logits[:2])))
        expected[2] += math.log(sum(math.exp(x - expected[2]) for x in (0, logits[2])))
        torch.testing.assert_close(found, torch.tensor(expected))


def test_mixtures_of_anchors_listed():
    found = Found(*(torch.tensor(x) for x in ([3, 0, 3], [1, 2, 0], [3, 0, 5, 3], [7, 6, 1, 8])))
    assert listed(mixing_pairs(found)) == [(0, 2, 6), (3, 0, 7), (3, 0, 8), (3, 1, 7), (3, 1, 8)]
    assert listed(mixing_pairs(found, "anchor-negative")) == [(0, 0, 6), (3, 3, 7), (3, 3, 8), (5, 5, 1)]
    near = hardest_negatives(found, torch.tensor([0.1, 0.5, 0.6, 0.2]), 1)
    assert listed(near[2:]) == [(0, 6), (3, 8), (5, 1)]
    nothing = torch.empty(0, dtype=torch.int64)
    for empty in (found._replace(negative_of=nothing, negatives=nothing), Found(*[nothing] * 4)):
        assert listed(mixing_pairs(empty)) == []
    assert listed(mixing_pairs(found._replace(positive_of=nothing, positives=nothing))) == []


@each_kind
def test_gradient_in_double_precision_and_of_whom(base, kind):
    """The mixed loss moves anchors, positives and negatives; the proxies, too."""
    labels = torch.tensor([0, 0, 1])
    loss, plain = made(base), made(base, weight=0.0)
    z = torch.tensor([[1.0, 0.2, 0, 0, 0], [0.9, -0.3, 0.1, 0, 0], [0.8, 0.1, 0.4, 0, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, 0.4, kind), z.clone().requires_grad_())
    for leaf in (z.requires_grad_(), *loss.parameters()):
        (with_mixtures,) = torch.autograd.grad(loss(z, labels, 0.4, kind), leaf)
        (without,) = torch.autograd.grad(plain(z, labels), plain.loss.proxies if leaf is not z else z)
        moved = (with_mixtures - without).norm(dim=1)
        assert (moved[: 3 if leaf is z else 2] > 1e-6).all()


@each_base
def test_invariances(base, rng):
    loss = made(base)
    order = torch.randperm(N, generator=rng)
    scales = torch.rand(N, 1, generator=rng, dtype=torch.float64) + 0.5
    value = loss(Z, LABELS, 0.3)
    torch.testing.assert_close(loss((Z * scales)[order], LABELS[order], 0.3), value)
    if base != "proxy-anchor":
        turn = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64)).Q
        torch.testing.assert_close(loss(Z @ turn, 7 - LABELS, 0.3), value)
    with_unlabelled = torch.cat([Z, Z[:2] + 1]), torch.cat([LABELS, torch.tensor([-1, -1])])
    torch.testing.assert_close(loss(*with_unlabelled, 0.3), value)


@each_kind
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 1], [0, 1], [2]])
def test_batches_without_a_pair_of_each_kind_are_refused_but_where_proxies_are_the_anchors(base, kind, labels):
    if base != "proxy-anchor":
        for weight in (0.0, 0.4):
            with pytest.raises(InputError, match=r"labels: expected 2 (of one class|classes) in the batch"):
                made(base, weight=weight)(Z[: len(labels)], torch.tensor(labels), 0.5, kind)
        return
    z = Z[: len(labels)].clone().requires_grad_()
    value = made(base)(z, torch.tensor(labels), 0.5, kind)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()


def test_nothing_of_mixtures_times_mixtures_or_batch_is_kept(rng):
    z = torch.randn(48, 16, generator=rng, requires_grad=True)
    labels = torch.arange(48) // 4
    mixtures = 48 * 3 * 44
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        MetrixLoss("contrastive")(z, labels).backward()
    assert mixtures * 16 <= max(sizes) < 2 * mixtures * 16


def test_utilization(rng):
    q, x, v = (torch.randn(n, 6, generator=rng) for n in (30, 20, 25))
    units = [F.normalize(rows, dim=1).numpy() for rows in (q, x, v)]
    index = faiss.IndexFlatL2(6)
    index.add(units[1])
    assert utilization(q, x) == pytest.approx(float(index.search(units[0], 1)[0].mean()), abs=1e-5)
    index.add(units[2])
    assert utilization(q, x, v) == pytest.approx(float(index.search(units[0], 1)[0].mean()), abs=1e-5)
    assert utilization(q, x, v) < utilization(q, x)
    assert utilization(q, q) == utilization(x, x, v) == 0
    assert utilization(q, x, v[:0]) == utilization(q, x)
    assert utilization(q.flip(0), 3 * x[torch.randperm(20)]) == pytest.approx(utilization(q, x), abs=1e-6)
    assert utilization(x[:1], -x[:1]) == pytest.approx(4)


def test_utilization_of_embeddings_as_they_are(rng):
    q, x, v = (torch.randn(n, 6, generator=rng) * 3 for n in (30, 20, 25))
    expected = torch.cdist(q.double(), torch.cat([x, v]).double()).amin(1).square().mean()
    assert utilization(q, x, v, normalize=False) == pytest.approx(float(expected), rel=1e-5)
    assert utilization(2 * q, 2 * x, 2 * v, normalize=False) == pytest.approx(4 * float(expected), rel=1e-5)
    assert utilization(q, q, normalize=False) == pytest.approx(0, abs=1e-5)
    assert utilization(F.normalize(q), F.normalize(x), normalize=False) == pytest.approx(utilization(q, x), abs=1e-6)
    with pytest.raises(InputError, match="mixed: expected rows of a length of at most 1e\\+08"):
        utilization(q, x, 1e30 * v, normalize=False)


LABELS_12 = torch.arange(12) % 3
PIXELS = torch.randint(0, 256, (12, 1, 16, 16), generator=seeded(1), dtype=torch.uint8)
VIEW = PIXELS.float() / 127.5 - 1


def method(net="small", **arguments):
    torch.manual_seed(0)
    encoder = backbone("small", channels=1, size=16) if net == "small" else Encoder(features=6)
    return Metrix(encoder, 12, 3, dim=4, **arguments)


@pytest.mark.parametrize(
    ("base", "kind"),
    [("contrastive", Contrastive), ("multi-similarity", MultiSimilarity), ("proxy-anchor", ProxyAnchor)],
)
def test_without_weight_it_is_the_base_method_to_the_last_bit(base, kind, rng):
    view = torch.randn(12, 1, 4, 4, generator=rng)
    found = []
    for make in (
        lambda: Metrix(Encoder(features=6), 12, 3, base=base, mixing="embedding", weight=0.0, dim=4),
        lambda: kind(Encoder(features=6), 12, dim=4, **({"classes": 3} if base == "proxy-anchor" else {})),
    ):
        torch.manual_seed(5)
        each = make()
        torch.manual_seed(6)
        loss = each.loss([view], LABELS_12, torch.arange(12))
        loss.backward()
        found.append([loss, torch.rand(1), *(p.grad for p in each.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@each_base
def test_compare_is_the_base_loss_without_mixtures_whatever_the_weight(base, rng):
    z, found = torch.randn(12, 4, generator=rng), []
    for weight in (0.0, 0.4):
        torch.manual_seed(5)
        found.append(
            Metrix(Encoder(features=6), 12, 3, base=base, mixing="embedding", weight=weight, dim=4).embedding_loss(
                z, LABELS_12
            )
        )
    assert torch.equal(*found)


@pytest.mark.parametrize("mixing", ["input", "feature", "embedding"])
@pytest.mark.parametrize("pooling", ["mean", "mean+max"])
@each_base
def test_what_is_mixed_and_what_the_net_does_for_it(mixing, pooling, base):
    """By hand, mixture by mixture; each kind goes through no more of the net than comes after it."""
    it = method(mixing=mixing, pooling=pooling, base=base, pairs="positive-negative", hardest=2).eval()
    net, embedding = it.encoder
    convolutions, embedded = [], []
    net.model.stages[0].register_forward_hook(lambda *given: convolutions.append(len(given[2])))
    embedding.register_forward_hook(lambda *given: embedded.append(len(given[2])))
    torch.manual_seed(3)
    found = it.loss([VIEW], LABELS_12, torch.arange(12))
    calls = {"input": (2, 2), "feature": (1, 2), "embedding": (1, 1)}[mixing]
    assert (len(convolutions), len(embedded)) == calls
    assert all(n == 12 for n in convolutions[:1] + embedded[:1])

    torch.manual_seed(3)
    share = torch.distributions.Beta(2.0, 2.0).sample().item()
    maps = [VIEW]
    for stage in net.model.stages:
        maps.append(stage(maps[-1]))
    maps = maps[-3:]
    assert [x.shape[1:] for x in maps] == [(64, 4, 4), (128, 2, 2), (128, 2, 2)]

    def head(maps):
        pooled = [x.mean((2, 3)) + (x.amax((2, 3)) if pooling == "mean+max" else 0) for x in maps]
        return embedding(torch.cat(pooled, 1))

    z = head(maps)
    unit = F.normalize(z, dim=1)

    def mixed(first, second):
        rows = []
        for p, n in zip(first.tolist(), second.tolist(), strict=True):
            if mixing == "input":
                rows.append(it.encoder((share * VIEW[p] + (1 - share) * VIEW[n])[None])[0])
            elif mixing == "feature":
                rows.append(head([(share * x[p] + (1 - share) * x[n])[None] for x in maps])[0])
            else:
                rows.append(share * unit[p] + (1 - share) * unit[n])
        return torch.stack(rows)

    torch.testing.assert_close(found, it.objective.of_all(z, LABELS_12, share, "positive-negative", mixed))
    plain, _ = it.objective.base_loss(z, LABELS_12)
    assert (found - plain).abs() > 1e-3
    assert found > plain or base == "contrastive-similarity"  # whose sums may be negative


def test_mixed_maps_under_a_mean_are_mixed_embeddings_before_their_length_is_1():
    it = method(mixing="feature")
    _, maps = it.look(VIEW)
    z = it.encoder(VIEW)
    torch.testing.assert_close(it.finish(0.3 * maps[:6] + 0.7 * maps[6:]), 0.3 * z[:6] + 0.7 * z[6:])
    other = method(mixing="feature", pooling="mean+max")
    _, maps = other.look(VIEW)
    z = other.encoder(VIEW)
    assert not torch.allclose(other.finish(0.3 * maps[:6] + 0.7 * maps[6:]), 0.3 * z[:6] + 0.7 * z[6:], atol=1e-3)


def test_inputs_are_mixed_with_the_nearest_negative_alone():
    assert method(mixing="input").objective.hardest == 1
    assert method(mixing="input", hardest=5).objective.hardest == 5
    assert method(mixing="feature").objective.hardest is None


def test_shares_are_drawn_once_a_batch_and_kinds_by_a_coin():
    it = method(mixing="embedding")
    torch.manual_seed(0)
    drawn = [it.draw(torch.device("cpu")) for _ in range(2000)]
    shares = torch.tensor([share for share, _ in drawn])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / 20, abs=0.005)  # of Beta(2, 2)
    assert sum(kind == "anchor-negative" for _, kind in drawn) / 2000 == pytest.approx(0.5, abs=0.05)
    for pairs in KINDS:
        assert method(mixing="embedding", pairs=pairs).draw(torch.device("cpu"))[1] == pairs
    proxies = method(mixing="embedding", base="proxy-anchor")
    assert {proxies.draw(torch.device("cpu"))[1] for _ in range(20)} == {"positive-negative"}


@each_base
def test_unlabelled_images_are_passed_over(base):
    it = method(mixing="input", base=base).eval()
    values = []
    for labels in (LABELS_12, torch.cat([LABELS_12, torch.tensor([-1, -1])])):
        torch.manual_seed(2)
        view = torch.cat([VIEW, -VIEW[:2]])[: len(labels)]
        values.append(it.loss([view], labels, torch.arange(len(labels))))
    torch.testing.assert_close(*values)


@pytest.mark.slow
@each_base
def test_training_brings_classes_together(base, tmp_path, rng):
    pixels = torch.randint(0, 100, (48, 1, 4, 4), generator=rng, dtype=torch.uint8)
    labels = torch.arange(48) % 3
    pixels.view(48, -1)[torch.arange(48), labels] = 255
    images = Images(pixels, labels, ("a", "b", "c"), "dots")
    torch.manual_seed(0)
    it = Metrix(Encoder(features=6), 48, 3, base=base, mixing="embedding", dim=4, lr=0.02)
    fit(it, images, epochs=15, batch_size=24, seed=0, folder=tmp_path, device="cpu")
    z = F.normalize(it.encoder(it.view(pixels)), dim=1).detach()
    cosine = (z @ z.T).fill_diagonal_(-2)
    assert (labels[cosine.argmax(1)] == labels).float().mean() > 0.9


@pytest.mark.parametrize("mixing", ["input", "feature", "embedding"])
def test_diagnostics_measure_how_near_training_came(mixing):
    it = method(mixing=mixing, pooling="mean+max")
    train = Images(PIXELS, LABELS_12, ("a", "b", "c"), "noise")
    test = Images(PIXELS.flip(3), LABELS_12, ("a", "b", "c"), "noise")
    found = it.diagnostics(train, train, test)
    assert it.training
    assert 0 < found["utilization_mixed"] <= found["utilization"]
    assert it.diagnostics(train, train, test) == found
    assert it.diagnostics(test, train, test)["utilization"] == pytest.approx(0, abs=1e-9)
    training, mixed = it.visited(train)
    torch.testing.assert_close(training.norm(dim=0), it.eval().encoder(VIEW).norm(dim=0))
    assert 1 <= len(mixed) < 12
    single = Images(PIXELS, torch.zeros_like(LABELS_12), ("a",), "noise")
    assert it.visited(single)[1].shape == (0, 4)


def test_diagnostics_of_embeddings_as_the_network_gives_them():
    for mixing in ("input", "feature", "embedding"):
        unit, it = method(mixing=mixing), method(mixing=mixing, normalize_utilization=False)
        train = Images(PIXELS, LABELS_12, ("a", "b", "c"), "noise")
        test = Images(PIXELS.flip(3), LABELS_12, ("a", "b", "c"), "noise")
        found, plain = it.diagnostics(train, train, test), unit.diagnostics(train, train, test)
        z, keys = (it.eval().encoder(VIEW.flip(3)).detach(), it.encoder(VIEW).detach())
        assert found["utilization"] == pytest.approx(torch.cdist(z, keys).amin(1).square().mean().item(), rel=1e-4)
        assert found["utilization"] != pytest.approx(plain["utilization"], rel=0.01)
        assert found["utilization_mixed"] <= found["utilization"]
        longest = it.visited(train)[1].norm(dim=1)
        assert (longest < keys.norm(dim=1).max() * 1.01).all()
        assert not torch.allclose(longest, torch.ones_like(longest), atol=0.01)


def two_losses(rank=None, world=1):
    """Losses and averaged gradients of whole methods, of which a process takes its share; one is ahead in its draws."""
    found = []
    for mixing, base in (("input", "contrastive"), ("feature", "multi-similarity"), ("embedding", "proxy-anchor")):
        it = method(mixing=mixing, base=base, pooling="mean+max").double().eval()
        batch = [VIEW.double(), LABELS_12, torch.arange(12)]
        torch.manual_seed(4)
        if rank is not None:
            batch = [worlds.shard(x, worlds.sizes_of(12, world), rank) for x in batch]
            torch.rand(rank)
        loss = it.loss([batch[0]], *batch[1:])
        gradients = torch.autograd.grad(loss, list(it.parameters()))
        if rank is not None:
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient /= world
        found += [loss.detach(), *gradients]
    return found


@pytest.mark.slow
def test_two_processes_do_what_one_does():
    expected = two_losses()
    for found in worlds.run(2, two_losses):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


class Deep(nn.Sequential):
    features = 3

    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    for net, name in (
        (Encoder(features=6), "Encoder"),
        (Deep(), "Deep"),
        (backbone("timm:vit_tiny_patch16_224", 1, 32), "VisionTransformer"),
    ):
        with pytest.raises(
            InputError, match=f"mixing: '{name}' does not end with the average pooling of a convolution map"
        ):
            Metrix(net, 12, 3)
    with pytest.raises(InputError, match="mix 'input' or 'embedding'"):
        Metrix(Encoder(features=6), 12, 3, mixing="input", pooling="mean+max")
    resnet = backbone("torchvision:resnet18", 1, 32)
    assert last_pooling(resnet) == "model.avgpool"
    it = Metrix(resnet, 12, 3, dim=4, pooling="mean+max")
    assert isinstance(it.encoder[0].model.avgpool, MeanAndMax)
    assert it.look(VIEW[:2])[1].shape == (2, 512 * 2 * 2)
    with pytest.raises(InputError, match="base 'multisimilarity' is not known; did you mean 'multi-similarity'"):
        MetrixLoss("multisimilarity")
    for wrong in ({"mixing": "inputs"}, {"pairs": "positive"}, {"pooling": "max"}, {"preset": "papers"}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} '.*' is not known"):
            method(**wrong)
    for wrong in ({"weight": -1}, {"hardest": 0}, {"concentration": 0}, {"alpha": 0}, {"margin": 2}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            method(mixing="embedding", **wrong)
    with pytest.raises(InputError, match="alpha: the base loss 'contrastive' has none, got 3"):
        MetrixLoss("contrastive", alpha=3)
    with pytest.raises(InputError, match=r"epsilon: the base loss 'contrastive-similarity' has none, got 0\.2"):
        MetrixLoss("contrastive-similarity", epsilon=0.2)
    for wrong in ({"epsilon": -0.1}, {"base": "contrastive-similarity", "margin": 1.5}):
        with pytest.raises(InputError, match=list(wrong)[-1]):
            MetrixLoss(**wrong)
    with pytest.raises(InputError, match="anchors: expected a whole number of at least 1"):
        mixed_contrastive_similarity(Z[0], Z[0].abs().clamp(max=1), 0)
    with pytest.raises(InputError, match="classes and dim: expected numbers"):
        MetrixLoss("proxy-anchor")
    with pytest.raises(InputError, match="pairs: expected positive-negative"):
        method(base="proxy-anchor", pairs="anchor-negative")
    with pytest.raises(InputError, match="kind: expected positive-negative"):
        made("proxy-anchor")(Z, LABELS, 0.5, "anchor-negative")
    with pytest.raises(InputError, match=r"share: expected a number of at least 0 and of at most 1, got 1\.5"):
        made("contrastive")(Z, LABELS, 1.5)
    with pytest.raises(InputError, match="kind 'positive' is not known"):
        made("contrastive")(Z, LABELS, 0.5, "positive")
    with pytest.raises(InputError, match=r"training and mixed: expected the same shape, got \[1, 5\] and \[1, 4\]"):
        utilization(Z, Z, Z[:, :4])
    assert isinstance(mixing_pairs(Found(*[torch.arange(2)] * 4)), Triples)
