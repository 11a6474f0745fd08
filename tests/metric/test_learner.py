"""Batches of several images a class, the embedding that is kept, proxies' learning rate, and what is refused."""

import sys

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.fitting import fit
from counterpoise.metric.arcface import ArcFace
from counterpoise.metric.contrastive import Contrastive
from counterpoise.metric.learner import Embedder, check_pairs, class_batches
from counterpoise.metric.multi_similarity import MultiSimilarity
from counterpoise.metric.proxy_anchor import ProxyAnchor
from counterpoise.metric.triplet import Triplet

rng = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (24, 1, 4, 4), generator=rng, dtype=torch.uint8)
IMAGES = Images(PIXELS, torch.arange(24) % 3, ("a", "b", "c"), "noise")
METHODS = [Triplet, Contrastive, MultiSimilarity, ProxyAnchor, ArcFace]
each = pytest.mark.parametrize("kind", METHODS)


class Encoder(nn.Linear):
    features = 5

    def __init__(self):
        super().__init__(16, 5)

    def forward(self, images):
        return super().forward(images.flatten(1))


def made(kind, **arguments):
    torch.manual_seed(0)
    classes = {"classes": 3} if kind in (ProxyAnchor, ArcFace) else {}
    return kind(Encoder(), 24, dim=4, **classes, **arguments)


def test_batches_hold_groups_of_a_class_and_no_image_twice():
    labels = torch.cat([torch.arange(40) % 7, torch.tensor([-1, -1, 99])])  # 99 stands alone
    order = torch.randperm(43, generator=rng)
    batches = class_batches(labels, order, batch_size=12, per_class=3)
    assert len(batches) <= 43 // 12
    used = [i for batch in batches for i in batch]
    assert len(set(used)) == len(used)
    for batch in batches:
        assert len(batch) <= 12
        for label in labels[batch].unique():
            assert label not in (-1, 99)
            assert (labels[batch] == label).sum() >= 2
    assert batches != class_batches(labels, order.flip(0), batch_size=12, per_class=3)
    assert class_batches(torch.arange(5), torch.arange(5), 4, 2) == []
    assert class_batches(torch.tensor([3, 3]), torch.arange(2), 16, 4) == [[0, 1]]


def test_every_image_of_full_groups_is_used():
    labels = torch.arange(24) % 3
    batches = class_batches(labels, torch.randperm(24, generator=rng), batch_size=8, per_class=4)
    assert sorted(i for batch in batches for i in batch) == list(range(24))
    assert all(labels[batch].bincount(minlength=3).tolist().count(4) == 2 or len(batch) == 8 for batch in batches)


@each
def test_the_loss_is_pytorch_metric_learning_s_of_the_embeddings(kind):
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
    }.get(kind, lambda: method.objective(z, labels))()
    torch.testing.assert_close(method.loss([view], labels, torch.arange(12)), expected)
    with_unlabelled = torch.cat([labels, torch.tensor([-1, -1])])
    more = torch.cat([view, torch.randn(2, 1, 4, 4, generator=rng)])
    torch.testing.assert_close(method.loss([more], with_unlabelled, torch.arange(14)), expected)


@each
def test_training_brings_classes_together(kind, tmp_path):
    """Classes of one pixel each: after a few epochs, images find their own class."""
    pixels = torch.randint(0, 100, (48, 1, 4, 4), generator=rng, dtype=torch.uint8)
    labels = torch.arange(48) % 3
    pixels.view(48, -1)[torch.arange(48), labels] = 255
    images = Images(pixels, labels, ("a", "b", "c"), "dots")
    torch.manual_seed(0)
    classes = {"classes": 3} if kind in (ProxyAnchor, ArcFace) else {}
    method = kind(Encoder(), 48, dim=4, lr=0.02, **classes)
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
def test_bad_input_is_refused_by_name(monkeypatch):
    with pytest.raises(
        InputError, match="labels: expected 2 of one class in the batch, for a pair, got 3 different ones"
    ):
        check_pairs(torch.tensor([2, 0, 1]))
    view = torch.randn(3, 1, 4, 4, generator=rng)
    for kind in (Triplet, Contrastive, MultiSimilarity):
        with pytest.raises(InputError, match="for a pair, got 3 different ones"):
            made(kind).loss([view], torch.arange(3), torch.arange(3))
    alone = Images(PIXELS[:3], torch.arange(3), ("a", "b", "c"), "noise")
    with pytest.raises(InputError, match="labels: expected a class with at least 2 training images, got none"):
        Triplet(Encoder(), 3).start_epoch(alone, 0)
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


def test_without_pytorch_metric_learning_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pytorch_metric_learning")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'counterpoise\[metric\]'"):
        made(Triplet)
