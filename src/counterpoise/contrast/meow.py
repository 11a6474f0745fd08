"""MEOW and AdaMEOW: contrast which nodes of a heterogeneous graph are linked with how they are linked.

Yu, Ge, Li, Zhou, "Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative
Samples", SDM 2023 and IEEE TKDE 2024, arXiv 2212.13847.

Graphs are `torch_geometric.data.HeteroData` (extra `graph`). A meta-path is a chain of node types from the target type
back to it, such as paper-author-paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import lightning
import numpy as np
import torch
from jaxtyping import Float, Integer
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from counterpoise.errors import InputError, NonFinite, unknown
from counterpoise.learners.learner import divergence_named
from counterpoise.nets.features import evaluation
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_matrix,
    check_number,
    check_numbers,
    check_same_shape,
)
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.clusters import kmeans
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp
from counterpoise.training.trainer import quiet

Path = tuple[str, ...]
Concentration = Literal["distance", "released"]
Gone = tuple[float, np.random.Generator]  # the masked share and its random generator


# The graph


def meta_paths(graph: Any, target: str, text: str = "") -> list[Path]:
    """The meta-paths named in `text`, or all of two steps.

    Args:
        graph: a `HeteroData`.
        target: the node type at which they start and end.
        text: node types joined by hyphens, paths by commas: "paper-author-paper,paper-venue-paper". Empty: from the
            target to each type with which it has edges, and back.

    Raises:
        InputError: for an unknown node type, a path that does not start and end at the target, or none.
    """
    if target not in graph.node_types:
        raise unknown("node type", target, graph.node_types)
    if not text:
        linked = {other for a, _, b in graph.edge_types for here, other in ((a, b), (b, a)) if here == target}
        paths: list[Path] = [(target, other, target) for other in sorted(linked - {target})]
        if not paths:
            raise InputError(f"graph: expected edges between '{target}' and another node type, got none")
        return paths
    paths = [tuple(kind.strip() for kind in path.split("-")) for path in text.split(",")]
    for path in paths:
        for kind in path:
            if kind not in graph.node_types:
                raise unknown("node type", kind, graph.node_types)
        if len(path) < 3 or path[0] != target or path[-1] != target:
            raise InputError(f"paths: expected from '{target}' through other types to '{target}', got {'-'.join(path)}")
    return paths


def incidence(graph: Any, first: str, second: str) -> csr_matrix:
    """Incidence matrix of two node types, by edges of any relation in either direction.

    Raises:
        InputError: if there are no edges between the two types.
    """
    ends = []
    for edge_type in graph.edge_types:
        edges = graph[edge_type].edge_index.cpu().numpy()
        if edge_type[0] == first and edge_type[2] == second:
            ends.append(edges)
        if edge_type[0] == second and edge_type[2] == first:
            ends.append(edges[::-1])
    if not ends:
        there = ", ".join(sorted({f"{a}-{b}" for a, _, b in graph.edge_types}))
        raise InputError(
            f"graph: no edges between '{first}' and '{second}', which a meta-path takes; the graph has: {there}"
        )
    rows, columns = np.concatenate(ends, 1)
    shape = (graph[first].num_nodes, graph[second].num_nodes)
    found = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    found.data[:] = 1  # multiple edges count once
    return found


def path_counts(graph: Any, path: Path) -> list[csr_matrix]:
    """Number of instances of each prefix of a meta-path from each target node to each node, from the first step on."""
    counts = [incidence(graph, path[0], path[1])]
    for first, second in itertools.pairwise(path[1:]):
        counts.append(counts[-1] @ incidence(graph, first, second))
    return counts


def path_similarity(counts: csr_matrix) -> csr_matrix:
    """PathSim, $2 A_{ij} / (A_{ii} + A_{jj})$, where paths exist; 0 if neither node has one to itself.

    Raises:
        InputError: for a matrix that is not square, or counts that are negative or not finite.

    Examples:
        >>> path_similarity(csr_matrix([[2, 1], [1, 1]])).toarray().round(3).tolist()
        [[1.0, 0.667], [0.667, 1.0]]
    """
    _check_paths("counts", counts)
    found, own = counts.tocoo(), counts.diagonal()
    both = own[found.row] + own[found.col]
    data = np.divide(2 * found.data, both, out=np.zeros(len(both)), where=both > 0)
    return csr_matrix((data, (found.row, found.col)), shape=counts.shape)


def _check_paths(name: str, counts: csr_matrix) -> None:
    if counts.shape[0] != counts.shape[1]:
        raise InputError(f"{name}: expected as many rows as columns, got shape {list(counts.shape)}")
    if counts.nnz and not (np.isfinite(counts.data).all() and counts.data.min() >= 0):
        raise InputError(f"{name}: expected path counts, got NaN, infinity or a negative number")


def strongest(counts: csr_matrix, most: int) -> csr_matrix:
    """The counts of the `most` entries with the largest PathSim in each row; ties go to the last columns.

    Raises:
        InputError: for `most` below 1, or a matrix that `path_similarity` refuses.
    """
    check_counts(most=most)
    similar = path_similarity(counts).tocoo()
    order = np.lexsort((-similar.col, -similar.data, similar.row))
    row, column = similar.row[order], similar.col[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    row, column = row[rank < most], column[rank < most]
    kept = np.asarray(counts.tocsr()[row, column]).ravel()
    return csr_matrix((kept, (row, column)), shape=counts.shape)


def normalised(kept: csr_matrix) -> csr_matrix:
    """Symmetric normalisation; with $r$ the row sums of $B$: $B_{ji} / \\sqrt{r_i r_j}$, 0 where a row is empty.

    Raises:
        InputError: for a matrix that is not square, or numbers that are negative or not finite.
    """
    _check_paths("kept", kept)
    sums = np.asarray(kept.sum(1), dtype=np.float64).ravel()
    scale = sparse.diags(np.divide(1, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0))
    return (scale @ kept.T @ scale).tocsr()


def masked_links(kept: csr_matrix, share: float, generator: np.random.Generator) -> csr_matrix:
    """Links of weight 1 between different nodes, a share of them removed, plus self-loops.

    Raises:
        InputError: for a share that is not from 0 to 1.
    """
    check_number("share", share, at_least=0, at_most=1)
    _check_paths("kept", kept)
    found = kept.tocoo()
    edges = np.flatnonzero((found.row != found.col) & (found.data != 0))
    left = generator.permutation(edges)[int(share * len(edges)) :]
    links = csr_matrix((np.ones(len(left)), (found.row[left], found.col[left])), shape=kept.shape)
    return (links + sparse.eye(kept.shape[0])).tocsr()


def masked_features(features: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """The features, with a share of the non-zero ones set to zero.

    Raises:
        InputError: for a share that is not from 0 to 1, or NaN.
    """
    check_number("share", share, at_least=0, at_most=1)
    check_finite("features", features)
    place = features.flatten().nonzero().flatten()
    gone = torch.from_numpy(generator.permutation(len(place))[: int(share * len(place))])
    return features.flatten().index_fill(0, place[gone], 0).view_as(features)


# The losses


def prototypes(
    points: Float[Tensor, "n dim"],
    cluster: Integer[Tensor, " n"],
    tau: float,
    concentration: Concentration = "distance",
) -> tuple[Float[Tensor, "k dim"], Float[Tensor, " k"]]:
    """Unit centroids of the clusters and a temperature for each, small for a dense one, with mean `tau`.

    A cluster's temperature is proportional to the mean of sqrt(d) over its n members, divided by log(n + 5), where d is
    the squared distance to the centroid. A cluster of one takes the largest of all; all are clipped to their 10th and
    90th percentile.

    Args:
        points: one row per node; normalised here.
        cluster: cluster of each node, from 0, none empty.
        tau: mean of the temperatures, above 0.
        concentration: "distance", or "released": d is the inner product with the centroid, as in the authors' code,
            which makes dense clusters' temperatures large.

    Returns:
        At least float32.

    Raises:
        InputError: for mismatched shapes, an empty cluster, NaN, a tau that is not above 0, or an unknown
            concentration.
    """
    check_number("tau", tau, above=0)
    check_matrix("points", points)
    cluster = check_integers("cluster", cluster, len(points), low=0)
    if not cluster.bincount().all():
        raise InputError(f"cluster: expected no empty cluster up to the last, {int(cluster.max())}")
    if concentration not in get_args(Concentration):
        raise unknown("concentration", concentration, get_args(Concentration))
    return _prototypes(normalize_rows(points), cluster, tau, concentration)


def _prototypes(
    points: Tensor, cluster: Tensor, tau: float, concentration: str
) -> tuple[Float[Tensor, "k dim"], Float[Tensor, " k"]]:
    size = cluster.bincount().to(points)
    centroids = points.new_zeros(len(size), points.shape[1]).index_add_(0, cluster, points) / size[:, None]
    own = centroids[cluster]
    apart = (points * own).sum(1).clamp(min=0) if concentration == "released" else (points - own).square().sum(1)
    phi = points.new_zeros(len(size)).index_add_(0, cluster, apart.sqrt()) / size / (size + 5).log()
    phi = torch.where(size > 1, phi, phi.where(size > 1, 0).amax())
    low, high = phi.quantile(phi.new_tensor([0.1, 0.9]))
    phi = phi.clamp(low, high)
    mean = phi.mean()
    phi = tau * phi / mean if mean > 0 else torch.full_like(phi, tau)
    return normalize_rows(centroids), phi.clamp(min=1e-3 * tau)


class MEOWLoss(nn.Module):
    r"""Contrast of coarse and fine view, negatives weighted by clusters, and prototypes: `loss(z1, z2, clusters)`.

    With unit rows $c$ of the coarse and $f$ of the fine view, the mean over the nodes of

    $-\log \frac{e^{c_i f_i / \tau}}{\sum_j w_{ij} e^{c_i f_j / \tau}}
    - \frac{\lambda}{R} \sum_r \log \frac{e^{c_i m_{r(i)} / \phi_{r(i)}}}{\frac{N}{K_r} \sum_k e^{c_i m_k / \phi_k}}$

    where $w_{ij}$ counts the clusterings that put $i$ and $j$ into different clusters, so the positive is not in the
    denominator, and $m$, $\phi$ are `prototypes` of $f$, without gradient. The denominator is the sum over the
    clusterings of the sums over other clusters, so no N×N matrix is stored.

    Args:
        tau: temperature, above 0; the authors take 0.4 to 0.9.
        prototypes: $\lambda$; 0 disables the prototypes.
        concentration: see `prototypes`.

    Examples:
        >>> loss = MEOWLoss(tau=1.0, prototypes=0.0)
        >>> z = torch.eye(3)
        >>> round(loss(z, z, torch.tensor([[0], [1], [2]])).item(), 4)  # log 2 - 1: two others, both at cosine 0
        -0.3069
    """

    surrogate = True  # the prototypes depend on the fine view, but carry no gradient

    def __init__(
        self,
        tau: float = 0.4,
        prototypes: float = 1.0,
        concentration: Concentration = "distance",
    ):
        super().__init__()
        check_number("tau", tau, above=0)
        check_number("prototypes", prototypes, at_least=0)
        if concentration not in get_args(Concentration):
            raise unknown("concentration", concentration, get_args(Concentration))
        self.tau, self.prototypes, self.concentration = tau, prototypes, concentration

    def forward(
        self,
        z1: Float[Tensor, "nodes dim"],
        z2: Float[Tensor, "nodes dim"],
        clusters: Integer[Tensor, "nodes clusterings"],
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            z1: coarse view, one row per node; normalised here.
            z2: fine view of the same nodes.
            clusters: cluster of each node in each clustering.

        Raises:
            InputError: for different shapes, NaN, or if no clustering has more than one cluster.
        """
        check_same_shape(z1=z1, z2=z2)
        check_matrix("z1", z1)
        check_matrix("z2", z2)
        if clusters.ndim != 2 or len(clusters) != len(z1):
            raise InputError(f"clusters: expected integers [{len(z1)}, clusterings], got {list(clusters.shape)}")
        clusters = check_integers("clusters", clusters.flatten(), clusters.numel()).view(clusters.shape)
        coarse, fine, everyone = normalize_rows(z1), normalize_rows(z2), gather(clusters)
        several = [r for r in range(clusters.shape[1]) if len(everyone[:, r].unique()) > 1]
        if not several:
            raise InputError("clusters: every clustering has a single cluster, so no node has a negative")
        others = [
            similarity_logsumexp(
                coarse, fine, 1 / self.tau, exclude=(clusters[:, r], clusters[:, r]), gather_distributed=True
            )
            for r in several
        ]
        rows = torch.logsumexp(torch.stack(others), 0) - (coarse * fine).sum(1) / self.tau
        if self.prototypes:
            parts = [
                self._to_prototypes(coarse, fine, clusters[:, r], everyone[:, r]) for r in range(clusters.shape[1])
            ]
            rows = rows + self.prototypes * torch.stack(parts).mean(0)
        return gather(rows).mean()

    def _to_prototypes(
        self, coarse: Tensor, fine: Tensor, cluster: Tensor, everyone: Tensor
    ) -> Float[Tensor, " nodes"]:
        present, numbers = everyone.unique(return_inverse=True)
        points, phi = _prototypes(gather(fine.detach()), numbers, self.tau, self.concentration)
        logits = coarse @ points.T / phi
        own = torch.searchsorted(present, cluster.contiguous())
        return F.cross_entropy(logits, own, reduction="none") + math.log(len(everyone) / len(present))


