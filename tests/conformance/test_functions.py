"""What every public function of `ops`, of the measures and of the rooms must withstand: no NaN comes out in silence.

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
from counterpoise.errors import InputError
from counterpoise.measure import ap_pool

FLOORS = ("ops", "measure", "contrast", "metric", "classify")
CHECKS = "counterpoise.ops.checks"  # they are what refuses, and have tests of their own
SECONDS = 10  # a call that takes longer hangs
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32)


class AnyMaps(nn.Module):
    """Takes whatever it is given."""

    def forward(self, x):
        return x.reshape(len(x), -1, 1, 1)


SCORES, CORRECT = np.linspace(0.1, 0.9, 9), np.arange(9) % 3 > 0
COUNTS = sparse.csr_matrix([[2, 1], [1, 1]])


def detected():
    """Two boxes of one image, and what was found of them."""
    boxes = np.array([[0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 4.0, 4.0]])
    truth = ap_pool.Truth(np.array([1, 1]), np.array([0, 1]), boxes)
    return ap_pool.Detections(np.array([1, 1]), np.array([0, 1]), np.array([0.9, 0.4]), boxes), truth


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


def call(*args, **kwargs):
    return args, kwargs


# Valid calls of functions whose docstring has none that will do. Those whose own argument is a function or a network
# must get one that takes tensors of every shape.
CALLS = {
    "ops.chunking.map_row_chunks": lambda: call(lambda x, y: x * y.sum(), [torch.ones(5, 2)], [torch.ones(4, 2)], 2),
    "ops.processes.around": lambda: call({"x": torch.ones(2)}, {"sum": torch.zeros(2)}, lambda *_: None),
    "measure.bayesian_generalization.pool_images": lambda: call(AnyMaps(), torch.rand(5, 3, 2, 2)),
    "measure.bayesian_generalization.study": lambda: call("mnist", 0),
    "measure.ap_pool.ap_image_cap": lambda: call(*detected()),
    "measure.ap_pool.calibration_errors": lambda: call(*detected()),
    "measure.ap_pool.fit_platt": lambda: call(SCORES, CORRECT),
    "measure.ap_pool.fit_beta": lambda: call(SCORES, CORRECT),
    "measure.ap_pool.fit_temperature": lambda: call(SCORES, CORRECT),
    "measure.ap_pool.read_truth": lambda: call(annotations()),
    "measure.ap_pool.read_detections": lambda: call(results(), ap_pool.read_truth(annotations())),
    "measure.ap_pool.simulate": lambda: call(3, np.ones((4, 2)), np.random.default_rng(0)),
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
SLOW = ("measure.bayesian_generalization.study",)


def public_functions():
    """Those that a module of these floors defines, by the names of module and function."""
    found = {}
    for floor in FLOORS:
        package = importlib.import_module(f"counterpoise.{floor}")
        for module in pkgutil.iter_modules(package.__path__):
            members = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            for name, function in members.items():
                if inspect.isfunction(function) and function.__module__ == members["__name__"] and name[0] != "_":
                    found[f"{floor}.{module.name}.{name}"] = function
    return {name: function for name, function in found.items() if function.__module__ != CHECKS}


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
        yield from ((f"is {new!r}", new) for new in (math.nan, math.inf, -1, 0, 2.5, "1"))


def wrong_sequences(value):
    if isinstance(value, list | tuple) and value and all(map(is_number, value)):
        yield from ((f"is {new!r}", new) for new in ((), 5, "12"))


def wrong_tensors(value):
    if not isinstance(value, torch.Tensor | np.ndarray):
        return
    x, array = torch.as_tensor(value).detach(), isinstance(value, np.ndarray)
    if not x.is_floating_point() or not x.numel():
        return
    shapes = {"one dimension more": x[None], **({"one row less": x[:-1], "one dimension less": x[0]} if x.ndim else {})}
    for number in (math.nan, math.inf):
        shapes[str(number)] = x.clone()
        shapes[str(number)].view(-1)[-1] = number
    yield from ((f"has {what}", new.numpy() if array else new) for what, new in shapes.items())


def other_integers(value):
    if isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.numel():
        limits = {dtype: torch.iinfo(dtype) for dtype in INTEGERS}
        kept = [dtype for dtype, held in limits.items() if held.min <= value.min() and value.max() <= held.max]
        yield from ((f"is {dtype}", value.to(dtype)) for dtype in kept)


def shown(found):
    return "\n".join(line for line in found if line)


@every_fast
def test_a_valid_call_gives_finite_numbers(name):
    assert not not_finite(name, values(name))


@every
def test_wrong_numbers_are_refused_by_name(name):
    found = []
    for argument, annotation, value in arguments(name):
        kinds = set(re.findall(r"\b(int|float|str)\b", annotation))
        if not kinds & {"int", "float"}:
            continue
        never = {"is nan"} | ({"is '1'", "is '12'"} if "str" not in kinds else set())
        never |= {"is 2.5"} if "float" not in kinds else set()
        sequences = wrong_sequences(value)
        for what, new in [*altered(value, wrong_numbers), *sequences]:
            must_refuse = what in never or what == "is 5"
            if must_refuse or name not in SLOW:
                # A number that is out of range only beside another one may be refused by that one's name.
                names = [argument] if must_refuse else list(valid_call(name).arguments)
                wrong = fault(name, names, must_refuse, **{argument: new})
                found.append(wrong and f"{argument} {what}: {wrong}")
    assert not shown(found), shown(found)


@every_fast
def test_wrong_tensors_are_refused_by_name(name):
    found, names = [], list(valid_call(name).arguments)
    for argument, _, value in arguments(name):
        for what, new in altered(value, wrong_tensors):
            wrong = fault(name, names, **{argument: new})
            found.append(wrong and f"{argument} {what}: {wrong}")
    assert not shown(found), shown(found)


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
