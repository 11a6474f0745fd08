"""The console that commands print to: plain text without markup, never cut, folded only on a terminal."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console

UNFOLDED = 1 << 16  # width assumed for files and pipes, so that no line is folded or cut


class Pipe(Console):
    """A console that survives a closed pipe, as `| head` leaves one, so that the command runs on."""

    def on_broken_pipe(self) -> None:
        discard(self.file)


def discard(stream: IO[str]) -> None:
    """Send further output to the null device, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_console(quiet: bool = False, stderr: bool = False) -> Console:
    """Make a console for standard output, without markup: brackets in texts stay brackets.

    Args:
        quiet: print nothing.
        stderr: print to standard error instead.

    Examples:
        >>> make_console().print("a[b]c[/d]")
        a[b]c[/d]
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal else UNFOLDED
    return Pipe(
        quiet=quiet, stderr=stderr, width=width, markup=False, highlight=False, emoji=False, soft_wrap=not terminal
    )
