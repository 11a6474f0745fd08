"""Rows over several processes: what is gathered, what goes around, and what happens when one of them dies."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

import worlds
from counterpoise.contrast.simclr import nt_xent
from counterpoise.errors import InputError
from counterpoise.ops import tiles
from counterpoise.ops.processes import around, exchange, exchanging, gather, global_row_indices, is_first
from counterpoise.ops.similarity import similarity_logsumexp

pytestmark = pytest.mark.slow
ROWS, DIM, SIDE = 60, 4, 8


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return out


def largest(how, rank, world):
    """Of a forward and backward pass, in elements."""
    tiles.SIDE["cpu"] = SIDE
    generator = torch.Generator().manual_seed(rank)
    z = torch.randn(ROWS, DIM, generator=generator, requires_grad=True)
    with exchanging(how), Largest() as seen:
        similarity_logsumexp(z, exclude=global_row_indices(z), gather_distributed=True).sum().backward()
    return seen.largest


def visits(rank, world):
    """What a process sees of the others, each of which adds its number to what comes by."""
    seen = []

    def visit(step, tensors, sums):
        seen.append((step, tensors["x"].tolist()))
        sums["x"] += rank + 1

    sums = around({"x": torch.full((rank + 1,), rank)}, {"x": torch.zeros(rank + 1, 2)}, visit)
    return seen, sums["x"]


def facts(rank, world):
    x = torch.full((rank + 2, 3), float(rank), requires_grad=True)
    everything = gather(x)
    weights = torch.arange(1.0, len(everything) + 1)[:, None]
    ((rank + 1) * weights * everything).sum().backward()
    with exchanging("none"):
        alone = gather(x.detach()), global_row_indices(x), is_first(), exchange()
    refused = worlds.error_of(lambda: global_row_indices(x, "z1", at_least=100))
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(rank))
    with exchanging("none"):
        local = nt_xent(z, z + 1)
    return {
        "all": everything.detach(),
        "gradient": x.grad,
        "numbers": global_row_indices(x),
        "first": is_first(),
        "exchange": exchange(),
        "alone": alone,
        "refused": refused,
        "local": local,
        "visits": visits(rank, world),
        "largest": {how: largest(how, rank, world) for how in ("gather", "ring")},
    }


@pytest.fixture(scope="module", params=[2, 4])
def found(request):
    return worlds.run(request.param, facts)


def test_all_rows_come_in_the_order_of_the_processes(found):
    expected = torch.cat([torch.full((rank + 2, 3), float(rank)) for rank in range(len(found))])
    for mine in found:
        assert torch.equal(mine["all"], expected)
    assert torch.cat([mine["numbers"] for mine in found]).tolist() == list(range(len(expected)))


def test_a_row_s_gradient_is_the_sum_over_all_processes(found):
    total = sum(rank + 1 for rank in range(len(found)))
    gradient = torch.cat([mine["gradient"] for mine in found])
    assert torch.equal(gradient, total * torch.arange(1.0, len(gradient) + 1)[:, None].expand(-1, 3))


def test_each_process_can_be_a_batch_of_its_own(found):
    for rank, mine in enumerate(found):
        rows, numbers, first, how = mine["alone"]
        assert torch.equal(rows, torch.full((rank + 2, 3), float(rank)))
        assert (numbers.tolist(), first, how) == (list(range(rank + 2)), True, "none")
        assert (mine["first"], mine["exchange"]) == (rank == 0, "gather")
        z = torch.randn(3, 2, generator=torch.Generator().manual_seed(rank))
        torch.testing.assert_close(mine["local"], nt_xent(z, z + 1))


def test_too_few_rows_in_all_are_refused_in_every_process(found):
    total = sum(rank + 2 for rank in range(len(found)))
    for mine in found:
        assert mine["refused"] == ("InputError", f"z1: expected at least 100 rows, got {total}")


def test_around_the_ring_everybody_sees_everything_and_sums_come_home(found):
    world = len(found)
    for rank, mine in enumerate(found):
        seen, sums = mine["visits"]
        owners = [(rank - step) % world for step in range(world)]
        assert seen == [(step, [owner] * (owner + 1)) for step, owner in enumerate(owners)]
        assert torch.equal(sums, torch.full((rank + 1, 2), float(sum(range(1, world + 1)))))


def test_in_a_ring_no_process_holds_all_rows_and_nobody_ever_a_matrix(found):
    """The largest tensor: gathered, all rows; in a ring, a process's own. Never pairs of them."""
    for mine in found:
        assert mine["largest"] == {"gather": len(found) * ROWS * DIM, "ring": ROWS * DIM}


@pytest.mark.usefixtures("plain_shapes")
def test_an_unknown_exchange_is_refused():
    with pytest.raises(InputError, match="did you mean 'ring'"), exchanging("rings"):
        pass
    assert exchange() == "none"


def dying(rank, folder, how, moment, answers):
    """Process 1 dies before the loss or between the passes; process 0 answers how it ended."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def die(now):
        if rank == 1 and moment == now:
            os.kill(os.getpid(), signal.SIGKILL)

    def step():
        z = torch.randn(8, 4, requires_grad=True)
        with exchanging(how):
            die("forward")
            loss = nt_xent(z, z + 1)
            die("backward")
            loss.backward()

    start = time.perf_counter()
    answers.put((*worlds.error_of(step), time.perf_counter() - start))


@pytest.mark.parametrize(("how", "moment"), [("gather", "forward"), ("ring", "backward")])
def test_when_a_process_dies_the_others_stop_and_say_so(how, moment, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    both = [context.Process(target=dying, args=(rank, str(tmp_path), how, moment, answers)) for rank in (0, 1)]
    for process in both:
        process.start()
    kind, message, seconds = answers.get(timeout=60)
    for process in both:
        process.join(30)
    assert both[1].exitcode == -signal.SIGKILL
    assert (kind, message.split(",")[0]) == ("ProcessLost", "process 0 of 2 lost another one")
    assert seconds < 30
