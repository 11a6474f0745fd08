"""Several runs: one after another, in worker processes, or on the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from counterpoise import tasks
from counterpoise.engine.execute import execute_run
from counterpoise.engine.given import RUNS, SHELF, run_folder, run_name, stands_on, waves
from counterpoise.engine.ray import run_on_ray
from counterpoise.errors import Unwritable, printable
from counterpoise.files import locked, make_output_folder, read_json, written
from counterpoise.registry import user_files
from counterpoise.training.launch import end_all_but, interrupts_held, started, take_interrupts
from counterpoise.training.run import Result, Run
from counterpoise.training.trainer import resolve

Key = tuple[str, int]
Found = Generator[tuple[Key, Result], None, None]


class Stopped(KeyboardInterrupt):
    """Ctrl-C in the middle of runs, with the results of those that are done; the status of the others is "stopped"."""

    def __init__(self, results: dict[Key, Result]):
        super().__init__()
        self.results = results


def run_all(
    runs: dict[Key, Run], folder: Path, jobs: int, console: Console, ray: str | None = None
) -> dict[Key, Result]:
    """Run what is not done yet; a run that fails gives a result that says so, and the others go on.

    Raises:
        InputError: if another process is running a comparison in the same folder, or what is found cannot be kept.
        Stopped: at Ctrl-C.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}", markup=False),
    )
    results: dict[Key, Result] = {}
    with locked(folder, "comparison"), Progress(*columns, console=console) as progress:
        try:
            failed: dict[str, str] = {}
            for wave in waves(runs.values()):  # first, or several runs would wait for one that trains what all need
                models = {(run_name(run), run.seed): run for run in wave}
                bar = progress.add_task("models to stand on", total=len(models), now="")
                for (name, _), result in _all_of(models, folder / SHELF, jobs, ray, progress, bar, console):
                    if result["status"] == "failed":
                        failed[name] = result["error"]
            ready = {}
            for key, run in runs.items():
                missing = next((failed[name] for one in stands_on(run) if (name := run_name(one)) in failed), None)
                if missing is None:
                    ready[key] = run
                else:
                    error = f"a model that it stands on cannot be trained: {missing}"
                    results[key] = {"seed": run.seed, "status": "failed", "error": error}
            first: dict[str, Key] = {}  # of each run; others may be the same one, which two jobs must not share
            for key, run in ready.items():
                first.setdefault(run_name(run), key)
            unique = {key: ready[key] for key in first.values()}
            bar = progress.add_task("runs", total=len(unique), now="")
            for key, result in _all_of(unique, folder / RUNS, jobs, ray, progress, bar, console):
                results[key] = result
            results |= {key: results[first[run_name(run)]] for key, run in ready.items()}
        except KeyboardInterrupt as stop:
            raise Stopped({key: results.get(key) or _kept(run, folder) for key, run in runs.items()}) from stop
    return results


def _all_of(
    runs: dict[Key, Run],
    shelf: Path,
    jobs: int,
    ray: str | None,
    progress: Progress,
    bar: TaskID,
    console: Console,
) -> Found:
    """The results of runs as they come, counted by the progress bar; a failure is printed.

    Args:
        runs: what to run, by label and seed.
        shelf: the folder in which each has its own.
        jobs: runs at the same time.
        ray: address of a Ray cluster.
        progress: shows the bar.
        bar: its number.
        console: what a failure is printed to.
    """

    if not runs:
        return

    def show(now: str) -> None:
        progress.update(bar, now=printable(now))

    with closing(_each_on_ray(runs, shelf, ray) if ray else _each(runs, shelf, jobs, show)) as found:
        for (label, seed), result in found:
            progress.advance(bar)
            if result["status"] == "failed":
                console.print(printable(f"{label}, seed {seed} failed: {result['error']}"), soft_wrap=True)
            yield (label, seed), result


def _kept(run: Run, folder: Path) -> Result:
    """The result of a run that an earlier call has done, or that there is none."""
    target = run_folder(run, folder)
    if (target / "result.json").exists():
        return {**read_json(target / "result.json"), "folder": str(target.relative_to(folder))}
    return {"seed": run.seed, "status": "stopped", "error": "not done when the comparison was stopped"}


