"""A worker on a node of a cluster: a Ray actor with one session.

In: a `RemoteJob`, then tasks. Out: `Opened`, then `Done` for each task. The module does not import Ray. An
`OodscreenError` is returned instead of raised, because Ray would wrap a raised error.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from export.contract.reader import read_model
from export.errors import InputRefused, OodscreenError, OptionRefused, OutputRefused
from screen.cluster.tasks import Task
from screen.files.paths import is_local
from screen.input.shard_errors import SHARD_ERRORS
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.writer import WrittenShard
from screen.run.scoring import Job, ShardScorer, lose_shard

_SAME_EVERYWHERE = ("oodscreen", "onnxruntime-gpu", "onnxruntime", "numpy")
"""Packages whose versions the results depend on."""


@dataclass(frozen=True)
class RemoteJob:
    """A `Job` for a worker; the worker reads the model itself.

    Attributes:
        job: the job without its model.
        model: path of the model.
        digest: SHA-256 of the model's bytes.
        versions: versions of the packages in `_SAME_EVERYWHERE`.
    """

    job: Job
    model: Path
    digest: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Opened:
    """Reply of a worker that is ready: the names of its node and of its device, and a notice or ""."""

    node: str
    device: str
    note: str


@dataclass(frozen=True)
class Done:
    """A worker's result for a task.

    Attributes:
        finished: result shards that the worker wrote.
        lost: shards that the worker could not read.
        table: rows of a row-group range, in result columns; None for a task of whole shards.
        stages: busy time of each stage in seconds.
        notes: notices for the user.
        error: the error that ended the task early, or None.
    """

    finished: tuple[WrittenShard, ...]
    lost: tuple[UnreadableShard, ...]
    table: pa.Table | None
    stages: dict[str, float]
    notes: tuple[str, ...]
    error: OodscreenError | None = None


class Worker:
    """Scores one task at a time, with one session."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._scorer: ShardScorer | None = None

    def open(self, remote: RemoteJob) -> Opened | OodscreenError:
        """Read the model and create the session; an error is returned instead of raised."""
        node = socket.gethostname()
        try:
            _refuse_other_versions(node, remote.versions)
            job = remote.job
            if not job.output.is_dir() and is_local(job.output):
                raise OutputRefused(
                    f"The worker on {node} cannot find OUTPUT {job.output}.",
                    wanted="an OUTPUT that all nodes share, on a network file system or in an object store",
                    next_step="mount that file system on all nodes under the same path, or give an OUTPUT in an object "
                    "store, such as s3://bucket/folder",
                )
            if not remote.model.is_file():
                raise InputRefused(
                    f"The worker on {node} cannot find the model {remote.model}.",
                    wanted="a model and INPUT that all nodes can read under the same path",
                    next_step="put the model and INPUT on a network file system or in an object store",
                )
            model = read_model(remote.model)
            if model.digest != remote.digest:
                raise InputRefused(
                    f"The worker on {node} found a different model at {remote.model}.",
                    wanted="the same model on all nodes",
                    next_step="put the model on a network file system or in an object store",
                )
            self._scorer = ShardScorer(replace(job, model=model), self._notes.append)
        except OodscreenError as error:
            return error
        return Opened(node, self._scorer.device, self._scorer.note)

    def score(self, task: Task) -> Done:
        """Score a task; an error is returned together with the shards that were finished before the error."""
        if self._scorer is None:
            raise RuntimeError("the worker was not opened")
        finished: list[WrittenShard] = []
        lost: list[UnreadableShard] = []
        table = error = None
        try:
            for shard in task.shards:
                if not shard.path.exists():
                    raise _not_seen(shard)
            if task.groups is None:
                for progress in self._scorer.score(task.shards):
                    finished += progress.finished
                    lost += progress.lost
            else:
                try:
                    table = self._scorer.score_groups(task.shards[0], task.groups)
                except SHARD_ERRORS as raised:
                    lost.append(lose_shard(task.shards[0], raised.found))
        except OodscreenError as raised:
            error = raised
        notes, self._notes[:] = tuple(self._notes), []
        return Done(tuple(finished), tuple(lost), table, self._scorer.stages, notes, error)


def _not_seen(shard: ShardRef) -> InputRefused:
    return InputRefused(
        f"The worker on {socket.gethostname()} cannot find the shard {shard.path}.",
        wanted="an INPUT that all nodes can read under the same path",
        next_step="put INPUT on a network file system or in an object store",
    )


def _refuse_other_versions(node: str, wanted: dict[str, str]) -> None:
    here = installed_versions()
    for name, number in wanted.items():
        if here.get(name) != number:
            found = f"{name} {here[name]}" if name in here else f"no {name}"
            raise OptionRefused(
                f"The worker on {node} has {found}, but this process has {name} {number}.",
                wanted="the same versions on all nodes, so that results are bitwise reproducible",
                next_step="install the same environment on all nodes",
            )


def installed_versions() -> dict[str, str]:
    """Version of each package in `_SAME_EVERYWHERE` that is installed on this machine."""
    found = {}
    for name in _SAME_EVERYWHERE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found
