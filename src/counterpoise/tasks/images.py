"""What all tasks share whose methods train an encoder of images: data, method, training, and what a run's folder holds.

The images that a score needs labels of are held out *before* the data was made imperfect: so a score tells what the
features hold, not how well the reader copes with the imperfection.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor, nn

from counterpoise import catalogue
from counterpoise.arguments import describe
from counterpoise.data import Images, load, make_imperfect
from counterpoise.data.views import Views, to_float
from counterpoise.errors import InputError, unknown
from counterpoise.files import read_json, written
from counterpoise.fitting import OnlineProbe, Team, fit
from counterpoise.launching import launch, node
from counterpoise.measure import collapse
from counterpoise.method import Method
from counterpoise.nets import backbone, embed
from counterpoise.ops.processes import exchanging
from counterpoise.tasks.runs import Run, Settings, processor_threads, run_once

NEIGHBOURS = 20
HELD_OUT = 200  # labelled images per class for the probes; fewer where a fifth of the class is less
GALLERY = 500  # test images kept with their features, for the report's pictures


class Prepared(NamedTuple):
    """Images to pretrain on (imperfect), labelled ones for the probes (clean, held out), and unseen ones to score."""

    train: Images
    probe: Images
    test: Images


Score = Callable[[Method, Prepared, Tensor], dict[str, Any]]
Source = Callable[[Run], Prepared]


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
    if run.task not in tasks:
        raise InputError(f"method '{run.method}' does not serve the task {run.task}; it serves: {', '.join(tasks)}")
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


def images_of(run: Run) -> Prepared:
    """The images of a run; those to score it by are of the same classes as those to learn from."""
    settings = run.settings
    return prepare(run.data, run.imperfect, run.seed, settings.size, settings.data_dir, settings.download)


def check(run: Run, scored: bool = False, source: Source = images_of) -> Prepared:
    """Refuse a run that cannot work, before anything is written: its data is loaded and its method built.

    Args:
        run: what is to be run.
        scored: whether it needs labels to be scored by.
        source: gives the run's images.

    Returns:
        The run's images.

    Raises:
        InputError: for whatever is at fault.
    """
    prepared = source(run)
    if len(prepared.test) < 2:
        raise InputError(f"{run.data}: expected at least 2 test images, got {len(prepared.test)}; more data is needed")
    if scored and not len(prepared.probe):
        raise InputError(f"{run.data}: has no labels to score by; `counterpoise train` needs none")
    build(run, prepared.train)
    return prepared


def facts(prepared: Prepared) -> dict[str, Any]:
    """What a result tells of its images: classes, counts, sizes, notes and shape."""
    classes, counts = prepared.test.classes, {name: x.counts().tolist() for name, x in prepared._asdict().items()}
    if prepared.train.classes != classes:  # it is judged by classes that training has not seen
        known, new = [0] * len(prepared.train.classes), [0] * len(classes)
        counts = {name: [*new, *found] if name == "train" else [*found, *known] for name, found in counts.items()}
        classes = (*classes, *prepared.train.classes)
    return {
        "classes": list(classes),
        "counts": counts,
        "sizes": {name: len(images) for name, images in prepared._asdict().items()},
        "notes": list(dict.fromkeys([*prepared.train.notes, *prepared.test.notes])),
        "shape": list(prepared.test.pixels.shape[1:]),
    }


def train_and_score(
    run: Run,
    folder: Path,
    score: Score,
    *,
    source: Source = images_of,
    loggers: Sequence[str] = (),
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train and score one run in its folder, going on where an earlier call was stopped.

    The folder gets `config.json`, the logs, `last.ckpt`, `encoder.safetensors`, `gallery.npz` and, last of all,
    `result.json`: where that is, the run is complete and is not run again.

    Args:
        run: what is to be run.
        folder: of this run alone.
        score: of the trained method: from its images and its features of the test images to `metrics`, `groups`,
            `per_class` and `diagnostics`.
        source: gives the run's images.
        loggers: where the curve goes besides; see `fitting.fit`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The content of `result.json`.

    Raises:
        InputError: if the folder holds a run of another configuration, or the configuration is at fault.
    """

    def work() -> dict[str, Any]:
        if run.settings.team().size > 1:
            launch(
                _train_together,
                (run, folder, source, tuple(loggers), progress),
                run.settings.devices,
                run.settings.nodes,
            )
            if node() > 0:
                return {"seed": run.seed, "status": "done", "metrics": {}, "warnings": []}
            # What they have trained is in the checkpoint: from here on it is a run that has all its epochs behind it.
        return _score_trained(run, folder, score, source(run), tuple(loggers), progress, tuple(callbacks))

    return run_once(run, folder, work)


def _score_trained(
    run: Run,
    folder: Path,
    score: Score,
    prepared: Prepared,
    loggers: tuple[str, ...],
    progress: bool,
    callbacks: tuple[Callback, ...],
) -> dict[str, Any]:
    method = build(run, prepared.train)
    curve = _train(run, method, prepared, folder, loggers, progress, callbacks)
    result: dict[str, Any] = {"seed": run.seed, "status": "done", "warnings": _left_out(prepared)}
    features = embed(method.encoder, prepared.test, to_float)
    if found := collapse(features):
        result["warnings"].append(found)
    result |= score(method, prepared, features)
    result["diagnostics"] |= method.diagnostics(*prepared)
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


def _train_together(
    rank: int, run: Run, folder: Path, source: Source, loggers: tuple[str, ...], progress: bool
) -> None:
    """What each of several processes does: only train; the last checkpoint has it all."""
    with processor_threads(run.settings.threads), exchanging(run.settings.exchange):
        prepared = source(run)
        _train(run, build(run, prepared.train), prepared, folder, loggers, progress, team=run.settings.team(rank))


def _left_out(prepared: Prepared) -> list[str]:
    """What is told of files that could not be read."""
    files = list(dict.fromkeys(name for images in prepared for name in images.unreadable))
    more = ", …" if len(files) > 3 else ""
    return [f"{len(files)} unreadable files left out: {', '.join(files[:3])}{more}"] if files else []


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
    told = {name: config[name] for name in ("task", "method", "data", "seed", "arguments")}
    run = Run(**told, settings=Settings(**config["settings"]))
    # Through the method, which may have made another encoder of the backbone.
    encoder = _assemble(run, result["shape"], result["sizes"]["train"], len(result["classes"])).encoder
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{folder / 'encoder.safetensors'}: damaged or missing ({str(error)[:100]})") from error
    return encoder.eval(), {**config, "shape": result["shape"]}
