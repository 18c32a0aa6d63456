"""Scoring of shards in one process, and the protocol `Executor` of local runs and clusters.

In: a `Job` and shards. Out: `Progress`, batch by batch. A local run uses one `ShardScorer`; on a cluster each worker
uses one (`screen/cluster`). `runner.py` uses local runs and clusters through the protocol.
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
import pyarrow.compute as pc
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.config import RunConfig
from screen.decide.policy import DecisionPolicy
from screen.files.paths import name_place
from screen.input.decode import ImageBatch
from screen.input.images import batch_rows, decode_ahead
from screen.input.mapping import ColumnMapping
from screen.input.row_batch import RowBatch
from screen.input.rows import read_batches, read_groups
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.result_table import make_table
from screen.output.writer import ShardWriters, WrittenShard
from screen.overlap import StageClock, work_ahead
from screen.run.screener import Screener
from screen.run.stopping import StopRequest

_AHEAD = 2
"""Maximum number of scored batches that wait for the writer."""


@dataclass(frozen=True)
class Job:
    """The data that a worker needs to score shards.

    Attributes:
        model: the exported model.
        output: folder of results.
        config: settings of the run.
        policy: decision policy, with the calibration whose digest is in `identity`.
        columns: the input columns to read.
        identity: the configuration that determines the results; written into every result shard.
        owner: name of the partition, used in the names of staging files; "" for a run without partitions.
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
    """Progress of a run since the previous `Progress`.

    Attributes:
        rows: number of rows that were scored.
        flagged: number of flagged rows among them.
        finished: result shards that were completed.
        lost: shards that could not be read, or could not be scored in several attempts; they have no result.
    """

    rows: int = 0
    flagged: int = 0
    finished: tuple[WrittenShard, ...] = ()
    lost: tuple[UnreadableShard, ...] = ()


class Executor(Protocol):
    """Scores shards, in this process or on the workers of a cluster.

    Attributes:
        device: name of the device that runs the passes.
        note: one-line note on the device, or "".
        stages: busy time of each stage in seconds; stages overlap.
    """

    device: str
    note: str
    stages: dict[str, float]

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards; when the generator is closed, unfinished result files are removed.

        Raises:
            OodscreenError: scoring failed; finished shards stay.
        """


OpenExecutor = Callable[[Job, Callable[[str], None], StopRequest], AbstractContextManager[Executor]]
"""Function that opens an executor for a block, given the job, a callback for one-line notices and the stop request."""


class ShardScorer:
    """Scores shards in this process: each stage has its own thread, except that the caller's thread writes the results.

    Args:
        job: the model, the settings and the folder of results.
        notify: callback for one-line notices.
        stop: request to stop, checked while images are decoded and before each write; None if the scorer is never
            stopped.

    Raises:
        Refused: the device is not available, or the model does not run on the device.
    """

    def __init__(self, job: Job, notify: Callable[[str], None], stop: StopRequest | None = None) -> None:
        self._job, self._stop = job, stop or StopRequest()
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
        self.device = self._screener.device.label
        self.note = self._screener.device.note
        self.stages: dict[str, float] = {}

    def score(self, shards: Sequence[ShardRef]) -> Generator[Progress, None, None]:
        """Score shards in order; a batch may span several shards, so small shards are scored as fast as large shards.

        A shard that cannot be read is reported as lost, and the next shards are scored.

        Raises:
            OodscreenError: scoring failed; finished shards stay.
        """
        job, clock = self._job, StageClock()
        self.stages = clock.seconds
        writers = ShardWriters(job.output, job.columns.kept_schema, job.identity, job.owner)
        scored = self._score_batches(clock, read_batches(shards, job.columns, self._batch_rows, skip_lost=True))
        try:
            with closing(scored):
                for batch in scored:
                    self._stop.check_output()
                    with clock.busy("write"):
                        for written in writers.write(batch.pieces, batch.table):
                            yield Progress(finished=(written,))
                    lost = [lose_shard(piece.shard, piece.lost) for piece in batch.pieces if piece.lost]
                    flagged = pc.sum(batch.table.column("flag")).as_py() or 0
                    yield Progress(len(batch.table), flagged, lost=tuple(lost))
        finally:
            writers.abandon()

    def score_groups(self, shard: ShardRef, groups: range) -> pa.Table:
        """Score some row groups of a shard, and return their result columns; nothing is written.

        Args:
            shard: the shard.
            groups: positions of the row groups in the shard.

        Raises:
            OodscreenError: scoring failed.
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
        images = decode_ahead(batches, self._job.model.contract, self._job.config, clock, self._stop.check)
        scored = work_ahead(clock.run("score", partial(score_batches, self._screener), images), _AHEAD)
        with closing(scored):
            yield from scored


def lose_shard(shard: ShardRef, reason: str) -> UnreadableShard:
    """The `UnreadableShard` for a shard without a result, with the reason why it could not be scored."""
    return UnreadableShard(name_place(shard.path), shard.name, reason)


@contextmanager
def open_here(job: Job, notify: Callable[[str], None], stop: StopRequest) -> Iterator[Executor]:
    """Open the local executor, which scores the shards in this process."""
    yield ShardScorer(job, notify, stop)


@dataclass(frozen=True)
class ScoredBatch:
    """The rows of one batch, scored and flagged.

    Attributes:
        pieces: the input rows of the batch, by shard.
        table: the result columns of these rows.
    """

    pieces: tuple[RowBatch, ...]
    table: pa.Table


def score_batches(screener: Screener, batches: Iterator[ImageBatch]) -> Iterator[ScoredBatch]:
    """Score and flag the readable rows of each batch; the table of a batch also contains its unreadable rows."""
    waiting: deque[ImageBatch] = deque()

    def readable_images() -> Iterator[NDArray[np.uint8] | None]:
        for batch in batches:
            waiting.append(batch)
            yield batch.images if batch.readable.any() else None

    for summary in screener.summarize_each(readable_images()):
        batch = waiting.popleft()
        batch, rows = screener.decide(batch, summary)
        yield ScoredBatch(batch.pieces, make_table(batch, rows))
