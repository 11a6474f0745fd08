"""The catalogue: what each method is, when to use it, and where it lives; read from `papers.toml`, without torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from counterpoise.errors import InputError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Paper:
    """One row of the catalogue.

    Args:
        slug: its name everywhere: on the command line, in file names, in results.
        title: the paper's.
        room: the folder of its file, below `counterpoise`.
        kind: what it offers: objective, method, measure, sampler …
        tasks: what it serves; a method can be compared with others on a task.
        summary: what it does, in one line.
        when: when to use it: on which imperfection of the data.
        done: whether it can be used; planned otherwise.
        baseline: whether it is one of the references that the papers are measured against.
        arxiv: identifier of the preprint, if there is one.
        year: of the preprint.
        venue: where it appeared, if it did.
        module: its module below `counterpoise`, once done.
        method: the class of its method, if it has one; of a paper about measuring, the function of its study.
        objectives: the classes of its objectives.
        labels: whether its method reads the labels of the training images.
    """

    slug: str
    title: str
    room: str
    kind: tuple[str, ...]
    tasks: tuple[str, ...]
    summary: str
    when: str
    done: bool = False
    baseline: bool = False
    arxiv: str | None = None
    year: int | None = None
    venue: str | None = None
    module: str | None = None
    method: str | None = None
    objectives: tuple[str, ...] = ()
    labels: bool = False


@cache
def papers() -> Mapping[str, Paper]:
    """All rows by slug, in the order of the catalogue.

    >>> papers()["dcl"].title
    'Decoupled Contrastive Learning'
    """
    rows = tomllib.loads(Path(__file__).with_name("papers.toml").read_text(encoding="utf-8"))
    return MappingProxyType({slug: _paper(slug, row) for slug, row in rows.items()})


def find(slug: str) -> Paper:
    """The row of a slug.

    Raises:
        InputError: if there is none; names the nearest.
    """
    if slug not in papers():
        raise unknown("method", slug, papers())
    return papers()[slug]


def select(
    room: str | None = None, task: str | None = None, done: bool | None = None, baseline: bool | None = None
) -> list[Paper]:
    """The rows that meet every condition given, in the order of the catalogue.

    Args:
        room: only those of this room.
        task: only those that serve this task.
        done: only those that can be used (`True`), or that are planned (`False`).
        baseline: only the baselines (`True`), or only the papers (`False`).

    Raises:
        InputError: if no row has that room, or that task.

    >>> [paper.slug for paper in select(room="contrast", baseline=True)]
    ['simclr', 'moco', 'supcon']
    """
    rows = papers().values()
    _check("room", room, (row.room for row in rows))
    _check("task", task, (name for row in rows for name in row.tasks))
    return [
        row
        for row in rows
        if room in (None, row.room)
        and (task is None or task in row.tasks)
        and done in (None, row.done)
        and baseline in (None, row.baseline)
    ]


def methods_named(text: str) -> list[str]:
    """The slugs that a `--methods` value means: a comma-separated list, in which `room:NAME` is all methods of a room.

    Args:
        text: such as "simclr,dcl" or "cross-entropy,room:contrast"; a slug named twice counts once.

    Raises:
        InputError: for an empty list, an unknown slug or room, or one that has no method yet.

    >>> methods_named("dcl, simclr, dcl")
    ['dcl', 'simclr']
    """
    slugs: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name.startswith("room:"):
            room = name.removeprefix("room:")
            found = [row.slug for row in select(room=room, done=True) if row.method]
            if not found:
                raise InputError(f"room '{room}' has no method yet; all its papers are planned")
            slugs += found
        else:
            method_source(name)
            slugs.append(name)
    if not slugs:
        raise InputError(f"methods: expected at least one name, got '{text}'; `counterpoise list --done` shows them")
    return list(dict.fromkeys(slugs))


def method_source(slug: str) -> tuple[str, str]:
    """The module of a method and the name of its class.

    Raises:
        InputError: if the slug is unknown, only planned, or has no method.

    >>> method_source("dcl")
    ('contrast.dcl', 'DCL')
    """
    paper = _done(slug)
    if not paper.module or not paper.method:
        raise InputError(f"'{slug}' has no method to train; it offers: {', '.join(paper.kind)}")
    return paper.module, paper.method


def task_source(task: str) -> str:
    """The module of a task, below `counterpoise`.

    >>> task_source("few-shot")
    'tasks.few_shot'
    """
    return f"tasks.{task.replace('-', '_')}"


def load_class(slug: str) -> Any:
    """The class of a method, or the function of a study, imported now.

    Raises:
        InputError: if the slug is unknown, only planned, or has no method.
    """
    return getattr(_module(slug), method_source(slug)[1])


def load_objectives(slug: str) -> tuple[type, ...]:
    """The classes of a paper's objectives, imported now; empty where it has none of its own.

    Raises:
        InputError: if the slug is unknown or only planned.
    """
    module = _module(slug)
    return tuple(getattr(module, name) for name in find(slug).objectives)


def _module(slug: str) -> ModuleType:
    return importlib.import_module(f"counterpoise.{_done(slug).module}")


def _done(slug: str) -> Paper:
    paper = find(slug)
    if not paper.done:
        raise InputError(f"'{slug}' is planned but not there yet; `counterpoise list --done` shows what is")
    return paper


def _check(kind: str, name: str | None, known: Iterable[str]) -> None:
    if name is not None and name not in (known := set(known)):
        raise unknown(kind, name, known)


def _paper(slug: str, row: dict[str, Any]) -> Paper:
    lists: dict[str, Any] = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return Paper(slug, **{**row, **lists})
