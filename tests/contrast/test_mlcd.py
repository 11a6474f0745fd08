"""MLCD against its closed forms, softmax, binary cross-entropy and MLC; the sampled negatives; clusters and targets."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.mlcd import (
    MLCD,
    MLCDLoss,
    PatchFeatures,
    _without_contrast,
    bce,
    mlc,
    mlcd,
    sample_negatives,
)
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.ops.clusters import kmeans
from worlds import Encoder, seeded

P = torch.randn(5, 3, generator=seeded(0), dtype=torch.float64) * 3
N = torch.randn(5, 7, generator=seeded(1), dtype=torch.float64) * 3
Z = torch.randn(6, 4, generator=seeded(2), dtype=torch.float64)
W = torch.randn(9, 4, generator=seeded(3), dtype=torch.float64)
TARGETS = torch.rand(6, 9, generator=seeded(4)).argsort(dim=1)[:, :3]


def split(logits, targets):
    """The scores of the classes of each row, and those of all others."""
    own = F.one_hot(targets, logits.shape[1]).sum(1).bool()
    return logits.gather(1, targets), logits[~own].view(len(logits), -1)


def test_the_sum_of_two_logarithms_is_the_logarithm_of_one_sum():
    up, down = N.exp().sum(1), (-P).exp().sum(1)
    torch.testing.assert_close(mlcd(P, N), torch.log(1 + up * down + up + down), rtol=0, atol=1e-12)
    pairs = (N[:, :, None] - P[:, None]).exp().sum((1, 2))
    torch.testing.assert_close(mlc(P, N), torch.log(1 + pairs), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (3, 8), (8, 0)])
def test_equal_scores_of_zero_count_the_classes(positives, negatives):
    p, n = torch.zeros(1, positives, dtype=torch.float64), torch.zeros(1, negatives, dtype=torch.float64)
    assert mlcd(p, n).item() == pytest.approx(math.log(1 + positives) + math.log(1 + negatives), abs=1e-12)
    assert mlc(p, n).item() == pytest.approx(math.log(1 + positives * negatives), abs=1e-12)
    assert bce(p, n).item() == pytest.approx((positives + negatives) * math.log(2), abs=1e-12)


def test_of_one_positive_and_one_negative_it_is_binary_cross_entropy():
    logits = torch.cat([P[:, :1], N[:, :1]], 1)
    target = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(5, 2)
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    torch.testing.assert_close(mlcd(P[:, :1], N[:, :1]), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(bce(P[:, :1], N[:, :1]), expected, rtol=0, atol=1e-8)
    assert (mlcd(P, N) < bce(P, N) - 1e-3).all()  # but not of several


def test_mlc_of_one_positive_is_the_softmax():
    expected = F.cross_entropy(torch.cat([P[:, :1], N], 1), torch.zeros(5).long(), reduction="none")
    torch.testing.assert_close(mlc(P[:, :1], N), expected, rtol=0, atol=1e-12)


def test_mlcd_is_above_mlc_and_nears_it_only_where_the_sides_touch():
    assert (mlcd(P, N) > mlc(P, N)).all()
    low, high = torch.tensor([[-40.0]]), torch.tensor([[40.0]])
    torch.testing.assert_close(mlcd(low, high), mlc(low, high))


def test_the_ambiguity_of_pairs():
    """Of scores that rise together MLC sees nothing; MLCD lowers the positives' side and raises the negatives'."""
    n, p = torch.tensor([[0.1]]), torch.tensor([[0.4]])
    torch.testing.assert_close(mlc(p + 0.4, n + 0.4), mlc(p, n))
    assert abs(mlcd(p + 0.4, n + 0.4) - mlcd(p, n)) > 0.01
    none = torch.zeros(5, 0, dtype=torch.float64)
    assert (mlcd(P + 1, none) < mlcd(P, none)).all()
    assert (mlcd(none, N + 1) > mlcd(none, N)).all()


def test_gradients_on_the_scores():
    p, n = P.clone().requires_grad_(), N.clone().requires_grad_()
    mlcd(p, n).sum().backward()
    torch.testing.assert_close(p.grad, -(-P).exp() / (1 + (-P).exp().sum(1, keepdim=True)))
    torch.testing.assert_close(n.grad, N.exp() / (1 + N.exp().sum(1, keepdim=True)))
    assert (p.grad.sum(1) > -1).all()
    assert (n.grad.sum(1) < 1).all()


@pytest.mark.parametrize("form", [mlcd, mlc, bce])
def test_what_is_left_out_has_no_part_and_no_gradient(form):
    left = torch.tensor([[0, 1, 0, 0, 1, 0, 0]] * 4 + [[1] * 7]).bool()  # of the last row, nothing is kept
    n = N.clone().requires_grad_()
    value = form(P, n.masked_fill(left, -torch.inf))
    value.sum().backward()
    assert (n.grad[left] == 0).all()
    assert (n.grad[~left] > 0).all()
    torch.testing.assert_close(value[:4], form(P[:4], N[:4][:, ~left[0]]))
    torch.testing.assert_close(value[4:], form(P[4:], N[4:, :0]))


@pytest.mark.parametrize("form", ["mlcd", "mlc", "bce", "softmax"])
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_huge_scores_give_finite_losses_and_gradients(form, value):
    z, w = torch.full((2, 3), 1.0, requires_grad=True), torch.full((5, 3), 1.0, requires_grad=True)
    loss = MLCDLoss(form, ratio=1.0, scale=abs(value))(z * value, w, torch.arange(3).expand(2, 3))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("form", ["mlcd", "mlc", "bce", "softmax"])
def test_the_module_scores_classes_by_scaled_cosines(form, rng):
    loss = MLCDLoss(form, ratio=1.0, scale=5.0)
    logits = 5 * F.normalize(Z, dim=1) @ F.normalize(W, dim=1).T
    if form == "softmax":
        expected = F.cross_entropy(logits, TARGETS[:, 0])
        torch.testing.assert_close(loss(Z, W, TARGETS[:, 0]), expected)
    else:
        expected = {"mlcd": mlcd, "mlc": mlc, "bce": bce}[form](*split(logits, TARGETS)).mean()
    torch.testing.assert_close(loss(Z, W, TARGETS), expected)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    torch.testing.assert_close(loss(9 * Z @ rotation, W @ rotation / 9, TARGETS), expected)
    if form != "softmax":
        torch.testing.assert_close(loss(Z, W, TARGETS.flip(1)), expected)


def test_the_order_of_classes_does_not_matter_when_all_are_taken(rng):
    loss, order = MLCDLoss(ratio=1.0), torch.randperm(9, generator=rng)
    torch.testing.assert_close(loss(Z, W[order], order.argsort()[TARGETS]), loss(Z, W, TARGETS))


def test_all_classes_positive_leaves_the_positives_side_alone():
    z = Z.clone().requires_grad_()
    value = MLCDLoss(ratio=0.1)(z, W[:3], torch.arange(3).expand(6, 3))
    value.backward()
    positive = F.normalize(Z, dim=1) @ F.normalize(W[:3], dim=1).T
    torch.testing.assert_close(value, mlcd(positive, positive[:, :0]).mean())
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 6), (0.5, 3), (0.34, 2), (0.01, 1)])
def test_each_image_takes_as_many_negatives_and_none_of_its_own(ratio, count):
    for seed in range(20):
        candidates, taken = sample_negatives(TARGETS, 9, ratio, torch.Generator().manual_seed(seed))
        assert taken.sum(1).tolist() == [count] * 6
        assert len(candidates) == len(candidates.unique()) == count + 3
        for own, mine in zip(TARGETS.tolist(), taken, strict=True):
            assert not set(own) & set(candidates[mine].tolist())


@pytest.mark.slow
def test_every_negative_is_as_likely():
    drawn, generator = torch.zeros(6, 9), torch.Generator().manual_seed(0)
    for _ in range(3000):
        candidates, taken = sample_negatives(TARGETS, 9, 0.5, generator)
        drawn[:, candidates] += taken
    share = drawn / 3000
    assert (share.gather(1, TARGETS) == 0).all()
    others = share[share > 0]
    assert len(others) == 36
    assert (others - 0.5).abs().max() < 0.05  # five and a half standard deviations


def test_prototypes_that_are_not_sampled_get_no_gradient():
    loss, w = MLCDLoss(ratio=0.2, scale=3.0), W.clone().requires_grad_()
    candidates, taken = sample_negatives(TARGETS[:1], 9, 0.2, torch.Generator().manual_seed(0))
    value = loss(Z[:1], w, TARGETS[:1])
    value.backward()
    scored = {*TARGETS[0].tolist(), *candidates[taken[0]].tolist()}
    assert len(scored) == 4
    assert {k for k in range(9) if w.grad[k].abs().max() > 0} == scored
    cosines = (F.normalize(Z[:1], dim=1) @ F.normalize(W, dim=1).T)[0]
    towards = {k: (w.grad[k] @ (Z[0] - cosines[k] * Z[0].norm() * F.normalize(W[k], dim=0))).item() for k in scored}
    assert all(towards[k] < 0 for k in TARGETS[0].tolist())  # the step, against the gradient, is towards the image
    assert all(towards[k] > 0 for k in scored - set(TARGETS[0].tolist()))


def test_each_call_in_training_samples_anew():
    loss = MLCDLoss(ratio=0.2, scale=3.0)
    first, second = loss(Z, W, TARGETS), loss(Z, W, TARGETS)
    assert first != second
    again = MLCDLoss(ratio=0.2, scale=3.0)
    assert again(Z, W, TARGETS) == first
    again.eval()
    assert again(Z, W, TARGETS) == again(Z, W, TARGETS) == second


@pytest.mark.parametrize("form", ["mlcd", "mlc", "bce"])
def test_gradient_in_double_precision(form):
    def value(z, w):
        return MLCDLoss(form, ratio=0.5, scale=3.0)(z, w, TARGETS)

    assert torch.autograd.gradcheck(value, (Z.clone().requires_grad_(), W.clone().requires_grad_()))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = MLCDLoss()
    with pytest.raises(InputError, match="embeddings and prototypes: expected the same width, got 4 and 3"):
        loss(Z, W[:, :3], TARGETS)
    with pytest.raises(InputError, match="prototypes: 36 of 36 numbers are NaN"):
        loss(Z, W * math.nan, TARGETS)
    with pytest.raises(InputError, match=r"targets: expected the classes of each of the 6 rows, got shape \[5, 3\]"):
        loss(Z, W, TARGETS[:5])
    with pytest.raises(InputError, match=r"targets: expected the classes of each of the 6 rows, got shape \[6, 0\]"):
        loss(Z, W, TARGETS[:, :0])
    with pytest.raises(InputError, match="targets: expected integers from 0 to 8, got 9"):
        loss(Z, W, TARGETS.clamp(max=0) + torch.tensor([9, 1, 2]))
    with pytest.raises(InputError, match="targets: expected different classes in each row, got one twice"):
        loss(Z, W, torch.tensor([[1, 2, 1]]).expand(6, 3))
    with pytest.raises(InputError, match="form 'mlcp' is not known; did you mean 'mlc"):
        MLCDLoss("mlcp")
    for name, value in {"ratio": 0, "scale": -1}.items():
        with pytest.raises(InputError, match=f"{name}: expected a number above 0"):
            MLCDLoss(**{name: value})
    with pytest.raises(InputError, match="ratio: expected a number above 0 and of at most 1, got 2"):
        MLCDLoss(ratio=2)
    for name, value in {"positives": 11, "clusters": 1, "samples": 0}.items():
        with pytest.raises(InputError, match=f"{name}: expected a whole number of at"):
            MLCD(Encoder(64), **{"samples": 10, name: value})


@pytest.fixture
def images():
    """Four looks, sixteen images each: stripes along or across, fine or coarse, shifted and noisy."""
    rng = torch.Generator().manual_seed(0)
    look, at = torch.arange(64) % 4, torch.arange(8)
    wave = (at[None] + torch.randint(4, (64, 1), generator=rng)) // (1 + look[:, None] // 2) % 2
    across = wave[:, None].expand(64, 8, 8)
    square = across.where((look % 2 == 0)[:, None, None], across.mT)
    pixels = (200 * square + torch.randint(0, 20, (64, 8, 8), generator=rng)).to(torch.uint8)
    factors = {"coarse": look // 2, "along": look % 2}
    return Images(pixels[:, None], look, ("a", "b", "c", "d"), "stripes", factors=factors)


def test_features_of_patches_distinguish_looks_wherever_they_are(images):
    features = PatchFeatures(images, kinds=16, side=4, stride=1, patches=500)(images.pixels.float() / 127.5 - 1)
    assert features.shape == (64, 16)
    centres = torch.stack([features[images.labels == k].mean(0) for k in range(4)])
    assert torch.equal(torch.cdist(features, centres).argmin(1), images.labels)
    brighter = (images.pixels.float() / 127.5 - 1) * 0.6 + 0.3  # all the same, but for what keeps flat patches finite
    again = PatchFeatures(images, kinds=16, side=4, stride=1, patches=500)(brighter)
    assert (again - features).abs().max() < 0.05 * features.max()


def test_a_flat_patch_stays_flat_and_a_faint_one_is_made_less_than_a_strong_one():
    checks = torch.tensor([1.0, -1.0]).repeat(8)
    flat, faint, strong = _without_contrast(0.5 + torch.stack([0 * checks, 0.1 * checks, 3 * checks]))
    assert flat.abs().max() == 0
    torch.testing.assert_close(faint, checks / 2**0.5)  # 0.1 / sqrt(0.1² + 0.01)
    torch.testing.assert_close(strong, checks * 3 / 9.01**0.5)


def test_patches_come_from_all_places():
    """Brightness encodes the place: on 5 x 5 pixels there are four patches of 4 x 4, and no other."""
    pixels = (torch.arange(5)[:, None] * 5 + torch.arange(5)).square().to(torch.uint8)
    images = Images(pixels[None, None], torch.zeros(1).long(), ("a",), "one")
    features = PatchFeatures(images, kinds=2, side=4, stride=1, patches=50)
    every = _without_contrast(F.unfold(images.pixels.float() / 127.5 - 1, 4).mT[0])
    distances = torch.cdist(features.random_patches(images, 200), every)
    assert distances.amin(1).max() < 0.01  # others are 3.6 apart and more
    assert distances.argmin(1).unique().tolist() == [0, 1, 2, 3]


def test_patches_are_whitened(images):
    found = PatchFeatures(images, patches=5000)
    some = (found.random_patches(images, 5000) - found.mean) @ found.whitening
    assert some.shape == (5000, 36)
    covariance = some.T.cov()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4
    assert covariance.diag().max() < 1
    assert covariance.diag().max() > 0.9


class Means(nn.Module):
    """A frozen encoder: the means of the rows, with lengths that differ from image to image by a factor of 20."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        means = images.mean((1, 3)) + self.offset
        return means * (3 * images[:, :, 0, 0]).exp()


