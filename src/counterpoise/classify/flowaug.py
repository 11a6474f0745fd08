"""FlowAug: images with the tone and ground of others, by a flow that separates these from what an image shows.

Chiu, Chen, Ma, "Better May Not Be Fairer: A Study on Subgroup Discrepancy in Image Classification", ICCV 2023, arXiv
2212.08649. A classifier that has seen its classes on few grounds is uneven over grounds. A generative flow gives each
image a short code z of what is global, and nu, the rest, in the image's own shape; the image is trained on with its own
nu and label, and another z. The paper's measure, MacroStd, is `measure.subgroups.macro_std`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.classify.cross_entropy import CrossEntropy
from counterpoise.data.images import fair_sample
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.measure import probe_factors
from counterpoise.nets.features import dtype_of
from counterpoise.nets.flows import Flow, train_flow
from counterpoise.nets.frozen import Frozen
from counterpoise.ops.checks import (
    all_finite,
    check_integers,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)

Mode = Literal["mix", "gaussian", "uniform", "gaussian_local", "noise"]
MODES: tuple[Mode, ...] = get_args(Mode)
Noise = Literal["gaussian", "uniform"]
Codes = Float[Tensor, "batch code"]
Pixels = Float[Tensor, "batch channels height width"]

MULTIPLE = 4  # of which the size of the small flow's images is one
PROBED = 2000  # images by which the codes are read
PROBED_REST = 500  # by which nu is read, which is longer


def exchanged(z: Codes, others: Codes, lam: float | Float[Tensor, " batch"] = 1.0) -> Float[Tensor, "batch code"]:
    r"""Codes on their way to those of other images, $(1 - \lambda) z_i + \lambda z_{\pi(i)}$.

    Args:
        z: codes.
        others: $z_{\pi(i)}$, one for each.
        lam: $\lambda$ from 0 to 1, of all rows or of each; 1 exchanges them.

    Raises:
        InputError: for wrong shapes, NaN, or numbers out of range.

    Examples:
        >>> exchanged(torch.tensor([[0.0], [4.0]]), torch.tensor([[4.0], [0.0]]), lam=0.25)
        tensor([[1.],
                [3.]])
    """
    check_matrix("z", z)
    check_matrix("others", others)
    check_same_shape(z=z, others=others)
    if isinstance(lam, Tensor):
        if lam.shape != z.shape[:1]:
            raise InputError(f"lam: expected one number for each of {len(z)} rows, got shape {list(lam.shape)}")
        check_values("lam", lam, at_least=0, at_most=1)
        lam = lam[:, None]
    else:
        check_number("lam", lam, at_least=0, at_most=1)
    return (1 - lam) * z + lam * others


def noised(
    z: Codes, noise: Codes, deviation: Float[Tensor, " code"], scale: float = 0.5
) -> Float[Tensor, "batch code"]:
    r"""Codes with noise, $z + s\, \sigma \odot \varepsilon$.

    Args:
        z: codes.
        noise: $\varepsilon$, of a normal distribution, or evenly from -1 to 1.
        deviation: $\sigma$ of each of their numbers over the training images, at least 0.
        scale: $s$, at least 0.

    Raises:
        InputError: for wrong shapes, NaN, or numbers out of range.

    Examples:
        >>> noised(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, -0.5]]), torch.tensor([2.0, 0.0]))
        tensor([[1.5000, 1.0000]])
    """
    check_matrix("z", z)
    check_matrix("noise", noise)
    check_same_shape(z=z, noise=noise)
    if deviation.shape != z.shape[1:]:
        raise InputError(f"deviation: expected {z.shape[1]} numbers, got shape {list(deviation.shape)}")
    check_values("deviation", deviation, at_least=0)
    check_number("scale", scale, at_least=0)
    return z + scale * deviation * noise


def partners(labels: Integer[Tensor, " batch"], generator: torch.Generator | None = None) -> Int64[Tensor, " batch"]:
    """A random permutation of a batch within each class; images without a label stay where they are.

    Args:
        labels: class of each image, -1 where it has none.
        generator: on the device of the labels; `None` takes the global one.

    Raises:
        InputError: for what is no vector of integers of at least -1.

    Examples:
        >>> partners(torch.tensor([0, 1, -1, -1]))
        tensor([0, 1, 2, 3])
    """
    labels = check_integers("labels", labels, rows=labels.numel(), low=-1)
    order = torch.arange(len(labels), device=labels.device)
    # Those of one class stand together in both orders, so that each goes to a place of its own class.
    drawn = torch.randperm(len(labels), generator=generator, device=labels.device)
    order[labels.argsort(stable=True)] = drawn[labels[drawn].argsort(stable=True)]
    return torch.where(labels >= 0, order, torch.arange(len(labels), device=labels.device))


class FlowAug(nn.Module):
    r"""Some images of a batch anew: $x' = f^{-1}(\nu; z')$, of their own nu and another z. Labels stay theirs.

    Shape, type and range are kept. No gradient reaches the flow or the images. Where $z' = z$, $x' = x$ up to rounding.

    Args:
        flow: a `Flow`, or what has its `encode` and `decode` for images in [-1, 1]; a module is frozen.
        mode: how z' comes about. "mix": of another image of the batch. "gaussian", "uniform": z with noise.
            "gaussian_local": z stays, and nu gets normal noise, for contrast. "noise", a control: no flow changes the
            image, but normal noise on its pixels, as far from it as "mix" would be.
        lam: of "mix": how far z goes to the other's, from 0 to 1; `None` draws it for each image. The paper's figure
            shows 1.
        scale: of the noise, in standard deviations of z over the training images, as the flow has them in `deviation`,
            or else over the batch; of nu in its own units.
        p: the probability that an image is changed at all.
        same_class: of "mix": only images of the same class exchange theirs, and images without a label stay.

    Raises:
        InputError: for a flow that lacks these, an unknown mode, or numbers out of range.

    Examples:
        >>> flow, images = Flow((3, 8, 8)), torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        >>> torch.equal(FlowAug(flow, p=0.0)(images), images), FlowAug(flow, p=1.0)(images).dtype
        (True, torch.uint8)
    """

    def __init__(
        self,
        flow: Any,
        mode: Mode = "mix",
        lam: float | None = 1.0,
        scale: float = 0.5,
        p: float = 0.5,
        same_class: bool = False,
    ):
        super().__init__()
        if not callable(getattr(flow, "encode", None)) or not callable(getattr(flow, "decode", None)):
            raise InputError(f"flow: expected an object with encode(x) and decode(nu, z), got {type(flow).__name__}")
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if lam is not None:
            check_number("lam", lam, at_least=0, at_most=1)
        check_number("scale", scale, at_least=0)
        check_number("p", p, at_least=0, at_most=1)
        if not isinstance(same_class, bool):
            raise InputError(f"same_class: expected True or False, got {same_class!r}")
        self.flow = Frozen(flow, stored=True) if isinstance(flow, nn.Module) else flow
        self.mode, self.lam, self.scale, self.p, self.same_class = mode, lam, scale, p, same_class

    @torch.no_grad()
    def forward(
        self,
        images: Shaped[Tensor, "batch channels height width"],
        labels: Integer[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Shaped[Tensor, "batch channels height width"]:
        """The images, some of them changed.

        Args:
            images: uint8, or floating-point in [-1, 1].
            labels: their classes, which only `same_class` needs; -1 where there is none.
            generator: on the images' device; `None` takes the global one.

        Raises:
            InputError: for other images, or without labels where they are needed.
        """
        if images.ndim != 4:
            raise InputError(f"images: expected [batch, channels, height, width], got shape {list(images.shape)}")
        if images.dtype != torch.uint8:
            check_values("images", images, at_least=-1, at_most=1)
        order = self._order(images, labels, generator)
        rows = (torch.rand(len(images), generator=generator, device=images.device) < self.p).nonzero().flatten()
        if not len(rows):
            return images
        x = to_float(images) if images.dtype == torch.uint8 else images
        if isinstance(self.flow, Frozen):
            x = x.to(dtype_of(self.flow))  # the flow has a precision of its own
        made = self._made(x, rows, order, generator).clamp(-1, 1)
        if not all_finite(made):
            raise InputError("flow: its images hold NaN")
        if images.dtype == torch.uint8:
            made = ((made + 1) * 127.5).round()
        return images.index_copy(0, rows, made.to(images.dtype))

    def _order(self, images: Tensor, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Of each image the one whose code it gets."""
        if not self.same_class:
            return torch.randperm(len(images), generator=generator, device=images.device)
        if labels is None:
            raise InputError("labels: same_class needs them, got none")
        return partners(check_integers("labels", labels, rows=len(images), low=-1), generator)

    def _made(self, x: Pixels, rows: Tensor, order: Tensor, generator: torch.Generator | None) -> Tensor:
        """Images of some rows by the mode."""
        own = x[rows]
        z, nu = self.flow.encode(own)
        if self.mode in ("mix", "noise"):
            lam: Any = self.lam
            if lam is None:
                lam = torch.rand(len(z), generator=generator, device=z.device, dtype=z.dtype)
            made = self.flow.decode(nu, exchanged(z, self._codes(x[order[rows]]), lam))
            return made if self.mode == "mix" else _as_far(own, made.clamp(-1, 1), generator)
        if self.mode == "gaussian_local":
            return self.flow.decode(nu + self.scale * _drawn(nu, "gaussian", generator), z)
        deviation = getattr(self.flow, "deviation", None)
        deviation = z.std(0, correction=0) if deviation is None else deviation.to(z)
        noise = _drawn(z, "gaussian" if self.mode == "gaussian" else "uniform", generator)
        return self.flow.decode(nu, noised(z, noise, deviation, self.scale))

    def _codes(self, x: Pixels) -> Codes:
        """z alone, by the shorter way where the flow has one."""
        return self.flow.codes(x) if hasattr(self.flow, "codes") else self.flow.encode(x)[0]


