"""The catalogue: what each method is, when to use it, and where it lives; read from `papers.toml`, without torch.

A method of a user's own file stands beside those of the catalogue: its slug is `PATH.py:CLASS`, and its row is made
from the file, which is read and not run. `pinned` names its content, too; see `user_files`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from counterpoise.errors import InputError, unknown
from counterpoise.registry import user_files
from counterpoise.registry.arguments import read_value
from counterpoise.registry.signatures import UserClass, describe, describe_user_class

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
        method: the class of its method, if it has one.
        study: the module below `counterpoise` whose function `study` the task `measure` runs, and so the paper's claim
            if it is one of that task; of papers about measuring, and of methods that claim more than a comparison of
            trained networks shows.
        objectives: the classes of its objectives.
        labels: whether its method reads the labels of the training images.
        search: the values that tuning tries of some of its method's arguments, by name; see `registry.search`.
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
    study: str | None = None
    objectives: tuple[str, ...] = ()
    labels: bool = False
    search: Mapping[str, list[Any]] = field(default_factory=dict, hash=False)


@cache
def papers() -> Mapping[str, Paper]:
    """All rows by slug, in the order of the catalogue.

    Examples:
        >>> papers()["dcl"].title
        'Decoupled Contrastive Learning'
    """
    rows = tomllib.loads(Path(__file__).with_name("papers.toml").read_text(encoding="utf-8"))
    return MappingProxyType({slug: _paper(slug, row) for slug, row in rows.items()})


FEATURE_TASKS = ("pretrain", "retrieve", "few-shot", "compose", "regress")


def _reference(
    slug: str,
    title: str,
    name: str,
    summary: str,
    tasks: tuple[str, ...] = FEATURE_TASKS,
    labels: bool = False,
    module: str = "learners.references",
) -> Paper:
    when = "Beside every comparison: what a method must beat before its score says that it has learnt anything."
    return Paper(
        *(slug, title, "", ("reference",), tasks, summary, when),
        done=True,
        baseline=True,
        module=module,
        method=name,
        labels=labels,
    )


def _linear(slug: str, title: str, name: str, summary: str) -> Paper:
    return _reference(slug, title, name, summary, ("classify", "robust"), labels=True)


def _survival(slug: str, title: str, name: str, summary: str, module: str = "classify.cox") -> Paper:
    return _reference(slug, title, name, summary, ("survival",), labels=True, module=module)


REFERENCES: Mapping[str, Paper] = MappingProxyType(
    {
        row.slug: row
        for row in (
            _reference("raw", "Raw inputs", "Raw", "The inputs themselves as features."),
            _reference("untrained", "Untrained encoder", "Untrained", "An encoder as it is before training."),
            _reference("start", "The start", "Reference", "The encoder with the weights that methods start from."),
            _linear("raw-linear", "Raw inputs", "LinearOnRaw", "A linear classifier on the inputs."),
            _linear("untrained-linear", "Untrained encoder", "LinearOnUntrained", "A linear classifier on that."),
            _linear("start-linear", "The start", "LinearOnFeatures", "A linear classifier on that."),
            _survival("no-features", "No features", "KaplanMeier", "One survival curve for all items.", "classify.km"),
            _survival("raw-cox", "Raw inputs", "Cox", "A Cox regression on the inputs."),
            _survival("untrained-cox", "Untrained encoder", "CoxOnUntrained", "A Cox regression on that."),
            _survival("start-cox", "The start", "CoxOnFeatures", "A Cox regression on that."),
            _reference("raw-nodes", "Raw inputs", "RawNodes", "The features of the nodes themselves.", ("graph",)),
            _reference(
                *("untrained-towers", "Untrained towers", "UntrainedTowers", "Towers as they are before training."),
                ("zero-shot",),
                module="classify.zero_shot",
            ),
        )
    }
)
"""What costs no training, by slug: methods like any other, which belong to no paper and no room."""


def find(slug: str) -> Paper:
    """The row of a slug, or of a reference; of a user's file, a row made from the source of its class.

    Raises:
        InputError: if there is none, naming the nearest; for a user's file that is missing or no Python, or has no such
            class, or one that does not say what it serves.
    """
    if user_files.is_user_slug(slug):
        return _user_row(slug)
    if slug in REFERENCES:
        return REFERENCES[slug]
    if slug not in papers():
        raise unknown("method", slug, papers())
    return papers()[slug]


def pinned(slug: str) -> str:
    """What a run records of a method: its slug; of a user's file `PATH.py:CLASS@HASH`, with the hash of its content.

    Wherever the package takes a slug, it takes a recorded one, too. It stands for what the file held when it had that
    hash: a process that has read it goes on with it, and any other refuses a file that was changed since.

    Raises:
        InputError: for a user's file that is missing or no Python.

    Examples:
        >>> pinned("dcl")
        'dcl'
    """
    return user_files.pinned(slug) if user_files.is_user_slug(slug) else slug


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """A method with arguments of its own, as `--method` and `--methods` take it.

    Args:
        text: `slug:name=value:name=value`, where the slug may be `PATH.py:CLASS`.

    Returns:
        Its slug, as a run records it (see `pinned`), and the values by name.

    Raises:
        InputError: for another form, an unknown method or argument, a value that it does not take, or one given twice.

    Examples:
        >>> read_method("dcl:temperature=0.5:weighted=true")
        ('dcl', {'temperature': 0.5, 'weighted': True})
    """
    slug, pairs = user_files.split_arguments(text)
    method = pinned(slug)
    known = {argument.name: argument for argument in describe(*method_source(method)).arguments}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise InputError(f"method: expected slug:name=value, got '{text}'")
        name = name.replace("-", "_")
        if name not in known:
            raise unknown(f"argument of {slug}", name, known)
        if name in found:
            raise InputError(f"{name}: is given twice in '{text}'")
        found[name] = read_value(known[name], value)
    return method, found


def short_slug(slug: str) -> str:
    """A slug as a part of a file's name: of a user's file, its name and that of the class.

    Examples:
        >>> short_slug("dcl"), short_slug("/home/ann/mine.py:MyMethod@0123456789ab")
        ('dcl', 'mine-MyMethod')
    """
    return user_files.short_slug(slug)


def check_source(slug: str, hash: str) -> None:
    """Refuse a method of a user's file that has another content than that of a hash; the catalogue's have none.

    `load_class` does so itself for a slug that `pinned` made.

    Args:
        slug: of the method.
        hash: as `pinned` gives it after the "@".

    Raises:
        InputError: naming the file.
    """
    if user_files.is_user_slug(slug):
        user_files.check_unchanged(slug, hash)


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

    Examples:
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

    Examples:
        >>> methods_named("dcl, simclr, dcl")
        ['dcl', 'simclr']
    """
    slugs: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name.startswith("room:"):
            room = name.removeprefix("room:")
            found = [row.slug for row in select(room=room, done=True) if row.method or row.study]
            if not found:
                raise InputError(f"room '{room}' has no method yet; all its papers are planned")
            slugs += found
        else:
            method_source(name)
            slugs.append(name)
    if not slugs:
        raise InputError(f"methods: expected at least one name, got '{text}'; `counterpoise list --done` shows them")
    return list(dict.fromkeys(slugs))


