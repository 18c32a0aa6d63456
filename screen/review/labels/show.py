"""A `LabelReport` for people: what labels there were, and what the flag is worth.

In: a `LabelReport`. Out: text on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from screen.review.labels.precision import FlagPrecision
from screen.review.labels.summary import LabelReport


def print_labels(report: LabelReport, console: Console) -> None:
    """Print counts, then a table of shares with their 95 % intervals."""
    console.print(f"{report.labelled} labelled row(s) in {escape(report.output)}", soft_wrap=True)
    for line in _lines(report):
        console.print(f"  {escape(line)}", soft_wrap=True)
    worth = report.worth
    title = "What people did not leave as the model had it"
    table = Table(
        Column("rows", no_wrap=True),
        "labelled",
        "changed",
        "out of distribution",
        "unusable",
        Column("all of these", no_wrap=True),
        title=title,
    )
    groups = [[worth.flagged, worth.audit], worth.by_reason, worth.by_score]
    for group in (group for group in groups if group):
        _add(table, group)
        table.add_section()
    console.print(table)
    if worth.gain is not None:
        difference, low, high = (100 * value for value in worth.gain)
        console.print(
            f"A flag adds {difference:+.1f} points ({low:+.1f} to {high:+.1f}) to the share among random rows."
        )
    if worth.missed is not None:
        middle, low, high = worth.missed
        console.print(f"Of the rows that were not flagged about {middle:.0f} ({low:.0f} to {high:.0f}) are like these.")
    else:
        console.print("No random row is labelled: `queue --include-random P%` says what flags are worth beside chance.")


def _add(table: Table, shares: Iterable[FlagPrecision]) -> None:
    for one in shares:
        told = f"{one.share:.1%} ({one.low:.1%}..{one.high:.1%})" if one.labelled else ""
        counts = (one.labelled, one.changed, one.out_of_distribution, one.unusable)
        table.add_row(escape(one.name), *(str(count) for count in counts), told)


def _lines(report: LabelReport) -> Iterable[str]:
    """What was left out, and why; nothing of what did not happen."""
    told = (
        (report.unlabelled, "task(s) without a label"),
        (report.skipped, "skipped annotation(s), which do not count"),
        (report.repeated, "task(s) of a row that had one before: votes put together"),
        (report.disputed, "row(s) on which annotators disagree, left out"),
        (report.foreign, "task(s) that name no row of results"),
        (sum(report.no_result.values()), "labelled row(s) that these results do not have"),
        (report.not_predicted, "row(s) that could not be scored, not in the shares"),
        (report.other, "row(s) neither flagged nor drawn at random, not in the shares"),
        (report.no_class, "label(s) that are no class of the model"),
        (report.without_image, "row(s) whose image is not to be had any more"),
    )
    for count, what in told:
        if count:
            yield f"{count} {what}"
    for why, count in report.no_result.items():
        yield f"  {why}: {count}"
    for name, why in list(report.shards.items())[:5]:
        yield f"  {name!r} {why}"
