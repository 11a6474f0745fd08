"""Learners of hazards: curves and risks that follow from hazards, grids one after the other, and prediction."""

import pytest
import torch
from torch import nn

from counterpoise.data.survival import Survival
from counterpoise.errors import InputError
from counterpoise.learners.hazard import HazardLearner, chained_survival, check_edges, interval_of, survival_of
from worlds import Encoder


class Fixed(HazardLearner):
    """Hazards that the inputs are."""

    def __init__(self, edges, **recipe):
        super().__init__(Encoder(4), **recipe)
        self.edges = [torch.tensor(grid) for grid in edges]

    def grids(self):
        return self.edges

    def hazards(self, inputs):
        return list(inputs.split([len(grid) - 1 for grid in self.edges], 1))


def hazards(rng, *shape):
    return torch.rand(*shape, generator=rng, dtype=torch.float64)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_survival_falls_from_1_and_the_intervals_and_it_sum_to_1(rng):
    h = hazards(rng, 5, 4)
    s = survival_of(h)
    assert (s.diff(dim=1) <= 0).all()
    before = torch.cat([torch.ones(5, 1), s[:, :-1]], 1)
    torch.testing.assert_close((before * h).sum(1) + s[:, -1], torch.ones(5).double())


def test_a_curve_passes_its_edges_falls_along_lines_and_stays_after_the_last(rng):
    h, edges = hazards(rng, 3, 2), torch.tensor([1.0, 3.0, 7.0]).double()
    s = survival_of(h)
    found = chained_survival([h], [edges], torch.tensor([0.5, 1.0, 3.0, 5.0, 7.0, 99.0]).double())
    wanted = torch.stack([torch.ones(3), torch.ones(3), s[:, 0], s.mean(1), s[:, 1], s[:, 1]], 1)
    torch.testing.assert_close(found, wanted)


def test_the_second_head_goes_on_where_the_first_ends(rng):
    short, long = hazards(rng, 3, 2), hazards(rng, 3, 2)
    grids = [torch.tensor([0.0, 2.0, 4.0]).double(), torch.tensor([0.0, 4.0, 10.0]).double()]
    found = chained_survival([short, long], grids, torch.tensor([2.0, 4.0, 10.0, 7.0]).double())
    s = survival_of(short)
    torch.testing.assert_close(found[:, :2], s)
    torch.testing.assert_close(found[:, 2], s[:, 1] * (1 - long[:, 1]))
    torch.testing.assert_close(found[:, 3], s[:, 1] * (1 - long[:, 1] / 2))
    same = chained_survival([short, torch.ones(3, 2).double()], grids, torch.tensor([10.0]).double())
    assert (same == 0).all()


def test_two_heads_of_the_same_law_have_the_curve_of_one(rng):
    """Where both say the same, chaining changes nothing."""
    one = hazards(rng, 3, 3)
    edges = torch.tensor([0.0, 1.0, 2.0, 5.0]).double()
    merged = 1 - survival_of(one)[:, 1:2]
    at = torch.tensor([0.5, 1.0, 1.7, 2.0, 3.0, 5.0, 6.0]).double()
    both = [one[:, :2], torch.cat([merged, one[:, 2:]], 1)]
    found = chained_survival(both, [edges[:3], torch.tensor([0.0, 2.0, 5.0]).double()], at)
    torch.testing.assert_close(found, chained_survival([one], [edges], at))


