"""Distribute tasks to workers on a Ray cluster, and repeat the tasks of lost workers.

In: a connection to Ray, a `Job` and shards. Out: `Progress`, as from the local executor. Each worker is a Ray actor
(one `Worker`) that reserves cores, and one GPU if the run uses GPUs. A worker writes whole shards itself. The rows of a
row-group range of a huge shard are returned through Ray's object store, and this process writes them. If a worker is
lost, another worker repeats the task; results do not depend on the worker. Ray's own retries are not used: a retry
waits for resources that may never become available, and Ray does not detect a shard that crashes the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from export.errors import EngineFailed, InputChanged, OodscreenError
from screen.cluster.merge import RangeMerger
from screen.cluster.tasks import TRIES, Task, TaskQueue, plan_tasks
from screen.cluster.worker import Done, Opened, RemoteJob, Worker, installed_versions
from screen.files.paths import is_local
from screen.files.storage import remove_stale_staging
from screen.input.images import batch_rows
from screen.input.shards import ShardRef
from screen.run.scoring import Job, Progress, lose_shard
from screen.run.stopping import StopRequest

_POLL_SECONDS = 0.5
"""Maximum seconds of a single wait for results of workers."""

_GROW_SECONDS = 30.0
"""Seconds between checks for new nodes of the cluster."""

_NOTICE_SECONDS = 30.0
"""Seconds between two notices that the cluster has no room for a worker, while no worker is ready."""

_END_SECONDS = 10.0
"""Maximum seconds to wait for the end of killed workers."""

_RANGES_AHEAD = 2
"""Maximum row-group ranges per worker that wait in this process until earlier ranges of their shard are written."""


@dataclass(frozen=True)
class WorkerSize:
    """Cores and GPUs that a worker reserves on its node."""

    cores: int
    gpus: int


class RayExecutor:
    """Scores shards on workers of a cluster.

    Args:
        ray: the connected `ray` module.
        job: the work to do.
        notify: callback for one-line notices.
        size: size of a worker.
        count: initial number of workers.

    Attributes:
        device: device of the passes.
        note: notice of the first worker, if this worker has a notice, and the number and the size of the workers.
        stages: busy time of each stage in seconds, summed over all workers.
    """

    def __init__(self, ray: Any, job: Job, notify: Callable[[str], None], size: WorkerSize, count: int) -> None:
        self._ray, self._job, self._notify = ray, job, notify
        self._size = size
        root = job.config.image_root
        config = replace(
            job.config, threads=self._size.cores, image_root=None if root is None else str(Path(root).resolve())
        )
        remote = replace(job, model=None, output=_resolve(job.output), config=config)  # type: ignore[arg-type]
        self._remote = ray.put(RemoteJob(remote, _resolve(job.model.path), job.model.digest, installed_versions()))
        self._actor = ray.remote(Worker).options(
            num_cpus=self._size.cores, num_gpus=self._size.gpus, scheduling_strategy="SPREAD"
        )
        self._lost_errors = (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError,
        )
        self._opening: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._failed_starts = 0
        self._last_grown = self._without_worker_since = time.monotonic()
        self.device, self.note = "ray", ""
        self.stages: dict[str, float] = {}
        self._grow(count)

    def wait_for_first(self, stop: StopRequest) -> None:
        """Wait until a worker is ready.

        Raises:
            Refused: a worker cannot open the job.
            EngineFailed: too many workers were lost while they opened the model.
            Interrupted: the user asked to stop.
        """
        while not self._idle:
            stop.check()
            self._poll()
        count = len(self._opening) + len(self._idle)
        self.note = "; ".join(filter(None, [self.note, f"Ray: {count} worker(s), {self._describe_size()}"]))

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards; progress is yielded in the order in which workers finish the tasks.

        Raises:
            OodscreenError: a task failed; finished shards stay.
        """
        workers = max(1, len(self._idle) + len(self._opening))
        rows = batch_rows(self._job.config, self._job.model.contract)
        resolved = [replace(shard, path=_resolve(shard.path)) for shard in shards]
        queue = TaskQueue(plan_tasks(resolved, workers=workers, batch_rows=rows))
        merger = RangeMerger(self._job)
        try:
            while queue.waiting or self._running:
                while self._idle and (task := queue.take(merger.next_orders, _RANGES_AHEAD * workers)):
                    actor = self._idle.pop()
                    self._running[actor.score.remote(task)] = (actor, task)
                for task, done in self._poll():
                    yield self._record(task, done, queue, merger)
                    if done is not None and done.error is not None:
                        raise _removed_shard(task) or done.error
                yield Progress()
        finally:
            self._end(merger)

    def _record(self, task: Task, done: Done | None, queue: TaskQueue, merger: RangeMerger) -> Progress:
        """Progress from the result `done` of a task; `done` is None if the worker was lost."""
        if done is None:
            given_up = queue.put_back(task)
            for shard in given_up:
                merger.abandon(shard.name)
            reason = f"{TRIES} workers were lost while they scored this shard"
            return Progress(lost=tuple(lose_shard(shard, reason) for shard in given_up))
        for stage, seconds in done.stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        for note in done.notes:
            self._notify(note)
        finished = list(done.finished)
        lost = [one for one in done.lost if one.name not in queue.given_up]
        for one in lost:  # other ranges of the shard are not scored
            queue.give_up(one.name)
            merger.abandon(one.name)
        if done.table is not None and task.shards[0].name not in queue.given_up:
            finished += merger.add(task, done.table)
        rows = task.rows if done.error is None else sum(written.rows for written in finished)
        flagged = sum(written.flagged for written in done.finished)
        if done.table is not None:
            flagged += pc.sum(done.table.column("flag")).as_py() or 0
        return Progress(rows, flagged, tuple(finished), tuple(lost))

    def _poll(self) -> list[tuple[Task, Done | None]]:
        """Wait briefly for workers, and return each ended task with its result, or with None if the worker was lost."""
        self._use_new_nodes()
        refs = [*self._running, *self._opening]
        if self._running or self._idle:
            self._without_worker_since = time.monotonic()
        elif time.monotonic() - self._without_worker_since > _NOTICE_SECONDS:
            self._without_worker_since = time.monotonic()
            self._notify(f"waiting until the cluster has room for a worker ({self._describe_size()})")
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=_POLL_SECONDS, fetch_local=True)
        results: list[tuple[Task, Done | None]] = []
        for ref in ready:
            actor, task = self._running.pop(ref, None) or (self._opening.pop(ref), None)
            answer: Any = None
            try:
                answer = self._ray.get(ref)
            except self._lost_errors as error:
                self._replace_lost(actor, task, error)
            if isinstance(answer, OodscreenError):
                self._idle.append(actor)
                raise answer
            if isinstance(answer, Opened):
                self.device = answer.device
                self.note = self.note or answer.note
                self._failed_starts = 0
            if answer is not None:
                self._idle.append(actor)
            if task is not None:
                results.append((task, answer))
        return results

    def _replace_lost(self, actor: Any, task: Task | None, error: Exception) -> None:
        """Start another worker in place of a lost one."""
        self._ray.kill(actor)
        if task is not None:
            self._notify(f"a worker was lost while it scored {_name_task(task)} ({type(error).__name__})")
        else:
            self._failed_starts += 1
            if self._failed_starts >= TRIES * (1 + len(self._opening) + len(self._idle) + len(self._running)):
                raise EngineFailed(
                    f"{self._failed_starts} workers were lost while they opened the model: "
                    f"{str(error).splitlines()[0]}",
                    wanted="workers that can open the model",
                    next_step="read Ray's logs on the nodes of the cluster, and run `oodscreen doctor` on a node",
                ) from error
        self._grow(1)

    def _grow(self, count: int) -> None:
        for _ in range(count):
            actor = self._actor.remote()
            self._opening[actor.open.remote(self._remote)] = actor

    def _use_new_nodes(self) -> None:
        """Every `_GROW_SECONDS`, start workers on nodes that have joined the cluster."""
        if time.monotonic() - self._last_grown < _GROW_SECONDS:
            return
        self._last_grown = time.monotonic()
        possible = count_workers(self._ray, self._size)
        self._grow(possible - len(self._opening) - len(self._idle) - len(self._running))

    def _end(self, merger: RangeMerger) -> None:
        """Stop the workers that still score, and remove all partial results and staging files of this run."""
        merger.abandon_all()
        for actor, _ in self._running.values():
            self._ray.kill(actor)
        if self._running:
            self._ray.wait([*self._running], num_returns=len(self._running), timeout=_END_SECONDS, fetch_local=False)
        self._running = {}
        remove_stale_staging(self._job.output, self._job.owner)

    def _describe_size(self) -> str:
        cores = f"{self._size.cores} core(s)"
        return f"{cores} and {self._size.gpus} GPU each" if self._size.gpus else f"{cores} each"


