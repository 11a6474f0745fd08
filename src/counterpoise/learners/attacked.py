"""What classifiers share that train on attacked images: how far an attack goes, for how long, and in which mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.parts import Labelled
from counterpoise.errors import InputError
from counterpoise.learners.classifier import Classifier
from counterpoise.nets.features import evaluation
from counterpoise.ops.attacks import PIXEL_RANGE, pgd
from counterpoise.ops.checks import check_number, check_values

Score = Callable[[Float[Tensor, "batch classes"]], Float[Tensor, " batch"]]


def attack(
    method: Classifier,
    images: Float[Tensor, "batch ..."],
    score: Score,
    radius: float,
    steps: int,
    step: float,
    start: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """Images near these that raise a score of their logits, found by `pgd` with the network in evaluation mode.

    Args:
        method: whose logits.
        images: in [-1, 1].
        score: logits to one number an image.
        radius: as a share of the range of pixels, above 0 and at most 1.
        steps: of the attack, at least 1.
        step: length of a step as a share of the radius, above 0.
        start: as of `pgd`.

    Raises:
        InputError: for images or numbers out of range, or NaN.
    """
    check_values("images", images, at_least=-1, at_most=1)
    check_number("radius", radius, above=0, at_most=1)
    check_number("steps", steps, at_least=1, whole=True)
    check_number("step", step, above=0)
    near = PIXEL_RANGE * radius
    with evaluation(method):
        return pgd(lambda x: score(method.logits(x)), images, near, steps, step * near, start=start)[0]


def check_pixels(method: Classifier, data: Labelled) -> None:
    """Refuse rows of numbers, of which a radius as a share of a range says nothing.

    Raises:
        InputError: naming what they lack.
    """
    if data.items == "rows":
        raise InputError(
            f"data: the radius of {type(method).__name__} is a share of the range of values, which all pixels have in "
            "common and the columns of rows have not; expected images, got rows of numbers"
        )


class AttackedClassifier(Classifier):
    """A classifier that meets attacked images while it trains; a subclass defines the loss and what an attack raises.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        radius: above 0, at most 1; how far an attack may move each pixel, as a share of the range of pixels.
        attack_steps: steps of the attack in training, at least 1; each costs a forward and a backward pass.
        attack_step: length of a step as a share of the radius, above 0.
        **recipe: arguments of `Classifier`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        radius: float = 0.1,
        attack_steps: int = 10,
        attack_step: float = 0.25,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_number("radius", radius, above=0, at_most=1)
        check_number("attack_steps", attack_steps, at_least=1, whole=True)
        check_number("attack_step", attack_step, above=0)
        self.radius, self.attack_steps, self.attack_step = radius, attack_steps, attack_step

    def attack(
        self,
        images: Float[Tensor, "batch ..."],
        score: Score,
        start: Float[Tensor, "batch ..."] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """`attack` by the arguments of this method."""
        return attack(self, images, score, self.radius, self.attack_steps, self.attack_step, start)

    def check_data(self, images: Labelled, batch_size: int, shares: int = 1) -> None:
        """As any classifier; and refuse rows of numbers, whose columns have no range in common."""
        super().check_data(images, batch_size, shares)
        check_pixels(self, images)
