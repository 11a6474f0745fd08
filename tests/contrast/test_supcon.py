"""SupCon against the sums of equation 2 written out, its limit NT-Xent, and rows without a label or a positive."""

import math

import pytest
import torch
from torch.nn import functional as F

import worlds
from counterpoise.contrast.simclr import nt_xent
from counterpoise.contrast.supcon import SupCon, SupConLoss, own_classes, supcon
from counterpoise.errors import InputError
from worlds import Encoder, seeded

EMBEDDINGS = torch.randn(12, 4, generator=seeded(0), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 2, 5, 0, 2, 5, 5, 5, 0, 9, -1])  # class 9 has one row


def plain(embeddings, labels, temperature):
    z = F.normalize(embeddings, dim=1)
    terms = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i] >= 0]
        if positives:
            total = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
            logs = [torch.log(torch.exp(z[i] @ z[p] / temperature) / total) for p in positives]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_value_and_gradient_are_those_of_the_sums_written_out(temperature):
    ours, theirs = EMBEDDINGS.clone().requires_grad_(), EMBEDDINGS.clone().requires_grad_()
    value, expected = supcon(ours, LABELS, temperature), plain(theirs, LABELS, temperature)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_worked_by_hand():
    """Two classes at a right angle: the positive at cosine 1 against itself and two rows at cosine 0."""
    value = supcon(torch.eye(2).repeat(2, 1) * 5, torch.tensor([4, 3, 4, 3]), temperature=0.5)
    assert value.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_every_image_its_own_class_is_nt_xent():
    z1, z2 = EMBEDDINGS.chunk(2)
    torch.testing.assert_close(supcon(EMBEDDINGS, torch.arange(6).repeat(2), 0.3), nt_xent(z1, z2, 0.3))


def test_one_class_of_equal_rows_gives_the_log_of_the_others():
    assert supcon(torch.ones(6, 3), torch.zeros(6, dtype=torch.int64)).item() == pytest.approx(math.log(5), abs=1e-6)


def test_order_and_names_of_the_classes_do_not_matter(rng):
    order = torch.randperm(12, generator=rng)
    value = supcon(EMBEDDINGS, LABELS)
    torch.testing.assert_close(supcon(EMBEDDINGS[order], LABELS[order]), value)
    torch.testing.assert_close(supcon(EMBEDDINGS, torch.where(LABELS < 0, LABELS, 1000 - LABELS)), value)


def test_rows_without_a_label_are_no_anchors_but_repel():
    """With a class of its own, which has no positive either, a row plays the same part."""
    torch.testing.assert_close(supcon(EMBEDDINGS, LABELS), supcon(EMBEDDINGS, torch.where(LABELS < 0, 77, LABELS)))
    assert supcon(EMBEDDINGS, LABELS) > supcon(EMBEDDINGS[:-1], LABELS[:-1])
    embeddings, labels = torch.cat([EMBEDDINGS, EMBEDDINGS[-1:]]), torch.cat([LABELS, LABELS[-1:]])
    torch.testing.assert_close(supcon(embeddings, labels), plain(embeddings, labels, 0.1))


def test_class_sums_stay_exact_in_float32_for_large_classes(rng):
    embeddings = torch.randn(2000, 16, generator=rng) + 2
    labels = torch.randint(0, 3, (2000,), generator=rng)
    value, exact = supcon(embeddings, labels), supcon(embeddings.double(), labels)
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)


def test_gradient():
    assert torch.autograd.gradcheck(lambda e: supcon(e, LABELS, 0.4), EMBEDDINGS.clone().requires_grad_())


def test_bfloat16_input_is_computed_in_float32():
    value = supcon(EMBEDDINGS.bfloat16(), LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, supcon(EMBEDDINGS.bfloat16().float(), LABELS))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = SupConLoss()
    with pytest.raises(InputError, match="labels: no two of the 12 rows share a class, so there is no positive pair"):
        loss(EMBEDDINGS, torch.arange(12))
    with pytest.raises(InputError, match="labels: no two of the 12 rows share a class"):
        loss(EMBEDDINGS, torch.full((12,), -1))
    with pytest.raises(InputError, match="labels: expected integers of at least -1, got -2"):
        loss(EMBEDDINGS, LABELS - 1)
    with pytest.raises(InputError, match="labels: expected one integer for each of the 12 rows"):
        loss(EMBEDDINGS, LABELS[:5])
    with pytest.raises(InputError, match=r"labels: expected integers, got torch\.float32"):
        loss(EMBEDDINGS, LABELS.float())
    with pytest.raises(InputError, match="embeddings: expected at least 2 rows, got 1"):
        loss(EMBEDDINGS[:1], LABELS[:1])
    with pytest.raises(InputError, match="embeddings: 48 of 48 numbers are NaN"):
        loss(EMBEDDINGS * math.nan, LABELS)
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        SupConLoss(0)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 0, 1, 0, 2], [1, 0, 1, 0, 2]),
        ([1, -1, 1, -1, 0], [1, 7, 1, 8, 0]),
        ([-1, -1, -1, -1, -1], [3, 4, 5, 6, 7]),
    ],
    ids=["labelled", "partly", "unlabelled"],
)
def test_in_the_method_an_image_without_a_label_is_a_class_of_its_own(labels, classes, rng):
    method = SupCon(Encoder(), temperature=0.3, hidden=8, dim=3)
    views = [torch.randn(5, 1, 4, 4, generator=rng) for _ in range(2)]
    embeddings = torch.cat([method.head(method.encoder(view)) for view in views])
    value = method.loss(views, torch.tensor(labels), torch.arange(5))
    torch.testing.assert_close(value, plain(embeddings, torch.tensor(classes * 2), 0.3))


# Of two processes with the first four and the last four, each has its own largest label.
APART = torch.tensor([-1, 0, 3, -1, 0, -1, -1, 0])


def test_an_image_without_a_label_gets_a_number_that_no_other_image_has():
    found = own_classes(APART)
    known = APART >= 0
    assert torch.equal(found[known], APART[known])
    assert found[~known].min() > 3
    assert len(found[~known].unique()) == 4


@pytest.mark.usefixtures("plain_shapes")
def test_labels_that_leave_no_number_or_are_none_are_refused_by_name():
    assert own_classes(torch.tensor([2**62, -1])).tolist() == [2**62, 2**62 + 2]
    for labels, message in (
        (torch.tensor([2**62 + 1]), "expected integers from -1 to 4611686018427387904"),
        (torch.tensor([-2]), "expected integers from -1"),
        (torch.tensor([]).long(), "expected at least 1 rows, got 0"),
        (torch.tensor([1.0]), "expected integers, got"),
        (torch.tensor(1), "expected one integer for each of the 1 rows"),
    ):
        with pytest.raises(InputError, match=f"labels: {message}"):
            own_classes(labels)


def classes_here(rank, world):
    return own_classes(worlds.shard(APART, worlds.sizes_of(len(APART), world), rank))


@pytest.mark.slow
def test_two_processes_number_their_images_without_a_label_as_one_does():
    assert torch.equal(torch.cat(worlds.run(2, classes_here)), own_classes(APART))
