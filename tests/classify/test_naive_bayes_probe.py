"""The naive Bayes probe: its two forms, invariances, limits in which it is another classifier, and the method."""

import math

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from counterpoise.classify.naive_bayes_probe import NaiveBayes, NaiveBayesProbe, naive_bayes
from counterpoise.data import Images
from counterpoise.data.rows import Rows
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.nets import backbone
from counterpoise.training.trainer import fit
from worlds import Encoder


@pytest.fixture
def batch(rng):
    """Rows of four classes of unequal size and spread, and others to classify."""
    labels = torch.tensor([0] * 9 + [1] * 20 + [2] * 4 + [3] * 12)
    means = 3 * torch.randn(4, 5, generator=rng, dtype=torch.float64)
    noise = torch.randn(45, 5, generator=rng, dtype=torch.float64) * torch.tensor([0.5, 1.0, 2.0, 4.0, 1.0])
    return means[labels] + noise, labels, 4 * torch.randn(60, 5, generator=rng, dtype=torch.float64)


def differences(scores):
    return scores - scores[:, :1]


def test_scores_are_those_of_the_definition_and_the_posterior_adds_up_to_one(batch):
    x, labels, asked = batch
    found = naive_bayes(x, labels)
    variance = sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum(0) for k in range(4)) / len(x) + 1e-9
    torch.testing.assert_close(found.shared_variance, variance, rtol=1e-12, atol=0)
    expected = torch.stack(
        [
            math.log(int((labels == k).sum()) / len(x))
            - 0.5 * ((asked - x[labels == k].mean(0)) ** 2 / variance).sum(1)
            for k in range(4)
        ],
        1,
    )
    torch.testing.assert_close(differences(found.logits(asked)), differences(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.logits(asked).softmax(1).sum(1), torch.ones(60, dtype=torch.float64))
    assert torch.equal(found.predict(asked), expected.argmax(1))


def test_as_a_linear_layer_it_gives_the_same_differences(batch):
    x, labels, asked = batch
    found = naive_bayes(x, labels)
    layer = found.linear(torch.float64)
    torch.testing.assert_close(differences(layer(asked)), differences(found.logits(asked)), rtol=1e-9, atol=1e-9)
    assert found.linear().weight.dtype == torch.float32
    assert torch.equal(found.linear()(asked.float()).argmax(1), found.predict(asked))


def test_of_two_equal_classes_of_unit_variance_the_border_halves_the_way_between_their_means():
    x = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [3.0, 5.0], [5.0, 3.0]]).double()  # means (0, 0) and (4, 4)
    found = naive_bayes(x, torch.tensor([0, 0, 1, 1]), floor=0.0)
    along = torch.tensor([[7.0, -3.0], [2.0, 2.0], [-50.0, 54.0]]).double()
    torch.testing.assert_close(differences(found.logits(along))[:, 1], torch.zeros(3).double(), rtol=0, atol=1e-9)
    assert found.predict(along + 0.01).tolist() == [1, 1, 1]
    assert found.predict(along - 0.01).tolist() == [0, 0, 0]


def test_shifting_and_scaling_each_feature_changes_no_score(batch):
    x, labels, asked = batch
    a, b = torch.tensor([1e-3, -2.0, 50.0, 1.0, -7.0]).double(), torch.tensor([1.0, 5e3, 0.0, -2.0, 9.0]).double()
    plain, changed = naive_bayes(x, labels, floor=0.0), naive_bayes(a * x + b, labels, floor=0.0)
    torch.testing.assert_close(
        differences(changed.logits(a * asked + b)), differences(plain.logits(asked)), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("size", [1, 7, 45])
def test_in_any_order_of_batches_it_is_one_fit(size, batch, rng):
    x, labels, asked = batch
    whole = naive_bayes(x, labels)
    first, *rest = torch.randperm(45, generator=rng).split(size)
    found = naive_bayes(x[first], labels[first], classes=4)
    for rows in rest:
        found = found.update(x[rows], labels[rows])
    for ours, theirs in zip(found.gaussians, whole.gaussians, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.logits(asked), whole.logits(asked), rtol=1e-10, atol=1e-10)


def test_of_one_feature_it_is_linear_discriminant_analysis(batch):
    x, labels, asked = (part[:, :1] if part.ndim == 2 else part for part in batch)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x.numpy(), labels.numpy())
    found = naive_bayes(x, labels, floor=0.0)
    assert found.predict(asked).tolist() == theirs.predict(asked.numpy()).tolist()
    np.testing.assert_allclose(
        differences(found.logits(asked)), differences(torch.from_numpy(theirs.decision_function(asked))), atol=1e-9
    )


