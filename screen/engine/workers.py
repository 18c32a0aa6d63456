"""Threads of an engine, which belong to the process that started them.

In: functions. Out: their results, or `EngineFailed` in a forked process: a fork copies no threads, so a task would wait
for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from export.errors import EngineFailed

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class WorkerPool(ThreadPoolExecutor):
    """A thread pool that refuses tasks in any process but its own.

    Args:
        threads: maximum number of threads.
        name: prefix of the names of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._process = os.getpid()

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Run a function in a thread; `map` uses this method.

        Raises:
            EngineFailed: this process is a fork of the pool's process.
        """
        self.require_own_process()
        return super().submit(fn, *args, **kwargs)

    def require_own_process(self) -> None:
        """Raise `EngineFailed` in a fork of the pool's process."""
        if os.getpid() != self._process:
            raise EngineFailed(
                f"Process {self._process} started scoring these images, and its fork {os.getpid()} goes on.",
                wanted="batches that one process scores from the first to the last: a fork copies no threads",
                next_step="start the iteration again in this process",
            )
