"""FixMatch: its equation, what the threshold leaves out, its batches and views, and the averaged network."""

import pytest
import torch
from torch.nn import functional as F

from counterpoise.classify.fixmatch import FixMatch, FixMatchLoss, fixmatch_loss
from counterpoise.data import Images
from counterpoise.data.views import Views
from counterpoise.errors import InputError
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, -1, -1, 0, -1, -1])
POOL = TARGETS < 0


def scores(seed):
    return 3 * torch.randn(6, 4, generator=seeded(seed), dtype=torch.float64)


def images(labels, generator):
    pixels = torch.randint(0, 256, (len(labels), 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), tuple("abcd"), "noise")


def method(samples=6, **changes):
    return FixMatch(Encoder(), classes=4, samples=samples, **changes)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.95])
@pytest.mark.parametrize("coefficient", [1.0, 0.3])
def test_against_the_equation_row_by_row(threshold, coefficient):
    weak, strong = scores(0), scores(1)
    first = sum(-weak[i].log_softmax(0)[TARGETS[i]] for i in (0, 3)) / 2
    second, sure = 0.0, 0
    for i in (1, 2, 4, 5):
        p = weak[i].softmax(0)
        if p.max() >= threshold:
            second, sure = second - strong[i].log_softmax(0)[int(p.argmax())], sure + 1
    assert threshold == 0 or sure < 4  # else the threshold shows nothing
    expected = first + coefficient * second / 4  # of all that are unlabelled, not of the sure ones
    torch.testing.assert_close(fixmatch_loss(weak, strong, TARGETS, threshold, coefficient), expected)
    torch.testing.assert_close(FixMatchLoss(threshold, coefficient)(weak, strong, TARGETS), expected)


def test_equal_probabilities_by_hand():
    """Of 4 classes a half sure row: the label has half of the mass, so the threshold divides at 1/2."""
    weak = torch.tensor([[3.0, 1.0, 1.0, 1.0]]).log()
    strong = torch.zeros(1, 4)
    for threshold, expected in ((0.499, 4.0), (0.501, 1.0)):
        loss = fixmatch_loss(weak, strong, torch.tensor([-1]), threshold)
        torch.testing.assert_close(loss.exp(), torch.tensor(expected))


def test_the_pseudo_label_is_a_constant_and_labelled_rows_have_no_strong_view():
    weak, strong = scores(0).requires_grad_(), scores(1).requires_grad_()
    by_weak, by_strong = torch.autograd.grad(fixmatch_loss(weak, strong, TARGETS, 0.0), [weak, strong])
    assert (by_weak[POOL] == 0).all()
    assert (by_strong[~POOL] == 0).all()
    assert (by_weak[~POOL].abs().amax(1) > 0).all()
    assert (by_strong[POOL].abs().amax(1) > 0).all()
    assert torch.autograd.gradcheck(lambda x, y: fixmatch_loss(x, y, TARGETS, 0.5), [weak, strong])


def test_without_the_pool_it_is_cross_entropy():
    weak, strong = scores(0), scores(1)
    known = F.cross_entropy(weak[~POOL], TARGETS[~POOL])
    torch.testing.assert_close(fixmatch_loss(weak, strong, TARGETS, coefficient=0.0), known)
    torch.testing.assert_close(fixmatch_loss(weak[~POOL], strong[~POOL], TARGETS[~POOL]), known)


def test_the_method_is_the_equation_of_its_two_views(rng):
    learner = method(threshold=0.3, coefficient=2.0)
    weak, strong = torch.randn(2, 6, 1, 4, 4, generator=rng)
    expected = fixmatch_loss(learner.logits(weak), learner.logits(strong), TARGETS, 0.3, 2.0)
    torch.testing.assert_close(learner.loss([weak, strong], TARGETS, torch.arange(6)), expected)


def test_its_views_are_a_mild_and_a_random_one(rng):
    class Dark(Views):
        def forward(self, images, generator=None):
            return torch.full((len(images), 1, 4, 4), -1.0)

    learner = method(augment=Dark(4))
    pixels = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    weak, strong = learner.views_of(pixels, TARGETS[:2], torch.arange(2))
    torch.testing.assert_close(weak, torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(strong, -torch.ones(2, 1, 4, 4))


def test_a_batch_has_the_ratio_of_both_pools(rng):
    data = images([0, 1, 2, 3] + [-1] * 36, rng)
    learner = method(samples=40, ratio=3.0)
    learner.start_epoch(data, 0)
    for batch in learner.batches(torch.randperm(40, generator=rng), 8):
        assert (data.labels[batch] >= 0).tolist() == [True] * 2 + [False] * 6


def test_data_without_a_pool_is_warned_of(rng):
    with pytest.warns(UserWarning, match="all training images have a label"):
        method(samples=2).start_epoch(images([0, 1], rng), 0)


@pytest.mark.parametrize("average", [0.0, 0.75])
def test_the_network_that_is_kept_is_the_averaged_one(average, rng, tmp_path):
    data = images([0, 1, 2, 3] + [-1] * 4, rng)
    torch.manual_seed(0)
    learner = method(samples=8, ratio=1.0, average=average)
    before = learner.net.encoder.weight.detach().clone()
    fit(learner, data, epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu")  # one step
    after = learner.encoder.weight.detach()
    assert not torch.equal(before, after)
    torch.testing.assert_close(learner.net.encoder.weight.detach(), average * before + (1 - average) * after)
    assert {name.split(".")[0] for name in learner.net.state_dict()} == {"encoder", "classifier"}
    torch.testing.assert_close(
        learner.predict(data), learner.net.eval()(data.pixels / 127.5 - 1).log_softmax(1).detach()
    )


def test_how_many_are_sure_in_the_end(rng):
    data = images([0, -1, -1, -1, -1], rng)
    learner = method(samples=5, threshold=0.3)
    confidence = learner.predict(data).exp().amax(1)[1:]
    assert (confidence >= 0.3).any()
    assert learner.diagnostics(data, data, data) == {"sure": float((confidence >= 0.3).double().mean())}
    assert method(samples=1).diagnostics(*[data.subset(torch.tensor([0]))] * 3) == {}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"threshold": 1.1}, "threshold: expected a number of at least 0 and of at most 1, got 1.1"),
        ({"coefficient": -1.0}, "coefficient: expected a number of at least 0, got -1"),
        ({"ratio": 0.0}, "ratio: expected a number above 0, got 0"),
        ({"average": 1.0}, "average: expected a number of at least 0 and below 1, got 1"),
    ],
)
def test_what_the_method_refuses(arguments, named):
    with pytest.raises(InputError, match=named):
        method(**arguments)
