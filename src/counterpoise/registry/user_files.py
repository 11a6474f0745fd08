"""A user's own file of methods: read without running it, named by its content, and imported under a name of its own.

On the command line and in Python a method of such a file is called `PATH.py:CLASS`. A run records `PATH.py:CLASS@HASH`,
with the absolute path and the hash of the file's content, so that the file is imported again only while it is the same.
The files beside it that it imports belong to its content.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from counterpoise.errors import InputError
from counterpoise.registry.syntax import computed

PREFIX = "file:"  # of a module's name, where it is a user's file
DIGITS = 12  # of a hash
SLUG = re.compile(rf"(?P<path>.+?\.py):(?P<name>[^:@]+)(?:@(?P<hash>[0-9a-f]{{{DIGITS}}}))?", re.DOTALL)
WITH_ARGUMENTS = re.compile(r"(?P<slug>.+?\.py(?::[^:=]+)?)(?P<pairs>(?::.*)?)", re.DOTALL)
EXPECTED = "expected PATH.py:CLASS"


class Source(NamedTuple):
    """The content of a user's file and of the files beside it that it imports, at one moment.

    Attributes:
        path: of the file, absolute.
        text: of the file.
        trees: the syntax tree of each of the files by its absolute path, the file's own first.
        hash: of what all of them compute, in hexadecimal digits.
    """

    path: str
    text: bytes
    trees: Mapping[str, ast.Module]
    hash: str


_kept: dict[tuple[str, str], Source] = {}
"""What this process has read, by path and hash: a run goes on with it, whatever becomes of the file."""
_folders: list[str] = []
"""The folders of the files that were imported, as far as they stand in Python's search path for that alone."""


def is_user_slug(slug: str) -> bool:
    """Whether a method is one of a user's file.

    Examples:
        >>> is_user_slug("./mine.py:MyMethod"), is_user_slug("dcl")
        (True, False)
    """
    return slug.endswith(".py") or ".py:" in slug


def split_arguments(text: str) -> tuple[str, list[str]]:
    """The slug of `slug:name=value:name=value`, and the pairs.

    Examples:
        >>> split_arguments("./mine.py:MyMethod:weight=2"), split_arguments("dcl:temperature=0.5")
        (('./mine.py:MyMethod', ['weight=2']), ('dcl', ['temperature=0.5']))
    """
    if is_user_slug(text) and (found := WITH_ARGUMENTS.fullmatch(text)):
        return found["slug"], found["pairs"].split(":")[1:]
    slug, *pairs = text.split(":")
    return slug, pairs


def short_slug(slug: str) -> str:
    """A slug as a part of a file's name.

    Examples:
        >>> short_slug("/home/ann/my methods.py:Mine@0123456789ab"), short_slug("dcl")
        ('my-methods-Mine', 'dcl')
    """
    if not is_user_slug(slug):
        return slug
    path, name, _ = _parts(slug)
    return re.sub(r"[^\w.-]+", "-", f"{Path(path).stem}-{name}", flags=re.ASCII)


def pinned(slug: str) -> str:
    """A slug with the absolute path and the hash of its file, which name the same code wherever they are used.

    Raises:
        InputError: for another form than `PATH.py:CLASS`, or a file that is missing, unreadable or no Python.
    """
    source = read(slug)
    return f"{source.path}:{_parts(slug)[1]}@{source.hash}"


def check_unchanged(slug: str, hash: str) -> None:
    """Refuse a user's file that has another content than that of a hash.

    Raises:
        InputError: naming the file.
    """
    path, _, _ = _parts(slug)
    now = _read(path).hash
    if now != hash:
        raise InputError(
            f"{shown(path)}: has been changed since: its content is {now}, the run's was {hash}; "
            "restore the file, or train again"
        )


def read(slug: str) -> Source:
    """The content of a user's file: as it is now; or, of a slug with a hash, as it had that hash.

    Raises:
        InputError: as `pinned`; for a file that has another hash than the slug's.
    """
    path, _, hash = _parts(slug)
    if hash is None:
        return _read(path)
    if (path, hash) not in _kept:
        check_unchanged(slug, hash)
    return _kept[path, hash]