def _each(runs: dict[Key, Run], shelf: Path, jobs: int, show: Callable[[str], None]) -> Found:
    """Results as they come; in this process, or with several jobs in processes of their own."""
    if jobs == 1:
        for key, run in runs.items():
            yield key, attempt(run, shelf, (_Progress(show, *key, tasks.find(run.task)),))
        return
    pending = dict(runs)
    with _workers(jobs) as pool:
        futures = _submit(pool, runs, shelf)
        for future in as_completed(futures):
            if not isinstance(future.exception(), BrokenProcessPool):
                key = futures[future]
                pending.pop(key)
                yield key, future.result()
    # A process that dies takes its pool with it. What it left unanswered runs again, each in a pool of its own, so
    # that the run that kills its process fails alone.
    for key, run in pending.items():
        with _workers(1) as pool:
            (future,) = _submit(pool, {key: run}, shelf)
            try:
                yield key, future.result()
            except BrokenProcessPool:
                yield key, {"seed": key[1], "status": "failed", "error": "its process died"}


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for runs, which end at once where the block ends by an error or Ctrl-C."""
    others = started()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _live_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            end_all_but(others)
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _submit(pool: ProcessPoolExecutor, runs: dict[Key, Run], shelf: Path) -> dict[Future[Result], Key]:
    with interrupts_held():  # this starts the workers
        return {pool.submit(attempt, run, shelf): key for key, run in runs.items()}


def _each_on_ray(runs: dict[Key, Run], shelf: Path, address: str) -> Found:
    """Results as they come from the machines of a cluster."""
    settings = next(iter(runs.values())).settings
    cuda = resolve(settings.device) == "cuda"
    calls = {key: (run, shelf.absolute()) for key, run in runs.items()}
    devices = settings.process_group().devices
    cpus, gpus = settings.threads * devices, devices if cuda else 0
    for key, result in run_on_ray(attempt, calls, address, cpus, gpus):
        if isinstance(result, Exception):
            reason = f"{type(result).__name__}: {' '.join(str(result).split())[:200]}"
            result = {"seed": key[1], "status": "failed", "error": reason}
        elif result["status"] == "done" and not (shelf.parent / result["folder"] / "result.json").exists():
            error = f"done on a machine that does not share {shelf.parent}, which all machines of the cluster must"
            result = {"seed": key[1], "status": "failed", "error": error}
        yield key, result


def _live_with_parent() -> None:
    """Ctrl-C or the parent's end, however it comes, ends a worker at once: its run goes on from its checkpoint."""
    take_interrupts()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempt(run: Run, shelf: Path, callbacks: Sequence[Callback] = ()) -> Result:
    """One run's result, in a folder of its own on the shelf; or what it failed with."""
    target = shelf / run_name(run)
    try:
        result = execute_run(run, target, callbacks=callbacks)
    except Unwritable:  # nor could anything else be kept
        raise
    except Exception as error:  # whatever a method does, the others go on
        make_output_folder(target, "run")
        with written(target / "error.txt") as aside:
            aside.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        reason = user_files.blamed(error) or f"{type(error).__name__}: {error}"
        return {"seed": run.seed, "status": "failed", "error": reason}
    (target / "error.txt").unlink(missing_ok=True)
    return {**result, "folder": str(target.relative_to(shelf.parent))}


class _Progress(Callback):
    """Shows in the comparison's progress bar where the running method is."""

    def __init__(self, show: Callable[[str], None], label: str, seed: int, task: tasks.Task[Any]):
        self.show, self.name, self.task = show, f"{label}, seed {seed}", task

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.show(self.name)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        found = trainer.callback_metrics
        shown = next(((metric, float(found[name])) for name, metric in self.task.curve.items() if name in found), None)
        figure = "" if shown is None else f", {shown[0].title} {shown[1]:{'.1%' if shown[0].percent else '.4g'}}"
        self.show(f"{self.name}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}{figure}")
