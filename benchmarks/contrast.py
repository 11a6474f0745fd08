"""The methods of the contrast room on three sets of images, with the same backbone, views and budget: which one helps?

`python -m benchmarks.contrast` writes docs/results/contrast.{md,json,png}. What was run before by the same code is not
run again. Baseline is SimCLR; raw pixels stand beside as what no training is needed for.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measuring import RESULTS, machine_line, markdown_table, write_results
from counterpoise import compare
from counterpoise.comparison import parse_arms
from counterpoise.measure import accuracy, interval, knn_predict
from counterpoise.report import answer
from counterpoise.tasks.images import NEIGHBOURS, check
from counterpoise.tasks.runs import Run, Settings

APART = ("diti", "genview")  # first train a diffusion model, for minutes; they have claims of their own
# The pretext task, not ScatSimCLR's own contrast, takes two thirds of its time: it sees each image turned four times.
METHODS = [
    "scatsimclr:pretext=none" if arm.method == "scatsimclr" else arm.label
    for arm in parse_arms(["room:contrast", "cross-entropy"])
    if arm.method not in APART
]
BASELINE, SEEDS, JOBS = "simclr", 4, 2
OUT = Path("counterpoise-out/room-contrast")
PIXELS = "pixels"


class Set(NamedTuple):
    """A set of images, and what of the settings depends on it."""

    title: str
    data: str
    imperfect: tuple[str, ...]
    settings: dict[str, Any]


SETS = [
    Set("Fashion-MNIST, long tail 1:100", "fashion-mnist", ("random-tail=100",), {"epochs": 6}),
    Set("Glyphs, 200 classes", "glyphs:classes=200", (), {"epochs": 6, "augmentations": "crop=0.3,jitter"}),
    Set("MNIST, a quarter", "mnist", ("fewer=0.25",), {"epochs": 6, "augmentations": "crop=0.3,jitter"}),
]
COMMON = {"batch_size": 128, "device": "cpu"}


def compared(one: Set) -> dict[str, Any]:
    """The comparison on one set, without what only its report needs."""
    folder = OUT / one.data.replace(":", "-")
    found = compare(
        METHODS,
        one.data,
        imperfect=one.imperfect,
        seeds=SEEDS,
        baseline=BASELINE,
        jobs=JOBS,
        out=str(folder),
        **COMMON,
        **one.settings,
    )
    kept = ("label", "title", "labels", "summary", "difference")
    return {
        "title": one.title,
        "command": found["command"],
        "notes": found["data"]["notes"],
        "images": found["data"]["sizes"],
        "answer": answer(found),
        "methods": [
            {name: row[name] for name in kept}
            | {"failed": [run["error"] for run in row["runs"] if run["status"] != "done"]}
            for row in found["methods"]
        ],
        PIXELS: pixels(one),
    }


def pixels(one: Set) -> dict[str, Any]:
    """The kNN accuracy of raw pixels, over the same seeds."""
    values = []
    for seed in range(SEEDS):
        _, probe, test = check(Run(BASELINE, one.data, seed, {}, one.imperfect, Settings(**COMMON, **one.settings)))
        flat, known = (images.pixels.flatten(1).float() for images in (test, probe))
        values.append(accuracy(knn_predict(known, probe.labels, flat, len(test.classes), NEIGHBOURS), test.labels))
    return asdict(interval(values))


def told(found: dict[str, Any] | None, sign: bool = False) -> str:
    """A share in percent with half of its interval; as a difference, with the whole of it."""
    if found is None:
        return "—"
    mean, low, high = (100 * found[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if sign else f"{mean:.1f} ± {(high - low) / 2:.1f}"


def verdict(row: dict[str, Any]) -> str:
    """Whether a method is better or worse than the baseline by kNN accuracy."""
    found = (row["difference"] or {}).get("knn")
    if found is None:
        return "baseline" if row["difference"] is None else "failed"
    return "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "—"


def overview(sets: list[dict[str, Any]]) -> str:
    """One row a method: better or worse than the baseline on which sets."""
    labels = [row["label"] for row in sets[0]["methods"]]
    of = [{row["label"]: row for row in one["methods"]} for one in sets]
    rows = [[name(of[0][label]), *(verdict(rows[label]) for rows in of)] for label in labels]
    return markdown_table(["method", *(one["title"] for one in sets)], rows)


def name(row: dict[str, Any]) -> str:
    """A method's label, linked to its page where it has one, and with a star where it reads labels."""
    slug = row["label"].partition(":")[0]
    page = RESULTS.parent / "papers" / f"{slug}.md"
    label = f"[{row['label']}](../papers/{slug}.md)" if page.exists() else row["label"]
    return label + ("\\*" if row["labels"] else "")


