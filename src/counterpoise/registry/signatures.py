"""The arguments of a function or class, read from its source: names, types, defaults and help.

Nothing is imported for it, so that `counterpoise list` and every `--help` answer without loading torch.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

from counterpoise.errors import InputError
from counterpoise.registry import user_files
from counterpoise.registry.arguments import Argument, Description, Reader, check_value
from counterpoise.registry.source import PACKAGE, Found, Scope, assigned, last_name, value_of

SCALARS: dict[str, Reader] = {"int": int, "float": float, "str": str, "bool": bool, "Path": Path}
SEQUENCES: dict[str, Callable[..., Any]] = {"list": list, "Sequence": list, "tuple": tuple}


class Kind(NamedTuple):
    """What an annotation says of the values that a flag takes."""

    type: Reader | None = None
    choices: tuple[Any, ...] = ()
    many: Callable[..., Any] | None = None
    single: bool = True


def describe(module: str, name: str, *, package: Path = PACKAGE) -> Description:
    """Read the arguments of a function, a class or a method from source.

    A class has the arguments of its `__init__` (or its fields, as a dataclass), and where that passes `**others` on,
    those of its base class in Counterpoise too, except for what it sets itself in `super().__init__(...)`.

    Args:
        module: its name below the package, such as "contrast.simclr"; or of a user's file, such as "file:mine.py".
        name: a function or class in it, or "Class.method". Of a user's objective, whether its class or what `Method.of`
            makes of it, these are the arguments of the method around it.
        package: the folder of the package's source.

    Raises:
        InputError: if there is no such module, or nothing of that name in it.

    Examples:
        >>> describe("registry.signatures", "describe").arguments[2].help
        "the folder of the package's source."
    """
    outer, _, method = name.partition(".")
    found = Scope(module, package).find(outer)
    if found and method and isinstance(found.node, ast.ClassDef):
        found = found.method(method)
    elif found and module.startswith(user_files.PREFIX) and (objective := _objective(found)):
        return _describe_objective(found, objective)
    if found is None or not isinstance(found.node, (ast.ClassDef, ast.FunctionDef)):
        raise InputError(f"module '{module}' has no function or class '{name}'")
    return Description(_docs(found.node).summary, tuple(_arguments(found)))


def describe_settings(task_module: str, *, package: Path = PACKAGE) -> Description:
    """Read the settings of a task from source: the class that the task's attribute `settings` names.

    Args:
        task_module: module of the task below the package, whose `TASK` is an instance of its class.
        package: the folder of the package's source.

    Raises:
        InputError: if the module has no task.

    Examples:
        >>> [argument.name for argument in describe_settings("tasks.graph").arguments]
        ['epochs', 'data_dir', 'download', 'device', 'threads']
    """
    for kind in _task_classes(task_module, package):
        value = kind.attribute("settings")
        named = kind.scope.find(value.id) if isinstance(value, ast.Name) else None
        if named and isinstance(named.node, ast.ClassDef):
            return Description(_docs(named.node).summary, tuple(_arguments(named)))
    raise InputError(f"module '{task_module}' has no TASK with settings")


def task_roles(task_module: str, *, package: Path = PACKAGE) -> dict[str, str]:
    """Read from source the models that methods of a task may stand on: for each role, what it usually is.

    Args:
        task_module: as for `describe_settings`.
        package: the folder of the package's source.

    Examples:
        >>> task_roles("tasks.pretrain"), task_roles("tasks.graph")
        ({'start': 'simclr'}, {})
    """
    for kind in _task_classes(task_module, package):
        if (value := kind.attribute("roles")) is not None:
            return dict(ast.literal_eval(value))
    return {}


def _task_classes(task_module: str, package: Path) -> Iterator[Found]:
    """The class of a module's `TASK`, and its base classes."""
    scope = Scope(task_module, package)
    instance = scope.find("TASK")
    kind = scope.find(last_name(instance.node.func)) if instance and isinstance(instance.node, ast.Call) else None
    while kind:
        yield kind
        kind = kind.base()


