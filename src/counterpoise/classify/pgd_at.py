"""Adversarial training: cross-entropy on what an attack makes of the images.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
arXiv 1706.06083: equation 2.1, the inner maximum by PGD.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from counterpoise.learners.attacked import AttackedClassifier
from counterpoise.learners.classifier import cross_entropy
from counterpoise.learners.method import Index, InputViews, Labels


class PGDTraining(AttackedClassifier):
    """Training on the worst images that an attack finds near the training images; clean ones are not seen.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        **recipe: arguments of `AttackedClassifier`.
    """

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy of one view after the attack; images without a label are passed over."""
        return cross_entropy(self.logits(self.attacked(images[0], labels)), labels)

    def attacked(self, images: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """What an attack that raises cross-entropy makes of images in [-1, 1]."""
        return self.attack(images, lambda logits: F.cross_entropy(logits, labels, ignore_index=-1, reduction="none"))
