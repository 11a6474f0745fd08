"""The scattering front end, the adapter, what the pretext tasks make of images, and the method that adds them up."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.scatsimclr import (
    WIDTHS,
    JigsawHead,
    ResidualBlock,
    RotationHead,
    ScatSimCLR,
    Scattering,
    ScatteringEncoder,
    permutations,
    scattering_channels,
    shuffle,
    tiles,
    turned,
)
from counterpoise.contrast.simclr import nt_xent
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, MissingExtra
from worlds import seeded

N = 6
PIXELS = torch.randint(0, 256, (N, 1, 12, 12), generator=seeded(0), dtype=torch.uint8)
IMAGES = Images(PIXELS, torch.arange(N) % 3, ("a", "b", "c"), "noise")


class Plain(nn.Sequential):
    """A backbone of one channel; its rows do not see each other."""

    channels, features = 1, 5

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(144, 5))


def made(**arguments):
    torch.manual_seed(0)
    small = {"orientations": 2, "widths": (4, 8), "pool": 2, "dim": 3} | arguments
    return ScatSimCLR(Plain(), **small)


def loss_of(method, index=None, epoch=0):
    index = torch.arange(N) if index is None else index
    method.start_epoch(IMAGES, epoch)
    torch.manual_seed(1)
    views = [to_float(PIXELS[index]) + torch.randn(len(index), 1, 12, 12) / 9 for _ in range(2)]
    return method.loss(views, torch.full((len(index),), -1), index), views


@pytest.mark.parametrize(
    ("channels", "scale", "orientations", "expected"),
    [(3, 2, 16, 867), (1, 2, 8, 81), (1, 1, 4, 5), (3, 3, 8, 651), (1, 4, 4, 113)],
)
def test_number_of_maps(channels, scale, orientations, expected):
    assert scattering_channels(channels, scale, orientations) == expected
    if orientations < 9 and scale < 4:
        found = Scattering(scale, orientations)(torch.zeros(2, channels, 20, 17))
        assert found.shape == (2, expected, 20 // 2**scale, 17 // 2**scale)


def test_scattering_has_nothing_to_learn_nor_to_save():
    scattering = Scattering(2, 4)
    scattering(torch.zeros(1, 1, 8, 8))
    assert not list(scattering.parameters())
    assert not scattering.state_dict()


def test_scattering_sees_channels_apart_and_images_of_any_size(rng):
    scattering = Scattering(2, 2)
    x = torch.rand(2, 3, 16, 12, generator=rng)
    apart = torch.cat([scattering(x[:, k : k + 1]) for k in range(3)], 1)
    torch.testing.assert_close(scattering(x), apart)
    assert scattering(torch.rand(1, 1, 9, 9)).shape == (1, 9, 2, 2)  # with new filters, after those of another size


def test_scattering_is_stable_to_shifts_and_its_wavelets_see_no_constant(rng):
    blob = torch.exp(-((torch.arange(28) - 13.5) ** 2) / 20)
    image = (blob[:, None] * blob)[None, None] * torch.rand(1, 1, 28, 28, generator=rng)
    shifted = image.roll(1, 3)
    scattering = Scattering(2, 8)
    maps = scattering(image)
    change = (scattering(shifted) - maps).norm() / maps.norm()
    assert change < (shifted - image).norm() / image.norm() / 2
    assert maps[:, 1:].min() > -1e-5  # moduli, smoothed
    flat = scattering(torch.full((1, 1, 28, 28), 3.0))
    torch.testing.assert_close(flat[:, 0], torch.full_like(flat[:, 0], 3.0), rtol=1e-4, atol=0)  # a truncated Gaussian
    assert flat[:, 1:].abs().max() < 1e-4


def test_scattering_is_not_computed_in_half_precision(rng):
    scattering, x = Scattering(2, 2), torch.rand(1, 1, 8, 8, generator=rng)
    expected = scattering(x.bfloat16().float())
    torch.testing.assert_close(scattering(x.bfloat16()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(scattering(x.bfloat16()), expected)
    assert scattering(x.double()).dtype == torch.float64
    torch.testing.assert_close(scattering(x), scattering(x.double()).float())


def test_without_kymatio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kymatio.scattering2d.frontend.torch_frontend", None)
    with pytest.raises(MissingExtra, match=r"kymatio is not installed: pip install 'counterpoise\[scattering\]'"):
        made()
    made(scattering=False)


def test_residual_block_written_out(rng):
    for width, out in ((4, 4), (4, 6)):
        block, x = ResidualBlock(width, out).eval(), torch.randn(2, width, 5, 5, generator=rng)
        scale = 1 / math.sqrt(1 + 1e-5)  # of a batch normalisation that has seen nothing
        convolutions = [m for m in block.convolutions if isinstance(m, nn.Conv2d)]
        y = F.conv2d((scale * F.conv2d(x, convolutions[0].weight, padding=1)).relu(), convolutions[1].weight, padding=1)
        shortcut = x if width == out else scale * F.conv2d(x, block.shortcut[0].weight)
        torch.testing.assert_close(block(x), (scale * y + shortcut).relu())
        assert len(list(block.parameters())) == (6 if width == out else 9)


@pytest.mark.parametrize(("depth", "millions"), [(8, 6.1), (12, 9.3), (16, 10.5), (30, 15.5)])
def test_adapters_of_the_paper_have_its_number_of_parameters(depth, millions):
    """With the projection, and the batch normalisation over 867 maps that the released model holds unused."""
    encoder = ScatteringEncoder(3, 2, 16, WIDTHS[depth])
    learnt = sum(p.numel() for p in encoder.parameters())
    projection = (2048 + 1) * 2048 + (2048 + 1) * 128
    assert round((learnt + projection + 2 * 867) / 1e6, 1) == millions
    assert encoder.features == 128 * 16
    assert len(WIDTHS[depth]) == depth + 1


def test_features_of_images_of_any_size(rng):
    encoder = ScatteringEncoder(1, 1, 2, WIDTHS[8])
    for side in (8, 13, 40):
        assert encoder(torch.rand(2, 1, side, side, generator=rng)).shape == (2, 128 * 4 * 4)


def test_maps_are_normalised_on_demand(rng):
    x = 10 * torch.rand(8, 1, 12, 12, generator=rng)
    for norm in (False, True):
        encoder = ScatteringEncoder(1, 2, 2, (4, 4), pool=1, norm=norm)
        seen = []
        encoder.adapter[1].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        encoder(x)
        variance = seen[0].transpose(0, 1).flatten(1).var(1, correction=0)
        assert ((variance - 1).abs().max() < 0.1) == norm


def test_turns():
    images, quarters = turned(PIXELS)
    assert images.shape == (4 * N, 1, 12, 12)
    assert quarters.bincount().tolist() == [N] * 4
    by_turn = images.unflatten(0, (N, 4))
    assert torch.equal(by_turn[:, 0], PIXELS)
    again = PIXELS
    for k in range(1, 5):
        again = turned(again)[0][1::4]  # a quarter more
        assert torch.equal(again, by_turn[:, k % 4])
    assert by_turn[0, 1, 0, 0, -1] == PIXELS[0, 0, 0, 0]  # clockwise: the first pixel goes to the right


def test_tiles_of_sides_that_threes_divide_are_the_image():
    for side in (12, 27):
        image = torch.full((1, 1, side, side), 7, dtype=torch.uint8)
        third = side // 3
        for t in range(9):
            image[0, 0, t // 3 * third : (t // 3 + 1) * third, t % 3 * third : (t % 3 + 1) * third] = 20 * t
        found = tiles(image)
        assert found.shape == (1, 9, 1, side, side)
        for t in range(9):
            torch.testing.assert_close(found[0, t], torch.full((1, side, side), 20 * t / 127.5 - 1))


def test_tiles_leave_out_pixels_that_would_be_cut():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., [9, 18], :] = 255
    assert tiles(image).max() < -0.999
    image[..., 8] = 255
    assert (tiles(image)[0, [0, 3, 6]] > 0).any()


def test_permutations_are_far_apart():
    table = permutations(72)
    assert (table.sort(1).values == torch.arange(9)).all()
    agreements = (table[:, None] == table).sum(2).masked_fill(torch.eye(72).bool(), 0)
    assert agreements.max() == 1
    assert len(permutations(35).unique(dim=0)) == 35
    assert torch.equal(permutations(35), table[:35])


def test_shuffled_tiles_can_be_put_back():
    parts, order = tiles(PIXELS), permutations(35)[[3, 8, 20, 34, 0, 11]]
    shuffled = shuffle(parts, order)
    assert torch.equal(shuffled[1, 2], parts[1, order[1, 2]])
    assert torch.equal(shuffle(shuffled, order.argsort(1)), parts)
    assert not torch.equal(shuffled, parts)


def test_heads():
    rotation, jigsaw = RotationHead(20), JigsawHead(20, 35)
    assert rotation(torch.zeros(3, 20)).shape == (3, 4)
    assert jigsaw(torch.zeros(3, 9, 20)).shape == (3, 35)
    sizes = [(m.in_features, m.out_features) for m in rotation if isinstance(m, nn.Linear)]
    assert sizes == [(20, 512), (512, 128), (128, 4)]
    sizes = [(m.in_features, m.out_features) for m in jigsaw.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(20, 512), (9 * 512, 4096), (4096, 35)]
    assert [m.p for head in (rotation, jigsaw) for m in head.modules() if isinstance(m, nn.Dropout)] == [0.5] * 4


def test_jigsaw_head_knows_the_places_of_tiles(rng):
    head, x = JigsawHead(20, 35).eval(), torch.randn(2, 9, 20, generator=rng)
    assert not torch.allclose(head(x), head(x[:, permutations(2)[1]]))


def test_contrastive_part_alone():
    """Weight 0 is no pretext task: the same loss, and no head; before the delay is over, its gradients are zeros."""
    method = made(weight=0.0)
    value, views = loss_of(method)
    z1, z2 = (method.head(method.encoder(view)) for view in views)
    torch.testing.assert_close(value, nt_xent(z1, z2, 0.5))
    assert not hasattr(method, "pretext_head")
    delayed = made(delay=2)
    value, views = loss_of(delayed, epoch=1)
    torch.testing.assert_close(value, nt_xent(*(delayed.head(delayed.encoder(view)) for view in views), 0.5))
    value.backward()
    assert all((p.grad == 0).all() for p in delayed.pretext_head.parameters())
    started, _ = loss_of(delayed, epoch=2)
    assert started > value + 0.1


def test_identical_orthogonal_pairs_in_closed_form():
    """log(1 + (2N-2) e^(-1/tau)), what `test_simclr` finds for the loss, here for the method's temperature."""
    method = made(weight=0.0, scattering=False)
    method.encoder, method.head = nn.Flatten(), nn.Identity()
    z = torch.eye(4).view(4, 1, 2, 2)
    value = method.loss([z, 3 * z], torch.full((4,), -1), torch.arange(4))
    assert value.item() == pytest.approx(math.log(1 + 6 * math.exp(-1 / 0.5)), abs=1e-6)


