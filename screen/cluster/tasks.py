"""Divide a run into tasks for several workers.

In: shards and the number of workers. Out: `Task`s. Several small shards form one task, because a batch can
contain rows of several shards. A huge shard is divided into row-group ranges, and `merge.py` writes their rows as one
result. Each worker receives several tasks, so that all workers finish at about the same time; the batch size bounds the
size of a task.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from screen.input.shards import ShardRef

_LEAST_BATCHES, _MOST_BATCHES = 1, 16
"""Minimum and maximum batches per task; the loss of a worker costs more work if the task is larger."""

_TASKS_PER_WORKER = 16
"""Target number of tasks per worker; the bounds of the task size take precedence."""

_HUGE = 2
"""Minimum rows of a shard that is divided into row-group ranges, as a multiple of the rows per task."""

_MAX_SHARDS = 1000
"""Maximum number of shards per task."""

TRIES = 3
"""Number of workers lost on the same task after which its shard is given up."""


@dataclass(frozen=True)
class Task:
    """A unit of work for one worker.

    Attributes:
        shards: whole shards; if `groups` is given, the one shard of the range.
        groups: row-group range of a huge shard; None for whole shards.
        order: index of the row-group range in its shard, from 0.
        is_last: whether this is the last row-group range of its shard.
    """

    shards: tuple[ShardRef, ...]
    groups: range | None = None
    order: int = 0
    is_last: bool = True

    @property
    def rows(self) -> int:
        """Total number of rows."""
        if self.groups is not None:
            return sum(self.shards[0].row_groups[self.groups.start : self.groups.stop])
        return sum(shard.rows for shard in self.shards)


def plan_tasks(shards: Sequence[ShardRef], *, workers: int, batch_rows: int) -> list[Task]:
    """The tasks of a run; each shard is in one task, or its row-group ranges are tasks.

    Args:
        shards: the shards to score.
        workers: number of workers.
        batch_rows: rows per batch.
    """
    even = sum(shard.rows for shard in shards) // (workers * _TASKS_PER_WORKER)
    wanted = max(_LEAST_BATCHES * batch_rows, min(_MOST_BATCHES * batch_rows, even))
    tasks: list[Task] = []
    small: list[ShardRef] = []
    for shard in shards:
        if shard.rows >= _HUGE * wanted and len(shard.row_groups) > 1:
            tasks += _split_shard(shard, wanted)
            continue
        if small and (sum(one.rows for one in small) + shard.rows > wanted or len(small) == _MAX_SHARDS):
            tasks.append(Task(tuple(small)))
            small = []
        small.append(shard)
    return [*tasks, Task(tuple(small))] if small else tasks


def _split_shard(shard: ShardRef, wanted: int) -> Iterator[Task]:
    """Tasks for the row-group ranges of a shard, of about `wanted` rows each; a row group is never divided."""
    ends, rows = [0], 0
    for index, count in enumerate(shard.row_groups):
        if rows and rows + count > wanted:
            ends.append(index)
            rows = 0
        rows += count
    ends.append(len(shard.row_groups))
    last = len(ends) - 2
    for order, (start, stop) in enumerate(itertools.pairwise(ends)):
        yield Task((shard,), range(start, stop), order, order == last)


class TaskQueue:
    """The waiting tasks, and the number of workers lost on each task that is a single shard or range.

    Attributes:
        waiting: tasks that no worker has, in the order in which they are taken.
        given_up: names of the shards that are not scored, because they crashed workers or could not be read.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.waiting = deque(tasks)
        self.given_up: set[str] = set()
        self._deaths: dict[tuple[str, int], int] = {}

    def take(self, next_orders: dict[str, int], ahead: int) -> Task | None:
        """Take the next task that can be started; None if there is none.

        Args:
            next_orders: for each unfinished huge shard, the `order` of the range to write next.
            ahead: a range is taken only if its `order` is less than `ahead` after the `order` to write next.
        """
        for index, task in enumerate(self.waiting):
            if task.groups is None or task.order < next_orders.get(task.shards[0].name, 0) + ahead:
                del self.waiting[index]
                return task
        return None

    def put_back(self, task: Task) -> tuple[ShardRef, ...]:
        """Queue the task of a lost worker again, and return the shards that are given up.

        A task of several shards becomes one task for each shard, so that a shard that crashes its workers is found.
        """
        if task.groups is None and len(task.shards) > 1:
            self.waiting.extendleft(Task((shard,)) for shard in reversed(task.shards))
            return ()
        shard = task.shards[0]
        deaths = self._deaths[shard.name, task.order] = self._deaths.get((shard.name, task.order), 0) + 1
        if shard.name in self.given_up:
            return ()
        if deaths < TRIES:
            self.waiting.appendleft(task)
            return ()
        self.give_up(shard.name)
        return (shard,)

    def give_up(self, name: str) -> None:
        """Give up a shard that is a task of its own or is divided into ranges, and remove its waiting tasks."""
        self.given_up.add(name)
        self.waiting = deque(one for one in self.waiting if one.shards[0].name != name)
