"""The pretrain task: which method learns the most useful features from these images?

Every method trains the same backbone on the same images, views and number of epochs. What it is scored by is the
backbone's features on test images, read with labelled images that were held out *before* the data was made
imperfect: so a score tells what the features hold, not how well the reader copes with the imperfection.
"""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import psutil
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from counterpoise import catalogue
from counterpoise.arguments import describe
from counterpoise.data import Images, load, make_imperfect
from counterpoise.data.views import Views, to_float
from counterpoise.errors import InputError, unknown
from counterpoise.files import make_folder, read_json, write_json, written
from counterpoise.fitting import OnlineProbe, Precision, Strategy, Team, check_options, check_team, fit
from counterpoise.launching import launch, node
from counterpoise.measure import (
    accuracy,
    alignment,
    balanced_accuracy,
    class_accuracy,
    collapse,
    effective_rank,
    few_shot_accuracy,
    group_accuracy,
    knn_predict,
    linear_probe,
    probe_factors,
    stratified_split,
    tolerance,
    uniformity,
)
from counterpoise.method import Method
from counterpoise.nets import backbone, embed
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import Exchange, exchanging


@dataclass(frozen=True)
class Metric:
    """How a score is told: its title, which direction is better, and whether it is a share."""

    title: str
    better: str = "higher"
    percent: bool = True


METRICS = {
    "knn": Metric("kNN accuracy"),
    "linear": Metric("linear probe accuracy"),
    "balanced": Metric("balanced linear accuracy"),
    "few_shot": Metric("5-shot accuracy"),
    "alignment": Metric("alignment", "lower", percent=False),
    "uniformity": Metric("uniformity", "lower", percent=False),
    "tolerance": Metric("tolerance", "higher", percent=False),
    "effective_rank": Metric("effective rank", "higher", percent=False),
}
PACKAGE = Path(__file__).parents[1]
MAIN = "knn"
BASELINE = "simclr"
NEIGHBOURS = 20
HELD_OUT = 200  # labelled images per class for the probes; fewer where a fifth of the class is less
GALLERY = 500  # test images kept with their features, for the report's pictures


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

    def config(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"task": "pretrain", **asdict(self), "imperfect": list(self.imperfect)}


class Prepared(NamedTuple):
    """Images to pretrain on (imperfect), labelled ones for the probes (clean, held out), and unseen ones to score."""

    train: Images
    probe: Images
    test: Images


