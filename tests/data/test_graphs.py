import pytest

from counterpoise.data.graphs import load_graph, planted_graph
from counterpoise.errors import InputError


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((f"planted:nodes={x}", "data: expected a whole number .* for nodes") for x in ("1.5", "-5", "", "nan", "²")),
        ("planted:nodes=" + "9" * 5000, "data: expected a whole number of at most 9 digits for nodes, got '9{20}'$"),
        ("planted:nodes=60:nodes=80", "data: nodes is given twice"),
        ("planted:nodes=5", "nodes: expected a whole number of at least 20, got 5"),
        ("planted:knots=5", "option of planted:knots=5 'knots' is not known"),
        ("planted:classes=31", "classes: expected a whole number of at least 2 and of at most 30, got 31"),
        ("plantd", "graph 'plantd' is not known; did you mean 'planted'"),
        ("pyg:dblp", "graph 'pyg:dblp' is not known"),
        (3, "data: expected a name such as 'planted', got 3"),
    ],
)
def test_names_and_options_are_refused_by_name(data, message):
    with pytest.raises(InputError, match=message):
        load_graph(data)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(({"nodes": x}, "nodes: expected a whole number of at least 20") for x in (0, -80, 80.5, float("nan"), "80")),
        *(({"classes": x}, "classes: expected a whole number of at least 2") for x in (0, 1, 2.5, float("nan"), "2")),
        *(({"seed": x}, "seed: expected a whole number of at least 0") for x in (-1, 0.5, float("nan"), "0")),
        ({"nodes": 4000, "classes": 101}, "classes: expected a whole number of at least 2 and of at most 100, got 101"),
    ],
)
def test_numbers_are_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        planted_graph(**{"nodes": 80, "classes": 4, **wrong})


def test_as_many_classes_as_words_are_planted():
    assert planted_graph(nodes=2000, classes=100)["paper"].y.max() == 99
