"""Prototypes by hand, the episode's softmax written out, and which rows are examples."""

import math

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.metric.protonet import ProtoNet, PrototypeLoss, prototypes
from worlds import Encoder, seeded

ROWS = torch.randn(12, 4, generator=seeded(0), dtype=torch.float64)
LABELS = torch.tensor([5, 2, 5, 9, 2, 5, 9, 9, 2, 5, 2, 9])


@pytest.mark.parametrize("shots", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_episode_written_out(shots, temperature):
    losses = []
    members = {c: [i for i in range(12) if LABELS[i] == c] for c in (2, 5, 9)}
    means = {c: sum(ROWS[i] for i in rows[:shots]) / shots for c, rows in members.items()}
    for c, rows in members.items():
        for i in rows[shots:]:
            logits = {k: -((ROWS[i] - mean) ** 2).sum().item() / temperature for k, mean in means.items()}
            losses.append(math.log(sum(math.exp(v) for v in logits.values())) - logits[c])
    found = PrototypeLoss(shots, temperature)(ROWS, LABELS)
    assert found.item() == pytest.approx(sum(losses) / len(losses), abs=1e-10)


def test_a_query_on_its_prototype_far_from_the_other():
    rows = torch.tensor([[0.0], [50.0], [0.0], [50.0]], dtype=torch.float64)
    assert PrototypeLoss(1)(rows, torch.tensor([0, 1, 0, 1])).item() == 0
    assert PrototypeLoss(1)(rows, torch.tensor([0, 1, 1, 0])).item() == pytest.approx(2500)


def test_prototypes_are_means():
    found = prototypes(ROWS, torch.arange(12) % 3, 3)
    torch.testing.assert_close(found, torch.stack([ROWS[c::3].mean(0) for c in range(3)]))


def test_gradient_in_double_precision_and_invariances(rng):
    loss = PrototypeLoss(2)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), ROWS.clone().requires_grad_())
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    torch.testing.assert_close(loss(ROWS @ turn + 3, 20 - LABELS), loss(ROWS, LABELS))
    with_unlabelled = torch.cat([ROWS[:1], ROWS]), torch.cat([torch.tensor([-1]), LABELS])
    torch.testing.assert_close(loss(*with_unlabelled), loss(ROWS, LABELS))


def test_the_method_takes_a_batch_as_an_episode(rng):
    method = ProtoNet(Encoder(features=5), 24, shots=1, temperature=2.0, dim=3, per_class=3)
    view = torch.randn(12, 1, 4, 4, generator=rng)
    expected = PrototypeLoss(1, 2.0)(method.encoder(view), LABELS)
    torch.testing.assert_close(method.loss([view], LABELS, torch.arange(12)), expected)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="labels: expected a class with more than 4 rows in the batch, got none"):
        PrototypeLoss(4)(ROWS, LABELS)
    with pytest.raises(InputError, match="embeddings: 48 of 48 numbers are NaN"):
        PrototypeLoss()(ROWS * math.nan, LABELS)
    with pytest.raises(InputError, match="labels: expected"):
        PrototypeLoss()(ROWS, LABELS[:3])
    with pytest.raises(InputError, match="labels: expected integers of at least -1, got -2"):
        PrototypeLoss()(ROWS, torch.where(LABELS.max() == LABELS, -2, LABELS))
    with pytest.raises(InputError, match="labels: expected 2 classes in the batch, to choose from, got 12 rows of one"):
        PrototypeLoss()(ROWS, torch.zeros(12).long())
    with pytest.raises(InputError, match="labels: expected an example of each of 11 classes"):
        prototypes(ROWS, LABELS, 11)
    with pytest.raises(InputError, match="temperature: expected a number above 0"):
        PrototypeLoss(1, 0)
    with pytest.raises(InputError, match=r"shots: expected a whole number of at least 1, got 1\.5"):
        ProtoNet(Encoder(features=5), 24, shots=1.5)
    with pytest.raises(InputError, match="shots: expected fewer than per_class, 4, got 4"):
        ProtoNet(Encoder(features=5), 24, shots=4)