class FlowAugmented(CrossEntropy):
    """Cross-entropy on images that FlowAug changes before their random views.

    A small flow is trained on the training images before the first epoch, those without a label among them. Of one seed
    and network it is the same in every mode.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        shape: of the images: channels, height and width.
        mode: how z' comes about: "mix", "gaussian", "uniform", "gaussian_local" or "noise"; see `FlowAug`.
        lam: of "mix": how far z goes to the other's, from 0 to 1; none draws it for each image.
        scale: of the noise, in standard deviations.
        p: the probability that an image is changed at all.
        same_class: of "mix": only images of the same class exchange theirs.
        flow_epochs: passes over the images to train the small flow.
        flow_width: channels within its couplings.
        flow_couplings: at each of its two scales.
        flow_code: numbers in z.
        flow_lr: its peak learning rate.
        flow: in place of the small one, with `encode` and `decode` for images of -1 to 1; it is not trained.
        **recipe: arguments of `CrossEntropy`, such as `mixup`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        shape: list[int],
        mode: Mode = "mix",
        lam: float | None = 1.0,
        scale: float = 0.5,
        p: float = 0.5,
        same_class: bool = False,
        flow_epochs: int = 5,
        flow_width: int = 64,
        flow_couplings: int = 4,
        flow_code: int = 16,
        flow_lr: float = 3e-3,
        flow: Any = None,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        if len(shape) != 3:
            raise InputError(f"data: FlowAug is for images, got items of shape {list(shape)}")
        check_number("flow_epochs", flow_epochs, at_least=0, whole=True)
        check_number("flow_lr", flow_lr, above=0)
        self.flow_epochs, self.flow_lr = flow_epochs, flow_lr
        channels, *size = shape
        self.size, self.own = size, flow is None
        self.padded = [-(-side // MULTIPLE) * MULTIPLE if self.own else side for side in size]
        given: Any = flow
        if flow is None:
            given = Flow((channels, *self.padded), flow_code, flow_width, couplings=flow_couplings)
        self.augmentation = FlowAug(given, mode, lam, scale, p, same_class)

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Before the first epoch, train the small flow, if it is used."""
        super().start_epoch(data, epoch)
        if epoch > 0 or not self.own:
            return
        flow: Any = self.augmentation.flow.module
        train_flow(flow, data.pixels, self._input, self.flow_epochs, lr=self.flow_lr)
        if dist.is_available() and dist.is_initialized():
            for found in flow.state_dict().values():
                dist.broadcast(found, 0)  # an accelerator's sums may differ in the last bits

    def views_of(self, pixels: Shaped[Tensor, "batch *shape"], labels: Labels, index: Index) -> InputViews:
        """As in any classifier, of images that FlowAug has changed."""
        height, width = self.size
        changed = self.augmentation(_enlarged(pixels, self.padded), labels)
        return super().views_of(changed[:, :, :height, :width], labels, index)

    @torch.no_grad()
    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """What a linear probe reads off z, and of the class off nu.

        `code NAME`: the accuracy, on test images, for the class and each known factor. z should hold the ground, and
        little more of the class than chance does: else images whose z is exchanged no longer show their label. `rest
        class`: the same off nu, averaged over squares of two pixels.
        """
        parts = [images.subset(fair_sample(images.labels, PROBED)) for images in (train, test)]
        found = [self._encoded(images.pixels) for images in parts]
        known = [{"class": images.labels, **images.factors} for images in parts]
        shared = [{name: values for name, values in one.items() if name in known[1]} for one in known]
        codes = probe_factors(found[0][0], shared[0], found[1][0], {name: known[1][name] for name in shared[0]})
        some = fair_sample(parts[0].labels, PROBED_REST)
        labels = parts[0].labels[some], parts[1].labels
        rest = probe_factors(found[0][1][some], {"class": labels[0]}, found[1][1], {"class": labels[1]})
        return {f"code {name}": value for name, value in codes.items()} | {
            f"rest {name}": value for name, value in rest.items()
        }

    def _encoded(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """z and nu of images, the second as rows."""
        pairs = [self.augmentation.flow.encode(self._input(part.to(self.device))) for part in pixels.split(PROBED // 4)]
        z, nu = (torch.cat(found).float().cpu() for found in zip(*pairs, strict=True))
        return z, F.avg_pool2d(nu, 2).flatten(1)

    def _input(self, pixels: Tensor) -> Pixels:
        """What the flow gets of uint8 images."""
        return to_float(_enlarged(pixels, self.padded)).to(self.dtype)


def _enlarged(pixels: Tensor, size: list[int]) -> Tensor:
    """Images whose last row and column are repeated, so that the flow can halve them."""
    if list(pixels.shape[2:]) == size:
        return pixels
    rows, columns = (
        torch.arange(to, device=pixels.device).clamp(max=have - 1)
        for to, have in zip(size, pixels.shape[2:], strict=True)
    )
    return pixels[:, :, rows][:, :, :, columns]


def _as_far(x: Pixels, made: Pixels, generator: torch.Generator | None) -> Pixels:
    """Images with normal noise of the length by which others differ from them."""
    noise = _drawn(x, "gaussian", generator)
    far, length = ((each.flatten(1).norm(dim=1)) for each in (made - x, noise))
    return x + noise * (far / length)[:, None, None, None]


def _drawn(like: Tensor, how: Noise, generator: torch.Generator | None) -> Tensor:
    """Noise of the shape of something."""
    if how == "gaussian":
        return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype) * 2 - 1
