"""Retrieve: how known embeddings of unseen classes are scored. Its data and runs are tested in test_unseen."""

import pytest
import torch

from counterpoise.tasks import retrieve
from worlds import scored_rows


def scored(rows, labels):
    """The scores of rows of which every second one is in the gallery."""
    return scored_rows(retrieve, (rows[1::2], labels[1::2]), (rows[::2], labels[::2]))


def test_classes_that_lie_apart_are_found_whole():
    labels = torch.arange(50).div(5, rounding_mode="floor")
    found = scored(255 * torch.eye(10)[labels], labels)
    shares = {name for name, metric in retrieve.TASK.metrics.items() if metric.percent}
    assert shares == {"recall_1", "recall_2", "recall_4", "recall_8", "map_r", "r_precision", "nmi", "utility"}
    assert {found.metrics[name] for name in shares - {"nmi", "utility"}} == {1.0}
    assert 0.9 < found.metrics["nmi"] <= 1  # k-means may end with one class in two clusters
    assert (found.metrics["opis"], found.metrics["epsilon_opis"]) == (0.0, 0.0)
    assert set(found.metrics) == set(retrieve.TASK.metrics)


def test_an_image_seeks_among_all_of_test_and_gallery_but_itself():
    """Of two images a class, the nearest other of a's is in the gallery, that of b's is an image of c."""
    rows = torch.tensor([[255, 0], [250, 5], [0, 255], [120, 120], [10, 250], [125, 125]]).float()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    found = scored(rows, labels)
    assert found.metrics["recall_1"] == pytest.approx(2 / 6)
    assert found.metrics["r_precision"] == found.metrics["map_r"] == found.metrics["recall_1"]  # one other of a class


def test_chance_is_the_share_of_a_class(rng):
    labels = torch.arange(400) % 10
    found = scored(torch.randint(0, 256, (400, 6), generator=rng), labels).metrics
    assert found["recall_1"] == pytest.approx(39 / 399, abs=0.05)
    assert found["map_r"] < found["r_precision"] < 0.15


def test_every_item_that_can_find_another_is_kept_with_its_figures(rng):
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, -1])
    rows = torch.randint(0, 256, (8, 6), generator=rng)
    with pytest.warns(UserWarning, match=r"1 of 10 classes have 1 image, which has nothing to find.*: c"):
        found = scored(rows, labels)
    assert len(found.identity.keys) == 6
    for name in ("recall_1", "recall_8", "map_r", "r_precision"):
        assert found.items[name].mean().item() == pytest.approx(found.metrics[name])
