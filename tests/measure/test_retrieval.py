"""Retrieval against plain loops and pytorch-metric-learning, and what it refuses."""

import itertools
import time

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import normalized_mutual_info_score

from counterpoise.errors import InputError
from counterpoise.measure.retrieval import clustering_nmi, retrieval
from counterpoise.ops import neighbours
from counterpoise.ops.clusters import kmeans
from worlds import seeded

LABELS = torch.randint(7, (60,), generator=seeded(0))
ROWS = torch.eye(7)[LABELS] + 0.5 * torch.randn(60, 7, generator=seeded(1))


def plain(queries, labels, gallery, gallery_labels, ks, itself):
    """Query by query, neighbour by neighbour."""
    recalls, average, precision = {k: [] for k in ks}, [], []
    cosine = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    for i, label in enumerate(labels.tolist()):
        order = [j for j in cosine[i].argsort(descending=True, stable=True).tolist() if not (itself and j == i)]
        match = [gallery_labels[j].item() == label for j in order]
        r = sum(match)
        if label < 0 or r == 0:
            continue
        for k in ks:
            recalls[k].append(any(match[:k]))
        average.append(sum(sum(match[: n + 1]) / (n + 1) for n in range(r) if match[n]) / r)
        precision.append(sum(match[:r]) / r)
    return [np.mean(recalls[k]) for k in ks] + [np.mean(average), np.mean(precision)]


@pytest.mark.parametrize("part", [1 << 20, 100])
@pytest.mark.parametrize("itself", [True, False])
def test_it_is_what_loops_find(itself, part, monkeypatch):
    monkeypatch.setattr(neighbours, "PART", part)
    gallery, gallery_labels = (ROWS, LABELS) if itself else (ROWS.flip(0)[:41] + 0.3, LABELS.flip(0)[:41])
    labels = torch.where(torch.arange(60) % 9 == 0, -1, LABELS)
    if itself:
        gallery_labels = labels
    given = () if itself else (gallery, gallery_labels)
    found = retrieval(ROWS, labels, *given, ks=(1, 3, 500))
    expected = plain(ROWS, labels, gallery, gallery_labels, (1, 3, 500), itself)
    assert [*found.recall.values(), found.map_r, found.r_precision] == pytest.approx(expected, abs=1e-12)


def test_it_agrees_with_pytorch_metric_learning():
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    theirs = AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu")).get_accuracy(
        torch.nn.functional.normalize(ROWS, dim=1), LABELS
    )
    ours = retrieval(ROWS, LABELS, ks=(1,))
    assert [ours.recall[1], ours.r_precision, ours.map_r] == pytest.approx([theirs[name] for name in names], abs=1e-9)


def test_a_class_of_one_seeks_nothing_but_is_found():
    rows, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.9, 0.3]]), torch.tensor([0, 0, 1])
    found = retrieval(rows, labels, ks=(1, 2))
    assert found.alone == 1
    assert found.recall == {1: 0.0, 2: 1.0}
    assert found.map_r == 0


def test_equal_rows_do_not_take_the_query_s_own_place():
    """Of three equal rows each finds the two others, whichever of them the search puts first."""
    found = retrieval(torch.ones(3, 2), torch.tensor([5, 5, 5]), ks=(1, 2))
    assert found[:4] == ({1: 1.0, 2: 1.0}, 1.0, 1.0, 0)


def mean_over_orders(labels, queries, gallery, gallery_labels, itself, ks=(1, 3)):
    """Plain counts, averaged over all orders of the gallery, by which equal rows are ranked."""
    found = []
    for order in itertools.permutations(range(len(gallery))):
        order = list(order)
        if itself:
            found.append(plain(queries[order], labels[order], queries[order], labels[order], ks, True))
        else:
            found.append(plain(queries, labels, gallery[order], gallery_labels[order], ks, False))
    return np.mean(found, 0)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, -1, 0], [2, 1, 1, 2, 2, 0]])
@pytest.mark.parametrize("rows", [[0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 2, 2], [3, 1, 0, 2, 4, 5]])
def test_ties_count_with_the_mean_over_their_orders(rows, labels, itself):
    points, labels = torch.eye(6)[rows] + 0.1 * torch.arange(6), torch.tensor(labels)
    given = () if itself else (points.flip(0), labels)
    found = retrieval(points, labels, *given, ks=(1, 3), ties="average")
    expected = mean_over_orders(labels, points, points.flip(0), labels, itself)
    assert [*found.recall.values(), found.map_r, found.r_precision] == pytest.approx(expected, abs=1e-9)


def test_ties_may_be_ranked_by_row_number():
    points, labels = torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 1, 0])
    found = retrieval(points, labels, ks=(1, 3), ties="rows")
    expected = plain(points, labels, points, labels, (1, 3), True)
    assert [*found.recall.values(), found.map_r, found.r_precision] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dim", [8, 700])  # faiss adds up long rows in another order in some places
