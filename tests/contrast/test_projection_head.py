"""The linear theory against nets that gradient descent trains, the spectral loss, the heads, and the method on them."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.projection_head import (
    Digits,
    FixedReweightHead,
    ProjectionHead,
    SpectralContrastiveLoss,
    SymmetricReLU,
    drop_red,
    feature_weights,
    identity_head,
    indicator,
    kept_features,
    least_loss,
    linear_weights,
    overlay,
    population_loss,
    reweighting,
    spectral_contrastive,
    symmetric_relu,
    weight_inequality,
)
from counterpoise.contrast.simclr import nt_xent
from counterpoise.contrast.supcon import SupConLoss, supcon
from counterpoise.data import Images, load
from counterpoise.errors import InputError
from worlds import Encoder, seeded

STRENGTH = torch.tensor([2.0, 1.0, 0.5, 1.5], dtype=torch.float64)
PRESERVED = torch.tensor([0.9, 0.8, 0.7, 0.2], dtype=torch.float64)
KEPT = 3
N, D = 7, 5
Z1 = torch.randn(N, D, generator=seeded(0), dtype=torch.float64)
Z2 = Z1 + torch.randn(N, D, generator=seeded(1), dtype=torch.float64) / 2


def close(found, expected, **tolerances):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), **tolerances)


def descended(seed, width=8, std=0.03):
    """Both layers of a linear net after plain gradient descent from small random ones, past its saddles."""
    random = np.random.default_rng(seed)
    first, second = random.normal(0, std, (width, len(STRENGTH))), random.normal(0, std, (KEPT, width))
    variance = STRENGTH.numpy() ** 2
    kept = np.diag(PRESERVED.numpy() ** 2 * variance)
    for _ in range(20_000):
        both = second @ first
        gradient = 4 * both @ (variance[:, None] * (both.T @ both) * variance - kept)
        first, second = first - 0.05 * second.T @ gradient, second - 0.05 * gradient @ first.T
    return torch.from_numpy(first), torch.from_numpy(second)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_descent_from_small_weights_finds_the_predicted_ones(seed):
    """Minimum, weights before and after the head, and that they become more unequal with depth."""
    first, second = descended(seed)
    assert population_loss(second @ first, STRENGTH, PRESERVED) - least_loss(PRESERVED, KEPT) < 1e-4
    kept = kept_features(PRESERVED, KEPT)
    before, after = feature_weights(first)[kept], feature_weights(second @ first)[kept]
    close(after, linear_weights(STRENGTH, PRESERVED, KEPT, layer=2)[kept], rtol=0.01, atol=0)
    close(before, linear_weights(STRENGTH, PRESERVED, KEPT, layer=1)[kept], rtol=0.02, atol=0)
    assert weight_inequality(before) < weight_inequality(after) / 1.5


def test_no_net_is_better_than_the_closed_form(rng):
    """The best weight has no slope, its loss is the closed form's, and random steps from it lead up."""
    weight = torch.diag(linear_weights(STRENGTH, PRESERVED, KEPT, layer=2))[:KEPT].requires_grad_()
    value = population_loss(weight, STRENGTH, PRESERVED)
    close(value, least_loss(PRESERVED, KEPT).item())
    (slope,) = torch.autograd.grad(value, weight)
    close(slope, torch.zeros_like(slope))
    for _ in range(20):
        step = torch.randn(KEPT, 4, generator=rng, dtype=torch.float64) / 10
        assert population_loss(weight + step, STRENGTH, PRESERVED) > value


def test_the_worked_case():
    assert least_loss(PRESERVED, KEPT).item() == pytest.approx(-1.3058, abs=1e-12)
    after, before = (linear_weights(STRENGTH, PRESERVED, KEPT, layer) for layer in (2, 1))
    close(after, [0.45, 0.8, 1.4, 0.0])
    close(before, [0.67082, 0.89443, 1.18322, 0.0], rtol=0, atol=1e-5)
    post, pre = indicator(after, STRENGTH), indicator(before, STRENGTH)
    close(post[:3], [2.3951, 3.0312, 3.9592], rtol=0, atol=1e-4)
    close(pre[:3], [1.6389, 3.6875, 8.4286], rtol=0, atol=1e-4)
    assert post[3] == pre[3] == math.inf
    assert (pre < post)[:3].tolist() == [True, False, False]  # before the head is better for the strong one alone


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_inequality_is_a_power_of_the_depth(layers):
    last = weight_inequality(linear_weights(STRENGTH, PRESERVED, KEPT, layers, layers)[:KEPT])
    for layer in range(1, layers + 1):
        found = weight_inequality(linear_weights(STRENGTH, PRESERVED, KEPT, layer, layers)[:KEPT])
        close(found, (last ** (layer / layers)).item())


