"""Cuts of huge shards come in from several workers, and are written as one file each.

In: tasks and their rows, in any order. Out: finished result shards, the same bytes that one worker would have written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from screen.cluster.tasks import Task
from screen.output.writer import ShardWriter, WrittenShard, file_schema
from screen.run.scoring import Job


@dataclass
class _Merge:
    """A huge shard whose cuts come in; they are written in their order."""

    writer: ShardWriter | None = None
    next_order: int = 0
    waiting: dict[int, tuple[Task, pa.Table]] = field(default_factory=dict)


class CutMerger:
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