def module_name(slug: str) -> str:
    """What the file of a slug is called as a module, in `signatures.describe` and `fingerprint`."""
    source = read(slug)
    return f"{PREFIX}{source.path}@{source.hash}"


def tree(module: str) -> ast.Module:
    """The syntax tree of a module by such a name.

    Raises:
        InputError: as `read`.
    """
    path, source = _named(module)
    return source.trees[path]


def beside(module: str, name: str, level: int = 0) -> str | None:
    """The module beside a user's file that `import name` there means; `None` where there is none.

    Args:
        module: the file.
        name: of what it imports, as in "helpers" or "helpers.losses".
        level: how many dots stand before the name.
    """
    path, source = _named(module)
    place = _start(Path(path), Path(source.path).parent, level).joinpath(*filter(None, name.split(".")))
    for found in (f"{place}.py", str(place / "__init__.py")):
        if found in source.trees:
            return f"{PREFIX}{found}@{source.hash}"
    return None


def trees(module: str) -> Mapping[str, ast.Module]:
    """The syntax trees of a user's file and of those beside it that it imports, by their path from its folder."""
    _, source = _named(module)
    return {os.path.relpath(path, Path(source.path).parent): tree for path, tree in source.trees.items()}


def class_name(slug: str) -> str:
    """The class that a slug names.

    Examples:
        >>> class_name("./mine.py:MyMethod@0123456789ab")
        'MyMethod'
    """
    return _parts(slug)[1]


def path_of(module: str) -> str:
    """The absolute path of the file that a module's name stands for."""
    return _named(module)[0]


def load(slug: str) -> tuple[ModuleType, Any]:
    """The module of a user's file, imported now, and what the slug names in it.

    The module is known to `pickle` and to `inspect` by a name that is made of the file's path and content.

    Raises:
        InputError: as `read`; if the file ends with an error of its own, with its line; if it has no such name.
    """
    source, (_, name, _) = read(slug), _parts(slug)
    module = sys.modules.get(_imported_name(source)) or _import(source)
    if not hasattr(module, name):
        raise InputError(f"{shown(source.path)}: has no class '{name}'")
    return module, getattr(module, name)


def blamed(error: BaseException) -> str | None:
    """Where an error comes from a user's file: the file, its line and the error, in one line; else `None`."""
    paths = {path for source in _kept.values() for path in source.trees}
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(path, line) for path, line in lines if path in paths]
    if not own:
        return None
    path, line = own[-1]
    return f"{shown(path)}, line {line}: {_worded(error)}"


