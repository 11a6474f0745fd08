"""What costs no training: closed forms, what is taken from the training data, and a run of each task's references."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from counterpoise import tasks
from counterpoise.data.images import Images
from counterpoise.data.views import to_float
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.learners.references import (
    LinearOnRaw,
    LinearOnUntrained,
    Raw,
    RawInputs,
    Untrained,
    settle_batch_norm,
)
from counterpoise.measure import accuracy
from counterpoise.nets import backbone, embed
from counterpoise.registry import catalogue
from counterpoise.training.run import Run, make_settings

DATA = {
    "regress": "diabetes",
    "compose": "glyphs:script=greek",
    "graph": "planted:nodes=160",
    "zero-shot": "glyphs:script=greek:split=family",
    "survival": "two-regimes:items=1000",
}


def made(count=60, classes=3, seed=0):
    """Images of a grey that names the class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randint(-20, 20, (count, 1, 8, 8), generator=generator)
    pixels = (40 + 80 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return Images(pixels, labels, tuple("abc"[:classes]), "greys")


def test_raw_features_are_the_pixels():
    images = made()
    assert torch.equal(
        embed(Raw(nn.Identity(), [1, 8, 8]).encoder, images, to_float), to_float(images.pixels).flatten(1)
    )


def test_large_images_are_averaged_over_areas():
    inputs = torch.arange(64.0 * 64).view(1, 1, 64, 64)
    expected = nn.functional.avg_pool2d(inputs, 2).flatten(1)
    torch.testing.assert_close(RawInputs((1, 64, 64))(inputs), expected)


def test_batch_normalisation_has_the_statistics_of_all_training_images():
    net, images = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), made(600)
    settle_batch_norm(net, images)
    rows = to_float(images.pixels).flatten(1)
    torch.testing.assert_close(net[1].running_mean, rows.mean(0), atol=0.02, rtol=0)  # its batches differ by one image
    torch.testing.assert_close(net[1].running_var, rows.var(0), atol=0.02, rtol=0)
    assert net[1].momentum == 0.1
    assert net.training


def test_an_untrained_encoder_keeps_its_weights():
    net = backbone("small", 1, 8)
    before = [p.clone() for p in net.parameters()]
    method = Untrained(net)
    method.start_epoch(made(), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True))


@pytest.mark.parametrize("kind", [LinearOnRaw, LinearOnUntrained])
def test_a_linear_classifier_is_fitted_to_the_labels_that_are_given(kind):
    encoder, shape = backbone("small", 1, 8), {"shape": [1, 8, 8]} if kind is LinearOnRaw else {}
    method = kind(encoder, classes=3, **shape)
    train = made()
    method.start_epoch(replace(train, labels=torch.where(train.labels == 2, -1, train.labels)), 0)
    test = made(seed=1)
    found = method.predict(test)
    assert found.isfinite().all()
    known = test.labels < 2
    assert accuracy(found.argmax(1)[known], test.labels[known]) == 1
    assert (found.argmax(1) != 2).all()  # of which no label was given


def test_a_start_is_a_reference_only_where_there_is_one():
    task = tasks.find("pretrain")
    run = Run("simclr", "digits", settings=make_settings(task.settings, {"epochs": 7}))
    assert task.reference_run(run, "start") is None
    of_start = task.reference_run(replace(run, settings=replace(run.settings, init="pretrained")), "start")
    assert (of_start.method, of_start.settings.init) == ("start", "pretrained")
    assert (
        task.reference_run(replace(run, settings=replace(run.settings, init="pretrained")), "raw").settings.init is None
    )
    with pytest.raises(InputError, match="reference of the task pretrain 'teacher' is not known"):
        task.reference_run(run, "teacher")


def test_a_reference_is_the_same_run_whatever_the_budget_of_the_methods():
    task = tasks.find("pretrain")
    few, many = (Run("simclr", "digits", settings=make_settings(task.settings, {"epochs": n})) for n in (5, 50))
    assert task.reference_run(few, "untrained") == task.reference_run(many, "untrained")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalogue.TASKS if tasks.find(name).references])
def test_every_task_scores_its_references_and_their_networks_come_back(name, tmp_path):
    task = tasks.find(name)
    settings = make_settings(
        task.settings, {"device": "cpu", **({"size": 16} if name in ("compose", "zero-shot") else {})}
    )
    run = Run(task.baseline.partition(":")[0], DATA.get(name, "digits"), settings=settings, task=name)
    for reference in [one for one in task.references if one != "start"]:
        result = execute_run(task.reference_run(run, reference), tmp_path / reference)
        assert task.main in result["metrics"]
        assert result["warnings"] == []
        if result["shape"]:
            net, _ = tasks.load_net(tmp_path / reference)
            assert torch.isfinite(net(torch.zeros(2, *result["shape"]))).all()


def test_every_task_but_those_of_studies_has_references():
    assert {name for name in catalogue.TASKS if not tasks.find(name).references} == {"measure"}
