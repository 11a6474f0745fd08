"""A run of a task: everything that decides its result; and what watches it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from threadpoolctl import threadpool_limits

from counterpoise.errors import InputError, unknown
from counterpoise.files import make_folder, read_json, write_json
from counterpoise.fitting import Precision, Strategy, Team, check_options, check_team
from counterpoise.launching import node
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import Exchange

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Metric:
    """How a score is told: its title, which direction is better, and whether it is a share."""

    title: str
    better: str = "higher"
    percent: bool = True


@dataclass(frozen=True)
class Settings:
    """What all methods of a comparison share.

    Args:
        backbone: "small", or any model of timm or torchvision by name ("timm:resnet18", "torchvision:resnet18").
        size: height and width of the images in pixels; `None` takes them as they are, users' own up to 64.
        augmentations: steps of the random views, as in "crop=0.5,flip,jitter,grayscale,blur" (see `Views.of`); `None`
            takes all but the blur.
        epochs: passes over the training images.
        batch_size: images a step, of all devices together; at most all of them.
        precision: "32", "16-mixed" or "bf16-mixed".
        accumulate: batches whose gradients are added up before each step of the optimiser.
        data_dir: where full data sets lie.
        download: let torchvision download a data set.
        device: "auto", "cpu", "cuda" or "mps".
        threads: processor threads of each run; part of what decides a result, since it changes how sums are rounded.
            Several runs at a time (`jobs`) use a processor's cores better than several threads, but for large networks.
        devices: processes on each machine that divide every batch, each on an accelerator of its own if there are any.
        nodes: machines that train together; see docs/scaling.md.
        strategy: what Lightning does with the processes: "ddp" copies the network to each, "fsdp" divides it (CUDA).
        exchange: how objectives see the rows of all processes: "gather", "ring" (least memory), or "none", where each
            process is a batch of its own.
    """

    backbone: str = "small"
    size: int | None = None
    augmentations: str | None = None
    epochs: int = 10
    batch_size: int = 256
    precision: Precision = "32"
    accumulate: int = 1
    data_dir: str | None = None
    download: bool = False
    device: str = "auto"
    threads: int = 1
    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    exchange: Exchange = "gather"

    def __post_init__(self) -> None:
        check_options(self.epochs, self.batch_size, self.accumulate, self.precision, self.device)
        check_team(self.team(), self.batch_size, self.device)
        check_number("threads", self.threads, at_least=1)
        if self.exchange not in get_args(Exchange):
            raise unknown("exchange", self.exchange, get_args(Exchange))

    def team(self, rank: int = 0) -> Team:
        """The processes that train together."""
        return Team(self.devices, self.nodes, self.strategy, rank)


@dataclass(frozen=True)
class Run:
    """One method, trained once: everything that decides the result."""

    method: str
    data: str
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    imperfect: tuple[str, ...] = ()
    settings: Settings = Settings()
    task: str = "pretrain"

    def config(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "imperfect": list(self.imperfect)}


def run_once(run: Run, folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, kept in the run's folder; or what it found there earlier.

    The folder gets `config.json` first and `result.json` last: where that is, the run is complete. Only the first of
    several machines writes it.

    Args:
        run: what is to be run.
        folder: of this run alone; made where it is missing.
        work: gives the result, whose `warnings` are joined by those that our code gave on the way; its `memory_mb` is
            measured here.

    Raises:
        InputError: if the folder holds a run of another configuration.
    """
    config = run.config()
    make_folder(folder)
    if (folder / "config.json").exists() and read_json(folder / "config.json") != config:
        raise InputError(f"{folder}: holds a run of another configuration; choose another folder")
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    write_json(folder / "config.json", config)
    with (
        warnings.catch_warnings(record=True) as caught,
        peak_memory(run.settings.device) as memory,
        processor_threads(run.settings.threads),
    ):
        warnings.simplefilter("always", UserWarning)
        result = work()
    if node() > 0:
        return result
    told = list(dict.fromkeys(str(w.message) for w in caught if _is_ours(w)))
    result |= {"warnings": [*result["warnings"], *told], "memory_mb": memory.peak}
    write_json(folder / "result.json", result)
    return result


@contextmanager
def processor_threads(count: int) -> Iterator[None]:
    """Let PyTorch, and the libraries beside it, use so many threads while the block runs."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class Peak:
    """The most memory seen, in MB."""

    peak: float = 0.0


@contextmanager
def peak_memory(device: str, every: float = 0.05) -> Iterator[Peak]:
    """Watch this process's resident memory, or the accelerator's where it is used, while the block runs."""
    peak = Peak()
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            peak.peak = torch.cuda.max_memory_allocated() / 1e6
        return
    process, stop = psutil.Process(os.getpid()), threading.Event()

    def watch() -> None:
        while True:
            peak.peak = max(peak.peak, process.memory_info().rss / 1e6)
            if stop.wait(every):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _is_ours(warning: warnings.WarningMessage) -> bool:
    return PACKAGE in Path(warning.filename).parents
