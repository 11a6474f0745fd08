"""CLIP on classes with names: images and names are brought together in one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.
Several images of a batch have the same name here. They are all right for it, as in Yang et al., "Unified Contrastive
Learning in Image-Text-Label Space", CVPR 2022, arXiv 2204.03610.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.data.parts import Labelled
from counterpoise.errors import InputError
from counterpoise.learners.classifier import cross_entropy
from counterpoise.learners.describer import Describer
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.towers import Towers
from counterpoise.ops.checks import check_integers, check_matrix, check_number, check_values
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32, normalize_rows


def image_text_contrast(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    scale: Float[Tensor, ""] | float = 1 / 0.07,
) -> Float[Tensor, ""]:
    r"""The mean of two cross-entropies: of each image's name among all names, and of each name's images in the batch.

    $$\tfrac12 \Big( \frac1B \sum_i -\log \frac{e^{s\, z_i \cdot t_{y_i}}}{\sum_k e^{s\, z_i \cdot t_k}}
    + \frac1B \sum_i -\log \frac{e^{s\, z_i \cdot t_{y_i}}}{\sum_j e^{s\, z_j \cdot t_{y_i}}} \Big)$$

    Yang et al., CVPR 2022, equations 2 to 4, with every class's name once among those of an image.

    Args:
        images: one row an image; normalised here.
        texts: one row a class; normalised here.
        labels: class of each image; -1 where it has none, which passes it over.
        scale: of the cosines, above 0.

    Returns:
        The mean over all processes; 0, with a gradient of 0, where no image has a label.

    Raises:
        InputError: for wrong shapes, NaN, labels that are no class, or a scale that is not above 0.

    Examples:
        >>> rows = torch.eye(2)
        >>> round(image_text_contrast(rows, rows, torch.tensor([0, 1]), scale=1.0).item(), 6)  # log(1 + 1/e)
        0.313262
    """
    check_matrix("images", images)
    check_matrix("texts", texts, at_least=2)
    if images.shape[1] != texts.shape[1]:
        raise InputError(f"texts: expected rows of width {images.shape[1]}, as images has, got {texts.shape[1]}")
    labels = check_integers("labels", labels, rows=len(images), low=-1, high=len(texts))
    if isinstance(scale, Tensor):
        check_values("scale", scale.detach().reshape(-1)[:1], above=0)
    else:
        check_number("scale", scale, above=0)
    rows, names = normalize_rows(at_least_float32(images)), normalize_rows(at_least_float32(texts))
    named = cross_entropy(scale * rows @ names.T, labels)
    known = labels >= 0
    rows, own = gather(rows[known]), gather(labels[known])
    if not len(own):
        return named
    of_names = (scale * names @ rows.T).log_softmax(1)  # of each name over the labelled images
    return (named - of_names[own, torch.arange(len(own), device=own.device)].mean()) / 2


class CLIP(Describer):
    """Towers of images and of the names of their classes.

    Args:
        encoder: images to features.
        names: of the classes that the labels number.
        text: frozen encoder of the names: "words", "minilm" (extra `text`), or "hf:PATH".
        dim: of the space in which images and names are compared.
        template: what is read of a name, with `{}` in its place.
        **recipe: arguments of `Method`.
    """

    read: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        names: Sequence[str],
        text: str = "words",
        dim: int = 64,
        template: str = "{}",
        **recipe: Any,
    ):
        super().__init__(towers=Towers(encoder, text, dim, template), **recipe)
        self.register_buffer("read", self.towers.read_names(names))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """`image_text_contrast` of one view; images without a label are passed over."""
        towers = self.towers
        return image_text_contrast(towers.images(images[0]), towers.project(self.read), labels, towers.scale)

    def check_data(self, images: Labelled, batch_size: int, shares: int = 1) -> None:
        """Refuse images of fewer than two classes, which have no name to be told apart by."""
        if int((images.counts() > 0).sum()) < 2:
            raise InputError(f"labels: {type(self).__name__} needs images of at least 2 classes with names")
