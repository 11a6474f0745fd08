"""Starting the processes that train together, on this machine and others, by PyTorch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from counterpoise.errors import InputError, ProcessLost

MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def launch(function: Callable[..., None], arguments: tuple[Any, ...], devices: int, nodes: int = 1) -> None:
    """Call `function(rank, *arguments)` in `devices` new processes on this machine, as part of a team with others.

    With several machines the same command runs on each; the environment tells where they meet: `MASTER_ADDR` and
    `MASTER_PORT` of the first one, and `NODE_RANK`, this machine's number from 0.

    Args:
        function: of a module; it can use `torch.distributed` once something, such as Lightning, initialises it.
        arguments: for it; they are pickled.
        devices: processes on each machine.
        nodes: how many machines.

    Raises:
        InputError: if the environment does not tell where several machines meet.
        ProcessLost: if a process failed or died; the others are ended then.
    """
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        run_id="counterpoise",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        **(_alone() if nodes == 1 else _together()),
    )
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what went wrong is told by the error
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, _enter)(function, arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ProcessLost(f"process {rank} of {devices * nodes} {_told(failure)}") from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + error.sigval) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # the launcher leaves its own
                signal.signal(number, handler)


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
    function(int(os.environ["RANK"]), *arguments)


def _told(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"died of signal {-failure.exitcode}"
    info = failure.error_file_data.get("message", {})
    message = info.get("message", info) if isinstance(info, dict) else info
    return f"failed: {message or f'exit status {failure.exitcode}'}"
