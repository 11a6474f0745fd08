"""Made-up results with the shape of real ones: what compare writes, without having to train for it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from counterpoise.data.strips import write_strips
from counterpoise.report import write_report

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
METRICS = {
    "knn": {
        "title": "kNN accuracy",
        "better": "higher",
        "percent": True,
        "meaning": "whether the nearest labelled images of a test image are of its class",
    },
    "linear": {"title": "Linear probe", "better": "higher", "percent": True},
    "balanced": {"title": "Balanced accuracy", "better": "higher", "percent": True},
    "few_shot": {"title": "Few-shot probe", "better": "higher", "percent": True},
    "alignment": {"title": "Alignment", "better": "lower", "percent": False},
    "uniformity": {"title": "Uniformity", "better": "lower", "percent": False},
    "effective_rank": {"title": "Effective rank", "better": "higher", "percent": False},
}
STRENGTH = {"simclr": 0.0, "dcl:temperature=0.5": 0.021, "cacr": 0.004, "moco": -0.018}
TITLES = {"simclr": "SimCLR", "dcl": "Decoupled Contrastive Learning", "cacr": "Contrastive Attraction and Repulsion"}
T_95 = {2: 12.706, 3: 4.303, 5: 2.776}


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and t interval; no interval for one value."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    half = T_95[n] * float(np.std(values, ddof=1)) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def run(label: str, seed: int, epochs: int, classes: int) -> dict[str, Any]:
    """One finished run; its numbers depend on the method and the seed only."""
    rng = np.random.default_rng([seed, sum(map(ord, label))])
    knn = 0.78 + STRENGTH.get(label, 0.0) + 0.012 * (seed - 1) + 0.002 * rng.standard_normal()
    others = {"linear": knn + 0.03, "balanced": knn - 0.06, "few_shot": knn - 0.11}
    rank = 31.0 + 300 * STRENGTH.get(label, 0.0) + rng.standard_normal()
    collapsed = label == "moco" and seed == 2
    curve = []
    for epoch in range(1, epochs + 1):
        grown = 1 - math.exp(-epoch / 3)
        noise = 0.004 * rng.standard_normal()
        curve.append(
            {
                "epoch": epoch,
                "loss": (3.1 if label == "moco" else 5.5) - 1.8 * grown + noise,
                "knn": None if epoch == 1 and epochs > 1 else 0.45 + (knn - 0.45) * grown + noise,
                "effective_rank": 8 + (rank - 8) * grown,
                "uniformity": -1.2 - 1.6 * grown + noise,
            }
        )
    accuracies = np.clip(knn + 0.12 - 0.024 * np.arange(classes) * 10 / classes, 0, 1)
    accuracies = np.clip(accuracies + 0.05 * rng.standard_normal(classes), 0, 1)
    third = max(classes // 3, 1)
    groups = {"head": accuracies[:third], "medium": accuracies[third:-third], "tail": accuracies[-third:]}
    of_its_own = {"tau_positive": 0.071 + 0.002 * seed, "tau_negative": 0.3} if label.startswith("dcl") else {}
    return {
        "seed": seed,
        "status": "done",
        "diagnostics": {"wrong_learnt": 0.25 - STRENGTH.get(label, 0.0) + 0.01 * seed, **of_its_own},
        "metrics": {
            "knn": knn,
            **others,
            "alignment": 0.42 - STRENGTH.get(label, 0.0),
            "uniformity": -2.7 - 3 * STRENGTH.get(label, 0.0) + 0.02 * rng.standard_normal(),
            "effective_rank": rank,
        },
        "groups": {name: float(values.mean()) if len(values) else None for name, values in groups.items()},
        "per_class": [float(value) for value in accuracies],
        "seconds": 61.3 + 4 * rng.random(),
        "memory_mb": 512.0 + 20 * rng.random(),
        "parameters": 123456,
        "curve": curve,
        "warnings": ["dimensional collapse: effective rank 3.1 of 128"] if collapsed else [],
        "folder": f"runs/{label.replace(':', '-').replace('=', '-')}-{seed}",
    }


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Fill in each method's summary and its paired difference to the baseline from its runs."""
    done = {m["label"]: {r["seed"]: r for r in m["runs"] if r["status"] == "done"} for m in results["methods"]}
    reference = done[results["baseline"]]
    for method in results["methods"]:
        runs = done[method["label"]]
        method["summary"] = {
            name: interval([r["metrics"][name] for r in runs.values()]) for name in results["metrics"] if runs
        }
        for name in ("seconds", "memory_mb") if runs else ():
            method["summary"][name] = interval([r[name] for r in runs.values()])
        both = sorted(runs.keys() & reference.keys())
        method["difference"] = None
        if both and method["label"] != results["baseline"]:
            method["difference"] = {
                name: interval([runs[s]["metrics"][name] - reference[s]["metrics"][name] for s in both])
                for name in results["metrics"]
            }
    return results


