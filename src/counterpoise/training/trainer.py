"""Training a learner on data: the loop, what it shows while it runs, and how it goes on after a stop."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, Sampler

from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.files import aside_of, make_folder, written
from counterpoise.learners.learner import Learner, broken_parameter, diverged, divergence_named
from counterpoise.ops.checks import check_number
from counterpoise.training.compiling import check_compiler, compiled, uncompiled
from counterpoise.training.precision import Precision, check_precision, settled

Strategy = Literal["ddp", "fsdp"]
LOGGERS = ("tensorboard", "wandb", "mlflow")
DEVICES = ("auto", "cpu", "cuda", "mps")
CHECKPOINT = "last.ckpt"
TO_ROUNDING = "a compiled run is the same as one that was not stopped to rounding only"
HARMLESS = (
    "does not have many workers",  # images lie in memory, and a batch is fetched by one indexing operation
    "GPU available but not used",  # as `device` asks
    "weights_only",  # checkpoints are always loaded safely
    "LeafSpec",  # a deprecation inside PyTorch
    "smaller than the logging interval",  # of a graph, which is one batch
    "module(s) in eval mode at the start of training",  # frozen encoders, by intention
)
"""Parts of what Lightning and PyTorch say on runs as they should be, which concerns no user."""
WITHOUT_EXTRAS: dict[str, Any] = {
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}
"""What Lightning's trainer is not to do by itself; sampling and checkpoints are ours."""


Probe = Callable[[Any], "tuple[dict[str, float], str | None]"]
"""What is measured after an epoch of the learner: figures by name, and the name of what is wrong, if anything is."""


@runtime_checkable
class Batched(Protocol):
    """Data that comes in batches: `data.__getitems__(indices)` returns one, as the learner's `loss` takes it."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int], /) -> Any: ...


def fit(
    learner: Learner,
    data: Batched,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
    seed: int,
    folder: Path,
    probe: Probe | None = None,
    precision: Precision = "32",
    compile: bool = False,
    accumulate: int = 1,
    loggers: tuple[str, ...] = (),
    device: str = "auto",
    process_group: ProcessGroupConfig | None = None,
    progress: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> list[dict[str, float]]:
    """Train `learner` on `data`, or go on where an earlier call in the same folder stopped.

    Every epoch draws its random numbers from (seed, epoch) alone. So a run that was stopped and resumed reaches,
    on one machine's CPU, the same weights to the last bit as a run that was not. A learner with nothing to train sees
    all data once, by `start_epoch`.

    The budget is a number of epochs, or of steps of the optimiser: then the schedule ends with the last step, which may
    cut the last epoch short, and a method whose epochs have fewer batches gets more epochs.

    Args:
        learner: what to train; changed in place.
        data: the training data: any `Dataset` with `__len__` and `__getitems__`, which returns a whole batch.
        epochs: passes over the data; either these or `steps` are given.
        steps: steps of the optimiser; of a learner whose players take turns, batches.
        batch_size: items a step; at most all of them. A last smaller batch is dropped.
        seed: decides the order of the data and what is drawn at random, such as views.
        folder: gets `last.ckpt` and `curve.csv` after every epoch; an existing `last.ckpt` is resumed from.
        probe: what to measure of the learner after every epoch; see `measure.online.OnlineProbe`.
        precision: "32", or mixed precision in float16 or bfloat16; "auto" is bfloat16 where the device has it in
            hardware, else "32".
        compile: compile the learner's backbones by `torch.compile`; probes and `start_epoch` call them as they are.
        accumulate: batches whose gradients are added up before each step of the optimiser.
        loggers: where the curve goes besides: any of "tensorboard", "wandb", "mlflow".
        device: "auto", "cpu", "cuda" or "mps".
        process_group: the processes among which each batch is divided, of which this is one; see `launch.launch`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        One dictionary per epoch: epoch (from 1), loss, seconds so far, and what `probe` measured.

    Raises:
        InputError: for numbers out of range, or a checkpoint that is damaged or belongs to another configuration.
    """
    check_budget(epochs, steps)
    check_options(batch_size, accumulate, precision, device, compile)
    check_loggers(loggers)
    process_group = process_group or ProcessGroupConfig()
    precision = settled(precision, resolve(device))
    make_folder(folder)
    if not learner.trains:
        return _apply(learner, data, seed, folder, probe, device, callbacks)
    check_sizes(len(data), batch_size, process_group)
    learner.check_training(accumulate, precision, process_group.size)
    history = History(probe if process_group.strategy == "ddp" else None, folder / "curve.csv")
    checkpoint = folder / CHECKPOINT
    loader = _make_loader(learner, data, batch_size, seed, process_group)
    before = read_checkpoint(checkpoint) if checkpoint.exists() else None
    budget = None if steps is None else StepBudget(steps, loader, accumulate)
    learner.max_steps = steps
    _warn_of_substitutes(batch_size, len(data), accumulate, len(loader))
    with quiet(), history.keeping_warnings():
        if compile and before and not _same_bits_compiled(learner, device, process_group):
            warnings.warn(f"resumed after epoch {before['epoch'] + 1}: {TO_ROUNDING}")
        trainer = lightning.Trainer(
            max_epochs=epochs if budget is None else budget.epochs(before),
            accumulate_grad_batches=accumulate,
            logger=[make_logger(name, folder) for name in loggers],
            callbacks=[
                *([budget] if budget else []),
                StartEpoch(data, seed, process_group.rank),
                history,
                *callbacks,
                *([RichProgressBar()] if progress else []),
                AtomicCheckpoint(checkpoint),
            ],
            enable_progress_bar=progress,
            default_root_dir=folder,
            **_hardware(device, precision, process_group),
            **WITHOUT_EXTRAS,
        )
        _check_granted(trainer, precision, process_group)
        with compiled(learner) if compile else nullcontext():
            _fit_from(trainer, learner, loader, checkpoint)
    return history.rows


def _make_loader(
    learner: Learner, data: Batched, batch_size: int, seed: int, process_group: ProcessGroupConfig
) -> DataLoader[Any]:
    """What gives this process its share of the learner's batches."""
    order = Shuffle(len(data), seed)
    batches = DistributedBatchSampler(order, learner, min(batch_size, len(data)), process_group)
    return DataLoader(cast(Any, data), batch_sampler=batches, collate_fn=_as_fetched)


