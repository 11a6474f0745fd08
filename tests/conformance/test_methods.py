"""What every method that trains an encoder of images must do: learn in one step, and survive being saved and loaded."""

from dataclasses import replace

import pytest
import torch

from counterpoise.data import Images
from counterpoise.learners.attacked import AttackedClassifier
from counterpoise.registry import catalogue
from counterpoise.training.run import ImageSettings, Run
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint
from worlds import build

TASKS = {"pretrain", "classify", "retrieve", "few-shot"}  # of images
ALL = {p.slug: next(t for t in p.tasks if t in TASKS) for p in catalogue.select(done=True) if TASKS & {*p.tasks}}
METHODS = {slug: task for slug, task in ALL.items() if catalogue.load_class(slug).trains}
UNTRAINED = [slug for slug in ALL if slug not in METHODS]  # which see all data once
HEAVY = {"diti", "genview", "scatsimclr", "realrag"}  # which train another network first, or trace many paths
every = pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=pytest.mark.slow) if slug in HEAVY else slug for slug in METHODS]
)


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 1, 16, 16), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(24) % 3, ("a", "b", "c"), "noise")


def made(slug, images):
    return build(Run(slug, "noise", seed=1, settings=ImageSettings(epochs=1, batch_size=8), task=ALL[slug]), images)


def once(function):
    """Gives at each call what it gave at the first."""
    found = []
    return lambda *given: found[0] if found else found.append(function(*given)) or found[0]


def test_the_catalogue_has_methods():
    assert {"simclr", "moco", "supcon", "cross-entropy", "dcl", "cacr", "isogclr"} <= set(METHODS)


@pytest.mark.slow
@every
def test_one_epoch_changes_every_weight_that_learns_and_the_encoder(slug, images, tmp_path):
    method = made(slug, images)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    (row,) = fit(method, images, epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu")
    assert torch.isfinite(torch.tensor(row["loss"]))
    same = [name for name, p in method.named_parameters() if p.requires_grad and torch.equal(p, before[name])]
    assert not same


@every
def test_one_step_lowers_the_loss_of_its_batch(slug, images):
    """On the same views and from the same state, a small step down the gradient does most of what it promises."""
    method = made(slug, images)
    if isinstance(method, AttackedClassifier):  # what an attack finds is a view, which leaps as the weights change
        method.attack = once(method.attack)
    torch.manual_seed(0)
    method.start_epoch(images, 0)
    batch = images.__getitems__(list(range(12)))
    views = [method.view(batch[0]) for _ in range(method.views)]
    learnt = [name for name, p in method.named_parameters() if p.requires_grad]
    state = {name: x.clone() for name, x in method.state_dict().items() if name not in learnt}
    torch.manual_seed(1)
    before = method.loss(views, *batch[1:])
    before.backward()
    slopes = [p for p in method.parameters() if p.grad is not None]
    promised = 1e-3 * abs(before.item())
    with torch.no_grad():
        step = promised / sum(p.grad.double().square().sum() for p in slopes)
        for p in slopes:
            p -= step.to(p) * p.grad
    method.load_state_dict(state, strict=False)
    torch.manual_seed(1)  # mixtures are drawn anew
    after = method.loss(views, *batch[1:])
    assert promised / 2 < before.item() - after.item() < 2 * promised


@pytest.mark.slow
@every
def test_those_read_labels_whose_rows_say_so(slug, images, tmp_path):
    """Other labels change what is learnt, or they do not."""
    other = replace(images, labels=torch.arange(24) // 8)
    encoders = []
    for folder, given in (("a", images), ("b", other)):
        method = made(slug, given)
        fit(method, given, epochs=1, batch_size=8, seed=0, folder=tmp_path / folder, device="cpu")
        encoders.append(torch.cat([p.flatten() for p in method.encoder.parameters()]))
    assert torch.equal(*encoders) != catalogue.find(slug).labels


@pytest.mark.slow
@every
def test_the_checkpoint_restores_all_of_it(slug, images, tmp_path):
    method = made(slug, images)
    fit(method, images, epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu")
    saved = read_checkpoint(tmp_path / CHECKPOINT)["state_dict"]
    fresh = made(slug, images)
    fresh.load_state_dict(saved)
    for name, value in method.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


@pytest.mark.parametrize("slug", UNTRAINED)
def test_what_does_not_train_finds_a_classifier_by_the_labels_and_leaves_the_rest_alone(slug, images, tmp_path):
    methods = []
    for folder, given in (("a", images), ("b", replace(images, labels=torch.arange(24) // 8))):
        method = made(slug, given)
        before = {name: p.clone() for name, p in method.encoder.state_dict().items()}
        (row,) = fit(method, given, epochs=1, batch_size=8, seed=0, folder=tmp_path / folder, device="cpu")
        assert "loss" not in row
        assert all(torch.equal(before[name], p) for name, p in method.encoder.state_dict().items())
        methods.append(method)
    found = [method.predict(images) for method in methods]
    assert all(x.isfinite().all() for x in found)
    assert torch.equal(*found) != catalogue.find(slug).labels
    fresh = made(slug, images)
    fresh.load_state_dict(methods[0].state_dict())
    assert torch.equal(fresh.predict(images), found[0])
