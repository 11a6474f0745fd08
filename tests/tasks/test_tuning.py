"""What chooses arguments: data held out of training alone, with the labels that training has, of every task."""

from dataclasses import fields, replace

import pytest
import torch
from PIL import Image

import counterpoise
from counterpoise import tasks
from counterpoise.commands.arms import parse_arms
from counterpoise.commands.tuning import division_of
from counterpoise.data.images import Images
from counterpoise.data.rows import Rows
from counterpoise.data.survival import Survival
from counterpoise.data.targets import Targets
from counterpoise.engine.tuning import Arm, Grid, trial_run, tune
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.tasks.images import Prepared
from counterpoise.terminal import make_console
from counterpoise.training.run import Run, make_settings

QUIET = make_console(quiet=True)
SPECS = {
    "pretrain": ("digits", "simclr", {}),
    "classify": ("digits", "cross-entropy", {}),
    "classify:rows": ("sklearn:wine", "cross-entropy", {"batch_size": 32}),
    "robust": ("digits", "cross-entropy", {"pgd_steps": 2, "pgd_restarts": 1}),
    "retrieve": ("digits", "multi-similarity", {}),
    "few-shot": ("digits", "protonet", {}),
    "regress": ("diabetes", "regression", {}),
    "survival": ("two-regimes:items=200", "ad-survival", {}),
    "compose": ("glyphs:script=greek", "composed-retrieval", {"size": 16, "batch_size": 512}),
    "zero-shot": ("glyphs:script=greek:split=family", "clip", {"size": 16}),
}
every = pytest.mark.parametrize("name", SPECS)


def run_of(name, seed=0, imperfect=()):
    data, method, settings = SPECS[name]
    task = name.partition(":")[0]
    (arm,) = parse_arms([method], task)
    chosen = make_settings(tasks.find(task).settings, {"epochs": 1, "batch_size": 64, "device": "cpu", **settings})
    return Run(arm.method, data, seed, {}, imperfect, chosen, task, division=division_of(1))


def contents(part):
    """The numbers of each item, to find it again."""
    inputs = part.pixels if isinstance(part, Images) else part.inputs
    return [bytes(row.numpy().tobytes()) for row in inputs]


def parts_of(parts):
    return {f.name: getattr(parts, f.name) for f in fields(parts)} if isinstance(parts, Prepared) else parts._asdict()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (Images, Rows, Survival, Targets)):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


def scrambled(part, generator):
    """The same number of items, with labels in another order and other inputs; no queries any more."""
    order = torch.randperm(len(part), generator=generator)
    if isinstance(part, Survival):
        inputs = torch.randn(part.inputs.shape, generator=generator)
        return replace(part, times=part.times[order], events=part.events[order], inputs=inputs)
    if isinstance(part, Targets):
        return replace(part, targets=part.targets[order], inputs=torch.randn(part.inputs.shape, generator=generator))
    if isinstance(part, Rows):
        return replace(part, labels=part.labels[order], inputs=torch.randn(part.inputs.shape, generator=generator))
    pixels = torch.randint(256, part.pixels.shape, generator=generator, dtype=torch.uint8)
    return replace(part, labels=part.labels[order], pixels=pixels)


def with_other_scores(parts, generator):
    """The parts of a run, but that what scores it is another thing altogether."""
    if isinstance(parts, Prepared):
        probe = scrambled(parts.probe, generator) if len(parts.probe) else parts.probe
        return replace(parts, probe=probe, test=scrambled(parts.test, generator))
    return parts._replace(test=scrambled(parts.test, generator))


def test_every_task_can_be_tuned_or_says_why_not():
    for name in catalogue.TASKS:
        task = tasks.find(name)
        if name in {spec.partition(":")[0] for spec in SPECS}:
            task.check_tunable()
        else:
            with pytest.raises(InputError, match=f"tune: is not for the task {name}, whose? |which "):
                task.check_tunable()


