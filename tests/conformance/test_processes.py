"""Every objective over several processes: after DDP's averaging, loss and gradient are those of the whole batch in one.

Each process embeds its own rows by a weight that all share, as DDP has it; the batch is uneven, or even, over 2 or 4
processes, and rows are gathered or go around a ring. States that objectives keep must then be equal, too.
"""

import inspect

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import worlds
from conformance.test_objectives import BATCH_OF_ALL, OBJECTIVES, D, M
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.alternating import Alternating
from counterpoise.learners.attacked import AttackedClassifier
from counterpoise.ops.processes import exchanging
from counterpoise.registry import catalogue
from counterpoise.training.run import ImageSettings, Run
from counterpoise.training.trainer import ProcessGroupConfig, fit

pytestmark = pytest.mark.slow
WIDTH = 3
# The third class has no second row, so that the process which holds it alone has no anchor of its own.
LABELS = torch.tensor([0, 1, 0, 1, 1, 0, 2, 2])
# Images without a label are the first ones of their processes, which have the same labels besides.
HOLES = torch.tensor([-1, 1, 0, 0, -1, 1, 0])
BATCHES = {"even": LABELS, "uneven": LABELS[:7], "unlabelled": HOLES}  # 7 rows on 4 processes: 2, 2, 2, 1
TASKS = {"pretrain", "classify", "retrieve", "few-shot"}  # of images
FORMS = [  # of methods, besides the one that their arguments' defaults make
    ("dcl", {"form": "one-way"}),
    ("dcl", {"form": "moco"}),
    ("cacr", {"form": "queue"}),
    ("cacr", {"form": "queue", "in_batch": False}),
    ("cacr", {"form": "momentum"}),
    ("cacr", {"form": "momentum", "cost": "rbf"}),
    ("genview", {"host": "moco"}),
    ("genview", {"host": "moco-v3"}),
    ("genview", {"host": "simsiam"}),
    ("amcl", {"base": "moco"}),
    ("amcl", {"base": "moco", "form": "nt-xent"}),
    ("amcl", {"base": "simsiam"}),
    ("amcl", {"base": "barlow-twins"}),
    ("mochi", {"negatives": "other-classes"}),
    ("hydra", {"partners": "distinct", "same_class": 0.5, "instance": 0.5, "momentum": 0.9}),
    ("projection-head", {"objective": "supcon"}),
]
KINDS = {p.slug: catalogue.load_class(p.slug) for p in catalogue.select(done=True) if TASKS & {*p.tasks}}
TURNS = [slug for slug, kind in KINDS.items() if issubclass(kind, Alternating)]  # in one process, and refuse more
METHODS = [slug for slug, kind in KINDS.items() if kind.trains and slug not in TURNS]
METHOD_CASES = {f"{slug} {kind}": (slug, {}, kind) for slug in METHODS for kind in ("uneven", "unlabelled")} | {
    " ".join([slug, *(f"{name}={value}" for name, value in form.items())]): (slug, form, "unlabelled")
    for slug, form in FORMS
}
CASES = [
    (name, exchange, kind)
    for name, objective in OBJECTIVES.items()
    for exchange in ("gather", "ring")
    for kind in BATCHES
    if kind != "unlabelled" or "labels" in inspect.signature(objective.forward).parameters
]