def test_a_collapsed_encoder_scores_what_random_features_do(dim):
    """On rows that come class by class, by all the same embeddings, and by a few different ones."""
    labels = torch.arange(8).repeat_interleave(25)
    measures = ("map_r", "r_precision")
    random = [retrieval(torch.randn(200, 16), labels, ks=(1, 4)) for _ in range(40)]
    for rows in (torch.ones(200, dim), torch.zeros(200, dim), torch.randn(1, dim).expand(200, dim)):
        found = retrieval(rows, labels, ks=(1, 4))
        assert found.recall[1] == pytest.approx(24 / 199)
        assert found.r_precision == pytest.approx(24 / 199)
        for name in measures:
            values = [getattr(one, name) for one in random]
            assert getattr(found, name) == pytest.approx(np.mean(values), abs=4 * np.std(values) / 40**0.5)
        values = [one.recall[4] for one in random]
        assert found.recall[4] == pytest.approx(np.mean(values), abs=4 * np.std(values) / 40**0.5)
    few = torch.randn(3, dim)[torch.arange(200) % 3]
    assert retrieval(few, labels).map_r < 2 * retrieval(rows, labels).map_r


def test_the_order_of_rows_does_not_matter_where_ties_are_averaged(rng):
    rows, order = torch.randn(5, 600)[torch.arange(120) % 5], torch.randperm(120, generator=rng)
    labels = torch.arange(6).repeat_interleave(20)
    sorted_, mixed = (retrieval(rows[o], labels[o], ties="average") for o in (torch.arange(120), order))
    assert mixed[1:3] == pytest.approx(sorted_[1:3], abs=1e-9)
    assert list(mixed.recall.values()) == pytest.approx(list(sorted_.recall.values()), abs=1e-9)


@pytest.mark.parametrize("part", [1 << 20, 100])
def test_without_ties_the_figures_are_the_same_to_the_last_bit(part, monkeypatch):
    monkeypatch.setattr(neighbours, "PART", part)
    assert retrieval(ROWS, LABELS, ties="average")[:4] == retrieval(ROWS, LABELS, ties="rows")[:4]


def test_ties_are_averaged_by_default_where_rows_come_class_by_class():
    rows, labels = torch.ones(60, 4), LABELS.sort().values
    assert retrieval(rows, labels)[:4] == retrieval(rows, labels, ties="average")[:4]
    assert retrieval(rows, LABELS)[:4] == retrieval(rows, LABELS, ties="rows")[:4]
    halves = torch.cat([labels[::2], labels[1::2]])
    assert retrieval(rows, halves)[:4] == retrieval(rows, halves, ties="average")[:4]


def test_it_says_how_long_it_took():
    before = time.perf_counter()
    found = retrieval(ROWS, LABELS)
    assert 0 < found.seconds < time.perf_counter() - before


def test_order_lengths_and_names_of_classes_do_not_matter(rng):
    order = torch.randperm(60, generator=rng)
    sizes = torch.rand(60, 1, generator=rng) + 0.1
    found = retrieval((sizes * ROWS)[order], 1000 - LABELS[order])
    assert found.map_r == pytest.approx(retrieval(ROWS, LABELS).map_r, abs=1e-9)


def test_nmi_is_that_of_as_many_clusters_as_classes():
    labels = torch.where(torch.arange(60) % 9 == 0, -1, LABELS)
    kept = labels >= 0
    groups = kmeans(torch.nn.functional.normalize(ROWS[kept], dim=1), 7, seed=3).labels
    expected = normalized_mutual_info_score(labels[kept].numpy(), groups.numpy())
    assert clustering_nmi(5 * ROWS, labels, seed=3) == pytest.approx(expected)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="gallery: expected at least 1 item to find, got an empty one"):
        retrieval(ROWS, LABELS, ROWS[:0], LABELS[:0])
    with pytest.raises(InputError, match="gallery: expected at least 1 item to find, got an empty one"):
        retrieval(ROWS[:1], LABELS[:1])
    with pytest.raises(InputError, match="none of the 60 queries has another item of its class to find"):
        retrieval(ROWS, torch.arange(60))
    with pytest.raises(InputError, match="labels: expected integers"):
        retrieval(ROWS, LABELS.float())
    with pytest.raises(InputError, match="gallery_labels: expected one for each item of the gallery, got none"):
        retrieval(ROWS, LABELS, ROWS)
    with pytest.raises(InputError, match="ks: expected a whole number of at least 1, got 0"):
        retrieval(ROWS, LABELS, ks=(0,))
    for ks in ((-1,), (1.5,), (2.0,), (), 5, "12", (float("nan"),), (True,)):
        with pytest.raises(InputError, match="ks: expected"):
            retrieval(ROWS, LABELS, ks=ks)
    with pytest.raises(InputError, match="ties 'mean' is not known"):
        retrieval(ROWS, LABELS, ties="mean")
    for name, labels in (("labels", (LABELS - 2, LABELS)), ("gallery_labels", (LABELS, LABELS - 2))):
        with pytest.raises(InputError, match=rf"{name}: expected a class from 0, or -1 for none, got -2"):
            retrieval(ROWS, labels[0], ROWS, labels[1])
    with pytest.raises(InputError, match="queries and keys: expected as many columns, got 7 and 6"):
        retrieval(ROWS, LABELS, ROWS[:, :6], LABELS)
    with pytest.raises(InputError, match="labels: expected at least 1 row with a label"):
        clustering_nmi(ROWS, torch.full((60,), -1))
