"""Gather what a report tells from the results of a run, by streaming.

In: RESULTS, perhaps those of an earlier run, and the input shards that the manifest names. Out: `Findings`.
"""

from __future__ import annotations

import pyarrow as pa

from export.errors import InputRefused, OptionRefused
from screen.columns import CALIBRATED, SCORES
from screen.decide.intervals import LEAST_ROWS, flag_interval, wilson_interval
from screen.decide.rules import find_limits
from screen.files.paths import open_parquet
from screen.output.quarantine import QUARANTINE_NAME
from screen.review.ranking import choose_score, is_high_suspicious
from screen.review.report.aggregate import NEEDED, Aggregate
from screen.review.report.changes import compare_rows, differing_settings, incomparable_settings
from screen.review.report.findings import BadRow, Comparison, Counts, Findings, GroupShare, Histogram, Quarantine, Rate
from screen.review.report.top_rows import SHOWN, ShownNames, gather_top_rows
from screen.review.results import Results, open_results
from screen.review.text import clip

MOST_SUSPECTS = 1000
"""More would be no page to look at."""

_MOST_HISTOGRAMS = 6
_MOST_SHARDS = 50
_MOST_BAD_ROWS = 100
_MOST_REASONS = 30
_UNITS = {column.name: column.unit for column in SCORES}


def gather_findings(
    source: str, *, top: int = 100, against: str | None = None, moved_to: str | None = None
) -> Findings:
    """Read all results through once, and what the page shows of single rows.

    Args:
        source: OUTPUT of a run.
        top: how many of the most suspicious rows are shown.
        against: OUTPUT of an earlier run.
        moved_to: where the input shards are now; None: where they were.

    Raises:
        OptionRefused: `top` is out of range, or there is nothing to compare.
        InputRefused: these are no results, or they are not whole.
        OutputLocked: a run writes them now.
    """
    if not 0 <= top <= MOST_SUSPECTS:
        raise OptionRefused(
            f"--top is {top}.", wanted=f"0 to {MOST_SUSPECTS} rows", next_step="give another number, or leave it out"
        )
    results = open_results(source)
    earlier = None if against is None else open_results(against)
    if earlier is not None and earlier.place.resolve() == results.place.resolve():
        raise OptionRefused(
            f"--against {against} is RESULTS itself.",
            wanted="the results of an earlier run, in a folder of their own",
            next_step="keep an earlier OUTPUT, and give it",
        )
    tally = _tally(results, top)
    suspects, notes = gather_top_rows(results, tally.suspects(), moved_to)
    counts = _counts(results, tally)
    return Findings(
        name=results.name,
        settings=results.settings,
        record=results.record,
        counts=counts,
        histograms=_histograms(results, tally),
        shards=_shards(results),
        order=tally.order,
        high=tally.high,
        suspects=suspects,
        notes=notes,
        quarantine=_quarantine(results),
        comparison=None if earlier is None else _compare(results, earlier, tally),
    )


def _tally(results: Results, top: int) -> Aggregate:
    """Count all rows, and hold the counts against the manifest."""
    score = choose_score(results, None)
    tally = Aggregate(top, _review_rate(results), score, high=is_high_suspicious(results, score))
    for number, entry in enumerate(results.entries):
        before, start = tally.all_flagged, 0
        for table in results.batches(entry, NEEDED):
            tally.add(number, start, table)
            start += len(table)
        if tally.all_flagged - before != entry.flagged:
            raise InputRefused(
                f"{clip(entry.shard)} has {tally.all_flagged - before} flags, and its manifest says {entry.flagged}.",
                wanted="results as a run wrote them",
                next_step="see what `oodscreen check` finds, remove that file and run again",
            )
    return tally


def _review_rate(results: Results) -> float | None:
    """What the calibration promises: by the record, or by the rule, which starts with it."""
    if results.identity["calibration"] is None:
        return None
    if results.record is not None and results.record.promise is not None:
        return results.record.promise.review_rate
    return next((limit for name, limit in find_limits(str(results.identity["flag_if"])) if name == "p_value"), None)


