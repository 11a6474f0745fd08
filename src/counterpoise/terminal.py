"""The console that commands print to: text as it is, whole, and on a terminal as wide as this is."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console

UNFOLDED = 1 << 16  # columns of a file or a pipe, which has no edge at which lines must be folded or cut


class Pipe(Console):
    """A console whose reader may go away, as `| head` does, without ending what goes on behind it."""

    def on_broken_pipe(self) -> None:
        discard(self.file)


def discard(stream: IO[str]) -> None:
    """What is printed from here on goes nowhere, instead of failing once more at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_console(quiet: bool = False, stderr: bool = False) -> Console:
    """A console for standard output, which takes brackets in texts for brackets.

    Args:
        quiet: print nothing.
        stderr: print to standard error instead.

    >>> make_console().print("a[b]c[/d]")
    a[b]c[/d]
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal else UNFOLDED
    return Pipe(
        quiet=quiet, stderr=stderr, width=width, markup=False, highlight=False, emoji=False, soft_wrap=not terminal
    )
