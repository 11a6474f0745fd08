"""`InputError`, for input that is at fault, with what to change; and errors for further named causes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MANY = 20  # longer lists of known names are shown only if no name is near


class InputError(ValueError):
    """An argument, file or name that Counterpoise refuses; the message says which, what came and what was expected.

    The command line prints it as one line and exits with status 2. Any other exception is a bug in Counterpoise.
    """


class MissingExtra(InputError, ImportError):
    """A required library belongs to an optional extra that is not installed."""

    def __init__(self, library: str, extra: str):
        super().__init__(f"{library} is not installed: pip install 'counterpoise[{extra}]'")


class Unwritable(InputError):
    """A file that cannot be written because its disk is full, read-only or gone; nothing can be saved until then."""


class ProcessLost(RuntimeError):
    """One of several processes that share a batch is gone, so that the others cannot continue."""


class NonFinite(InputError):
    """Numbers that are NaN, infinite, or too large to compute with."""


class RunFailed(RuntimeError):
    """A run that started and then failed; the message says what and why. The command line exits with status 1."""


class Diverged(RunFailed, FloatingPointError):
    """Training that diverged to non-finite numbers; a smaller learning rate may help."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Make the error for an unknown name, with the nearest known name.

    Examples:
        >>> print(unknown("method", "simclt", ["simclr", "moco"]))
        method 'simclt' is not known; did you mean 'simclr'? Known: moco, simclr
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    if near and len(known) > MANY:
        return InputError(f"{kind} '{name}' is not known{hint}")
    return InputError(f"{kind} '{name}' is not known{hint} Known: {', '.join(known) or 'none'}")


def first_few(names: Sequence[str], most: int = 3) -> str:
    """The first of several names, and the number of the others.

    Examples:
        >>> first_few(["a", "b"]), first_few(["a", "b", "c", "d", "e"])
        ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(message: object) -> str:
    """Make a text safe to print in one line on any terminal: escape characters that are not printable.

    Names of files and classes come from users' disks, and may contain line breaks and terminal escape sequences.

    Examples:
        >>> print(printable("a" + chr(10) + "b" + chr(27) + "[31mred"))
        a\\nb\\x1b[31mred
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
