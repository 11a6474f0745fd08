"""Backbones by name, which map each image to a feature vector.

`small` is this project's network for images of 28 to 32 pixels, `small:last` the same with the features of its last
convolution alone. Every other name is a model of timm or torchvision
without its classifier, with random or the library's pretrained weights.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import InputError, printable, unknown
from counterpoise.ops.checks import check_counts

SMALL_WIDTHS = (32, 64, 128, 128)
SMALL_STAGES = {"small": 3, "small:last": 1}  # of how many stages the averaged maps are features
CIFAR_STEM_SIZE = 64  # up to this size, torchvision's resnet* get a stem that does not downsample
HEADS = ("fc", "classifier", "head", "heads")  # names of the classifier in torchvision's models
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # their auxiliary classifiers
MISFITS = (RuntimeError, ValueError, AssertionError, ZeroDivisionError)  # that models raise for a wrong image size


class Backbone(nn.Module):
    """A model that returns one feature vector per image.

    Args:
        model: maps [B channels H W] to [B features].
        channels: number of input channels.
        features: number of features.
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


def parse_backbone(text: str) -> tuple[str, Path | None]:
    """Split `BACKBONE` or `BACKBONE@FILE` into the name and the file of weights.

    Args:
        text: a name for `backbone`, optionally followed by `@` and a file for `weights.load_weights`, where `~` is the
            home folder.

    Returns:
        The name, which is not looked up here, and the file, which is not opened here, or `None`.

    Raises:
        InputError: for an empty name, or no file after the `@`.

    Examples:
        >>> name, file = parse_backbone("resnet50@w.safetensors")
        >>> name, str(file), parse_backbone("small")
        ('resnet50', 'w.safetensors', ('small', None))
    """
    name, at, file = text.partition("@")
    if not name or (at and not file):
        raise InputError(f"backbone: expected BACKBONE or BACKBONE@FILE, such as resnet50@w.safetensors, got '{text}'")
    return name, Path(file).expanduser() if file else None


def backbone(name: str, channels: int, size: int, pretrained: bool = False) -> Backbone:
    """Make a backbone by name, with random weights from torch's global generator or the library's pretrained ones.

    Args:
        name: `small` or `small:last`; `timm:MODEL` or `torchvision:MODEL` for any image classifier of these libraries;
            or `MODEL` alone, which is looked up in timm and then in torchvision. `torchvision:resnet*` gets a 3x3 first
            convolution of stride 1 and no max-pooling if `size` is at most 64, as is usual for CIFAR; timm's models are
            unchanged.
        channels: number of image channels.
        size: side of the images in pixels.
        pretrained: start from the default weights of timm or torchvision for this model, or those of its tag
            (`timm:resnet50.a1_in1k`); the library downloads them once. If the number of channels is not three, the
            filters of red, green and blue are summed for one channel, and used in turn for more. If
            `torchvision:resnet*` gets another first convolution, its weights are random, with a warning. Pretrained
            weights expect standardised colours; `to_float`'s pixels from -1 to 1 match them only roughly.

    Returns:
        A module from float images [B channels size size] to [B features], with the attribute `features`.

    Raises:
        InputError: for an unknown name, a number that is not whole, or a size that the model cannot take; for
            pretrained weights that do not exist or cannot be downloaded.

    Examples:
        >>> net = backbone("small", channels=1, size=28)
        >>> net.features, net(torch.zeros(2, 1, 28, 28)).shape
        (320, torch.Size([2, 320]))
    """
    check_counts(channels=channels, size=size)
    build = _builder(name)
    # Models refuse a wrong size in many ways, while they are built or at their first images.
    try:
        model = build(channels, size, pretrained)
        features = _count_features(model, channels, size)
    except InputError:
        raise
    except MISFITS as error:
        reason = " ".join(str(error).split())
        images = f"images of {size}x{size} pixels and {channels} channels"
        raise InputError(f"backbone '{name}': {images} do not fit this model ({reason})") from error
    return Backbone(model, channels, features)


def is_backbone(name: str) -> bool:
    """Whether `backbone` accepts a name.

    Examples:
        >>> is_backbone("small"), is_backbone("smal")
        (True, False)
    """
    try:
        _builder(name)
    except InputError:
        return False
    return True


