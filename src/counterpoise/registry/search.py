"""Search spaces: the values that tuning tries of some arguments and settings, as papers.toml and claims.toml hold them.

Every combination of the values is one trial. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from counterpoise.errors import InputError, unknown
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import Argument, check_value
from counterpoise.registry.signatures import describe, describe_settings

Space = Mapping[str, list[Any]]


def number_of_trials(space: Space) -> int:
    """How many combinations of values there are.

    Examples:
        >>> number_of_trials({"lr": [0.001, 0.01], "temperature": [0.1, 0.2, 0.5]})
        6
    """
    return math.prod(map(len, space.values()))


def space_text(space: Space) -> str:
    """A space in words.

    Examples:
        >>> space_text({"lr": [0.001, 0.01], "flip": [True, False]})
        'lr: 0.001, 0.01; flip: on, off'
    """
    return "; ".join(f"{name}: {', '.join(map(_shown, values))}" for name, values in space.items())


def check_space(where: str, space: Any) -> None:
    """Refuse what is no search space: names, each with a list of at least two different values.

    Args:
        where: what the message names.
        space: as TOML gives it.

    Raises:
        InputError: naming `where` and the argument.

    Examples:
        >>> check_space("tune", {"lr": [0.01, 0.01]})
        Traceback (most recent call last):
        counterpoise.errors.InputError: tune: lr: expected different values, got 0.01 twice
    """
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise InputError(f"{where}: expected names with lists of values, got {space!r}")
    for name, values in space.items():
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise InputError(f"{where}: {name}: expected a list of at least two values, got {values!r}")
        for at, value in enumerate(values):
            if any(_same(value, before) for before in values[:at]):
                raise InputError(f"{where}: {name}: expected different values, got {_shown(value)} twice")


def check_values(where: str, kind: str, values: Mapping[str, Any], known: Mapping[str, Argument]) -> None:
    """Refuse unknown names, and values that an argument or setting cannot have.

    Args:
        where: what the message names.
        kind: of what the names are, in words.
        values: by name.
        known: what each takes, by name.

    Raises:
        InputError: naming `where`, the argument, and the nearest name for an unknown one.
    """
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{where}: {unknown(kind, name, known)}")
        try:
            check_value(known[name], value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def check_space_of(where: str, space: Space, method: str, task: str | None = None) -> None:
    """Refuse a search space that a method and a task cannot run.

    Args:
        where: what the message names.
        space: as `check_space` accepts it.
        method: a slug; the names are those of its arguments.
        task: if given, the names may also be those of its settings. A setting comes before an argument of that name,
            which the task fills in.

    Raises:
        InputError: for a name that is neither, and for a value that it cannot have.
    """
    known = arguments_of(method) | (settings_of(task) if task else {})
    for name, values in space.items():
        for value in values:
            check_values(
                where, f"argument of {method}" + (f" or setting of {task}" if task else ""), {name: value}, known
            )


def search_space(slug: str) -> Space:
    """What `compare --tune` tries of a method, as the catalogue declares it; empty where it declares nothing.

    Args:
        slug: of a method that can be used.

    Raises:
        InputError: if the slug is unknown or has no method; if what is declared is no search space of the method.

    Examples:
        >>> search_space("dcl")
        {}
    """
    space, where = catalogue.find(slug).search, f"{slug}: search"
    check_space(where, space)
    check_space_of(where, space, slug)
    return space


def arguments_of(method: str) -> dict[str, Argument]:
    """The arguments of a method by name, without its encoder and other objects."""
    arguments = describe(*catalogue.method_source(method)).arguments
    return {argument.name: argument for argument in arguments if argument.type is not None}


def settings_of(task: str) -> dict[str, Argument]:
    """The settings of a task by name."""
    return {argument.name: argument for argument in describe_settings(catalogue.task_source(task)).arguments}


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _shown(value: Any) -> str:
    return "on" if value is True else "off" if value is False else str(value)
