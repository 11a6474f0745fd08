"""The methods that serve regression on three sets of inputs with numbers; see `benchmarks.tables`.

`python -m benchmarks.regress`. Baseline is regression end to end by the absolute error; ridge regression on the raw
inputs stands beside.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.tables import Set, Table, write
from counterpoise.data.targets import TargetSplits
from counterpoise.tasks.regress import STRENGTHS


def raw(data: TargetSplits) -> float:
    """The mean absolute error of ridge regression on the raw inputs."""
    known, asked = (part.inputs.flatten(1).numpy().astype(np.float64) for part in data)
    model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(known, data.train.targets)
    return float(np.abs(model.predict(asked) - data.test.targets.numpy()).mean())


TABLE = Table(
    name="regress",
    title="Regression: which method should I use?",
    task="regress",
    methods=["regression", "regression:error=l2", "supcon-regression", "rnc", "supremix"],
    baseline="regression",
    seeds=5,
    common={"batch_size": 64, "device": "cpu"},
    sets=[
        Set("Rotations of a digit", "rotations", {"epochs": 20}),
        Set("Sums of digits", "digit-sums", {"epochs": 20}),
        Set("Diabetes, 442 patients", "diabetes", {"epochs": 100}),
    ],
    shown={"mae": "MAE", "mae_few": "MAE where training has few", "r2": "R²", "probe_mae": "MAE of a ridge regression"},
    remark="The mean absolute error (MAE) is in degrees, in what digits add up to, and in points of the illness's "
    "progress. \\* reads the numbers of the training inputs, as all do here. ",
    raw=("ridge regression on raw inputs", raw),
)

if __name__ == "__main__":
    write(TABLE)
