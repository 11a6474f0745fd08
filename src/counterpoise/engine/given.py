"""Models that runs stand on: each is trained once, by a run of its own, for all runs that need it; or is the user's.

They lie on a shelf: `given/` beside the folder `runs/` of a comparison, or in the folder of a single run. What trains
one is an ordinary run, so it is resumed, scored and kept like any other, and named by its configuration and code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from counterpoise import tasks
from counterpoise.data.images import shape_of
from counterpoise.data.sources import loader_of
from counterpoise.nets.weights import load_weights
from counterpoise.registry import catalogue
from counterpoise.registry.fingerprint import fingerprint
from counterpoise.tasks.base import Given
from counterpoise.training.run import Run

Found = TypeVar("Found")

RUNS, SHELF = "runs", "given"  # folders of a comparison: of its runs, and of the models that these stand on
DEEPEST = 5  # models that stand on models that stand on models …


def once_for_each(make: Callable[[Run], Found]) -> Callable[[Run], Found]:
    """A function of a run whose result is kept with the run, and goes with it to other processes.

    A `Run` does not change, and names the state that the user's files had when it was made; so what follows from it
    stays true of it, whatever becomes of them. Another `Run`, as `replace` makes it, begins anew.
    """

    @wraps(make)
    def made(run: Run) -> Found:
        kept = vars(run)  # beside the fields, which alone are compared and written down
        if make.__name__ not in kept:
            kept[make.__name__] = make(run)
        return kept[make.__name__]

    return made


@once_for_each
def run_name(run: Run) -> str:
    """What the folder of a run is called: by its configuration, the user's files among it, and the code behind it."""
    key = json.dumps([run.config(), fingerprint(modules_of(run))], sort_keys=True)
    return f"{catalogue.short_slug(run.method)}-{run.seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def run_folder(run: Run, folder: Path) -> Path:
    """Where a comparison keeps a run."""
    return folder / RUNS / run_name(run)


@once_for_each
def modules_of(run: Run) -> list[str]:
    """The modules whose code decides what a run finds: of its method, its task, and the models that it stands on."""
    own = [catalogue.method_source(run.method, run.task)[0], catalogue.task_source(run.task)]
    for data in (run.data, getattr(run.settings, "target", None)):
        loader = loader_of(data) if data else None
        own += [loader] if loader else []
    return [*own, *(module for below in stands_on(run) for module in modules_of(below))]


@once_for_each
def given_to(run: Run) -> list[Given]:
    """The models that a run stands on, as its task names them."""
    return tasks.find(run.task).given(run)


def stands_on(run: Run) -> list[Run]:
    """The runs that train the models which a run stands on."""
    return [given.run for given in given_to(run) if given.run is not None]


def waves(runs: Iterable[Run]) -> list[list[Run]]:
    """What is to be trained before some runs, each model once: each wave stands on the waves before it alone.

    Raises:
        RuntimeError: where models stand on each other without end.
    """
    found: list[dict[str, Run]] = []
    level = list(runs)
    while level:
        below = {run_name(one): one for run in level for one in stands_on(run)}
        if len(found) > DEEPEST:
            raise RuntimeError(f"the models that {level[0].method} stands on stand on each other")
        for above in found:  # what a deeper level needs, too, is trained there
            for name in below.keys() & above.keys():
                del above[name]
        found.append(below)
        level = list(below.values())
    return [list(wave.values()) for wave in reversed(found) if wave]


def shelf_of(folder: Path) -> Path:
    """The shelf of a run in this folder: that of its comparison, of the run that stands on it, or its own."""
    if folder.parent.name == RUNS:
        return folder.parent.parent / SHELF
    return folder.parent if folder.parent.name == SHELF else folder / SHELF


def load_model(given: Given, run: Run, parts: Any, shelf: Path) -> nn.Module | None:
    """The model of a role, in evaluation mode: as its run kept it, or the user's own.

    Args:
        given: the role, and what it stands for.
        run: what needs it.
        parts: the data of that run.
        shelf: where trained models are; the run of this one must be done.

    Raises:
        InputError: for weights that cannot be loaded, or of which too few fit.
    """
    task = tasks.find(run.task)
    if given.run is not None:
        return task.given_model(given.role, tasks.load_net(shelf / run_name(given.run))[0])
    if given.source is None:
        return None
    name, _, file = given.source.partition("@")
    if not file:
        return task.given_model(given.role, tasks.load_net(Path(given.source).expanduser())[0])
    shape = shape_of(task.training_data(parts))
    net = task.given_net(run, given.role, name, shape, pretrained=file == "pretrained")
    if file != "pretrained":
        load_weights(net, file)
    return net.eval()
