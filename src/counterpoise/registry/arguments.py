"""The arguments of a function or class, read from its source: names, types, defaults and help, as command-line flags.

Nothing is imported for it, so that `counterpoise list` and every `--help` answer without loading torch.
"""

from __future__ import annotations

import argparse
import ast
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

from counterpoise.errors import InputError, unknown
from counterpoise.registry import user_files

PACKAGE = Path(__file__).parents[1]
Reader = Callable[[str], Any]
SCALARS: dict[str, Reader] = {"int": int, "float": float, "str": str, "bool": bool, "Path": Path}
SEQUENCES: dict[str, Callable[..., Any]] = {"list": list, "Sequence": list, "tuple": tuple}
WORDS: dict[Reader, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
}
KINDS: dict[Reader, type] = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool, Path: str}
TRUTH = {"true": True, "on": True, "false": False, "off": False}
LARGEST = 2**63 - 1  # what PyTorch and NumPy take as a whole number
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


class Code(str):
    """A default that is no plain value, as it is written in the source."""


class Kind(NamedTuple):
    """What an annotation says of the values that a flag takes."""

    type: Reader | None = None
    choices: tuple[Any, ...] = ()
    many: Callable[..., Any] | None = None
    single: bool = True


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
        >>> describe("registry.arguments", "describe").arguments[2].help
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
    kind = scope.find(_last_name(instance.node.func)) if instance and isinstance(instance.node, ast.Call) else None
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
        attributes |= {key: _value(node, each.scope) for key, node in _assigned(each.node)}
    ours = [(each.scope.module, getattr(each.node, "name", "")) for each in lineage if not each.scope.is_file]
    names = [name for _, name in ours]
    text = ast.get_docstring(found.node) if isinstance(found.node, ast.ClassDef) else None
    summary = (text or "").strip().partition("\n")[0].strip()
    trains_images = "Method" in names or "Learner" not in names
    return UserClass(summary, attributes, ours[0] if ours else None, trains_images, objective is not None)


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


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Scope:
    """A module, in which names are looked up."""

    module: str
    package: Path

    @property
    def is_file(self) -> bool:
        """Whether it is a user's file."""
        return self.module.startswith(user_files.PREFIX)

    def find(self, name: str) -> Found | None:
        """What a name stands for: a function, a class or a value, here or where it is imported from in Counterpoise.

        In a user's file also where it is imported from in a file beside it.
        """
        for node in reversed(self.statements()):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return Found(node, self)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return Found(node.value, self)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    source = self._imported(node.module or "", node.level)
                    if source and (alias.asname or alias.name) == name:
                        return source.find(alias.name)
        return None

    def find_dotted(self, node: ast.expr) -> Found | None:
        """What `name` or `module.name` stands for."""
        if isinstance(node, ast.Name):
            return self.find(node.id)
        module = self._module_of(node.value) if isinstance(node, ast.Attribute) else None
        return module.find(node.attr) if module and isinstance(node, ast.Attribute) else None

    def statements(self) -> list[ast.stmt]:
        """Those at the top level, and those that a type checker alone reads."""
        if self.is_file:
            body = user_files.tree(self.module).body
        elif (path := self._path(self.module)) is not None:
            body = _parsed(path).body
        else:
            raise InputError(f"module '{self.module}' is not in {self.package}")
        checked = [part for node in body if isinstance(node, ast.If) and _is_type_checking(node) for part in node.body]
        return [*checked, *body]

    def _path(self, module: str) -> Path | None:
        path = self.package.joinpath(*filter(None, module.split(".")))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return path if path.is_file() else None

    def _imported(self, name: str, level: int = 0) -> Scope | None:
        """The module that an import means, if it is of Counterpoise or beside the user's file."""
        root, _, below = name.partition(".")
        if root == "counterpoise" and level == 0:
            return replace(self, module=below) if self._path(below) else None
        beside = user_files.beside(self.module, name, level) if self.is_file else None
        return replace(self, module=beside) if beside else None

    def _module_of(self, node: ast.expr) -> Scope | None:
        """The module that a name, or a name in another module, stands for."""
        if isinstance(node, ast.Attribute):
            outer = self._module_of(node.value)
            return outer._below(node.attr) if outer else None
        if not isinstance(node, ast.Name):
            return None
        for statement in self.statements():
            for alias in getattr(statement, "names", ()):
                if isinstance(statement, ast.Import) and node.id == (alias.asname or alias.name.partition(".")[0]):
                    return self._imported(alias.name if alias.asname else node.id)
                if isinstance(statement, ast.ImportFrom) and node.id == (alias.asname or alias.name):
                    return self._imported(f"{statement.module or ''}.{alias.name}".strip("."), statement.level)
        return None

    def _below(self, name: str) -> Scope | None:
        """A module of this package."""
        if self.is_file:
            beside = user_files.beside(self.module, name, 1)
            return replace(self, module=beside) if beside else None
        return self._imported(f"counterpoise.{self.module}.{name}".replace("..", "."))


