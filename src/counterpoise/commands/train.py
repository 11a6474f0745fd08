"""One method on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from counterpoise import tasks
from counterpoise.data.state import State, changed_files, data_state, state_key
from counterpoise.engine.budget import settled_budget
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.files import (
    check_output_folder,
    locked,
    make_output_folder,
    read_json,
    short_name,
    write_json,
)
from counterpoise.ops.checks import check_number
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import as_words, plain
from counterpoise.registry.signatures import check_arguments
from counterpoise.terminal import make_console
from counterpoise.training.launch import node
from counterpoise.training.run import Run
from counterpoise.training.trainer import CHECKPOINT, check_loggers

LARGEST_SEED = 2**32 - 1


def train(
    method: str,
    data: str | Path,
    *,
    task: str | None = None,
    imperfect: Sequence[str] = (),
    seed: int = 0,
    all: bool = False,
    out: str | Path | None = None,
    loggers: Sequence[str] = ("tensorboard",),
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train one method on one data set, and score what it learnt.

    The folder gets the configuration, the logs, a checkpoint after every epoch, the encoder as safetensors and
    `result.json`. A call that was stopped goes on from its last epoch; a finished one is not run again, unless it is
    asked for more epochs or steps, for which it goes on from its checkpoint. Its learning rates are then not those of a
    run that had all of them from the start, and `continued` and a warning in the result say so.

    Args:
        method: a slug from `counterpoise list`, or "./mine.py:MyMethod" for a `counterpoise.Method`, or an objective of
            two views, in a file of your own. Its arguments may stand with it, as in "dcl:temperature=0.5"; one that
            has the name of an argument of every run must: "meow:seed=3" sets that of meow, `seed` that of the run.
        data: a known set such as "fashion-mnist", or a path to a folder of images, a CSV or a Parquet file.
        task: what the method is to do; by default the first task that it serves.
        imperfect: what to do to the data, such as "long-tail=100" or "label-noise=0.4".
        seed: decides data, weights, order and views; from 0 to 4294967295.
        all: train on every image, those of the test included; then there is none left to score by.
        out: folder of the run; by default "counterpoise-out/train-METHOD-DATA-SEED".
        loggers: where the curve goes besides `curve.csv`: any of "tensorboard", "wandb", "mlflow".
        quiet: show no progress bar.
        **options: the method's other arguments, and any of its task's settings, such as backbone, size, epochs,
            batch_size; for images those of `counterpoise.training.run.ImageSettings`.

    Returns:
        What `result.json` holds: metrics, accuracy per class and per group, learning curve, time and memory.

    Raises:
        InputError: for what is refused; nothing is left half-written then.
    """
    source, target, seed, options = plain(data), plain(out), plain(seed), plain(options)
    imperfect, loggers = as_words("imperfect", imperfect), as_words("loggers", loggers)
    check_arguments("commands.train", "train", method=method, data=source, task=task, out=target)
    check_number("seed", seed, at_least=0, at_most=LARGEST_SEED, whole=True)
    check_loggers(loggers)
    slug, own = catalogue.read_method(method)
    task = task or catalogue.task_of(slug)
    about_task = tasks.find(task)
    shared = {f.name for f in fields(about_task.settings)}
    settings = about_task.settings(**{name: value for name, value in options.items() if name in shared})
    others = {name: value for name, value in options.items() if name not in shared}
    check_arguments(*catalogue.method_source(slug), **others)
    if twice := own.keys() & others.keys():
        raise InputError(f"{min(twice)}: is given with the method, in '{method}', and again by itself")
    own |= others
    state = data_state(source, settings.data_dir)
    run = Run(slug, source, seed, own, imperfect, settings, task, state_key(state), train_on_all=all)
    folder = Path(target or f"counterpoise-out/train-{catalogue.short_slug(slug)}-{short_name(source)}-{seed}")
    check_output_folder(folder, "run")
    parts = about_task.check(run)
    make_output_folder(folder, "run")
    with locked(folder, "training") if node() == 0 else nullcontext():  # another machine trains along in this folder
        if node() == 0:
            _keep_state(folder, source, state)
            if line := about_task.summary(run, parts):
                make_console(quiet).print(line)
        run = replace(run, settings=settled_budget([run], folder, make_console(quiet)))
        return {**execute_run(run, folder, loggers=loggers, progress=not quiet), "folder": str(folder)}


def _keep_state(folder: Path, data: str, state: State) -> None:
    """Write down the state of the files that a run learns from; refuse to go on where they have changed since."""
    path = folder / "data.json"
    trained = any((folder / name).exists() for name in (CHECKPOINT, "result.json"))
    change = changed_files(read_json(path), state) if path.exists() else ""
    if trained and change:
        raise InputError(f"{data}: is not as it was when the run in {folder} began ({change}); choose another folder")
    if state:
        write_json(path, state)
