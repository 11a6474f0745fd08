"""Each sign of too little training by its name, at its threshold, and none where training was enough."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure import effective_rank, uniformity
from counterpoise.measure.undertraining import CLOSE_TOGETHER, few_steps, flat_probe, poor_shape, rising_probe

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
        (1979, 256, 10, False),
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


def test_few_steps_of_a_number_of_steps():
    assert few_steps(2000, 128, steps=60) is None
    found = few_steps(2000, 128, steps=49)
    assert found == "few steps: 49, 15 an epoch (128 of 2000 images a step); try a smaller batch_size or more steps"
    assert few_steps(300, 128, steps=499).startswith("few steps: 499, 2 an epoch")
    assert few_steps(300, 128, steps=500) is None
    for both in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(InputError, match="expected either epochs or steps"):
            few_steps(300, 128, **both)


# Measured: SimCLR and SupCon on the long-tailed Fashion-MNIST and on factors:scales, batches of 128.
SIMCLR_10 = [0.662, 0.676, 0.682, 0.683, 0.682, 0.677, 0.684, 0.685, 0.688, 0.691]  # 0.73 after 40 epochs
SUPCON_20 = [0.662, 0.697, 0.711, 0.713, 0.748, 0.733, 0.748, 0.74, 0.739, 0.745]
SUPCON_20 += [0.768, 0.768, 0.767, 0.757, 0.766, 0.774, 0.766, 0.766, 0.77, 0.765]
SCALES_10 = [0.226, 0.225, 0.243, 0.264, 0.296, 0.286, 0.294, 0.312, 0.316, 0.321]


@pytest.mark.parametrize(
    ("curve", "rises"),
    [
        (SIMCLR_10, True),
        (SUPCON_20, False),  # as good as at its end for half of the time
        (SCALES_10, True),
        ([0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7], False),
        ([0.5] + [0.6 + 0.0024 * k for k in range(5)], False),  # by 0.96 points
        ([0.5] + [0.6 + 0.0026 * k for k in range(5)], True),  # by 1.04 points
        ([0.5, 0.6, 0.64, 0.6, 0.64, 0.62], False),  # no more than it varies
        ([0.5, 0.9, 0.85, 0.8, 0.75, 0.7], False),
        ([0.1, 0.2, 0.3, 0.4, 0.5], False),  # too early to say
        ([], False),
    ],
)
def test_rising_probe(curve, rises):
    found = rising_probe(curve)
    assert bool(found) == rises
    assert not found or (found.startswith("still rising: kNN rose by ") and found.endswith("more epochs or steps"))


def test_a_probe_that_rises_again_to_less_than_it_had_is_flat_and_rises():
    fallen = [0.7, 0.5, 0.52, 0.56, 0.6, 0.65]
    assert flat_probe(fallen)
    assert rising_probe(fallen)


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
