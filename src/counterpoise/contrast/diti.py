"""DiTi: features in blocks, each of which restores what a frozen diffusion model has lost up to one noise level.

Yue, Wang, Sun, Ji, Chang, Zhang, "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
arXiv 2401.11430. It builds on Zhang, Zhao, Lin, "Unsupervised Representation Learning from Pre-trained Diffusion
Probabilistic Models" (PDAE), NeurIPS 2022, arXiv 2212.12990, the special case of one block.

Noise erases the small attributes of an image first and the large ones last. A diffusion model that knows nothing of the
image fails to restore exactly those that are lost at its step. An encoder may help it with the blocks of its code up to
that of the step, so the blocks from step t on must encode what is lost from step t on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Integer, UInt8
from scipy.stats import spearmanr
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.measure import linear_probe, stratified_split
from counterpoise.nets import embed
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.diffusion import Pixels, Schedule, Steps, UNet, Up, ddim, train_denoiser
from counterpoise.nets.features import evaluation
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import (
    all_finite,
    check_counts,
    check_finite,
    check_integers,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32, normalize_rows

Mode = Literal["base", "stop_grad", "dual", "pdae"]
GAMMA = 0.1  # of the loss's weights, as in PDAE


def residual_loss(
    noise: Float[Tensor, "batch *shape"],
    predicted: Float[Tensor, "batch *shape"],
    residual: Float[Tensor, "batch *shape"],
    shift: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    r"""The error of the frozen model's noise prediction after its correction, for each image.

    $w_t \operatorname{mean} (e - \hat e - s_t g)^2$, the mean being over the image.

    Args:
        noise: $e$, the noise added to each image.
        predicted: $\hat e$, the frozen model's prediction of it.
        residual: $g$, the correction.
        shift: $s_t$ of each image's step.
        weight: $w_t$ of each image's step.

    Raises:
        InputError: for mismatched shapes, images of no pixel, or NaN.

    Examples:
        >>> one, weight = torch.ones(1, 2), torch.tensor([2.0])
        >>> residual_loss(noise=one, predicted=0 * one, residual=one, shift=-weight / 4, weight=weight)
        tensor([4.5000])
    """
    _check_images(noise=noise, predicted=predicted, residual=residual)
    for name, x in {"shift": shift, "weight": weight}.items():
        if x.shape != noise.shape[:1]:
            raise InputError(f"{name}: expected one for each of the {len(noise)} images, got shape {list(x.shape)}")
        check_finite(name, x)
    return _residual_loss(noise, predicted, residual, shift, weight)


def _residual_loss(
    noise: Tensor, predicted: Tensor, residual: Tensor, shift: Tensor, weight: Tensor
) -> Float[Tensor, " batch"]:
    each = (-1, *[1] * (noise.ndim - 1))
    left = noise - predicted - shift.view(each) * residual
    losses = weight * left.square().flatten(1).mean(1)
    if not all_finite(losses):
        raise InputError("noise, predicted and residual: expected smaller numbers, whose squares are finite")
    return losses


def shifts(schedule: Schedule) -> Float[Tensor, " steps"]:
    r"""$s_t = -\sqrt{a_t} (1 - A_{t-1}) / \sqrt{1 - A_t}$: from 0 at the first step to about -1 at the last.

    In the schedule's precision.

    Examples:
        >>> shifts(Schedule())[[1, 999]]
        tensor([-0.0067, -0.9899])
    """
    before = torch.cat([torch.ones(1).double(), schedule.kept[:-1]])
    return -(schedule.alpha.sqrt() * (1 - before) / (1 - schedule.kept).sqrt()).to(schedule.signal.dtype)


def weights(schedule: Schedule) -> Float[Tensor, " steps"]:
    r"""$w_t = r^{0.1} / (1 + r)$ with the signal-to-noise ratio $r = A_t / (1 - A_t)$: small at the first steps.

    In the schedule's precision.

    Examples:
        >>> weights(Schedule())[:1]
        tensor([0.0003])
    """
    ratio = schedule.kept / (1 - schedule.kept)
    return (ratio**GAMMA / (1 + ratio)).to(schedule.signal.dtype)


class DiTiLoss(ExactConstants):
    """The residual loss of a batch, mean over the images: `loss(noise, predicted, residual, time_index)`.

    Args:
        steps: number of diffusion steps; their betas run from 0.0001 to 0.02.

    Examples:
        >>> loss, e = DiTiLoss(), torch.ones(2, 3)
        >>> loss(e, predicted=e, residual=0 * e, time_index=torch.tensor([0, 999]))
        tensor(0.)
    """

    shift: Tensor
    weight: Tensor

    def __init__(self, steps: int = 1000):
        super().__init__()
        schedule = Schedule(steps).double()
        self.register_exact("shift", shifts(schedule), persistent=False)
        self.register_exact("weight", weights(schedule), persistent=False)

    def forward(
        self,
        noise: Float[Tensor, "batch *shape"],
        predicted: Float[Tensor, "batch *shape"],
        residual: Float[Tensor, "batch *shape"],
        time_index: Integer[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        r"""See `residual_loss`.

        Args:
            noise: the noise added to each image.
            predicted: the frozen model's prediction of it.
            residual: the correction $g$.
            time_index: the step of each image, from 0.

        Raises:
            InputError: for different shapes, images of no pixel, NaN, or a step out of range.
        """
        _check_images(noise=noise, predicted=predicted, residual=residual)
        time_index = check_integers("time_index", time_index, len(noise), low=0, high=len(self.shift))
        global_row_indices(noise, "noise", at_least=1)
        dtype = torch.promote_types(noise.dtype, torch.float32)
        noise, predicted, residual = (x.to(dtype) for x in (noise, predicted, residual))
        shift, weight = (x.to(dtype)[time_index] for x in (self.shift, self.weight))
        return gather(_residual_loss(noise, predicted, residual, shift, weight)).mean()


def _check_images(**images: Tensor) -> None:
    check_same_shape(**images)
    for name, x in images.items():
        if not x.ndim or (len(x) and not x.numel()):
            raise InputError(f"{name}: expected [batch, *shape] with at least 1 number an image, got {list(x.shape)}")
        check_finite(name, x)


def attribute_loss(distance: Float[Tensor, "*pairs"], kept: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    r"""How often an optimal classifier confuses two images under noise (the Bayes error).

    $\frac12 \operatorname{erfc}\big(\sqrt{A_t}\, d / \sqrt{8 (1 - A_t)}\big)$, the Bayes error between two Gaussians.
    It rises with the step and falls with the distance: small attributes are lost first.

    Args:
        distance: $d$, the Euclidean distance of the two images.
        kept: $A_t$, between 0 and 1.

    Returns:
        From 0 to 1/2; at least float32.

    Raises:
        InputError: for different shapes, or numbers out of range.

    Examples:
        >>> attribute_loss(torch.tensor([0.1, 10.0, 10.0]), torch.tensor([0.5, 0.5, 1e-6]))
        tensor([4.8006e-01, 2.8665e-07, 4.9801e-01])
    """
    check_same_shape(distance=distance, kept=kept)
    check_values("distance", distance, at_least=0)
    check_values("kept", kept, above=0, at_most=1)
    if (kept == 1).any():
        raise InputError("kept: expected numbers below 1, got 1")
    distance, kept = (at_least_float32(x) for x in (distance, kept))
    return 0.5 * torch.erfc((kept / (8 * (1 - kept))).sqrt() * distance)


class TimeBlocks(nn.Module):
    """Divides a code into consecutive blocks, one for each range of steps, and masks those that a step may not see.

    Args:
        dim: numbers in a code.
        blocks: number of blocks; each covers the same number of steps.
        steps: number of steps.
        stages: where the steps of several stages end, the last at `steps`. A block belongs to the stage of its first
            step. None: all blocks have one size, up to rounding.
        stage_dims: numbers that each stage divides among its blocks; the last block gets the remainder.

    Raises:
        InputError: if a block would have no step or no number, or the numbers do not add up to `dim`.

    Examples:
        >>> TimeBlocks(dim=6, blocks=3).seen(torch.tensor([0, 500, 999]))
        tensor([[1., 1., 0., 0., 0., 0.],
                [1., 1., 1., 1., 0., 0.],
                [1., 1., 1., 1., 1., 1.]])
    """

    ends: Tensor

    def __init__(
        self,
        dim: int,
        blocks: int,
        steps: int = 1000,
        stages: Sequence[int] | None = None,
        stage_dims: Sequence[int] | None = None,
    ):
        super().__init__()
        check_counts(dim=dim, steps=steps)
        check_number("blocks", blocks, at_least=1, at_most=min(dim, steps), whole=True)
        self.dim, self.blocks, self.steps = dim, blocks, steps
        if stages is None:
            ends = [dim * (block + 1) // blocks for block in range(blocks)]
        else:
            ends = _unequal_ends(dim, blocks, steps, stages, stage_dims or [])
        self.register_buffer("ends", torch.tensor(ends), persistent=False)

    def at(self, t: Steps) -> Steps:
        """The block of each step.

        Raises:
            InputError: for a step out of range.
        """
        return check_integers("t", t, t.numel(), low=0, high=self.steps) * self.blocks // self.steps

    def seen(self, t: Steps) -> Float[Tensor, "batch {self.dim}"]:
        """Mask: 1 for the numbers of all blocks up to that of the step, 0 for the others."""
        return self._below(self.ends[self.at(t)])

    def earlier(self, t: Steps) -> Float[Tensor, "batch {self.dim}"]:
        """Mask: 1 for the numbers of the blocks before that of the step, 0 for the others."""
        return self._below(nn.functional.pad(self.ends, (1, 0))[self.at(t)])

    def _below(self, end: Integer[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        return (torch.arange(self.dim, device=end.device) < end[:, None]).float()

    def of_numbers(self) -> Integer[Tensor, " dim"]:
        """The block of each number of a code.

        Examples:
            >>> TimeBlocks(dim=5, blocks=2).of_numbers()
            tensor([0, 0, 1, 1, 1])
        """
        return torch.searchsorted(self.ends, torch.arange(self.dim, device=self.ends.device), right=True)

    def forward(self, z: Float[Tensor, "batch dim"], t: Steps, mode: Mode = "base") -> list[Tensor]:
        """The codes, masked to what is shown at each step.

        Args:
            z: codes.
            t: their steps.
            mode: "base" shows all blocks up to that of the step; "stop_grad" the same, but only the step's own block
                gets a gradient; "dual" returns both, whose losses are to be added; "pdae" shows the whole code.

        Returns:
            One tensor of the shape of `z`, two for "dual".

        Raises:
            InputError: for an unknown mode, codes of another shape, NaN, or a step out of range.
        """
        if mode not in get_args(Mode):
            raise unknown("mode", mode, get_args(Mode))
        check_matrix("z", z, at_least=0)
        if z.shape[1] != self.dim:
            raise InputError(f"z: expected codes of {self.dim} numbers, got shape {list(z.shape)}")
        t = check_integers("t", t, len(z), low=0, high=self.steps)
        if mode == "pdae":
            return [z]
        seen, earlier = (shown.to(z.dtype) for shown in (self.seen(t), self.earlier(t)))
        base = z * seen
        own = z.detach() * earlier + z * (seen - earlier)
        return {"base": [base], "stop_grad": [own], "dual": [base, own]}[mode]


def _unequal_ends(dim: int, blocks: int, steps: int, stages: Sequence[int], dims: Sequence[int]) -> list[int]:
    for name, values in {"stages": stages, "stage_dims": dims}.items():
        for value in values:
            check_number(name, value, whole=True)
    if [*stages] != sorted({*stages}) or [*stages][-1:] != [steps] or stages[0] < 1:
        raise InputError(f"stages: expected ascending ends of which the last is {steps}, got {[*stages]}")
    if len(dims) != len(stages) or sum(dims) != dim:
        raise InputError(f"stage_dims: expected {len(stages)} numbers with the sum {dim}, got {[*dims]}")
    first_steps = [-(-block * steps // blocks) for block in range(blocks)]
    ends: list[int] = []
    for (start, end), own in zip(pairwise((0, *stages)), dims, strict=True):
        count = sum(start <= step < end for step in first_steps)
        if count == 0 or own < count:
            raise InputError(f"stage_dims: expected at least 1 for each block of a stage, got {own} for {count} blocks")
        before = ends[-1] if ends else 0
        ends += [before + own // count * (i + 1) for i in range(count - 1)] + [before + own]
    return ends


class ResidualDecoder(nn.Module):
    """A frozen U-Net, and a second upsampling path beside its own, which sees the code and starts at 0.

    Both start from the outputs of the frozen downsampling path. The code does not pass through the frozen part, which
    therefore needs no backward pass.

    Args:
        net: predicts the noise without access to the image.
        dim: numbers in a code.
    """

    def __init__(self, net: UNet, dim: int):
        super().__init__()
        check_counts(dim=dim)
        self.net = net.requires_grad_(False)
        self.up = Up(net.channels, net.width, dim)

    def forward(
        self, x: Pixels, t: Steps, code: Float[Tensor, "batch dim"], up: nn.Module | None = None
    ) -> tuple[Pixels, Pixels]:
        r"""The predicted noise $\hat e$, and the residual $g$; `up` computes it in place of the decoder's own path."""
        with torch.no_grad():
            time = self.net.embed(t)
            seen = self.net.down(x, time)
            predicted = self.net.up(seen, time)
        return predicted, (self.up if up is None else up)(seen, time, code)


