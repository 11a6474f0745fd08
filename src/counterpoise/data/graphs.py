"""Heterogeneous graphs: a planted one, and those that torch_geometric loads by name (extra `graph`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from counterpoise.data.images import cache_path
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.ops.checks import check_number

KNOWN = ("AMiner", "DBLP", "IMDB")
DIGITS = 9
WORDS, SAID = 100, 10  # of which a paper is made, and how many it says
PLANTED = {"nodes": 600, "classes": 4}
NAMES = ("planted", *(f"pyg:{name}" for name in KNOWN))


def load_graph(data: str, data_dir: str | None = None, download: bool = False, seed: int = 0) -> Any:
    """A graph by name, as a `torch_geometric.data.HeteroData` with labels `y` of one node type.

    Args:
        data: "planted", with options as in "planted:nodes=600:classes=4" (see `planted_graph`), or "pyg:NAME" for a
            set of torch_geometric: AMiner, DBLP, IMDB.
        data_dir: folder of downloaded sets.
        download: whether to download what is not there.
        seed: of a planted graph.

    Raises:
        InputError: for an unknown name or option, or a set that is not there.
        MissingExtra: without torch_geometric.
    """
    if not isinstance(data, str):
        raise InputError(f"data: expected a name such as 'planted', got {data!r}")
    kind, _, rest = data.partition(":")
    if kind == "planted":
        return planted_graph(**_options(data, rest), seed=seed)
    if kind == "pyg" and rest in KNOWN:
        return _pyg(rest, Path(data_dir) if data_dir else cache_path() / "pyg", download)
    raise unknown("graph", data, NAMES)


def _options(data: str, text: str) -> dict[str, int]:
    options = {}
    for pair in filter(None, text.split(":")):
        name, _, value = pair.partition("=")
        if name not in PLANTED:
            raise unknown(f"option of {data}", name, PLANTED)
        if name in options:
            raise InputError(f"data: {name} is given twice in '{data}'")
        if not value.isdecimal() or len(value) > DIGITS:
            raise InputError(f"data: expected a whole number of at most {DIGITS} digits for {name}, got '{value:.20}'")
        options[name] = int(value)
    return options


def _pyg(name: str, folder: Path, download: bool) -> Any:
    try:
        from torch_geometric import datasets
    except ModuleNotFoundError as error:
        raise MissingExtra("torch_geometric", "graph") from error
    root = folder / name
    if not download and not (root / "processed").exists():
        raise InputError(f"pyg:{name}: not under {root}; download=True (--download) allows the download")
    try:
        return getattr(datasets, name)(str(root))[0]
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"pyg:{name}: cannot be loaded: {str(error).splitlines()[0]}") from error


def planted_graph(nodes: int = 600, classes: int = 4, seed: int = 0) -> Any:
    """Papers of planted classes, their authors and venues: links show the class, and so do words, a little.

    A paper has three authors, of its own class with probability 0.7 and else of any, and one venue, likewise with
    probability 0.5. There is an author for every three papers and a venue for every twenty. A paper has ten of 100
    words, each typical of its class with probability 0.15 and else any: by themselves they show little.

    Args:
        nodes: how many papers, at least 20.
        classes: how many classes, at least 2; at most as many as there are venues, and as there are words.
        seed: of all that is drawn, from 0.

    Returns:
        A `HeteroData`: `paper` with features `x` and labels `y`, `author`, `venue`, and edges from papers to both.

    Raises:
        InputError: for numbers out of range.
        MissingExtra: without torch_geometric.

    Examples:
        >>> graph = planted_graph(nodes=60, classes=3)
        >>> graph.node_types, graph["author"].num_nodes, graph["paper"].x.shape
        (['paper', 'author', 'venue'], 20, torch.Size([60, 100]))
    """
    try:
        from torch_geometric.data import HeteroData
    except ModuleNotFoundError as error:
        raise MissingExtra("torch_geometric", "graph") from error
    check_number("nodes", nodes, at_least=20, whole=True)
    check_number("classes", classes, at_least=2, at_most=min(max(2, nodes // 20), WORDS), whole=True)
    check_number("seed", seed, at_least=0, whole=True)
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=nodes)
    graph = HeteroData()
    graph["paper"].x = torch.from_numpy(_words(label, classes, rng)).float()
    graph["paper"].y = torch.from_numpy(label)
    for kind, count, links, faithful in (("author", nodes // 3, 3, 0.7), ("venue", max(classes, nodes // 20), 1, 0.5)):
        graph[kind].num_nodes = count
        paper = np.repeat(np.arange(nodes), links)
        own = rng.integers(-(-count // classes), size=len(paper)) * classes + label[paper]  # numbers of its own class
        other = np.where((own < count) & (rng.random(len(paper)) < faithful), own, rng.integers(count, size=len(paper)))
        graph["paper", "has", kind].edge_index = torch.from_numpy(np.unique(np.stack([paper, other]), axis=1))
    return graph


def _words(label: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    shape = len(label), SAID
    typical = rng.integers(WORDS // classes, size=shape) * classes + label[:, None]
    chosen = np.where(rng.random(shape) < 0.15, typical, rng.integers(WORDS, size=shape))
    found = np.zeros((len(label), WORDS))
    np.put_along_axis(found, chosen, 1, 1)
    return found
