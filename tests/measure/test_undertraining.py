"""Each sign of too little training by its name, at its threshold, and none where training was enough."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure import effective_rank, uniformity
from counterpoise.measure.undertraining import CLOSE_TOGETHER, few_steps, flat_probe, poor_shape

NOISE = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))


def of_rank(rank, dim=64):
    """Rows of the effective rank `rank`."""
    basis, _ = torch.linalg.qr(NOISE[:, :rank])
    return basis @ torch.eye(dim)[:rank]


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "few"),
    [
        (800, 256, 10, True),  # three steps an epoch
        (800, 256, 100, True),
        (800, 256, 200, False),
        (800, 32, 10, False),
        (1979, 256, 10, False),  # the demo
        (8000, 256, 1, True),
        (60_000, 256, 1, False),
        (50, 256, 10, True),  # one batch an epoch
    ],
)
def test_few_steps(images, batch, epochs, few):
    found = few_steps(images, batch, epochs)
    assert bool(found) == few
    assert not found or (found.startswith("few steps: ") and "; try a smaller batch_size or more epochs" in found)


def test_few_steps_counts_batches_that_are_added_up_as_one_step():
    assert few_steps(3200, 64, 10) is None
    assert "20 in 10 epochs, 2 an epoch (2048 of 3200 images a step)" in few_steps(3200, 64, 10, accumulate=32)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("given", [{"accumulate": 0.5}, {"epochs": 0}, {"images": float("nan")}])
def test_what_is_no_count_is_refused(given):
    with pytest.raises(InputError, match=f"{next(iter(given))}: expected a"):
        few_steps(**{"images": 10, "batch_size": 2, "epochs": 1, **given})


@pytest.mark.parametrize(
    ("curve", "flat"),
    [
        ([0.65, 0.68, 0.69, 0.71, 0.71], False),
        ([0.5, 0.52, 0.48, 0.5], True),
        ([0.4, 0.4, 0.4, 0.4], True),  # whose mean is 0.4 and a rounding
        ([0.5, 0.7, 0.45, 0.44, 0.46], True),  # it rose and fell back
        ([0.97, 0.97, 0.97], False),  # nothing left to gain
        ([0.5, 0.5], False),  # too early to say
        ([], False),
    ],
)
def test_flat_probe(curve, flat):
    found = flat_probe(curve)
    assert bool(found) == flat
    assert not found or (found.startswith("flat probe: kNN ") and "; try " in found)


def test_an_effective_rank_of_4_in_64_is_low_and_of_6_is_not():
    assert float(effective_rank(of_rank(4))) == pytest.approx(4, abs=0.01)
    assert [sign.split(";")[0] for sign in poor_shape(of_rank(4))] == ["low effective rank: 4.0 of 64"]
    assert poor_shape(of_rank(6)) == []
    assert poor_shape(NOISE) == []


def test_a_method_that_reads_labels_needs_no_more_dimensions_than_classes():
    assert poor_shape(of_rank(4), classes=3) == []
    assert poor_shape(of_rank(4), classes=10) == poor_shape(of_rank(4))


@pytest.mark.parametrize("mean", [1.0, 6.0])
def test_embeddings_close_together(mean):
    z = NOISE + mean
    close = float(uniformity(z)) > CLOSE_TOGETHER
    assert close == (mean == 6.0)
    signs = poor_shape(z)
    assert [sign.split(":")[0] for sign in signs] == ["embeddings close together"] * close


def test_a_collapse_is_named_alone_with_what_to_try():
    [sign] = poor_shape(torch.ones(50, 64))
    assert sign.startswith("complete collapse: all embeddings are the same point; try ")
    [sign] = poor_shape(of_rank(2))
    assert sign.startswith("dimensional collapse: effective rank 2.0 of 64; try ")
    assert poor_shape(torch.ones(1, 64)) == []
    with pytest.raises(InputError, match="z: 1 of 128 numbers are NaN"):
        poor_shape(torch.tensor([[torch.nan] + [1.0] * 63, [0.0] * 64]))
