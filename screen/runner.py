"""The loop: shard -> rows -> images -> passes -> summary -> decision -> writer -> manifest.

In: an exported model, INPUT, OUTPUT and a `RunConfig`. Out: scored shards, a manifest, a quarantine
table, and a `RunSummary`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract import ModelContract, read_model
from export.errors import InputRefused, OutputRefused
from screen.config import BadRowLimit, RunConfig, fingerprint
from screen.decide.rules import Decision
from screen.decide.scores import score_columns
from screen.engine import settling
from screen.engine.masks import ALGORITHM
from screen.input.decode import Decoder, ImageBatch
from screen.input.rows import ColumnMapping, RowBatch, map_columns, read_batches
from screen.input.shards import ShardRef, find_shards
from screen.output.lock import LOCK_NAME, hold_output
from screen.output.manifest import Manifest
from screen.output.manifest_file import MANIFEST_STEM
from screen.output.quarantine import QUARANTINE_STEM, write_quarantine
from screen.output.record import RECORD_STEM, RunRecord
from screen.output.writer import ShardWriters, WrittenShard, make_table
from screen.overlap import StageClock, work_ahead
from screen.places import as_place, lies_in
from screen.screener import Screener
from screen.stopping import StopRequest
from screen.storage import ASIDE_PREFIX
from screen.summary import RunSummary

_BATCH_BYTES = 32 * 2**20
"""Pixels of one batch at most; a few batches are on their way between the stages."""

_ADAPTIVE_BATCHES = 4
"""So many times the rows where passes stop early: the few that go on are then run together."""

_OWN_NAMES = (LOCK_NAME, MANIFEST_STEM, QUARANTINE_STEM, RECORD_STEM, ASIDE_PREFIX)

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


def run_screening(
    model_path: str | Path,
    source: str,
    output: str | Path,
    config: RunConfig,
    listener: Listener,
    stop: StopRequest | None = None,
) -> RunSummary:
    """Score every row of INPUT into OUTPUT.

    Args:
        model_path: a file that `oodscreen export` wrote.
        source: a shard, a folder of shards, or a glob.
        output: folder of results; made if missing.
        config: how.
        listener: told how it goes on.
        stop: looked at between batches.

    Raises:
        Refused: before anything is written, if the request cannot be served.
        Interrupted: asked to stop; finished shards stay.
        OodscreenError: something failed on the way; finished shards stay.
    """
    started = time.monotonic()
    output = as_place(output)
    model = read_model(as_place(model_path))
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
    summary = RunSummary(
        output,
        judge.rule.text,
        screener.device.name,
        judge.settings.passes,
        BadRowLimit.parse(config.max_bad_rows),
        unreadable=unreadable,
    )
    with hold_output(output) as note:
        if note:
            listener.noted(note)
        manifest = _open_manifest(output, identity, shards, force=config.force)
        todo = _plan(shards, manifest, summary)
        manifest.start(todo)
        listener.started(len(todo), sum(shard.rows for shard in todo), len(summary.earlier), screener.device.note)
        for line in summary.plan_lines():
            listener.noted(line)
        writers = ShardWriters(output, columns.kept_schema, identity)
        _score_shards(todo, columns, config, screener, writers, manifest, summary, listener, stop or StopRequest())
        if config.alarm:
            summary.drift = judge.find_drift(*summary.readable)
        write_quarantine(output, manifest.entries(), unreadable)
        if summary.shards:
            record = RunRecord.make(
                configuration=fingerprint(identity),
                model=as_place(model_path).name,
                contract=model.contract,
                calibration=judge.calibration,
                device=summary.device,
                seconds=time.monotonic() - started,
                stages=summary.stages,
                shards=len(summary.shards),
                rows=summary.rows,
            )
            record.write(output)
        manifest.finish()
    summary.seconds = time.monotonic() - started
    return summary


def batch_rows(config: RunConfig, contract: ModelContract) -> int:
    """Rows that are read together: as asked for, fewer where images are large."""
    height, width, channels = contract.image_shape
    wanted = config.batch_size * (_ADAPTIVE_BATCHES if config.adaptive else 1)
    return max(1, min(wanted, _BATCH_BYTES // (height * width * channels)))


def _plan(shards: list[ShardRef], manifest: Manifest, summary: RunSummary) -> list[ShardRef]:
    """The shards that must be scored; the summary learns why, and which others need not be."""
    todo = []
    for shard in shards:
        reason = manifest.why_to_do(shard)
        if reason is None:
            summary.earlier.append(manifest.entry(shard))
        else:
            summary.reasons[shard.name] = reason
            todo.append(shard)
    present = [*(shard.name for shard in shards), *(shard.name for shard in summary.unreadable)]
    summary.vanished = manifest.vanished(present)
    return todo


def _score_shards(
    shards: list[ShardRef],
    columns: ColumnMapping,
    config: RunConfig,
    screener: Screener,
    writers: ShardWriters,
    manifest: Manifest,
    summary: RunSummary,
    listener: Listener,
    stop: StopRequest,
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
            stop.check()
            for batch in scored:
                with clock.busy("write"):
                    for written in writers.write(batch.pieces, batch.table):
                        manifest.finish_shard(written)
                        summary.shards.append(written)
                        listener.finished(written)
                listener.advanced(len(batch.table))
                stop.check()
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


def _open_manifest(output: Path, identity: dict[str, Any], shards: list[ShardRef], *, force: str | None) -> Manifest:
    manifest = Manifest(output, identity, force=force)
    manifest.refuse_foreign(shards)
    return manifest


def _check_output(output: Path, source: str, shards: list[ShardRef]) -> None:
    """Results must not become input, and must not replace it."""
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise OutputRefused(f"OUTPUT {output} is a file.", wanted="a folder", next_step="give the name of a folder")
    searched_below = as_place(source).is_dir() or "**" in source
    for shard in shards:
        if searched_below and lies_in(resolved, shard.root):
            raise OutputRefused(
                f"OUTPUT {output} lies in INPUT {source}.",
                wanted="a folder outside INPUT: the next run would take the results for images",
                next_step="choose a folder beside INPUT",
            )
        if shard.name.startswith(_OWN_NAMES):
            raise InputRefused(
                f"The shard {shard.name} has a name that OUTPUT needs for itself.",
                wanted=f"names that do not start with {', '.join(_OWN_NAMES)}",
                next_step="rename the shard",
            )
        result = resolved / shard.name
        if not lies_in(result.parent.resolve(), resolved):
            raise OutputRefused(
                f"{output / shard.name} would lie outside OUTPUT: a folder in it is a link to elsewhere.",
                wanted="an OUTPUT that holds all results",
                next_step="replace the link by a folder, or choose another OUTPUT",
            )
        if str(result.resolve()) == str(shard.path.resolve()):
            raise OutputRefused(
                f"The results of {shard.path} would replace it.",
                wanted="an OUTPUT in which no input lies",
                next_step="choose another folder",
            )
