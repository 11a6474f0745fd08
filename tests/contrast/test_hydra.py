"""Hydra against its sums written out, hand-worked gates, its limits, and what its filter and its method do."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.hydra import Filter, Hydra, HydraLoss, gated_similarity, hydra, info_nce
from counterpoise.data import Images
from counterpoise.errors import InputError
from worlds import Encoder, seeded

N, D, C = 12, 5, 4
Q, K = torch.randn(2, N, D, generator=seeded(0), dtype=torch.float64)
GATES = torch.rand(N, D, generator=seeded(1), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 2, 1, 0, 2, 3, 1, 1, 0, 3, -1])
PARTNERS = torch.tensor([2, 2, 0, 7, 1, 3, -1, 0, 1, 3, 2, 0])  # its own, one that is absent, and none among them
SIMILARITIES = pytest.mark.parametrize("similarity", ["cosine", "dot"])


def similarities(queries, keys, gates, similarity):
    """All rows behind all gates: queries × keys × dim."""
    if similarity == "dot":
        q, k = F.normalize(queries, dim=1)[:, None] * gates[:, None], F.normalize(keys, dim=1) * gates[:, None]
    else:
        q, k = F.normalize(queries * gates, dim=1)[:, None], F.normalize(keys * gates[:, None], dim=2)
    return (q * k).sum(2)


def plain(queries, keys, labels, partners, gates, scale=10.0, similarity="cosine"):
    """The mean over the pairs, one at a time."""
    logits, losses = scale * similarities(queries, keys, gates, similarity), []
    for i in range(len(queries)):
        negatives = [logits[i, n] for n in range(len(keys)) if labels[n] not in (labels[i], partners[i])]
        for j in range(len(keys)):
            if min(labels[i], partners[i]) >= 0 and labels[j] == partners[i]:
                losses.append(torch.stack([*negatives, logits[i, j]]).logsumexp(0) - logits[i, j])
    return torch.stack(losses).mean()


@SIMILARITIES
def test_the_similarity_is_that_of_all_rows_behind_all_gates(similarity):
    expected = similarities(Q, K, GATES, similarity)
    torch.testing.assert_close(gated_similarity(Q, K, GATES, similarity), expected, rtol=1e-12, atol=1e-12)
    single = gated_similarity(Q.float(), K.float(), GATES.float(), similarity)
    torch.testing.assert_close(single, expected.float(), rtol=0, atol=1e-6)


@SIMILARITIES
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_value_and_gradient_are_those_of_the_pairs_one_at_a_time(similarity, scale):
    ours, theirs = ([x.clone().requires_grad_() for x in (Q, K, GATES)] for _ in range(2))
    value = hydra(*ours[:2], LABELS, PARTNERS, ours[2], scale, similarity)
    expected = plain(*theirs[:2], LABELS, PARTNERS, theirs[2], scale, similarity)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_two_classes_of_three_worked_by_hand():
    """Image 0 of class 0 wants class 1: at 60° with the open gate, at 0° in the first coordinate; class 2 at 90°."""
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    keys = torch.tensor([[5.0, 5.0], [1.0, math.sqrt(3)], [0.0, 2.0]], dtype=torch.float64)
    labels, partners = torch.tensor([0, 1, 2]), torch.tensor([1, -1, -1])
    assert hydra(queries, keys, labels, partners, scale=2.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    gates = torch.tensor([[0.3, 0.0]], dtype=torch.float64).expand(3, 2)
    assert hydra(queries, keys, labels, partners, gates, scale=2.0).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_open_gates_make_plain_cosines():
    expected = F.normalize(Q, dim=1) @ F.normalize(K, dim=1).T
    for size in (1.0, 0.01):
        torch.testing.assert_close(gated_similarity(Q, K, torch.full_like(Q, size)), expected)
    torch.testing.assert_close(gated_similarity(Q, K, torch.ones_like(Q), "dot"), expected)
    torch.testing.assert_close(hydra(Q, K, LABELS, PARTNERS), hydra(Q, K, LABELS, PARTNERS, 3 * torch.ones_like(Q)))


def test_identical_partners_and_open_gates_are_supcon_whose_other_positives_leave_the_denominator():
    """-log of each positive against the negatives of its anchor, over all pairs of a class between two views."""
    labels = LABELS.clamp(min=0)
    logits = F.normalize(Q, dim=1) @ F.normalize(K, dim=1).T / 0.1
    same = labels[:, None] == labels
    total = logits.exp() + (logits.exp() * ~same).sum(1, keepdim=True)
    expected = -(logits - total.log())[same].mean()
    torch.testing.assert_close(hydra(Q, K, labels), expected)
    torch.testing.assert_close(hydra(Q, K, labels, labels), expected)


def test_every_image_its_own_class_is_info_nce():
    expected = F.cross_entropy(F.normalize(Q, dim=1) @ F.normalize(K, dim=1).T / 0.3, torch.arange(N))
    torch.testing.assert_close(hydra(Q, K, torch.arange(N), scale=1 / 0.3), expected)
    torch.testing.assert_close(info_nce(Q, K, 0.3), expected)


@SIMILARITIES
def test_lengths_of_rows_do_not_matter_and_those_of_gates_to_the_dot_alone(similarity, rng):
    sizes = torch.rand(2, N, 1, generator=rng, dtype=torch.float64) + 0.1
    s = gated_similarity(Q, K, GATES, similarity)
    torch.testing.assert_close(gated_similarity(Q * sizes[0], K * sizes[1], GATES, similarity), s)
    scaled = gated_similarity(Q, K, GATES * sizes[0], similarity)
    torch.testing.assert_close(scaled, s if similarity == "cosine" else s * sizes[0].square())


def test_a_gate_of_one_coordinate_shows_whether_the_signs_agree():
    gates = torch.eye(D, dtype=torch.float64)[torch.arange(N) % D] / 7
    signs = torch.stack([Q[i, i % D].sign() * K[:, i % D].sign() for i in range(N)])
    torch.testing.assert_close(gated_similarity(Q, K, gates), signs)
    tiny = gated_similarity(Q.float(), K.float(), (gates * 1e-25).float())
    torch.testing.assert_close(tiny, signs.float())


@SIMILARITIES
def test_a_closed_gate_makes_similarity_0_and_a_finite_gradient(similarity):
    leaves = [Q.clone().requires_grad_(), K.clone().requires_grad_(), torch.zeros_like(GATES).requires_grad_()]
    assert (gated_similarity(*leaves, similarity) == 0).all()
    hydra(*leaves[:2], LABELS, PARTNERS, leaves[2], similarity=similarity).backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves)


def test_only_negatives_and_positives_have_a_gradient():
    """An anchor of class 0 with partner 1: no other image of class 0 counts."""
    keys = K.clone().requires_grad_()
    partners = torch.full_like(LABELS, -1)
    partners[0] = 1
    hydra(Q, keys, LABELS, partners, GATES).backward()
    moved = keys.grad.abs().sum(1) > 1e-9
    assert torch.equal(moved, LABELS != 0)
    towards = (keys.grad * Q[0]).sum(1)  # 1 − cosine² times the slope by the cosine
    assert (towards[LABELS == 1] < 0).all()
    assert (towards[(LABELS != 0) & (LABELS != 1)] > 0).all()


@pytest.mark.slow
@SIMILARITIES
def test_gradient_in_double_precision(similarity):
    leaves = [x.clone().requires_grad_() for x in (Q, K, GATES)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(queries, keys, gates, scale):
        return hydra(queries, keys, LABELS, PARTNERS, gates, scale, similarity)

    assert torch.autograd.gradcheck(loss, (*leaves, scale))


@pytest.mark.parametrize(
    ("labels", "partners"),
    [
        ([0, 1] * 6, [1, 0] * 6),  # two classes: no negative is left
        ([0] * N, [0] * N),
        ([0] * N, [1] * N),  # no positive
        ([-1] * N, [-1] * N),
    ],
)
def test_without_negatives_or_positives_the_loss_is_0_and_its_gradient_too(labels, partners):
    leaves = [x.clone().requires_grad_() for x in (Q, K, GATES)]
    value = hydra(*leaves[:2], torch.tensor(labels), torch.tensor(partners), leaves[2])
    assert value.item() == 0
    value.backward()
    assert all((x.grad == 0).all() for x in leaves)


def test_rows_without_negatives_stand_beside_others():
    labels, partners = torch.tensor([0, 1, 0, 1, 2, 2]), torch.tensor([1, 0, 2, 2, 2, 0])
    value = hydra(Q[:6], K[:6], labels, partners, GATES[:6])
    torch.testing.assert_close(value, plain(Q[:6], K[:6], labels, partners, GATES[:6]))


def test_order_and_names_of_the_classes_and_a_common_order_of_coordinates_do_not_matter(rng):
    value, order = hydra(Q, K, LABELS, PARTNERS, GATES), torch.randperm(N, generator=rng)
    mixed = hydra(Q[order], K[order], LABELS[order], PARTNERS[order], GATES[order])
    torch.testing.assert_close(mixed, value)
    renamed = (torch.where(y < 0, y, 1000 - y) for y in (LABELS, PARTNERS))
    torch.testing.assert_close(hydra(Q, K, *renamed, GATES), value)
    columns = torch.randperm(D, generator=rng)
    torch.testing.assert_close(hydra(Q[:, columns], K[:, columns], LABELS, PARTNERS, GATES[:, columns]), value)


def test_at_large_scales_the_loss_is_the_distance_to_the_nearest_negative():
    """Exponentials of the logits would overflow float32; their logarithms do not."""
    value = hydra(Q.float(), K.float(), LABELS, PARTNERS, GATES.float(), 1e4) / 1e4
    expected = plain(Q, K, LABELS, PARTNERS, GATES, 1e4) / 1e4
    torch.testing.assert_close(value, expected.float(), rtol=1e-4, atol=1e-5)


@SIMILARITIES
def test_chunks_give_the_same_and_keep_no_matrix(similarity, monkeypatch, rng):
    """With 8 rows at a time, nothing kept for the backward pass is larger than the batch itself."""
    n = 96
    x = torch.randn(3, n, D, generator=rng, dtype=torch.float64)
    labels, partners = torch.randint(C, (2, n), generator=rng)
    sizes, found = [], []
    for rows in (n, 8):
        monkeypatch.setattr("counterpoise.ops.chunking.TABLE", rows * n)
        leaves, kept = [y.clone().requires_grad_() for y in x], []
        with torch.autograd.graph.saved_tensors_hooks(lambda y, kept=kept: kept.append(y.numel()) or y, lambda y: y):
            value = hydra(*leaves[:2], labels, partners, leaves[2], similarity=similarity)
        value.backward()
        sizes.append(max(kept, default=0))
        found.append([value, *(y.grad for y in leaves)])
    assert sizes[0] == n * n
    assert sizes[1] <= n * D
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_the_scale_of_the_module_is_learnt_or_not():
    loss = HydraLoss(0.05)
    assert loss.log_scale.exp().item() == pytest.approx(20)
    torch.testing.assert_close(loss(Q, K, LABELS, PARTNERS, GATES), hydra(Q, K, LABELS, PARTNERS, GATES, 20.0))
    loss(Q, K, LABELS, PARTNERS, GATES).backward()
    assert loss.log_scale.grad.abs() > 1e-3
    assert not list(filter(lambda p: p.requires_grad, HydraLoss(learn_scale=False).parameters()))
    dot = HydraLoss(0.05, similarity="dot")(Q, K, LABELS, PARTNERS, GATES)
    torch.testing.assert_close(dot, hydra(Q, K, LABELS, PARTNERS, GATES, 20.0, "dot"))


def test_gates_of_both_kinds_do_not_know_the_order_of_a_pair(rng):
    own, other = torch.randint(C, (2, N), generator=rng)
    for joint in (True, False):
        gate = Filter(C, D, joint)
        torch.testing.assert_close(gate(own, other), gate(other, own))
        assert (gate(own, other).std(0) > 1e-3).all()
    alone = gate.mlp(gate.embedding(own)).sigmoid()
    torch.testing.assert_close(gate(own, own), alone.square())
    joint = Filter(C, D).eval()
    e = joint.embedding.weight
    mean = torch.stack([(e[a] + e[b]) / 2 for a, b in zip(own, other, strict=True)])
    torch.testing.assert_close(joint(own, other), joint.mlp(mean).sigmoid())


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match=r"queries and keys: expected the same shape, got \[12, 5\] and \[11, 5\]"):
        hydra(Q, K[:-1], LABELS)
    with pytest.raises(InputError, match=r"queries and gates: expected the same shape, got \[12, 5\] and \[12, 4\]"):
        hydra(Q, K, LABELS, PARTNERS, GATES[:, :4])
    with pytest.raises(InputError, match="gates: 60 of 60 numbers are NaN or infinite"):
        hydra(Q, K, LABELS, PARTNERS, GATES * math.nan)
    with pytest.raises(InputError, match="partners: expected integers of at least -1, got -2"):
        hydra(Q, K, LABELS, PARTNERS - 1)
    with pytest.raises(InputError, match="gates: expected rows of a length of at most 1e"):
        hydra(Q, K, LABELS, PARTNERS, GATES * 1e30, similarity="dot")
    with pytest.raises(InputError, match="queries: expected at least 1 rows, got 0"):
        hydra(Q[:0], K[:0], LABELS[:0])
    with pytest.raises(InputError, match="similarity 'cosin' is not known; did you mean 'cosine'"):
        HydraLoss(similarity="cosin")
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        HydraLoss(0)
    with pytest.raises(InputError, match="classes: expected a whole number of at least 1, got 0"):
        Filter(0, 3)
    for wrong in (
        {"gate": "shut"},
        {"partners": "any"},
        {"same_class": -1},
        {"instance": -1},
        {"momentum": 2},
        {"warm_epochs": -1},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            made(**wrong)
    with pytest.raises(InputError, match="instance: expected a weight above 0, or nothing trains the encoder"):
        made(warm_epochs=1)
    unlabelled = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([-1, -1]), (), "none")
    with pytest.raises(InputError, match="labels: Hydra needs labels, but none of the 2 training images has one"):
        made().start_epoch(unlabelled, 0)


IMAGES = Images(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(20) % C, ("a", "b", "c", "d"), "blank")
VIEWS = list(torch.randn(2, N, 1, 4, 4, generator=seeded(2)))
INDEX = torch.randperm(20, generator=seeded(3))[:N]


def made(**arguments):
    torch.manual_seed(0)
    return Hydra(Encoder(), samples=20, classes=C, hidden=8, dim=D, **arguments)


def gradient(loss, part):
    """The largest one of the part's parameters; 0 where none is reached."""
    found = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
    return max(0.0 if g is None else g.abs().max().item() for g in found)


