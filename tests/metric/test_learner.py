"""Batches of several images a class, the embedding that is kept, proxies' learning rate, and what is refused."""

import sys

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.metric import learner
from counterpoise.metric.arcface import ArcFace, ArcFaceLoss
from counterpoise.metric.contrastive import Contrastive
from counterpoise.metric.learner import Embedder, _shared_out, check_pairs, class_batches
from counterpoise.metric.multi_similarity import MultiSimilarity
from counterpoise.metric.proxy_anchor import ProxyAnchor, ProxyAnchorLoss
from counterpoise.metric.triplet import Triplet
from counterpoise.ops.processes import exchanging
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

PIXELS = torch.randint(0, 256, (24, 1, 4, 4), generator=seeded(0), dtype=torch.uint8)
IMAGES = Images(PIXELS, torch.arange(24) % 3, ("a", "b", "c"), "noise")
METHODS = [Triplet, Contrastive, MultiSimilarity, ProxyAnchor, ArcFace]
each = pytest.mark.parametrize("kind", METHODS)


def made(kind, **arguments):
    torch.manual_seed(0)
    classes = {"classes": 3} if kind in (ProxyAnchor, ArcFace) else {}
    return kind(Encoder(features=5), 24, dim=4, **classes, **arguments)


def batch_facts(labels, batches):
    """Of each batch, how many classes it has, and the size of the largest."""
    return [
        (len(batch_labels.unique()), int(batch_labels.bincount().max()))
        for batch_labels in map(labels.__getitem__, batches)
    ]


def test_batches_hold_groups_of_a_class_and_no_image_twice(rng):
    labels = torch.cat([torch.arange(40) % 7, torch.tensor([-1, -1, 99])])  # 99 stands alone
    order = torch.randperm(43, generator=rng)
    batches = class_batches(labels, order, batch_size=12, per_class=3)
    assert [len(batch) for batch in batches] == [12] * 3
    used = [i for batch in batches for i in batch]
    assert len(set(used)) == len(used)
    assert not {-1, 99} & {*labels[used].tolist()}
    assert min(largest for _, largest in batch_facts(labels, batches)) >= 2
    assert batches != class_batches(labels, order.flip(0), batch_size=12, per_class=3)


def test_every_image_of_full_groups_is_used(rng):
    labels = torch.arange(24) % 3
    batches = class_batches(labels, torch.randperm(24, generator=rng), batch_size=8, per_class=4)
    assert sorted(i for batch in batches for i in batch) == list(range(24))
    assert [len(batch) for batch in batches] == [8] * 3


def test_sizes_that_divide_evenly_give_groups_in_the_order_of_their_first_images(rng):
    labels, order = torch.arange(640) % 10, torch.randperm(640, generator=rng)
    groups = [part.tolist() for c in range(10) for part in order[labels[order] == c].split(4)]
    place = order.argsort()
    stream = [i for group in sorted(groups, key=lambda g: place[g[0]]) for i in group]
    assert class_batches(labels, order, 128, 4) == [stream[n : n + 128] for n in range(0, 640, 128)]


@pytest.mark.parametrize("per_class", [2, 3, 4, 7])
@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 9, 11, 15, 30])
def test_no_batch_is_too_large_or_of_one_class_and_an_epoch_loses_its_last_batch_alone(size, per_class, rng):
    for labels in (torch.arange(10).repeat_interleave(8), torch.arange(100) % 7, torch.arange(90).sqrt().long()):
        order = torch.randperm(len(labels), generator=rng)
        batches = class_batches(labels, order, size, per_class)
        assert all(len(batch) == size for batch in batches[:-1])
        assert len(batches[-1]) <= size
        assert all(classes > 1 and largest > 1 for classes, largest in batch_facts(labels, batches))
        used = [i for batch in batches for i in batch]
        able = int((labels.bincount()[labels] > 1).sum())
        assert len(used) == len({*used}) > able - size


