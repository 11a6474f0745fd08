"""Errors: the nearest known names, named causes, and texts that are safe to print."""

from counterpoise.errors import (
    Diverged,
    InputError,
    MissingExtra,
    NonFinite,
    RunFailed,
    Unwritable,
    first_few,
    printable,
    unknown,
)


def test_unknown_names_the_nearest():
    assert "did you mean 'moco'" in str(unknown("method", "moko", ["simclr", "moco"]))
    assert "did you mean" not in str(unknown("method", "zzz", ["simclr", "moco"]))


def test_missing_extra_is_both_errors():
    error = MissingExtra("onnxruntime", "onnx")
    assert isinstance(error, ImportError)
    assert isinstance(error, InputError)
    assert "counterpoise[onnx]" in str(error)


def test_of_many_known_names_only_the_nearest_is_shown():
    names = [f"method-{i}" for i in range(30)]
    assert str(unknown("method", "method-7x", names)) == "method 'method-7x' is not known; did you mean 'method-7'?"
    assert "Known: a, b" in str(unknown("method", "zzz", ["b", "a", "a"]))
    assert "Known: none" in str(unknown("method", "zzz", []))


def test_the_first_few_names_are_counted():
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few([str(i) for i in range(2003)]) == "0, 1, 2 and 2,000 more"


def test_what_a_terminal_would_obey_is_escaped_and_letters_of_any_script_stay():
    assert printable("a\nb\x1b[31m\x7f\u202e") == r"a\nb\x1b[31m\x7f\u202e"
    assert printable("Größe 大") == "Größe 大"


def test_errors_of_input_are_those_that_the_command_line_prints_in_one_line():
    for kind in (MissingExtra("a", "b"), NonFinite("x"), Unwritable("x")):
        assert isinstance(kind, InputError)
    assert not issubclass(RunFailed, InputError)
    assert issubclass(Diverged, RunFailed)