@pytest.mark.parametrize("gate", ["joint", "product", "open"])
def test_the_method_compares_each_view_with_the_other_one(gate):
    method = made(gate=gate, similarity="dot", temperature=0.2)
    z1, z2 = (method.head(method.encoder(view)) for view in VIEWS)
    partners = method.partners_of(LABELS, INDEX)
    gates = None if gate == "open" else method.filter(LABELS.clamp(min=0), partners.clamp(min=0))
    there, back = (hydra(*pair, LABELS, partners, gates, 5.0, "dot") for pair in ((z1, z2), (z2, z1)))
    torch.testing.assert_close(method.loss(VIEWS, LABELS, INDEX), (there + back) / 2)


def test_arbitrary_partners_are_the_batch_in_another_order_of_the_epoch():
    method = made()
    numbers = torch.arange(N)  # as if each image were a class
    found = []
    for epoch in range(2):
        method.start_epoch(IMAGES, epoch)
        found.append(method.partners_of(numbers, INDEX))
        assert torch.equal(found[-1].sort().values, numbers)
        assert torch.equal(found[-1], method.partners_of(numbers, INDEX))
    assert not torch.equal(*found)
    assert not torch.equal(found[0], numbers)


def test_every_arbitrary_partner_is_as_likely():
    method, numbers = made(), torch.arange(N)
    counts = torch.zeros(N, N)
    for epoch in range(1200):
        method.start_epoch(IMAGES, epoch)
        counts[numbers, method.partners_of(numbers, INDEX)] += 1
    assert ((counts - 100).square() / 100).sum() < 200  # chi-squared: 121 degrees of freedom, deviation 16


