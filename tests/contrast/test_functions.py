"""Who normalises: functions of cosines do it themselves, those of distances and inner products use rows as they are.

What all functions must refuse is tried in tests/conformance/test_functions.py.
"""

import pkgutil
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

from conformance.test_functions import valid_call, values
from counterpoise import contrast


def modules():
    for found in pkgutil.iter_modules(contrast.__path__):
        yield found.name, import_module(f"counterpoise.contrast.{found.name}")


# What is compared by cosines: who calls need not normalise. All others use rows as they are.
OF_COSINES = {
    **dict.fromkeys(("simclr.nt_xent", "dcl.dcl", "dcl.von_mises_fisher_weights", "dcl.npc_multiplier"), ("z1", "z2")),
    **dict.fromkeys(("genview.nt_xent_pairs", "sbcl.sbcl", "sbcl.class_contrast"), ("z1", "z2")),
    **dict.fromkeys(("hydra.gated_similarity", "hydra.hydra", "hydra.info_nce"), ("queries", "keys")),
    **dict.fromkeys(("moco.queue_nce", "mochi.mixed_nce", "dcl.queue_dcl"), ("queries", "positives", "negatives")),
    **dict.fromkeys(("mochi.hardest_indices", "contrastive_behaviour.penalty_entropy"), ("queries", "negatives")),
    "contrastive_behaviour.hard_contrastive": ("queries", "positives", "negatives"),
    "contrastive_behaviour.simple_contrastive": ("queries", "positives", "negatives"),
    "supcon.supcon": ("embeddings",),
    "moco.enqueue": ("keys",),
    "mochi.mix": ("first", "second"),
    "groco.hardest_similarities": ("anchors", "candidates"),
    "meow.prototypes": ("points",),
    "sbcl.split_class": ("z",),
    "amcl.adaptive_negative_cosine": ("z1", "z2", "h1", "h2"),
}
AS_THEY_ARE = {
    "projection_head.spectral_contrastive": ("z1", "z2"),
    "cacr.attraction": ("queries", "positives"),
    "cacr.repulsion": ("queries", "negatives"),
    "cacr.rbf_repulsion": ("queries", "negatives"),
}


def random_rows(name, arguments, rng):
    """Rows for these arguments, and the same as long as they may be."""
    given = {a: torch.randn(valid_call(f"contrast.{name}").arguments[a].shape, generator=rng) for a in arguments}
    longer = {a: x * (0.4 + 3.6 * torch.rand(*x.shape[:-1], 1, generator=rng)) for a, x in given.items()}
    return given, longer


@pytest.mark.parametrize(("name", "arguments"), OF_COSINES.items(), ids=OF_COSINES)
def test_functions_of_cosines_normalise_their_rows(name, arguments, rng):
    given, longer = random_rows(name, arguments, rng)
    expected, found = values(f"contrast.{name}", **given), values(f"contrast.{name}", **longer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments"), AS_THEY_ARE.items(), ids=AS_THEY_ARE)
def test_functions_of_distances_and_inner_products_use_rows_as_they_are(name, arguments, rng):
    given, longer = random_rows(name, arguments, rng)
    pairs = zip(values(f"contrast.{name}", **given), values(f"contrast.{name}", **longer), strict=True)
    assert not any(torch.allclose(ours, theirs, rtol=1e-2) for ours, theirs in pairs)


@pytest.mark.parametrize("name", ["dcl.dcl", "dcl.von_mises_fisher_weights"])
def test_rows_are_used_as_they_are_where_that_is_asked_for(name, rng):
    given, longer = random_rows(name, ("z1", "z2"), rng)
    (expected,), (found,) = (values(f"contrast.{name}", **x, normalize=y) for x, y in ((given, True), (longer, False)))
    assert not torch.allclose(found, expected, rtol=1e-2)
    (found,) = values(f"contrast.{name}", **{a: F.normalize(z) for a, z in given.items()}, normalize=False)
    torch.testing.assert_close(found, expected)
