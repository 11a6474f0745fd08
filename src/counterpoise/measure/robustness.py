"""What a classifier names under attack: whether any point that several attacks visit makes it err.

An attack shows an upper bound of what a network withstands. So several are made, on cross-entropy and on the margin of
the label, since where a network is sure, the gradient of cross-entropy is 0 in float32 and that of the margin is not;
and each from several random starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data.views import to_input
from counterpoise.errors import InputError
from counterpoise.nets.features import device_of, dtype_of, evaluation
from counterpoise.ops.attacks import PIXEL_RANGE, pgd
from counterpoise.ops.checks import check_integers, check_logits, check_number, check_seed, check_values

REACH = 2.5  # the steps together in radii, so that each start reaches any corner, as Madry et al. choose it
Network = Callable[[Float[Tensor, "batch *shape"]], Float[Tensor, "batch classes"]]
Score = Callable[[Tensor, Tensor], Tensor]


def margin(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    r"""How far the best of the wrong classes is above the label, $\max_{k \ne y} h_k - h_y$; above 0 for an error.

    Args:
        logits: one score a class, for at least 2.
        labels: class of each row.

    Raises:
        InputError: for wrong shapes, one class alone, labels that are no class, or NaN.

    Examples:
        >>> margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2]))
        tensor([2.])
    """
    check_logits("logits", logits)
    labels = check_integers("labels", labels, rows=len(logits), low=0, high=logits.shape[1])[:, None]
    others = logits.scatter(1, labels, -torch.inf).amax(1)
    return others - logits.gather(1, labels)[:, 0]


def attacked_classes(
    network: Network,
    x: Float[Tensor, "batch *shape"],
    labels: Int[Tensor, " batch"],
    radius: float,
    steps: int = 20,
    restarts: int = 2,
    low: float = -1.0,
    high: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " batch"]:
    r"""The class that a network names for each input under attack: another than the label wherever one was found.

    PGD within $\|x' - x\|_\infty \le$ radius raises cross-entropy and the margin in turn, each from `restarts` random
    starts. The steps together go 2.5 radii. An input counts as named rightly only where every point that was visited
    is, itself included; what one attack has made wrong, the next leaves out. From the same generator, more restarts
    make wrong what fewer do, and more.

    Args:
        network: inputs to logits of at least 2 classes, with a gradient by the inputs; no row may change another's.
        x: inputs, within the range.
        labels: class of each; -1 for one that is not attacked.
        radius: above 0, in the units of x.
        steps: of each attack, at least 1.
        restarts: random starts of each attack, at least 1.
        low: least value that an input can have.
        high: largest value that an input can have, above `low`.
        generator: of the starts; torch's global one by default.

    Returns:
        The label where the network withstood, or else the wrong class of the first point that was found; for an input
        without a label, the class of the input itself.

    Raises:
        InputError: for numbers out of range, inputs outside of the range, labels that are no class, or a network whose
            logits have no gradient by the inputs.

    Examples:
        >>> network = nn.Linear(1, 2)
        >>> _ = network.load_state_dict({"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.zeros(2)})
        >>> attacked_classes(network, torch.tensor([[0.05], [0.5]]), torch.tensor([1, 1]), radius=0.1)
        tensor([0, 1])
    """
    check_number("radius", radius, above=0)
    check_number("steps", steps, at_least=1, whole=True)
    check_number("restarts", restarts, at_least=1, whole=True)
    check_number("low", low)
    check_number("high", high, above=low)
    check_values("x", x, at_least=low, at_most=high)
    if not x.ndim:
        raise InputError("x: expected one row or more of inputs, got a single number")
    with torch.no_grad():
        logits = network(x)
    check_logits("network(x)", logits)
    if len(logits) != len(x):
        raise InputError(f"network(x): expected logits of each of the {len(x)} inputs, got those of {len(logits)}")
    labels = check_integers("labels", labels, rows=len(logits), low=-1, high=logits.shape[1])
    named = logits.argmax(1)
    for _ in range(restarts):  # outermost, so that more of them go on from what fewer have found
        for score in (_cross_entropy, margin):
            rows = (named == labels).nonzero().flatten()
            if len(rows):
                found = _Found(network, score, labels[rows])
                pgd(found, x[rows], radius, steps, REACH * radius / steps, low, high, generator)
                named[rows] = found.named
    return named


def attacked_predictions(
    net: nn.Module,
    images: Any,
    radius: float,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    batch_size: int = 512,
) -> Int64[Tensor, " n"]:
    """`attacked_classes` of all images of a data set, in evaluation mode, on the device of the network.

    Args:
        net: images in [-1, 1] to logits.
        images: a data set whose `__getitems__(indices)` gives uint8 images, labels and indices.
        radius: above 0, at most 1, as a share of the range of pixels.
        steps: of each attack.
        restarts: random starts of each attack.
        seed: of the starts.
        batch_size: images at a time; it decides which start is drawn for which image.

    Returns:
        One class an image, on the CPU.

    Raises:
        InputError: as `attacked_classes`; for rows of numbers, which have no range in common; for none.

    Examples:
        >>> from counterpoise.data import Images
        >>> pixels = torch.tensor([100, 150], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
        >>> _ = net[1].load_state_dict({"weight": torch.tensor([[-1.0], [1.0]])})
        >>> images = Images(pixels, torch.tensor([0, 1]), ("dark", "light"), "greys")
        >>> attacked_predictions(net, images, 0.05), attacked_predictions(net, images, 0.1)
        (tensor([0, 1]), tensor([0, 0]))
    """
    check_number("radius", radius, above=0, at_most=1)
    check_number("batch_size", batch_size, at_least=1, whole=True)
    check_seed(seed)
    if not len(images):
        raise InputError(f"images: the data set '{images.name}' is empty, so there is nothing to attack")
    device, dtype = device_of(net), dtype_of(net)
    near, found, seeds = PIXEL_RANGE * radius, [], torch.Generator().manual_seed(seed)
    with evaluation(net):
        for rows in torch.arange(len(images)).split(batch_size):
            own = int(torch.randint(2**62, (), generator=seeds))  # so that no other batch decides what is drawn
            starts = torch.Generator(device).manual_seed(own)
            pixels, labels, _ = images.__getitems__(rows.tolist())
            if pixels.dtype != torch.uint8:
                raise InputError(f"images: expected uint8 images, whose pixels share one range, got {pixels.dtype}")
            x = to_input(pixels.to(device)).to(dtype)
            found.append(attacked_classes(net, x, labels.to(device), near, steps, restarts, generator=starts).cpu())
    return torch.cat(found)


class _Found:
    """The score that an attack raises, which notes the first wrong class of each row among the points visited."""

    def __init__(self, network: Network, score: Score, labels: Int64[Tensor, " batch"]):
        self.network, self.score, self.labels, self.named = network, score, labels, labels.clone()

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        if torch.is_grad_enabled() and not logits.requires_grad:
            raise InputError("network: its logits have no gradient by the inputs, so that no attack can follow it")
        here = logits.detach().argmax(1)
        self.named = torch.where(self.named == self.labels, here, self.named)
        return self.score(logits, self.labels)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")
