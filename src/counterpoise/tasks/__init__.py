"""Tasks: what makes methods comparable, one file a task; each says what it takes, how it scores, and its baseline."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from counterpoise.errors import InputError, unknown
from counterpoise.files import read_json
from counterpoise.registry import catalogue

TASKS = ("pretrain", "retrieve", "few-shot", "compose", "regress", "graph", "measure")


def find(task: str) -> ModuleType:
    """The module of a task: `METRICS`, `SHOWN`, `MAIN`, `BASELINE`, `check`, `execute` and `facts`.

    Raises:
        InputError: for an unknown task.

    >>> find("pretrain").MAIN
    'knn'
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return importlib.import_module(f"counterpoise.{catalogue.task_source(task)}")


def of(method: str) -> str:
    """The first task that a method serves.

    Raises:
        InputError: for an unknown method, or one that serves none of the tasks there are.
    """
    served = catalogue.find(method).tasks
    for task in served:
        if task in TASKS:
            return task
    raise InputError(f"method '{method}' serves none of the tasks there are ({', '.join(TASKS)}): {', '.join(served)}")


def load_encoder(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained encoder of a run on images, and the run's configuration; see `images.load_encoder`.

    Raises:
        InputError: as that; for a run on anything but images.
    """
    from counterpoise.tasks import images

    result = folder / "result.json"
    if result.exists() and len(read_json(result).get("shape", ())) != 3:
        task = read_json(folder / "config.json")["task"]
        raise InputError(f"{folder}: expected a run on images, whose encoder can be used on others, got one of {task}")
    return images.load_encoder(folder)
