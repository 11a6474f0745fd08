"""Pruned: cleanlab's own answer, folds, and training on what is left."""

import builtins
import subprocess
import sys

import numpy as np
import pytest
import torch

from counterpoise.classify.cross_entropy import CrossEntropy
from counterpoise.classify.pruned import Pruned, folds_of, label_issues
from counterpoise.data import Images
from counterpoise.errors import InputError, MissingExtra
from counterpoise.training.trainer import fit
from worlds import Encoder

cleanlab = pytest.importorskip("cleanlab.filter", reason="needs the extra clean")


def two_kinds(rng, n=60, wrong=6):
    """Dark images of class 0 and bright ones of class 1, the first ones of which have the label of the other."""
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 60, (n, 1, 4, 4), generator=rng) + 180 * labels[:, None, None, None]
    given = torch.where(torch.arange(n) < wrong, 1 - labels, labels)
    return Images(pixels.to(torch.uint8), given, ("a", "b"), "noise")


def method(samples=60, **changes):
    torch.manual_seed(0)
    return Pruned(Encoder(), classes=2, samples=samples, **{"batch_size": 12, "lr": 0.05} | changes)


# --- issues ---


def probabilities(rng, n=200, classes=4):
    labels = torch.randint(classes, (n,), generator=rng)
    logits = torch.randn(n, classes, generator=rng, dtype=torch.float64)
    logits[torch.arange(n), labels] += 2
    return logits.softmax(1), labels


@pytest.mark.parametrize("rule", ["prune_by_noise_rate", "prune_by_class", "both", "confident_learning"])
def test_issues_are_those_of_cleanlab(rule, rng):
    p, labels = probabilities(rng)
    expected = cleanlab.find_label_issues(labels.numpy(), p.numpy(), filter_by=rule, n_jobs=1)
    found = label_issues(p, labels, rule)
    assert 0 < expected.sum() < 200
    np.testing.assert_array_equal(found, expected)


def test_rows_without_a_label_and_classes_without_rows_make_no_difference(rng):
    p, labels = probabilities(rng)
    wide = torch.cat([p[:, :1] / 2, torch.zeros(200, 1), p[:, 1:], p[:, :1] / 2], 1)  # some chance is of class 5
    shifted = torch.where(labels > 0, labels + 1, 0)
    wide, shifted = torch.cat([wide, wide[:9]]), torch.cat([shifted, torch.full((9,), -1)])
    present = wide[:200, [0, 2, 3, 4]]
    expected = label_issues(present / present.sum(1, keepdim=True), labels)
    found = label_issues(wide, shifted)
    assert torch.equal(found[:200], expected)
    assert not found[200:].any()


def test_one_class_alone_has_no_issues(rng):
    p, _ = probabilities(rng)
    assert not label_issues(p, torch.full((200,), 2)).any()


