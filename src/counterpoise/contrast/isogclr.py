"""iSogCLR: every training sample learns its own temperature, and small batches do not bias the loss.

Qiu, Hu, Yuan, Zhou, Zhang, Yang, "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with
Automatic Temperature Individualization", ICML 2023, arXiv 2305.11965.

For anchor i and a negative z let h be the similarity of i and z, minus that of i and its positive. The loss of i is the
largest weighted mean of h over all weightings of the negatives within a KL divergence rho of uniform. The temperature
is the Lagrange multiplier of that constraint: samples with many similar ones get a large temperature, rare ones a small
one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Integer, Shaped
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import Dataset

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.data import Images
from counterpoise.data.views import to_input
from counterpoise.errors import InputError
from counterpoise.learners.learner import Learner
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.constants import ExactConstants
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
from counterpoise.ops.similarity import normalize_rows, similarity_softmax


def robust_objective(
    log_mean: Float[Tensor, "*anchors"], tau: Float[Tensor, "*anchors"], rho: float
) -> Float[Tensor, "*anchors"]:
    r"""The dual of the robust loss: $F(\tau) = \tau \log \operatorname{mean}_z e^{h(z)/\tau} + \tau \rho$.

    Convex in the temperature.

    Args:
        log_mean: $\log \operatorname{mean}_z e^{h(z)/\tau}$ of each anchor.
        tau: $\tau > 0$, its temperature.
        rho: $\rho \ge 0$, largest KL divergence in nats of the negatives' weights from uniform.

    Raises:
        InputError: for different shapes, NaN, or numbers out of range.

    Examples:
        >>> robust_objective(torch.tensor([1.0]), torch.tensor([0.5]), rho=0.4)
        tensor([0.7000])
    """
    _check_anchors(tau, rho, log_mean=log_mean)
    return tau * (log_mean + rho)


def temperature_gradient(
    log_mean: Float[Tensor, "*anchors"], mean: Float[Tensor, "*anchors"], tau: Float[Tensor, "*anchors"], rho: float
) -> Float[Tensor, "*anchors"]:
    r"""Derivative of `robust_objective` in $\tau$: $\rho - KL(p \| \text{uniform})$ with $p \propto e^{h/\tau}$.

    Args:
        log_mean: $\log \operatorname{mean}_z e^{h(z)/\tau}$ of each anchor.
        mean: $\sum_z p_z h(z)$ of each anchor.
        tau: $\tau > 0$, its temperature.
        rho: $\rho \ge 0$ in nats.

    Raises:
        InputError: for different shapes, NaN, or numbers out of range.

    Examples:
        >>> temperature_gradient(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.5]), rho=0.4)  # uniform: rho
        tensor([0.4000])
    """
    _check_anchors(tau, rho, log_mean=log_mean, mean=mean)
    return log_mean + rho - mean / tau


def _check_anchors(tau: Tensor, rho: float, **means: Tensor) -> None:
    check_number("rho", rho, at_least=0)
    check_same_shape(**means, tau=tau)
    for name, x in means.items():
        check_finite(name, x)
    check_values("tau", tau, above=0)


class SampleTemperatures(ExactConstants):
    r"""iSogCLR's state per sample: temperature, its smoothed gradient, and the smoothed mean over negatives.

    The batch gives $g_i$, the mean of $e^{h/\tau_i}$ over its negatives, and
    $s_i \leftarrow (1-\gamma) s_i + \gamma g_i$ estimates it over the whole training set. The state holds $\log s_i$,
    which cannot overflow at any temperature; it is $-\infty$ for a sample not yet seen.

    Args:
        samples: number of samples.
        rho: KL radius in nats; larger values make temperatures smaller, and a value above the log of the number of
            negatives drives all of them to `tau_min`.
        gamma: weight of the batch in s, above 0, at most 1.
        eta: step size of the temperatures; 0 keeps them fixed, which is SogCLR.
        beta: weight of the batch in the temperatures' smoothed gradient, above 0, at most 1.
        tau: initial temperature.
        tau_min: least temperature, above 0.
        tau_max: largest temperature.
        clip: bound on the temperatures' gradients, above 0.
        first: whether a sample's first visit sets s = g; otherwise s starts at 0, as in the authors' code.

    Attributes:
        tau: temperature of each sample.
        u: smoothed gradient of each temperature.
        log_s: log of each sample's s.
    """

    tau: Tensor
    u: Tensor
    log_s: Tensor

    def __init__(
        self,
        samples: int,
        rho: float,
        gamma: float,
        eta: float,
        beta: float,
        tau: float,
        tau_min: float,
        tau_max: float,
        clip: float,
        first: bool = True,
    ):
        super().__init__()
        check_counts(samples=samples)
        check_number("rho", rho, at_least=0)
        check_number("gamma", gamma, above=0, at_most=1)
        check_number("eta", eta, at_least=0)
        check_number("beta", beta, above=0, at_most=1)
        check_number("tau_min", tau_min, above=0)
        check_number("tau_max", tau_max, at_least=tau_min)
        check_number("tau", tau, at_least=tau_min, at_most=tau_max)
        check_number("clip", clip, above=0)
        self.samples, self.rho, self.gamma, self.eta, self.beta = samples, rho, gamma, eta, beta
        self.tau_min, self.tau_max, self.clip, self.first = tau_min, tau_max, clip, first
        self.register_exact("tau", torch.tensor(tau, dtype=torch.float64).expand(samples))
        self.register_buffer("u", torch.zeros(samples))
        self.register_buffer("log_s", torch.full((samples,), -math.inf))

    @property
    def s(self) -> Float[Tensor, " samples"]:
        """The smoothed mean over the negatives; 0 for samples not yet seen."""
        return self.log_s.exp()

    def lookup(self, name: str, index: Integer[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Check the index of a batch; return its temperatures.

        Raises:
            InputError: for an index that is out of range or repeated; `name` is its name in the message.
        """
        index = check_integers(name, index, index.numel(), low=0, high=self.samples)
        numbers, counts = index.unique(return_counts=True)
        if len(numbers) < len(index):
            worst = counts.argmax()
            raise InputError(f"{name}: sample {int(numbers[worst])} occurs {int(counts[worst])} times in one batch")
        if self.tau.dtype in (torch.float16, torch.bfloat16):
            raise InputError(f"the temperatures were cast to {self.tau.dtype}: use mixed precision instead")
        return self.tau[index]

    def forward(
        self,
        index: Integer[Tensor, " batch"],
        log_g: Float[Tensor, "views batch"],
        mean: Float[Tensor, "views batch"],
        restart: bool = False,
    ) -> tuple[Float[Tensor, "views batch"], Float[Tensor, "views batch"]]:
        r"""Update the state, in training mode, and return what the loss needs.

        The first result is $\log s^{old} + \frac1\gamma \log\big((1-\gamma) + \gamma g / s^{old}\big)$. It is at least
        $\log g$, and equal to $\log g$ if $\gamma$ is 1, s is g, or the sample is new. Its gradient is that of the
        paper's surrogate, $\nabla g / s$ with s held fixed.

        Args:
            index: the sample of each column.
            log_g: log of the batch's mean over the negatives, with gradient; one row per anchor of the sample.
            mean: mean of h under the softmax of h/tau.
            restart: set s = g also for samples already seen.

        Returns:
            The smoothed log-mean, with gradient, and g/s, without.
        """
        old, tau = (state[index].to(log_g.dtype) for state in (self.log_s, self.tau))
        new_sample = torch.isneginf(old)
        take_batch = new_sample & self.first | restart
        rate = torch.full_like(old, self.gamma).masked_fill(take_batch, 1.0)
        log_s = torch.logaddexp(torch.log1p(-rate) + old, rate.log() + log_g)
        start = torch.where(new_sample, log_s.detach(), old)
        smoothed = start + (log_s - start) / rate

        log_s = log_s.detach()
        ratio = (log_g.detach() - log_s).exp()
        if self.training:
            gradient = temperature_gradient(log_s, ratio * mean.detach(), tau.expand_as(log_s), self.rho).mean(0)
            u = torch.lerp(self.u[index].to(tau.dtype), gradient.clamp(-self.clip, self.clip), self.beta)
            self.u[index] = u.to(self.u.dtype)
            self.tau[index] = (tau - self.eta * u).clamp(self.tau_min, self.tau_max).to(self.tau.dtype)
            self.log_s[index] = (log_s.logsumexp(0) - math.log(len(log_s))).to(self.log_s.dtype)
        return smoothed, ratio


