"""The methods of the contrast room on two sets of images; see `benchmarks.tables`.

`python -m benchmarks.contrast`. Baseline is SimCLR.
"""

from __future__ import annotations

from benchmarks.tables import Set, Table, write
from counterpoise.commands.arms import parse_arms

APART = ("diti", "genview")  # first train a diffusion model, for minutes; they have claims of their own
# The pretext task, not ScatSimCLR's own contrast, takes two thirds of its time: it sees each image turned four times.
METHODS = [
    "scatsimclr:pretext=none" if arm.method == "scatsimclr" else arm.label
    for arm in parse_arms(["room:contrast", "cross-entropy"])
    if arm.method not in APART
]

TABLE = Table(
    name="contrast",
    title="The contrast room: which method should I use?",
    task="pretrain",
    methods=METHODS,
    baseline="simclr",
    seeds=4,
    trials=6,
    common={"size": 16, "steps": 1500, "batch_size": 128, "precision": "bf16-mixed", "device": "cpu"},
    sets=[
        Set("Fashion-MNIST, long tail 1:100", "fashion-mnist", {}, ("random-tail=100",)),
        Set("MNIST, half", "mnist", {}, ("fewer=0.5",)),
    ],
    shown={"knn": "kNN %", "linear": "linear %", "balanced": "balanced %", "few_shot": "5-shot %"},
    remark=f"\\* reads the labels of the training images. {' and '.join(APART)} are left out: they train a diffusion "
    "model first. Images are shrunk to 16×16 pixels, so that 1,500 steps fit the time. ",
)

if __name__ == "__main__":
    write(TABLE)
