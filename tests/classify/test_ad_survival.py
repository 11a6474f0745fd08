"""AdSurvival: its likelihood by hand and in its limits, the weights of clicks, the grids, and the method."""

import math

import pytest
import torch

from counterpoise.classify.ad_survival import (
    AdSurvival,
    HazardLoss,
    click_weights,
    equal_edges,
    hazard_nll,
    two_term,
)
from counterpoise.data.survival import Survival, load_survival
from counterpoise.errors import InputError
from counterpoise.measure.survival import concordance
from counterpoise.training.trainer import fit
from worlds import Encoder

EDGES = torch.tensor([1.0, 3.0, 5.0, 7.0, 10.0]).double()
YES, NO = torch.tensor([True]), torch.tensor([False])


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def times_of(*values):
    return torch.tensor(values).double()


def test_even_odds_cost_log_2_for_each_interval_up_to_the_event():
    zeros = torch.zeros(1, 4).double()
    for interval, time in enumerate((2.0, 4.0, 6.0, 8.0), start=1):
        assert hazard_nll(zeros, times_of(time), YES, EDGES).item() == pytest.approx(interval * math.log(2))
    for events in (YES, NO):
        assert hazard_nll(zeros, times_of(11.0), events, EDGES).item() == pytest.approx(4 * math.log(2))


def test_certain_survival_costs_a_survivor_nothing_and_large_logits_stay_exact():
    assert hazard_nll(torch.full((1, 4), -40.0), times_of(20.0), YES, EDGES).item() < 1e-15
    sure = torch.tensor([[-40.0, 40.0, 0.0, 0.0]]).double()
    assert hazard_nll(sure, times_of(4.0), YES, EDGES).item() == pytest.approx(2 * math.exp(-40), rel=1e-6)
    assert hazard_nll(sure, times_of(2.0), YES, EDGES).item() == pytest.approx(40)


def test_a_censored_item_survives_the_intervals_whose_middle_it_has_reached():
    zeros = torch.zeros(1, 4).double()
    for time, survived in ((1.5, 0), (2.0, 1), (3.9, 1), (4.0, 2), (8.4, 3), (8.5, 4)):
        assert hazard_nll(zeros, times_of(time), NO, EDGES).item() == pytest.approx(survived * math.log(2)), time


def test_a_time_on_an_edge_moves_one_interval_with_the_end_that_is_closed():
    zeros = torch.zeros(1, 4).double()
    assert hazard_nll(zeros, times_of(3.0), YES, EDGES).item() == pytest.approx(math.log(2))
    assert hazard_nll(zeros, times_of(3.0), YES, EDGES, "left").item() == pytest.approx(2 * math.log(2))
    assert hazard_nll(zeros, times_of(0.5), YES, EDGES).item() == pytest.approx(math.log(2))  # before the first edge


