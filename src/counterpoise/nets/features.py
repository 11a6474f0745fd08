"""Feature extraction: passes a whole data set through an encoder, without training it."""

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
    """Compute the features of all images, in order.

    Args:
        encoder: maps the output of `transform` to [B features]; runs on the device of its parameters, in evaluation
            mode, without gradients. Each of its modules returns to its former mode afterwards, even after an error.
        images: a data set whose `__getitems__(indices)` returns a batch (uint8 [B C H W], labels [B], indices [B]).
        transform: maps uint8 [B C H W], on the encoder's device, to the encoder's input.
        batch_size: images at a time; affects only memory and speed.

    Returns:
        float32 on the CPU, one row per image.

    Raises:
        InputError: for an empty data set, a batch size below 1, or an encoder that does not return vectors.

    Examples:
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
    check_number("batch_size", batch_size, at_least=1, whole=True)
    if len(images) == 0:  # type: ignore[arg-type]
        name = getattr(images, "name", type(images).__name__)
        raise InputError(f"images: the data set '{name}' is empty, so there is nothing to embed")
    device, dtype = device_of(encoder), dtype_of(encoder)
    rows = []
    # A loader draws a seed when it starts; with its own generator, measuring leaves the global one unchanged.
    loader = DataLoader(images, batch_size, collate_fn=_identity, generator=torch.Generator())
    with evaluation(encoder), torch.no_grad():
        for pixels, _, _ in loader:
            features = encoder(transform(pixels.to(device)).to(dtype))
            if features.ndim != 2:
                raise InputError(f"encoder: expected to get [batch, features] from it, got {list(features.shape)}")
            rows.append(features.float().cpu())
    return torch.cat(rows)


def device_of(net: nn.Module) -> torch.device:
    """The device of a network's tensors, including frozen parts; the CPU if it has none.

    Examples:
        >>> device_of(nn.Flatten())
        device(type='cpu')
    """
    tensors = (value for value in net.state_dict().values() if isinstance(value, Tensor))
    return next((value.device for value in tensors), torch.device("cpu"))


def dtype_of(net: nn.Module) -> torch.dtype:
    """The dtype of a network's floating-point tensors; float32 if it has none.

    Examples:
        >>> dtype_of(nn.Linear(2, 2).double()), dtype_of(nn.Flatten())
        (torch.float64, torch.float32)
    """
    tensors = (value for value in net.state_dict().values() if isinstance(value, Tensor))
    return next((value.dtype for value in tensors if value.is_floating_point()), torch.float32)


@contextmanager
def evaluation(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode in the block; then restores each module's own mode, since parts of an encoder may be frozen.

    Examples:
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
