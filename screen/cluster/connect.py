"""The same run on a Ray cluster: connect, find out how many workers of what size there is room for, and open them.

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

_KNOCK_SECONDS = 10.0

_STORE_BYTES = 512 * 2**20
"""Ray's object store, where this process starts Ray; what does not fit goes to disk."""


@contextmanager
def open_cluster(job: Job, notify: Callable[[str], None], stop: StopRequest) -> Iterator[Executor]:
    """An executor on Ray: the cluster of `--address` or of RAY_ADDRESS; without one, workers on this machine.

    Raises:
        OptionRefused: Ray is not installed, or the cluster cannot be reached.
        Refused: a worker cannot do the job.
    """
    ray = _import_ray()
    if is_local(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr), _connected(ray, job.config.address):  # Ray prints what it meets
        size, count = _choose_workers(ray, job.config)
        executor = RayExecutor(ray, job, notify, size, count)
        executor.wait_for_first(stop)
        yield executor


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a batch tool calls nobody
    try:
        import ray
    except ImportError as error:
        raise OptionRefused(
            "--engine ray needs Ray, which is not installed.",
            wanted="Ray here and on all nodes",
            next_step="pip install 'oodscreen[ray]', or leave --engine out",
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():  # by a program that uses this one
        yield
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"object_store_memory": _STORE_BYTES, "include_dashboard": False}
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        _knock(wanted)
        ray.init(
            address=wanted, log_to_driver=False, logging_level=logging.ERROR, **(options if wanted == "local" else {})
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionRefused(
            f"The Ray cluster {wanted} cannot be reached: {str(error).splitlines()[0]}",
            wanted="the address of a cluster that runs, as `ray start --head` prints it",
            next_step="check the address, that versions of Ray and Python are the same there, and the token where the "
            "cluster wants one (RAY_AUTH_TOKEN)",
        ) from error
    finally:
        for number, handler in handlers.items():  # Ray has its own, which would end the process at once
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out in a moment whether anybody listens at `host:port`; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _choose_workers(ray: Any, config: RunConfig) -> tuple[WorkerSize, int]:
    """The size of a worker, and how many of them the cluster has room for."""
    nodes = live_nodes(ray)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if config.device == "cuda" and not gpus:
        raise OptionRefused(
            "--device cuda was asked for, and no node of the Ray cluster has a GPU.",
            wanted="nodes that Ray knows to have GPUs",
            next_step="start Ray on such nodes, or choose another --device",
        )
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise OptionRefused(
            "No live node of the Ray cluster has CPUs.",
            wanted="nodes with CPUs: a worker takes some, with a GPU, too",
            next_step="start nodes with CPUs (`ray start --num-cpus`)",
        )
    if gpus and config.device != "cpu":
        size = WorkerSize(config.threads or 1, 1)
    else:
        size = WorkerSize(config.threads or min(cores), 0)  # every node can hold one
    count = count_workers(ray, size)
    if not count:
        raise OptionRefused(
            f"No node of the Ray cluster has {size.cores} cores.",
            wanted="nodes with as many cores as a worker has threads",
            next_step="give fewer --threads",
        )
    return size, count
