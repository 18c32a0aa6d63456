"""Threads of an engine; they belong to the process that started them.

In: functions. Out: their results, or `EngineFailed` in a forked process: a fork copies no threads, so a task would wait
for ever.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from export.errors import EngineFailed

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class WorkerPool(ThreadPoolExecutor):
    """A thread pool that refuses tasks in all processes except the one that created it.

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
                f"Process {self._process} started to score these images, and its fork {os.getpid()} tried to continue.",
                wanted="batches that one process scores from the first to the last: a fork copies no threads",
                next_step="start the iteration again in this process",
            )


class Lane:
    """Runs at most `limit` tasks of one kind at a time in a pool; further tasks wait in order.

    Args:
        pool: the threads.
        limit: maximum number of concurrent tasks.
    """

    def __init__(self, pool: WorkerPool, limit: int) -> None:
        self._pool, self._limit = pool, limit
        self._lock = Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = 0

    def map(self, fn: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        """Results of a function for each item; after an error, tasks that have not started are cancelled."""
        futures = [self._submit(fn, items) for items in zip(*arguments, strict=False)]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _submit(self, fn: Callable[..., Result], items: tuple[Any, ...]) -> Future[Result]:
        self._pool.require_own_process()
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*items))
                except BaseException as error:  # noqa: BLE001  raised where the result is read
                    future.set_exception(error)

        with self._lock:
            starts = self._running < self._limit
            if starts:
                self._running += 1
            else:
                self._waiting.append(run)
        if starts:
            self._pool.submit(self._run_one, run)
        return future

    def _run_one(self, task: Callable[[], None]) -> None:
        """Run a task, then submit the first waiting task, behind the tasks that are already in the pool's queue."""
        task()
        with self._lock:
            following = self._waiting.popleft() if self._waiting else None
            self._running -= following is None
        if following is not None:
            self._pool.submit(self._run_one, following)
