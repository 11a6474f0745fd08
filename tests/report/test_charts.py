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
    tree = drawn(charts.bars([charts.Bar(0, "a", 50.0, [40.0, 60.0]), charts.Bar(9, "b", 100.0, [100.0])], "words"))
    assert [float(bar.get("width")) for bar in of(tree, "bar")] == [131, 262]
    assert [float(dot.get("cx")) for dot in of(tree, "seed")] == pytest.approx([104.8, 157.2])
    assert [text.text for text in of(tree, "value")] == ["50.0 %", "100.0 %"]


def test_bars_of_any_number_start_at_zero_and_reach_the_largest():
    rows = [charts.Bar(0, "a", -1.0, [-1.0]), charts.Bar(1, "b", 3.0, [3.0])]
    tree = drawn(charts.bars(rows, "words", digits=2, unit=""))
    (left, negative), (zero, positive) = ((float(b.get("x")), float(b.get("width"))) for b in of(tree, "bar"))
    assert (left, left + negative, zero, zero + positive) == pytest.approx((0, 65.5, 65.5, 262), abs=0.1)
    assert [text.text for text in of(tree, "value")] == ["−1.00", "3.00"]


def test_classes_can_be_scored_by_a_number_that_is_no_percentage():
    tree = drawn(charts.per_class(["x", "y"], [2, 1], [("a", [-3.0, 40.0])], "words", unit="", digits=2))
    heights = [float(re.search(r",([\d.]+)\)", m.get("transform"))[1]) for m in of(tree, "mark")]
    assert 300 > heights[0] > heights[1] > 130
    assert "a, x: −3.00" in "".join(tree.itertext())


HIGHER = charts.Axis("accuracy", "higher", " %")
LOWER = charts.Axis("error", "lower", "")


def point(label, x, y, series=0, spans=(None, None), dominated=False):
    return charts.Point(series, label, (x, y), spans, dominated)


def places(tree, kind):
    return [tuple(map(float, re.findall(r"[\d.]+", m.get("transform"))[:2])) for m in of(tree, kind)]


def test_a_front_places_its_points_with_higher_values_to_the_right_and_upwards():
    tree = drawn(charts.front([point("a", 1.0, 5.0), point("b", 3.0, 2.0, 1)], (HIGHER, LOWER), "words"))
    (ax, ay), (bx, by) = places(tree, "mark")
    assert ax < bx
    assert ay < by
    assert tree.get("aria-label") == "words"
    assert "accuracy, higher is better →" in "".join(tree.itertext())
    assert "↓ error, lower is better" in "".join(tree.itertext())


def test_a_front_draws_both_intervals_through_the_point_and_marks_what_is_dominated():
    first = point("a", 50.0, 5.0, spans=((40.0, 60.0), (4.0, 7.0)))
    tree = drawn(charts.front([first, point("b", 45.0, 4.0, 1, ((44.0, 46.0), None), True)], (HIGHER, HIGHER), "words"))
    [(x, y), (_, _)] = places(tree, "mark")
    across, upward, alone = ([float(line.get(end)) for end in ("x1", "x2", "y1", "y2")] for line in of(tree, "whisker"))
    assert across[0] < x < across[1]
    assert across[2] == across[3] == y
    assert upward[2] > y > upward[3]
    assert upward[0] == upward[1] == x
    assert alone[2] == alone[3]
    assert [m.find("title").text for m in of(tree, "hollow")] == ["b"]


@pytest.mark.parametrize(
    ("axes", "corner"),
    [
        ((HIGHER, HIGHER), (1.0, 2.0)),
        ((LOWER, LOWER), (3.0, 5.0)),
    ],
)
def test_the_line_of_a_front_turns_where_both_metrics_are_worse(axes, corner):
    points = [point("a", 1.0, 5.0), point("b", 3.0, 2.0), point("c", *corner, dominated=True)]
    tree = drawn(charts.front(points, axes, "words"))
    stairs = [tuple(map(float, pair.split(","))) for pair in of(tree, "stairs")[0].get("points").split()]
    a, b, c = places(tree, "mark")
    assert stairs == [a, c, b]


def test_a_front_of_one_method_or_of_equal_ones_has_no_line():
    for points in ([point("a", 1.0, 5.0)], [point("a", 1.0, 5.0), point("b", 1.0, 5.0, 1)]):
        tree = drawn(charts.front(points, (HIGHER, HIGHER), "words"))
        assert not of(tree, "stairs")
        assert len(of(tree, "mark")) == len(points)


def test_lines_run_from_edge_to_edge_and_higher_is_higher():
    line = charts.Line(1, "a", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [1.5, 2.5, 3.5])
    tree = drawn(charts.lines([line], "", "words", 340))
    points = [tuple(map(float, pair.split(","))) for pair in of(tree, "line")[0].get("points").split()]
    assert (points[0][0], points[-1][0]) == (50, 328)
    assert points[0][1] > points[1][1] > points[2][1]
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.11)
    assert len(of(tree, "band")[0].get("points").split()) == 6


def test_a_logarithmic_axis_has_a_tick_at_every_value():
    flat = [50.0] * 4
    line = charts.Line(0, "a", [1.0, 2.0, 4.0, 8.0], flat, flat, flat)
    tree = drawn(charts.lines([line], " %", "words", 340, "k", logarithmic=True))
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
    tree = drawn(charts.per_class(names, counts, [("a", [50.0] * 39 + [None])], "words", items="rows"))
    assert len(of(tree, "mark")) == 39
    assert len(of(tree, "count")) == 40
    assert "40 classes, most training rows first" in "".join(tree.itertext())


def test_counts_are_bars_from_zero():
    tree = drawn(charts.per_class(["x", "y"], [100, 50], [("a", [100.0, 0.0])], "words"))
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
    points, axis = [point("<script>", 1.0, 2.0)], charts.Axis("<script>", "higher", "<script>")
    assert "<script" not in charts.front(points, (axis, axis), '"><script>')