class AdaMEOWLoss(nn.Module):
    r"""Contrast of the fine and the coarse view with learnt weights of the negatives: `loss(z1, z2)`.

    The mean over the nodes of $-\log \frac{e^{f_i c_i / \tau}}{\sum_j g_{ij} e^{f_i c_j / \tau}}$, where $g_{ij}$ is
    the sigmoid of a small network of $f_i + c_j$, trained by the same loss.

    As published, it has no lower bound: the network may push all weights towards 0. `normalize="row"` divides the
    weights of a row by their mean over its negatives. The weights are computed in chunks of rows, so memory grows as N.

    Args:
        dim: width of the rows.
        tau: temperature, above 0.
        normalize: "none", as published, or "row".
        hidden: width of the network's hidden layer.
    """

    def __init__(self, dim: int, tau: float = 1.0, normalize: Literal["none", "row"] = "none", hidden: int = 16):
        super().__init__()
        check_number("tau", tau, above=0)
        check_counts(dim=dim, hidden=hidden)
        if normalize not in ("none", "row"):
            raise unknown("normalize", normalize, ("none", "row"))
        self.tau, self.normalize = tau, normalize
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, 1)
        for start in self.second.parameters():  # equal weights, which is plain contrast
            nn.init.zeros_(start)

    def forward(self, z1: Float[Tensor, "nodes dim"], z2: Float[Tensor, "nodes dim"]) -> Float[Tensor, ""]:
        """The loss.

        Args:
            z1: fine view, one row per node; normalised here.
            z2: coarse view of the same nodes.

        Raises:
            InputError: for different shapes, a width other than `dim`, fewer than 2 nodes, or NaN.
        """
        check_same_shape(z1=z1, z2=z2)
        check_matrix("z1", z1)
        check_matrix("z2", z2)
        if z1.shape[1] != self.first.in_features:
            raise InputError(f"z1: expected {self.first.in_features} columns, as given by dim, got {z1.shape[1]}")
        number = global_row_indices(z1, "z1", at_least=2)
        fine, coarse = normalize_rows(z1), normalize_rows(z2)
        positive = (fine * coarse).sum(1) / self.tau
        coarse = gather(coarse)
        # The first layer is linear, so it is applied to nodes, not to pairs.
        weight = self.first.weight.to(fine.dtype)
        mine, theirs = F.linear(fine, weight, self.first.bias.to(fine.dtype)), F.linear(coarse, weight)
        out, level = self.second.weight[0].to(fine.dtype), self.second.bias.to(fine.dtype)
        rows, shared = [fine, mine, number], [coarse, theirs, out, level]
        denominators = map_row_chunks(self._denominators, rows, shared, columns=len(coarse))
        return gather(denominators - positive).mean()

    def _denominators(
        self, fine: Tensor, mine: Tensor, number: Tensor, coarse: Tensor, theirs: Tensor, out: Tensor, level: Tensor
    ) -> Float[Tensor, " some"]:
        """The logarithms of the denominators of some rows."""
        hidden = (mine[:, None] + theirs).to(out.dtype)  # autocast may give the first layer a narrower type
        weight = F.logsigmoid(hidden.tanh() @ out + level)
        if self.normalize == "row":
            of_negatives = weight.scatter(1, number[:, None], -torch.inf)
            weight = weight - torch.logsumexp(of_negatives, 1, keepdim=True) + math.log(len(coarse) - 1)
        return torch.logsumexp(fine @ coarse.T / self.tau + weight, 1)


