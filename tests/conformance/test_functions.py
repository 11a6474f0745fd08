"""What every public function of tensors must withstand: no NaN comes out in silence.

All functions of `ops`, of the measures, of the rooms and of the studies are tried; of the networks, the learners and
the data, whose other functions build modules and read files, those that take a tensor.

A function's valid call is the first one in its docstring's example, or that of `CALLS`. A function with neither fails,
so that none is left out. Each test then alters one number or tensor of that call at a time: the altered call must be
refused with an error that names the argument, or give finite numbers.
"""

import contextlib
import copy
import dataclasses
import doctest
import functools
import importlib
import inspect
import io
import json
import math
import pkgutil
import re
import signal
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch_geometric.data import HeteroData

from counterpoise.data import load
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.learners.classifier import Classifier
from counterpoise.measure import detection
from counterpoise.measure.inductive_bias import perceptron
from counterpoise.nets.diffusion import Schedule, UNet
from counterpoise.nets.flows import Flow
from worlds import seeded

FLOORS = ("ops", "measure", "contrast", "metric", "classify", "studies")
OF_TENSORS = ("nets", "learners", "data")

CHECKS = ("counterpoise.ops.checks", "counterpoise.ops.arrays")  # they are what refuses, and have tests of their own
# What the imperfections and the readers call with tensors that they made, and checked, themselves.
INNER = re.compile(
    r"data\.(annotated|coco_files|composed|decoding|draws|identity|images|parts|reading|scenes|shifts)\."
    r"|data\.views\.random_boxes|measure\.(probes\.knn_votes|detection\.(checked_boxes|areas_of)|matching\.(cells_of|rank_in_groups))"
)
CHECKED = ("data.images.fair_sample",)  # but not this one
# Whatever the rows hold: who calls these has checked them.
PASS_ON = re.compile(r"ops\.(processes|chunking|similarity)\.|data\.views\.to_input")
# In float32 the squares of 1e30 are infinite.
SQUARES = re.compile(
    r"metric\.(susana|composed_retrieval)\.|measure\.(opis|generalization_difficulty|inductive_bias)\."
)
ANY_INTEGER = (
    "contrast.g_simclr.guided_batches",
    "metric.susana.largest_class",
)  # is a label: clusterers have their own
SECONDS = 10  # a call that takes longer hangs
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)
NUMBERS = (math.nan, math.inf, -math.inf, -1, 0, 2.0, 2.5, "1", None)


class AnyMaps(nn.Module):
    """Takes whatever it is given."""

    def forward(self, x):
        return x.reshape(len(x), -1, 1, 1)


COUNTS = sparse.csr_matrix([[2, 1], [1, 1]])


def saved(content):
    """A file that holds this."""
    path = Path(tempfile.mkdtemp()) / "file.json"
    path.write_text(json.dumps(content))
    return path


def annotations():
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
    return saved({"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}], "annotations": [box]})


def results():
    return saved([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 4, 4]}])


def graph():
    """Three papers by two authors."""
    found = HeteroData()
    found["paper"].x, found["paper"].y = torch.eye(3), torch.tensor([0, 1, 0])
    found["author"].x = torch.eye(2)
    found["paper", "by", "author"].edge_index = torch.tensor([[0, 1, 2], [0, 1, 1]])
    return found


def rows(*shape):
    return torch.randn(*shape, generator=seeded(sum(shape)))


def total(x):
    """The sum of each row, whatever its shape."""
    return x.sum(tuple(range(1, x.ndim))) if x.ndim > 1 else x


class Sums(nn.Module):
    """The sum of each row, and the same below 0, of inputs of any shape."""

    features = 2

    def forward(self, x):
        return torch.stack([total(x), -total(x)], 1)


def classifier_of_sums():
    """Whose logits are the sums themselves, in any precision."""
    method = Classifier(Sums(), 2)
    method.classifier = nn.Identity()
    return method


def pair_labels(n):
    """Two of each class."""
    return torch.arange(n) // 2


def own(queries, negatives):
    """To exclude: each query's own image, which one of the negatives shows."""
    return torch.arange(queries), torch.arange(negatives)


