"""Tasks: what makes methods comparable, one file a task; each says what it takes, how it scores, and its baseline."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from counterpoise.errors import InputError
from counterpoise.files import read_json
from counterpoise.registry import catalogue
from counterpoise.tasks.base import Offers, Task, make
from counterpoise.tasks.weights import FACTS, load_weights_of
from counterpoise.training.run import LearnerSettings, Run, make_settings


def find(task: str) -> Task[Any]:
    """A task by name.

    Raises:
        InputError: for an unknown task.

    Examples:
        >>> find("pretrain").main
        'knn'
    """
    return importlib.import_module(f"counterpoise.{catalogue.task_source(task)}").TASK


def load_net(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run and what it takes, without running any code from the files.

    Args:
        folder: of a finished run.

    Returns:
        The network in evaluation mode; the run's configuration, with the `shape` of the inputs that it takes, the names
        of its `classes`, and its files' `value_range` where they held other numbers than bytes.

    Raises:
        InputError: if the folder holds no finished run, one that keeps no network for other inputs, or damaged weights.
    """
    if not (folder / "result.json").exists():
        raise InputError(f"{folder}: holds no finished run (no result.json)")
    config, result = read_json(folder / "config.json"), read_json(folder / "result.json")
    if not result.get("shape"):
        raise InputError(
            f"{folder}: expected a run whose network can be used on other inputs, got one of {config['task']}"
        )
    run, task = run_of(config), find(config["task"])
    # Through the method, which may have made another network of the backbone; its weights are those of the file.
    blank = run
    if isinstance(run.settings, LearnerSettings):
        blank = replace(run, settings=replace(run.settings, init=None, freeze=False, given=None))
    kept = {"samples": result["sizes"]["train"], "classes": len(result["classes"]), **result.get("offered", {})}
    kept = {"batch_size": getattr(run.settings, "batch_size", None), **kept}
    models = task.blank_models(run, result["shape"])
    offers: Offers = {**{name: partial(_same, value) for name, value in kept.items()}, **models}
    learner = make(blank, offers, lambda: task.inputs(blank, result["shape"]))
    net = task.kept(learner)
    assert net is not None  # it has a shape
    return load_weights_of(folder, net), {**config, **{name: result[name] for name in FACTS if name in result}}


def run_of(config: Mapping[str, Any]) -> Run:
    """The run of a configuration, as `config.json` holds it; its files may have changed since, or be gone."""
    task = find(config["task"])
    same = {name: config[name] for name in ("task", "method", "data", "seed", "arguments")}
    return Run(
        **same,
        imperfect=tuple(config.get("imperfect", ())),
        settings=make_settings(task.settings, _known(config["settings"], task)),
        state=config.get("state", ""),
        files=config.get("files", ""),
        train_on_all=config.get("train_on_all", False),
        division=config.get("division"),
        tuning=config.get("tuning", False),
    )


def load_image_net(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """As `load_net`, of a run on images alone.

    Raises:
        InputError: as `load_net`; for a run on anything but images.
    """
    result = folder / "result.json"
    if result.exists() and len(read_json(result).get("shape", ())) != 3:
        task = read_json(folder / "config.json")["task"]
        raise InputError(f"{folder}: expected a run on images, whose encoder can be used on others, got one of {task}")
    return load_net(folder)


def load_encoder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """As `load_image_net`; of a network that classifies, the encoder."""
    net, about = load_image_net(folder)
    return getattr(net, "encoder", net) if hasattr(net, "classes") else net, about


def _known(settings: dict[str, Any], task: Task[Any]) -> dict[str, Any]:
    """Settings of an earlier run, without those that its task does not have any more."""
    return {name: value for name, value in settings.items() if name in task.settings.__dataclass_fields__}


def _same(value: Any) -> Any:
    return value
