"""Workers elsewhere score shards: who is asked for what, and what is done again when one is lost.

In: a connection to Ray, a `Job` and shards. Out: `Progress`, as from the local engine. Each worker is an actor, one
`Worker`, on one GPU or on some cores. Whole shards are written by the worker itself; the cuts of a huge shard come
back through Ray's object store and are written here. A worker that is lost loses its task, which another one does
again; results do not depend on who makes them. That is done here and not by Ray's own retries, which would wait for
room that may never come again, and could not tell a shard that workers die of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.errors import EngineFailed, InputChanged, OodscreenError
from screen.cluster.merge import CutMerger
from screen.cluster.tasks import TRIES, Task, TaskQueue, cut_tasks
from screen.cluster.worker import Done, Opened, RemoteJob, Worker, installed_versions
from screen.files.paths import is_local
from screen.files.storage import remove_stale_staging
from screen.input.images import batch_rows
from screen.input.shards import ShardRef, UnreadableShard
from screen.run.scoring import Job, Progress
from screen.run.stopping import StopRequest

_LOOK_SECONDS = 0.5
_GROW_SECONDS = 30.0
_TELL_SECONDS = 30.0
_END_SECONDS = 10.0
_CUTS_AHEAD = 2
"""For each worker: cuts that may wait here for an earlier one."""


@dataclass(frozen=True)
class WorkerSize:
    """What a worker takes of its node."""

    cores: int
    gpus: int


class RayExecutor:
    """Scores shards on workers of a cluster.

    Args:
        ray: the module, with a connection.
        job: what is to do.
        notify: told in one line what a person should know.
        size: of a worker.
        count: workers to begin with.

    Attributes:
        device: where passes run.
        note: how many workers of what size.
        stages: seconds that each stage was busy, of all workers together.
    """

    def __init__(self, ray: Any, job: Job, notify: Callable[[str], None], size: WorkerSize, count: int) -> None:
        self._ray, self._job, self._notify = ray, job, notify
        self._size = size
        root = job.config.image_root
        config = replace(
            job.config, threads=self._size.cores, image_root=None if root is None else str(Path(root).resolve())
        )
        there = replace(job, model=None, output=_resolve(job.output), config=config)  # type: ignore[arg-type]
        self._remote = ray.put(RemoteJob(there, _resolve(job.model.path), job.model.digest, installed_versions()))
        self._actor = ray.remote(Worker).options(
            num_cpus=self._size.cores, num_gpus=self._size.gpus, scheduling_strategy="SPREAD"
        )
        self._lost = (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError,
        )
        self._opening: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._never_opened = 0
        self._looked = self._alone_since = time.monotonic()
        self.device, self.note = "ray", ""
        self.stages: dict[str, float] = {}
        self._grow(count)

    def wait_for_first(self, stop: StopRequest) -> None:
        """Wait until a worker is ready.

        Raises:
            Refused: it cannot do the job.
            Interrupted: asked to stop.
        """
        while not self._idle:
            stop.check()
            self._look()
        count = len(self._opening) + len(self._idle)
        self.note = "; ".join(filter(None, [self.note, f"Ray: {count} worker(s), {self._tell_size()}"]))

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards, in whatever order workers finish them.

        Raises:
            OodscreenError: something failed on the way; finished shards stay.
        """
        workers = max(1, len(self._idle) + len(self._opening))
        rows = batch_rows(self._job.config, self._job.model.contract)
        there = [replace(shard, path=_resolve(shard.path)) for shard in shards]
        work = TaskQueue(cut_tasks(there, workers=workers, batch_rows=rows))
        merges = CutMerger(self._job)
        try:
            while work.waiting or self._running:
                while self._idle and (task := work.take(merges.next_orders, _CUTS_AHEAD * workers)):
                    actor = self._idle.pop()
                    self._running[actor.score.remote(task)] = (actor, task)
                for task, done in self._look():
                    yield self._take_in(task, done, work, merges)
                    if done is not None and done.error is not None:
                        raise _tell_removed(task) or done.error
                yield Progress()
        finally:
            self._end(merges)

    def _take_in(self, task: Task, done: Done | None, work: TaskQueue, merges: CutMerger) -> Progress:
        """What a task has come to; None: its worker was lost."""
        if done is None:
            lost = work.put_back(task)
            for shard in lost:
                merges.abandon(shard.name)
            return Progress(lost=tuple(_give_up(shard) for shard in lost))
        for stage, seconds in done.stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        for note in done.notes:
            self._notify(note)
        finished = list(done.finished)
        if done.table is not None and task.shards[0].name not in work.given_up:
            finished += merges.add(task, done.table)
        rows = task.rows if done.error is None else sum(written.rows for written in finished)
        return Progress(rows, tuple(finished))

    def _look(self) -> list[tuple[Task, Done | None]]:
        """Wait a moment for workers; what they have done, and what was lost with one."""
        self._grow_now_and_then()
        refs = [*self._running, *self._opening]
        if self._running or self._idle:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > _TELL_SECONDS:
            self._alone_since = time.monotonic()
            self._notify(f"waiting for the cluster to have room for a worker ({self._tell_size()})")
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=_LOOK_SECONDS, fetch_local=True)
        results: list[tuple[Task, Done | None]] = []
        for ref in ready:
            actor, task = self._running.pop(ref, None) or (self._opening.pop(ref), None)
            told: Any = None
            try:
                told = self._ray.get(ref)
            except self._lost as error:
                self._lose(actor, task, error)
            if isinstance(told, OodscreenError):
                self._idle.append(actor)
                raise told
            if isinstance(told, Opened):
                self.device = told.device
                self.note = self.note or told.note
                self._never_opened = 0
            if told is not None:
                self._idle.append(actor)
            if task is not None:
                results.append((task, told))
        return results

    def _lose(self, actor: Any, task: Task | None, error: Exception) -> None:
        """A worker is gone; another one is asked for."""
        self._ray.kill(actor)
        if task is not None:
            self._notify(f"a worker was lost with {_name_task(task)}; it is done again ({type(error).__name__})")
        else:
            self._never_opened += 1
            if self._never_opened >= TRIES * (1 + len(self._opening) + len(self._idle) + len(self._running)):
                raise EngineFailed(
                    f"{self._never_opened} workers died before they could open the model: {str(error).splitlines()[0]}",
                    wanted="workers that live",
                    next_step="see the logs of the cluster's nodes; run `oodscreen doctor` there",
                ) from error
        self._grow(1)

    def _grow(self, count: int) -> None:
        for _ in range(count):
            actor = self._actor.remote()
            self._opening[actor.open.remote(self._remote)] = actor

    def _grow_now_and_then(self) -> None:
        """Take nodes into use that have joined."""
        if time.monotonic() - self._looked < _GROW_SECONDS:
            return
        self._looked = time.monotonic()
        wanted = count_workers(self._ray, self._size)
        self._grow(wanted - len(self._opening) - len(self._idle) - len(self._running))

    def _end(self, merges: CutMerger) -> None:
        """Leave nobody writing, and nothing aside, whether the run is through or not."""
        merges.abandon_all()
        for actor, _ in self._running.values():
            self._ray.kill(actor)
        if self._running:
            self._ray.wait([*self._running], num_returns=len(self._running), timeout=_END_SECONDS, fetch_local=False)
        self._running = {}
        remove_stale_staging(self._job.output, self._job.owner)

    def _tell_size(self) -> str:
        cores = f"{self._size.cores} core(s)"
        return f"{cores} and {self._size.gpus} GPU each" if self._size.gpus else f"{cores} each"