@dataclass(frozen=True)
class Found:
    """A piece of source, and the module whose names it uses."""

    node: ast.AST
    scope: Scope

    def base(self) -> Found | None:
        """The base class that is defined in Counterpoise."""
        assert isinstance(self.node, ast.ClassDef)
        for base in self.node.bases:
            node = base.value if isinstance(base, ast.Subscript) else base  # Task[Prepared] is a Task
            found = self.scope.find_dotted(node)
            if found and isinstance(found.node, ast.ClassDef):
                return found
        return None

    def lineage(self) -> Iterator[Found]:
        """This class and its base classes that are defined in Counterpoise or beside the user's file."""
        found: Found | None = self
        while found:
            yield found
            found = found.base()

    def attribute(self, name: str) -> ast.expr | None:
        """The value that this class itself gives to an attribute."""
        assert isinstance(self.node, ast.ClassDef)
        return dict(_assigned(self.node)).get(name)

    def method(self, name: str) -> Found | None:
        """A method of this class, or of the nearest base class that defines it."""
        assert isinstance(self.node, ast.ClassDef)
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Found(node, self.scope)
        base = self.base()
        return base.method(name) if base else None


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """The attributes to which a class itself gives values."""
    for part in node.body:
        if isinstance(part, (ast.Assign, ast.AnnAssign)) and part.value is not None:
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            yield from ((target.id, part.value) for target in targets if isinstance(target, ast.Name))


def _is_type_checking(node: ast.If) -> bool:
    return _last_name(node.test) == "TYPE_CHECKING"


def _is_user_class(found: Found | None) -> bool:
    return found is not None and (isinstance(found.node, ast.ClassDef) or _objective(found) is not None)


def _objective(found: Found) -> Found | None:
    """Of a user's objective, its class or what is given to `Method.of`; `None` of anything else."""
    node = found.node
    if isinstance(node, ast.Call) and _last_name(node.func) == "of" and node.args:
        return found.scope.find_dotted(node.args[0]) or Found(node.args[0], found.scope)
    if not isinstance(node, ast.ClassDef) or any(not each.scope.is_file for each in found.lineage()):
        return None
    return found if found.method("forward") and not found.method("loss") else None


def _describe_objective(found: Found, objective: Found) -> Description:
    """The arguments of the method around an objective: the encoder, the objective's own, and the others'."""
    around = Scope("learners.method", objective.scope.package).find("ObjectiveMethod")
    assert around is not None
    first, *others = _arguments(around)
    given = {word.arg: _value(word.value, found.scope) for word in getattr(found.node, "keywords", ())}
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
        own = _fields(node, docs, scope) if any(_last_name(mark) == "dataclass" for mark in node.decorator_list) else []
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
    value = None if default is None else _value(default, scope)
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
        name = _last_name(node.value)
        if name == "Literal":
            choices = tuple(_value(part, scope) for part in parts)
            types = {type(choice) for choice in choices}
            return Kind(types.pop(), choices) if len(types) == 1 else Kind()
        if name in SEQUENCES:
            kinds = {_kind(part, scope) for part in parts if not _is(..., part)}
            kind = kinds.pop()
            if not kinds and kind.type not in (None, bool) and kind.many is None:
                return kind._replace(many=SEQUENCES[name], single=False)
        return Kind()
    name = "" if node is None else _last_name(node)
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


def _value(node: ast.expr, scope: Scope) -> Any:
    """The value of an expression of literals, arithmetic and constants of the module; its source for anything else."""
    try:
        return _evaluate(node, scope)
    except ValueError:
        return Code(ast.unparse(node))


def _evaluate(node: ast.expr, scope: Scope) -> Any:
    if isinstance(node, ast.Name):
        found = scope.find(node.id)
        if found is None or not isinstance(found.node, ast.expr):
            raise ValueError(node.id)
        return _evaluate(found.node, found.scope)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, scope)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left, scope), _evaluate(node.right, scope))
    if isinstance(node, (ast.Tuple, ast.List)):
        values = [_evaluate(part, scope) for part in node.elts]
        return tuple(values) if isinstance(node, ast.Tuple) else values
    return ast.literal_eval(node)


def _is(value: Any, node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _last_name(node: ast.expr) -> str:
    """`Literal` for `typing.Literal`, `dataclass` for `@dataclasses.dataclass(frozen=True)`."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


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