def shown(path: str) -> str:
    """A path as a user would write it: from the present folder, where it lies below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _parts(slug: str) -> tuple[str, str, str | None]:
    """The absolute path, the name of the class and the hash, if there is one."""
    found = SLUG.fullmatch(slug)
    if found is None or not found["name"].isidentifier():
        if slug.endswith(".py") and os.path.isfile(os.path.expanduser(slug)):
            raise InputError(f"'{slug}': {EXPECTED}; {_has(_read(_absolute(slug)))}")
        raise InputError(f"'{slug}': {EXPECTED}, as in ./mine.py:MyMethod")
    return _absolute(found["path"]), found["name"], found["hash"]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _has(source: Source) -> str:
    names = [node.name for node in next(iter(source.trees.values())).body if isinstance(node, ast.ClassDef)]
    return f"the file has the classes: {', '.join(names)}" if names else "the file has no class"


def _named(module: str) -> tuple[str, Source]:
    """Path and content of a module that is called by `module_name` or `beside`."""
    path, _, hash = module.removeprefix(PREFIX).rpartition("@")
    if not re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", hash):
        path = _absolute(module.removeprefix(PREFIX))
        return path, _read(path)
    for source in _kept.values():
        if source.hash == hash and path in source.trees:
            return path, source
    return path, read(f"{path}:_@{hash}")


def _read(path: str) -> Source:
    text = _bytes(path)
    trees = {path: _parsed(path, text)}
    pending, folder = [path], Path(path).parent
    while pending:
        file = pending.pop()
        for found in map(str, _imported_files(trees[file], Path(file), folder)):
            if found not in trees:
                trees[found] = _parsed(found, _bytes(found))
                pending.append(found)
    digest = hashlib.sha256()
    for name, one in sorted((os.path.relpath(name, folder), one) for name, one in trees.items()):
        digest.update(f"{name}\n{computed(one)}\n".encode("utf-8", "surrogatepass"))
    source = Source(path, text, MappingProxyType(trees), digest.hexdigest()[:DIGITS])
    return _kept.setdefault((path, source.hash), source)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _parsed(path: str, text: bytes) -> ast.Module:
    try:
        compile(text, path, "exec", dont_inherit=True)  # refuses more than parsing does
        return ast.parse(text, path)
    except SyntaxError as error:
        raise InputError(f"{shown(path)}, line {error.lineno}: {type(error).__name__}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)}: is no Python ({_worded(error)})") from error


def _imported_files(tree: ast.Module, file: Path, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(file, folder, alias.name, 0)
        elif isinstance(node, ast.ImportFrom):
            for name in [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]:
                yield from _files_of(file, folder, name.strip("."), node.level)


def _files_of(file: Path, folder: Path, name: str, level: int) -> Iterator[Path]:
    """The files that Python runs for an import, as far as they lie in the folder of the user's file or below.

    Args:
        file: that imports.
        folder: of the user's file.
        name: of what is imported.
        level: how many dots stand before the name.
    """
    start = _start(file, folder, level)
    parts = name.split(".") if name else []
    if level == 0 and parts[0] in ("counterpoise", *sys.builtin_module_names):
        return
    for i in range(0 if level else 1, len(parts) + 1):
        place = start.joinpath(*parts[:i])
        for path in (place.with_name(f"{place.name}.py") if i else None, place / "__init__.py"):
            if path is not None and path.is_file():
                yield path


def _start(file: Path, folder: Path, level: int) -> Path:
    """Where an import of so many dots begins to look."""
    return folder if level == 0 else file.parents[min(level, len(file.parents)) - 1]


def _imported_name(source: Source) -> str:
    key = hashlib.sha256(f"{source.path}@{source.hash}".encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    return f"user_file_{re.sub(r'[^0-9a-zA-Z]', '_', Path(source.path).stem)}_{key}"


def _import(source: Source) -> ModuleType:
    """Run what was read, not what may stand in the file by now."""
    module = ModuleType(_imported_name(source))
    module.__file__ = source.path
    others = dict(_modules_beside(source))
    _search_first(str(Path(source.path).parent), others)
    importlib.invalidate_caches()
    sys.modules[module.__name__] = module
    # Python would take what it keeps of a file beside it for that file, if its size and the second of its change agree.
    keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        exec(compile(source.text, source.path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise InputError(blamed(error) or str(error)) from error
    finally:
        sys.dont_write_bytecode = keeps
    _check_beside(source, others)
    return module


def _search_first(folder: str, names: Iterable[str]) -> None:
    """Let Python look in a folder for modules, before it looks in those of other user's files, and look anew.

    It does so after all other places, so that no file there takes the place of a library.

    Args:
        folder: of the file that will be run.
        names: of modules in it. Those of an earlier state of the file, or of another folder, are forgotten.
    """
    for name in names:
        loaded = getattr(sys.modules.get(name), "__file__", None) or ""
        if any(Path(loaded).is_relative_to(one) for one in (folder, *_folders)):
            del sys.modules[name]
    if folder in _folders:
        _folders.remove(folder)
        sys.path[:] = [place for place in sys.path if place != folder]
    if folder not in sys.path:
        places = [i for i, place in enumerate(sys.path) if place in _folders]
        sys.path.insert(min(places, default=len(sys.path)), folder)
        _folders.append(folder)


def _modules_beside(source: Source) -> Iterator[tuple[str, str]]:
    """The names and paths of the modules beside a file that it imports."""
    for path in list(source.trees)[1:]:
        parts = Path(path).relative_to(Path(source.path).parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _check_beside(source: Source, others: Mapping[str, str]) -> None:
    """Refuse a file that has got another module than the one beside it, whose content its hash speaks of."""
    for name, path in others.items():
        found = getattr(sys.modules.get(name), "__file__", path)
        if found is not None and os.path.abspath(found) != path:
            del sys.modules[_imported_name(source)]
            raise InputError(f"{shown(path)}: Python finds '{name}' in {found} first; call this file otherwise")


def _worded(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
