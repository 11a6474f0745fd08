"""FlowAug: values by hand with a flow that is known, what it keeps, what it refuses; the method from start to end."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from counterpoise.classify.flowaug import FlowAug, FlowAugmented, exchanged, noised, partners
from counterpoise.data import Images, load
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.nets.flows import Flow
from counterpoise.training.trainer import fit
from worlds import Encoder

MODES = ("mix", "gaussian", "uniform", "gaussian_local", "noise")


class Means:
    """A flow that is known: z is the mean of each channel, nu what is left; no module."""

    def encode(self, x):
        z = x.mean((2, 3))
        return z, x - z[:, :, None, None]

    def decode(self, nu, z):
        return nu + z[:, :, None, None]


def pictures(rng, n=6, size=4):
    """Images whose means and contrasts are small enough that no exchange leaves the range."""
    level = torch.rand(n, 3, 1, 1, generator=rng) - 0.5
    return level + 0.4 * (torch.rand(n, 3, size, size, generator=rng) - 0.5)


def test_codes_are_exchanged_in_full_or_in_part():
    z, others = torch.tensor([[0.0, 1.0], [4.0, 3.0]]), torch.tensor([[4.0, 3.0], [0.0, 1.0]])
    assert torch.equal(exchanged(z, others), others)
    assert torch.equal(exchanged(z, others, 0.0), z)
    assert exchanged(z, others, torch.tensor([0.5, 0.25])).tolist() == [[2, 2], [3, 2.5]]


def test_noise_is_in_units_of_the_codes_deviation():
    z, noise = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    assert noised(z, noise, torch.tensor([1.0, 3.0]), 0.5).tolist() == [[1.5, 0.5], [0.25, 3.0]]


def test_noise_is_normal_or_even_by_the_deviation_that_the_flow_has_or_that_of_the_batch(rng):
    x = 0.1 * pictures(rng, n=4000, size=2)
    flow = Means()
    for deviation in (None, torch.tensor([0.05, 0.1, 0.0])):
        if deviation is not None:
            flow.deviation = deviation
        z = flow.encode(x)[0]
        for mode, expected in (("gaussian", 1.0), ("uniform", 3**-0.5)):
            moved = flow.encode(FlowAug(flow, mode, scale=0.5, p=1.0)(x, generator=rng))[0] - z
            unit = z.std(0) if deviation is None else deviation
            torch.testing.assert_close(moved.std(0), 0.5 * expected * unit, rtol=0.05, atol=1e-6)
            assert (moved.abs() <= 0.5 * unit + 1e-6).all() == (mode == "uniform")


def test_partners_are_a_permutation_within_classes_and_any_of_a_class_alike(rng):
    labels = torch.tensor([1, 0, -1, 1, 1, -1, 0])
    seen = torch.zeros(7, 7)
    for _ in range(600):
        order = partners(labels, rng)
        assert order.sort().values.tolist() == list(range(7))
        assert torch.equal(labels[order], labels)
        seen[torch.arange(7), order] += 1
    assert (seen[2, 2], seen[5, 5]) == (600, 600)
    assert (seen[0, [0, 3, 4]] - 200).abs().max() < 50
    assert (seen[1, [1, 6]] - 300).abs().max() < 60


def test_mix_gives_each_image_the_code_of_another_and_keeps_the_rest(rng):
    x = pictures(rng)
    made = FlowAug(Means(), p=1.0)(x, generator=rng)
    (z, nu), (z_made, nu_made) = Means().encode(x), Means().encode(made)
    torch.testing.assert_close(nu_made, nu)
    order = torch.cdist(z_made, z).argmin(1)
    assert sorted(order.tolist()) == list(range(6))
    assert order.tolist() != list(range(6))
    torch.testing.assert_close(z_made, z[order])


def test_a_share_goes_part_of_the_way_and_one_that_is_drawn_differs_by_image(rng):
    x = pictures(rng, n=60)
    z = Means().encode(x)[0]
    half, drawn = (FlowAug(Means(), lam=lam, p=1.0) for lam in (0.5, None))
    seed = 3
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    found = Means().encode(half(x, generator=torch.Generator().manual_seed(seed)))[0]
    torch.testing.assert_close(found, (z + z[order]) / 2)
    found = Means().encode(drawn(x, generator=torch.Generator().manual_seed(seed)))[0]
    moved = order != torch.arange(60)
    share = ((found - z) / (z[order] - z))[moved]
    torch.testing.assert_close(share[:, 0], share[:, 1], atol=1e-2, rtol=1e-2)
    assert share.min() > -1e-3
    assert share.max() < 1.001
    assert share[:, 0].std() > 0.2


def test_each_noise_moves_what_it_says(rng):
    x = pictures(rng, n=8)
    z, nu = Means().encode(x)
    for mode in ("gaussian", "uniform"):
        z_made, nu_made = Means().encode(FlowAug(Means(), mode, scale=0.1, p=1.0)(x, generator=rng))
        torch.testing.assert_close(nu_made, nu)
        assert 0 < (z_made - z).abs().max() < 5 * 0.1 * z.std()
    made = FlowAug(Means(), "gaussian_local", scale=0.01, p=1.0)(x, generator=rng)
    assert (made - x).std().item() == pytest.approx(0.01, rel=0.15)


def test_the_control_is_as_far_from_the_image_as_the_mixture(rng):
    x = pictures(rng) / 5  # so that no noise leaves the range
    far = [
        (FlowAug(Means(), mode, p=1.0)(x, generator=torch.Generator().manual_seed(1)) - x).flatten(1).norm(dim=1)
        for mode in ("mix", "noise")
    ]
    torch.testing.assert_close(*far)
    assert far[0].max() > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_shape_type_and_range_are_kept_and_no_gradient_flows(rng, mode):
    flow = Flow((3, 8, 8), code=4, width=8)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    augment = FlowAug(flow, mode, scale=3.0, p=1.0)
    for dtype in (torch.float32, torch.float64, torch.float16):
        x = torch.ones(4, 3, 8, 8, dtype=dtype, requires_grad=True)
        made = augment(x * torch.tensor([-1, 1, -1, 1]).view(4, 1, 1, 1).to(dtype), generator=rng)
        assert (made.dtype, made.shape, made.requires_grad) == (dtype, x.shape, False)
        assert made.abs().max() <= 1
    bytes_ = torch.randint(0, 256, (4, 3, 8, 8), generator=rng, dtype=torch.uint8)
    made = augment(bytes_, generator=rng)
    assert (made.dtype, made.shape) == (torch.uint8, bytes_.shape)
    assert not torch.equal(made, bytes_)
    assert not any(parameter.requires_grad for parameter in flow.parameters())


def test_without_change_images_come_back(rng):
    flow = Flow((3, 8, 8), code=4, width=8)
    x = torch.rand(5, 3, 8, 8, generator=rng) * 2 - 1
    bytes_ = torch.randint(0, 256, (5, 3, 8, 8), generator=rng, dtype=torch.uint8)
    assert torch.equal(FlowAug(flow, p=0.0)(x), x)
    same = FlowAug(flow, p=1.0, same_class=True), {"labels": torch.tensor([-1, 0, 1, 2, -1])}  # each by itself
    still = [(FlowAug(flow, mode, scale=0.0, p=1.0), {}) for mode in ("gaussian", "uniform", "gaussian_local")]
    for augment, given in (same, (FlowAug(flow, lam=0.0, p=1.0), {}), *still):
        torch.testing.assert_close(augment(x, **given), x, atol=1e-4, rtol=0)
        assert torch.equal(augment(bytes_, **given), bytes_)
    assert torch.equal(FlowAug(flow, p=1.0)(bytes_[:1]), bytes_[:1])  # a batch of one


def test_images_are_changed_by_the_probability_and_the_others_stay_to_the_bit(rng):
    x = pictures(rng, n=2000, size=2)
    made = FlowAug(Means(), p=0.3)(x, generator=rng)
    changed = (made != x).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)
    torch.manual_seed(4)
    one = FlowAug(Means(), p=0.3)(x)
    torch.manual_seed(4)
    assert torch.equal(FlowAug(Means(), p=0.3)(x), one)


def test_within_classes_codes_stay_among_those_of_the_class(rng):
    labels = torch.arange(60) % 3
    x = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4) / 3 + 0.01 * torch.rand(60, 3, 4, 4, generator=rng)
    apart, across = (FlowAug(Means(), p=1.0, same_class=same)(x, labels, rng).mean((1, 2, 3)) for same in (True, False))
    own = x.mean((1, 2, 3))
    assert (apart - own).abs().max() < 0.05
    assert (across - own).abs().max() > 0.3


def test_the_flow_of_a_module_is_frozen_and_in_the_state(rng):
    flow = Flow((3, 4, 4), code=2, width=4)
    augment = FlowAug(flow)
    assert not list(augment.parameters())
    assert {name.removeprefix("flow.") for name in augment.state_dict()} == set(flow.state_dict())
    assert not augment.train().flow.module.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": nn.Identity()}, r"flow: expected an object with encode\(x\) and decode\(nu, z\), got Identity"),
        ({"mode": "swap"}, "mode"),
        ({"lam": 1.5}, "lam: expected a number of at least 0 and of at most 1, got 1.5"),
        ({"scale": -1}, "scale"),
        ({"p": 2}, "p: expected a number"),
        ({"same_class": "yes"}, "same_class: expected True or False, got 'yes'"),
    ],
)
def test_arguments_that_are_refused(plain_shapes, changes, message):
    with pytest.raises(InputError, match=message):
        FlowAug(**{"flow": Means(), **changes})


def test_images_that_are_refused(plain_shapes):
    augment, x = FlowAug(Means(), p=1.0), torch.zeros(2, 3, 4, 4)
    for wrong, message in (
        (x[0], r"images: expected \[batch, channels, height, width\], got shape \[3, 4, 4\]"),
        (x + 2, "images: expected a number of at least -1 and of at most 1, got 2"),
        (x * torch.nan, "images: 96 of 96 numbers are NaN"),
        (x.long(), "images: expected floating-point numbers, got torch.int64"),
    ):
        with pytest.raises(InputError, match=message):
            augment(wrong)
    with pytest.raises(InputError, match="labels: same_class needs them, got none"):
        FlowAug(Means(), same_class=True)(x)
    with pytest.raises(InputError, match="labels: expected one integer for each of the 2 rows"):
        FlowAug(Means(), same_class=True)(x, torch.tensor([0]))
    Lost = type("Lost", (Means,), {"decode": lambda self, nu, z: nu * torch.nan})
    with pytest.raises(InputError, match="flow: its images hold NaN"):
        FlowAug(Lost(), p=1.0)(x)


def few(rng, size=6, n=32):
    pixels = torch.randint(0, 256, (n, 1, size, size), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 2, ("a", "b"), "noise", factors={"shade": torch.arange(n) // 2 % 2})


def method(size=6, seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"flow_epochs": 1, "flow_width": 4, "flow_code": 2, **arguments}
    return FlowAugmented(Encoder(size * size, channels=1), 2, [1, size, size], **arguments)


def test_the_small_flow_has_the_size_that_is_asked_for():
    flow = method(flow_width=6, flow_couplings=3, flow_code=5).augmentation.flow.module
    assert [len(steps) for steps in flow.scales] == [3, 3]
    assert {step.first.out_channels for steps in flow.scales for step in steps} == {6}
    assert flow.code == 5


@pytest.mark.slow
def test_the_flow_is_trained_once_and_the_same_in_every_mode(rng, tmp_path):
    images = few(rng)
    flows = []
    for mode in ("mix", "gaussian"):
        one = method(mode=mode)
        before = {name: x.clone() for name, x in one.augmentation.state_dict().items()}
        fit(one, images, epochs=2, batch_size=8, seed=1, folder=tmp_path / mode, device="cpu")
        flows.append(one.augmentation.state_dict())
        assert not torch.equal(flows[-1]["flow.deviation"], before["flow.deviation"])
    assert all(torch.equal(flows[0][name], flows[1][name]) for name in flows[0])
    trained = {name: x.clone() for name, x in flows[0].items()}
    one.start_epoch(images, 1)
    assert all(torch.equal(x, trained[name]) for name, x in one.augmentation.state_dict().items())


def test_views_are_of_changed_images_of_any_size_with_their_labels(rng):
    images = few(rng)
    one = method(p=1.0, mode="gaussian_local")
    one.start_epoch(images, 0)
    (view,) = one.views_of(images.pixels, images.labels, torch.arange(32))
    assert view.shape == (32, 1, 6, 6)
    assert (view - to_float(images.pixels)).abs().flatten(1).amax(1).min() > 0
    (plain,) = method(p=0.0).views_of(images.pixels, images.labels, torch.arange(32))
    assert torch.equal(plain, to_float(images.pixels))


def test_a_flow_of_the_users_is_not_trained(rng):
    images = few(rng)
    one = method(flow=Means(), p=1.0)
    one.start_epoch(images, 0)
    (view,) = one.views_of(images.pixels, images.labels, torch.arange(32))
    assert not torch.equal(view, to_float(images.pixels))
    given = Flow((1, 8, 8), code=2, width=4)
    before = [parameter.clone() for parameter in given.parameters()]
    method(size=8, flow=given).start_epoch(replace(few(rng, size=8)), 0)
    assert all(map(torch.equal, before, given.parameters()))


def test_it_mixes_images_too_and_is_trained_in_double_precision(rng):
    images = few(rng)
    one = method(mixup=0.2, weights="balanced", p=1.0).double()
    one.start_epoch(images, 0)
    views = one.views_of(images.pixels, images.labels, torch.arange(32))
    assert views[0].dtype == torch.float64
    assert one.loss(views, images.labels, torch.arange(32)).isfinite()


def test_diagnostics_say_what_is_read_off_the_codes(rng):
    n = 200
    shade, labels = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    pixels = (60 + 80 * shade).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    pixels[:, :, :2] += (40 * labels).view(-1, 1, 1, 1)  # the upper half is lighter in one class
    pixels[:, :, 2:] -= (40 * labels).view(-1, 1, 1, 1)
    images = Images(pixels.to(torch.uint8), labels, ("a", "b"), "made", factors={"shade": shade})
    one = method(size=4, flow=Means())
    found = one.diagnostics(images, images.subset(torch.arange(0)), images)
    assert found["code shade"] == 1
    assert found["code class"] < 0.8
    assert found["rest class"] == 1


def test_rows_of_numbers_are_refused():
    with pytest.raises(InputError, match="data: FlowAug is for images, got items of shape"):
        FlowAugmented(Encoder(), 2, [16])
    with pytest.raises(InputError, match="flow_epochs"):
        method(flow_epochs=-1)
    with pytest.raises(InputError, match="flow_lr"):
        method(flow_lr=0)


@pytest.mark.slow
def test_on_tinted_garments_the_code_holds_the_tint_and_little_of_the_garment(plain_shapes):
    images = load("factors:tint:bias=0.8")
    train, test = (
        part.subset(torch.arange(0, len(part), step)) for part, step in ((images.train, 15), (images.test, 10))
    )
    torch.manual_seed(0)
    small = {"flow_width": 24, "flow_couplings": 2, "flow_epochs": 3, "flow_lr": 4e-3}
    one = FlowAugmented(Encoder(3 * 28 * 28, channels=3), 10, [3, 28, 28], **small)
    one.start_epoch(train, 0)
    found = one.diagnostics(train, train.subset(torch.arange(0)), test)
    assert found["code tint"] > 0.8
    assert found["code class"] < found["code tint"] / 2
    assert found["rest class"] > found["code class"]
