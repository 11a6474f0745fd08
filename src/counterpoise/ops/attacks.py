"""Attacks: small changes of inputs that raise a score, found by its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise.errors import InputError, NonFinite
from counterpoise.ops.checks import all_finite, check_finite, check_number, check_same_shape

PIXEL_RANGE = 2.0  # of pixels, which a network gets as -1 to 1; radii of images are shares of it


def pgd(
    score: Callable[[Float[Tensor, "batch *shape"]], Float[Tensor, " batch"]],
    x: Float[Tensor, "batch *shape"],
    radius: float,
    steps: int,
    step: float,
    low: float = -1.0,
    high: float = 1.0,
    generator: torch.Generator | None = None,
    start: Float[Tensor, "batch *shape"] | None = None,
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, " batch"]]:
    r"""Projected gradient ascent of a score within $\|x' - x\|_\infty \le$ radius, from a random start there.

    Each step adds `step` times the sign of the gradient and returns to the ball and the range. Of all points visited,
    the start and the last one included, the best of each row is kept, so that more steps never lower its score.
    Nothing but x' gets a gradient: those of the score's parameters stay as they are.

    Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    arXiv 1706.06083.

    Args:
        score: inputs to one number a row, which no other row changes; the higher, the better for the attack.
        x: the inputs, within the range.
        radius: of the ball, above 0, in the units of x.
        steps: at least 0; each costs a forward and a backward pass, and the last point one more forward pass.
        step: above 0, in the units of x.
        low: least value that an input can have.
        high: largest value that an input can have, above `low`.
        generator: of the start; torch's global one by default.
        start: of the shape of x, where to start instead; brought into the ball and the range.

    Returns:
        The best point of each row, without a gradient, and its score.

    Raises:
        InputError: for numbers out of range, inputs that are NaN or outside of the range, and a score of another shape
            or that is NaN.

    Examples:
        >>> pgd(lambda x: x.square().sum(1), torch.tensor([[0.5], [-0.95]]), radius=0.1, steps=5, step=0.05)
        (tensor([[ 0.6000],
                [-1.0000]]), tensor([0.3600, 1.0000]))
    """
    check_number("radius", radius, above=0)
    check_number("steps", steps, at_least=0, whole=True)
    check_number("step", step, above=0)
    check_number("low", low)
    check_number("high", high, above=low)
    check_finite("x", x)
    if not x.ndim:
        raise InputError("x: expected one row or more of inputs, got a single number")
    x = x.detach()
    if x.numel() and not (x.min() >= low and x.max() <= high):
        raise InputError(f"x: expected numbers from {low:g} to {high:g}, got {x.min():g} to {x.max():g}")
    least, most = (x - radius).clamp(min=low), (x + radius).clamp(max=high)
    if start is None:
        share = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32).to(x)
        at = least + share * (most - least)
    else:
        check_same_shape(x=x, start=start)
        check_finite("start", start)
        at = torch.clamp(start.detach().to(x), least, most)
    best, reached = at, None
    for remaining in range(steps, -1, -1):
        with torch.set_grad_enabled(remaining > 0):  # the last point is only scored
            at = at.detach().requires_grad_(remaining > 0)
            found = score(at)
            _check_scores(found, x)
            if remaining:
                (gradient,) = torch.autograd.grad(found.sum(), at)
        found, at = found.detach(), at.detach()
        if reached is None:
            reached = found
        else:
            better = found > reached
            reached = torch.where(better, found, reached)
            best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), at, best)
        if remaining:
            at = torch.clamp(at + step * gradient.sign(), least, most)
    assert reached is not None
    return best, reached


def _check_scores(found: Tensor, x: Tensor) -> None:
    if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"score: expected one number for each of the {len(x)} rows of x, got {got}")
    if not all_finite(found):
        raise NonFinite("score: became NaN or infinite at a point of the attack on x")
