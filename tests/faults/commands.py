"""Commands that are started, killed at a chosen moment, and what must hold of their folder afterwards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from counterpoise.files import ASIDE
from counterpoise.training.trainer import CHECKPOINT, read_checkpoint

SERVER = Path(__file__).with_name("server.py")
LONGEST = 0.25  # seconds between the moment that is waited for and the kill
MOMENTS = ("start", "training", "checkpoint", "scoring", "between", "report")


class Server:
    """Runs commands in processes that need no start-up; see server.py."""

    def __init__(self, log: Path, command: Sequence[str] = (sys.executable, str(SERVER))):
        self.log = log
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _ask(self, asked: object) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self._answer())

    def start(self, words: list[str], log: Path | None = None) -> int:
        """The number of the process, which leads a group of its own."""
        return self._ask({"words": words, "log": str(log or self.log)})

    def wait(self, pid: int) -> int:
        """Its exit status."""
        return self._ask(pid)

    def run(self, words: list[str]) -> None:
        """Run a command to its end."""
        assert self.wait(self.start(words)) == 0, self.log.read_text()

    def refused(self, words: list[str]) -> str:
        """The one line with which a command is refused."""
        before = len(self.log.read_text()) if self.log.exists() else 0
        status = self.wait(self.start(words))
        printed = self.log.read_text()[before:]
        lines = printed.strip().splitlines()
        assert status == 2, printed
        assert "Traceback" not in printed
        assert lines[-1].startswith("counterpoise: ")
        return lines[-1]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def serving(log: Path) -> Iterator[Server]:
    """A server that is gone afterwards."""
    server = Server(log)
    try:
        yield server
    finally:
        server.close()


def alive(pid: int) -> bool:
    """Whether a process still runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Work:
    """The folder of a comparison or a training, read from outside.

    Args:
        out: the folder.
        runs: how many runs it holds in the end.
        epochs: of each.
        models: how many of them train models that the others stand on.
    """

    def __init__(self, out: Path, runs: int, epochs: int, models: int = 0):
        self.out, self.runs, self.epochs, self.models = out, runs, epochs, models

    def folders(self) -> list[Path]:
        """Of the runs that have begun."""
        return sorted(path.parent for path in self.out.rglob("config.json"))

    def finished(self) -> dict[Path, tuple[bytes, int]]:
        """Content and time of each result."""
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(self.out.rglob("result.json"))}

    def phase(self) -> str:
        """Where the work stands, by its files."""
        done = [folder for folder in self.folders() if (folder / "result.json").exists()]
        open_runs = [folder for folder in self.folders() if folder not in done]
        if len(done) == self.runs:
            return "report"
        if any(len(rows(folder / "curve.csv")) == self.epochs for folder in open_runs):
            return "scoring"
        if open_runs:
            return "training"
        return "between" if done else "start"

    def reached(self, moment: str) -> Callable[[], bool]:
        """Whether the moment has come since now."""
        done, checkpoints = len(self.finished()), self._checkpoints()
        return {
            "start": lambda: True,
            "training": lambda: self.phase() == "training",
            "checkpoint": lambda: self._checkpoints() != checkpoints,
            "scoring": lambda: self.phase() == "scoring",
            "between": lambda: len(self.finished()) > done,
            "report": lambda: self.phase() == "report",
        }[moment]

    def _checkpoints(self) -> list[tuple[Path, int]]:
        return [(path, path.stat().st_mtime_ns) for path in sorted(self.out.rglob(CHECKPOINT))]

    def check(self) -> None:
        """No file is half-written under a name that is read later, and left-overs do not pile up."""
        for path in self.out.rglob("*.json"):
            json.loads(path.read_text(encoding="utf-8"))
        for path in self.out.rglob(CHECKPOINT):
            assert read_checkpoint(path)["epoch"] < self.epochs
        for path in self.out.rglob("curve.csv"):
            assert [int(row["epoch"]) for row in rows(path)] == list(range(1, len(rows(path)) + 1))
        for path in self.out.rglob("net.safetensors"):
            assert load_file(path)
        for path in self.out.rglob("gallery.npz"):
            assert len(np.load(path, allow_pickle=False)["labels"])
        for path in self.out.rglob("results.csv"):
            assert len(rows(path)) == self.runs - self.models
        for path in self.out.rglob("report.html"):
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        assert len(self.left_over()) <= 2

    def left_over(self) -> list[Path]:
        """What a killed process had not finished writing."""
        return [path for path in self.out.rglob("*") if ASIDE.fullmatch(path.name)]

    def outcome(self) -> dict[str, object]:
        """What the runs have found, without what a clock or the memory says, and a digest of every tensor kept."""
        found = {}
        for folder in self.folders():
            result = json.loads((folder / "result.json").read_text())
            curve = [{name: value for name, value in row.items() if name != "seconds"} for row in result["curve"]]
            kept = ("metrics", "per_class", "groups", "diagnostics", "counts", "warnings")
            method = json.loads((folder / "config.json").read_text())["method"]
            net = load_file(folder / "net.safetensors")
            bits = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in net.items()}
            found[f"{method}, seed {result['seed']}"] = [*(result[name] for name in kept), curve, bits]
        return found


def make_photos(folder: Path) -> Path:
    """A folder of small grey images in three classes that can be distinguished."""
    draw = np.random.default_rng(0)
    for y, name in enumerate(("left", "middle", "right")):
        (folder / name).mkdir(parents=True)
        for i in range(24):
            pixels = draw.integers(0, 120, (16, 16), dtype=np.uint8)
            pixels[:, 5 * y : 5 * y + 6] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def kill_at(
    work: Work,
    moment: str,
    draw: random.Random,
    start: Callable[[], int],
    wait: Callable[[int], int],
    group: bool = True,
) -> str | None:
    """Start the command, kill it a random time after a moment has come, and check what is left.

    Args:
        work: the folder.
        moment: one of `MOMENTS`.
        draw: gives the time.
        start: starts the command in a group of its own and gives its number.
        wait: gives the exit status of a process.
        group: kill all processes of the command at once, or only the first.

    Returns:
        The phase in which it was killed; None where it had ended before.
    """
    before, reached = work.finished(), work.reached(moment)
    pid = start()
    delay = draw.uniform(0, LONGEST)
    while alive(pid) and not reached():
        time.sleep(0.002)
    time.sleep(delay)
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    if wait(pid) != -signal.SIGKILL:
        return None
    after = work.finished()
    assert {path: after[path] for path in before} == before
    work.check()
    return work.phase()


class Disk:
    """A file system of its own in memory, of a size that can be changed; gone with the server that mounts it.

    Args:
        at: an empty folder.
        size: such as "4m".
        log: what commands print.
    """

    def __init__(self, at: Path, size: str, log: Path):
        self.at = at
        mount = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(at))}"
        python = shlex.join([sys.executable, str(SERVER)])
        self.server = Server(log, ["unshare", "-rm", "sh", "-c", f"{mount} && exec {python}"])
        self.seen = Path(f"/proc/{self.server.process.pid}/root{at}")
        """The folder, as processes outside see it."""

    def remount(self, options: str) -> None:
        """Change the size, or make it read-only."""
        there = ["nsenter", "-U", "--preserve-credentials", "-m", "-t", str(self.server.process.pid)]
        subprocess.run([*there, "mount", "-o", f"remount,{options}", str(self.at)], check=True)


def can_mount() -> bool:
    """Whether this machine lets a process mount a file system for itself."""
    return (
        subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0 if which("unshare") else False
    )
