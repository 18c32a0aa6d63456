"""Merge the row-group ranges of huge shards, scored by several workers, into one result file per shard.

In: tasks and their rows, in any order. Out: finished result shards, bitwise identical to those of a single worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from screen.cluster.tasks import Task
from screen.output.writer import ShardWriter, WrittenShard, file_schema
from screen.run.scoring import Job


@dataclass
class _Merge:
    """State of a huge shard: its writer, the next range to write, and scored ranges that wait for earlier ranges."""

    writer: ShardWriter | None = None
    next_order: int = 0
    waiting: dict[int, tuple[Task, pa.Table]] = field(default_factory=dict)


class RangeMerger:
    """Writes the row-group ranges of huge shards in order.

    Args:
        job: the work to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._schema = file_schema(job.columns.kept_schema, job.identity)
        self._open: dict[str, _Merge] = {}

    @property
    def next_orders(self) -> dict[str, int]:
        """For each unfinished shard, the `order` of the range to write next."""
        return {name: merge.next_order for name, merge in self._open.items()}

    def add(self, task: Task, table: pa.Table) -> list[WrittenShard]:
        """Add a scored range, and write the ranges that are next in order.

        Args:
            task: task of the range.
            table: rows of the range, in result columns.

        Returns:
            The result shard if its last range was written, else an empty list.
        """
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
        """Remove the partial result of a shard."""
        merge = self._open.pop(name, None)
        if merge is not None and merge.writer is not None:
            merge.writer.abandon()

    def abandon_all(self) -> None:
        """Remove the partial results of all shards."""
        for name in list(self._open):
            self.abandon(name)