def test_risks_are_the_negative_sum_of_survival_or_of_time(rng):
    rows = hazards(rng, 6, 4)
    for score, widths in (("intervals", [1.0, 1.0]), ("lifetime", [2.0, 3.0])):
        method = Fixed([[0.0, 2.0, 5.0]], score=score).double()
        torch.testing.assert_close(method.risk(rows[:, :2]), -survival_of(rows[:, :2]) @ torch.tensor(widths).double())
        assert all(torch.equal(risk, method.risk(rows[:, :2])) for risk in method.risks(rows[:, :2]))
    two = Fixed([[0.0, 1.0, 2.0], [0.0, 2.0, 9.0]]).double()
    whole, short, long = two.risks(rows)
    torch.testing.assert_close(short, -survival_of(rows[:, :2]).sum(1))
    torch.testing.assert_close(long, -survival_of(rows[:, 2:]).sum(1))
    torch.testing.assert_close(whole, short - two.survival(rows, torch.tensor([9.0]).double())[:, 0])


def test_an_interval_has_the_end_that_is_closed():
    times, edges = torch.tensor([0.5, 1.0, 3.0, 4.0, 5.0, 6.0]), torch.tensor([1.0, 3.0, 5.0])
    assert interval_of(times, edges).tolist() == [0, 0, 0, 1, 1, 2]
    assert interval_of(times, edges, "left").tolist() == [0, 0, 1, 1, 2, 2]
    assert interval_of(torch.tensor([0.1]), torch.tensor([0.0, 0.1, 1.0]).double()).tolist() == [0]  # on the edge


def test_predictions_are_those_of_evaluation_in_parts(rng):
    class Dropped(Fixed):
        def hazards(self, inputs):
            return [nn.functional.dropout(h, 0.5, self.training) for h in super().hazards(inputs)]

    rows = hazards(rng, 7, 2).float()
    data = Survival(rows, torch.ones(7), torch.ones(7, dtype=torch.bool), "made")
    method = Dropped([[0.0, 1.0, 2.0]])
    found = method.predict(data, torch.tensor([1.0, 2.0]).double(), batch_size=3)
    assert method.training
    torch.testing.assert_close(found.survival, survival_of(rows).double())
    torch.testing.assert_close(found.risk, -survival_of(rows).sum(1).double())
    with pytest.raises(InputError, match="data: expected at least 1 row"):
        method.predict(data.subset(torch.arange(0)), torch.tensor([1.0]))


def test_a_batch_of_the_data_is_what_the_loss_gets():
    class Mean(Fixed):
        def loss(self, inputs, times, events, weights, index):
            assert events.dtype == torch.bool
            return inputs.mean() + times.sum() + weights.sum() + index.sum()

    data = Survival(torch.ones(3, 2), torch.tensor([1.0, 2.0, 4.0]), torch.ones(3, dtype=torch.bool), "made")
    assert Mean([[0.0, 1.0, 2.0]]).batch_loss(data.__getitems__([0, 2])).item() == 1 + 5 + 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: survival_of(torch.tensor([[1.5]])), "hazards: expected a number of at least 0 and of at most 1"),
        (lambda: check_edges(torch.tensor([0.0, 1.0]), 2), "edges: expected 3, one more than"),
        (lambda: check_edges(torch.tensor([-1.0, 1.0]), 1), "edges: expected a number of at least 0"),
        (lambda: interval_of(torch.ones(1), torch.tensor([0.0, 1.0]), "both"), "closed 'both' is not known"),
        (lambda: chained_survival([], [], torch.ones(1)), "edges: expected those of each of 0 heads"),
        (
            lambda: chained_survival([torch.ones(1, 1)] * 2, [torch.tensor([0.0, 2.0])] * 2, torch.ones(1)),
            "edges: expected the last one of each head to rise, got 2 and then 2",
        ),
        (lambda: Fixed([[0.0, 1.0]], score="mean"), "score 'mean' is not known"),
    ],
)
def test_what_is_refused(call, message, plain_shapes):
    with pytest.raises(InputError, match=message):
        call()


def test_training_without_an_event_is_refused():
    data = Survival(torch.ones(3, 2), torch.ones(3), torch.zeros(3, dtype=torch.bool), "made")
    with pytest.raises(InputError, match="events: expected some in training, but all 3 rows are censored"):
        Fixed([[0.0, 1.0]]).check_data(data, 2)
