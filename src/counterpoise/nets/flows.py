"""A small invertible network of images that separates what is global, such as tone and ground, from what is local.

Ma, Kong, Zhang, Hovy, "Decoupling Global and Local Representations via Invertible Generative Flows", ICLR 2021, arXiv
2004.11820. An encoder gives a short code z of the whole image; the flow f maps the image, given z, to nu of the image's
own shape. Both are trained by the variational bound. The flow is one of Kingma, Dhariwal, "Glow: Generative Flow with
Invertible 1x1 Convolutions", NeurIPS 2018, arXiv 1807.03039: squeezes, scalings of channels, 1x1 convolutions, and
affine couplings (Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017, arXiv 1605.08803).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import Diverged, InputError
from counterpoise.nets.minimize import train_one_cycle
from counterpoise.ops.checks import check_counts, check_finite

Pixels = Float[Tensor, "batch channels height width"]
Codes = Float[Tensor, "batch code"]

LEVEL = 2 / 255  # one step of a byte, in images of -1 to 1
LIMIT = 2.0  # of the logarithm of a coupling's scale in either direction
UNSURE = 8.0  # of the logarithm of the posterior's variance in either direction
SAMPLE = 256  # images that the scales of channels are first set by
PART = 512  # images encoded at once


class Flow(nn.Module):
    r"""Images to a global code z and the rest nu, and back: $x = f^{-1}(\nu; z)$.

    Args:
        shape: of an image: channels, height and width; these two must be multiples of 2 to the power of `scales`.
        code: numbers in z.
        width: channels within couplings.
        scales: times that the image is squeezed to half its size; after each but the last, half of the channels are
            done.
        couplings: at each scale.

    Raises:
        InputError: for a number out of range, or a size that cannot be halved so often.

    Attributes:
        deviation: the standard deviation of z over the training images; 1 before `train_flow`.

    Examples:
        >>> flow, x = Flow((3, 8, 8), code=4, width=8), torch.rand(2, 3, 8, 8) * 2 - 1
        >>> z, nu = flow.encode(x)
        >>> z.shape, nu.shape, (flow.decode(nu, z) - x).abs().max().item() < 1e-4
        (torch.Size([2, 4]), torch.Size([2, 3, 8, 8]), True)
    """

    deviation: Tensor

    def __init__(self, shape: Sequence[int], code: int = 16, width: int = 64, scales: int = 2, couplings: int = 4):
        super().__init__()
        if len(shape) != 3:
            raise InputError(f"shape: expected channels, height and width, got {list(shape)}")
        channels, height, wide = shape
        check_counts(channels=channels, height=height, code=code, width=width, scales=scales, couplings=couplings)
        if height % 2**scales or wide % 2**scales:
            raise InputError(f"shape: expected multiples of {2**scales} for {scales} scales, got {height} x {wide}")
        self.shape, self.code = (channels, height, wide), code
        self.posterior = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 2 * code)),
        )
        self.scales = nn.ModuleList()
        for _ in range(scales):
            channels *= 4  # squeezed
            self.scales.append(nn.ModuleList(Step(channels, code, width) for _ in range(couplings)))
            channels //= 2  # the other half is done
        self.register_buffer("deviation", torch.ones(code))

    def codes(self, x: Pixels) -> Codes:
        """z alone, the mean of the posterior."""
        return self._posterior(self._checked("x", x))[0]

    def encode(self, x: Pixels) -> tuple[Codes, Pixels]:
        """z, the mean of the posterior, and nu given it.

        Args:
            x: images, in [-1, 1], in float32 or float64.

        Raises:
            InputError: for another shape, half precision, in which couplings cannot be undone, or NaN.
        """
        z = self.codes(x)
        return z, self.forward(x, z)[0]

    def decode(self, nu: Pixels, z: Codes) -> Pixels:
        """The image of which `encode` gives nu and z.

        Args:
            nu: of an image, as `encode` gives it.
            z: of the same image, or of another.

        Returns:
            Images, which may leave [-1, 1] where z is another's.

        Raises:
            InputError: for another shape, half precision or NaN.
        """
        nu = self._checked("nu", nu)
        with _exact(nu):
            parts = []
            for _ in self.scales:
                nu = _squeezed(nu)
                parts.append(nu)
                nu = nu.chunk(2, 1)[0]
            x = parts[-1]
            for steps, part in zip(reversed(self.scales), [None, *reversed(parts[:-1])], strict=True):
                x = x if part is None else torch.cat([x, part.chunk(2, 1)[1]], 1)
                for step in reversed(cast(nn.ModuleList, steps)):
                    x = cast(Step, step).inverse(x, z)
                x = F.pixel_shuffle(x, 2)
            return x

    def forward(self, x: Pixels, z: Codes, fit: bool = False) -> tuple[Pixels, Float[Tensor, " batch"]]:
        """nu, and the logarithm of the determinant of its derivative by x.

        Args:
            x: images.
            z: their codes.
            fit: first set the scalings of channels so that each has mean 0 and variance 1 over these images.
        """
        x = self._checked("x", x)
        with _exact(x):
            done: list[Tensor] = []
            log_det = x.new_zeros(len(x))
            for i, steps in enumerate(self.scales):
                x = _squeezed(x)
                for step in cast(nn.ModuleList, steps):
                    if fit:
                        cast(Step, step).fit(x)
                    x, grown = step(x, z)
                    log_det = log_det + grown
                if i < len(self.scales) - 1:
                    x, rest = x.chunk(2, 1)
                    done.append(rest)
            for rest in reversed(done):
                x = torch.cat([F.pixel_shuffle(x, 2), rest], 1)
            return F.pixel_shuffle(x, 2), log_det

    def bound(self, x: Pixels, generator: torch.Generator | None = None) -> Float[Tensor, " batch"]:
        r"""A lower bound of the logarithm of the probability of images of bytes, in nats.

        $E_q[\log N(\nu; 0, I) + \log |\det \partial f / \partial x|] - KL(q(z|x) \| N(0, I))$, of one draw of z, and of
        the image with uniform noise of the width of a byte's step.

        Args:
            x: images, in [-1, 1].
            generator: of both draws, on the images' device; `None` takes the global one.

        Raises:
            InputError: as `encode`.
        """
        x = self._checked("x", x)
        with _exact(x):
            mean, log_variance = self._posterior(x)
            z = mean + (log_variance / 2).exp() * torch.randn(
                mean.shape, generator=generator, device=x.device, dtype=x.dtype
            )
            noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 0.5
            nu, log_det = self.forward(x + LEVEL * noise, z)
            likely = -0.5 * (nu.square() + math.log(2 * math.pi)).flatten(1).sum(1)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            return likely + log_det + x[0].numel() * math.log(LEVEL) - divergence

    def _posterior(self, x: Pixels) -> tuple[Codes, Codes]:
        """Mean and logarithm of the variance of z."""
        with _exact(x):
            mean, log_variance = self.posterior(x).chunk(2, 1)
            return mean, UNSURE * torch.tanh(log_variance / UNSURE)

    def _checked(self, name: str, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise InputError(f"{name}: expected [batch, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if x.dtype in (torch.float16, torch.bfloat16):
            raise InputError(f"{name}: expected float32 or float64, as half precision cannot be undone, got {x.dtype}")
        check_finite(name, x)
        return x


class Step(nn.Module):
    """A scaling of channels by z, an invertible mixture of them, and an affine coupling that sees half of them and z.

    Scalings know z, too, since couplings alone leave much of what is global to nu: half of the channels predicts the
    other half's ground as well as z does.

    Args:
        channels: at least 2.
        code: numbers in z.
        width: channels within the coupling.
    """

    def __init__(self, channels: int, code: int, width: int):
        super().__init__()
        self.seen = channels // 2
        moved = channels - self.seen
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.mixture = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.first = nn.Conv2d(self.seen, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 1)
        self.of_code = nn.Linear(code, width)
        self.last = nn.Conv2d(width, 2 * moved, 3, padding=1)
        self.scaling = nn.Linear(code, 2 * channels)  # what z says of a channel as a whole
        for layer in (self.last, self.scaling):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit(self, x: Pixels) -> None:
        """Set the scaling so that each channel of these has mean 0 and variance 1."""
        deviation, mean = torch.std_mean(x, (0, 2, 3), correction=0)
        self.log_scale.copy_(-deviation.clamp(min=1e-3).log())
        self.shift.copy_(-mean)

    def forward(self, x: Pixels, z: Codes) -> tuple[Pixels, Float[Tensor, " batch"]]:
        """The channels mixed and moved, and the logarithm of the determinant."""
        log_scale, shift = self._scaling(z)
        positions = x.shape[2] * x.shape[3]
        log_det = positions * (log_scale.sum(1) + torch.linalg.slogdet(self.mixture)[1])
        x = F.conv2d((x + _all(shift)) * _all(log_scale.exp()), self.mixture[:, :, None, None])
        seen, moved = x[:, : self.seen], x[:, self.seen :]
        log_scale, shift = self._coupling(seen, z)
        return torch.cat([seen, moved * log_scale.exp() + shift], 1), log_det + log_scale.flatten(1).sum(1)

    def inverse(self, y: Pixels, z: Codes) -> Pixels:
        """The input of `forward` that gives y."""
        seen, moved = y[:, : self.seen], y[:, self.seen :]
        log_scale, shift = self._coupling(seen, z)
        x = torch.cat([seen, (moved - shift) * (-log_scale).exp()], 1)
        back = torch.linalg.inv(self.mixture.double()).to(x)
        log_scale, shift = self._scaling(z)
        return F.conv2d(x, back[:, :, None, None]) * _all((-log_scale).exp()) - _all(shift)

    def _scaling(self, z: Codes) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels"]]:
        """By what each channel is scaled, as a logarithm, after it is moved; and by what it is moved."""
        log_scale, shift = self.scaling(z).chunk(2, 1)
        return self.log_scale + LIMIT * torch.tanh(log_scale / LIMIT), self.shift + shift

    def _coupling(self, seen: Pixels, z: Codes) -> tuple[Tensor, Tensor]:
        """By what the other channels are scaled, as a logarithm, and then moved."""
        hidden = F.relu(self.first(seen), inplace=True)
        hidden = F.relu(self.second(hidden) + _all(self.of_code(z)), inplace=True)
        log_scale, shift = self.last(hidden).chunk(2, 1)
        return LIMIT * torch.tanh(log_scale / LIMIT), shift


def _all(numbers: Float[Tensor, "batch channels"]) -> Float[Tensor, "batch channels 1 1"]:
    """Of each channel, for all of its positions."""
    return numbers[:, :, None, None]


def _squeezed(x: Pixels) -> Float[Tensor, "batch four_channels half_height half_width"]:
    """Squares of four pixels as channels; in the layout of memory that is the faster one on CPU."""
    return F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)


def _exact(x: Tensor) -> torch.autocast:
    """Mixed precision would round what must be undone."""
    return torch.autocast(x.device.type, enabled=False)


def train_flow(
    flow: Flow,
    pixels: UInt8[Tensor, "images channels height width"],
    view: Callable[[Tensor], Tensor],
    epochs: int,
    batch_size: int = 64,
    lr: float = 3e-3,
) -> float:
    """Train a flow by its bound, with a one-cycle learning rate; then measure the standard deviation of its codes.

    Args:
        flow: trained in place; its parameters require a gradient only while this runs.
        pixels: training images; batches are drawn from torch's global generator.
        view: maps uint8 images, on the flow's device, to float images in [-1, 1].
        epochs: passes over the images; 0 trains nothing.
        batch_size: images a step, at most all of them.
        lr: peak learning rate of AdamW.

    Returns:
        The mean bound of the last pass, in bits a pixel and channel, with the sign of a code length: lower is better; 8
        are those of uniform bytes. NaN without a pass.

    Raises:
        InputError: for a number out of range, or no image.
        Diverged: where the bound is not finite in the end.
    """
    device = flow.deviation.device
    check_counts(pixels=len(pixels), batch_size=batch_size)

    def length(rows: Tensor) -> Tensor:
        x = view(pixels[rows].to(device))
        return -flow.bound(x).mean() / (x[0].numel() * math.log(2))

    if epochs:
        some = view(pixels[torch.randperm(len(pixels))[:SAMPLE]].to(device))
        with torch.no_grad():
            flow.forward(some, flow.codes(some), fit=True)
    lengths = train_one_cycle(flow, length, len(pixels), epochs, batch_size, lr)
    bits = sum(lengths) / len(lengths) if lengths else math.nan
    if lengths and not math.isfinite(bits):
        raise Diverged(f"the flow's bound became {bits}; a smaller lr than {lr:g} may help")
    with torch.no_grad():
        codes = torch.cat([flow.codes(view(part.to(device))) for part in pixels.split(PART)])
        flow.deviation.copy_(codes.std(0, correction=0))
    return bits
