"""Two random views of each image: ours, whole batches at a time, against lightly's SimCLRTransform in a `DataLoader`.

One thread each, taken in turn in one run. Exits with status 1 where ours is less than 4 times as fast as lightly's with
one worker on 32×32 RGB: `python -m benchmarks.views`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.data.views import Views

BATCH, LEAST = 256, 4.0
KINDS = {  # channels, side, probability of a blur, images for ours, images for lightly's
    "32×32 RGB": (3, 32, 0.0, 8192, 2048),
    "32×32 RGB, blur": (3, 32, 0.5, 8192, 2048),
    "28×28 grey": (1, 28, 0.0, 16384, 2048),
    "64×64 RGB": (3, 64, 0.0, 2048, 1024),
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


def lightly_views(channels: int, side: int, blur: float) -> Callable[[Image.Image], Any]:
    """SimCLRTransform with our crops and jitter; grey images skip what needs colours and the normalisation."""
    from lightly.transforms.simclr_transform import SimCLRTransform

    grey = {"cj_sat": 0.0, "cj_hue": 0.0, "random_gray_scale": 0.0, "normalize": None} if channels == 1 else {}
    settings = {"cj_strength": 0.5, "min_scale": 0.2, "gaussian_blur": blur, **grey}
    return SimCLRTransform(input_size=side, **settings)


def rates(channels: int, side: int, blur: float, ours: int, theirs: int) -> dict[str, float]:
    """Images a second, two views each."""
    pixels = torch.randint(0, 256, (ours, channels, side, side), dtype=torch.uint8)
    views = Views(side, blur=blur)
    dataset = Pictures(pixels[:theirs], lightly_views(channels, side, blur))
    loaders = {n: DataLoader(dataset, BATCH, num_workers=n, persistent_workers=n > 0) for n in (0, 1)}
    steps: dict[str, tuple[int, Callable[[], Any]]] = {
        "ours": (ours, lambda: [(views(batch), views(batch)) for batch in pixels.split(BATCH)]),
        "lightly, in this process": (theirs, lambda: sum(1 for _ in loaders[0])),
        "lightly, one worker": (theirs, lambda: sum(1 for _ in loaders[1])),
    }
    return {name: count / sorted(repeat(step, repeats=3))[1] for name, (count, step) in steps.items()}


def main() -> None:
    """Measure every kind of image."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {kind: rates(*settings) for kind, settings in KINDS.items()}
    ratios = {kind: rate["ours"] / rate["lightly, one worker"] for kind, rate in found.items()}
    rows = [[kind, *(f"{x:,.0f}" for x in rate.values()), f"{ratios[kind]:.1f}"] for kind, rate in found.items()]
    headings = ["images a second", *next(iter(found.values())), "ours / one worker"]
    lines = [
        "# Views: speed",
        "",
        "Two random views of each image: crop, flip, colour jitter, greyscale. Batches of 256; one thread, and",
        "lightly's worker beside it. Written by `python -m benchmarks.views`.",
        "",
        machine_line(),
        "",
        markdown_table(headings, rows),
    ]
    write_results("views", {"images_per_second": found, "ratios": ratios}, "\n".join(lines))
    sys.exit(0 if ratios["32×32 RGB"] >= LEAST else 1)


if __name__ == "__main__":
    main()