# The network


class GraphEncoder(nn.Module):
    """Two graph convolutions, normalised over all entries together: one mean and one variance for the graph.

    Args:
        dim: width of the nodes' rows.
        dropout: probability of dropping an entry after each product with a weight.
    """

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        check_counts(dim=dim)
        check_number("dropout", dropout, at_least=0, at_most=1)
        self.first, self.second = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.act, self.drop = nn.PReLU(), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "nodes dim"], links: Tensor) -> Float[Tensor, "nodes dim"]:
        """Rows of the nodes, given sparse links [nodes nodes]."""
        x = self.act(links @ self.drop(self.first(x)))
        x = links @ self.drop(self.second(x))
        return F.layer_norm(x, x.shape)


class Fusion(nn.Module):
    """The mean of several views, weighted by a softmax of $a \\cdot \\operatorname{mean}_n \\tanh(V z_n + b)$."""

    def __init__(self, dim: int):
        super().__init__()
        check_counts(dim=dim)
        self.hidden, self.score = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, views: Float[Tensor, "views nodes dim"]) -> Float[Tensor, "nodes dim"]:
        """The fused rows."""
        weight = self.score(self.hidden(views).tanh().mean(1)).softmax(0)
        return (weight[:, :, None] * views).sum(0)


class Nodes(nn.Module):
    """Rows of all nodes of one type, from their features, or learnt if there are none: ELU(dropout(W x))."""

    def __init__(self, graph: Any, kind: str, dim: int, dropout: float, gone: Gone | None = None):
        super().__init__()
        check_counts(dim=dim)
        check_number("dropout", dropout, at_least=0, at_most=1)
        x = graph[kind].get("x")
        if x is None:
            self.row = nn.Embedding(graph[kind].num_nodes, dim)
        else:
            x = x.float()
            self.register_buffer("x", x, persistent=False)
            self.register_buffer("masked", x if gone is None else masked_features(x, *gone), persistent=False)
            self.linear = nn.Linear(x.shape[1], dim)
        self.known, self.drop = x is not None, nn.Dropout(dropout)

    def forward(self, masked: bool = False) -> Float[Tensor, "nodes dim"]:
        """The rows; `masked` leaves out some of the features."""
        rows = self.linear(self.masked if masked else self.x) if self.known else self.row.weight
        return F.elu(self.drop(rows))


