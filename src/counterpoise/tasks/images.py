"""What all tasks share whose methods train an encoder of images: data, method, training, and what a run's folder holds.

The images that a score needs labels of are held out *before* the data was made imperfect: so a score tells what the
features hold, not how well the reader copes with the imperfection.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save
from torch import Tensor, nn

from counterpoise import __version__
from counterpoise.data import Images, load, make_imperfect
from counterpoise.data.images import fair_sample, joined
from counterpoise.data.views import Views, to_float
from counterpoise.errors import InputError, first_few, printable, unknown
from counterpoise.files import read_json, written
from counterpoise.learners.method import Method
from counterpoise.measure.undertraining import few_steps, flat_probe, poor_shape
from counterpoise.nets import backbone, embed
from counterpoise.ops.processes import exchanging
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import describe
from counterpoise.training.launch import launch, node
from counterpoise.training.run import Run, Settings, load_once, processor_threads, run_once
from counterpoise.training.trainer import OnlineProbe, ProcessGroupConfig, check_images, fit

NEIGHBOURS = 20
HELD_OUT = 200  # labelled images per class for the probes; fewer where a fifth of the class is less
FACTS = ("shape", "classes", "value_range")  # of its data, what a user of the encoder must know
ALL_IMAGES = ("pretrain", "retrieve", "few-shot")  # the tasks that can train on all images
WATCHED = 1000  # training images that the curve and the pictures are made of where none is held out
GALLERY = 500  # test images kept with their features, for the report's pictures


class Prepared(NamedTuple):
    """Images to pretrain on (imperfect), labelled ones for the probes (clean, held out), and unseen ones to score."""

    train: Images
    probe: Images
    test: Images


NO_SCORES: dict[str, Any] = {"metrics": {}, "groups": {}, "per_class": None, "diagnostics": {}}
Score = Callable[[Method, Prepared, Tensor], dict[str, Any]]
Source = Callable[[Run], Prepared]


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
    given = {"samples": samples, "classes": classes, "batch_size": run.settings.batch_size}
    known = {argument.name for argument in describe(*catalogue.method_source(run.method)).arguments} - {*given}
    if run.task not in tasks:
        raise InputError(f"method '{run.method}' does not serve the task {run.task}; it serves: {', '.join(tasks)}")
    for name in run.arguments:
        if name not in known:
            raise unknown(f"argument of {run.method}", name, known)
    channels, height, _ = shape
    torch.manual_seed(run.seed)
    encoder = backbone(run.settings.backbone, channels, height)
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
    return load_once(run, prepare)


def everything(run: Run) -> Prepared:
    """All images of a run to train on, the test's included, and none to score it by.

    Raises:
        InputError: for a task or an imperfection that does not go with it.
    """
    if run.task not in ALL_IMAGES:
        raise InputError(f"all: is for the tasks {', '.join(ALL_IMAGES)}, not for {run.task}")
    if run.imperfect:
        raise InputError("all: trains on every image as it is; expected no imperfection of the data beside it")
    train = joined(images_of(run))
    nothing = train.subset(torch.arange(0))
    return Prepared(train, nothing, nothing)


def held_out(run: Run, prepared: Prepared) -> str:
    """How many images are trained on, and how many are not, in one line."""
    train, probe, test = map(len, prepared)
    if run.train_on_all:
        return f"training on all {train:,} images; none is held out, so there are no scores"
    offer = "; --all trains on them, too" if run.task in ALL_IMAGES else ""
    return f"training on {train:,} images; held out: {probe:,} for the probes and {test:,} for the test{offer}"


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
    prepared = (everything if run.train_on_all else source)(run)
    if len(prepared.test) < 2 and not run.train_on_all:
        raise InputError(f"{run.data}: expected at least 2 test images, got {len(prepared.test)}; more data is needed")
    if scored and not len(prepared.probe):
        raise InputError(f"{run.data}: {_unscored(prepared.train)}; `counterpoise train` needs none")
    if source is images_of:
        _check_classes(run.data, prepared, scored)
    settings, count = run.settings, len(prepared.train)
    check_images(count, settings.batch_size, settings.process_group())
    shares = settings.process_group().size if settings.exchange == "none" else 1
    build(run, prepared.train).check_images(prepared.train, min(settings.batch_size, count), shares)
    return prepared


def _unscored(train: Images) -> str:
    """Why there are no labelled images to score by."""
    counts = train.counts()
    if not counts.any():
        return "has no labels to score by"
    largest = train.classes[int(counts.argmax())]
    return (
        "expected a class with at least 2 labelled training images, since the probes hold out one of 2, got none; "
        f"the largest, '{largest}', has {int(counts.max())}"
    )


def _check_classes(data: str, prepared: Prepared, scored: bool) -> None:
    """Refuse images that would be scored by classes which training has no labels of, or by one class alone."""
    learnt, judged = ([images.classes[i] for i in images.counts().nonzero()] for images in prepared[1:])
    if scored and len(learnt) == 1:
        raise InputError(
            f"{data}: has one class, '{learnt[0]}', so there is nothing to tell apart; expected two or more"
        )
    if learnt and not judged and scored:
        raise InputError(f"{data}: its test images have no labels to score by; `counterpoise train` needs none")
    if learnt and judged and not {*learnt} & {*judged}:
        raise InputError(
            f"{data}: train and test have no class in common (train: {first_few(learnt)}; test: {first_few(judged)})"
            "; the tasks retrieve and few-shot are for classes that training has not seen"
        )


def facts(prepared: Prepared) -> dict[str, Any]:
    """What a result tells of its images: classes, counts, sizes, notes and shape."""
    classes, counts = prepared.test.classes, {name: x.counts().tolist() for name, x in prepared._asdict().items()}
    if prepared.train.classes != classes:  # it is judged by classes that training has not seen
        known, new = [0] * len(prepared.train.classes), [0] * len(classes)
        counts = {name: [*new, *found] if name == "train" else [*found, *known] for name, found in counts.items()}
        classes = (*classes, *prepared.train.classes)
    value_range = getattr(prepared.train, "value_range", None)  # of images of more than 8 bits
    return {
        "classes": list(classes),
        "counts": counts,
        "sizes": {name: len(images) for name, images in prepared._asdict().items()},
        "notes": list(dict.fromkeys([*prepared.train.notes, *prepared.test.notes])),
        "shape": list(prepared.test.pixels.shape[1:]),
        **({} if value_range is None else {"value_range": list(value_range)}),
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
        loggers: where the curve goes besides; see `trainer.fit`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The content of `result.json`.

    Raises:
        InputError: if the folder holds a run of another configuration, or the configuration is at fault.
    """
    source = everything if run.train_on_all else source

    def work() -> dict[str, Any]:
        if run.settings.process_group().size > 1:
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
    watched = _watched(prepared)
    features = embed(method.encoder, watched, to_float)
    result["warnings"] += undertraining(run, prepared, curve, features)
    if run.train_on_all:
        result["warnings"].append(f"no scores: all {len(prepared.train)} images were trained on and none is held out")
        result |= NO_SCORES
    else:
        result |= score(method, prepared, features)
        result["diagnostics"] |= method.diagnostics(*prepared)
    result |= {"seconds": curve[-1]["seconds"], "curve": curve}
    result["parameters"] = sum(p.numel() for p in method.encoder.parameters())
    result |= facts(prepared)
    _keep_gallery(folder / "gallery.npz", watched, features)
    keep_encoder(folder, method.encoder, run.config(), result)
    return result


