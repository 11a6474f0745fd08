"""A run of a task: everything that decides its result; and what watches it."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast, get_args

import psutil
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from counterpoise.data.identity import Identity
from counterpoise.data.images import Images
from counterpoise.data.state import State, check_unchanged, data_state, files_state, state_key
from counterpoise.data.strips import Strips
from counterpoise.errors import InputError, unknown
from counterpoise.files import make_output_folder, read_json, write_json
from counterpoise.nets.weights import RUN_FILES
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import Exchange
from counterpoise.registry.arguments import Argument, check_value, given_values, plain
from counterpoise.registry.signatures import describe
from counterpoise.training.precision import Precision, settled
from counterpoise.training.trainer import (
    CHECKPOINT,
    ProcessGroupConfig,
    Strategy,
    check_budget,
    check_device,
    check_options,
    check_process_group,
    epochs_done,
    resolve,
)

Data = TypeVar("Data")
EPOCHS = 10  # unless a number of epochs, steps or minutes is given


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
    """What all methods of a comparison share, whatever the task.

    Args:
        epochs: passes over the training data; 10 where no other measure of the training's length is given.
        data_dir: where full data sets lie.
        download: let torchvision download a data set.
        device: "auto", "cpu", "cuda" or "mps".
        threads: processor threads of each run; part of what decides a result, since it changes how sums are rounded.
            Several runs at a time (`jobs`) use a processor's cores better than several threads, but for large networks.
    """

    epochs: int | None = None
    data_dir: str | None = None
    download: bool = False
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        described = _described(cast(Any, type(self)))
        for f in fields(self):
            value = plain(getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            check_value(described[f.name], value)
        self.settle()
        self.check()

    def settle(self) -> None:
        """Put in place of what was left open what it comes to, so that a run is named by what it does."""
        if self.epochs is None:
            object.__setattr__(self, "epochs", EPOCHS)

    def check(self) -> None:
        """Refuse values that are out of range, by name."""
        if self.epochs is not None:
            check_number("epochs", self.epochs, at_least=1, whole=True)
        check_number("threads", self.threads, at_least=1, whole=True)
        check_device(self.device)

    def process_group(self, rank: int = 0) -> ProcessGroupConfig:
        """The processes that train together: one, unless the settings have more."""
        return ProcessGroupConfig()


@dataclass(frozen=True)
class LearnerSettings(Settings):
    """What the methods of a task share that train a network in batches.

    Args:
        backbone: "small", or any model of timm or torchvision by name ("timm:resnet18", "torchvision:resnet18").
        augmentations: steps of the random views, as in "crop=0.5,flip,jitter,grayscale,blur" (see `Views.of`); `None`
            takes the task's own: all but the blur, or a mild crop where another view would be another image.
        batch_size: items a step, of all devices together; at most all of them.
        steps: steps of the optimiser in place of epochs: the schedule is fitted to them, and the last epoch may be cut.
        minutes: time to train each run, in place of epochs. It is turned into steps once, by a short measurement of the
            baseline on this machine, and all methods get these steps; see docs/budget.md.
        precision: "32", "16-mixed" (CUDA and MPS alone) or "bf16-mixed"; "auto" takes "bf16-mixed" where the device has
            it in hardware, else "32".
        compile: compile the backbones by `torch.compile`, which needs a C++ compiler; faster after the first steps.
        accumulate: batches whose gradients are added up before each step of the optimiser.
        init: weights that every encoder starts from: the folder of a run, a file of weights (safetensors, or a state
            dict), or "pretrained" for those that timm or torchvision has for the backbone.
        freeze: keep the encoder as it starts; only what a method puts on it learns.
        given: models that methods stand on, as in "teacher=wide,start=runs/big": of each role a recipe that the task
            knows, a backbone, BACKBONE@FILE with weights, the folder of a run, or "none".
    """

    backbone: str = "small"
    augmentations: str | None = None
    batch_size: int = 256
    steps: int | None = None
    minutes: float | None = None
    precision: Precision = "32"
    compile: bool = False
    accumulate: int = 1
    init: str | None = None
    freeze: bool = False
    given: str | None = None

    def settle(self) -> None:
        if self.steps is None and self.minutes is None:
            super().settle()
        if self.precision == "auto":
            check_device(self.device)
            object.__setattr__(self, "precision", settled(self.precision, resolve(self.device)))

    def check(self) -> None:
        super().check()
        _check_length(self.epochs, self.steps, self.minutes)
        given_values(self.given)
        if self.freeze and not self.init:
            raise InputError("freeze: keeps an encoder as it starts; expected init with it, got random weights")
        check_options(self.batch_size, self.accumulate, self.precision, self.device, self.compile)


def _check_length(epochs: int | None, steps: int | None, minutes: float | None) -> None:
    """Refuse more than one measure of how long is trained."""
    given = {"epochs": epochs, "steps": steps, "minutes": minutes}
    named = [f"{name} {value}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"epochs: expected only one of epochs, steps and minutes, got {' and '.join(named)}")
    if minutes is not None:
        check_number("minutes", minutes, above=0)
    else:
        check_budget(epochs, steps)


@dataclass(frozen=True)
class ImageSettings(LearnerSettings):
    """What the methods of a task on images share.

    Args:
        size: height and width of the images in pixels; `None` takes them as they are, users' own up to 64.
        devices: processes on each machine that divide every batch, each on an accelerator of its own if there are any.
        nodes: machines that train together; see docs/scaling.md.
        strategy: what Lightning does with the processes: "ddp" copies the network to each, "fsdp" divides it (CUDA).
        exchange: how objectives see the rows of all processes: "gather", "ring" (least memory), or "none", where each
            process is a batch of its own.
        group: a factor of the test images, such as "domain": the main metric for each of its values, and the worst.
        leave_out: train without the images of this value of `group`, which stay in the test set: so its score shows how
            well a method does on what it has not seen.
    """

    size: int | None = None
    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    exchange: Exchange = "gather"
    group: str | None = None
    leave_out: str | None = None

    def check(self) -> None:
        super().check()
        if self.leave_out is not None and self.group is None:
            raise InputError("leave_out: is a value of the factor that group names; expected group with it")
        check_process_group(self.process_group(), self.batch_size, self.device)
        if self.exchange not in get_args(Exchange):
            raise unknown("exchange", self.exchange, get_args(Exchange))

    def process_group(self, rank: int = 0) -> ProcessGroupConfig:
        """The processes that train together."""
        return ProcessGroupConfig(self.devices, self.nodes, self.strategy, rank)


def weight_files(settings: Settings) -> list[Path]:
    """The files of the user's that the settings take weights from."""
    if not isinstance(settings, LearnerSettings):
        return []
    values = [
        settings.init or "",
        *(value.partition("@")[2] or value for value in given_values(settings.given).values()),
    ]
    paths = [Path(value).expanduser() for value in values if value]
    folders = [path for path in paths if path.is_dir()]
    return [path for path in paths if path.is_file()] + [
        folder / name for folder in folders for name in (*RUN_FILES, "config.json") if (folder / name).exists()
    ]


