"""One worker: a session that turns input shards into finished result shards.

In: a `Job` and shards. Out: `Progress`, batch by batch. A local run is one such worker; on a cluster there are
several (`cluster.py`), and `runner.py` asks either in the same way, as an `Executor`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.config import RunConfig
from screen.decide.policy import DecisionPolicy
from screen.input.decode import ImageBatch
from screen.input.images import batch_rows, decode_ahead
from screen.input.mapping import ColumnMapping
from screen.input.overlap import StageClock, work_ahead
from screen.input.rows import RowBatch, read_batches, read_groups
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.writer import ShardWriters, WrittenShard, make_table
from screen.run.screener import Screener
from screen.run.stopping import StopRequest

_AHEAD = 2
"""Scored batches that may wait for the writer."""

NON_FINITE = ("non_finite", "the model gave NaN or infinity")
"""Status and error of a row whose predictive mean is not finite."""


@dataclass(frozen=True)
class Job:
    """What a worker does with the shards that it is given.

    Attributes:
        model: the model.
        output: folder of results.
        config: how.
        policy: who decides; with the calibration that `identity` names.
        columns: which input columns are read.
        identity: what decides the results; written into every file.
        owner: whose files those are that are aside; the part's name.
    """

    model: ExportedModel
    output: Path
    config: RunConfig
    policy: DecisionPolicy
    columns: ColumnMapping
    identity: dict[str, Any]
    owner: str = ""


@dataclass(frozen=True)
class Progress:
    """What happened since the last one.

    Attributes:
        rows: rows that were scored.
        finished: result shards that got their names.
        lost: shards that could not be scored whatever was tried; they have no result.
    """

    rows: int = 0
    finished: tuple[WrittenShard, ...] = ()
    lost: tuple[UnreadableShard, ...] = ()


class Executor(Protocol):
    """Who scores shards: this process, or workers elsewhere.

    Attributes:
        device: where passes run, in short.
        note: what to say about that, or "".
        stages: seconds that each stage was busy; they overlap.
    """

    device: str
    note: str
    stages: dict[str, float]

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards; closing the generator abandons what is not finished.

        Raises:
            OodscreenError: something failed on the way; finished shards stay.
        """


OpenExecutor = Callable[[Job, Callable[[str], None], StopRequest], AbstractContextManager[Executor]]
"""Makes an executor of a job for the time of a block; told how to note what a person should know, and when to stop."""


class ShardScorer:
    """Scores shards in this process: every stage in a thread of its own, writing in the caller's.

    Args:
        job: what is to do.
        notify: told in one line what a person should know.

    Raises:
        Refused: the device is not to be had, or the model cannot be run.
    """

    def __init__(self, job: Job, notify: Callable[[str], None]) -> None:
        self._job = job
        config = job.config
        self._screener = Screener(
            job.model,
            policy=job.policy,
            adaptive=config.adaptive,
            device=config.device,
            threads=config.threads,
            memory=config.memory,
            notify=notify,
        )
        self.device = self._screener.device.name
        self.note = self._screener.device.note
        self.stages: dict[str, float] = {}

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards, in order; batches span them, so that small ones cost no more than their rows.

        Raises:
            OodscreenError: something failed on the way; finished shards stay.
        """
        job, clock = self._job, StageClock()
        self.stages = clock.seconds
        writers = ShardWriters(job.output, job.columns.kept_schema, job.identity, job.owner)
        scored = self._score_batches(clock, read_batches(shards, job.columns, self._batch_rows))
        try:
            with closing(scored):
                for batch in scored:
                    with clock.busy("write"):
                        for written in writers.write(batch.pieces, batch.table):
                            yield Progress(finished=(written,))
                    yield Progress(rows=len(batch.table))
        finally:
            writers.abandon()

    def score_groups(self, shard: ShardRef, groups: range) -> pa.Table:
        """Score some row groups of a shard; the rows in result columns, which somebody else writes.

        Raises:
            OodscreenError: something failed on the way.
        """
        clock = StageClock()
        self.stages = clock.seconds
        with closing(
            self._score_batches(clock, read_groups(shard, self._job.columns, groups, self._batch_rows))
        ) as scored:
            return pa.concat_tables([batch.table for batch in scored])

    @property
    def _batch_rows(self) -> int:
        return batch_rows(self._job.config, self._job.model.contract)

    def _score_batches(
        self, clock: StageClock, batches: Iterator[list[RowBatch]]
    ) -> Generator[ScoredBatch, None, None]:
        images = decode_ahead(batches, self._job.model.contract, self._job.config, clock)
        scored = work_ahead(clock.run("score", partial(score_batches, self._screener), images), _AHEAD)
        with closing(scored):
            yield from scored


@contextmanager
def open_here(job: Job, notify: Callable[[str], None], stop: StopRequest) -> Iterator[Executor]:
    """An executor that is this process."""
    yield ShardScorer(job, notify)


@dataclass(frozen=True)
class ScoredBatch:
    """Rows as they were read, and the same rows in result columns."""

    pieces: tuple[RowBatch, ...]
    table: pa.Table


def score_batches(screener: Screener, batches: Iterator[ImageBatch]) -> Iterator[ScoredBatch]:
    """Run the passes over the readable rows of each batch, decide, and put all its rows into result columns."""
    waiting: deque[ImageBatch] = deque()

    def readable_images() -> Iterator[NDArray[np.uint8] | None]:
        for batch in batches:
            waiting.append(batch)
            yield batch.images if batch.readable.any() else None

    for summary in screener.summarize_each(readable_images()):
        batch = waiting.popleft()
        rows = None
        if summary is not None:
            finite = summary.is_finite
            if not finite.all():
                batch, summary = batch.fail_readable(~finite, NON_FINITE), summary.take(finite)
            rows = screener.policy.apply(summary)
        yield ScoredBatch(batch.pieces, make_table(batch, rows))
