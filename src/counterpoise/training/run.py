"""A run of a task: everything that decides its result; and what watches it."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import psutil
import torch
from threadpoolctl import threadpool_limits

from counterpoise.data.state import check_unchanged, data_state, state_key
from counterpoise.errors import InputError, unknown
from counterpoise.files import make_output_folder, read_json, write_json
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import Exchange
from counterpoise.registry.arguments import Argument, check_value, describe, plain
from counterpoise.training.launch import node
from counterpoise.training.trainer import (
    CHECKPOINT,
    Precision,
    ProcessGroupConfig,
    Strategy,
    check_options,
    check_process_group,
    epochs_done,
    is_harmless,
    resolve,
)

CONTINUED = "as a run of fewer epochs, at other learning rates, so it differs from one that had all its epochs at once"

Data = TypeVar("Data")


@dataclass(frozen=True)
class Metric:
    """How a score is shown: its title, which direction is better, whether it is a share, and what it means."""

    title: str
    better: str = "higher"
    percent: bool = True
    meaning: str = ""


UNIFORMITY = Metric(
    "uniformity",
    "lower",
    percent=False,
    meaning="how evenly the embeddings fill the sphere of all directions: 0 where all are one point, about −4 at best",
)
EFFECTIVE_RANK = Metric(
    "effective rank",
    percent=False,
    meaning="how many dimensions the embeddings really use; a low one means that much of what they could hold is lost",
)


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
        precision: "32", "16-mixed" (CUDA and MPS alone) or "bf16-mixed".
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
        for f in fields(self):
            value = plain(getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            check_value(_described()[f.name], value)
        check_options(self.epochs, self.batch_size, self.accumulate, self.precision, self.device)
        check_process_group(self.process_group(), self.batch_size, self.device)
        check_number("threads", self.threads, at_least=1, whole=True)
        if self.exchange not in get_args(Exchange):
            raise unknown("exchange", self.exchange, get_args(Exchange))

    def process_group(self, rank: int = 0) -> ProcessGroupConfig:
        """The processes that train together."""
        return ProcessGroupConfig(self.devices, self.nodes, self.strategy, rank)


@cache
def _described() -> dict[str, Argument]:
    """The settings by name, with what each takes."""
    return {argument.name: argument for argument in describe("training.run", "Settings").arguments}


@dataclass(frozen=True)
class Run:
    """One method, trained once: everything that decides the result.

    Args:
        method: a slug of the catalogue.
        data: a known set, or a path.
        seed: of data, weights, order and views.
        arguments: of the method.
        imperfect: what is done to the data.
        settings: what all methods of a comparison share.
        task: what the method is to do.
        state: names the state of the user's files; by default the state that they are in now. See `data.state`.
        train_on_all: hold out no image, so that none is scored.
    """

    method: str
    data: str
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    imperfect: tuple[str, ...] = ()
    settings: Settings = Settings()
    task: str = "pretrain"
    state: str | None = None
    train_on_all: bool = False

    def __post_init__(self) -> None:
        if self.state is None:
            object.__setattr__(self, "state", state_key(data_state(self.data, self.settings.data_dir)))

    def config(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "imperfect": list(self.imperfect)}


def load_once(run: Run, load: Callable[..., Data]) -> Data:
    """The data of a run, which is loaded once for all runs on the same files in the same state.

    Args:
        run: whose data it is.
        load: makes it from those of `data`, `imperfect`, `seed`, `size`, `data_dir` and `download` that it has as
            parameters.

    Raises:
        InputError: as `load`; if the files are not in the run's state any more.
    """
    settings = run.settings
    offered = {
        "data": run.data,
        "imperfect": run.imperfect,
        "seed": run.seed,
        "size": settings.size,
        "data_dir": settings.data_dir,
        "download": settings.download,
    }
    wanted = inspect.signature(load).parameters
    return _loaded(load, tuple((name, value) for name, value in offered.items() if name in wanted), run.state)


@lru_cache(maxsize=1)
def _loaded(load: Callable[..., Any], given: tuple[tuple[str, Any], ...], state: str) -> Any:
    arguments = dict(given)
    loaded = load(**arguments)
    check_unchanged(arguments["data"], arguments.get("data_dir"), state)  # afterwards, so that no change slips between
    return loaded


def begin(run: Run, folder: Path) -> list[int]:
    """Make a folder the run's own, by its `config.json`.

    A folder belongs to a run once there is a checkpoint or a result in it; before, a run of another configuration may
    take its place. A run that is asked for more epochs than it had goes on from its checkpoint; its configuration tells
    after which epochs it did so, as `continued`.

    Returns:
        Those epochs.

    Raises:
        InputError: if the folder holds a run of another configuration, naming what differs, or what is not ours.
    """
    config, path = run.config(), make_output_folder(folder, "run") / "config.json"
    before = read_json(path) if path.exists() else {}
    continued = before.pop("continued", [])
    if before == config:
        return continued
    checkpoint, result = folder / CHECKPOINT, folder / "result.json"
    if checkpoint.exists() and _only_longer(before, config):
        continued = sorted({*continued, epochs_done(checkpoint)})
        result.unlink(missing_ok=True)
    elif checkpoint.exists() or result.exists():
        raise InputError(
            f"{folder}: holds a run of another configuration ({differences(before, config)}); choose another folder"
        )
    else:
        continued = []
    write_json(path, config | ({"continued": continued} if continued else {}))
    return continued


def _only_longer(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a configuration differs from an earlier one by more epochs alone."""
    settings = {**now["settings"], "epochs": before["settings"].get("epochs")}
    return {**now, "settings": settings} == before and now["settings"]["epochs"] > settings["epochs"]


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two configurations, in words.

    >>> differences({"seed": 0, "settings": {"epochs": 2}}, {"seed": 0, "settings": {"epochs": 1}, "task": "x"})
    "epochs: 2, now 1; task: not given, now 'x'"
    """
    before, now = _flat(before), _flat(now)
    both = {
        name: [repr(flat[name]) if name in flat else "not given" for flat in (before, now)] for name in before | now
    }
    return "; ".join(f"{name}: {old}, now {new}" for name, (old, new) in both.items() if old != new)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with its settings and the method's arguments beside the rest."""
    nested = {name for name, value in config.items() if isinstance(value, dict)}
    flat = {name: value for name, value in config.items() if name not in nested}
    return {**flat, **{name: value for part in sorted(nested) for name, value in config[part].items()}}