@pytest.mark.slow
@every
def test_nothing_that_scores_chooses(name, monkeypatch, tmp_path, rng):
    task = tasks.find(name.partition(":")[0])
    arm = {"a": Arm(run_of(name), Grid({"lr": [1e-4, 1e-2]}))}
    before = tune(arm, task.main, task.metrics[task.main].better, tmp_path / "before", 1, QUIET)["a"]
    load = type(task).load
    monkeypatch.setattr(type(task), "load", lambda self, run: with_other_scores(load(self, run), rng))
    arm = {"a": Arm(run_of(name), Grid({"lr": [1e-4, 1e-2]}))}
    after = tune(arm, task.main, task.metrics[task.main].better, tmp_path / "after", 1, QUIET)["a"]
    assert after.arguments == before.arguments
    assert [trial.figure for trial in after.trials] == [trial.figure for trial in before.trials]
    assert all(trial.figure is not None for trial in before.trials)


@every
def test_a_trial_is_scored_by_what_training_has_and_it_does_not_train_on(name):
    run = run_of(name)
    task = tasks.find(run.task)
    whole, trial = task.parts(replace(run, seed=100)), task.parts(trial_run(run, {}))
    held = [part for key, part in parts_of(trial).items() if key in ("probe", "test") and len(part)]
    assert held
    rest = {*contents(trial.train)}
    for part in held:
        assert not rest & {*contents(part)}
        assert {*contents(part)} <= {*contents(whole.train)}
    assert rest < {*contents(whole.train)}
    if isinstance(trial, Prepared):
        assert trial.truth is None
    assert len(trial.train) > len(whole.train) / 2


@pytest.mark.slow
@every
def test_no_seed_scores_what_a_trial_has_seen(name):
    run = run_of(name)
    task = tasks.find(run.task)
    trial = task.parts(trial_run(run, {}))
    seen = {x for key, part in parts_of(trial).items() if key != "truth" for x in contents(part)}
    tests = [contents(task.parts(replace(run, seed=seed)).test) for seed in (0, 1)]
    for test in tests:
        assert not seen & {*test}
    if task.name not in ("retrieve", "few-shot"):  # whose gallery and queries are drawn by the seed
        assert sorted(tests[0]) == sorted(tests[1])


def test_without_a_common_division_a_trial_would_see_what_another_seed_scores():
    run = replace(run_of("pretrain"), division=None)
    task = tasks.find("pretrain")
    train = {*contents(task.parts(trial_run(run, {})).train)}
    assert train & {*contents(task.parts(run).test)}


@pytest.mark.slow
@every
def test_what_is_held_out_is_drawn_by_the_seed(name):
    run = trial_run(run_of(name), {})
    task = tasks.find(run.task)
    first, again, other = (task.parts(replace(run, seed=seed)) for seed in (100, 100, 101))
    assert all(same(a, parts_of(again)[key]) for key, a in parts_of(first).items())
    assert contents(first.test) != contents(other.test)


@pytest.mark.parametrize("name", ["pretrain", "classify"])
def test_the_labels_that_choose_are_those_that_were_given(name):
    run = run_of(name, imperfect=("label-noise=0.5",))
    task = tasks.find(run.task)
    whole, trial = task.parts(replace(run, seed=100)), task.parts(trial_run(run, {}))
    given = dict(zip(contents(whole.train), whole.train.labels.tolist(), strict=True))
    true = dict(zip(contents(whole.train), whole.truth.tolist(), strict=True))
    found = dict(zip(contents(trial.test), trial.test.labels.tolist(), strict=True))
    assert all(given[item] == label for item, label in found.items())
    assert any(true[item] != label for item, label in found.items())