def test_twice_the_rows_change_nothing_and_twice_a_feature_doubles_its_vote(batch):
    x, labels, asked = batch
    plain = naive_bayes(x, labels)
    twice = naive_bayes(torch.cat([x, x]), torch.cat([labels, labels]))
    torch.testing.assert_close(twice.logits(asked), plain.logits(asked), rtol=1e-10, atol=1e-10)

    def repeated(z):
        return torch.cat([z, z[:, :1]], 1)

    voted = naive_bayes(repeated(x), labels).weights()[0]
    torch.testing.assert_close(voted[:, 0], voted[:, -1])
    alone = naive_bayes(x[:, :1], labels)
    one = differences(alone.logits(asked[:, :1]) - (alone.counts / 45.0).log())
    expected = differences(plain.logits(asked)) + one
    torch.testing.assert_close(differences(naive_bayes(repeated(x), labels).logits(repeated(asked))), expected)


def test_of_one_row_a_class_it_takes_the_nearest_mean(rng):
    x, asked = torch.randn(5, 3, generator=rng), torch.randn(40, 3, generator=rng)
    found = naive_bayes(x, torch.arange(5))
    assert found.logits(asked).isfinite().all()
    assert torch.equal(found.predict(asked), torch.cdist(asked, x).argmin(1))
    assert found.predict(torch.zeros(1, 3)).shape == (1,)
    assert naive_bayes(torch.tensor([[-1.0], [1.0]]), torch.arange(2)).predict(torch.zeros(1, 1)).item() == 0  # a tie


def test_a_feature_that_never_varies_does_not_count_and_one_constant_in_each_class_decides_unless_raised():
    x = torch.tensor([[0.0, 5.0, 0.0], [2.0, 5.0, 0.0], [4.0, 5.0, 0.001], [6.0, 5.0, 0.001]])
    labels = torch.tensor([0, 0, 1, 1])
    asked = torch.tensor([[9.0, 9.0, 0.0]])
    found = naive_bayes(x, labels)
    assert found.weights()[0][:, 1].tolist() == [0, 0]
    assert found.predict(asked).item() == 0  # by the third feature alone, against the first
    assert not found.raised.any()
    bounded = naive_bayes(x, labels, relative=0.1)
    assert bounded.raised.tolist() == [False, True, True]
    torch.testing.assert_close(bounded.shared_variance[1:], torch.full((2,), 0.1 / 3).double(), rtol=1e-6, atol=0)
    assert bounded.predict(asked).item() == 1
    with pytest.raises(InputError, match="floor: expected a number above 0, got 0: 2 of 3 features are constant"):
        _ = naive_bayes(x, labels, floor=0.0).shared_variance


def test_a_class_without_rows_is_refused_or_never_named(batch):
    x, labels, asked = batch
    gap = torch.where(labels == 1, 3, labels)
    with pytest.raises(InputError, match="labels: 1 of 4 classes have no row, the first of them 1; give classes"):
        naive_bayes(x, gap)
    found = naive_bayes(x, gap, classes=6)
    assert (found.logits(asked)[:, [1, 4, 5]] == -math.inf).all()
    logits = found.linear(torch.float64)(asked)
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(1), found.predict(asked))
    torch.testing.assert_close(logits[:, 4], logits[:, 0] - 30)
    assert torch.equal(naive_bayes(x, torch.where(gap == 3, -1, gap), classes=6).counts[[1, 3]], torch.tensor([0, 0]))


