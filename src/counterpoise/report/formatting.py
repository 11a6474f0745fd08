"""Results as text: formatted numbers, verdicts from intervals, and the answer in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from counterpoise.errors import printable

MINUS = "\N{MINUS SIGN}"
LEVEL = 0.05
EVIDENCE = ("items", "p", "adjusted", "detectable", "unit", "needed")
"""What a difference may have besides its mean and interval; see `commands.evidence`."""

Json = dict[str, Any]


def answer(results: Json) -> str:
    """Report the main metric in one sentence that claims no more than the intervals allow.

    A method is better or worse than the baseline only where the p-value of the paired difference, by Holm's adjustment
    over all methods, is below 0.05; of results without p-values, where the 95 % interval excludes zero. For the others
    it says what these seeds would have shown, and how many seeds a difference of one point needs.

    Args:
        results: the content of results.json.

    Returns:
        For example "b is better than a on accuracy by 2.1 points (95 % interval 0.8 to 3.4, 3 seeds)."

    Examples:
        >>> metric = {"title": "accuracy", "better": "higher", "percent": True}
        >>> runs = [{"seed": 0, "status": "done"}]
        >>> a = {"label": "a", "runs": runs, "summary": {}, "difference": None}
        >>> answer({"main": "m", "metrics": {"m": metric}, "baseline": "a", "methods": [a]})
        'Only a was run, so nothing is said here about which method helps.'
    """
    return " ".join(filter(None, [results.get("incomplete"), learnt(results), _answer(results)]))


def learnt(results: Json) -> str | None:
    """Whether any method is better than what costs no training, in one sentence; `None` where that is not known.

    Args:
        results: the content of results.json.

    Examples:
        >>> found = {"method": "a", "reference": "raw inputs", "mean": -0.02, "low": None, "high": None, "n": 1}
        >>> metric = {"title": "accuracy", "better": "higher", "percent": True}
        >>> summary = {"m": {"mean": 0.7, "low": None, "high": None, "n": 1}}
        >>> rows = [{"label": name, "summary": summary} for name in ("a", "raw inputs")]
        >>> results = {"main": "m", "metrics": {"m": metric}, "methods": rows[:1], "references": rows[1:]}
        >>> print(learnt({**results, "learnt": found}).partition(":")[0])
        No method beats raw inputs on accuracy
    """
    found = results.get("learnt")
    if not found:
        return None
    metric = results["metrics"][results["main"]]
    method, reference = found["method"], found["reference"]
    digits = column_digits(results["methods"], results["main"], metric)
    gain = found["mean"] if metric["better"] == "higher" else -found["mean"]
    if gain <= 0:
        means = [_mean_of(results, label, metric, digits) for label in (reference, method)]
        return (
            f"No method beats {reference} on {metric['title']}: {means[0]} without training, {means[1]} by the best, "
            f"{method}. Nothing that was learnt shows here; try more epochs or steps, weights to start from (init), or "
            "other views."
        )
    if found["low"] is None or not outside(found):
        span = "" if found["low"] is None else f", 95 % interval {interval(found, metric, digits)}"
        amount = f"{number(abs(scale(metric) * found['mean']), digits)}{unit(metric)}{span}"
        return f"{method}, the best, beats {reference}, which costs no training, perhaps by chance ({amount})."
    return f"{method}, the best, beats {reference}, which costs no training, by {_amount(found, metric, digits)}."


def _mean_of(results: Json, label: str, metric: Json, digits: int) -> str:
    """A row's mean of the main metric, with its unit."""
    [row] = [row for row in (*results["methods"], *results["references"]) if row["label"] == label]
    value = number(scale(metric) * row["summary"][results["main"]]["mean"], digits)
    return f"{value} %" if metric["percent"] else value