class Links(nn.Module):
    """One meta-path: its links, whole and masked, and the mean rows of the intermediate nodes."""

    def __init__(self, graph: Any, path: Path, most: int, gone: Gone, dim: int, dropout: float):
        super().__init__()
        check_counts(most=most, dim=dim)
        check_number("dropout", dropout, at_least=0, at_most=1)
        *ways, whole = path_counts(graph, path)
        kept = strongest(whole, most)
        self.register_buffer("links", _tensor(normalised(kept)), persistent=False)
        self.register_buffer("masked", _tensor(normalised(masked_links(kept, *gone))), persistent=False)
        self.kinds = path[1:-1]
        for k, way in enumerate(ways):
            reached = way.sign()
            degree = np.maximum(np.asarray(reached.sum(1)).ravel(), 1)
            self.register_buffer(f"way{k}", _tensor(sparse.diags(1 / degree) @ reached), persistent=False)
        self.steps = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in self.kinds)
        self.drop = nn.Dropout(dropout)

    def forward(self, own: Float[Tensor, "nodes dim"], others: dict[str, Tensor]) -> Float[Tensor, "nodes dim"]:
        """The nodes' own rows plus those of the intermediate nodes, by type."""
        for k, kind in enumerate(self.kinds):
            own = own + self.drop(self.steps[k](getattr(self, f"way{k}") @ others[kind]))
        return F.elu(own)