def call(*args, **kwargs):
    return args, kwargs


# Valid calls of functions whose docstring has none that will do. Those whose own argument is a function or a network
# must get one that takes tensors of every shape.
CALLS = {
    "ops.chunking.map_row_chunks": lambda: call(lambda x, y: x * y.sum(), [torch.ones(5, 2)], [torch.ones(4, 2)], 2),
    "ops.attacks.pgd": lambda: call(
        lambda x: total(x.square()),
        *(rows(3, 2) / 4, 0.1, 2, 0.05),
        start=rows(3, 2) / 5,
    ),
    "learners.attacked.attack": lambda: call(
        classifier_of_sums(),
        *(rows(3, 2) / 4, lambda logits: total(logits.square()), 0.05, 2, 0.5),
        start=rows(3, 2) / 5,
    ),
    "measure.robustness.attacked_classes": lambda: call(
        Sums(),
        *(rows(3, 2) / 4, torch.tensor([0, 1, -1]), 0.1, 2, 1),
    ),
    "ops.processes.around": lambda: call({"x": torch.ones(2)}, {"sum": torch.zeros(2)}, lambda *_: None),
    "measure.bayesian_generalization.pool_images": lambda: call(AnyMaps(), torch.rand(5, 3, 2, 2)),
    "measure.inductive_bias.network_losses": lambda: call(
        perceptron(2, 1, 4), rows(4, 2), rows(4, 1), rows(3, 2), rows(3, 1), 2, 2, 4, 0.01
    ),
    "studies.bayesian_generalization.study": lambda: call("mnist", 0),
    "measure.detection.read_truth": lambda: call(annotations()),
    "measure.detection.read_detections": lambda: call(results(), detection.read_truth(annotations())),
    "ops.similarity.similarity_logsumexp": lambda: call(rows(3, 2), keys=rows(4, 2), log_weights=rows(4)),
    "ops.similarity.similarity_softmax": lambda: call(rows(3, 2), keys=rows(4, 2), log_weights=rows(4)),
    "nets.diffusion.ddim": lambda: call(lambda x, steps: x / 2, Schedule(), torch.rand(2, 1, 2, 2), 2),
    "nets.diffusion.train_denoiser": lambda: call(
        UNet(1, 8), Schedule(), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), to_float, 1, 2, 1e-3
    ),
    "nets.flows.train_flow": lambda: call(
        Flow((1, 4, 4), 2, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), to_float, 1, 2, 1e-3
    ),
    "ops.processes.global_row_indices": lambda: call(torch.zeros(3, 2), "x"),
    **{
        f"measure.survival.{name}": lambda: call(
            torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0]), rows(3), torch.tensor([0.5, 1.0, 2.0]), 0.5, 3.0
        )
        for name in ("concordance", "concordance_pairs")
    },
    "learners.classifier.cross_entropy": lambda: call(rows(4, 2), pair_labels(4), 0.1, torch.rand(2)),
    "contrast.genview.noise_levels": lambda: call(torch.tensor([0.13, 0.31, 0.72])),
    **{
        f"data.views.adjust_{step}": lambda: call(torch.rand(2, 3, 4, 4), torch.rand(2))
        for step in ("brightness", "contrast", "saturation", "hue")
    },
    "data.views.crop_resize": lambda: call(
        torch.rand(2, 3, 4, 4), torch.tensor([[0, 1], [0, 0], [2, 3], [4, 2]]), torch.tensor([True, False]), 3
    ),
    "data.views.gaussian_blur": lambda: call(torch.rand(2, 3, 4, 4), torch.rand(2), 1),
    "data.views.luma": lambda: call(torch.rand(2, 3, 4, 4)),
    "data.views.to_input": lambda: call(torch.rand(2, 3)),
    "measure.retrieval.retrieval": lambda: call(rows(4, 2), pair_labels(4), rows(4, 2), pair_labels(4)),
    "measure.retrieval.retrieval_each": lambda: call(rows(4, 2), pair_labels(4), rows(4, 2), pair_labels(4)),
    "contrast.dcl.dcl": lambda: call(rows(4, 2), rows(4, 2), 0.5, torch.rand(4)),
    "contrast.hydra.hydra": lambda: call(
        rows(4, 2),
        rows(4, 2),
        pair_labels(4),
        pair_labels(4).flip(0),
        torch.rand(4, 2),
        10.0,
        "dot",
        "rows",
        torch.tensor(0.5),
    ),
    "contrast.mcl.image_text_loss": lambda: call(rows(4, 2), rows(4, 2), pair_labels(4)),
    "contrast.hydra.gated_similarity": lambda: call(rows(3, 2), rows(4, 2), torch.rand(3, 2)),
    "contrast.contrastive_behaviour.penalty_entropy": lambda: call(rows(3, 2), rows(4, 2), 0.3, own(3, 4)),
    "contrast.contrastive_behaviour.hard_contrastive": lambda: call(
        rows(3, 2), rows(3, 2), rows(4, 2), 0.3, num_hard=2, exclude=own(3, 4)
    ),
    "contrast.contrastive_behaviour.simple_contrastive": lambda: call(
        rows(3, 2), rows(3, 2), rows(4, 2), num_hard=2, weight=0.5, exclude=own(3, 4)
    ),
    "contrast.cacr.repulsion": lambda: call(rows(3, 2), rows(4, 2), 2.0, own(3, 4)),
    "contrast.cacr.rbf_repulsion": lambda: call(rows(3, 2), rows(4, 2), exclude=own(3, 4)),
    "contrast.mochi.hardest_indices": lambda: call(rows(3, 2), rows(4, 2), 2, own(3, 4)),
    "contrast.mochi.mixed_nce": lambda: call(rows(3, 2), rows(3, 2), rows(4, 2), rows(3, 2, 2), exclude=own(3, 4)),
    "contrast.negatives.check_negatives": lambda: call(rows(3, 2), rows(4, 2), own(3, 4)),
    "contrast.groco.hardest_similarities": lambda: call(rows(3, 2), rows(4, 2), own(3, 4), 2),
    "contrast.projection_head.feature_weights": lambda: call(rows(2, 2), rows(2, 3)),
    "contrast.sbcl.sbcl": lambda: call(
        rows(4, 2), rows(4, 2), pair_labels(4), torch.arange(4), torch.rand(4) + 0.1, gamma=0.5
    ),
    "metric.metrix.utilization": lambda: call(rows(3, 2), rows(3, 2), rows(2, 2)),
    "metric.realrag.real_rag": lambda: call(
        rows(3, 2), rows(3, 2), rows(3, 2), labels=torch.arange(3), absent=torch.tensor([False, True, False])
    ),
    "metric.supremix.supremix": lambda: call(rows(4, 2), torch.tensor([0.0, 0.0, 1.0, 3.0]), torch.rand(4, 4)),
    "metric.susana.icnn": lambda: call(rows(4, 2), pair_labels(4), gallery=rows(4, 2), gallery_labels=pair_labels(4)),
    "contrast.g_simclr.train_autoencoder": lambda: call(load("mnist").test.subset(torch.arange(8)), 1),
    "contrast.genview.project": lambda: call(torch.rand(2, 3, 4, 4), torch.rand(3)),
    "contrast.genview.principal_direction": lambda: call(torch.rand(2, 3, 4, 4)),
    "contrast.genview.perturbed": lambda: call(torch.rand(3, 2), torch.tensor([0, 9, 99]), torch.rand(3, 2)),
    "contrast.mcl.redrawn": lambda: call(nn.Linear(2, 3).requires_grad_(False)),
    "contrast.meow.meta_paths": lambda: call(graph(), "paper"),
    "contrast.meow.incidence": lambda: call(graph(), "paper", "author"),
    "contrast.meow.path_counts": lambda: call(graph(), ("paper", "author", "paper")),
    "contrast.meow.labelled_type": lambda: call(graph()),
    "contrast.meow.strongest": lambda: call(COUNTS, 1),
    "contrast.meow.normalised": lambda: call(COUNTS),
    "contrast.meow.masked_links": lambda: call(COUNTS, 0.5, np.random.default_rng(0)),
    "contrast.meow.masked_features": lambda: call(torch.rand(3, 2), 0.5, np.random.default_rng(0)),
    "contrast.meow.prototypes": lambda: call(torch.eye(4), torch.tensor([0, 0, 1, 1]), 0.5),
    "contrast.projection_head.least_loss": lambda: call(torch.tensor([0.9, 0.5, 0.1]), 2),
    "contrast.sbcl.split_class": lambda: call(torch.eye(4), 2),
    "contrast.scatsimclr.shuffle": lambda: call(torch.rand(2, 9, 1, 2, 2), torch.arange(9).expand(2, 9)),
    "metric.learner.check_pairs": lambda: call(torch.tensor([0, 0, 1])),
    "metric.learner.pml": lambda: call("losses"),
    "metric.susana.distances": lambda: call(torch.eye(3), torch.eye(3)),
    "metric.susana.soften": lambda: call(torch.rand(3, 2)),
}
# They train a network: only numbers that must be refused are tried.
SLOW = ("studies.bayesian_generalization.study", "nets.diffusion.train_denoiser", "nets.flows.train_flow")


