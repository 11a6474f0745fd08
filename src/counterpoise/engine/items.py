"""What each test item adds to a run's metrics, kept beside its result, and read again for the intervals over items."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from counterpoise.data.identity import Identity
from counterpoise.errors import InputError
from counterpoise.files import written
from counterpoise.measure.intervals import Shares
from counterpoise.training.run import Scores

ITEMS = "items.npz"
KEYS, ORDER = "item keys", "item order"  # beside the names of metrics, which have no spaces


class Items(NamedTuple):
    """The content of a run's `items.npz`.

    Attributes:
        keys: of each test item; see `data.identity`.
        order: digest of the items' labels in their order.
        metrics: by name, one number for each item, whose mean is the metric.
    """

    keys: np.ndarray
    order: int
    metrics: Mapping[str, np.ndarray]


def write_items(folder: Path, scores: Scores) -> None:
    """Keep what each test item adds to the metrics: `items.npz`, in single precision; nothing where nothing is known.

    Args:
        folder: of the run.
        scores: of which `items` and `identity` are kept.
    """
    if not scores.items or scores.identity is None:
        return
    identity: Identity = scores.identity
    arrays = {name: values.detach().cpu().float().numpy() for name, values in scores.items.items()}
    for name, values in arrays.items():
        if values.shape != (len(identity.keys),):
            raise ValueError(f"items: {name}: expected one number for each of {len(identity.keys)} test items")
    arrays |= {KEYS: identity.keys.cpu().numpy(), ORDER: np.array(identity.order, dtype=np.int64)}
    with written(folder / ITEMS) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_items(folder: Path) -> Items | None:
    """What `write_items` has kept; `None` where a run has none, such as one of an earlier version.

    Raises:
        InputError: for a file that is damaged.
    """
    path = folder / ITEMS
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Items(arrays.pop(KEYS), int(arrays.pop(ORDER)), arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged ({error}); delete its folder to run it again") from error


Weighed = tuple[float, Items | None]
"""A run's items, with the weight of its figure in a sum."""


def shares(seeds: Sequence[Sequence[Weighed]], metric: str) -> Sequence[Shares] | None:
    """Of a weighted sum of runs' figures, what each test item adds to it in every seed: see `intervals.estimate`.

    The items of two runs are the same where their keys are. Only where no key of one seed is one of another, but the
    labels come in the same order in all of them, items are the same by their place: then each seed has made the content
    anew of what lies below.

    Args:
        seeds: of each seed the runs, the same ones in the same order.
        metric: whose sum it is.

    Returns:
        Keys and shares of each seed; `None` where a run does not know the figure of each item.
    """
    if not seeds or any(items is None or metric not in items.metrics for runs in seeds for _, items in runs):
        return None
    known = [[(weight, items) for weight, items in runs if items is not None] for runs in seeds]
    by_place = {run: _same_by_place([runs[run][1] for runs in known]) for run in range(len(known[0]))}
    found = []
    for runs in known:
        keys, parts = [], []
        for run, (weight, items) in enumerate(runs):
            values = items.metrics[metric].astype(np.float64)
            keys.append(_places(items) if by_place[run] else items.keys)
            parts.append(weight * (values - values.mean()) / len(values))
        found.append((np.concatenate(keys), np.concatenate(parts)))
    return found


def _same_by_place(seeds: Sequence[Items]) -> bool:
    """Whether the items of one run are the same in all seeds by their place alone."""
    if len(seeds) < 2 or len({items.order for items in seeds}) > 1:
        return False
    return sum(len(np.unique(items.keys)) for items in seeds) == len(
        np.unique(np.concatenate([items.keys for items in seeds]))
    )


def _places(items: Items) -> np.ndarray:
    """A key for each place, the same wherever the labels come in this order."""
    with np.errstate(over="ignore"):
        return np.int64(items.order) + np.arange(len(items.keys), dtype=np.int64)
