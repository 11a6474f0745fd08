"""What all methods share: views in, loss out, an encoder to keep, and an optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.errors import Diverged, InputError, NonFinite
from counterpoise.ops.checks import all_finite, check_number

# What `Method.loss` takes: `views` random views of each image; class of each, -1 where it has none; its number.
ImageViews = list[Float[Tensor, "batch channel size size"]]
Labels = Int[Tensor, " batch"]
Index = Int[Tensor, " batch"]
Batch = tuple[Shaped[Tensor, "batch *shape"], Shaped[Tensor, " batch"], Index]  # of regression: rows, and targets


class Method(lightning.LightningModule):
    """A way to train an encoder: a `LightningModule` whose subclass says what the loss of a batch is.

    Args:
        encoder: images [batch, channel, height, width] to features [batch, encoder.features]; what a run keeps.
        augment: uint8 images to one random view each, as float; `None` only scales pixels to [-1, 1].
        optimizer: "adamw", or "sgd" with momentum 0.9.
        lr: peak learning rate; reached after the warm-up, then lowered along a cosine to 0.
        weight_decay: decay of the weights; biases and normalisation parameters are never decayed.
        warmup: share of all steps in which the learning rate rises linearly from 0.
    """

    views: int = 2
    """How many random views of each image the loss takes."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        augment: nn.Module | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup: float = 0.1,
    ):
        super().__init__()
        check_number("lr", lr, above=0)
        check_number("weight_decay", weight_decay, at_least=0)
        check_number("warmup", warmup, at_least=0, at_most=1)
        if not isinstance(getattr(encoder, "features", None), int):
            raise InputError(
                "encoder: expected a module with an attribute `features`, the length of its feature vectors"
            )
        self.encoder = encoder
        self.features: int = encoder.features  # type: ignore[assignment]
        self.augment = augment
        self.optimizer, self.lr, self.weight_decay, self.warmup = optimizer, lr, weight_decay, warmup

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            images: `self.views` random views of the same images.
            labels: class of each image, -1 where it has none; self-supervised methods ignore them.
            index: which training image each row is, for methods that keep a state per image.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, labels, index)")

    def start_epoch(self, images: Any, epoch: int) -> None:
        """What is to be done before an epoch with all images at once, such as clustering them; nothing by default.

        Random numbers drawn here come from the run's seed and the epoch alone. What is found must be kept in buffers
        or parameters, so that a checkpoint holds it. Of several processes, each does the same with all images.

        Args:
            images: the training `Images`, in the order of their index; of regression, `Targets`.
            epoch: from 0.
        """

    def check_images(self, images: Any, batch_size: int, shares: int = 1) -> None:
        """Refuse training images that it cannot learn from, before anything is written; nothing by default.

        Args:
            images: as `start_epoch` takes them.
            batch_size: images a step, of all processes together.
            shares: how many processes divide a batch without seeing each other's rows.
        """

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """How an epoch's images are divided into batches; by default as they come, without a last smaller batch.

        Args:
            order: the indices of all training images, in random order.
            batch_size: images a step, of all processes together.

        Returns:
            The indices of each batch; at most as many batches as by default.
        """
        return order[: len(order) // batch_size * batch_size].view(-1, batch_size).tolist()

    def lr_factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at a step; by default `warmup_cosine`."""
        return warmup_cosine(step, steps, self.warmup)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """What the method itself can tell after training, by name; nothing by default.

        Args:
            train: the training images, in the order of their index.
            probe: labelled images that were held out, to fit a probe on; none where there are no labels.
            test: unseen images, to judge it by.
        """
        return {}

    def training_step(self, batch: Batch, batch_index: int) -> Float[Tensor, ""]:
        pixels, labels, index = batch
        with divergence_named(self):
            loss = self.loss(self.views_of(pixels, labels, index), labels, index)
            if not torch.isfinite(loss):
                raise NonFinite(f"the loss of {type(self).__name__} became {loss.item()}")
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(pixels), sync_dist=True)
        return loss

    def views_of(
        self, pixels: Shaped[Tensor, "batch *shape"], labels: Shaped[Tensor, " batch"], index: Index
    ) -> list[Float[Tensor, "batch ..."]]:
        """What `loss` gets of a batch: by default `views` random views of each image."""
        return [self.view(pixels) for _ in range(self.views)]

    def view(self, pixels: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch ..."]:
        """One random view of each image."""
        return self.augment(pixels) if self.augment is not None else pixels.float() / 127.5 - 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns, divided by what is decayed and what is not, as an optimiser of torch takes it."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def configure_optimizers(self) -> Any:
        groups = self.parameter_groups()
        if self.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextmanager
def divergence_named(module: Any) -> Iterator[None]:
    """Where weights or what they give are no finite numbers any more, that is the error, whatever else came of it.

    Args:
        module: a `LightningModule` with an attribute `lr`.

    Raises:
        Diverged: with the step and the learning rate, in place of the error that this led to.
    """
    try:
        yield
    except Exception as error:
        broken = broken_parameter(module)
        if broken is None and not isinstance(error, NonFinite):
            raise
        raise diverged(module, broken or str(error)) from error


def broken_parameter(module: nn.Module) -> str | None:
    """The first parameter that holds NaN or infinity, in words; `None` where there is none.

    >>> broken_parameter(nn.Linear(2, 2))
    """
    names = (name for name, x in module.named_parameters() if not all_finite(x))
    return next((f"the parameter {name} holds NaN or infinity" for name in names), None)


def diverged(module: Any, reason: str) -> Diverged:
    """The error for training that has left all bounds, with its step and learning rate."""
    optimizers = module.trainer.optimizers if module._trainer else []
    lr = optimizers[0].param_groups[0]["lr"] if optimizers else module.lr
    return Diverged(
        f"training diverged by step {module.global_step}, at a learning rate of {lr:.3g}: {reason}; "
        f"a smaller lr than {module.lr:g} may help"
    )


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, then half a cosine down to 0.

    >>> [round(warmup_cosine(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    rise = warmup * steps
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise))))
