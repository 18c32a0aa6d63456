"""Print a `LabelReport`: the labels read, and the precision of the flag.

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
    flag = report.worth
    table = Table(
        Column("rows", no_wrap=True),
        "labelled",
        "changed",
        "out of distribution",
        "unusable",
        Column("share of corrections", no_wrap=True),
        title="Model errors found by reviewers",
    )
    groups = [[flag.flagged, flag.audit], flag.by_reason, flag.by_score]
    for group in (group for group in groups if group):
        _add(table, group)
        table.add_section()
    console.print(table)
    if flag.gain is not None:
        difference, low, high = (100 * value for value in flag.gain)
        console.print(f"Lift over random: {difference:+.1f} percentage points ({low:+.1f} to {high:+.1f}).")
    if flag.missed is not None:
        estimate, low, high = flag.missed
        console.print(f"Estimated corrections among the unflagged rows: {estimate:.0f} ({low:.0f} to {high:.0f}).")
    else:
        console.print("No random row is labelled. Export some with `queue --include-random P%` to measure the lift.")


def _add(table: Table, shares: Iterable[FlagPrecision]) -> None:
    for one in shares:
        share = f"{one.share:.1%} ({one.low:.1%}..{one.high:.1%})" if one.labelled else ""
        counts = (one.labelled, one.changed, one.out_of_distribution, one.unusable)
        table.add_row(escape(one.name), *(str(count) for count in counts), share)


def _lines(report: LabelReport) -> Iterable[str]:
    """One line for each nonzero count of excluded or special labels, with the reason."""
    lines = (
        (report.unlabelled, "task(s) without a label"),
        (report.skipped, "skipped annotation(s), not counted"),
        (report.repeated, "further task(s) of a row: votes merged"),
        (report.disputed, "row(s) on which annotators disagree, left out"),
        (report.foreign, "task(s) that name no row of any results"),
        (sum(report.no_result.values()), "labelled row(s) that do not match these results"),
        (report.not_predicted, "row(s) without a prediction, not in the shares"),
        (report.other, "row(s) neither flagged nor in the random sample, not in the shares"),
        (report.no_class, "label(s) that are not a class of the model"),
        (report.without_image, "row(s) whose image is no longer available"),
    )
    for count, text in lines:
        if count:
            yield f"{count} {text}"
    for reason, count in report.no_result.items():
        yield f"  {reason}: {count}"
    for name, problem in list(report.shards.items())[:5]:
        yield f"  {name!r} {problem}"
