"""Gather the contents of a report from the results of a run, batch by batch.

In: RESULTS, the input shards listed in the manifest, and optionally the results of an earlier run. Out: `Findings`.
"""

from __future__ import annotations

import shlex

import pyarrow as pa

from export.errors import InputRefused, OptionRefused, printable
from screen.columns import CALIBRATED, FEATURE_DISTANCE, SCORES_OF_ALL_FORMATS
from screen.decide.intervals import MIN_DRIFT_ROWS, flag_interval, wilson_interval
from screen.decide.rules.text import find_limits
from screen.files.failures import raise_if_refused
from screen.files.paths import name_place, open_parquet
from screen.output.quarantine import QUARANTINE_NAME
from screen.review.classes import use_class_names
from screen.review.ranking import choose_score, is_high_suspicious
from screen.review.report.aggregate import NEEDED, Aggregate
from screen.review.report.changes import compare_rows, differing_settings, incomparable_settings
from screen.review.report.findings import BadRow, Comparison, Counts, Findings, GroupShare, Histogram, Quarantine, Rate
from screen.review.report.look_alikes import group_rows
from screen.review.report.top_rows import ShownNames, gather_cards, shown_scores
from screen.review.report.trend import read_trend
from screen.review.results import Results, open_results
from screen.review.text import clip

MAX_TOP_ROWS = 1000
"""Maximum number of top-ranked rows, which limits the size of the page."""

LOOK_ALIKES, MAX_LOOK_ALIKES = 1000, 100_000
"""Default and maximum number of flagged rows whose images are compared."""

_MAX_TITLE = 200
"""Maximum number of characters of the title."""

_MAX_HISTOGRAMS = 6
_MAX_SHARDS = 50
_MAX_BAD_ROWS = 100
_MAX_REASONS = 30
_UNITS = {column.name: column.unit for column in SCORES_OF_ALL_FORMATS}


def gather_findings(
    source: str,
    *,
    top: int = 100,
    look_alikes: int = LOOK_ALIKES,
    against: str | None = None,
    moved_to: str | None = None,
    class_names: tuple[str, ...] = (),
    title: str | None = None,
) -> Findings:
    """The contents of a report, from one read of all results and a second read of the top-ranked rows.

    Args:
        source: OUTPUT folder of a run.
        top: maximum number of cards.
        look_alikes: maximum number of flagged rows whose images are compared; similar images share a card.
        against: OUTPUT folder of an earlier run to compare with; None for no comparison.
        moved_to: current location of the input shards; None if they were not moved.
        class_names: class names that replace the recorded ones; empty if none were given.
        title: title of the page; None for the name of the results.

    Raises:
        OptionRefused: `top` or `look_alikes` is out of range, `against` is `source`, or `class_names` does not fit
            the model.
        InputRefused: `source` or `against` contains no results, or unfinished or damaged results.
        OutputLocked: a run is writing the results.
    """
    if not 0 <= top <= MAX_TOP_ROWS:
        raise OptionRefused(
            f"--top is {top}.", wanted=f"0 to {MAX_TOP_ROWS} rows", next_step="give another number, or leave out --top"
        )
    if not 0 <= look_alikes <= MAX_LOOK_ALIKES:
        raise OptionRefused(
            f"--look-alikes is {look_alikes}.",
            wanted=f"0 to {MAX_LOOK_ALIKES} rows",
            next_step="give another number, or leave out --look-alikes",
        )
    results = use_class_names(open_results(source), class_names)
    earlier = None if against is None else open_results(against)
    if earlier is not None and earlier.folder.resolve() == results.folder.resolve():
        raise OptionRefused(
            f"--against {against} is RESULTS itself.",
            wanted="the results of an earlier run, in another folder",
            next_step="write each run to its own OUTPUT, and give the OUTPUT of an earlier run",
        )
    aggregate = _aggregate(results, max(top, look_alikes) if top else 0)
    ranked = aggregate.top_rows()
    compared = min(look_alikes, aggregate.flagged, len(ranked))
    groups = group_rows(results, ranked[:compared], ranked[compared:], top, moved_to)
    cards, notes = gather_cards(results, groups, moved_to)
    counts = _counts(results, aggregate)
    return Findings(
        name=results.name,
        title=clip(title.strip() if title else "", _MAX_TITLE) or results.name,
        next_command=_next_command(source, moved_to, audit=not counts.rate.flagged),
        model_version=results.model_version,
        settings=results.settings,
        record=results.record,
        counts=counts,
        histograms=_histograms(results, aggregate),
        shards=_shards(results),
        order=aggregate.order,
        high=aggregate.high,
        cards=cards,
        compared=compared,
        notes=notes,
        quarantine=_quarantine(results),
        trend=read_trend(results.folder),
        comparison=None if earlier is None else _compare(results, earlier, aggregate),
    )


