"""A fingerprint of the code behind a result, by which a result whose code has changed since is recognised.

The source of a module and of every Counterpoise module it imports, directly or not, is hashed without comments,
docstrings and layout. Nothing is imported for it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from counterpoise.registry import user_files
from counterpoise.registry.exports import EXPORTS
from counterpoise.registry.syntax import computed, statements

PACKAGE = Path(__file__).parents[1]
# They refuse, describe or write; they do not compute.
IGNORED = {
    "errors",
    "files",
    "version",
    "registry.exports",
    "registry.catalogue",
    "registry.arguments",
    "registry.kinds",
    "registry.signatures",
    "registry.source",
    "ops.checks",
    "data.inspection",
}
MOST_KNOWN = 2000  # sources: the latest
KNOWN = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "counterpoise" / "modules.json"
"""What parsing has found of sources, by their digest: parsing fifty of them anew takes a third of a second."""


def fingerprint(modules: Iterable[str]) -> str:
    """Sixteen hexadecimal digits that change when the code of `modules`, or of what they import, changes.

    Args:
        modules: names below `counterpoise`, such as "contrast.dcl"; or of a user's file, such as "file:/home/ann/x.py",
            with which the files beside it are read that it imports.

    Raises:
        InputError: for a user's file that is missing or no Python.

    Examples:
        >>> fingerprint(["contrast.dcl"]) == fingerprint(["contrast.dcl", "ops.similarity"])  # dcl stands on it anyway
        True
    """
    seen: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in seen and module not in IGNORED:
            seen.add(module)
            pending.extend(_read(module)[1])
    digest = hashlib.sha256()
    for module in sorted(seen):
        name = user_files.PREFIX if module.startswith(user_files.PREFIX) else module  # wherever the file lies
        digest.update(f"{name}\n{_read(module)[0]}\n".encode("utf-8", "surrogatepass"))
    _keep()
    return digest.hexdigest()[:16]


def _read(module: str) -> tuple[str, tuple[str, ...]]:
    return _parsed_file(module) if module.startswith(user_files.PREFIX) else _parsed(module)


@cache
def _parsed(module: str) -> tuple[str, tuple[str, ...]]:
    """A digest of what a module computes, and the Counterpoise modules that it imports."""
    source = _path(module).read_bytes()
    key = hashlib.sha256(source + _reader()).hexdigest()
    if key not in _known():
        tree = ast.parse(source)
        _known()[key] = [hashlib.sha256(computed(tree).encode()).hexdigest(), *dict.fromkeys(_imports(tree))]
        _added.append(key)
    digest, *imports = _known()[key]
    return digest, tuple(imports)


_added: list[str] = []  # since the cache was read


@cache
def _reader() -> bytes:
    """What decides, besides a source, what is found in it: the code that reads, Python, and which modules there are."""
    own = [Path(__file__).read_bytes(), Path(__file__).with_name("syntax.py").read_bytes()]
    modules = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
    return b"".join([*own, sys.version.encode(), "\n".join(modules).encode()])


@cache
def _known() -> dict[str, list[str]]:
    try:
        found = json.loads(KNOWN.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep() -> None:
    """Write what is known now; a cache that cannot be written costs time alone."""
    if not _added:
        return
    _added.clear()
    with suppress(OSError):
        KNOWN.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=KNOWN.parent, suffix=".part", delete=False, encoding="utf-8") as file:
            json.dump(dict(list(_known().items())[-MOST_KNOWN:]), file)
        os.replace(file.name, KNOWN)


def _parsed_file(module: str) -> tuple[str, tuple[str, ...]]:
    """The same of a user's file, with the files beside it that it imports; what it imports from the root, too."""
    trees = user_files.trees(module)
    text = "\n".join(f"{name}\n{computed(tree)}" for name, tree in sorted(trees.items()))
    return text, tuple(name for tree in trees.values() for name in (*_imports(tree), *_imports_from_root(tree)))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in statements(tree.body):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            module = name.removeprefix("counterpoise.")
            if name.startswith("counterpoise.") and _path(module).exists():
                yield module


def _imports_from_root(tree: ast.Module) -> Iterator[str]:
    """The modules of what is used as `from counterpoise import NAME` or as `counterpoise.NAME`."""
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    roots = {alias.asname or alias.name for alias in imports if alias.name == "counterpoise"}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "counterpoise":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in roots:
            names = [node.attr]
        yield from (EXPORTS[name] for name in names if name in EXPORTS)


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
