"""What a piece of source computes: the same for sources that differ in words alone."""

import ast

import pytest

from counterpoise.registry.syntax import computed, statements


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = (1)\n", "x=1  # why"),
        ("def f():\n    return 1", 'def f():\n    """Docs."""\n    return 1'),
        ("class A:\n    x = 1", 'class A:\n    """Docs."""\n    x = 1\n    """More."""'),
        ("f'{x}'", "f'{x}' ''"),
    ],
)
def test_words_and_layout_change_nothing(one, other):
    assert computed(ast.parse(one)) == computed(ast.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = '1'"),
        ("x = 1", "x = 1.0"),
        ("f(a, b)", "f(b, a)"),
        ("def f(x=1): pass", "def f(x=2): pass"),
        ("x = 'text'", "x = 'texts'"),
        ("a + b", "a - b"),
    ],
)
def test_what_computes_something_else_is_other_text(one, other):
    assert computed(ast.parse(one)) != computed(ast.parse(other))


def test_statements_of_all_bodies_are_there_but_those_of_type_checkers():
    source = """
if TYPE_CHECKING:
    import a
try:
    import b
except ValueError:
    import c
else:
    import d
finally:
    import e
def f():
    match x:
        case 1:
            import g
"""
    found = {node.names[0].name for node in statements(ast.parse(source).body) if isinstance(node, ast.Import)}
    assert found == {"b", "c", "d", "e", "g"}
