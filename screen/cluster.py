"""The same run on a Ray cluster: workers there score shards, and the loop here is the local one.

In: a `Job`. Out: an `Executor` for `runner.py`. Each worker is an actor that holds one `ShardScorer`, on one GPU or on
some cores. Whole shards are written by the worker itself; the cuts of a huge shard come back through Ray's object
store and are written here, in their order, by the same writer. A worker that is lost loses its task, which another
one does again; results do not depend on who makes them. Ray is imported only here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from export.contract import read_model
from export.errors import EngineFailed, InputRefused, OodscreenError, OptionRefused, OutputRefused
from screen.config import RunConfig
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.writer import ShardWriter, WrittenShard, file_schema
from screen.places import as_place, is_local
from screen.scoring import Executor, Job, Progress, ShardScorer, batch_rows
from screen.stopping import StopRequest
from screen.storage import remove_leftovers
from screen.tasks import Task, cut_tasks

_TRIES = 3
"""So many workers may die of a shard before it is given up."""

_LOOK_SECONDS = 0.5
_GROW_SECONDS = 30.0
_TELL_SECONDS = 30.0
_END_SECONDS = 10.0
_CUTS_AHEAD = 2
"""For each worker: cuts that may wait here for an earlier one."""

_STORE_BYTES = 512 * 2**20
"""Ray's object store, where this process starts Ray; what does not fit goes to disk."""

_SAME_EVERYWHERE = ("oodscreen", "onnxruntime-gpu", "onnxruntime", "numpy")


@dataclass(frozen=True)
class RemoteJob:
    """A `Job` as it travels; the model is read where it is used.

    Attributes:
        job: all but the model.
        model: its path.
        digest: of its bytes.
        versions: of what results depend on.
    """

    job: Job
    model: Path
    digest: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Opened:
    """A worker that is ready: where it is, and what its passes run on."""

    node: str
    device: str
    note: str


@dataclass(frozen=True)
class Done:
    """What a worker made of a task.

    Attributes:
        finished: result shards that it wrote.
        table: rows of a cut, in result columns; None where it wrote shards.
        stages: seconds that each stage was busy.
        notes: what a person should know.
    """

    finished: tuple[WrittenShard, ...]
    table: pa.Table | None
    stages: dict[str, float]
    notes: tuple[str, ...]


