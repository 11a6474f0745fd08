"""One method on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from counterpoise import catalogue, tasks
from counterpoise.errors import InputError
from counterpoise.files import check_writable, holds_others, locked, make_folder, read_json
from counterpoise.launching import node
from counterpoise.ops.checks import check_number
from counterpoise.tasks.runs import Run, Settings

LARGEST_SEED = 2**32 - 1
KEPT = {"config.json": {"method", "settings"}, "result.json": {"status", "metrics", "warnings", "shape"}}
"""What a run's files hold, at the least."""


def train(
    method: str,
    data: str,
    *,
    imperfect: Sequence[str] = (),
    seed: int = 0,
    out: str | None = None,
    loggers: Sequence[str] = ("tensorboard",),
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train one method on one data set, and score what it learnt.

    The folder gets the configuration, the logs, a checkpoint after every epoch, the encoder as safetensors and
    `result.json`. A call that was stopped goes on from its last epoch; a finished one is not run again.

    Args:
        method: a slug from `counterpoise list`.
        data: a known set such as "fashion-mnist", or a path to a folder of images, a CSV or a Parquet file.
        imperfect: what to do to the data, such as "long-tail=100" or "label-noise=0.4".
        seed: decides data, weights, order and views; from 0 to 4294967295.
        out: folder of the run; by default "counterpoise-out/train-METHOD-DATA-SEED".
        loggers: where the curve goes besides `curve.csv`: any of "tensorboard", "wandb", "mlflow".
        quiet: show no progress bar.
        **options: the method's own arguments, and any of `counterpoise.tasks.runs.Settings`: backbone, size,
            epochs, batch_size, and so on.

    Returns:
        What `result.json` holds: metrics, accuracy per class and per group, learning curve, time and memory.

    Raises:
        InputError: for what is refused; nothing is left half-written then.
    """
    check_number("seed", seed, at_least=0, at_most=LARGEST_SEED)
    slug = catalogue.find(method).slug
    task = tasks.of(slug)
    shared = {f.name for f in fields(Settings)}
    settings = Settings(**{name: value for name, value in options.items() if name in shared})
    own = {name: value for name, value in options.items() if name not in shared}
    run = Run(slug, data, seed, own, tuple(imperfect), settings, task)
    folder = Path(out or f"counterpoise-out/train-{slug}-{Path(data).name.replace(':', '-')}-{seed}")
    tasks.find(task).check(run)
    if not (folder / "config.json").exists() and holds_others(folder):
        raise InputError(f"{folder}: holds other files and no run; choose another folder")
    make_folder(folder)
    with locked(folder, "training") if node() == 0 else nullcontext():  # another machine trains along in this folder
        return {**carry_out(run, folder, loggers=loggers, progress=not quiet), "folder": str(folder)}


def carry_out(run: Run, folder: Path, **options: Any) -> dict[str, Any]:
    """The task's `execute`, in a folder whose files were not damaged since an earlier call wrote them.

    Raises:
        InputError: as `execute` does; for a damaged file, it says what to delete.
    """
    for name, needed in KEPT.items():
        if (folder / name).exists():
            _check_kept(folder / name, needed)
    try:
        result = tasks.find(run.task).execute(run, folder, **options)
    except InputError:
        raise
    except Exception:  # libraries make errors of many kinds out of a disk that is full or gone
        _check_there(folder)
        check_writable(folder)
        raise
    _check_there(folder)
    return result


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
