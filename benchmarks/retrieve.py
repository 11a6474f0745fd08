"""The methods of the metric room, and some that pretrain, on retrieval of unseen classes; see `benchmarks.tables`.

`python -m benchmarks.retrieve`. Baseline is multi-similarity.
"""

from __future__ import annotations

from benchmarks.tables import Set, Table, write

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
    trials=6,
    common={"steps": 600, "batch_size": 128, "precision": "bf16-mixed", "device": "cpu"},
    sets=[
        Set("Glyphs, other scripts", "glyphs:split=script", {"augmentations": "crop=0.7"}),
        Set("Glyphs, other characters", "glyphs:split=character:classes=600", {"augmentations": "crop=0.7"}),
        Set("Fashion-MNIST, other garments", "fashion-mnist", {"augmentations": "crop=0.7,flip"}),
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
)

if __name__ == "__main__":
    write(TABLE)