def _answer(results: Json) -> str:
    name, baseline, methods = results["main"], results["baseline"], results["methods"]
    metric = results["metrics"][name]
    title, digits = metric["title"], column_digits(methods, name, metric)
    others = [method for method in methods if method["label"] != baseline]
    if not others:
        return f"Only {baseline} was run, so nothing is said here about which method helps."
    if not any(finished(method) for method in methods if method["label"] == baseline):
        return f"The baseline {baseline} did not finish, so the methods cannot be compared with it."
    decided: list[str] = []
    unclear: list[tuple[str, Json]] = []
    one_seed: list[str] = []
    left_out: list[str] = []
    for method in others:
        label, found = method["label"], difference(method, name)
        if found is None:
            failed = all(run["status"] == "failed" for run in method["runs"])
            reason = "failed in every seed" if failed else f"shares no finished seed with {baseline}"
            left_out.append(f"{label} {reason}")
        elif found["low"] is None:
            one_seed.append(f"{label} {number(scale(metric) * found['mean'], digits, sign=True)}{unit(metric)}")
        elif (word := verdict(found, metric)) == "unclear":
            unclear.append((label, found))
        else:
            than = "" if decided else f" than {baseline} on {title}"
            decided.append(f"{label} is {word}{than} by {_amount(found, metric, digits)}")
    said = decided
    if unclear:
        than = "" if decided else f" from {baseline} on {title}"
        said.append(_beyond_chance(unclear, than, metric, digits, everyone=len(unclear) == len(others)))
    if one_seed:
        changes = f"{title} against {baseline}: {', '.join(one_seed)}"
        said.append(f"one seed: no interval, differences may be chance ({changes})")
    sentence = "; ".join(said + left_out) + "."
    # A method's label keeps its spelling even at the start of the sentence.
    ours = sentence.startswith(("no method", "one seed"))
    return sentence[0].upper() + sentence[1:] if ours else sentence


def _amount(found: Json, metric: Json, digits: int) -> str:
    """The difference as a positive amount, with its interval, whichever direction is better."""
    digits = finer(found, metric, digits)
    mean, *ends = (abs(scale(metric) * found[key]) for key in ("mean", "low", "high"))
    low, high = (number(end, digits) for end in sorted(ends))
    return f"{number(mean, digits)}{unit(metric)} (95 % interval {low} to {high}, {seeds([found['n']])})"


def _beyond_chance(unclear: list[tuple[str, Json]], than: str, metric: Json, digits: int, everyone: bool) -> str:
    """The clause about the methods whose interval contains zero."""
    count = seeds(found["n"] for _, found in unclear)
    if len(unclear) == 1:
        [(label, found)] = unclear
        said = [f"95 % interval of the difference {interval(found, metric, digits)}{unit(metric)}", count]
        said += [f"p = {found['adjusted']:.2g} by Holm's adjustment"] if outside(found) else []
        said += [text] if (text := power(found, metric, digits)) else []
        return f"{label} does not differ{than} beyond chance ({', '.join(said)})"
    who = "no method differs" if everyone else listed([label for label, _ in unclear]) + " do not differ"
    if any(outside(found) for _, found in unclear):
        said = ["by Holm's adjustment of their p-values", count]
    else:
        said = ["the 95 % intervals of the differences hold zero", count]
    of_each = [f"{label}: {text}" for label, found in unclear if (text := power(found, metric, digits))]
    return f"{who}{than} beyond chance ({'; '.join([', '.join(said), *of_each])})"


def outside(found: Json) -> bool:
    """Whether the interval excludes zero, though the adjusted p-value decides nothing."""
    return found["low"] is not None and not found["low"] <= 0 <= found["high"]


def power(found: Json, metric: Json, digits: int) -> str:
    """Which difference these seeds and test items show, and how many seeds one point needs; "" where none is known.

    Examples:
        >>> percent = {"percent": True}
        >>> power({"detectable": 0.023, "unit": 0.01, "needed": 9}, percent, 1)
        '80 % power for a difference of 2.3 points, 1 point needs 9 seeds'
        >>> power({"detectable": 0.023, "unit": 0.01, "needed": None}, percent, 1)
        '80 % power for a difference of 2.3 points, no number of seeds shows 1 point on these test items'
        >>> power({}, percent, 1)
        ''
    """
    if found.get("detectable") is None:
        return ""
    shown = scale(metric) * found["detectable"]
    while digits < 6 and shown and round(shown, digits) == 0:
        digits += 1
    text = f"80 % power for a difference of {number(shown, digits)}{unit(metric)}"
    if "needed" not in found:
        return text
    one = f"{scale(metric) * found['unit']:g}" + (" point" if metric["percent"] else "")
    if found["needed"] is None:
        return f"{text}, no number of seeds shows {one} on these test items"
    return f"{text}, {one} needs {found['needed']:,} seeds"


def finished(method: Json) -> list[Json]:
    """The method's finished runs."""
    return [run for run in method["runs"] if run["status"] == "done"]


def summary(method: Json, name: str) -> Json | None:
    """Mean and interval of a metric over the method's seeds; None where there is none."""
    return _checked((method["summary"] or {}).get(name))


