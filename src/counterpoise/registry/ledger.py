"""The ledger: which claims are declared, what came out of them, and whether the code has changed since.

A claim is declared in `claims.toml` (docs/claims.md): arms (a method with arguments and settings), seeds, and
statements. A statement is a weighted sum of one metric over arms, taken seed by seed, and the side of 0 on which its
95 % interval is expected. Nothing here imports torch, so that `counterpoise show` answers at once.
"""

from __future__ import annotations

import hashlib
import json
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError, unknown
from counterpoise.files import read_json
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import given_values
from counterpoise.registry.fingerprint import fingerprint
from counterpoise.registry.kinds import module_of
from counterpoise.registry.search import (
    Space,
    arguments_of,
    check_space,
    check_space_of,
    check_values,
    number_of_trials,
    settings_of,
    space_text,
)
from counterpoise.registry.signatures import describe, task_roles

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).parents[1]
DECLARED = Path(__file__).with_name("claims.toml")
RESULTS = Path("results/claims")
WRITTEN_BY = "Written by `counterpoise claim --all --report`."

TUNING_SEED = 100
"""The seed that tuning uses, and no claim."""
ARM_KEYS = ("method", "arguments", "data", "imperfect", "settings", "tune")
SIDES = ("above", "below")
BEST = ("highest", "lowest")
INCONCLUSIVE = "inconclusive"
OUT_OF_REGIME = "out of regime"
"""The verdict of a claim whose requirements do not hold: its statements are not judged."""
REFERENCES = {
    "raw": "the inputs as they are",
    "untrained": "an untrained encoder of the same kind",
    "start": "the weights that methods start from",
    "source": "the model trained on the source data",
    "teacher": "the teacher",
    "deep": "the deep teacher",
    "wide": "the wide teacher",
    "float": "the network before it is quantized",
    "towers": "the encoders of images and texts",
    "slots": "the slot network",
    "original": "the model before it forgets",
    "retrained": "the model trained without what is to be forgotten",
    "generator": "the generator",
    "gan": "the generative adversarial network",
    "judge": "the model that judges samples",
    "reward": "the model that rewards samples",
    "reference": "the reference policy",
    "behaviour": "the behaviour policy",
}
"""What may stand in the `of` of a requirement besides arms: rows that cost no training, and given models."""


@dataclass(frozen=True)
class Statement:
    """A figure and what is expected of it.

    Args:
        says: in words.
        metric: a metric, a diagnostic of the method, or "head", "medium" or "tail" for the accuracy of that group.
        of: the weight of each arm; {"dcl": 1, "simclr": -1} is the paired difference.
        expect: "above" or "below" 0.
        margin: added to the figure of each seed. With "above", 0.01 claims a difference of more than -0.01, that is,
            at most 0.01 worse; -0.5 claims a figure of more than 0.5.
    """

    says: str
    metric: str
    of: dict[str, float]
    expect: str = "above"
    margin: float = 0