def _counts(results: Results, tally: Aggregate) -> Counts:
    names = ShownNames.of(results)
    return Counts(
        shards=len(results.entries),
        rows=tally.rows,
        bad=tally.rows - tally.readable,
        rate=_rate(results, tally),
        classes=tuple(
            GroupShare(names.name(number), tally.classes[number], tally.flagged_classes[number])
            for number in sorted(tally.classes)
        ),
        reasons=tuple(
            GroupShare(clip(reason, 200), tally.flagged, count)
            for reason, count in sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS]
        ),
    )


def _rate(results: Results, tally: Aggregate) -> Rate:
    promise = None if results.record is None else results.record.promise
    expected = None
    if promise is not None and tally.readable >= LEAST_ROWS:
        band = flag_interval(promise.ranked, promise.rank, tally.readable)
        expected = (band.low, band.high)
    return Rate(
        tally.readable,
        tally.flagged,
        *wilson_interval(tally.flagged, tally.readable),
        promised=_review_rate(results),
        by_calibration=tally.by_calibration,
        expected=expected,
    )


def _histograms(results: Results, tally: Aggregate) -> tuple[Histogram, ...]:
    """Those that the rule reads first."""
    limits: dict[str, list[float]] = {}
    for name, limit in find_limits(str(results.identity["flag_if"])):
        limits.setdefault(name, []).append(limit)
    if results.record is not None and results.record.promise is not None:
        limits.setdefault("ood_score", []).append(results.record.promise.limit)
    found: list[Histogram] = []
    for name in sorted(SHOWN, key=lambda name: name not in limits):
        edges, rows, flagged = tally.histograms[name].bins(limits.get(name, ()))
        if len(rows) and len(found) < _MOST_HISTOGRAMS:
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
    """Those with the largest flagged share."""
    shares = [
        GroupShare(clip(entry.shard), entry.rows - entry.bad, entry.flagged - entry.bad, entry.bad)
        for entry in results.entries
    ]
    return tuple(sorted(shares, key=lambda share: (-share.rate, -share.bad, share.name))[:_MOST_SHARDS])


def _quarantine(results: Results) -> Quarantine:
    statuses: dict[str, int] = {}
    first: list[BadRow] = []
    total = 0
    try:
        with open_parquet(results.place / QUARANTINE_NAME) as file:
            for batch in file.iter_batches():
                table = pa.Table.from_batches([batch])
                total += len(table)
                for counted in table["status"].value_counts().to_pylist():
                    statuses[str(counted["values"])] = statuses.get(str(counted["values"]), 0) + counted["counts"]
                first += [
                    BadRow(
                        clip(told["source"], 200),
                        told["row"],
                        clip(told["id"] or ""),
                        clip(told["status"]),
                        clip(told["error"], 300),
                    )
                    for told in table.slice(0, _MOST_BAD_ROWS - len(first)).to_pylist()
                ]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputRefused(
            f"{results.place / QUARANTINE_NAME} cannot be read: {type(error).__name__}.",
            wanted="results as a run wrote them",
            next_step="run again: the quarantine is made anew",
        ) from error
    return Quarantine(total, tuple(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))), tuple(first))


def _compare(results: Results, earlier: Results, tally: Aggregate) -> Comparison:
    now, then = ({entry.shard: entry for entry in one.entries} for one in (results, earlier))
    both = [(entry, then[name]) for name, entry in now.items() if name in then]
    unchanged = [(new, old) for new, old in both if new.input == old.input and new.rows == old.rows]
    incomparable = incomparable_settings(results, earlier)
    order, high = tally.order, tally.high
    if order in CALIBRATED and results.identity["calibration"] != earlier.identity["calibration"]:
        order, high = tally.uncalibrated_order(), True
    return Comparison(
        name=earlier.name,
        counts=_counts(earlier, _tally(earlier, 0)),
        differences=differing_settings(results, earlier),
        incomparable=incomparable,
        new_shards=len(now.keys() - then.keys()),
        gone_shards=len(then.keys() - now.keys()),
        changed_shards=len(both) - len(unchanged),
        changes=None if incomparable else compare_rows(results, earlier, unchanged, order, high=high),
    )