def measured(results: Json, names: Iterable[str]) -> list[str]:
    """Those metrics that any method has a mean of; the main one in any case.

    A metric may need what the data does not have, such as groups of the test images: its column would be empty.

    Examples:
        >>> found = {"knn": {"mean": 0.5, "low": None, "high": None, "n": 1}}
        >>> measured({"main": "linear", "methods": [{"summary": found}]}, ["linear", "knn", "worst_group"])
        ['linear', 'knn']
    """
    methods, main = results["methods"], results["main"]
    return [name for name in names if name == main or any(summary(method, name) for method in methods)]


def difference(method: Json, name: str) -> Json | None:
    """Mean and interval of a metric's paired difference from the baseline; None where there is none."""
    return _checked((method["difference"] or {}).get(name))


def _checked(entry: Json | None) -> Json | None:
    """The entry, None if its mean is not finite, without an interval if either end is not."""
    if not entry or (mean := finite(entry["mean"])) is None:
        return None
    low, high = finite(entry["low"]), finite(entry["high"])
    if low is None or high is None:
        low = high = None
    known = {name: entry[name] for name in EVIDENCE if name in entry}
    return {**known, "mean": mean, "low": low, "high": high, "n": entry["n"]}


def verdict(found: Json, metric: Json) -> str:
    """Better or worse where the adjusted p-value is below 0.05 or, without one, the interval excludes zero.

    Examples:
        >>> verdict({"low": -0.3, "high": -0.1}, {"better": "lower"})
        'better'
        >>> verdict({"low": 0.0, "high": 1.0}, {"better": "lower"})
        'unclear'
        >>> verdict({"low": 0.1, "high": 1.0, "adjusted": 0.08}, {"better": "higher"})
        'unclear'
    """
    low, high = found["low"], found["high"]
    if low is None or low <= 0 <= high or found.get("adjusted", 0.0) >= LEVEL:
        return "unclear"
    return "better" if (low > 0) == (metric["better"] == "higher") else "worse"


def finite(value: Any) -> float | None:
    """The value as a float; None if it is not a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def scale(metric: Json) -> int:
    """The factor between a metric's values and the numbers that are shown."""
    return 100 if metric["percent"] else 1


def unit(metric: Json) -> str:
    """The unit of a metric's differences, with a space before it."""
    return " points" if metric["percent"] else ""


def number(value: float, digits: int, sign: bool = False) -> str:
    """A number with a typographic minus sign; a number that rounds to zero has no sign.

    Examples:
        >>> number(-0.04, 1, sign=True), number(2.06, 1, sign=True)
        ('0.0', '+2.1')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return ("+" if sign and value > 0 else "") + text.replace("-", MINUS)


def interval(found: Json, metric: Json, digits: int) -> str:
    """Both ends of the interval."""
    low, high = (number(scale(metric) * found[end], digits) for end in ("low", "high"))
    return f"{low} to {high}"


def spread(found: Json, metric: Json, digits: int) -> str:
    """The interval of a mean: ± half its width, or both ends where it is not symmetric (clipped at 0 or 1).

    Examples:
        >>> spread({"mean": 0.8, "low": 0.78, "high": 0.82}, {"percent": True}, 1)
        '± 2.0'
        >>> spread({"mean": 0.98, "low": 0.9, "high": 1.0}, {"percent": True}, 1)
        '90.0 to 100.0'
    """
    if found["low"] is None:
        return ""
    below, above = (scale(metric) * abs(found[end] - found["mean"]) for end in ("low", "high"))
    if abs(above - below) < 10.0**-digits:
        return f"± {number((above + below) / 2, digits)}"
    return interval(found, metric, digits)


def mean_cell(found: Json | None, metric: Json, digits: int) -> str:
    """A mean with its interval, in one cell of a table.

    Examples:
        >>> percent = {"percent": True}
        >>> mean_cell({"mean": 0.8, "low": 0.78, "high": 0.82}, percent, 1), mean_cell(None, percent, 1)
        ('80.0 ± 2.0', '—')
        >>> mean_cell({"mean": 0.98, "low": 0.9, "high": 1.0}, {"percent": True}, 1)
        '98.0 (90.0 to 100.0)'
    """
    if found is None:
        return "—"
    mean, around = number(scale(metric) * found["mean"], digits), spread(found, metric, digits)
    return f"{mean} ({around})" if " to " in around else f"{mean} {around}".rstrip()


def change(found: Json | None, metric: Json, digits: int) -> str:
    """A difference with its interval, in one cell of a table.

    Examples:
        >>> change({"mean": 0.021, "low": 0.0004, "high": 0.03}, {"percent": True, "better": "higher"}, 1)
        '+2.10 [+0.04, +3.00]'
    """
    if found is None:
        return "—"
    digits = finer(found, metric, digits)
    ends = (found["mean"], found["low"], found["high"])
    mean, *around = (number(scale(metric) * end, digits, sign=True) for end in ends if end is not None)
    return f"{mean} [{', '.join(around)}]" if around else mean


def column_digits(methods: Sequence[Json], name: str, metric: Json) -> int:
    """Decimals for a metric's column: one for percent, otherwise three figures of the largest mean."""
    if metric["percent"]:
        return 1
    return figures(abs(found["mean"]) for method in methods if (found := summary(method, name)))


