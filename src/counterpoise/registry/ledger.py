"""The ledger: which claims are declared, what came out of them, and whether the code has changed since.

A claim is declared in `claims.toml`: arms (a method with arguments and settings), seeds, and statements. A statement
is a weighted sum of one metric over arms, taken seed by seed, and the side of 0 on which its 95 % interval is expected.
Nothing here imports torch, so that `counterpoise show` answers at once.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from counterpoise.errors import InputError
from counterpoise.files import read_json
from counterpoise.registry import catalogue
from counterpoise.registry.fingerprint import fingerprint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).parents[1]
DECLARED = Path(__file__).with_name("claims.toml")
RESULTS = Path("results/claims")
WRITTEN_BY = "Written by `counterpoise claim --all --report`."


@dataclass(frozen=True)
class Statement:
    """A figure and what is expected of it.

    Args:
        says: in words.
        metric: a metric, a diagnostic of the method, or "head", "medium" or "tail" for the accuracy of that group.
        of: the weight of each arm; {"dcl": 1, "simclr": -1} is the paired difference.
        expect: "above" or "below" 0.
    """

    says: str
    metric: str
    of: dict[str, float]
    expect: str = "above"


@dataclass(frozen=True)
class Claim:
    """A declared experiment."""

    slug: str
    says: str
    data: str
    seeds: int
    arms: dict[str, dict[str, Any]]
    statements: tuple[Statement, ...]
    imperfect: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None
    task: str = "pretrain"

    @property
    def words(self) -> str:
        """What it says, on one line."""
        return " ".join(self.says.split())

    def code(self) -> str:
        """Changes with the declaration, and with the code that the result stands on."""
        modules = [catalogue.method_source(arm["method"])[0] for arm in self.arms.values()]
        declared = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(
            (declared + fingerprint([*modules, catalogue.task_source(self.task)])).encode()
        ).hexdigest()[:16]


@cache
def declared() -> dict[str, Claim]:
    """All claims, by slug."""
    text = DECLARED.read_text(encoding="utf-8")
    return {
        slug: Claim(
            slug,
            **{
                **row,
                "imperfect": tuple(row.get("imperfect", ())),
                "statements": tuple(Statement(**statement) for statement in row["statements"]),
            },
        )
        for slug, row in tomllib.loads(text).items()
    }


def read(folder: Path, claim: Claim) -> dict[str, Any] | None:
    """A claim's record, with `stale` telling whether its code or declaration has changed since; `None` without one.

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


def told(statement: dict[str, Any]) -> str:
    """One statement in a line: figure, interval, verdict."""
    figure = f"{statement['mean']:+.4f}"
    if statement["low"] is not None:
        figure += f" [{statement['low']:+.4f}, {statement['high']:+.4f}]"
    return f"  {statement['says']}: {figure}, expected {statement['expect']} 0: {statement['verdict']}"


def ledger_page(claims: Sequence[Claim], records: Sequence[dict[str, Any] | None]) -> str:
    """The ledger as Markdown."""
    lines = [
        "# Claims",
        "",
        "Each paper's central claim as an experiment that was declared before it was run. A statement is confirmed",
        "where the 95 % interval of its figure over the seeds lies on the expected side of 0, refuted where it lies on",
        f"the other, and inconclusive otherwise. {WRITTEN_BY} Verified: the code has",
        "changed since that date, and on the other one gave the same figures, to the last digit, for the first seed.",
        "",
        "| paper | verdict | seeds | date | command |",
        "|---|---|---|---|---|",
    ]
    for claim, record in zip(claims, records, strict=True):
        state, date = "not run yet", ""
        if record:
            state, date = record["verdict"], record["date"]
            date += f", verified {record['verified']}" if "verified" in record else ""
            state += " (stale: the code has changed since)" if record["stale"] else ""
        name = f"[{claim.slug}](../papers/{claim.slug}.md)"
        lines.append(f"| {name} | {state} | {claim.seeds} | {date} | `counterpoise claim {claim.slug}` |")
    for record in filter(None, records):
        lines += ["", f"## {record['slug']}", "", record["says"], ""]
        lines.append(f"Data: {record['data']}" + "".join(f"; {note}" for note in record["notes"]) + ".")
        lines += ["", "| statement | figure | 95 % interval | expected | verdict |", "|---|---|---|---|---|"]
        for s in record["statements"]:
            span = "—" if s["low"] is None else f"{s['low']:+.4f} to {s['high']:+.4f}"
            lines.append(
                f"| {s['says']} ({s['metric']}) | {s['mean']:+.4f} | {span} | {s['expect']} 0 | {s['verdict']} |"
            )
        metrics = list(dict.fromkeys(s["metric"] for s in record["statements"]))
        usual = [m for m in ("knn", "linear", "effective_rank") if any(m in arm for arm in record["arms"].values())]
        shown = [*metrics, *(m for m in usual if m not in metrics)]
        lines += ["", "| arm | " + " | ".join(shown) + " | seconds |", "|---" * (len(shown) + 2) + "|"]
        for label, arm in record["arms"].items():
            cells = [f"{arm[m]['mean']:.4f}" if m in arm else "—" for m in shown]
            lines.append(f"| {label} | " + " | ".join(cells) + f" | {arm['seconds']:.0f} |")
    return "\n".join(lines) + "\n"
