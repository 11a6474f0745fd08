"""A function of rows in parts equals the function of all rows, and its gradients."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.ops.chunking import map_row_chunks, reduce_similarities


def softened(x, numbers, y, scale):
    """One value and one count a row, of rows that learn, integers, and shared tensors that learn."""
    similarity = scale * (x @ y.T) if numbers is None else (scale * (x @ y.T)).scatter(1, numbers[:, None], 0)
    return torch.stack([similarity.logsumexp(1), similarity.sum(1)], 1)


def inputs():
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    scale = torch.tensor(1.5, dtype=torch.float64)
    return [t.requires_grad_() for t in (x, y, scale)]


@pytest.mark.parametrize("step", [1, 2, 3, 6])
@pytest.mark.parametrize("numbers", [torch.arange(7) % 5, None])
def test_as_of_all_rows_at_once(step, numbers):
    x, y, scale = inputs()
    whole, parts = softened(x, numbers, y, scale), map_row_chunks(softened, [x, numbers], [y, scale], 1, table=step)
    torch.testing.assert_close(parts, whole)
    slope = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, (x, y, scale), slope)
    torch.testing.assert_close(torch.autograd.grad(parts, (x, y, scale), slope), expected)


def test_no_more_rows_than_the_table_holds_are_one_call():
    calls = []

    def counted(x):
        calls.append(len(x))
        return x

    x = torch.ones(6, 2, requires_grad=True)
    assert map_row_chunks(counted, [x], [], columns=2, table=12) is x
    map_row_chunks(counted, [x], [], columns=2, table=9).sum().backward()
    assert calls == [6, 4, 2, 4, 2]


@pytest.mark.parametrize(("columns", "table", "expected"), [(3, 2, [1] * 4), (0, 3, [3, 1]), (1, None, [4])])
def test_a_part_has_as_many_rows_as_the_table_holds_but_one_at_least(columns, table, expected):
    calls = []

    def counted(x):
        calls.append(len(x))
        return x

    map_row_chunks(counted, [torch.ones(4, 2)], [], columns, table)
    assert calls == expected


@pytest.mark.parametrize(("arguments", "message"), [((-1,), "columns: .*-1"), ((2, 0), "table: .*0")])
def test_no_rows_and_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        map_row_chunks(lambda x: x, [torch.ones(4, 2)], [], *arguments)
    with pytest.raises(InputError, match="rows: "):
        map_row_chunks(lambda x: x, [None], [], 1)


def test_what_is_not_used_or_does_not_learn_gets_no_gradient():
    x, y, unused = torch.ones(4, 2, requires_grad=True), torch.ones(3, 2), torch.ones(2, requires_grad=True)
    map_row_chunks(lambda x, y, unused: (x @ y.T).sum(1), [x], [y, unused], columns=3, table=6).sum().backward()
    assert y.grad is None
    torch.testing.assert_close(x.grad, torch.full((4, 2), 3.0))
    assert not unused.grad.any()


def test_float32_within_autocast():
    x, y = torch.randn(6, 8, requires_grad=True), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, parts = (map_row_chunks(lambda x, y: x @ y.T, [x], [y], columns=4, table=table) for table in (24, 8))
    assert whole.dtype == parts.dtype == torch.float32
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.sum(), x), torch.autograd.grad(whole.sum(), x))


@pytest.mark.parametrize("heads", [(), (2,)])
@pytest.mark.parametrize("table", [1, 30, 1 << 20])
def test_of_similarities_head_by_head_without_those_of_equal_number(heads, table, monkeypatch):
    monkeypatch.setattr("counterpoise.ops.chunking.TABLE", table)
    x, y = (torch.randn(n, *heads, 4, dtype=torch.float64, requires_grad=True) for n in (7, 5))
    numbers, others = torch.arange(7) % 3, torch.arange(5)
    for n in range(7):
        row = (x[n] * y).sum(-1).movedim(0, -1).masked_fill(numbers[n] == others, -torch.inf)
        for reduce in (lambda s: s.logsumexp(-1), lambda s: s.topk(2).values, lambda s: s.topk(2).indices.double()):
            found = reduce_similarities(reduce, x, y, (numbers, others))
            torch.testing.assert_close(found[n], reduce(row))
        slope = torch.autograd.grad(reduce_similarities(lambda s: s.amax(-1), x, y, (numbers, others))[n].sum(), (x, y))
        torch.testing.assert_close(slope, torch.autograd.grad(row.amax(-1).sum(), (x, y)))
    everyone = reduce_similarities(lambda s: s.sum(-1), x, y)
    torch.testing.assert_close(everyone, (x[:, None] * y).sum(-1).sum(1))