def _aggregate(results: Results, top: int) -> Aggregate:
    """Aggregate of all rows; the number of flagged rows in each shard must equal that in the manifest."""
    score = choose_score(results, None)
    aggregate = Aggregate(top, _review_rate(results), score, high=is_high_suspicious(results, score))
    for number, entry in enumerate(results.entries):
        before, start = aggregate.all_flagged, 0
        for table in results.batches(entry, NEEDED):
            aggregate.add(number, start, table)
            start += len(table)
        if aggregate.all_flagged - before != entry.flagged:
            command = f"oodscreen forget {shlex.quote(str(results.folder))} --shard {shlex.quote(entry.shard)}"
            raise InputRefused(
                f"{clip(entry.shard)} has {aggregate.all_flagged - before} flagged rows; "
                f"the manifest records {entry.flagged}.",
                wanted="unchanged results of a run",
                next_step=f"run `{command}`, then repeat the `oodscreen run`, which scores the shard again",
            )
    return aggregate


def _review_rate(results: Results) -> float | None:
    """Target rate of the calibration, from the record of the run, or else from the flag rule."""
    if results.identity["calibration"] is None:
        return None
    if results.record is not None and results.record.promise is not None:
        return results.record.promise.review_rate
    return next((limit for name, limit in find_limits(str(results.identity["flag_if"])) if name == "p_value"), None)


def _counts(results: Results, aggregate: Aggregate) -> Counts:
    names = ShownNames.of(results)
    return Counts(
        shards=len(results.entries),
        rows=aggregate.rows,
        flagged=aggregate.all_flagged,
        bad=aggregate.rows - aggregate.readable,
        rate=_rate(results, aggregate),
        classes=tuple(
            GroupShare(names.name(number), aggregate.classes[number], aggregate.flagged_classes[number])
            for number in sorted(aggregate.classes)
        ),
        reasons=tuple(
            GroupShare(clip(reason, 200), aggregate.flagged, count)
            for reason, count in sorted(aggregate.reasons.items(), key=lambda item: (-item[1], item[0]))[:_MAX_REASONS]
        ),
    )


def _rate(results: Results, aggregate: Aggregate) -> Rate:
    promise = None if results.record is None else results.record.promise
    expected = None
    if promise is not None and aggregate.readable >= MIN_DRIFT_ROWS:
        interval = flag_interval(promise.ranked, promise.rank, aggregate.readable)
        expected = (interval.low, interval.high)
    return Rate(
        aggregate.readable,
        aggregate.flagged,
        *wilson_interval(aggregate.flagged, aggregate.readable),
        target=_review_rate(results),
        by_calibration=aggregate.by_calibration,
        expected=expected,
    )


