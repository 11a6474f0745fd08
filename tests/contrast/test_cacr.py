"""The authors' pairwise sums written out with whole matrices, the limits of the weights, and what must not matter."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.cacr import (
    CACR,
    CACRLoss,
    CACRMomentumLoss,
    CACRQueueLoss,
    attraction,
    rbf_repulsion,
    repulsion,
)
from counterpoise.errors import InputError
from worlds import Encoder, seeded

VIEWS = torch.randn(3, 7, 5, generator=seeded(0), dtype=torch.float64)
UNIT = F.normalize(VIEWS, dim=-1)
EXACT = {"atol": 1e-12, "rtol": 1e-9}


def plain(views, t_pos=1.0, t_neg=2.0, alpha=1.0, beta=1.0, cost="euclidean", t_rbf=2.0, prior=0.0, detach=False):
    """Attraction and repulsion, all distances and weights as matrices."""
    attract, repel = [], []
    batch = views.shape[1]
    for x in range(len(views)):
        others = torch.stack([views[v] for v in range(len(views)) if v != x], dim=1)
        d = (views[x][:, None] - others).square().sum(-1)
        w = torch.softmax(t_pos * d, dim=1)
        attract.append(((w.detach() if detach else w) * d).sum(1).mean())
    for x, y in itertools.combinations(range(len(views)), 2):
        own = (views[x] - views[y]).square().sum(-1)
        d = (views[x][:, None] - views[y][None]).square().sum(-1)
        d = d[~torch.eye(batch, dtype=torch.bool)].view(batch, batch - 1)
        w = torch.softmax(-t_neg * d, dim=1)
        w = w.detach() if detach else w
        if cost == "rbf":
            repel.append(beta * (w * torch.exp(-t_rbf * d)).sum(1).mean().log())
        else:
            repel.append(((-prior * own - beta * (w * d).sum(1)) / (1 - prior)).mean())
    return alpha * torch.stack(attract).mean() + torch.stack(repel).mean()


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_same(ours, theirs, x=VIEWS):
    for a, b in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def only(part, **options):
    """A loss of the attraction or the repulsion alone."""
    return CACRLoss(**{"beta" if part == "attraction" else "alpha": 0.0}, **options)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_against_whole_matrices(cost, detach):
    options = {"t_pos": 1.3, "t_neg": 0.9, "alpha": 1.5, "beta": 0.7, "cost": cost}
    assert_same(
        CACRLoss(**options, detach_weights=detach, normalize=False), lambda v: plain(v, **options, detach=detach)
    )
    assert_same(
        CACRLoss(**options, detach_weights=detach), lambda v: plain(F.normalize(v, dim=-1), **options, detach=detach)
    )


@pytest.mark.parametrize(("weights", "t_pos", "t_neg"), [("positive", 1.0, 0.0), ("negative", 0.0, 2.0)])
def test_one_kind_of_weights_alone(weights, t_pos, t_neg):
    assert_same(CACRLoss(weights=weights, normalize=False), lambda v: plain(v, t_pos=t_pos, t_neg=t_neg))


def test_without_weights_is_alignment_minus_mean_distance():
    align = torch.stack([(a - b).square().sum(-1).mean() for a, b in itertools.combinations(UNIT, 2)]).mean()
    distances = [(a[:, None] - b).square().sum(-1) for a, b in itertools.combinations(UNIT, 2)]
    apart = torch.stack([(d.sum() - d.trace()) / (7 * 6) for d in distances]).mean()
    torch.testing.assert_close(CACRLoss(weights="none")(VIEWS), align - apart, **EXACT)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_sharpness_zero_is_without_weights(cost):
    assert_same(CACRLoss(t_pos=0, t_neg=0, cost=cost), CACRLoss(weights="none", cost=cost))


def test_correction_for_false_negatives():
    assert_same(CACRLoss(class_prior=0.1, beta=0.7, normalize=False), lambda v: plain(v, beta=0.7, prior=0.1))


@pytest.mark.parametrize("t_pos", [0.0, 1.0, 30.0])
def test_two_views_attract_by_their_mean_distance(t_pos):
    z1, z2 = UNIT[0], UNIT[1]
    loss = only("attraction", t_pos=t_pos)
    torch.testing.assert_close(loss(torch.stack([z1, z2])), (z1 - z2).square().sum(-1).mean(), **EXACT)
    assert loss(torch.stack([z1, z1])) == 0


def test_large_sharpness_sees_the_farthest_positive_and_the_nearest_negative():
    d = (UNIT[0][:, None] - UNIT[1:].transpose(0, 1)).square().sum(-1)
    torch.testing.assert_close(attraction(UNIT[0], UNIT[1:].transpose(0, 1), t_pos=1e4), d.max(1).values)
    d = (UNIT[0][:, None] - UNIT[1]).square().sum(-1).fill_diagonal_(torch.inf)
    row = torch.arange(7)
    torch.testing.assert_close(repulsion(UNIT[0], UNIT[1], t_neg=1e4, exclude=(row, row)), -d.min(1).values)
    torch.testing.assert_close(rbf_repulsion(UNIT[0], UNIT[1], 1e4, 3.0, (row, row)), -3 * d.min(1).values)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_alpha_and_beta_scale_their_own_term(cost):
    attract, repel = (only(part, cost=cost)(VIEWS) for part in ("attraction", "repulsion"))
    assert attract > 0 > repel
    assert CACRLoss(alpha=2, beta=0, cost=cost)(VIEWS) == 2 * attract
    assert CACRLoss(alpha=0, beta=2, cost=cost)(VIEWS) == 2 * repel


def test_bounds_for_unit_vectors():
    pole = torch.tensor([1.0, 0.0])
    assert only("attraction")(torch.stack([torch.stack([pole, pole]), -torch.stack([pole, pole])])) == 4
    apart = torch.stack([pole, -pole])
    assert only("repulsion")(torch.stack([apart, apart])) == -4


def test_a_common_rotation_and_the_order_of_the_batch_do_not_matter(rng):
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64)).Q
    order = torch.randperm(7, generator=rng)
    for cost in ("euclidean", "rbf"):
        loss = CACRLoss(cost=cost)
        torch.testing.assert_close(loss(VIEWS @ rotation), loss(VIEWS), **EXACT)
        torch.testing.assert_close(loss(VIEWS[:, order]), loss(VIEWS), **EXACT)


def test_the_order_of_the_views_matters_to_repulsion_alone():
    attract, repel = only("attraction"), only("repulsion")
    torch.testing.assert_close(attract(VIEWS.flip(0)), attract(VIEWS), **EXACT)
    # Reversed, every pair x < y has its queries in y.
    turned = [plain(UNIT[[y, x]], alpha=0.0) for x, y in itertools.combinations(range(3), 2)]
    torch.testing.assert_close(repel(VIEWS.flip(0)), torch.stack(turned).mean(), **EXACT)
    assert (repel(VIEWS.flip(0)) - repel(VIEWS)).abs() > 1e-4


def test_weights_sum_to_one_and_follow_distance():
    """With weights held fixed, the gradient of sum w D by a sample is 2 w times its offset, which gives w."""
    query = UNIT[0, :1]
    others = UNIT[1].clone().requires_grad_()
    distance = (others - query).square().sum(-1).detach()
    for sign, weighted in (
        (1, attraction(query, others[None], t_pos=1.5, detach_weights=True)),
        (-1, repulsion(query, others, t_neg=1.5, detach_weights=True)),
    ):
        (gradient,) = torch.autograd.grad(sign * weighted.sum(), others)
        weights = (gradient * (others - query)).sum(-1).detach() / (2 * distance)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
        assert weights.argsort().tolist() == (sign * distance).argsort().tolist()


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_a_collapsed_batch_has_no_loss_and_no_force(cost, detach):
    x = torch.ones(3, 6, 4, requires_grad=True)
    loss = CACRLoss(cost=cost, detach_weights=detach)(x)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"cost": "rbf"}, {"class_prior": 0.2}, {"weights": "none"}])
def test_gradient(options):
    assert torch.autograd.gradcheck(CACRLoss(**options), VIEWS[:, :4].clone().requires_grad_(), fast_mode=True)


def test_half_precision_is_computed_in_single():
    half = VIEWS.to(torch.bfloat16)
    assert CACRLoss()(half).dtype == torch.float32
    torch.testing.assert_close(CACRLoss()(half), CACRLoss()(half.float()))


def test_queue_form_against_whole_matrices(rng):
    queries, positives = VIEWS[0], torch.randn(7, 2, 5, generator=rng, dtype=torch.float64)
    queue = torch.randn(11, 5, generator=rng, dtype=torch.float64)

    def matrices(q):
        q, k, n = (F.normalize(x, dim=-1) for x in (q, positives, queue))
        d = (q[:, None] - k).square().sum(-1)
        attract = (torch.softmax(1.2 * d, 1).detach() * d).sum(1).mean()
        inside = (q[:, None] - q).square().sum(-1)[~torch.eye(7, dtype=torch.bool)].view(7, 6)
        d = torch.cat([2 - 2 * q @ n.T, inside], dim=1)
        return 1.1 * attract - 0.8 * (torch.softmax(-1.7 * d, 1).detach() * d).sum(1).mean()

    loss = CACRQueueLoss(t_pos=1.2, t_neg=1.7, alpha=1.1, beta=0.8)
    assert_same(lambda q: loss(q, positives, queue), matrices, queries)
    torch.testing.assert_close(loss(queries, positives[:, 0], queue), loss(queries, positives[:, :1], queue), **EXACT)


def test_queue_form_without_the_batch_is_attraction_and_repulsion_by_the_queue(rng):
    queue = F.normalize(torch.randn(11, 5, generator=rng, dtype=torch.float64), dim=1)
    loss = CACRQueueLoss(in_batch=False, alpha=2.0, beta=3.0)
    positives = UNIT[1:].transpose(0, 1)
    expected = 2 * attraction(UNIT[0], positives).mean() + 3 * repulsion(UNIT[0], queue).mean()
    torch.testing.assert_close(loss(UNIT[0], positives, queue), expected, **EXACT)
    alone = [loss(UNIT[0, [i]], positives[[i]], queue) for i in range(7)]
    torch.testing.assert_close(torch.stack(alone).mean(), expected, **EXACT)


def test_queue_form_gives_keys_and_queue_no_gradient():
    inputs = [x.clone().requires_grad_() for x in (UNIT[0], UNIT[1:].transpose(0, 1), UNIT[2])]
    CACRQueueLoss()(*inputs).backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is None
    assert inputs[2].grad is None


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_momentum_form_against_whole_matrices(cost, temperature, rng):
    keys = torch.randn(7, 5, generator=rng, dtype=torch.float64)

    def matrices(views):
        key, queries = F.normalize(keys, dim=-1), F.normalize(views, dim=-1)
        p = torch.softmax((queries - key).square().sum(-1) / temperature, 0).detach()
        total = 0.0
        for q, weight in zip(queries, p, strict=True):
            if cost == "rbf":
                entropy = F.cross_entropy(q @ key.T / temperature, torch.arange(7), reduction="none")
                total = total + 2 * temperature * (weight * entropy).mean()
            else:
                costs = 1 - q @ key.T
                away = costs[~torch.eye(7, dtype=torch.bool)].view(7, 6)
                near = torch.softmax(-away / temperature, 1).detach()
                total = total + (weight * (costs.diagonal() - (near * away).sum(1))).mean()
        return total

    loss = CACRMomentumLoss(temperature, cost)
    assert_same(lambda v: loss(v, keys), matrices)


def test_momentum_form_of_one_query_view_weighs_nothing_and_gives_keys_no_gradient():
    queries, keys = UNIT[:1].clone().requires_grad_(), UNIT[1].clone().requires_grad_()
    loss = CACRMomentumLoss(cost="euclidean")(queries, keys)
    row = torch.arange(7)
    expected = ((UNIT[0] - UNIT[1]).square().sum(-1) + repulsion(UNIT[0], UNIT[1], 0.5, (row, row))).mean() / 2
    torch.testing.assert_close(loss.detach(), expected, **EXACT)
    loss.backward()
    assert queries.grad is not None
    assert keys.grad is None


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CACRLoss()(UNIT[:1]), "views: expected at least 2 views, got 1"),
        (lambda: CACRLoss()(UNIT[:, :1]), "views: expected at least 2 rows, got 1"),
        (lambda: CACRLoss()(UNIT[0]), r"views: expected \[views, batch, dim\], got shape \[7, 5\]"),
        (lambda: CACRLoss()(UNIT * torch.nan), "views: 105 of 105 numbers are NaN or infinite"),
        (lambda: CACRLoss(t_neg=-1), "t_neg: expected a number of at least 0, got -1"),
        (lambda: CACRLoss(class_prior=1.0), "class_prior: expected a number from 0 to below 1, got 1"),
        (lambda: CACRLoss(class_prior=0.1, cost="rbf"), "class_prior: is defined for the 'euclidean' cost only"),
        (lambda: CACRLoss(weights="positiv"), "weights 'positiv' is not known; did you mean 'positive'"),
        (lambda: CACRLoss(cost="rbg"), "cost 'rbg' is not known; did you mean 'rbf'"),
        (lambda: CACRQueueLoss()(UNIT[0], UNIT, UNIT[0]), r"queries and positives: .* got \[7, 5\] and \[3, 7, 5\]"),
        (
            lambda: CACRQueueLoss()(UNIT[0], UNIT[0], UNIT[0, :, :3]),
            "queries and negatives: expected the same width, got 5 and 3",
        ),
        (lambda: CACRMomentumLoss(temperature=0), "temperature: expected a number above 0, got 0"),
        (lambda: CACRMomentumLoss()(UNIT, UNIT[0, :3]), r"views and keys: .* got \[3, 7, 5\] and \[3, 5\]"),
        (lambda: CACRMomentumLoss()(UNIT[:0], UNIT[0]), "views: expected at least 1 views, got 0"),
        (lambda: CACRMomentumLoss()(UNIT[:, :1], UNIT[0, :1]), "views: expected at least 2 rows, got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_method_takes_the_given_number_of_views_and_trains_the_encoder():
    method = CACR(Encoder(4, features=6), views=3, t_neg=0.9)
    assert method.views == 3
    images = [torch.rand(8, 1, 2, 2) for _ in range(3)]
    index = torch.arange(8)
    method.loss(images, index, index).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters())
    with pytest.raises(InputError, match="views: expected a whole number of at least 2, got 1"):
        CACR(Encoder(4, features=6), views=1)


def batch(rng, views=3, size=6):
    return [torch.randn(size, 1, 2, 2, generator=rng) for _ in range(views)], *[torch.arange(size)] * 2


def made(**arguments):
    torch.manual_seed(0)
    return CACR(Encoder(4, features=6), **{"views": 3, "hidden": 8, "dim": 3, "queue": 10, **arguments})


def test_the_default_method_keeps_nothing_but_encoder_and_head():
    assert {name.split(".")[0] for name in made().state_dict()} == {"encoder", "head"}


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 2.0, "beta": 0.5, "class_prior": 0.1},
        {"cost": "rbf", "t_rbf": 0.7, "beta": 3.0},
        {"detach_weights": True, "t_pos": 3.0},
    ],
)
def test_the_methods_arguments_reach_the_loss_of_a_batch(options, rng):
    method, given = made(**options), batch(rng)
    for own in (method.loss(*given), CACRLoss(**options)(torch.stack(method.projections(given[0])))):
        own.backward()
    gradient = method.encoder.weight.grad / 2  # of both
    method.encoder.weight.grad = None
    method.loss(*given).backward()
    torch.testing.assert_close(method.encoder.weight.grad, gradient)
    assert method.loss(*given) != made().loss(*given)


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_queue_method_averages_over_the_views_and_keeps_the_last_ones_keys(in_batch, rng):
    method = made(form="queue", t_pos=0.5, t_neg=1.5, alpha=2.0, beta=3.0, in_batch=in_batch)
    twin, given = copy.deepcopy(method), batch(rng)
    value = method.loss(*given)
    q = [twin.head(twin.encoder(view)) for view in given[0]]
    k = [twin.key_head(twin.key_encoder(view)) for view in given[0]]  # before the first step, both are the same
    loss = CACRQueueLoss(0.5, 1.5, 2.0, 3.0, in_batch=in_batch)
    expected = sum(
        loss(q[x], torch.stack([k[y], k[z]], dim=1), twin.queue) for x, y, z in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    )
    torch.testing.assert_close(value, expected / 3)
    torch.testing.assert_close(method.queue, torch.cat([twin.queue[6:], F.normalize(k[2], dim=1)]))
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in method.modules())


def test_the_queue_method_without_weights_has_equal_ones(rng):
    method, given = made(form="queue", weights="none"), batch(rng)
    twin = copy.deepcopy(method)
    twin.objective = CACRQueueLoss(t_pos=0, t_neg=0)
    torch.testing.assert_close(method.loss(*given), twin.loss(*given), rtol=0, atol=0)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_the_momentum_method_averages_over_the_key_views(cost, rng):
    method = made(form="momentum", cost=cost, temperature=0.4)
    twin, given = copy.deepcopy(method), batch(rng)
    value = method.loss(*given)
    p = [twin.predictor(twin.head(twin.encoder(view))) for view in given[0]]
    k = [twin.key_head(twin.key_encoder(view)) for view in given[0]]
    loss = CACRMomentumLoss(0.4, cost)
    expected = sum(loss(torch.stack([p[x], p[y]]), k[z]) for x, y, z in ((1, 2, 0), (0, 2, 1), (0, 1, 2)))
    torch.testing.assert_close(value, expected / 3)


@pytest.mark.parametrize("form", ["queue", "momentum"])
def test_only_what_is_trained_gets_a_gradient_and_keys_follow_by_their_share(form, rng):
    method = made(form=form, momentum=0.9)
    method.loss(*batch(rng)).backward()
    learnt = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert learnt == {"encoder", "head"} | ({"predictor"} if form == "momentum" else set())
    before = method.key_encoder.weight.clone()
    with torch.no_grad():
        method.encoder.weight.add_(1.0)
    method.loss(*batch(rng))
    torch.testing.assert_close(method.key_encoder.weight, before + 0.1)
    method.eval()
    state = copy.deepcopy(method.state_dict())
    method.loss(*batch(rng))
    assert all(torch.equal(x, method.state_dict()[name]) for name, x in state.items())


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "que"}, "form 'que' is not known; did you mean 'queue'"),
        ({"form": "queue", "cost": "rbf"}, "cost: expected 'euclidean' in the form 'queue', got 'rbf'"),
        ({"form": "queue", "class_prior": 0.1}, "class_prior: expected 0.0 in the form 'queue', got 0.1"),
        ({"form": "momentum", "alpha": 2.0}, "alpha: expected 1.0 in the form 'momentum', got 2.0"),
        ({"form": "momentum", "weights": "none"}, "weights: expected 'both' in the form 'momentum', got 'none'"),
        ({"queue": 0}, "queue: expected a whole number"),
        ({"momentum": 1.5}, "momentum: expected a number"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0"),
        ({"alpha": -1.0}, "alpha: expected a number of at least 0, got -1"),
    ],
)
def test_the_methods_arguments_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        made(**options)
