"""What every objective of the catalogue must withstand. A new one gets all of it by being in its paper's row.

Inputs are made by the names of `forward`'s parameters, constructor arguments without a default by theirs.
"""

import inspect

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.registry import catalogue

N, D, M, V, C = 6, 5, 4, 3, 3
OBJECTIVES = {
    f"{paper.slug}:{kind.__name__}": kind
    for paper in catalogue.papers().values()
    if paper.done
    for kind in catalogue.load_objectives(paper.slug)
}
REQUIRED = {
    "dim": D,
    "samples": N,
    "images": N,
    "texts": N,
    "classes": C,
    "counts": torch.tensor([9, 3, 1]),
    "edges": torch.arange(C + 1.0),
}
FLOATS = {
    **dict.fromkeys(["z1", "z2", "embeddings", "queries", "positives", "keys", "image", "text", "gates"], (N, D)),
    **dict.fromkeys(["noise", "predicted", "residual", "reflective", "coarse", "z", "zbar"], (N, D)),
    **dict.fromkeys(["phi1", "phi2"], (N, M)),
    "negatives": (M, D),
    "prototypes": (C, D),
    "views": (V, N, D),
    **dict.fromkeys(["logits", "attacked", "strong", "affinity"], (N, C)),
}
INTEGERS = {
    "labels": torch.arange(N) % C,
    "targets": torch.arange(N) % C,
    "clusters": torch.stack([torch.arange(N) % C, torch.arange(N) % 2], 1),
    "subclasses": torch.arange(N) // 4,
    "partners": (torch.arange(N) + 1) % C,
    **dict.fromkeys(["index", "image_index", "text_index"], torch.arange(N)),
    "time_index": torch.arange(N) * 100,
    "times": torch.arange(N) % 4 + 1,
    "events": torch.arange(N) % 2,
}
BATCH_OF_ALL = ("negatives", "prototypes")  # not one row a sample
IN_ORDER = ("protonet:PrototypeLoss",)  # the first rows of a class are its examples
FOURTH_POWER = ("projection-head:SpectralContrastiveLoss",)  # of the rows' lengths: huge rows have no finite loss


def make(kind):
    wanted = inspect.signature(kind).parameters.values()
    given = {p.name: REQUIRED[p.name] for p in wanted if p.default is p.empty and p.kind != p.VAR_KEYWORD}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same proxies each time
        return kind(**given)


def inputs(kind, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for p in list(inspect.signature(kind.forward).parameters.values())[1:]:
        if p.name in FLOATS:
            found[p.name] = torch.randn(FLOATS[p.name], generator=rng, dtype=torch.float64).to(dtype)
        elif p.name in INTEGERS:
            found[p.name] = INTEGERS[p.name].clone()
        else:
            assert p.default is not p.empty, f"the suite does not know how to make '{p.name}' for {kind.__name__}"
    return found


def rows(name, x, index):
    """The samples at `index` of one input, wherever its batch dimension is."""
    if name in BATCH_OF_ALL:
        return x
    return x[:, index] if name == "views" else x[index]


def value_and_gradients(kind, given, device="cpu", autocast=False):
    leaves = {name: x.to(device, copy=True).requires_grad_(x.is_floating_point()) for name, x in given.items()}
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        value = make(kind).to(device)(**leaves)
    value.backward()
    return value.detach(), {name: x.grad for name, x in leaves.items() if x.is_floating_point()}


def agrees_under_autocast(kind, device):
    value, _ = value_and_gradients(kind, inputs(kind), device, autocast=True)
    expected, _ = value_and_gradients(kind, inputs(kind))
    torch.testing.assert_close(value.float().cpu(), expected, rtol=5e-2, atol=5e-2)


def equal(name, x):
    return torch.ones_like(x)


DISTORTIONS = {
    "random": lambda name, x: x,
    "zero": lambda name, x: torch.zeros_like(x),
    "duplicate": equal,
    "huge": lambda name, x: x * 1e18,
    "tiny": lambda name, x: x * 1e-30,
}

every = pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)


