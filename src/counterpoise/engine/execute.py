"""One run of a task, in a folder of its own: the same steps for every task."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from counterpoise import tasks
from counterpoise.data.images import Images, fair_sample
from counterpoise.data.strips import write_strips
from counterpoise.engine.given import SHELF, given_to, load_model, run_name, shelf_of
from counterpoise.engine.items import write_items
from counterpoise.errors import InputError, RunFailed
from counterpoise.files import check_writable, make_folder, read_json, write_json, written
from counterpoise.ops.processes import exchanging
from counterpoise.tasks.base import Given, Offers, Watch, offered
from counterpoise.training.launch import launch, node
from counterpoise.training.run import (
    ImageSettings,
    Result,
    Run,
    begin,
    peak_memory,
    processor_threads,
)
from counterpoise.training.trainer import is_harmless, resolve

GALLERY = 500  # test images kept with their features, for the report's pictures
CONTINUED = "as a shorter run, at other learning rates, so it differs from one that had its whole budget at once"
KEPT = {"config.json": {"method", "settings"}, "result.json": {"status", "metrics", "warnings", "shape"}}
"""What a run's files hold, at the least."""


def execute_run(
    run: Run,
    folder: Path,
    *,
    loggers: Sequence[str] = (),
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train and score one run in its folder, going on where an earlier call was stopped.

    The folder gets `config.json` first; then the logs, `last.ckpt`, `curve.csv`, `net.safetensors`, `items.npz` and
    pictures; and `result.json` last: where that is, the run is complete and is not run again. Of several machines, only
    the first writes it.

    Args:
        run: what is to be run.
        folder: of this run alone; made where it is missing.
        loggers: where the learning curve goes besides; see `trainer.fit`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The content of `result.json`. To its `warnings` are added those that were given on the way, by whichever
        library, but for what `is_harmless`.

    Raises:
        InputError: if the folder holds a run of another configuration, what is not ours, or a damaged file, saying
            what to delete; or if the configuration is at fault.
    """
    tasks.find(run.task).check_run(run)
    for name, needed in KEPT.items():
        if (folder / name).exists():
            _check_kept(folder / name, needed)
    continued = begin(run, folder)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    watch = Watch(tuple(loggers), progress, tuple(callbacks))
    try:
        result = _measured(run, folder, watch, continued)
        if node() == 0:
            _check_there(folder)
            write_json(folder / "result.json", result)
        return result
    except InputError:
        raise
    except Exception:  # libraries make errors of many kinds out of a disk that is full or gone
        _check_there(folder)
        check_writable(folder)
        raise


def _measured(run: Run, folder: Path, watch: Watch, continued: list[int]) -> Result:
    """The result of a run, with the memory that it took and the warnings that it gave."""
    with (
        warnings.catch_warnings(record=True) as caught,
        peak_memory(run.settings.device) as memory,
        processor_threads(run.settings.threads),
    ):
        warnings.simplefilter("always", UserWarning)
        result = _result(run, folder, watch)
    found = [f"went on after {_listed(continued)}: {CONTINUED}"] if continued else []
    found += [" ".join(str(w.message).split()) for w in caught if not is_harmless(w.message, w.category)]
    result["warnings"] = list(dict.fromkeys([*result["warnings"], *found]))
    return result | {
        "memory_mb": memory.peak,
        "device": resolve(run.settings.device),
        "continued": continued,
    }


def _result(run: Run, folder: Path, watch: Watch) -> Result:
    """What every run does: load, make, train, score, keep."""
    task, settings = tasks.find(run.task), run.settings
    given = given_to(run)
    train_given(given, folder)
    if isinstance(settings, ImageSettings) and settings.process_group().size > 1:
        launch(_train_together, (run, folder, watch.loggers, watch.progress), settings.devices, settings.nodes)
        if node() > 0:
            return {"seed": run.seed, "status": "done", "metrics": {}, "warnings": []}
        # What they have trained is in the checkpoint: from here on it is a run that has all its epochs behind it.
    parts = task.parts(run)
    learner = task.make(run, parts, models(run, folder, parts))
    start = time.perf_counter()
    curve = task.train(run, learner, parts, folder, watch)
    scores = task.score(run, learner, parts, curve)
    seconds = curve[-1]["seconds"] if curve else time.perf_counter() - start
    facts: Any = task.facts(parts)
    kept = task.kept(learner)
    task.keep(run, learner, folder, facts)
    if scores.gallery is not None:
        _write_gallery(folder / "gallery.npz", *scores.gallery)
    if scores.strips is not None:
        write_strips(folder / "strips.npz", *scores.strips)
    write_items(folder, scores)
    return {
        "seed": run.seed,
        "status": "done",
        "warnings": scores.warnings,
        "metrics": scores.metrics,
        "groups": scores.groups,
        "per_class": scores.per_class,
        "diagnostics": scores.diagnostics,
        "seconds": seconds,
        "curve": curve,
        "parameters": 0 if kept is None else sum(p.numel() for p in kept.parameters()),
        "offered": _plain(offered(run, task.offers(run, parts))),
        "given": _described(given, folder),
        **facts,
    }


def train_given(needed: Sequence[Given], folder: Path) -> None:
    """Train what a run stands on and is not there yet; a model that another process trains is waited for.

    Args:
        needed: the models that it stands on.
        folder: of the run.

    Raises:
        RunFailed: if one of them cannot be trained, naming its role.
    """
    for given in needed:
        if given.run is None:
            continue
        place = make_folder(shelf_of(folder)) / run_name(given.run)
        with FileLock(place.with_suffix(".lock")):
            try:
                execute_run(given.run, place)
            except InputError:
                raise
            except Exception as error:
                raise RunFailed(f"the {given.role} cannot be trained: {error}") from error


def models(run: Run, folder: Path, parts: Any) -> Offers:
    """The models that a run stands on, by role, loaded when its method asks for them."""
    shelf = shelf_of(folder)
    return {given.role: partial(load_model, given, run, parts, shelf) for given in given_to(run)}


def _described(needed: Sequence[Given], folder: Path) -> dict[str, Any]:
    """What each model was that a run stood on: where it is; of one that was trained, its time and main score."""
    found: dict[str, Any] = {}
    for given in needed:
        found[given.role] = {"source": given.source}
        if given.run is not None:
            place = shelf_of(folder) / run_name(given.run)
            result, main = read_json(place / "result.json"), tasks.find(given.run.task).main
            score = {main: result["metrics"].get(main)}
            found[given.role] = {"source": f"{SHELF}/{place.name}", "seconds": result["seconds"], "metrics": score}
    return found


def _train_together(rank: int, run: Run, folder: Path, loggers: tuple[str, ...], progress: bool) -> None:
    """What each of several processes does: only train; the last checkpoint has it all."""
    task, settings = tasks.find(run.task), run.settings
    assert isinstance(settings, ImageSettings)
    with processor_threads(settings.threads), exchanging(settings.exchange):
        parts = task.parts(run)
        learner = task.make(run, parts, models(run, folder, parts))
        task.train(run, learner, parts, folder, Watch(loggers, progress), rank)


def _plain(offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those offers that are plain numbers, text or a shape, so that the network can be made again without the data."""
    return {name: value for name, value in offered.items() if isinstance(value, (bool, int, float, str, list))}


def _write_gallery(path: Path, images: Images, features: Tensor) -> None:
    """Keep some images and their features for the report's pictures."""
    shown = fair_sample(images.labels, GALLERY)
    with written(path) as aside:
        np.savez_compressed(
            aside,
            pixels=images.pixels[shown].numpy(),
            labels=images.labels[shown].numpy(),
            features=features[shown].half().numpy(),
        )


def _listed(epochs: list[int]) -> str:
    return f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs))}"


def _check_there(folder: Path) -> None:
    if not (folder / "config.json").exists():
        (folder / "result.json").unlink(missing_ok=True)  # not all that belongs to it is there
        raise InputError(f"{folder}: was removed while its run went on; delete what is left of it and start again")


def _check_kept(path: Path, needed: set[str]) -> None:
    remedy = f"delete {path} to score the run again" if path.name == "result.json" else f"delete {path.parent}"
    try:
        content = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from error
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(f"{path}: expected an object with {', '.join(sorted(needed))}; {remedy}")
