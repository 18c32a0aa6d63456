"""A screening run: shards -> rows -> images -> passes -> statistics -> decisions -> result shards -> manifest.

In: an exported model, INPUT, OUTPUT and a `RunConfig`. Out: result shards, a manifest, a quarantine table, and a
`RunSummary`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Protocol

from export.contract.reader import read_model
from export.contract.validity import check_given_names
from export.errors import InputRefused, OutputRefused
from screen.config import RunConfig, fingerprint
from screen.decide.detectors import ranking_score
from screen.decide.intervals import MIN_DRIFT_ROWS
from screen.decide.policy import choose_policy
from screen.engine import interim
from screen.engine.masks import ALGORITHM
from screen.files.listing import list_shards
from screen.files.paths import as_path, base_name, is_within
from screen.files.storage import STAGING_PREFIX
from screen.input.first_rows import refuse_failing_rows
from screen.input.mapping import map_columns
from screen.input.shards import ShardRef, open_first_shard, open_shards
from screen.output.class_names import choose_class_names, rename_classes
from screen.output.history import HISTORY_FOLDER
from screen.output.locks.hold import LOCK_NAME, hold_output, refuse_if_held
from screen.output.manifest import Manifest
from screen.output.manifest_file import MANIFEST_STEM
from screen.output.names import split_usable
from screen.output.parts import close_partitions
from screen.output.quarantine import QUARANTINE_STEM, write_quarantine
from screen.output.record import RECORD_STEM, RunRecord
from screen.output.writer import WrittenShard
from screen.partition import ShardPartition
from screen.run.night import RunNight
from screen.run.scoring import Executor, Job, OpenExecutor, open_here
from screen.run.stopping import StopRequest
from screen.run.summary import RunSummary
from screen.settings.bad_rows import BadRowLimit

_RESERVED_NAMES = (f"{HISTORY_FOLDER}/", LOCK_NAME, MANIFEST_STEM, QUARANTINE_STEM, RECORD_STEM, STAGING_PREFIX)
"""Prefixes of file names that are reserved in OUTPUT; the name of a shard must not start with one of these prefixes."""


class Listener(Protocol):
    """Receives the progress and the notices of a run or a calibration."""

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Called before the first shard is scored.

        Args:
            shards: number of shards to score.
            rows: number of rows in these shards.
            skipped: number of shards that an earlier run finished.
            note: one-line note on the device, or "".
        """

    def noted(self, text: str) -> None:
        """Called with a one-line notice."""

    def warned(self, text: str) -> None:
        """Called with a one-line warning, which is also printed with `--quiet`."""

    def advanced(self, rows: int, flagged: int | None = None) -> None:
        """Called after `rows` more rows were scored.

        Args:
            rows: number of rows since the last call.
            flagged: number of flagged rows among them; None in a calibration, which flags no rows.
        """

    def finished(self, shard: WrittenShard) -> None:
        """Called after a result shard was completed, renamed into place and listed in the manifest."""


