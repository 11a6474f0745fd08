"""Small charts as inline SVG made of CSS classes, so that one drawing serves the light and the dark scheme.

Colours are the classes `s0` … `s7` (page.css: the Okabe–Ito palette); every series also has a mark of its own shape, so
that nothing rests on colour alone. Charts are drawn at their size on a phone and grow from there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from counterpoise.errors import printable
from counterpoise.report.formatting import MINUS, number

COLOURS = 8
MARKS = (
    "M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.8L4.6,3.6H-4.6z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
)


class Line(NamedTuple):
    """One method's curve.

    Attributes:
        series: number of the method, which decides colour and shape.
        label: of the method.
        x: where the curve has values.
        mean: over seeds, at each x.
        low: the lowest seed at each x.
        high: the highest seed at each x.
    """

    series: int
    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class Bar(NamedTuple):
    """One method's bar, with a dot for each seed.

    Attributes:
        series: number of the method, which decides colour and shape.
        label: of the method.
        mean: over seeds, in the unit that is shown.
        seeds: the value of each seed, in the same unit.
    """

    series: int
    label: str
    mean: float
    seeds: list[float]


class Point(NamedTuple):
    """One method's place in a chart of two metrics, with the interval of each.

    Attributes:
        series: number of the method, which decides colour and shape.
        label: of the method.
        at: its mean on the first and on the second metric.
        spans: both ends of the interval of each of these; None where there is none.
        dominated: whether another method is at least as good in both and better in one.
    """

    series: int
    label: str
    at: tuple[float, float]
    spans: tuple[tuple[float, float] | None, tuple[float, float] | None]
    dominated: bool


class Axis(NamedTuple):
    """One of the two metrics of a front.

    Attributes:
        title: of the metric.
        better: "higher" or "lower".
        unit: written behind the ticks.
    """

    title: str
    better: str
    unit: str


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """One element; children and values are escaped, floats rounded to a tenth of a pixel, `class_` written `class`.

    Characters in names that are not printable are shown as escapes.

    Examples:
        >>> print(element("text", "<b>", x=1.234, class_="tick"))
        <text x="1.2" class="tick">&lt;b&gt;</text>
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(
            name.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else shown(value)
        )
        for name, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, Markup("").join(map(shown, children)))


def shown(value: Any) -> Any:
    """A text as the page shows it: in one line, with escapes for characters that are not printable; markup as it is.

    Examples:
        >>> print(shown("a" + chr(10) + "b"))
        a\\nb
    """
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def mark(x: float, y: float, series: int, hint: str = "", kind: str = "mark") -> Markup:
    """The series' own shape in its own colour, with `hint` on hover."""
    children = [element("title", hint)] if hint else []
    shape = MARKS[series % len(MARKS)]
    place = f"translate({x:.1f},{y:.1f})"
    return element("path", *children, d=shape, transform=place, class_=f"{kind} s{series % COLOURS}")


def swatch(series: int, hollow: bool = False) -> Markup:
    """The mark of a series, for a legend."""
    shape = mark(7.0, 7.0, series, kind="mark hollow" if hollow else "mark")
    return _drawing(14, 14, "", shape, class_="swatch", aria_hidden="true")


