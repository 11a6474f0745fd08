"""Every public class of the room: numbers that make no sense, and what becomes of constants in other precisions.

A new class fails `test_every_class_is_here` until what it needs stands in `NEEDS`.
"""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from conformance.test_objectives import OBJECTIVES, inputs, make
from contrast.test_functions import modules
from counterpoise.contrast.diti import DiTiLoss, shifts, weights
from counterpoise.contrast.hydra import HydraLoss
from counterpoise.contrast.isogclr import ISogCLRLoss
from counterpoise.contrast.projection_head import FixedReweightHead, SymmetricReLU, reweighting
from counterpoise.data import Images
from counterpoise.data.graphs import planted_graph
from counterpoise.errors import InputError
from counterpoise.nets.diffusion import Schedule, UNet
from worlds import Encoder

pytestmark = pytest.mark.slow  # `make quick` has tests/conformance/test_objectives.py


def photos():
    pixels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(8) % 2, ("a", "b"), "noise")


STATE = {"samples": 8, "rho": 0.4, "gamma": 0.8, "eta": 0.03, "beta": 0.5, "tau": 0.1}
STATE |= {"tau_min": 0.05, "tau_max": 1.0, "clip": 3.0}
TINY = {"encoder": Encoder(64, features=8, channels=1), "lr": 1e-3}
GRAPH = planted_graph(nodes=40, classes=2)
LINKS = {"graph": GRAPH, "path": ("paper", "author", "paper"), "gone": (0.3, np.random.default_rng(0))}

