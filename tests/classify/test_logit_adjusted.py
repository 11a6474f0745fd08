"""Logit adjustment: the two forms of its equation, its limits, and the classifier that it is optimal for."""

import math

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from counterpoise.classify.logit_adjusted import LogitAdjusted, LogitAdjustedLoss, class_log_prior, logit_adjusted
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.classifier import cross_entropy
from counterpoise.training.trainer import fit
from worlds import Encoder

COUNTS = torch.tensor([70, 25, 5])
PRIOR = COUNTS.double() / 100


@pytest.fixture
def batch():
    """Logits and targets, two of which have no class."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, generator=rng, dtype=torch.float64), torch.tensor([2, -1, 0, 1, -1, 1])


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_against_both_sides_of_equation_10_over_the_labelled_rows(tau, batch):
    logits, targets = batch
    softmax = margins = 0.0
    for i in (0, 2, 3, 5):
        f, y = logits[i], int(targets[i])
        softmax -= math.log(math.exp(f[y]) * PRIOR[y] ** tau / sum(math.exp(f[k]) * PRIOR[k] ** tau for k in range(3)))
        others = [(PRIOR[k] / PRIOR[y]) ** tau * math.exp(f[k] - f[y]) for k in range(3) if k != y]
        margins += math.log(1 + sum(others))
    found = logit_adjusted(logits, targets, PRIOR.log(), tau).item()
    assert found == pytest.approx(softmax / 4)
    assert found == pytest.approx(margins / 4)


def test_it_is_cross_entropy_for_tau_0_and_for_classes_of_one_size(batch):
    expected = cross_entropy(*batch)
    torch.testing.assert_close(logit_adjusted(*batch, PRIOR.log(), tau=0), expected)
    torch.testing.assert_close(logit_adjusted(*batch, class_log_prior(torch.tensor([9, 9, 9])).double()), expected)


def test_a_constant_added_to_the_log_prior_changes_nothing_so_that_counts_will_do(batch):
    torch.testing.assert_close(
        logit_adjusted(*batch, COUNTS.double().log()), logit_adjusted(*batch, PRIOR.log()), rtol=1e-12, atol=1e-12
    )


def test_the_gradient_of_a_rare_positive_is_larger_than_that_of_a_frequent_one():
    """Of equal logits it is softmax(log-prior) - one-hot: 1 - 0.05 at the rare class, 1 - 0.7 at the frequent one."""
    for target, share in enumerate(PRIOR.tolist()):
        logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        logit_adjusted(logits, torch.tensor([target]), PRIOR.log()).backward()
        assert logits.grad[0, target].item() == pytest.approx(share - 1)


def test_without_a_label_the_loss_and_its_gradient_are_zero(batch):
    logits = batch[0].clone().requires_grad_()
    value = logit_adjusted(logits, torch.full((6,), -1), PRIOR.log())
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_module_is_the_function_with_the_prior_of_its_counts(batch):
    expected = logit_adjusted(*batch, PRIOR.log().float(), tau=1.5)
    torch.testing.assert_close(LogitAdjustedLoss(COUNTS, tau=1.5)(*batch), expected)


def test_a_class_without_labels_counts_as_one_label():
    torch.testing.assert_close(class_log_prior(torch.tensor([3, 0, 1])).exp(), torch.tensor([3.0, 1.0, 1.0]) / 4)


def affine_borders(loss, points, labels):
    """Weights and biases of the affine classifier that minimises a loss, from its optimum as a convex problem."""
    net = nn.Linear(2, 2).double()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(net(points))
        value.backward()
        return value

    optimizer.step(closure)
    return net


def test_on_gaussians_of_unequal_size_it_finds_the_bayes_optimal_balanced_border():
    """Section 6.1 of the paper: means ±(1, 1), 5 % positives; the best balanced border passes through the origin.

    Plain cross-entropy leaves the log-odds of the prior at the origin; what is added to it is taken off by the loss.
    """
    rng = torch.Generator().manual_seed(0)
    counts = torch.tensor([19_000, 1_000])
    labels = torch.arange(2).repeat_interleave(counts)
    points = torch.randn(len(labels), 2, generator=rng, dtype=torch.float64) + (2.0 * labels[:, None] - 1)
    log_prior = class_log_prior(counts).double()

    def lead_at_origin(net):
        return (net.bias[1] - net.bias[0]).item()

    plain = affine_borders(lambda f: cross_entropy(f, labels), points, labels)
    adjusted = affine_borders(lambda f: logit_adjusted(f, labels, log_prior), points, labels)
    assert lead_at_origin(plain) == pytest.approx(math.log(1 / 19), abs=0.3)
    assert lead_at_origin(adjusted) == pytest.approx(0, abs=0.3)
    # The problem is convex, so that training with the loss and adjusting afterwards end at the same classifier.
    assert lead_at_origin(plain) - (log_prior[1] - log_prior[0]).item() == pytest.approx(
        lead_at_origin(adjusted), abs=0.01
    )
    slope = adjusted.weight[1] - adjusted.weight[0]
    torch.testing.assert_close(slope, torch.full((2,), 2.0, dtype=torch.float64), atol=0.2, rtol=0)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(batch):
    logits, targets = batch
    with pytest.raises(InputError, match="log_prior: expected one number for each of 3 classes, got \\[2\\]"):
        logit_adjusted(logits, targets, PRIOR[:2].log())
    with pytest.raises(InputError, match="log_prior: 1 of 3 numbers are NaN or infinite"):
        logit_adjusted(logits, targets, torch.tensor([0.5, 0.5, 0.0]).log())
    with pytest.raises(InputError, match="tau: expected a number of at least 0, got -1"):
        logit_adjusted(logits, targets, PRIOR.log(), tau=-1)
    with pytest.raises(InputError, match="counts: expected labels of at least 2 classes"):
        LogitAdjustedLoss(torch.tensor([5]))
    with pytest.raises(InputError, match="counts: expected integers of at least 0, got -1"):
        class_log_prior(torch.tensor([5, -1]))


def tailed():
    """Images of two classes, 36 and 4, and 8 without a label, in noise that hides which is which now and then."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 36 + [1] * 4 + [-1] * 8)
    pixels = torch.randint(0, 256, (48, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Images(pixels, labels, ("many", "few"), "tailed")


def trained(folder, **arguments):
    torch.manual_seed(0)
    method = LogitAdjusted(Encoder(), classes=2, lr=0.05, **arguments)
    fit(method, tailed(), epochs=2, batch_size=12, seed=0, folder=folder, device="cpu", loggers=())
    return method


@pytest.mark.parametrize("when", ["loss", "posthoc"])
def test_training_counts_the_labels_that_there_are(when, tmp_path):
    torch.testing.assert_close(trained(tmp_path, when=when).log_prior.exp(), torch.tensor([0.9, 0.1]))


def test_the_method_adjusts_in_the_loss_or_afterwards_and_never_twice(tmp_path):
    view, targets = (
        torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 0, 1, 1, -1]),
    )
    for when in ("loss", "posthoc"):
        method = trained(tmp_path / when, when=when, tau=2.0)
        plain = method.classifier(method.encoder(view))
        offset = 2.0 * torch.tensor([0.9, 0.1]).log()
        raised, lowered = (offset, 0) if when == "loss" else (0, offset)
        expected = F.cross_entropy(plain + raised, targets, ignore_index=-1)
        torch.testing.assert_close(method.loss([view], targets, torch.arange(6)), expected)
        torch.testing.assert_close(method.net(view), plain - lowered)


def test_adjusting_afterwards_trains_as_plain_cross_entropy_does(tmp_path):
    adjusted, plain = trained(tmp_path / "a", when="posthoc"), trained(tmp_path / "b", tau=0.0)
    for a, b in zip(adjusted.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    images = tailed()
    more = adjusted.predict(images).argmax(1).sum() - plain.predict(images).argmax(1).sum()
    assert more > 0  # of the rare class


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": -0.1}, "tau: expected a number of at least 0, got -0.1"),
        ({"when": "afterwards"}, "when 'afterwards' is not known"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        LogitAdjusted(Encoder(), classes=2, **arguments)


def own_trainer(method, data):
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(method, DataLoader(data, batch_size=12, collate_fn=lambda batch: batch))


def test_in_a_trainer_of_ones_own_labels_are_counted_or_the_data_refused():
    method = LogitAdjusted(Encoder(), classes=2)
    own_trainer(method, tailed())
    torch.testing.assert_close(method.log_prior.exp(), torch.tensor([0.9, 0.1]))
    with pytest.raises(InputError, match="data: expected a data set with labels to count, got list"):
        own_trainer(LogitAdjusted(Encoder(), classes=2), [(torch.zeros(1, 4, 4), 0, 0)] * 24)
