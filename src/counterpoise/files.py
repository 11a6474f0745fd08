"""Atomic writes through temporary files, which replace or delete only files that this program wrote.

A folder that the program fills (of a comparison, a run, or scenes) contains a mark file. A single file that it writes
elsewhere (a contact sheet, features, a report) is recorded with its digest in the mark file of its folder. This
distinguishes files that a user made or changed from files of the program, independent of their names.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError, Unwritable

LOCK = ".counterpoise.lock"
MARK = ".counterpoise.json"
HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
PROCESS = secrets.token_hex(4)  # distinguishes this process from an earlier one with the same id
ASIDE = re.compile(r"\.counterpoise-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<process>[0-9a-f]{8})-\d+(\.[^.]*)?")
FORGOTTEN = 24 * 3600.0  # seconds after which another machine's temporary file counts as abandoned
NAMED = 3  # files that an error lists
UNWRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
    errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip
PROBE = bytes(1 << 16)
_count = itertools.count()


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` if the block ends without an error.

    For files in a folder that this program fills. The folder must exist: one that was removed meanwhile is not created
    again. For all other files use `output`.

    Raises:
        Unwritable: if the folder is gone, or the disk is full or refuses files.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with written(target) as aside:
        ...     _ = aside.write_text("whole")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('whole', 1)
    """
    if not path.parent.is_dir():
        raise Unwritable(f"{path.parent}: is not there any more; start the command again")
    aside = aside_of(path)
    with disk_errors(path, aside):
        yield aside
        os.replace(aside, path)