def _hardware(device: str, precision: str, process_group: ProcessGroupConfig) -> dict[str, Any]:
    """What Lightning's trainer is to run on, and how."""
    kind, several = resolve(device), process_group.size > 1
    return {
        "accelerator": kind,
        "devices": process_group.devices,
        "num_nodes": process_group.nodes,
        "strategy": process_group.strategy if several else "auto",
        "sync_batchnorm": several and kind == "cuda",
        "precision": precision,
    }


def _fit_from(trainer: lightning.Trainer, learner: Learner, loader: DataLoader[Any], checkpoint: Path) -> None:
    """Train from a checkpoint on, where there is one, or from the start."""
    resume = checkpoint if checkpoint.exists() else None
    try:
        trainer.fit(learner, loader, ckpt_path=resume, weights_only=True)
    except (RuntimeError, KeyError, ValueError) as error:
        if resume and "state_dict" in str(error):
            raise InputError(f"{checkpoint}: belongs to another configuration; choose another folder") from error
        raise


def _apply(
    learner: Learner,
    data: Batched,
    seed: int,
    folder: Path,
    probe: Probe | None,
    device: str,
    callbacks: tuple[Callback, ...],
) -> list[dict[str, float]]:
    """What `fit` does for a learner with nothing to train: it sees all data once, as before a first epoch."""
    start = time.perf_counter()
    torch.manual_seed(epoch_seed(seed, 0) + (1 << 62))
    learner.to(resolve(device)).start_epoch(data, 0)
    learner.eval()
    row: dict[str, float] = {"epoch": 1, "seconds": time.perf_counter() - start}
    if probe is not None:
        row |= probe(learner)[0]
    write_curve(folder / "curve.csv", [row])
    return [row]


def _warn_of_substitutes(batch_size: int, images: int, accumulate: int, batches: int) -> None:
    """Say what is put in the place of what was asked for."""
    if batch_size > images:
        warnings.warn(f"batch_size: {batch_size} images asked for, {images} used, since there are no more")
    if batches % accumulate:
        warnings.warn(
            f"accumulate: {accumulate} batches a step asked for, but an epoch has {batches}, so that its last step "
            f"adds up {batches % accumulate}"
        )
    for name in sorted(os.environ):
        if name.startswith("PL_TRAINER_"):
            warnings.warn(f"{name}={os.environ[name]} in the environment changes how Lightning trains")


