"""Zero-shot classification by names alone: what every correction of it is measured against.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020,
section 3.1.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.learners.describer import Describer, frozen_towers
from counterpoise.learners.references import settle_batch_norm
from counterpoise.nets.towers import Towers


class ZeroShot(Describer):
    """Each image gets the class whose name lies nearest; nothing is trained.

    Args:
        encoder: not used; that of the towers is.
        towers: images and names in one space.
        **recipe: arguments of `Method`.
    """

    trains = False

    def __init__(self, encoder: nn.Module, towers: nn.Module | None, **recipe: Any):
        super().__init__(frozen_towers(towers), **recipe)


class UntrainedTowers(Describer):
    """Towers with random weights, whose batch normalisation has the statistics of the training images: a reference.

    Args:
        encoder: images to features.
        **recipe: arguments of `Method`.
    """

    trains = False

    def __init__(self, encoder: nn.Module, **recipe: Any):
        super().__init__(towers=Towers(encoder), **recipe)

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Take the statistics from all training images."""
        settle_batch_norm(self.towers, data)
