"""Backbones by every kind of name: shape, gradient, evaluation, and refusals that name what is wrong."""

import subprocess
import sys

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.nets import backbone

KINDS = [
    ("small", 1, 28, 128),
    ("small", 3, 32, 128),
    ("timm:resnet10t", 3, 32, 512),
    ("resnet10t", 1, 28, 512),
    ("timm:vit_tiny_patch16_224", 1, 32, 192),
    ("torchvision:resnet18", 1, 28, 512),
    ("torchvision:mobilenet_v3_small", 1, 32, 576),
    ("torchvision:squeezenet1_1", 3, 32, 512),
    ("squeezenet1_0", 1, 32, 512),
    ("torchvision:shufflenet_v2_x0_5", 4, 32, 1024),
]


@pytest.mark.parametrize(("name", "channels", "size", "features"), KINDS)
def test_every_kind_of_name(name, channels, size, features):
    """The promised features; a gradient for every parameter; in evaluation, no influence of the batch."""
    torch.manual_seed(0)
    net = backbone(name, channels, size)
    images = torch.randn(3, channels, size, size)
    assert net.training
    assert net.features == features
    output = net(images)
    assert output.shape == (3, features)
    (output * torch.randn_like(output)).sum().backward()
    assert [path for path, p in net.named_parameters() if p.grad is None] == []
    net.eval()
    with torch.no_grad():
        batch, alone = net(images), net(images[:1])
    assert torch.equal(batch, net(images))
    torch.testing.assert_close(batch[:1], alone, atol=1e-4, rtol=1e-4)


def test_the_seed_decides_the_weights():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(backbone("small", 1, 28).state_dict()["model.0.weight"])
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_small_learns():
    """Vertical against horizontal stripes at random phases: the loss falls to nearly nothing in 20 steps."""
    torch.manual_seed(0)
    wave = torch.sin(torch.arange(28) * 1.3 + torch.rand(32, 1) * 6.28)
    stripes = wave[:, None, None, :].expand(-1, 1, 28, 28)
    images = torch.cat([stripes[:16], stripes[16:].mT])
    targets = torch.arange(32) // 16
    net = torch.nn.Sequential(backbone("small", 1, 28), torch.nn.Linear(128, 2))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(net(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_small_sees_every_pixel():
    torch.manual_seed(0)
    images = torch.randn(1, 1, 28, 28, requires_grad=True)
    net = backbone("small", 1, 28).eval()
    net(images).square().sum().backward()
    assert (images.grad != 0).all()


def test_torchvision_resnets_of_small_images_keep_their_resolution():
    """Up to 64 pixels the last map is an eighth of the image, beyond it a thirty-second."""
    maps = []
    for size in (64, 96):
        net = backbone("torchvision:resnet18", 3, size).eval()
        net.model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
        net(torch.zeros(1, 3, size, size))
    assert maps == [8, 3]


@pytest.mark.slow
def test_small_needs_neither_library():
    code = "import sys; from counterpoise.nets import backbone; backbone('small', 1, 28); print('timm' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "backbone 'smal' is not known; did you mean 'small'"),
        ("resnt18", "did you mean 'resnet18'"),
        ("torchvision:resnt18", "did you mean 'torchvision:resnet18'"),
        ("tim:resnet10t", "did you mean 'timm:resnet10t'"),
        ("timm:small", "backbone 'timm:small' is not known"),
        ("", "backbone '' is not known. Known: small, timm:MODEL, torchvision:MODEL"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        backbone(name, 3, 32)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:inception_v3", 28),
        ("torchvision:alexnet", 28),
        ("torchvision:densenet121", 16),
        ("torchvision:vit_b_16", 28),
    ],
)
def test_too_few_pixels_name_the_model_and_the_size(name, size):
    with pytest.raises(
        InputError, match=f"backbone '{name}': images of {size}x{size} pixels and 3 channels do not fit"
    ):
        backbone(name, 3, size)


def test_patches_that_would_leave_pixels_unseen_are_refused():
    with pytest.raises(
        InputError, match=r"images of 28x28 pixels .* patches of 16x16 pixels would leave a rest unseen"
    ):
        backbone("timm:vit_tiny_patch16_224", 1, 28)


@pytest.mark.parametrize(("channels", "size", "message"), [(0, 28, "channels: "), (1, 0, "size: ")])
def test_no_channels_and_no_pixels_are_refused(channels, size, message):
    with pytest.raises(InputError, match=f"{message}expected a number of at least 1, got 0"):
        backbone("small", channels, size)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (28, 28)])
@pytest.mark.usefixtures("plain_shapes")
def test_images_of_other_channels_are_refused(shape):
    net = backbone("small", 1, 28)
    with pytest.raises(InputError, match=r"images: expected \[batch, 1, height, width\], got shape"):
        net(torch.zeros(shape))