def section(one: dict[str, Any]) -> str:
    """A set's table, the best method first."""
    rows = sorted(one["methods"], key=lambda row: -row["summary"].get("knn", {"mean": 0})["mean"])
    cells = [
        [
            name(row),
            *(told(row["summary"].get(metric)) for metric in ("knn", "linear", "balanced")),
            told((row["difference"] or {}).get("knn"), sign=True),
            f"{row['summary']['seconds']['mean']:.0f}" if row["summary"] else "—",
        ]
        for row in rows
    ]
    cells.append(["raw pixels", told(one[PIXELS]), *["—"] * 4])
    headings = ["method", "kNN %", "linear %", "balanced %", f"kNN less {BASELINE}'s", "s"]
    failed = [f"{row['label']} failed: {row['failed'][0]}" for row in rows if row["failed"]]
    images = one["images"]
    return "\n\n".join(
        [
            f"## {one['title']}",
            f"{images['train']:,} images to learn from and {images['test']:,} to be judged by with seed 0: "
            f"{'; '.join(one['notes'])}.",
            one["answer"],
            markdown_table(headings, cells),
            *failed,
            f"`{one['command']}`",
        ]
    )


def page(sets: list[dict[str, Any]]) -> str:
    """The page of all sets."""
    compared_with = len(sets[0]["methods"]) - 1
    by_chance = 0.05 * compared_with * len(sets)
    return "\n\n".join(
        [
            "# The contrast room: which method should I use?",
            f"Each method with its own defaults, on the same backbone, views, batches of {COMMON['batch_size']} and "
            f"epochs; {SEEDS} seeds, which decide the data's order and imperfection, the weights and the views. "
            "± and brackets are 95 % intervals over the seeds, of differences paired by seed. "
            f'"Better" and "worse" than {BASELINE} is said where that interval of the kNN accuracy leaves zero out; '
            f"of {compared_with} × {len(sets)} comparisons, about {by_chance:.0f} would do so by chance alone. "
            "\\* reads the labels of the training images. "
            f"{' and '.join(APART)} are left out: they train a diffusion model first. "
            "Budgets are small and backbones tiny: it is a first answer, for sets of a few thousand small images.",
            overview(sets),
            "![Differences in kNN accuracy, with their intervals](contrast.png)",
            *map(section, sets),
            f"{machine_line()} `python -m benchmarks.contrast`",
        ]
    )


def draw(sets: list[dict[str, Any]], path: Path) -> None:
    """The paired differences of each set in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(sets), figsize=(11, 5.5), sharey=True, layout="constrained")
    for panel, one in zip(panels, sets, strict=True):
        rows = [row for row in reversed(one["methods"]) if row["label"] != BASELINE]
        panel.axvline(0, color="0.6", linewidth=1)
        for place, row in enumerate(rows):
            if found := (row["difference"] or {}).get("knn"):
                colour = {"better": "tab:green", "worse": "tab:red"}.get(verdict(row), "0.35")
                panel.plot([100 * found["low"], 100 * found["high"]], [place] * 2, color=colour, linewidth=2)
                panel.plot(100 * found["mean"], place, "o", color=colour, markersize=5)
        panel.set_yticks(range(len(rows)), [row["label"] + "*" * row["labels"] for row in rows])
        panel.set_title(one["title"], fontsize=10)
        panel.set_xlabel(f"kNN accuracy less {BASELINE}'s, points")
        panel.grid(axis="x", color="0.9")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Compare, and write the page."""
    torch.set_num_threads(1)
    sets = [compared(one) for one in SETS]
    draw(sets, RESULTS / "contrast.png")
    write_results("contrast", {"sets": sets}, page(sets))


if __name__ == "__main__":
    main()