def run_screening(
    model_path: str | Path,
    source: str,
    output: str | Path,
    config: RunConfig,
    listener: Listener,
    stop: StopRequest | None = None,
    open_executor: OpenExecutor = open_here,
) -> RunSummary:
    """Score every row of INPUT, and write the results to OUTPUT.

    Args:
        model_path: file written by `oodscreen export`.
        source: a shard, a folder of shards, or a glob.
        output: folder of results; created if missing.
        config: settings of the run.
        listener: object that receives progress and notices.
        stop: request to stop, checked between batches.
        open_executor: function that opens the executor that scores the shards; the default executor is this process.

    Raises:
        Refused: the model, INPUT, OUTPUT or an option cannot be used; nothing was written.
        OutputLocked: another run holds OUTPUT; nothing was written.
        Interrupted: a signal requested a stop; finished shards stay.
        OodscreenError: the run failed; finished shards stay.
    """
    started = time.monotonic()
    output = as_path(output)
    model = read_model(as_path(model_path))
    check_given_names(tuple(config.class_names), model.contract.class_count)
    part = None if config.part is None else ShardPartition.parse(config.part)
    listing = list_shards(source)
    shards, unreadable = open_shards(listing, part)
    _check_output(output, source, shards, listing.folders)
    columns = map_columns(shards if part is None else [open_first_shard(listing), *shards], config, model.contract)
    policy = choose_policy(model, config)
    identity = config.identity(
        model,
        mask_algorithm=ALGORITHM,
        adaptive_algorithm=interim.ALGORITHM,
        settings=policy.settings,
        rule=policy.rule.text,
        calibration=None if policy.calibration is None else policy.calibration.digest,
    )
    open_manifest = partial(Manifest, output, identity, force=config.force, partition=part)
    manifest = open_manifest()
    known = manifest.entries()
    shards, unusable = split_usable(output, listing, shards, {entry.shard for entry in known})
    unreadable += unusable
    manifest.refuse_foreign(shards)  # raises before anything is written
    if part is None:
        refuse_if_held(output)
    stop = stop or StopRequest()
    if not known:
        refuse_failing_rows(shards, columns, config, model.contract, stop.check)
    job = Job(model, output, config, policy, columns, identity, "" if part is None else part.name)
    limit = BadRowLimit.parse(config.max_bad_rows)
    summary = RunSummary(output, policy.rule.text, policy.settings.passes, limit, part=part, unreadable=unreadable)
    summary.passed_over = listing.passed_over
    with ExitStack() as stack:
        executor = None
        if not known:  # every shard is new; if the executor cannot be opened, nothing is written
            executor = stack.enter_context(open_executor(job, listener.noted, stop))
        held = stack.enter_context(hold_output(output, part))
        stop.check_output = held.check
        if held.note:
            listener.warned(held.note)
        manifest = open_manifest()
        manifest.refuse_foreign(shards)
        todo = _plan(shards, listing.root.resolve(), manifest, summary)
        night = RunNight(
            output,
            part,
            configuration=fingerprint(identity),
            calibration=identity["calibration"],
            score=ranking_score(policy.rule.text, calibrated=policy.calibration is not None),
        )
        stop.check()
        if todo and executor is None:  # a run without shards to score opens no session, worker or cluster
            executor = stack.enter_context(open_executor(job, listener.noted, stop))
        night.start(todo, summary.earlier, rescored=config.force == "all")
        manifest.start(todo)
        device_note = "" if executor is None else executor.note
        listener.started(len(todo), sum(shard.rows for shard in todo), len(summary.earlier), device_note)
        for line in summary.plan_lines():
            listener.noted(line)
        if executor is not None:
            if policy.calibration is None and config.flag_if is None:
                listener.noted(
                    f"no calibration: the default rule, {policy.rule.text}, depends only on uncertainty, "
                    "so images of noise may not be flagged; `oodscreen calibrate` fits a threshold"
                )
            _score_shards(todo, executor, manifest, summary, listener, stop)
        held.check()
        night.record(summary.shards, len(summary.unreadable))
        if config.alarm:
            summary.drift = policy.find_drift(night.flag_counts(), config.alarm_rows or MIN_DRIFT_ROWS)
        if part is None:
            write_quarantine(output, manifest.entries(), summary.unreadable)
        record = RunRecord.make(
            configuration=fingerprint(identity),
            model=base_name(as_path(model_path)),
            contract=model.contract,
            class_names=choose_class_names(tuple(config.class_names), model.contract, output, fingerprint(identity)),
            calibration=policy.calibration,
            device=summary.device,
            seconds=time.monotonic() - started,
            stages=summary.stages,
            shards=len(summary.shards),
            rows=summary.rows,
        )
        if summary.shards and part is None:
            record.write(output)
        elif part is None:
            rename_classes(output, fingerprint(identity), record.class_names)
        held.check()
        manifest.finish(summary.unreadable)
        night.close()
    if part is not None:
        summary.open_parts = close_partitions(output, fingerprint(identity), record)
    summary.seconds = time.monotonic() - started
    return summary


