"""Backbones: from images to one feature vector each, by name.

`small` is a net of our own for images of 28 to 32 pixels; every other name is a model of timm or of torchvision, with
random weights and without its classifier.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number

SMALL_WIDTHS = (32, 64, 128, 128)
CIFAR_STEM_SIZE = 64  # up to this size, torchvision's resnet* start without the two halvings of their stem
HEADS = ("fc", "classifier", "head", "heads")  # what torchvision's models call their classifier


class Backbone(nn.Module):
    """A model that gives one feature vector per image.

    Args:
        model: from [B channels H W] to [B features].
        channels: what the model takes.
        features: what the model gives.
    """

    def __init__(self, model: nn.Module, channels: int, features: int):
        super().__init__()
        self.model = model
        self.channels = channels
        self.features = features

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch {self.features}"]:
        """Return the features of each image; refuse another number of channels by name."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            expected = f"[batch, {self.channels}, height, width]"
            raise InputError(f"images: expected {expected}, got shape {list(images.shape)}")
        return self.model(images)


def backbone(name: str, channels: int, size: int) -> Backbone:
    """Make the backbone of that name, with random weights from torch's global generator.

    Args:
        name: `small`; `timm:MODEL` or `torchvision:MODEL` for any image classifier of these libraries; or `MODEL`
            alone, which timm and then torchvision are asked for. `torchvision:resnet*` gets a 3x3 first convolution of
            stride 1 and no max-pooling where `size` is at most 64, as is usual for CIFAR; timm's stay as they are.
        channels: of the images.
        size: side of the images in pixels.

    Returns:
        A module from float images [B channels size size] to [B features], with the attribute `features`.

    Raises:
        InputError: for an unknown name, or a size that the model cannot take.

    >>> net = backbone("small", channels=1, size=28)
    >>> net.features, net(torch.zeros(2, 1, 28, 28)).shape
    (128, torch.Size([2, 128]))
    """
    check_number("channels", channels, at_least=1)
    check_number("size", size, at_least=1)
    build = _builder(name)
    # Models tell of a wrong size in many ways, while they are built or at their first images.
    try:
        model = build(channels, size)
        features = _count_features(model, channels, size)
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        images = f"images of {size}x{size} pixels and {channels} channels"
        raise InputError(f"backbone '{name}': {images} do not fit this model ({reason})") from error
    return Backbone(model, channels, features)


class SmallNet(nn.Sequential):
    """Four 3x3 convolutions with batch normalisation, three of them of stride 2; then the mean over the image.

    Made for 28 to 32 pixels: at 28x28x1 a forward and backward pass costs about 0.03 GFLOP an image.
    """

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for width, stride in zip(SMALL_WIDTHS, (2, 2, 2, 1), strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return 128 features for each image."""
        # The faster layout on CPU; the layers hand it on. The weights keep theirs, for files that want them contiguous.
        return super().forward(images.contiguous(memory_format=torch.channels_last))


def _builder(name: str) -> Callable[[int, int], nn.Module]:
    """The function (channels, size) -> model for a name, or the error with the nearest names."""
    if name == "small":
        return lambda channels, size: SmallNet(channels)
    import timm
    from torchvision import models

    library, _, model = name.rpartition(":")
    torchvision_names = models.list_models(module=models)
    if library in ("", "timm") and timm.is_model(model):
        return lambda channels, size: _timm(model, channels, size)
    if library in ("", "torchvision") and model in torchvision_names:
        return lambda channels, size: _torchvision(model, channels, size)
    bare = [*timm.list_models(), *torchvision_names]
    full = [*(f"timm:{m}" for m in timm.list_models()), *(f"torchvision:{m}" for m in torchvision_names)]
    near = difflib.get_close_matches(name, ["small", *bare, *full], n=3)
    raise unknown("backbone", name, [*near, "small", "timm:MODEL", "torchvision:MODEL"])


def _timm(name: str, channels: int, size: int) -> nn.Module:
    import timm
    from timm.layers import PatchEmbed

    create = partial(timm.create_model, name, pretrained=False, num_classes=0, in_chans=channels)
    try:
        model = create(img_size=size)
    except TypeError:  # the model takes images of any size and has no such argument
        model = create()
    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad and size % max(patches.patch_size):
        side = max(patches.patch_size)
        raise ValueError(f"its patches of {side}x{side} pixels would leave a rest unseen")
    return model


def _torchvision(name: str, channels: int, size: int) -> nn.Module:
    from torchvision import models

    model = models.get_model(name, weights=None, **_torchvision_options(name, size))
    head = next(head for head in HEADS if hasattr(model, head))
    setattr(model, head, _MeanOverPlaces())
    if isinstance(getattr(model, "avgpool", None), nn.AdaptiveAvgPool2d):
        model.avgpool = nn.AdaptiveAvgPool2d(1)  # VGG and AlexNet keep 49 or 36 places for their classifier
    if name.startswith("resnet") and size <= CIFAR_STEM_SIZE:
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    if channels != 3:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.in_channels = channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, channels, *first.kernel_size))
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    return model


def _torchvision_options(name: str, size: int) -> dict[str, object]:
    if name.startswith("vit"):
        return {"image_size": size}
    if name.startswith("maxvit"):
        return {"input_size": (size, size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


class _MeanOverPlaces(nn.Module):
    """Stands where a classifier was: some of torchvision's models hand it a map, some a vector."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim > 2 else x


def _count_features(model: nn.Module, channels: int, size: int) -> int:
    """How many features the model gives, found by one blank image."""
    model.eval()
    with torch.no_grad():
        output = model(torch.zeros(1, channels, size, size))
    model.train()
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.isfinite().all():
        raise ValueError("it gives no feature vector")
    return output.shape[1]