def test_the_gradient_is_the_hazard_up_to_the_event_less_1_there(rng):
    logits = torch.randn(1, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    hazard_nll(logits, times_of(6.0), YES, EDGES).backward()
    h = logits.detach().sigmoid()[0]
    torch.testing.assert_close(logits.grad[0], torch.stack([h[0], h[1], h[2] - 1, torch.tensor(0.0).double()]))
    survivor = logits.detach().requires_grad_()
    hazard_nll(survivor, times_of(12.0), NO, EDGES).backward()
    torch.testing.assert_close(survivor.grad[0], h)


def test_the_likelihood_sums_to_1_over_all_ends(rng):
    logits = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    ends = (2.0, 4.0, 6.0, 8.0, 11.0)
    seen = torch.ones(3, dtype=torch.bool)
    total = sum((-hazard_nll(logits, torch.full((3,), end), seen, EDGES)).exp() for end in ends)
    torch.testing.assert_close(total, torch.ones(3).double())


def test_an_intercept_alone_learns_the_life_table(rng):
    times = 12 * torch.rand(400, generator=rng).double() + 0.5
    seen = torch.ones(400, dtype=torch.bool)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = hazard_nll(logits.expand(400, 4), times, seen, EDGES).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    lower = torch.cat([torch.zeros(1), EDGES[1:-1]])
    dead = torch.stack([((times > a) & (times <= b)).sum() for a, b in zip(lower, EDGES[1:], strict=True)])
    at_risk = torch.stack([(times > a).sum() for a in lower])
    torch.testing.assert_close(logits.sigmoid(), (dead / at_risk).double(), atol=1e-3, rtol=0)


def test_half_precision_is_the_float32_of_its_logits(rng):
    logits = (20 * torch.randn(6, 4, generator=rng)).half()
    times, events = 12 * torch.rand(6, generator=rng) + 0.1, torch.arange(6) % 2
    torch.testing.assert_close(
        hazard_nll(logits, times, events, EDGES), hazard_nll(logits.float(), times, events, EDGES)
    )


def test_shares_of_1_and_0_are_single_terms_without_a_gradient_in_the_other(rng):
    short, long, weight = torch.rand(3, 5, generator=rng).double()
    for lam, own, other in ((1.0, short, long), (0.0, long, short)):
        own, other = own.clone().requires_grad_(), other.clone().requires_grad_()
        pair = (own, other) if lam else (other, own)
        loss = two_term(*pair, weight, lam)
        assert loss.item() == pytest.approx((own * weight).mean().item())
        loss.backward()
        assert (other.grad == 0).all()
        torch.testing.assert_close(own.grad, weight / 5)


def test_weights_of_clicks_are_not_normalised(rng):
    losses = torch.rand(6, generator=rng).double()
    plain = two_term(losses, losses, click_weights(torch.zeros(6).double()))
    assert plain.item() == pytest.approx(losses.mean().item())
    constant = two_term(losses, losses, click_weights(torch.full((6,), 0.3).double()))
    assert constant.item() == pytest.approx(1.3 * plain.item())
    one = torch.zeros(6).double()
    one[2] = 0.5
    slope = (two_term(losses, losses, click_weights(one)) - plain) / 0.5
    assert slope.item() == pytest.approx(losses[2].item() / 6)
    twice = two_term(*[losses.repeat(2)] * 2, click_weights(one.repeat(2)))
    assert twice.item() == pytest.approx(two_term(losses, losses, click_weights(one)).item())


def test_ways_to_weigh():
    shown = torch.tensor([0.0, 1.0, 4.0])
    assert click_weights(shown, "impression").tolist() == [0, 0.25, 1]
    assert click_weights(shown, "impression", largest=8.0).tolist() == [0, 0.125, 0.5]
    assert click_weights(shown, "ctr1p-scaled").tolist() == [1, 1.25, 2]
    assert click_weights(shown, "none").tolist() == [1, 1, 1]
    rates = torch.tensor([0.5], requires_grad=True)
    assert not click_weights(rates).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: click_weights(torch.tensor([-0.1])), "ctr: expected a number of at least 0"),
        (lambda: click_weights(torch.tensor([1.1])), "ctr: expected a number of at most 1"),
        (lambda: click_weights(torch.tensor([torch.nan])), "ctr"),
        (lambda: click_weights(torch.zeros(2), "impression"), "ctr: expected some number above 0"),
        (lambda: click_weights(torch.zeros(2), "clicks"), "how 'clicks' is not known"),
        (lambda: hazard_nll(torch.zeros(1, 4), times_of(0.0), YES, EDGES), "times: expected a number above 0"),
        (lambda: hazard_nll(torch.zeros(1, 3), times_of(1.0), YES, EDGES), "edges: expected 4"),
        (lambda: hazard_nll(torch.zeros(1, 4), times_of(1.0), YES, EDGES.flip(0)), "edges: expected rising"),
        (lambda: hazard_nll(torch.zeros(1, 4), times_of(1.0), YES, EDGES, "both"), "closed"),
        (lambda: hazard_nll(torch.full((1, 4), torch.nan), times_of(1.0), YES, EDGES), "logits"),
        (lambda: two_term(torch.zeros(2), torch.zeros(2), torch.ones(2), 1.5), "lam"),
        (lambda: two_term(torch.zeros(2), torch.zeros(3), torch.ones(2)), "long"),
        (lambda: two_term(torch.zeros(2), torch.zeros(2), -torch.ones(2)), "weight"),
        (lambda: HazardLoss([1.0]), "intervals"),
        (lambda: equal_edges(torch.tensor([1.0, 1.0]), 2, "there"), "different times of events there, 1, got 2"),
        (lambda: AdSurvival(Encoder(2), heads=3), "heads"),
        (lambda: AdSurvival(Encoder(2), long=(1.0, 10.0)), "long: expected short with it"),
        (lambda: AdSurvival(Encoder(2), short=(1.0, 9.0), long=(1.0, 8.0)), "long: expected edges beyond 9"),
        (lambda: AdSurvival(Encoder(2), short=(3.0, 1.0)), "short: expected at least 2 rising edges"),
        (lambda: AdSurvival(Encoder(2), weighting="clicks"), "weighting"),
        (lambda: AdSurvival(Encoder(2), long_intervals=1), "long_intervals"),
    ],
)
def test_what_is_refused(call, message, plain_shapes):
    with pytest.raises(InputError, match=message):
        call()


