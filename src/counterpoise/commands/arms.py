"""The rows of a comparison: what `--methods` and `--baseline` name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from counterpoise import tasks
from counterpoise.errors import InputError, unknown
from counterpoise.registry import catalogue


@dataclass(frozen=True)
class Arm:
    """One row of a comparison: a method with arguments of its own.

    Args:
        label: what the row is called: the method and its arguments, as they were written.
        method: its slug, as a run records it; see `catalogue.pinned`.
        arguments: by name.
    """

    label: str
    method: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read `slug:name=value:name=value`, where the slug may be `PATH.py:CLASS`.

        Raises:
            InputError: as `catalogue.read_method`.

        Examples:
            >>> Arm.parse("dcl:temperature=0.5:weighted=true").arguments
            (('temperature', 0.5), ('weighted', True))
        """
        method, arguments = catalogue.read_method(text)
        return cls(text, method, tuple(arguments.items()))


class Rows(NamedTuple):
    """The rows of a comparison.

    Attributes:
        arms: the methods.
        baseline: the label of the one that the others are measured against.
        references: what costs no training.
    """

    arms: Sequence[Arm]
    baseline: str
    references: Sequence[Arm] = ()


def parse_arms(methods: Sequence[str], task: str = "pretrain") -> list[Arm]:
    """The rows of a comparison; commas are resolved, and `room:NAME` to the room's methods that serve the task.

    Raises:
        InputError: if there is none, a name is not known, no method of a room serves the task, or a row comes twice.
    """
    texts = [
        text.strip() for entry in ([methods] if isinstance(methods, str) else methods) for text in entry.split(",")
    ]
    arms: list[Arm] = []
    for text in filter(None, texts):
        if text.startswith("room:"):
            arms += [Arm(slug, slug) for slug in methods_of_room(text, task)]
        else:
            arms.append(Arm.parse(text))
    if not arms:
        raise InputError("methods: expected at least one, got none")
    for i, arm in enumerate(arms):
        if any(arm.label == other.label for other in arms[:i]):
            raise InputError(f"methods: '{arm.label}' is named more than once")
        same = [o.label for o in arms[:i] if (o.method, dict(o.arguments)) == (arm.method, dict(arm.arguments))]
        if same:  # two rows that would be one run
            raise InputError(f"methods: '{arm.label}' is the same as '{same[0]}'")
    return arms


def methods_of_room(text: str, task: str) -> list[str]:
    """The methods of `room:NAME` that serve a task.

    Raises:
        InputError: if none does, naming the tasks that they serve.
    """
    slugs = catalogue.methods_named(text)
    serving = [slug for slug in slugs if task in catalogue.find(slug).tasks]
    if not serving:
        served = dict.fromkeys(name for slug in slugs for name in catalogue.find(slug).tasks)
        raise InputError(f"methods: no method of {text} serves the task {task}; they serve: {', '.join(served)}")
    return serving


def choose_baseline(arms: Sequence[Arm], baseline: str | None, task: str = "pretrain") -> str:
    """The label of the row that the others are measured against."""
    labels = [arm.label for arm in arms]
    if baseline is None:
        usual = tasks.find(task).baseline
        return usual if usual in labels else labels[0]
    if baseline not in labels:
        raise unknown("baseline", baseline, labels)
    return baseline
