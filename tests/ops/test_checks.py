import numpy as np
import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.ops.checks import (
    check_finite,
    check_integers,
    check_logits,
    check_matrix,
    check_number,
    check_numbers,
    check_same_shape,
    check_seed,
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_matrix("z", torch.zeros(3)), r"z: expected a matrix \[rows, dim\], got shape \[3\]"),
        (lambda: check_matrix("z", torch.zeros(1, 3), at_least=2), "z: expected at least 2 rows, got 1"),
        (lambda: check_matrix("z", torch.zeros(3, 0)), "z: expected at least 1 columns, got 0"),
        (lambda: check_logits("f", torch.zeros(3, 1)), "f: expected at least 2 columns, one for each class, got 1"),
        (lambda: check_logits("f", torch.tensor([[0.0, torch.nan]])), "f: 1 of 2 numbers are NaN"),
        (lambda: check_finite("z", torch.tensor([1.0, float("nan")])), "z: 1 of 2 numbers are NaN or infinite"),
        (lambda: check_finite("z", torch.tensor([1])), "z: expected floating-point numbers, got torch.int64"),
        (
            lambda: check_same_shape(a=torch.zeros(2), b=torch.zeros(3)),
            r"a and b: expected the same shape, got \[2\] and \[3\]",
        ),
        (lambda: check_integers("y", torch.tensor([0.5]), 1), "y: expected integers, got torch.float32"),
        (lambda: check_integers("y", torch.tensor([True]), 1), "y: expected integers, got torch.bool"),
        (
            lambda: check_integers("y", torch.tensor([0]), 2),
            r"y: expected one integer for each of the 2 rows, got shape \[1\]",
        ),
        (lambda: check_integers("y", torch.tensor([-1, 0]), 2, 0, 3), "y: expected integers from 0 to 2, got -1"),
        (lambda: check_number("t", 0.0, above=0), "t: expected a number above 0, got 0"),
        (
            lambda: check_number("t", 2, at_least=0, at_most=1),
            "t: expected a number of at least 0 and of at most 1, got 2",
        ),
        (lambda: check_number("t", float("nan")), "t: expected a number that is finite, got nan"),
        (lambda: check_number("t", "1"), "t: expected a number that is finite, got '1'"),
        (lambda: check_number("t", True, at_least=0), "t: expected a number of at least 0, got True"),
        (lambda: check_number("k", 2.0, at_least=1, whole=True), "k: expected a whole number of at least 1, got 2"),
        (lambda: check_number("k", float("nan"), whole=True), "k: expected a whole number, got nan"),
        (lambda: check_number("p", 1, above=0, below=1), "p: expected a number above 0 and below 1, got 1"),
        (lambda: check_numbers("ks", ()), "ks: expected at least one number, got none"),
        (lambda: check_numbers("ks", 5), r"ks: expected a sequence of numbers, such as \(5,\), got 5"),
        (lambda: check_numbers("ks", "12"), r"ks: expected a sequence of numbers, such as \(1,\), got '12'"),
        (lambda: check_numbers("ks", (1, 2.5), whole=True), "ks: expected a whole number, got 2.5"),
        (lambda: check_seed(-1), "seed: expected a whole number of at least 0"),
        (lambda: check_seed(2**31, most=2**31 - 1), "seed: expected a whole number of at least 0 and of at most 2.1"),
        (lambda: check_integers("y", torch.tensor([-2]), 1, low=-1), "y: expected integers of at least -1, got -2"),
        (
            lambda: check_integers("y", torch.tensor([2**63], dtype=torch.uint64), 1),
            "y: expected integers up to 9223372036854775807, got a larger one",
        ),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_is_right_passes():
    check_matrix("z", torch.zeros(2, 3), at_least=2)
    check_integers("y", torch.tensor([0, 2], dtype=torch.int32), 2, 0, 3)
    check_number("t", 1, above=0, at_most=1)
    check_number("t", np.float32(0.5), above=0)
    check_number("k", np.int64(3), at_least=1, whole=True)


@pytest.mark.parametrize("value", [10**400, -(10**400), 1 << 99999], ids=["long", "negative", "longest"])
@pytest.mark.parametrize("whole", [False, True])
def test_an_integer_that_no_float_holds_is_refused(value, whole):
    with pytest.raises(InputError, match=r"k: expected a number that float64 holds, got an integer of \d+ bits"):
        check_number("k", value, at_least=1, whole=whole)


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_of_every_type_come_back_as_int64(name):
    found = check_integers("y", torch.tensor([0, 2], dtype=getattr(torch, name)), 2, low=-1)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 2]
