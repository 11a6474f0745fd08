"""Heads: from features to logits or to the space where an objective compares them."""

from __future__ import annotations

from torch import nn

from counterpoise.ops.checks import check_counts


def linear(features: int, out: int) -> nn.Linear:
    """One linear layer with a bias.

    >>> linear(128, 10)
    Linear(in_features=128, out_features=10, bias=True)
    """
    check_counts(features=features, out=out)
    return nn.Linear(features, out)


def mlp(
    features: int, hidden: int, out: int, layers: int = 2, batch_norm: bool = True, last_norm: bool = False
) -> nn.Sequential:
    """A multi-layer perceptron with ReLU between its linear layers: the projection head of contrastive methods.

    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML
    2020, arXiv 2002.05709, section 2.1; deeper and with normalised output in SimCLR v2, MoCo v3 and SimSiam.

    Args:
        features: width of the input.
        hidden: width of the layers in between.
        out: width of the output.
        layers: how many linear layers; 1 is a linear map.
        batch_norm: batch normalisation after each linear layer but the last.
        last_norm: batch normalisation of the output, without scale and shift of its own.

    Returns:
        A module from [B features] to [B out]. A linear layer has no bias where a batch normalisation follows.

    Raises:
        InputError: for a width or number of layers below 1.

    >>> [type(module).__name__ for module in mlp(128, 256, 64)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    check_counts(features=features, hidden=hidden, out=out, layers=layers)
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(features, hidden, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(nn.ReLU(inplace=True))
        features = hidden
    modules.append(nn.Linear(features, out, bias=not last_norm))
    if last_norm:
        modules.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*modules)
