"""The one way to get features: a whole data set through an encoder, without training it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_number

Batch = TypeVar("Batch")


def embed(
    encoder: nn.Module, images: Dataset, transform: Callable[[Tensor], Tensor], batch_size: int = 512
) -> Float[Tensor, "n features"]:
    """Features of every image, in order.

    Args:
        encoder: from what `transform` gives to [B features]; runs where its parameters are, in evaluation mode, without
            gradients. Each of its modules is in its former mode afterwards, also after an error.
        images: a data set whose `__getitems__(indices)` gives a whole batch (uint8 [B C H W], labels [B], indices [B]).
        transform: from uint8 [B C H W], on the encoder's device, to the encoder's input.
        batch_size: images at a time; matters for memory and speed only.

    Returns:
        float32 on the CPU, one row per image.

    Raises:
        InputError: for an empty data set, a batch size below 1, or an encoder that gives no vectors.

    >>> class Dots(Dataset):
    ...     def __len__(self):
    ...         return 3
    ...     def __getitems__(self, indices):
    ...         index = torch.tensor(indices)
    ...         return index.to(torch.uint8).view(-1, 1, 1, 1), index, index
    >>> embed(nn.Flatten(), Dots(), lambda pixels: pixels / 2)
    tensor([[0.0000],
            [0.5000],
            [1.0000]])
    """
    check_number("batch_size", batch_size, at_least=1)
    if len(images) == 0:  # type: ignore[arg-type]
        name = getattr(images, "name", type(images).__name__)
        raise InputError(f"images: the data set '{name}' is empty, so there is nothing to embed")
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    rows = []
    # A loader draws a seed as it starts; from its own generator, so that measuring leaves the global one where it was.
    loader = DataLoader(images, batch_size, collate_fn=_identity, generator=torch.Generator())
    with evaluation(encoder), torch.no_grad():
        for pixels, _, _ in loader:
            features = encoder(transform(pixels.to(device)))
            if features.ndim != 2:
                raise InputError(f"encoder: expected to get [batch, features] from it, got {list(features.shape)}")
            rows.append(features.float().cpu())
    return torch.cat(rows)


@contextmanager
def evaluation(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's own mode again, for parts of an encoder may be frozen.

    >>> net = nn.Dropout()
    >>> with evaluation(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _identity(batch: Batch) -> Batch:
    return batch
