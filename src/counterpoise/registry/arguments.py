"""Arguments as command-line flags, and their values: read from text, checked, and as JSON can hold them."""

from __future__ import annotations

import argparse
import math
import numbers
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError, unknown

Reader = Callable[[str], Any]
WORDS: dict[Reader, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
}
KINDS: dict[Reader, type] = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool, Path: str}
TRUTH = {"true": True, "on": True, "false": False, "off": False}
LARGEST = 2**63 - 1  # what PyTorch and NumPy take as a whole number


@dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        name: as in the signature.
        type: int, float, str, bool or Path, of one value; `None` for any other object, which is not a flag.
        default: the value, or `Code` where it is no plain one; `None` also where there is none (see `required`).
        required: whether it has no default.
        help: its line in the docstring; "" where it has none.
        choices: the only values allowed; empty when all are.
        many: list or tuple where several values are taken.
        single: whether one value may stand by itself, as in `int | Sequence[int]`.
    """

    name: str
    type: Reader | None = None
    default: Any = None
    required: bool = False
    help: str = ""
    choices: tuple[Any, ...] = ()
    many: Callable[..., Any] | None = None
    single: bool = True

    @property
    def flag(self) -> str:
        """The argument on the command line: `weight_decay` is `--weight-decay`."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.required:
            return "required"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, (list, tuple)):
            return ",".join(map(str, self.default)) or "none"
        return "none" if self.default is None else str(self.default)


@dataclass(frozen=True)
class Description:
    """A docstring's first paragraph, and the arguments in order: its own, then those of its base classes."""

    summary: str
    arguments: tuple[Argument, ...]


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, description: Description, skip: Iterable[str] = ()
) -> None:
    """Add a flag for every argument that has a plain type; flags not given leave no trace in the namespace.

    Args:
        parser: gets the flags: `--no-` beside each switch; lists may be repeated or separated by commas.
        description: of what will be called.
        skip: names of arguments that get no flag.
    """
    for argument in description.arguments:
        if argument.type is None or argument.name in skip:
            continue
        default = "required" if argument.required else f"default: {argument.shown_default}"
        text = f"{argument.help} ({default})".strip().replace("%", "%%")
        common: dict[str, Any] = {"dest": argument.name, "default": argparse.SUPPRESS, "required": argument.required}
        if argument.type is bool:
            # The help is set afterwards: Python 3.10 would append the default, which is the mark for "leave no trace".
            parser.add_argument(argument.flag, action=argparse.BooleanOptionalAction, **common).help = text
            continue
        word = "{" + ",".join(map(str, argument.choices)) + "}" if argument.choices else WORDS[argument.type][0]
        if argument.many:
            common |= {"action": "extend", "type": _reader_of_many(argument), "metavar": f"{word}[,…]"}
        else:
            common |= {"type": _reader(argument), "metavar": word}
        parser.add_argument(argument.flag, help=text, **common)


def collect(namespace: argparse.Namespace, description: Description) -> dict[str, Any]:
    """The arguments of `description` that were given on the command line, ready for a call.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> description = Description("", (Argument("seeds", int, many=list, single=False), Argument("lr", float, 0.1)))
        >>> add_flags(parser, description)
        >>> collect(parser.parse_args(["--seeds", "1,2", "--seeds", "3"]), description)
        {'seeds': [1, 2, 3]}
    """
    given = {}
    for argument in description.arguments:
        if hasattr(namespace, argument.name):
            value = getattr(namespace, argument.name)
            if argument.many:
                value = value[0] if argument.single and len(value) == 1 else argument.many(value)
            given[argument.name] = value
    return given