class Coder(nn.Sequential):
    """A backbone and a linear layer: images to codes."""

    def __init__(self, backbone: nn.Module, features: int, dim: int):
        check_counts(features=features, dim=dim)
        super().__init__(backbone, nn.Linear(features, dim))
        self.features = dim


class DiTi(Method):
    """Pretraining by correcting a frozen diffusion model, block by block; features from small to large attributes.

    A small diffusion model is trained on the images before the first epoch. The paper's views are flips alone
    (`augmentations = "flip"`): the code must encode whatever a view shows.

    Args:
        encoder: images to features; a linear layer follows it. Its attribute `channels` is that of the images, 1 if it
            has none.
        dim: numbers in a code, the features that a run keeps.
        blocks: number of blocks in a code.
        mode: "base" shows all blocks up to that of the step; in "stop_grad" only the step's own block gets a gradient;
            "dual" adds both losses; "pdae" is the baseline, which shows the whole code at every step.
        stages: steps where stages of unequal blocks end, the last being 1000; none for equal blocks.
        stage_dims: numbers of the code that each stage divides among its blocks.
        diffusion_epochs: passes over the images to train the diffusion model.
        width: channels of the diffusion model's largest level, an even number.
        average: decay, from 0 to below 1, of the moving average of the weights of encoder and residual, which is then
            what a run keeps; 0 keeps the trained weights. The paper's 0.9999 is for 300,000 steps; 0.99 suits hundreds.
        **recipe: arguments of `Method`.
    """

    views = 1
    draws: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        dim: int = 128,
        blocks: int = 16,
        mode: Mode = "base",
        stages: tuple[int, ...] | None = None,
        stage_dims: tuple[int, ...] | None = None,
        diffusion_epochs: int = 10,
        width: int = 16,
        average: float = 0.0,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(dim=dim, width=width)
        check_number("diffusion_epochs", diffusion_epochs, at_least=0, whole=True)
        check_number("average", average, at_least=0, below=1)
        if mode not in get_args(Mode):
            raise unknown("mode", mode, get_args(Mode))
        self.mode, self.diffusion_epochs, self.average = mode, diffusion_epochs, average
        self.encoder = Coder(self.encoder, self.features, dim)
        self.features = dim
        self.schedule = Schedule()
        self.blocks = TimeBlocks(dim, blocks, self.schedule.steps, stages, stage_dims)
        self.decoder = ResidualDecoder(UNet(getattr(encoder, "channels", 1), width), dim)
        self.objective = DiTiLoss(self.schedule.steps)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.trained: nn.ModuleDict | None = None
        if average:  # encoder and residual are averages, of these
            self.trained = nn.ModuleDict({"encoder": self.encoder, "up": self.decoder.up})
            self.encoder, self.decoder.up = momentum_copy(self.encoder), momentum_copy(self.decoder.up)

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Before the first epoch, train the diffusion model; then choose the epoch's random numbers."""
        if epoch == 0:
            train_denoiser(self.decoder.net, self.schedule, images.pixels, self.view, self.diffusion_epochs)
        self.draws.fill_(int(torch.randint(1 << 62, ())))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The residual loss of the view at random steps; in mode "dual" the sum of two."""
        (x,) = images
        encoder, up = (self.encoder, self.decoder.up) if self.trained is None else self.trained.values()
        z = encoder(x)
        t, noise = self.draw(x)
        noised = self.schedule.noised(x, t, noise)
        return torch.stack(
            [self.objective(noise, *self.decoder(noised, t, code, up), t) for code in self.blocks(z, t, self.mode)]
        ).sum()

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """A step of the optimiser, and then one of the moving averages, if there are any."""
        super().optimizer_step(*arguments, **named)
        if self.trained is not None:
            update_momentum_encoder(self.trained["encoder"], self.encoder, self.average, buffers="copy")
            update_momentum_encoder(self.trained["up"], self.decoder.up, self.average, buffers="copy")

    def draw(self, x: Pixels) -> tuple[Steps, Pixels]:
        """Steps and noise of a batch, from the state: all processes draw the same, and each takes its own rows."""
        row = global_row_indices(x)
        rows = len(gather(row))
        generator = torch.Generator(x.device).manual_seed(int(self.draws))
        t = torch.randint(self.schedule.steps, (rows,), generator=generator, device=x.device)
        noise = torch.randn(rows, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
        if self.training:
            self.draws += 1
        return t[row], noise[row]

    def predict(self, z: Float[Tensor, "batch dim"], whole: bool = False) -> Callable[[Pixels, Steps], Pixels]:
        r"""The corrected noise as sampling uses it, $\hat e - \sqrt{1 - A_t}\, g$, as a function of $x_t$ and t.

        Training uses the coefficient $s_t$; the two nearly agree except at the first steps. `whole` shows all blocks of
        the code at every step.
        """

        def predict(x: Pixels, t: Steps) -> Pixels:
            code = z if whole or self.mode == "pdae" else z * self.blocks.seen(t).to(z.dtype)
            predicted, residual = self.decoder(x, t, code)
            return predicted - self.schedule.sigma[t].view(-1, 1, 1, 1) * residual

        return predict

    @torch.no_grad()
    def interpolate(
        self, x: Pixels, y: Pixels, share: float = 1.0, first: int = 0, last: int | None = None, steps: int = 100
    ) -> Pixels:
        """Images `x` with some blocks interpolated towards those of `y`: counterfactuals that change single attributes.

        Encoder and decoder run in evaluation mode, so that no image depends on the others.

        Args:
            x: images, in [-1, 1].
            y: target images.
            share: interpolation weight: 0 gives `x` as it is decoded, 1 exchanges the blocks.
            first: the first block that changes.
            last: the block after the last one that changes; None changes all from `first` on.
            steps: of the decoding; encoding visits all.

        Returns:
            Images in [-1, 1].

        Raises:
            InputError: for different shapes, NaN, or numbers out of range.
        """
        check_same_shape(x=x, y=y)
        check_finite("x", x)
        check_finite("y", y)
        check_number("share", share, at_least=0, at_most=1)
        last = self.blocks.blocks if last is None else last
        check_number("last", last, at_least=0, at_most=self.blocks.blocks, whole=True)
        check_number("first", first, at_least=0, at_most=last, whole=True)
        check_number("steps", steps, at_least=1, at_most=self.schedule.steps, whole=True)
        with evaluation(self):
            return self._interpolated(x, y, share, first, last, steps)

    def _interpolated(self, x: Pixels, y: Pixels, share: float, first: int, last: int, steps: int) -> Pixels:
        own, other = self.encoder(x), self.encoder(y)
        start, goal = (
            ddim(self.predict(z), self.schedule, images, self.schedule.steps, backwards=True)
            for z, images in ((own, x), (other, y))
        )
        block = self.blocks.of_numbers()
        z = own + share * (other - own) * ((first <= block) & (block < last))
        return ddim(self.predict(z), self.schedule, slerp(start, goal, share), steps).clamp(-1, 1)

    def attribute(self, images: Images, values: Integer[Tensor, " images"]) -> Float[Tensor, " dim"]:
        """How a code changes towards an attribute of images, for `manipulate`; see `attribute_direction`.

        The classifier is a logistic regression on standardised codes, its penalty chosen on a quarter of the images.

        Args:
            images: labelled ones.
            values: 1 for images that have the attribute, 0 for those that do not; -1 leaves an image out.

        Raises:
            InputError: for values that are none of these, or do not occur both.
        """
        values = check_integers("values", values, len(images), low=-1, high=2)
        if len(values[values >= 0].unique()) < 2:
            raise InputError("values: expected images with the attribute, 1, and images without it, 0")
        codes = embed(self.encoder, images, to_float)
        fitted, valid = stratified_split(values, 0.75, torch.Generator().manual_seed(0))
        probe = linear_probe(codes[fitted], values[fitted], codes[valid], values[valid], 2)
        return attribute_direction(probe.weight[1] - probe.weight[0], probe.scale)

    @torch.no_grad()
    def manipulate(
        self,
        x: Pixels,
        direction: Float[Tensor, " dim"],
        scale: float = 0.3,
        steps: int = 100,
        whole: bool = False,
    ) -> Pixels:
        """Images `x` with codes moved along a direction: the same images with more, or less, of an attribute.

        Their noise is that from which their own codes decode them. Encoder and decoder run in evaluation mode.

        Args:
            x: images, in [-1, 1].
            direction: what is added to each code at scale 1; see `attribute` and `attribute_direction`.
            scale: how far, in either direction; the authors show -1 to 1.
            steps: of the decoding; encoding visits all.
            whole: show all blocks of the code at every step, as the authors' code does here, in place of those up to
                the step's.

        Returns:
            Images in [-1, 1]; at scale 0, `x` as it is decoded.

        Raises:
            InputError: for another shape, NaN, or numbers out of range.
        """
        check_finite("x", x)
        check_finite("direction", direction)
        if direction.shape != (self.features,):
            raise InputError(f"direction: expected {self.features} numbers, got shape {list(direction.shape)}")
        check_number("scale", scale)
        check_number("steps", steps, at_least=1, at_most=self.schedule.steps, whole=True)
        with evaluation(self):
            z = self.encoder(x)
            noise = ddim(self.predict(z, whole), self.schedule, x, self.schedule.steps, backwards=True)
            moved = z + scale * direction.to(z)
            return ddim(self.predict(moved, whole), self.schedule, noise, steps).clamp(-1, 1)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """How the blocks divide the known factors of the images; empty if none is known.

        `block NAME`: mean position of the weight of a linear probe of this factor, from 0 (the first block) to 1.
        `modularity`: the share of this weight in the best quarter of the blocks, mean over the factors.
        `ordering`: Spearman's correlation of `block NAME` and the factors' sizes (see `factor_size`).
        """
        factors = {name: values for name, values in probe.factors.items() if len(values[values >= 0].unique()) > 1}
        if not factors:
            return {}
        codes, blocks = embed(self.encoder, probe, to_float), self.blocks.blocks
        masses = torch.stack([self.probe_mass(codes, values) for values in factors.values()])
        places = masses @ torch.linspace(0, 1, blocks, dtype=torch.float64)
        found = {f"block {name}": place for name, place in zip(factors, places.tolist(), strict=True)}
        found["modularity"] = float(masses.topk(max(1, blocks // 4)).values.sum(1).mean())
        if len(factors) > 2 and len(places.unique()) > 1:
            sizes = [factor_size(probe.pixels, values) for values in factors.values()]
            found["ordering"] = float(spearmanr(sizes, places.tolist()).statistic)
        return found

    def probe_mass(self, codes: Float[Tensor, "n dim"], values: Integer[Tensor, " n"]) -> Float[Tensor, " blocks"]:
        """The share of each block in the absolute weights of a linear probe on standardised codes."""
        fitted, valid = stratified_split(values, 0.75, torch.Generator().manual_seed(0))
        classes = 1 + int(values.max())
        probe = linear_probe(codes[fitted], values[fitted], codes[valid], values[valid], classes)
        weight = probe.weight.abs().sum(0).double()
        mass = torch.zeros(self.blocks.blocks, dtype=torch.float64)
        return mass.index_add(0, self.blocks.of_numbers().cpu(), weight / weight.sum())


def attribute_direction(
    weight: Float[Tensor, " dim"], deviation: Float[Tensor, " dim"] | None = None
) -> Float[Tensor, " dim"]:
    r"""How a code changes at scale 1 towards what a linear classifier calls an attribute.

    $\sqrt d\, \sigma \odot w / \lVert w \rVert$: along the classifier's weight among standardised codes, by as much as
    their typical length, and back to the scale of codes.

    Args:
        weight: $w$, of a linear classifier on standardised codes; 0 for numbers that are to stay as they are.
        deviation: $\sigma$, by which each number of the codes was divided, at least 0; 1 if not given.

    Returns:
        At least float32.

    Raises:
        InputError: for different shapes, numbers out of range, or a weight of zeros, which has no direction.

    Examples:
        >>> attribute_direction(torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 1.0, 1.0]))
        tensor([1.2000, 3.2000, 0.0000, 0.0000])
    """
    if weight.ndim != 1:
        raise InputError(f"weight: expected a vector, got shape {list(weight.shape)}")
    check_finite("weight", weight)
    if not weight.any():
        raise InputError("weight: expected a direction, got zeros")
    found = len(weight) ** 0.5 * normalize_rows(weight)
    if deviation is None:
        return found
    check_same_shape(weight=weight, deviation=deviation)
    check_values("deviation", deviation, at_least=0)
    found = found * deviation
    if not all_finite(found):
        raise InputError("deviation: expected smaller numbers, got some whose product with the direction is infinite")
    return found


def slerp(a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"], share: float) -> Tensor:
    """Spherical interpolation from `a` to `b`, for each row: keeps the norm of interpolated noise.

    Args:
        a: one row per sample.
        b: the same shape.
        share: interpolation weight, from 0 to 1.

    Raises:
        InputError: for different shapes, NaN, or a share out of range.

    Examples:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    check_number("share", share, at_least=0, at_most=1)
    check_same_shape(a=a, b=b)
    if a.ndim < 2:
        raise InputError(f"a and b: expected [batch, *shape], got shape {list(a.shape)}")
    check_finite("a", a)
    check_finite("b", b)
    dtype = torch.promote_types(a.dtype, torch.float32)  # half precision cannot represent small angles
    return _slerp(a.to(dtype), b.to(dtype), share).to(a.dtype)


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    cosine = nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-4).view(-1, *[1] * (a.ndim - 1))
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def factor_size(pixels: UInt8[Tensor, "images channels height width"], values: Integer[Tensor, " images"]) -> float:
    """How much a factor changes an image: the mean distance to the nearest image with another value.

    This distance decides at which noise level the factor is lost; see `attribute_loss`.

    Args:
        pixels: the images; distances are those of pixels from -1 to 1.
        values: value of the factor in each image; -1 leaves an image out.

    Raises:
        InputError: for values that are not integers, below -1, or all the same.

    Examples:
        >>> pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
        >>> round(factor_size(pixels, torch.tensor([0, 0, 1])), 6)  # (2 + 1.6 + 1.6) / 3
        1.733333
    """
    values = check_integers("values", values, len(pixels), low=-1)
    if len(values[values >= 0].unique()) < 2:
        raise InputError("values: expected at least 2 different ones, or no image has another value")
    x = pixels.flatten(1).float() / 127.5
    of_each = [
        nearest(x[values == v], x[(values != v) & (values >= 0)], 1, "euclidean")[0]
        for v in values[values >= 0].unique()
    ]
    return float(torch.cat(of_each).mean())
