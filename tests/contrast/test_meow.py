import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional as F
from torch_geometric.data import HeteroData

from counterpoise.contrast import meow
from counterpoise.contrast.dcl import DCLLoss
from counterpoise.contrast.meow import (
    AdaMEOWLoss,
    Fusion,
    GraphEncoder,
    Links,
    Losses,
    Meow,
    MEOWLoss,
    incidence,
    masked_features,
    masked_links,
    meta_paths,
    normalised,
    path_counts,
    path_similarity,
    prototypes,
    represent,
    strongest,
)
from counterpoise.data.graphs import load_graph, planted_graph
from counterpoise.errors import InputError
from counterpoise.ops.clusters import kmeans


@pytest.fixture(scope="module")
def small():
    return planted_graph(nodes=80)


def library():
    """Three papers; the first two share an author, the last has none; two venues."""
    graph = HeteroData()
    graph["paper"].x, graph["paper"].y = torch.eye(3), torch.tensor([0, 0, 1])
    graph["author"].num_nodes, graph["venue"].num_nodes = 2, 2
    graph["author", "writes", "paper"].edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])  # one edge twice
    graph["paper", "in", "venue"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])
    return graph


def rows(n=7, dim=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=rng, dtype=torch.float64) for _ in range(2)]


# The graph


def test_edges_count_once_and_in_either_direction():
    assert incidence(library(), "paper", "author").toarray().tolist() == [[1, 0], [1, 1], [0, 0]]
    assert incidence(library(), "author", "paper").toarray().tolist() == [[1, 1, 0], [0, 1, 0]]


def test_instances_of_a_path_and_of_its_prefixes():
    first, whole = path_counts(library(), ("paper", "author", "paper"))
    assert first.toarray().tolist() == [[1, 0], [1, 1], [0, 0]]
    assert whole.toarray().tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_paths_by_name_or_all_of_two_steps():
    assert meta_paths(library(), "paper") == [("paper", "author", "paper"), ("paper", "venue", "paper")]
    assert meta_paths(library(), "paper", "paper-author-paper-venue-paper") == [
        ("paper", "author", "paper", "venue", "paper")
    ]


def test_similarity_of_paths_is_symmetric_at_most_one_and_one_on_the_diagonal(small):
    _, counts = path_counts(small, ("paper", "author", "paper"))
    similar = path_similarity(counts).toarray()
    np.testing.assert_allclose(similar, similar.T)
    np.testing.assert_allclose(similar.diagonal(), 1)
    assert similar.min() >= 0
    assert similar.max() == 1


def test_the_strongest_links_of_each_row_are_kept_with_their_counts():
    counts = csr_matrix([[4.0, 2, 1, 0], [2, 2, 2, 0], [1, 2, 9, 0], [0, 0, 0, 0]])
    # Similarities of the first row: 1, 4/6, 2/13; of the second 4/6, 1, 4/11; of the third 2/13, 4/11, 1.
    assert strongest(counts, 2).toarray().tolist() == [[4, 2, 0, 0], [2, 2, 0, 0], [0, 2, 9, 0], [0, 0, 0, 0]]
    ties = csr_matrix(np.ones((3, 3)))
    assert strongest(ties, 2).toarray().tolist() == [[0, 1, 1]] * 3


