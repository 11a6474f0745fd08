"""What the images of a run must have before it starts."""

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data import Images
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder
from counterpoise.tasks import few_shot, pretrain
from counterpoise.tasks.images import Prepared, leave_out
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


def of_domains(domains, names=("photo", "sketch"), **factors):
    """Images whose pixels are their numbers, of one class, in these domains."""
    count = len(domains)
    return Images(
        torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1),
        torch.zeros(count, dtype=torch.int64),
        ("cat",),
        "pets",
        factors={"domain": torch.tensor(domains), **factors},
        factor_names={"domain": names} if names else {},
    )


def numbers(images):
    return images.pixels.flatten().tolist()


def test_a_domain_is_left_out_of_training_and_of_the_probes_and_stays_in_the_test():
    truth = torch.arange(5)
    parts = Prepared(of_domains([0, 1, 0, 1, -1]), of_domains([1, 0]), of_domains([0, 1, 1]), truth)
    left = leave_out(parts, ImageSettings(group="domain", leave_out="sketch"))
    assert [numbers(part) for part in left.images.values()] == [[0, 2, 4], [1], [0, 1, 2]]
    assert left.truth.tolist() == [0, 2, 4]
    assert left.train.notes == ("left out of training: 2 images of domain sketch",)
    assert leave_out(parts, ImageSettings(group="domain")) is parts


def test_values_without_names_are_named_by_their_numbers_and_probes_may_lack_the_factor():
    parts = Prepared(of_domains([3, 7, 3], None), of_domains([0]).without_factor("domain"), of_domains([7], None))
    left = leave_out(parts, ImageSettings(group="domain", leave_out="7"))
    assert numbers(left.train) == [0, 2]
    assert numbers(left.probe) == [0]


@pytest.mark.parametrize(
    ("domains", "wrong", "said"),
    [
        ([0, 1], {"leave_out": "sketsch"}, "leave_out: value of domain 'sketsch' is not known; did you mean 'sketch'"),
        ([0, 0], {"leave_out": "sketch"}, "leave_out: value of domain 'sketch' is not known.*photo"),  # not in training
        ([1, 1], {"leave_out": "sketch"}, "'sketch' is the only value of domain, so nothing would be left"),
        ([0, 1], {"leave_out": "sketch", "group": "scanner"}, "group: factor of the training images 'scanner'"),
    ],
)
def test_a_value_that_cannot_be_left_out_is_refused(domains, wrong, said):
    images = of_domains(domains)
    with pytest.raises(InputError, match=said):
        leave_out(Prepared(images, images, images), ImageSettings(**{"group": "domain", **wrong}))


def test_a_run_without_a_domain_trains_on_the_others_and_is_scored_on_all(tmp_path):
    rows = ["path,label,domain,split"]
    for split, count in (("train", 12), ("test", 4)):
        for k in range(count):
            name = f"{split}{k}.png"
            pixels = np.random.default_rng(k).integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
            rows.append(f"{name},{'cat' if k % 2 else 'dog'},{'photo' if k % 4 < 2 else 'sketch'},{split}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    settings = ImageSettings(steps=2, batch_size=4, device="cpu", group="domain", leave_out="sketch")
    run = Run("simclr", str(tmp_path / "all.csv"), settings=settings)
    result = execute_run(run, make_output_folder(tmp_path / "out", "run"))
    assert result["sizes"]["train"] + result["sizes"]["probe"] == 6
    assert {"domain photo", "domain sketch"} <= result["groups"].keys()
    assert any("left out of training" in note for note in result["notes"])
    assert len(result["curve"]) == 2  # of one step each