@lru_cache(maxsize=1)
def prepare(
    data: str, imperfect: tuple[str, ...], seed: int, size: int | None, data_dir: str | None, download: bool
) -> Prepared:
    """The three sets of images of a run; the same for every method of one seed."""
    splits = load(data, size=size, data_dir=data_dir, download=download, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    held = _held_out(splits.train.labels, generator)
    rest = torch.ones(len(splits.train), dtype=torch.bool)
    rest[held] = False
    probe = splits.train.subset(held)
    train, test = make_imperfect(splits._replace(train=splits.train.subset(rest.nonzero().flatten())), imperfect, seed)
    if probe.pixels.shape[1] != test.pixels.shape[1]:  # a tint turned the others from grey to colour
        probe = probe.with_channels(test.pixels.shape[1])
    return Prepared(train, probe, test)


def _held_out(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every class, a fifth of its images, at most `HELD_OUT`; none from a class of one."""
    held = []
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero().flatten()
        count = min(HELD_OUT, max(1, len(members) // 5)) if len(members) > 1 else 0
        held.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(held).sort().values if held else torch.empty(0, dtype=torch.int64)


def build(run: Run, train: Images) -> Method:
    """The method of a run on a fresh backbone, both drawn from the run's seed.

    Raises:
        InputError: for an unknown method or argument, or one out of range.
    """
    return _assemble(run, train.pixels.shape[1:], len(train), len(train.classes))


def _assemble(run: Run, shape: Sequence[int], samples: int, classes: int) -> Method:
    tasks = catalogue.find(run.method).tasks
    known = {argument.name for argument in describe(*catalogue.method_source(run.method)).arguments}
    if "pretrain" not in tasks:
        raise InputError(f"method '{run.method}' does not pretrain; it serves: {', '.join(tasks)}")
    for name in run.arguments:
        if name not in known:
            raise unknown(f"argument of {run.method}", name, known)
    channels, height, _ = shape
    torch.manual_seed(run.seed)
    encoder = backbone(run.settings.backbone, channels, height)
    given = {"samples": samples, "classes": classes}
    kind = catalogue.load_class(run.method)
    wanted = inspect.signature(kind).parameters
    steps = run.settings.augmentations
    return kind(
        encoder,
        augment=Views(height) if steps is None else Views.of(height, steps),
        **{name: value for name, value in given.items() if name in wanted},
        **run.arguments,
    )


def check(run: Run, scored: bool = False) -> Prepared:
    """Refuse a run that cannot work, before anything is written: its data is loaded and its method built.

    Args:
        run: what is to be run.
        scored: whether it needs labels to be scored by.

    Returns:
        The run's images.

    Raises:
        InputError: for whatever is at fault.
    """
    prepared = images_of(run)
    if len(prepared.test) < 2:
        raise InputError(f"{run.data}: expected at least 2 test images, got {len(prepared.test)}; more data is needed")
    if scored and not len(prepared.probe):
        raise InputError(f"{run.data}: has no labels to score by; `counterpoise train` needs none")
    build(run, prepared.train)
    return prepared


def images_of(run: Run) -> Prepared:
    """The images of a run."""
    settings = run.settings
    return prepare(run.data, run.imperfect, run.seed, settings.size, settings.data_dir, settings.download)


def facts(prepared: Prepared) -> dict[str, Any]:
    """What a result tells of its images: classes, counts, sizes, notes and shape."""
    return {
        "classes": list(prepared.test.classes),
        "counts": {name: images.counts().tolist() for name, images in prepared._asdict().items()},
        "sizes": {name: len(images) for name, images in prepared._asdict().items()},
        "notes": list(dict.fromkeys([*prepared.train.notes, *prepared.test.notes])),
        "shape": list(prepared.test.pixels.shape[1:]),
    }


def execute(
    run: Run,
    folder: Path,
    *,
    loggers: Sequence[str] = (),
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train and score one run in its folder, going on where an earlier call was stopped.

    The folder gets `config.json`, the logs, `last.ckpt`, `encoder.safetensors`, `gallery.npz` and, last of all,
    `result.json`: where that is, the run is complete and is not run again.

    Returns:
        The content of `result.json`.

    Raises:
        InputError: if the folder holds a run of another configuration, or the configuration is at fault.
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
        if run.settings.team().size > 1:
            launch(_train_together, (run, folder, tuple(loggers), progress), run.settings.devices, run.settings.nodes)
            if node() > 0:
                return {"seed": run.seed, "status": "done", "metrics": {}, "warnings": []}
            # What they have trained is in the checkpoint: from here on it is a run that has all its epochs behind it.
        result = _train_and_score(run, folder, tuple(loggers), progress, tuple(callbacks))
    told = list(dict.fromkeys(str(w.message) for w in caught if _is_ours(w)))
    result |= {"warnings": [*result["warnings"], *told], "memory_mb": memory.peak}
    write_json(folder / "result.json", result)
    return result


def _train_and_score(
    run: Run, folder: Path, loggers: tuple[str, ...], progress: bool, callbacks: tuple[Callback, ...]
) -> dict[str, Any]:
    prepared = images_of(run)
    method = build(run, prepared.train)
    curve = _train(run, method, prepared, folder, loggers, progress, callbacks)
    result: dict[str, Any] = {"seed": run.seed, "status": "done", "warnings": _left_out(prepared)}
    features = embed(method.encoder, prepared.test, to_float)
    if found := collapse(features):
        result["warnings"].append(found)
    result |= score(method, prepared, features)
    result["diagnostics"] = {**_factors(method, prepared, features), **method.diagnostics(*prepared)}
    result |= {"seconds": curve[-1]["seconds"], "curve": curve}
    result["parameters"] = sum(p.numel() for p in method.encoder.parameters())
    result |= facts(prepared)
    _keep_gallery(folder / "gallery.npz", prepared.test, features)
    with written(folder / "encoder.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in method.encoder.state_dict().items()}, aside)
    return result


def _train(
    run: Run,
    method: Method,
    prepared: Prepared,
    folder: Path,
    loggers: tuple[str, ...],
    progress: bool,
    callbacks: tuple[Callback, ...] = (),
    team: Team | None = None,
) -> list[dict[str, float]]:
    settings = run.settings
    labelled = prepared.probe if len(prepared.probe) else None
    return fit(
        method,
        prepared.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=run.seed,
        folder=folder,
        probe=OnlineProbe(labelled, prepared.test, NEIGHBOURS),
        precision=settings.precision,
        accumulate=settings.accumulate,
        loggers=loggers,
        device=settings.device,
        team=team,
        progress=progress,
        callbacks=callbacks,
    )


def _train_together(rank: int, run: Run, folder: Path, loggers: tuple[str, ...], progress: bool) -> None:
    """What each of several processes does: only train; the last checkpoint has it all."""
    with processor_threads(run.settings.threads), exchanging(run.settings.exchange):
        prepared = images_of(run)
        _train(run, build(run, prepared.train), prepared, folder, loggers, progress, team=run.settings.team(rank))


def _left_out(prepared: Prepared) -> list[str]:
    """What is told of files that could not be read."""
    files = list(dict.fromkeys(name for images in prepared for name in images.unreadable))
    more = ", …" if len(files) > 3 else ""
    return [f"{len(files)} unreadable files left out: {', '.join(files[:3])}{more}"] if files else []


def score(method: Method, prepared: Prepared, features: Tensor) -> dict[str, Any]:
    """All metrics of one encoder, and its accuracy per class and per group of classes.

    Args:
        method: for its encoder and its random views.
        prepared: the images; without labels only the geometry is measured.
        features: of the test images, [test, dim].
    """
    _, probe, test = prepared
    metrics: dict[str, float] = {
        "alignment": float(alignment(*_two_views(method, test))),
        "uniformity": float(uniformity(features)),
        "effective_rank": float(effective_rank(features)),
    }
    if not len(probe):
        return {"metrics": metrics, "groups": {}, "per_class": None}
    classes, labels = len(test.classes), test.labels
    known = embed(method.encoder, probe, to_float)
    neighbours = knn_predict(known, probe.labels, features, classes, k=NEIGHBOURS)
    fitted, valid = stratified_split(probe.labels, 0.75, torch.Generator().manual_seed(0))
    linear = linear_probe(known[fitted], probe.labels[fitted], known[valid], probe.labels[valid], classes)
    linear_labels = linear.predict(features)
    metrics |= {
        "knn": accuracy(neighbours, labels),
        "linear": accuracy(linear_labels, labels),
        "balanced": balanced_accuracy(linear_labels, labels, classes),
    }
    if (test.counts() > 1).any():  # it compares images of one class
        metrics["tolerance"] = float(tolerance(features, labels))
    if few := _few_shot(features, labels):
        metrics["few_shot"] = few
    per_class = class_accuracy(neighbours, labels, classes)
    return {
        "metrics": metrics,
        "groups": group_accuracy(neighbours, labels, prepared.train.counts()),
        "per_class": [None if np.isnan(value) else value for value in per_class.tolist()],
    }


def _factors(method: Method, prepared: Prepared, features: Tensor) -> dict[str, float]:
    """What the features tell of all else that is known of the images, `factor NAME`, and the mean of it, `factors`."""
    if not prepared.test.factors:
        return {}
    known = embed(method.encoder, prepared.probe, to_float)
    found = probe_factors(known, prepared.probe.factors, features, prepared.test.factors)
    return {**{f"factor {name}": value for name, value in found.items()}, "factors": float(np.mean([*found.values()]))}


def _few_shot(features: Tensor, labels: Tensor, shots: int = 5, queries: int = 15) -> float | None:
    """5-shot accuracy over at most 5 classes; `None` where fewer than 2 classes have enough test images."""
    enough = int((labels[labels >= 0].bincount() >= shots + queries).sum())
    if enough < 2:
        return None
    return few_shot_accuracy(features, labels, shots=shots, ways=min(5, enough), queries=queries)[0]


@torch.no_grad()
def _two_views(method: Method, images: Images, most: int = 1000) -> tuple[Tensor, Tensor]:
    """Features of two random views of the same test images, the views being the same for every method."""
    some = images.subset(torch.arange(min(most, len(images))))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (embed(method.encoder, some, method.view) for _ in range(2))
    return nn.functional.normalize(first, dim=1), nn.functional.normalize(second, dim=1)


def _keep_gallery(path: Path, images: Images, features: Tensor) -> None:
    count = min(GALLERY, len(images))
    with written(path) as aside:
        np.savez_compressed(
            aside,
            pixels=np.asarray(images.pixels[:count]),
            labels=images.labels[:count].numpy(),
            features=features[:count].half().numpy(),
        )


def load_encoder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained encoder of a run and what it takes, without running any code from the files.

    Args:
        folder: of a finished run.

    Returns:
        The encoder in evaluation mode; the run's configuration, with the `shape` [channels, height, width] it takes.

    Raises:
        InputError: if the folder holds no finished run or its weights are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "result.json").exists():
        raise InputError(f"{folder}: holds no finished run (no result.json)")
    config, result = read_json(folder / "config.json"), read_json(folder / "result.json")
    told = {name: config[name] for name in ("method", "data", "seed", "arguments")}
    run = Run(**told, settings=Settings(**config["settings"]))
    # Through the method, which may have made another encoder of the backbone.
    encoder = _assemble(run, result["shape"], result["sizes"]["train"], len(result["classes"])).encoder
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{folder / 'encoder.safetensors'}: damaged or missing ({str(error)[:100]})") from error
    return encoder.eval(), {**config, "shape": result["shape"]}


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