def test_distinct_partners_are_another_class_and_identical_ones_the_own():
    method = made(partners="distinct")
    labels, seen = torch.arange(N) % C, set()
    for epoch in range(20):
        method.start_epoch(IMAGES, epoch)
        partners = method.partners_of(labels, INDEX)
        assert ((partners >= 0) & (partners < C) & (partners != labels)).all()
        seen |= set(zip(labels.tolist(), partners.tolist(), strict=True))
    assert len(seen) == C * (C - 1)
    assert torch.equal(made(partners="identical").partners_of(labels, INDEX), labels)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_while_it_warms_up_the_class_contrasts_train_the_filter_alone(momentum):
    method = made(warm_epochs=2, instance=1.0, momentum=momentum)
    assert method.warming
    for epoch, learns in ((0, False), (1, False), (2, True)):
        method.start_epoch(IMAGES, epoch)
        queries = [method.head(method.encoder(view)) for view in VIEWS]
        value = method.contrast(queries, queries, LABELS, method.partners_of(LABELS, INDEX))
        assert (gradient(value, method.encoder) > 1e-5) if learns else (gradient(value, method.encoder) == 0)
        assert gradient(value, method.filter) > 1e-5
        assert gradient(method.loss(VIEWS, LABELS, INDEX), method.encoder) > 1e-5


