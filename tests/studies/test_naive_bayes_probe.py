"""The study of naive Bayes beside logistic regression: what is simulated, what is counted, and what is probed."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MinMaxScaler

from counterpoise.classify.naive_bayes_probe import naive_bayes
from counterpoise.data import load
from counterpoise.errors import InputError
from counterpoise.studies import naive_bayes_probe as module
from counterpoise.studies.naive_bayes_probe import sample_complexity, simulate, study


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_simulated_classes_have_the_paper_s_means_and_variances(classes):
    x, labels = simulate(6000 * classes, 4, classes)
    centre = 2.0 ** (classes - 3)
    means = torch.tensor([-1.0, 1.0, 2.0, 4.0, 8.0][:classes])
    scale = 1.0 if classes == 2 else centre
    for label in range(classes):
        own = x[labels == label]
        assert len(own) == 6000
        expected = means[label] if classes == 2 else (means[label] - centre) / centre
        np.testing.assert_allclose(own.mean(0), expected.expand(4), atol=0.12 / scale)
        np.testing.assert_allclose(own.var(0) * scale**2, [4, 4, 1, 1], rtol=0.1)
        assert np.abs(np.corrcoef(own.T) - np.eye(4)).max() < 0.06


def test_hard_features_depend_on_each_other_alike_for_every_seed():
    first, second = (simulate(40_000, 24, 2, "hard", seed=seed)[0][:20_000] for seed in (0, 1))
    found = [np.cov(x.T) for x in (first, second)]
    assert not torch.equal(first, second)
    np.testing.assert_allclose(*found, atol=1.5)
    generator = torch.Generator().manual_seed(0)
    uniform = 2 * torch.rand(24, 24, generator=generator, dtype=torch.float64) - 1
    covariance = (uniform.T @ uniform).numpy()
    np.fill_diagonal(covariance, [24] * 12 + [1] * 12)
    assert np.linalg.eigvalsh(covariance).min() < -5
    u, s, _ = np.linalg.svd(covariance)  # as NumPy's multivariate_normal takes it
    np.testing.assert_allclose(found[0], u @ np.diag(s) @ u.T, atol=1.0)


def test_the_least_number_of_labels_is_the_first_of_its_grid_that_suffices(monkeypatch):
    tried = []

    def error(split):
        tried.append(len(split.labels))
        assert len(split.labels.unique()) == 3
        return 0.02 if len(tried) < 4 else 0.0149

    monkeypatch.setattr(module, "_nb_error", error)
    assert sample_complexity("naive-bayes", 20, classes=3, least=0.005) == tried[-1]
    assert tried == [6, 9, 12, 15]  # from 2 a class, by log 20 rounded up


def test_where_no_number_suffices_there_is_none(monkeypatch):
    monkeypatch.setattr(module, "_lr_error", lambda split: 0.5)
    assert sample_complexity("logistic", 2, classes=2) is None


@pytest.mark.slow
def test_naive_bayes_needs_fewer_labels_as_features_are_added_and_logistic_regression_more(monkeypatch):
    monkeypatch.setattr(module, "DIMENSIONS", (40, 160))
    found = study("gaussians", 3, classes=2)
    assert found["nb 160"] < found["lr 160"] / 5
    ratio = np.log(found["lr 160"] / found["lr 40"]) / np.log(4)
    assert found["slope lr"] == pytest.approx(ratio)
    assert found["slope lr"] > 0.5 > found["slope nb"]
    assert found["slope difference"] == pytest.approx(found["slope lr"] - found["slope nb"])
    assert found == study("gaussians", 3, classes=2)
    assert found != study("gaussians", 4, classes=2)


def test_probes_are_scikit_learn_s_on_features_scaled_by_the_drawn_rows(rng):
    train, test = load("digits")
    drawn = torch.randperm(len(train), generator=rng)[:100]
    scaler = MinMaxScaler().fit(train.pixels[drawn].flatten(1))
    x, asked = (scaler.transform(part.flatten(1)) for part in (train.pixels[drawn], test.pixels))
    y = train.labels[drawn]
    rows = module._inputs("digits")
    split = module._scaled(rows._replace(x=rows.x[drawn], labels=rows.labels[drawn]))
    np.testing.assert_allclose(split.x, x, atol=1e-12)
    np.testing.assert_allclose(split.test, asked, atol=1e-12)
    wrong = 1 - LogisticRegression(max_iter=1000).fit(x, y).score(asked, test.labels)
    assert module._lr_error(split) == pytest.approx(wrong)
    predicted = naive_bayes(torch.from_numpy(x), y, floor=0.1).predict(torch.from_numpy(asked))
    assert module._nb_error(split, 0.1) == pytest.approx(float((predicted != test.labels).double().mean()))
    means = torch.stack([split.x[y == k].mean(0) for k in range(10)])
    nearest = torch.cdist(split.test, means).argmin(1)
    assert module._mean_error(split) == pytest.approx(float((nearest != test.labels).double().mean()))


@pytest.mark.slow
def test_a_probe_s_figures_are_means_over_few_and_over_many_labels(monkeypatch):
    monkeypatch.setattr(module, "SIZES", (20, 30, 60, 300, 600))
    found = study("digits", 1, repeats=1)
    for own, name in (("lr", ""), ("cv", " cv")):
        above = {size: found[f"nb {size}"] - found[f"{own} {size}"] for size in (20, 30, 60, 300, 600)}
        assert found[f"few{name}"] == pytest.approx((above[20] + above[30]) / 2)
        assert found[f"many{name}"] == pytest.approx((above[300] + above[600]) / 2)
    first = next(size for size in (20, 30, 60, 300, 600) if found[f"lr {size}"] < found[f"nb {size}"])
    assert found["crossing"] == first
    assert found["nb 600"] < found["nb 20"]
    assert study("digits", 1, repeats=1, floor=0.1)["nb 20"] != found["nb 20"]
    assert "cv 20" not in study("digits", 1, repeats=1, tuned=False)


@pytest.mark.slow
def test_a_network_that_has_learnt_other_classes_is_probed_in_place_of_pixels(monkeypatch):
    monkeypatch.setattr(module, "EPOCHS", 1)
    known = load("mnist")
    some = {name: tuple(p.subset(torch.arange(300)) for p in load(name)) for name in ("mnist", "fashion-mnist")}
    monkeypatch.setattr(module, "load", lambda name: known._replace(train=some[name][0], test=some[name][1]))
    rows = module._network_features("fashion-mnist", "mnist", seed=0)
    assert rows.x.shape[0] == 300
    assert rows.x.shape[1] < 784
    assert torch.equal(rows.labels, some["mnist"][0].labels)
    again = module._network_features("fashion-mnist", "mnist", seed=0)
    assert torch.equal(rows.x, again.x)
    assert not torch.equal(rows.x, module._network_features("mnist", "mnist", seed=0).x)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("gaussians", 0, mode="medium"), "mode 'medium' is not known"),
        (lambda: simulate(9, 2, 2, mode="medium"), "mode 'medium' is not known"),
        (lambda: sample_complexity("bayes", 4), "classifier 'bayes' is not known"),
        (lambda: sample_complexity("logistic", 4, mode="medium"), "mode 'medium' is not known"),
        (lambda: study("mnist", 0, source="digits"), "source: expected images of the shape of those of data, "),
        (
            lambda: study("mnist", 0, source="sklearn:iris"),
            "source: expected a data set of images, got rows of numbers",
        ),
        (lambda: study("sklearn:iris", 0), "data: expected at least 200 labelled training rows, got 1"),
        (lambda: module._draw(torch.arange(5), 3, torch.Generator()), "data: no draw of 3 of 5 rows has all 5 classes"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