class Worker:
    """The actor: one session, one task at a time. Errors of ours are returned, for Ray would wrap them."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._scorer: ShardScorer | None = None

    def open(self, remote: RemoteJob) -> Opened | OodscreenError:
        """Read the model and make the session."""
        node = socket.gethostname()
        try:
            _refuse_other_versions(node, remote.versions)
            job = remote.job
            if not job.output.is_dir() and is_local(job.output):
                raise OutputRefused(
                    f"The worker on {node} does not see OUTPUT {job.output}.",
                    wanted="an OUTPUT that all nodes share: a network file system or an object store",
                    next_step="mount it on all nodes under the same path, or give an address such as s3://",
                )
            if not remote.model.is_file():
                raise InputRefused(
                    f"The worker on {node} does not see the model {remote.model}.",
                    wanted="a model, a calibration and INPUT that all nodes see under the same path",
                    next_step="put them on a network file system or into an object store",
                )
            model = read_model(remote.model)
            if model.digest != remote.digest:
                raise InputRefused(
                    f"The worker on {node} sees another file under {remote.model}.",
                    wanted="the same model on all nodes",
                    next_step="put it on a network file system or into an object store",
                )
            self._scorer = ShardScorer(replace(job, model=model), self._notes.append)
        except OodscreenError as error:
            return error
        return Opened(node, self._scorer.device, self._scorer.note)

    def score(self, task: Task) -> Done | OodscreenError:
        """Do a task."""
        if self._scorer is None:
            raise RuntimeError("the worker was not opened")
        finished: list[WrittenShard] = []
        table = None
        try:
            for shard in task.shards:
                if not shard.path.exists():
                    return _not_seen(shard)
            if task.groups is None:
                for progress in self._scorer.score(task.shards):
                    finished += progress.finished
            else:
                table = self._scorer.score_groups(task.shards[0], task.groups)
        except OodscreenError as error:
            return error
        notes, self._notes[:] = tuple(self._notes), []
        return Done(tuple(finished), table, self._scorer.stages, notes)


def _not_seen(shard: ShardRef) -> InputRefused:
    return InputRefused(
        f"The worker on {socket.gethostname()} does not see the shard {shard.path}.",
        wanted="INPUT that all nodes see under the same path",
        next_step="put it on a network file system or into an object store; if it was removed, run again",
    )


def _refuse_other_versions(node: str, wanted: dict[str, str]) -> None:
    here = installed_versions()
    for name, number in wanted.items():
        if here.get(name) != number:
            raise OptionRefused(
                f"The worker on {node} has {name} {here.get(name, 'not at all')}, and this process {number}.",
                wanted="the same versions on all nodes, for the same bits in all results",
                next_step="install the same environment everywhere",
            )


def installed_versions() -> dict[str, str]:
    """What results depend on, apart from model and configuration."""
    found = {}
    for name in _SAME_EVERYWHERE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


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
        executor = RayExecutor(ray, job, notify)
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
        ray.init(
            address=wanted, log_to_driver=False, logging_level=logging.ERROR, **(options if wanted == "local" else {})
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise OptionRefused(
            f"The Ray cluster {wanted} cannot be reached: {str(error).splitlines()[0]}",
            wanted="the address of a cluster that runs, as `ray start --head` prints it",
            next_step="check the address and that versions of Ray and Python are the same there",
        ) from error
    finally:
        for number, handler in handlers.items():  # Ray has its own, which would end the process at once
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Size:
    """What a worker takes of its node."""

    cores: int
    gpus: int


@dataclass
class _Merge:
    """A huge shard whose cuts come in; they are written in their order."""

    writer: ShardWriter | None = None
    next_order: int = 0
    waiting: dict[int, tuple[Task, pa.Table]] = field(default_factory=dict)


class RayExecutor:
    """Scores shards on workers of a cluster.

    Args:
        ray: the module, with a connection.
        job: what is to do.
        notify: told in one line what a person should know.

    Attributes:
        device: where passes run.
        note: how many workers of what size.
        stages: seconds that each stage was busy, of all workers together.
    """

    def __init__(self, ray: Any, job: Job, notify: Callable[[str], None]) -> None:
        self._ray, self._job, self._notify = ray, job, notify
        self._size, wanted = _choose_workers(ray, job.config)
        config = replace(job.config, threads=self._size.cores, **_absolute(job.config))
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
        self._looked = time.monotonic()
        self.device, self.note = "ray", ""
        self.stages: dict[str, float] = {}
        self._grow(wanted)

    def wait_for_first(self, stop: StopRequest) -> None:
        """Wait until a worker is ready.

        Raises:
            Refused: it cannot do the job.
            Interrupted: asked to stop.
        """
        told = time.monotonic()
        while not self._idle:
            stop.check()
            self._look()
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self._notify(f"waiting for the cluster to have room for a worker ({self._tell_size()})")
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
        work = _Work(cut_tasks(there, workers=workers, batch_rows=rows))
        merges = _Merges(self._job)
        try:
            while work.waiting or self._running:
                while self._idle and (task := work.take(merges.next_orders, _CUTS_AHEAD * workers)):
                    actor = self._idle.pop()
                    self._running[actor.score.remote(task)] = (actor, task)
                for task, done in self._look():
                    yield self._take_in(task, done, work, merges)
                yield Progress()
        finally:
            self._end(merges)

    def _take_in(self, task: Task, done: Done | None, work: _Work, merges: _Merges) -> Progress:
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
        return Progress(rows=task.rows, finished=tuple(finished))

    def _look(self) -> list[tuple[Task, Done | None]]:
        """Wait a moment for workers; what they have done, and what was lost with one."""
        self._grow_now_and_then()
        refs = [*self._running, *self._opening]
        if not refs:
            time.sleep(_LOOK_SECONDS)
            return []
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
            if self._never_opened >= _TRIES * (1 + len(self._opening) + len(self._idle) + len(self._running)):
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
        wanted = _count_workers(self._ray, self._size)
        self._grow(wanted - len(self._opening) - len(self._idle) - len(self._running))

    def _end(self, merges: _Merges) -> None:
        """Leave nobody writing, and nothing aside, whether the run is through or not."""
        merges.abandon_all()
        for actor, _ in self._running.values():
            self._ray.kill(actor)
        if self._running:
            self._ray.wait([*self._running], num_returns=len(self._running), timeout=_END_SECONDS, fetch_local=False)
        self._running = {}
        remove_leftovers(self._job.output, self._job.owner)

    def _tell_size(self) -> str:
        cores = f"{self._size.cores} core(s)"
        return f"{cores} and {self._size.gpus} GPU each" if self._size.gpus else f"{cores} each"


class _Work:
    """The tasks that wait, and how often the worker of a shard has died."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.waiting = deque(tasks)
        self.given_up: set[str] = set()
        self._deaths: dict[tuple[str, int], int] = {}

    def take(self, next_orders: dict[str, int], ahead: int) -> Task | None:
        """The next task; a cut that is too far ahead of what is written of its shard waits."""
        for index, task in enumerate(self.waiting):
            if task.groups is None or task.order < next_orders.get(task.shards[0].name, 0) + ahead:
                del self.waiting[index]
                return task
        return None

    def put_back(self, task: Task) -> tuple[ShardRef, ...]:
        """Let a task be done again, shard by shard, to find the one that workers die of; gives those given up."""
        if task.groups is None and len(task.shards) > 1:
            self.waiting.extendleft(Task((shard,)) for shard in reversed(task.shards))
            return ()
        shard = task.shards[0]
        deaths = self._deaths[shard.name, task.order] = self._deaths.get((shard.name, task.order), 0) + 1
        if shard.name in self.given_up:
            return ()
        if deaths < _TRIES:
            self.waiting.appendleft(task)
            return ()
        self.given_up.add(shard.name)
        self.waiting = deque(one for one in self.waiting if one.shards[0].name != shard.name)
        return (shard,)


