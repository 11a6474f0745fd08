"""Heads: map features to logits or to the space where an objective compares them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.constants import ExactConstants
from counterpoise.ops.checks import check_counts, check_number
from counterpoise.ops.similarity import normalize_rows


def linear(features: int, out: int) -> nn.Linear:
    """One linear layer with a bias.

    Examples:
        >>> linear(128, 10)
        Linear(in_features=128, out_features=10, bias=True)
    """
    check_counts(features=features, out=out)
    return nn.Linear(features, out)


def mlp(
    features: int, hidden: int, dim: int, layers: int = 2, batch_norm: bool = True, last_norm: bool = False
) -> nn.Sequential:
    """A multi-layer perceptron with ReLU between its linear layers: the projection head of contrastive methods.

    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML
    2020, arXiv 2002.05709, section 2.1; deeper and with normalised output in SimCLR v2, MoCo v3 and SimSiam.

    Args:
        features: width of the input.
        hidden: width of the layers in between.
        dim: width of the output.
        layers: number of linear layers; 1 is a linear map.
        batch_norm: batch normalisation after each linear layer but the last.
        last_norm: batch normalisation of the output, without learnt scale and shift.

    Returns:
        A module from [B features] to [B dim]. A linear layer followed by batch normalisation has no bias.

    Raises:
        InputError: for a width or number of layers below 1.

    Examples:
        >>> [type(module).__name__ for module in mlp(128, 256, 64)]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    check_counts(features=features, hidden=hidden, dim=dim, layers=layers)
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(features, hidden, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(nn.ReLU(inplace=True))
        features = hidden
    modules.append(nn.Linear(features, dim, bias=not last_norm))
    if last_norm:
        modules.append(nn.BatchNorm1d(dim, affine=False))
    return nn.Sequential(*modules)


class CosineHead(ExactConstants):
    """A linear layer without bias whose logits are scaled cosines; see `cosine_head`.

    Args:
        features: width of the input.
        classes: number of classes.
        scale: factor of the cosines, above 0.
        learn_scale: learn the logarithm of the scale.
        normalize_input: normalise the input's rows as well.

    Attributes:
        direction: the parameter, [classes, features], of which only the rows' directions matter.
        log_scale: the parameter of a learnt scale; absent otherwise.

    Raises:
        InputError: for a number out of range.
    """

    log_scale: nn.Parameter

    def __init__(
        self,
        features: int,
        classes: int,
        scale: float = 1.0,
        learn_scale: bool = False,
        normalize_input: bool = True,
    ):
        super().__init__()
        check_counts(features=features, classes=classes)
        check_number("scale", scale, above=0)
        self.in_features, self.out_features = features, classes
        self.learn_scale, self.normalize_input = learn_scale, normalize_input
        self.direction = nn.Parameter(torch.empty(classes, features))
        if learn_scale:
            self.register_exact("log_scale", torch.tensor(math.log(scale), dtype=torch.float64), learn=True)
        else:
            self.fixed_scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the rows' directions uniformly from torch's global generator."""
        nn.init.normal_(self.direction, std=self.in_features**-0.5)

    @property
    def weight(self) -> Float[Tensor, "classes features"]:
        """The class prototypes: the normalised rows of `direction`, which gets their gradients."""
        return normalize_rows(self.direction)

    @property
    def scale(self) -> float | Float[Tensor, ""]:
        """The factor of the cosines."""
        return self.log_scale.exp() if self.learn_scale else self.fixed_scale

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """The logits of each row."""
        x = normalize_rows(x) if self.normalize_input else x
        return self.scale * F.linear(x, self.weight.to(x.dtype))

    def extra_repr(self) -> str:
        """Its arguments."""
        scale = f"{self.log_scale.detach().exp():g} (learnt)" if self.learn_scale else f"{self.fixed_scale:g}"
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{shape}, scale={scale}, normalize_input={self.normalize_input}"


def cosine_head(
    features: int, classes: int, scale: float = 1.0, learn_scale: bool = False, normalize_input: bool = True
) -> CosineHead:
    r"""A cosine classifier: logits $s \cos(x, w_k)$ with a prototype $w_k$ for each class and no bias.

    Since the norms of features and prototypes cancel, frequent classes do not get larger logits.
    Gidaris, Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR 2018, arXiv 1804.09458, section 3.2.

    Args:
        features: width of the input.
        classes: number of classes.
        scale: s > 0, the inverse of a temperature. 1 leaves cosines, for objectives that have a temperature of their
            own (BaCon, SimGCD); SP²OT takes 10. With s = 1, a softmax of cosines alone stays nearly uniform.
        learn_scale: learn s as the exponential of a parameter, so that it stays above 0.
        normalize_input: False leaves the input unchanged, so that only the prototypes have length 1 (SAN).

    Returns:
        A module from [B features] to logits [B classes], within [-s, s] if the input is normalised; a row of zeros
        gets zeros. Its `weight` holds the prototypes. Half precision is normalised in float32, and returns float32.

    Raises:
        InputError: for a width or number of classes below 1, or a scale that is not above 0.

    Examples:
        >>> head = cosine_head(features=128, classes=10, scale=10)
        >>> logits = head(100 * torch.randn(4, 128))
        >>> logits.shape, bool(logits.abs().max() <= 10)
        (torch.Size([4, 10]), True)
    """
    return CosineHead(features, classes, scale, learn_scale, normalize_input)
