"""FlowAug's pass over a batch beside a step of the classifier that it feeds; how far its flow exchanges grounds.

Times are taken in turn, in one process on one thread: by the clock, and of the processor, which another load on the
machine changes less. Exits with status 1 where the pass of the flow as it is by default takes more than half of the
step's time by the clock, or an image comes back with an error above 1e-4: `python -m benchmarks.flowaug`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import machine_line, markdown_table, write_results
from counterpoise.classify.cross_entropy import CrossEntropy
from counterpoise.classify.flowaug import MODES, FlowAug
from counterpoise.data.views import Views, to_float
from counterpoise.nets.backbones import backbone
from counterpoise.nets.flows import Flow, train_flow

SHAPE, BATCH, CLASSES, TURNS = (3, 28, 28), 256, 10, 9
MOST, ERROR = 0.5, 1e-4
STEP = "a step of the classifier"
DEFAULT = "default"
NARROW = {"width": 24, "couplings": 2}
SIZES: dict[str, dict[str, int]] = {DEFAULT: {}, "narrow": NARROW}
SQUARES, EPOCHS = 512, 40


class Times(NamedTuple):
    """Seconds of each turn."""

    clock: list[float]
    processor: list[float]

    def medians(self) -> tuple[float, float]:
        """By the clock, and of the processor."""
        return statistics.median(self.clock), statistics.median(self.processor)


def classifier_step(pixels: Tensor, labels: Tensor) -> Callable[[], None]:
    """Views, both passes and the optimiser's step of the smallest backbone."""
    views = Views.of(SHAPE[1], "crop=0.8,flip")
    method = CrossEntropy(backbone("small", SHAPE[0], SHAPE[1]), CLASSES, augment=views)
    optimizer = method.make_optimizer(method.parameter_groups())
    index = torch.arange(BATCH)

    def step() -> None:
        optimizer.zero_grad()
        method.batch_loss((pixels, labels, index)).backward()
        optimizer.step()

    return step


def in_turn(calls: Mapping[str, Callable[[], object]]) -> dict[str, Times]:
    """The times of each call, after one that does not count."""
    for call in calls.values():
        call()
    found = {name: Times([], []) for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            clock, processor = time.perf_counter(), time.process_time()
            call()
            found[name].clock.append(time.perf_counter() - clock)
            found[name].processor.append(time.process_time() - processor)
    return found


def not_undone(flow: Flow, x: Tensor) -> float:
    """The largest difference of an image that is decoded from its own code."""
    with torch.no_grad():
        z, nu = flow.encode(x)
        return float((flow.decode(nu, z) - x).abs().max())


def squares() -> tuple[Tensor, Tensor]:
    """Images of a black square in one of four places on a ground of any colour, and these colours, from 0 to 1."""
    rng = torch.Generator().manual_seed(0)
    colours = torch.rand(SQUARES, 3, generator=rng)
    images = colours[:, :, None, None].expand(-1, -1, 8, 8).clone()
    for image, place in zip(images, torch.randint(4, (SQUARES,), generator=rng).tolist(), strict=True):
        top, left = 1 + place // 2 * 4, 1 + place % 2 * 4
        image[:, top : top + 2, left : left + 2] = 0
    return images.mul(255).round().to(torch.uint8), colours


def share_of_ground(**size: int) -> float:
    """How far grounds go to those of the images whose code is taken: 0 where they stay, 1 where they are exchanged."""
    images, colours = squares()
    torch.manual_seed(0)
    flow = Flow(tuple(images.shape[1:]), code=4, **size)
    train_flow(flow, images, to_float, EPOCHS, batch_size=32)
    with torch.no_grad():
        z, nu = flow.encode(to_float(images))
        edges = flow.decode(nu, z.roll(1, 0))[:, :, 0].mean(2)  # no square reaches the first row
    own, others = 2 * colours - 1, 2 * colours.roll(1, 0) - 1
    return 1 - float((edges - others).abs().mean() / (own - others).abs().mean())


def page(found: Mapping[str, Times], worst: float, error: float, shares: Mapping[str, float]) -> str:
    """The table and what it means."""
    step = found[STEP].medians()
    table = [
        [
            name,
            *(f"{1000 * value:.1f}" for value in medians),
            *(f"{a / b:.2f}" for a, b in zip(medians, step, strict=True)),
        ]
        for name, medians in ((name, times.medians()) for name, times in found.items())
    ]
    verdict = "reached" if worst <= MOST else f"missed: the slowest mode takes {worst:.2f}"
    return "\n\n".join(
        [
            "# FlowAug beside a step of the classifier",
            f"Batches of {BATCH} images of {SHAPE[1]} × {SHAPE[2]} pixels in colour, of which FlowAug changes half; "
            "the step is that of the smallest backbone with crops and flips. Medians by the clock and of the "
            f"processor's time, in turn, in one process of one thread. The narrow flow has "
            f"{NARROW['couplings']} couplings of {NARROW['width']} channels at each scale.",
            markdown_table(["what", "ms", "ms, processor", "of a step", "of a step, processor"], table),
            f"The target for the default flow is {MOST} of a step by the clock: {verdict}. Decoding undoes encoding to "
            f"{error:.0e}; the target is {ERROR:.0e}.",
            f"Grounds are exchanged in part: of {SQUARES} images of a black square on a plain ground, after {EPOCHS} "
            "passes over them, they go "
            + " and ".join(f"{share:.0%} ({name} flow)" for name, share in shares.items())
            + " of the way to that of the image whose code is taken.",
            f"{machine_line()} `python -m benchmarks.flowaug`",
        ]
    )


def main() -> None:
    """Compare, write the results and judge them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, labels = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8), torch.arange(BATCH) % CLASSES
    flows = {name: Flow(SHAPE, **size) for name, size in SIZES.items()}
    calls: dict[str, Callable[[], object]] = {STEP: classifier_step(pixels, labels)}
    for name, flow in flows.items():
        calls |= {f"{mode}, {name} flow": partial(FlowAug(flow, mode), pixels) for mode in MODES}
    found = in_turn(calls)
    ratios = {name: times.medians()[0] / found[STEP].medians()[0] for name, times in found.items()}
    worst = max(ratios[f"{mode}, {DEFAULT} flow"] for mode in MODES)
    error = max(not_undone(flow, to_float(pixels)) for flow in flows.values())
    shares = {name: share_of_ground(**size) for name, size in SIZES.items()}
    seconds = {name: times._asdict() for name, times in found.items()}
    results = {"seconds": seconds, "ratios": ratios, "error": error, "shares_of_ground": shares}
    write_results("flowaug", results, page(found, worst, error, shares))
    if worst > MOST or error > ERROR:
        sys.exit(f"{worst:.2f} of a step, an error of {error:.0e}")


if __name__ == "__main__":
    main()