def fake_results(
    methods: tuple[str, ...] = ("simclr", "dcl:temperature=0.5", "cacr", "moco"),
    seeds: int = 3,
    classes: tuple[str, ...] = tuple(CLASSES),
    epochs: int = 10,
    shape: tuple[int, int, int] = (1, 28, 28),
) -> dict[str, Any]:
    """The content of a results.json: long-tailed data, `methods[0]` as the baseline."""
    count = len(classes)
    train = [max(5, round(1000 * 100 ** (-k / max(count - 1, 1)))) for k in range(count)]
    return summarise(
        {
            "counterpoise": "0.1.0",
            "created": "2026-05-04T09:31:07Z",
            "command": "counterpoise compare --task pretrain --data fashion-mnist --imperfect long-tail=100 "
            f"--methods {','.join(methods)} --seeds {seeds}",
            "task": "pretrain",
            "data": {
                "name": "fashion-mnist",
                "classes": list(classes),
                "counts": {"train": train, "probe": [50] * count, "test": [100] * count},
                "notes": ["long tail, ratio 100: 1,000 to 10 images per class", "20 % of the labels are wrong"],
                "shape": list(shape),
            },
            "settings": {
                "epochs": epochs,
                "batch_size": 256,
                "backbone": "small",
                "views": ["crop", "flip"],
                "amp": None,
            },
            "main": "knn",
            "metrics": METRICS,
            "baseline": methods[0],
            "methods": [
                {
                    "label": label,
                    "slug": (slug := label.split(":")[0]),
                    "title": TITLES.get(slug, slug),
                    "labels": slug == "supcon",
                    "arguments": {"temperature": 0.5},
                    "runs": [run(label, seed, epochs, count) for seed in range(seeds)],
                }
                for label in methods
            ],
        }
    )


def fake_galleries(results: dict[str, Any], folder: Path, pixels=None, labels=None, images: int = 80) -> None:
    """A gallery.npz for every finished run: blobs whose place shows the class, features that know it too."""
    count = len(results["data"]["classes"])
    channels, height, width = results["data"]["shape"]
    if pixels is None:
        labels = np.arange(images) % count
        rows, columns = np.mgrid[0:height, 0:width]
        angle = 2 * np.pi * labels / count
        y, x = height * (0.5 + 0.3 * np.sin(angle)), width * (0.5 + 0.3 * np.cos(angle))
        distance = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
        blob = 255 * np.exp(-distance / (2 * (0.12 * height) ** 2))
        pixels = np.repeat(blob[:, None], channels, axis=1).astype(np.uint8)
    centres = np.random.default_rng([0, 1]).standard_normal((count, 32))
    for method in results["methods"]:
        for entry in method["runs"]:
            if entry["status"] == "done":
                rng = np.random.default_rng(entry["seed"])
                blur = 1.1 - 10 * STRENGTH.get(method["label"], 0.0)
                features = centres[labels] + blur * rng.standard_normal((len(labels), 32))
                path = folder / entry["folder"] / "gallery.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, pixels=pixels, labels=labels, features=features.astype(np.float16))


ROBUST = {"simclr": 0.60, "dcl:temperature=0.5": 0.56, "cacr": 0.585, "moco": 0.52}
DECLARED = {
    "shown": {"knn": "kNN %", "linear": "linear %"},
    "curve": {name: METRICS[name] for name in ("knn", "effective_rank", "uniformity")},
    "curve_over": "epoch",
    "families": [],
    "front": ["knn", "robust"],
    "per_class": "knn",
    "groups": {
        "metric": "knn",
        "titles": {"head": "Frequent classes", "medium": "Medium classes", "tail": "Rare classes"},
        "heading": "Who gains: frequent and rare classes",
        "meaning": "Frequent and rare classes have most and fewest training images.",
    },
    "pictures": ["gallery", "strips"],
}