def class_shape(label: int) -> str:
    """The shape of a class in the embedding pictures: colours change first, then shapes, 32 pairs in all.

    Examples:
        >>> class_shape(0) == class_shape(7), class_shape(0) == class_shape(8)
        (True, False)
    """
    return MARKS[label // COLOURS % len(MARKS)]


def class_swatch(label: int) -> Markup:
    """The mark of a class, for a legend."""
    shape = element("path", d=class_shape(label), transform="translate(7,7)", class_=f"mark s{label % COLOURS}")
    return _drawing(14, 14, "", shape, class_="swatch", aria_hidden="true")


def interval(mean: float, low: float | None, high: float | None, reach: float, verdict: str, says: str) -> Markup:
    """A difference and its interval on an axis from -reach to reach with zero in the middle.

    The dot is full where the interval leaves zero out (`verdict` better or worse) and hollow otherwise.
    """
    width, height = 160, 18
    middle, half = width / 2, width / 2 - 6

    def at(value: float) -> float:
        return middle + half * value / (reach or 1)

    parts = [
        element("line", x1=2, x2=width - 2, y1=9, y2=9, class_="track"),
        element("line", x1=middle, x2=middle, y1=1, y2=height - 1, class_="zero"),
    ]
    if low is not None and high is not None:
        left, right = at(low), max(at(high), at(low) + 1)
        parts.append(element("line", x1=left, x2=right, y1=9, y2=9, class_="span"))
    parts.append(element("circle", cx=at(mean), cy=9, r=4, class_="dot"))
    return _drawing(width, height, says, *parts, class_=f"interval {verdict}")


def bars(rows: Sequence[Bar], says: str, digits: int = 1, unit: str = " %") -> Markup:
    """Horizontal bars from zero, the label above each, a dot for each seed.

    Args:
        rows: of each method.
        says: the chart in words.
        digits: decimals of the values.
        unit: written behind the values; of percentages, the axis ends at 100.
    """
    width, step, full = 320, 44, 262
    values = [value for row in rows for value in (row.mean, *row.seeds)]
    low, high = min(0.0, *values), max(100.0 if unit == " %" else 0.0, *values)
    at = _linear(low, high if high > low else low + 1, 0, full)
    parts: list[Markup] = []
    for i, row in enumerate(rows):
        y = i * step
        left, right = sorted((at(0), at(row.mean)))
        value = number(row.mean, digits) + unit
        parts += [
            element("text", row.label, x=0, y=y + 14, class_="label"),
            element("rect", x=0, y=y + 21, width=full, height=12, rx=2, class_="empty"),
            element(
                "rect", x=left, y=y + 21, width=right - left, height=12, rx=2, class_=f"bar s{row.series % COLOURS}"
            ),
            element("text", value, x=width, y=y + 31, class_="value end"),
        ]
        if len(row.seeds) > 1:
            parts += [element("circle", cx=at(seed), cy=y + 27, r=2.5, class_="seed") for seed in row.seeds]
    return _drawing(width, step * len(rows), says, *parts)


def lines(
    series: Sequence[Line], unit: str, says: str, width: int, over: str = "epoch", logarithmic: bool = False
) -> Markup:
    """Curves: a line for the mean, a band from the lowest to the highest seed, a mark at the end.

    Args:
        series: of each method.
        unit: of the values, written behind the ticks.
        says: the chart in words.
        width: in pixels.
        over: what x counts.
        logarithmic: whether the axis of x is; it then has a tick at every x there is.
    """
    height, left, right, top, bottom = 60 + 150 * width // 340, 50, 12, 10, 40
    xs = [x for line in series for x in line.x]
    ys = [y for line in series for y in (*line.low, *line.high)]
    if not logarithmic:
        x_ticks, at_x = _axis(min(xs), max(xs), left, width - right, integer=True)
    else:
        x_ticks, at_log = sorted(set(xs)), _axis(math.log(min(xs)), math.log(max(xs)), left, width - right)[1]

        def at_x(x: float) -> float:
            return at_log(math.log(x))

    y_ticks, at_y = _axis(min(ys), max(ys), height - bottom, top)
    parts = _grid(y_ticks, at_y, left, width - right, unit)
    parts += [
        element("text", _count(tick), x=at_x(tick), y=height - bottom + 18, class_="tick middle") for tick in x_ticks
    ]
    parts.append(element("text", over, x=(left + width - right) / 2, y=height - 4, class_="tick middle"))
    for line in series:
        upper = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(line.x, line.high, strict=True)]
        lower = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(line.x, line.low, strict=True)]
        parts.append(element("polygon", points=" ".join(upper + lower[::-1]), class_=f"band s{line.series % COLOURS}"))
    for line in series:
        points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(line.x, line.mean, strict=True))
        again = " again" if line.series >= COLOURS else ""
        parts.append(element("polyline", points=points, class_=f"line s{line.series % COLOURS}{again}"))
        parts.append(mark(at_x(line.x[-1]), at_y(line.mean[-1]), line.series, line.label))
    return _drawing(width, height, says, *parts)


