"""SBCL against its sums written out, SupCon and NT-Xent as its limits; subclasses, their sizes, and temperatures."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.sbcl import (
    SBCL,
    SBCLLoss,
    assign_evenly,
    class_contrast,
    class_temperatures,
    sbcl,
    split_class,
    subclass_counts,
)
from counterpoise.contrast.simclr import nt_xent
from counterpoise.contrast.supcon import supcon
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint
from worlds import Encoder, seeded

N, T = 8, 0.2


Z1 = torch.randn(N, 4, generator=seeded(0), dtype=torch.float64)
Z2 = Z1 + torch.randn(N, 4, generator=seeded(1), dtype=torch.float64) / 2
LABELS = torch.tensor([0, 0, 1, 0, 1, 2, 0, -1])
SUBCLASSES = torch.tensor([0, 0, 5, 1, 5, 0, 1, -1])  # 0 is a subclass of class 0, and another one of class 2
TAU = torch.tensor([0.3, 0.3, 0.5, 0.3, 0.5, 0.2, 0.3, 0.2], dtype=torch.float64)  # of each image's class


def class_rows(z1, z2, labels, subclasses, tau):
    """The class level of each anchor, pair by pair."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n, found = len(z1), []
    for a in range(2 * n):
        other = (a + n) % (2 * n)
        same = [a % n == b % n or (labels[a % n] == labels[b % n] >= 0) for b in range(2 * n)]
        sub = [same[b] and subclasses[a % n] == subclasses[b % n] for b in range(2 * n)]
        positives = [b for b in range(2 * n) if same[b] and not sub[b]] + [other]
        against = [b for b in range(2 * n) if not sub[b]] + [other]
        logits = z @ z[a] / tau[a % n]
        found.append(sum(logits[against].logsumexp(0) - logits[p] for p in positives) / len(positives))
    return torch.stack(found)


