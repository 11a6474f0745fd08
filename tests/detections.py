"""Detections and objects for tests, drawn at random or perfect, and the same as files of COCO and for pycocotools."""

import contextlib
import io
from dataclasses import replace

import numpy as np

from counterpoise.measure.detection import Detections, Truth

ROW = np.array([1])
BOX = np.array([[0.0, 0.0, 5.0, 5.0]])
HALF = np.array([0.5])
RLE = {"size": [5, 5], "counts": "02g0"}
ONE, OBJECT = Detections(ROW, ROW, HALF, BOX), Truth(ROW, ROW, BOX)
GROUPS = {"r": [4], "c": [2, 3], "f": [0, 1]}


def made(seed, images=12, classes=5, objects=60, found=240, federated=False, grid=True):
    """Random data: coarse coordinates and scores make many ties; crowds, ignored objects, objects of every size."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        drawn = np.column_stack([rng.uniform(0, 60, (n, 2)), rng.uniform(4, 70, (n, 2))])
        return np.floor(drawn / 4) * 4 + 4 if grid else drawn

    pairs = np.stack(np.meshgrid(np.arange(images), np.arange(classes)), axis=-1).reshape(-1, 2)
    truth = Truth(
        rng.integers(images, size=objects),
        rng.integers(classes, size=objects),
        boxes(objects),
        areas=rng.uniform(0, 4000, objects),
        crowd=None if federated else rng.random(objects) < 0.15,
        ignored=rng.random(objects) < 0.15 if federated else None,
        negative=pairs[rng.random(len(pairs)) < 0.4] if federated else None,
        not_exhaustive=pairs[rng.random(len(pairs)) < 0.3] if federated else None,
        classes=np.arange(classes),
        groups=GROUPS,
    )
    near = rng.integers(objects, size=found // 2)  # half of them near an object
    shifted = truth.boxes[near] + np.round(rng.normal(0, 2, (len(near), 4)) / 2) * 2
    shifted[:, 2:] = shifted[:, 2:].clip(min=2)
    n = found - len(near)
    order = rng.permutation(found)
    detections = Detections(
        np.concatenate([truth.images[near], rng.integers(images, size=n)])[order],
        np.concatenate([truth.labels[near], rng.integers(classes, size=n)])[order],
        np.round(rng.random(found), 1 if grid else 6),
        np.concatenate([shifted, boxes(n)])[order],
    )
    return detections, truth


def only(one, rows):
    fields = ("images", "labels", "scores", "boxes", "areas", "crowd", "ignored", "ties")
    return replace(one, **{f: getattr(one, f)[rows] for f in fields if getattr(one, f, None) is not None})


# What it must do.


def perfect():
    _, truth = made(1)
    truth = replace(truth, crowd=None)
    return Detections(truth.images, truth.labels, np.linspace(0.2, 0.9, len(truth)), truth.boxes), truth


def coco_json(truth):
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in range(12)],
        "categories": [{"id": c, "name": str(c)} for c in range(5)],
        "annotations": [
            {
                "id": g + 1,
                "image_id": int(truth.images[g]),
                "category_id": int(truth.labels[g]),
                "bbox": truth.boxes[g].tolist(),
                "area": float(truth.areas[g]),
                "iscrowd": int(crowd[g]),
                "ignore": g % 2,  # which pycocotools overwrites
            }
            for g in range(len(truth))
        ],
    }


def results_json(detections):
    columns = (detections.images, detections.labels, detections.scores, detections.boxes)
    names = ("image_id", "category_id", "score", "bbox")
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def cocoeval(truth_json, found_json, kind, cap, area, what="precision"):
    """pycocotools' precision [thresholds recalls classes], or its recall [thresholds classes]."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth_json
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found_json), kind)
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [cap], [list(area)], ["all"]
        judge.evaluate()
        judge.accumulate()
    return judge.eval[what][..., 0, 0]
