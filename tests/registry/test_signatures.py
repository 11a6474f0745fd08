"""Arguments read from source: against Python's own signatures where the code can be imported, by hand elsewhere."""

import inspect
from pathlib import Path

import pytest

from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.registry.signatures import describe
from counterpoise.registry.source import Code

STUDIES = [paper.slug for paper in catalogue.select(done=True) if paper.study]
TRAINABLE = [paper.slug for paper in catalogue.select(done=True) if paper.method]


def by_name(description):
    return {argument.name: argument for argument in description.arguments}


def test_summary_names_and_help(package):
    found = describe("room.part", "Part", package=package)
    assert found.summary == "Does its part in two lines."
    own = ["encoder", "queue", "scale", "fast", "share", "names", "seeds", "out", "mixed", "call", "lr", "folder"]
    assert [a.name for a in found.arguments] == [*own, "precision", "augment"]  # `rule` is set by Part itself
    arguments = by_name(found)
    assert arguments["encoder"].help == "images to features; the one that is kept."
    assert arguments["lr"].help == "step size, above 0."  # from the base, though the default is its own
    assert arguments["lr"].default == 0.5
    assert arguments["fast"].help == ""


@pytest.mark.parametrize(
    ("name", "type", "default", "required"),
    [
        ("encoder", None, None, True),
        ("queue", int, -16, False),
        ("scale", float, (0.2, 1.0), False),
        ("fast", bool, True, False),
        ("share", float, 0.125, False),
        ("names", str, (), False),
        ("seeds", int, 3, False),
        ("out", str, None, False),
        ("mixed", None, 1, False),
        ("call", None, "max(1, 2)", False),
        ("folder", Path, None, True),
        ("precision", str, "32", False),
        ("augment", None, None, False),
    ],
)
def test_types_and_defaults(package, name, type, default, required):
    argument = by_name(describe("room.part", "Part", package=package))[name]
    assert (argument.type, argument.default, argument.required) == (type, default, required)


def test_code_that_is_no_plain_value_is_distinguished_from_text(package):
    arguments = by_name(describe("room.part", "Part", package=package))
    assert isinstance(arguments["call"].default, Code)
    assert not isinstance(arguments["precision"].default, Code)


def test_choices_come_from_literals_and_their_aliases_in_other_modules(package):
    assert by_name(describe("room.part", "Part", package=package))["precision"].choices == ("32", "16-mixed")
    assert by_name(describe("base", "Base", package=package))["rule"].choices == ("sgd", "adamw")


def test_a_class_that_passes_nothing_on_has_only_its_own(package):
    closed = describe("room.part", "Closed", package=package).arguments
    assert [(a.name, a.type, a.default) for a in closed] == [("encoder", None, None), ("lr", float, 1e-3)]


def test_a_class_without_init_has_its_base_class_arguments(package):
    inherits, part = (describe("room.part", name, package=package) for name in ("Inherits", "Part"))
    assert inherits.arguments == part.arguments


def test_dataclass(package):
    arguments = by_name(describe("room.part", "Settings", package=package))
    assert {name: (a.type, a.default, a.choices) for name, a in arguments.items()} == {
        "size": (int, None, ()),
        "precision": (str, "32", ("32", "16-mixed")),
        "level": (int, 1, (1, 2)),
        "name": (str, "a", ()),
    }
    assert arguments["size"].help == "in pixels."


def test_function_and_method_of_a_base_class(package):
    assert [a.name for a in describe("room", "go", package=package).arguments] == ["data", "verbose"]
    assert by_name(describe("room.part", "run", package=package))["data"].help == "a folder: images, or a file."
    assert [a.name for a in describe("room.part", "Part.loss", package=package).arguments] == ["images", "labels"]


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("room.part", "Nothing", "module 'room.part' has no function or class 'Nothing'"),
        ("room.part", "SHARE", "module 'room.part' has no function or class 'SHARE'"),
        ("room.part", "Part.nothing", "module 'room.part' has no function or class 'Part.nothing'"),
        ("room.nowhere", "Part", "module 'room.nowhere' is not in"),
    ],
)
def test_unknown_names(package, module, name, message):
    with pytest.raises(InputError, match=message):
        describe(module, name, package=package)


def signature_of(kind: type) -> dict[str, inspect.Parameter]:
    """What a class can be given by name: its own arguments and, as long as it passes `**others` on, its base's."""
    found: dict[str, inspect.Parameter] = {}
    for cls in kind.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
        found = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


@pytest.mark.parametrize("slug", STUDIES)
def test_what_is_read_of_a_study_is_what_python_says(slug):
    study, read = catalogue.load_class(slug, "measure"), describe(*catalogue.method_source(slug, "measure")).arguments
    assert {argument.name for argument in read} == set(inspect.signature(study).parameters)
    assert all(argument.help for argument in read)


@pytest.mark.parametrize("slug", TRAINABLE)
def test_what_is_read_is_what_python_says(slug):
    paper = catalogue.find(slug)
    objectives = dict(zip(paper.objectives, catalogue.load_objectives(slug), strict=True))
    for name, kind in {paper.method: catalogue.load_class(slug), **objectives}.items():
        read, real = by_name(describe(paper.module, name)), signature_of(kind)
        assert set(read) <= set(real)
        own = [x for x in kind.__mro__ if x.__module__.startswith("counterpoise.") and "__init__" in vars(x)]
        for set_by_itself in set(real) - set(read):  # by the class or by one of its bases
            assert any(f"{set_by_itself}=" in inspect.getsource(x.__init__) for x in own)
        for argument in read.values():
            default = real[argument.name].default
            assert argument.required == (default is inspect.Parameter.empty)
            assert argument.required or isinstance(argument.default, Code) or argument.default == default
            assert argument.help, f"{name}.{argument.name} has no line in the docstring"
        call = "forward" if name in objectives else "loss"
        inputs = [argument.name for argument in describe(paper.module, f"{name}.{call}").arguments]
        assert inputs == list(inspect.signature(getattr(kind, call)).parameters)[1:]
