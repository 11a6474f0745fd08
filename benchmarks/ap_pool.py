"""Average precision of 100,000 detections: time against pycocotools, which gives the same figure.

Reading files and building indices does not count. Exits with status 1 where ours is less than 3 times as fast, or
another figure: `python -m benchmarks.ap_pool`.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measuring import machine_line, markdown_table, repeat, write_results
from counterpoise.measure.ap_pool import ap_pool
from counterpoise.measure.average_precision import ap_image_cap
from counterpoise.measure.detection import Detections, Truth

FOUND, CAP, LEAST, TURNS = 100_000, 100, 3, 5
IMAGES = 1000
FORMS = {"300 categories": (300, 10), "80 categories": (80, 8), "1 category": (1, 20)}  # and objects in an image


def make(classes: int, per_image: int) -> tuple[Detections, Truth]:
    """Objects, a third of the detections around them, and the rest anywhere."""
    rng = np.random.default_rng(0)

    def boxes(n: int) -> np.ndarray:
        return np.column_stack([rng.uniform(0, 500, (n, 2)), rng.uniform(10, 150, (n, 2))])

    objects = IMAGES * per_image
    truth = Truth(rng.integers(IMAGES, size=objects), rng.integers(classes, size=objects), boxes(objects))
    assert truth.boxes is not None
    near = rng.integers(objects, size=FOUND // 3)
    around = truth.boxes[near] + rng.normal(0, 6, (len(near), 4))
    far = FOUND - len(near)
    found = Detections(
        np.concatenate([truth.images[near], rng.integers(IMAGES, size=far)]),
        np.concatenate([truth.labels[near], rng.integers(classes, size=far)]),
        rng.random(FOUND),
        np.concatenate([np.abs(around), boxes(far)]),
    )
    return found, truth


def as_coco(found: Detections, truth: Truth) -> tuple[Any, Any]:
    """The same for pycocotools."""
    assert found.boxes is not None
    assert truth.boxes is not None
    objects = (truth.images.tolist(), truth.labels.tolist(), truth.boxes.tolist())
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(IMAGES)],
        "categories": [{"id": c} for c in range(int(found.labels.max()) + 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, label, box) in enumerate(zip(*objects, strict=True), start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        columns = (found.images.tolist(), found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
        names = ("image_id", "category_id", "score", "bbox")
        return coco, coco.loadRes([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])


def theirs(coco: Any, results: Any) -> float:
    """pycocotools' AP, of all sizes alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(coco, results, "bbox")
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [CAP], [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    return float(precision[precision > -1].mean())


def compare(classes: int, per_image: int) -> tuple[dict[str, float], float, float]:
    """Median seconds of each; the median of pycocotools' over ours, taken in turn; how far the figures are apart."""
    found, truth = make(classes, per_image)
    coco, results = as_coco(found, truth)
    calls: dict[str, Callable[[], Any]] = {
        "pycocotools": lambda: theirs(coco, results),
        "ours": lambda: ap_image_cap(found, truth, CAP, per_class=True).value,
        "AP-Pool": lambda: ap_pool(found, truth),
    }
    apart = abs(calls["pycocotools"]() - calls["ours"]())
    turns = [{name: repeat(call, 1, warmup=0)[0] for name, call in calls.items()} for _ in range(TURNS)]
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in calls}
    return seconds, statistics.median(turn["pycocotools"] / turn["ours"] for turn in turns), apart


def main() -> None:
    """Compare, write the results and judge them."""
    measured = {name: compare(*form) for name, form in FORMS.items()}
    ratios = {name: ratio for name, (_, ratio, _) in measured.items()}
    apart, least = max(apart for *_, apart in measured.values()), min(ratios.values())
    columns = list(next(iter(measured.values()))[0])
    table = [
        [name, *(f"{seconds[column]:.2f} s" for column in columns), f"{ratio:.1f}×"]
        for name, (seconds, ratio, _) in measured.items()
    ]
    page = [
        "# Average precision: speed",
        "",
        f"{FOUND:,} detections in {IMAGES:,} images: ordinary AP of the best {CAP} of each category in each image; and",
        f"AP-Pool. One thread, the median of {TURNS} turns. Our ordinary AP and that of pycocotools differ by",
        f"{apart:.0e} at most. Written by `python -m benchmarks.ap_pool`.",
        "",
        machine_line(),
        "",
        markdown_table(["", *columns, "pycocotools over ours"], table),
        "",
        f"Target: at least {LEAST}× as fast everywhere: {'reached' if least >= LEAST else '**missed**'}.",
    ]
    seconds = {name: seconds for name, (seconds, *_) in measured.items()}
    write_results("ap_pool", {"seconds": seconds, "as_fast": ratios, "apart": apart}, "\n".join(page))
    sys.exit(0 if least >= LEAST and apart < 1e-6 else 1)


if __name__ == "__main__":
    main()
