"""Loads weights from files into modules by name, through any wrapper prefix, and reports what did not fit.

Files are read as tensors only; code in a file is never run.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoise.errors import InputError, first_few, printable
from counterpoise.ops.checks import check_finite

RUN_FILES = ("net.safetensors", "encoder.safetensors")  # files of a run's folder; the first that exists is read
WRAPPERS = ("state_dict", "module", "model", "net", "network", "encoder", "encoder_q", "backbone", "_orig_mod")
ENOUGH = 0.5  # share of the module's tensors that must fit

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Fitted:
    """Which tensors of a file were loaded into a module, by name.

    Attributes:
        source: the file.
        prefix: prefix of the file's names before the module's own names.
        fitted: the module's tensors that were loaded.
        missing: the module's tensors that the file lacks; they are unchanged.
        unexpected: the file's tensors that the module lacks.
        differing: the module's tensors that have another shape or kind in the file; they are unchanged. The values
            are the file's and the module's shapes.
    """

    source: Path
    prefix: str
    fitted: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    differing: dict[str, tuple[str, str]]

    @property
    def whole(self) -> bool:
        """Whether file and module have the same tensors."""
        return not (self.missing or self.unexpected or self.differing)

    def __str__(self) -> str:
        total = len(self.fitted) + len(self.missing) + len(self.differing)
        differing = [f"{name} ({theirs}, not {ours})" for name, (theirs, ours) in self.differing.items()]
        parts = [f"{self.source}: {len(self.fitted)} of the module's {total} tensors loaded"]
        for names, what in (
            (differing, "different in the file"),
            (self.missing, "missing from the file"),
            (self.unexpected, "in the file but not in the module"),
        ):
            parts += [f"{what} ({len(names)}): {first_few(names)}"] if names else []
        return printable("; ".join(parts))


def load_weights(module: nn.Module, source: str | os.PathLike[str], prefix: str | None = None) -> Fitted:
    """Load the tensors of a file that fit a module, and warn of the others in one line.

    Names match after removing a prefix: one of the file's names, such as `module.`, `state_dict.model.` or
    `encoder_q.`, and one that all of the module's names share, such as `model.` of a `Backbone`. The prefix that fits
    most of the module's tensors in name and shape is chosen.

    Args:
        module: changed in place. Tensors keep their dtype and device.
        source: a safetensors file; a state dict or checkpoint (Lightning or other) written by `torch.save`, in which
            nested dicts are searched; or a run's folder.
        prefix: prefix of the file's names, with its last dot, instead of the search; "" for none.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: for a file that is missing, damaged, or holds more than tensors and plain values; if two prefixes
            fit equally well, and no usual one decides; if fewer than half of the module's tensors fit; or for NaN or
            infinity in tensors that fit. The module is then unchanged.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "w.pt"
        >>> torch.save({"state_dict": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}}, path)
        >>> net = nn.Linear(2, 1)
        >>> found = load_weights(net, path)
        >>> found.prefix, found.whole, net.weight.tolist()
        ('state_dict.module.', True, [[1.0, 1.0]])
    """
    path = _file(Path(source).expanduser())
    stored = _read(path)
    wanted = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if not wanted:
        raise InputError(f"module: {type(module).__name__} has no tensors to load")
    best, names = _best(_candidates(stored, wanted, prefix), stored, wanted, path)
    fitted = _compared(path, best, names, stored, wanted)
    if len(fitted.fitted) < ENOUGH * len(wanted):
        raise InputError(_too_few(fitted, module, stored, wanted))
    loaded = {name: stored[names[name]] for name in fitted.fitted}
    for name, value in loaded.items():
        if value.is_floating_point():
            check_finite(f"{path}: {name}", value)
    module.load_state_dict(loaded, strict=False)
    if not fitted.whole:
        warnings.warn(str(fitted), stacklevel=2)
    return fitted


# --- reading ---


def _file(source: Path) -> Path:
    if not source.is_dir():
        if not source.exists():
            raise InputError(f"source: expected a file of weights or a run's folder, but '{source}' does not exist")
        return source
    found = [source / name for name in RUN_FILES if (source / name).is_file()]
    if not found:
        raise InputError(f"source: '{source}' is not a run's folder: it holds neither {' nor '.join(RUN_FILES)}")
    return found[0]


def _read(path: Path) -> Tensors:
    """The tensors of a file by name."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"source: '{path}' is not a safetensors file, or damaged ({_line(error)})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_more_than_tensors(path, error)) from error
    except Exception as error:  # which error a damaged file raises depends on where it is damaged
        raise InputError(f"source: '{path}' is not a file by torch.save, or damaged ({_line(error)})") from error
    found = dict(_tensors(content, ""))
    if not found:
        raise InputError(f"source: '{path}' holds no tensors by name, but a {type(content).__name__}")
    return found


