"""What every task does alike: what it refuses, its references, the models of its roles, and how a method is made."""

from dataclasses import replace

import pytest
import torch

from counterpoise import tasks
from counterpoise.errors import InputError
from counterpoise.nets.frozen import Frozen
from counterpoise.tasks import base
from counterpoise.training.run import ImageSettings, LearnerSettings, Run

QUICK = ImageSettings(epochs=3, batch_size=64, device="cpu")
RUN = Run("simclr", "digits", settings=QUICK)
OWN = '''
from counterpoise import Method


class Own(Method):
    """Asks for what no task has, or for a start."""

    def __init__(self, encoder, {asks}, **recipe):
        super().__init__(encoder, **recipe)
        self.asked = {name}
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a method whose constructor asks for something."""
    monkeypatch.chdir(tmp_path)

    def write(asks):
        (tmp_path / "own.py").write_text(OWN.format(asks=asks, name=asks.partition("=")[0].partition(":")[0]))
        return replace(RUN, method="./own.py:Own")

    return write


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run("simclr", "digits"), None),
        (Run("meow", "planted", task="graph", imperfect=("long-tail=2",)), "imperfect: is not for the task graph"),
        (replace(RUN, task="retrieve", method="triplet", train_on_all=True), None),
        (Run("meow", "planted", task="graph", train_on_all=True), "all: is not for the task graph"),
        (Run("meow", "planted", settings=QUICK, task="graph"), "size|settings|augmentations|backbone|batch_size"),
        (
            replace(RUN, settings=LearnerSettings(device="cpu")),
            "settings: expected ImageSettings for the task pretrain",
        ),
    ],
)
def test_what_a_task_cannot_do_is_refused_whatever_the_data(run, message):
    task = tasks.find(run.task)
    if message is None:
        task.check_run(run)
    else:
        with pytest.raises(InputError, match=message):
            task.check_run(run)


def test_a_reference_is_a_run_of_its_own_whatever_the_methods_train_like():
    task = tasks.find("pretrain")
    methods = replace(RUN, settings=replace(QUICK, precision="bf16-mixed", accumulate=2), arguments={"lr": 0.1})
    found = [task.reference_run(run, "untrained") for run in (RUN, methods)]
    assert found[0].config() == found[1].config()
    assert (found[0].settings.epochs, found[0].settings.precision, found[0].arguments) == (1, "32", {})
    assert task.reference_run(RUN, "start") is None
    started = task.reference_run(replace(RUN, settings=replace(QUICK, init="pretrained")), "start")
    assert started.settings.init == "pretrained"
    with pytest.raises(InputError, match="reference of the task pretrain 'rav' is not known; did you mean 'raw'"):
        task.reference_run(RUN, "rav")


def test_a_method_gets_what_it_asks_for_and_nothing_else_is_made(own):
    made = []

    def offer(name):
        def made_now():
            made.append(name)
            return name

        return made_now

    offers = {"samples": offer("samples"), "classes": offer("classes")}
    method = base.make(own("samples"), offers, lambda: {"encoder": base.encoder_of("small", (1, 8, 8))})
    assert (method.asked, made) == ("samples", ["samples"])


def test_what_a_method_asks_for_and_nobody_has_is_named(own):
    run = own("teacher_of_all")
    with pytest.raises(InputError, match=r"teacher_of_all: .*asks for it, and neither the task pretrain nor you give"):
        base.make(run, {}, lambda: {"encoder": None})
    with pytest.raises(InputError, match=r"argument of .* 'teacher' is not known; did you mean 'teacher_of_all'"):
        base.make(replace(run, arguments={"teacher": 1}), {}, lambda: {"encoder": None})


def test_the_encoder_is_drawn_by_the_seed_whatever_is_offered_before(own):
    def draws():
        return torch.rand(5)

    def encoder():
        return {"encoder": base.encoder_of("small", (1, 8, 8))}

    plain = base.make(RUN, {}, encoder).encoder.state_dict()
    after = base.make(own("samples"), {"samples": draws}, encoder).encoder.state_dict()
    assert all(torch.equal(plain[name], after[name]) for name in plain)


def test_a_role_is_a_recipe_a_backbone_weights_or_none(own, tmp_path):
    task, run = tasks.find("classify"), replace(own("start=None"), task="classify")
    role = next(iter(task.roles))
    recipe = task.recipes[role][0]
    assert task.resolve(run, role, "none") == base.Given(role)
    assert task.resolve(run, role, recipe).run is not None
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert task.resolve(run, role, "small@weights.safetensors").backbone == "small"
    for wrong in ("small@nowhere.safetensors", "nothing"):
        with pytest.raises(InputError, match=f"given: {role}: .*'?(nowhere.safetensors' does not exist|got 'nothing')"):
            task.resolve(run, role, wrong)


def test_frozen_weights_are_kept_with_the_encoder():
    encoder = base.encoder_of("small", (1, 8, 8))
    assert base.start_encoder(QUICK, encoder) is encoder
    frozen = base.start_encoder(replace(QUICK, init="pretrained", freeze=True), encoder)
    assert isinstance(frozen, Frozen)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_encoders_are_of_images_or_of_rows():
    assert base.encoder_of("small", (3, 16, 16)).channels == 3
    assert base.encoder_of("small", (7,)).features > 0
    with pytest.raises(InputError, match="init: pretrained weights are for encoders of images"):
        base.encoder_of("small", (7,), pretrained=True)
    with pytest.raises(InputError, match="augmentations: are views of images, got rows of 7 numbers"):
        base.blank_encoder(LearnerSettings(augmentations="crop"), (7,))


def test_a_run_s_folder_is_known_by_its_configuration(tmp_path):
    assert not base.is_run(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert base.is_run(str(tmp_path))
