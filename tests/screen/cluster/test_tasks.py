from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from screen.cluster.tasks import TRIES, Task, TaskQueue, plan_tasks
from screen.input.shards import ShardRef


def shard(name: str, *groups: int) -> ShardRef:
    return ShardRef(Path("in"), Path("in") / name, name, 1, 1, "", groups, pa.schema([]))


@given(
    groups=st.lists(st.lists(st.integers(0, 3000), max_size=40), max_size=30),
    workers=st.integers(1, 50),
    batch_rows=st.integers(1, 500),
)
def test_every_row_group_of_every_shard_is_in_one_task_and_cuts_are_in_order(
    groups: list[list[int]], workers: int, batch_rows: int
) -> None:
    shards = [shard(f"{index}", *rows) for index, rows in enumerate(groups)]
    tasks = plan_tasks(shards, workers=workers, batch_rows=batch_rows)
    assert sum(task.rows for task in tasks) == sum(one.rows for one in shards)
    whole = [one.name for task in tasks if task.groups is None for one in task.shards]
    cut: dict[str, list[Task]] = {}
    for task in tasks:
        if task.groups is not None:
            cut.setdefault(task.shards[0].name, []).append(task)
    assert sorted([*whole, *cut]) == sorted(one.name for one in shards)
    for name, cuts in cut.items():
        assert [task.order for task in cuts] == list(range(len(cuts)))
        assert [task.is_last for task in cuts] == [False] * (len(cuts) - 1) + [True]
        covered = [index for task in cuts for index in (task.groups or ())]
        assert covered == list(range(len(groups[int(name)])))


def test_ten_thousand_small_shards_are_a_few_tasks_of_several_batches() -> None:
    tasks = plan_tasks([shard(f"{index}", 20) for index in range(10_000)], workers=2, batch_rows=2048)
    assert all(task.rows >= 2048 - 20 for task in tasks[:-1])
    assert len(tasks) >= 16


def test_a_huge_shard_is_shared_by_all_workers_in_bounded_cuts() -> None:
    tasks = plan_tasks([shard("a", *[10_000] * 1000)], workers=8, batch_rows=2048)
    assert {len(task.shards) for task in tasks} == {1}
    assert max(task.rows for task in tasks) <= 16 * 2048
    assert len(tasks) > 8


def test_a_shard_of_one_row_group_is_not_cut() -> None:
    (task,) = plan_tasks([shard("a", 10_000_000)], workers=8, batch_rows=2048)
    assert task == Task((shard("a", 10_000_000),))


def test_few_rows_are_shared_out_and_a_batch_is_still_filled() -> None:
    tasks = plan_tasks([shard(f"{index}", 500) for index in range(40)], workers=2, batch_rows=1000)
    assert {task.rows for task in tasks} == {1000}


def test_of_a_task_whose_worker_was_lost_each_shard_is_tried_alone_until_one_is_given_up() -> None:
    good, bad = shard("good", 5), shard("bad", 5)
    queue = TaskQueue([Task((good, bad))])
    first = queue.take({}, 1)
    assert first is not None
    assert queue.put_back(first) == ()
    lost: list[str] = []
    done: list[str] = []
    tries = 0
    while (task := queue.take({}, 1)) is not None:
        assert len(task.shards) == 1
        if task.shards[0] is bad:
            tries += 1
            lost += [one.name for one in queue.put_back(task)]
        else:
            done.append(task.shards[0].name)
    assert (done, lost, tries) == (["good"], ["bad"], TRIES)


def test_a_huge_shard_is_given_up_once_with_all_its_cuts() -> None:
    tasks = plan_tasks([shard("a", *[1000] * 30), shard("b", 3)], workers=1, batch_rows=500)
    queue = TaskQueue(tasks)
    given_up = []
    for _ in range(TRIES):
        task = queue.take({}, 10)
        assert task is not None
        other = queue.take({}, 10)
        given_up += [one.name for one in queue.put_back(task)]
    assert given_up == ["a"]
    assert other is not None
    assert queue.put_back(other) == ()
    assert [task.shards[0].name for task in queue.waiting] == ["b"]


def test_a_cut_that_is_too_far_ahead_of_what_is_written_waits_and_another_shard_does_not() -> None:
    tasks = plan_tasks([shard("a", *[1000] * 30), shard("b", 3)], workers=1, batch_rows=500)
    queue = TaskQueue(tasks)
    taken = [queue.take({}, 2) for _ in range(4)]
    assert [(task.shards[0].name, task.order) if task else None for task in taken] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        None,
    ]
    following = queue.take({"a": 1}, 2)
    assert following is not None
    assert following.order == 2
