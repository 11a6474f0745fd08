"""Starting the processes that train together, on this machine and others, by PyTorch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from counterpoise.errors import InputError, ProcessLost

MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def launch(function: Callable[..., None], arguments: tuple[Any, ...], devices: int, nodes: int = 1) -> None:
    """Call `function(rank, *arguments)` in `devices` new processes on this machine, together with others.

    With several machines the same command runs on each; the environment says where they meet: `MASTER_ADDR` and
    `MASTER_PORT` of the first one, and `NODE_RANK`, this machine's number from 0.

    Args:
        function: of a module; it can use `torch.distributed` once something, such as Lightning, initialises it.
        arguments: for it; they are pickled.
        devices: processes on each machine.
        nodes: how many machines.

    Raises:
        InputError: if the environment does not say where several machines meet.
        ProcessLost: if a process failed or died; the others are ended then.
    """
    # Without SIGINT, which `_on_interrupt` handles: the launcher waits half a minute for processes that import.
    handled: dict[str, Any] = (
        {"signals_to_handle": "SIGTERM,SIGHUP,SIGQUIT"} if hasattr(LaunchConfig, "signals_to_handle") else {}
    )
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        run_id="counterpoise",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        **handled,
        **(_alone() if nodes == 1 else _together()),
    )
    for name in ("torch.distributed", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error says what went wrong
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    others, in_main = started(), threading.current_thread() is threading.main_thread()
    if in_main:
        signal.signal(signal.SIGINT, _on_interrupt(others))
    try:
        with interrupts_held():
            elastic_launch(config, _enter)(function, arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == -signal.SIGINT:
            raise KeyboardInterrupt from error
        raise ProcessLost(f"process {rank} of {devices * nodes} {_reason(failure)}") from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + error.sigval) from error
    finally:
        if in_main:
            for number, handler in handlers.items():  # the launcher leaves its own
                signal.signal(number, handler)


def started() -> set[psutil.Process]:
    """The processes that this one has started, among them the tracker of Python's resources, which ends by itself."""
    resource_tracker.ensure_running()  # when it starts, it lets signals through again
    return set(psutil.Process().children())


def end_all_but(others: set[psutil.Process]) -> None:
    """End at once what this process has started, in whatever state it is, but for some."""
    for child in started() - others:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _on_interrupt(others: set[psutil.Process]) -> Callable[..., None]:
    """A handler of Ctrl-C that ends all other processes first: one whose start is cut off would print a traceback."""

    def handle(*_: Any) -> None:
        end_all_but(others)
        raise KeyboardInterrupt

    return handle


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that are started in the block hear no Ctrl-C until they call `take_interrupts`; this one still does.

    A terminal sends Ctrl-C to all of them. One that is still importing would answer with a traceback.
    """
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()  # gets signals in the place of this thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()


def take_interrupts() -> None:
    """End this process at Ctrl-C from now on, without a word: its run goes on from its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def node() -> int:
    """The number of this machine among those that train together."""
    return int(os.environ.get("NODE_RANK", "0"))


def _alone() -> dict[str, Any]:
    return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}


def _together() -> dict[str, Any]:
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"nodes: several machines need {', '.join(missing)} in the environment: the address and a free port of the "
            "first machine, and the number of this one from 0"
        )
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        "rdzv_configs": {"rank": node(), "timeout": 900},
    }


@record
def _enter(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    take_interrupts()
    warnings.showwarning = lambda *_: None  # the one that launched gets them out of the checkpoint
    function(int(os.environ["RANK"]), *arguments)


def _reason(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"died of signal {-failure.exitcode}"
    info = failure.error_file_data.get("message", {})
    message = info.get("message", info) if isinstance(info, dict) else info
    return f"failed: {message or f'exit status {failure.exitcode}'}"