# Of each class the arguments that it wants; those that another one switches on; and none where there are no numbers.
NEEDS = {
    "amcl.AMCLLoss": {},
    "amcl.PairTemperature": {"dim": 4},
    "amcl.MultiHeadProjector": {"features": 8, "hidden": 8, "dim": 4},
    "amcl.AMCL": TINY,
    "cacr.CACRLoss": {},
    "cacr.CACRQueueLoss": {},
    "cacr.CACRMomentumLoss": {},
    "cacr.CACR": TINY,
    "contrastive_behaviour.HardContrastiveLoss": {"num_hard": 2},
    "contrastive_behaviour.SimpleContrastiveLoss": {"num_hard": 2, "weight": 0.5},
    "contrastive_behaviour.HardContrastive": {**TINY, "samples": 8},
    "dcl.DCLLoss": {},
    "dcl.DCL": TINY,
    "diti.DiTiLoss": {},
    "diti.TimeBlocks": {"dim": 4, "blocks": 2},
    "diti.ResidualDecoder": {"net": UNet(1, 8), "dim": 4},
    "diti.Coder": {"backbone": nn.Identity(), "features": 8, "dim": 4},
    "diti.DiTi": {**TINY, "blocks": 2},
    "g_simclr.DenoisingAutoencoder": {"channels": 1},
    "g_simclr.PseudoLabelBatchSampler": {"labels": torch.arange(8), "batch_size": 2},
    "g_simclr.GSimCLR": {**TINY, "samples": 8, "clusters": 2},
    "genview.GenViewLoss": {},
    "genview.TokenEncoder": {"dim": 16},
    "genview.SmallUnCLIP": {},
    "genview.StableUnCLIP": {"pipeline": print},
    "genview.GenView": {**TINY, "samples": 8},
    "groco.GroCoLoss": {},
    "groco.HardNTXentLoss": {},
    "groco.GroCo": TINY,
    "hydra.HydraLoss": {},
    "hydra.Filter": {"classes": 3, "dim": 4},
    "hydra.Hydra": {**TINY, "samples": 8, "classes": 3, "momentum": 0.9, "instance": 1.0},
    "isogclr.SampleTemperatures": STATE,
    "isogclr.ISogCLRLoss": {"samples": 8},
    "isogclr.ISogCLRPairLoss": {"images": 8, "texts": 8},
    "isogclr.ISogCLR": {**TINY, "samples": 8},
    "isogclr.CaptionedImages": {"images": torch.eye(2), "texts": torch.eye(2), "owner": torch.arange(2)},
    "isogclr.ISogCLRPairs": {"image_encoder": Encoder(), "text_encoder": Encoder(), "images": 8, "texts": 8},
    "mcl.Stages": {"encoder": Encoder(64, features=8, channels=1), "stages": 2},
    "mcl.MCL": {**TINY, "samples": 8},
    "meow.MEOWLoss": {},
    "meow.AdaMEOWLoss": {"dim": 4},
    "meow.GraphEncoder": {"dim": 4, "dropout": 0.2},
    "meow.Fusion": {"dim": 4},
    "meow.Nodes": {"graph": GRAPH, "kind": "paper", "dim": 4, "dropout": 0.2},
    "meow.Links": {**LINKS, "most": 2, "dim": 4, "dropout": 0.2},
    "meow.Meow": {"graph": GRAPH, "clusters": "4"},
    "meow.Losses": {"patience": 2},
    "mlcd.MLCDLoss": {},
    "mlcd.PatchFeatures": {"images": photos(), "kinds": 4},
    "mlcd.MLCD": {**TINY, "samples": 16},
    "mochi.HardNegativeMixing": {},
    "mochi.MixedNCELoss": {},
    "mochi.MoCHi": TINY,
    "moco.QueueNCELoss": {},
    "moco.MoCo": TINY,
    "projected.ProjectedMethod": TINY,
    "projection_head.FixedReweightHead": {"dim": 4, "kappa": 1.5},
    "projection_head.SymmetricReLU": {},
    "projection_head.Digits": {"images": photos()},
    "projection_head.ProjectionHead": TINY,
    "sbcl.SBCLLoss": {},
    "sbcl.SBCL": {**TINY, "samples": 8, "classes": 3},
    "scatsimclr.Scattering": {},
    "scatsimclr.ResidualBlock": {"width": 4, "out": 4},
    "scatsimclr.ScatteringEncoder": {"channels": 1},
    "scatsimclr.RotationHead": {"features": 8},
    "scatsimclr.JigsawHead": {"features": 8, "count": 4},
    "scatsimclr.ScatSimCLR": {**TINY, "orientations": 2, "widths": (4, 4)},
    "simclr.NTXentLoss": {},
    "simclr.SimCLR": TINY,
    "supcon.SupConLoss": {},
    "supcon.SupCon": TINY,
}
WITHOUT_NUMBERS = {"amcl.Pairs", "mochi.Draws", "projection_head.SpectralContrastiveLoss"}
CLASSES = {
    f"{short}.{name}": found
    for short, module in modules()
    for name, found in vars(module).items()
    if inspect.isclass(found) and found.__module__ == module.__name__ and not name.startswith("_")
}


def numbers(name):
    """Arguments that are numbers, and whether they are whole ones."""
    for parameter in inspect.signature(CLASSES[name]).parameters.values():
        kind = str(parameter.annotation).removesuffix(" | None")
        if kind in ("int", "float"):
            yield parameter.name, kind == "int"


def test_every_class_is_here():
    assert {*CLASSES} == {*NEEDS} | WITHOUT_NUMBERS


@pytest.mark.parametrize(("name", "argument", "whole"), [(name, *number) for name in NEEDS for number in numbers(name)])
def test_a_number_that_makes_no_sense_is_refused_by_name(name, argument, whole, plain_shapes):
    for value in (math.nan, math.inf, "x", *([2.5] if whole else [])):
        with pytest.raises(InputError, match=f"{argument}: expected"):
            CLASSES[name](**{**NEEDS[name], argument: value})
    for value in (0, -1, 2.5):  # in range, or refused
        try:
            CLASSES[name](**{**NEEDS[name], argument: value})
        except InputError as error:
            assert any(f"{a}: " in str(error) for a, _ in numbers(name))  # noqa: PT017


# Precision

