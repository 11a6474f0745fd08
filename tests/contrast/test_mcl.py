"""MCL: pseudo-labels, the batches they make, the encoders of all stages as one, and what happens between stages."""

import copy
import math
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.mcl import (
    MCL,
    Stages,
    cluster_batches,
    image_text_loss,
    next_pseudo_labels,
    pooled_batches,
    redrawn,
)
from counterpoise.contrast.simclr import SimCLR, nt_xent
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.learners.learner import warmup_cosine
from counterpoise.learners.method import Method
from counterpoise.nets import backbone
from counterpoise.nets.text import bag_of_words
from counterpoise.ops.clusters import Clusters
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

UNEVEN = torch.tensor([0] * 9 + [1] * 3 + [4] * 14 + [5] * 1 + [7] * 6)[torch.randperm(33, generator=seeded(0))]


def shuffled(n, seed=1):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def flat(batches):
    return [index for batch in batches for index in batch]


def labels_of(batches, labels):
    """Of each batch its only label, or None."""
    found = [set(labels[batch].tolist()) for batch in batches]
    return [one.pop() if len(one) == 1 else None for one in found]


def test_pseudo_labels_are_numbers_in_mixed_radix():
    first, second = torch.tensor([2]), torch.tensor([1])
    assert next_pseudo_labels(first, second, 3).tolist() == [7]
    digits = torch.cartesian_prod(*[torch.arange(3)] * 4)
    found = torch.zeros(81, dtype=torch.int64)
    for stage in range(4):
        found = next_pseudo_labels(found, digits[:, stage], 3)
    assert len(found.unique()) == 81
    for stage in range(4):
        prefix = found // 3 ** (3 - stage)
        assert torch.equal(prefix % 3, digits[:, stage])