def test_the_three_contrasts_are_weighed():
    method = made(same_class=0.5, instance=2.0, instance_temperature=0.7)
    queries = [method.head(method.encoder(view)) for view in VIEWS]
    arbitrary = method.contrast(queries, queries, LABELS, method.partners_of(LABELS, INDEX))
    same = method.contrast(queries, queries, LABELS, LABELS)
    instance = (info_nce(*queries, 0.7) + info_nce(*reversed(queries), 0.7)) / 2
    value = method.loss(VIEWS, LABELS, INDEX)
    torch.testing.assert_close(value, (arbitrary + 0.5 * same + 2 * instance) / 3.5)


def test_keys_of_the_momentum_encoder_follow_and_have_no_gradient():
    method = made(momentum=0.75, instance=1.0)
    with torch.no_grad():
        method.encoder.weight += 1
    before = method.key_encoder.weight.clone()
    method.loss(VIEWS, LABELS, INDEX).backward()
    torch.testing.assert_close(method.key_encoder.weight, 0.75 * before + 0.25 * method.encoder.weight)
    assert all(p.grad is None for p in [*method.key_encoder.parameters(), *method.key_head.parameters()])
    assert all(p.grad is not None for p in [*method.predictor.parameters(), *method.encoder.parameters()])
    method.eval()
    moved = method.key_encoder.weight.clone()
    value = method.loss(VIEWS, LABELS, INDEX)
    assert torch.equal(method.key_encoder.weight, moved)
    queries = [method.predictor(method.head(method.encoder(view))) for view in VIEWS]
    keys = [method.key_head(method.key_encoder(view)) for view in VIEWS]
    partners = method.partners_of(LABELS, INDEX)
    gates = method.filter(LABELS.clamp(min=0), partners.clamp(min=0))
    pairs = ((queries[0], keys[1]), (queries[1], keys[0]))
    expected = [hydra(*pair, LABELS, partners, gates) + info_nce(*pair) for pair in pairs]
    torch.testing.assert_close(value, torch.stack(expected).mean() / 2)