def _more_than_tensors(path: Path, error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named is None:
        return f"source: '{path}' is not a file by torch.save, or damaged ({_line(error)})"
    return (
        f"source: '{path}' holds objects of {named[1]}, which are made by running code; save the weights alone: "
        "torch.save(net.state_dict(), path), or as safetensors"
    )


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:100]


def _tensors(content: Any, prefix: str) -> list[tuple[str, Tensor]]:
    """Tensors in nested dicts, but not in lists, where checkpoints keep optimiser states."""
    if not isinstance(content, Mapping):
        return []
    found: list[tuple[str, Tensor]] = []
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Tensor):
            found.append((prefix + name, value.detach()))
        else:
            found += _tensors(value, f"{prefix}{name}.")
    return found


# --- fitting ---


def _prefixes(words: Sequence[str]) -> list[str]:
    """All prefixes of a dotted name, from none to all of its words.

    Examples:
        >>> _prefixes(["a", "b"])
        ['', 'a.', 'a.b.']
    """
    return ["".join(f"{word}." for word in words[:i]) for i in range(len(words) + 1)]


def _candidates(stored: Tensors, wanted: Tensors, prefix: str | None) -> dict[str, dict[str, str]]:
    """For each prefix of the file's names, a mapping from the module's names to the file's.

    The module's name is the rest of the file's name, optionally after a prefix that all of the module's names share.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in stored:
        for each in _prefixes(name.split(".")[:-1]) if prefix is None else [prefix]:
            if name.startswith(each):
                found[each][name.removeprefix(each)] = name
    if not found:
        raise InputError(
            f"prefix: expected one that names in the file begin with, got '{prefix}'; it has "
            + printable(first_few([*stored]))
        )
    shared = [x for x in _prefixes(next(iter(wanted)).split(".")[:-1]) if all(name.startswith(x) for name in wanted)]
    for each, names in found.items():
        found[each] = {
            before + rest: name
            for before in reversed(shared)  # so that a name without a further prefix wins
            for rest, name in names.items()
            if before + rest in wanted
        }
    return dict(found)


def _best(
    candidates: Mapping[str, dict[str, str]], stored: Tensors, wanted: Tensors, path: Path
) -> tuple[str, dict[str, str]]:
    """The prefix with which most tensors fit, and its mapping from the module's names to the file's."""
    fits = {
        each: frozenset((ours, theirs) for ours, theirs in names.items() if _alike(stored[theirs], wanted[ours]))
        for each, names in candidates.items()
    }
    most = max(map(len, fits.values()))
    top = sorted((each for each in fits if len(fits[each]) == most), key=lambda each: (each.count("."), each))
    usual = [each for each in top if all(word in WRAPPERS for word in each.split(".")[:-1])]
    chosen = top
    if len({fits[each] for each in top}) > 1 and most >= ENOUGH * len(wanted):
        chosen = usual
    if not chosen or (chosen is usual and len({fits[each] for each in usual}) > 1):
        several = sorted({fits[each]: each for each in reversed(top)}.values())
        shown = printable(" and ".join(f"'{each}'" for each in several[:3]))
        raise InputError(f"prefix: {shown} in '{path}' fit {most} of the module's tensors each; give the one to load")
    return chosen[0], candidates[chosen[0]]


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape and kind: floating-point, complex or neither."""
    kinds = [(x.is_floating_point(), x.is_complex()) for x in (a, b)]
    return a.shape == b.shape and kinds[0] == kinds[1]


def _compared(path: Path, prefix: str, names: dict[str, str], stored: Tensors, wanted: Tensors) -> Fitted:
    fitted = tuple(ours for ours in wanted if ours in names and _alike(stored[names[ours]], wanted[ours]))
    used = {*names.values()}
    return Fitted(
        source=path,
        prefix=prefix,
        fitted=fitted,
        missing=tuple(ours for ours in wanted if ours not in names),
        unexpected=tuple(name for name in stored if name not in used),
        differing={
            ours: (_shown(stored[names[ours]]), _shown(wanted[ours]))
            for ours in wanted
            if ours in names and ours not in {*fitted}
        },
    )


def _shown(x: Tensor) -> str:
    kind = "" if x.is_floating_point() else f"{x.dtype} ".removeprefix("torch.")
    return f"{kind}{list(x.shape)}"


def _too_few(fitted: Fitted, module: nn.Module, stored: Tensors, wanted: Tensors) -> str:
    differing = [f"{name} ({theirs}, not {ours})" for name, (theirs, ours) in fitted.differing.items()]
    parts = [
        f"source: '{fitted.source}' fits {len(fitted.fitted)} of the {len(wanted)} tensors of the "
        f"{type(module).__name__}, expected at least half",
        f"the file has {first_few(fitted.unexpected or [*stored])}",
        f"the module has {first_few(fitted.missing or [*wanted])}",
    ]
    parts += [f"others differ: {first_few(differing)}"] if differing else []
    return printable("; ".join(parts))
