"""Which test item is which: so that runs with different seeds know the items that several of them are scored by.

Where the seed divides the data, or draws some of its classes, two runs share some of their test items. A digest of the
content finds them, whatever their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


class Identity(NamedTuple):
    """What distinguishes the test items of a run from each other, and from those of other runs.

    Attributes:
        keys: one for each item, the same wherever the same item is scored.
        order: a digest of the items' labels in their order. Where each seed makes the content of all items anew, as by
            a tint or noise that it draws, the same order shows that the same items lie below.
    """

    keys: Int64[Tensor, " items"]
    order: int


def content_keys(rows: Shaped[Tensor, "items *shape"]) -> Int64[Tensor, " items"]:
    """A digest of each row's content: the same for equal rows alone, but for 1 of 2⁶⁴ pairs.

    Args:
        rows: of any type; those of memory-mapped pixels are read one by one.

    Examples:
        >>> keys = content_keys(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
        >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
        (True, False)
    """
    return torch.tensor(
        [_number([np.ascontiguousarray(row)]) for row in rows.detach().cpu().numpy()], dtype=torch.int64
    )


def order_of(labels: Iterable[object]) -> int:
    """A digest of labels in their order.

    Args:
        labels: of each item, such as its class by name.

    Examples:
        >>> order_of(["cat", "dog"]) == order_of(["cat", "dog"]), order_of(["cat", "dog"]) == order_of(["dog", "cat"])
        (True, False)
    """
    return _number(str(label).encode() for label in labels)


def _number(parts: Iterable[bytes | np.ndarray]) -> int:
    """A digest as a signed number of 64 bits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = memoryview(cast(Any, part)).cast("B") if isinstance(part, np.ndarray) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "big", signed=True)
