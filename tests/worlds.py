"""What several tests share: a user's file, an encoder, generators, processes, methods built as tasks do."""

import os
import signal
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

NEAR = '''
from counterpoise import Method
from counterpoise.nets.frozen import Frozen


class Near(Method):
    """Two views agree, near a start."""

    def __init__(self, encoder, start, weight: float = 1.0, **recipe):
        super().__init__(encoder, **recipe)
        self.start, self.weight = Frozen(start), weight

    def loss(self, images, labels, index):
        first, second = (self.encoder(view) for view in images)
        return (first - second).square().mean() + self.weight * (first - self.start(images[0])).square().mean()
'''
"""A user's file, whose method stands on a model that is trained before it."""


class Encoder(nn.Linear):
    """Rows, or images, of so many numbers to features, by one linear map.

    Args:
        channels: of images; none for rows, by which some methods know them.
    """

    def __init__(self, inputs=16, features=4, channels=None):
        super().__init__(inputs, features)
        self.features = features
        if channels is not None:
            self.channels = channels

    def forward(self, images):
        return super().forward(images.flatten(1))


def seeded(seed=0):
    """A generator for one constant of a module: no test can draw from it. Tests draw from the fixture `rng`."""
    return torch.Generator().manual_seed(seed)


def run(world, function, *arguments):
    """What `function(rank, world, *arguments)` returned in each process, in order of rank; tensors and plain values."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_enter, (world, folder, function, arguments), nprocs=world, start_method="spawn")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _enter(rank, world, folder, function, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        torch.save(function(rank, world, *arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def shard(x, sizes, rank, dim=0):
    """The part of `x` that one process holds."""
    return x.split(sizes, dim)[rank].clone()


def sizes_of(rows, world):
    """As even as can be, the last processes having one row less."""
    return [rows // world + (rank < rows % world) for rank in range(world)]


def error_of(function):
    """The type and message of what `function()` raises."""
    try:
        function()
    except Exception as error:
        traceback.print_exc()
        return type(error).__name__, str(error)
    return None


def work(name, folder):
    """One of four endings."""
    if name == "fails":
        raise ValueError("size: too small")
    if name == "dies":
        with open(os.path.join(folder, "deaths"), "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{name} in {os.path.basename(os.getcwd())}"


def build(run, images):
    """The method of a run on images that stand for all of its data."""
    from counterpoise import tasks  # here, so that tests of the lower layers don't load every task
    from counterpoise.tasks.images import Prepared

    return tasks.find(run.task).make(run, Prepared(images, images, images))


def scored_rows(task, gallery, test):
    """What a task of unseen classes finds of rows as they are, which are the pixels of images.

    Args:
        task: its module.
        gallery: rows of numbers from 0 to 255, and their labels.
        test: the same.
    """
    from counterpoise.data import Images  # here, as above
    from counterpoise.data.views import to_float
    from counterpoise.learners.method import Method
    from counterpoise.learners.references import RawInputs
    from counterpoise.tasks.images import Prepared

    parts = [
        Images(rows.to(torch.uint8)[:, None, None], torch.as_tensor(labels), tuple("abcdefghij"), "rows")
        for rows, labels in (gallery, test)
    ]
    pixels = Method(RawInputs((1, 1, gallery[0].shape[1])))
    return task.TASK.score_features(pixels, Prepared(None, *parts), pixels.encoder(to_float(parts[1].pixels)))
