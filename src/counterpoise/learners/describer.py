"""Methods that name images by descriptions of classes, so that classes without a training image can be named, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.views import to_input
from counterpoise.errors import InputError
from counterpoise.learners.method import Method
from counterpoise.nets import embed
from counterpoise.nets.frozen import Frozen


class Describer(Method):
    """A method that compares images with the names of classes, in the space of two towers.

    A subclass may correct the scores (`scores`), and may judge otherwise how far an image is from every class that
    training has seen (`doubt`).

    Args:
        towers: a `nets.towers.Towers`; its rows of images are the features, and it is what a run keeps.
        **recipe: arguments of `Method`.

    Examples:
        >>> from counterpoise.nets.towers import Towers
        >>> encoder = nn.Flatten()
        >>> encoder.features = 4
        >>> Describer(Towers(encoder, dim=8)).names(["cat", "dog"]).shape
        torch.Size([2, 8])
    """

    views: Any = 1

    def __init__(self, towers: nn.Module, **recipe: Any):
        super().__init__(towers, **recipe)

    @property
    def towers(self) -> Any:
        """The towers."""
        return self.encoder

    def rows(self, images: Any) -> Float[Tensor, "n dim"]:
        """The rows of all images of a data set, in evaluation mode and without gradients, on the CPU."""
        return embed(self.towers, images, to_input)

    def names(self, names: Sequence[str]) -> Float[Tensor, "classes dim"]:
        """The rows of names, without gradients, on the CPU."""
        return self.towers.texts(names).detach().float().cpu()

    def scores(self, rows: Float[Tensor, "n dim"], names: Sequence[str]) -> Float[Tensor, "n classes"]:
        """A logit of each image for each name, on the CPU; by default the scaled cosine.

        Args:
            rows: of the images, from `rows`.
            names: of the classes that it is chosen between, in any number.
        """
        return self.towers.scale.item() * rows @ self.names(names).T

    def doubt(self, rows: Float[Tensor, "n dim"], names: Sequence[str]) -> Float[Tensor, " n"]:
        """How far it is from sure that an image shows one of some classes, by default 1 less the largest probability.

        Args:
            rows: of the images, from `rows`.
            names: of the classes that training has seen.
        """
        return 1 - self.scores(rows, names).softmax(1).amax(1)


def frozen_towers(towers: nn.Module | None) -> Frozen:
    """The towers that a method stands on, which stay as they are, and are kept with it.

    Raises:
        InputError: where there are none.

    Examples:
        >>> frozen_towers(None)
        Traceback (most recent call last):
        counterpoise.errors.InputError: towers: expected those that a run of clip has trained, got none
    """
    if towers is None:
        raise InputError("towers: expected those that a run of clip has trained, got none")
    return Frozen(towers, stored=True)
