"""WAD: affinities against the plain matrix, weights, promotion, the loss, and the rounds of the method."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.classify.wad import WAD, WADLoss, class_affinity, promoted, wad_loss, weigh
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.ops import chunking
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

TARGETS = torch.tensor([2, 1, 1, 0, -1, 3])
LABELLED = torch.tensor([True, False, False, True, False, False])
WEIGHTS = torch.tensor([9.0, 0.5, 0.0, 9.0, 0.7, 1.5], dtype=torch.float64)


def rows(count, dim=5, seed=0):
    return torch.randn(count, dim, generator=seeded(seed), dtype=torch.float64)


def plain(queries, keys, labels, classes):
    """The whole matrix, and a loop over the classes."""
    cosines = F.normalize(queries) @ F.normalize(keys).T
    out = queries.new_full((len(queries), classes), -torch.inf)
    for label in labels[labels >= 0].unique().tolist():
        out[:, label] = cosines[:, labels == label].amax(1)
    return out


def images(labels, generator, side=4):
    pixels = torch.randint(0, 256, (len(labels), 1, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), tuple("abcd"), "noise")


def method(samples=6, **changes):
    return WAD(Encoder(), classes=4, samples=samples, **changes)


# --- affinities ---


@pytest.mark.parametrize("table", [1, 64, 1 << 20])
def test_affinities_are_those_of_the_whole_matrix_however_many_rows_are_computed_at_once(table, rng, monkeypatch):
    monkeypatch.setattr(chunking, "TABLE", table)
    labels = torch.tensor([3, 0, 3, -1, 5, 0, 3, 5, 2, -1, 3, 1, 3])  # sizes 2, 1, 1, 5, 0, 2, 0
    labels = labels[torch.randperm(13, generator=rng)]
    queries, keys = rows(9), rows(13, seed=1)
    found = class_affinity(queries, keys, labels, 7)
    torch.testing.assert_close(found, plain(queries, keys, labels, 7))
    assert found[:, [4, 6]].isinf().all()


def test_length_and_a_common_rotation_do_not_matter():
    queries, keys, labels = rows(6), rows(8, seed=1), torch.arange(8) % 4
    rotation = torch.linalg.qr(rows(5, seed=2))[0]
    found = class_affinity(queries, keys, labels, 4)
    scale = rows(6, 1, seed=3).exp()
    torch.testing.assert_close(class_affinity(queries * scale, keys * 7, labels, 4), found)
    torch.testing.assert_close(class_affinity(queries @ rotation, keys @ rotation, labels, 4), found)


def test_a_labelled_duplicate_has_an_affinity_of_1_and_is_the_pseudo_label():
    queries, keys, labels = rows(6), rows(8, seed=1), torch.arange(8) % 4
    found = class_affinity(queries, torch.cat([keys, 3 * queries[:1]]), torch.cat([labels, torch.tensor([2])]), 4)
    torch.testing.assert_close(found[0, 2].item(), 1.0)
    assert weigh(found)[0][0] == 2


def test_further_keys_of_a_class_raise_its_affinity_alone():
    queries, keys, labels = rows(40), rows(8, seed=1), torch.arange(8) % 4
    before = class_affinity(queries, keys, labels, 4)
    more = class_affinity(queries, torch.cat([keys, rows(3, seed=2)]), torch.cat([labels, torch.full((3,), 1)]), 4)
    assert (more[:, 1] >= before[:, 1]).all()
    assert (more[:, 1] > before[:, 1]).any()
    torch.testing.assert_close(more[:, [0, 2, 3]], before[:, [0, 2, 3]])


def test_a_row_of_zeros_has_no_affinity_and_no_weight():
    found = class_affinity(torch.zeros(1, 5), rows(4, seed=1).float(), torch.arange(4), 4)
    assert (found == 0).all()
    assert weigh(found)[1].item() == 0


def test_the_gradient_of_the_affinities_is_that_of_the_nearest_keys(monkeypatch):
    monkeypatch.setattr(chunking, "TABLE", 16)
    queries, keys, labels = rows(5, 3).requires_grad_(), rows(6, 3, seed=1).requires_grad_(), torch.arange(6) % 3
    assert torch.autograd.gradcheck(lambda x, y: class_affinity(x, y, labels, 3), [queries, keys])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": torch.full((4,), -1)}, "labels: expected a label of at least one of 4 keys, got none"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels: expected integers from -1 to 2, got 3"),
        ({"keys": torch.ones(4, 6)}, "queries and keys: expected as many columns, got 5 and 6"),
        ({"classes": 0}, "classes: expected a whole number of at least 1"),
    ],
)
def test_affinities_refuse(changes, named, plain_shapes):
    given = {"queries": torch.ones(2, 5), "keys": torch.ones(4, 5), "labels": torch.arange(4) % 3, "classes": 3}
    with pytest.raises(InputError, match=named):
        class_affinity(**given | changes)


# --- weights ---


def test_the_weight_is_the_ratio_form_without_its_division():
    affinity = rows(200, 4).tanh()
    ordered = affinity.sort(1, descending=True).values
    best, second = ordered[:, 0], ordered[:, 1]
    pseudo, weight = weigh(affinity)
    torch.testing.assert_close(weight, best * (1 - second / best), rtol=0, atol=1e-7)
    assert torch.equal(pseudo, affinity.argmax(1))
    assert (weight >= 0).all()
    assert (weight <= 2).all()


def test_weights_by_hand_also_where_the_ratio_has_none():
    affinity = torch.tensor([[0.0, -0.5], [-0.25, -0.75], [0.5, 0.5], [1.0, -1.0], [-torch.inf, 0.25]])
    with pytest.warns(UserWarning, match="of one class alone"):
        pseudo, weight = weigh(affinity)
    assert weight.tolist() == [0.5, 0.5, 0.0, 2.0, 0.25]
    assert pseudo.tolist() == [0, 0, 0, 0, 1]


def test_a_class_that_cannot_be_is_neither_the_first_nor_the_second():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pseudo, weight = weigh(torch.tensor([[0.5, -torch.inf, 0.25]]))
    assert (pseudo.item(), weight.item()) == (0, 0.25)


@pytest.mark.parametrize(("affinity", "expected"), [(0.75, 0.75), (-0.75, 0.0)])
def test_of_one_class_the_weight_is_its_affinity_at_least_0_with_a_warning(affinity, expected):
    with pytest.warns(UserWarning, match="there is no second one"):
        pseudo, weight = weigh(torch.tensor([[affinity]]))
    assert (pseudo.item(), weight.item()) == (0, expected)


@pytest.mark.parametrize(
    ("affinity", "named"),
    [
        (torch.tensor([[torch.nan, 0.0]]), "affinity"),
        (torch.tensor([[torch.inf, 0.0]]), "affinity"),
        (torch.full((1, 2), -torch.inf), "affinity: expected a finite number in each row"),
        (torch.zeros(2), "affinity: expected a matrix"),
        (torch.zeros(2, 3, dtype=torch.int64), "affinity: expected floating-point numbers"),
    ],
)
def test_weights_refuse(affinity, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        weigh(affinity)


def test_what_is_far_from_all_classes_alike_has_smaller_weights(rng):
    """Two blobs of classes, and a third one at a right angle to both."""
    blobs = torch.eye(3).repeat_interleave(60, 0) + 0.05 * torch.randn(180, 3, generator=rng)
    keys, labels = blobs[[0, 1, 2, 60, 61, 62]], torch.tensor([0, 0, 0, 1, 1, 1])
    pseudo, weight = weigh(class_affinity(blobs, keys, labels, 2))
    assert (pseudo[:120] == torch.arange(2).repeat_interleave(60)).double().mean() > 0.95
    assert weight[120:].max() < weight[:120].min()


# --- promotion ---


def test_how_many_are_promoted_in_the_rounds_of_the_paper():
    assert [len(promoted(i, torch.zeros(1000))) for i in range(1, 8)] == [64, 36, 16, 4, 0, 0, 0]
    assert len(promoted(1, torch.zeros(999))) == 63


def test_those_with_the_smallest_losses_are_promoted_first_ones_first():
    losses = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.5])
    assert promoted(1, losses, alpha=1.0, split=8).tolist() == [4, 1, 3]  # 49/64 of 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, torch.zeros(3)), "round: expected a whole number of at least 1"),
        ((1, torch.zeros(3), 1.5), "alpha: expected a number of at least 0 and of at most 1"),
        ((1, torch.zeros(3), 0.1, 0), "split: expected a whole number of at least 1"),
        ((1, torch.zeros(3, 1)), "losses: expected one for each row"),
        ((1, torch.tensor([torch.nan])), "losses"),
    ],
)
def test_promotion_refuses(arguments, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        promoted(*arguments)


# --- the loss ---


def test_the_loss_is_the_equation_row_by_row():
    logits = rows(6, 4)
    each = [0.0 if y < 0 else -row.log_softmax(0)[y] for row, y in zip(logits, TARGETS.tolist(), strict=True)]
    first = (each[0] + each[3]) / 2
    second = (0.5 * each[1] + 0.0 * each[2] + 1.5 * each[5]) / 4  # of all four, also the one without a pseudo-label
    for coefficient in (1.0, 0.25):
        found = wad_loss(logits, TARGETS, WEIGHTS, LABELLED, coefficient)
        torch.testing.assert_close(found, first + coefficient * second)


def test_weights_of_0_are_supervised_training_and_of_1_hard_distillation():
    logits = rows(6, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(wad_loss(logits, TARGETS, torch.zeros(6), LABELLED), logits)
    (supervised,) = torch.autograd.grad(F.cross_entropy(logits[LABELLED], TARGETS[LABELLED]), logits)
    torch.testing.assert_close(gradient, supervised)
    some = TARGETS >= 0
    loss = wad_loss(logits[some], TARGETS[some], torch.ones(5), LABELLED[some])
    apart = F.cross_entropy(logits[LABELLED], TARGETS[LABELLED]) + F.cross_entropy(
        logits[some & ~LABELLED], TARGETS[some & ~LABELLED]
    )
    torch.testing.assert_close(loss, apart)


def test_the_gradient_reaches_the_logits_alone():
    logits, weights = rows(6, 4).requires_grad_(), WEIGHTS.clone().requires_grad_()
    wad_loss(logits, TARGETS, weights, LABELLED).backward()
    assert weights.grad is None
    assert torch.autograd.gradcheck(lambda x: wad_loss(x, TARGETS, WEIGHTS, LABELLED), [rows(6, 4).requires_grad_()])


@pytest.mark.parametrize("weighted", [True, False])
def test_the_module_weighs_by_affinity_what_has_no_label(weighted):
    logits, affinity = rows(6, 4), rows(6, 4, seed=1).tanh()
    targets = torch.tensor([2, -1, -1, 0, -1, -1])
    pseudo, weight = weigh(affinity)
    own = torch.where(targets < 0, pseudo, targets)
    expected = wad_loss(logits, own, weight if weighted else torch.ones(6), targets >= 0, 0.5)
    torch.testing.assert_close(WADLoss(0.5, weighted)(logits, targets, affinity), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": torch.full((2,), -0.1)}, "weights: expected a number of at least 0"),
        ({"weights": torch.ones(3)}, "weights: expected one for each of 2 rows"),
        ({"labelled": torch.ones(2)}, "labelled: expected true or false"),
        ({"targets": torch.tensor([0, 4])}, "targets: expected integers from -1 to 3, got 4"),
        ({"coefficient": -1.0}, "coefficient: expected a number of at least 0"),
    ],
)
def test_the_loss_refuses(changes, named, plain_shapes):
    given = {"logits": torch.zeros(2, 4), "targets": torch.zeros(2).long(), "weights": torch.ones(2)}
    with pytest.raises(InputError, match=named):
        wad_loss(**given | {"labelled": torch.tensor([True, False])} | changes)


# --- the method ---

LABELS = [0, 1, 2, 0] + [-1] * 16


def trained(rng, folder, epochs=6, **changes):
    """A method on 4 labelled and 16 unlabelled images, and what it has found at the start of each epoch."""
    data, found = images(LABELS, rng), []

    class Watched(WAD):
        def start_epoch(self, data, epoch):
            super().start_epoch(data, epoch)
            found.append({name: x.clone() for name, x in self.named_buffers()})

    torch.manual_seed(0)
    learner = Watched(Encoder(), classes=4, samples=20, start=Encoder(), **changes)
    fit(learner, data, epochs=epochs, batch_size=4, seed=0, folder=folder, device="cpu")
    return learner, data, found


def test_rounds_divide_training_and_promotion_conserves_the_pool(rng, tmp_path):
    learner, data, found = trained(rng, tmp_path, epochs=6, alpha=1.0, split=2)
    assert [int(x["round"]) for x in found] == [1, 1, 2, 2, 3, 3]
    assert [int(x["promoted"].sum()) for x in found] == [0, 0, 4, 4, 4, 4]  # a quarter of 16, then none
    for state in found:
        assert not (state["labelled"] & state["promoted"]).any()
        assert torch.equal(state["labelled"], data.labels >= 0)
    gone = found[2]["promoted"]
    assert torch.equal(found[4]["pseudo"][gone], found[0]["pseudo"][gone])  # for ever
    assert learner.diagnostics(data, data, data)["promoted"] == 4


def test_rounds_that_end_between_two_epochs_promote_together(rng, tmp_path):
    _, _, found = trained(rng, tmp_path, epochs=2, alpha=1.0, split=4)
    assert [int(x["round"]) for x in found] == [1, 3]
    assert int(found[1]["promoted"].sum()) == 9 + 1  # 9/16 of 16, and a quarter of the 7 that are left


def test_the_first_round_asks_the_teacher_for_what_the_functions_say(rng, tmp_path):
    learner, data, found = trained(rng, tmp_path, epochs=1)
    features = learner.teacher(data.pixels / 127.5 - 1)
    pseudo, weight = weigh(class_affinity(features[4:], features[:4], data.labels[:4], 4))
    assert torch.equal(found[0]["pseudo"][4:], pseudo)
    torch.testing.assert_close(found[0]["weight"][4:], weight)
    assert found[0]["pseudo"][:4].tolist() == [-1] * 4
    assert learner.membership(data).tolist() == found[0]["weight"].tolist()


def test_those_are_promoted_whose_pseudo_label_the_student_agrees_with_most(rng):
    data, learner = images(LABELS, rng), method(samples=20, alpha=1.0, split=2)
    learner.start_epoch(data, 0)
    pseudo = learner.pseudo.clone()
    learner.start_epoch(data, 1)  # without a trainer each epoch is a round
    losses = F.nll_loss(learner.predict(data)[4:], pseudo[4:], reduction="none")
    assert sorted(learner.promoted.nonzero().flatten().tolist()) == sorted((losses.argsort()[:4] + 4).tolist())


def test_promoted_images_are_labelled_ones_for_the_teacher_and_the_loss(rng):
    data, learner = images(LABELS, rng), method(samples=20, start=Encoder(), alpha=1.0, split=2)
    learner.start_epoch(data, 0)
    learner.start_epoch(data, 1)
    known = learner.labelled | learner.promoted
    features = learner.teacher(data.pixels / 127.5 - 1)
    targets = torch.where(data.labels >= 0, data.labels, learner.pseudo)
    _, weight = weigh(class_affinity(features[~known], features[known], targets[known], 4))
    torch.testing.assert_close(learner.weight[~known], weight)
    views, index = data.pixels / 127.5 - 1, torch.arange(20)
    expected = wad_loss(learner.logits(views), targets, learner.weight, known)
    torch.testing.assert_close(learner.loss([views], data.labels, index), expected)
    for batch in learner.batches(torch.randperm(20, generator=rng), 4):
        assert known[batch].tolist() == [True, True, False, False]


@pytest.mark.parametrize("weighted", [True, False])
def test_state_is_kept_by_index_and_not_by_place(weighted, rng):
    data, learner = images(LABELS, rng), method(samples=20, weigh=weighted, coefficient=2.0)
    learner.start_epoch(data, 0)
    index = torch.randperm(20, generator=rng)[:9]
    views, labels = data.pixels[index] / 127.5 - 1, data.labels[index]
    targets = torch.where(labels >= 0, labels, learner.pseudo[index])
    weights = learner.weight[index] if weighted else torch.ones(9)
    expected = wad_loss(learner.logits(views), targets, weights, labels >= 0, 2.0)
    torch.testing.assert_close(learner.loss([views], labels, index), expected)


def test_labelled_and_unlabelled_images_have_batch_statistics_of_their_own(rng):
    class Normalised(nn.Sequential):
        features = 3

    data = images(LABELS, rng)
    encoder = Normalised(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    learner = WAD(encoder, classes=4, samples=20)
    learner.start_epoch(data, 0)
    learner.train()
    views, known = data.pixels / 127.5 - 1, data.labels >= 0
    targets = torch.where(known, data.labels, learner.pseudo)
    apart = torch.cat([learner.logits(views[known]), learner.logits(views[~known])])  # the first four are labelled
    expected = wad_loss(apart, targets, learner.weight, known)
    torch.testing.assert_close(learner.loss([views], data.labels, torch.arange(20)), expected)
    mixed = torch.tensor([5, 0, 9, 2, 3, 11])
    torch.testing.assert_close(
        learner.loss([views[mixed]], data.labels[mixed], mixed),
        learner.loss([views[mixed.flip(0)]], data.labels[mixed.flip(0)], mixed.flip(0)),
    )


def test_a_coefficient_of_0_trains_on_the_labels_alone(rng, tmp_path):
    learner, data, found = trained(rng, tmp_path, coefficient=0.0, alpha=1.0)
    assert not found[-1]["promoted"].any()
    views = data.pixels / 127.5 - 1
    expected = F.cross_entropy(learner.logits(views[:4]), data.labels[:4])
    torch.testing.assert_close(learner.loss([views], data.labels, torch.arange(20)), expected)
    assert (learner.membership(data)[4:] > 0).any()  # the teacher is asked nevertheless


def test_the_teacher_stays_as_it_was_and_so_does_the_model_that_it_is_a_copy_of(rng, tmp_path):
    data, start = images(LABELS, rng), Encoder()
    before = copy.deepcopy(start.state_dict())
    learner = method(samples=20, start=start)
    fit(learner, data, epochs=2, batch_size=4, seed=0, folder=tmp_path, device="cpu")
    for kept in (start, learner.teacher.module):
        assert all(torch.equal(before[name], x) for name, x in kept.state_dict().items())
    assert start.weight.requires_grad
    assert not any(p.requires_grad for p in learner.teacher.module.parameters())
    assert not [name for name in learner.state_dict() if name.startswith("teacher")]


def test_without_a_start_the_teacher_is_the_encoder_before_training_which_the_checkpoint_holds(rng, tmp_path):
    learner = method(samples=20)
    before = learner.encoder.weight.detach().clone()
    fit(learner, images(LABELS, rng), epochs=1, batch_size=4, seed=0, folder=tmp_path, device="cpu")
    assert torch.equal(learner.state_dict()["teacher.weight"], before)
    assert not torch.equal(learner.encoder.weight, before)


@pytest.mark.parametrize("student", ["mild", "random", "plain"])
def test_the_student_sees_one_view_of_its_kind(student, rng, monkeypatch):
    seen = []
    monkeypatch.setattr(WAD, "view", lambda self, pixels, kind="random": seen.append(kind) or pixels.float())
    learner = method(student=student)
    (view,) = learner.views_of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TARGETS[:2], torch.arange(2))
    assert seen == [student]
    assert view.dtype == learner.dtype


def test_the_teacher_may_compare_the_mean_of_random_views(rng):
    class Flip(nn.Module):
        turn = 0

        def forward(self, pixels):
            self.turn += 1
            return (pixels / 127.5 - 1) * (-1 if self.turn == 2 else 3)

    data = images(LABELS, rng)
    learner = method(samples=20, start=Encoder(), draws=2, augment=Flip())
    learner.start_epoch(data, 0)
    x = data.pixels / 127.5 - 1
    features = (learner.teacher(3 * x) + learner.teacher(-x)) / 2
    pseudo, weight = weigh(class_affinity(features[4:], features[:4], data.labels[:4], 4))
    assert torch.equal(learner.pseudo[4:], pseudo)
    torch.testing.assert_close(learner.weight[4:], weight)


def test_a_class_without_a_labelled_image_is_never_a_pseudo_label(rng):
    data, learner = images(LABELS, rng), method(samples=20)  # none of class 3
    learner.start_epoch(data, 0)
    assert set(learner.pseudo[4:].tolist()) <= {0, 1, 2}
    assert learner.weight.isfinite().all()


def test_data_without_a_pool_is_warned_of(rng):
    data, learner = images([0, 1, 2, 3], rng), method(samples=4)
    with pytest.warns(UserWarning, match="all training images have a label"):
        learner.start_epoch(data, 0)
    assert learner.diagnostics(data, data, data) == {}


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(rng, tmp_path):
    data = images(LABELS, rng)

    def learner():
        torch.manual_seed(0)
        return method(samples=20, alpha=1.0, split=2)

    whole, stopped = learner(), learner()
    recipe = {"steps": 30, "batch_size": 4, "seed": 0, "device": "cpu"}  # six epochs of five batches
    fit(whole, data, folder=tmp_path / "whole", **recipe)

    class Stop(Exception):
        pass

    def probe(_, calls=[]):  # noqa: B006
        calls.append(0)
        if len(calls) == 4:
            raise Stop
        return {}, None

    with pytest.raises(Stop):
        fit(stopped, data, folder=tmp_path / "stopped", probe=probe, **recipe)
    resumed = learner()
    fit(resumed, data, folder=tmp_path / "stopped", **recipe)
    assert int(whole.promoted.sum()) == 4
    for name, x in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], x), name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"coefficient": -1.0}, "coefficient: expected a number of at least 0"),
        ({"share": 1.0}, "share: expected a number above 0 and below 1"),
        ({"alpha": 2.0}, "alpha: expected a number of at least 0 and of at most 1"),
        ({"split": 0}, "split: expected a whole number of at least 1"),
        ({"draws": -1}, "draws: expected a whole number of at least 0"),
        ({"student": "weak"}, "student: kind of view 'weak' is not known"),
    ],
)
def test_what_the_method_refuses(arguments, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        method(**arguments)