def _check_granted(trainer: lightning.Trainer, precision: str, process_group: ProcessGroupConfig) -> None:
    """Refuse to go on where Lightning put something else in the place of what it was asked for."""
    found = {"precision": trainer.precision.removesuffix("-true"), "devices": trainer.num_devices}
    found |= {"nodes": trainer.num_nodes}
    for name, wanted in {
        "precision": precision,
        "devices": process_group.devices,
        "nodes": process_group.nodes,
    }.items():
        if found[name] != wanted:
            raise InputError(f"{name}: asked for {wanted}, for which Lightning takes {found[name]} here")


def _same_bits_compiled(learner: Learner, device: str, process_group: ProcessGroupConfig) -> bool:
    """Whether a resumed run that is compiled computes what an uninterrupted one does: where all batches are of one
    size, in one process on the CPU, so that all steps run the same code."""
    one_size = type(learner).batches is Learner.batches
    return one_size and resolve(device) == "cpu" and process_group.size == 1


def check_budget(epochs: int | None, steps: int | None) -> None:
    """Refuse a training that has no end or two.

    Examples:
        >>> check_budget(None, 500)
        >>> check_budget(3, 500)
        Traceback (most recent call last):
        counterpoise.errors.InputError: epochs: expected either epochs or steps, got 3 and 500
    """
    if epochs is None and steps is None:
        raise InputError("epochs: expected either epochs or steps, got neither")
    if epochs is not None and steps is not None:
        raise InputError(f"epochs: expected either epochs or steps, got {epochs} and {steps}")
    for name, value in {"epochs": epochs, "steps": steps}.items():
        if value is not None:
            check_number(name, value, at_least=1, whole=True)


def check_options(batch_size: int, accumulate: int, precision: str, device: str, compile: bool = False) -> None:
    """Refuse what `fit` cannot do, by name, before anything is loaded."""
    check_number("batch_size", batch_size, at_least=2, whole=True)
    check_number("accumulate", accumulate, at_least=1, whole=True)
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    check_device(device)
    check_precision(precision, resolve(device))
    if compile:
        check_compiler(resolve(device))


def check_device(device: str) -> None:
    """Refuse a device that is not known, or not there.

    Examples:
        >>> check_device("cpu")
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, True):
        raise InputError(f"device: '{device}' is not available on this machine")


def resolve(device: str) -> str:
    """The kind of device that is used: "auto" takes CUDA, or else MPS, or else the CPU.

    Examples:
        >>> resolve("cpu")
        'cpu'
    """
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def check_sizes(items: int, batch_size: int, process_group: ProcessGroupConfig) -> None:
    """Refuse fewer items than give each process two in a batch, since one alone has nothing to be compared with.

    Examples:
        >>> check_sizes(3, 4, ProcessGroupConfig(devices=2))
        Traceback (most recent call last):
        counterpoise.errors.InputError: images: expected at least 4 to train on, 2 for each of 2 processes, got 3
    """
    if min(items, batch_size) < 2 * process_group.size:
        each = f", 2 for each of {process_group.size} processes" if process_group.size > 1 else ""
        raise InputError(f"images: expected at least {2 * process_group.size} to train on{each}, got {items}")


def check_loggers(names: Iterable[str]) -> None:
    """Refuse loggers that are not known, or whose library is missing.

    Examples:
        >>> check_loggers(["tensorbord"])
        Traceback (most recent call last):
        counterpoise.errors.InputError: logger 'tensorbord' is not known; did you mean 'tensorboard'? Known: ...
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if find_spec(name) is None:
            raise MissingExtra(name, name)