def test_hidden_labels_stay_hidden_and_their_images_are_trained_on():
    run = run_of("retrieve", imperfect=("unlabelled=0.5",))
    task = tasks.find("retrieve")
    whole, trial = task.parts(replace(run, seed=100)), task.parts(trial_run(run, {}))
    assert (trial.train.labels < 0).sum() == (whole.train.labels < 0).sum() > 0
    assert (trial.test.labels >= 0).all()
    assert trial.train.labels.max() == len(trial.train.classes) - 1
    assert not {*trial.train.classes} & {*trial.test.classes}
    names = dict(zip(contents(whole.train), [whole.train.classes[i] for i in whole.train.labels], strict=True))
    for part in (trial.train, trial.test):
        for item, label in zip(contents(part), part.labels.tolist(), strict=True):
            assert label < 0 or names[item] == part.classes[label]


def test_a_model_that_a_trial_stands_on_is_trained_without_what_chooses():
    trial = trial_run(run_of("pretrain"), {})
    task = tasks.find("pretrain")
    start = task.given_run(trial, "start", "simclr")
    assert (start.tuning, start.division, start.seed) == (True, 100, 100)
    assert contents(task.parts(start).train) == contents(task.parts(trial).train)


@pytest.mark.slow
def test_other_test_files_change_no_choice(tmp_path, rng):
    def write(split, label, number):
        path = tmp_path / "photos" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stripes = 30 * (torch.arange(16)[:, None] % 4 // 2).expand(16, 16)
        noise = torch.randint(40, 200, (16, 16), generator=rng)
        Image.fromarray((noise + (stripes if label == "level" else stripes.T)).to(torch.uint8).numpy()).save(path)

    def compared(out):
        settings = {"epochs": 8, "batch_size": 8, "device": "cpu", "references": False}
        found = counterpoise.compare(
            ["cross-entropy"], tmp_path / "photos", task="classify", seeds=1, tune=4, out=out, quiet=True, **settings
        )
        (method,) = found["tuning"]["methods"].values()
        return found, method

    for split, count in (("train", 30), ("test", 8)):
        for label in ("level", "upright"):
            for number in range(count):
                write(split, label, number)
    before, chosen = compared(tmp_path / "before")
    for number in range(8):  # other images, half of the labels exchanged
        write("test", ("level", "upright")[number % 2], number)
    after, again = compared(tmp_path / "after")
    assert again["arguments"] == chosen["arguments"]
    assert [trial["figure"] for trial in again["trials"]] == [trial["figure"] for trial in chosen["trials"]]
    assert len({trial["figure"] for trial in chosen["trials"]}) > 1
    nll = [found["methods"][0]["runs"][0]["metrics"]["nll"] for found in (before, after)]
    assert nll[0] != nll[1]  # the score does change


def made(labels, classes):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (len(labels), 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), classes, "made")


def test_too_little_to_hold_out_is_refused():
    classes = ("a", "b", "c", "d")
    none = made([-1] * 10, classes)
    for name in ("pretrain", "classify"):
        with pytest.raises(InputError, match=r"tune: digits: expected at least 2 labelled training images .*, got 0"):
            tasks.find(name).tuning_parts(run_of(name), Prepared(none, none, none))
    few = made([0, 0, 1, 1, 2, 2], classes[:3])
    with pytest.raises(InputError, match=r"tune: digits: expected at least 4 training classes.*got 3 classes"):
        tasks.find("retrieve").tuning_parts(run_of("retrieve"), Prepared(few, few, few))
    with pytest.raises(InputError, match=r"a third of them \(2 or more\) with 6 images"):
        tasks.find("few-shot").tuning_parts(run_of("few-shot"), Prepared(few, few, few))


def test_all_data_cannot_be_trained_on_while_tuning():
    run = replace(trial_run(run_of("pretrain"), {}), train_on_all=True)
    with pytest.raises(InputError, match="all: trains on every item; expected some to hold out for tuning"):
        tasks.find("pretrain").check(run)


def test_a_run_of_tuning_comes_back_from_its_configuration():
    run = trial_run(run_of("pretrain"), {"lr": 0.01})
    assert tasks.run_of(run.config()) == run
    old = {name: value for name, value in run.config().items() if name not in ("tuning", "division")}
    assert (tasks.run_of(old).tuning, tasks.run_of(old).division) == (False, None)