class UserClass(NamedTuple):
    """What a user's class says of itself in its source.

    Attributes:
        summary: the first line of its docstring; "" without one.
        attributes: that the class and its base classes beside it set, by name; what is no plain value as `Code`.
        base: module and name of the first of its base classes that is Counterpoise's; `None` where there is none.
        trains_images: whether nothing speaks against its being a `Method`: it may be any but a `Learner` of other data.
        is_objective: whether it is an objective of two views, of which `Method.of` makes a method.
    """

    summary: str
    attributes: dict[str, Any]
    base: tuple[str, str] | None
    trains_images: bool
    is_objective: bool


def describe_user_class(module: str, name: str, *, package: Path = PACKAGE) -> UserClass:
    """Read what the catalogue has to know of a method in a user's file.

    Args:
        module: of the file, such as "file:mine.py".
        name: of a class at its top level, or of what `Method.of` made.
        package: the folder of the package's source.

    Raises:
        InputError: if there is nothing of that name, naming the classes that there are.
    """
    found = Scope(module, package).find(name)
    if found is None or not _is_user_class(found):
        scope = Scope(module, package)
        there = [node for node in scope.statements() if isinstance(node, (ast.ClassDef, ast.Assign))]
        names = [node.name if isinstance(node, ast.ClassDef) else ast.unparse(node.targets[0]) for node in there]
        known = ", ".join(each for each in names if _is_user_class(scope.find(each))) or "none"
        raise InputError(f"{user_files.shown(user_files.path_of(module))}: has no class '{name}'; its classes: {known}")
    objective = _objective(found)
    found = objective or found
    lineage = list(found.lineage()) if isinstance(found.node, ast.ClassDef) else []
    attributes: dict[str, Any] = {}
    for each in [each for each in lineage if each.scope.is_file][::-1]:
        assert isinstance(each.node, ast.ClassDef)
        attributes |= {key: value_of(node, each.scope) for key, node in assigned(each.node)}
    ours = [(each.scope.module, getattr(each.node, "name", "")) for each in lineage if not each.scope.is_file]
    names = [name for _, name in ours]
    text = ast.get_docstring(found.node) if isinstance(found.node, ast.ClassDef) else None
    summary = (text or "").strip().partition("\n")[0].strip()
    trains_images = "Method" in names or "Learner" not in names
    return UserClass(summary, attributes, ours[0] if ours else None, trains_images, objective is not None)


def _is_user_class(found: Found | None) -> bool:
    return found is not None and (isinstance(found.node, ast.ClassDef) or _objective(found) is not None)


def _objective(found: Found) -> Found | None:
    """Of a user's objective, its class or what is given to `Method.of`; `None` of anything else."""
    node = found.node
    if isinstance(node, ast.Call) and last_name(node.func) == "of" and node.args:
        return found.scope.find_dotted(node.args[0]) or Found(node.args[0], found.scope)
    if not isinstance(node, ast.ClassDef) or any(not each.scope.is_file for each in found.lineage()):
        return None
    return found if found.method("forward") and not found.method("loss") else None


def _describe_objective(found: Found, objective: Found) -> Description:
    """The arguments of the method around an objective: the encoder, the objective's own, and the others'."""
    around = Scope("learners.method", objective.scope.package).find("ObjectiveMethod")
    assert around is not None
    first, *others = _arguments(around)
    given = {word.arg: value_of(word.value, found.scope) for word in getattr(found.node, "keywords", ())}
    others = [replace(one, default=given[one.name]) if one.name in given else one for one in others]
    if not isinstance(objective.node, (ast.ClassDef, ast.FunctionDef)):  # an instance, made already
        return Description("", (first, *others))
    return Description(_docs(objective.node).summary, (first, *_arguments(objective), *others))


def _arguments(found: Found) -> list[Argument]:
    node, scope = found.node, found.scope
    if isinstance(node, ast.FunctionDef):
        return _parameters(node, _docs(node).help, scope)
    assert isinstance(node, ast.ClassDef)
    base = found.base()
    inherited = _arguments(base) if base else []
    docs = _docs(node).help
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if init is not None:
        own = _parameters(init, docs | _docs(init).help, scope)
        passed = [] if init.args.kwarg is None else _without_fixed(init, inherited)
    else:
        own = _fields(node, docs, scope) if any(last_name(mark) == "dataclass" for mark in node.decorator_list) else []
        passed = inherited
    helps = {argument.name: argument.help for argument in inherited}
    own = [argument if argument.help else replace(argument, help=helps.get(argument.name, "")) for argument in own]
    names = {argument.name for argument in own}
    return own + [argument for argument in passed if argument.name not in names]