class ISogCLRLoss(nn.Module):
    r"""iSogCLR for two views of images: `loss(z1, z2, index)`.

    Each view of a sample is an anchor; all views of the other samples are its negatives, 2B-2 of them. The value is the
    mean over the batch of the sum over both anchors of $\tau_i \log \bar g_i + \tau_i \rho - p_i$, with the positive's
    similarity $p$ and the smoothed mean $\bar g$ of `SampleTemperatures.forward`; its gradient with respect to the
    embeddings is the paper's. Only calls in training mode update the state.

    Args:
        samples: number of training samples; `index` counts them from 0.
        rho: KL radius in nats; the authors search from 0.1 to 0.5.
        gamma: weight of the batch in the running mean over negatives, above 0, at most 1.
        eta: step size of the temperatures; 0 keeps them fixed, which is SogCLR.
        beta: weight of the batch in the temperatures' smoothed gradient, above 0, at most 1.
        tau: initial temperature.
        tau_min: least temperature, above 0.
        tau_max: largest temperature.
        reference: reproduce the authors' code: running means start at 0, and the value is the surrogate's.

    Examples:
        >>> loss = ISogCLRLoss(samples=2, rho=0.0, tau=0.5)
        >>> z = torch.eye(2)
        >>> loss(z, z, torch.tensor([0, 1]))  # each anchor: 0.5 * log(mean of e^0) - 1
        tensor(-2.)
    """

    def __init__(
        self,
        samples: int,
        rho: float = 0.4,
        gamma: float = 0.8,
        eta: float = 0.03,
        beta: float = 0.5,
        tau: float = 0.1,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        reference: bool = False,
    ):
        super().__init__()
        self.reference = reference
        self.state = SampleTemperatures(
            samples, rho, gamma, eta, beta, tau, tau_min, tau_max, clip=3.0, first=not reference
        )

    def forward(
        self,
        z1: Float[Tensor, "batch dim"],
        z2: Float[Tensor, "batch dim"],
        index: Integer[Tensor, " batch"],
        epoch: int = 1,
    ) -> Float[Tensor, ""]:
        """The loss; may be negative, and is not comparable between steps while temperatures change.

        Args:
            z1: one row per sample, first view; normalised here.
            z2: the same samples, second view.
            index: number of each sample, without repeats.
            epoch: with `reference`, epoch 0 uses only the batch's mean; the authors' script counts from 1. Unused
                otherwise, since every sample's first visit does so.

        Raises:
            InputError: for different shapes, fewer than 2 samples, NaN, an index out of range or repeated, and an
                invalid epoch.
        """
        check_same_shape(z1=z1, z2=z2)
        check_matrix("z1", z1)
        check_matrix("z2", z2)
        index = check_integers("index", index, len(z1))
        check_number("epoch", epoch, at_least=0, whole=True)
        sample, index = global_row_indices(z1, "z1", at_least=2), gather(index)
        tau = self.state.lookup("index", index)
        z1, z2 = normalize_rows(z1), normalize_rows(z2)
        z, own_tau = torch.cat([z1, z2]), tau.to(z1.dtype)[sample]
        moments = similarity_softmax(z, scale=1 / own_tau.repeat(2), exclude=sample.repeat(2), gather_distributed=True)
        log_sum, mean = (gather(x.view(2, -1).T).T for x in (moments.logsumexp, moments.mean.detach()))
        positive, log_g = gather((z1 * z2).sum(1)), log_sum - math.log(2 * len(index) - 2)
        smoothed, ratio = self.state(index, log_g, mean, restart=self.reference and epoch == 0)
        value = robust_objective(smoothed, tau.to(z.dtype).expand_as(smoothed), self.state.rho) - positive
        if self.reference:
            value = _with_value(value, ratio * mean - positive.detach())
        return value.sum(0).mean()