def _watched(prepared: Prepared) -> Images:
    """The images whose features the curve's rank and uniformity and the pictures are of: unseen ones if there are."""
    train, _, test = prepared
    return test if len(test) else train.subset(fair_sample(train.labels, WATCHED))


def _train(
    run: Run,
    method: Method,
    prepared: Prepared,
    folder: Path,
    loggers: tuple[str, ...],
    progress: bool,
    callbacks: tuple[Callback, ...] = (),
    process_group: ProcessGroupConfig | None = None,
) -> list[dict[str, float]]:
    settings = run.settings
    labelled = prepared.probe if len(prepared.probe) and prepared.test.counts().any() else None
    return fit(
        method,
        prepared.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=run.seed,
        folder=folder,
        probe=OnlineProbe(labelled, _watched(prepared), NEIGHBOURS),
        precision=settings.precision,
        accumulate=settings.accumulate,
        loggers=loggers,
        device=settings.device,
        process_group=process_group,
        progress=progress,
        callbacks=callbacks,
    )


def _train_together(
    rank: int, run: Run, folder: Path, source: Source, loggers: tuple[str, ...], progress: bool
) -> None:
    """What each of several processes does: only train; the last checkpoint has it all."""
    with processor_threads(run.settings.threads), exchanging(run.settings.exchange):
        prepared = source(run)
        _train(
            run,
            build(run, prepared.train),
            prepared,
            folder,
            loggers,
            progress,
            process_group=run.settings.process_group(rank),
        )