def test_the_module_is_the_mean_of_the_function(rng):
    logits = torch.randn(6, 4, generator=rng)
    times, events = 12 * torch.rand(6, generator=rng) + 0.1, torch.arange(6) % 2
    losses, loss = hazard_nll(logits, times, events, EDGES.float()), HazardLoss(EDGES.tolist())
    torch.testing.assert_close(loss(logits, times, events), losses.mean())
    torch.testing.assert_close(loss(logits, times, events, torch.arange(6.0)), (losses * torch.arange(6.0)).mean())


def data_of(times, events=None, weights=None, width=2):
    times = torch.as_tensor(times, dtype=torch.float64)
    events = torch.ones(len(times), dtype=torch.bool) if events is None else events
    return Survival(torch.zeros(len(times), width), times, events, "made", weights)


def learnt(data, **arguments):
    method = AdSurvival(Encoder(2), **arguments)
    method.check_data(data, 4)
    method.start_epoch(data, 0)
    return [grid.tolist() for grid in method.grids()]


def test_grids_divide_the_events_evenly_and_the_long_one_starts_with_all_of_the_short_one():
    data = data_of([*range(1, 9), *range(10, 41, 10)])
    short, long = learnt(data, horizon=8.0, short_intervals=4, long_intervals=3)
    assert short == [0, 2, 4, 6, 8]
    assert long == [0, 8, 20, 40]
    (union,) = learnt(data, horizon=8.0, heads=1, short_intervals=4, long_intervals=3)
    assert union == [0, 2, 4, 6, 8, 20, 40]


def test_the_paper_s_grids_can_be_given():
    short, long = (1.0, 3.0, 5.0, 7.0, 10.0), (1.0, 10.0, 30.0, 60.0, 90.0, 120.0)
    assert learnt(data_of([2.0, 50.0]), short=short, long=long) == [list(short), list(long)]
    assert learnt(data_of([2.0, 50.0]), short=short, long=long, heads=1) == [sorted({*short, *long})]


def test_a_given_short_grid_is_the_start_of_a_long_one_by_quantiles():
    data = data_of([*range(1, 9), *range(10, 41, 10)])
    assert learnt(data, short=(1.0, 4.0, 8.0), long_intervals=3) == [[1, 4, 8], [1, 8, 20, 40]]
    assert learnt(data, short=(1.0, 4.0, 8.0), long_intervals=3, heads=1) == [[1, 4, 8, 20, 40]]


def test_the_last_event_lies_within_the_grid_whichever_end_is_closed():
    data = data_of([*range(1, 9), *range(10, 41, 10)])
    for closed in ("right", "left"):
        method = AdSurvival(Encoder(2), horizon=8.0, long_intervals=3, closed=closed)
        method.start_epoch(data, 0)
        zeros = torch.zeros(1, 3)
        assert hazard_nll(zeros, times_of(40.0), YES, method.grids()[1], closed).item() == pytest.approx(
            3 * math.log(2)
        )
        assert method.grids()[1][-1] >= 40