def test_images_without_a_label_are_negatives_alone():
    method = made()
    labels = torch.where(torch.arange(N) < 4, -1, LABELS)
    leaves = [view.clone().requires_grad_() for view in VIEWS]
    value = method.loss(leaves, labels, INDEX)
    assert torch.isfinite(value)
    value.backward()
    assert leaves[0].grad[:4].abs().max() > 0


def test_images_of_a_single_class_are_refused():
    """All keys would be positives, and the loss 0 whatever is learnt."""
    one = Images(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.ones(20, dtype=torch.int64), ("a", "b"), "one")
    with pytest.raises(InputError, match="labels: Hydra contrasts classes, but all 20 training images have one"):
        made().start_epoch(one, 0)


@pytest.mark.usefixtures("plain_shapes")
def test_a_scale_that_makes_no_sense_is_refused():
    z, labels = torch.eye(3), torch.arange(3)
    for wrong in (0, -1.0, math.nan, "x", torch.tensor(0.0), torch.tensor(math.nan), torch.ones(3)):
        with pytest.raises(InputError, match="scale: "):
            hydra(z, z, labels, scale=wrong)
    with pytest.raises(InputError, match="queries: expected at least 2 rows, got 1"):
        info_nce(z[:1], z[:1])
    gate = Filter(classes=3, dim=4).eval()
    torch.testing.assert_close(gate(labels.to(torch.uint8), labels.to(torch.uint16)), gate(labels, labels))
    with pytest.raises(InputError, match="partners: expected integers from 0 to 2, got 3"):
        gate(labels, labels + 1)


