"""Files are written aside and then renamed, so that none is ever found half-written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError, Unwritable

LOCK = ".lock"
ASIDES = (".*.part*", "*.part")  # what files are called while they are written
UNWRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
    errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip
PROBE = bytes(1 << 16)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to, in the same folder; it takes the place of `path` if the block ends without an error.

    Raises:
        InputError: if the folder cannot be made or written to; `Unwritable`, if the disk is full or takes no files.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with written(target) as aside:
    ...     _ = aside.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    make_folder(path.parent)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with disk_errors(path, aside):
        yield aside
        os.replace(aside, path)


@contextmanager
def disk_errors(path: Path, aside: Path) -> Iterator[None]:
    """Tell that `path` cannot be written where that is why the block failed, whatever error a library made of it.

    Args:
        path: what is to be written, named by the error.
        aside: the file that the block writes to; it is gone afterwards.

    Raises:
        Unwritable: if the disk is full, read-only or takes no such file.
    """
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error, aside)
        if reason is None:
            raise
        raise Unwritable(f"{path}: cannot be written ({reason})") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _disk_reason(error: Exception, aside: Path) -> str | None:
    """What the system says against writing to `aside`: in the error's words, or when it is tried again."""
    said = str(error)
    reason = next((words for words in map(os.strerror, UNWRITABLE) if words in said), None)
    if reason:
        return reason
    return _refusal(aside)  # PyTorch and NumPy tell of a full disk only that less was written than they wanted


def check_writable(folder: Path) -> None:
    """Refuse a folder whose disk takes nothing more.

    Raises:
        Unwritable: saying why.
    """
    probe = folder / f".probe.{os.getpid()}.part"
    reason = _refusal(probe)
    with suppress(OSError):
        probe.unlink()
    if reason:
        raise Unwritable(f"{folder}: cannot be written ({reason})")


def _refusal(path: Path) -> str | None:
    """What the system says against more bytes in a file."""
    try:
        with path.open("ab") as file:
            file.write(PROBE)
    except OSError as error:
        return error.strerror
    return None


@contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """Hold a folder for this process alone, having cleared away what killed ones left half-written in it.

    The system takes the lock from a process that ends, however it ends.

    Args:
        folder: must exist.
        who: what holds the folder, for the error that another one gets, such as "comparison".

    Raises:
        InputError: if another process holds it, or the folder takes no files.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder, "training"), locked(folder, "training"):
    ...     pass
    Traceback (most recent call last):
    counterpoise.errors.InputError: ...: another training is running there
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another {who} is running there") from error
    except OSError as error:
        raise Unwritable(f"{folder}: cannot be written ({error.strerror})") from error
    with lock:
        for left in (path for pattern in ASIDES for path in folder.rglob(pattern)):
            left.unlink(missing_ok=True)
        yield


def holds_others(folder: Path) -> bool:
    """Whether a folder holds anything but a lock and what is or was being written."""
    ours = (LOCK, *ASIDES)
    return folder.is_dir() and not all(any(fnmatch(path.name, name) for name in ours) for path in folder.iterdir())


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it; refuse by name what cannot hold files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder}: is a file, expected a folder") from error
    except OSError as error:
        raise Unwritable(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise Unwritable(f"{folder}: is not writable")
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN and infinity are refused, since JSON has neither."""
    with written(path) as aside:
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        # A path that is not valid UTF-8 has lone surrogates, which JSON can only hold as escapes.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: naming the file, and the line where it is malformed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise InputError(f"{path}: malformed JSON, nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise InputError(f"{path}: malformed JSON, {line}") from error