def test_the_catalogue_has_objectives():
    assert {"simclr:NTXentLoss", "supcon:SupConLoss", "dcl:DCLLoss", "cacr:CACRLoss", "isogclr:ISogCLRLoss"} <= set(
        OBJECTIVES
    )


@every
@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_value_and_gradient_are_finite(kind, distort):
    given = {n: distort(n, x) if x.is_floating_point() else x for n, x in inputs(kind).items()}
    if distort is DISTORTIONS["huge"] and kind in [OBJECTIVES[name] for name in FOURTH_POWER]:
        with pytest.raises(InputError, match="|".join(given)):
            value_and_gradients(kind, given)
        return
    value, gradients = value_and_gradients(kind, given)
    assert torch.isfinite(value)
    assert all(g is None or torch.isfinite(g).all() for g in gradients.values())


@every
def test_something_learns(kind):
    _, gradients = value_and_gradients(kind, inputs(kind))
    assert any(g is not None and g.abs().max() > 1e-6 for g in gradients.values())


@every
def test_bfloat16_is_the_float32_of_the_rounded_input(kind):
    given = inputs(kind, dtype=torch.bfloat16)
    value, gradients = value_and_gradients(kind, given)
    wide = {n: x.float() if x.is_floating_point() else x for n, x in given.items()}
    expected, expected_gradients = value_and_gradients(kind, wide)
    torch.testing.assert_close(value.float(), expected, rtol=1e-4, atol=1e-5)
    for name, g in gradients.items():
        if g is not None:
            torch.testing.assert_close(g.float(), expected_gradients[name], rtol=2e-2, atol=2e-3)


@every
def test_it_can_be_used_under_autocast(kind):
    agrees_under_autocast(kind, "cpu")


@every
def test_the_order_of_the_batch_does_not_matter(kind):
    given = inputs(kind, dtype=torch.float64)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    if kind in [OBJECTIVES[name] for name in IN_ORDER]:
        order = given["labels"].argsort(descending=True, stable=True)
    mixed = {n: rows(n, x, order) for n, x in given.items()}
    torch.testing.assert_close(make(kind)(**given), make(kind)(**mixed))


@every
def test_one_sample_is_defined_or_refused_by_name(kind):
    given = {n: rows(n, x, slice(0, 1)) for n, x in inputs(kind).items()}
    try:
        assert torch.isfinite(make(kind)(**given))
    except InputError as error:
        assert any(name in str(error) for name in given)  # noqa: PT017


@every
def test_mismatched_shapes_are_refused_by_name(kind, plain_shapes):
    given = inputs(kind)
    for name, x in given.items():
        cut = x[..., :-1] if name in BATCH_OF_ALL or x.ndim == 3 else x[:-1]
        wrong = cut if len(given) > 1 else x[0]  # alone, it can only have a dimension too few
        with pytest.raises(InputError, match="|".join(given)):
            make(kind)(**{**given, name: wrong})


@every
def test_nan_is_refused_by_name(kind):
    for name, x in inputs(kind).items():
        if x.is_floating_point():
            bad = x.clone()
            bad.view(-1)[1] = torch.nan
            with pytest.raises(InputError, match=name):
                make(kind)(**{**inputs(kind), name: bad})


@pytest.mark.slow
@every
def test_gradient_in_double_precision(kind):
    """Objectives whose value is not the integral of their gradient say so (`surrogate`) and have tests of their own."""
    if getattr(kind, "surrogate", False):
        assert "gradient" in inspect.getdoc(kind)
        return
    given = inputs(kind, dtype=torch.float64)
    _, gradients = value_and_gradients(kind, given)
    names = [name for name, g in gradients.items() if g is not None]

    def value(*leaves):
        return make(kind)(**{**given, **dict(zip(names, leaves, strict=True))})

    assert torch.autograd.gradcheck(value, [given[name].clone().requires_grad_() for name in names])
