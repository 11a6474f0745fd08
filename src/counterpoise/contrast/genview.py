"""GenView: generated variations as positives, and lower weights for pairs of poor quality.

Li, Yang, Li, Wu, Yu, Ghanem, Zhang, "GenView: Enhancing View Quality with Pretrained Generative Model for
Self-Supervised Learning", ECCV 2024, arXiv 2403.12003: adaptive view generation and the quality-driven contrastive
loss. A frozen encoder gives each image a grid of tokens, whose first principal direction separates foreground from
background. The foreground's share of an image sets the noise level of its variation; the weight of a pair grows with
the agreement of the two foregrounds and falls with that of the backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.moco import enqueue
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.diffusion import Schedule, UNet, ddim, train_denoiser
from counterpoise.nets.features import evaluation
from counterpoise.nets.growing import growing
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32, normalize_rows, similarity_logsumexp

Pixels = UInt8[Tensor, "batch channels height width"]
Tokens = Float[Tensor, "batch dim rows columns"]
Maps = Float[Tensor, "batch rows columns"]
Levels = Int64[Tensor, " batch"]
Generator = Callable[[Pixels, Levels], Pixels]
Source = Literal["diffusion", "class"]
Host = Literal["simclr", "moco", "moco-v3", "simsiam"]

SHARES = (0.2, 0.4, 0.6, 0.8)  # of foreground: noise level 0, 100, 200 and 300 up to these, 400 above
SAMPLE = 10_000  # images from which the principal direction is computed
PART = 256  # images generated at once
DIM = 64  # width of the small generator's tokens and codes


def project(tokens: Tokens, direction: Float[Tensor, " dim"]) -> Maps:
    r"""Projection of each token onto a direction: $a = t \cdot v$.

    Raises:
        InputError: for mismatched shapes, or NaN.
    """
    _check_tokens(direction, tokens=tokens)
    return _project(tokens, direction)


def _check_tokens(direction: Tensor | None = None, **tokens: Tensor) -> None:
    for name, x in tokens.items():
        if x.ndim != 4 or not x.shape[1:].numel():
            raise InputError(f"{name}: expected [batch, dim, rows, columns], got shape {list(x.shape)}")
        check_finite(name, x)
        if direction is not None and direction.shape != x.shape[1:2]:
            raise InputError(f"direction: expected {x.shape[1]} numbers, got shape {list(direction.shape)}")
    if direction is not None:
        check_finite("direction", direction)


def _project(tokens: Tensor, direction: Tensor) -> Maps:
    return torch.einsum("bdhw,d->bhw", tokens, direction)


def foreground_maps(tokens: Tokens, direction: Float[Tensor, " dim"]) -> tuple[Maps, Maps]:
    r"""Attention maps of the foreground and the background of each image.

    The projections $a = t \cdot v$ of an image's tokens, shifted and scaled to lie from 0 to 1, are the foreground's
    map m; 1 - m is the background's. Each is divided by its sum. If all tokens are equal, they are background.

    Args:
        tokens: of the frozen encoder.
        direction: v, of any length above 0.

    Returns:
        Two maps, each with sum 1 per image; at least float32.

    Raises:
        InputError: for mismatched shapes, or NaN.

    Examples:
        >>> foreground_maps(torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 1, 3), torch.ones(1))
        (tensor([[[0.0000, 0.2500, 0.7500]]]), tensor([[[0.6000, 0.4000, 0.0000]]]))
    """
    _check_tokens(direction, tokens=tokens)
    return _foreground_maps(at_least_float32(tokens), at_least_float32(direction))


def _foreground_maps(tokens: Tensor, direction: Tensor) -> tuple[Maps, Maps]:
    projected = _project(tokens, direction)
    low, high = projected.amin((1, 2), keepdim=True), projected.amax((1, 2), keepdim=True)
    foreground = (projected - low) / (high - low + 1e-7)
    maps = foreground, 1 - foreground
    return maps[0] / (maps[0].sum((1, 2), keepdim=True) + 1e-7), maps[1] / (maps[1].sum((1, 2), keepdim=True) + 1e-7)


def pair_scores(tokens1: Tokens, tokens2: Tokens, direction: Float[Tensor, " dim"]) -> Float[Tensor, " batch"]:
    r"""Quality of each pair of views: $q_f - q_b$, the cosine of their foregrounds minus that of their backgrounds.

    An image's tokens, averaged with its two maps as weights, represent its foreground and its background. Two equal
    views score 0: they agree, and teach nothing.

    Args:
        tokens1: of the first views.
        tokens2: of the second views of the same samples.
        direction: v, see `foreground_maps`.

    Returns:
        Numbers from -2 to 2; no gradient reaches the tokens.

    Raises:
        InputError: for different shapes, or NaN.

    Examples:
        >>> thing, grass, sand = torch.tensor([9.0, 0, 0]), torch.tensor([0, 1.0, 0]), torch.tensor([0, 0, 1.0])
        >>> on_grass, on_sand = (torch.stack([thing, ground], 1)[None, :, None] for ground in (grass, sand))
        >>> round(pair_scores(on_grass, on_sand, torch.tensor([1.0, 0, 0])).item(), 4)
        1.0
    """
    check_same_shape(tokens1=tokens1, tokens2=tokens2)
    _check_tokens(direction, tokens1=tokens1, tokens2=tokens2)
    found = []
    for tokens in (tokens1, tokens2):
        tokens = at_least_float32(tokens.detach())
        maps = _foreground_maps(tokens, direction.detach().to(tokens.dtype))
        found.append([torch.einsum("bhw,bdhw->bd", each, tokens) for each in maps])
    (foreground1, background1), (foreground2, background2) = found
    return F.cosine_similarity(foreground1, foreground2) - F.cosine_similarity(background1, background2)


def quality_weights(scores: Float[Tensor, " batch"], gamma: float = 1.0) -> Float[Tensor, " batch"]:
    r"""The weight of each pair, $w_i = B\, e^{\gamma s_i} / \sum_j e^{\gamma s_j}$ over the batch of all processes.

    Args:
        scores: see `pair_scores`.
        gamma: $\gamma \ge 0$; 0 makes all weights 1.

    Returns:
        Non-negative weights with mean 1 over the batch; at least float32; no gradient reaches the scores.

    Raises:
        InputError: for no score, NaN, or a gamma below 0.

    Examples:
        >>> quality_weights(torch.tensor([0.0, 0.0, 1.0]), gamma=2.0)
        tensor([0.3195, 0.3195, 2.3610])
    """
    check_number("gamma", gamma, at_least=0)
    _check_pairs("scores", scores)
    scaled = gamma * at_least_float32(scores.detach())
    everyone = gather(scaled)
    return len(everyone) * (scaled - everyone.logsumexp(0)).exp()


def weighted_mean(losses: Float[Tensor, " batch"], weights: Float[Tensor, " batch"] | None) -> Float[Tensor, ""]:
    r"""$\frac1B \sum_i w_i l_i$ over the batch of all processes: turns any loss into a quality-driven one.

    Args:
        losses: loss of each pair, both directions together: contrastive, or SimSiam's negative cosine.
        weights: weight of each pair; 1 if not given.

    Raises:
        InputError: for different shapes, no pair, or NaN.

    Examples:
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5]))
        tensor(2.5000)
    """
    _check_pairs("losses", losses)
    if weights is not None:
        check_same_shape(losses=losses, weights=weights)
        check_finite("weights", weights)
        losses = weights.detach() * losses
    return gather(losses).mean()


def nt_xent_pairs(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, " batch"]:
    """SimCLR's loss of each pair, averaged over its two anchors; the mean over pairs is `nt_xent`.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: above 0.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, or a temperature that is not above 0.

    Examples:
        >>> nt_xent_pairs(torch.ones(2, 3), torch.ones(2, 3))  # log 3: one of three
        tensor([1.0986, 1.0986])
    """
    check_number("temperature", temperature, above=0)
    check_same_shape(z1=z1, z2=z2)
    check_matrix("z1", z1)
    check_matrix("z2", z2)
    sample = global_row_indices(z1, "z1", at_least=2)
    z = normalize_rows(torch.cat([z1, z2]))
    itself = torch.cat([2 * sample, 2 * sample + 1])
    others = similarity_logsumexp(z, scale=1 / temperature, exclude=itself, gather_distributed=True)
    z1, z2 = z.chunk(2)
    return others.view(2, -1).mean(0) - (z1 * z2).sum(1) / temperature


def moco_pairs(
    queries: Float[Tensor, "batch dim"],
    keys: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float = 0.2,
) -> Float[Tensor, " batch"]:
    r"""MoCo v2's loss of each pair, $-\log \frac{e^{s_+/T}}{e^{s_+/T} + \sum_k e^{s_k/T}}$; the mean is `queue_nce`.

    Args:
        queries: one row per sample, first view; normalised here, as are the others.
        keys: of the same samples, second view, from the momentum encoder.
        negatives: keys of earlier batches, which all queries share.
        temperature: above 0.

    Raises:
        InputError: for mismatched shapes, no row, NaN, or a temperature that is not above 0.

    Examples:
        >>> moco_pairs(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3))  # log 5: one of five
        tensor([1.6094, 1.6094])
    """
    check_number("temperature", temperature, above=0)
    check_same_shape(queries=queries, keys=keys)
    for name, x in {"queries": queries, "keys": keys, "negatives": negatives}.items():
        check_matrix(name, x)
    if negatives.shape[1] != queries.shape[1]:
        raise InputError(f"negatives: expected {queries.shape[1]} columns, as queries has, got {negatives.shape[1]}")
    queries, keys, negatives = (normalize_rows(x) for x in (queries, keys, negatives))
    negative = similarity_logsumexp(queries, negatives, 1 / temperature)
    return -F.logsigmoid((queries * keys).sum(1) / temperature - negative)


def moco_v3_pairs(
    p1: Float[Tensor, "batch dim"],
    p2: Float[Tensor, "batch dim"],
    k1: Float[Tensor, "batch dim"],
    k2: Float[Tensor, "batch dim"],
    temperature: float = 1.0,
) -> Float[Tensor, " batch"]:
    r"""MoCo v3's loss of each pair: $2T$ times the cross-entropies of either view's prediction and the other's keys.

    The keys of all samples of the batch are candidates, and the own one is the positive. Chen, Xie, He, "An Empirical
    Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.02057, algorithm 1.

    Args:
        p1: predictions, one row per sample, first view; normalised here, as are the others.
        p2: of the same samples, second view.
        k1: keys of the first views, from the momentum encoder.
        k2: keys of the second views.
        temperature: $T > 0$.

    Raises:
        InputError: for different shapes, no row, NaN, or a temperature that is not above 0.

    Examples:
        >>> moco_v3_pairs(*[torch.ones(2, 3)] * 4)  # 4 log 2: twice two of them
        tensor([2.7726, 2.7726])
    """
    check_number("temperature", temperature, above=0)
    p1, p2, k1, k2 = _rows_alike(p1=p1, p2=p2, k1=k1, k2=k2)
    each = (
        similarity_logsumexp(p, k, 1 / temperature, gather_distributed=True) - (p * k).sum(1) / temperature
        for p, k in ((p1, k2), (p2, k1))
    )
    return 2 * temperature * torch.stack(list(each)).sum(0)


def simsiam_pairs(
    p1: Float[Tensor, "batch dim"],
    p2: Float[Tensor, "batch dim"],
    z1: Float[Tensor, "batch dim"],
    z2: Float[Tensor, "batch dim"],
) -> Float[Tensor, " batch"]:
    r"""SimSiam's loss of each pair, $-\frac12 (\cos(p_1, z_2) + \cos(p_2, z_1))$, without a gradient in the $z$.

    Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv 2011.10566, equations 1 to 4.

    Args:
        p1: predictions, one row per sample, first view; normalised here, as are the others.
        p2: of the same samples, second view.
        z1: projections of the first views.
        z2: projections of the second views.

    Returns:
        From -1 to 1.

    Raises:
        InputError: for different shapes, no row, or NaN.

    Examples:
        >>> a, b = torch.eye(2)[:1], torch.eye(2)[1:]
        >>> simsiam_pairs(a, b, a, b), simsiam_pairs(a, b, b, a)
        (tensor([-0.]), tensor([-1.]))
    """
    p1, p2, z1, z2 = _rows_alike(p1=p1, p2=p2, z1=z1.detach(), z2=z2.detach())
    return -((p1 * z2).sum(1) + (p2 * z1).sum(1)) / 2


def _rows_alike(**rows: Tensor) -> list[Tensor]:
    """The rows, normalised, after the check that all are numbers of one shape."""
    check_same_shape(**rows)
    for name, x in rows.items():
        check_matrix(name, x)
    return [normalize_rows(x) for x in rows.values()]


class GenViewLoss(nn.Module):
    """SimCLR's loss with a weight for each pair: `loss(z1, z2, weights)`.

    Args:
        temperature: above 0.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def forward(
        self,
        z1: Float[Tensor, "batch dim"],
        z2: Float[Tensor, "batch dim"],
        weights: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of two views of the same samples; weights are those of `quality_weights`, 1 if not given."""
        return weighted_mean(nt_xent_pairs(z1, z2, self.temperature), weights)


def principal_direction(tokens: Tokens) -> Float[Tensor, " dim"]:
    """The first principal direction of the tokens, a unit vector from background to foreground.

    A principal direction has no sign; here, inner tokens have larger projections on it than those at the border.

    Args:
        tokens: of a sample of images.

    Raises:
        InputError: for a wrong shape, or NaN.
    """
    _check_tokens(tokens=tokens)
    flat = tokens.movedim(1, -1).flatten(0, -2).double()
    centred = flat - flat.mean(0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1].to(tokens.dtype)
    projected = _project(tokens, direction)
    inner = projected[:, 1:-1, 1:-1]
    border = (projected.sum() - inner.sum()) / max(1, projected.numel() - inner.numel())
    return -direction if inner.numel() and inner.mean() < border else direction


def foreground_share(projected: Maps, share: float = 0.4) -> Float[Tensor, " batch"]:
    """The share of foreground among each image's tokens, if `share` of all images' tokens are foreground.

    Args:
        projected: the images' tokens on the principal direction, see `project`; a token is foreground if it lies above
            the quantile 1 - `share` of all tokens.
        share: share of foreground among all tokens, from 0 to 1.

    Raises:
        InputError: for a wrong shape, NaN, or a share out of range.

    Examples:
        >>> foreground_share(torch.tensor([[0.0, 1, 8, 9], [2, 3, 4, 5]]).view(2, 2, 2), share=0.5)
        tensor([0.5000, 0.5000])
    """
    check_number("share", share, at_least=0, at_most=1)
    if projected.ndim != 3 or not projected.numel():
        raise InputError(f"projected: expected [batch, rows, columns], got shape {list(projected.shape)}")
    check_finite("projected", projected)
    projected = at_least_float32(projected)  # NumPy has no bfloat16
    threshold = np.quantile(projected.cpu().numpy(), 1 - share)  # torch.quantile refuses more than 16 million numbers
    return (projected > threshold.item()).sum((1, 2)) / projected[0].numel()


def noise_levels(share: Float[Tensor, " batch"]) -> Levels:
    """Noise level of a variation: 0, 100, 200, 300 or 400 for a share of foreground up to 0.2, 0.4, 0.6, 0.8, 1.

    A small object is lost easily and gets little noise; an object that fills the image tolerates more.

    Args:
        share: of each image, from 0 to 1.

    Raises:
        InputError: for a share out of range.

    Examples:
        >>> noise_levels(torch.tensor([0.0, 0.2, 0.21, 0.5, 1.0]))
        tensor([  0,   0, 100, 200, 400])
    """
    check_values("share", share, at_least=0, at_most=1)
    return 100 * torch.bucketize(share, torch.tensor(SHARES, dtype=share.dtype, device=share.device))


def perturbed(
    codes: Float[Tensor, "batch dim"], levels: Levels, noise: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    r"""unCLIP's noise on the code that conditions the generator: $\sqrt{A_n}\, c + \sqrt{1 - A_n}\, e$ at its level n.

    $A_n$ is the cosine schedule of 1000 steps (Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models",
    ICML 2021, arXiv 2102.09672, equation 17), which unCLIP's pipelines take for image embeddings.

    Args:
        codes: standardised codes.
        levels: noise level of each code, from 0, hardly any noise, to 999.
        noise: standard normal.

    Returns:
        At least float32.

    Raises:
        InputError: for different shapes, NaN, or a level out of range.
    """
    check_same_shape(codes=codes, noise=noise)
    check_matrix("codes", codes, at_least=0)
    check_matrix("noise", noise, at_least=0)
    levels = check_integers("levels", levels, len(codes), low=0, high=1000)
    codes, noise = at_least_float32(codes), at_least_float32(noise)

    def square(step: Tensor) -> Tensor:
        return ((step / 1000 + 0.008) / 1.008 * math.pi / 2).cos() ** 2

    kept = (square((levels + 1).to(codes.dtype)) / math.cos(0.008 / 1.008 * math.pi / 2) ** 2)[:, None]
    return kept.sqrt() * codes + (1 - kept).sqrt() * noise


class TokenEncoder(nn.Sequential):
    """Two convolutions, each of which halves the image: a grid of tokens with small receptive fields.

    Args:
        dim: length of a token, a multiple of 16.

    Examples:
        >>> TokenEncoder(64)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 64, 7, 7])
    """

    def __init__(self, dim: int):
        check_counts(dim=dim)
        if dim % 16:
            raise InputError(f"dim: expected a multiple of 16, got {dim}")
        layers: list[nn.Module] = []
        for before, after in ((3, dim // 2), (dim // 2, dim)):
            layers += [nn.Conv2d(before, after, 3, 2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        super().__init__(*layers)


class SmallUnCLIP(nn.Module):
    """A small generator of variations, trained from scratch: a diffusion model conditioned on an image's code.

    The encoder is trained with it, then frozen: its tokens separate the foreground, as those of CLIP's encoder do for
    unCLIP; a convolution over them, averaged over the image, is the code.

    Args:
        width: channels of the U-Net's first level, an even number.
        dim: length of codes and tokens, a multiple of 16.
        steps: sampling steps of DDIM, from 1 to 1000.

    Raises:
        InputError: for a number out of range.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int = 16, dim: int = DIM, steps: int = 10):
        super().__init__()
        self.steps = steps
        self.schedule = Schedule()
        check_number("steps", steps, at_least=1, at_most=self.schedule.steps, whole=True)
        mean = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.code = nn.Sequential(TokenEncoder(dim), nn.Conv2d(dim, dim, 3, padding=1), *mean)
        self.unet = UNet(3, width, code=dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.requires_grad_(False)

    @property
    def tokens(self) -> nn.Module:
        """The frozen encoder: RGB images in [-1, 1] to their tokens."""
        return self.code[0]

    def fit(self, pixels: Pixels, epochs: int) -> None:
        """Train encoder and diffusion model on all images."""
        train_denoiser(self.unet, self.schedule, pixels, _rgb, epochs, code=self.code)
        codes = torch.cat([self._codes(part) for part in pixels.split(PART)])
        self.mean.copy_(codes.mean(0))
        self.deviation.copy_(codes.std(0, correction=0))

    @torch.no_grad()
    def forward(self, pixels: Pixels, levels: Levels) -> Pixels:
        """One variation of each image, from its code perturbed at its noise level."""
        return torch.cat([self._variations(*part) for part in zip(pixels.split(PART), levels.split(PART), strict=True)])

    def _variations(self, pixels: Pixels, levels: Levels) -> Pixels:
        codes = (self._codes(pixels) - self.mean) / self.deviation.clamp(min=1e-6)
        codes = perturbed(codes, levels.to(codes.device), torch.randn_like(codes))
        codes = self.mean + self.deviation * codes
        start = torch.randn(len(pixels), 3, *pixels.shape[2:], device=codes.device)
        made = ddim(lambda x, t: self.unet(x, t, codes), self.schedule, start, self.steps)
        made = made if pixels.shape[1] == 3 else made.mean(1, keepdim=True)
        return ((made + 1) * 127.5).round().to(torch.uint8).to(pixels.device)

    @torch.no_grad()
    def _codes(self, pixels: Pixels) -> Float[Tensor, "batch dim"]:
        return self.code(_rgb(pixels.to(self.mean.device)))


class StableUnCLIP:
    """Variations by a pipeline of diffusers: `GenView(…, generator=StableUnCLIP())`. Needs a GPU.

    Args:
        pipeline: a `StableUnCLIPImg2ImgPipeline`, or the name or folder of one's weights.
        device: device of a pipeline that is loaded by name.
        steps: sampling steps of the pipeline.
        guidance: scale of the classifier-free guidance by the image.
        batch_size: images at a time.

    Raises:
        MissingExtra: without diffusers, which itself raises if transformers is missing.
        InputError: for a number out of range.
    """

    def __init__(
        self,
        pipeline: Any = "stabilityai/stable-diffusion-2-1-unclip",
        device: str = "cuda",
        steps: int = 20,
        guidance: float = 10.0,
        batch_size: int = 12,
    ):
        check_counts(steps=steps, batch_size=batch_size)
        check_number("guidance", guidance, at_least=0)
        if isinstance(pipeline, str):
            try:
                from diffusers import StableUnCLIPImg2ImgPipeline
            except ModuleNotFoundError as error:
                raise MissingExtra("diffusers", "diffusion") from error
            pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(pipeline, torch_dtype=torch.float16).to(device)
        self.pipeline, self.steps, self.guidance, self.batch_size = pipeline, steps, guidance, batch_size

    def __call__(self, pixels: Pixels, levels: Levels) -> Pixels:
        """One variation of each image, of its size and number of channels."""
        made = torch.empty_like(pixels)
        for level in levels.unique().tolist():  # the pipeline takes one level at a time
            for rows in (levels == level).nonzero().flatten().split(self.batch_size):
                made[rows] = self._variations(pixels[rows], level)
        return made

    def _variations(self, pixels: Pixels, level: int) -> Pixels:
        _, channels, height, width = pixels.shape
        pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in pixels.cpu().expand(-1, 3, -1, -1)]
        made = self.pipeline(
            image=pictures,
            prompt=[""] * len(pictures),
            noise_level=level,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
        ).images
        made = [x.convert("RGB" if channels == 3 else "L").resize((width, height)) for x in made]
        return torch.from_numpy(np.stack([np.asarray(x) for x in made])).view(-1, height, width, channels).movedim(3, 1)


