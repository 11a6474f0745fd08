"""SimCLR end to end: Counterpoise's `train` loop against a plain loop over lightly's parts, as its examples have it.

The same small network, head, images, batch size, epochs and optimiser settings. What is timed is training alone, from
the first batch on. The kNN accuracy of both tells that speed is not paid for with quality.
`python -m benchmarks.train`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from benchmarks.views import Pictures, lightly_views
from counterpoise.contrast.simclr import NTXentLoss as OurLoss
from counterpoise.contrast.simclr import SimCLR
from counterpoise.data import Images, load
from counterpoise.data.views import Views, to_float
from counterpoise.fitting import fit
from counterpoise.measure import knn_accuracy
from counterpoise.nets import backbone, embed
from counterpoise.nets.heads import mlp

IMAGES, BATCH, EPOCHS, SIDE, TEMPERATURE, LR = 4096, 256, 2, 32, 0.1, 2e-3
AIM = 3.0


def images() -> tuple[Images, Images]:
    """Fashion-MNIST in 32×32 RGB: to learn from, and to judge by."""
    train, test = load("fashion-mnist", size=SIDE)
    return train.with_channels(3).subset(torch.arange(IMAGES)), test.with_channels(3)


def ours(train: Images, threads: int) -> tuple[float, nn.Module]:
    """Images a second, and the encoder."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    method = SimCLR(backbone("small", 3, SIDE), temperature=TEMPERATURE, augment=Views(SIDE), lr=LR)
    with tempfile.TemporaryDirectory() as folder:
        rows = fit(method, train, epochs=EPOCHS, batch_size=BATCH, seed=0, folder=Path(folder), device="cpu")
    return EPOCHS * (len(train) // BATCH) * BATCH / rows[-1]["seconds"], method.encoder


def theirs(train: Images, threads: int, workers: int) -> tuple[float, nn.Module]:
    """The same by lightly's transform and loss in a plain loop."""
    from lightly.loss import NTXentLoss

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder = backbone("small", 3, SIDE)
    head = mlp(encoder.features, 256, 64)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, EPOCHS * (len(train) // BATCH), pct_start=0.1)
    criterion = NTXentLoss(TEMPERATURE)
    dataset = Pictures(train.pixels, lightly_views(3, SIDE, 0.0))
    loader = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    start, seen = time.perf_counter(), 0
    for _ in range(EPOCHS):
        for first, second in loader:
            loss = criterion(head(encoder(first)), head(encoder(second)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(first)
    return seen / (time.perf_counter() - start), encoder


def parts(train: Images, threads: int) -> dict[str, float]:
    """Seconds per batch of our views, of the network forward and backward, and of our and lightly's loss."""
    from lightly.loss import NTXentLoss

    torch.set_num_threads(threads)
    encoder, views, pixels = backbone("small", 3, SIDE), Views(SIDE), train.pixels[:BATCH]
    head = mlp(encoder.features, 256, 64)
    one, other = views(pixels), views(pixels)
    z1, z2 = (torch.randn(BATCH, 64, requires_grad=True) for _ in range(2))

    def network() -> None:
        (head(encoder(one)).sum() + head(encoder(other)).sum()).backward()

    steps: dict[str, Any] = {
        "two views": lambda: (views(pixels), views(pixels)),
        "network": network,
        "our loss": lambda: OurLoss(TEMPERATURE)(z1, z2).backward(),
        "lightly's loss": lambda: NTXentLoss(TEMPERATURE)(z1, z2).backward(),
    }
    return {name: sorted(repeat(step, repeats=9))[4] for name, step in steps.items()}


def accuracy(encoder: nn.Module, train: Images, test: Images) -> float:
    """Of a kNN vote over the features of the training images."""
    known, unknown = (embed(encoder, some, to_float) for some in (train, test))
    return knn_accuracy(known, train.labels, unknown, test.labels, len(train.classes))


def main() -> None:
    """One thread, then two; lightly's workers from none to two."""
    train, test = images()
    rows, content = [], {}
    for threads in (1, 2):
        rate, encoder = ours(train, threads)
        known = {"ours": (rate, accuracy(encoder, train, test))}
        for workers in (0, 1, 2):
            rate, encoder = theirs(train, threads, workers)
            known[f"lightly, {workers} workers"] = (rate, accuracy(encoder, train, test))
        best = max(rate for name, (rate, _) in known.items() if name != "ours")
        for name, (rate, knn) in known.items():
            rows.append([f"{threads} threads: {name}", f"{rate:,.0f}", f"{known['ours'][0] / rate:.2f}", f"{knn:.1%}"])
        seconds = parts(train, threads)
        bound = BATCH / seconds["network"]
        content[threads] = {
            "images_per_second": {name: rate for name, (rate, _) in known.items()},
            "knn": {name: knn for name, (_, knn) in known.items()},
            "ratio_to_the_best": known["ours"][0] / best,
            "seconds_per_batch": seconds,
            "bound_by_the_network": bound,
        }
    split = [
        [
            f"{threads} threads",
            *(f"{1000 * x:.1f}" for x in found["seconds_per_batch"].values()),
            f"{found['bound_by_the_network']:,.0f}",
            f"{found['ratio_to_the_best']:.2f}",
        ]
        for threads, found in content.items()
    ]
    names = [f"{name}, ms" for name in content[1]["seconds_per_batch"]]
    lines = [
        "# Training: speed end to end",
        "",
        f"SimCLR with the small network on {IMAGES:,} images of 32×32 RGB, batches of {BATCH}, {EPOCHS} epochs.",
        "Written by `python -m benchmarks.train`.",
        "",
        machine_line(),
        "",
        markdown_table(["", "images a second", "ours / this", "kNN accuracy"], rows),
        "",
        "Where a batch's time goes; how many images a second the network alone would take, which bounds both; and our",
        f"speed over the best of lightly's (aim: {AIM:g}).",
        "",
        markdown_table(["", *names, "bound, images a second", "ratio"], split),
    ]
    write_results("train", {str(threads): found for threads, found in content.items()}, "\n".join(lines))


if __name__ == "__main__":
    main()
