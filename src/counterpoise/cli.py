"""The command line: `counterpoise COMMAND …`. Each command is one Python call with the same names.

Flags are read from the source of what they call, so that no command loads torch before it needs it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from counterpoise.errors import InputError, ProcessLost, RunFailed, printable, unknown
from counterpoise.files import UNWRITABLE
from counterpoise.registry import catalogue, user_files
from counterpoise.registry.arguments import Description, add_flags, collect
from counterpoise.registry.ledger import declared
from counterpoise.registry.signatures import describe, describe_settings
from counterpoise.terminal import discard, make_console
from counterpoise.version import __version__

COMMANDS = {
    "list": "the methods and papers, by task, room or state",
    "show": "one of them: what it is, when to use it, its arguments, its claim",
    "data": "what a data set holds: counts, sizes, duplicates, unreadable files, a contact sheet",
    "scenes": "pictures of several objects each, made to order, with masks, boxes, relations and captions (COCO)",
    "compare": "several methods on one data set: which of them helps, and how sure that is",
    "train": "one method on one data set",
    "predict": "labels for new images from a trained run, with the nearest images that it knows, as CSV",
    "embed": "the features of images from a trained encoder, as Parquet or NPY",
    "export": "a trained encoder as safetensors or ONNX",
    "claim": "a paper's central claim, run again",
}
OFFERED = ("samples", "classes", "unlabelled", "names", "new_names", "shape")
"""Plain arguments of methods that the task fills in from the data."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 something failed, 2 refused input, 130 stopped."""
    _open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if not debug:
        _speak_plainly()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names that are no valid UTF-8 are shown with escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run([word for word in arguments if word != "--debug"])
        sys.stdout.flush()
    except InputError as error:
        if debug:
            raise
        print(f"counterpoise: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except (ProcessLost, RunFailed) as error:
        if debug:
            raise
        print(f"counterpoise: {printable(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("counterpoise: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        discard(sys.stdout)
        sys.exit(0)
    except OSError as error:
        if debug or error.errno not in UNWRITABLE:
            raise
        print(f"counterpoise: {printable(error.filename or 'output')}: {error.strerror}", file=sys.stderr)
        discard(sys.stdout)
        sys.exit(2)
    except Exception as error:
        reason = user_files.blamed(error)
        if debug or reason is None:
            raise
        print(f"counterpoise: {printable(reason)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Standard streams that are closed, as by `>&-`, go nowhere; a file opened later would take their number."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers, the lowest free of which is taken
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115


def _speak_plainly() -> None:
    """Warnings in one line; no traceback of a library's thread where the command itself says what went wrong."""
    warnings.showwarning = lambda message, *_: print(f"counterpoise: warning: {printable(message)}", file=sys.stderr)
    usual = threading.excepthook
    threading.excepthook = lambda failed: None if issubclass(failed.exc_type, OSError) else usual(failed)


def run(arguments: list[str]) -> None:
    """Run one command; raises `InputError` for what is refused."""
    parser = Parser(
        prog="counterpoise",
        allow_abbrev=False,
        description="Learning from imperfect data, and knowing which method helps.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items()),
        usage="counterpoise COMMAND [options]   (counterpoise COMMAND --help shows the options)",
    )
    parser.add_argument("--version", action="version", version=f"counterpoise {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback where input is refused")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    own = parser.parse_args(arguments[:1])
    if own.command is None:
        parser.print_help()
        return
    if own.command not in COMMANDS:
        raise unknown("command", own.command, COMMANDS)
    HANDLERS[own.command](arguments[1:])


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, and the nearest flag for an unknown one."""

    @property
    def _prefix(self) -> str:
        """What comes before a message: the command, where there is one."""
        command = self.prog.partition(" ")[2]
        return f"{command}: " if command else ""

    def error(self, message: str) -> NoReturn:
        raise InputError(self._prefix + message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise unknown(f"{self._prefix}argument", rest[0].split("=")[0], flags)
        return found


def make_parser(command: str, details: str = "") -> Parser:
    """An empty parser for one command; flags must be spelled out, so that new ones never change old scripts."""
    return Parser(
        prog=f"counterpoise {command}",
        description=COMMANDS[command][0].upper() + COMMANDS[command][1:] + "." + details,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="  --debug  show a traceback where input is refused",
    )


def look_for(command: str, arguments: list[str], *flags: str) -> argparse.Namespace:
    """The flags on which a command's other flags depend; `None` where they are not given."""
    finder = Parser(add_help=False, prog=f"counterpoise {command}", allow_abbrev=False)
    for flag in flags:
        finder.add_argument(flag)
    return finder.parse_known_args(arguments)[0]


def call(module: str, name: str, given: dict[str, Any]) -> Any:
    """Import a function of the library and call it."""
    return getattr(importlib.import_module(f"counterpoise.{module}"), name)(**given)


def list_(arguments: list[str]) -> None:
    """`counterpoise list`."""
    parser = make_parser("list")
    parser.add_argument("--task", help="only what serves this task")
    parser.add_argument("--room", help="only this room")
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--done", action="store_const", const="done", dest="state", help="only what is there")
    state.add_argument("--planned", action="store_const", const="planned", dest="state", help="only what is to come")
    parser.add_argument("--json", action="store_true", dest="as_json", help="as JSON")
    call("commands.listing", "print_list", {"console": make_console(), **vars(parser.parse_args(arguments))})


def show(arguments: list[str]) -> None:
    """`counterpoise show`."""
    parser = make_parser("show")
    parser.add_argument("slug", help="as `counterpoise list` gives it; or PATH.py:CLASS of a file of your own")
    call("commands.listing", "print_show", {"console": make_console(), "slug": parser.parse_args(arguments).slug})


def data(arguments: list[str]) -> None:
    """`counterpoise data`."""
    about = describe("commands.data", "show_data")
    parser = make_parser("data")
    parser.add_argument("data", help="a known set such as fashion-mnist, a folder of images, a CSV or Parquet file")
    add_flags(parser, about, skip=("data",))
    given = parser.parse_args(arguments)
    call("commands.data", "show_data", {"data": given.data, **collect(given, about)})


def compare(arguments: list[str]) -> None:
    """`counterpoise compare`: the flags depend on the task, so that is looked for first."""
    task = look_for("compare", arguments, "--task").task or "pretrain"
    about, settings = describe("commands.compare", "compare"), describe_settings(catalogue.task_source(task))
    parser = make_parser("compare")
    add_flags(parser, about)
    add_flags(parser.add_argument_group(f"what all methods of {task} share"), settings)
    given = parser.parse_args(arguments)
    content = call("commands.compare", "compare", collect(given, about) | collect(given, settings))
    runs = [(row["label"], run) for row in content.get("methods", ()) for run in row["runs"]]
    failed = [f"{label}, seed {run['seed']}: {run['error']}" for label, run in runs if run["status"] == "failed"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(runs)} runs failed; the first of them, {failed[0]}")


def train(arguments: list[str]) -> None:
    """`counterpoise train`: the flags depend on the method, so that is looked for first."""
    about = describe("commands.train", "train")
    found = look_for("train", arguments, "--method", "--task")
    method = user_files.split_arguments(found.method)[0] if found.method else None
    task = found.task or (catalogue.task_of(method) if method else "pretrain")
    settings = describe_settings(catalogue.task_source(task))
    parser = make_parser(
        "train", "" if method else "\nWith --method SLUG --help, also shows that method's own arguments."
    )
    add_flags(parser, about)
    add_flags(parser.add_argument_group("training"), settings)
    own = Description("", ())
    if method:
        own, taken = _own_flags(method, {argument.name for argument in (*about.arguments, *settings.arguments)})
        add_flags(parser.add_argument_group(f"of {method}", taken), own)
    given = parser.parse_args(arguments)
    result = call("commands.train", "train", collect(given, about) | collect(given, settings) | collect(given, own))
    for name, value in result["metrics"].items():
        print(f"{name:<15} {value:.4f}")
    for warning in result["warnings"]:
        print(printable(f"warning: {warning}"))
    print(printable(f"kept in {result['folder']}"))


def _own_flags(method: str, shared: set[str]) -> tuple[Description, str | None]:
    """The arguments of a method that are flags, and lines of help on those whose flags are taken.

    Args:
        method: its slug.
        shared: the arguments of every run: a flag of such a name is the run's, so that the method's own argument is
            given with the method.
    """
    arguments = [argument for argument in describe(*catalogue.method_source(method)).arguments if argument.type]
    arguments = [argument for argument in arguments if argument.name not in OFFERED]
    lines = [
        f"--method {method}:{argument.name}=…  {argument.help} (default: {argument.shown_default}); {argument.flag} is "
        "the run's"
        for argument in arguments
        if argument.name in shared - {"batch_size"}  # which the task gives to a method
    ]
    own = tuple(argument for argument in arguments if argument.name not in shared)
    return Description("", own), "\n".join(lines) or None


def simple(command: str, module: str) -> Any:
    """A command whose flags are the arguments of one function, and which writes one file."""

    def handle(arguments: list[str]) -> None:
        about = describe(module, command)
        parser = make_parser(command)
        add_flags(parser, about)
        given = collect(parser.parse_args(arguments), about)
        call(module, command, given)
        print(printable(f"wrote {given['out']}"))

    return handle


def claim(arguments: list[str]) -> None:
    """`counterpoise claim`."""
    about = describe("commands.claim", "claim")
    parser = make_parser("claim")
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="whose claim")
    add_flags(parser, about, skip=("slugs",))
    given = parser.parse_args(arguments)
    options = collect(given, about)
    standing = call("commands.claim", "claim", {"slugs": given.slugs, **options})
    asked = len(declared()) if options.get("all") else len(given.slugs)
    if options.get("verify") and len(standing) < asked:
        raise RunFailed(f"{asked - len(standing)} of {asked} records do not stand")


HANDLERS = {
    "list": list_,
    "show": show,
    "data": data,
    "compare": compare,
    "train": train,
    "predict": simple("predict", "commands.predict"),
    "embed": simple("embed", "commands.embed"),
    "export": simple("export", "commands.export"),
    "scenes": simple("scenes", "commands.scenes"),
    "claim": claim,
}

if __name__ == "__main__":
    main()