def method_source(slug: str, task: str | None = None) -> tuple[str, str]:
    """The module of a method and the name of its class; of a paper about measuring, those of its function `study`.

    Args:
        slug: of the paper.
        task: what it is to do; of a paper that has both, "measure" asks for the study, anything else for the method.

    Raises:
        InputError: if the slug is unknown, only planned, or has neither.

    Examples:
        >>> method_source("dcl")
        ('contrast.dcl', 'DCL')
        >>> method_source("ap-pool")
        ('studies.ap_pool', 'study')
        >>> method_source("naive-bayes-probe"), method_source("naive-bayes-probe", "measure")
        (('classify.naive_bayes_probe', 'NaiveBayesProbe'), ('studies.naive_bayes_probe', 'study'))
    """
    paper = _done(slug)
    if paper.study and (task == MEASURE or not paper.method):
        return paper.study, "study"
    if not paper.module or not paper.method:
        raise InputError(f"'{slug}' has no method to train; it offers: {', '.join(paper.kind)}")
    return paper.module, paper.method


MEASURE = "measure"  # the task that runs studies
TASKS = (
    *("pretrain", "classify", "robust", "retrieve", "few-shot", "compose", "regress", "survival", "graph"),
    *("zero-shot", "measure"),
)
"""The tasks that there are; a method may serve others that are to come."""
IMAGE_TASKS = ("pretrain", "retrieve", "few-shot")
"""The tasks that any method on images serves, unless it says itself which."""


