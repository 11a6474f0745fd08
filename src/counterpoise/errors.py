"""`InputError`: the input is at fault, and here is what to change; and what else can be told by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MANY = 20  # more known names than this are listed only where none is near


class InputError(ValueError):
    """An argument, file or name that Counterpoise refuses; the message names it, what came and what was expected.

    The command line prints it as one line and exits with status 2. Any other exception is a defect of ours.
    """


class MissingExtra(InputError, ImportError):
    """A library that is needed here comes with an optional extra that is not installed."""

    def __init__(self, library: str, extra: str):
        super().__init__(f"{library} is not installed: pip install 'counterpoise[{extra}]'")


class Unwritable(InputError):
    """A file that cannot be written: its disk is full, read-only or gone; nothing can be kept until that is mended."""


class ProcessLost(RuntimeError):
    """One of several processes that work on one batch is gone, so that the others cannot go on."""


class NonFinite(InputError):
    """Numbers that are NaN, infinite, or too large to compute with."""


class RunFailed(RuntimeError):
    """What was asked for was begun and failed; the message says what and why. The command line exits with status 1."""


class Diverged(RunFailed, FloatingPointError):
    """Training whose numbers left all bounds: a smaller learning rate may help."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with the nearest one that is.

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
    """The first of several names, and how many more there are.

    >>> first_few(["a", "b"]), first_few(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(message: object) -> str:
    """A text in one line that any terminal can show: what is no printable character is escaped.

    Names of files and classes come from users' disks, where they may hold line breaks and a terminal's commands.

    >>> print(printable("a" + chr(10) + "b" + chr(27) + "[31mred"))
    a\\nb\\x1b[31mred
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
