"""Connect to a Ray cluster, choose the size and number of workers, and start the workers.

In: a `Job`. Out: an `Executor` for `runner.py`. Ray is imported only here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from export.errors import OptionRefused
from screen.cluster.executor import RayExecutor, WorkerSize, count_workers, live_nodes
from screen.config import RunConfig
from screen.files.paths import is_local
from screen.run.scoring import Executor, Job
from screen.run.stopping import StopRequest

_CONNECT_SECONDS = 10.0
"""Timeout of the first connection to a cluster, in seconds."""

_STORE_BYTES = 512 * 2**20
"""Size of Ray's object store in bytes, if this process starts Ray; Ray spills further objects to disk."""


@contextmanager
def open_cluster(job: Job, notify: Callable[[str], None], stop: StopRequest) -> Iterator[Executor]:
    """An executor on the Ray cluster at `--address` or RAY_ADDRESS; without an address, on Ray started on this machine.

    Args:
        job: the work to do.
        notify: callback for one-line notices.
        stop: the user's request to stop.

    Raises:
        OptionRefused: Ray is not installed, or the cluster cannot be reached or has no room for a worker.
        Refused: a worker cannot open the job.
    """
    ray = _import_ray()
    if is_local(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr), _connected(ray, job.config.address):  # Ray prints to stdout
        size, count = _choose_workers(ray, job.config)
        executor = RayExecutor(ray, job, notify, size, count)
        executor.wait_for_first(stop)
        yield executor


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
    except ImportError as error:
        raise OptionRefused(
            "--engine ray needs Ray, which is not installed.",
            wanted="Ray on this machine and on all nodes",
            next_step="pip install 'oodscreen[ray]', or leave --engine out",
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():  # by the program that calls oodscreen
        yield
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"object_store_memory": _STORE_BYTES, "include_dashboard": False}
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        _check_reachable(wanted)
        ray.init(
            address=wanted, log_to_driver=False, logging_level=logging.ERROR, **(options if wanted == "local" else {})
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionRefused(
            f"The Ray cluster {wanted} cannot be reached: {str(error).splitlines()[0]}",
            wanted="the address of a running cluster, as printed by `ray start --head`",
            next_step="check the address, and that the versions of Ray and Python are those of the cluster; set "
            "RAY_AUTH_TOKEN if the cluster requires a token",
        ) from error
    finally:
        for number, handler in handlers.items():  # Ray installs handlers that end the process at once
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Test the connection to `host:port` before `ray.init`, which would retry for minutes.

    Raises:
        OSError: the connection failed.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


def _choose_workers(ray: Any, config: RunConfig) -> tuple[WorkerSize, int]:
    """The size of a worker, and the number of workers that the cluster has room for.

    Raises:
        OptionRefused: the cluster has no room for a worker, or no GPU for `--device cuda`.
    """
    nodes = live_nodes(ray)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if config.device.startswith("cuda") and not gpus:
        raise OptionRefused(
            "--device is cuda, but no node of the Ray cluster has a GPU.",
            wanted="nodes for which `ray status` lists GPUs",
            next_step="start Ray on nodes with GPUs, or choose another --device",
        )
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise OptionRefused(
            "No node of the Ray cluster has CPUs.",
            wanted="nodes with CPUs: each worker needs at least one, even if it uses a GPU",
            next_step="start nodes with CPUs, for example with the option --num-cpus=8 of `ray start`",
        )
    if gpus and config.device != "cpu":
        size = WorkerSize(config.threads or 1, 1)
    else:
        size = WorkerSize(config.threads or min(cores), 0)  # so that each node has room for at least one worker
    count = count_workers(ray, size)
    if not count:
        raise OptionRefused(
            f"No node of the Ray cluster has {size.cores} cores{' and a GPU' if size.gpus else ''}.",
            wanted="nodes with at least as many cores as --threads, and a GPU if the workers use GPUs",
            next_step="give a smaller --threads, or start nodes with more cores",
        )
    return size, count
