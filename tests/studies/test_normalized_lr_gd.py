"""The study of gradient descent with large steps: its worst case, its pairs of classes, and its figures."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from counterpoise.classify.normalized_lr_gd import separate
from counterpoise.data import load
from counterpoise.errors import InputError
from counterpoise.studies import normalized_lr_gd as module
from counterpoise.studies.normalized_lr_gd import study, worst_case


def test_the_worst_case_gives_the_paper_s_counts_and_their_growth(monkeypatch):
    monkeypatch.setattr(module, "ROWS", (10, 1000))
    found = study("worst-case", seed=3)
    assert found["apart"] == 0
    assert (found["logistic 100 at 10"], found["logistic 100 at 1000"]) == (4, 308)
    assert found["growth logistic 100"] == pytest.approx(math.log(308 / 4) / math.log(100))
    assert found["growth normalized 100"] == pytest.approx(0)
    assert found["growth normalized 1"] == pytest.approx(math.log(16 / 7) / math.log(100))
    assert found == study("worst-case", seed=4)


def test_how_far_apart_counts_are_is_the_largest_difference(monkeypatch):
    monkeypatch.setattr(module, "ROWS", (10, 20))
    monkeypatch.setitem(module.TABLE, ("normalized", 1.0), 18)
    monkeypatch.setitem(module.TABLE, ("normalized", 10.0), 3)
    assert study("worst-case", seed=0)["apart"] == 2


def test_a_pair_has_the_asked_rows_of_two_classes_and_a_constant():
    a, y = module._pair("digits", 5, majority=40, minority=7)
    assert a.shape == (47, 65)
    assert (y[:40] == 1).all()
    assert (y[40:] == -1).all()
    assert (a[:, -1] == 1).all()
    assert (a.min().item(), a.max().item()) == (0.0, 1.0)
    train = load("digits").train
    pixels = {tuple(x): int(label) for x, label in zip(train.pixels.flatten(1).tolist(), train.labels, strict=True)}
    labels = [pixels[tuple((row * 255).round().int().tolist())] for row in a[:, :-1]]
    assert len({*labels[:40]}) == len({*labels[40:]}) == 1
    assert labels[0] != labels[40]
    other, _ = module._pair("digits", 6, majority=40, minority=7)
    assert not torch.equal(a, other)
    assert torch.equal(a, module._pair("digits", 5, majority=40, minority=7)[0])
    again, _ = module._pair("digits", 95, majority=40, minority=7)  # the same pair, after all 90
    assert pixels[tuple((again[0, :-1] * 255).round().int().tolist())] == labels[0]
    assert not torch.equal(a, again)


def test_each_of_the_first_seeds_has_another_pair():
    pairs = set()
    for seed in range(12):
        _, y = module._pair("sklearn:wine", seed, majority=500, minority=500)
        pairs.add((int((y > 0).sum()), int((y < 0).sum())))
    assert len(pairs) == 6  # ordered pairs of three classes of unequal size


def test_figures_are_updates_their_best_ratio_and_rank_correlations():
    arguments = {"majority": 60, "minority": 6, "most": 400}
    found = study("digits", 2, **arguments)
    a, y = module._pair("digits", 2, 60, 6)
    for rule in ("normalized", "logistic"):
        for gamma in (1.0, 10.0, 100.0):
            assert found[f"{rule} {gamma:g}"] == module._separated(a, y, gamma, rule, 400).updates
    for rule in ("perceptron", "batch-perceptron", "normalized-perceptron"):
        assert found[rule] == separate(a, y, rule=rule, most=400).updates
    best = [min(found[f"{rule} {gamma}"] for gamma in (1, 10, 100)) for rule in ("normalized", "logistic")]
    assert found["log ratio"] == pytest.approx(math.log(best[0] / best[1]))
    assert found["unsolved"] == 0
    runs = [module._separated(a, y, gamma, "logistic", 400) for gamma in (0.01, 0.1, 1.0, 10.0, 100.0)]
    assert found["rank updates"] == pytest.approx(spearmanr(range(5), [run.updates for run in runs]).statistic)
    assert found["rank loss"] == pytest.approx(spearmanr(range(5), [run.losses.max() for run in runs]).statistic)
    assert "rank loss" not in study("digits", 2, sweep=False, **arguments)


def test_runs_that_are_given_up_are_counted():
    found = study("digits", 2, majority=60, minority=6, most=1, sweep=False)
    assert found["unsolved"] > 0
    assert found["logistic 1"] == 1


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("digits", 0, majority=0), "majority: expected a whole number of at least 1, got 0"),
        (lambda: study("digits", 0, minority=0), "minority: expected a whole number of at least 1, got 0"),
        (lambda: study("digits", -1), "seed: expected a whole number"),
        (lambda: worst_case(1), "rows: expected a whole number of at least 2"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
