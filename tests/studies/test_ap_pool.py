import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.studies.ap_pool import simulate, study
from detections import BOX

# The claim.


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_more_categories_share_a_calibration_the_less_it_does_for_the_pool():
    """A rising map of all scores together, as Platt's, changes neither measure."""
    options = {"images": 100, "classes": 12, "calibration": "platt"}
    own, group, overall = (study("simulated", 7, **options, grouping=g) for g in ("class", "group", "overall"))
    assert own == study("simulated", 7, **options)
    assert own["pool gain"] > group["pool gain"] + 0.5 > overall["pool gain"]
    assert overall["pool gain"] == overall["fixed change"] == 0
    assert own["pool"] == group["pool"] == overall["pool"]
    assert max(one["ece calibrated"] for one in (own, group, overall)) < own["ece"]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: study("simulated", 0, grouping="groups"), "did you mean 'group'"),
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