@dataclass(frozen=True)
class Claim:
    """A declared experiment; `docs/claims.md` has the form.

    Args:
        slug: of the paper.
        says: what is claimed, in words.
        data: a known set, or a path; an arm may have its own.
        seeds: of data, weights, order and views: how many, which are then 0, 1, 2 and so on; or each by its number,
            where earlier ones have been looked at.
        arms: by name, each with a `method`, and with its `arguments`, `data`, `imperfect`, `settings` and `tune` where
            they are not the claim's.
        statements: what is judged.
        imperfect: what is done to the data.
        settings: of the task, for all arms.
        task: what the methods are to do.
        requires: statements that must hold by their means over the seeds before the others are judged. In their `of`
            may also stand references (`REFERENCES`), by themselves or of one arm's data and settings: "raw:ARM".
        tune: of arguments of the arms' methods and of settings, the values of which the best is chosen for each arm, on
            data held out for that and with a seed of its own; an arm may have its own. As many trials for all arms.
        by: the figure that chooses; the task's main metric by default.
        best: which figure of `by` is the best, "highest" or "lowest"; needed where `by` is no metric of the task.

    Raises:
        InputError: naming the slug and the key, for a declaration that cannot be run or judged.
    """

    slug: str
    says: str
    data: str
    seeds: int | tuple[int, ...]
    arms: dict[str, dict[str, Any]]
    statements: tuple[Statement, ...]
    imperfect: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None
    task: str = "pretrain"
    requires: tuple[Statement, ...] = ()
    tune: dict[str, list[Any]] | None = None
    by: str | None = None
    best: str | None = None

    def __post_init__(self) -> None:
        _check_claim(self)

    @property
    def words(self) -> str:
        """What it says, on one line."""
        return " ".join(self.says.split())

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The number of each seed."""
        return self.seeds if isinstance(self.seeds, tuple) else tuple(range(self.seeds))

    def space(self, arm: str) -> Space:
        """The values that tuning tries for an arm; empty where nothing is tuned."""
        return self.arms[arm].get("tune", self.tune) or {}

    @property
    def spaces(self) -> dict[str, Space]:
        """The values that tuning tries for each arm, by the arm's name; empty where nothing is tuned."""
        return {arm: self.space(arm) for arm in self.arms if self.space(arm)}

    @property
    def references(self) -> tuple[str, ...]:
        """What the requirements compare with besides arms."""
        names = (name for statement in self.requires for name in statement.of if name not in self.arms)
        return tuple(dict.fromkeys(names))

    def check(self) -> None:
        """Refuse arguments, settings and values to try that the methods and the task do not have.

        It reads the source of all the claim's methods, which the rest of the declaration can be checked without.

        Raises:
            InputError: naming the slug, the arm, the key and the argument.
        """
        settings, kind = settings_of(self.task), f"setting of {self.task}"
        check_values(f"claim {self.slug}: settings", kind, self.settings or {}, settings)
        for label, arm in self.arms.items():
            where, method = f"claim {self.slug}: arm {label}", arm["method"]
            known = arguments_of(method, self.task)
            check_values(f"{where}: arguments", f"argument of {method}", arm.get("arguments", {}), known)
            check_values(f"{where}: settings", kind, arm.get("settings", {}), settings)
            check_space_of(f"{where}: tune", self.space(label), method, self.task)

    def code(self) -> str:
        """Changes with the declaration, and with the code that the result stands on."""
        declared = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256((declared + fingerprint(modules_of(self))).encode()).hexdigest()[:16]


def modules_of(claim: Claim) -> list[str]:
    """The modules below `counterpoise` that a claim's result stands on, apart from those that they import.

    Examples:
        >>> modules_of(declared()["sbcl"])
        ['classify.cross_entropy', 'contrast.sbcl', 'contrast.supcon', 'tasks.pretrain']
    """
    modules = {catalogue.task_source(claim.task)}
    for arm in claim.arms.values():
        modules.add(catalogue.method_source(arm["method"], claim.task)[0])
        settings = {**(claim.settings or {}), **arm.get("settings", {})}
        for data in (arm.get("data", claim.data), settings.get("target")):
            if data and (loader := module_of(data)):
                modules.add(loader)
        modules |= _modules_of_given(claim.task, arm["method"], settings.get("given") or "")
    return sorted(modules)


def _modules_of_given(task: str, method: str, given: str) -> set[str]:
    """The modules that train the models which a method stands on, as its task trains them unless `given` says so."""
    chosen = given_values(given)
    asked = {argument.name for argument in describe(*catalogue.method_source(method, task)).arguments}
    usual = {role: value for role, value in task_roles(catalogue.task_source(task)).items() if role in asked}
    values = {*usual.values(), *(value for role, value in chosen.items() if role in usual)}
    slugs = values & set(catalogue.papers())  # a backbone is trained in the usual way
    sources = {catalogue.method_source(slug)[0] for slug in slugs}
    return sources | {catalogue.task_source(catalogue.task_of(slug)) for slug in slugs}


@cache
def declared() -> dict[str, Claim]:
    """All claims, by slug.

    Raises:
        InputError: naming the slug and the key, for what is no declaration of a claim.
    """
    return {slug: _claim(slug, row) for slug, row in tomllib.loads(DECLARED.read_text(encoding="utf-8")).items()}


def _claim(slug: str, row: Any) -> Claim:
    """A claim from its table in TOML."""
    where = f"claim {slug}"
    _check_keys(where, row, Claim, given=("slug",))
    lists: dict[str, Any] = {
        name: _statements(where, name, row[name]) for name in ("statements", "requires") if name in row
    }
    lists |= {name: tuple(row[name]) for name in ("imperfect", "seeds") if isinstance(row.get(name), list)}
    return Claim(slug, **{**row, **lists})


def _statements(where: str, key: str, rows: Any) -> tuple[Statement, ...]:
    if not isinstance(rows, list):
        raise _refused(where, key, "a list of tables", rows)
    for number, row in enumerate(rows, 1):
        _check_keys(_place(where, key, number), row, Statement)
    return tuple(Statement(**row) for row in rows)