def test_features_that_are_kept():
    a = torch.tensor([0.0, 0.5, 0.0, 0.9])
    assert kept_features(a, 3).tolist() == [False, True, False, True]  # none that views destroy
    assert kept_features(a, 9).tolist() == [False, True, False, True]
    assert kept_features(torch.tensor([0.5, 0.5, 0.1]), 2).tolist() == [True, True, False]
    with pytest.raises(InputError, match="preserved: expected no tie between the features of rank 1 and 2"):
        kept_features(torch.tensor([0.5, 0.5, 0.1]), 1)


def test_weights_along_features_that_are_no_coordinates(rng):
    basis = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    weight = torch.diag(STRENGTH) @ basis.T
    close(feature_weights(weight, basis), STRENGTH)
    assert weight_inequality(torch.tensor([1.0, 0.0])) == math.inf


def test_the_batch_estimates_the_population():
    generator = torch.Generator().manual_seed(1)
    strength, preserved = STRENGTH[:2], PRESERVED[:2]
    weight = torch.tensor([[0.5, -0.2], [0.1, 0.6]], dtype=torch.float64)
    signs = torch.randint(2, (200_000, 2), generator=generator) * 2.0 - 1
    flips = [torch.rand(200_000, 2, generator=generator, dtype=torch.float64) < (1 - preserved) / 2 for _ in range(2)]
    z1, z2 = (torch.where(flip, -signs, signs).double() * strength @ weight.T for flip in flips)
    expected = population_loss(weight, strength, preserved)
    assert spectral_contrastive(z1, z2).item() == pytest.approx(expected.item(), abs=0.01)


def test_spectral_loss_by_its_sum_over_pairs():
    pairs = Z1 @ Z2.T
    others = pairs.square().masked_fill(torch.eye(N).bool(), 0).sum() / (N * (N - 1))
    close(SpectralContrastiveLoss()(Z1, Z2), (-2 * pairs.diagonal().mean() + others).item())


def test_spectral_loss_in_closed_form():
    eye = torch.eye(D, dtype=torch.float64)
    assert spectral_contrastive(eye, eye).item() == pytest.approx(-2)
    for c in (0.5, 1.0, 3.0):
        z = F.normalize(Z1[:1], dim=1).expand(N, -1) * c
        assert spectral_contrastive(z, z).item() == pytest.approx(-2 * c**2 + c**4)


def test_spectral_loss_keeps_the_lengths_of_rows_and_sees_no_order_nor_rotation(rng):
    value = spectral_contrastive(Z1, Z2)
    order = torch.randperm(N, generator=rng)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64)).Q
    for same in (spectral_contrastive(Z1[order], Z2[order]), spectral_contrastive(Z1 @ rotation, Z2 @ rotation)):
        close(same, value.item())
    assert spectral_contrastive(2 * Z1, 2 * Z2) > value + 1


def test_gradients_in_double_precision(rng):
    leaves = [x.clone().requires_grad_() for x in (Z1, Z2)]
    assert torch.autograd.gradcheck(spectral_contrastive, leaves)
    threshold = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(symmetric_relu, (leaves[0], threshold))
    weight = torch.randn(3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: population_loss(w, STRENGTH, PRESERVED), weight)


def test_fixed_head(rng):
    x = torch.randn(4, 6, generator=rng, requires_grad=True)
    assert torch.equal(FixedReweightHead(6, kappa=1.0)(x), x)
    head = FixedReweightHead(6, kappa=1.5)
    expected = torch.tensor([1.5**-i for i in range(6)])
    close(head(torch.ones(6)), expected)
    head(x).sum().backward()
    close(x.grad, expected.expand(4, 6))
    assert not list(head.parameters())
    assert list(head.state_dict()) == ["weights"]