def without_dropout(method):
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return method


@pytest.mark.parametrize("index", [torch.arange(N), torch.tensor([4, 1, 2])])
@pytest.mark.parametrize("scattering", [True, False])
def test_rotation_is_added_with_its_weight(scattering, index):
    """Of the images themselves, each turned four ways, as a batch of its own."""
    method = without_dropout(made(scattering=scattering, weight=0.7))
    value, views = loss_of(method, index)
    contrast = nt_xent(*(method.head(method.encoder(view)) for view in views), 0.5)
    every = torch.cat([torch.rot90(to_float(PIXELS[index]), -k, (2, 3)) for k in range(4)])
    logits = method.pretext_head(method.encoder(every))
    pretext = F.cross_entropy(logits, torch.arange(4).repeat_interleave(len(index)))
    torch.testing.assert_close(value, contrast + 0.7 * pretext)
    assert pretext > 1


def test_turned_images_get_views_of_their_own():
    seen = []

    class Seen(nn.Module):
        def forward(self, pixels):
            seen.append(pixels)
            return to_float(pixels)

    method = made(augment=Seen())
    loss_of(method)
    (pixels,) = seen
    assert torch.equal(pixels, turned(PIXELS)[0])


def test_jigsaw_is_added_with_its_weight():
    """Tiles of the images themselves, in the order that was drawn, without views."""
    method = without_dropout(made(pretext="jigsaw", augment=nn.Flatten(0), scattering=False))
    value, views = loss_of(method)
    contrast = nt_xent(*(method.head(method.encoder(view)) for view in views), 0.5)
    torch.manual_seed(1)
    [torch.randn(N, 1, 12, 12) for _ in range(2)]  # as `loss_of` draws before the order is drawn
    target = torch.randint(35, (N,))
    parts = tiles(PIXELS)
    shuffled = torch.stack([parts[i, permutations(35)[target[i]]] for i in range(N)])
    features = torch.stack([method.encoder(nine) for nine in shuffled])
    torch.testing.assert_close(value, contrast + 0.3 * F.cross_entropy(method.pretext_head(features), target))


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])
def test_everything_learns(pretext):
    method = made(pretext=pretext)
    value, _ = loss_of(method)
    value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters() if p.requires_grad)


