import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.studies.ap_pool import simulate, study
from detections import BOX

# The claim.


def test_the_study_measures_what_it_says():
    found = study("simulated", 7, images=150, classes=12, max_dets=20, top=150)
    assert found["rarity fixed"] == 0
    assert found["rarity gain"] > 1
    assert found["pool gain"] > 1
    assert found["fixed change"] < 1e-9
    assert found["ece calibrated"] < found["ece"]
    assert found["top fixed room"] == pytest.approx(0.3 - found["top fixed"])
    assert found == study("simulated", 7, images=150, classes=12, max_dets=20, top=150)
    assert found["capped r"] != study("simulated", 8, images=150, classes=12, max_dets=20, top=150)["capped r"]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(0, BOX[:, :2], np.random.default_rng(0)), "images: expected a whole number of at least 1"),
        (lambda: simulate(1, BOX, np.random.default_rng(0)), r"score_maps: expected shape \[1, 2\], got \[1, 4\]"),
        (lambda: simulate(1, BOX[:, :2], np.random.default_rng(0), np.nan), "spread: expected a number that is finite"),
        (lambda: study("simulated", -1), "seed: expected a whole number of at least 0, got -1"),
        (lambda: study("simulated", 0, classes=2), "classes: expected a whole number of at least 3, got 2"),
        (lambda: study("simulatd", 0), "did you mean 'simulated'"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