class GenView(Method):
    """A contrastive or siamese method on pairs of an image and its generated variation, each weighted by its quality.

    One variation per image is generated before the first epoch and kept in the checkpoint.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        variations: "diffusion", by a small diffusion model that is first trained on the images; or "class", another
            image of the same class, as an upper bound for a perfect generator (reads labels).
        gamma: at least 0; sharpness of the pairs' weights; 0 makes all weights 1.
        share: share of foreground among all tokens, for the noise levels.
        wrong: share of the pairs that get the variation of another image, to test the weights.
        generator_epochs: passes over the images to train the small diffusion model.
        generator_width: channels of the first level of its U-Net, a multiple of 2.
        temperature: above 0.
        hidden: width of the projection head's hidden layers.
        dim: width of the projection.
        host: whose loss and heads: "simclr"; "moco" (v2), with a queue; "moco-v3", with a predictor, and the batch as
            negatives; or "simsiam", with a predictor and no negatives.
        queue: number of keys that serve as negatives of "moco"; below the number of training images.
        momentum: from 0 to 1; share of the key encoder of "moco" and "moco-v3" that stays at each step.
        generator: generates all variations in place of the small model: (uint8 images, noise levels) to uint8 images,
            such as `StableUnCLIP()`, or `lambda images, levels: ready` for precomputed variations.
        tokens: frozen encoder in place of the small model's: from RGB in [-1, 1] to tokens [batch dim rows columns].
        **recipe: arguments of `Method`.
    """

    variations: Tensor
    direction: Tensor
    wrong_pairs: Tensor
    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        variations: Source = "diffusion",
        gamma: float = 1.0,
        share: float = 0.4,
        wrong: float = 0.0,
        generator_epochs: int = 30,
        generator_width: int = 16,
        temperature: float = 0.1,
        hidden: int = 256,
        dim: int = 64,
        host: Host = "simclr",
        queue: int = 4096,
        momentum: float = 0.99,
        generator: Generator | None = None,
        tokens: nn.Module | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        if variations not in get_args(Source):
            raise unknown("variations", variations, get_args(Source))
        if host not in get_args(Host):
            raise unknown("host", host, get_args(Host))
        check_counts(queue=queue, hidden=hidden, dim=dim)
        check_number("momentum", momentum, at_least=0, at_most=1)
        check_number("temperature", temperature, above=0)
        check_number("gamma", gamma, at_least=0)
        check_number("share", share, at_least=0, at_most=1)
        check_number("wrong", wrong, at_least=0, at_most=1)
        check_number("generator_epochs", generator_epochs, at_least=0, whole=True)
        check_number("generator_width", generator_width, at_least=2, whole=True)
        if generator_width % 2:
            raise InputError(f"generator_width: expected an even number, got {generator_width}")
        check_counts(samples=samples)
        self.gamma, self.share, self.wrong, self.generator_epochs = gamma, share, wrong, generator_epochs
        if generator is not None and variations == "class":
            raise InputError("variations: expected 'diffusion' where a generator is given, got 'class'")
        small = SmallUnCLIP(generator_width)
        self.generated, self.generator = variations == "diffusion", generator
        self.tokens = None if tokens is None else tokens.requires_grad_(False)
        self.small: Any = small if tokens is None or (self.generated and generator is None) else None
        self.host, self.momentum, self.temperature = host, momentum, temperature
        self.head = _head(host, self.features, hidden, dim)
        self.predictor: Any = _predictor(host, hidden, dim)
        moving = host in ("moco", "moco-v3")
        self.key_encoder: Any = momentum_copy(nn.Sequential(self.encoder, self.head)) if moving else None
        self.objective = GenViewLoss(temperature)
        if host == "moco":
            self.register_buffer("queue", normalize_rows(torch.randn(queue, dim)))
            self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("variations", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("direction", torch.zeros(DIM))
        self.register_buffer("wrong_pairs", torch.zeros(samples, dtype=torch.bool))
        growing(self, "variations", "direction")  # their sizes depend on the images

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Before the first epoch, train the models that generate and rate variations; generate one per image."""
        if epoch > 0:
            return
        wrong = torch.randperm(len(images))[: round(self.wrong * len(images))]
        self.wrong_pairs.zero_()[wrong] = True
        partner = torch.arange(len(images))
        partner[wrong] = wrong.roll(1)
        others = _others_of_class(images.labels)  # drawn in any case, so that the same pairs are wrong for every gamma
        if self.generated:
            made = self._generate(images.pixels, self._learn(images.pixels))
        else:
            made = images.pixels[others]
            if self.gamma > 0:
                self._learn(images.pixels)
        self.variations = made[partner].to(self.device)
        if dist.is_available() and dist.is_initialized():
            for found in (*self.parameters(), *self.buffers()):
                dist.broadcast(found.data, 0)  # an accelerator's sums may differ in the last bits

    def _learn(self, pixels: Pixels) -> Levels:
        """Train the small generator, if it is used; compute the foreground's direction and each image's noise level."""
        if self.small is not None:
            self.small.fit(pixels, self.generator_epochs)
        sample = pixels[torch.randperm(len(pixels))[:SAMPLE]]
        self.direction = principal_direction(torch.cat([self._tokens(_rgb(part)) for part in sample.split(PART)]))
        parts = [_project(self._tokens(_rgb(part)), self.direction) for part in pixels.split(PART)]
        return noise_levels(foreground_share(torch.cat(parts), self.share)).cpu()

    def _generate(self, pixels: Pixels, levels: Levels) -> Pixels:
        made = (self.small if self.generator is None else self.generator)(pixels, levels)
        if not isinstance(made, Tensor) or made.dtype != torch.uint8 or made.shape != pixels.shape:
            got = f"{made.dtype} of shape {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise InputError(f"generator: expected uint8 of shape {list(pixels.shape)} from it, got {got}")
        return made

    def views_of(self, pixels: Pixels, labels: Labels, index: Index) -> ImageViews:
        """As in any method, but the second view is taken from the variation; for "moco", at random one of both."""
        views = [self.view(pixels), self.view(self.variations[index])]
        if self.host != "moco":
            return views
        first, second = views
        swap = (torch.rand(len(first), device=first.device) < 0.5).view(-1, 1, 1, 1)
        return [torch.where(swap, second, first), torch.where(swap, first, second)]

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The weighted loss of the projections of two views, one of the image and one of its variation."""
        queries = [self.head(self.encoder(view)) for view in (images[:1] if self.host == "moco" else images)]
        weights = self.weights(*images) if self.gamma > 0 else None
        if self.host == "simclr":
            return self.objective(*queries, weights)
        return weighted_mean(self._losses(queries, images), weights)

    def _losses(self, queries: list[Tensor], images: ImageViews) -> Float[Tensor, " batch"]:
        """The host's loss of each pair; in training mode, updates key encoder and queue."""
        if self.host == "moco":
            (query,), (keys,) = queries, self._keys(images[1:])
            losses = moco_pairs(query, keys, self.queue, self.temperature)
            if self.training:
                self.queue, self.pointer = enqueue(self.queue, keys, self.pointer)
            return losses
        p1, p2 = (self.predictor(query) for query in queries)
        if self.host == "simsiam":
            return simsiam_pairs(p1, p2, *queries)
        k1, k2 = self._keys(images)
        return moco_v3_pairs(p1, p2, k1, k2, self.temperature)

    @torch.no_grad()
    def _keys(self, images: ImageViews) -> list[Float[Tensor, "batch dim"]]:
        """The views' projections by the momentum encoder; in training mode, moves it first."""
        if self.training:
            update_momentum_encoder(nn.Sequential(self.encoder, self.head), self.key_encoder, self.momentum)
        return [self.key_encoder(view) for view in images]

    def weights(
        self, view1: Float[Tensor, "batch channels size size"], view2: Float[Tensor, "batch channels size size"]
    ) -> Float[Tensor, " batch"]:
        """The weight of each pair of views."""
        scores = pair_scores(self._tokens(_three(view1)), self._tokens(_three(view2)), self.direction)
        return quality_weights(scores, self.gamma)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """With wrong pairs: their mean weight, `wrong_weight`, and the others' minus it, `weight_gap`."""
        if self.gamma == 0 or not 0 < self.wrong_pairs.float().mean() < 1:
            return {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            rows = torch.randperm(len(train)).split(PART)
            pairs = [(train.pixels[part].to(self.device), self.variations[part.to(self.device)]) for part in rows]
            weights = torch.cat([self.weights(self.view(image), self.view(made)) for image, made in pairs])
        wrong = self.wrong_pairs[torch.cat(rows).to(self.device)]
        of_right, of_wrong = float(weights[~wrong].mean()), float(weights[wrong].mean())
        return {"wrong_weight": of_wrong, "weight_gap": of_right - of_wrong}

    @torch.no_grad()
    def _tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Tokens:
        encoder = self.small.tokens if self.tokens is None else self.tokens
        with evaluation(encoder):
            return encoder(images.to(self.device))


def _head(host: Host, features: int, hidden: int, dim: int) -> nn.Module:
    """The projection head as its host has it."""
    if host == "moco":
        return mlp(features, hidden, dim, batch_norm=False)
    return mlp(features, hidden, dim, layers=3 if host == "simsiam" else 2, last_norm=host in ("moco-v3", "simsiam"))


def _predictor(host: Host, hidden: int, dim: int) -> nn.Module | None:
    """What predicts one view's projection from the other's: a quarter as wide inside as its output in SimSiam."""
    if host == "simsiam":
        return mlp(dim, max(1, dim // 4), dim)
    return mlp(dim, hidden, dim) if host == "moco-v3" else None


def _check_pairs(name: str, x: Tensor) -> None:
    if x.ndim != 1 or not len(x):
        raise InputError(f"{name}: expected one number for each pair, got shape {list(x.shape)}")
    check_finite(name, x)


def _three(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 height width"]:
    return images.expand(-1, 3, -1, -1)


def _rgb(pixels: Pixels) -> Float[Tensor, "batch 3 height width"]:
    return _three(to_float(pixels))


def _others_of_class(labels: Int64[Tensor, " samples"]) -> Int64[Tensor, " samples"]:
    """For each image a random other one of its class; the image itself if there is none, or no label."""
    chosen = torch.arange(len(labels))
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members))]
        chosen[members] = members.roll(1)
    return chosen