class SmallNet(nn.Module):
    """Four 3x3 convolutions with batch normalisation, three of them with stride 2, and maps averaged over positions.

    Made for 28 to 32 pixels: at 28x28x1 a forward and backward pass costs about 0.03 GFLOP an image.

    Args:
        channels: number of input channels.
        pooled: number of the last stages whose averaged maps stand side by side as features. Earlier stages keep what a
            loss makes the last one forget, at no cost in time.
    """

    def __init__(self, channels: int, pooled: int = 3):
        super().__init__()
        self.pooled = pooled
        self.stages = nn.Sequential()
        for width, stride in zip(SMALL_WIDTHS, (2, 2, 2, 1), strict=True):
            convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
            self.stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the features of each image: 320 of three pooled stages, 128 of the last alone."""
        # channels_last is faster on CPU, and layers preserve it. Weights stay contiguous, as file formats need them.
        maps = [images.contiguous(memory_format=torch.channels_last)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return torch.cat([self.pool(x).flatten(1) for x in maps[-self.pooled :]], 1)


def _builder(name: str) -> Callable[[int, int, bool], nn.Module]:
    """The function (channels, size, pretrained) -> model for a name; raises an error with the nearest names."""
    if name in SMALL_STAGES:
        return partial(_small, name)
    import timm
    from torchvision import models

    library, _, model = name.rpartition(":")
    torchvision_names = models.list_models(module=models)
    if library in ("", "timm") and timm.is_model(model):
        return partial(_timm, model)
    if library in ("", "torchvision") and model in torchvision_names:
        return partial(_torchvision, model)
    bare = [*timm.list_models(), *torchvision_names]
    full = [*(f"timm:{m}" for m in timm.list_models()), *(f"torchvision:{m}" for m in torchvision_names)]
    near = difflib.get_close_matches(name, [*SMALL_STAGES, *bare, *full], n=3)
    raise unknown("backbone", name, [*near, *SMALL_STAGES, "timm:MODEL", "torchvision:MODEL"])


def _small(name: str, channels: int, size: int, pretrained: bool) -> nn.Module:
    if pretrained:
        raise _no_weights(name, "this project")
    return SmallNet(channels, SMALL_STAGES[name])


def _timm(name: str, channels: int, size: int, pretrained: bool) -> nn.Module:
    import timm
    from timm.layers import PatchEmbed

    source = _timm_source(name) if pretrained else ""  # before the model, which is large
    create = partial(timm.create_model, name, pretrained=False, num_classes=0, in_chans=channels, img_size=size)
    try:
        model = create()
    except TypeError:  # the model takes images of any size, without this argument
        del create.keywords["img_size"]
        model = create()
    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad and size % max(patches.patch_size):
        side = max(patches.patch_size)
        raise ValueError(f"its patches of {side}x{side} pixels would leave a rest unseen")
    if not pretrained:
        return model
    try:  # after the checks, so that nothing is downloaded in vain
        return create(pretrained=True)
    except OSError as error:
        raise _not_fetched(name, source, error) from error
    except MISFITS:
        raise
    except Exception as error:  # from the libraries for the network
        raise _not_fetched(name, source, error) from error


def _timm_source(name: str) -> str:
    """The place from which timm downloads a model's weights."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise _no_weights(name, "timm")
    return str(config.hf_hub_id or config.url or "timm's own place")


def _torchvision(name: str, channels: int, size: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    model = models.get_model(name, weights=None, **_torchvision_options(name, size))
    if pretrained:
        model.load_state_dict(_torchvision_weights(name, model, size))
    head = next(head for head in HEADS if hasattr(model, head))
    setattr(model, head, _MeanOverPlaces())
    if isinstance(getattr(model, "avgpool", None), nn.AdaptiveAvgPool2d):
        model.avgpool = nn.AdaptiveAvgPool2d(1)  # VGG and AlexNet pool to 49 or 36 positions for their classifier
    new_stem = name.startswith("resnet") and size <= CIFAR_STEM_SIZE
    if new_stem:
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    if channels != 3:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        of_colours = first.weight.detach()
        first.in_channels = channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, channels, *first.kernel_size))
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        if pretrained and not new_stem:
            first.weight.data.copy_(_for_channels(of_colours, channels))
    if pretrained and new_stem:
        warnings.warn(
            f"backbone '{name}': its first convolution is another one for images of at most {CIFAR_STEM_SIZE} pixels, "
            "and starts from random weights"
        )
    return model


def _torchvision_weights(name: str, model: nn.Module, size: int) -> dict[str, Tensor]:
    """Torchvision's weights for a model, as a state dict that fits this image size."""
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    known = models.get_model_weights(name)
    if not list(known):
        raise _no_weights(name, "torchvision")
    try:
        # torchvision itself would run code in the file, so load it first with weights_only.
        known.DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
        found = models.get_model(name, weights=known.DEFAULT, progress=False).state_dict()
    except Exception as error:  # no network, or a file with the wrong hash
        raise _not_fetched(name, known.DEFAULT.url, error) from error
    if name.startswith("vit"):
        found = interpolate_embeddings(size, model.patch_size, found)
    return {key: value for key, value in found.items() if not key.startswith(AUXILIARY)}


def _for_channels(
    weight: Float[Tensor, "out 3 height width"], channels: int
) -> Float[Tensor, "out {channels} height width"]:
    """Adapt RGB filters to another number of channels, with responses to grey images of about the same size."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


def _no_weights(name: str, library: str) -> InputError:
    return InputError(f"backbone '{name}': {library} has no pretrained weights for it; give a file: {name}@FILE")


def _not_fetched(name: str, source: str, error: Exception) -> InputError:
    reason = printable(" ".join(str(error).split()))[:150]
    return InputError(
        f"backbone '{name}': its pretrained weights could not be fetched from {source} ({reason}); "
        f"without a network, give a file instead: {name}@FILE"
    )


def _torchvision_options(name: str, size: int) -> dict[str, object]:
    if name.startswith("vit"):
        return {"image_size": size}
    if name.startswith("maxvit"):
        return {"input_size": (size, size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


class _MeanOverPlaces(nn.Module):
    """Replaces a classifier: averages over positions if the model passes a feature map, and leaves a vector."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim > 2 else x


def _count_features(model: nn.Module, channels: int, size: int) -> int:
    """The number of the model's features, from one blank image."""
    model.eval()
    with torch.no_grad():
        output = model(torch.zeros(1, channels, size, size))
    model.train()
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.isfinite().all():
        raise ValueError("it gives no feature vector")
    return output.shape[1]
