"""Two random views of each image: ours, whole batches at a time, against lightly's SimCLRTransform in a `DataLoader`.

One thread each, taken in turn, round by round. Exits with status 1 where ours is less than 4 times as fast as lightly's
with one worker on 32×32 RGB: `python -m benchmarks.views`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.data.views import Views

BATCH, ROUNDS, LEAST = 256, 5, 4.0
OURS, WORKER = "ours", "lightly, one worker"


class Kind(NamedTuple):
    """Images, the settings of both, and how many images each gets in a round."""

    channels: int = 3
    side: int = 32
    crop: float = 0.2
    jitter: float = 0.4
    blur: float = 0.0
    ours: int = 4096
    theirs: int = 1024


KINDS = {
    "32×32 RGB": Kind(),
    "32×32 RGB, blur": Kind(blur=0.5),
    "32×32 RGB, lightly's defaults": Kind(crop=0.08, jitter=0.8, blur=0.5),
    "28×28 grey": Kind(channels=1, side=28, ours=16384),
    "64×64 RGB": Kind(side=64, ours=2048, theirs=512),
    "64×64 RGB, blur": Kind(side=64, blur=0.5, ours=2048, theirs=512),
}


class Pictures(Dataset):
    """Images as lightly takes them: PIL, transformed one by one."""

    def __init__(self, pixels: torch.Tensor, transform: Callable[[Image.Image], Any]):
        arrays = pixels.permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(a[..., 0] if a.shape[2] == 1 else a) for a in arrays]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index])


def lightly_views(kind: Kind) -> Callable[[Image.Image], Any]:
    """SimCLRTransform with our crops, jitter and range of pixels; grey images skip what needs colours."""
    from lightly.transforms.simclr_transform import SimCLRTransform

    # Its jitter is 0.8 times the strength, and of the hue 0.2 times: a quarter of that, as ours.
    settings = {"cj_strength": kind.jitter / 0.8, "min_scale": kind.crop, "gaussian_blur": kind.blur}
    grey = {"cj_sat": 0.0, "cj_hue": 0.0, "random_gray_scale": 0.0} if kind.channels == 1 else {}
    centred = {"mean": [0.5] * kind.channels, "std": [0.5] * kind.channels}
    return SimCLRTransform(input_size=kind.side, normalize=centred, **settings, **grey)


def rounds(kind: Kind) -> dict[str, list[float]]:
    """Images a second in each round, two views each."""
    pixels = torch.randint(0, 256, (kind.ours, kind.channels, kind.side, kind.side), dtype=torch.uint8)
    views = Views(kind.side, crop=(kind.crop, 1.0), jitter=kind.jitter, blur=kind.blur)
    dataset = Pictures(pixels[: kind.theirs], lightly_views(kind))
    loaders = {n: DataLoader(dataset, BATCH, num_workers=n, persistent_workers=n > 0) for n in (0, 1)}
    steps: dict[str, tuple[int, Callable[[], Any]]] = {
        OURS: (kind.ours, lambda: [(views(batch), views(batch)) for batch in pixels.split(BATCH)]),
        "lightly, in this process": (kind.theirs, lambda: sum(1 for _ in loaders[0])),
        WORKER: (kind.theirs, lambda: sum(1 for _ in loaders[1])),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(ROUNDS):
        for name, (count, step) in steps.items():
            found[name] += [count / seconds for seconds in repeat(step, repeats=1, warmup=int(i == 0))]
    return found


def main() -> None:
    """Measure every kind of image."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {name: rounds(kind) for name, kind in KINDS.items()}
    ratios = {
        name: median(a / b for a, b in zip(rates[OURS], rates[WORKER], strict=True)) for name, rates in found.items()
    }
    rows = [
        [name, *(f"{median(x):,.0f}" for x in rates.values()), f"{ratios[name]:.1f}"] for name, rates in found.items()
    ]
    headings = ["images a second", *next(iter(found.values())), "ours / one worker"]
    lines = [
        "# Views: speed",
        "",
        "Two random views of each image: crop, flip, colour jitter, greyscale, and, where it says so, a blur of every",
        f"second one. Batches of {BATCH} on one thread, with lightly's worker beside it; medians of {ROUNDS} rounds,",
        "and of their ratios. Written by `python -m benchmarks.views`.",
        "",
        machine_line(),
        "",
        markdown_table(headings, rows),
    ]
    write_results("views", {"images_per_second": found, "ratios": ratios}, "\n".join(lines))
    if ratios["32×32 RGB"] < LEAST:
        sys.exit(f"views: {ratios['32×32 RGB']:.1f} times lightly's speed on 32×32 RGB, expected at least {LEAST:g}")


if __name__ == "__main__":
    main()
