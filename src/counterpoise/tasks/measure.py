"""The measure task: what the papers about measuring claim of their measures. There is nothing to train, nor to compare.

Each such paper has a function `study(data, seed, …)`, which gives figures by name; its claim states what they must be.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError, unknown
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import describe
from counterpoise.training.run import Metric, Run, run_once

METRICS: dict[str, Metric] = {}  # each study has its own
SHOWN: dict[str, str] = {}
MAIN = BASELINE = ""


def check(run: Run, scored: bool = False) -> None:
    """Refuse to train or compare it: its measure is a function to call, its study is run by its claim.

    Raises:
        InputError: always.
    """
    module = catalogue.find(run.method).module
    raise InputError(
        f"{run.method}: is a measure, with nothing to train or compare; call what counterpoise.{module} holds, "
        f"or run its study with `counterpoise claim {run.method}`"
    )


def facts(data: None) -> dict[str, Any]:
    """What a result tells of its data: the study tells itself what it needs."""
    return {"classes": [], "counts": {}, "sizes": {}, "notes": [], "shape": []}


def execute(run: Run, folder: Path, **options: Any) -> dict[str, Any]:
    """Run a study in its folder.

    Args:
        run: what is to be run; of its settings, none but the number of threads matters.
        folder: of this run alone.
        **options: what a task that trains would be given; ignored.

    Returns:
        The content of `result.json`; its metrics are the study's figures.

    Raises:
        InputError: for an argument that the study does not have.
    """
    known = {argument.name for argument in describe(*catalogue.method_source(run.method)).arguments}
    for name in run.arguments:
        if name not in known:
            raise unknown(f"argument of {run.method}", name, known)
    return run_once(run, folder, lambda: _work(run))


def _work(run: Run) -> dict[str, Any]:
    study: Any = catalogue.load_class(run.method)
    start = time.perf_counter()
    found = study(run.data, run.seed, **run.arguments)
    return {
        "seed": run.seed,
        "status": "done",
        "warnings": [],
        "metrics": {name: float(value) for name, value in found.items()},
        "groups": {},
        "per_class": None,
        "diagnostics": {},
        "seconds": time.perf_counter() - start,
        "curve": [],
        "parameters": 0,
        **facts(None),
    }