def undertraining(run: Run, prepared: Prepared, curve: Sequence[dict[str, float]], features: Tensor) -> list[str]:
    """The warnings for a run that was trained too little, or to no use; see `measure.undertraining`."""
    settings, same = run.settings, prepared.train.classes == prepared.test.classes
    # Classes that training has not seen need more dimensions than those that it has.
    needed = len(prepared.train.classes) if same and catalogue.find(run.method).labels else None
    found = [
        few_steps(len(prepared.train), settings.batch_size, settings.epochs, settings.accumulate),
        flat_probe([row["knn"] for row in curve if "knn" in row]),
        *poor_shape(features, needed),
    ]
    return [warning for warning in found if warning]


def _left_out(prepared: Prepared) -> list[str]:
    """What is told of files that could not be read."""
    files = list(dict.fromkeys(name for images in prepared for name in images.unreadable))
    reasons = {name: f"{name} ({reason})" for images in prepared for name, reason in images.reasons.items()}
    named = ", ".join(reasons.get(name, name) for name in files[:3])
    more = ", …" if len(files) > 3 else ""
    return [f"{len(files)} unreadable files left out: {named}{more}"] if files else []


def _keep_gallery(path: Path, images: Images, features: Tensor) -> None:
    shown = fair_sample(images.labels, GALLERY)
    with written(path) as aside:
        np.savez_compressed(
            aside,
            pixels=images.pixels[shown].numpy(),
            labels=images.labels[shown].numpy(),
            features=features[shown].half().numpy(),
        )


def keep_encoder(folder: Path, encoder: nn.Module, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write a run's `encoder.safetensors`, with what another program must know to use it."""
    with written(folder / "encoder.safetensors") as aside:
        aside.write_bytes(encoder_bytes(encoder, encoder_metadata(config, facts)))


def encoder_bytes(encoder: nn.Module, metadata: dict[str, str]) -> bytes:
    """An encoder's weights as the content of a safetensors file.

    Written by the caller, since safetensors' own files can be read by their owner alone, whatever the umask says.
    """
    return save({name: value.contiguous() for name, value in encoder.state_dict().items()}, metadata=metadata)


def encoder_metadata(
    config: dict[str, Any], facts: dict[str, Any], pixel_range: tuple[int, int] = (-1, 1)
) -> dict[str, str]:
    """What another program must know to use an encoder: where it comes from, its classes, and the input it takes.

    Args:
        config: of its run.
        facts: of its data: `shape` [channels, height, width], `classes`, and `value_range` where the files held other
            numbers than bytes.
        pixel_range: the numbers that a black and a white pixel are in the encoder's input.

    Returns:
        Texts, since safetensors and ONNX hold nothing else; lists as JSON.

    >>> found = encoder_metadata({"method": "dcl", "seed": 0}, {"shape": [1, 28, 28], "classes": ["cat", "dog"]})
    >>> found["classes"], found["channels"], found["height"], found["pixel_range"]
    ('["cat", "dog"]', '1', '28', '[-1, 1]')
    """
    known = {"method", "task", "data", "seed"} & config.keys()
    about = {"counterpoise": config, "version": __version__, **{name: config[name] for name in sorted(known)}}
    about |= {name: facts[name] for name in FACTS if facts.get(name) is not None}
    if len(facts["shape"]) == 3:
        about |= dict(zip(("channels", "height", "width"), facts["shape"], strict=True))
        about |= {"pixel_range": list(pixel_range)}
    return {name: printable(value) if isinstance(value, str) else json.dumps(value) for name, value in about.items()}


def load_encoder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained encoder of a run and what it takes, without running any code from the files.

    Args:
        folder: of a finished run.

    Returns:
        The encoder in evaluation mode; the run's configuration, with the `shape` [channels, height, width] it takes,
        the names of its `classes`, and its files' `value_range` where they held other numbers than bytes.

    Raises:
        InputError: if the folder holds no finished run or its weights are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "result.json").exists():
        raise InputError(f"{folder}: holds no finished run (no result.json)")
    config, result = read_json(folder / "config.json"), read_json(folder / "result.json")
    told = {name: config[name] for name in ("task", "method", "data", "seed", "arguments")}
    run = Run(**told, settings=Settings(**config["settings"]), state=config.get("state", ""))
    # Through the method, which may have made another encoder of the backbone.
    encoder = _assemble(run, result["shape"], result["sizes"]["train"], len(result["classes"])).encoder
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{folder / 'encoder.safetensors'}: damaged or missing ({str(error)[:100]})") from error
    return encoder.eval(), {**config, **{name: result[name] for name in FACTS if name in result}}