def other_state(settings: Settings) -> State:
    """The state of the files that the settings name besides the data: of weights, and of the data to adapt to."""
    return {**files_state(weight_files(settings)), **_state_of(getattr(settings, "target", None), settings.data_dir)}


def _state_of(target: str | None, data_dir: str | None) -> State:
    return data_state(target, data_dir) if target else {}


@dataclass(frozen=True)
class TargetSettings(ImageSettings):
    """What the methods of a task on images of two domains share.

    Args:
        target: data of the domain to adapt to, as for `data`; its labels only score.
    """

    target: str | None = None


@cache
def _described(kind: type[Settings]) -> dict[str, Argument]:
    """The settings of a class by name, with what each takes."""
    module = kind.__module__.removeprefix("counterpoise.")
    return {argument.name: argument for argument in describe(module, kind.__name__).arguments}


def make_settings(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments; `None` leaves the default.

    Raises:
        InputError: for an unknown one, naming the nearest that is known; for a value out of range.

    Examples:
        >>> make_settings(Settings, {"epochs": 3, "device": None}).epochs
        3
    """
    known = [f.name for f in fields(kind)]
    for name in options:
        if name not in known:
            raise unknown("setting", name, known)
    return kind(**{name: value for name, value in options.items() if value is not None})


@dataclass(frozen=True)
class Scores:
    """What a task finds of a trained learner.

    Attributes:
        metrics: figures by name, those of the task's `metrics`.
        groups: accuracy of groups of classes by name, such as "head" and "tail".
        per_class: accuracy of each class, `None` for a class without test items; `None` where there are no classes.
        diagnostics: figures by name that help to understand the others.
        warnings: what a user should know of the run, one sentence each.
        items: of each metric that is a mean over the labelled test items what each of them adds, so that the mean of
            these numbers is the metric; as many numbers, in the same order, for all metrics.
        identity: which test items these are, where that is known; see `data.identity`.
        gallery: test images and their features, for the report's pictures.
        strips: pictures in rows and columns, such as masks, samples or renders, for the report.
    """

    metrics: dict[str, float]
    groups: dict[str, float] = field(default_factory=dict)
    per_class: list[float | None] | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    items: Mapping[str, Tensor] = field(default_factory=dict)
    identity: Identity | None = None
    gallery: tuple[Images, Tensor] | None = None
    strips: Strips | None = None


class Result(TypedDict, total=False):
    """The content of a run's `result.json`; of a run that failed or was stopped, the first two keys and `error`.

    Attributes:
        seed: of the run.
        status: "done", "failed" or "stopped".
        error: what a run failed with.
        warnings: as of `Scores`, and those that were given on the way, by whichever library.
        metrics: as of `Scores`; so are `groups`, `per_class` and `diagnostics`.
        seconds: training time.
        memory_mb: the most memory in use.
        curve: one dictionary an epoch: epoch, loss, seconds so far, and what the probe measured.
        parameters: how many numbers the kept network has.
        classes: names of the classes.
        counts: items of each class, by part of the data.
        sizes: items, by part of the data.
        notes: what was done to the data.
        shape: of one input.
        items: what the data consists of, where it is not what the task's usually does: "rows".
        columns: the names of the columns of rows.
        value_range: of the files' pixels, where they hold other numbers than bytes.
        given: by role, the models that it stood on: where each is, and its time and main score where it was trained.
        offered: what the method's constructor was given of the data, as far as it is plain numbers.
        device: that was used: "cpu", "cuda" or "mps".
        continued: after which epochs the run was asked for more.
        folder: of the run, below that of the comparison.
    """

    seed: int
    status: str
    error: str
    warnings: list[str]
    metrics: dict[str, float]
    groups: dict[str, float]
    per_class: list[float | None] | None
    diagnostics: dict[str, float]
    seconds: float
    memory_mb: float
    curve: list[dict[str, float]]
    parameters: int
    classes: list[str]
    counts: dict[str, list[int]]
    sizes: dict[str, int]
    notes: list[str]
    shape: list[int]
    items: str
    columns: list[str]
    value_range: list[float]
    given: dict[str, Any]
    offered: dict[str, Any]
    device: str
    continued: list[int]
    folder: str


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
        files: names the state of the other files that the settings name, such as weights; by default the state they are
            in now.
        division: seed of what loading draws, such as the division into train and test where the data has none; by
            default the run's own. Runs that share it score the same items, so that none of them trains on what another
            is scored by.
        tuning: score by data that is held out of training for that alone; what otherwise scores is then not looked at.
    """

    method: str
    data: str
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    imperfect: tuple[str, ...] = ()
    settings: Settings = ImageSettings()
    task: str = "pretrain"
    state: str | None = None
    train_on_all: bool = False
    files: str | None = None
    division: int | None = None
    tuning: bool = False

    def __post_init__(self) -> None:
        if self.files is None:
            object.__setattr__(self, "files", state_key(other_state(self.settings)))
        if self.state is None:
            object.__setattr__(self, "state", state_key(data_state(self.data, self.settings.data_dir)))

    def config(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "imperfect": list(self.imperfect)}


def load_once(run: Run, load: Callable[..., Data]) -> Data:
    """The data of a run, which is loaded once for all runs on the same files in the same state.

    The state of the data, and of the data to adapt to, is checked when it is loaded; that of files of weights at each
    call, since every run reads them anew.

    Args:
        run: whose data it is.
        load: makes it from those of `data`, `imperfect`, `seed`, `division`, `size`, `target`, `data_dir` and
            `download` that it has as parameters.

    Raises:
        InputError: as `load`; if the files are not in the run's state any more.
    """
    settings = run.settings
    offered = {
        "data": run.data,
        "imperfect": run.imperfect,
        "seed": run.seed,
        "division": run.seed if run.division is None else run.division,
        "size": getattr(settings, "size", None),
        "target": getattr(settings, "target", None),
        "data_dir": settings.data_dir,
        "download": settings.download,
    }
    wanted = inspect.signature(load).parameters
    given = tuple((name, value) for name, value in offered.items() if name in wanted)
    target = offered["target"]
    loaded, others = _loaded(load, given, run.state, target, settings.data_dir, run.files if target else None)
    if state_key({**files_state(weight_files(settings)), **others}) != run.files:
        raise InputError("files that the settings name were changed while the command ran; start it again")
    return loaded


@lru_cache(maxsize=1)
def _loaded(
    load: Callable[..., Any],
    given: tuple[tuple[str, Any], ...],
    state: str,
    target: str | None,
    data_dir: str | None,
    files: str | None,
) -> tuple[Any, State]:
    """What `load` makes of its arguments, and the state of the target's files after it.

    Args:
        load: makes the data.
        given: its arguments.
        state: that the data's files must be in.
        target: the data to adapt to, if there is any.
        data_dir: where full data sets lie.
        files: names the state of the target's files, among others, so that another state is loaded anew.
    """
    arguments = dict(given)
    loaded = load(**arguments)
    check_unchanged(arguments["data"], arguments.get("data_dir"), state)  # afterwards, so that no change slips between
    return loaded, _state_of(target, data_dir)


def begin(run: Run, folder: Path) -> list[int]:
    """Make a folder the run's own, by its `config.json`.

    A folder belongs to a run once there is a checkpoint or a result in it; before, a run of another configuration may
    take its place. A run that is asked for more epochs or steps than it had goes on from its checkpoint; its
    configuration says after which epochs it did so, as `continued`.

    Returns:
        Those epochs.

    Raises:
        InputError: if the folder holds a run of another configuration, naming what differs, or what is not ours.
    """
    config, path = run.config(), make_output_folder(folder, "run") / "config.json"
    before = read_json(path) if path.exists() else {}
    continued = before.pop("continued", [])
    before = _with_defaults(before, run) if before else before
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


def _with_defaults(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """An earlier configuration, completed by the defaults of what was added to configurations since."""
    missing = {f.name: f.default for f in fields(Run) if f.name not in config and f.default is not MISSING}
    kind = type(run.settings)
    settings = {f.name: f.default for f in fields(kind)} | config["settings"]
    return {**config, **missing, "settings": settings}


def _only_longer(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a configuration differs from an earlier one by more epochs alone, or by more steps alone."""
    old, new = before["settings"], now["settings"]
    for name in ("epochs", "steps"):
        had, asked = old.get(name), new.get(name)
        if had is not None and asked is not None and asked > had:
            return {**now, "settings": {**new, name: had}} == before
    return False


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two configurations, in words.

    Examples:
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
