"""`InputError`: the input is at fault, and here is what to change; and what else can be told by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with the nearest one that is.

    >>> print(unknown("method", "simclt", ["simclr", "moco"]))
    method 'simclt' is not known; did you mean 'simclr'? Known: moco, simclr
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    if near and len(known) > MANY:
        return InputError(f"{kind} '{name}' is not known{hint}")
    return InputError(f"{kind} '{name}' is not known{hint} Known: {', '.join(known) or 'none'}")