@contextmanager
def output(path: Path, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Like `written`, but refuses to replace a file that this program did not write, or that was changed since.

    Args:
        path: the output file.
        inputs: files that the command reads; they are never replaced.

    Raises:
        InputError: as `written` and `check_output`.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> for text in ("first", "second"):
        ...     with output(target) as aside:
        ...         _ = aside.write_text(text)
        >>> _ = target.write_text("a user's own")
        >>> with output(target) as aside:
        ...     pass
        Traceback (most recent call last):
        counterpoise.errors.InputError: ...a.txt: is there, and was not written by counterpoise or was ...
    """
    check_output(path, inputs)
    make_folder(path.parent)
    _read_mark(path.parent)  # before writing, since a file could not be recorded in an unreadable mark
    with written(path) as aside:
        yield aside
        record = _record(aside)
    mark = _read_mark(path.parent)
    write_json(path.parent / MARK, {**mark, "files": {**mark["files"], path.name: record}})


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse to overwrite a file that this program did not write, or that the command reads.

    Raises:
        InputError: with the file.
    """
    if not os.path.lexists(path):
        return
    for source in inputs:
        if source.exists() and path.exists() and os.path.samefile(source, path):
            raise InputError(f"{path}: is what the command reads; write to another name")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if not is_output(path):
        raise InputError(
            f"{path}: is there, and was not written by counterpoise or was changed since; "
            "choose another name, or move it away"
        )


def is_output(path: Path) -> bool:
    """Whether this program wrote a path: an unchanged recorded file, or a folder of nothing but its files.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with output(folder / "sheet.png") as aside:
        ...     _ = aside.write_bytes(b"a picture")
        >>> _ = (folder / "photo.png").write_bytes(b"another")
        >>> is_output(folder / "sheet.png"), is_output(folder / "photo.png"), is_output(folder)
        (True, False, False)
    """
    if path.is_dir():
        return _is_own_folder(path) and any(not entry.is_dir() for entry in path.rglob("*"))
    return not path.is_symlink() and path.name in outputs_in(path.parent)


def _others_in(folder: Path) -> Iterator[str]:
    """Names in a folder that this program did not write; empty folders are left out."""
    ours = outputs_in(folder)
    for entry in folder.iterdir():
        if entry.name not in ours and not _is_internal(entry.name) and not _is_own_folder(entry):
            yield entry.name


def _is_own_folder(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    return bool(_mark_or_none(path)["kind"]) or next(_others_in(path), None) is None


def outputs_in(folder: Path) -> frozenset[str]:
    """The names of the recorded files in a folder that are unchanged since this program wrote them."""
    recorded = _mark_or_none(folder)["files"]
    return frozenset(name for name, record in recorded.items() if _is_as_recorded(folder / name, record))


def record_outputs(folder: Path, names: Iterable[str]) -> None:
    """Record the files that this program wrote in a folder, replacing the previous record.

    Args:
        folder: from `make_output_folder`.
        names: paths relative to the folder.
    """
    mark = _read_mark(folder)
    write_json(folder / MARK, {**mark, "files": {name: _record(folder / name) for name in names}})


def make_output_folder(folder: Path, kind: str) -> Path:
    """Create a folder for this program's output, or reuse one that it created.

    Args:
        folder: new, empty, or from an earlier call.
        kind: kind of its content: "comparison", "run" or "scenes".

    Raises:
        InputError: if it holds anything else; nothing is then written.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = make_output_folder(folder / "a", "run"), make_output_folder(folder / "a", "run")
        >>> (folder / "notes.txt").touch()
        >>> make_output_folder(folder, "run")
        Traceback (most recent call last):
        counterpoise.errors.InputError: ...: holds what counterpoise did not write (notes.txt); ...
    """
    check_output_folder(folder, kind)
    make_folder(folder)
    mark = _read_mark(folder)
    if mark["kind"] != kind:
        write_json(folder / MARK, {**mark, "kind": kind})
    return folder


def check_output_folder(folder: Path, kind: str) -> None:
    """Refuse the same as `make_output_folder`, without writing anything."""
    if not folder.is_dir():
        return
    found = _read_mark(folder)["kind"]
    if found == kind:
        return
    if found:
        raise InputError(f"{folder}: holds the files of another command ({found}, not {kind}); choose another folder")
    if names := sorted(_others_in(folder)):
        more = ", …" if len(names) > NAMED else ""
        named = ", ".join(names[:NAMED]) + more
        raise InputError(f"{folder}: holds what counterpoise did not write ({named}); choose another folder")


def _is_internal(name: str) -> bool:
    """Whether only this program uses a name: that of its mark, its lock, or a temporary file."""
    return name in (MARK, LOCK) or bool(ASIDE.fullmatch(name))


def _mark_or_none(folder: Path) -> dict[str, Any]:
    """A folder's mark; an empty one if there is none or it cannot be read."""
    try:
        return _read_mark(folder)
    except InputError:
        return {"kind": None, "files": {}}


def _read_mark(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    if not path.exists():
        return {"kind": None, "files": {}}
    mark = read_json(path)
    if not isinstance(mark, dict) or not {"kind", "files"} <= mark.keys() or not isinstance(mark["files"], dict):
        raise InputError(f"{path}: is not a record of counterpoise; move it away")
    return mark


def _record(path: Path) -> dict[str, Any]:
    """A file's size and digest."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return {"bytes": file.tell(), "blake2b": digest.hexdigest()}


def _is_as_recorded(path: Path, record: Any) -> bool:
    try:
        return path.is_file() and path.stat().st_size == record["bytes"] and _record(path) == record
    except (OSError, TypeError, KeyError):
        return False


def aside_of(path: Path) -> Path:
    """A temporary name beside `path`, unique to this process and recognisable to all others."""
    return path.with_name(f".counterpoise-{HOST}-{os.getpid()}-{PROCESS}-{next(_count)}{path.suffix}")


@contextmanager
def disk_errors(path: Path, aside: Path) -> Iterator[None]:
    """Turn any error of the block that the disk caused into `Unwritable`, for any error type of a library.

    Args:
        path: the file to be written, for the error.
        aside: the temporary file that the block writes to; it is removed afterwards.

    Raises:
        Unwritable: if the disk is full, read-only or refuses such a file.
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
    """The system's reason against writing to `aside`, from the error's text or from another attempt."""
    said = str(error)
    reason = next((words for words in map(os.strerror, UNWRITABLE) if words in said), None)
    if reason:
        return reason
    return _refusal(aside)  # on a full disk, PyTorch and NumPy only report a short write


def check_writable(folder: Path, path: Path | None = None) -> None:
    """Refuse a folder in which nothing can be written.

    Args:
        folder: must exist.
        path: the file to be written there, for the error.

    Raises:
        Unwritable: with the reason.
    """
    if not os.access(folder, os.W_OK):
        raise Unwritable(f"{folder}: is not writable")
    probe = aside_of(folder / "probe")
    reason = _refusal(probe)
    with suppress(OSError):
        probe.unlink()
    if reason:
        raise Unwritable(f"{path or folder}: cannot be written ({reason})")


def _refusal(path: Path) -> str | None:
    """The system's reason against appending to a file, or `None`."""
    try:
        with path.open("ab") as file:
            file.write(PROBE)
    except OSError as error:
        return error.strerror
    return None


@contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """Lock a folder for this process, and remove temporary files that killed processes left in it.

    The system releases the lock when the process ends in any way.

    Args:
        folder: must exist.
        who: name of the lock's holder, such as "comparison", for the error of a second process.

    Raises:
        InputError: if another process holds the lock, or the folder cannot be written.

    Examples:
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
        for place in (folder, *folder.glob("images/"), *folder.glob("runs/*/")):
            for left in filter(_is_abandoned, place.glob(".counterpoise-*")):
                left.unlink(missing_ok=True)
        yield


def _is_abandoned(path: Path) -> bool:
    """Whether a temporary file belongs to a process that has ended."""
    import psutil

    found = ASIDE.fullmatch(path.name)
    if not found or path.is_symlink() or not path.is_file():
        return False
    if found["host"] != HOST:
        return time.time() - path.stat().st_mtime > FORGOTTEN
    pid = int(found["pid"])
    return found["process"] != PROCESS if pid == os.getpid() else not psutil.pid_exists(pid)


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents; refuse a path that cannot hold files."""
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
        # A path that is not valid UTF-8 has lone surrogates, which JSON can hold only as escapes.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: with the file, and the line where it is malformed.
    """
    try:
        return json.loads(path.read_bytes())  # bytes, so that a byte order mark is skipped
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise InputError(f"{path}: malformed JSON, nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise InputError(f"{path}: malformed JSON, {line}") from error
    except ValueError as error:  # for an integer of more than 4,300 digits, from Python 3.10.7 on
        raise InputError(f"{path}: malformed JSON ({str(error).partition(':')[0]})") from error


def short_name(data: str) -> str:
    """The name for a folder of results: the data set's name, or the last part of a path.

    Examples:
        >>> short_name("fashion-mnist:full"), short_name("photos/garden/")
        ('fashion-mnist-full', 'garden')
    """
    path = Path(data).expanduser()
    return (path.resolve().name if path.exists() else path.name).replace(":", "-") or "root"