def test_the_loss_is_symmetric_in_the_views():
    method = made(pretext="none").eval()
    value, (first, second) = loss_of(method)
    torch.testing.assert_close(method.loss([second, first], torch.full((N,), -1), torch.arange(N)), value)


@pytest.mark.slow
def test_gradient_in_double_precision(rng):
    method = made(pretext="none", scattering=False).double()
    views = [torch.randn(3, 1, 12, 12, generator=rng, dtype=torch.float64) for _ in range(2)]
    index = torch.arange(3)

    def value(weight):
        state = {"1.weight": weight, "1.bias": method.encoder[1].bias}
        z1, z2 = (method.head(torch.func.functional_call(method.encoder, state, view)) for view in views)
        return method.objective(z1, z2)

    weight = method.encoder[1].weight.detach().requires_grad_()
    torch.testing.assert_close(value(weight), method.loss(views, -torch.ones(3, dtype=torch.int64), index))
    assert torch.autograd.gradcheck(value, weight, fast_mode=True)
    encoder = ScatteringEncoder(1, 1, 2, (2, 2), pool=1).double().eval()
    assert torch.autograd.gradcheck(encoder, torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True))


def test_diagnostics_report_what_the_adapter_adds():
    pixels = torch.zeros(90, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(90) % 3
    pixels[labels == 1] = 100
    pixels[labels == 2] = 200
    images = Images(pixels, labels, ("a", "b", "c"), "grey")
    method = made()
    found = method.diagnostics(images, images, images)
    assert set(found) == {"scattering", "over scattering"}
    assert found["scattering"] == 1
    nn.init.zeros_(method.encoder.adapter[1].weight)  # now all images look alike
    blind = method.diagnostics(images, images, images)
    assert blind["over scattering"] == pytest.approx(1 / 3 - 1, abs=0.01)
    assert made(scattering=False).diagnostics(images, images, images) == {}
    assert method.diagnostics(images, images.subset(torch.arange(0)), images) == {}


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="images: expected at least 4 pixels a side at scale 2, got 3x9"):
        Scattering(2, 2)(torch.zeros(1, 1, 3, 9))
    with pytest.raises(InputError, match=r"images: expected \[batch, 1, height, width\], got shape \[2, 3, 8, 8\]"):
        ScatteringEncoder(1)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="scale: expected a whole number of at least 1, got 0"):
        Scattering(0)
    with pytest.raises(InputError, match="orientations: expected a whole number of at least 1, got 0"):
        made(orientations=0)
    with pytest.raises(InputError, match=r"widths: expected at least one, got none"):
        made(widths=())
    with pytest.raises(InputError, match="pool: expected a whole number of at least 1, got 0"):
        made(pool=0)
    with pytest.raises(InputError, match="shuffles: expected a whole number of at least 2 and of at most 72, got 73"):
        made(pretext="jigsaw", shuffles=73)
    with pytest.raises(InputError, match="weight: expected a number of at least 0, got -1"):
        made(weight=-1)
    with pytest.raises(InputError, match="delay: expected a whole number of at least 0, got -1"):
        made(delay=-1)
    with pytest.raises(InputError, match="pretext task 'rotations' is not known; did you mean 'rotation'"):
        made(pretext="rotations")
    with pytest.raises(InputError, match="images: expected square ones to turn, got 4x6"):
        turned(torch.zeros(1, 1, 4, 6, dtype=torch.uint8))
    with pytest.raises(InputError, match="images: expected start_epoch"):
        made().loss([torch.zeros(2, 1, 12, 12)] * 2, -torch.ones(2, dtype=torch.int64), torch.arange(2))
    encoder = nn.Identity()
    encoder.features = 3
    with pytest.raises(InputError, match="encoder: expected an attribute `channels`"):
        ScatSimCLR(encoder)
