"""MoCo's objective against the plain table of logits, and the queue and the key encoder step by step."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.moco import MoCo, QueueNCELoss, enqueue, queue_nce
from counterpoise.errors import InputError
from worlds import Encoder, seeded

QUERIES, POSITIVES = torch.randn(2, 6, 5, generator=seeded(0), dtype=torch.float64)
NEGATIVES = torch.randn(11, 5, generator=seeded(1), dtype=torch.float64)


def plain(queries, positives, negatives, temperature):
    q, k, n = (F.normalize(x, dim=1) for x in (queries, positives, negatives))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ n.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


@pytest.mark.parametrize("temperature", [0.03, 0.2, 2.0])
def test_value_and_gradient_are_those_of_the_table_of_logits(temperature):
    given = (QUERIES, POSITIVES, NEGATIVES)
    ours, theirs = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    value, expected = queue_nce(*ours, temperature), plain(*theirs, temperature)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-9, atol=1e-12)


def test_several_positives_are_scored_each_on_its_own():
    both = torch.stack([POSITIVES, QUERIES], dim=1)
    expected = (plain(QUERIES, POSITIVES, NEGATIVES, 0.2) + plain(QUERIES, QUERIES, NEGATIVES, 0.2)) / 2
    torch.testing.assert_close(queue_nce(QUERIES, both, NEGATIVES), expected)


def test_equal_rows_give_the_log_of_one_and_the_negatives():
    one = torch.ones(3, 2)
    assert queue_nce(one, one, torch.ones(7, 2)).item() == pytest.approx(math.log(8), abs=1e-6)


@pytest.mark.slow
def test_gradient():
    leaves = [x.clone().requires_grad_() for x in (QUERIES, POSITIVES, NEGATIVES)]
    assert torch.autograd.gradcheck(QueueNCELoss(0.3), leaves)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = QueueNCELoss()
    with pytest.raises(InputError, match=r"queries, positives and .* got \[6, 5\], \[5, 5\] and \[11, 5\]"):
        loss(QUERIES, POSITIVES[:5], NEGATIVES)
    with pytest.raises(InputError, match=r"positives and negatives: .* got \[6, 5\], \[6, 0, 5\] and"):
        loss(QUERIES, POSITIVES[:, None][:, :0], NEGATIVES)
    with pytest.raises(InputError, match=r"negatives: expected .* and \[11, 4\]"):
        loss(QUERIES, POSITIVES, NEGATIVES[:, :4])
    with pytest.raises(InputError, match="negatives: expected at least 1 rows, got 0"):
        loss(QUERIES, POSITIVES, NEGATIVES[:0])
    with pytest.raises(InputError, match="positives: 30 of 30 numbers are NaN"):
        loss(QUERIES, POSITIVES * math.nan, NEGATIVES)
    with pytest.raises(InputError, match="temperature: expected a number above 0, got -2"):
        QueueNCELoss(-2)


def made(**arguments):
    torch.manual_seed(0)
    return MoCo(Encoder(), **{"queue": 10, "hidden": 8, "dim": 3, **arguments})


def batch(rng, size=4):
    return [torch.randn(size, 1, 4, 4, generator=rng) for _ in range(2)], torch.full((size,), -1), torch.arange(size)


def test_loss_contrasts_queries_with_keys_and_the_queue_as_it_was(rng):
    method = made(temperature=0.3)
    twin = copy.deepcopy(method)
    views, labels, index = batch(rng)
    value = method.loss(views, labels, index)
    queries = twin.head(twin.encoder(views[0]))
    keys = twin.key_head(twin.key_encoder(views[1]))  # before the first step, both encoders are the same
    torch.testing.assert_close(value, plain(queries, keys, twin.queue, 0.3))


def test_gradient_reaches_the_trained_encoder_alone(rng):
    method = made()
    method.loss(*batch(rng)).backward()
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == {"encoder", "head"}
    assert all(p.grad.abs().max() > 0 for p in method.encoder.parameters())


def test_the_oldest_keys_leave_first(rng):
    """Batches of 4 fill a queue of 10 and wrap around, across its end."""
    method = made()
    start = method.queue.clone()
    keys = [F.normalize(torch.randn(4, 3, generator=rng), dim=1) for _ in range(3)]
    for k in keys[:2]:
        method.enqueue(5 * k)
    torch.testing.assert_close(method.queue, torch.cat([*keys[:2], start[8:]]))
    method.enqueue(keys[2])
    torch.testing.assert_close(method.queue, torch.cat([keys[2][2:], keys[0][2:], keys[1], keys[2][:2]]))
    assert method.pointer.item() == 2


def test_of_a_batch_larger_than_the_queue_the_last_keys_stay(rng):
    method = made(queue=3)
    keys = F.normalize(torch.randn(8, 3, generator=rng), dim=1)
    method.enqueue(keys)
    torch.testing.assert_close(method.queue, keys[-3:])
    method.loss(*batch(rng, 8)).backward()


@pytest.mark.parametrize("heads", [(), (2,)], ids=["one", "heads"])
def test_a_queue_in_order_of_age_is_the_ring_read_from_its_pointer(heads, rng):
    """Batches below the queue's size, of it and above it, since each leaves the ring at another slot."""
    aged = ring = F.normalize(torch.randn(7, *heads, 3, generator=rng), dim=-1)
    everything, pointer = [aged], torch.tensor(0)
    for rows in (3, 5, 7, 1, 9, 4):
        keys = torch.randn(rows, *heads, 3, generator=rng)
        everything.append(F.normalize(keys, dim=-1))
        (ring, pointer), (aged, first) = enqueue(ring, 5 * keys, pointer), enqueue(aged, keys)
        torch.testing.assert_close(aged, torch.cat(everything)[-7:])
        torch.testing.assert_close(ring.roll(-int(pointer), 0), aged)
        assert first == 0
    assert pointer == (3 + 5 + 1 + 4) % 7