def made(**given):
    torch.manual_seed(0)
    return MLCD(Encoder(64), **{"samples": 64, "clusters": 6, "positives": 2, "ratio": 1.0, **given})


def test_targets_are_the_centres_at_most_cosine_of_features_of_length_one(images):
    method = made(frozen=Means())
    torch.manual_seed(3)
    method.start_epoch(images, 0)
    features = F.normalize((images.pixels.float() / 127.5 - 1).mean((1, 3)) + 2, dim=1)
    torch.manual_seed(3)
    centres = kmeans(features, 6).centroids
    expected = (features @ F.normalize(centres, dim=1).T).topk(2, dim=1).indices
    assert torch.equal(method.targets, expected)
    assert not any(p.requires_grad for p in method.frozen.parameters())


def test_images_are_clustered_once(images):
    method = made(frozen=Means())
    method.start_epoch(images, 0)
    targets = method.targets.clone()
    method.frozen.offset.data.fill_(-1.0)
    method.start_epoch(images, 1)
    assert torch.equal(method.targets, targets)
    method.start_epoch(images, 0)
    assert not torch.equal(method.targets, targets)


def test_images_of_one_class_look_alike(images):
    method = made(clusters=24, positives=1)
    method.start_epoch(images, 0)
    for label in method.targets.unique():
        assert len(images.labels[method.targets[:, 0] == label].unique()) == 1