def public_functions():
    """Those that a module of these floors defines, by the names of module and function."""
    found = {}
    for floor in FLOORS + OF_TENSORS:
        package = importlib.import_module(f"counterpoise.{floor}")
        for module in pkgutil.iter_modules(package.__path__):
            members = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            for name, function in members.items():
                own = inspect.isfunction(function) and function.__module__ == members["__name__"] and name[0] != "_"
                if own and (floor in FLOORS or of_tensors(function)):
                    found[f"{floor}.{module.name}.{name}"] = function
    left_out = {name for name in found if INNER.match(name) and name not in CHECKED}
    return {n: function for n, function in found.items() if function.__module__ not in CHECKS and n not in left_out}


def of_tensors(function):
    """Whether one of the arguments is a tensor or an array, or holds some."""
    annotations = [str(parameter.annotation) for parameter in inspect.signature(function).parameters.values()]
    return any(re.search(r"Tensor|ndarray", text) and not text.startswith("Callable") for text in annotations)


FUNCTIONS = public_functions()
every = pytest.mark.parametrize("name", FUNCTIONS)
every_fast = pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in SLOW])
pytestmark = pytest.mark.usefixtures("plain_shapes")


# --- a call, and what becomes of it ---


@functools.cache
def valid_call(name):
    call = CALLS[name]() if name in CALLS else example_call(FUNCTIONS[name])
    assert call is not None, f"{name}: no example in its docstring calls it; add one, or its arguments to CALLS"
    bound = inspect.signature(FUNCTIONS[name]).bind(*call[0], **call[1])
    bound.apply_defaults()
    return bound


