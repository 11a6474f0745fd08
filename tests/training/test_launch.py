"""Several processes that train one method together: by one command, or by one on each machine; and cut off."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from counterpoise.errors import InputError, ProcessLost
from counterpoise.learners.method import Method
from counterpoise.nets import backbone
from counterpoise.training.launch import launch
from counterpoise.training.run import ImageSettings
from counterpoise.training.trainer import DistributedBatchSampler, ProcessGroupConfig, Shuffle

pytestmark = pytest.mark.slow
TRAIN = ["train", "--method", "isogclr", "--data", "digits", "--batch-size", "128", "--device", "cpu", "--quiet"]


def start(*arguments, start_new_session=False, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "counterpoise.cli", *TRAIN, *map(str, arguments)],
        env={**os.environ, **environment},
        start_new_session=start_new_session,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def same_encoders(a, b):
    a, b = (load_file(folder / "net.safetensors") for folder in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def workers(process):
    """The processes that train, which the command has started."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def when(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def test_every_image_of_a_batch_is_in_one_share_and_shares_are_even():
    order, method = Shuffle(50, seed=3), Method(backbone("small", 1, 16))
    whole = list(DistributedBatchSampler(order, method, 16, ProcessGroupConfig()))
    shares = [
        list(DistributedBatchSampler(order, method, 16, ProcessGroupConfig(devices=3, rank=rank))) for rank in range(3)
    ]
    assert len(whole) == len(shares[0]) == 3
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(i for part in parts for i in part)
        assert sorted(map(len, parts)) == [5, 5, 6]


@pytest.mark.slow
def test_a_lost_process_ends_the_run_which_then_goes_on_to_the_same_bits(tmp_path):
    whole = start("--epochs", 3, "--devices", 2, "--out", tmp_path / "whole")
    assert finished(whole)[0] == 0
    cut = start("--epochs", 3, "--devices", 2, "--out", tmp_path / "cut")
    when((tmp_path / "cut" / "last.ckpt").exists)
    os.kill(when(lambda: workers(cut))[-1].pid, signal.SIGKILL)
    started = time.monotonic()
    code, _, err = finished(cut)
    assert time.monotonic() - started < 60
    assert code == 1
    assert "of 2 died of signal 9" in err
    assert "Traceback" not in err
    code, out, _ = finished(start("--epochs", 3, "--devices", 2, "--out", tmp_path / "cut"))
    assert (code, "knn" in out) == (0, True)
    assert same_encoders(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_two_machines_train_what_two_processes_of_one_do(tmp_path):
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    options = ("--epochs", 1, "--nodes", 2, "--exchange", "ring", "--out", tmp_path / "two")
    both = [start(*options, **meeting, NODE_RANK=str(rank)) for rank in (0, 1)]
    assert [finished(process)[0] for process in both] == [0, 0]
    one = start("--epochs", 1, "--devices", 2, "--exchange", "ring", "--out", tmp_path / "one")
    assert finished(one)[0] == 0
    assert same_encoders(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_ctrl_c_stops_all_of_them(tmp_path):
    process = start("--epochs", 500, "--devices", 2, "--out", tmp_path)
    when((tmp_path / "last.ckpt").exists)
    pids = [worker.pid for worker in workers(process)]
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert (code, "stopped" in err) == (130, True)
    when(lambda: not any(psutil.pid_exists(pid) for pid in pids), seconds=30)


@pytest.mark.slow
def test_ctrl_c_while_they_start_is_one_line(tmp_path):
    process = start("--epochs", 500, "--devices", 2, "--out", tmp_path, start_new_session=True)
    started = when(lambda: workers(process))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    code, out, err = finished(process)
    assert (code, out) == (130, "")
    assert err == "counterpoise: stopped; the same command goes on from here\n"
    assert psutil.wait_procs(started, timeout=10)[1] == []


@pytest.mark.slow
def test_what_the_processes_warn_of_is_in_the_result(tmp_path):
    process = start(
        "--epochs", 1, "--devices", 2, "--accumulate", 4, "--out", tmp_path, PL_TRAINER_GRADIENT_CLIP_VAL="0.5"
    )
    code, out, err = finished(process)
    assert (code, err) == (0, "")
    warnings = json.loads((tmp_path / "result.json").read_text())["warnings"]
    assert any(text.startswith("accumulate: 4 batches a step asked for") for text in warnings)
    assert [text for text in warnings if "PL_TRAINER_GRADIENT_CLIP_VAL=0.5" in text]
    assert all(f"warning: {text}" in out for text in warnings)


def fail(rank, message):
    if rank == 1:
        raise InputError(message)
    time.sleep(60)


def leave_a_note(rank, folder):
    (Path(folder) / str(rank)).write_text("here")


def test_an_error_in_a_process_is_reported_and_the_others_do_not_wait():
    started = time.monotonic()
    with pytest.raises(ProcessLost, match="process 1 of 2 failed: InputError: size: too small"):
        launch(fail, ("size: too small",), devices=2)
    assert time.monotonic() - started < 50


def test_each_process_is_called_with_its_number(tmp_path):
    launch(leave_a_note, (str(tmp_path),), devices=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_machines_without_a_place_to_meet_are_refused(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="nodes: several machines need MASTER_PORT, NODE_RANK in the environment"):
        launch(leave_a_note, (".",), devices=1, nodes=2)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"devices": 0}, "devices: expected a whole number of at least 1"),
        ({"nodes": 0}, "nodes: expected a whole number of at least 1"),
        ({"strategy": "fsbp"}, "strategy 'fsbp' is not known; did you mean 'fsdp'"),
        ({"strategy": "fsdp", "device": "cpu"}, "strategy: 'fsdp' needs CUDA"),
        ({"exchange": "rings"}, "exchange 'rings' is not known; did you mean 'ring'"),
        ({"devices": 4, "batch_size": 7}, "batch_size: expected at least 2 images for each of 4 processes, got 7"),
    ],
)
def test_teams_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ImageSettings(**wrong)
