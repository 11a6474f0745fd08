"""Every public function of the room on what it cannot work on: a finite result, or an error that names an argument.

A new function fails `test_every_function_is_here` until a call of it stands in `CALLS`.
"""

import copy
import inspect
import math
import pkgutil
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, issparse

from counterpoise import contrast
from counterpoise.errors import InputError

pytestmark = pytest.mark.slow  # `make quick` has tests/conformance/test_functions.py

N, D = 6, 4
rng = torch.Generator().manual_seed(0)


def rows(*shape):
    return torch.randn(*shape, generator=rng)


def unit(*shape):
    """Numbers between 0 and 1, neither of them."""
    return torch.rand(*shape, generator=rng) * 0.8 + 0.1


Z1, Z2, K = rows(N, D), rows(N, D), rows(5, D)
LABELS, OTHERS, ORDER = torch.arange(N) % 3, (torch.arange(N) + 1) % 3, torch.arange(N).flip(0)
EXCLUDE = (torch.arange(N), torch.arange(5))
TOKENS = rows(3, D, 2, 2)
PIXELS = torch.randint(0, 256, (4, 3, 6, 6), generator=rng, dtype=torch.uint8)
VIEWS = {"z1": Z1, "z2": Z2}
KEYS = {"queries": Z1, "positives": Z2, "negatives": K}
MIXED = {"log_mean": unit(N), "tau": unit(N), "rho": 0.4}

