"""Files are written aside and then renamed, so that none is ever found half-written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EISDIR, errno.ENAMETOOLONG)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to, in the same folder; it takes the place of `path` if the block ends without an error.

    Raises:
        InputError: if the folder cannot be made or written to, or the disk is full.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with written(target) as aside:
    ...     _ = aside.write_text("whole")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)
    """
    make_folder(path.parent)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it; refuse by name what cannot hold files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder}: is a file, expected a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: is not writable")
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN and infinity are refused, since JSON has neither."""
    with written(path) as aside:
        aside.write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: naming the file, and the line where it is malformed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise InputError(f"{path}: malformed JSON, {line}") from error
