"""The methods of the metric room, and some that pretrain, on retrieval of unseen classes; see `benchmarks.tables`.

`python -m benchmarks.retrieve`. Baseline is multi-similarity; raw pixels stand beside.
"""

from __future__ import annotations

import torch

from benchmarks.tables import Set, Table, write
from counterpoise.measure.retrieval import retrieval
from counterpoise.tasks.images import Prepared


def raw(prepared: Prepared) -> float:
    """Recall@1 of raw pixels."""
    rows, labels = (
        torch.cat([getattr(part, name) for part in (prepared.test, prepared.probe)]) for name in ("pixels", "labels")
    )
    return retrieval(rows.flatten(1).float(), labels, ks=(1,)).recall[1]


TABLE = Table(
    name="retrieve",
    title="Retrieval of unseen classes: which method should I use?",
    task="retrieve",
    methods=[
        *("triplet", "contrastive", "multi-similarity", "proxy-anchor", "arcface", "protonet"),
        *("metrix", "tcm", "susana", "supcon", "simclr"),
    ],
    baseline="multi-similarity",
    seeds=4,
    common={"batch_size": 128, "device": "cpu"},
    sets=[
        Set("Glyphs, other scripts", "glyphs:split=script", {"epochs": 3, "augmentations": "crop=0.7"}),
        Set(
            "Glyphs, other characters", "glyphs:split=character:classes=600", {"epochs": 8, "augmentations": "crop=0.7"}
        ),
        Set("Fashion-MNIST, other garments", "fashion-mnist", {"epochs": 8, "augmentations": "crop=0.7,flip"}),
    ],
    shown={
        "recall_1": "Recall@1 %",
        "map_r": "MAP@R %",
        "nmi": "NMI %",
        "opis": "OPIS",
        "effective_rank": "effective rank",
    },
    remark="\\* reads the labels of the training images. supcon and simclr see two views of random images, the other "
    "methods one view of several images of each class: among thousands of classes, supcon finds few pairs. ",
    raw=("raw pixels", raw),
)

if __name__ == "__main__":
    write(TABLE)
