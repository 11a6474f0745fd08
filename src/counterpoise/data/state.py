"""The state of the files that data stands on, so that a result belongs to the pixels that it was computed on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from counterpoise.data.sources import source_files
from counterpoise.errors import InputError, first_few

State = Mapping[str, "list[int] | None"]
"""Of each file its size, time of change and time of change of its entry, in nanoseconds; None where it is not there."""


def data_state(data: str | Path, data_dir: str | Path | None = None) -> State:
    """The state of every file that `load(data)` reads; empty for data inside the package, and data that is drawn.

    The time at which a file's entry changed is part of it, since a program can set the time of change back to what it
    was before. A copy of a file is another file.

    Args:
        data: a name or a path, as `load` takes it.
        data_dir: folder of downloaded sets.

    Examples:
        >>> data_state("fashion-mnist")
        {}
    """
    try:
        files = source_files(data, data_dir)
    except InputError:  # a table of numbers; or what is at fault, which loading it says
        table = os.path.expanduser(data)
        files = [Path(table)] if os.path.isfile(table) else []
    return files_state(files)


def files_state(files: Iterable[Path]) -> State:
    """The state of some files, as `data_state` gives that of data.

    Examples:
        >>> files_state([Path("not-there.png")])
        {'not-there.png': None}
    """
    return {str(path): _file_state(path) for path in files}


def state_key(state: State) -> str:
    """A short name of a state; another one wherever a file was changed, added or removed. "" without files.

    Examples:
        >>> state_key({}), state_key({"a.png": [3, 1, 1]}) == state_key({"a.png": [3, 2, 2]})
        ('', False)
    """
    if not state:
        return ""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


def check_unchanged(data: str, data_dir: str | None, key: str) -> None:
    """Refuse data whose files are not in the state of that name any more.

    Raises:
        InputError: naming the file that changed last.
    """
    state = data_state(data, data_dir)
    if state_key(state) == key:
        return
    there = {path: times for path, times in state.items() if times}
    last = max(there, key=lambda path: max(there[path][1:]), default="none is left")
    raise InputError(f"{data}: its files were changed while the command ran (last: {last}); start it again")


def changed_files(before: State, now: State) -> str:
    """In words: the files that were changed, added or removed, the first few by name.

    Examples:
        >>> changed_files({"a": [1, 1, 1], "b": [1, 1, 1]}, {"a": [1, 2, 2], "c": [1, 1, 1]})
        'changed: a; removed: b; added: c'
    """
    found = {
        "changed": [path for path in before if path in now and before[path] != now[path]],
        "removed": [path for path in before if path not in now],
        "added": [path for path in now if path not in before],
    }
    return "; ".join(f"{what}: {first_few(paths)}" for what, paths in found.items() if paths)


def _file_state(path: Path) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
