"""Cut a run into tasks for several workers, neither too small nor too large.

In: shards and the number of workers. Out: `Task`s. Small shards are put together, so that batches span them; a huge
one is cut by row groups, whose rows are put together again by whoever writes its one result. A task is as large as
keeps all workers busy to the end, within bounds that follow from the batch.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from screen.input.shards import ShardRef

_LEAST_BATCHES, _MOST_BATCHES = 1, 16
"""Of a task: less would not fill a batch; with more, much is lost with a worker."""

_TASKS_A_WORKER = 16
_HUGE = 2
"""From so many tasks' rows on a shard is cut."""

_MOST_SHARDS = 1000

TRIES = 3
"""So many workers may die of a shard before it is given up."""


@dataclass(frozen=True)
class Task:
    """What a worker is given at a time.

    Attributes:
        shards: whole shards, or the one that `groups` are of.
        groups: consecutive row groups of a huge shard; None: all of all shards.
        order: which cut of the huge shard this is, from 0.
        is_last: whether it is the last cut.
    """

    shards: tuple[ShardRef, ...]
    groups: range | None = None
    order: int = 0
    is_last: bool = True

    @property
    def rows(self) -> int:
        """Rows in all."""
        if self.groups is not None:
            return sum(self.shards[0].row_groups[self.groups.start : self.groups.stop])
        return sum(shard.rows for shard in self.shards)


def cut_tasks(shards: Sequence[ShardRef], *, workers: int, batch_rows: int) -> list[Task]:
    """The tasks of a run, in the order of its shards.

    Args:
        shards: what is to be scored.
        workers: how many share it.
        batch_rows: rows of a batch.
    """
    even = sum(shard.rows for shard in shards) // (workers * _TASKS_A_WORKER)
    wanted = max(_LEAST_BATCHES * batch_rows, min(_MOST_BATCHES * batch_rows, even))
    tasks: list[Task] = []
    small: list[ShardRef] = []
    for shard in shards:
        if shard.rows >= _HUGE * wanted and len(shard.row_groups) > 1:
            tasks += _cut_shard(shard, wanted)
            continue
        if small and (sum(one.rows for one in small) + shard.rows > wanted or len(small) == _MOST_SHARDS):
            tasks.append(Task(tuple(small)))
            small = []
        small.append(shard)
    return [*tasks, Task(tuple(small))] if small else tasks


def _cut_shard(shard: ShardRef, wanted: int) -> Iterator[Task]:
    """Cuts of whole row groups with about so many rows each; row groups themselves are not cut."""
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
        if deaths < TRIES:
            self.waiting.appendleft(task)
            return ()
        self.given_up.add(shard.name)
        self.waiting = deque(one for one in self.waiting if one.shards[0].name != shard.name)
        return (shard,)