def check_process_group(process_group: ProcessGroupConfig, batch_size: int, device: str) -> None:
    """Refuse, by name, processes that cannot train together here."""
    check_number("devices", process_group.devices, at_least=1, whole=True)
    check_number("nodes", process_group.nodes, at_least=1, whole=True)
    if process_group.strategy not in get_args(Strategy):
        raise unknown("strategy", process_group.strategy, get_args(Strategy))
    if batch_size < 2 * process_group.size:
        raise InputError(
            f"batch_size: expected at least 2 images for each of {process_group.size} processes, got {batch_size}"
        )
    kind = resolve(device)
    if kind == "cuda" and process_group.devices > torch.cuda.device_count():
        raise InputError(
            f"devices: expected at most the {torch.cuda.device_count()} of this machine, got {process_group.devices}"
        )
    if process_group.strategy == "fsdp" and kind != "cuda":
        raise InputError("strategy: 'fsdp' needs CUDA, which is not used here; 'ddp' works on any device")
    if process_group.strategy == "fsdp" and process_group.size == 1:
        raise InputError("strategy: 'fsdp' divides a network among processes; expected more than one of them")
    if kind == "mps" and process_group.size > 1:
        raise InputError("devices: 'mps' is one device; several processes need 'cpu' or 'cuda'")


class ProcessGroupConfig(NamedTuple):
    """The processes that train together: `devices` on each of `nodes` machines; this one has the number `rank`."""

    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    rank: int = 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.devices * self.nodes


class Shuffle(Sampler[int]):
    """All indices in an order drawn from (seed, epoch)."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        return iter(torch.randperm(self.length, generator=generator).tolist())


class DistributedBatchSampler(BatchSampler):
    """This process's share of every batch that the learner makes; shares differ by one image at most."""

    def __init__(self, order: Shuffle, learner: Learner, batch_size: int, process_group: ProcessGroupConfig):
        super().__init__(order, batch_size, drop_last=True)
        self.learner, self.process_group = learner, process_group
        self.left: int | None = None  # batches until the end of training, where a number of steps limits it

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that nothing is drawn before the epoch is known: a resumed loader is started before it is.
        for batch in islice(self.learner.batches(torch.tensor(list(self.sampler)), self.batch_size), self.left):
            size = self.process_group.size
            if len(batch) < 2 * size:
                raise InputError(
                    f"batch_size: expected 2 images for each of {size} processes, got a batch of {len(batch)}"
                )
            yield batch[self.process_group.rank :: size]


class StepBudget(Callback):
    """Ends training after a number of steps, with the end of an epoch that is cut to fit.

    Lightning's own limit counts a step for every player that takes a turn, and ends in the middle of an epoch.
    """

    def __init__(self, steps: int, loader: DataLoader[Any], accumulate: int):
        self.steps, self.accumulate, self.each = steps, accumulate, math.ceil(len(loader) / accumulate)
        self.batches = cast(DistributedBatchSampler, loader.batch_sampler)

    def epochs(self, checkpoint: dict[str, Any] | None) -> int:
        """The epochs that the steps take if none has fewer batches than others.

        Args:
            checkpoint: that training goes on from, which may hold epochs that were cut.
        """
        planned = math.ceil(self.steps / self.each)
        if checkpoint is None:
            return planned
        schedules, behind = checkpoint["lr_schedulers"], checkpoint["epoch"] + 1
        done = schedules[0]["last_epoch"] if schedules else checkpoint["global_step"]
        return behind if done >= self.steps else max(planned, behind + 1)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.batches.left = (self.steps - steps_done(trainer)) * self.accumulate

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        behind = trainer.current_epoch + 1
        if behind == trainer.max_epochs and steps_done(trainer) < self.steps:  # some epochs had fewer batches
            trainer.fit_loop.max_epochs = behind + 1


def steps_done(trainer: lightning.Trainer) -> int:
    """Steps behind a trainer, by its schedule, which steps once for all players of a batch."""
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    return schedules[0].last_epoch if schedules else trainer.global_step


