"""An image tower and a text tower that map to one space, in which an image lies near the names of what it shows.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), ICML 2021, arXiv
2103.00020. The texts are read by a frozen sentence encoder, of which only a projection learns: names of classes are too
few to learn a language from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import InputError
from counterpoise.nets.text import check_texts, sentence_encoder
from counterpoise.ops.checks import check_counts
from counterpoise.ops.similarity import normalize_rows

SCALE, LARGEST = 1 / 0.07, 100.0  # of cosines: at first, and at most
PLACE = "{}"  # of the name in a template


class Towers(nn.Module):
    """Images and texts as rows of one space, each of length 1.

    Args:
        encoder: images to features [batch, encoder.features].
        text: name of a frozen sentence encoder, as `nets.text.sentence_encoder` takes it.
        dim: of the space.
        template: what is read of a name, with `{}` in its place, such as "a photo of a {}."

    Attributes:
        features: `dim`.

    Raises:
        InputError: for an unknown text encoder, a template without `{}`, or a dimension below 1.

    Examples:
        >>> encoder = nn.Flatten()
        >>> encoder.features = 4
        >>> towers = Towers(encoder, dim=8)
        >>> towers.images(torch.rand(2, 1, 2, 2)).shape, towers.texts(["cat", "dog", "red cat"]).shape
        (torch.Size([2, 8]), torch.Size([3, 8]))
        >>> round(towers.texts(["cat"]).norm().item(), 4)
        1.0
    """

    def __init__(self, encoder: nn.Module, text: str = "words", dim: int = 64, template: str = PLACE):
        super().__init__()
        check_counts(dim=dim)
        if template.count(PLACE) != 1:
            raise InputError(f"template: expected a text with one {PLACE} for the name, got '{template}'")
        self.encoder, self.template = encoder, template
        self.read = sentence_encoder(text)
        width = self.read(["a"]).shape[1]
        self.image_head = nn.Linear(cast(int, encoder.features), dim, bias=False)
        self.text_head = nn.Linear(width, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.features = dim

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by to be logits; it learns, up to 100."""
        return self.log_scale.clamp(max=math.log(LARGEST)).exp()

    def images(self, inputs: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch dim"]:
        """Rows of images."""
        return normalize_rows(self.image_head(self.encoder(inputs)))

    def texts(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """Rows of names.

        Args:
            names: at least one.

        Raises:
            InputError: for no names, or anything but texts.
        """
        return self.project(self.read_names(names))

    def read_names(self, names: Sequence[str]) -> Float[Tensor, "names width"]:
        """What the sentence encoder finds in names, each in the template; it does not learn.

        Args:
            names: as of `texts`.
        """
        check_texts("names", names)
        return self.read([self.template.replace(PLACE, name) for name in names])

    def project(self, read: Float[Tensor, "names width"]) -> Float[Tensor, "names dim"]:
        """Rows of names that were read."""
        return normalize_rows(self.text_head(read.to(self.text_head.weight)))

    def forward(self, inputs: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch dim"]:
        """As `images`."""
        return self.images(inputs)
