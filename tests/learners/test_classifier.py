"""The network that methods that classify share, its heads and its loss."""

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.data.views import to_input
from counterpoise.errors import InputError
from counterpoise.learners.classifier import Classifier, cross_entropy, make_head
from counterpoise.training.trainer import fit
from worlds import Encoder


def test_a_head_of_cosines_does_not_see_the_length_of_features():
    rng = torch.Generator().manual_seed(0)
    head, x = make_head("cosine", 4, 3), torch.randn(5, 4, generator=rng)
    torch.testing.assert_close(head(9 * x), head(x))


@pytest.mark.parametrize("kind", ["linear", "weight-norm"])
def test_the_other_heads_are_affine(kind):
    rng = torch.Generator().manual_seed(0)
    head, x, y = make_head(kind, 4, 3), *torch.randn(2, 5, 4, generator=rng)
    torch.testing.assert_close(head(x + y) - head(y), head(x) - head(torch.zeros_like(x)))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("kind", ["linear", "cosine", "weight-norm"])
@pytest.mark.parametrize(
    ("features", "classes", "message"),
    [
        (4, 0, "classes: expected a whole number of at least 1, got 0"),
        (4, 2.0, "classes: expected a whole number of at least 1, got 2"),
        (0, 3, "features: expected a whole number of at least 1, got 0"),
    ],
)
def test_numbers_of_a_head_are_refused_by_name(kind, features, classes, message):
    with pytest.raises(InputError, match=message):
        make_head(kind, features, classes)


@pytest.mark.usefixtures("plain_shapes")
def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="head 'cosin' is not known; did you mean 'cosine'"):
        make_head("cosin", 4, 3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [({"classes": 1}, "classes: .* of at least 2"), ({"bottleneck": -1}, "bottleneck: .* of at least 0, got -1")],
)
def test_numbers_of_a_classifier_are_refused_by_name(recipe, message):
    with pytest.raises(InputError, match=message):
        Classifier(Encoder(), **{"classes": 3, **recipe})


def test_the_net_that_is_kept_gives_the_logits_and_shares_the_weights():
    rng = torch.Generator().manual_seed(0)
    method = Classifier(Encoder(), classes=3, bottleneck=2).eval()
    x = torch.randn(5, 1, 4, 4, generator=rng)
    torch.testing.assert_close(method.net(x), method.logits(x))
    assert {id(p) for p in method.net.parameters()} == {id(p) for p in method.parameters()}


class Watched(Classifier):
    """Notes the labels of its batches."""

    seen: ClassVar[list] = []

    def loss(self, images, labels, index):
        self.seen.append(labels.tolist())
        return super().loss(images, labels, index)


def test_with_few_labels_a_batch_is_of_labelled_items_alone_and_an_epoch_as_long(monkeypatch, tmp_path, rng):
    monkeypatch.setattr(Watched, "seen", [])
    pixels, labels = torch.randint(0, 256, (40, 1, 4, 4), generator=rng, dtype=torch.uint8), torch.full((40,), -1)
    labels[:3] = torch.tensor([0, 1, 1])
    data = Images(pixels, labels, ("a", "b"), "few")
    fit(Watched(Encoder(), classes=2), data, epochs=2, batch_size=8, seed=0, folder=tmp_path, device="cpu")
    assert len(Watched.seen) == 2 * 40 // 8
    assert all(sorted(batch) in ([0, 0, 0, *[1] * 5], [0, 0, *[1] * 6]) for batch in Watched.seen)


def test_rows_without_a_label_do_not_count():
    rng = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 3, generator=rng), torch.tensor([0, -1, 2, 1, -1, 1])
    known = targets >= 0
    expected = F.cross_entropy(logits[known], targets[known])
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_weights_and_smoothing_are_those_of_pytorch():
    rng = torch.Generator().manual_seed(0)
    logits, targets, weights = (
        torch.randn(6, 3, generator=rng),
        torch.tensor([0, 0, 2, 1, 2, 1]),
        torch.rand(3, generator=rng),
    )
    found = cross_entropy(logits, targets, weights=weights)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, weights))
    found = cross_entropy(logits, targets, label_smoothing=0.3)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, label_smoothing=0.3))


def test_without_any_label_the_loss_and_its_gradient_are_0():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


class Pixels(nn.Flatten):
    features = 16


def test_predictions_are_log_probabilities_of_the_network():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=rng)
    method = Classifier(Pixels(), classes=3)
    found = method.predict(Images(pixels, torch.zeros(5).long(), ("a",), "random"), batch_size=2)
    torch.testing.assert_close(found, method.eval().logits(to_input(pixels)).log_softmax(1).detach())


def test_labels_that_are_no_class_and_data_without_labels_are_refused():
    pixels, method = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), Classifier(Encoder(), classes=2)
    with pytest.raises(InputError, match=r"classes: expected .* at least 3, got 2"):
        method.check_data(Images(pixels, torch.tensor([0, 2]), ("a", "b", "c"), "x"), 2)
    with pytest.raises(InputError, match="labels: Classifier needs some, but none of the 2"):
        method.check_data(Images(pixels, torch.tensor([-1, -1]), ("a",), "x"), 2)