def test_without_cleanlab_the_error_names_the_extra(monkeypatch, rng):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return real(name, *rest)

    for name in [name for name in sys.modules if name.startswith("cleanlab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    named = r"cleanlab is not installed: pip install 'counterpoise\[clean\]'"
    with pytest.raises(MissingExtra, match=named):
        label_issues(*probabilities(rng))
    with pytest.raises(MissingExtra, match=named):
        method().check_data(two_kinds(rng), 12)


@pytest.mark.slow
def test_cleanlab_is_loaded_where_it_is_used():
    code = """
import sys
from counterpoise.classify.pruned import label_issues
import torch
print([name for name in ("cleanlab", "termcolor") if name in sys.modules])
label_issues(torch.eye(2), torch.arange(2))
print("cleanlab" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split("\n")[:2] == ["[]", "True"]


# --- folds ---


def test_folds_have_a_share_of_each_class_and_of_all(rng):
    labels = torch.tensor([0] * 31 + [1] * 8 + [-1] * 5 + [2] * 2)
    found = [folds_of(labels, 3, torch.randperm(46, generator=rng)) for _ in range(10)]
    for fold in found:
        assert (fold[labels < 0] == -1).all()
        for rows in (labels >= 0, labels == 0, labels == 1, labels == 2):
            counts = fold[rows].bincount(minlength=3)
            assert counts.max() - counts.min() <= 1
    assert not torch.equal(found[0], found[1])


# --- the method ---


@pytest.mark.slow
def test_wrong_labels_are_pruned_and_the_others_learnt(rng, tmp_path):
    data, learner = two_kinds(rng), method(length=3.0)
    fit(learner, data, epochs=4, batch_size=12, seed=0, folder=tmp_path, device="cpu")
    assert (~learner.kept).nonzero().flatten().tolist() == list(range(6))
    assert learner.diagnostics(data, data, data) == {"pruned": 6.0, "pruned_share": 0.1}
    predicted = learner.predict(data).argmax(1)
    assert torch.equal(predicted, torch.arange(60) % 2)


def test_each_item_is_judged_by_a_network_that_has_not_seen_it(rng, monkeypatch):
    data, learner = two_kinds(rng), method()
    seen = []
    real = learner._trained
    monkeypatch.setattr(learner, "_trained", lambda data, rows: seen.append(rows) or real(data, rows))
    found = learner.out_of_sample(data)
    assert torch.cat(seen).bincount().tolist() == [2] * 60  # of three folds
    torch.testing.assert_close(found.sum(1), torch.ones(60))
    assert not torch.allclose(found, torch.tensor(0.5))


def test_the_networks_of_folds_begin_as_the_method_which_they_leave_alone(rng):
    data, learner = two_kinds(rng), method(lr=1e-12)
    before = {name: x.clone() for name, x in learner.state_dict().items()}
    torch.testing.assert_close(learner.out_of_sample(data), learner.predict(data).exp())
    learner.lr = 0.1
    learner.out_of_sample(data)
    assert all(torch.equal(before[name], x) for name, x in learner.state_dict().items())


def test_the_networks_of_folds_take_their_share_of_the_steps(rng):
    data, steps = two_kinds(rng), []

    class Counted(Pruned):
        def make_optimizer(self, groups):
            made = super().make_optimizer(groups)
            made.register_step_post_hook(lambda *_: steps.append(made))
            return made

    learner = Counted(Encoder(), classes=2, samples=60, batch_size=12, folds=4, length=2.0)
    learner.out_of_sample(data)
    assert [steps.count(made) for made in dict.fromkeys(steps)] == [10] * 4  # twice an epoch of 5 batches


@pytest.mark.slow
def test_where_nothing_is_pruned_it_is_cross_entropy_to_the_last_bit(rng, tmp_path, monkeypatch):
    data = two_kinds(rng, wrong=0)
    torch.manual_seed(0)
    plain = CrossEntropy(Encoder(), classes=2, lr=0.05)
    learner = method()
    recipe = {"epochs": 2, "batch_size": 12, "seed": 0, "device": "cpu"}
    fit(plain, data, folder=tmp_path / "plain", **recipe)
    fit(learner, data, folder=tmp_path / "pruned", **recipe)
    assert learner.kept.all()
    assert torch.equal(learner.encoder.weight, plain.encoder.weight)
    assert torch.equal(learner.classifier.weight, plain.classifier.weight)


def test_batches_are_as_many_as_before_of_what_is_left(rng):
    learner = method(samples=10)
    learner.kept[:7] = False
    order = torch.tensor([3, 8, 1, 7, 0, 2, 9, 4, 5, 6])
    assert learner.batches(order, 4) == [[8, 7, 9, 8], [7, 9, 8, 7]]


def test_a_class_that_is_left_out_is_warned_of(rng, monkeypatch):
    data, learner = two_kinds(rng, wrong=0), method()
    monkeypatch.setattr("counterpoise.classify.pruned.label_issues", lambda p, labels, rule: labels == 1)
    with pytest.warns(UserWarning, match="all training images of class 1 are left out"):
        learner.start_epoch(data, 0)
    assert torch.equal(learner.kept, data.labels == 0)


def test_it_prunes_once(rng, monkeypatch):
    learner = method()
    monkeypatch.setattr(learner, "out_of_sample", lambda data: pytest.fail("asked again"))
    learner.start_epoch(two_kinds(rng), 1)


def test_too_few_labels_for_the_folds_are_refused(rng):
    data = two_kinds(rng)
    data.labels[5:] = -1
    with pytest.raises(InputError, match="labels: expected at least 6 for 3 folds, got 5; see folds"):
        method().check_data(data, 12)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"folds": 1}, "folds: expected a whole number of at least 2"),
        ({"length": 0.0}, "length: expected a number above 0"),
        ({"rule": "all"}, "rule 'all' is not known"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1"),
    ],
)
def test_what_the_method_refuses(arguments, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        method(**arguments)


def test_batches_are_of_labelled_items_that_are_kept():
    learner = method(samples=6)
    learner.kept[0], learner.has_label = False, torch.tensor([True, True, False, True, True, False])
    assert learner.batches(torch.arange(6), 3) == [[1, 3, 4], [1, 3, 4]]