def test_large_means_do_not_cancel(batch):
    x, labels, asked = batch
    far = naive_bayes(x + 1e6, labels)
    torch.testing.assert_close(
        differences(far.logits(asked + 1e6)), differences(naive_bayes(x, labels).logits(asked)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: naive_bayes(torch.zeros(2, 1), torch.tensor([-1, -1])), "labels: no row is labelled"),
        (lambda: naive_bayes(torch.zeros(2), torch.tensor([0, 1])), "x: expected a matrix"),
        (lambda: naive_bayes(torch.full((2, 1), torch.inf), torch.tensor([0, 1])), "x: 2 of 2 numbers are NaN"),
        (lambda: naive_bayes(torch.zeros(2, 1), torch.tensor([0, 1]), floor=-1.0), "floor: expected a number of at le"),
        (lambda: naive_bayes(torch.zeros(2, 1), torch.tensor([0, 1]), relative=-1), "relative: expected a number of"),
        (
            lambda: naive_bayes(torch.zeros(2, 1), torch.tensor([0, 1])).predict(torch.zeros(1, 2)),
            "x: expected rows of 1",
        ),
        (
            lambda: naive_bayes(torch.ones(2, 1), torch.tensor([0, 1])).predict(torch.full((1, 1), torch.nan)),
            "x: 1 of 1",
        ),
        (
            lambda: naive_bayes(torch.zeros(2, 1), torch.tensor([0, 1])).update(torch.zeros(1, 1), torch.tensor([2])),
            "labels: expected integers from -1 to 1, got 2",
        ),
        (
            lambda: NaiveBayes(torch.ones(2).long(), torch.zeros(2, 3).double(), torch.zeros(2, 3, 3).double()),
            "variance: expected the shape of mean",
        ),
        (lambda: NaiveBayesProbe(Encoder(), 3), "shape: expected that of one input, since reads is 'raw'"),
        (lambda: NaiveBayesProbe(Encoder(), 3, shape=(16,), reads="pixels"), "reads 'pixels' is not known"),
        (lambda: NaiveBayesProbe(Encoder(), 3, shape=(16,), floor=0.0), "floor: expected a number above 0"),
        (
            lambda: NaiveBayesProbe(Encoder(), 3, shape=(16,), relative=-1.0),
            "relative: expected a number of at least 0",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- the method ---


def images(rng, n=700):
    """Greys that name their class, two of them without a label; more than are read at once."""
    labels = torch.arange(n) % 3
    pixels = (40 + 80 * labels.view(-1, 1, 1, 1) + torch.randint(-30, 30, (n, 1, 8, 8), generator=rng)).to(torch.uint8)
    labels[[5, n - 1]] = -1
    return Images(pixels, labels, ("a", "b", "c"), "greys")


def applied(method, data, folder):
    fit(method, data, epochs=3, batch_size=8, seed=0, folder=folder, device="cpu")
    return method


def test_the_method_is_the_classifier_of_all_labelled_items(rng, tmp_path):
    data = images(rng)
    method = applied(NaiveBayesProbe(nn.Identity(), classes=4, shape=(1, 8, 8), relative=0.98), data, tmp_path)
    x = to_float(data.pixels).flatten(1)
    expected = naive_bayes(x, data.labels, classes=4, relative=0.98)
    assert 0 < expected.raised.sum() < 64
    torch.testing.assert_close(method.classifier.weight, expected.linear().weight)
    assert torch.equal(method.predict(data).argmax(1), expected.predict(x))
    assert (method.predict(data).argmax(1) == data.labels)[data.labels >= 0].all()
    assert method.diagnostics() == {"raised": float(expected.raised.sum())}
    assert NaiveBayesProbe(nn.Identity(), classes=4, shape=(1, 8, 8)).diagnostics() == {}


@pytest.mark.parametrize("reads", ["encoder", "untrained"])
def test_it_reads_an_encoder_as_it_is_or_with_the_statistics_of_the_data(reads, rng, tmp_path):
    data, encoder = images(rng, 96), backbone("small", 1, 8)
    before = {name: x.clone() for name, x in encoder.state_dict().items()}
    method = applied(NaiveBayesProbe(encoder, classes=3, reads=reads), data, tmp_path)
    changed = [name for name, x in encoder.state_dict().items() if not torch.equal(x, before[name])]
    assert bool(changed) == (reads == "untrained")
    assert all("running" in name or "num_batches" in name for name in changed)
    features = encoder.eval()(to_float(data.pixels)).detach()
    torch.testing.assert_close(
        method.classifier.weight, naive_bayes(features, data.labels).linear().weight, rtol=1e-3, atol=1e-3
    )


def test_rows_are_read_as_columns(rng, tmp_path):
    x, labels = torch.randn(30, 4, generator=rng), torch.arange(30) % 2
    data = Rows(x, labels, ("a", "b"), "numbers")
    method = applied(NaiveBayesProbe(Encoder(4), classes=2, shape=(4,)), data, tmp_path)
    assert torch.equal(method.predict(data).argmax(1), naive_bayes(x, labels).predict(x))