class Embed(torch.nn.Module):
    """What all processes train: rows by a shared weight, each input shifted by its own."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, D, generator=generator, dtype=torch.float64))

    def forward(self, given):
        return {name: x @ self.weight if x.is_floating_point() else x for name, x in given.items()}


def batch(kind, labels):
    """Inputs of the whole batch by their names, before they are embedded."""
    rng = torch.Generator().manual_seed(0)
    found, rows = {}, len(labels)
    for p in list(inspect.signature(kind.forward).parameters.values())[1:]:
        if p.name == "labels":
            found[p.name] = labels
        elif p.name == "targets":
            found[p.name] = LABELS[:rows]
        elif p.name in ("times", "events"):
            found[p.name] = LABELS[:rows] + 1 if p.name == "times" else LABELS[:rows] % 2
        elif p.name == "clusters":
            found[p.name] = torch.stack([LABELS[:rows], LABELS[:rows].flip(0)], 1)
        elif p.name == "subclasses":
            found[p.name] = torch.arange(rows) // 4
        elif p.name.endswith("index"):
            found[p.name] = torch.randperm(rows, generator=rng)
        elif p.default is p.empty:
            shape = {"negatives": (M,), "prototypes": (3,), "views": (3, rows)}.get(p.name, (rows,))
            found[p.name] = torch.randn(*shape, WIDTH, generator=rng, dtype=torch.float64)
    return found


def part(name, x, sizes, rank):
    return x if name in BATCH_OF_ALL else worlds.shard(x, sizes, rank, dim=1 if name == "views" else 0)


def two_steps(kind, labels, sizes=None, rank=0):
    """Losses, gradients and states of two batches, of which a process takes its share."""
    required = [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    known = {"dim": D, "counts": torch.arange(1, D + 1), "edges": torch.arange(D + 1.0)}
    sizes_of = {name: known.get(name, len(LABELS)) for name in required}
    torch.manual_seed(0)  # proxies are drawn
    objective, model = kind(**sizes_of).double(), Embed()
    if sizes:
        model = DistributedDataParallel(model)
    found = []
    for step in range(2):
        given = {name: x + step if x.is_floating_point() else x for name, x in batch(kind, labels).items()}
        if sizes:
            given = {name: part(name, x, sizes, rank) for name, x in given.items()}
        model.zero_grad()
        loss = objective(**model(given))
        loss.backward()
        found += [loss.detach(), next(model.parameters()).grad.clone()]
    return found + [x.clone() for x in objective.buffers()]


class Flat(torch.nn.Sequential):
    """An encoder of images whose rows do not see each other, as they do in batch normalisation.

    It ends with the mean over a map, of a single place, in which Metrix mixes features.
    """

    features = 5

    def __init__(self):
        place, mean = torch.nn.Unflatten(1, (5, 1, 1)), torch.nn.AdaptiveAvgPool2d(1)
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(9, 5), place, mean, torch.nn.Flatten())


def method_steps(slug, form, labels, sizes=None, rank=0):
    """Losses, averaged gradients and buffers of a whole method, in one of its forms, over two batches."""
    torch.manual_seed(0)
    kind = catalogue.load_class(slug)
    wanted = inspect.signature(kind).parameters
    small = {"samples": 8, "classes": 3, "shape": [1, 3, 3], "queue": 12, "scattering": False, "pretext": "none"}
    given = {name: value for name, value in small.items() if name in wanted} | form
    method = kind(Flat(), **given).double()
    for name, module in list(method.named_modules()):
        if isinstance(module, torch.nn.BatchNorm1d):
            method.set_submodule(name, torch.nn.Identity())
    if isinstance(method, AttackedClassifier):  # whose attack starts where each process draws it for itself
        method.attacked = lambda images, *labels: 0.9 * images
    learnt = [p for p in method.parameters() if p.requires_grad]
    found, rows = [], len(labels)
    for _ in range(2):
        batch = [*torch.randn(method.views, rows, 1, 3, 3, dtype=torch.float64), labels, torch.randperm(rows)]
        *images, own, index = [worlds.shard(x, sizes, rank) for x in batch] if sizes else batch
        loss = method.loss(images, own, index)
        gradients = torch.autograd.grad(loss, learnt)
        if sizes:
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient /= len(sizes)
        found += [loss.detach(), *gradients]
    return found + [x.clone() for x in method.buffers()]


def all_cases(rank, world):
    found = {}
    for case, (slug, form, kind) in METHOD_CASES.items():
        labels = BATCHES[kind]
        found[case] = method_steps(slug, form, labels, worlds.sizes_of(len(labels), world), rank)
    for name, exchange, kind in CASES:
        labels = BATCHES[kind]
        with exchanging(exchange):
            sizes = worlds.sizes_of(len(labels), world)
            found[name, exchange, kind] = two_steps(OBJECTIVES[name], labels, sizes, rank)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def processes(request):
    return worlds.run(request.param, all_cases)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_loss_gradient_and_state_are_those_of_one_process(case, processes):
    name, _, kind = case
    expected = two_steps(OBJECTIVES[name], BATCHES[kind])
    assert any(x.abs().max() > 1e-3 for x in expected[1::2])
    for found in processes:
        for ours, theirs in zip(found[case], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", METHOD_CASES)
def test_a_whole_method_does_what_it_does_in_one_process(case, processes):
    slug, form, kind = METHOD_CASES[case]
    expected = method_steps(slug, form, BATCHES[kind])
    for found in processes:
        for ours, theirs in zip(found[case], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_catalogue_has_methods_whose_players_take_turns():
    assert "rcal" in TURNS


@pytest.mark.parametrize("slug", TURNS)
def test_players_that_take_turns_refuse_several_processes_by_the_method_s_name(slug, tmp_path):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 1, 16, 16), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(24) % 3, ("a", "b", "c"), "noise")
    task = next(t for t in catalogue.papers()[slug].tasks if t in TASKS)
    settings = ImageSettings(epochs=1, batch_size=8)
    learner = worlds.build(Run(slug, "noise", seed=0, settings=settings, task=task), images)
    refused = f"devices: {KINDS[slug].__name__} trains in turns, in one process, got 2"
    with pytest.raises(InputError, match=refused):
        fit(
            learner,
            images,
            epochs=1,
            batch_size=8,
            seed=0,
            folder=tmp_path,
            device="cpu",
            process_group=ProcessGroupConfig(devices=2),
        )
