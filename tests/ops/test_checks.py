import pytest
import torch

from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number, check_same_shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_matrix("z", torch.zeros(3)), r"z: expected a matrix \[rows, dim\], got shape \[3\]"),
        (lambda: check_matrix("z", torch.zeros(1, 3), at_least=2), "z: expected at least 2 rows, got 1"),
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
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_is_right_passes():
    check_matrix("z", torch.zeros(2, 3), at_least=2)
    check_integers("y", torch.tensor([0, 2], dtype=torch.int32), 2, 0, 3)
    check_number("t", 1, above=0, at_most=1)


def test_unknown_names_the_nearest():
    assert "did you mean 'moco'" in str(unknown("method", "moko", ["simclr", "moco"]))
    assert "did you mean" not in str(unknown("method", "zzz", ["simclr", "moco"]))


def test_missing_extra_is_both_errors():
    error = MissingExtra("onnxruntime", "onnx")
    assert isinstance(error, ImportError)
    assert isinstance(error, InputError)
    assert "counterpoise[onnx]" in str(error)