def test_weights_of_the_fixed_head_are_exact_before_they_are_rounded():
    weights = reweighting(512, kappa=1.5)
    assert weights[511].item() == pytest.approx(1.5**-511, rel=1e-12)
    assert weights[511] > 0
    with pytest.warns(UserWarning, match=r"kappa 1.5 leaves 477 of 512 coordinates a weight below 1e-06"):
        FixedReweightHead(512, kappa=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FixedReweightHead(128, kappa=1.1)


def test_a_loss_of_cosines_sees_relative_weights_alone():
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 2])
    loss, head = SupConLoss(temperature=0.5), FixedReweightHead(D, kappa=1.5).double()
    value = loss(head(Z1), labels)
    close(loss(1e3 * head(Z1), labels), value.item())
    assert abs(loss(Z1, labels) - value) > 0.01


def test_symmetric_relu():
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)
    close(SymmetricReLU()(x), x)
    for b in (0.5, 1.0):
        found = SymmetricReLU(b).double()(x)
        close(found, F.softshrink(x, b))
        close(found, -SymmetricReLU(b).double()(-x).detach())
        assert (found[x.abs() <= b] == 0).all()
    assert SymmetricReLU(0.5).threshold.requires_grad


def test_identity_head_starts_as_the_identity_and_learns():
    head = identity_head(D)
    close(head(Z1.float()), Z1.float())
    head(Z1.float()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def test_red_is_dropped_in_one_view_of_a_share_of_the_images():
    torch.manual_seed(0)
    first, second = (torch.full((4000, 3, 2, 2), x) for x in (0.25, 0.5))
    dropped = drop_red(first, second, probability=0.9)
    lost = torch.stack([view[:, 0, 0, 0] == -1 for view in dropped])
    assert not lost.all(0).any()
    for share in lost.float().mean(1):
        assert share.item() == pytest.approx(0.45, abs=0.03)
    for view, before, chosen in zip(dropped, (first, second), lost, strict=True):
        assert torch.equal(view[:, 1:], before[:, 1:])
        assert torch.equal(view[~chosen], before[~chosen])
        assert (view[chosen][:, 0] == -1).all()
    assert (first == 0.25).all()
    assert all(torch.equal(*x) for x in zip(drop_red(first, second, 0.0), (first, second), strict=True))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = SpectralContrastiveLoss()
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        loss(Z1[:1], Z2[:1])
    with pytest.raises(InputError, match=r"z1 and z2: expected the same shape, got \[7, 5\] and \[7, 4\]"):
        loss(Z1, Z2[:, :4])
    with pytest.raises(InputError, match="z2: expected rows of a length of at most 1e\\+08"):
        loss(Z1, Z2 * 1e12)
    with pytest.raises(InputError, match="strength: expected a number above 0, got 0"):
        linear_weights(STRENGTH * 0, PRESERVED, 3, 1)
    with pytest.raises(InputError, match=r"preserved: expected a number of at least 0 and of at most 1, got 1\.2"):
        population_loss(torch.eye(4), STRENGTH, PRESERVED + 0.3)
    with pytest.raises(InputError, match="layer: expected a whole number of at least 1 and of at most 2, got 3"):
        linear_weights(STRENGTH, PRESERVED, 3, 3)
    with pytest.raises(InputError, match="kappa: expected a number above 0, got 0"):
        FixedReweightHead(4, kappa=0)
    with pytest.raises(InputError, match="threshold: expected a number of at least 0, got -1"):
        SymmetricReLU(-1)
    with pytest.raises(InputError, match="head 'mpl' is not known; did you mean 'mlp'"):
        ProjectionHead(Encoder(48), head="mpl")
    with pytest.raises(InputError, match="drop: expected a number of at least 0 and of at most 1, got 2"):
        ProjectionHead(Encoder(48), drop=2)
    images, digits = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    for wrong, message in (
        ({"objective": "supcom"}, "objective 'supcom' is not known; did you mean 'supcon'"),
        ({"objective": "cross-entropy"}, "classes: expected the number of classes for objective 'cross-entropy', got"),
        ({"overlay": "mnits"}, "overlay 'mnits' is not known; did you mean 'mnist'"),
        ({"strength": 0}, "strength: expected a number above 0 and of at most 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            ProjectionHead(Encoder(48), **wrong)
    for arguments, message in (
        ((images[0], digits), r"images: expected \[batch, channel, height, width\], got shape \[3, 4, 4\]"),
        ((images - 1, digits), "images: expected a number of at least 0 and of at most 1, got -1"),
        ((images, digits[:1]), r"digits: expected \[2, 1, height, width\], got shape \[1, 1, 4, 4\]"),
        ((images, images), r"digits: expected \[2, 1, height, width\], got shape \[2, 3, 4, 4\]"),
        ((images, digits, 2), "strength: expected a number of at least 0 and of at most 1, got 2"),
        ((images[..., :1], digits), "images: expected at least 2 pixels in height and width, got 4 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            overlay(*arguments)
    bare = Images(torch.zeros(4, 1, 1, 3, dtype=torch.uint8), torch.full((4,), -1), (), "bare")
    with pytest.raises(InputError, match="labels: expected some for objective 'cross-entropy', got none"):
        ProjectionHead(Encoder(3), objective="cross-entropy", classes=2).check_data(bare, 4)
    with pytest.raises(InputError, match=r"overlay: expected images of at least 2x2 pixels, got \[1, 3\]"):
        ProjectionHead(Encoder(3), overlay="mnist").check_data(bare, 4)
    with pytest.raises(InputError, match="drop: expected images of 3 channels, one of them red, got 1"):
        drop_red(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), 0.5)


@pytest.mark.parametrize("head", ["none", "mlp", "fixed"])
def test_the_method_compares_what_comes_out_of_the_head(head, rng):
    method = ProjectionHead(Encoder(48), head=head, kappa=2.0, dim=3)
    views = [torch.randn(N, 3, 4, 4, generator=rng) for _ in range(2)]
    features = [method.encoder(view) for view in views]
    expected = {
        "none": lambda h: h,
        "fixed": lambda h: h * torch.tensor([1.0, 0.5, 0.25, 0.125]),
        "mlp": lambda h: method.head[2](method.head[0](h).relu()),
    }[head]
    value = method.loss(views, torch.full((N,), -1), torch.arange(N))
    close(value, nt_xent(*map(expected, features), temperature=0.5).item())
    close(method.project(views[0]), expected(features[0]))


def test_the_method_drops_red_before_it_compares(rng):
    method = ProjectionHead(Encoder(48), head="none", drop=1.0)
    views = [torch.randn(N, 3, 4, 4, generator=rng) for _ in range(2)]
    torch.manual_seed(0)
    value = method.loss(views, torch.full((N,), -1), torch.arange(N))
    torch.manual_seed(0)
    close(value, nt_xent(*map(method.encoder, drop_red(*views, 1.0)), temperature=0.5).item())
    assert value != nt_xent(*map(method.encoder, views), temperature=0.5)


LABELLED = torch.tensor([0, 1, 0, 2, -1, 1, -1])


@pytest.mark.parametrize("head", ["none", "mlp", "fixed"])
def test_the_objectives_see_the_output_of_the_head(head, rng):
    views = [torch.randn(N, 3, 4, 4, generator=rng) for _ in range(2)]
    found = {}
    for objective in ("ntxent", "supcon", "cross-entropy", "spectral"):
        torch.manual_seed(0)
        found[objective] = ProjectionHead(Encoder(48), head=head, kappa=2.0, dim=3, objective=objective, classes=3)
    z1, z2 = map(found["ntxent"].project, views)
    known = LABELLED >= 0
    logits = found["cross-entropy"].objective(torch.cat([z1[known], z2[known]]))
    expected = {
        "ntxent": nt_xent(z1, z2, temperature=0.5),
        "supcon": supcon(torch.cat([z1, z2]), torch.tensor([0, 1, 0, 2, 3, 1, 4] * 2), temperature=0.5),
        "cross-entropy": F.cross_entropy(logits, LABELLED[known].repeat(2)),
        "spectral": spectral_contrastive(z1, z2),
    }
    for objective, method in found.items():
        close(method.loss(views, LABELLED, torch.arange(N)), expected[objective].item())
    nothing = torch.full((N,), -1)
    close(found["supcon"].loss(views, nothing, torch.arange(N)), expected["ntxent"].item())  # each image by itself
    assert found["cross-entropy"].loss(views, nothing, torch.arange(N)) == 0


@pytest.mark.parametrize("objective", ["supcon", "cross-entropy"])
def test_supervised_gradients_are_weighted_by_the_fixed_head(objective, rng):
    """Of the last linear layer: coordinate i has the gradient of the loss at the head's output, times its weight."""
    method = ProjectionHead(Encoder(48), head="fixed", kappa=2.0, objective=objective, classes=3)
    views = [torch.randn(N, 3, 4, 4, generator=rng) for _ in range(2)]
    outputs = []
    method.head.register_forward_hook(lambda _, __, z: outputs.append(z) or z.retain_grad())
    method.loss(views, LABELLED, torch.arange(N)).backward()
    slope = sum(z.grad.T @ view.flatten(1) for z, view in zip(outputs, views, strict=True))
    close(method.encoder.weight.grad, torch.tensor([1.0, 0.5, 0.25, 0.125])[:, None] * slope, rtol=1e-4, atol=1e-7)
    assert slope.abs().amax(1).min() > 0


def test_overlay_written_out(rng):
    images = torch.rand(3, 3, 8, 6, generator=rng)
    digits = torch.zeros(3, 1, 4, 3)
    digits[:, :, 1:3, 1:] = torch.rand(3, 1, 2, 2, generator=rng) + 0.01
    digits /= digits.max()
    for strength in (0.3, 0.7, 1.0):
        found = overlay(images, digits, strength)
        expected = images.clone()
        for i in range(3):
            for row in range(4):
                for column in range(3):
                    if (ink := digits[i, 0, row, column]) > 0:
                        place = (i, slice(None), 2 + row, 1 + column)
                        expected[place] = (1 - strength) * images[place] + strength * ink
        close(found, expected)
    assert torch.equal(overlay(images, digits, 0.0), images)
    assert torch.equal(overlay(images, torch.zeros_like(digits), 1.0), images)
    large = digits.repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = (overlay(images, large, 1.0) != images).any(1)
    assert changed.any()
    assert not changed[:, [0, 1, 6, 7]].any()  # resized to the middle half
    assert not changed[:, :, [0, 4, 5]].any()


def test_each_image_keeps_its_digit():
    mnist = load("mnist").test.subset(torch.arange(5))
    digits, index = Digits(mnist, seed=3), torch.arange(12)
    labels = digits.labels(index)
    assert torch.equal(labels[:5], labels[5:10])
    assert sorted(labels[:5].tolist()) == sorted(mnist.labels.tolist())
    pixels = torch.full((12, 3, 9, 9), 60, dtype=torch.uint8)
    found = digits.on(pixels, index, 0.7)
    assert torch.equal(found[[7, 2]], digits.on(pixels[:2], index[[7, 2]], 0.7))
    own = mnist.pixels[(mnist.labels == labels[4]).nonzero()[0]].float() / 255
    expected = (overlay(pixels[:1].float() / 255, own, 0.7) * 255).round()
    close(found[4].float(), expected[0])
    assert torch.equal(Digits(mnist, seed=3).labels(index), labels)


def test_an_overlaid_digit_is_dropped_in_one_view_of_a_share_of_the_images():
    """Before the augmentations, so that what is behind the digit is there again."""
    torch.manual_seed(0)
    method = ProjectionHead(Encoder(64), overlay="mnist", strength=1.0, drop=0.6)
    pixels, index = torch.full((2000, 1, 8, 8), 51, dtype=torch.uint8), torch.arange(2000)
    method.augment = lambda x: x.float() / 255
    views = method.views_of(pixels, torch.full((2000,), -1), index)
    with_digit = method.digits.on(pixels, index, 1.0).float() / 255
    lost = torch.stack([(view == 0.2).flatten(1).all(1) for view in views])
    assert not lost.all(0).any()
    for view, chosen in zip(views, lost, strict=True):
        assert torch.equal(view[~chosen], with_digit[~chosen])
        assert chosen.float().mean().item() == pytest.approx(0.3, abs=0.03)
    method.drop = 0.0
    assert all(torch.equal(view, with_digit) for view in method.views_of(pixels, index, index))
    plain = ProjectionHead(Encoder(64), drop=0.6)
    plain.augment = method.augment
    assert all((view == 0.2).all() for view in plain.views_of(pixels, index, index))


def test_a_dropped_digit_leaves_the_colours_of_an_overlaid_image():
    method = ProjectionHead(Encoder(48), head="none", overlay="mnist", drop=1.0)
    views = [torch.randn(N, 3, 4, 4, generator=seeded(5)) for _ in range(2)]
    value = method.loss(views, torch.full((N,), -1), torch.arange(N))
    close(value, nt_xent(*map(method.encoder, views), temperature=0.5).item())


def test_diagnostics_read_the_overlaid_digit():
    """Features are the pixels in the middle, which show the digit; the head lets through one pixel of the frame."""
    method = ProjectionHead(Encoder(400, features=100), head="mlp", dim=2, overlay="mnist", strength=1.0)
    middle = torch.arange(400).view(20, 20)[5:15, 5:15].flatten()
    with torch.no_grad():
        for layer in (method.encoder, method.head[0], method.head[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        method.encoder.weight[torch.arange(100), middle] = 1.0
        method.head[2].bias.copy_(torch.tensor([1.0, 2.0]))
    grey = Images(torch.full((500, 1, 20, 20), 90, dtype=torch.uint8), torch.arange(500) % 2, ("a", "b"), "grey")
    found = method.diagnostics(grey, grey, grey)
    assert found["before overlay"] > 0.5
    assert found["after overlay"] < 0.25
    assert found["gain overlay"] == found["before overlay"] - found["after overlay"]
    assert found["before label"] < 0.65  # digits know nothing of it
    assert method.diagnostics(grey, grey.subset(torch.arange(0)), grey) == {}


def coloured(count, seed):
    """Images whose red and green are one of four levels each; the label is that of green."""
    red, green = torch.randint(4, (2, count), generator=torch.Generator().manual_seed(seed))
    pixels = torch.stack([red, green, green], 1)[:, :, None, None].expand(-1, -1, 4, 4) * 60
    return Images(pixels.to(torch.uint8), green, tuple("abcd"), "colours", factors={"red": red, "green": green})


def test_diagnostics_read_each_factor_before_and_after_the_head():
    method = ProjectionHead(Encoder(48), head="mlp", dim=2)
    with torch.no_grad():  # features are the four levels of both colours; the head lets green alone through
        method.encoder.weight.zero_()
        method.encoder.weight[0, 0] = method.encoder.weight[1, 16] = 1.0
        method.head[2].weight.zero_()
        nn.init.eye_(method.head[0].weight)
        nn.init.zeros_(method.head[0].bias)
        nn.init.constant_(method.encoder.bias, 2.0)
        method.head[2].weight[0, 1] = 1.0
    probe, test = coloured(200, seed=1), coloured(200, seed=2)
    found = method.diagnostics(probe, probe, test)
    assert set(found) == {f"{when} {factor}" for when in ("before", "after", "gain") for factor in ("red", "green")}
    assert found["before red"] > 0.9
    assert found["after red"] < 0.5
    assert found["gain red"] == found["before red"] - found["after red"]
    assert found["gain green"] == pytest.approx(0, abs=0.05)
    plain = Images(test.pixels, test.labels, test.classes, "plain")
    assert set(method.diagnostics(plain, plain, plain)) == {"before label", "after label", "gain label"}
    nothing = plain.subset(torch.arange(0))
    assert method.diagnostics(plain, nothing, plain) == {}


@pytest.mark.parametrize(("values", "dim"), [((1.0, 0.5, 0.5, 0.5), 2), ((0.5, 0.5), 1), ((0.0, 0.0, 0.9), 2)])
def test_the_least_loss_at_ties_is_what_a_net_reaches_with_any_of_them(values, dim, rng):
    preserved = torch.tensor(values, dtype=torch.float64)
    strength = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)[: len(values)]
    expected = least_loss(preserved, dim)
    for order in (torch.arange(len(values)), torch.arange(len(values)).flip(0)):
        chosen = order[preserved[order].argsort(descending=True, stable=True)][:dim]
        weight = torch.zeros(dim, len(values), dtype=torch.float64)
        weight[torch.arange(dim), chosen] = preserved[chosen] / strength[chosen]
        close(population_loss(weight, strength, preserved), expected.item())
    for _ in range(20):  # and none is better
        nearby = weight + torch.randn(weight.shape, generator=rng, dtype=torch.float64) / 10
        assert population_loss(nearby, strength, preserved) > expected


def test_weights_that_no_float_holds_are_refused():
    with pytest.raises(InputError, match=r"kappa: expected a larger number, since 0\.5 to the power of -199 is beyond"):
        FixedReweightHead(200, kappa=0.5)
    with pytest.raises(InputError, match="weights: expected one that is not 0"):
        indicator(torch.zeros(4), torch.ones(4))
    with pytest.raises(InputError, match="weights: expected one above 0"):
        weight_inequality(torch.zeros(4))
