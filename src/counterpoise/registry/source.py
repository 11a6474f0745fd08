"""Names looked up in source: what a name stands for in a module of Counterpoise or in a user's file, and its value.

Nothing is imported for it, so that `counterpoise list` and every `--help` answer without loading torch.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError
from counterpoise.registry import user_files

PACKAGE = Path(__file__).parents[1]
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
        return dict(assigned(self.node)).get(name)

    def method(self, name: str) -> Found | None:
        """A method of this class, or of the nearest base class that defines it."""
        assert isinstance(self.node, ast.ClassDef)
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Found(node, self.scope)
        base = self.base()
        return base.method(name) if base else None


def assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """The attributes to which a class itself gives values."""
    for part in node.body:
        if isinstance(part, (ast.Assign, ast.AnnAssign)) and part.value is not None:
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            yield from ((target.id, part.value) for target in targets if isinstance(target, ast.Name))


def _is_type_checking(node: ast.If) -> bool:
    return last_name(node.test) == "TYPE_CHECKING"


def value_of(node: ast.expr, scope: Scope) -> Any:
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


def last_name(node: ast.expr) -> str:
    """`Literal` for `typing.Literal`, `dataclass` for `@dataclasses.dataclass(frozen=True)`."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
