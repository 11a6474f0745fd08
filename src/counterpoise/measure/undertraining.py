"""Signs that training was too short or learnt little: each a named warning with what to try."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.measure.geometry import collapse, effective_rank, uniformity
from counterpoise.ops.checks import check_number, check_numbers

# After so few steps a randomly initialised network still changes fast: ten epochs of 1,979 images, 70 steps, rank
# methods as more do, but half of them do not.
FEW_STEPS = 50
# In an epoch of fewer batches than this, each batch holds more than a quarter of the data, so there are few steps for
# the amount of data, unless many epochs make up for it.
FEW_BATCHES = 4
MANY_STEPS = 500
ROUNDING = 1e-6  # rounding error of a mean of shares
NEARLY_ALL = 0.95  # a probe that starts here has nothing left to gain
RISE = 0.01  # of the probe: ten of its 1,000 images
HALF = 5  # fewest epochs that a line is drawn through
LAST = 3  # last epochs, whose mean is compared with the first, so that no single epoch decides
# Features learnt without labels use at least 8 of 128 dimensions (docs/results/claims.md): a sixteenth, counted from
# the smallest possible rank of 1. Below 0.02, `collapse` reports a collapse.
LOW_RANK = 1 / 16
# A mean squared distance of about 0.1, or a cosine of 0.95: SimCLR's features of these images have a uniformity of -0.4
# after the first epoch and -0.9 after the tenth.
CLOSE_TOGETHER = -0.2


def few_steps(
    images: int, batch_size: int, epochs: int | None = None, accumulate: int = 1, steps: int | None = None
) -> str | None:
    """The warning for too few optimiser steps, or `None`.

    They are few below 50; or below 500 where an epoch has fewer than 4.

    Args:
        images: number of training images.
        batch_size: images a batch, at most all of them.
        epochs: passes over the images; either these or `steps` are given.
        accumulate: batches a step.
        steps: of the optimiser.

    Raises:
        InputError: for a number below 1, or unless one of epochs and steps is given.

    Examples:
        >>> few_steps(images=800, batch_size=256, epochs=10)
        'few steps: 30 in 10 epochs, 3 an epoch (256 of 800 images a step); try a smaller batch_size or more epochs'
        >>> few_steps(images=800, batch_size=32, epochs=10)
        >>> few_steps(images=800, batch_size=32, steps=40)
        'few steps: 40, 25 an epoch (32 of 800 images a step); try a smaller batch_size or more steps'
    """
    given = {"images": images, "batch_size": batch_size, "epochs": epochs, "accumulate": accumulate, "steps": steps}
    if (epochs is None) == (steps is None):
        raise InputError(f"epochs: expected either epochs or steps, got {epochs} and {steps}")
    for name, value in given.items():
        if value is not None or name not in ("epochs", "steps"):
            check_number(name, value, at_least=1, whole=True)
    batch_size = min(batch_size, images)
    each = -(-(images // batch_size) // accumulate)
    total = steps if steps is not None else each * (epochs or 1)
    if total >= FEW_STEPS and (each >= FEW_BATCHES or total >= MANY_STEPS):
        return None
    share = f"{min(batch_size * accumulate, images)} of {images} images a step"
    length, more = (f" in {epochs} epochs", "epochs") if steps is None else ("", "steps")
    return f"few steps: {total}{length}, {each} an epoch ({share}); try a smaller batch_size or more {more}"


def flat_probe(accuracies: Sequence[float]) -> str | None:
    """The warning for a kNN probe that has not risen since the first epoch, or `None`.

    It has not where the mean of the last 3 epochs, without the first, is not above the first epoch; unless that one has
    95 % already.

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


def rising_probe(accuracies: Sequence[float]) -> str | None:
    """The warning for a kNN probe that still rises at the end of training, or `None`.

    It does where the straight line of least squares through the last half of the epochs, at least 5, rises by more than
    one point (0.01) and by more than twice its standard error. One point is ten of the 1,000 images that the probe
    classifies. The learning rate comes down in that half, which by itself flattens the curve: so what still rises would
    gain more from a longer schedule.

    Args:
        accuracies: kNN accuracy after each epoch, from 0 to 1; with fewer than 6 there is no warning.

    Raises:
        InputError: for anything but numbers from 0 to 1.

    Examples:
        >>> rising_probe([0.6, 0.65, 0.67, 0.68, 0.69, 0.7, 0.71])
        'still rising: kNN rose by 4.0 points over the last 5 of 7 epochs, to 71.0 %; try more epochs or steps'
        >>> rising_probe([0.5, 0.6, 0.7, 0.71, 0.7, 0.71, 0.71])
    """
    accuracies = check_numbers("accuracies", accuracies, least=0, at_least=0, at_most=1)
    if len(accuracies) <= HALF:
        return None
    last = accuracies[-max(HALF, len(accuracies) // 2) :]
    rise, error = _line(last)
    if rise <= RISE + ROUNDING or rise <= 2 * error:
        return None
    return (
        f"still rising: kNN rose by {100 * rise:.1f} points over the last {len(last)} of {len(accuracies)} epochs, to "
        f"{last[-1]:.1%}; try more epochs or steps"
    ).replace("%", " %")


def _line(values: Sequence[float]) -> tuple[float, float]:
    """By how much the line of least squares rises from the first value to the last, and its standard error."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in range(len(values)))
    slope = sum((x - middle) * (value - mean) for x, value in enumerate(values)) / spread
    left = sum((value - mean - slope * (x - middle)) ** 2 for x, value in enumerate(values))
    error = math.sqrt(left / (len(values) - 2) / spread)
    return slope * (len(values) - 1), error * (len(values) - 1)


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