def figures(values: Iterable[float]) -> int:
    """Decimals that show three figures of the largest value, 4 at most.

    Examples:
        >>> figures([0.5, 31.2]), figures([0.42]), figures([])
        (1, 3, 3)
    """
    largest = max(values, default=0.0)
    return 3 if largest < 1e-9 else min(max(2 - math.floor(math.log10(largest)), 0), 4)


def finer(found: Json, metric: Json, digits: int) -> int:
    """Decimals for a difference: more than `digits` where rounding would make an interval touch zero."""
    if verdict(found, metric) == "unclear":
        return digits
    nearest = scale(metric) * min(abs(found["low"]), abs(found["high"]))
    while digits < 6 and round(nearest, digits) == 0:
        digits += 1
    return digits


def seeds(counts: Iterable[int]) -> str:
    """The number of seeds, or its range.

    Examples:
        >>> seeds([3, 3]), seeds([1]), seeds([2, 3])
        ('3 seeds', '1 seed', '2 to 3 seeds')
    """
    low, *_, high = [*(ordered := sorted(counts)), ordered[-1]]
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low != 1 else ''}"


def warned(runs: Sequence[Json]) -> list[tuple[list[int], str]]:
    """The warnings of a method's runs: each kind once, with its seeds and the text of the first of them.

    The kind of a warning is its text up to the first colon.

    Examples:
        >>> few = {"status": "done", "warnings": ["few steps: 6"]}
        >>> warned([{"seed": 0, **few}, {"seed": 1, **few}])
        [([0, 1], 'few steps: 6')]
    """
    found: dict[str, tuple[list[int], str]] = {}
    for run in runs:
        for warning in run.get("warnings") or []:
            seeds, _ = found.setdefault(warning.partition(":")[0], ([], warning))
            seeds.append(run["seed"])
    return [(list(dict.fromkeys(seeds)), warning) for seeds, warning in found.values()]


def warnings(methods: Sequence[Json]) -> list[str]:
    """The warnings of all methods for the terminal, equal ones in one line.

    Examples:
        >>> few = {"label": "a", "runs": [{"seed": 0, "status": "done", "warnings": ["few steps: 6"]}]}
        >>> warnings([few, {**few, "label": "b"}])
        ['warning: a, seed 0, and b, seed 0: few steps: 6']
    """
    found: dict[str, list[str]] = {}
    for method in methods:
        for seeds, warning in warned(finished(method)):
            found.setdefault(warning, []).append(f"{method['label']}, {numbered(seeds)}")
    return [printable(f"warning: {', and '.join(who)}: {warning}") for warning, who in found.items()]


def numbered(seeds: Sequence[int]) -> str:
    """Seeds by their numbers.

    Examples:
        >>> numbered([2]), numbered([0, 1, 2])
        ('seed 2', 'seeds 0, 1 and 2')
    """
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in seeds])}"


def duration(seconds: float) -> str:
    """Seconds in the units of everyday speech.

    Examples:
        >>> duration(4.26), duration(75), duration(7260)
        ('4.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def capital(text: str) -> str:
    """A text with a capital at its start, unless its first word has a spelling of its own.

    Examples:
        >>> capital("mean error"), capital("kNN accuracy"), capital("")
        ('Mean error', 'kNN accuracy', '')
    """
    return text[:1].upper() + text[1:] if text.partition(" ")[0].islower() else text


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a sentence.

    Examples:
        >>> listed(["a"]), listed(["a", "b", "c"]), listed(["a", "b"], "or")
        ('a', 'a, b and c', 'a or b')
    """
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
