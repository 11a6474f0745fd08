import numpy as np
import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.ops.arrays import (
    as_array,
    as_flags,
    as_integer_lists,
    as_integers,
    as_numbers,
    as_scores,
    check_each,
)


@pytest.mark.parametrize("x", [[0.5, 2], (0.5, 2), torch.tensor([0.5, 2.0], requires_grad=True), np.float16([0.5, 2])])
def test_lists_tensors_and_arrays_give_the_same_numbers(x):
    found = as_numbers("areas", x)
    assert found.dtype == np.float64
    assert found.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.int32, np.uint64])
def test_integers_of_any_type_become_int64(dtype):
    found = as_integers("labels", np.array([[3, 1]], dtype), (1, 2))
    assert found.dtype == np.int64
    assert found.tolist() == [[3, 1]]


def test_what_is_int64_and_float64_is_not_copied():
    whole, real = np.arange(3), np.arange(3.0)
    assert np.shares_memory(as_integers("labels", whole), whole)
    assert np.shares_memory(as_scores("scores", real / 3), real) is False
    assert np.shares_memory(as_numbers("areas", real), real)


def test_whatever_is_empty_stands_for_none():
    for nothing in ([], np.zeros((0, 4)), torch.zeros(0, dtype=torch.bool)):
        assert as_integers("labels", nothing, (0,)).shape == (0,)
        assert as_numbers("boxes", nothing, (0, 4)).shape == (0, 4)
        assert as_flags("crowd", nothing, 0).dtype == bool


def test_a_scalar_is_no_vector():
    for convert in (as_integers, as_numbers):
        with pytest.raises(InputError, match=r"x: expected .*shape \[1\], got \[\]"):
            convert("x", 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_array("x", [[1, 2], [3]]), r"x: expected numbers in rows of one length, got \[\[1, 2\], \[3\]\]"),
        (lambda: as_integers("x", [True]), "x: expected integers of at most 64 bits, got bool"),
        (lambda: as_integers("x", [2**63]), "x: expected integers of at most 64 bits, got uint64"),
        (lambda: as_integers("x", ["ash"]), "x: expected integers of at most 64 bits, got <U3, as"),
        (lambda: as_integers("x", [1], (2,)), r"x: expected integers of shape \[2\], got \[1\]"),
        (lambda: as_integer_lists("groups", {"r": 4}), r"groups: r: expected integers of shape \[1\], got \[\]"),
        (lambda: as_integer_lists("groups", {"r": {0.5}}), "groups: r: expected integers of at most 64 bits"),
        (lambda: as_numbers("x", [10**400]), "x: expected numbers, got object, as 1000"),
        (lambda: as_numbers("x", [False]), "x: expected numbers, got bool"),
        (lambda: as_numbers("x", [np.nan, np.inf, 1.0]), "x: 2 of 3 numbers are NaN or infinite"),
        (lambda: as_scores("x", [0.5, -0.1]), "x: expected numbers from 0 to 1, got -0.1 in row 1"),
        (lambda: as_scores("x", [0.5], (2,)), r"x: expected shape \[2\], got \[1\]"),
        (lambda: as_flags("x", [1, 0], 2), r"x: expected 2 of true and false, got int64 of shape \[2\]"),
        (lambda: as_flags("x", [True], 2), r"x: expected 2 of true and false, got bool of shape \[1\]"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_first_wrong_row_of_an_array_or_a_tensor_is_shown():
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    for x, right in (
        (np.array(rows), np.array([True, False, False])),
        (torch.tensor(rows), torch.tensor([True, False, False])),
    ):
        check_each("boxes", x, right | True, "boxes")
        with pytest.raises(InputError, match=r"boxes: expected corners, got \[3.0, 4.0\] in row 1"):
            check_each("boxes", x, right, "corners")


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("lists", [[4, 1], 5, "rare"])
def test_collections_without_names_are_refused(lists):
    with pytest.raises(InputError, match="groups: expected collections of integers by name, got"):
        as_integer_lists("groups", lists)
