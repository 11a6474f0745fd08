"""Names looked up in source: where they are defined, however they are imported, and their values."""

import ast

import pytest

from counterpoise.errors import InputError
from counterpoise.registry.source import Code, Scope, last_name, value_of


@pytest.mark.parametrize(
    ("module", "name", "where"),
    [("room.part", "Part", "room.part"), ("room.part", "Base", "base"), ("room", "go", "room.part")],
)
def test_a_name_is_found_where_it_is_defined(package, module, name, where):
    found = Scope(module, package).find(name)
    assert found.scope.module == where
    assert isinstance(found.node, (ast.ClassDef, ast.FunctionDef))


@pytest.mark.parametrize("name", ["Path", "nothing"])
def test_a_name_of_another_library_and_one_that_is_not_there_are_not_found(package, name):
    assert Scope("room.part", package).find(name) is None


def test_a_method_and_an_attribute_are_those_of_the_nearest_class(package):
    part = Scope("room.part", package).find("Part")
    assert [each.node.name for each in part.lineage()] == ["Part", "Base"]
    assert part.method("loss").scope.module == "base"
    assert part.method("nothing") is None
    assert part.attribute("nothing") is None


def test_a_module_that_is_not_there_is_refused(package):
    with pytest.raises(InputError, match=r"module 'room\.nowhere' is not in"):
        Scope("room.nowhere", package).find("Part")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1 + 2 * 3", 7), ("-2.5", -2.5), ("(1, [2, 'a'])", (1, [2, "a"])), ("SHARE * 2", 0.5), ("None", None)],
)
def test_literals_arithmetic_and_constants_of_the_module_have_values(package, text, expected):
    assert value_of(ast.parse(text, mode="eval").body, Scope("room.part", package)) == expected


@pytest.mark.parametrize("text", ["max(1, 2)", "Part", "nothing", "1 + nothing"])
def test_any_other_expression_is_kept_as_it_is_written(package, text):
    value = value_of(ast.parse(text, mode="eval").body, Scope("room.part", package))
    assert isinstance(value, Code)
    assert value == text


@pytest.mark.parametrize("text", ["Literal", "typing.Literal", "a.b.Literal", "Literal('x')"])
def test_the_last_name_is_that_of_what_is_used(text):
    assert last_name(ast.parse(text, mode="eval").body) == "Literal"
