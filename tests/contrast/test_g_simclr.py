"""G-SimCLR: which images meet in a batch, the auto-encoder, the clusters, and the loss, which is SimCLR's."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import tensor
from torch.utils.data import DataLoader

from counterpoise.contrast import g_simclr
from counterpoise.contrast.g_simclr import (
    DenoisingAutoencoder,
    GSimCLR,
    PseudoLabelBatchSampler,
    guided_batches,
    same_class_share,
    train_autoencoder,
)
from counterpoise.contrast.simclr import nt_xent
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.training.run import ImageSettings, Run
from counterpoise.training.trainer import fit
from worlds import Encoder, build

UNEQUAL = torch.tensor([0] * 3 + [1] * 12 + [2] * 6 + [3] * 7 + [4] * 5)  # 33 images
UNEQUAL = UNEQUAL[torch.randperm(33, generator=torch.Generator().manual_seed(0))]


def shuffled(n, seed=1):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def flat(batches):
    return [index for batch in batches for index in batch]


def distinct(batches, labels):
    """Of each batch, whether no label occurs twice."""
    return [len(labels[batch].unique()) == len(batch) for batch in batches]


@pytest.mark.parametrize("batch_size", [2, 3, 5, 6])
def test_equal_clusters_meet_in_every_batch_and_every_image_comes_once(batch_size):
    labels = torch.arange(60) % 6
    for epoch in range(3):
        batches = guided_batches(labels, shuffled(60, epoch), batch_size, strict=True)
        assert all(distinct(batches, labels))
        assert sorted(flat(batches)) == list(range(60))


def test_unequal_clusters_are_kept_apart_while_the_smallest_lasts():
    """In the order of the images, so that batches come in the order of their ranks."""
    batches = guided_batches(UNEQUAL, torch.arange(33), batch_size=5)
    assert distinct(batches, UNEQUAL) == [True] * 3 + [False] * 3
    assert len(set(flat(batches))) == 30


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(3))
def test_strict_batches_never_repeat_a_label(batch_size, seed):
    batches = guided_batches(UNEQUAL, shuffled(33, seed), batch_size, strict=True)
    assert all(distinct(batches, UNEQUAL))
    # Ranks that at least batch_size of the sizes 12, 7, 6, 5, 3 reach, with as many images as have those ranks.
    reach = [7, 6, 5, 3][batch_size - 2]
    assert len(batches) == sum(min(size, reach) for size in (12, 7, 6, 5, 3)) // batch_size


def test_released_order():
    """At rank t come the clusters of at least t images, each with its t-th image, in the order of the labels."""
    sequence = flat(guided_batches(UNEQUAL, torch.arange(33), batch_size=1))
    expected = []
    for t in range(12):
        for label in range(5):
            members = (label == UNEQUAL).nonzero().flatten().tolist()
            expected += members[t : t + 1]
    assert sequence == expected


def test_order_decides_ranks_clusters_and_batches():
    labels = torch.arange(400) % 20
    many = [guided_batches(labels, shuffled(400, seed), 10) for seed in range(200)]
    firsts = torch.tensor([batches[0] for batches in many])
    assert firsts[:, 0].float().mean().item() == pytest.approx(199.5, abs=4 * 115 / math.sqrt(200))
    assert (labels[firsts[:, :1]] != labels[firsts[:, 1:]]).all()
    together = (labels[firsts] == 0).any(1) & (labels[firsts] == 1).any(1)  # 9/38 of batches hold both
    assert together.float().mean().item() == pytest.approx(9 / 38, abs=4 * math.sqrt(9 / 38 * 29 / 38 / 200))
    assert torch.equal(torch.tensor(many[0]), torch.tensor(guided_batches(labels, shuffled(400, 0), 10)))


@pytest.mark.parametrize(
    "alone", [torch.arange(9), torch.full((9,), -1), torch.tensor([0, 1, 2, 3, -1, -1, -1, -1, -1])]
)
def test_single_images_are_divided_as_they_come(alone):
    assert flat(guided_batches(alone, torch.arange(9), 3)) == list(range(9))
    assert sorted(flat(guided_batches(alone, shuffled(9), 3, strict=True))) == list(range(9))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_share_of_pairs_of_one_class_with_pure_equal_clusters(parts):
    """Of C classes in k = b clusters each batch holds b/C images a class: (b/C - 1)/(b - 1) of the pairs."""
    classes, batch = 5, 5 * parts
    clusters = torch.arange(batch * 8) % batch
    batches = guided_batches(clusters, shuffled(batch * 8), batch)
    expected = (batch / classes - 1) / (batch - 1)
    assert same_class_share(batches, clusters % classes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("strict", [False, True])
def test_sampler(strict):
    sampler = PseudoLabelBatchSampler(UNEQUAL, 4, strict=strict, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again
    assert first != second
    assert len(sampler) == len(first) == len(second) == (5 if strict else 8)
    assert list(PseudoLabelBatchSampler(UNEQUAL, 4, strict=strict, seed=4)) != first
    fixed = PseudoLabelBatchSampler(UNEQUAL, 4, shuffle=False, strict=strict)
    fixed.set_epoch(5)
    assert list(fixed) == guided_batches(UNEQUAL, torch.arange(33), 4, strict)
    loaded = [batch.tolist() for batch in DataLoader(torch.arange(33), batch_sampler=sampler)]
    assert loaded == second


def test_a_share_of_every_batch_keeps_labels_apart():
    """Several processes: they are apart in the batch that is divided, so in each share, too."""
    sampler = PseudoLabelBatchSampler(torch.arange(64) % 8, 8)
    for batch in sampler:
        assert not set(batch[0::2]) & set(batch[1::2])
        assert distinct([batch], torch.arange(64) % 8) == [True]


@pytest.mark.parametrize("size", [32, 28, 9])
def test_autoencoder_gives_images_of_the_same_size_in_the_unit_interval(size):
    torch.manual_seed(0)
    autoencoder, images = DenoisingAutoencoder(3, noise=0.5), torch.rand(4, 3, size, size)
    rebuilt = autoencoder.eval()(images)
    assert rebuilt.shape == images.shape
    assert 0 < rebuilt.min() < rebuilt.max() < 1
    assert torch.equal(autoencoder(images), rebuilt)
    assert torch.allclose(autoencoder.codes(images), autoencoder.encoder(images).flatten(2).mean(2))
    state = copy.deepcopy(autoencoder.train().state_dict())
    noisy = autoencoder(images)
    autoencoder.load_state_dict(state)
    assert not torch.equal(autoencoder(images), noisy)
    silent = DenoisingAutoencoder(3, noise=0)
    assert torch.equal(silent(images), silent(images))  # in training, batch statistics are the same


def test_the_noise_is_gaussian_and_of_the_size_that_is_asked_for():
    autoencoder, images, seen = DenoisingAutoencoder(1, noise=0.2), torch.rand(8, 1, 32, 32), []
    autoencoder.encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    autoencoder(images)
    noise = (seen[0] - images).flatten()
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert (noise.abs() < 0.2).float().mean() == pytest.approx(0.683, abs=0.02)


@pytest.fixture(scope="module")
def images():
    """Three classes that differ in where they are bright."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    pixels = torch.randint(0, 90, (90, 1, 16, 16), generator=rng, dtype=torch.uint8)
    for i, y in enumerate(labels.tolist()):
        pixels[i, :, 5 * y : 5 * y + 6] += 150
    return Images(pixels, labels, ("top", "middle", "bottom"), "bars")