def by_rows(queries, keys, labels, partners, gates, share=0.0, scale=10.0, similarity="cosine"):
    """The mean over the anchors of each one's mean, one pair at a time."""
    logits = scale * (
        similarities(queries, keys, gates, similarity)
        - share * F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
    )
    found = []
    for i in range(len(queries)):
        if min(labels[i], partners[i]) < 0:
            continue
        negatives = [logits[i, n] for n in range(len(keys)) if labels[n] not in (labels[i], partners[i])]
        own = [
            torch.stack([*negatives, logits[i, j]]).logsumexp(0) - logits[i, j]
            for j in range(len(keys))
            if labels[j] == partners[i]
        ]
        found.append(torch.stack(own).mean() if own else logits.new_zeros(()))
    return torch.stack(found).mean()


@SIMILARITIES
@pytest.mark.parametrize("share", [None, 0.4])
def test_means_of_rows_and_a_share_of_the_plain_cosine_written_out(similarity, share):
    """An anchor whose partner class is absent counts as 0; images without a label do not count."""
    ours, theirs = ([x.clone().requires_grad_() for x in (Q, K, GATES)] for _ in range(2))
    value = hydra(*ours[:2], LABELS, PARTNERS, ours[2], 10.0, similarity, "rows", share)
    expected = by_rows(*theirs[:2], LABELS, PARTNERS, theirs[2], share or 0.0, similarity=similarity)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_where_all_anchors_have_as_many_positives_both_means_are_one():
    labels, partners = torch.arange(N) % C, (torch.arange(N) + 1) % C
    rows, pairs = (hydra(Q, K, labels, partners, GATES, reduction=r) for r in ("rows", "pairs"))
    torch.testing.assert_close(rows, pairs)
    assert hydra(Q, K, torch.zeros(N).long(), torch.ones(N).long(), GATES, reduction="rows") == 0
    assert hydra(Q, K, torch.full((N,), -1), torch.full((N,), -1), GATES, reduction="rows") == 0


def test_with_open_gates_and_dots_the_whole_cosine_leaves_nothing():
    """All similarities are 0: log(1 + negatives) for each positive."""
    one = torch.ones_like(GATES)
    value = hydra(Q, K, LABELS, PARTNERS, one, 7.0, "dot", subtract=1.0)
    torch.testing.assert_close(value, plain(Q * 0, K, LABELS, PARTNERS, one))


def test_the_subtracted_share_is_learnt():
    share = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hydra(Q, K, LABELS, PARTNERS, GATES, subtract=x), share)
    loss = HydraLoss(0.1, subtract=0.3, reduction="rows")
    expected = hydra(Q, K, LABELS, PARTNERS, GATES, 10.0, reduction="rows", subtract=0.3)
    torch.testing.assert_close(loss(Q, K, LABELS, PARTNERS, GATES), expected)
    loss(Q, K, LABELS, PARTNERS, GATES).backward()
    assert loss.share.grad.abs() > 1e-3
    assert [name for name, _ in HydraLoss().named_parameters()] == ["log_scale"]