def _without_fixed(init: ast.FunctionDef, inherited: list[Argument]) -> list[Argument]:
    """The base's arguments without those that `init` itself hands to `super().__init__`."""
    for call in ast.walk(init):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            fixed = {keyword.arg for keyword in call.keywords}
            return [argument for argument in inherited[len(call.args) :] if argument.name not in fixed]
    return []


def _parameters(function: ast.FunctionDef, helps: dict[str, str], scope: Scope) -> list[Argument]:
    positional = [*function.args.posonlyargs, *function.args.args]
    without_default = len(positional) - len(function.args.defaults)
    pairs = zip(
        positional + function.args.kwonlyargs,
        [None] * without_default + function.args.defaults + function.args.kw_defaults,
        strict=True,
    )
    return [_argument(arg.arg, arg.annotation, default, helps, scope) for arg, default in pairs if arg.arg != "self"]


def _fields(node: ast.ClassDef, helps: dict[str, str], scope: Scope) -> list[Argument]:
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return [_argument(ast.unparse(part.target), part.annotation, part.value, helps, scope) for part in fields]


def _argument(
    name: str, annotation: ast.expr | None, default: ast.expr | None, helps: dict[str, str], scope: Scope
) -> Argument:
    kind = _kind(annotation, scope)._asdict()
    value = None if default is None else value_of(default, scope)
    return Argument(name, default=value, required=default is None, help=helps.get(name, ""), **kind)


class Docs(NamedTuple):
    """A docstring's first paragraph, and its line for every argument."""

    summary: str
    help: dict[str, str]


def _docs(node: ast.ClassDef | ast.FunctionDef) -> Docs:
    text = ast.get_docstring(node) or ""
    params = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE).params
    help = {param.arg_name: " ".join((param.description or "").split()) for param in params}
    return Docs(" ".join(text.partition("\n\n")[0].split()), help)


def _kind(node: ast.expr | None, scope: Scope) -> Kind:
    """The values that an annotation allows; `Kind()` when they cannot be written on a command line."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _kind(ast.parse(node.value, mode="eval").body, scope)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either([_kind(side, scope) for side in (node.left, node.right) if not _is(None, side)])
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        name = last_name(node.value)
        if name == "Literal":
            choices = tuple(value_of(part, scope) for part in parts)
            types = {type(choice) for choice in choices}
            return Kind(types.pop(), choices) if len(types) == 1 else Kind()
        if name in SEQUENCES:
            kinds = {_kind(part, scope) for part in parts if not _is(..., part)}
            kind = kinds.pop()
            if not kinds and kind.type not in (None, bool) and kind.many is None:
                return kind._replace(many=SEQUENCES[name], single=False)
        return Kind()
    name = "" if node is None else last_name(node)
    if name in SCALARS:
        return Kind(SCALARS[name])
    alias = scope.find(name) if isinstance(node, ast.Name) else None
    return _kind(alias.node, alias.scope) if alias and isinstance(alias.node, ast.expr) else Kind()


def _either(kinds: list[Kind]) -> Kind:
    """The kind of a union; `int | float` reads numbers, `str | Path` text."""
    types = {kind.type for kind in kinds}
    if types == {int, float}:
        types = {float}
    if types == {str, Path}:
        types = {str}
    if len(types) > 1:
        return Kind()
    choices = tuple(choice for kind in kinds for choice in kind.choices) if all(kind.choices for kind in kinds) else ()
    many = next((kind.many for kind in kinds if kind.many), None)
    return Kind(types.pop(), choices, many, any(kind.single for kind in kinds))


def _is(value: Any, node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def check_arguments(module: str, name: str, **given: Any) -> None:
    """Refuse arguments of a function or class that are of another kind than it takes; unknown ones are passed over.

    Examples:
        >>> check_arguments("contrast.simclr", "SimCLR", temperature="warm")
        Traceback (most recent call last):
        counterpoise.errors.InputError: temperature: expected a number, got 'warm'
    """
    for argument in describe(module, name).arguments:
        if argument.name in given:
            check_value(argument, given[argument.name])
