"""The supervised baseline: rows with a label count, the others do not, and data without any is refused."""

import math

import pytest
import torch
from torch.nn import functional as F

import worlds
from counterpoise.classify.cross_entropy import CrossEntropy, _mixtures, balanced_weights
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.classifier import cross_entropy
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

LOGITS = torch.randn(6, 3, generator=seeded(0), dtype=torch.float64)
TARGETS = torch.tensor([2, -1, 0, 1, -1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_against_the_sums_written_out_over_the_labelled_rows(smoothing):
    total = 0.0
    for i in (0, 2, 3, 5):
        wanted = torch.full((3,), smoothing / 3, dtype=torch.float64)
        wanted[TARGETS[i]] += 1 - smoothing
        total -= (wanted * torch.log(LOGITS[i].exp() / LOGITS[i].exp().sum())).sum() / 4
    torch.testing.assert_close(cross_entropy(LOGITS, TARGETS, smoothing), total)


def test_without_a_label_the_loss_and_its_gradient_are_zero():
    logits = LOGITS.clone().requires_grad_()
    value = cross_entropy(logits, torch.full((6,), -1))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="targets: expected integers from -1 to 2, got 3"):
        cross_entropy(LOGITS, TARGETS + 1)
    with pytest.raises(InputError, match="targets: expected one integer for each of the 6 rows"):
        cross_entropy(LOGITS, TARGETS[:5])
    with pytest.raises(InputError, match="logits: 18 of 18 numbers are NaN"):
        cross_entropy(LOGITS * math.nan, TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes: expected a whole number of at least 2, got 1"),
        ({"classes": 3, "label_smoothing": 1.5}, "label_smoothing: expected a number .*, got 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        CrossEntropy(Encoder(), **arguments)


def test_the_method_classifies_one_view(rng):
    method = CrossEntropy(Encoder(), classes=3, label_smoothing=0.2)
    view = torch.randn(6, 1, 4, 4, generator=rng)
    expected = F.cross_entropy(method.classifier(method.encoder(view)), TARGETS, ignore_index=-1, label_smoothing=0.2)
    torch.testing.assert_close(method.loss([view], TARGETS, torch.arange(6)), expected)
    assert method.views == 1


def halves(labelled):
    """Images whose left or right half is bright, by class; only the first `labelled` have a label."""
    classes = torch.arange(40) % 2
    pixels = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    pixels[classes == 0, :, :, :2] = 255
    pixels[classes == 1, :, :, 2:] = 255
    return Images(pixels, torch.where(torch.arange(40) < labelled, classes, -1), ("left", "right"), "halves")


def test_it_learns_from_the_labelled_images_alone(tmp_path):
    images = halves(labelled=4)
    method = CrossEntropy(Encoder(), classes=2, lr=0.1)
    fit(method, images, epochs=5, batch_size=8, seed=0, folder=tmp_path, device="cpu", loggers=())
    pixels, _, _ = images.__getitems__(list(range(40)))
    assert method.classifier(method.encoder(method.view(pixels))).argmax(1).tolist() == [0, 1] * 20


def test_data_without_any_label_is_refused(tmp_path):
    method = CrossEntropy(Encoder(), classes=2)
    with pytest.raises(InputError, match="labels: CrossEntropy needs some, but none of the 40 training images has one"):
        fit(method, halves(labelled=0), epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu", loggers=())


def test_balanced_weights_give_every_class_the_same_share_of_the_loss():
    counts = torch.tensor([60, 30, 0, 10])
    weights = balanced_weights(counts)
    torch.testing.assert_close(weights * counts, torch.tensor([100 / 3, 100 / 3, 0, 100 / 3]))
    assert torch.equal(balanced_weights(torch.tensor([7, 7])), torch.ones(2))
    with pytest.raises(InputError, match="counts: expected a class with labels, got none"):
        balanced_weights(torch.tensor([0, 0]))


def test_with_balanced_weights_the_labels_of_the_training_data_are_counted(tmp_path):
    images = halves(labelled=40)
    images = images.subset(torch.cat([torch.arange(0, 40, 2), torch.arange(1, 11, 2)]))  # 20 and 5
    method = CrossEntropy(Encoder(), classes=2, weights="balanced")
    fit(method, images, epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu", loggers=())
    torch.testing.assert_close(method.class_weights, torch.tensor([0.625, 2.5]))
    view, targets = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, -1])
    losses = F.cross_entropy(method.logits(view)[:2], targets[:2], reduction="none")
    expected = (0.625 * losses[0] + 2.5 * losses[1]) / 3.125
    torch.testing.assert_close(method.loss([view], targets, torch.arange(3)), expected)


def test_without_weights_a_checkpoint_holds_what_it_always_held():
    assert set(CrossEntropy(Encoder(), classes=2).state_dict()) == {
        *("encoder.weight", "encoder.bias", "classifier.weight", "classifier.bias")
    }


def test_mixup_is_the_mixture_of_both_losses_and_leaves_unlabelled_images_alone():
    """The draws are replayed: the share first, then the order of the labelled rows."""
    method = CrossEntropy(Encoder(), classes=3, mixup=0.4)
    view = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(6)
    found = method.loss([view], TARGETS, torch.arange(6))
    torch.manual_seed(6)
    share = torch.distributions.Beta(0.4, 0.4).sample((1,))[0]
    known = torch.tensor([0, 2, 3, 5])
    partner = torch.arange(6)
    partner[known] = known[torch.randperm(4)]
    logits = method.logits(share * view + (1 - share) * view[partner])
    first, second = (F.cross_entropy(logits, y, ignore_index=-1) for y in (TARGETS, TARGETS[partner]))
    torch.testing.assert_close(found, share * first + (1 - share) * second)
    assert partner[1] == 1
    assert not torch.equal(partner, torch.arange(6))


def shares(rank, world):
    torch.manual_seed(rank)
    return _mixtures(torch.ones(3, 2), torch.tensor([0, 1, 0]), 0.4)[2]


@pytest.mark.slow
def test_all_processes_mix_with_one_share_since_each_holds_the_loss_of_the_whole_batch():
    first, second = worlds.run(2, shares)
    assert torch.equal(first, second)
    assert not torch.equal(shares(0, 1), shares(1, 1))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "even"}, "weights 'even' is not known"),
        ({"mixup": -1.0}, "mixup: expected a number of at least 0, got -1"),
    ],
)
def test_weights_and_mixup_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        CrossEntropy(Encoder(), classes=2, **arguments)
