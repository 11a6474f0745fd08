"""Annotated images by name or path."""

import pytest

from annotated import same
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.annotated_sources import annotated_files, is_annotated, load_annotated
from counterpoise.data.scenes import Scenes
from counterpoise.errors import InputError


def test_scenes_by_name_are_those_of_their_options(tmp_path):
    train, test = load_annotated(
        "scenes:count=4:test=2:objects=2-4:size=32:sprites=mnist:domain=fog:held_out=0.5", seed=3
    )
    options = {"sprites": "mnist", "size": 32, "least": 2, "most": 4, "domain": "fog", "held_out": 0.5, "seed": 3}
    same(train, from_scenes(Scenes(4, **options)))
    same(test, from_scenes(Scenes(2, "test", **options)))
    small = load_annotated("scenes:count=2:size=32", size=24, classes=["Coat", "Bag"]).train
    assert small.pixels.shape == (2, 3, 24, 24)
    assert small.classes == ("Coat", "Bag")
    assert is_annotated("scenes")
    assert not is_annotated("mnist")
    assert not is_annotated(tmp_path)
    assert annotated_files("scenes:count=3") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:cout=3", "option of scenes 'cout' is not known; did you mean 'count'"),
        ("scenes:count=x", "scenes: count: expected a whole number, got 'x'"),
        ("scenes:count=3:count=4", "scenes: count is given twice"),
        ("scenes:count=3:held_out=y", "scenes: held_out: expected a number, got 'y'"),
        ("scenes:count=3:objects=5-2", "most: expected a whole number of at least 5"),
        ("nothing/there", "data: expected scenes, a folder or a JSON file, got 'nothing/there', which is not there"),
        (".", r"data: \. holds no annotations: expected annotations.json"),
    ],
)
def test_names_that_are_not_known_are_refused(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_annotated(spec)