def front(points: Sequence[Point], axes: tuple[Axis, Axis], says: str) -> Markup:
    """Methods by two metrics: a mark with both intervals for each, hollow where another method dominates it.

    A dashed line joins the methods that none dominates: whatever lies on its worse side is dominated.

    Args:
        points: of each method, at least one.
        axes: the metric to the right and the one upwards.
        says: the chart in words.
    """
    width, height, left, right, top, bottom = 420, 340, 54, 14, 34, 54
    across, upward = axes
    (x_ticks, at_x), (y_ticks, at_y) = (
        _axis(min(ends), max(ends), *pixels)
        for ends, pixels in zip(_extents(points), ((left, width - right), (height - bottom, top)), strict=True)
    )
    parts = _grid(y_ticks, at_y, left, width - right, upward.unit)
    for tick in x_ticks:
        parts.append(element("line", x1=at_x(tick), x2=at_x(tick), y1=top, y2=height - bottom, class_="rule"))
        name = f"{tick:g}{across.unit}".replace("-", MINUS)
        parts.append(element("text", name, x=at_x(tick), y=height - bottom + 18, class_="tick middle"))
    arrows = {"higher": ("→", "↑"), "lower": ("←", "↓")}
    below = f"{_short(across.title, 34)}, {across.better} is better {arrows[across.better][0]}"
    above = f"{arrows[upward.better][1]} {_short(upward.title, 34)}, {upward.better} is better"
    parts.append(element("text", below, x=width - right, y=height - 8, class_="label end"))
    parts.append(element("text", above, x=0, y=14, class_="label"))
    if len(stairs := _stairs(points, axes)) > 1:
        corners = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in stairs)
        parts.append(element("polyline", points=corners, class_="stairs"))
    for point in points:
        (x, y), (x_span, y_span), colour = point.at, point.spans, f"whisker s{point.series % COLOURS}"
        if x_span:
            parts.append(element("line", x1=at_x(x_span[0]), x2=at_x(x_span[1]), y1=at_y(y), y2=at_y(y), class_=colour))
        if y_span:
            parts.append(element("line", x1=at_x(x), x2=at_x(x), y1=at_y(y_span[0]), y2=at_y(y_span[1]), class_=colour))
    for point in points:
        x, y = point.at
        parts.append(mark(at_x(x), at_y(y), point.series, point.label, "mark hollow" if point.dominated else "mark"))
    return _drawing(width, height, says, *parts, class_="front")


