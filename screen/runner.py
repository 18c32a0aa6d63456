"""The loop: shard -> rows -> images -> passes -> summary -> decision -> writer -> manifest.

In: an exported model, INPUT, OUTPUT and a `RunConfig`. Out: scored shards, and a `RunSummary`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract import ModelContract, read_model
from export.errors import ExitCode, OutputRefused
from screen.config import RunConfig
from screen.decide.rules import Decision
from screen.decide.scores import score_columns
from screen.engine import settling
from screen.engine.masks import ALGORITHM
from screen.input.decode import Decoder, ImageBatch
from screen.input.rows import ColumnMapping, RowBatch, map_columns, read_batches
from screen.input.shards import ShardRef, UnreadableShard, find_shards
from screen.output.lock import hold_output
from screen.output.manifest import Manifest
from screen.output.writer import ShardWriters, WrittenShard, make_table
from screen.overlap import StageClock, work_ahead
from screen.screener import Screener

_BATCH_BYTES = 32 * 2**20
"""Pixels of one batch at most; a few batches are on their way between the stages."""

_ADAPTIVE_BATCHES = 4
"""So many times the rows where passes stop early: the few that go on are then run together."""

_AHEAD = 2
"""How many batches a stage may be ahead of the next."""


class Listener(Protocol):
    """Who is told how a run goes on."""

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """The run begins: what is to do, what was done before, and what to say about the device."""

    def noted(self, text: str) -> None:
        """Something a person should know, in one line."""

    def advanced(self, rows: int) -> None:
        """So many more rows are scored."""

    def finished(self, shard: WrittenShard) -> None:
        """A result shard has its name."""


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        output: folder of results.
        rule: the flag rule.
        device: where it ran.
        seconds: wall time.
        stages: seconds that each stage was busy; they overlap.
        shards: result shards written, in order.
        skipped: shards that an earlier run had finished.
        unreadable: shards without a readable footer, which have no result.
    """

    output: Path
    rule: str
    device: str
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    shards: list[WrittenShard] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[UnreadableShard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows written by this run."""
        return sum(shard.rows for shard in self.shards)

    @property
    def flagged(self) -> int:
        """Rows flagged by this run, the unreadable ones included."""
        return sum(shard.flagged for shard in self.shards)

    @property
    def statuses(self) -> dict[str, int]:
        """How many rows have which status."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for status, count in shard.statuses.items():
                total[status] = total.get(status, 0) + count
        return total

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        return ExitCode.UNREADABLE_INPUT if self.unreadable else ExitCode.DONE


def run_screening(
    model_path: str | Path, source: str, output: str | Path, config: RunConfig, listener: Listener
) -> RunSummary:
    """Score every row of INPUT into OUTPUT.

    Args:
        model_path: a file that `oodscreen export` wrote.
        source: a shard, a folder of shards, or a glob.
        output: folder of results; made if missing.
        config: how.
        listener: told how it goes on.

    Raises:
        Refused: before anything is written, if the request cannot be served.
        OodscreenError: something failed on the way; finished shards stay.
    """
    started = time.monotonic()
    output = Path(output)
    model = read_model(model_path)
    shards, unreadable = find_shards(source)
    _check_output(output, source, shards)
    columns = map_columns(shards, config, model.contract)
    screener = Screener(
        model,
        passes=config.passes,
        seed=config.seed,
        masks=config.masks,
        flag_if=config.flag_if,
        calibration=config.calibration,
        adaptive=config.adaptive,
        device=config.device,
        threads=config.threads,
        memory=config.memory,
        notify=listener.noted,
    )
    judge = screener.judge
    calibration = None if judge.calibration is None else judge.calibration.digest
    identity = config.identity(
        model,
        mask_algorithm=ALGORITHM,
        adaptive_algorithm=settling.ALGORITHM,
        settings=judge.settings,
        rule=judge.rule.text,
        calibration=calibration,
    )
    _open_manifest(output, identity, shards, force=config.force)  # refuses before anything is written
    summary = RunSummary(output, judge.rule.text, screener.device.name, unreadable=unreadable)
    with hold_output(output):
        manifest = _open_manifest(output, identity, shards, force=config.force)
        todo = [shard for shard in shards if not manifest.is_done(shard)]
        summary.skipped = [shard.name for shard in shards if shard not in todo]
        manifest.start()
        listener.started(len(todo), sum(shard.rows for shard in todo), len(summary.skipped), screener.device.note)
        writers = ShardWriters(output, columns.kept_schema, identity)
        _score_shards(todo, columns, config, screener, writers, manifest, summary, listener)
        manifest.finish()
    summary.seconds = time.monotonic() - started
    return summary


def batch_rows(config: RunConfig, contract: ModelContract) -> int:
    """Rows that are read together: as asked for, fewer where images are large."""
    height, width, channels = contract.image_shape
    wanted = config.batch_size * (_ADAPTIVE_BATCHES if config.adaptive else 1)
    return max(1, min(wanted, _BATCH_BYTES // (height * width * channels)))


def _score_shards(
    shards: list[ShardRef],
    columns: ColumnMapping,
    config: RunConfig,
    screener: Screener,
    writers: ShardWriters,
    manifest: Manifest,
    summary: RunSummary,
    listener: Listener,
) -> None:
    """The loop itself: every stage in a thread of its own, writing in this one."""
    clock = StageClock()
    decoder = Decoder(
        screener.contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=config.threads
    )
    pieces = work_ahead(
        clock.make("read", read_batches(shards, columns, batch_rows(config, screener.contract))), _AHEAD
    )
    batches = work_ahead(clock.apply("decode", decoder.decode, pieces), _AHEAD)
    scored = work_ahead(clock.apply("score", partial(score_batch, screener), batches), _AHEAD)
    try:
        with closing(scored):
            for batch in scored:
                with clock.busy("write"):
                    for written in writers.write(batch.pieces, batch.table):
                        manifest.finish_shard(written)
                        summary.shards.append(written)
                        listener.finished(written)
                listener.advanced(len(batch.table))
    finally:
        writers.abandon()
        decoder.close()
        summary.stages = clock.seconds


@dataclass(frozen=True)
class ScoredBatch:
    """Rows as they were read, and the same rows in result columns."""

    pieces: tuple[RowBatch, ...]
    table: pa.Table


def score_batch(screener: Screener, batch: ImageBatch) -> ScoredBatch:
    """Run the passes over the readable rows of a batch, and put all its rows into result columns."""
    if not batch.readable.any():
        nothing = Decision(np.zeros(0, np.bool_), [])
        return ScoredBatch(batch.pieces, make_table(batch, {}, np.zeros(0, np.int32), nothing))
    summary = screener.score(batch.images)
    finite: NDArray[np.bool_] = np.all(np.isfinite(summary.mean), axis=1)
    if not finite.all():
        batch = batch.fail_readable(~finite, ("non_finite", "the model gave NaN or infinity"))
        summary = summary.take(finite)
    scores = score_columns(summary)
    table = make_table(batch, scores, summary.passes, screener.flag(summary))
    return ScoredBatch(batch.pieces, table)


def _open_manifest(output: Path, identity: dict[str, Any], shards: list[ShardRef], *, force: bool) -> Manifest:
    manifest = Manifest(output, identity, force=force)
    if not force:
        manifest.refuse_foreign(shards)
    return manifest


def _check_output(output: Path, source: str, shards: list[ShardRef]) -> None:
    """Results must not become input, and must not replace it."""
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise OutputRefused(f"OUTPUT {output} is a file.", wanted="a folder", next_step="give the name of a folder")
    searched_below = Path(source).is_dir() or "**" in source
    for shard in shards:
        if searched_below and resolved.is_relative_to(shard.root):
            raise OutputRefused(
                f"OUTPUT {output} lies in INPUT {source}.",
                wanted="a folder outside INPUT: the next run would take the results for images",
                next_step="choose a folder beside INPUT",
            )
        if (resolved / shard.name).resolve() == shard.path.resolve():
            raise OutputRefused(
                f"The results of {shard.path} would replace it.",
                wanted="an OUTPUT in which no input lies",
                next_step="choose another folder",
            )
