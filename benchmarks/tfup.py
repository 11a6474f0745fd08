"""TFUP's correction of many images beside the form that builds images × keys × classes: time and memory.

Exits with status 1 where it takes more than a tenth of that form's time, or 500 MB: `python -m benchmarks.tfup`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import Measured, alone, machine_line, markdown_table, write_results
from counterpoise.classify.tfup import corrected

IMAGES, KEYS, CLASSES, DIM = 10_000, 1_000, 100, 128
PART = 100  # images at a time of the plain form, whose array would be 4 GB
LEAST, MOST_MB = 10, 500


def plain(rows: Tensor, names: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """The same logits by the definition of the divergences."""
    rows, names, keys = (F.normalize(x) for x in (rows, names, keys))
    values, q = F.one_hot(labels, CLASSES).float(), (10 * keys @ names.T).softmax(1)
    found = []
    for part in rows.split(PART):
        p = (10 * part @ names.T).softmax(1)
        far = (p[:, None] * (p[:, None] / q).log()).sum(2)
        low, high = far.aminmax(dim=1, keepdim=True)
        affinity = (part @ keys.T) * 2 * (high - far) / (high - low)
        found.append(100 * part @ names.T + 0.3 * (affinity - 1).exp() @ values)
    return torch.cat(found)


def prepare(name: str) -> Callable[[], object]:
    """The call to be timed."""
    generator = torch.Generator().manual_seed(0)
    rows, names, keys = (torch.randn(n, DIM, generator=generator) for n in (IMAGES, CLASSES, KEYS))
    labels = torch.arange(KEYS) % CLASSES
    return partial(corrected if name == "two products" else plain, rows, names, keys, labels)


def page(found: dict[str, Measured], ratio: float) -> str:
    """The table."""
    table = [[name, f"{one.median:.2f}", f"{one.peak_mb:.0f}"] for name, one in found.items()]
    return "\n\n".join(
        [
            "# TFUP beside the form that builds images × keys × classes",
            f"Logits of {IMAGES:,} images with {KEYS:,} keys of {CLASSES} classes, rows of {DIM}; each in a process of "
            f"its own on one thread. The plain form takes {PART} images at a time.",
            markdown_table(["divergences by", "s", "MB"], table),
            f"Two products take 1/{ratio:.0f} of the time; the target is 1/{LEAST}, and {MOST_MB} MB.",
            f"{machine_line()} `python -m benchmarks.tfup`",
        ]
    )


def main() -> None:
    """Measure both, write the page and judge it."""
    found = {name: alone(prepare, name, threads=1) for name in ("two products", "the definition")}
    ours = found["two products"]
    ratio = found["the definition"].median / ours.median
    results = {name: {"seconds": one.seconds, "peak_mb": one.peak_mb} for name, one in found.items()}
    write_results("tfup", {"results": results, "ratio": ratio}, page(found, ratio))
    if ratio < LEAST or ours.peak_mb > MOST_MB:
        sys.exit(f"1/{ratio:.1f} of the time, {ours.peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
