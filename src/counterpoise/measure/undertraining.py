"""Signs that training was too short or learnt little: each a named warning with what to try."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from counterpoise.measure.geometry import collapse, effective_rank, uniformity
from counterpoise.ops.checks import check_number, check_numbers

# After so few steps a randomly initialised network still changes fast: the demo's ten epochs, 70 steps, are enough to
# rank the methods, but half of them are not.
FEW_STEPS = 50
# In an epoch of fewer batches than this, each batch holds more than a quarter of the data, so there are few steps for
# the amount of data, unless many epochs make up for it.
FEW_BATCHES = 4
MANY_STEPS = 500
ROUNDING = 1e-6  # rounding error of a mean of shares
NEARLY_ALL = 0.95  # a probe that starts here has nothing left to gain
LAST = 3  # last epochs, whose mean is compared with the first, so that no single epoch decides
# Features learnt without labels use at least 8 of 128 dimensions (docs/results/claims.md): a sixteenth, counted from
# the smallest possible rank of 1. Below 0.02, `collapse` reports a collapse.
LOW_RANK = 1 / 16
# A mean squared distance of about 0.1, or a cosine of 0.95: the demo's features have a uniformity of -0.4 after the
# first epoch and -0.9 after the tenth.
CLOSE_TOGETHER = -0.2


def few_steps(images: int, batch_size: int, epochs: int, accumulate: int = 1) -> str | None:
    """The warning for too few optimiser steps, or `None`.

    Args:
        images: number of training images.
        batch_size: images a batch, at most all of them.
        epochs: passes over the images.
        accumulate: batches a step.

    Raises:
        InputError: for a number below 1.

    Examples:
        >>> few_steps(images=800, batch_size=256, epochs=10)
        'few steps: 30 in 10 epochs, 3 an epoch (256 of 800 images a step); try a smaller batch_size or more epochs'
        >>> few_steps(images=800, batch_size=32, epochs=10)
    """
    given = {"images": images, "batch_size": batch_size, "epochs": epochs, "accumulate": accumulate}
    for name, value in given.items():
        check_number(name, value, at_least=1, whole=True)
    batch_size = min(batch_size, images)
    each = -(-(images // batch_size) // accumulate)
    steps = each * epochs
    if steps >= FEW_STEPS and (each >= FEW_BATCHES or steps >= MANY_STEPS):
        return None
    share = f"{min(batch_size * accumulate, images)} of {images} images a step"
    return f"few steps: {steps} in {epochs} epochs, {each} an epoch ({share}); try a smaller batch_size or more epochs"


def flat_probe(accuracies: Sequence[float]) -> str | None:
    """The warning for a kNN probe that has not risen since the first epoch, or `None`.

    Args:
        accuracies: kNN accuracy after each epoch, from 0 to 1; with fewer than 3 there is no warning.

    Raises:
        InputError: for anything but numbers from 0 to 1.

    Examples:
        >>> flat_probe([0.6, 0.61, 0.59, 0.6])
        'flat probe: kNN 60.0 % after the first epoch and 60.0 % over the last 3, so training has taught nothing that
        kNN can see; try more steps, another learning rate, or milder augmentations'
        >>> flat_probe([0.6, 0.65, 0.7])
    """
    accuracies = check_numbers("accuracies", accuracies, least=0, at_least=0, at_most=1)
    if len(accuracies) < LAST or accuracies[0] >= NEARLY_ALL:
        return None
    last = accuracies[1:][-LAST:]
    first, end = accuracies[0], sum(last) / len(last)
    if end > first + ROUNDING:
        return None
    return (
        f"flat probe: kNN {first:.1%} after the first epoch and {end:.1%} over the last {len(last)}, so training has "
        "taught nothing that kNN can see; try more steps, another learning rate, or milder augmentations"
    ).replace("%", " %")


def poor_shape(z: Float[Tensor, "n dim"], classes: int | None = None) -> list[str]:
    """The warnings for embeddings that use few dimensions or are close together; for a collapse, only that one.

    Args:
        z: one row per sample, from the network.
        classes: number of classes that a supervised method was trained on, since its embeddings need no more dimensions
            than that; `None` for a method without labels.

    Raises:
        InputError: for no rows, NaN, or a number of classes below 1.

    Examples:
        >>> import torch
        >>> poor_shape(torch.eye(64)[torch.arange(100) % 4])
        ['low effective rank: 4.0 of 64; try more epochs, a smaller batch_size, or another method']
    """
    if classes is not None:
        check_number("classes", classes, at_least=1, whole=True)
    if found := collapse(z):
        return [f"{found}; try another learning rate or temperature, or another method"]
    if len(z) < 2:
        return []
    signs, most = [], min(z.shape)
    rank, low = float(effective_rank(z)), 1 + LOW_RANK * (most - 1)
    if rank < (low if classes is None else min(low, classes)):
        what_to_try = "try more epochs, a smaller batch_size, or another method"
        signs.append(f"low effective rank: {rank:.1f} of {most}; {what_to_try}")
    if (even := float(uniformity(z))) > CLOSE_TOGETHER:
        what_to_try = "try more epochs, another learning rate, or a lower temperature"
        signs.append(f"embeddings close together: uniformity {even:.2f}, where 0 is a single point; {what_to_try}")
    return signs