def run_once(run: Run, folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, kept in the run's folder; or what it found there earlier.

    The folder gets `config.json` first and `result.json` last: where that is, the run is complete. Only the first of
    several machines writes it.

    Args:
        run: what is to be run.
        folder: of this run alone; made where it is missing.
        work: gives the result. Its `warnings` are joined by those that were given on the way, by whichever library, but
            for what `is_harmless`; its `memory_mb` is measured here.

    Raises:
        InputError: if the folder holds a run of another configuration, or what counterpoise did not write.
    """
    continued = begin(run, folder)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    with (
        warnings.catch_warnings(record=True) as caught,
        peak_memory(run.settings.device) as memory,
        processor_threads(run.settings.threads),
    ):
        warnings.simplefilter("always", UserWarning)
        result = work()
    if node() > 0:
        return result
    found = [f"went on after {_listed(continued)}: {CONTINUED}"] if continued else []
    found += [" ".join(str(w.message).split()) for w in caught if not is_harmless(w.message, w.category)]
    result |= {"warnings": list(dict.fromkeys([*result["warnings"], *found])), "memory_mb": memory.peak}
    result |= {"device": resolve(run.settings.device), "continued": continued}
    write_json(folder / "result.json", result)
    return result


def _listed(epochs: list[int]) -> str:
    return f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs))}"


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
    if resolve(device) == "cuda":
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
