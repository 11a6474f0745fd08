"""A fingerprint of the code behind a result, so that a result whose code has changed since can be told.

The source of a module and of every Counterpoise module it imports, directly or not, is hashed without comments,
docstrings and layout. Nothing is imported for it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# They refuse, describe or write; they do not compute.
IGNORED = {"errors", "files", "registry.catalogue", "registry.arguments", "ops.checks", "data.inspection"}


def fingerprint(modules: Iterable[str]) -> str:
    """Sixteen hexadecimal digits that change when the code of `modules`, or of what they import, changes.

    Args:
        modules: names below `counterpoise`, such as "contrast.dcl".

    >>> fingerprint(["contrast.dcl"]) == fingerprint(["contrast.dcl", "ops.similarity"])  # dcl stands on it anyway
    True
    """
    seen: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in seen and module not in IGNORED:
            seen.add(module)
            pending.extend(_parsed(module)[1])
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(f"{module}\n{_parsed(module)[0]}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """What a module computes, as text, and the Counterpoise modules that it imports."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return _written(tree), tuple(_imports(tree))


def _written(part: Any) -> str:
    """What `ast.dump` writes, without empty fields and texts of f-strings: which there are differs between Pythons."""
    if isinstance(part, ast.JoinedStr):
        part = ast.JoinedStr([value for value in part.values if getattr(value, "value", None) != ""])
    if isinstance(part, ast.AST):
        told = (f"{name}={_written(value)}" for name, value in ast.iter_fields(part) if value not in (None, []))
        return f"{type(part).__name__}({','.join(told)})"
    return f"[{','.join(map(_written, part))}]" if isinstance(part, list) else repr(part)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            module = name.removeprefix("counterpoise.")
            if name.startswith("counterpoise.") and _path(module).exists():
                yield module


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