def _tell_removed(task: Task) -> InputChanged | None:
    """What ended a task, where shards are not there any more for anybody; else it is the node's fault, if theirs."""
    gone = next((shard for shard in task.shards if not shard.path.exists()), None)
    if gone is None:
        return None
    return InputChanged(
        f"The shard {gone.path} was removed during the run.",
        wanted="shards that stay as they are while a run scores them",
        next_step="run again; finished shards are not repeated",
    )


def count_workers(ray: Any, size: WorkerSize) -> int:
    """Workers of a size that the nodes have room for."""
    rooms = []
    for node in live_nodes(ray):
        room = int(node.get("CPU", 0)) // size.cores
        rooms.append(min(room, int(node.get("GPU", 0)) // size.gpus) if size.gpus else room)
    return sum(rooms)


def live_nodes(ray: Any) -> list[dict[str, float]]:
    """What each node has, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resolve(place: Path) -> Path:
    return place.resolve() if is_local(place) else place


def _name_task(task: Task) -> str:
    more = f" and {len(task.shards) - 1} more" if len(task.shards) > 1 else ""
    return f"{task.shards[0].name!r}{more}"


def _give_up(shard: ShardRef) -> UnreadableShard:
    return UnreadableShard(str(shard.path), shard.name, f"{TRIES} workers died while they scored it")
