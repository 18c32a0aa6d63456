"""The loop: shard -> rows -> images -> passes -> summary -> decision -> writer -> manifest.

In: an exported model, INPUT, OUTPUT and a `RunConfig`. Out: scored shards, a manifest, a quarantine
table, and a `RunSummary`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from export.contract.reader import read_model
from export.errors import InputRefused, OutputRefused
from screen.config import BadRowLimit, RunConfig, fingerprint
from screen.decide.policy import choose_policy
from screen.engine import interim
from screen.engine.masks import ALGORITHM
from screen.files.paths import as_path, is_within
from screen.files.storage import STAGING_PREFIX
from screen.input.mapping import map_columns
from screen.input.shards import ShardRef, find_first_shard, find_shards
from screen.output.lock import LOCK_NAME, hold_output
from screen.output.manifest import Manifest
from screen.output.manifest_file import MANIFEST_STEM
from screen.output.parts import close_partitions
from screen.output.quarantine import QUARANTINE_STEM, write_quarantine
from screen.output.record import RECORD_STEM, RunRecord
from screen.output.writer import WrittenShard
from screen.partition import ShardPartition
from screen.run.scoring import Executor, Job, OpenExecutor, open_here
from screen.run.stopping import StopRequest
from screen.run.summary import RunSummary

_OWN_NAMES = (LOCK_NAME, MANIFEST_STEM, QUARANTINE_STEM, RECORD_STEM, STAGING_PREFIX)


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
    open_executor: OpenExecutor = open_here,
) -> RunSummary:
    """Score every row of INPUT into OUTPUT.

    Args:
        model_path: a file that `oodscreen export` wrote.
        source: a shard, a folder of shards, or a glob.
        output: folder of results; made if missing.
        config: how.
        listener: told how it goes on.
        stop: looked at between batches.
        open_executor: who scores the shards; this process, unless told otherwise.

    Raises:
        Refused: the request cannot be served; nothing was written.
        Interrupted: asked to stop; finished shards stay.
        OodscreenError: something failed on the way; finished shards stay.
    """
    started = time.monotonic()
    output = as_path(output)
    model = read_model(as_path(model_path))
    part = None if config.part is None else ShardPartition.parse(config.part)
    shards, unreadable = find_shards(source, part)
    _check_output(output, source, shards)
    columns = map_columns(shards if part is None else [find_first_shard(source), *shards], config, model.contract)
    policy = choose_policy(model, config)
    identity = config.identity(
        model,
        mask_algorithm=ALGORITHM,
        adaptive_algorithm=interim.ALGORITHM,
        settings=policy.settings,
        rule=policy.rule.text,
        calibration=None if policy.calibration is None else policy.calibration.digest,
    )
    open_manifest = partial(_open_manifest, output, identity, shards, force=config.force, part=part)
    open_manifest()  # refuses before anything is written
    job = Job(model, output, config, policy, columns, identity, "" if part is None else part.name)
    stop = stop or StopRequest()
    limit = BadRowLimit.parse(config.max_bad_rows)
    summary = RunSummary(output, policy.rule.text, policy.settings.passes, limit, part=part, unreadable=unreadable)
    with ExitStack() as stack:
        executor = None
        if not output.exists():  # then every shard is new; a request that is refused here leaves no folder behind
            executor = stack.enter_context(open_executor(job, listener.noted, stop))
        note = stack.enter_context(hold_output(output, part))
        if note:
            listener.noted(note)
        manifest = open_manifest()
        todo = _plan(shards, manifest, summary)
        stop.check()
        if todo and executor is None:  # a run with nothing to do opens no session, worker or cluster
            executor = stack.enter_context(open_executor(job, listener.noted, stop))
        manifest.start(todo)
        note = "" if executor is None else executor.note
        listener.started(len(todo), sum(shard.rows for shard in todo), len(summary.earlier), note)
        for line in summary.plan_lines():
            listener.noted(line)
        if executor is not None:
            _score_shards(todo, executor, manifest, summary, listener, stop)
        if config.alarm:
            summary.drift = policy.find_drift(*summary.readable)
        if part is None:
            write_quarantine(output, manifest.entries(), summary.unreadable)
        if summary.shards and part is None:  # a part knows neither the time nor the rows of the others
            record = RunRecord.make(
                configuration=fingerprint(identity),
                model=as_path(model_path).name,
                contract=model.contract,
                calibration=policy.calibration,
                device=summary.device,
                seconds=time.monotonic() - started,
                stages=summary.stages,
                shards=len(summary.shards),
                rows=summary.rows,
            )
            record.write(output)
        manifest.finish(summary.unreadable)
    if part is not None:
        summary.open_parts = close_partitions(output, fingerprint(identity))
    summary.seconds = time.monotonic() - started
    return summary


def _plan(shards: list[ShardRef], manifest: Manifest, summary: RunSummary) -> list[ShardRef]:
    """The shards that must be scored; the summary learns why, and which others need not be."""
    todo = []
    for shard in shards:
        reason = manifest.reason_to_score(shard)
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
    executor: Executor,
    manifest: Manifest,
    summary: RunSummary,
    listener: Listener,
    stop: StopRequest,
) -> None:
    """The loop: a shard is finished once the manifest lists it. The summary gets shards in the order of the plan."""
    try:
        with closing(executor.score(shards)) as events:
            stop.check()
            for progress in events:
                summary.unreadable += progress.lost
                for written in progress.finished:
                    manifest.finish_shard(written)
                    summary.shards.append(written)
                    listener.finished(written)
                listener.advanced(progress.rows)
                stop.check()
    finally:
        summary.device, summary.stages = executor.device, executor.stages
    positions = {shard.name: position for position, shard in enumerate(shards)}
    summary.shards.sort(key=lambda written: positions[written.shard.name])


def _open_manifest(
    output: Path, identity: dict[str, Any], shards: list[ShardRef], *, force: str | None, part: ShardPartition | None
) -> Manifest:
    manifest = Manifest(output, identity, force=force, partition=part)
    manifest.refuse_foreign(shards)
    return manifest


def _check_output(output: Path, source: str, shards: list[ShardRef]) -> None:
    """Results must not become input, and must not replace it."""
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise OutputRefused(f"OUTPUT {output} is a file.", wanted="a folder", next_step="give the name of a folder")
    searched_below = as_path(source).is_dir() or "**" in source
    for shard in shards:
        if searched_below and is_within(resolved, shard.root):
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
        if not is_within(result.parent.resolve(), resolved):
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
