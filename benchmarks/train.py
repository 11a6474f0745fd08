"""SimCLR end to end: Counterpoise's `train` loop against a plain loop over lightly's parts, as its examples have it.

The same small network, head, images, batch size, epochs and optimiser settings. What is timed is training alone, from
the first batch on; of compiled runs from the second epoch on, since the first one compiles. The kNN accuracy of both
shows that speed is not paid for with quality. What the network takes by itself bounds how much faster any loop around
it can be; it is measured in bfloat16 and compiled, too. `python -m benchmarks.train`. Without lightly only our rows are
printed, and no results are written.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from benchmarks.views import Kind, Pictures, lightly_views
from counterpoise.contrast.simclr import NTXentLoss as OurLoss
from counterpoise.contrast.simclr import SimCLR
from counterpoise.data import Images, load
from counterpoise.data.views import Views, to_float
from counterpoise.measure import knn_accuracy
from counterpoise.nets import backbone, embed
from counterpoise.nets.heads import mlp
from counterpoise.training.compiling import compiled
from counterpoise.training.precision import has_bfloat16
from counterpoise.training.trainer import fit

IMAGES, BATCH, EPOCHS, SIDE, TEMPERATURE, LR = 4096, 256, 4, 32, 0.1, 2e-3
THREADS, AIM = (1, 2), 3.0
BATCHES = (128, 256)  # of the network alone
FORMATS = {"ours": ",.0f", "lightly": ",.0f", "network's share of ours": ".0%"}


def images() -> tuple[Images, Images]:
    """Fashion-MNIST in 32×32 RGB: to learn from, and to judge by."""
    train, test = load("fashion-mnist", size=SIDE)
    return train.with_channels(3).subset(torch.arange(IMAGES)), test.with_channels(3)


class Way(NamedTuple):
    """How a network is computed."""

    precision: str = "32"
    compile: bool = False

    def __str__(self) -> str:
        return "".join([", bf16"] * (self.precision != "32") + [", compiled"] * self.compile)


WAYS = [Way(precision, compile) for precision, compile in product(("32", "bf16-mixed"), (False, True))]


def ours(train: Images, threads: int, way: Way = WAYS[0]) -> tuple[float, nn.Module]:
    """Images a second, and the encoder."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    method = SimCLR(backbone("small", 3, SIDE), temperature=TEMPERATURE, augment=Views(SIDE), lr=LR)
    options: dict[str, Any] = {"batch_size": BATCH, "seed": 0, "device": "cpu", **way._asdict()}
    with tempfile.TemporaryDirectory() as folder:
        rows = fit(method, train, epochs=EPOCHS, folder=Path(folder), **options)
    first = int(way.compile)  # epochs that do not count
    seconds = rows[-1]["seconds"] - (rows[0]["seconds"] if first else 0.0)
    return (EPOCHS - first) * (len(train) // BATCH) * BATCH / seconds, method.encoder


def network_rate(batch: int, way: Way, repeats: int = 30) -> float:
    """Images a second of the small network alone: forward, backward and step of one view, on one thread; the best."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(backbone("small", 3, SIDE), mlp(128, 256, 64))
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR)
    pixels = torch.randn(batch, 3, SIDE, SIDE)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.precision != "32"):
            loss = net(pixels).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with compiled(net) if way.compile else nullcontext():
        return batch / min(repeat(step, repeats, warmup=3, most=60.0))


def theirs(train: Images, threads: int, workers: int, half: bool = False) -> tuple[float, nn.Module]:
    """The same by lightly's transform and loss in a plain loop; with `half`, in mixed precision of bfloat16."""
    from lightly.loss import NTXentLoss

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder = backbone("small", 3, SIDE)
    head = mlp(encoder.features, 256, 64)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, EPOCHS * (len(train) // BATCH), pct_start=0.1)
    criterion = NTXentLoss(TEMPERATURE)
    dataset = Pictures(train.pixels, lightly_views(Kind()))
    loader = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    start, seen = time.perf_counter(), 0
    for _ in range(EPOCHS):
        for first, second in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
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


def against(mine: float, theirs: float, network: float) -> dict[str, float]:
    """What two rates, in images a second, and the seconds of a batch in the network alone say together."""
    ours_spent, theirs_spent = BATCH / mine, BATCH / theirs
    return {
        "ours": mine,
        "lightly": theirs,
        "network's share of ours": network / ours_spent,
        "ratio": mine / theirs,
        "bound": theirs_spent / network,
        "without the network": (theirs_spent - network) / (ours_spent - network),
    }


def accuracy(encoder: nn.Module, train: Images, test: Images) -> float:
    """Of a kNN vote over the features of the training images."""
    known, unknown = (embed(encoder, some, to_float) for some in (train, test))
    return knn_accuracy(known, train.labels, unknown, test.labels, len(train.classes))


def loops(threads: int, train: Images) -> dict[str, Any]:
    """What is timed end to end, by name: bfloat16 where the processor has it, lightly where it is installed."""
    ways = [way for way in WAYS if way.precision == "32" or has_bfloat16("cpu")]
    found = {f"ours{way}": partial(ours, train, threads, way) for way in ways}
    if find_spec("lightly") is None:
        return found
    for workers in (0, 1, 2):
        found[f"lightly, {workers} worker{'s' * (workers != 1)}"] = partial(theirs, train, threads, workers)
    if has_bfloat16("cpu"):
        for workers in (0, 1):
            name = f"lightly, bf16, {workers} worker{'s' * (workers != 1)}"
            found[name] = partial(theirs, train, threads, workers, half=True)
    return found


def network_table() -> tuple[list[dict[str, Any]], str]:
    """The network alone in every way, as plain values and as a table."""
    rates = {(batch, way): network_rate(batch, way) for batch in BATCHES for way in WAYS}
    rows = [[str(way).lstrip(", ") or "32", *(f"{rates[batch, way]:,.0f}" for batch in BATCHES)] for way in WAYS]
    values = [{"batch": batch, **way._asdict(), "images_per_second": rate} for (batch, way), rate in rates.items()]
    return values, markdown_table(["images a second", *(f"batches of {batch}" for batch in BATCHES)], rows)


def main() -> None:
    """One thread, then two; lightly's workers from none to two."""
    train, test = images()
    rates, knn, seconds = {}, {}, {}
    network, network_lines = network_table()
    for threads in THREADS:
        for name, train_one in loops(threads, train).items():
            rates[threads, name], encoder = train_one()
            knn[threads, name] = accuracy(encoder, train, test)
    rows = [
        [f"{name}, {threads} thread{'s' * (threads > 1)}", f"{rate:,.0f}", f"{knn[threads, name]:.1%}"]
        for (threads, name), rate in rates.items()
    ]
    if find_spec("lightly") is None:
        print(markdown_table(["", "images a second", "kNN accuracy"], rows), network_lines, sep="\n\n")
        print("lightly is not installed, so there is nothing to compare with, and no results are written")
        return
    for threads in THREADS:
        seconds[threads] = parts(train, threads)
    best = max(rate for (_, name), rate in rates.items() if name.startswith("lightly") and "bf16" not in name)
    compared = {
        "one core": against(rates[1, "ours"], rates[1, "lightly, 0 workers"], seconds[1]["network"]),
        "two cores": against(rates[2, "ours"], best, seconds[2]["network"]),
    }
    ratios = [
        [cores, *(f"{x:{FORMATS.get(name, '.2f')}}" for name, x in found.items())] for cores, found in compared.items()
    ]
    split = [
        [f"{n} thread{'s' * (n > 1)}", *(f"{1000 * x:.1f}" for x in found.values())] for n, found in seconds.items()
    ]
    lines = [
        "# Training: speed end to end",
        "",
        f"SimCLR with the small network on {IMAGES:,} images of 32×32 RGB, batches of {BATCH}, {EPOCHS} epochs.",
        "Written by `python -m benchmarks.train`.",
        "",
        machine_line(),
        "",
        markdown_table(["", "images a second", "kNN accuracy"], rows),
        "",
        "Compiled runs are timed from their second epoch on.",
        "",
        "All in 32 bits. On one core: both with one thread, lightly's without workers. On two: ours with two threads,",
        f"and the fastest of lightly's. The ratio (aim: {AIM:g}) has a bound, since both train the same network: what",
        "it would be if all else took no time. Last, the ratio of what the two take besides the network.",
        "",
        markdown_table(["images a second", *compared["one core"]], ratios),
        "",
        "The parts of a batch, each by itself, in milliseconds; forward and backward.",
        "",
        markdown_table(["", *seconds[1]], split),
        "",
        "The network alone with its head, one view, one thread: forward, backward and step, the best of 30.",
        "",
        network_lines,
    ]
    content = {
        "runs": [
            {"threads": threads, "what": name, "images_per_second": rate, "knn": knn[threads, name]}
            for (threads, name), rate in rates.items()
        ],
        "network": network,
        "seconds_per_batch": {str(threads): found for threads, found in seconds.items()},
        "compared": compared,
    }
    write_results("train", content, "\n".join(lines))


if __name__ == "__main__":
    main()
