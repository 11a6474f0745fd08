"""Few-shot: episodes of unseen classes by known embeddings. Its data and runs are tested in test_unseen."""

import pytest
import torch

from counterpoise.tasks import few_shot
from worlds import scored_rows


def scored(rows, labels):
    """The scores of rows whose first half is the test."""
    half = len(rows) // 2
    return scored_rows(few_shot, (rows[half:], labels[half:]), (rows[:half], labels[:half]))


def test_classes_that_lie_apart_are_never_confused():
    labels = torch.arange(60) % 6
    rows = 255 * torch.eye(6)[labels]
    found = scored(rows, labels)
    assert (found.metrics["one_shot"], found.metrics["five_shot"]) == (1.0, 1.0)
    # Rows of 2I - J have the singular values 2 (five times) and 4, whose shares are 1/7 and 2/7.
    assert found.metrics["effective_rank"] == pytest.approx(7 ** (5 / 7) * 3.5 ** (2 / 7), rel=1e-4)
    assert set(found.metrics) == set(few_shot.TASK.metrics)
    assert {found.items[name].mean().item() for name in ("one_shot", "five_shot")} == {1.0}


def test_embeddings_that_hold_nothing_find_what_chance_finds(rng):
    labels = torch.arange(200) % 10
    found = scored(torch.randint(0, 256, (200, 8), generator=rng), labels)
    for name in ("one_shot", "five_shot"):
        assert found.metrics[name] == pytest.approx(1 / few_shot.WAYS, abs=0.04)


def test_several_examples_average_noise_away(rng):
    labels = torch.arange(300) % 5
    centres = torch.randint(0, 256, (5, 12), generator=rng).float()
    rows = (centres[labels] + 60 * torch.randn(300, 12, generator=rng)).clamp(0, 255)
    found = scored(rows, labels).metrics
    assert found["five_shot"] > found["one_shot"] + 0.05


def test_images_without_a_label_are_no_part_of_an_episode(rng):
    labels = torch.arange(60) % 6
    rows = 255 * torch.eye(6)[labels]
    hidden = torch.cat([labels, torch.full((20,), -1)])
    noise = torch.randint(0, 256, (20, 6), generator=rng).float()
    order = torch.randperm(80, generator=rng)
    found = scored(torch.cat([rows, noise])[order], hidden[order])
    assert found.metrics["one_shot"] == 1.0
    assert len(found.items["one_shot"]) == len(found.identity.keys) == 60


def test_of_fewer_classes_all_are_in_an_episode(rng):
    labels = torch.arange(40) % 2
    found = scored(torch.randint(0, 256, (40, 8), generator=rng), labels)
    assert found.metrics["one_shot"] == pytest.approx(0.5, abs=0.06)