def test_a_batch_of_one_class_changes_places_with_others(rng):
    """Of two classes, one of them small, each image of the small one is a negative in a batch of its own."""
    labels = torch.tensor([0] * 100 + [1] * 8)
    for _ in range(5):
        batches = class_batches(labels, torch.randperm(108, generator=rng), 8, 4)
        assert len(batches) >= 5  # two, if those that hold the small class were left as they are
        assert all(facts[0] == 2 for facts in batch_facts(labels, batches))


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int32, torch.uint32])
@pytest.mark.usefixtures("plain_shapes")
def test_labels_of_any_integer_type_make_the_same_batches(kind, rng):
    labels, order = torch.arange(40) % 5, torch.randperm(40, generator=rng)
    assert class_batches(labels.to(kind), order, 8, 4) == class_batches(labels, order, 8, 4)


@pytest.mark.parametrize(("shares", "size"), [(2, 10), (2, 9), (3, 14), (4, 19)])
def test_batches_of_processes_apart_are_shared_out(shares, size, rng):
    labels, order = torch.arange(10).repeat_interleave(8), torch.randperm(80, generator=rng)
    single = class_batches(labels, order, size // shares, 4)
    batches = _shared_out(single, shares, size, 80 // size)
    assert [len(batch) for batch in batches] == [size] * (80 // size)
    assert len({i for batch in batches for i in batch}) == 80 // size * size
    taken = [batch[rank::shares][: size // shares] for batch in batches for rank in range(shares)]
    assert taken == single[: len(taken)]
    with pytest.raises(InputError, match="batch_size: the labelled images make 2 batches with pairs for 3 processes"):
        _shared_out([[0, 1], [2, 3]], 3, 6, 9)


def test_processes_that_exchange_no_rows_get_pairs_each(monkeypatch, rng):
    method = made(Triplet)
    method.class_of.copy_(IMAGES.labels)
    monkeypatch.setattr(learner.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(learner.dist, "get_world_size", lambda: 3)
    order = torch.randperm(24, generator=rng)
    with exchanging("none"):
        batches = method.batches(order, 12)
        for rank in range(3):
            assert all(
                classes > 1 and largest > 1
                for classes, largest in batch_facts(IMAGES.labels, [b[rank::3] for b in batches])
            )
        with pytest.raises(
            InputError, match=r"batch_size: expected at least 4 images for each of 3 processes, .* got 8"
        ):
            method.batches(order, 8)
    assert method.batches(order, 8) == class_batches(IMAGES.labels, order, 8, 4)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        (
            torch.arange(20) % 4,
            2,
            "batch_size: expected at least 4 for 2 images of each of 2 classes, got 2; .* per_class 4",
        ),
        (torch.arange(20) % 4, 3, "got 3"),
        (torch.arange(20) % 4, 4.0, "batch_size: expected a whole number"),
        (torch.full((20,), -1), 8, "0 labelled images of 0 classes make no such batch"),
        (torch.arange(20), 8, "20 labelled images of 20 classes make no such batch"),
        (torch.zeros(20).long(), 8, "20 labelled images of 1 classes make no such batch"),
        (torch.full((20,), -2), 8, "labels: expected integers of at least -1, got -2"),
    ],
)
def test_what_makes_no_batch_with_both_kinds_of_pairs_is_refused(labels, size, message):
    with pytest.raises(InputError, match=message):
        class_batches(labels, torch.arange(20), size, 4)


def with_proxies(loss, method):
    """A loss of pytorch-metric-learning with the proxies of a method."""
    (own,), (proxies,) = loss.parameters(), method.objective.parameters()
    own.data.copy_(proxies)
    return loss


@pytest.mark.parametrize("kind", [ProxyAnchorLoss, ArcFaceLoss])
def test_a_checkpoint_with_the_proxies_in_the_loss_itself_is_loaded(kind):
    old, new = kind(classes=3, dim=4), kind(classes=3, dim=4)
    (name,) = dict(old.objective.named_parameters())
    for wrap, prefix in ((lambda loss: loss, ""), (lambda loss: nn.ModuleDict({"objective": loss}), "objective.")):
        assert str(wrap(new).load_state_dict({prefix + name: old.proxies})) == "<All keys matched successfully>"
        assert torch.equal(new.proxies, old.proxies)
        new.proxies.data.zero_()
        wrap(new).load_state_dict(wrap(old).state_dict())
        assert torch.equal(new.proxies, old.proxies)


@pytest.mark.parametrize("kind", [ProxyAnchorLoss, ArcFaceLoss])
def test_a_loss_with_proxies_is_built_alone_and_refuses_what_has_none(kind):
    loss, z = kind(classes=3, dim=4), torch.eye(4)
    torch.testing.assert_close(loss(z, torch.tensor([0, 1, 2, -1])), loss(z[:3], torch.arange(3)))
    with pytest.raises(InputError, match=r"labels: expected integers .*, got 3"):
        loss(z, torch.arange(4))
    for wrong in ({"classes": 1}, {"dim": 0}, {"margin": -1.0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected"):
            kind(**{"classes": 3, "dim": 4, **wrong})


@each
def test_the_loss_is_pytorch_metric_learning_s_of_the_embeddings(kind, rng):
    method = made(kind)
    labels = torch.arange(12) % 3
    view = torch.randn(12, 1, 4, 4, generator=rng)
    z = method.encoder(view)
    assert isinstance(method.encoder, Embedder)
    assert z.shape == (12, method.features) == (12, method.encoder.features)
    expected = {
        Triplet: lambda: losses.TripletMarginLoss(0.2)(
            z, labels, miners.TripletMarginMiner(0.2, "semihard")(z, labels)
        ),
        Contrastive: lambda: losses.ContrastiveLoss(0, 0.5)(z, labels),
        MultiSimilarity: lambda: losses.MultiSimilarityLoss(2, 50, 0.5)(
            z, labels, miners.MultiSimilarityMiner(0.1)(z, labels)
        ),
        ProxyAnchor: lambda: with_proxies(losses.ProxyAnchorLoss(3, method.features, 0.1, 32.0), method)(z, labels),
        ArcFace: lambda: with_proxies(losses.ArcFaceLoss(3, method.features, 28.6, 64.0), method)(z, labels),
    }[kind]()
    torch.testing.assert_close(method.loss([view], labels, torch.arange(12)), expected)
    with_unlabelled = torch.cat([labels, torch.tensor([-1, -1])])
    more = torch.cat([view, torch.randn(2, 1, 4, 4, generator=rng)])
    torch.testing.assert_close(method.loss([more], with_unlabelled, torch.arange(14)), expected)


@pytest.mark.slow
@each
def test_training_brings_classes_together(kind, tmp_path, rng):
    """Classes of one pixel each: after a few epochs, images find their own class."""
    pixels = torch.randint(0, 100, (48, 1, 4, 4), generator=rng, dtype=torch.uint8)
    labels = torch.arange(48) % 3
    pixels.view(48, -1)[torch.arange(48), labels] = 255
    images = Images(pixels, labels, ("a", "b", "c"), "dots")
    torch.manual_seed(0)
    classes = {"classes": 3} if kind in (ProxyAnchor, ArcFace) else {}
    method = kind(Encoder(features=5), 48, dim=4, lr=0.02, **classes)
    fit(method, images, epochs=15, batch_size=24, seed=0, folder=tmp_path, device="cpu")
    z = nn.functional.normalize(method.encoder(method.view(pixels)), dim=1).detach()
    cosine = (z @ z.T).fill_diagonal_(-2)
    assert (labels[cosine.argmax(1)] == labels).float().mean() > 0.9


@pytest.mark.parametrize("kind", [ProxyAnchor, ArcFace])
def test_proxies_learn_at_a_rate_of_their_own(kind):
    method = made(kind, proxy_lr=0.5, lr=0.1)
    groups = method.parameter_groups()
    assert [len(group["params"]) for group in groups] == [2, 2, 1]
    assert groups[2]["lr"] == 0.5
    assert groups[2]["params"][0] is next(method.objective.parameters())


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(monkeypatch, rng):
    with pytest.raises(
        InputError, match="labels: expected 2 of one class in the batch, for a pair, got 3 different ones"
    ):
        check_pairs(torch.tensor([2, 0, 1]))
    view = torch.randn(3, 1, 4, 4, generator=rng)
    for kind in (Triplet, Contrastive, MultiSimilarity):
        with pytest.raises(InputError, match="for a pair, got 3 different ones"):
            made(kind).loss([view], torch.arange(3), torch.arange(3))
        with pytest.raises(InputError, match="for a negative pair, got 3 rows of one"):
            made(kind).loss([view], torch.ones(3).long(), torch.arange(3))
    for kind, wrong in (
        (Triplet, {"margin": 0}),
        (Contrastive, {"margin": 3}),
        (MultiSimilarity, {"beta": 0}),
        (ProxyAnchor, {"alpha": -1}),
        (ArcFace, {"scale": 0}),
        (ArcFace, {"proxy_lr": 0}),
        (Triplet, {"per_class": 1}),
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            made(kind, **wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, -1], "a class with at least 2 training images, got none; the largest, 'a', has 1: no positive pair"),
        ([-1, -1, -1, -1], "a class with at least 2 training images, got none; the largest, 'a', has 0"),
        ([1, 1, 1, 1], "at least 2 classes with 2 training images, got 1 of 1: no negative pair"),
        ([1, 1, 1, 0], "at least 2 classes with 2 training images, got 1 of 2: no negative pair"),
    ],
)
def test_images_without_pairs_are_refused_before_training(labels, message):
    images = Images(PIXELS[:4], torch.tensor(labels), ("a", "b", "c"), "noise")
    for refuse in (Triplet(Encoder(features=5), 4).check_data, Triplet(Encoder(features=5), 4).start_epoch):
        with pytest.raises(InputError, match=message):
            refuse(images, 0)


def test_a_batch_too_small_for_two_classes_is_refused_before_training():
    with pytest.raises(InputError, match=r"batch_size: expected at least 4 .* got 3"):
        made(Triplet).check_data(IMAGES, 3)
    with pytest.raises(InputError, match="batch_size: expected at least 4 images for each of 2 processes"):
        made(Triplet).check_data(IMAGES, 6, shares=2)
    with pytest.raises(InputError, match="samples: expected the number of training images, 24, got 20"):
        Triplet(Encoder(features=5), 20).check_data(IMAGES, 8)
    made(Triplet).check_data(IMAGES, 8, shares=2)


def test_images_for_which_there_is_no_negative_are_counted(rng):
    method = Triplet(Encoder(features=5), 102)
    method.class_of.copy_(torch.tensor([0] * 100 + [1] * 2))
    with pytest.warns(
        UserWarning, match=r"\d\d of 102 images are left out of the first epoch: too few images of other"
    ):
        batches = method.batches(torch.randperm(102, generator=rng), 8)
    assert all(facts[0] == 2 for facts in batch_facts(method.class_of, batches))


@pytest.mark.parametrize("kind", [ProxyAnchor, ArcFace])
def test_a_class_without_a_proxy_is_refused(kind):
    more = Images(PIXELS, torch.arange(24) % 4, ("a", "b", "c", "d"), "noise")
    with pytest.raises(InputError, match="classes: expected the number of the labels' classes, at least 4, got 3"):
        made(kind).start_epoch(more, 0)


def test_images_alone_in_their_class_are_counted():
    images = Images(PIXELS[:6], torch.tensor([0, 0, 1, 1, 2, 3]), ("a", "b", "c", "d"), "noise")
    with pytest.warns(UserWarning, match="2 of 6 training images are not used: each is alone in its class"):
        Triplet(Encoder(features=5), 6).start_epoch(images, 0)


@pytest.mark.parametrize("kind", [Triplet, MultiSimilarity, Contrastive])
def test_batches_as_large_as_a_class_s_group_train(kind, tmp_path):
    """With batch_size = per_class each batch would be of one class, and the loss 0."""
    rows = fit(made(kind), IMAGES, epochs=2, batch_size=4, seed=0, folder=tmp_path, device="cpu")
    assert all(row["loss"] > 0 for row in rows)


def test_without_pytorch_metric_learning_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pytorch_metric_learning")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'counterpoise\[metric\]'"):
        made(Triplet)