class Meow(lightning.LightningModule):
    """Representations of one type of a graph's nodes, without labels; for graphs, not for images.

    Args:
        graph: a `torch_geometric.data.HeteroData`; nodes without features `x` each get a learnt row.
        target: the node type to represent; empty: the one with labels `y`.
        paths: meta-paths as in "paper-author-paper,paper-venue-paper"; empty: all of two steps.
        negatives: "clusters" (MEOW), "learnt" (AdaMEOW), or "uniform": all other nodes with equal weight.
        contexts: the second view sees each meta-path separately, with its intermediate nodes; otherwise it is the first
            view of the masked graph.
        prototypes: weight of the prototypes' loss, with negatives "clusters".
        concentration: of the clusters around their prototypes: "distance", or "released" as in the authors' code, which
            makes dense clusters' temperatures large.
        clusters: number of clusters of each clustering, separated by commas.
        normalize: normalisation of learnt weights: "none", as published, or "row", which bounds the loss.
        tau: temperature, above 0.
        neighbours: number of each node's links kept along a meta-path, the most similar ones; one for all meta-paths,
            or one for each.
        feature_mask: share of the target's features removed from the masked view.
        edge_mask: share of the links removed from it; one for all meta-paths, or one for each.
        hidden: width of all layers and of the result.
        dropout: probability of dropping an entry.
        lr: learning rate of Adam.
        weight_decay: weight decay of Adam.
        seed: seed of the masks, which are drawn once.

    Raises:
        InputError: for an unknown node type, a meta-path without edges, more clusters than nodes, numbers out of range,
            or another number of them than of meta-paths.
    """

    def __init__(
        self,
        graph: Any,
        target: str = "",
        paths: str = "",
        negatives: Literal["clusters", "learnt", "uniform"] = "clusters",
        contexts: bool = True,
        prototypes: float = 1.0,
        concentration: Concentration = "distance",
        clusters: str = "100,300",
        normalize: Literal["none", "row"] = "none",
        tau: float = 0.4,
        neighbours: int | Sequence[int] = 50,
        feature_mask: float = 0.3,
        edge_mask: float | Sequence[float] = 0.3,
        hidden: int = 64,
        dropout: float = 0.2,
        lr: float = 7e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        for name, share in (("feature_mask", feature_mask), ("dropout", dropout)):
            check_number(name, share, at_least=0, at_most=1)
        check_counts(hidden=hidden)
        check_number("prototypes", prototypes, at_least=0)
        check_number("seed", seed, at_least=0, whole=True)
        if concentration not in get_args(Concentration):
            raise unknown("concentration", concentration, get_args(Concentration))
        if normalize not in ("none", "row"):
            raise unknown("normalize", normalize, ("none", "row"))
        check_number("lr", lr, above=0)
        check_number("weight_decay", weight_decay, at_least=0)
        if negatives not in ("clusters", "learnt", "uniform"):
            raise unknown("negatives", negatives, ("clusters", "learnt", "uniform"))
        self.target = target or labelled_type(graph)
        chosen, draws = meta_paths(graph, self.target, paths), np.random.default_rng(seed)
        most = _of_each("neighbours", neighbours, chosen, at_least=1, whole=True)
        shares = _of_each("edge_mask", edge_mask, chosen, at_least=0, at_most=1)
        if graph[self.target].get("x") is None:
            raise InputError(f"graph: expected features x of '{self.target}', the nodes to represent")
        self.nodes = Nodes(graph, self.target, hidden, dropout, (feature_mask, draws))
        self.paths = nn.ModuleList(
            Links(graph, path, kept, (share, draws), hidden, dropout)
            for path, kept, share in zip(chosen, most, shares, strict=True)
        )
        kinds = sorted({kind for path in chosen for kind in path[1:-1]} - {self.target}) if contexts else []
        self.kinds, self.others = kinds, nn.ModuleList(Nodes(graph, kind, hidden, dropout) for kind in kinds)
        self.encoder, self.fusion = GraphEncoder(hidden, dropout), Fusion(hidden)
        self.project = nn.Linear(hidden, hidden)
        count = graph[self.target].num_nodes
        self.clusters = _numbers(clusters, count) if negatives == "clusters" else []
        self.register_buffer("apart", torch.arange(count)[:, None], persistent=False)  # each node is a separate cluster
        self.objective: nn.Module = MEOWLoss(tau, prototypes if self.clusters else 0.0, concentration)
        if negatives == "learnt":
            self.objective = AdaMEOWLoss(hidden, tau, normalize)
        self.contexts, self.negatives, self.lr, self.weight_decay = contexts, negatives, lr, weight_decay
        if not contexts:  # they would be unused
            for unused in (self.paths, self.fusion):
                unused.requires_grad_(False)

    def forward(self) -> tuple[Float[Tensor, "nodes hidden"], Float[Tensor, "nodes hidden"]]:
        """The coarse and the fine view; the fine one is kept."""
        own, masked = self.nodes(), self.nodes(masked=True)
        coarse = self.encoder(own, self._mean("links"))
        if not self.contexts:
            return coarse, self.encoder(masked, self._mean("masked"))
        others = {self.target: own, **{kind: nodes() for kind, nodes in zip(self.kinds, self.others, strict=True)}}
        views = []
        for path in self.paths:
            views.append(self.encoder(path(own, others), path.links))
            views.append(self.encoder(path(masked, others), path.masked))
        return coarse, self.fusion(torch.stack([normalize_rows(view) for view in views]))

    def _mean(self, name: str) -> Tensor:
        total = getattr(self.paths[0], name)
        for path in self.paths[1:]:
            total = total + getattr(path, name)
        return total / len(self.paths)

    def loss(self) -> Float[Tensor, ""]:
        """The loss of the whole graph."""
        coarse, fine = (self.project(view).tanh() for view in self())
        if self.negatives == "learnt":
            return self.objective(fine, coarse)
        points = normalize_rows(fine.detach())
        found = [
            kmeans(points, count, seed, iterations=20, restarts=5).labels for seed, count in enumerate(self.clusters)
        ]
        return self.objective(coarse, fine, torch.stack(found, 1) if found else self.apart)

    def training_step(self, batch: Any, batch_index: int) -> Float[Tensor, ""]:
        with divergence_named(self):
            loss = self.loss()
            if not torch.isfinite(loss):
                raise NonFinite(f"the loss of Meow became {loss.item()}")
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learnt = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(learnt, lr=self.lr, weight_decay=self.weight_decay)

    def fit(self, epochs: int, patience: int = 30, **options: Any) -> list[float]:
        """Train on the whole graph, one step per epoch, with early stopping on the loss.

        Args:
            epochs: largest number of steps.
            patience: steps without a lower loss before training stops.
            **options: arguments of Lightning's trainer.

        Returns:
            The loss of each step.
        """
        check_counts(epochs=epochs, patience=patience)
        losses = Losses(patience)
        callbacks = [losses, *options.pop("callbacks", ())]
        silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        with quiet():
            trainer = lightning.Trainer(
                max_epochs=epochs, callbacks=callbacks, **{**dict.fromkeys(silent, False), **options}
            )
            trainer.fit(self, DataLoader([0], collate_fn=tuple))  # type: ignore[arg-type]
        return losses.values

    @torch.no_grad()
    def embed(self) -> Float[Tensor, "nodes hidden"]:
        """The rows of all target nodes, in evaluation mode; without contexts, those of the coarse view."""
        with evaluation(self):
            coarse, fine = self()
        return (fine if self.contexts else coarse).cpu()


def represent(graph: Any, epochs: int = 500, patience: int = 30, seed: int = 0, **options: Any) -> Any:
    """Train on a graph and return a copy of it whose target nodes have the learnt rows `z`.

    Args:
        graph: a `torch_geometric.data.HeteroData`.
        epochs: largest number of steps over the whole graph.
        patience: steps without a lower loss before training stops.
        seed: seed of weights, masks and dropout.
        **options: arguments of `Meow`.

    Examples:
        >>> from counterpoise.data.graphs import planted_graph
        >>> graph = planted_graph(nodes=80)
        >>> represent(graph, epochs=2, clusters="5")["paper"].z.shape
        torch.Size([80, 64])
    """
    check_number("seed", seed, at_least=0, whole=True)
    lightning.seed_everything(seed, verbose=False)
    method = Meow(graph, seed=seed, **options)
    method.fit(epochs, patience)
    found = graph.clone()
    found[method.target].z = method.embed()
    return found


class Losses(Callback):
    """Records the loss of each step, and stops training when it has not fallen for `patience` steps."""

    def __init__(self, patience: int):
        check_counts(patience=patience)
        self.patience, self.values = patience, list[float]()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.values.append(float(trainer.callback_metrics["loss"]))
        lowest = self.values.index(min(self.values))
        trainer.should_stop = len(self.values) - 1 - lowest >= self.patience


def labelled_type(graph: Any) -> str:
    """The node type that has labels `y`.

    Raises:
        InputError: unless exactly one type has labels.
    """
    found = [kind for kind in graph.node_types if graph[kind].get("y") is not None]
    if len(found) != 1:
        raise InputError(f"target: expected the name of a node type, since {len(found)} types have labels")
    return found[0]


def _of_each(name: str, given: Any, paths: list[Path], **limits: Any) -> list[Any]:
    """The number of each meta-path, of one for all or one for each."""
    numbers = check_numbers(name, given if isinstance(given, Sequence) else (given,), **limits)
    if len(numbers) not in (1, len(paths)):
        raise InputError(f"{name}: expected one number, or one for each of the {len(paths)} paths, got {len(numbers)}")
    return numbers if len(numbers) == len(paths) else numbers * len(paths)


def _numbers(clusters: str, nodes: int) -> list[int]:
    """The number of clusters of each clustering."""
    try:
        found = [int(part) for part in clusters.split(",")]
    except ValueError as error:
        raise InputError(f"clusters: expected numbers separated by commas, got '{clusters}'") from error
    for count in found:
        check_number("clusters", count, at_least=2)
        if count > nodes:
            raise InputError(f"clusters: expected at most one for each of the {nodes} nodes, got {count}")
    return found


def _tensor(matrix: csr_matrix) -> Tensor:
    found = matrix.tocoo()
    index = torch.from_numpy(np.stack([found.row, found.col]).astype(np.int64))
    values = torch.from_numpy(found.data).float()
    return torch.sparse_coo_tensor(index, values, found.shape, check_invariants=True).coalesce()
