"""The console: plain text that is never cut, and a pipe that its reader has closed."""

import io
import os
import sys

from counterpoise.terminal import discard, make_console


def test_markup_stays_text_and_a_long_line_stays_one(capsys):
    make_console().print("[red]a[/red] :smile: " + "word " * 500)
    printed = capsys.readouterr().out
    assert printed.startswith("[red]a[/red] :smile: word")
    assert printed.count("\n") == 1


def test_each_console_has_its_stream_and_a_quiet_one_has_none(capsys):
    make_console(stderr=True).print("warning")
    make_console(quiet=True).print("nothing")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "warning\n")


def test_a_terminal_is_folded_at_its_width(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    make_console().print("word " * 30)
    assert max(map(len, sys.stdout.getvalue().splitlines())) <= 40


def test_what_is_written_to_a_discarded_stream_goes_nowhere():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        os.close(reading)
        discard(stream)
        stream.write("late")
        stream.flush()
