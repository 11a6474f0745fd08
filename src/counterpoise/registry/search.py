"""Search spaces: the values that tuning tries of some arguments and settings, as papers.toml and claims.toml hold them.

A claim tries every combination of the values. `compare --tune` draws from them, and from ranges of the learning rate
and the weight decay besides. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from counterpoise.errors import InputError, unknown
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import Argument, check_value
from counterpoise.registry.signatures import describe, describe_settings

Space = Mapping[str, list[Any]]
AROUND = {"lr": (0.1, 10.0), "weight_decay": (0.1, 100.0)}
"""What every method is tuned over: from and to which multiple of its own default."""
FROM_ZERO = (1e-6, 1e-2)  # where the default is 0, which has no multiples


class Range(NamedTuple):
    """Numbers from which tuning draws on a logarithmic scale."""

    low: float
    high: float


Spread = Mapping[str, "list[Any] | Range"]
"""The values that `compare --tune` tries of each argument: one of a list, or from a range."""


def number_of_trials(space: Space) -> int:
    """How many combinations of values there are.

    Examples:
        >>> number_of_trials({"lr": [0.001, 0.01], "temperature": [0.1, 0.2, 0.5]})
        6
    """
    return math.prod(map(len, space.values()))


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of values, the last argument changing fastest.

    Examples:
        >>> list(combinations({"a": [1, 2], "b": [True, False]}))[1:3]
        [{'a': 1, 'b': False}, {'a': 2, 'b': True}]
    """
    for values in product(*space.values()):
        yield dict(zip(space, values, strict=True))


def space_text(space: Spread) -> str:
    """A space in words.

    Examples:
        >>> space_text({"lr": Range(0.001, 0.01), "flip": [True, False]})
        'lr: 0.001 to 0.01; flip: on, off'
    """
    return "; ".join(f"{name}: {_listed(values)}" for name, values in space.items())


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
    known = arguments_of(method, task) | (settings_of(task) if task else {})
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
        >>> search_space("groco")
        {'negatives': [5, 10, 20], 'steepness': [0.5, 1.0, 2.0]}
    """
    space, where = catalogue.find(slug).search, f"{slug}: search"
    check_space(where, space)
    check_space_of(where, space, slug)
    return space


def tuning_space(slug: str, fixed: Iterable[str] = ()) -> dict[str, list[Any] | Range]:
    """What `compare --tune` tries of a method: its search space, with ranges of the learning rate and weight decay.

    Args:
        slug: of a method that can be used, or of a user's file.
        fixed: arguments that the user has given values, which are then not tuned.

    Raises:
        InputError: as `search_space`; where nothing is left to tune.

    Examples:
        >>> tuning_space("moco", fixed=["temperature", "momentum"])
        {'lr': Range(low=0.0002, high=0.02), 'weight_decay': Range(low=1e-05, high=0.01)}
    """
    known = arguments_of(slug)
    space: dict[str, list[Any] | Range] = {**search_space(slug)}
    for name, (least, most) in AROUND.items():
        if name in known and name not in space:
            usual = known[name].default
            low, high = (least * usual, most * usual) if usual else FROM_ZERO
            space[name] = Range(float(f"{low:.6g}"), float(f"{high:.6g}"))
    left = {name: values for name, values in space.items() if name not in fixed}
    if not left:
        why = "all that could be tuned is fixed" if space else "it declares no values to try (search)"
        raise InputError(f"tune: nothing is to be tuned of {slug}: {why}")
    return left


def defaults_of(slug: str, space: Iterable[str]) -> dict[str, Any]:
    """The method's own values of what is tuned.

    Examples:
        >>> defaults_of("simclr", ["lr", "temperature"])
        {'lr': 0.002, 'temperature': 0.1}
    """
    known = arguments_of(slug)
    return {name: known[name].default for name in space}


def arguments_of(method: str, task: str | None = None) -> dict[str, Argument]:
    """The arguments of a method by name, without its encoder and other objects; for "measure", of its study."""
    arguments = describe(*catalogue.method_source(method, task)).arguments
    return {argument.name: argument for argument in arguments if argument.type is not None}


def settings_of(task: str) -> dict[str, Argument]:
    """The settings of a task by name."""
    return {argument.name: argument for argument in describe_settings(catalogue.task_source(task)).arguments}


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _listed(values: list[Any] | Range) -> str:
    return f"{values.low:g} to {values.high:g}" if isinstance(values, Range) else ", ".join(map(_shown, values))


def _shown(value: Any) -> str:
    return "on" if value is True else "off" if value is False else str(value)
