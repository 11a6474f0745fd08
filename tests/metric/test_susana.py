"""Scores written out in plain Python, closed forms, what no gradient flows through, and which rows are examples."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.metric import susana
from counterpoise.metric.protonet import ProtoNet, PrototypeLoss
from counterpoise.metric.susana import (
    TERMS,
    Episode,
    ICNNLoss,
    ProtoTripletLoss,
    SuSana,
    episodes,
    icnn,
    icnn_of_neighbours,
    icnn_quality,
    icnn_score,
    largest_class,
    proto_triplet,
    soften,
)
from worlds import Encoder, seeded

ROWS = torch.randn(20, 4, generator=seeded(0), dtype=torch.float64)
LABELS = torch.arange(20) * 7 % 4
GALLERY = torch.randn(9, 4, generator=seeded(1), dtype=torch.float64)
GALLERY_LABELS = torch.arange(9) % 4
EPS = 1e-7


def softened(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)) + 1e-6)


def plain_icnn(rows, labels, gallery=None, gallery_labels=None, k=4, reach=None, drop_nearest=True):
    """The three parts of the score, neighbour by neighbour."""
    itself = gallery is None
    if itself:
        gallery, gallery_labels = rows, labels
    m = len(gallery)
    constant = k + 2 >= m
    k = m - 2 if constant else k
    reach = k + 1 if reach is None else reach
    near = []
    for i, row in enumerate(rows):
        order = sorted((softened(row, gallery[j]), j) for j in range(m) if not (itself and i == j))
        order = order[1:] if drop_nearest and not itself else order
        near.append([(d, bool(gallery_labels[j] == labels[i])) for d, j in order[:reach]])
    farthest = max([d for found in near for d, same in found[:k] if not same], default=0)
    intra, inter, gamma = [], [], []
    for found in near:
        other = min([d for d, same in found if not same], default=math.inf)
        ratios = [d / (other + EPS) for d, _ in found[:k]]
        ratios = [a / max([1, *ratios]) for a in ratios]
        own = [a for a, (_, same) in zip(ratios, found, strict=False) if same]
        rest = [d / (farthest + EPS) for d, same in found[:k] if not same]
        intra += [sum(own) / (len(own) + EPS)] if own else []
        inter += [sum(rest) / (len(rest) + EPS)] if rest else []
        gamma.append(len(own) / k)
    return (
        1 - sum(intra) / (len(intra) + EPS),
        sum(inter) / (len(inter) + EPS) if inter else 1,
        1 if constant else sum(gamma) / len(gamma),
    )


def check_written_out(rows, labels, *gallery, **options):
    found, expected = icnn(rows, labels, *gallery, **options), plain_icnn(rows, labels, *gallery, **options)
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    (intra, inter, gamma) = expected
    assert found.score.item() == pytest.approx(((intra + inter) / 2 + gamma) / 2, abs=1e-12)


@pytest.mark.parametrize("n", [3, 4, 6, 7, 20])
@pytest.mark.parametrize("reach", [None, 2, 9])
def test_the_score_written_out(n, reach):
    if reach is None or reach < n:
        check_written_out(ROWS[:n], LABELS[:n], reach=reach)
    check_written_out(ROWS[:n], LABELS[:n] % 2, k=2)


@pytest.mark.parametrize("m", [3, 5, 9])
@pytest.mark.parametrize("drop_nearest", [True, False])
def test_the_score_among_a_gallery_written_out(m, drop_nearest):
    check_written_out(ROWS, LABELS, GALLERY[:m], GALLERY_LABELS[:m], drop_nearest=drop_nearest)


def test_the_score_by_hand():
    rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    found = icnn(rows, torch.tensor([0, 0, 1, 1]))  # of 4 rows, 2 neighbours are judged
    assert found.intra.item() == pytest.approx(1 - (1 / 10 + 1 / 9) / 2, abs=1e-5)
    assert found.inter.item() == pytest.approx((10 + 9) / 2 / 10, abs=1e-5)
    assert found.gamma.item() == 1
    # A neighbour of the same class beyond one of another: distances in units of the farthest.
    found = icnn_of_neighbours(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, False, True]]), k=3)
    assert [x.item() for x in found] == pytest.approx([1 - (1 / 4 + 1) / 2, 1, 2 / 3], abs=1e-5)
    # Neighbours beyond the k nearest only set the unit.
    found = icnn_of_neighbours(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, True, False]]), k=2)
    assert [x.item() for x in found] == pytest.approx([1 - (1 / 4 + 2 / 4) / 2, 1, 1], abs=1e-5)


def test_collapsed_classes_far_apart_score_1():
    rows = torch.eye(5, dtype=torch.float64).repeat_interleave(6, 0) * 100
    labels = torch.arange(5).repeat_interleave(6)
    for found in (icnn(rows, labels, reach=6), icnn_score(rows, labels)):
        assert found.gamma == 1
        assert found.inter == 1
        assert found.intra.item() == pytest.approx(1, abs=1e-4)
    assert 0 < ICNNLoss()(rows, labels).item() < 1e-4


def test_random_labels_are_as_pure_as_chance(rng):
    n = 1200
    rows, labels = torch.randn(n, 3, generator=rng), torch.randint(4, (n,), generator=rng)
    sizes = labels.bincount().double()
    expected = float((sizes * (sizes - 1)).sum() / n / (n - 1))
    assert icnn_score(rows, labels).gamma.item() == pytest.approx(expected, abs=0.03)  # 2.4 standard errors


def test_what_the_score_does_not_depend_on(rng):
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    order = torch.randperm(20, generator=rng)
    for score in (icnn, icnn_score):
        found = score(ROWS, LABELS).score
        assert 0 < found <= 1
        torch.testing.assert_close(score(ROWS @ turn + 3, 9 - LABELS).score, found, rtol=0, atol=1e-6)
        torch.testing.assert_close(score(ROWS[order], LABELS[order]).score, found, rtol=0, atol=1e-6)
        torch.testing.assert_close(score(ROWS * 50, LABELS).score, found, rtol=0, atol=1e-5)


def test_the_score_of_a_set_is_that_of_an_episode_and_of_sklearn_s_neighbours(rng):
    rows = torch.randn(60, 5, generator=rng, dtype=torch.float64)
    labels = torch.randint(5, (60,), generator=rng)
    found = icnn_score(rows, labels)
    torch.testing.assert_close(found.score, icnn(rows, labels).score, rtol=0, atol=1e-6)
    distance, index = map(torch.tensor, NearestNeighbors(n_neighbors=6).fit(rows).kneighbors(rows))
    expected = icnn_of_neighbours(soften(distance[:, 1:]), labels[index[:, 1:]] == labels[:, None], 4)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=0, atol=1e-6)
    for n in (3, 5, 6, 7):
        found_few, expected_few = icnn_score(rows[:n], labels[:n]), icnn(rows[:n], labels[:n])
        torch.testing.assert_close(torch.stack(found_few), torch.stack(expected_few), rtol=0, atol=1e-6)
    some = torch.cat([labels, torch.tensor([-1, -1])])
    assert torch.equal(icnn_score(torch.cat([rows, rows[:2] + 0.1]), some).score, found.score)


def test_a_row_is_no_neighbour_of_itself_even_among_equal_rows():
    """Of two equal rows of different classes, each has the other as its nearest, and nothing of its own class."""
    rows = torch.arange(4.0, dtype=torch.float64).repeat(2)[:, None]
    labels = torch.arange(2).repeat_interleave(4)
    for found in (icnn(rows, labels, k=1), icnn_score(rows, labels, k=1)):
        assert found.gamma == 0
        assert found.intra == 1
    equal = torch.zeros(12, 2)  # more equal rows than neighbours are asked for
    assert icnn_score(equal, torch.zeros(12, dtype=torch.int64)).gamma == 1


def test_the_older_score_written_out():
    k, eps = 5, 1e-6
    scores, purities = [], []
    for i in range(20):
        near = sorted((softened(ROWS[i], ROWS[j]), bool(LABELS[i] == LABELS[j])) for j in range(20) if j != i)[:k]
        low, high = near[0][0], near[-1][0]
        scaled = [((d - low) / (high - low + eps), same) for d, same in near]
        scores.append(sum(1 - x if same else x for x, same in scaled))
        purities.append(sum(same for _, same in near) / k)
    first = sum(math.sqrt(x / (max(scores) + eps)) for x in scores) / 20
    expected = (first + sum(map(math.sqrt, purities)) / 20) / 2
    assert icnn_quality(ROWS, LABELS).item() == pytest.approx(expected, abs=1e-6)


def test_no_gradient_flows_through_gamma_and_all_others_are_right():
    x, targets = ROWS.clone().requires_grad_(), GALLERY.clone().requires_grad_()
    assert not icnn(x, LABELS).gamma.requires_grad
    for k, reach in ((4, None), (2, 3), (4, 9)):
        assert torch.autograd.gradcheck(
            lambda x, k=k, reach=reach: icnn(x, LABELS, k=k, reach=reach).score, x, fast_mode=True
        )
    assert torch.autograd.gradcheck(lambda x, t: icnn(x, LABELS, t, GALLERY_LABELS).score, (x, targets), fast_mode=True)
    assert torch.autograd.gradcheck(ProtoTripletLoss(), (x, LABELS, targets[:4]))


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (ROWS[:5], torch.arange(5)),  # 5 ways, 1 shot: no two of a class
        (ROWS[:5].repeat(4, 1), torch.arange(20) % 5),
        (ROWS[:5].repeat(4, 1), torch.arange(20) // 5),
        (torch.zeros(20, 4), LABELS),
    ],
)
def test_the_gradient_is_finite(rows, labels):
    x = rows.float().requires_grad_()
    loss = ICNNLoss()(x, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_one_shot_examples_are_only_pushed_apart():
    found = icnn(ROWS[:5], torch.arange(5))
    assert found.intra == 1
    assert found.gamma == 1
    assert found.inter < 1


def test_proto_triplet_written_out():
    found = proto_triplet(ROWS, LABELS, GALLERY[:4], margin=0.3)
    for i in range(20):
        apart = [softened(ROWS[i], p) for p in GALLERY[:4]]
        own = apart.pop(LABELS[i])
        assert found[i].item() == pytest.approx(max(0, own - min(apart) + 0.3), abs=1e-12)
    assert 0 < (found > 0).sum() < 20
    assert torch.equal(ProtoTripletLoss(0.3)(ROWS, LABELS, GALLERY[:4]), found.mean())


def test_a_query_on_its_prototype_costs_nothing_and_one_in_between_the_margin():
    means = torch.tensor([[0.0, 0.0], [1.1, 0.0], [0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    queries = torch.tensor([[0.0, 0.0], [1.1, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = ProtoTripletLoss()(queries, torch.tensor([0, 1]), means)
    assert loss == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, (queries, means)))
    between = torch.tensor([[0.55, 0.0]], dtype=torch.float64)
    assert proto_triplet(between, torch.tensor([0]), means, margin=0.7).item() == pytest.approx(0.7, abs=1e-12)


def test_one_class_alone_has_no_other_and_is_refused():
    alone = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(InputError, match="prototypes: expected at least 2 rows, got 1"):
        ProtoTripletLoss()(ROWS, alone, GALLERY[:1])
    with pytest.raises(InputError, match="labels: expected at least 2 classes in the batch, got 20 rows of one"):
        ICNNLoss()(ROWS, alone)


def test_rows_without_a_label_are_left_out():
    kept = LABELS > 0
    torch.testing.assert_close(ICNNLoss()(ROWS, LABELS.where(kept, -1)), ICNNLoss()(ROWS[kept], LABELS[kept]))


def test_an_episode_divides_a_batch():
    labels = torch.tensor([5, 2, 5, 9, 2, 5, 9, 9, 2])
    found = Episode.of(torch.arange(9.0)[:, None], labels, shots=2)
    assert found.support[:, 0].tolist() == [0, 1, 2, 3, 4, 6]
    assert found.support_labels.tolist() == [1, 0, 1, 2, 0, 2]
    assert found.queries[:, 0].tolist() == [5, 7, 8]
    assert found.targets.tolist() == [1, 2, 0]
    assert found.prototypes[:, 0].tolist() == [2.5, 1, 4.5]


def images_of(n, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % classes, tuple("abcdef"[:classes]), "noise")


def made(kind=SuSana, **arguments):
    torch.manual_seed(0)
    return kind(Encoder(features=5), 24, dim=3, per_class=6, **arguments).double()


VIEW = torch.randn(24, 1, 4, 4, generator=seeded(2), dtype=torch.float64)
CLASSES = torch.arange(24) % 4


def test_cross_entropy_alone_is_a_prototypical_network():
    given = {"shots": 2, "temperature": 3.0}
    found = made(terms=["cross-entropy"], **given).loss([VIEW], CLASSES, torch.arange(24))
    assert torch.equal(found, made(ProtoNet, **given).loss([VIEW], CLASSES, torch.arange(24)))
    part = Episode.of(ROWS, LABELS, 2)
    logits = -torch.cdist(part.queries, part.prototypes).square()
    torch.testing.assert_close(F.cross_entropy(logits, part.targets), PrototypeLoss(2)(ROWS, LABELS))


def test_the_terms_of_the_method_and_their_mean():
    found = {name: made(terms=[name]).loss([VIEW], CLASSES, torch.arange(24)) for name in TERMS}
    z = made().encoder(VIEW)
    part = Episode.of(z, CLASSES, 2)
    among = (part.queries, part.targets)
    expected = {
        "proto-triplet": ProtoTripletLoss(0.5)(*among, part.prototypes),
        "icnn": -icnn(z, CLASSES, reach=6).score.log(),  # 2 examples and 4 queries of each class
        "icnn-support": -icnn(part.support, part.support_labels).score.log(),
        "icnn-query": -icnn(*among, part.support, part.support_labels).score.log(),
        "icnn-prototypes": -icnn(*among, part.prototypes, torch.arange(4)).score.log(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert torch.equal(ICNNLoss()(z, CLASSES), found["icnn"])
    together = made(terms=TERMS).loss([VIEW], CLASSES, torch.arange(24))
    torch.testing.assert_close(together, sum(found.values()) / len(TERMS))
    other = made(terms=["icnn-query"], drop_nearest=False, k=2).loss([VIEW], CLASSES, torch.arange(24))
    kept = icnn(*among, part.support, part.support_labels, k=2, drop_nearest=False)
    torch.testing.assert_close(other, -kept.score.log())
    closer = made(terms=["proto-triplet", "icnn"], margin=0.1, k=2).loss([VIEW], CLASSES, torch.arange(24))
    second = -icnn(z, CLASSES, k=2, reach=6).score.log()
    torch.testing.assert_close(closer, (ProtoTripletLoss(0.1)(*among, part.prototypes) + second) / 2)


def test_examples_and_queries_of_a_training_episode_are_different_images(rng):
    method, images = made(shots=2), images_of(24, 4)
    method.start_epoch(images, 0)
    batches = method.batches(torch.randperm(24, generator=rng), batch_size=12)
    assert len(batches) == 2
    for batch in batches:
        part = Episode.of(torch.tensor(batch, dtype=torch.float64)[:, None], images.labels[batch], shots=2)
        examples, queries = set(part.support[:, 0].tolist()), set(part.queries[:, 0].tolist())
        assert (len(examples), len(queries)) == (4, 8)
        assert not examples & queries


def test_batches_without_a_query_are_passed_over():
    method = SuSana(Encoder(features=5), 24, shots=3, per_class=4)
    sizes = torch.tensor([4, 4, 3, 3, 3, 3, 2, 2])
    labels = torch.arange(8).repeat_interleave(sizes)
    method.class_of.copy_(labels)
    batches = method.batches(torch.arange(24), batch_size=8)
    assert [labels[batch].unique().tolist() for batch in batches] == [[0, 1]]
    method.class_of.copy_(torch.arange(24) // 3)
    with pytest.raises(InputError, match="labels: expected at least 2 classes with 2 images, one of them with 4"):
        method.batches(torch.arange(24), batch_size=8)
    with pytest.raises(InputError, match="batch_size: expected at least 8 for 4 images of each of 2 classes, got 6"):
        method.batches(torch.arange(24), batch_size=6)


def test_episodes_are_drawn_without_repetition_from_the_classes_that_can_give_them():
    labels = torch.arange(6).repeat_interleave(torch.tensor([4, 9, 3, 5, 4, 4]))
    labels = torch.cat([labels, torch.full((3,), -1)])
    drawn = episodes(labels, shots=1, count=50)
    for rows, classes in drawn:
        assert len(set(rows.tolist())) == 20  # 5 classes; the fifth largest has 4 rows
        assert classes.tolist() == [c for c in range(5) for _ in range(4)]
        assert len({(a, b) for a, b in zip(labels[rows].tolist(), classes.tolist(), strict=True)}) == 5
    assert {int(x) for rows, _ in drawn for x in labels[rows]} == {0, 1, 3, 4, 5}
    assert not torch.equal(drawn[0][0], drawn[1][0])
    rows, _ = episodes(torch.arange(120) % 6, shots=2, count=1)[0]
    assert len(rows) == 5 * (2 + 15)
    assert not episodes(LABELS, shots=5, count=1)


def test_diagnostics_judge_unseen_images_by_the_distances_that_were_trained(monkeypatch):
    monkeypatch.setattr(susana, "EPISODES", 5)
    method = made(shots=1).float()
    probe, test = images_of(40, 4, seed=1), images_of(24, 4, seed=2)
    found = method.diagnostics(images_of(24, 4), probe, test)
    z = torch.cat([method.encoder(x.pixels.float() / 127.5 - 1) for x in (probe, test)]).detach()
    labels = torch.cat([probe.labels, test.labels])
    assert found["icnn_set"] == pytest.approx(icnn_score(z, labels).score.item(), abs=1e-6)
    judged = []
    for rows, classes in episodes(labels, 1, 5):
        part = Episode.of(z[rows], classes, 1)
        predicted = [min(range(4), key=lambda c, q=q: float((q - part.prototypes[c]).norm())) for q in part.queries]
        right = sum(a == b for a, b in zip(predicted, part.targets.tolist(), strict=True)) / len(predicted)
        judged.append((icnn(z[rows], classes, reach=largest_class(classes)).score.item(), right))
    assert found["icnn"] == pytest.approx(sum(a for a, _ in judged) / len(judged), abs=1e-5)
    assert found["nearest_prototype"] == pytest.approx(sum(b for _, b in judged) / len(judged), abs=1e-9)
    assert -1 <= found["icnn_rank"] <= 1


def test_the_rank_correlation_is_that_of_score_and_accuracy(monkeypatch):
    method = made(shots=1)
    method.float()
    given = (images_of(24, 4), images_of(40, 4, seed=1), images_of(24, 4, seed=2))
    figures = iter([(i / 300, (i / 300) ** 3) for i in range(300)])
    monkeypatch.setattr(SuSana, "judge", lambda *_: next(figures))
    assert method.diagnostics(*given)["icnn_rank"] == pytest.approx(1)
    monkeypatch.setattr(SuSana, "judge", lambda *_: (0.5, 1.0))
    assert "icnn_rank" not in method.diagnostics(*given)  # every accuracy is the same


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="embeddings: expected at least 3 rows to seek neighbours among, got 2"):
        icnn(ROWS[:2], LABELS[:2])
    with pytest.raises(InputError, match="gallery_labels: expected one for each row"):
        icnn(ROWS, LABELS, GALLERY)
    with pytest.raises(InputError, match="labels: expected at least 3 rows with a label, got 2"):
        icnn_score(ROWS[:3], torch.tensor([0, 0, -1]))
    with pytest.raises(InputError, match="labels: expected at least 6 rows with a label, got 5"):
        icnn_quality(ROWS[:6], torch.tensor([0, 0, 0, 0, 0, -1]))
    with pytest.raises(InputError, match="k: expected a whole number of at least 1, got 0"):
        icnn_score(ROWS, LABELS, k=0)
    with pytest.raises(InputError, match="labels: expected a class with more than 5 rows in the batch, got none"):
        Episode.of(ROWS, LABELS, 5)
    with pytest.raises(InputError, match="targets: expected integers from 0 to 2, got 3"):
        ProtoTripletLoss()(ROWS, LABELS, GALLERY[:3])
    with pytest.raises(InputError, match="margin: expected a number of at least 0, got -1"):
        SuSana(Encoder(features=5), 24, margin=-1)
    with pytest.raises(InputError, match=r"term .*'icn'"):
        SuSana(Encoder(features=5), 24, terms=["icn"])
    with pytest.raises(InputError, match=r"terms: expected one or more, each once, got \[\]"):
        SuSana(Encoder(features=5), 24, terms=[])
