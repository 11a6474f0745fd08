"""Calls spread over a Ray cluster, results as they come (extra `ray`)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

from counterpoise.errors import InputError, MissingExtra

Key = TypeVar("Key", bound=Hashable)

LOCAL = "local"


def run_on_ray(
    function: Callable[..., Any], calls: Mapping[Key, tuple[Any, ...]], address: str, cpus: int, gpus: int
) -> Iterator[tuple[Key, Any]]:
    """`function(*arguments)` for each of `calls`, as tasks of a Ray cluster.

    Args:
        function: of a module that can be imported on all machines of the cluster.
        calls: arguments by key; they are pickled.
        address: of the cluster: "auto", "HOST:PORT" or "ray://HOST:PORT"; "local" starts one here, and stops it again.
        cpus: processor cores that each call takes.
        gpus: accelerators that each call takes.

    Yields:
        A key and what its call returned, or the exception that ended it, in the order in which they end. A call whose
        process dies is made once more.

    Raises:
        MissingExtra: without Ray.
        InputError: if there is no cluster at the address.
    """
    # No word about this run to anybody outside, and no dashboard that it would need a port for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("ray", "ray") from error
    settings: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise InputError(f"ray: no cluster at '{address}' ({reason}); 'local' starts one here") from error
    try:
        there = ray.cluster_resources()
        if there.get("CPU", 0) < cpus or there.get("GPU", 0) < gpus:
            raise InputError(f"ray: the cluster at '{address}' has too little for one run: {cpus} CPU, {gpus} GPU")
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
        pending = {task.remote(os.getcwd(), function, arguments): key for key, arguments in calls.items()}
        while pending:
            (done, *_), _ = ray.wait(list(pending))
            key = pending.pop(done)
            try:
                yield key, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                yield key, error.cause  # its own text is a traceback
            except ray.exceptions.RayError as error:
                yield key, error
    finally:
        ray.shutdown()  # ends the calls that are not done
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray leaves its own


def _call(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.chdir(folder)  # paths mean on every machine what they mean where the command was given
    return function(*arguments)