def declare(results: dict[str, Any]) -> dict[str, Any]:
    """What a task declares for the page, and a second metric that is in conflict with the first."""
    robust = {"title": "accuracy under attack", "better": "higher", "percent": True}
    results["metrics"] = results["metrics"] | {"robust": robust}
    for method in results["methods"]:
        for entry in method["runs"]:
            rng = np.random.default_rng([entry["seed"], len(method["label"])])
            entry["metrics"]["robust"] = ROBUST[method["label"]] + 0.006 * rng.standard_normal()
    return summarise(results | DECLARED)


def fake_strips(
    results: dict[str, Any],
    folder: Path,
    rows: list[str] | None = None,
    columns: tuple[str, ...] | list[str] = ("image", "true mask", "prediction"),
    caption: str = "Scenes with three things on a ground, their true mask, and what the method finds.",
    side: int = 48,
) -> None:
    """A strips.npz for every finished run: scenes of discs, their mask, and a mask that misses a little of it."""
    names = [f"scene {i}" for i in (3, 14, 15, 92)] if rows is None else rows
    colours = np.array([[30, 34, 40], [230, 159, 0], [86, 180, 233], [0, 158, 115]], np.uint8)
    y, x = np.mgrid[0:side, 0:side]
    for method in results["methods"]:
        for entry in method["runs"]:
            if entry["status"] != "done":
                continue
            pictures = np.zeros((len(names), 3, 3, side, side), np.uint8)
            for i in range(len(names)):
                rng = np.random.default_rng(i)
                places, sizes = rng.uniform(0.2, 0.8, (3, 2)) * side, rng.uniform(0.08, 0.2, 3) * side
                light = rng.normal(0, 12, (side, side))
                missed = (0.8 + 6 * STRENGTH.get(method["label"], 0.0)) * np.ones(3)
                for column, factor in ((1, np.ones(3)), (2, missed)):
                    mask = np.zeros((side, side), int)
                    for k, ((cy, cx), size, scale) in enumerate(zip(places, sizes, factor, strict=True)):
                        mask[(y - cy) ** 2 + (x - cx) ** 2 < (size * scale) ** 2] = k + 1
                    pictures[i, column] = colours[mask].transpose(2, 0, 1)
                pictures[i, 0] = np.clip(pictures[i, 1] * 0.7 + 40 + light, 0, 255)
            path = folder / entry["folder"] / "strips.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_strips(path, pictures, columns, names, caption)


def fail(results: dict[str, Any], label: str, seeds: tuple[int, ...], error: str) -> dict[str, Any]:
    """Let some runs of a method have failed."""
    for method in results["methods"]:
        if method["label"] == label:
            for i, entry in enumerate(method["runs"]):
                if entry["seed"] in seeds:
                    method["runs"][i] = {"seed": entry["seed"], "status": "failed", "error": error}
    return summarise(results)


@pytest.fixture(scope="session")
def fake():
    return SimpleNamespace(
        results=fake_results,
        galleries=fake_galleries,
        strips=fake_strips,
        declare=declare,
        fail=fail,
        summarise=summarise,
    )


@pytest.fixture(scope="session")
def full_report(tmp_path_factory) -> Path:
    """A report with everything in it: four methods, three seeds, a failed run, a collapsed one, one without strips."""
    folder = tmp_path_factory.mktemp("comparison")
    results = fail(declare(fake_results()), "cacr", (2,), "InputError: loss: is not finite after epoch 4")
    fake_galleries(results, folder)
    fake_strips(results, folder)
    (folder / results["methods"][3]["runs"][0]["folder"] / "strips.npz").unlink()
    return write_report(results, folder, folder / "report.html")


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, offline."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("NOT CHECKED IN A BROWSER: chromium is missing (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="NOT CHECKED IN A BROWSER: playwright is missing")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
