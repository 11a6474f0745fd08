"""Glyphs: how long rendering takes, and how many images a second come from the cache: `python -m benchmarks.glyphs`.

Exits with status 1 below 50,000 images a second.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.data.glyphs import render

BATCH, LEAST = 256, 50_000


def main() -> None:
    """Render into a fresh cache, then read all images in a random order, batch by batch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COUNTERPOISE_CACHE"] = folder
        rendering = repeat(render, repeats=1, warmup=0)[0]
        render.cache_clear()
        opening = repeat(render, repeats=1, warmup=0)[0]
        glyphs = render()
        images = glyphs.images(torch.ones(len(glyphs.pixels), dtype=torch.bool), "glyphs", "all")
        mapped = torch.randperm(len(images)).split(BATCH)
        from_memory = repeat(lambda: [images.__getitems__(batch.tolist()) for batch in mapped])
        from_cache = repeat(lambda: [glyphs.pixels[batch] for batch in mapped])
        rates = {
            "from the memory-mapped cache": len(images) / min(from_cache),
            "as `Images`, with labels": len(images) / min(from_memory),
        }
        rows = [
            ["characters", f"{len(glyphs.characters):,}"],
            ["images", f"{len(glyphs.pixels):,}"],
            ["rendering all of them, once, s", f"{rendering:.1f}"],
            ["opening the cache, s", f"{opening:.3f}"],
            *([f"images a second {name}, batches of {BATCH}", f"{rate:,.0f}"] for name, rate in rates.items()),
        ]
    page = ["# Glyphs: speed", "", "One thread. Written by `python -m benchmarks.glyphs`.", "", machine_line(), ""]
    content = {"rendering_s": rendering, "opening_s": opening, "images_per_second": rates}
    write_results("glyphs", content, "\n".join([*page, markdown_table(["28×28", ""], rows)]))
    sys.exit(0 if min(rates.values()) >= LEAST else 1)


if __name__ == "__main__":
    main()
