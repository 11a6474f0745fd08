"""Diffusion of small images: noise schedule, a small U-Net that predicts the noise, its training, and DDIM.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239; Song, Meng, Ermon,
"Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502; the U-Net's adaptive normalisation as in Dhariwal,
Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv 2105.05233.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.minimize import train_one_cycle
from counterpoise.ops.checks import check_counts, check_finite, check_integers, check_number

Pixels = Float[Tensor, "batch channels height width"]
Steps = Integer[Tensor, " batch"]


class Schedule(ExactConstants):
    r"""The noise schedule: the weights of image and noise at each step, $x_t = \sqrt{A_t}\, x_0 + \sqrt{1 - A_t}\, e$.

    $A_t = \prod_{s \le t} (1 - \beta_s)$ with $\beta$ from `first` to `last` in equal steps; t counts from 0.

    Args:
        steps: T, the number of steps.
        first: the first $\beta$.
        last: the last $\beta$, at most 0.999.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> schedule = Schedule()
        >>> schedule.signal[0] ** 2, schedule.sigma[-1]  # almost no noise, then almost only noise
        (tensor(0.9999), tensor(1.0000))
    """

    signal: Tensor
    sigma: Tensor

    def __init__(self, steps: int = 1000, first: float = 1e-4, last: float = 0.02):
        super().__init__()
        check_counts(steps=steps)
        check_number("last", last, at_most=0.999)
        check_number("first", first, above=0, at_most=last)
        self.steps = steps
        # In double precision: float32 holds 1 - 0.9999 to only three digits.
        self.alpha = 1 - torch.linspace(first, last, steps, dtype=torch.float64)
        self.kept = self.alpha.cumprod(0)
        self.register_exact("signal", self.kept.sqrt(), persistent=False)
        self.register_exact("sigma", (1 - self.kept).sqrt(), persistent=False)

    def noised(self, x: Pixels, t: Steps, noise: Pixels) -> Pixels:
        """$x_t$ of images $x_0$.

        Raises:
            InputError: for steps that are not one integer for each image.
        """
        t = check_integers("t", t, len(x))  # as int64: torch takes uint8 for a mask
        return self.signal[t].view(-1, 1, 1, 1) * x + self.sigma[t].view(-1, 1, 1, 1) * noise


@torch.no_grad()
def ddim(
    predict: Callable[[Pixels, Steps], Pixels], schedule: Schedule, x: Pixels, steps: int, backwards: bool = False
) -> Pixels:
    r"""Deterministic DDIM sampling from noise to an image, or inversion from an image to noise.

    Each step estimates the clean image from the predicted noise, clamps it to [-1, 1], recomputes the noise from it,
    and mixes both for the next step: $x_s = \sqrt{A_s}\, \hat x_0 + \sqrt{1-A_s}\, \hat e$.

    Args:
        predict: predicts the noise in $x_t$ at step t.
        schedule: the noise schedule.
        x: the noise; the image if `backwards`.
        steps: number of the schedule's steps to visit, evenly spaced from step 0.
        backwards: invert, from the image to the noise that generates it.

    Raises:
        InputError: for more steps than the schedule has or fewer than 1, or NaN.

    Examples:
        >>> schedule, image = Schedule(), torch.full((1, 1, 1, 1), 0.5)
        >>> knows = lambda x, t: (x - schedule.signal[t] * image) / schedule.sigma[t]
        >>> ddim(knows, schedule, torch.randn(1, 1, 1, 1), steps=10).item()
        0.5
    """
    check_number("steps", steps, at_least=1, at_most=schedule.steps, whole=True)
    check_finite("x", x)
    visited = [i * schedule.steps // steps for i in range(steps)]
    image, noise = (1.0, 0.0), (0.0, 1.0)
    mixes = [image, *((float(schedule.signal[t]), float(schedule.sigma[t])) for t in visited), noise]
    order = range(len(visited)) if backwards else reversed(range(len(visited)))
    for i in order:
        t = torch.full((len(x),), visited[i], device=x.device)
        signal, sigma = mixes[i + 1]
        clean = ((x - sigma * predict(x, t)) / signal).clamp(-1, 1)
        noise_of_it = (x - signal * clean) / sigma
        signal, sigma = mixes[i + 2] if backwards else mixes[i]
        x = signal * clean + sigma * noise_of_it
    return x


class UNet(nn.Module):
    """A U-Net that predicts the noise in images: three levels down to a quarter of the size, and up with skips.

    Args:
        channels: number of image channels; images may have any size.
        width: channels of the first of three levels, an even number; each level has half the size of the previous one
            and twice its channels.
        code: length of a conditioning vector for each image; `None` for no conditioning.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> UNet(channels=1)(torch.zeros(2, 1, 15, 15), torch.tensor([0, 999])).shape
        torch.Size([2, 1, 15, 15])
    """

    def __init__(self, channels: int, width: int = 32, code: int | None = None):
        super().__init__()
        check_counts(channels=channels, width=width, **({} if code is None else {"code": code}))
        if width % 2:  # half of the step's embedding are sines, half cosines
            raise InputError(f"width: expected an even number, got {width}")
        self.channels, self.width = channels, width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.down = Down(channels, width)
        self.up = Up(channels, width, code)

    def forward(self, x: Pixels, t: Steps, code: Float[Tensor, "batch code"] | None = None) -> Pixels:
        """Predict the noise in `x` at the steps `t`."""
        time = self.embed(t)
        return self.up(self.down(x, time), time, code)

    def embed(self, t: Steps) -> Float[Tensor, "batch embedding"]:
        """Embeddings of the steps: an MLP of their sines and cosines."""
        half, dtype = self.width // 2, next(self.time.parameters()).dtype
        exact = torch.promote_types(dtype, torch.float32)  # half precision is too coarse for the angles
        rate = torch.exp(torch.arange(half, device=t.device, dtype=exact) * (-math.log(10_000) / half))
        angle = t[:, None] * rate
        return self.time(torch.cat([angle.cos(), angle.sin()], 1).to(dtype))


class Down(nn.Module):
    """The encoder of the U-Net: maps images to features of each level."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            Block(width * before, width * after, 4 * width) for before, after in ((1, 1), (1, 2), (2, 4))
        )

    def forward(self, x: Pixels, time: Float[Tensor, "batch embedding"]) -> list[Tensor]:
        """The features of each level, the highest resolution first."""
        seen: list[Tensor] = []
        h = self.first(x.contiguous(memory_format=torch.channels_last))  # the faster layout on CPU
        for block in self.blocks:
            h = block(F.avg_pool2d(h, 2, ceil_mode=True) if seen else h, time)
            seen.append(h)
        return seen


