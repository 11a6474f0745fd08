"""One run of a task, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counterpoise import tasks
from counterpoise.errors import InputError
from counterpoise.files import check_writable, read_json
from counterpoise.training.run import Run, begin

KEPT = {"config.json": {"method", "settings"}, "result.json": {"status", "metrics", "warnings", "shape"}}
"""What a run's files hold, at the least."""


def execute_run(run: Run, folder: Path, **options: Any) -> dict[str, Any]:
    """The task's `execute`, in a folder whose files were not damaged since an earlier call wrote them.

    Raises:
        InputError: as `execute` does; for a damaged file, it says what to delete.
    """
    for name, needed in KEPT.items():
        if (folder / name).exists():
            _check_kept(folder / name, needed)
    begin(run, folder)
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