@pytest.mark.slow
def test_the_autoencoder_learns_to_rebuild(images):
    def error(epochs):
        torch.manual_seed(0)
        clean = images.pixels.float() / 255
        return (train_autoencoder(images, epochs, batch_size=16)(clean) - clean).square().mean().item()

    assert error(5) < 0.7 * error(1)


@pytest.mark.slow
def test_the_autoencoder_keeps_the_weights_that_rebuild_held_out_images_best(images, monkeypatch):
    true_error = g_simclr._error

    def trained(epochs, held_out):
        """With these errors on what is held out, epoch by epoch."""
        errors = iter(held_out)
        monkeypatch.setattr(
            g_simclr, "_error", lambda net, *given: true_error(net, *given) if net.training else tensor(next(errors))
        )
        torch.manual_seed(0)
        return train_autoencoder(images, epochs).state_dict(), len(list(errors))

    best, _ = trained(2, [3.0, 2.0])
    stopped, left = trained(9, [3.0, 2.0, 5.0, 4.0, 1.0])
    assert left == 1
    assert all(torch.equal(stopped[name], best[name]) for name in best)
    later, _ = trained(5, [3.0, 2.0, 5.0, 1.0, 4.0])
    assert not torch.equal(later["pixels.weight"], best["pixels.weight"])


def method(samples=90, **options):
    torch.manual_seed(0)
    return GSimCLR(Encoder(256, features=6), samples, **options)


def test_the_loss_is_nt_xent_of_the_projections():
    made = method(temperature=0.3)
    views = [torch.randn(7, 1, 16, 16) for _ in range(2)]
    z1, z2 = (made.head(made.encoder(view)) for view in views)
    expected = nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(made.loss(views, torch.full((7,), -1), torch.arange(7)), expected)


@pytest.mark.slow
def test_pseudo_labels_are_found_once_and_decide_the_batches(images, tmp_path):
    made = method(clusters=3, autoencoder_epochs=4)
    fit(made, images, epochs=2, batch_size=3, seed=0, folder=tmp_path, device="cpu")
    found = made.pseudo_labels.clone()
    assert len(set(zip(images.labels.tolist(), found.tolist(), strict=True))) == 3  # the three classes
    made.start_epoch(images, 1)
    assert torch.equal(made.pseudo_labels, found)
    assert made.diagnostics(images, images, images) == {"used": 1.0, "same_class": 0.0}
    batches = made.batches(shuffled(90), 3)
    assert batches == guided_batches(found, shuffled(90), 3)
    made.shuffle = False
    assert made.batches(shuffled(90), 3) == guided_batches(found, torch.arange(90), 3)