def _check_keys(where: str, row: Any, kind: Any, given: Sequence[str] = ()) -> None:
    """Refuse what is no table, unknown keys, and a table that lacks a key without a default."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a table of keys and values, got {row!r}")
    known = {f.name: f.default is MISSING for f in fields(kind) if f.name not in given}
    for key in row:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, known)}")
    for key, required in known.items():
        if required and key not in row:
            raise InputError(f"{where}: {key}: is missing")


def _check_claim(claim: Claim) -> None:
    """Refuse whatever is wrong that shows without reading the source of the claim's methods."""
    where = f"claim {claim.slug}"
    for key in ("says", "data", "task"):
        _check_text(where, key, getattr(claim, key))
    _check_known(where, "task", catalogue.task_source, claim.task)
    _check_seeds(where, claim.seeds)
    _check_imperfect(where, claim.imperfect)
    _check_named(where, "settings", {} if claim.settings is None else claim.settings)
    _check_arms(where, claim)
    _check_tuning(where, claim)
    if not claim.statements:
        raise InputError(f"{where}: statements: expected at least one, got none")
    _check_statements(where, "statements", claim.statements, claim.arms)
    _check_statements(where, "requires", claim.requires, claim.arms, REFERENCES)


def _check_seeds(where: str, seeds: Any) -> None:
    if not isinstance(seeds, tuple):
        if not _is_number(seeds, numbers.Integral) or not 1 <= seeds <= TUNING_SEED:
            raise _refused(where, "seeds", f"a whole number from 1 to {TUNING_SEED}", seeds)
        return
    whole = all(_is_number(seed, numbers.Integral) and 0 <= seed < TUNING_SEED for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise _refused(where, "seeds", f"different whole numbers from 0 to {TUNING_SEED - 1}", list(seeds))


def _check_arms(where: str, claim: Claim) -> None:
    _check_named(where, "arms", claim.arms)
    if not claim.arms:
        raise InputError(f"{where}: arms: expected at least one, got none")
    for label, arm in claim.arms.items():
        at = f"{where}: arm {label}"
        if label in REFERENCES:
            raise InputError(f"{at}: is the name of a reference ({REFERENCES[label]}); choose another")
        _check_named(where, f"arm {label}", arm)
        for key in arm:
            if key not in ARM_KEYS:
                raise InputError(f"{at}: {unknown('key', key, ARM_KEYS)}")
        _check_text(at, "method", arm.get("method"))
        _check_known(at, "method", catalogue.method_source, arm["method"])
        _check_text(at, "data", arm.get("data", claim.data))
        _check_imperfect(at, arm.get("imperfect", ()))
        for key in ("arguments", "settings"):
            _check_named(at, key, arm.get(key, {}))


def _check_tuning(where: str, claim: Claim) -> None:
    """Refuse values to try that are none, that are given as well, or that are more for one arm than for another."""
    check_space(f"{where}: tune", {} if claim.tune is None else claim.tune)
    trials = {}
    for label, arm in claim.arms.items():
        at = f"{where}: arm {label}: tune"
        check_space(at, arm.get("tune", {}))
        fixed = {**(claim.settings or {}), **arm.get("settings", {}), **arm.get("arguments", {})}
        for name in claim.space(label):
            if name in fixed:
                raise InputError(f"{at}: {name}: is both fixed ({fixed[name]}) and tuned; leave out one of them")
        trials[label] = number_of_trials(claim.space(label))
    if len(set(trials.values())) > 1:
        counts = ", ".join(f"{label} {count}" for label, count in trials.items())
        raise InputError(f"{where}: tune: expected as many trials for every arm, got {counts}")
    for key in ("by", "best"):
        value = getattr(claim, key)
        if value is None:
            continue
        _check_text(where, key, value)
        if not claim.spaces:
            raise InputError(f"{where}: {key}: expected nothing, since nothing is tuned (tune), got {value!r}")
    if claim.best is not None and claim.by is None:
        raise InputError(f"{where}: best: expected the figure that it is of (by), got none")
    if claim.best not in (None, *BEST):
        raise InputError(f"{where}: best: {unknown('side', claim.best, BEST)}")


def _check_statements(
    where: str, key: str, statements: Sequence[Statement], arms: Iterable[str], references: Iterable[str] = ()
) -> None:
    """Refuse statements that say, weigh or expect nothing that there is, or that say the same.

    Args:
        where: what the message names.
        key: of the claim: "statements" or "requires".
        statements: of that key.
        arms: of the claim.
        references: what may stand in `of` besides, by itself or as "REFERENCE:ARM".
    """
    arms, seen = list(arms), set()
    kind, known = "arm or reference" if references else "arm", [*arms, *references]
    for number, statement in enumerate(statements, 1):
        at = _place(where, key, number)
        _check_text(at, "says", statement.says)
        _check_text(at, "metric", statement.metric)
        if (statement.says, statement.metric) in seen:  # a page names a statement by both
            raise InputError(f"{at}: says: another says the same of {statement.metric}: {statement.says!r}")
        seen.add((statement.says, statement.metric))
        _check_named(at, "of", statement.of)
        if not statement.of:
            raise InputError(f"{at}: of: expected the weight of at least one arm, got none")
        for name, weight in statement.of.items():
            reference, of_one_arm, arm = name.partition(":")
            if of_one_arm and reference in references and name not in arms:
                if arm not in arms:
                    raise InputError(f"{at}: of: {reference}: {unknown('arm', arm, arms)}")
            elif name not in known:
                raise InputError(f"{at}: of: {unknown(kind, name, known)}")
            if not _is_number(weight) or not weight:
                raise _refused(at, f"of: {name}", "a finite number other than 0", weight)
        if statement.expect not in SIDES:
            raise InputError(f"{at}: expect: {unknown('side', statement.expect, SIDES)}")
        if not _is_number(statement.margin):
            raise _refused(at, "margin", "a finite number", statement.margin)


def _place(where: str, key: str, number: int) -> str:
    return f"{where}: {'statement' if key == 'statements' else 'requirement'} {number}"


def _check_text(where: str, key: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _refused(where, key, "a text", value)


def _check_known(where: str, key: str, find: Callable[[str], Any], name: str) -> None:
    try:
        find(name)
    except InputError as error:
        raise InputError(f"{where}: {key}: {error}") from error


def _check_imperfect(where: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise _refused(where, "imperfect", "a list of texts", value)


def _check_named(where: str, key: str, value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _refused(where, key, "a table of names and values", value)


def _is_number(value: Any, kind: Any = numbers.Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _refused(where: str, key: str, expected: str, value: Any) -> InputError:
    got = "nothing" if value is None else repr(value)
    return InputError(f"{where}: {key}: expected {expected}, got {got}")


def read(folder: Path, claim: Claim) -> dict[str, Any] | None:
    """A claim's record, with `stale`: whether its code or declaration has changed since; `None` without one.

    Raises:
        InputError: for a file that is no record.
    """
    path = folder / f"{claim.slug}.json"
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not {"verdict", "code", "statements"} <= record.keys():
        raise InputError(f"{path}: is no record of a claim; move it away")
    return {**record, "stale": record["code"] != claim.code()}


def last_result(claim: Claim) -> dict[str, Any] | None:
    """The newest record at hand: of this folder if it has one, or else the one that came with the library."""
    for folder in (RESULTS, PACKAGE.parents[1] / RESULTS, PACKAGE / "results"):
        record = read(folder, claim)
        if record is not None:
            return record
    return None


def expectation(statement: Mapping[str, Any]) -> str:
    """The side and the bound that a recorded statement expects of its figure without the margin.

    Examples:
        >>> expectation({"of": {"a": 1, "b": -1}, "expect": "above", "margin": 0})
        'above 0'
        >>> expectation({"of": {"a": 1, "b": -1}, "expect": "above", "margin": 0.01})
        'above -0.01 (at most 0.01 worse)'
        >>> expectation({"of": {"start": 1}, "expect": "above", "margin": -0.9})
        'above 0.9'
    """
    expect, margin = statement["expect"], statement.get("margin", 0)
    if not margin:
        return f"{expect} 0"
    bound = f"{expect} {-margin}"
    if abs(sum(statement["of"].values())) > 1e-9:  # no difference, so that nothing is better or worse
        return bound
    slack = margin if expect == "above" else -margin
    return f"{bound} ({f'at most {slack} worse' if slack > 0 else f'better by more than {-slack}'})"


def _figures(statement: Mapping[str, Any]) -> list[str]:
    """A recorded statement's figure and the two ends of its interval, if it has one, all without the margin."""
    ends = [statement[name] for name in ("mean", "low", "high")]
    return [f"{end - statement.get('margin', 0):+.4f}" for end in ends if end is not None]


def power_text(statement: Mapping[str, Any]) -> str:
    """What an inconclusive statement could have shown, as far as its record knows; "" for any other verdict.

    Args:
        statement: of a record; one of an earlier version knows nothing of it.

    Examples:
        >>> shown = {"verdict": "inconclusive", "detectable": 0.0123, "unit": 0.01, "needed": 8}
        >>> power_text(shown)
        '80 % power for a difference of 0.0123, 0.01 needs 8 seeds'
        >>> power_text({**shown, "needed": None})
        '80 % power for a difference of 0.0123, no number of seeds shows 0.01 on these test items'
        >>> power_text({"verdict": "inconclusive"}), power_text({**shown, "verdict": "confirmed"})
        ('', '')
    """
    if statement["verdict"] != INCONCLUSIVE or "detectable" not in statement:
        return ""
    text = f"80 % power for a difference of {statement['detectable']:.4f}"
    if "needed" not in statement:
        return text
    unit, needed = statement["unit"], statement["needed"]
    if needed is None:
        return f"{text}, no number of seeds shows {unit:g} on these test items"
    return f"{text}, {unit:g} needs {needed:,} seeds"


def verdict_text(record: Mapping[str, Any]) -> str:
    """The verdict of a record; where it is out of regime, with the figures of the requirements that do not hold.

    Examples:
        >>> floor = {"says": "a floor", "of": {"a": 1}, "expect": "above", "margin": -0.5, "mean": -0.25}
        >>> failed = {**floor, "low": None, "high": None, "verdict": "does not hold"}
        >>> verdict_text({"verdict": "out of regime", "requires": [failed]})
        'out of regime: a floor: +0.2500, required above 0.5'
        >>> verdict_text({"verdict": "confirmed"})
        'confirmed'
    """
    failed = [one for one in record.get("requires", ()) if one["verdict"] == "does not hold"]
    if record["verdict"] != OUT_OF_REGIME or not failed:
        return record["verdict"]
    figures = (f"{one['says']}: {_figures(one)[0]}, required {expectation(one)}" for one in failed)
    return f"{OUT_OF_REGIME}: {'; '.join(figures)}"


def _over(statement: Mapping[str, Any]) -> str:
    """What a recorded interval does not cover; "" where it covers all, or decides nothing (as of a requirement)."""
    decides = statement["low"] is not None and statement["verdict"] in ("confirmed", "refuted", INCONCLUSIVE)
    return ", seeds alone" if decides and not statement.get("items") else ""


def statement_line(statement: Mapping[str, Any], word: str = "expected") -> str:
    """A recorded statement in one line: figure, interval, what was expected, verdict, and what it could have shown.

    Args:
        statement: of a record.
        word: before what is expected; "required" suits a requirement.
    """
    figure, *ends = _figures(statement)
    interval = f" [{', '.join(ends)}{_over(statement)}]" if ends else ""
    outcome = "; ".join(filter(None, [statement["verdict"], power_text(statement)]))
    return f"  {statement['says']}: {figure}{interval}, {word} {expectation(statement)}: {outcome}"


def tuning_text(spaces: Mapping[str, Space], by: str | None, best: str | None) -> str:
    """Which values were tried for which arms, and what chose among them; "" where nothing is tuned.

    Args:
        spaces: of each arm, as `Claim.spaces`.
        by: the figure that chooses; `None` for the task's main metric.
        best: which of its values is the best; `None` for what is better in the task.

    Examples:
        >>> tuning_text({"a": {"lr": [0.001, 0.01]}, "b": {"lr": [0.001, 0.01]}}, None, None)
        "2 trials an arm with seed 100, chosen by the task's main metric; lr: 0.001, 0.01"
    """
    if not spaces:
        return ""
    arms_of: dict[str, list[str]] = {}
    for arm, space in spaces.items():
        arms_of.setdefault(space_text(space), []).append(arm)
    if len(arms_of) == 1:
        tried = next(iter(arms_of))
    else:
        tried = "; ".join(f"{', '.join(arms)}: {text}" for text, arms in arms_of.items())
    chosen = f"the {best} {by}" if best else by or "the task's main metric"
    trials = number_of_trials(next(iter(spaces.values())))
    return f"{trials} trials an arm with seed {TUNING_SEED}, chosen by {chosen}; {tried}"


def chosen_text(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """What tuning chose for each arm of a record, and how long all trials took; "" where nothing is tuned.

    Examples:
        >>> chosen_text({"a": {"arguments": {"lr": 0.01}, "settings": {}, "seconds": 60.0}})
        'a: lr = 0.01; 60 seconds for all trials'
    """
    if not chosen:
        return ""
    arms = []
    for label, found in chosen.items():
        values = {**found["arguments"], **found["settings"]}
        arms.append(f"{label}: " + ", ".join(f"{name} = {value}" for name, value in values.items()))
    return "; ".join([*arms, f"{sum(found['seconds'] for found in chosen.values()):.0f} seconds for all trials"])


def ledger_page(
    claims: Sequence[Claim], records: Sequence[dict[str, Any] | None], shown: Mapping[str, Iterable[str]]
) -> str:
    """The ledger as Markdown.

    Args:
        claims: in the order of the page.
        records: what came out of each, `None` where it was not run yet.
        shown: of each task, the metrics that its tables show; an arm's row has them beside those of the statements.
    """
    lines = [
        "# Claims",
        "",
        "Each paper's central claim as an experiment that was declared before it was run. A statement is confirmed",
        "where the 95 % interval of its figure lies on the expected side of 0, or of the bound that it names, refuted",
        f"where it lies on the other, and inconclusive otherwise. {WRITTEN_BY}",
        "Intervals are over seeds and test items together; those of figures that are no mean over test items, and of",
        "records that do not know them, are over the seeds alone. An inconclusive statement says which difference from",
        "its bound these seeds and items show in 80 % of cases, and how many seeds a difference of one point (0.01; of",
        "a figure that is no share, 1) needs. Out of regime: what the claim requires did not hold by its mean over the",
        "seeds, so that its statements are not judged, neither confirmed nor refuted. Verified: the code has changed",
        "since that date, and on the other one a few steps of every arm, or the whole first seed, gave what they gave.",
        "[How a claim is declared](../claims.md).",
        "",
        "| paper | verdict | seeds | date | command |",
        "|---|---|---|---|---|",
    ]
    for claim, record in zip(claims, records, strict=True):
        state, date = "not run yet", ""
        if record:
            state, date = verdict_text(record), record["date"]
            date += f", verified {record['verified']}" if "verified" in record else ""
            state += " (stale: the code has changed since)" if record["stale"] else ""
        name = f"[{claim.slug}](../papers/{claim.slug}.md)"
        seeds = ", ".join(map(str, claim.seeds)) if isinstance(claim.seeds, tuple) else claim.seeds
        lines.append(f"| {name} | {state} | {seeds} | {date} | `counterpoise claim {claim.slug}` |")
    for claim, record in zip(claims, records, strict=True):
        if record:
            lines += _section(record, list(shown.get(claim.task, ())))
    return "\n".join(lines) + "\n"


def _section(record: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """One record of the page: what is claimed, of which data, the statements and the arms."""
    lines = ["", f"## {record['slug']}", "", record["says"], ""]
    lines.append(f"Data: {record['data']}" + "".join(f"; {note}" for note in record["notes"]) + ".")
    tuning = tuning_text(record.get("tune", {}), record.get("by"), record.get("best"))
    lines += ["", f"Tuned: {tuning}."] if tuning else []
    chosen = chosen_text(record.get("chosen", {}))
    lines += ["", f"Chosen: {chosen}."] if chosen else []
    required, statements = record.get("requires", []), record["statements"]
    lines += _statement_table("required first", "required", required) if required else []
    lines += _statement_table("statement", "expected", statements)
    metrics = list(dict.fromkeys(s["metric"] for s in [*statements, *required]))
    metrics += [name for name in shown if name not in metrics and any(name in arm for arm in record["arms"].values())]
    lines += ["", "| arm | " + " | ".join(metrics) + " | seconds |", "|---" * (len(metrics) + 2) + "|"]
    for label, arm in record["arms"].items():
        cells = [f"{arm[name]['mean']:.4f}" if name in arm else "—" for name in metrics]
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {arm['seconds']:.0f} |")
    return lines


def _statement_table(title: str, word: str, statements: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", f"| {title} | figure | 95 % interval | {word} | verdict |", "|---|---|---|---|---|"]
    for s in statements:
        figure, *ends = _figures(s)
        span = f"{' to '.join(ends)}{_over(s)}" if ends else "—"
        outcome = "; ".join(filter(None, [s["verdict"], power_text(s)]))
        lines.append(f"| {s['says']} ({s['metric']}) | {figure} | {span} | {expectation(s)} | {outcome} |")
    return lines