class StartEpoch(Callback):
    """Lets the learner see all data, and seeds: resuming needs no state of the generators.

    Random views and dropout draw from (seed, epoch, process); what the method does before the epoch, in all processes
    alike, from (seed, epoch).
    """

    def __init__(self, data: Batched, seed: int, rank: int = 0):
        self.data, self.seed, self.rank = data, seed, rank

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for config in trainer.lr_scheduler_configs:  # a checkpoint may be of a run of fewer epochs, with other rates
            if isinstance(schedule := config.scheduler, LambdaLR):
                groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
                for group, peak, pace in groups:
                    group["lr"] = peak * pace(schedule.last_epoch)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch) + (1 << 62))
        with divergence_named(pl_module), uncompiled(pl_module):
            pl_module.start_epoch(self.data, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:  # at the first batch, not before: the loader's start draws a number of its own
            torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch) + 1 + (self.rank << 48))


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of a run; even, so that its successor serves a second stream."""
    return 2 * (seed * 1_000_003 + epoch)


class History(Callback):
    """The learning curve, one row an epoch: in checkpoints, a CSV file, the progress bar and the loggers.

    Checkpoints hold the warnings, too, so that a run that was stopped, or that other processes trained, has them all.
    """

    def __init__(self, probe: Probe | None, path: Path):
        self.probe, self.path = probe, path
        self.rows: list[dict[str, float]] = []
        self.warnings: list[str] = []
        self.collapse: str | None = None
        self.earlier = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.earlier = self.rows[-1]["seconds"] if self.rows else 0.0
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if broken := broken_parameter(pl_module):
            raise diverged(pl_module, broken)
        seconds = self.earlier + time.perf_counter() - self.start
        logged = trainer.callback_metrics
        row = {"epoch": trainer.current_epoch + 1, "loss": float(logged["loss"]), "seconds": seconds}
        row |= {name: float(value) for name, value in logged.items() if name.startswith("loss_")}
        if self.probe is not None:
            with divergence_named(pl_module), uncompiled(pl_module):
                figures, found = self.probe(pl_module)
            row |= figures
            pl_module.log_dict(figures, prog_bar=True, rank_zero_only=True)
            if found and found != self.collapse and trainer.is_global_zero:
                warnings.warn(f"epoch {row['epoch']}: {found}")
            self.collapse = found
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        write_curve(self.path, self.rows)

    @contextmanager
    def keeping_warnings(self) -> Iterator[None]:
        """Note what is warned of while the block runs, and at its end warn of what earlier calls had noted."""
        show, now = warnings.showwarning, []

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            now.append(str(message))
            if not is_harmless(message, category):
                self.warnings = list(dict.fromkeys([*self.warnings, str(message)]))
            show(message, category, *place, **more)

        with warnings.catch_warnings():
            warnings.showwarning = note
            yield
        for message in self.warnings:
            if message not in now:
                warnings.warn(message)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "warnings": self.warnings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.warnings = list(dict.fromkeys([*state_dict.get("warnings", []), *self.warnings]))


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Write a learning curve as CSV, one row an epoch."""
    with written(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[-1])
        writer.writeheader()
        writer.writerows(rows)


class AtomicCheckpoint(Callback):
    """Writes the checkpoint after every epoch: aside first, then renamed, so that it is never half there."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        part = trainer.strategy.broadcast(aside_of(self.path))  # the first process's name, for all
        trainer.save_checkpoint(part)  # in all processes, since each may hold a part of it
        if trainer.is_global_zero:
            os.replace(part, self.path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded without running any code from it.

    Raises:
        InputError: if the file is missing, truncated, or holds anything but tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises many kinds: zip errors, pickle errors, end of file
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole checkpoint that can be loaded safely ({reason})") from error


def epochs_done(path: Path) -> int:
    """How many epochs lie behind a checkpoint.

    Raises:
        InputError: as `read_checkpoint`.
    """
    return read_checkpoint(path)["epoch"] + 1


def make_logger(name: str, folder: Path) -> Logger:
    """A Lightning logger by name, writing below `folder`."""
    if name == "tensorboard":
        return TensorBoardLogger(folder, name="tensorboard", version="")
    try:
        if name == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            return WandbLogger(name=folder.name, save_dir=folder, project="counterpoise")
        if name == "mlflow":
            from lightning.pytorch.loggers import MLFlowLogger

            return MLFlowLogger(experiment_name="counterpoise", run_name=folder.name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name, name) from error
    raise unknown("logger", name, LOGGERS)


def is_harmless(message: Warning | str, category: type[Warning]) -> bool:
    """Whether a library's warning changes no result: of `HARMLESS`, or one that is meant for programmers."""
    if not issubclass(category, (UserWarning, RuntimeWarning)):
        return True
    return any(text in str(message) for text in HARMLESS)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without what it says on every run, and with Ctrl-C as Python has it."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for text in HARMLESS:
            warnings.filterwarnings("ignore", f".*{re.escape(text)}")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        except SystemExit as stop:  # so Lightning ends on Ctrl-C, having made the process deaf to a second one
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _as_fetched(batch: Any) -> Any:
    """Images are fetched a whole batch at a time, so there is nothing to collate."""
    return batch