def _histograms(results: Results, aggregate: Aggregate) -> tuple[Histogram, ...]:
    """Histograms of the first `_MAX_HISTOGRAMS` displayed scores; scores with a flag threshold come first."""
    limits: dict[str, list[float]] = {}
    for name, limit in find_limits(str(results.identity["flag_if"])):
        limits.setdefault(name, []).append(limit)
    if results.record is not None and results.record.promise is not None:
        limits.setdefault("ood_score", []).append(results.record.promise.limit)
    found: list[Histogram] = []
    for name in sorted(shown_scores(results), key=lambda name: name not in limits):
        edges, rows, flagged = aggregate.histograms[name].bins(limits.get(name, ()))
        if len(rows) and len(found) < _MAX_HISTOGRAMS:
            found.append(
                Histogram(
                    name,
                    _UNITS[name],
                    tuple(edges.tolist()),
                    tuple(rows.tolist()),
                    tuple(flagged.tolist()),
                    tuple(limits.get(name, ())),
                )
            )
    return tuple(found)


def _shards(results: Results) -> tuple[GroupShare, ...]:
    """The `_MAX_SHARDS` shards with the largest flag rates."""
    shares = [
        GroupShare(clip(entry.shard), entry.rows - entry.bad, entry.flagged - entry.bad, entry.bad)
        for entry in results.entries
    ]
    return tuple(sorted(shares, key=lambda share: (-share.rate, -share.bad, share.name))[:_MAX_SHARDS])


def _next_command(source: str, moved_to: str | None, *, audit: bool) -> tuple[str, ...]:
    """Words of the command that exports the flagged rows, or an audit sample if no scored row is flagged."""
    words = ["oodscreen", "queue", name_place(source), "-o", "audit.parquet" if audit else "queue.parquet"]
    words += ["--include-random", "1%"] if audit else []
    words += [] if moved_to is None else ["--input", name_place(moved_to)]
    is_exact = all(printable(word) == word and "\n" not in word for word in words)
    return tuple(map(shlex.quote, words)) if is_exact else ()


def _quarantine(results: Results) -> Quarantine:
    statuses: dict[str, int] = {}
    first: list[BadRow] = []
    total = 0
    try:
        with open_parquet(results.folder / QUARANTINE_NAME) as file:
            for batch in file.iter_batches():
                table = pa.Table.from_batches([batch])
                total += len(table)
                for counted in table["status"].value_counts().to_pylist():
                    statuses[str(counted["values"])] = statuses.get(str(counted["values"]), 0) + counted["counts"]
                first += [
                    BadRow(
                        clip(row["source"], 200),
                        row["row"],
                        clip(row["id"] or ""),
                        clip(row["status"]),
                        clip(row["error"], 300),
                    )
                    for row in table.slice(0, _MAX_BAD_ROWS - len(first)).to_pylist()
                ]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise_if_refused(results.folder / QUARANTINE_NAME, error)
        raise InputRefused(
            f"{results.folder / QUARANTINE_NAME} cannot be read: {type(error).__name__}.",
            wanted="unchanged results of a run",
            next_step="repeat the `oodscreen run`, which writes the quarantine table again",
        ) from error
    return Quarantine(total, tuple(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))), tuple(first))


def _compare(results: Results, earlier: Results, aggregate: Aggregate) -> Comparison:
    now, then = ({entry.shard: entry for entry in one.entries} for one in (results, earlier))
    both = [(entry, then[name]) for name, entry in now.items() if name in then]
    unchanged = [(new, old) for new, old in both if new.input == old.input and new.rows == old.rows]
    incomparable = incomparable_settings(results, earlier)
    order, high = aggregate.order, aggregate.high
    calibrated = order in CALIBRATED or order == FEATURE_DISTANCE.name
    if calibrated and results.identity["calibration"] != earlier.identity["calibration"]:
        order, high = aggregate.uncalibrated_order(), True
    return Comparison(
        name=earlier.name,
        counts=_counts(earlier, _aggregate(earlier, 0)),
        differences=differing_settings(results, earlier),
        incomparable=incomparable,
        new_shards=len(now.keys() - then.keys()),
        gone_shards=len(then.keys() - now.keys()),
        changed_shards=len(both) - len(unchanged),
        changes=None if incomparable else compare_rows(results, earlier, unchanged, order, high=high),
    )