@pytest.mark.parametrize("noise", ["gumbel", "stochastic"])
def test_noisy_gates_vary_in_training_alone(noise):
    torch.manual_seed(0)
    gate, (own, other) = Filter(C, D, noise=noise), (torch.arange(N) % C, torch.arange(N) // C)
    first, second = gate(own, other), gate(own, other)
    assert not torch.equal(first, second)
    assert 0 <= first.min() < first.max() <= 1
    gate.eval()
    x = gate.mlp((gate.embedding(own) + gate.embedding(other)) / 2)
    torch.testing.assert_close(gate(own, other), x.sigmoid() if noise == "gumbel" else (x + 0.5).clamp(0, 1))


def test_the_noise_of_gates_has_its_distribution():
    """Gumbel noise has the mean 0.5772 and the variance π²/6; a stochastic gate at 0 is 0 or 1 with 16 % each."""
    torch.manual_seed(0)
    zeros = torch.zeros(1, 200_000, dtype=torch.float64)
    noise = torch.logit(Filter(C, D, noise="gumbel")._gate(zeros))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    gates = Filter(C, D, noise="stochastic")._gate(zeros)
    assert (gates == 0).double().mean().item() == pytest.approx(0.1587, abs=0.005)
    assert (gates == 1).double().mean().item() == pytest.approx(0.1587, abs=0.005)
    assert gates.mean().item() == pytest.approx(0.5, abs=0.005)


def test_the_method_hands_its_arguments_to_loss_and_filter():
    method = made(gate="stochastic", reduction="rows", learn_scale=False, subtract=0.2, similarity="dot")
    assert (method.objective.reduction, method.objective.share.item()) == ("rows", pytest.approx(0.2))
    assert not method.objective.log_scale.requires_grad
    assert (method.filter.noise, method.filter.joint) == ("stochastic", True)
    torch.manual_seed(1)
    value = method.loss(VIEWS, LABELS, INDEX)
    z1, z2 = (method.head(method.encoder(view)) for view in VIEWS)
    partners = method.partners_of(LABELS, INDEX)
    torch.manual_seed(1)
    gates = method.filter(LABELS.clamp(min=0), partners.clamp(min=0))
    pairs = ((z1, z2), (z2, z1))
    expected = sum(hydra(*pair, LABELS, partners, gates, 10.0, "dot", "rows", 0.2) for pair in pairs) / 2
    torch.testing.assert_close(value, expected)


def test_shuffled_labels_are_seen_by_the_filter_alone():
    """As many of each class as before, of other images, and the same ones in all epochs."""
    method = made(filter_labels="shuffled", same_class=0.5)
    labels = torch.where(torch.arange(20) < 3, -1, IMAGES.labels)
    images = Images(IMAGES.pixels, labels, IMAGES.classes, "some unlabelled")
    method.start_epoch(images, 0)
    seen = method.seen_labels.clone()
    assert torch.equal(seen < 0, labels < 0)
    assert torch.equal(seen.sort().values, labels.sort().values)
    assert not torch.equal(seen, labels)
    method.start_epoch(images, 1)
    assert torch.equal(method.seen_labels, seen)
    queries, own = [method.head(method.encoder(view)) for view in VIEWS], labels[INDEX]
    partners, shown = method.partners_of(own, INDEX), seen[INDEX]
    other = method.partners_of(shown, INDEX)
    losses = []
    for partner, (a, b) in ((partners, (shown, other)), (own, (shown, shown))):
        gates = method.filter(a.clamp(min=0), b.clamp(min=0))
        pairs = (queries, reversed(queries))
        losses.append(sum(hydra(q, k, own, partner, gates) for q, k in zip(*pairs, strict=True)) / 2)
    torch.testing.assert_close(method.loss(VIEWS, own, INDEX), (losses[0] + 0.5 * losses[1]) / 1.5)


@pytest.mark.usefixtures("plain_shapes")
def test_choices_that_are_unknown_are_refused():
    for wrong, match in (
        ({"reduction": "row"}, "reduction 'row' is not known; did you mean 'rows'"),
        ({"filter_labels": "other"}, "filter_labels 'other' is not known"),
        (
            {"gate": "open", "filter_labels": "shuffled"},
            "filter_labels: expected 'own', since an open gate has no filter",
        ),
        ({"subtract": -1}, "subtract: expected a number of at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=match):
            made(**wrong)
    with pytest.raises(InputError, match="noise 'gumble' is not known; did you mean 'gumbel'"):
        Filter(C, D, noise="gumble")
    with pytest.raises(InputError, match="reduction 'row' is not known"):
        hydra(Q, K, LABELS, reduction="row")
    for bad in (math.nan, torch.tensor(math.nan), torch.ones(2)):
        with pytest.raises(InputError, match="subtract: "):
            hydra(Q, K, LABELS, subtract=bad)
