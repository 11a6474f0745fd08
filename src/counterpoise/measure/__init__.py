"""Measures: plain functions from features, predictions and labels to numbers.

- `probes`: accuracy on frozen features: kNN, linear and few-shot.
- `geometry`: geometry of embeddings: alignment, uniformity, tolerance, effective rank, and detection of collapse.
- `detection`: detections and annotated objects; `matching`: of one to the other; `average_precision`; `calibration`: of
  scores.
- `accuracy`: overall, balanced, per class, and for head, medium and tail classes; `subgroups`: how even it is over
  groups within classes.
- `survival`: concordance, Brier score and calibration of times that are censored in part.
- `undertraining`: named warnings of training that was too short or learnt little.
- `intervals`: means over seeds with confidence intervals, and the verdict on a claimed difference.
"""

from counterpoise.measure.accuracy import accuracy, balanced_accuracy, class_accuracy, group_accuracy
from counterpoise.measure.geometry import alignment, collapse, effective_rank, tolerance, uniformity
from counterpoise.measure.intervals import Interval, Verdict, interval, paired, verdict
from counterpoise.measure.probes import (
    LinearProbe,
    few_shot_accuracy,
    knn_accuracy,
    knn_predict,
    linear_probe,
    probe_factors,
    stratified_split,
)

__all__ = [
    "Interval",
    "LinearProbe",
    "Verdict",
    "accuracy",
    "alignment",
    "balanced_accuracy",
    "class_accuracy",
    "collapse",
    "effective_rank",
    "few_shot_accuracy",
    "group_accuracy",
    "interval",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "paired",
    "probe_factors",
    "stratified_split",
    "tolerance",
    "uniformity",
    "verdict",
]
