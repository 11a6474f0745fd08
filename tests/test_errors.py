"""Errors: the nearest known names, named causes, and texts that are safe to print."""

from counterpoise.errors import InputError, MissingExtra, unknown


def test_unknown_names_the_nearest():
    assert "did you mean 'moco'" in str(unknown("method", "moko", ["simclr", "moco"]))
    assert "did you mean" not in str(unknown("method", "zzz", ["simclr", "moco"]))


def test_missing_extra_is_both_errors():
    error = MissingExtra("onnxruntime", "onnx")
    assert isinstance(error, ImportError)
    assert isinstance(error, InputError)
    assert "counterpoise[onnx]" in str(error)