def read_value(argument: Argument, text: str) -> Any:
    """The value of an argument from its text, as its flag would read it; on and off as true and false, none as `None`.

    Raises:
        InputError: naming the argument, for text that is no such value.

    Examples:
        >>> read_value(Argument("lr", float, 0.1), "1e-3"), read_value(Argument("fast", bool, False), "true")
        (0.001, True)
    """
    if argument.default is None and not argument.required and text.lower() == "none":
        return None
    if argument.type is None:
        raise InputError(f"{argument.name}: takes no plain value, got '{text}'")
    if argument.type is bool:
        if text.lower() not in TRUTH:
            raise InputError(f"{argument.name}: expected true or false, got '{text}'")
        return TRUTH[text.lower()]
    try:
        value = _reader(argument)(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{argument.name}: {error}") from error
    return argument.many([value]) if argument.many and not argument.single else value


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a path as text, numbers and arrays of NumPy and PyTorch as Python's own.

    Examples:
        >>> plain([Path("a/b"), 3])
        ['a/b', 3]
    """
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def check_value(argument: Argument, value: Any) -> None:
    """Refuse a value that the argument's flag could not give, such as 1.5 for a whole number.

    Args:
        argument: as `describe` gives it.
        value: a plain one.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_value(Argument("epochs", int, 10), True)
        Traceback (most recent call last):
        counterpoise.errors.InputError: epochs: expected a whole number, got True
    """
    if argument.type is None:
        raise InputError(f"{argument.name}: takes an object, which a run cannot record; use the class itself for it")
    if value is None and argument.default is None and not argument.required:
        return
    if argument.many and isinstance(value, (list, tuple)):
        for one in value:
            check_value(replace(argument, many=None), one)
        return
    if argument.many and not argument.single:
        raise InputError(f"{argument.name}: expected several values, got {value!r}")
    if isinstance(value, bool) != (argument.type is bool) or not isinstance(value, KINDS[argument.type]):
        raise InputError(f"{argument.name}: expected {_expected(argument)}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{argument.name}: expected a finite number, got {value}")
    if argument.choices and value not in argument.choices:
        raise unknown(argument.name, value, map(str, argument.choices))


def _expected(argument: Argument) -> str:
    if argument.choices:
        return f"one of {', '.join(map(str, argument.choices))}"
    assert argument.type is not None
    return "true or false" if argument.type is bool else WORDS[argument.type][1]


def _reader(argument: Argument) -> Reader:
    def read(text: str) -> Any:
        assert argument.type is not None
        try:
            value = argument.type(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {WORDS[argument.type][1]}, got '{text}'") from error
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at most 64 bits, got one of {len(text)} digits"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number, got '{text}'")
        if argument.choices and value not in argument.choices:
            raise argparse.ArgumentTypeError(str(unknown("value", text, map(str, argument.choices))))
        return value

    return read


def _reader_of_many(argument: Argument) -> Reader:
    read = _reader(argument)

    def read_many(text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise argparse.ArgumentTypeError(f"expected values separated by commas, got '{text}'")
        return [read(part) for part in parts]

    return read_many


def as_words(name: str, given: Any) -> tuple[str, ...]:
    """Several words as a tuple; one by itself is taken for such, too.

    Raises:
        InputError: for anything else.

    Examples:
        >>> as_words("imperfect", "long-tail=10"), as_words("loggers", ["wandb", "mlflow"])
        (('long-tail=10',), ('wandb', 'mlflow'))
    """
    words = [given] if isinstance(given, str) else plain(given)
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{name}: expected texts, got {given!r}")
    return tuple(words)


def given_values(text: str | None) -> dict[str, str]:
    """The value of each role in a setting `given`.

    Raises:
        InputError: for another form, or a role that is there twice.

    Examples:
        >>> given_values("teacher=wide,start=runs/big")
        {'teacher': 'wide', 'start': 'runs/big'}
    """
    found: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        role, equals, value = part.strip().partition("=")
        if not (role and equals and value):
            raise InputError(f"given: expected ROLE=VALUE, got '{part}'")
        if role in found:
            raise InputError(f"given: {role} is given twice in '{text}'")
        found[role] = value
    return found