def _plan(shards: list[ShardRef], root: Path, manifest: Manifest, summary: RunSummary) -> list[ShardRef]:
    """The shards to score; their reasons, the skipped shards and the vanished shards are added to the summary."""
    todo = []
    for shard in shards:
        reason = manifest.reason_to_score(shard)
        if reason is None:
            summary.earlier.append(manifest.entry(shard))
        else:
            summary.reasons[shard.name] = reason
            todo.append(shard)
    unreadable = {shard.name for shard in summary.unreadable}
    outdated = {entry.shard for entry in manifest.entries()} & unreadable
    summary.outdated = frozenset(outdated.difference(manifest.gone(outdated)))
    present = [*(shard.name for shard in shards), *(shard.name for shard in summary.unreadable)]
    summary.vanished = manifest.vanished(present, root)
    summary.gone = manifest.gone(summary.vanished)
    summary.left_over = [] if summary.part is not None else manifest.left_over(todo)
    return todo


def _score_shards(
    shards: list[ShardRef],
    executor: Executor,
    manifest: Manifest,
    summary: RunSummary,
    listener: Listener,
    stop: StopRequest,
) -> None:
    """Score shards, list finished shards in the manifest, and add the results, in the given order, to the summary."""
    try:
        with closing(executor.score(shards)) as events:
            stop.check()
            for progress in events:
                for lost in progress.lost:
                    stop.check_output()
                    manifest.lose_shard(lost)
                    summary.unreadable.append(lost)
                for written in progress.finished:
                    stop.check_output()
                    manifest.finish_shard(written)
                    summary.shards.append(written)
                    listener.finished(written)
                listener.advanced(progress.rows, progress.flagged)
                stop.check()
    finally:
        summary.device, summary.stages = executor.device, executor.stages
    positions = {shard.name: position for position, shard in enumerate(shards)}
    summary.shards.sort(key=lambda written: positions[written.shard.name])


def _check_output(output: Path, source: str, shards: list[ShardRef], folders: tuple[Path, ...]) -> None:
    """Refuse an OUTPUT whose results would be read as input by the next run, or would replace input.

    Args:
        output: folder of results.
        source: INPUT.
        shards: shards of INPUT.
        folders: folders of INPUT, whose subfolders are also read.

    Raises:
        InputRefused: the name of a shard is reserved.
        OutputRefused: OUTPUT is a file, is inside INPUT, or contains a link or input shard where a result belongs.
    """
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise OutputRefused(
            f"OUTPUT {output} is a file.", wanted="a folder", next_step="give the path of a new or existing folder"
        )
    if any(is_within(resolved, folder.resolve()) for folder in folders):
        raise OutputRefused(
            f"OUTPUT {output} is inside INPUT {source}.",
            wanted="a folder outside INPUT and outside the folders to which links in INPUT lead, because the next run "
            "would read the results as input",
            next_step="choose a folder outside INPUT",
        )
    for shard in shards:
        if shard.name.startswith(_RESERVED_NAMES):
            raise InputRefused(
                f"The name of the shard {shard.name} is reserved for a file of OUTPUT.",
                wanted=f"shard names that do not start with {', '.join(_RESERVED_NAMES)}",
                next_step="rename the shard",
            )
        result = resolved / shard.name
        if not is_within(result.parent.resolve(), resolved):
            raise OutputRefused(
                f"The result {output / shard.name} would be outside OUTPUT, because a folder in its path is a link.",
                wanted="an OUTPUT that contains all results",
                next_step="replace the link with a folder, or choose another OUTPUT",
            )
        if str(result.resolve()) == str(shard.path.resolve()):
            raise OutputRefused(
                f"The result of {shard.path} would replace this input shard.",
                wanted="an OUTPUT without input shards",
                next_step="choose another folder as OUTPUT",
            )