def task_of(slug: str) -> str:
    """The first task that a method serves.

    Raises:
        InputError: for an unknown method, or one that serves none of the tasks that there are.

    Examples:
        >>> task_of("dcl")
        'pretrain'
    """
    served = find(slug).tasks
    method_source(slug)  # refuses one that is only planned
    for task in served:
        if task in TASKS:
            return task
    raise InputError(f"method '{slug}' serves none of the tasks there are ({', '.join(TASKS)}): {', '.join(served)}")


def task_source(task: str) -> str:
    """The module of a task, below `counterpoise`.

    Raises:
        InputError: for an unknown task.

    Examples:
        >>> task_source("few-shot")
        'tasks.few_shot'
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return f"tasks.{task.replace('-', '_')}"


def load_class(slug: str, task: str | None = None) -> Any:
    """The class of a method, or the function of a study, imported now.

    Args:
        slug: of the paper, or of a user's file.
        task: as `method_source` takes it.

    Raises:
        InputError: if the slug is unknown, only planned, or has neither; for a user's file as `find`, if it was changed
            since the slug was pinned, if it ends with an error of its own, or has no method of that name.
    """
    if user_files.is_user_slug(slug):
        return _load_user_class(slug)
    module, name = method_source(slug, task)
    return getattr(importlib.import_module(f"counterpoise.{module}"), name)


def load_objectives(slug: str) -> tuple[type, ...]:
    """The classes of a paper's objectives, imported now; empty where it has none of its own.

    Raises:
        InputError: if the slug is unknown or only planned.
    """
    if user_files.is_user_slug(slug):
        return ()
    module = _module(slug)
    return tuple(getattr(module, name) for name in find(slug).objectives)


def _user_row(slug: str) -> Paper:
    """What the source of a user's class says."""
    module, name = user_files.module_name(slug), user_files.class_name(slug)
    found = describe_user_class(module, name)
    where = f"{user_files.shown(user_files.path_of(module))}: {name}"
    based = next((row for row in papers().values() if row.method and (row.module, row.method) == found.base), None)
    tasks, labels = _served(where, found, based), found.attributes.get("labels", bool(based and based.labels))
    if not isinstance(labels, bool):
        raise InputError(f"{where}: labels: expected True or False, got {labels!r}")
    summary, kind = found.summary or name, ("objective", "method") if found.is_objective else ("method",)
    own = {"module": module, "method": name, "labels": labels, "search": found.attributes.get("search", {})}
    return Paper(slug, summary, "", kind, tasks, summary, "", done=True, **own)


def _served(where: str, found: UserClass, based: Paper | None) -> tuple[str, ...]:
    """The tasks of a user's class: those that it names, or of the catalogue's method below it, or those of images."""
    tasks = found.attributes.get("tasks")
    if tasks is None and based:
        return based.tasks
    if tasks is None and found.trains_images:
        return IMAGE_TASKS
    if tasks is None:
        raise InputError(
            f"{where}: is a Learner, but no Method on images; expected an attribute `tasks`, the names of those of "
            f"{', '.join(TASKS)} that it serves"
        )
    names = (tasks,) if isinstance(tasks, str) else tasks
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"{where}: tasks: expected names of tasks, got {tasks!r}")
    for task in names:
        _check(f"{where}: task", str(task), TASKS)
    return tuple(names)


def _load_user_class(slug: str) -> Any:
    """The method of a user's file, or the method around its objective; `pickle` finds it in its module by its name."""
    learners: Any = importlib.import_module("counterpoise.learners.method")
    module, found = user_files.load(slug)
    name, around = user_files.class_name(slug), f"Method_of_{user_files.class_name(slug)}"
    if isinstance(found, type) and issubclass(found, learners.Learner):
        if found.__module__ != module.__name__ and issubclass(found, learners.ObjectiveMethod):
            found.__module__ = module.__name__
        if found.__module__ == module.__name__ and getattr(module, found.__name__, None) is not found:
            found.__name__ = found.__qualname__ = name  # made by `Method.of`
        return found
    if not hasattr(module, around):
        try:
            made = learners.Method.of(found)
        except InputError as error:
            raise InputError(
                f"{user_files.shown(str(module.__file__))}: {name}: expected a Method, or an objective of two views "
                f"to make one of; {error}"
            ) from error
        made.__module__, made.__name__, made.__qualname__ = module.__name__, around, around
        setattr(module, around, made)
    return getattr(module, around)


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