class _Merges:
    """Huge shards whose cuts come in, to be written as one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._schema = file_schema(job.columns.kept_schema, job.identity)
        self._open: dict[str, _Merge] = {}

    @property
    def next_orders(self) -> dict[str, int]:
        """The cut of each shard that is written next."""
        return {name: merge.next_order for name, merge in self._open.items()}

    def add(self, task: Task, table: pa.Table) -> list[WrittenShard]:
        """Write a cut as soon as all before it are written; gives the shard when that was the last."""
        shard = task.shards[0]
        merge = self._open.setdefault(shard.name, _Merge())
        merge.waiting[task.order] = (task, table)
        while merge.next_order in merge.waiting:
            following, rows = merge.waiting.pop(merge.next_order)
            if merge.writer is None:
                merge.writer = ShardWriter(shard, self._job.output / shard.name, self._schema, self._job.owner)
            merge.writer.add(rows)
            merge.next_order += 1
            if following.is_last:
                del self._open[shard.name]
                return [merge.writer.finish()]
        return []

    def abandon(self, name: str) -> None:
        """Remove what is written of a shard."""
        merge = self._open.pop(name, None)
        if merge is not None and merge.writer is not None:
            merge.writer.abandon()

    def abandon_all(self) -> None:
        """Remove all that is unfinished."""
        for name in list(self._open):
            self.abandon(name)


def _choose_workers(ray: Any, config: RunConfig) -> tuple[_Size, int]:
    """The size of a worker, and how many of them the cluster has room for."""
    nodes = _nodes(ray)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if config.device == "cuda" and not gpus:
        raise OptionRefused(
            "--device cuda was asked for, and no node of the Ray cluster has a GPU.",
            wanted="nodes that Ray knows to have GPUs",
            next_step="start Ray on such nodes, or choose another --device",
        )
    if gpus and config.device != "cpu":
        size = _Size(config.threads or 1, 1)
    else:
        size = _Size(config.threads or int(max(node.get("CPU", 0) for node in nodes)), 0)
    count = _count_workers(ray, size)
    if not count:
        raise OptionRefused(
            f"No node of the Ray cluster has {size.cores} cores.",
            wanted="nodes with as many cores as a worker has threads",
            next_step="give fewer --threads",
        )
    return size, count


def _count_workers(ray: Any, size: _Size) -> int:
    """Workers of a size that the nodes have room for."""
    rooms = []
    for node in _nodes(ray):
        room = int(node.get("CPU", 0)) // size.cores
        rooms.append(min(room, int(node.get("GPU", 0)) // size.gpus) if size.gpus else room)
    return sum(rooms)


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _absolute(config: RunConfig) -> dict[str, Any]:
    """Paths of a configuration as they are from everywhere."""
    if config.calibration is None:
        return {}
    place = as_place(config.calibration)
    return {"calibration": str(place.resolve())} if is_local(place) else {}


def _resolve(place: Path) -> Path:
    return place.resolve() if is_local(place) else place


def _name_task(task: Task) -> str:
    more = f" and {len(task.shards) - 1} more" if len(task.shards) > 1 else ""
    return f"{task.shards[0].name}{more}"


def _give_up(shard: ShardRef) -> UnreadableShard:
    return UnreadableShard(str(shard.path), shard.name, f"{_TRIES} workers died while they scored it")
