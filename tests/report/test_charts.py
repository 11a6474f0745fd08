"""Charts by the numbers drawn in them."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from counterpoise.report import charts


def drawn(markup):
    """The SVG as a tree: it must be well-formed XML."""
    return ET.fromstring(str(markup))


def of(tree, kind):
    return [node for node in tree.iter() if kind in (node.get("class") or "").split()]


def test_interval_is_drawn_around_zero():
    tree = drawn(charts.interval(5.0, 0.0, 10.0, 10.0, "unclear", "words"))
    [span], [zero], [dot] = (of(tree, kind) for kind in ("span", "zero", "dot"))
    assert float(zero.get("x1")) == 80
    assert (float(span.get("x1")), float(span.get("x2"))) == (80, 154)
    assert float(dot.get("cx")) == 117


def test_interval_of_one_seed_is_a_dot_alone():
    tree = drawn(charts.interval(0.0, None, None, 0.0, "unclear", "words"))
    assert not of(tree, "span")
    assert float(of(tree, "dot")[0].get("cx")) == 80


def test_bars_are_as_long_as_their_values():
    tree = drawn(charts.bars([charts.Bar(0, "a", 0.5, [0.4, 0.6]), charts.Bar(9, "b", 1.0, [1.0])], "words"))
    assert [float(bar.get("width")) for bar in of(tree, "bar")] == [131, 262]
    assert [float(dot.get("cx")) for dot in of(tree, "seed")] == pytest.approx([104.8, 157.2])
    assert [text.text for text in of(tree, "value")] == ["50.0 %", "100.0 %"]


def test_lines_run_from_edge_to_edge_and_higher_is_higher():
    line = charts.Line(1, "a", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [1.5, 2.5, 3.5])
    tree = drawn(charts.lines([line], "", "words", 340))
    points = [tuple(map(float, pair.split(","))) for pair in of(tree, "line")[0].get("points").split()]
    assert (points[0][0], points[-1][0]) == (50, 328)
    assert points[0][1] > points[1][1] > points[2][1]
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.11)
    assert len(of(tree, "band")[0].get("points").split()) == 6


def test_over_k_the_axis_is_logarithmic_with_a_tick_at_every_k():
    flat = [50.0] * 4
    tree = drawn(charts.lines([charts.Line(0, "a", [1.0, 2.0, 4.0, 8.0], flat, flat, flat)], " %", "words", 340, "k"))
    xs = [float(pair.split(",")[0]) for pair in of(tree, "line")[0].get("points").split()]
    gaps = [b - a for a, b in itertools.pairwise(xs)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.2)
    assert [text.text for text in of(tree, "middle")] == ["1", "2", "4", "8", "k"]


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_single_epoch_is_a_mark(value):
    tree = drawn(charts.lines([charts.Line(0, "a", [1.0], [value], [value], [value])], " %", "words", 340))
    assert len(of(tree, "mark")) == 1
    assert "nan" not in str(ET.tostring(tree)).lower()


def test_many_classes_are_not_named():
    names, counts = [f"class {i}" for i in range(40)], list(range(40, 0, -1))
    tree = drawn(charts.per_class(names, counts, [("a", [0.5] * 39 + [None])], "words"))
    assert len(of(tree, "mark")) == 39
    assert len(of(tree, "count")) == 40
    assert "40 classes, most training images first" in "".join(tree.itertext())


def test_counts_are_bars_from_zero():
    tree = drawn(charts.per_class(["x", "y"], [100, 50], [("a", [1.0, 0.0])], "words"))
    tall, half = (float(bar.get("height")) for bar in of(tree, "count"))
    assert half == tall / 2


def test_series_differ_in_shape_and_not_in_colour_alone():
    swatches = [str(charts.swatch(i)) for i in range(4)]
    shapes = {re.search(r' d="([^"]+)"', swatch)[1] for swatch in swatches}
    assert len(shapes) == 4
    classes = {(charts.class_shape(k), k % charts.COLOURS) for k in range(32)}
    assert len(classes) == 32


def test_what_comes_from_data_is_escaped():
    assert "<script" not in charts.bars([charts.Bar(0, "<script>", 0.5, [0.5])], '"><script>')
    assert "<script" not in charts.per_class(["<script>"], [1], [("<script>", [0.5])], "<script>")
