"""The methods of the contrast room on three sets of images; see `benchmarks.tables`.

`python -m benchmarks.contrast`. Baseline is SimCLR; raw pixels stand beside as what no training is needed for.
"""

from __future__ import annotations

from benchmarks.tables import Set, Table, write
from counterpoise.commands.compare import parse_arms
from counterpoise.measure import accuracy, knn_predict
from counterpoise.tasks.images import NEIGHBOURS, Prepared

APART = ("diti", "genview")  # first train a diffusion model, for minutes; they have claims of their own
# The pretext task, not ScatSimCLR's own contrast, takes two thirds of its time: it sees each image turned four times.
METHODS = [
    "scatsimclr:pretext=none" if arm.method == "scatsimclr" else arm.label
    for arm in parse_arms(["room:contrast", "cross-entropy"])
    if arm.method not in APART
]


def raw(prepared: Prepared) -> float:
    """The kNN accuracy of raw pixels."""
    probe, test = prepared.probe, prepared.test
    flat, known = (images.pixels.flatten(1).float() for images in (test, probe))
    return accuracy(knn_predict(known, probe.labels, flat, len(test.classes), NEIGHBOURS), test.labels)


TABLE = Table(
    name="contrast",
    title="The contrast room: which method should I use?",
    task="pretrain",
    methods=METHODS,
    baseline="simclr",
    seeds=4,
    common={"batch_size": 128, "device": "cpu"},
    sets=[
        Set("Fashion-MNIST, long tail 1:100", "fashion-mnist", {"epochs": 6}, ("random-tail=100",)),
        Set("Glyphs, 200 classes", "glyphs:classes=200", {"epochs": 6, "augmentations": "crop=0.3,jitter"}),
        Set("MNIST, a quarter", "mnist", {"epochs": 6, "augmentations": "crop=0.3,jitter"}, ("fewer=0.25",)),
    ],
    shown={"knn": "kNN %", "linear": "linear %", "balanced": "balanced %"},
    remark=f"\\* reads the labels of the training images. {' and '.join(APART)} are left out: they train a diffusion "
    "model first. ",
    raw=("raw pixels", raw),
)

if __name__ == "__main__":
    write(TABLE)