def _removed_shard(task: Task) -> InputChanged | None:
    """The error for a shard of the task that does not exist on this machine; None if all shards of the task exist here.

    If a shard exists on this machine but a worker cannot find the shard, the error of the worker names the node.
    """
    removed = next((shard for shard in task.shards if not shard.path.exists()), None)
    if removed is None:
        return None
    return InputChanged(
        f"The shard {removed.path} was removed during the run.",
        wanted="shards that do not change while a run scores them",
        next_step="start the same run again; without --force, it skips finished shards",
    )


def count_workers(ray: Any, size: WorkerSize) -> int:
    """Number of workers of this size that the live nodes have room for."""
    counts = []
    for node in live_nodes(ray):
        count = int(node.get("CPU", 0)) // size.cores
        counts.append(min(count, int(node.get("GPU", 0)) // size.gpus) if size.gpus else count)
    return sum(counts)


def live_nodes(ray: Any) -> list[dict[str, float]]:
    """Resources of each live node: amounts by the names of the resources in Ray, such as `CPU`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resolve(path: Path) -> Path:
    return path.resolve() if is_local(path) else path


def _name_task(task: Task) -> str:
    more = f" and {len(task.shards) - 1} more" if len(task.shards) > 1 else ""
    return f"{task.shards[0].name!r}{more}"
