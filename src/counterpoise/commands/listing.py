"""What `counterpoise list` and `counterpoise show` print: at once, since nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from counterpoise.errors import printable, unknown
from counterpoise.registry import user_files
from counterpoise.registry.arguments import WORDS, Argument
from counterpoise.registry.catalogue import MEASURE, Paper, find, method_source, select
from counterpoise.registry.ledger import declared, last_result, statement_line, tuning_text, verdict_text
from counterpoise.registry.search import search_space, space_text
from counterpoise.registry.signatures import describe

STATES = {"done": True, "planned": False}

EXAMPLES = {
    "pretrain": "fashion-mnist --imperfect long-tail=100",
    "retrieve": "glyphs:split=script",
    "few-shot": "glyphs:script=latin:split=character",
    "regress": "rotations",
    "compose": "glyphs:script=latin",
    "survival": "two-regimes",
    "graph": "planted",
    "zero-shot": "glyphs:split=family",
}
"""The data of a task's example."""


def print_list(
    console: Console,
    room: str | None = None,
    task: str | None = None,
    state: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the catalogue.

    Args:
        console: where to print.
        room: only this room.
        task: only what serves this task.
        state: "done" or "planned"; `None` for both.
        as_json: one JSON array instead of a table.

    Raises:
        InputError: for an unknown room, task or state.
    """
    if state is not None and state not in STATES:
        raise unknown("state", state, STATES)
    rows = select(room=room, task=task, done=STATES[state] if state else None)
    if as_json:
        text = json.dumps([asdict(paper) for paper in rows], indent=1, ensure_ascii=False)
        console.print(text, soft_wrap=True, markup=False, highlight=False)
    else:
        console.print(catalogue_table(rows))


def print_show(console: Console, slug: str) -> None:
    """Print everything about one row of the catalogue, or about a method or an objective in a user's file.

    Args:
        console: where to print.
        slug: of the catalogue, or "PATH.py:CLASS".

    Raises:
        InputError: as `catalogue.find`.
    """
    console.print(show(find(slug)))


def catalogue_table(rows: Iterable[Paper]) -> Table:
    """Room by room, one row a paper: its slug, its state, what it does and the tasks that it serves."""
    rows = list(rows)
    done = sum(paper.done for paper in rows)
    table = Table(box=None, pad_edge=False, show_header=False, caption_justify="left")
    table.caption = f"{done} done, {len(rows) - done} planned"
    for _ in range(3):
        table.add_column(overflow="fold")
    for room, members in groupby(rows, key=lambda paper: paper.room):
        table.add_row(Text(room, "bold"))
        for paper in members:
            what = Text.assemble(paper.summary, (f" [{', '.join(paper.tasks)}]", "cyan"))
            table.add_row(f"  {paper.slug}", _state(paper), what, style=None if paper.done else "dim")
    return table


def show(paper: Paper) -> RenderableType:
    """What it is, when to use it, its arguments, its claim and last result, and how to try it."""
    return Group(*_sections(paper))


def _sections(paper: Paper) -> Iterator[RenderableType]:
    own = user_files.is_user_slug(paper.slug)
    yield Text.assemble((printable(paper.slug), "bold"), f"  {printable(paper.title)}")
    facts = Table.grid(padding=(0, 2))
    about = {
        "what": None if own else paper.summary,
        "when": paper.when,
        "tasks": ", ".join(paper.tasks),
        "kind": ", ".join(paper.kind),
        "labels": "its method reads those of the training images" if paper.labels else None,
        "paper": _source(paper),
        "state": None if own else _state(paper) if paper.done else "planned: not there yet",
        "file": _file(paper.module),
        "search": space_text(search_space(paper.slug)) if paper.search else None,
        "study": _file(paper.study),
    }
    for name, text in about.items():
        if text:
            facts.add_row(Text(name, "dim"), Text(printable(text)))
    yield facts
    if paper.module:
        if paper.method:
            yield from _interface("method", *method_source(paper.slug))
        if paper.study:
            yield from _interface("study", *method_source(paper.slug, MEASURE))
        for objective in paper.objectives:
            yield from _interface("objective", paper.module, objective)
    yield from _claim(paper.slug)
    if paper.done:
        yield _heading("try it")
        yield Padding.indent(Text("\n".join(_examples(paper)), "cyan"), 2)


def _file(module: str | None) -> str:
    if module and module.startswith(user_files.PREFIX):
        return user_files.shown(user_files.path_of(module))
    return f"src/counterpoise/{module.replace('.', '/')}.py" if module else ""


def _interface(kind: str, module: str, name: str) -> Iterator[RenderableType]:
    description = describe(module, name)
    yield _heading(f"{kind} {name}")
    yield Padding.indent(Text(printable(description.summary)), 2)
    table = Table.grid(padding=(0, 2))
    for argument in description.arguments:
        default, help = Text(printable(argument.shown_default)), Text(printable(argument.help))
        table.add_row(argument.name, _values(argument), default, help)
    yield Padding.indent(table, 2)


def _values(argument: Argument) -> Text:
    """What an argument takes, in a word or two."""
    if argument.choices:
        return Text(" | ".join(map(str, argument.choices)))
    if argument.type is None:
        return Text("object")
    return Text("on | off" if argument.type is bool else WORDS[argument.type][1].split(" ", 1)[1])


def _claim(slug: str) -> Iterator[RenderableType]:
    """What the paper claims, and how that came out when it was last run."""
    claim = declared().get(slug)
    if claim is None:
        return
    yield _heading("claim")
    yield Padding.indent(Text(claim.words), 2)
    if tuning := tuning_text(claim.spaces, claim.by, claim.best):
        yield Padding.indent(Text(f"tuned: {tuning}"), 2)
    result = last_result(claim)
    if result is None:
        for statement in claim.requires:
            yield Padding.indent(Text(f"requires: {statement.says}"), 2)
        yield Padding.indent(Text(f"not run yet: counterpoise claim {slug}", "dim"), 2)
        return
    stale = "; stale: the code has changed since" if result["stale"] else ""
    yield Padding.indent(Text(f"{verdict_text(result)} ({result['date']}{stale})", "bold"), 2)
    for statement in result.get("requires", ()):
        yield Padding.indent(Text(statement_line(statement, "required")), 2)
    for statement in result["statements"]:
        yield Padding.indent(Text(statement_line(statement)), 2)


def _examples(paper: Paper) -> Iterator[str]:
    """A command that compares it with a baseline, and its use in a plain PyTorch loop; and how its study is run."""
    assert paper.module
    if paper.study:
        claim = declared().get(paper.slug)
        if claim and claim.task == MEASURE:
            yield f"counterpoise claim {paper.slug}"
        else:
            yield f"from counterpoise.{paper.study} import study"
        yield ""
    if paper.method:
        task = paper.tasks[0]
        others = [row.slug for row in select(task=task, done=True, baseline=True) if row.slug != paper.slug]
        yield f"counterpoise compare --task {task} --data {EXAMPLES.get(task, EXAMPLES['pretrain'])} \\"
        yield f"    --methods {','.join([*others[:1], printable(paper.slug)])} --seeds 3"
        yield ""
    if paper.study and not paper.objectives:
        yield f"from counterpoise.{paper.module} import …  # docs/papers/{paper.slug}.md has an example"
        return
    if user_files.is_user_slug(paper.slug):
        yield f"counterpoise train --method {printable(paper.slug)} --help"
        return
    name, call = (paper.objectives[0], "forward") if paper.objectives else (paper.method, "loss")
    if name:
        yield f"from counterpoise.{paper.module} import {name}"
        options = ", ".join(f"{argument}=…" for argument in _required(paper.module, name))
        inputs = ", ".join(_required(paper.module, f"{name}.{call}"))
        yield f"criterion = {name}({options})"
        yield f"loss = criterion{'' if call == 'forward' else '.loss'}({inputs})"


def _required(module: str, name: str) -> list[str]:
    return [argument.name for argument in describe(module, name).arguments if argument.required]


def _source(paper: Paper) -> str:
    preprint = f"arXiv {paper.arxiv} ({paper.year}), https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else ""
    return "; ".join(filter(None, [paper.venue, preprint]))


def _state(paper: Paper) -> str:
    if paper.baseline:
        return "baseline"
    return "done" if paper.done else "planned"


def _heading(text: str) -> RenderableType:
    return Padding(Text(text, "bold"), (1, 0, 0, 0), expand=False)
