"""Two commands in one folder: one of them works, the other is refused at once; nothing is done twice."""

import os
import signal
import time

import pytest

from counterpoise.files import LOCK
from faults.commands import Work

pytestmark = pytest.mark.slow

EPOCHS = 8
OPTIONS = ["--batch-size", "16", "--device", "cpu", "--epochs", str(EPOCHS)]
COMMANDS = {
    "comparison": (["compare", "--methods", "simclr,dcl", "--seeds", "1", "--no-references", *OPTIONS], 2),
    "training": (["train", "--method", "simclr", *OPTIONS], 1),
}
each = pytest.mark.parametrize("what", COMMANDS)


@each
def test_of_two_that_start_together_one_is_refused(server, photos, tmp_path, what):
    words, runs = COMMANDS[what]
    work = Work(tmp_path / "out", runs, EPOCHS)
    command = [*words, *photos, "--out", str(work.out)]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    both = [server.start(command, log) for log in logs]
    statuses = [server.wait(pid) for pid in both]
    assert sorted(statuses) == [0, 2]
    printed = logs[statuses.index(2)].read_text()
    assert printed == f"counterpoise: {work.out}: another {what} is running there\n"
    work.check()
    assert len(work.finished()) == runs
    before = work.finished()
    server.run(command)
    assert work.finished() == before


@each
def test_a_lock_whose_process_was_killed_does_not_block(server, photos, tmp_path, what):
    words, runs = COMMANDS[what]
    work = Work(tmp_path / "out", runs, EPOCHS)
    command = [*words, *photos, "--out", str(work.out)]
    pid = server.start(command)
    while not (work.out / LOCK).exists():
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert server.wait(pid) == -signal.SIGKILL
    assert (work.out / LOCK).exists()
    server.run(command)
    assert len(work.finished()) == runs


def test_a_training_is_refused_where_other_files_lie_and_nothing_is_written(server, photos, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    log = tmp_path.parent / "log"
    assert server.wait(server.start([*COMMANDS["training"][0], *photos, "--out", str(tmp_path)], log)) == 2
    assert "holds what counterpoise did not write (thesis.tex)" in log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
