"""What all benchmarks share: timing, memory of a process of its own, the machine, and the files with the results."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from counterpoise.files import write_json, written

RESULTS = Path(__file__).parents[1] / "docs" / "results"


class Measured(NamedTuple):
    """Seconds of each repeat; and by how many MB the process's peak memory rose above what it had before."""

    seconds: list[float]
    peak_mb: float

    @property
    def median(self) -> float:
        """The median of the repeats, in seconds."""
        return statistics.median(self.seconds)


def repeat(
    function: Callable[[], Any],
    repeats: int = 5,
    warmup: int = 1,
    most: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of up to `repeats` calls, fewer once `most` seconds are spent, after `warmup` calls that do not count."""
    for _ in range(warmup):
        function()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < most:
        start = clock()
        function()
        seconds.append(clock() - start)
    return seconds


def alone(
    prepare: Callable[..., Callable[[], Any]],
    *arguments: Any,
    repeats: int = 3,
    threads: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Measure `prepare(*arguments)()` in a fresh process, so that its peak memory is its own.

    Args:
        prepare: a function of a module, which makes the inputs and returns the function to time.
        *arguments: for it; they are pickled.
        repeats: calls that are timed, after one that is not; fewer of slow ones, see `repeat`.
        threads: of PyTorch in that process.
        clock: gives seconds; `time.process_time` those of the processor, which other processes take nothing of.

    Raises:
        RuntimeError: if the process ended without an answer, as one does that is killed for its memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, prepare, arguments, repeats, threads, clock))
    process.start()
    sender.close()
    try:
        return Measured(*receiver.recv())
    except EOFError as error:
        raise RuntimeError(f"{prepare.__name__}{arguments}: the process ended without an answer") from error
    finally:
        process.join()


def _measure(sender: Any, prepare: Any, arguments: Sequence[Any], repeats: int, threads: int, clock: Any) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    function = prepare(*arguments)
    before = _peak_mb()
    seconds = repeat(function, repeats, clock=clock)
    sender.send((seconds, _peak_mb() - before))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def machine_line() -> str:
    """`machine` as a sentence for a page."""
    told = machine()
    return (
        f"{told['processor']}, {told['cores']} cores, {told['instructions']}, PyTorch {told['torch']}, "
        f"Python {told['python']}, {told['date']}."
    )


def write_results(name: str, content: dict[str, Any], page: str) -> None:
    """Write `docs/results/NAME.json` and `docs/results/NAME.md`, and print the page."""
    write_json(RESULTS / f"{name}.json", json.loads(json.dumps({"machine": machine(), **content})))
    with written(RESULTS / f"{name}.md") as aside:
        aside.write_text(page.rstrip() + "\n", encoding="utf-8")
    print(page)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; the first column is left-aligned, the others right-aligned.

    >>> print(markdown_table(["what", "s"], [["ours", 0.5]]))
    | what | s |
    |---|---:|
    | ours | 0.5 |
    """
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])
