"""TFUP: which images are kept, how they vote, what the vote adds, what adapters are taught; and the method's states."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from counterpoise.classify.tfup import (
    TFUP,
    Adapters,
    agreement,
    corrected,
    residual,
    select,
    semantic,
    shots_of,
    tuning_loss,
)
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.nets.towers import Towers
from counterpoise.ops import chunking
from worlds import Encoder

N, C, D = 60, 5, 8


@pytest.fixture
def rows(rng):
    return torch.randn(N, D, generator=rng, dtype=torch.float64)


@pytest.fixture
def names(rng):
    return torch.randn(C, D, generator=rng, dtype=torch.float64)


def divergence(p, q):
    """KL of each row of p from each of q, as the definition has it: rows × keys × classes."""
    return (p[:, None] * (p[:, None] / q).log()).sum(2)


def test_probabilities_are_a_softmax_of_scaled_cosines(rows, names):
    expected = (10 * F.normalize(rows) @ F.normalize(names).T).softmax(1)
    torch.testing.assert_close(semantic(rows, names).exp(), expected)
    torch.testing.assert_close(semantic(3 * rows, names / 7), semantic(rows, names))


def test_the_surest_are_candidates_and_the_most_typical_of_them_are_kept_in_order(rows, names):
    p, shots = semantic(rows, names).exp(), 4
    found = select(p.log(), shots)
    assert found.labels.tolist() == [k for k in range(C) for _ in range(shots)]
    for k in range(C):
        candidates = p[:, k].argsort(descending=True)[: 2 * shots]
        score = divergence(p[candidates], p[candidates]).sum(1)  # of row j from all others, not the other way round
        assert found.rows[k * shots : (k + 1) * shots].tolist() == candidates[score.argsort()[:shots]].tolist()
    sure = select(p.log(), shots, "confidence")
    assert sure.rows[:shots].tolist() == p[:, 0].argsort(descending=True)[:shots].tolist()


def test_of_few_images_all_are_kept_and_an_image_may_stand_for_several_classes(rows, names):
    found = select(semantic(rows[:3], names), 4)
    assert len(found.rows) == len(found.labels) == 3 * C
    assert sorted(found.rows[:3].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("images", "classes", "shots"), [(30, 10, 9), (400, 10, 12), (533, 10, 15), (10_000, 10, 16), (1, 1, 9)]
)
def test_how_many_are_kept(images, classes, shots):
    assert shots_of(images, classes) == shots
    assert shots_of(images, classes, 0.75, None) == max(9, int(0.75 * images / classes))


def test_agreement_is_2_at_the_nearest_key_0_at_the_farthest_and_linear_between(rows, names):
    p, q = semantic(rows, names), semantic(rows[:20] + 0.1, names)
    found, far = agreement(p, q), divergence(p.exp(), q.exp())
    low, high = far.aminmax(dim=1, keepdim=True)
    torch.testing.assert_close(found, 2 * (high - far) / (high - low))
    z = (far - far.mean(1, keepdim=True)) / far.std(1, keepdim=True)  # as the authors' code: it cancels
    standardised = 2 * (1 - (z - z.amin(1, keepdim=True)) / (z.amax(1, keepdim=True) - z.amin(1, keepdim=True)))
    torch.testing.assert_close(found, standardised, rtol=1e-6, atol=1e-6)
    assert (found.amax(1) == 2).all()
    assert (found.amin(1) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_that_are_all_equally_far_are_all_nearest(rows, names, dtype):
    p = semantic(rows.to(dtype), names.to(dtype))
    assert (agreement(p, p[:1]) == 2).all()
    assert (agreement(p, p[:1].expand(6, -1)) == 2).all()


def test_votes_are_exponentials_and_beta_0_counts_keys(rng):
    affinity, labels = 2 * torch.rand(7, 6, generator=rng, dtype=torch.float64), torch.tensor([0, 0, 2, 2, 2, 1])
    expected = (-(1.5 - 1.5 * affinity)).exp() @ F.one_hot(labels, 4).double()
    torch.testing.assert_close(residual(affinity, labels, 4, 1.5), expected)
    assert residual(affinity, labels, 4, 0.0).tolist() == [[2, 1, 3, 0]] * 7


def test_the_whole_correction_by_its_definition_and_without_agreement(rows, names, rng):
    keys, labels = torch.randn(10, D, generator=rng, dtype=torch.float64), torch.arange(10) % C
    x, w, k = F.normalize(rows), F.normalize(names), F.normalize(keys)
    alike = agreement(semantic(rows, names), semantic(keys, names))
    for similarity, factor in (("both", alike), ("feature", 1.0)):
        affinity = (x @ k.T) * factor
        expected = 100 * x @ w.T + 0.3 * (affinity - 1).exp() @ F.one_hot(labels, C).double()
        torch.testing.assert_close(corrected(rows, names, keys, labels, similarity=similarity), expected)
    torch.testing.assert_close(corrected(rows, names, keys, labels, alpha=0.0), 100 * x @ w.T)


def test_rotations_change_nothing_and_permuted_classes_permute_logits(rows, names, rng):
    turn = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64))[0]
    keys, labels = rows[:10], torch.arange(10) % C
    found = corrected(rows, names, keys, labels)
    torch.testing.assert_close(corrected(rows @ turn, names @ turn, keys @ turn, labels), found)
    order = torch.randperm(C, generator=rng)
    torch.testing.assert_close(corrected(rows, names[order], keys, order.argsort()[labels]), found[:, order])


def test_an_image_like_one_key_alone_moves_most_to_its_class(names):
    keys = torch.eye(D, dtype=torch.float64)[:C]
    plain = corrected(keys[:1], names, keys, torch.arange(C), alpha=0.0)
    gain = corrected(keys[:1], names, keys, torch.arange(C)) - plain
    assert gain.argmax() == 0
    assert gain[0, 0] > 2 * gain[0, 1:].max()


def test_many_images_are_corrected_in_parts(names, rng, monkeypatch):
    rows = torch.randn(50, D, generator=rng, dtype=torch.float64)
    whole = corrected(rows, names, rows[:10], torch.arange(10) % C)
    monkeypatch.setattr(chunking, "TABLE", 7 * (10 + C))
    torch.testing.assert_close(corrected(rows, names, rows[:10], torch.arange(10) % C), whole)


def test_the_loss_of_adapters_and_its_limits(rng):
    logits, teacher = (5 * torch.randn(40, C, generator=rng, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    sure = teacher.softmax(1).amax(1) > 0.9
    assert 0 < sure.sum() < 40
    mean = logits.softmax(1).mean(0)
    expected = F.cross_entropy(logits[sure], teacher.argmax(1)[sure]) + 0.3 * (mean * (mean + 1e-6).log()).sum()
    torch.testing.assert_close(tuning_loss(logits, teacher), expected)
    nobody = torch.zeros(40, C, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(tuning_loss(logits, nobody), logits)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(tuning_loss(nobody, nobody).item(), 0.3 * -math.log(C), rtol=1e-4, atol=0)
    one = 100 * F.one_hot(torch.zeros(4, dtype=torch.int64), C).double()
    assert abs(tuning_loss(one, one).item()) < 1e-5
    grown = teacher.clone().requires_grad_()
    assert torch.autograd.grad(tuning_loss(logits, grown), grown, allow_unused=True) == (None,)


def test_adapters_leave_rows_as_they_are_at_first(rng):
    adapters, names = Adapters(C, D), F.normalize(torch.randn(C, D, generator=rng))
    torch.testing.assert_close(adapters.names(names), names)
    torch.nn.init.zeros_(adapters.up.weight)
    torch.testing.assert_close(adapters.images(names), names)


def test_adapters_by_their_definition(rng):
    adapters, names = Adapters(C, D), F.normalize(torch.randn(C, D, generator=rng))
    with torch.no_grad():
        for p in adapters.parameters():
            p.copy_(torch.randn(p.shape, generator=rng))
    torch.testing.assert_close(adapters.names(names), F.normalize(0.5 * names + 0.5 * adapters.correction))
    small = ((names @ adapters.down.weight.T).relu() @ adapters.up.weight.T).relu()
    assert small.abs().sum() > 0
    torch.testing.assert_close(adapters.images(names), F.normalize(0.8 * names + 0.2 * small))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: select(p, 0), "shots: expected"),
        (lambda p: select(p.exp(), 2), "log_p: expected logarithms of probabilities"),
        (lambda p: agreement(p, p[:0]), "log_q"),
        (lambda p: agreement(p, p[:, :3].log_softmax(1)), "log_q: expected 5 classes, as log_p has, got 3"),
        (lambda p: residual(0 * p, torch.tensor([0, 1, 2, 3, 9]), C), "labels"),
        (lambda p: corrected(p, p[:3], p, torch.zeros(N, dtype=torch.int64), alpha=-1.0), "alpha: expected"),
        (
            lambda p: corrected(p, p[:3, :2], p, torch.zeros(N, dtype=torch.int64)),
            "keys: expected rows of width 2, as texts has, got 5",
        ),
        (lambda p: tuning_loss(p, p[:3]), "teacher: expected shape"),
        (lambda p: semantic(torch.full((2, 2), torch.nan), torch.eye(2)), "rows"),
        (lambda p: shots_of(10, 2, 0.0), "share: expected"),
        (lambda p: Adapters(C, 3), "dim"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_what_makes_no_sense_is_refused_by_name(rows, names, call, message):
    with pytest.raises(InputError, match=message):
        call(semantic(rows, names))


NAMES = ["red cat", "red dog", "blue cat", "blue dog"]


@pytest.fixture
def images(rng):
    """Of four classes, of which the labels of the last two are hidden."""
    labels = torch.arange(80) % 4
    pixels = (60 * labels.view(-1, 1, 1, 1) + torch.randint(0, 30, (80, 1, 4, 4), generator=rng)).to(torch.uint8)
    return Images(pixels, labels.where(labels < 2, -1), tuple(NAMES), "animals")


def method(**options):
    torch.manual_seed(0)
    sizes = {"samples": 80, "unlabelled": 40, "batch_size": 16}
    return TFUP(Encoder(), Towers(Encoder(16, 4), dim=8), new_names=NAMES[2:], **sizes, **options)


def test_the_method_is_the_correction_by_the_unlabelled_images(images):
    ours = method()
    ours.start_epoch(images, 0)
    rows, names = ours.rows(images), ours.names(NAMES[2:])
    pool = rows[images.labels < 0]
    cache = select(semantic(pool, names), 9)
    torch.testing.assert_close(
        ours.scores(rows, NAMES[2:]), corrected(rows, names, pool[cache.rows], cache.labels), rtol=1e-5, atol=1e-4
    )
    assert not ours.trains


def test_the_method_reads_no_label(images):
    ours, other = method(), method()
    ours.start_epoch(images, 0)
    other.start_epoch(replace(images, labels=images.labels.where(images.labels < 0, 1 - images.labels)), 0)
    torch.testing.assert_close(ours.scores(ours.rows(images), NAMES), other.scores(other.rows(images), NAMES))


def test_data_without_an_unlabelled_image_and_a_method_without_towers_are_refused(images):
    labelled = images.subset((images.labels >= 0).nonzero().flatten())
    with pytest.raises(InputError, match="labels: TFUP needs images without one, but all 40 have one"):
        method().check_data(labelled, 8)
    with pytest.raises(InputError, match="towers: expected those that a run of clip has trained, got none"):
        TFUP(Encoder(), None, samples=2, unlabelled=1, batch_size=2, new_names=["a", "b"])
    for wrong, name in (({"alpha": -1.0}, "alpha"), ({"choice": "x"}, "choice"), ({"first": 2.0}, "first")):
        with pytest.raises(Exception, match=name):
            method(**wrong)


def test_tuned_adapters_are_trained_on_unlabelled_images_alone_and_the_cache_only_teaches(images, monkeypatch):
    ours = method(tuned=True, scale=5.0)
    ours.start_epoch(images, 0)
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == {
        "adapters.correction",
        "adapters.down.weight",
        "adapters.up.weight",
    }
    batches = ours.batches(torch.randperm(80), 16)
    hidden = (images.labels < 0).nonzero().flatten().tolist()
    assert {i for batch in batches for i in batch} <= set(hidden)
    assert len(batches) == 2
    rows, names = ours.rows(images), ours.names(NAMES[2:])
    plain = 5 * rows @ names.T
    first = select(semantic(rows[hidden], names), int(0.75 * 40 / 2)).rows.unique()
    assert (ours.pseudo >= 0).nonzero().flatten().tolist() == [hidden[i] for i in first.tolist()]
    torch.nn.init.zeros_(ours.adapters.up.weight)
    torch.testing.assert_close(ours.scores(rows, NAMES[2:]), plain, rtol=1e-4, atol=1e-4)
    index = torch.tensor(hidden[:16])
    view, nothing = [images.pixels[index].float() / 127.5 - 1], torch.full((16,), -1)
    weak = ours.cached(rows[index], names, ours.teaching)
    assert 0 < (weak.softmax(1).amax(1) > 0.9).sum() < 16
    known = ours.pseudo[index] >= 0
    assert 0 < known.sum() < 16
    expected = (F.cross_entropy(plain[index][known], ours.pseudo[index][known]), tuning_loss(plain[index], weak))
    assert (expected[0] - expected[1]).abs() > 1e-3  # far above the tolerance below
    monkeypatch.setattr(TFUP, "training_steps", lambda self: 6)
    for step, loss in zip((0, 1), expected, strict=True):
        monkeypatch.setattr(TFUP, "global_step", step)
        found = ours.loss(view, nothing, index)
        torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-5)
        found.backward()
    assert ours.adapters.correction.grad.abs().sum() > 0
    assert ours.towers.training is False
