"""What the images of a run must have before it starts."""

import numpy as np
import pytest
from PIL import Image

from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder
from counterpoise.tasks import few_shot, pretrain
from counterpoise.training.run import ImageSettings, Run


def run_on(folder, layout, task="pretrain", method="simclr"):
    """A run on images in folders, `layout` saying how many."""
    for i, (name, count) in enumerate(layout.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(np.full((8, 8), 10 * i + k, np.uint8)).save(folder / name / f"{k}.png")
    return Run(method, str(folder), settings=ImageSettings(epochs=1, batch_size=6), task=task)


@pytest.mark.parametrize("scored", [False, True])
def test_train_and_test_without_a_common_class(tmp_path, scored):
    run = run_on(tmp_path, {"train/cat": 6, "train/dog": 6, "test/ash": 2, "test/elm": 2})
    with pytest.raises(InputError, match=r"no class in common \(train: cat, dog; test: ash, elm\); the tasks retrieve"):
        pretrain.TASK.check(run, scored=scored)


def test_unseen_classes_are_what_few_shot_is_for(tmp_path):
    run = run_on(
        tmp_path, {f"{part}/{part}{i}": 9 for part in ("train", "test") for i in (1, 2)}, "few-shot", "protonet"
    )
    assert few_shot.TASK.check(run, scored=True).test.classes == ("test1", "test2")


def test_one_class_is_nothing_to_be_scored_by(tmp_path):
    run = run_on(tmp_path, {"images": 10})
    with pytest.raises(InputError, match=r"has one class, 'images', so there is nothing to distinguish"):
        pretrain.TASK.check(run, scored=True)
    assert len(pretrain.TASK.check(run).test) == 2  # train needs no classes


def test_a_test_split_without_labels(tmp_path):
    run = run_on(tmp_path / "photos", {"train/cat": 6, "train/dog": 6, "test": 4})
    with pytest.raises(InputError, match="its test images have no labels to score by"):
        pretrain.TASK.check(run, scored=True)
    assert len(pretrain.TASK.check(run).test) == 4
    result = execute_run(run, make_output_folder(tmp_path / "out", "run"))
    assert "alignment" in result["metrics"]
    assert "knn" not in result["metrics"]