def example_call(function):
    """Arguments of the first call in the docstring's example that returns."""
    world, calls = dict(vars(inspect.getmodule(function))), []

    @functools.wraps(function)
    def recorder(*args, **kwargs):
        kept = copy.deepcopy((args, kwargs))
        found = function(*args, **kwargs)
        calls.append(kept)
        return found

    world[function.__name__] = recorder
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples(function.__doc__ or ""):
            if not calls and example.exc_msg is None:
                exec(compile(example.source, function.__name__, "single"), world)
    return calls[0] if calls else None


def values(name, **changes):
    """The numbers that the valid call returns, with these arguments instead of its own."""
    call = copy.deepcopy(valid_call(name))
    call.arguments |= changes
    torch.manual_seed(0)
    with deadline(), warnings.catch_warnings(), mock.patch("time.perf_counter", return_value=0.0):
        warnings.simplefilter("ignore", UserWarning)
        found = FUNCTIONS[name](*call.args, **call.kwargs)
        return list(leaves(list(found) if inspect.isgenerator(found) else found))


@contextlib.contextmanager
def deadline():
    def late(*_):
        raise TimeoutError(f"takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def leaves(x):
    """All tensors, arrays and numbers in what a function returns."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = [getattr(x, field.name) for field in dataclasses.fields(x)]
    elif isinstance(x, Mapping):
        x = list(x.values())
    if isinstance(x, list | tuple):
        for part in x:
            yield from leaves(part)
    elif isinstance(x, torch.Tensor | np.ndarray | int | float):
        yield torch.as_tensor(x)
    elif hasattr(x, "tocoo"):  # SciPy's sparse matrices
        yield torch.as_tensor(x.data)


def not_finite(name, found):
    """NaN, and infinity, in what a function returns, unless its docstring says that it may."""
    said = documented(FUNCTIONS[name])
    floating = [x for x in found if x.is_floating_point()]
    if "NaN" not in said and any(x.isnan().any() for x in floating):
        return "NaN comes out"
    if "infin" not in said and any(x.isinf().any() for x in floating):
        return "infinity comes out"
    return ""


def documented(function):
    """What the docstrings of a function, and of the class that it returns, say besides what is refused."""
    kind = getattr(inspect.getmodule(function), str(function.__annotations__.get("return", "")).strip('"'), None)
    texts = [inspect.getdoc(x) or "" for x in (function, kind) if x is not None]
    return " ".join(re.sub(r"(?s)\nRaises:.*?(\n\n|$)|>>>.*", "", text) for text in texts)


def fault(name, names, must_refuse=False, **changes):
    """What is wrong with the altered call: "" where it is refused by one of these names, or gives finite numbers."""
    try:
        found = values(name, **changes)
    except InputError as error:
        return "" if re.search(rf"\b({'|'.join(names)})\b", str(error)) else f"refused without its name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return not_finite(name, found) or ("is taken" if must_refuse else "")


# --- altered arguments ---


def arguments(name):
    """Name, annotation without shapes, and value of each argument of the valid call."""
    call = valid_call(name)
    for argument, value in call.arguments.items():
        annotation = str(call.signature.parameters[argument].annotation)
        yield argument, re.sub(r"\w*\[(Tensor|np.ndarray),[^\]]*\]", "", annotation), value


def altered(value, change):
    """Copies of an argument with one part changed, as (what was done, copy)."""
    if isinstance(value, Mapping):
        for key in value:
            yield from ((what, {**value, key: new}) for what, new in altered(value[key], change))
    elif isinstance(value, tuple) and hasattr(value, "_replace"):
        for key in value._fields:
            yield from ((what, value._replace(**{key: new})) for what, new in altered(getattr(value, key), change))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from ((w, type(value)([*value[:i], new, *value[i + 1 :]])) for w, new in altered(part, change))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for what, new in altered(getattr(value, field.name), change):
                with contextlib.suppress(InputError):  # refused where it is made
                    yield f".{field.name} {what}", dataclasses.replace(value, **{field.name: new})
    else:
        yield from change(value)


def is_number(x):
    return isinstance(x, int | float) and not isinstance(x, bool)


def wrong_numbers(value):
    if is_number(value) or value is None:
        yield from ((f"is {new!r}", new) for new in NUMBERS)


def wrong_sequences(value):
    if isinstance(value, list | tuple) and value and all(map(is_number, value)):
        yield from ((f"is {new!r}", new) for new in ((), 5, "12"))


def floating(value):
    """Whether this is a tensor or an array of numbers of which one can be wrong."""
    if not isinstance(value, torch.Tensor | np.ndarray):
        return False
    x = torch.as_tensor(value)
    return x.is_floating_point() and x.numel() > 0


def like(value, x):
    """A tensor as what it is altered from: a tensor or an array."""
    return x.numpy() if isinstance(value, np.ndarray) else x


def other_shapes(value):
    """More and fewer dimensions, rows and columns, down to none."""
    if not floating(value):
        return
    x = torch.as_tensor(value).detach()
    shapes = {"one dimension more": x[None]}
    if x.ndim:
        shapes |= {"one dimension less": x[0], "one row less": x[:-1], "one row": x[:1], "no row": x[:0]}
        shapes |= {"one column less": x[..., :-1], "no column": x[..., :0]}
    yield from ((f"has {what}", like(value, new)) for what, new in shapes.items() if new.shape != x.shape)


def extreme_numbers(value):
    if floating(value):
        x = torch.as_tensor(value).detach()
        yield from ((f"is {scale} times as large", like(value, x * scale)) for scale in (0.0, 1e18, 1e30))


def no_numbers(value):
    if floating(value):
        for number in (math.nan, math.inf):
            new = torch.as_tensor(value).detach().clone()
            new.view(-1)[-1] = number
            yield f"has {number}", like(value, new)


def ones(value):
    if floating(value):
        yield "is of ones", like(value, torch.ones_like(torch.as_tensor(value)))


def whole_ones(value):
    if floating(value):
        yield "is of ones", like(value, torch.ones_like(torch.as_tensor(value), dtype=torch.int64))


def integers(value):
    return isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.numel() > 0


def other_integers(value):
    if integers(value):
        limits = {dtype: torch.iinfo(dtype) for dtype in INTEGERS}
        kept = [dtype for dtype, held in limits.items() if held.min <= value.min() and value.max() <= held.max]
        yield from ((f"is {dtype}", value.to(dtype)) for dtype in kept)


def no_integers(value):
    if integers(value):
        yield from ((f"is {dtype}", value.to(dtype)) for dtype in (torch.float32, torch.bool))


def no_labels(value):
    if integers(value):
        new = value.clone()
        new.view(-1)[0] = -2
        yield "has -2", new


def shown(found):
    return "\n".join(line for line in found if line)


@every_fast
def test_a_valid_call_gives_finite_numbers(name):
    assert not not_finite(name, values(name))


@every
def test_the_valid_call_gives_every_tensor(name):
    """Also those that may be left out: what is not given is not tried."""
    call = valid_call(name)
    optional = [p.name for p in call.signature.parameters.values() if "Tensor" in str(p.annotation)]
    without = [argument for argument in optional if call.arguments[argument] is None]
    assert not without, f"{name}: add a call that gives {', '.join(without)} to CALLS"


@every
def test_wrong_numbers_are_refused_by_name(name):
    found = []
    for argument, annotation, value in arguments(name):
        kinds = set(re.findall(r"\b(int|float|str|None)\b", annotation))
        if not kinds & {"int", "float"}:
            continue
        never = {"is nan"} | ({"is '1'", "is '12'"} if "str" not in kinds else set())
        never |= {"is 2.0", "is 2.5"} if "float" not in kinds else set()
        never |= {"is None"} if "None" not in kinds else set()
        never |= {"is inf", "is -inf"} if is_number(value) and "infin" not in documented(FUNCTIONS[name]) else set()
        sequences = wrong_sequences(value)
        for what, new in [*altered(value, wrong_numbers), *sequences]:
            must_refuse = what in never or what == "is 5"
            if must_refuse or name not in SLOW:
                # A number that is out of range only beside another one may be refused by that one's name.
                names = [argument] if must_refuse else list(valid_call(name).arguments)
                wrong = fault(name, names, must_refuse, **{argument: new})
                found.append(wrong and f"{argument} {what}: {wrong}")
    assert not shown(found), shown(found)


def faults(name, change, must_refuse=False):
    """What is wrong with the calls in which one argument at a time is changed so."""
    found, names = [], list(valid_call(name).arguments)
    for argument, _, value in arguments(name):
        for what, new in altered(value, change):
            wrong = fault(name, [argument] if must_refuse else names, must_refuse, **{argument: new})
            found.append(wrong and f"{argument} {what}: {wrong}")
    return shown(found)


@every_fast
def test_other_shapes_are_refused_by_name(name):
    found = faults(name, other_shapes)
    assert not found, found


@every_fast
def test_zeros_and_huge_numbers_give_finite_numbers(name):
    found = faults(name, extreme_numbers)
    if SQUARES.match(name):
        found = shown(line for line in found.split("\n") if "1e+30" not in line)
    assert not found, found


@every_fast
def test_nan_and_infinity_are_refused_by_name(name):
    if not PASS_ON.match(name):
        found = faults(name, no_numbers, must_refuse=True)
        assert not found, found


@every_fast
def test_integers_give_what_the_same_numbers_give_or_are_refused_by_name(name):
    for argument, _, value in [] if PASS_ON.match(name) else arguments(name):
        for (what, new), (_, whole) in zip(altered(value, ones), altered(value, whole_ones), strict=True):
            with contextlib.suppress(InputError):  # ones may be refused; integers are then, too
                expected = values(name, **{argument: new})
                wrong = fault(name, [argument], **{argument: whole})
                assert not wrong, f"{argument} {what}: {wrong}"
                for ours, theirs in zip(values(name, **{argument: whole}), expected, strict=True):
                    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-6, atol=1e-6, equal_nan=True)


@every_fast
@pytest.mark.parametrize("count", [0, 1])
def test_no_sample_and_one_sample(name, count):
    """All tensors that have a row for each sample are cut alike, so that their shapes go together."""
    given = {argument: value for argument, _, value in arguments(name)}
    rows = {argument: value for argument, value in given.items() if isinstance(value, torch.Tensor) and value.ndim}
    samples = next((len(value) for value in rows.values()), 0)
    cut = {argument: value[:count] for argument, value in rows.items() if len(value) == samples}
    if isinstance(given.get("exclude"), tuple):
        cut["exclude"] = (given["exclude"][0][:count], given["exclude"][1])
    wrong = fault(name, list(given), **cut)
    assert not wrong, wrong


@every_fast
def test_every_type_of_integers_gives_the_same(name):
    found = []
    for argument, _, value in arguments(name):
        for what, new in altered(value, other_integers):
            try:
                pairs = list(zip(values(name), values(name, **{argument: new}), strict=True))
                same = all(torch.equal(a.double().nan_to_num(-7), b.double().nan_to_num(-7)) for a, b in pairs)
                found.append("" if same else f"{argument} {what}: gives other numbers")
            except Exception as error:
                found.append(f"{argument} {what}: {type(error).__name__}: {str(error)[:100]}")
    assert not shown(found), shown(found)


@every_fast
def test_what_is_no_integer_is_refused_by_name(name):
    parameters = valid_call(name).signature.parameters
    for argument, _, value in arguments(name):
        if re.match(r"Int\w*\[(Tensor|np.ndarray)[^|]*$", str(parameters[argument].annotation)):
            for what, new in altered(value, no_integers):
                wrong = fault(name, [argument], must_refuse=True, **{argument: new})
                assert not wrong, f"{argument} {what}: {wrong}"


@every_fast
def test_below_minus_one_is_no_label(name):
    for argument, _, value in arguments(name):
        if argument in ("labels", "partners") and name not in ANY_INTEGER:
            for what, new in altered(value, no_labels):
                wrong = fault(name, [argument], must_refuse=True, **{argument: new})
                assert not wrong, f"{argument} {what}: {wrong}"


@every_fast
def test_an_unknown_word_is_refused_by_name(name):
    for argument, annotation, value in arguments(name):
        if isinstance(value, str) and annotation.strip("'") != "str" and argument != "device":  # torch's own words
            wrong = fault(name, [argument], must_refuse=True, **{argument: "other"})
            assert not wrong or inspect.isgeneratorfunction(inspect.unwrap(FUNCTIONS[name])), f"{argument}: {wrong}"


DIGITS = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}


@every_fast
@pytest.mark.parametrize("dtype", DIGITS, ids=["16", "bf16", "32"])
def test_rounded_inputs_give_what_double_precision_makes_of_them(name, dtype):
    given = {argument: value for argument, _, value in arguments(name) if floating(value)}
    if not all(isinstance(value, torch.Tensor) for value in given.values()):
        return
    rounded = {argument: value.detach().to(dtype) for argument, value in given.items()}
    found = values(name, **rounded)
    expected = values(name, **{argument: value.double() for argument, value in rounded.items()})
    digits = DIGITS[dtype]
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=digits, atol=digits, equal_nan=True)
