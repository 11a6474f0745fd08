"""Survival data: what is made, what libraries hold, users' tables, and what is refused."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from counterpoise.data.state import data_state
from counterpoise.data.survival import Survival, load_survival
from counterpoise.errors import InputError


def test_two_regimes_have_ends_that_the_same_features_move_apart():
    train, test = load_survival("two-regimes:censored=0", seed=1)
    assert (len(train), len(test), train.inputs.shape[1]) == (3200, 800, 20)
    assert bool(train.events.all())
    short = train.times <= train.horizon
    assert train.times.min() > 1
    assert train.times.max() < 120
    pace = train.columns.index("text1")
    slopes = [np.corrcoef(train.inputs[some, pace], train.times[some])[0, 1] for some in (short, ~short)]
    assert slopes[0] > 0.2
    assert slopes[1] < -0.2
    assert train.weights[~short].mean() > 1.5 * train.weights[short].mean()  # long lifetimes are clicked more
    assert train.weights.min() > 0
    assert train.weights.max() <= 1


def test_two_regimes_are_censored_as_often_as_is_asked_and_by_nothing_but_chance():
    train, test = load_survival("two-regimes:items=2000:censored=0.4", seed=2)
    events = torch.cat([train.events, test.events])
    assert events.double().mean() == pytest.approx(0.6, abs=1e-3)
    whole, _ = load_survival("two-regimes:items=2000:censored=0", seed=2)
    assert torch.equal(whole.inputs, train.inputs)  # the same items
    assert torch.equal(whole.times[train.events], train.times[train.events])
    assert (whole.times[~train.events] > train.times[~train.events]).all()


def test_the_seed_draws_the_items():
    first, again, other = (load_survival("two-regimes:items=50", seed=seed).train for seed in (0, 0, 1))
    assert torch.equal(first.times, again.times)
    assert not torch.equal(first.times, other.times)


@pytest.mark.parametrize(
    ("name", "rows", "lost", "events"),
    [("gbsg2", 686, 0, 299), ("whas500", 500, 0, 215), ("aids", 1151, 0, 96), ("flchain", 7874, 1350, 1962)],
)
def test_the_sets_of_libraries_are_whole(name, rows, lost, events):
    pytest.importorskip("sksurv")
    train, test = load_survival(name, seed=3)
    assert len(train) + len(test) == rows - lost
    assert len(test) == -(-(rows - lost) // 5)
    assert int(train.events.sum() + test.events.sum()) == events
    assert sorted(torch.cat([train.numbers, test.numbers]).unique().tolist()) == sorted(
        torch.cat([train.numbers, test.numbers]).tolist()
    )
    assert len(set(train.columns)) == train.inputs.shape[1]
    assert not any("chapter" in column for column in train.columns)  # the cause of death, which gives the event away


def table(folder, text, name="ads.csv"):
    path = folder / name
    path.write_text(text)
    return path


LINES = ["time,event,size,kind,weight", *(f"{i + 1},{i % 2},{i * 2},{'ab'[i % 2]},0.{i}" for i in range(10))]


def test_a_user_s_table(tmp_path):
    path = table(tmp_path, "\n".join([*LINES, "3,1,,a,0.5", "4,,8,b,0.5"]))
    with pytest.warns(match=r"ads\.csv: 2 rows with an empty place"):
        train, test = load_survival(f"rows:{path}")
    assert train.columns == ("size", "kind=a", "kind=b")
    assert len(train) == 8
    assert len(test) == 2
    for part in (train, test):
        row = part.numbers
        torch.testing.assert_close(part.times, (row + 1).double())
        assert torch.equal(part.events, row % 2 == 1)
        torch.testing.assert_close(part.inputs, torch.stack([2 * row, row % 2 == 0, row % 2 == 1], 1).float())
        torch.testing.assert_close(part.weights, row / 10.0, check_dtype=False)
    assert list(data_state(f"rows:{path}")) == [str(path)]  # a change of the file is another state


def test_a_table_s_own_split_and_columns_are_used(tmp_path):
    path = tmp_path / "ads.parquet"
    columns = {
        "time": np.arange(1.0, 7.0),
        "event": [True, False] * 3,
        "a": np.arange(6),
        "b": np.arange(6.0),
        "id": np.arange(6),
        "split": ["train", "test"] * 3,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.warns(match="columns not used.*id"):
        train, test = load_survival(str(path))
    assert train.times.tolist() == [1, 3, 5]
    assert test.events.tolist() == [False] * 3
    assert train.columns == ("a", "b")
    with pytest.warns(match="columns not used"):
        assert load_survival(f"rows:{path}:columns=b").train.columns == ("b",)


def test_vectors_beside_numbers_are_features(tmp_path):
    path = tmp_path / "ads.parquet"
    columns = {
        "time": np.arange(1.0, 13.0),
        "event": [1, 0] * 6,
        "cost": np.arange(12.0),
        "banner": [[float(i), 2.0] for i in range(12)],  # as a network embeds it
        "title": [[0.0, 1.0, float(i)] for i in range(12)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    train, _ = load_survival(f"rows:{path}")
    assert train.columns == ("cost", "banner[0]", "banner[1]", "title[0]", "title[1]", "title[2]")
    row = train.numbers.float()
    torch.testing.assert_close(train.inputs[:, [0, 1, 5]], row[:, None].expand(-1, 3))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["event,size", "1,2"], "expected a column 'time', got event, size"),
        (["time,event", "1,1"], "expected a column besides time, event and weight"),
        ([LINES[0], *LINES[1:], "0,1,2,a,0.1"], "row 11: time: expected a number above 0, got 0"),
        ([LINES[0], *LINES[1:], "5,2,2,a,0.1"], "row 11: event: expected 1 or 0, true or false, yes or no, got '2'"),
        ([LINES[0], *LINES[1:], "5,1,2,a,-0.1"], "row 11: weight: expected a number of at least 0, got -0.1"),
        (LINES[:5], "expected at least 10 rows, got 4"),
        (["time,event,size", *(f"a,{i % 2},1" for i in range(12))], "column 'time': expected numbers"),
        (["time,event,size,split", *(f"1,{i % 2},1,dev" for i in range(12))], "split"),
    ],
)
def test_tables_that_are_refused(tmp_path, lines, message):
    path = table(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match=message):
        load_survival(f"rows:{path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two-regime", "data 'two-regime' is not known; did you mean 'two-regimes'"),
        ("two-regimes:item=3", "option of two-regimes 'item' is not known; did you mean 'items'"),
        ("two-regimes:items=many", "items: expected a number, got 'many'"),
        ("two-regimes:censored=1", "censored: expected a number"),
        ("gbsg2:a=1", "gbsg2 takes no options"),
        ("rows:missing.csv", "no such file"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_survival(name)


def made(**changes):
    given = {"inputs": torch.zeros(2, 3), "times": torch.tensor([1.0, 2.0]), "events": torch.tensor([True, False])}
    return Survival(**{**given, "name": "made", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": torch.tensor([0.0, 1.0])}, "times: expected a number above 0, got 0"),
        ({"times": torch.tensor([torch.nan, 1.0])}, "times"),
        ({"times": torch.ones(3)}, "times: expected one number for each of 2 rows"),
        ({"events": torch.tensor([0, 2])}, "events"),
        ({"events": torch.tensor([0.0, 1.0])}, "events"),
        ({"weights": torch.tensor([-1.0, 1.0])}, "weights"),
        ({"inputs": torch.full((2, 3), torch.nan)}, "inputs"),
        ({"horizon": 0.0}, "horizon"),
        ({"columns": ("a",)}, "columns"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, message, plain_shapes):
    with pytest.raises(InputError, match=message):
        made(**changes)


def test_a_batch_has_weights_of_0_where_the_data_has_none():
    inputs, times, events, weights, index = made().__getitems__([1, 0])
    assert inputs.shape == (2, 3)
    assert (times.tolist(), events.tolist(), weights.tolist(), index.tolist()) == (
        [2, 1],
        [False, True],
        [0, 0],
        [1, 0],
    )
    assert made(weights=torch.tensor([0.5, 0.25])).subset(torch.tensor([1]), "one").__getitems__([0])[3].item() == 0.25
    with pytest.raises(IndexError):
        made()[2]