@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_batches_of_one_pseudo_label(batch_size):
    batches = cluster_batches(UNEVEN, shuffled(33), batch_size)
    assert None not in labels_of(batches, UNEVEN)
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(flat(batches)) == len(set(flat(batches)))
    assert len(batches) == sum(size // batch_size for size in Counter(UNEVEN.tolist()).values())


def test_clusters_take_turns_and_exhausted_ones_are_skipped():
    assert labels_of(cluster_batches(UNEVEN, shuffled(33), 3), UNEVEN) == [0, 1, 4, 7, 0, 4, 7, 0, 4, 4]


def test_leftovers_change_with_the_order():
    kept = [set(flat(cluster_batches(UNEVEN, shuffled(33, seed), 4))) for seed in range(2)]
    assert kept[0] != kept[1]


def test_one_cluster_is_plain_training():
    order = shuffled(33)
    plain = Method.batches(SimpleNamespace(), order, 4)
    assert cluster_batches(torch.zeros(33, dtype=torch.int64), order, 4) == plain
    assert pooled_batches(torch.zeros(33, dtype=torch.int64), order, 4, clusters=1, stages=2) == plain


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7])
def test_pooled_batches_use_as_many_images_as_random_ones_and_keep_relatives_together(batch_size):
    """Digits 00 (9), 01 (3), 10 (14), 11 (1), 13 (6) in base 4, of 33 images."""
    labels = UNEVEN.where(UNEVEN < 7, 5 + 2)
    order = shuffled(33)
    batches = pooled_batches(labels, order, batch_size, clusters=4, stages=2)
    pure = cluster_batches(labels, order, batch_size)
    assert batches[: len(pure)] == pure
    assert len(batches) == 33 // batch_size
    assert len(set(flat(batches))) == len(flat(batches)) == 33 // batch_size * batch_size
    left = Counter({0: 9 % batch_size + 3 % batch_size, 1: 14 % batch_size + 1 + 6 % batch_size})
    siblings = batches[len(pure) :][: sum(count // batch_size for count in left.values())]
    assert None not in labels_of(siblings, labels // 4)


def test_all_negatives_agree_on_the_clusters_of_every_earlier_stage(rng):
    digits = torch.randint(3, (3, 300), generator=rng)
    pseudo_labels = torch.zeros(300, dtype=torch.int64)
    for labels in digits:
        pseudo_labels = next_pseudo_labels(pseudo_labels, labels, 3)
    for batch in cluster_batches(pseudo_labels, shuffled(300), 4):
        assert (digits[:, batch] == digits[:, batch[:1]]).all()


def test_processes_share_each_batch_and_with_it_its_label():
    batches = cluster_batches(UNEVEN, shuffled(33), 4)
    first, second = ([batch[rank::2] for batch in batches] for rank in range(2))
    assert not set(flat(first)) & set(flat(second))
    assert {len(batch) for batch in first + second} == {2}
    assert labels_of(first, UNEVEN) == labels_of(second, UNEVEN) == labels_of(batches, UNEVEN)


def cosines(features):
    features = F.normalize(features.double(), dim=1)
    return features @ features.T


def finished(encoders):
    joined = Stages(encoders[0], len(encoders))
    joined.others = nn.ModuleList(encoders[1:])
    joined.stage.fill_(len(encoders) - 1)
    return joined


def test_copies_of_one_encoder_have_its_cosines(rng):
    encoder, images = Encoder(256), torch.randn(5, 1, 16, 16, generator=rng)
    torch.testing.assert_close(cosines(finished([encoder] * 3)(images)), cosines(encoder(images)))


def test_integration_does_not_see_a_rotation_of_one_stage_but_its_scale(rng):
    """cos = sum of inner products over the product of the lengths: stages with larger features count more."""
    encoders, images = [Encoder(256) for _ in range(3)], torch.randn(5, 1, 16, 16, generator=rng)
    before = cosines(finished(encoders)(images))
    inner = sum(encoder(images).double() @ encoder(images).double().T for encoder in encoders)
    lengths = inner.diag().sqrt()
    torch.testing.assert_close(before, inner / lengths / lengths[:, None])
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng)).Q
    turned, scaled = copy.deepcopy(encoders), copy.deepcopy(encoders)
    with torch.no_grad():
        turned[1].weight.copy_(rotation @ turned[1].weight)
        turned[1].bias.copy_(rotation @ turned[1].bias)
        scaled[1].weight.mul_(3)
        scaled[1].bias.mul_(3)
    torch.testing.assert_close(cosines(finished(turned)(images)), before, rtol=1e-5, atol=1e-5)
    assert (cosines(finished(scaled)(images)) - before).abs().max() > 0.01


def test_stages_come_in_order_and_those_to_come_give_zeros(rng):
    torch.manual_seed(0)
    joined, images = Stages(Encoder(256, 2), stages=3), torch.randn(5, 1, 16, 16, generator=rng)
    waiting = [copy.deepcopy(other) for other in joined.others]
    first = joined.current(images)
    assert torch.equal(joined(images), torch.cat([torch.zeros(5, 4), first], 1))
    joined.advance()
    assert torch.equal(joined(images), torch.cat([first, torch.zeros(5, 2), waiting[0](images)], 1))
    joined.advance()
    assert torch.equal(joined(images), torch.cat([first, waiting[0](images), waiting[1](images)], 1))
    assert joined.features == 6
    assert [name for name, p in joined.named_parameters() if p.requires_grad] == ["current.weight", "current.bias"]
    same = Stages(Encoder(256, 2), stages=2, redraw=False)
    assert torch.equal(same.others[0].weight, same.current.weight)


def test_redrawn_weights_are_a_new_draw_of_the_same_numbers():
    torch.manual_seed(0)
    net = backbone("small", 1, 16)
    other = redrawn(net)
    for old, new in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
        if old.ndim > 1:
            assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) < 4 / math.sqrt(old.numel())