@pytest.mark.parametrize("form", ["mlcd", "mlc", "bce", "softmax"])
def test_the_method_compares_features_with_the_prototypes_of_their_classes(form, images, rng):
    method = made(form=form, scale=7.0)
    method.start_epoch(images, 0)
    batch, index = [torch.randn(10, 1, 8, 8, generator=rng)], torch.randperm(64)[:10]
    value = method.loss(batch, torch.full((10,), -1), index)
    cosines = F.normalize(method.encoder(batch[0]), dim=1) @ F.normalize(method.prototypes, dim=1).T
    if form == "softmax":
        expected = F.cross_entropy(7 * cosines, method.targets[index, 0])
    else:
        expected = {"mlcd": mlcd, "mlc": mlc, "bce": bce}[form](*split(7 * cosines, method.targets[index])).mean()
    torch.testing.assert_close(value, expected)


class Rows(nn.Module):
    """A frozen encoder: some rows of the image, as they are."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, images):
        return images.flatten(1)[:, : self.width] + 0.1


@pytest.mark.parametrize("width", [3, 4, 9])
def test_prototypes_start_from_the_centres(width, images):
    """Of 4 numbers they are the centres; of fewer they have their cosines; of more, cosines that rise with theirs."""
    method = made(prototypes="centres", frozen=Rows(width))
    torch.manual_seed(3)
    method.start_epoch(images, 0)
    features = F.normalize(Rows(width)(images.pixels.float() / 127.5 - 1), dim=1)
    torch.manual_seed(3)
    centres = F.normalize(kmeans(features, 6).centroids, dim=1)
    found = method.prototypes.detach()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    if width == 4:
        torch.testing.assert_close(found, centres)
    if width <= 4:
        torch.testing.assert_close(found @ found.T, centres @ centres.T)
        closest = (features @ centres.T).topk(2, dim=1).indices
        assert torch.equal(method.targets, closest)
    else:
        off = ~torch.eye(6, dtype=torch.bool)
        assert torch.corrcoef(torch.stack([(found @ found.T)[off], (centres @ centres.T)[off]]))[0, 1] > 0.5


def test_the_start_of_the_prototypes_changes_nothing_else(images):
    random, centres = made(frozen=Rows(4)), made(frozen=Rows(4), prototypes="centres")
    assert torch.equal(random.prototypes, centres.prototypes)
    before = random.prototypes.detach().clone()
    for method in (random, centres):
        torch.manual_seed(3)
        method.start_epoch(images, 0)
    assert torch.equal(random.prototypes, before)
    assert torch.equal(random.targets, centres.targets)
    assert random.state_dict().keys() == centres.state_dict().keys()
    after = centres.prototypes.detach().clone()
    centres.start_epoch(images, 1)
    assert torch.equal(centres.prototypes, after)


def test_at_the_start_each_image_is_near_its_centres_if_the_encoder_is_the_frozen_one(images):
    """Then the positives have the largest scores: the loss is lower than from random prototypes."""
    values = {}
    for prototypes in ("random", "centres"):
        method = made(frozen=Rows(4), prototypes=prototypes, positives=1, form="softmax")
        method.start_epoch(images, 0)
        method.encoder = Rows(4)
        plain = images.pixels.float() / 127.5 - 1
        values[prototypes] = method.loss([plain], images.labels, torch.arange(64)).item()
    assert values["centres"] < min(values["random"], math.log(6))


def test_a_centre_of_zero_leaves_its_prototype_as_it_was(images):
    method = made(prototypes="centres")
    before = method.prototypes.detach().clone()
    method._start_from(torch.cat([torch.zeros(1, 4), 5 * torch.eye(4), torch.ones(1, 4)]))
    assert torch.equal(method.prototypes[0], before[0])
    torch.testing.assert_close(method.prototypes[1:5].detach(), torch.eye(4))
    assert method.prototypes.requires_grad


def test_clusters_are_as_many_as_the_images_at_most(images):
    few = images.subset(torch.arange(5))
    method = made(samples=5, clusters=128, positives=5)
    method.start_epoch(few, 0)
    assert method.prototypes.shape == (5, 4)
    assert method.targets.sort(1).values.tolist() == [list(range(5))] * 5


def test_diagnostics(images):
    method = made()
    method.start_epoch(images, 0)
    found = method.diagnostics(images, images, images)
    z = F.normalize(method.encoder(images.pixels.float() / 127.5 - 1), dim=1)
    positive, negative = split(z @ F.normalize(method.prototypes, dim=1).T, method.targets)
    assert found["positive_cosine"] == pytest.approx(positive.mean().item(), abs=1e-5)
    assert found["negative_cosine"] == pytest.approx(negative.mean().item(), abs=1e-5)
    assert found["off_the_shelf"] > 0.99
    for values in (torch.zeros(64, dtype=torch.int64), torch.full((64,), -1)):  # of which no probe can read anything
        constant = replace(images, factors={"coarse": values})
        assert method.diagnostics(images, constant, constant).keys() == {"positive_cosine", "negative_cosine"}
    plain = Images(images.pixels, images.labels, images.classes, "no factors")
    assert method.diagnostics(plain, plain, plain).keys() == {"positive_cosine", "negative_cosine"}


def test_a_loss_that_no_negative_is_left_for_is_refused():
    """Without negatives these two are 0, whatever is learnt."""
    for form in ("mlc", "softmax"):
        classes = 2 if form == "mlc" else 1
        with pytest.raises(InputError, match=f"targets: all {classes} classes belong to each image"):
            MLCDLoss(form)(torch.eye(2), torch.eye(2)[:classes], torch.arange(classes).expand(2, classes))
    with pytest.raises(InputError, match="positives: expected fewer than the 6 clusters"):
        made(form="mlc", positives=6)


@pytest.mark.usefixtures("plain_shapes")
def test_an_unknown_start_of_the_prototypes_is_refused():
    with pytest.raises(InputError, match="prototypes 'centers' is not known; did you mean 'centres'"):
        made(prototypes="centers")
