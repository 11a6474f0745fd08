"""The methods that serve regression on three sets of inputs with numbers; see `benchmarks.tables`.

`python -m benchmarks.regress`. Baseline is regression end to end by the absolute error.
"""

from __future__ import annotations

from benchmarks.tables import Set, Table, write

TABLE = Table(
    name="regress",
    title="Regression: which method should I use?",
    task="regress",
    methods=["regression", "regression:error=l2", "supcon-regression", "rnc", "supremix"],
    baseline="regression",
    seeds=5,
    trials=6,
    common={"steps": 1000, "batch_size": 64, "precision": "bf16-mixed", "device": "cpu"},
    sets=[
        Set("Rotations of a digit", "rotations", {}),
        Set("Sums of digits", "digit-sums", {}),
        Set("Rotations of a garment", "rotations:set=fashion-mnist:class=8", {}),
    ],
    shown={"mae": "MAE", "mae_few": "MAE where training has few", "r2": "R²", "probe_mae": "MAE of a ridge regression"},
    remark="The mean absolute error (MAE) is in degrees, and in what digits add up to. \\* reads the numbers of the "
    "training inputs, as all do here. ",
)

if __name__ == "__main__":
    write(TABLE)