class Up(nn.Module):
    """The middle and the decoder of the U-Net: maps features of each level to an image. Its initial output is 0.

    Args:
        channels: number of image channels.
        width: channels of the first level.
        code: length of a conditioning vector for each image; `None` for no conditioning.
    """

    def __init__(self, channels: int, width: int, code: int | None = None):
        super().__init__()
        self.code = None if code is None else nn.Linear(code, 4 * width)
        conditional = code is not None
        self.middle = Block(4 * width, 4 * width, 4 * width, conditional)
        self.blocks = nn.ModuleList(
            Block(width * (before + after), width * after, 4 * width, conditional)
            for before, after in ((4, 4), (4, 2), (2, 1))
        )
        self.last = nn.Sequential(_norm(width), nn.SiLU(), _zero(nn.Conv2d(width, channels, 3, padding=1)))

    def forward(
        self,
        seen: list[Tensor],
        time: Float[Tensor, "batch embedding"],
        code: Float[Tensor, "batch code"] | None = None,
    ) -> Pixels:
        """An image from the features of each level.

        Raises:
            InputError: for a missing code.
        """
        if self.code is not None and code is None:
            raise InputError(f"code: expected [batch, {self.code.in_features}], got none")
        code = None if self.code is None else self.code(code)
        h = self.middle(seen[-1], time, code)
        for block, level in zip(self.blocks, reversed(seen), strict=True):
            h = F.interpolate(h, level.shape[-2:]) if h.shape[-2:] != level.shape[-2:] else h
            h = block(torch.cat([h, level], 1), time, code)
        return self.last(h)


class Block(nn.Module):
    """A residual block of two convolutions; the step, and the code if any, scale and shift the features between them.

    Args:
        before: input channels.
        width: output channels.
        embedding: length of the embeddings of steps and of codes.
        conditional: whether there is a code.
    """

    def __init__(self, before: int, width: int, embedding: int, conditional: bool = False):
        super().__init__()
        self.first = nn.Sequential(_norm(before), nn.SiLU(), nn.Conv2d(before, width, 3, padding=1))
        self.norm = _norm(width)
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * width))
        self.code = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * width)) if conditional else None
        self.last = nn.Sequential(nn.SiLU(), _zero(nn.Conv2d(width, width, 3, padding=1)))
        self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor, time: Tensor, code: Tensor | None = None) -> Tensor:
        h = _adapted(self.norm(self.first(x)), self.time(time))
        if self.code is not None:
            h = _adapted(h, self.code(code))
        return self.skip(x) + self.last(h)


def _adapted(h: Tensor, by: Tensor) -> Tensor:
    scale, shift = by[:, :, None, None].chunk(2, 1)
    return torch.addcmul(shift, h, 1 + scale)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def train_denoiser(
    net: UNet,
    schedule: Schedule,
    pixels: UInt8[Tensor, "images channels height width"],
    view: Callable[[Tensor], Tensor],
    epochs: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    code: nn.Module | None = None,
) -> float:
    """Train a network to predict the noise by mean squared error, with a one-cycle learning rate.

    Args:
        net: trained in place; its parameters require a gradient only while this runs.
        schedule: the noise schedule.
        pixels: training images; batches are drawn from torch's global generator.
        view: maps uint8 images, on the schedule's device, to float images.
        epochs: passes over the images; 0 leaves the network unchanged.
        batch_size: images a step, at most all of them.
        lr: peak learning rate of AdamW.
        code: maps float images to the network's conditioning vectors; trained with it.

    Returns:
        The mean error of the last pass; a network that always predicts 0 has an error of 1.

    Raises:
        InputError: for a number out of range, or no image.
    """
    trained = nn.ModuleList([net] if code is None else [net, code])
    device = schedule.signal.device

    def error(rows: Tensor) -> Tensor:
        x = view(pixels[rows].to(device))
        t, noise = torch.randint(schedule.steps, (len(x),), device=device), torch.randn_like(x)
        predicted = net(schedule.noised(x, t, noise), t, None if code is None else code(x))
        return F.mse_loss(predicted, noise)

    check_counts(pixels=len(pixels))
    errors = train_one_cycle(trained, error, len(pixels), epochs, batch_size, lr)
    return sum(value / len(errors) for value in errors) if errors else 1.0
