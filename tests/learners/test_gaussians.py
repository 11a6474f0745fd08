"""Gaussians of classes: against NumPy, in every order of parts, far from 0, without rows, and in how much memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.learners import gaussians
from counterpoise.learners.gaussians import Gaussians, class_gaussians, merge, no_gaussians, shared_covariance


def drawn(rng, n=200, dim=4, classes=3, dtype=torch.float64):
    labels = torch.randint(-1, classes, (n,), generator=rng)
    return torch.randn(n, dim, generator=rng, dtype=dtype) * 3 + labels[:, None], labels


def assert_close(a, b, tolerance=1e-12):
    for ours, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [7, 1024])
def test_mean_and_covariance_are_numpy_s_of_each_class_whatever_is_read_at_once(rows, rng, monkeypatch):
    monkeypatch.setattr(gaussians, "ROWS", rows)
    x, labels = drawn(rng)
    found, diagonal = class_gaussians(x, labels, 3), class_gaussians(x, labels, 3, diagonal=True)
    for label in range(3):
        own = x[labels == label].numpy()
        np.testing.assert_allclose(found.mean[label], own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance[label], np.cov(own.T, ddof=0), rtol=1e-10)
        np.testing.assert_allclose(diagonal.covariance[label], own.var(0), rtol=1e-12)
        assert found.counts[label] == len(own)


@pytest.mark.parametrize("diagonal", [False, True])
def test_parts_merge_to_the_whole_in_any_order(diagonal, rng):
    x, labels = drawn(rng)
    whole = class_gaussians(x, labels, 3, diagonal)
    parts = [
        class_gaussians(x[rows], labels[rows], 3, diagonal) for rows in torch.randperm(200, generator=rng).split(23)
    ]
    for order in (parts, parts[::-1]):
        found = no_gaussians(3, 4, diagonal)
        for part in order:
            found = merge(found, part)
        assert_close(found, whole)
    assert_close(merge(merge(parts[0], parts[1]), parts[2]), merge(parts[0], merge(parts[1], parts[2])))


MEMORY = """
import resource, sys, torch
from counterpoise.learners.gaussians import class_gaussians, merge
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
x, labels = torch.randn(4000, 400), torch.arange(4000) % 60
merge(*[class_gaussians(x[:90, :8], labels[:90], 60)] * 2)  # what is loaded once
before = peak()
found = class_gaussians(x, labels, 60)
made = peak()
merge(found, found)
print(made - before, peak() - made, found.covariance.nbytes)
"""


@pytest.mark.slow
def test_covariances_of_many_classes_take_no_more_memory_than_they_have():
    """In a process that is started by a small one, since one that is started by a large one counts its memory, too."""
    inner = [sys.executable, "-c", MEMORY]
    outer = f"import subprocess; print(subprocess.run({inner!r}, check=True, capture_output=True, text=True).stdout)"
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", outer], check=True, capture_output=True, text=True, env=alone).stdout
    made, merged, covariances = (int(number) for number in found.split())
    assert 0.9 * covariances < made < 1.3 * covariances
    assert merged < 1.3 * covariances


def test_far_from_0_nothing_cancels(rng):
    """In float32, 1e4 + noise of 1: means of squares would keep three digits of the variance."""
    x, labels = drawn(rng, 4096, dtype=torch.float32)
    far = (x.double() + 1e7).double()
    for diagonal in (False, True):
        near = class_gaussians(x.double(), labels, 3, diagonal)
        torch.testing.assert_close(
            class_gaussians(far, labels, 3, diagonal).covariance, near.covariance, rtol=1e-7, atol=1e-7
        )


def test_a_class_without_rows_is_zero_and_takes_what_is_merged(rng):
    x, labels = drawn(rng, classes=2)
    found = class_gaussians(x, labels, 3)
    assert found.counts[2] == 0
    assert not found.mean[2].any()
    assert not found.covariance[2].any()
    other = class_gaussians(x, torch.full_like(labels, 2), 3)
    assert_close([part[2] for part in merge(found, other)], [part[2] for part in other])


def test_rows_without_a_label_are_left_out(rng):
    x, labels = drawn(rng)
    kept = labels >= 0
    assert_close(class_gaussians(x, labels, 3), class_gaussians(x[kept], labels[kept], 3))


def test_the_shared_covariance_is_that_about_the_means_of_the_classes(rng):
    x, labels = drawn(rng)
    labels = labels.clamp(min=0)
    found = class_gaussians(x, labels, 3)
    rest = x - found.mean[labels]
    torch.testing.assert_close(shared_covariance(found), rest.T @ rest / len(x))
    torch.testing.assert_close(shared_covariance(class_gaussians(x, labels, 3, diagonal=True)), rest.square().mean(0))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_gaussians(torch.zeros(2), torch.zeros(2).long(), 1), "x: expected a matrix"),
        (lambda: class_gaussians(torch.zeros(2, 0), torch.zeros(2).long(), 1), "x: expected a matrix .* 1 column"),
        (lambda: class_gaussians(torch.zeros(2, 1).long(), torch.zeros(2).long(), 1), "x: expected floating-point"),
        (lambda: class_gaussians(torch.full((2, 1), torch.nan), torch.tensor([0, -1]), 1), "x: 2 of 2 numbers are NaN"),
        (lambda: class_gaussians(torch.zeros(2, 1), torch.tensor([0, 1]), 1), "labels: expected integers from -1 to 0"),
        (lambda: class_gaussians(torch.zeros(2, 1), torch.tensor([0, 0]), 0), "classes: expected a whole number"),
        (
            lambda: class_gaussians(torch.tensor([[1e200], [-1e200]], dtype=torch.float64), torch.tensor([0, 0]), 1),
            "covariance of x: 1 of 1 numbers are NaN or infinite",
        ),
        (lambda: merge(no_gaussians(2, 1), no_gaussians(2, 1, diagonal=True)), "b: expected a covariance of the shape"),
        (lambda: merge(no_gaussians(2, 1), no_gaussians(3, 1)), "b: expected a covariance of the shape"),
        (lambda: shared_covariance(no_gaussians(2, 1)), "found: expected the Gaussians of at least one row"),
        (
            lambda: merge(no_gaussians(1, 1), no_gaussians(1, 1)._replace(counts=torch.tensor([-1]))),
            "b.counts: expected integers of at least 0",
        ),
        (
            lambda: merge(Gaussians(torch.zeros(1), torch.zeros(1, 1), torch.zeros(1)), no_gaussians(1, 1)),
            "a.mean: expected a matrix",
        ),
        (
            lambda: merge(no_gaussians(1, 2)._replace(covariance=torch.zeros(1, 3)), no_gaussians(1, 2)),
            "a.covariance: expected the shape",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
