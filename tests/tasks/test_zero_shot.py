"""The zero-shot task: which classes are new, what is learnt from, how known scores are judged, and runs."""

from dataclasses import replace

import pytest
import torch

import counterpoise
from counterpoise.classify.tfup import TFUP
from counterpoise.data import Images, Splits
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.learners.describer import Describer
from counterpoise.nets.towers import Towers
from counterpoise.tasks import load_net, zero_shot
from counterpoise.tasks.images import Prepared
from counterpoise.training import run as runs
from counterpoise.training.run import ImageSettings, Run
from worlds import Encoder

QUICK = ImageSettings(epochs=1, batch_size=64, size=8, device="cpu")
DATA = "glyphs:script=greek:split=family"
CLASSES = tuple("abcdefgh")


def run(method="clip", data=DATA, **changes):
    return Run(method, data, settings=changes.pop("settings", QUICK), task="zero-shot", **changes)


def images(labels, classes=CLASSES):
    """Images of these labels, each of a grey of its own."""
    pixels = (torch.arange(len(labels)) % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return Images(pixels, torch.as_tensor(labels), classes, "small")


@pytest.fixture
def given(monkeypatch):
    """Lets the task load images of these labels."""

    def give(train, test):
        monkeypatch.setattr(zero_shot, "load", lambda *_, **__: Splits(images(train), images(test)))
        runs._loaded.cache_clear()
        return zero_shot.TASK.load(run(data="small"))

    return give


def test_a_fifth_of_the_classes_is_new_and_drawn_by_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        parts = zero_shot.TASK.load(run(seed=seed))
        seen, new = zero_shot._seen_and_new(parts)
        assert len(new) == round((len(seen) + len(new)) / 5)
        assert not set(new) & set(parts.train.labels.unique().tolist())
        drawn.append(new)
    assert drawn[0] == drawn[1] != drawn[2]


def test_images_of_new_classes_are_learnt_from_without_a_label_and_half_of_the_tests_of_them_judge(given):
    train, test = torch.arange(48) % 6, torch.cat([torch.arange(24) % 6, torch.tensor([6] * 6 + [7] * 6)])
    parts = given(train, test)
    assert zero_shot._seen_and_new(parts) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert (parts.train.labels < 0).sum() == 6
    assert parts.test.counts().tolist() == [4] * 6 + [3] * 2
    everything = torch.cat([parts.train.pixels[48:], parts.test.pixels])[:, 0, 0, 0].sort().values
    assert torch.equal(everything, torch.arange(36, dtype=torch.uint8))  # no image of the test is learnt from


def test_classes_that_training_is_denied_are_the_new_ones():
    parts = zero_shot.TASK.load(run(imperfect=("unknown=7",)))
    assert len(zero_shot._seen_and_new(parts)[1]) == 7


def test_tuning_chooses_by_seen_classes_alone():
    task, parts = zero_shot.TASK, zero_shot.TASK.load(run())
    seen, new = zero_shot._seen_and_new(parts)
    chosen_by = task.tuning_parts(run(), parts)
    assert not set(new) & set(chosen_by.test.labels.tolist())
    held_seen, held_new = zero_shot._seen_and_new(chosen_by)
    assert set(held_seen) | set(held_new) == set(seen)
    assert len(held_new) == round(len(seen) / 5)


class Told(Describer):
    """Knows the scores: those of a table, by the number of an image, which is its row."""

    def __init__(self, table):
        super().__init__(Towers(Encoder(), dim=8))
        self.table = table

    def scores(self, rows, names):
        return self.table[rows[:, 0].long()][:, [CLASSES.index(name) for name in names]]


def judged(table, labels):
    """The scores of images of these labels, where a, b, c are seen and d, e new."""
    learnt = images(torch.tensor([0, 1, 2]))
    return zero_shot.TASK.score_features(
        Told(table), Prepared(learnt, learnt, images(labels)), torch.arange(len(labels))[:, None].float()
    )


def test_scores_by_hand():
    """New images: one named rightly among new names, one wrongly; a seen class is above both among all names."""
    labels = torch.tensor([0, 1, 2, 3, 3, 4, 4])
    table = torch.zeros(7, 8)
    table[0, 0] = table[1, 1] = table[2, 0] = 5.0  # c is taken for a
    table[3, 3], table[4, 4], table[5, 4], table[6, 4] = 1.0, 1.0, 1.0, 9.0
    table[3:6, 0] = 2.0
    found = judged(table, labels)
    assert found.metrics["new"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.metrics["seen"] == pytest.approx(2 / 3)
    assert found.diagnostics == pytest.approx({"seen among all": 2 / 3, "new among all": (0 + 1 / 2) / 2})
    assert found.metrics["harmonic"] == pytest.approx(2 * (2 / 3) * (1 / 4) / (2 / 3 + 1 / 4))
    assert found.per_class == [None, None, None, 0.5, 1.0, None, None, None]
    for name in ("new", "seen"):
        assert found.items[name].mean().item() == pytest.approx(found.metrics[name])
        assert len(found.items[name]) == 7


def test_images_without_a_label_are_not_judged():
    labels = torch.tensor([0, 1, -1, 3, 4])
    table = torch.nn.functional.one_hot(torch.tensor([0, 1, 5, 3, 4]), 8).float()
    found = judged(table, labels)
    assert (found.metrics["new"], found.metrics["seen"], found.metrics["harmonic"]) == (1.0, 1.0, 1.0)
    assert found.metrics["doubt"] == 1.0
    assert len(found.identity.keys) == len(found.items["new"]) == 4


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (torch.arange(8) % 2, torch.arange(8) % 2, "expected at least 4 classes, .*, got 2"),
        (torch.arange(8) % 4, torch.tensor([0, 1, 2, 3, 4, 4]), "at least 2 new classes, got 1"),
        (torch.arange(8) % 4, torch.tensor([0, 0, 5, 6, 5, 6]), "at least 2 seen classes, got 1"),
    ],
)
def test_data_that_nothing_can_be_judged_by_is_refused(given, train, test, message):
    with pytest.raises(InputError, match=message):
        zero_shot.TASK.check_parts(run(), given(train, test), True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (run("simclr"), "method 'simclr' does not serve the task zero-shot"),
        (run("zero-shot", settings=replace(QUICK, given="towers=small")), "towers: expected clip or the folder"),
        (run("zero-shot", settings=replace(QUICK, given="towers=none")), "towers: expected those that a run of clip"),
        (run(train_on_all=True), "all: is not for the task zero-shot"),
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        zero_shot.TASK.check(given)


@pytest.mark.slow
def test_methods_stand_on_towers_that_are_trained_once_and_come_back(tmp_path):
    settings = {"epochs": 1, "batch_size": 64, "size": 8, "device": "cpu"}
    content = counterpoise.compare(
        ["zero-shot", "tfup", "tfup:tuned=true"],
        DATA,
        task="zero-shot",
        seeds=1,
        out=str(tmp_path / "c"),
        quiet=True,
        **settings,
    )
    assert [row["runs"][0]["status"] for row in content["methods"]] == ["done"] * 3
    (given,) = (path.parent for path in (tmp_path / "c" / "given").glob("clip-*/result.json"))  # a lock lies beside it
    plain = content["methods"][0]["runs"][0]
    towers, _ = load_net(given)
    kept, _ = load_net(tmp_path / "c" / plain["folder"])
    assert all(torch.equal(kept.state_dict()[name], value) for name, value in towers.state_dict().items())
    again = execute_run(run("zero-shot", settings=replace(QUICK, given=f"towers={given}")), tmp_path / "again")
    assert again["metrics"] == plain["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("length", [{"epochs": 5}, {"epochs": None, "steps": 200}])
def test_adapters_are_trained_for_epochs_of_their_own_and_the_rate_ends_with_them(tmp_path, monkeypatch, length):
    steps = []
    own = TFUP.lr_factor
    monkeypatch.setattr(TFUP, "lr_factor", lambda self, step, of: steps.append((step, of)) or own(self, step, of))
    short = run("tfup", arguments={"tuned": True, "tuning_epochs": 2}, settings=replace(QUICK, **length))
    with pytest.MonkeyPatch.context() as patch:  # towers of a few steps will do
        patch.setattr(zero_shot.ZeroShot, "given_run", quick_towers)
        found = execute_run(short, tmp_path)
    assert [row["epoch"] for row in found["curve"]] == [1, 2]
    assert {of for _, of in steps} == {max(step for step, _ in steps)}  # the last rate is that after the last step


def quick_towers(self, run, role, value):
    return replace(run, method=value, arguments={}, settings=QUICK, files=None)


@pytest.mark.slow
def test_towers_of_other_arguments_are_taken_from_their_folder(tmp_path):
    execute_run(run(arguments={"dim": 12, "template": "the letter {}"}), tmp_path / "t")
    taken = run("zero-shot", settings=replace(QUICK, given=f"towers={tmp_path / 't'}"))
    zero_shot.TASK.check(taken)
    found = execute_run(taken, tmp_path / "z")
    net, _ = load_net(tmp_path / "z")
    assert net.features == 12
    assert found["metrics"]["new"] >= 0
