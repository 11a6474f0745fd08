"""Scenes: how many a second are made, in this process and by one worker: `python -m benchmarks.scenes`.

Exits with status 1 below 500 scenes a second.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.data.scenes import Scenes, collate

COUNT, LEAST = 2000, 500


def seconds(size: int, workers: int) -> float:
    """Of all scenes, batch by batch."""
    made = Scenes(COUNT, size=size)
    loader = DataLoader(made, 64, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    return min(repeat(lambda: sum(1 for _ in loader), repeats=3))


def main() -> None:
    """Make scenes of two sizes."""
    torch.set_num_threads(1)
    rates = {
        f"{size}×{size}, {workers or 'no'} worker": COUNT / seconds(size, workers)
        for size in (64, 128)
        for workers in (0, 1)
    }
    page = ["# Scenes: speed", "", "3 to 6 objects. Written by `python -m benchmarks.scenes`.", "", machine_line(), ""]
    table = markdown_table(["", "scenes a second"], [[name, f"{rate:,.0f}"] for name, rate in rates.items()])
    write_results("scenes", {"scenes_per_second": rates}, "\n".join([*page, table]))
    sys.exit(0 if rates["64×64, 1 worker"] >= LEAST else 1)


if __name__ == "__main__":
    main()