def test_an_item_that_outlives_the_short_grid_is_censored_at_its_end_and_not_dropped():
    torch.manual_seed(0)
    method = AdSurvival(Encoder(2), horizon=8.0, lam=1.0)
    data = data_of([*range(1, 9), *range(10, 60, 10)])
    method.start_epoch(data, 0)
    inputs, times, events, weights, index = data.__getitems__([12])
    logits = method.logits(inputs)[0]
    torch.testing.assert_close(
        method.loss(inputs, times, events, weights, index), torch.nn.functional.softplus(logits).sum()
    )


def test_clicks_weigh_the_loss_of_the_method():
    clicks = torch.tensor([0.0, 0.5] * 7)
    data = data_of([*range(1, 9), *range(10, 70, 10)], weights=clicks)
    found = {}
    for how in ("none", "ctr1p", "ctr1p-scaled", "impression"):
        torch.manual_seed(0)
        method = AdSurvival(Encoder(2), horizon=8.0, weighting=how)
        method.check_data(data, 4)
        method.start_epoch(data, 0)
        found[how] = method.loss(*data.__getitems__([1])).item()
    assert found["ctr1p"] == pytest.approx(1.5 * found["none"])
    assert found["ctr1p-scaled"] == pytest.approx(2 * found["none"])
    assert found["impression"] == pytest.approx(found["none"])


@pytest.mark.parametrize(
    ("arguments", "weights", "message"),
    [
        ({}, [1.5, 0.0], "weights: expected click-through rates from 0 to 1 for weighting=ctr1p, got 1.5"),
        ({"weighting": "impression"}, None, "weighting: 'impression' expects data with weights above 0"),
        ({"horizon": 99.0, "short_intervals": 2}, None, "after the horizon, 0, got 4"),
        ({"short_intervals": 3}, None, "up to the horizon, 1, got 3"),
    ],
)
def test_data_that_it_cannot_learn_from_is_refused(arguments, weights, message):
    data = data_of([1.0, 2.0], weights=None if weights is None else torch.tensor(weights))
    method = AdSurvival(Encoder(2), **{"horizon": 1.0, **arguments})
    with pytest.raises(InputError, match=message):
        method.check_data(data, 2)


def test_a_method_without_an_event_in_a_batch_has_a_finite_loss_and_gradient(rng):
    method = AdSurvival(Encoder(2), horizon=8.0)
    data = data_of([*range(1, 9), *range(10, 60, 10)])
    method.start_epoch(data, 0)
    loss = method.loss(
        torch.randn(4, 2, generator=rng),
        torch.ones(4) * 20,
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(4),
        torch.arange(4),
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_the_network_that_is_kept_has_the_logits_and_the_edges():
    method = AdSurvival(Encoder(2), horizon=8.0).eval()
    method.start_epoch(data_of([*range(1, 9), *range(10, 60, 10)]), 0)
    x = torch.ones(3, 2)
    torch.testing.assert_close(method.net(x), torch.cat(method.logits(x), 1))
    fresh = AdSurvival(Encoder(2), horizon=1.0).eval()
    net = fresh.net
    net.load_state_dict(method.net.state_dict())
    assert torch.equal(net.edges, method.model.edges)
    assert torch.equal(net(x), method.net(x))


@pytest.mark.slow
def test_two_heads_learn_to_rank_both_regimes(tmp_path):
    train, test = load_survival("two-regimes:items=1000")
    torch.manual_seed(0)
    method = AdSurvival(Encoder(20, 32), horizon=10.0, lr=1e-2)
    fit(method, train, epochs=8, batch_size=100, seed=0, folder=tmp_path, device="cpu")
    found = method.predict(test, torch.tensor([5.0, 50.0]))
    assert concordance(test.times, test.events, found.risk) > 0.65
    assert (found.survival[:, 1] <= found.survival[:, 0]).all()