def subclass_rows(z1, z2, labels, subclasses, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n, found = len(z1), []
    for a in range(2 * n):
        same = [
            a % n == b % n or (labels[a % n] == labels[b % n] >= 0 and subclasses[a % n] == subclasses[b % n])
            for b in range(2 * n)
        ]
        logits = z @ z[a] / temperature
        total = logits[[b for b in range(2 * n) if b != a]].logsumexp(0)
        positives = [b for b in range(2 * n) if same[b] and b != a]
        found.append(sum(total - logits[p] for p in positives) / len(positives))
    return torch.stack(found)


def plain(z1, z2, labels, subclasses, tau, temperature, gamma, base):
    first = subclass_rows(z1, z2, labels, subclasses, temperature).mean()
    return temperature / base * first + gamma * class_rows(z1, z2, labels, subclasses, tau).mean()


def test_value_and_gradients_are_those_of_the_sums_written_out():
    ours, theirs = ([z.clone().requires_grad_() for z in (Z1, Z2)] for _ in range(2))
    value = SBCLLoss(T, gamma=0.7, base_temperature=0.05)(*ours, LABELS, SUBCLASSES, TAU)
    expected = plain(*theirs, LABELS, SUBCLASSES, TAU, T, 0.7, 0.05)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_without_temperatures_the_class_level_has_that_of_the_subclass_level():
    same = torch.full((N,), T, dtype=torch.float64)
    torch.testing.assert_close(sbcl(Z1, Z2, LABELS, SUBCLASSES, None, T), sbcl(Z1, Z2, LABELS, SUBCLASSES, same, T))


def test_worked_by_hand():
    """Two images of a class at a right angle, each a subclass: log(1 + 2/e^2) / 2 + 3 (log(e^2 + 2) - 2/3)."""
    z = torch.eye(2, dtype=torch.float64)
    value = sbcl(z, 5 * z, torch.zeros(2).long(), torch.arange(2), None, 0.5, gamma=3.0, base_temperature=1.0)
    expected = math.log(1 + 2 * math.exp(-2)) / 2 + 3 * (math.log(math.exp(2) + 2) - 2 / 3)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_every_image_its_own_subclass_is_nt_xent_and_one_subclass_a_class_is_supcon():
    labels = torch.arange(N) % 3
    fine = sbcl(Z1, Z2, labels, torch.arange(N), None, T, gamma=0, base_temperature=T)
    torch.testing.assert_close(fine, nt_xent(Z1, Z2, T))
    coarse = sbcl(Z1, Z2, labels, torch.zeros(N).long(), None, T, gamma=0, base_temperature=T)
    torch.testing.assert_close(coarse, supcon(torch.cat([Z1, Z2]), labels.repeat(2), T))


def test_without_the_class_level_it_is_supcon_on_the_subclasses():
    labels, subclasses = torch.arange(N) % 2, torch.arange(N) // 2
    value = sbcl(Z1, Z2, labels, subclasses, TAU, T, gamma=0, base_temperature=T)
    torch.testing.assert_close(value, supcon(torch.cat([Z1, Z2]), (2 * subclasses + labels).repeat(2), T))
    doubled = sbcl(Z1, Z2, labels, subclasses, TAU, T, gamma=0, base_temperature=T / 2)
    torch.testing.assert_close(doubled, 2 * value)


def test_unranked_it_is_the_sum_of_supcon_at_both_levels():
    labels, subclasses = torch.arange(N) % 2, torch.arange(N) // 2
    both = torch.cat([Z1, Z2])
    value = sbcl(Z1, Z2, labels, subclasses, None, T, gamma=0.3, base_temperature=T, ranked=False)
    expected = supcon(both, (2 * subclasses + labels).repeat(2), T) + 0.3 * supcon(both, labels.repeat(2), T)
    torch.testing.assert_close(value, expected)


def test_a_class_with_one_subclass_has_the_other_view_as_its_only_positive():
    """Then the class level is NT-Xent without the anchor's class."""
    labels = torch.arange(N) % 2
    rows = class_contrast(Z1, Z2, labels, torch.zeros(N).long(), TAU)
    z = F.normalize(torch.cat([Z1, Z2]), dim=1)
    for a in range(N):
        away = [b for b in range(2 * N) if labels[b % N] != labels[a]]
        logits = z @ z[a] / TAU[a]
        torch.testing.assert_close(rows[a], logits[[*away, a + N]].logsumexp(0) - logits[a + N])


def test_the_rest_of_an_anchors_subclass_has_no_part_in_its_class_level():
    z1, z2 = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    class_contrast(z1, z2, LABELS, SUBCLASSES, TAU)[0].backward()
    assert (z1.grad[1] == 0).all()
    assert (z2.grad[1] == 0).all()
    assert (z1.grad[[0, 2, 3, 4, 5, 6, 7]].abs().amax(1) > 1e-6).all()


def test_invariances(rng):
    """Names of classes and subclasses, order of the images, the two views, the rows' lengths, a common rotation."""
    value = sbcl(Z1, Z2, LABELS, SUBCLASSES, TAU)
    order = torch.randperm(N, generator=rng)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    for same in (
        sbcl(Z2, Z1, LABELS, SUBCLASSES, TAU),
        sbcl(Z1, Z2, LABELS.where(LABELS < 0, 90 - LABELS), 7 - 3 * SUBCLASSES, TAU),
        sbcl(Z1, Z2, LABELS.where(LABELS >= 0, 44), SUBCLASSES, TAU),  # one image without a label is any new class
        sbcl(*(x[order] for x in (Z1, Z2, LABELS, SUBCLASSES, TAU))),
        sbcl(100 * Z1 @ rotation, Z2 @ rotation / 100, LABELS, SUBCLASSES, TAU),
    ):
        torch.testing.assert_close(same, value)


def test_images_without_a_label_are_classes_of_their_own():
    labels, subclasses = torch.full((N,), -1), torch.full((N,), -1)
    own = sbcl(Z1, Z2, torch.arange(N), torch.zeros(N).long(), TAU)
    torch.testing.assert_close(sbcl(Z1, Z2, labels, subclasses, TAU), own)


@pytest.mark.slow
@pytest.mark.parametrize("ranked", [True, False])
def test_gradient_in_double_precision(ranked):
    def value(z1, z2, tau):
        return sbcl(z1, z2, LABELS[:5], SUBCLASSES[:5], tau, ranked=ranked)

    leaves = [x[:5].clone().requires_grad_() for x in (Z1, Z2)]
    assert torch.autograd.gradcheck(value, (*leaves, TAU[:5].clone()))


@pytest.mark.parametrize("subclasses", [torch.zeros(N).long(), torch.arange(N) // 2, torch.arange(N)])
@pytest.mark.parametrize("labels", [torch.zeros(N).long(), torch.arange(N) // 4])
def test_classes_at_one_point_give_finite_terms(labels, subclasses):
    z1, z2 = (torch.ones(N, 3).requires_grad_() for _ in range(2))
    value = sbcl(z1, z2, labels, subclasses)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z1.grad).all()


def test_a_batch_of_one_subclass_has_no_class_level():
    one = torch.zeros(N).long()
    assert (class_contrast(Z1, Z2, one, one, TAU) == 0).all()


def test_sums_stay_exact_in_float32_for_large_classes(rng):
    z1, z2 = (torch.randn(1000, 16, generator=rng) + 2 for _ in range(2))
    labels, subclasses = torch.arange(1000) % 2, (torch.arange(1000) > 990).long()
    value, exact = (sbcl(a, b, labels, subclasses) for a, b in ((z1, z2), (z1.double(), z2.double())))
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)


def test_numbers_of_subclasses():
    assert subclass_counts(torch.tensor([500, 97, 50, 29, 20, 12, 9, 5]), 10).tolist() == [50, 9, 5, 2, 2, 1, 1, 1]
    assert subclass_counts(torch.tensor([500, 0, 45]), 10).tolist() == [11, 1, 1]  # the smallest class decides
    assert subclass_counts(torch.tensor([30, 20]), 99).tolist() == [1, 1]
    assert subclass_counts(torch.tensor([0, 0]), 10).tolist() == [1, 1]


def scattered(rng, sizes=(40, 30, 20, 10, 5)):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.randn(len(labels), 3, generator=rng, dtype=torch.float64) * (1 + labels[:, None]), labels


def test_temperatures_follow_the_scatter_and_have_the_temperature_as_their_mean(rng):
    embeddings, labels = scattered(rng)
    found = class_temperatures(embeddings, labels, 5, temperature=0.3)
    scatter = [(embeddings[labels == j] - embeddings[labels == j].mean(0)).norm(dim=1).mean() for j in range(5)]
    u = torch.stack([s / math.log(n + 10) for s, n in zip(scatter, (40, 30, 20, 10, 5), strict=True)])
    u = u.clamp(
        u.sort().values[0] * 0.2 + u.sort().values[1] * 0.8, u.sort().values[3] * 0.8 + u.sort().values[4] * 0.2
    )
    torch.testing.assert_close(found, 0.3 * u / u.mean())
    assert found.mean().item() == pytest.approx(0.3, abs=1e-12)
    torch.testing.assert_close(class_temperatures(embeddings, labels, 5, 0.3, True), 0.3 * (u / u.mean()).exp())


def test_temperatures_of_what_has_no_scatter(rng):
    embeddings, labels = scattered(rng)
    found = class_temperatures(embeddings, labels, 7, temperature=0.3)  # the last two have no images
    torch.testing.assert_close(found[5:], torch.full((2,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(found[:5], class_temperatures(embeddings, labels, 5, temperature=0.3))
    same = torch.ones(6, 2)
    for exponential in (False, True):
        for members in (torch.arange(6) // 3, torch.full((6,), -1)):
            assert class_temperatures(same, members, 2, 0.3, exponential).tolist() == pytest.approx([0.3, 0.3])
    hidden = torch.where(labels == 4, -1, labels)
    torch.testing.assert_close(
        class_temperatures(embeddings, hidden, 4), class_temperatures(embeddings[labels < 4], labels[labels < 4], 4)
    )


def blobs(rng, count, each=12):
    """So many groups of directions, far apart, in random order."""
    centres = torch.eye(count)
    member = torch.arange(count).repeat_interleave(each)[torch.randperm(count * each, generator=rng)]
    return F.normalize(centres[member] + 0.05 * torch.randn(len(member), count, generator=rng), dim=1), member


def same_partition(a, b):
    return torch.equal(a[:, None] == a, b[:, None] == b)


@pytest.mark.parametrize("clustering", ["ordinary", "balanced"])
def test_subclasses_are_the_groups_that_there_are(clustering, rng):
    torch.manual_seed(1)
    z, member = blobs(rng, 2, each=30)
    assert same_partition(split_class(z, 2, clustering), member)


def test_random_subclasses_keep_the_sizes_alone(rng):
    z, _ = blobs(rng, 4)
    torch.manual_seed(0)
    ordinary = split_class(z, 4)
    torch.manual_seed(0)
    dealt = split_class(z, 4, "random")
    assert ordinary.bincount().sort().values.tolist() == dealt.bincount().sort().values.tolist()
    assert not same_partition(dealt, ordinary)


@pytest.mark.parametrize(("images", "count"), [(24, 4), (25, 4), (27, 4), (7, 7), (5, 1)])
def test_balanced_subclasses_differ_by_one_image_at_most(images, count, rng):
    torch.manual_seed(0)
    z = F.normalize(torch.randn(images, 3, generator=rng) + 1, dim=1)
    sizes = split_class(z, count, "balanced").bincount(minlength=count)
    assert sizes.sum() == images
    assert sizes.max() - sizes.min() <= 1


def test_even_assignment_takes_the_best_pairs_first():
    """Both clusters' similarities sum to 3; the left-over image goes to the cluster that it is next nearest to."""
    similarity = torch.tensor([[0.9, 0.5], [0.8, 0.7], [0.6, 0.4], [0.5, 0.9], [0.2, 0.5]])
    assert assign_evenly(similarity).tolist() == [0, 0, 0, 1, 1]
    assert assign_evenly(similarity * torch.tensor([1.0, 50.0])).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = SBCLLoss()
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        loss(Z1[:1], Z2[:1], LABELS[:1], SUBCLASSES[:1])
    with pytest.raises(InputError, match=r"z1 and z2: expected the same shape, got \[8, 4\] and \[8, 3\]"):
        loss(Z1, Z2[:, :3], LABELS, SUBCLASSES)
    with pytest.raises(InputError, match="subclasses: expected one integer for each of the 8 rows"):
        loss(Z1, Z2, LABELS, SUBCLASSES[:3])
    with pytest.raises(InputError, match=r"labels: expected integers, got torch\.float32"):
        loss(Z1, Z2, LABELS.float(), SUBCLASSES)
    with pytest.raises(InputError, match="z2: 32 of 32 numbers are NaN"):
        loss(Z1, Z2 * math.nan, LABELS, SUBCLASSES)
    for wrong in (TAU[:3], TAU - 0.3, TAU * math.nan):
        with pytest.raises(InputError, match=r"temperatures: (expected a number above 0|.* NaN)"):
            loss(Z1, Z2, LABELS, SUBCLASSES, wrong)
    for name, value in {"temperature": 0, "base_temperature": -1, "gamma": -0.1}.items():
        with pytest.raises(InputError, match=f"{name}: expected a number"):
            SBCLLoss(**{name: value})
    with pytest.raises(InputError, match="temperature / base_temperature: expected a number of at most 1e\\+09"):
        SBCLLoss(temperature=1.0, base_temperature=1e-12)
    for name, value in {"delta": 0, "every": 0, "warm_epochs": -1, "samples": 0, "classes": 0}.items():
        with pytest.raises(InputError, match=f"{name}: expected a whole number"):
            SBCL(Encoder(), **{"samples": N, "classes": 3, name: value})
    with pytest.raises(InputError, match="clustering 'balance' is not known; did you mean 'balanced'"):
        SBCL(Encoder(), N, 3, clustering="balance")


@pytest.fixture
def images(rng):
    """Forty, eight and four images of three classes, four without a label, in mixed order."""
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 4 + [-1] * 4)[torch.randperm(56, generator=rng)]
    pixels = torch.randint(0, 256, (56, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Images(pixels, labels, ("a", "b", "c"), "noise")


def made(**given):
    torch.manual_seed(0)
    return SBCL(Encoder(), samples=56, classes=3, **{"delta": 4, "hidden": 8, "dim": 3, **given})


def projected(method, batch, index):
    return [method.head(method.encoder(view)) for view in batch]


def test_before_the_first_clustering_it_is_supcon(images, rng):
    method = made(temperature=T, warm_epochs=2)
    method.start_epoch(images, 1)
    assert (method.subclasses == -1).all()
    assert method.diagnostics(images, images, images) == {}
    batch, index = [torch.randn(9, 1, 4, 4, generator=rng) for _ in range(2)], torch.arange(9)
    labels = images.labels[:9]
    own = torch.where(labels < 0, 5 + index, labels)
    both = torch.cat(projected(method, batch, index))
    torch.testing.assert_close(method.loss(batch, labels, index), supcon(both, own.repeat(2), T))


def test_the_method_splits_large_classes_and_contrasts_at_both_levels(images, rng):
    method = made(temperature=T, gamma=0.6, base_temperature=0.3, warm_epochs=0, clustering="balanced")
    method.start_epoch(images, 0)
    counts = {0: 10, 1: 2, 2: 1}
    found = {label: method.subclasses[images.labels == label] for label in (-1, 0, 1, 2)}
    assert (found[-1] == -1).all()
    assert {label: len(found[label].unique()) for label in counts} == counts
    assert len(method.subclasses.unique()) == 14  # no number twice, and that of images without a label
    assert method.temperatures[2].item() == pytest.approx(T)
    assert (method.temperatures[:2] != T).all()
    assert method.diagnostics(images, images, images) == {"subclasses": 13.0, "subclass_size": 4.0}
    batch, index = [torch.randn(20, 1, 4, 4, generator=rng) for _ in range(2)], torch.randperm(56)[:20]
    labels = images.labels[index]
    tau = torch.where(labels < 0, T, method.temperatures[labels])
    z1, z2 = projected(method, batch, index)
    expected = plain(z1, z2, labels, method.subclasses[index], tau, T, 0.6, 0.3)
    torch.testing.assert_close(method.loss(batch, labels, index), expected)


def test_the_order_of_the_images_does_not_matter_to_the_subclasses(images, rng):
    """They are found by label, whatever the order; of two far groups a class, with any start of k-means."""
    order = torch.randperm(56, generator=rng)
    pixels = images.pixels.clone()
    pixels[:, :, :2] = 255 * (torch.arange(56) % 2)[:, None, None, None]
    images = Images(pixels, images.labels, images.classes, "two groups")
    found = []
    for some in (images, images.subset(order)):
        method = made(warm_epochs=0, delta=20)
        method.start_epoch(some, 0)
        found.append(method)
    first, second = found
    assert len(first.subclasses[images.labels == 0].unique()) == 2
    assert same_partition(first.subclasses[order], second.subclasses)
    torch.testing.assert_close(first.temperatures, second.temperatures)


def test_clusters_are_renewed_every_so_many_epochs(images):
    method = made(warm_epochs=1, every=3)
    renewed = []
    for epoch in range(9):
        method.subclasses.fill_(-1)
        method.start_epoch(images, epoch)
        renewed.append(bool((method.subclasses >= 0).any()))
    assert [epoch for epoch in range(9) if renewed[epoch]] == [1, 4, 7]


@pytest.mark.slow
def test_a_resumed_run_has_its_subclasses(images, tmp_path):
    options = {"batch_size": 14, "seed": 0, "device": "cpu"}
    whole, resumed, fresh = (made(warm_epochs=1, every=2) for _ in range(3))
    fit(whole, images, epochs=3, folder=tmp_path / "whole", **options)
    fit(resumed, images, epochs=2, folder=tmp_path / "parts", **options)
    fresh.load_state_dict(read_checkpoint(tmp_path / "parts" / CHECKPOINT)["state_dict"])
    assert torch.equal(fresh.subclasses, resumed.subclasses)
    assert torch.equal(fresh.temperatures, resumed.temperatures)
    assert (whole.subclasses >= 0).sum() == 52


def test_one_step_lowers_the_loss_after_clustering(images):
    method = made(warm_epochs=0)
    method.start_epoch(images, 0)
    pixels, labels, index = images.__getitems__(range(30))
    views = [method.view(pixels) for _ in range(2)]
    before = method.loss(views, labels, index)
    before.backward()
    torch.optim.SGD(method.parameters(), lr=1e-2).step()
    assert method.loss(views, labels, index).item() < before.item() - 1e-4