@pytest.fixture(scope="module")
def images():
    """Two factors, apart: a bright left or right half, and one of three heights of a bar."""
    rng = torch.Generator().manual_seed(0)
    side, height = torch.arange(96) % 2, torch.arange(96) // 2 % 3
    pixels = torch.randint(0, 40, (96, 1, 16, 16), generator=rng, dtype=torch.uint8)
    for i in range(96):
        pixels[i, :, :, 8 * side[i] : 8 * side[i] + 8] += 150
        pixels[i, :, 5 * height[i] : 5 * height[i] + 5] += 50
    return Images(pixels, height, ("a", "b", "c"), "halves", factors={"side": side, "height": height})


def method(**options):
    torch.manual_seed(0)
    return MCL(backbone("small", 1, 16), **{"samples": 96, "stages": 2, "clusters": 2, **options})


class Watch(Callback):
    """What the run does, step by step; and a run that is killed in the end."""

    def __init__(self, kill=None):
        self.kill, self.rates, self.batches, self.weights = kill, [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.weights.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"] / pl_module.lr)
        self.batches.append((trainer.current_epoch, batch[2].tolist()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.kill:
            raise ConnectionAbortedError("killed")


def run(folder, images, epochs=4, steps=None, kill=None, **options):
    made, watch = method(**options), Watch(kill)
    length = {"epochs": epochs} if steps is None else {"steps": steps}
    fit(made, images, **length, batch_size=8, seed=1, folder=folder, device="cpu", callbacks=(watch,))
    return made, watch


@pytest.mark.slow
def test_a_number_of_steps_leaves_the_last_stage_all_that_the_others_did_not_take(images, tmp_path):
    """Of 92 images in two clusters of 46, the second stage has 10 batches an epoch in place of 11."""
    _, watch = run(tmp_path, images.subset(torch.arange(92)), steps=44, samples=92, leftovers="drop")
    assert Counter(epoch for epoch, _ in watch.batches) == {0: 11, 1: 11, 2: 10, 3: 10, 4: 2}
    last = watch.rates[22:]
    falling = last[last.index(max(last)) :]
    assert len(falling) > 18
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 0.05


@pytest.fixture(scope="module")
def done(images, tmp_path_factory):
    return run(tmp_path_factory.mktemp("done"), images)


@pytest.mark.slow
def test_the_second_stage_contrasts_inside_the_clusters_of_the_first(images, done):
    made, watch = done
    assert Counter(epoch for epoch, _ in watch.batches) == dict.fromkeys(range(4), 12)
    assert set(made.pseudo_labels.tolist()) == {0, 1}
    pure = [len(made.pseudo_labels[batch].unique()) == 1 for epoch, batch in watch.batches if epoch > 1]
    assert sum(pure) >= 22  # at most one a batch an epoch of leftovers
    before = [len(made.pseudo_labels[batch].unique()) == 1 for epoch, batch in watch.batches if epoch < 2]
    assert sum(before) < 12
    found = made.diagnostics(images, images, images)
    assert found["pure 0"] == 1
    assert found["pure 1"] == sum(int(n) // 8 * 8 for n in made.pseudo_labels.bincount()) / 96
    assert set(found) == {"pure 0", "pure 1", "nmi side 0", "nmi height 0"}


def test_information_on_the_factors_is_reported_stage_by_stage(images):
    """Clusters that are the side, then the height, and are independent of the other."""
    made, factors = method(stages=3, clusters=4), images.factors
    made.encoder.stage.fill_(2)
    made.pseudo_labels.copy_(4 * (3 - factors["side"]) + factors["height"])
    found = made.diagnostics(images, images, images)
    assert [found[f"nmi side {stage}"] for stage in range(2)] == pytest.approx([1, 0], abs=1e-6)
    assert [found[f"nmi height {stage}"] for stage in range(2)] == pytest.approx([0, 1], abs=1e-6)


def test_each_stage_begins_anew_and_leaves_its_encoder_behind(images, done):
    made, watch = done
    start, boundary = watch.weights[0], watch.weights[2]
    for name, value in made.encoder.others[0].state_dict().items():
        assert torch.equal(boundary[f"encoder.others.0.{name}"], value)
        assert torch.equal(boundary[f"encoder.current.{name}"], start[f"encoder.others.0.{name}"])
        if value.ndim > 1:
            assert not torch.equal(value, start[f"encoder.current.{name}"])
            assert not torch.equal(made.encoder.current.state_dict()[name], boundary[f"encoder.current.{name}"])
    assert not torch.equal(boundary["head.0.weight"], start["head.0.weight"])
    assert abs(boundary["head.0.weight"]).max() <= 1 / math.sqrt(320)
    assert torch.equal(boundary["head.1.running_mean"], torch.zeros(256))
    steps = {int(state["step"]) for state in made.trainer.optimizers[0].state.values()}
    assert steps == {24}  # of the second stage alone
    features = made.encoder.eval()(to_float(images.pixels))
    assert torch.equal(features[:, :320], made.encoder.others[0](to_float(images.pixels)))
    assert features[:, 320:].std() > 0


def test_clusters_are_those_of_the_normalised_features_without_augmentation(images, done, monkeypatch):
    _, watch = done
    seen = []

    def one_cluster(points, count, **options):
        seen.append((points, count))
        return Clusters(torch.zeros(len(points)).long(), points[:count])

    monkeypatch.setattr("counterpoise.contrast.mcl.kmeans", one_cluster)
    other = method()
    other.load_state_dict(watch.weights[1])
    with pytest.warns(UserWarning, match="stage 0: all images are in one cluster"):
        other._cluster(images)
    ((points, clusters),) = seen
    expected = F.normalize(other.encoder.current.eval()(to_float(images.pixels)), dim=1)
    torch.testing.assert_close(points, expected)
    assert clusters == 2


def test_the_learning_rate_takes_its_course_in_each_stage(done):
    one = [warmup_cosine(step, 24, 0.1) for step in range(24)]
    assert done[1].rates == pytest.approx(one + one)


def test_steps_of_several_batches_are_counted_as_steps():
    made = method(stages=2, warmup=0.1)
    made.batches_an_epoch = 9
    made.trainer = SimpleNamespace(max_epochs=4, accumulate_grad_batches=2)
    expected = [warmup_cosine(step, 10, 0.1) for step in range(10)]  # 2 epochs of 5 steps
    assert [made.lr_factor(step, 20) for step in range(10)] == pytest.approx(expected)


@pytest.mark.slow
def test_dropped_leftovers_shorten_a_stage_and_its_learning_rate_follows(images, tmp_path):
    images = images.subset(torch.arange(90))
    made, watch = run(tmp_path, images, samples=90, stages=3, clusters=4, leftovers="drop", epochs=6)
    counts = Counter(epoch for epoch, _ in watch.batches)
    start = 0
    for stage, pseudo_labels in enumerate((torch.zeros(90).long(), made.pseudo_labels // 4, made.pseudo_labels)):
        each = sum(int(n) // 8 for n in pseudo_labels.bincount())
        assert counts[2 * stage] == counts[2 * stage + 1] == each
        assert all(len(pseudo_labels[batch].unique()) == 1 for epoch, batch in watch.batches if epoch // 2 == stage)
        assert made.diagnostics(images, images, images)[f"pure {stage}"] == pytest.approx(each * 8 / 90)
        expected = [warmup_cosine(step, 2 * each, 0.1) for step in range(2 * each)]
        assert watch.rates[start + 1 : start + 2 * each] == pytest.approx(expected[1:])
        assert 0.3 < watch.rates[start] < 1  # by the length of the stage before
        start += 2 * each
    assert counts[0] > counts[2] > counts[4]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [(1, 11), (2, 3), (3, 0)])
def test_a_resumed_run_ends_with_the_same_bits(images, tmp_path, done, kill):
    with pytest.raises(ConnectionAbortedError):
        run(tmp_path, images, kill=kill)
    resumed, _ = run(tmp_path, images)
    whole, again = done[0].state_dict(), resumed.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
def test_one_cluster_gives_independent_runs(images, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # neither too few epochs nor a useless stage is warned of
        made, watch = run(tmp_path, images, clusters=1, epochs=2)
    assert made.pseudo_labels.unique().tolist() == [0]
    orders = [[batch for epoch, batch in watch.batches if epoch == e] for e in range(2)]
    assert [len(order) for order in orders] == [12, 12]
    first, second = made.encoder.others[0].state_dict(), made.encoder.current.state_dict()
    assert not torch.equal(first["model.stages.0.0.weight"], second["model.stages.0.0.weight"])


@pytest.mark.parametrize(
    ("stages", "epochs", "expected"),
    [(3, 6, [0, 0, 1, 1, 2, 2]), (3, 4, [0, 0, 1, 2]), (3, 2, [0, 1]), (5, 1, [0]), (5, 2, [0, 1]), (1, 3, [0, 0, 0])],
)
def test_epochs_are_divided_evenly(stages, epochs, expected):
    made = method(stages=stages)
    made.trainer = SimpleNamespace(max_epochs=epochs)
    assert [made._stage_of(epoch) for epoch in range(epochs)] == expected


def test_too_few_epochs_raise_a_warning(images, tmp_path):
    with pytest.warns(UserWarning, match="epochs: 1 are too few for 3 stages"):
        made, _ = run(tmp_path, images, epochs=1, stages=3)
    assert torch.equal(made.encoder.eval()(to_float(images.pixels))[:, :256], torch.zeros(96, 256))


def test_the_loss_is_nt_xent_of_the_current_stage(rng):
    made = method(temperature=0.3)
    views = [torch.randn(7, 1, 16, 16, generator=rng) for _ in range(2)]
    z1, z2 = (made.head(made.encoder.current(view)) for view in views)
    value = made.loss(views, torch.full((7,), -1), torch.arange(7))
    torch.testing.assert_close(value, nt_xent(z1, z2, 0.3), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(images, tmp_path):
    with pytest.raises(InputError, match="labels: expected integers from 0 to 2, got 3"):
        next_pseudo_labels(torch.zeros(2).long(), torch.tensor([1, 3]), 3)
    with pytest.raises(InputError, match="batch_size: expected a whole number of at least 1, got 0"):
        cluster_batches(UNEVEN, shuffled(33), 0)
    with pytest.raises(InputError, match="stages: expected a whole number of at least 1, got 0"):
        method(stages=0)
    with pytest.raises(InputError, match="clusters: expected a whole number of at least 1, got 0"):
        method(clusters=0)
    with pytest.raises(InputError, match="leftovers 'dorp' is not known; did you mean 'drop'"):
        method(leftovers="dorp")
    with pytest.raises(InputError, match=r"batch_size: expected at most the . images of stage 1's largest cluster"):
        run(tmp_path, images, clusters=96, leftovers="drop", epochs=2)


@pytest.mark.slow
def test_a_single_stage_is_simclr_to_the_last_bit(images, tmp_path):
    """The loss, the batches, the schedule, and the weights after training."""
    made, watch = run(tmp_path / "mcl", images, epochs=2, stages=1)
    torch.manual_seed(0)
    simclr, other = SimCLR(backbone("small", 1, 16)), Watch()
    fit(simclr, images, epochs=2, batch_size=8, seed=1, folder=tmp_path / "simclr", device="cpu", callbacks=(other,))
    assert watch.batches == other.batches
    assert watch.rates == pytest.approx(other.rates)
    ours, theirs = made.encoder.current.state_dict(), simclr.encoder.state_dict()
    assert all(torch.equal(ours[name], x) for name, x in theirs.items())


def pair(rng, n=7, dim=4):
    return torch.randn(2, n, dim, generator=rng, dtype=torch.float64)


def test_clip_s_loss_is_the_mean_of_two_cross_entropies(rng):
    x, y = pair(rng)
    logits = F.normalize(3 * x, dim=1) @ F.normalize(y, dim=1).T / 0.3
    expected = (F.cross_entropy(logits, torch.arange(7)) + F.cross_entropy(logits.T, torch.arange(7))) / 2
    torch.testing.assert_close(image_text_loss(x, y / 5, temperature=0.3), expected)


def test_images_with_one_text_are_no_negatives_and_those_without_do_not_count(rng):
    x, y = pair(rng)
    captions = torch.tensor([0, 1, 0, 2, -1, 1, -1])
    s = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.3
    losses = []
    for table in (s, s.T):
        for i in range(7):
            others = [table[i, n] for n in range(7) if captions[n] >= 0 and captions[n] != captions[i]]
            if captions[i] >= 0:
                losses.append(torch.stack([*others, table[i, i]]).logsumexp(0) - table[i, i])
    given = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    value = image_text_loss(*given, captions, 0.3)
    torch.testing.assert_close(value, torch.stack(losses).mean())
    value.backward()
    assert all((x.grad[captions < 0] == 0).all() for x in given)
    assert torch.autograd.gradcheck(lambda a, b: image_text_loss(a, b, captions, 0.3), given)


def test_texts_that_do_not_differ_teach_nothing(rng):
    x, y = (z.requires_grad_() for z in pair(rng))
    for captions in (torch.zeros(7).long(), torch.full((7,), -1)):
        value = image_text_loss(x, y, captions)
        value.backward()
        assert value == 0
        assert (x.grad == 0).all()


@pytest.mark.usefixtures("plain_shapes")
def test_pairs_of_images_and_texts_that_make_no_sense_are_refused(rng):
    x, y = pair(rng)
    with pytest.raises(InputError, match=r"images and texts: expected the same shape, got \[7, 4\] and \[7, 3\]"):
        image_text_loss(x, y[:, :3])
    with pytest.raises(InputError, match="captions: expected integers of at least -1, got -2"):
        image_text_loss(x, y, torch.full((7,), -2))
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        image_text_loss(x, y, temperature=0)
    with pytest.raises(
        InputError, match="dim: expected none, since projections are as wide as the vectors of the texts"
    ):
        method(texts="words", dim=8)
    with pytest.raises(InputError, match="sentence encoder 'wrods' is not known; did you mean 'words'"):
        method(texts="wrods")


@pytest.mark.slow
def test_with_texts_each_stage_finds_the_name_of_an_image_s_class(images, tmp_path):
    made, watch = run(tmp_path, images, texts="words", temperature=0.3)
    names = bag_of_words(["a", "b", "c"])
    assert torch.equal(made.names, names)
    pure = [len(made.pseudo_labels[batch].unique()) == 1 for epoch, batch in watch.batches if epoch > 1]
    assert sum(pure) >= 22
    made.eval()
    views, labels = [to_float(images.pixels[i : i + 6]) for i in (0, 6)], torch.tensor([0, 1, 2, -1, 1, 0])
    z = [made.head(made.encoder.current(view)) for view in views]
    expected = sum(image_text_loss(x, names[labels.clamp(min=0)], labels, 0.3) for x in z) / 2
    torch.testing.assert_close(made.loss(views, labels, torch.arange(6)), expected)
    again = method(texts="words")
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.names, names)
    with pytest.raises(
        InputError, match="texts: expected classes with names, but none of 96 training images has a label"
    ):
        again.start_epoch(Images(images.pixels, torch.full((96,), -1), (), "unlabelled"), 0)
    assert "names" not in method().state_dict()