ROOM = {name: kind for name, kind in OBJECTIVES.items() if kind.__module__.startswith("counterpoise.contrast")}
every = pytest.mark.parametrize("kind", ROOM.values(), ids=ROOM)


@pytest.fixture
def double():
    """What is made meanwhile is made in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@every
def test_double_keeps_nothing_that_float32_has_rounded(kind, double):
    torch.manual_seed(0)
    exact = make(kind)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    objective = make(kind).double()
    learnt = {name for name, p in objective.named_parameters() if p.requires_grad and p.numel() > 1}
    exact.load_state_dict({name: x for name, x in objective.state_dict().items() if name in learnt}, strict=False)
    for name, x in objective.named_buffers():
        assert torch.equal(x, dict(exact.named_buffers())[name]), name
    given = inputs(kind, dtype=torch.float64)
    found = objective(**given)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact(**given), rtol=1e-12, atol=1e-12)


@every
def test_half_precision_is_computed_in_float32(kind):
    given = inputs(kind, dtype=torch.float16)
    found = make_alike(kind)(**given)
    exact = make_alike(kind).double()(**{a: x.double() if x.is_floating_point() else x for a, x in given.items()})
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


@every
def test_a_module_in_half_precision_works_or_is_refused(kind):
    given = inputs(kind, dtype=torch.float16)
    exact = make_alike(kind).double()(**{a: x.double() if x.is_floating_point() else x for a, x in given.items()})
    try:
        found = make_alike(kind).half()(**given)
    except InputError as error:
        assert "mixed precision" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(found.double(), exact, rtol=5e-3, atol=5e-3)


def make_alike(kind):
    torch.manual_seed(0)
    return make(kind)


def test_constants_in_numbers():
    assert HydraLoss(temperature=0.05).double().log_scale.exp().item() == pytest.approx(20, rel=1e-14)
    assert ISogCLRLoss(4, tau=0.1).double().state.tau.tolist() == [0.1] * 4
    assert SymmetricReLU(0.1).double().threshold.item() == 0.1
    assert torch.equal(FixedReweightHead(9, 1.05).double().weights, reweighting(9, 1.05))
    loss, schedule = DiTiLoss().double(), Schedule().double()
    assert torch.equal(loss.shift, shifts(schedule))
    assert torch.equal(loss.weight, weights(schedule))
    assert torch.equal(schedule.signal, schedule.kept.sqrt())
    assert shifts(Schedule()).dtype == weights(Schedule()).dtype == torch.float32


def test_what_has_been_learnt_is_kept():
    loss, state = HydraLoss(), ISogCLRLoss(2)
    with torch.no_grad():
        loss.log_scale += 0.1
        state.state.tau[0] = 0.7
    found = loss.log_scale.item()
    assert loss.double().log_scale.item() == found
    assert state.double().state.tau.tolist() == [torch.tensor(0.7).item(), torch.tensor(0.1).item()]


# Labels and other numbers


@every
def test_integers_may_be_of_any_type(kind):
    given = inputs(kind)
    integers = {name: x for name, x in given.items() if not x.is_floating_point()}
    expected = make_alike(kind)(**given)
    for dtype in (torch.int32, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.uint8):
        fits = {name: x.to(dtype) for name, x in integers.items() if int(x.max()) < 256 or dtype != torch.uint8}
        torch.testing.assert_close(make_alike(kind)(**{**given, **fits}), expected, rtol=0, atol=0)


@every
def test_minus_one_is_no_label_and_what_is_below_is_refused(kind, plain_shapes):
    given = inputs(kind)
    for name in {"labels", "partners"} & {*given}:
        for value in (-2, -100):
            wrong = given[name].clone()
            wrong[2] = value
            with pytest.raises(InputError, match=f"{name}: expected integers of at least -1, got {value}"):
                make(kind)(**{**given, name: wrong})
        without = given[name].clone()
        without[2] = -1
        assert make(kind)(**{**given, name: without}).isfinite()
