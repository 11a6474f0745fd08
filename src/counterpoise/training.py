"""One method on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from counterpoise import catalogue
from counterpoise.errors import InputError
from counterpoise.tasks.pretrain import Run, Settings, check, execute


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
        seed: decides data, weights, order and views.
        out: folder of the run; by default "counterpoise-out/train-METHOD-DATA-SEED".
        loggers: where the curve goes besides `curve.csv`: any of "tensorboard", "wandb", "mlflow".
        quiet: show no progress bar.
        **options: the method's own arguments, and any of `counterpoise.tasks.pretrain.Settings`: backbone, size,
            epochs, batch_size, and so on.

    Returns:
        What `result.json` holds: metrics, accuracy per class and per group, learning curve, time and memory.

    Raises:
        InputError: for what is refused; nothing is left half-written then.
    """
    slug = catalogue.find(method).slug
    shared = {f.name for f in fields(Settings)}
    settings = Settings(**{name: value for name, value in options.items() if name in shared})
    own = {name: value for name, value in options.items() if name not in shared}
    run = Run(slug, data, seed, own, tuple(imperfect), settings)
    folder = Path(out or f"counterpoise-out/train-{slug}-{Path(data).name.replace(':', '-')}-{seed}")
    check(run)
    if folder.is_dir() and not (folder / "config.json").exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds other files and no run; choose another folder")
    return {**execute(run, folder, loggers=loggers, progress=not quiet), "folder": str(folder)}
