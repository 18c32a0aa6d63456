"""A worker on a node of a cluster: the actor that Ray keeps there, with one session.

In: a `RemoteJob`, then tasks. Out: what it opened, then what it made of each task. It knows nothing of Ray; errors of
ours are returned, for Ray would wrap them.
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
from screen.input.shards import ShardRef
from screen.output.writer import WrittenShard
from screen.run.scoring import Job, ShardScorer

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
        error: what ended the task before it was through.
    """

    finished: tuple[WrittenShard, ...]
    table: pa.Table | None
    stages: dict[str, float]
    notes: tuple[str, ...]
    error: OodscreenError | None = None


class Worker:
    """One session, one task at a time."""

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
                    wanted="a model and INPUT that all nodes see under the same path",
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

    def score(self, task: Task) -> Done:
        """Do a task; what is finished when an error ends it is told with the error."""
        if self._scorer is None:
            raise RuntimeError("the worker was not opened")
        finished: list[WrittenShard] = []
        table = error = None
        try:
            for shard in task.shards:
                if not shard.path.exists():
                    raise _not_seen(shard)
            if task.groups is None:
                for progress in self._scorer.score(task.shards):
                    finished += progress.finished
            else:
                table = self._scorer.score_groups(task.shards[0], task.groups)
        except OodscreenError as told:
            error = told
        notes, self._notes[:] = tuple(self._notes), []
        return Done(tuple(finished), table, self._scorer.stages, notes, error)


def _not_seen(shard: ShardRef) -> InputRefused:
    return InputRefused(
        f"The worker on {socket.gethostname()} does not see the shard {shard.path}.",
        wanted="INPUT that all nodes see under the same path",
        next_step="put it on a network file system or into an object store",
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