def test_normalised_links_are_transposed_and_empty_rows_stay_zero():
    kept = csr_matrix([[4.0, 0, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(normalised(kept).toarray(), [[1, 1 / 4, 0], [0, 3 / 4, 0], [0, 0, 0]])


def test_masked_links_have_weight_one_and_every_node_itself():
    kept = csr_matrix(np.full((5, 5), 3.0))
    found = masked_links(kept, 0.3, np.random.default_rng(0)).toarray()
    assert found.diagonal().tolist() == [1] * 5
    assert set(found[~np.eye(5, dtype=bool)].tolist()) == {0, 1}
    assert found.sum() == 5 + 14  # of 20 links, 6 are gone


def test_masked_features_are_a_share_of_those_that_are_not_zero():
    x = torch.tensor([[1.0, 0, 2], [3, 4, 0]])
    found = masked_features(x, 0.5, np.random.default_rng(0))
    assert (found != 0).sum() == 2
    assert torch.equal(found[found != 0], x[found != 0])
    assert torch.equal(masked_features(x, 0.0, np.random.default_rng(0)), x)


# The losses


def plain(c, f, weight, tau):
    """The equation as it stands, over the whole matrix."""
    c, f = F.normalize(c, dim=1), F.normalize(f, dim=1)
    dots = (c @ f.T / tau).exp()
    return -(dots.diag() / (weight * dots).sum(1)).log().mean()


def weights(clusters):
    same = clusters[:, None] == clusters[None]
    return (~same).sum(2).double()


def test_negatives_are_weighed_by_how_often_clusters_part_them():
    c, f = rows()
    clusters = torch.tensor([[0, 0, 1, 1, 2, 2, 0], [0, 1, 1, 1, 0, 0, 0]]).T
    w = weights(clusters)
    assert torch.equal(w, w.T)
    assert w.diag().eq(0).all()
    assert w.max() == 2
    torch.testing.assert_close(MEOWLoss(0.5, 0.0)(c, f, clusters), plain(c, f, w, 0.5))


def test_every_node_a_cluster_is_decoupled_contrast():
    c, f = rows()
    found = MEOWLoss(0.3, 0.0)(c, f, torch.arange(7)[:, None])
    off = 1 - torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(found, plain(c, f, off, 0.3))
    assert found != DCLLoss(0.3)(c, f)  # which has both views' negatives


def test_the_names_of_clusters_do_not_matter_and_one_cluster_adds_nothing():
    c, f = rows()
    clusters = torch.tensor([[0, 0, 1, 1, 2, 2, 0]]).T
    loss = MEOWLoss(0.5, 1.0)
    torch.testing.assert_close(loss(c, f, clusters), loss(c, f, 5 - 2 * clusters))
    info = MEOWLoss(0.5, 0.0)
    torch.testing.assert_close(info(c, f, clusters), info(c, f, torch.cat([clusters, torch.zeros_like(clusters)], 1)))


def test_one_prototype_is_no_choice():
    """Its part is log N whatever the rows, and has no gradient."""
    c, f = (x.requires_grad_() for x in rows())
    clusters = torch.stack([torch.arange(7), torch.zeros(7, dtype=torch.int64)], 1)
    with_it, without = MEOWLoss(0.5, 2.0), MEOWLoss(0.5, 0.0)
    alone = with_it(c, f, clusters[:, :1])
    both = with_it(c, f, clusters)
    info = without(c, f, clusters[:, :1])
    torch.testing.assert_close(both - info, ((alone - info) + 2 * math.log(7)) / 2)


def test_prototypes_by_hand():
    points = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]]), dim=1)
    centroids, phi = prototypes(points, torch.tensor([0, 0, 0, 1]), tau=0.5)
    torch.testing.assert_close(centroids, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0]]))
    torch.testing.assert_close(phi, torch.tensor([0.5, 0.5]))  # the cluster of one takes the other's


def temperatures_written_out(points, cluster, tau, concentration):
    """Cluster by cluster; all have two members or more."""
    found = []
    for k in range(int(cluster.max()) + 1):
        own = points[cluster == k]
        centroid = own.mean(0)
        if concentration == "released":
            apart = [math.sqrt(max(0, float(x @ centroid))) for x in own]
        else:
            apart = [float((x - centroid).norm()) for x in own]
        found.append(sum(apart) / len(own) / math.log(len(own) + 5))
    found = np.clip(found, *np.percentile(found, [10, 90]))
    return tau * found / found.mean()


