"""Differences of runs: paired, with intervals over seeds and test items, adjusted over rows."""

import numpy as np
import pytest
import torch
from scipy import stats

from counterpoise.commands.arms import Arm, Rows
from counterpoise.commands.evidence import differences, summarise
from counterpoise.data.identity import Identity
from counterpoise.engine.items import write_items
from counterpoise.measure.intervals import holm
from counterpoise.tasks import pretrain
from counterpoise.training.run import Scores


def test_differences_are_paired_by_seed():
    mine = [{"seed": s, "status": "done", "metrics": {"knn": 0.5 + s + d}} for s, d in ((0, 0.1), (1, 0.2), (2, 0.3))]
    base = [{"seed": s, "status": "done", "metrics": {"knn": 0.5 + s}} for s in (0, 1)] + [
        {"seed": 2, "status": "failed"}
    ]
    found = differences(mine, base)["knn"]
    assert found["n"] == 2
    assert found["mean"] == pytest.approx(0.15)


def result_of(seed, knn, folder=None):
    run = {"seed": seed, "status": "done", "metrics": {"knn": knn}, "seconds": 1.0, "memory_mb": 1.0}
    return run | ({} if folder is None else {"folder": folder})


def test_differences_are_decided_by_holms_adjustment_over_the_rows():
    generator = np.random.default_rng(0)
    arms = [Arm("simclr", "simclr"), Arm("dcl", "dcl"), Arm("moco", "moco"), Arm("cacr", "cacr")]
    shift = {"simclr": 0.0, "dcl": 0.02, "moco": -0.05, "cacr": 0.0}
    noise = {arm.label: generator.normal(0, 0.01, 5) for arm in arms}
    runs = {
        (arm.label, s): result_of(s, 0.7 + shift[arm.label] + noise[arm.label][s]) for arm in arms for s in range(5)
    }
    found = summarise(Rows(arms, "simclr"), runs, pretrain.TASK.metrics)["methods"]
    assert found[0]["difference"] is None
    rows = {row["label"]: row["difference"]["knn"] for row in found[1:]}
    for label, row in rows.items():
        expected = stats.ttest_rel(*([runs[one, s]["metrics"]["knn"] for s in range(5)] for one in (label, "simclr")))
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["items"] is None
        assert (row["unit"], row["detectable"] > 0, row["needed"] >= 2) == (0.01, True, True)
    assert [row["adjusted"] for row in rows.values()] == holm([row["p"] for row in rows.values()])


def test_intervals_cover_the_test_items_that_the_runs_keep(tmp_path):
    """Both seeds gain on the same three of 100 items: over seeds alone that is certain, over items it is not."""
    right = torch.zeros(100)
    right[:40] = 1
    gained = right.clone()
    gained[40:43] = 1
    runs = {}
    for label, hits in (("simclr", right), ("dcl", gained)):
        for seed in range(2):
            folder = tmp_path / f"{label}-{seed}"
            folder.mkdir()
            write_items(folder, Scores({}, items={"knn": hits}, identity=Identity(torch.arange(100), 0)))
            runs[label, seed] = result_of(seed, float(hits.mean()), folder.name)
    arms = [Arm("simclr", "simclr"), Arm("dcl", "dcl")]
    alone = summarise(Rows(arms, "simclr"), runs, pretrain.TASK.metrics)["methods"][1]["difference"]["knn"]
    assert (alone["items"], alone["p"]) == (None, 0.0)
    both = summarise(Rows(arms, "simclr"), runs, pretrain.TASK.metrics, tmp_path)["methods"]
    found = both[1]["difference"]["knn"]
    low, high = stats.t.interval(0.95, 99, 0.03, (gained - right).std().item() / 10)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert (found["items"], found["needed"]) == (100, None)
    assert both[0]["summary"]["knn"]["items"] == 100