def _extents(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """All means and ends of intervals, on the first and on the second metric."""
    first, second = ([value for p in points for value in (p.at[k], *(p.spans[k] or ()))] for k in (0, 1))
    return first, second


def _stairs(points: Sequence[Point], axes: tuple[Axis, Axis]) -> list[tuple[float, float]]:
    """The corners of the line through the methods that none dominates.

    Of two neighbours, one is worse in the first metric and the other in the second; their corner is worse in both.
    """
    best = sorted({point.at for point in points if not point.dominated})
    worse_x, worse_y = (min if axis.better == "higher" else max for axis in axes)
    corners = [best[0]] if best else []
    for (x0, y0), (x1, y1) in itertools.pairwise(best):
        corners += [(worse_x(x0, x1), worse_y(y0, y1)), (x1, y1)]
    return corners


def per_class(
    names: Sequence[str],
    counts: Sequence[int],
    scores: Sequence[tuple[str, list[float | None]]],
    says: str,
    *,
    unit: str = " %",
    digits: int = 1,
    items: str = "images",
) -> Markup:
    """Training items per class above, each method's score below; classes stand in the order given.

    Args:
        names: of the classes; written out up to 24 of them.
        counts: training items of each class.
        scores: label of each method and its score in each class, in the unit that is shown, None where unknown.
        says: the chart in words.
        unit: written behind the scores; the axis of percentages goes from 0 to 100.
        digits: decimals of the scores on hover.
        items: what the data consists of.
    """
    named = len(names) <= 24
    width, left, right, bar_top, bar_bottom, top = 760, 50, 10, 38, 104, 130
    bottom = top + 170
    height = bottom + (84 if named else 26)
    slot = (width - left - right) / max(len(names), 1)
    ticks, at_y = _score_axis([value for _, values in scores for value in values], unit, bottom, top)
    most = max(max(counts, default=0), 1)
    parts = [element("text", f"training {items}", x=left, y=12, class_="tick")]
    parts += _grid(ticks, at_y, left, width - right, unit)
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        x = left + slot * (i + 0.5)
        tall = (bar_bottom - bar_top) * count / most
        column = element("title", f"{name}: {count} training {items}")
        thick = min(slot * 0.6, 34)
        shape = {"x": x - thick / 2, "y": bar_bottom - tall, "width": thick, "height": tall}
        parts.append(element("rect", column, class_="count", **shape))
        if named:
            parts.append(element("text", f"{count:,}", x=x, y=bar_bottom - tall - 4, class_="tick middle"))
            turned = f"translate({x + 4:.1f},{bottom + 16}) rotate(-40)"
            parts.append(element("text", _short(name), transform=turned, class_="tick end"))
    if not named:
        words = f"{len(names)} classes, most training {items} first"
        parts.append(element("text", words, x=(left + width - right) / 2, y=bottom + 20, class_="tick middle"))
    for series, (label, values) in enumerate(scores):
        aside = slot * 0.5 * ((series + 0.5) / len(scores) - 0.5)
        for i, value in enumerate(values):
            if value is not None:
                hint = f"{label}, {names[i]}: {number(value, digits)}{unit}"
                parts.append(mark(left + slot * (i + 0.5) + aside, at_y(value), series, hint))
    return _drawing(width, height, says, *parts, class_="wide")


def _score_axis(values: Sequence[float | None], unit: str, start: int, stop: int) -> tuple[list[float], Callable]:
    """Percentages from 0 to 100; other scores from the lowest to the highest of them and zero."""
    if unit == " %":
        return [0, 25, 50, 75, 100], _linear(0, 100, start, stop)
    known = [0.0, *(value for value in values if value is not None)]
    return _axis(min(known), max(known), start, stop)


def _drawing(width: int, height: int, says: str, *parts: Markup, **attributes: object) -> Markup:
    if says:
        attributes |= {"role": "img", "aria_label": says}
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, **attributes)


def _grid(ticks: Sequence[float], at: Callable[[float], float], left: int, right: int, unit: str) -> list[Markup]:
    rules = [element("line", x1=left, x2=right, y1=at(tick), y2=at(tick), class_="rule") for tick in ticks]
    names = [f"{tick:g}{unit}".replace("-", MINUS) for tick in ticks]
    places = [{"x": left - 8, "y": at(tick) + 4} for tick in ticks]
    return rules + [element("text", name, class_="tick end", **at) for name, at in zip(names, places, strict=True)]


def _axis(low: float, high: float, start: int, stop: int, integer: bool = False) -> tuple[list[float], Callable]:
    """Round ticks inside [low, high] and the map from values to pixels; a single value gets room around it."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1):
        room = 1 if integer else abs(low) * 0.1 or 0.1
        low, high = low - room, high + room
    elif not integer:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    ticks = MaxNLocator(nbins=5, integer=integer, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high], _linear(low, high, start, stop)


def _linear(low: float, high: float, start: int, stop: int) -> Callable[[float], float]:
    return lambda value: start + (stop - start) * (value - low) / (high - low)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