def test_the_guides(images):
    none, classes = method(guide="none"), method(guide="classes", strict=True)
    for made in (none, classes):
        made.start_epoch(images, 0)
    assert all(distinct(classes.batches(shuffled(90), 3), images.labels))
    assert flat(none.batches(torch.arange(90), 9)) == list(range(90))
    none.batch_size.fill_(30)
    random = none.diagnostics(images, images, images)
    assert random["same_class"] == pytest.approx(29 / 89, abs=0.05)
    classes.batch_size.fill_(2)
    assert classes.diagnostics(images.subset(torch.arange(90)), images, images)["same_class"] == 0
    unlabelled = Images(images.pixels, torch.full((90,), -1), (), "unlabelled")
    assert none.diagnostics(unlabelled, images, images) == {"used": 1.0}


def test_strict_epochs_report_what_they_leave_out():
    made = method(samples=33, strict=True)
    made.pseudo_labels.copy_(UNEQUAL)
    made.batch_size.fill_(5)
    images = Images(torch.zeros(33, 1, 16, 16, dtype=torch.uint8), torch.full((33,), -1), (), "blank")
    assert made.diagnostics(images, images, images) == {"used": 15 / 33}


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(images):
    with pytest.raises(InputError, match=r"labels: expected integers, got torch\.float32"):
        guided_batches(torch.ones(3), torch.arange(3), 2)
    with pytest.raises(InputError, match=r"labels: expected one integer for each of the 4 rows, got shape \[3\]"):
        guided_batches(torch.ones(3).long(), torch.arange(4), 2)
    with pytest.raises(InputError, match="batch_size: expected at most the 5 pseudo-labels, if strict, got 6"):
        guided_batches(UNEQUAL, torch.arange(33), 6, strict=True)
    with pytest.raises(InputError, match="batch_size: expected at most the 1 pseudo-labels, if strict, got 2"):
        PseudoLabelBatchSampler(torch.zeros(8).long(), 2, strict=True)
    with pytest.raises(InputError, match="batch_size: expected a whole number of at least 1, got 0"):
        PseudoLabelBatchSampler(UNEQUAL, 0)
    with pytest.raises(InputError, match="clusters: expected a whole number of at least 1 and of at most 90, got 91"):
        method(clusters=91)
    with pytest.raises(InputError, match="clusters: expected a whole number of at least 1 and of at most 90, got 0"):
        method(clusters=0)
    with pytest.raises(InputError, match="noise: expected a number of at least 0, got -1"):
        method(noise=-1)
    with pytest.raises(InputError, match="guide 'code' is not known; did you mean 'codes'"):
        method(guide="code")
    with pytest.raises(InputError, match="autoencoder_epochs: expected a whole number of at least 1, got 0"):
        method(autoencoder_epochs=0)
    with pytest.raises(InputError, match="images: expected a number of at least 2, got 1"):
        train_autoencoder(images.subset(torch.arange(1)), 1)
    for device in ("gpu", "meta", 1.5):
        with pytest.raises(InputError, match=f"device: expected a device of torch .* got .?{device}"):
            train_autoencoder(images, 1, device=device)


def test_no_pair_is_no_pair_of_one_class():
    assert same_class_share([], torch.arange(4)) == 0
    assert same_class_share([[0], [3], []], torch.zeros(4, dtype=torch.int64)) == 0


def test_by_default_there_are_as_many_clusters_as_images_in_a_batch(images):
    """The authors' choice; the tasks know the batch size, and nobody else may fill it in."""
    run = Run("g-simclr", "noise", settings=ImageSettings(batch_size=12))
    assert build(run, images).clusters == 12
    assert build(replace(run, settings=ImageSettings(batch_size=256)), images).clusters == 90
    assert build(replace(run, arguments={"clusters": 5}), images).clusters == 5
    assert method().clusters == 64  # by itself, with the authors' batches
    with pytest.raises(InputError, match="argument of g-simclr 'batch_size' is not known"):
        build(replace(run, arguments={"batch_size": 5}), images)


@pytest.mark.usefixtures("plain_shapes")
def test_an_order_that_is_none_is_refused():
    for order in (torch.zeros(33, dtype=torch.int64), torch.arange(1, 34), torch.arange(33) - 1):
        with pytest.raises(InputError, match="order: expected"):
            guided_batches(UNEQUAL, order, 5)
    with pytest.raises(InputError, match="labels: expected at least 1, got none"):
        PseudoLabelBatchSampler(UNEQUAL[:0], 5)