class ISogCLRPairLoss(nn.Module):
    r"""iSogCLR for images and texts: `loss(image, text, image_index, text_index)`.

    Each image is an anchor among the texts of the batch, and each text among the images, all with separate
    temperatures. The value is the mean over the batch of the sum over both of $\tau_i \log \bar g_i + \tau_i \rho$,
    where $\bar g$ is the smoothed mean (see `SampleTemperatures.forward`) of $e^{h/\tau_i}$ over the B-1 negatives.

    Args:
        images: number of training images; `image_index` counts them from 0.
        texts: number of training texts; `text_index` counts them from 0.
        rho: KL radius in nats; keep it below the log of the batch's number of negatives, or all temperatures fall to
            `tau_min`.
        gamma: weight of the batch in the running mean over negatives, above 0, at most 1.
        eta: step size of the temperatures; 0 keeps them fixed, which is SogCLR.
        beta: weight of the batch in the temperatures' smoothed gradient, above 0, at most 1.
        tau: initial temperature.
        tau_min: least temperature, above 0.
        tau_max: largest temperature.
        reference: reproduce the authors' code: the positive counts among the negatives, running means start at 0, and
            the value is the surrogate's.

    Examples:
        >>> loss = ISogCLRPairLoss(images=2, texts=2, rho=0.0, tau=0.5)
        >>> z, index = torch.eye(2), torch.tensor([0, 1])
        >>> loss(z, z, index, index)  # each anchor: its only negative is less similar than its positive by 1
        tensor(-2.)
    """

    def __init__(
        self,
        images: int,
        texts: int,
        rho: float = 6.0,
        gamma: float = 0.8,
        eta: float = 0.03,
        beta: float = 0.9,
        tau: float = 0.01,
        tau_min: float = 0.005,
        tau_max: float = 1.0,
        reference: bool = False,
    ):
        super().__init__()
        check_counts(images=images, texts=texts)
        self.reference = reference
        self.images, self.texts = (
            SampleTemperatures(samples, rho, gamma, eta, beta, tau, tau_min, tau_max, clip=5.0, first=not reference)
            for samples in (images, texts)
        )

    def forward(
        self,
        image: Float[Tensor, "batch dim"],
        text: Float[Tensor, "batch dim"],
        image_index: Integer[Tensor, " batch"],
        text_index: Integer[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The loss; may be negative, and is not comparable between steps while temperatures change.

        Args:
            image: one row per pair; normalised here.
            text: the texts of the same pairs.
            image_index: number of each image, without repeats.
            text_index: number of each text, without repeats.

        Raises:
            InputError: for different shapes, fewer than 2 pairs, NaN, and an index out of range or repeated.
        """
        check_same_shape(image=image, text=text)
        check_matrix("image", image)
        check_matrix("text", text)
        image_index = check_integers("image_index", image_index, len(image))
        text_index = check_integers("text_index", text_index, len(text))
        row, image_index, text_index = (
            global_row_indices(image, "image", at_least=2),
            gather(image_index),
            gather(text_index),
        )
        tau_image = self.images.lookup("image_index", image_index)
        tau_text = self.texts.lookup("text_index", text_index)
        image, text = normalize_rows(image), normalize_rows(text)
        images = self._side(self.images, image, text, row, image_index, tau_image)
        return images + self._side(self.texts, text, image, row, text_index, tau_text)

    def _side(
        self, state: SampleTemperatures, anchors: Tensor, others: Tensor, row: Tensor, index: Tensor, tau: Tensor
    ) -> Float[Tensor, ""]:
        tau = tau.to(anchors.dtype)
        rule = None if self.reference else (row, row)
        moments = similarity_softmax(anchors, others, 1 / tau[row], exclude=rule, gather_distributed=True)
        positive = (anchors * others).sum(1)
        log_g = gather(moments.logsumexp - positive / tau[row]) - math.log(len(index) - 1)
        mean = gather((moments.mean - positive).detach())
        smoothed, ratio = state(index, log_g[None], mean[None])
        value = robust_objective(smoothed[0], tau, state.rho)
        if self.reference:
            value = _with_value(value, ratio[0] * mean)
        return value.mean()


class ISogCLR(ProjectedMethod):
    """Contrastive pretraining without labels, with an individual temperature for every image.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        rho: KL radius in nats; larger values make temperatures smaller.
        gamma: weight of the batch in the running mean over negatives, above 0, at most 1.
        eta: step size of the temperatures; 0 keeps them fixed, which is SogCLR.
        beta: weight of the batch in the temperatures' smoothed gradient, above 0, at most 1.
        tau: initial temperature.
        tau_min: least temperature, above 0.
        tau_max: largest temperature.
        reference: as the authors' code: running means start at 0, and the loss that is shown is a surrogate's.
        **recipe: arguments of `ProjectedMethod`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        rho: float = 0.4,
        gamma: float = 0.8,
        eta: float = 0.03,
        beta: float = 0.5,
        tau: float = 0.1,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        reference: bool = False,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        self.objective = ISogCLRLoss(samples, rho, gamma, eta, beta, tau, tau_min, tau_max, reference)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """iSogCLR of the projections of both views."""
        z1, z2 = self.projections(images)
        return self.objective(z1, z2, index)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`temperature_correlation`: Spearman's correlation of the classes' sizes and their mean temperatures.

        Empty where it is undefined: for classes of equal size, and for temperatures that never changed.
        """
        labels = train.labels
        tau = self.objective.state.tau.cpu().double()[labels >= 0]
        classes, member, sizes = labels[labels >= 0].unique(return_inverse=True, return_counts=True)
        if len(sizes.unique()) < 2 or len(tau.unique()) < 2:
            return {}
        means = torch.zeros(len(classes), dtype=tau.dtype).index_add_(0, member, tau) / sizes
        return {"temperature_correlation": float(spearmanr(sizes, means).statistic)}


class CaptionedImages(Dataset):
    """Images with one text or more each, as `ISogCLRPairs` trains on: a batch has a random text of each of its images.

    Args:
        images: uint8 pixels, or other inputs of the image encoder.
        texts: inputs of the text encoder, such as token numbers or the vectors of a frozen encoder.
        owner: the image of each text, from 0; every image has at least one.

    Raises:
        InputError: for no image, an owner that is out of range, and an image without a text.

    Examples:
        >>> data = CaptionedImages(torch.zeros(2, 1, 8, 8), torch.eye(3), owner=torch.tensor([1, 0, 1]))
        >>> images, texts, image_index, text_index = data.__getitems__([0])
        >>> len(data), text_index.tolist(), texts.tolist()
        (2, [1], [[0.0, 1.0, 0.0]])
    """

    def __init__(
        self,
        images: Shaped[Tensor, "images ..."],
        texts: Shaped[Tensor, "texts ..."],
        owner: Integer[Tensor, " texts"],
    ):
        check_counts(images=len(images))
        owner = check_integers("owner", owner, len(texts), low=0, high=len(images))
        self.images, self.texts, self.counts = images, texts, owner.bincount(minlength=len(images))
        if len(without := (self.counts == 0).nonzero()):
            raise InputError(f"owner: expected a text for each of the {len(images)} images, {int(without[0])} has none")
        self.by_image = owner.argsort(stable=True)
        self.first = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The images, a text of each, and the numbers of both."""
        image = torch.as_tensor(indices)
        nth = (torch.rand(len(image), dtype=torch.float64) * self.counts[image]).long()
        text = self.by_image[self.first[image] + nth]
        return self.images[image], self.texts[text], image, text


class ISogCLRPairs(Learner):
    """iSogCLR on pairs of images and texts: both are embedded in one space, by two encoders and a linear layer on each.

    Train it by `training.trainer.fit` on `CaptionedImages`, or by Lightning on batches as `loss` takes them.

    Args:
        image_encoder: images to features [batch, image_encoder.features].
        text_encoder: texts, as the data has them, to features [batch, text_encoder.features].
        images: number of training images.
        texts: number of training texts.
        dim: width of the common embedding.
        rho: KL radius in nats; keep it below the log of the batch's number of negatives, or all temperatures fall to
            `tau_min`.
        gamma: weight of the batch in the running mean over negatives, above 0, at most 1.
        eta: step size of the temperatures; 0 keeps them fixed, which is SogCLR.
        beta: weight of the batch in the temperatures' smoothed gradient, above 0, at most 1.
        tau: initial temperature.
        tau_min: least temperature, above 0.
        tau_max: largest temperature.
        reference: as the authors' code: the positive counts among the negatives, running means start at 0, and the loss
            that is shown is a surrogate's.
        augment: uint8 images to one random view each; `None` only scales pixels to [-1, 1].
        **recipe: arguments of `Learner`.

    Attributes:
        net: what embeds images, `net["image"]`, and texts, `net["text"]`; compare by cosine.
        objective: its `images` and `texts` hold the temperatures.
    """

    net: nn.ModuleDict

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        images: int,
        texts: int,
        dim: int = 256,
        rho: float = 6.0,
        gamma: float = 0.8,
        eta: float = 0.03,
        beta: float = 0.9,
        tau: float = 0.01,
        tau_min: float = 0.005,
        tau_max: float = 1.0,
        reference: bool = False,
        augment: nn.Module | None = None,
        **recipe: Any,
    ):
        super().__init__(**recipe)
        check_counts(dim=dim)
        self.augment = augment
        self.net = nn.ModuleDict(
            {
                "image": _embedding("image_encoder", image_encoder, dim),
                "text": _embedding("text_encoder", text_encoder, dim),
            }
        )
        self.objective = ISogCLRPairLoss(images, texts, rho, gamma, eta, beta, tau, tau_min, tau_max, reference)

    def loss(
        self,
        images: Shaped[Tensor, "batch ..."],
        texts: Shaped[Tensor, "batch ..."],
        image_index: Integer[Tensor, " batch"],
        text_index: Integer[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """iSogCLR of the embeddings of a batch of pairs, in which no image and no text occurs twice."""
        view = to_input(images) if self.augment is None else self.augment(images)
        return self.objective(self.net["image"](view), self.net["text"](texts), image_index, text_index)


def _embedding(name: str, encoder: nn.Module, dim: int) -> nn.Sequential:
    features = getattr(encoder, "features", None)
    if not isinstance(features, int):
        raise InputError(f"{name}: expected a module with an attribute `features`, the length of its feature vectors")
    return nn.Sequential(encoder, nn.Linear(features, dim))


def _with_value(gradient: Tensor, value: Tensor) -> Tensor:
    return gradient - gradient.detach() + value