CALLS = {
    "simclr.nt_xent": {**VIEWS, "temperature": 0.1},
    "supcon.supcon": {"embeddings": Z1, "labels": LABELS, "temperature": 0.1},
    "dcl.dcl": {**VIEWS, "temperature": 0.1, "weights": unit(N)},
    "dcl.von_mises_fisher_weights": {**VIEWS, "sigma": 0.5},
    "dcl.npc_multiplier": {**VIEWS, "temperature": 0.1},
    "moco.queue_nce": {**KEYS, "temperature": 0.2},
    "groco.soft_sort": {"scores": rows(N, 5), "columns": rows(5, 2), "steepness": 1.0},
    "groco.group_ordering": {"negatives": rows(N, 3), "positives": rows(N, 2), "steepness": 1.0},
    "groco.hardest": {"anchors": Z1, "candidates": K, "exclude": EXCLUDE, "k": 2},
    "hydra.gated_similarity": {"queries": Z1, "keys": K, "gates": unit(N, D), "similarity": "cosine"},
    "hydra.hydra": {
        **{"queries": Z1, "keys": Z2, "labels": LABELS, "partners": OTHERS, "gates": unit(N, D)},
        **{"scale": 10.0, "similarity": "dot"},
    },
    "hydra.info_nce": {"queries": Z1, "keys": Z2, "temperature": 1.0},
    "amcl.omega": {"tau": unit(N, 3), "dim": 4},
    "amcl.pair_temperature": {"phi1": Z1, "phi2": Z2, "low": 0.05, "high": 2.0},
    "amcl.adaptive_contrast": {
        **{"positive": rows(N, 2), "negatives": rows(N, 2, 3), "tau_pos": unit(N, 2), "tau_neg": unit(N, 2, 3)},
        **{"dim": 4, "beta": 0.1},
    },
    "amcl.adaptive_negative_cosine": {
        **{**VIEWS, "h1": rows(N, D), "h2": rows(N, D), "tau1": unit(N), "tau2": unit(N), "beta": 0.1},
    },
    "amcl.adaptive_cross_correlation": {**VIEWS, "tau": unit(D, D), "beta": 0.1, "off_diagonal": 5e-3},
    "contrastive_behaviour.relative_penalty": {"similarity": rows(N, 5), "temperature": 0.3},
    "contrastive_behaviour.penalty_entropy": {"queries": Z1, "negatives": K, "temperature": 0.3, "exclude": EXCLUDE},
    "contrastive_behaviour.hard_negatives": {"similarity": rows(N, 5), "alpha": 0.5, "num_hard": 2},
    "contrastive_behaviour.hard_contrastive": {
        **{**KEYS, "temperature": 0.3, "alpha": 0.5, "num_hard": 2, "exclude": EXCLUDE},
    },
    "contrastive_behaviour.simple_contrastive": {
        **{**KEYS, "alpha": 0.5, "num_hard": 2, "weight": 0.5, "exclude": EXCLUDE},
    },
    "cacr.attraction": {"queries": Z1, "positives": rows(N, 3, D), "t_pos": 1.0},
    "cacr.repulsion": {"queries": Z1, "negatives": K, "t_neg": 2.0, "exclude": EXCLUDE},
    "cacr.rbf_repulsion": {"queries": Z1, "negatives": K, "t_neg": 2.0, "t_rbf": 2.0, "exclude": EXCLUDE},
    "g_simclr.guided_batches": {"labels": LABELS, "order": ORDER, "batch_size": 2},
    "g_simclr.same_class_share": {"batches": [[0, 1], [2, 3]], "classes": LABELS},
    "diti.residual_loss": {
        **{"noise": rows(N, 1, 2, 2), "predicted": rows(N, 1, 2, 2), "residual": rows(N, 1, 2, 2)},
        **{"shift": rows(N), "weight": unit(N)},
    },
    "diti.attribute_loss": {"distance": unit(N), "kept": unit(N)},
    "diti.slerp": {"a": rows(N, 2, 2), "b": rows(N, 2, 2), "share": 0.5},
    "diti.factor_size": {"pixels": PIXELS, "values": torch.tensor([0, 1, 0, 1])},
    "genview.project": {"tokens": TOKENS, "direction": rows(D)},
    "genview.foreground_maps": {"tokens": TOKENS, "direction": rows(D)},
    "genview.pair_scores": {"tokens1": TOKENS, "tokens2": rows(3, D, 2, 2), "direction": rows(D)},
    "genview.quality_weights": {"scores": rows(N), "gamma": 1.0},
    "genview.weighted_mean": {"losses": unit(N), "weights": unit(N)},
    "genview.nt_xent_pairs": {**VIEWS, "temperature": 0.1},
    "genview.principal_direction": {"tokens": TOKENS},
    "genview.foreground_share": {"projected": rows(3, 2, 2), "share": 0.4},
    "genview.noise_levels": {"share": unit(N)},
    "genview.perturbed": {"codes": Z1, "levels": 100 * torch.arange(N), "noise": Z2},
    "isogclr.robust_objective": MIXED,
    "isogclr.temperature_gradient": {**MIXED, "mean": rows(N)},
    "mcl.next_pseudo_labels": {"pseudo_labels": OTHERS, "labels": LABELS, "clusters": 3},
    "mcl.cluster_batches": {"pseudo_labels": LABELS, "order": ORDER, "batch_size": 2},
    "mcl.pooled_batches": {"pseudo_labels": LABELS, "order": ORDER, "batch_size": 2, "clusters": 3, "stages": 1},
    "meow.path_similarity": {"counts": csr_matrix([[2, 1], [1, 1]])},
    "meow.strongest": {"counts": csr_matrix([[2, 1], [1, 1]]), "most": 1},
    "meow.normalised": {"kept": csr_matrix([[2, 1], [1, 1]])},
    "meow.masked_links": {"kept": csr_matrix([[2, 1], [1, 1]]), "share": 0.5, "generator": np.random.default_rng(0)},
    "meow.masked_features": {"features": Z1, "share": 0.5, "generator": np.random.default_rng(0)},
    "meow.prototypes": {"points": Z1, "cluster": LABELS, "tau": 0.4, "concentration": "distance"},
    "mlcd.mlcd": {"positive": rows(N, 2), "negative": rows(N, 3)},
    "mlcd.mlc": {"positive": rows(N, 2), "negative": rows(N, 3)},
    "mlcd.bce": {"positive": rows(N, 2), "negative": rows(N, 3)},
    "mlcd.sample_negatives": {"targets": LABELS[:, None], "classes": 4, "ratio": 0.5},
    "mochi.draw": {"counts": torch.full((N,), 4), "pairs": 3, "query_pairs": 2},
    "mochi.hardest": {"queries": Z1, "negatives": K, "num_hard": 2, "exclude": EXCLUDE},
    "mochi.mix": {"first": Z1, "second": Z2, "share": unit(N)},
    "mochi.mixed_nce": {**KEYS, "synthetic": rows(N, 2, D), "temperature": 0.2, "exclude": EXCLUDE},
    "projection_head.spectral_contrastive": VIEWS,
    "projection_head.population_loss": {"weight": rows(3, N), "strength": unit(N), "preserved": unit(N)},
    "projection_head.kept_features": {"preserved": unit(N), "dim": 3},
    "projection_head.least_loss": {"preserved": unit(N), "dim": 3},
    "projection_head.linear_weights": {
        **{"strength": unit(N), "preserved": unit(N), "dim": 3, "layer": 1, "layers": 2},
    },
    "projection_head.indicator": {"weights": unit(N), "strength": unit(N)},
    "projection_head.feature_weights": {"weight": rows(3, D), "features": rows(D, 2)},
    "projection_head.weight_inequality": {"weights": unit(N)},
    "projection_head.reweighting": {"dim": 4, "kappa": 1.05},
    "projection_head.symmetric_relu": {"x": Z1, "threshold": torch.tensor(0.5)},
    "projection_head.identity_head": {"dim": 3},
    "projection_head.drop_red": {"first": rows(N, 3, 2, 2), "second": rows(N, 3, 2, 2), "probability": 0.5},
    "sbcl.sbcl": {
        **{**VIEWS, "labels": LABELS, "subclasses": torch.arange(N) // 2, "temperatures": unit(N)},
        **{"temperature": 0.1, "gamma": 0.25, "base_temperature": 0.07},
    },
    "sbcl.class_contrast": {
        **{**VIEWS, "labels": LABELS, "subclasses": torch.arange(N) // 2, "temperatures": unit(N)},
    },
    "sbcl.subclass_counts": {"sizes": torch.tensor([50, 9, 0]), "delta": 10},
    "sbcl.class_temperatures": {"embeddings": Z1, "labels": LABELS, "classes": 3, "temperature": 0.1},
    "sbcl.split_class": {"z": torch.nn.functional.normalize(Z1), "count": 2, "clustering": "balanced"},
    "sbcl.assign_evenly": {"similarity": unit(N, 2)},
    "scatsimclr.scattering_channels": {"channels": 3, "scale": 2, "orientations": 8},
    "scatsimclr.turned": {"images": PIXELS},
    "scatsimclr.tiles": {"images": PIXELS},
    "scatsimclr.permutations": {"count": 5},
    "scatsimclr.shuffle": {"tiles": rows(2, 9, 1, 2, 2), "order": torch.arange(9).expand(2, 9)},
}
WITHOUT_NUMBERS = {  # of a schedule, a graph, a module, or `Images`, which have checks of their own
    "diti.shifts",
    "diti.weights",
    "meow.meta_paths",
    "meow.incidence",
    "meow.path_counts",
    "meow.labelled_type",
    "meow.represent",
    "mcl.redrawn",
    "g_simclr.train_autoencoder",
}


def modules():
    for found in pkgutil.iter_modules(contrast.__path__):
        yield found.name, import_module(f"counterpoise.contrast.{found.name}")


def function(name):
    module, of_it = name.split(".")
    return getattr(import_module(f"counterpoise.contrast.{module}"), of_it)


def annotation(name, argument):
    return str(inspect.signature(function(name)).parameters[argument].annotation)


ARGUMENTS = [(name, argument) for name, given in CALLS.items() for argument in given]
NUMBERS = [(name, a) for name, a in ARGUMENTS if isinstance(CALLS[name][a], (int, float))]
TENSORS = [(name, a) for name, a in ARGUMENTS if isinstance(CALLS[name][a], torch.Tensor)]
FLOATS = [(name, a) for name, a in TENSORS if CALLS[name][a].is_floating_point()]
INTEGERS = [(name, a) for name, a in TENSORS if CALLS[name][a].dtype == torch.int64]
GROUPS = {name: [a for n, a in FLOATS if n == name] for name, _ in FLOATS}
WORDS = [(name, a) for name, a in ARGUMENTS if isinstance(CALLS[name][a], str)]


def call(name, **changed):
    given = {a: copy.deepcopy(x) if a == "generator" else x for a, x in CALLS[name].items()}
    return function(name)(**{**given, **changed})


def finite(found):
    if isinstance(found, torch.Tensor):
        return not found.is_floating_point() or bool(found.isfinite().all())
    if issparse(found):
        return bool(np.isfinite(found.data).all())
    if isinstance(found, (tuple, list)):
        return all(map(finite, found))
    return not isinstance(found, float) or math.isfinite(found)


def is_finite_or_refused(name, **changed):
    try:
        found = call(name, **changed)
    except InputError as error:
        message = str(error)
        assert any(argument in message for argument in CALLS[name]), message
        assert "\n" not in message
    else:
        assert finite(found)


def test_every_function_is_here():
    public = {
        f"{short}.{name}"
        for short, module in modules()
        for name, found in vars(module).items()
        if inspect.isfunction(found) and found.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == {*CALLS} | WITHOUT_NUMBERS


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right(name):
    assert finite(call(name))


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_number_out_of_range_is_refused_by_name(name, argument, plain_shapes):
    whole = isinstance(CALLS[name][argument], int)
    for value in (math.nan, math.inf, -math.inf, "x", None, *([2.5, 2.0] if whole else [])):
        if value is None and "None" in annotation(name, argument):
            continue
        with pytest.raises(InputError, match=f"{argument}: expected"):
            call(name, **{argument: value})
    for value in (0, -1, 2.5):
        is_finite_or_refused(name, **{argument: value})


@pytest.mark.parametrize(("name", "argument"), FLOATS)
def test_nan_and_infinity_are_refused_by_name(name, argument, plain_shapes):
    for value in (math.nan, math.inf):
        wrong = CALLS[name][argument].clone()
        wrong.view(-1)[-1] = value
        with pytest.raises(InputError, match=argument):
            call(name, **{argument: wrong})
    with pytest.raises(InputError, match=argument):
        call(name, **{argument: torch.ones_like(wrong, dtype=torch.int64)})


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_other_shapes_are_refused_by_name(name, argument, plain_shapes):
    x = CALLS[name][argument]
    for wrong in (x[:-1], x[..., :-1], x[:1], x[:0], x[..., :0], x[None], x[0]) if x.ndim else (x[None],):
        is_finite_or_refused(name, **{argument: wrong})


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", [0, 1])
def test_no_row_and_one_row(name, count, plain_shapes):
    """All that has a row for each sample cut alike, so that shapes go together."""
    given = CALLS[name]
    lengths = [len(x) for x in given.values() if isinstance(x, torch.Tensor) and x.ndim]
    if not lengths:
        pytest.skip("takes no rows")
    cut = {a: x[:count] for a, x in given.items() if isinstance(x, torch.Tensor) and x.ndim and len(x) == lengths[0]}
    if "exclude" in given:
        cut["exclude"] = (given["exclude"][0][:count], given["exclude"][1])
    is_finite_or_refused(name, **cut)


@pytest.mark.parametrize(("name", "argument"), FLOATS)
@pytest.mark.parametrize("scale", [0.0, 1e30])
def test_zeros_and_huge_numbers(name, argument, scale, plain_shapes):
    is_finite_or_refused(name, **{argument: scale * CALLS[name][argument]})


@pytest.mark.parametrize(("name", "argument"), INTEGERS)
def test_integers_may_be_of_any_type_and_nothing_else(name, argument, plain_shapes):
    x = CALLS[name][argument]
    torch.manual_seed(0)
    expected = call(name)
    kinds = (torch.int32, torch.int16, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    for kind in kinds if int(x.max()) < 256 else kinds[:2]:
        torch.manual_seed(0)
        found = call(name, **{argument: x.to(kind)})
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for kind in (torch.float32, torch.bool):
        with pytest.raises(InputError, match=f"{argument}: expected integers, got torch.{str(kind)[6:]}"):
            call(name, **{argument: x.to(kind)})


@pytest.mark.parametrize(
    ("name", "argument"), [(name, a) for name, a in INTEGERS if a in ("labels", "partners", "values")]
)
def test_below_minus_one_is_no_label(name, argument, plain_shapes):
    wrong = CALLS[name][argument].clone()
    wrong[0] = -2
    if name == "g_simclr.guided_batches":  # whose pseudo-labels may come from any clusterer
        assert finite(call(name, **{argument: wrong}))
        return
    with pytest.raises(InputError, match=f"{argument}: expected integers .*, got -2"):
        call(name, **{argument: wrong})


@pytest.mark.parametrize(("name", "argument"), WORDS)
def test_an_unknown_word_is_refused_by_name(name, argument, plain_shapes):
    with pytest.raises(InputError, match=f"{argument} 'other' is not known"):
        call(name, **{argument: "other"})


@pytest.mark.parametrize(("name", "floats"), GROUPS.items(), ids=GROUPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["16", "bf16", "32"])
def test_precisions(name, floats, dtype, plain_shapes):
    """What comes out of rounded inputs is what double precision makes of them, to the precision of the inputs."""
    torch.manual_seed(0)
    found = leaves(call(name, **{a: CALLS[name][a].to(dtype) for a in floats}))
    torch.manual_seed(0)
    expected = leaves(call(name, **{a: CALLS[name][a].to(dtype).double() for a in floats}))
    digits = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close([x.double() for x in found], [x.double() for x in expected], rtol=digits, atol=digits)
    if name != "genview.foreground_share":  # a count over a count
        assert all(x.dtype == torch.float64 for x in expected if x.is_floating_point())


def leaves(found):
    if isinstance(found, (tuple, list)):
        return [leaf for one in found for leaf in leaves(one)]
    return [found] if isinstance(found, torch.Tensor) else []