@pytest.mark.parametrize("concentration", ["distance", "released"])
def test_the_prototypes_part_written_out(concentration):
    rng = torch.Generator().manual_seed(5)
    c, f = (torch.randn(17, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    clusters = torch.stack([torch.arange(17) % 5, torch.arange(17) // 4 % 4], 1)
    u, v = F.normalize(c, dim=1), F.normalize(f, dim=1)
    expected = 0
    for r, count in ((0, 5), (1, 4)):
        cluster = clusters[:, r]
        phi = temperatures_written_out(v, cluster, 0.3, concentration)
        _, found = prototypes(v, cluster, 0.3, concentration)
        torch.testing.assert_close(found, torch.from_numpy(phi))
        centres = [F.normalize(v[cluster == k].mean(0), dim=0) for k in range(count)]
        for i in range(17):
            logits = [float(u[i] @ m) / t for m, t in zip(centres, phi, strict=True)]
            total = 17 / count * sum(math.exp(x) for x in logits)
            expected -= (logits[cluster[i]] - math.log(total)) / 17 / 2
    with_it, without = (MEOWLoss(0.3, weight, concentration)(c, f, clusters) for weight in (2.0, 0.0))
    assert (with_it - without).item() == pytest.approx(2 * expected, abs=1e-9)


def test_dense_clusters_have_small_temperatures_and_their_mean_is_tau():
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.01, 0.1, 0.3, 1.0]).repeat_interleave(30)[:, None]
    centre = torch.eye(4).repeat_interleave(30, 0)
    points = F.normalize(centre + spread * torch.randn(120, 4, generator=rng), dim=1)
    cluster = torch.arange(4).repeat_interleave(30)
    _, phi = prototypes(points, cluster, tau=0.4)
    assert phi.mean().item() == pytest.approx(0.4)
    assert (phi.diff() > 0).all()
    _, released = prototypes(points, cluster, tau=0.4, concentration="released")
    assert (released.diff() < 0).all()


def test_a_temperature_is_at_least_a_thousandth_of_tau():
    spread = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * (torch.arange(40) >= 20)[:, None]
    _, phi = prototypes(torch.ones(40, 3) + spread, torch.arange(40) // 4, tau=0.2)
    assert phi[:5].tolist() == pytest.approx([2e-4] * 5)
    assert phi[5:].min() > 0.1


def test_prototypes_carry_no_gradient():
    c, f = (x.requires_grad_() for x in rows())
    clusters = torch.tensor([[0, 0, 1, 1, 2, 2, 0]]).T
    info = torch.autograd.grad(MEOWLoss(0.5, 0.0)(c, f, clusters), [c, f])
    both = torch.autograd.grad(MEOWLoss(0.5, 1.0)(c, f, clusters), [c, f])
    torch.testing.assert_close(info[1], both[1])
    assert (info[0] - both[0]).abs().max() > 1e-3


def test_points_of_a_cluster_that_coincide_are_no_division_by_zero():
    same = torch.ones(6, 3).requires_grad_()
    loss = MEOWLoss()(same, same, torch.tensor([[0, 0, 0, 1, 1, 1]]).T)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(same.grad).all()


def test_learnt_weights_are_the_equation_in_any_number_of_parts(monkeypatch):
    f, c = (x.requires_grad_() for x in rows())
    loss = AdaMEOWLoss(4, tau=0.7).double()
    torch.nn.init.normal_(loss.second.weight)
    u, v = F.normalize(f, dim=1), F.normalize(c, dim=1)
    g = loss.second(loss.first(u[:, None] + v).tanh()).sigmoid()[..., 0]
    expected = -((u * v).sum(1).div(0.7).exp() / (g * (u @ v.T / 0.7).exp()).sum(1)).log().mean()
    wanted = torch.autograd.grad(expected, [f, c, *loss.parameters()])
    for pairs in (1 << 20, 14, 1):
        monkeypatch.setattr("counterpoise.ops.chunking.TABLE", pairs)
        found = loss(f, c)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, [f, c, *loss.parameters()]), wanted)


def test_equal_weights_are_plain_contrast_with_the_positive():
    f, c = rows()
    loss = AdaMEOWLoss(4, tau=0.7).double()
    torch.nn.init.ones_(loss.second.bias)
    g = loss.second.bias.sigmoid().log().item()
    u, v = F.normalize(f, dim=1), F.normalize(c, dim=1)
    torch.testing.assert_close(loss(f, c).item(), F.cross_entropy(u @ v.T / 0.7, torch.arange(7)).item() + g)
    normalized = AdaMEOWLoss(4, tau=0.7, normalize="row").double()
    normalized.load_state_dict(loss.state_dict())
    torch.testing.assert_close(normalized(f, c), F.cross_entropy(u @ v.T / 0.7, torch.arange(7)))


def test_weights_that_shrink_lower_the_loss_unless_rows_are_normalized():
    f, c = rows()
    for normalize, falls in (("none", True), ("row", False)):
        loss = AdaMEOWLoss(4, normalize=normalize).double()
        before = loss(f, c).item()
        loss.second.bias.data -= 20
        assert (loss(f, c).item() < before - 10) == falls


def test_gradients():
    f, c = (x.requires_grad_() for x in rows())
    loss = AdaMEOWLoss(4, normalize="row").double()
    torch.nn.init.normal_(loss.second.weight)
    assert torch.autograd.gradcheck(loss, (f, c), fast_mode=True)
    clusters = torch.tensor([[0, 0, 1, 1, 2, 2, 0], [0, 1, 1, 1, 0, 0, 0]]).T
    assert torch.autograd.gradcheck(lambda f, c: MEOWLoss(0.5, 0.0)(c, f, clusters), (f, c), fast_mode=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, f: MEOWLoss()(c, f, torch.zeros(7, 2, dtype=torch.int64)), "every clustering has a single cluster"),
        (lambda c, f: MEOWLoss(tau=0), "tau"),
        (lambda c, f: AdaMEOWLoss(4)(c[:1], f[:1]), "z1: expected at least 2"),
        (lambda c, f: kmeans(c, 8), "clusters: expected from 1 to the number of points, 7, got 8"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(*rows())


# The network


def test_the_encoder_normalises_the_whole_graph(small):
    encoder = GraphEncoder(8, dropout=0.0)
    links = meow._tensor(normalised(path_counts(small, ("paper", "author", "paper"))[-1]))
    x = 100 * torch.randn(80, 8)
    found = encoder(x, links)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(encoder(7 * x, links), found, atol=1e-3, rtol=1e-3)


def permuted(graph, order):
    """The same graph, its papers in another order."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    found = HeteroData()
    found["paper"].x, found["paper"].y = graph["paper"].x[order], graph["paper"].y[order]
    for kind in ("author", "venue"):
        found[kind].num_nodes = graph[kind].num_nodes
        edges = graph["paper", "has", kind].edge_index
        found["paper", "has", kind].edge_index = torch.stack([place[edges[0]], edges[1]])
    return found


def test_views_are_fused_by_a_softmax_of_their_scores():
    torch.manual_seed(0)
    fusion, views = Fusion(4), torch.randn(3, 6, 4)
    v, b, a = (x.detach() for x in (fusion.hidden.weight, fusion.hidden.bias, fusion.score.weight[0]))
    scores = [float(a @ torch.stack([(v @ z + b).tanh() for z in view]).mean(0)) for view in views]
    weights = [math.exp(x) / sum(map(math.exp, scores)) for x in scores]
    expected = sum(w * view for w, view in zip(weights, views, strict=True))
    torch.testing.assert_close(fusion(views), expected)
    assert max(weights) - min(weights) > 0.01


def test_nodes_on_the_way_add_their_mean_rows():
    graph, path = library(), ("paper", "author", "paper")
    torch.manual_seed(0)
    links = Links(graph, path, 3, (0.0, np.random.default_rng(0)), 4, dropout=0.0)
    own, authors = torch.randn(3, 4), torch.randn(2, 4)
    w = links.steps[0].weight
    mean = torch.stack([authors[0], authors.mean(0), torch.zeros(4)])  # the second paper has both, the last none
    torch.testing.assert_close(links(own, {"author": authors}), F.elu(own + mean @ w.T))


def test_the_coarse_view_goes_along_the_mean_of_the_paths(small):
    torch.manual_seed(0)
    model = Meow(small, clusters="5").eval()
    assert len(model.paths) == 2
    mean = sum(path.links.to_dense() for path in model.paths) / 2
    coarse, _ = model()
    torch.testing.assert_close(coarse, model.encoder(model.nodes(), mean))


def test_the_order_of_the_nodes_does_not_matter(small):
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    options = {"clusters": "5", "feature_mask": 0.0, "edge_mask": 0.0, "neighbours": 80}
    torch.manual_seed(0)
    first = Meow(small, **options)
    other = Meow(permuted(small, order), **options)
    other.load_state_dict(first.state_dict())
    torch.testing.assert_close(other.embed(), first.embed()[order], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": "uniform"},
        {"negatives": "learnt"},
        {"contexts": False},
        {"paths": "paper-author-paper-venue-paper"},
    ],
    ids=str,
)
def test_training_lowers_the_loss(small, options):
    torch.manual_seed(0)
    method = Meow(small, **{"clusters": "4,8", "lr": 3e-3, "hidden": 16, **options})
    losses = method.fit(epochs=30)
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5])
    assert method.embed().shape == (80, 16)


def test_training_stops_when_the_loss_no_longer_falls(small):
    torch.manual_seed(0)
    losses = Meow(small, clusters="4", lr=1e-12, dropout=0.0).fit(epochs=50, patience=3)
    assert len(losses) < 50
    assert len(losses) - 1 - losses.index(min(losses)) == 3
    watch, trainer = Losses(patience=2), SimpleNamespace(callback_metrics={}, should_stop=False)
    stopped = []
    for loss in (3.0, 2.0, 2.5, 1.0, 1.5, 1.2):
        trainer.callback_metrics["loss"] = torch.tensor(loss)
        watch.on_train_epoch_end(trainer, None)
        stopped.append(trainer.should_stop)
    assert stopped == [False] * 5 + [True]


def test_it_repeats_by_its_seed_and_gives_the_graph_back(small):
    first, again, other = (
        represent(small, epochs=3, clusters="5", hidden=8, seed=seed)["paper"].z for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert "z" not in small["paper"]


def test_a_node_without_links_is_represented():
    assert torch.isfinite(represent(library(), epochs=2, clusters="2", hidden=4)["paper"].z).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": "paper-venue-author-paper"}, "no edges between 'venue' and 'author', which a meta-path takes"),
        ({"paths": "paper-autor-paper"}, "node type 'autor'"),
        ({"paths": "paper-author"}, "from 'paper' through other types to 'paper', got paper-author"),
        ({"clusters": "2,4"}, "at most one for each of the 3 nodes, got 4"),
        ({"clusters": "two"}, "numbers separated by commas"),
        ({"target": "venue"}, "expected features x of 'venue'"),
        ({"target": "editor"}, "node type 'editor'"),
        ({"edge_mask": 2.0}, "edge_mask"),
        ({"edge_mask": (0.1, 1.5)}, "edge_mask: expected a number .* at most 1, got 1.5"),
        ({"edge_mask": (0.1, 0.2, 0.3)}, "edge_mask: expected one number, or one for each of the 2 paths, got 3"),
        ({"neighbours": (5, 0)}, "neighbours: expected a whole number of at least 1, got 0"),
        ({"neighbours": (5, 2.5)}, "neighbours: expected a whole number"),
        ({"neighbours": ()}, "neighbours: expected"),
    ],
)
def test_a_graph_or_option_that_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Meow(library(), **{"clusters": "2", **options})


def test_a_graph_without_edges_or_labels_is_refused():
    graph = HeteroData()
    graph["paper"].x = torch.eye(3)
    with pytest.raises(InputError, match="0 types have labels"):
        Meow(graph)
    with pytest.raises(InputError, match="expected edges between 'paper' and another"):
        Meow(graph, target="paper")


def test_planted_graphs_by_name():
    graph = load_graph("planted:nodes=100:classes=2", seed=3)
    assert graph["paper"].y.unique().tolist() == [0, 1]
    edges = graph["paper", "has", "author"].edge_index
    own = (graph["paper"].y[edges[0]] == edges[1] % 2).float().mean()
    assert 0.75 < own < 0.95  # 0.7, and half of the rest
    with pytest.raises(InputError, match="option of planted:knots=3 'knots'"):
        load_graph("planted:knots=3")
    with pytest.raises(InputError, match="not under"):
        load_graph("pyg:DBLP", data_dir="/nowhere")
    with pytest.raises(InputError, match="graph 'cora'"):
        load_graph("cora")


def test_the_concentration_is_passed_on(small, plain_shapes):
    assert Meow(small, clusters="4").objective.concentration == "distance"
    torch.manual_seed(0)
    released = Meow(small, clusters="4", concentration="released", dropout=0.0)
    assert released.objective.concentration == "released"
    torch.manual_seed(0)
    distance = Meow(small, clusters="4", dropout=0.0)
    assert not torch.equal(released.loss(), distance.loss())
    with pytest.raises(InputError, match="concentration 'release' is not known; did you mean 'released'"):
        Meow(small, clusters="4", concentration="release", negatives="learnt")


def test_each_path_has_its_own_number_of_links_and_share_of_masked_ones(small):
    counts = [path_counts(small, ("paper", other, "paper"))[-1] for other in ("author", "venue")]
    method = Meow(small, clusters="4", neighbours=(3, 9), edge_mask=(0.5, 0.25), seed=3)
    draws = np.random.default_rng(3)
    masked_features(small["paper"].x.float(), 0.3, draws)
    for path, whole, most, share in zip(method.paths, counts, (3, 9), (0.5, 0.25), strict=True):
        kept = strongest(whole, most)
        assert np.diff(kept.indptr).max() == most
        links = path.links.to_dense().numpy()
        assert np.allclose(links, normalised(kept).toarray(), atol=1e-7)
        others = int((links[~np.eye(80, dtype=bool)] > 0).sum())
        masked = path.masked.to_dense().numpy()
        assert int((masked[~np.eye(80, dtype=bool)] > 0).sum()) == others - int(share * others)
        assert np.allclose(masked, normalised(masked_links(kept, share, draws)).toarray(), atol=1e-7)


def test_one_number_for_all_paths_is_that_number_for_each(small):
    one, each = (
        Meow(small, clusters="4", neighbours=neighbours, edge_mask=edge_mask)
        for neighbours, edge_mask in ((7, 0.4), ((7, 7), [0.4, 0.4]))
    )
    for first, second in zip(one.paths, each.paths, strict=True):
        assert torch.equal(first.links.to_dense(), second.links.to_dense())
        assert torch.equal(first.masked.to_dense(), second.masked.to_dense())


def test_the_released_settings_are_arguments(small):
    """Those of ACM, which has two meta-paths, with fewer clusters than there are nodes; and of AdaMEOW on it."""
    torch.manual_seed(0)
    first = Meow(small, neighbours=(110, 700), edge_mask=(0.3, 0.2), clusters="10,30")
    ada = {"negatives": "learnt", "tau": 1.0, "dropout": 0.3, "lr": 5e-5, "weight_decay": 1e-5}
    second = Meow(small, neighbours=(690, 690), edge_mask=0.2, **ada)
    assert all(torch.isfinite(method.loss()) for method in (first, second))
    assert second.configure_optimizers().defaults["weight_decay"] == 1e-5


def test_nodes_without_a_path_to_themselves_are_no_division_by_zero():
    found = path_similarity(csr_matrix([[0, 3, 0], [0, 0, 1], [0, 0, 2]]))
    assert found.toarray().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert strongest(csr_matrix([[0, 3], [0, 0]]), 1).toarray().tolist() == [[0, 3], [0, 0]]
    for wrong in (csr_matrix([[1, 2]]), csr_matrix([[-1.0]]), csr_matrix([[math.nan]])):
        with pytest.raises(InputError, match="counts: expected"):
            path_similarity(wrong)


def test_embedding_leaves_each_part_in_its_own_mode(small):
    method = Meow(small, clusters="4")
    method.nodes.eval()  # frozen
    modes = {name: module.training for name, module in method.named_modules()}
    method.embed()
    assert {name: module.training for name, module in method.named_modules()} == modes