@pytest.mark.parametrize("pointer", [None, torch.tensor(1)], ids=["aged", "ring"])
def test_a_queue_keeps_its_type_and_the_given_one_stays_as_it_was(pointer, rng):
    queue = torch.randn(4, 3, generator=rng).bfloat16()
    before, keys = queue.clone(), torch.randn(2, 3, generator=rng, requires_grad=True)
    found, _ = enqueue(queue, keys, pointer)
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad
    assert torch.equal(queue, before)
    assert found.untyped_storage().nbytes() == queue.untyped_storage().nbytes()  # a checkpoint holds whole storages


@pytest.mark.usefixtures("plain_shapes")
def test_what_is_no_queue_no_key_and_no_slot_is_refused_by_name():
    for keys in (QUERIES[:, :4], QUERIES[:0], QUERIES[0]):
        with pytest.raises(InputError, match=r"queue and keys: expected .* got \[6, 5\] and"):
            enqueue(QUERIES, keys)
    for queue, keys in ((QUERIES[:0], QUERIES), (QUERIES[0], QUERIES[0])):
        with pytest.raises(InputError, match=r"queue and keys: expected \[queue, \*heads, dim\] and"):
            enqueue(queue, keys)
    with pytest.raises(InputError, match="keys: 30 of 30 numbers are NaN"):
        enqueue(QUERIES, QUERIES * math.nan)
    with pytest.raises(InputError, match="queue: 30 of 30 numbers are NaN"):
        enqueue(QUERIES * math.nan, QUERIES)
    with pytest.raises(InputError, match="pointer: expected integers from 0 to 5, got 6"):
        enqueue(QUERIES, QUERIES, torch.tensor(6))
    with pytest.raises(InputError, match=r"pointer: expected integers, got torch\.float32"):
        enqueue(QUERIES, QUERIES, torch.tensor(1.0))
    with pytest.raises(InputError, match=r"pointer: expected a single integer, got shape \[1\]"):
        enqueue(QUERIES, QUERIES, torch.tensor([1]))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_key_encoder_follows_by_its_share(momentum, rng):
    method = made(momentum=momentum)
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.head.parameters()]:
            p.add_(1.0)
    before = [p.clone() for p in [*method.key_encoder.parameters(), *method.key_head.parameters()]]
    method.loss(*batch(rng))
    after = [*method.key_encoder.parameters(), *method.key_head.parameters()]
    for new, old in zip(after, before, strict=True):
        torch.testing.assert_close(new, old + (1 - momentum))


def test_evaluation_changes_neither_queue_nor_key_encoder(rng):
    method = made().eval()
    with torch.no_grad():
        method.encoder.weight.add_(1.0)
    before = copy.deepcopy(method.state_dict())
    method.loss(*batch(rng))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_checkpoint_carries_queue_pointer_and_key_encoder(rng):
    method, fresh = made(), made()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(*batch(rng)).backward()
        optimizer.step()
    assert not torch.equal(method.key_encoder.weight, method.encoder.weight)
    fresh.load_state_dict(method.state_dict())
    assert fresh.pointer.item() == 2
    given = batch(rng)
    torch.testing.assert_close(fresh.loss(*given), method.loss(*given), rtol=0, atol=0)
    assert torch.equal(fresh.queue, method.queue)


@pytest.mark.parametrize(("name", "value"), [("queue", 0), ("momentum", 1.5), ("momentum", -0.1), ("temperature", 0)])
def test_arguments_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name}: expected a (whole )?number .*, got {value:g}"):
        made(**{name: value})
