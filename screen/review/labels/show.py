"""Print a `LabelReport`: the labels read, and the precision of the flag.

In: a `LabelReport`. Out: text on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Column, Table

from screen.review.labels.precision import FlagPrecision
from screen.review.labels.summary import LabelReport
from screen.review.text import escape


def print_labels(report: LabelReport, console: Console) -> None:
    """Print counts, then a table with the share of corrections in each group and its 95 % interval."""
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
        title="Model errors found by reviewers (with 95 % intervals)",
    )
    groups = [[flag.flagged, flag.audit], flag.by_reason, flag.by_score]
    for group in (group for group in groups if group):
        _add(table, group)
        table.add_section()
    console.print(table)
    if flag.gain is not None:
        difference, low, high = (100 * value for value in flag.gain)
        console.print(
            f"Lift over random: {difference:+.1f} percentage points (95 % interval {low:+.1f} to {high:+.1f})."
        )
    if flag.missed is not None:
        estimate, low, high = flag.missed
        console.print(
            f"Estimated corrections among the unflagged rows: {estimate:.0f} (95 % interval {low:.0f} to {high:.0f})."
        )
    else:
        console.print(
            "No random unflagged row is labelled. To measure the lift, export random unflagged rows with "
            "`oodscreen queue --include-random P%`, and label them."
        )


def _add(table: Table, shares: Iterable[FlagPrecision]) -> None:
    for one in shares:
        share = f"{one.share:.1%} ({one.low:.1%}..{one.high:.1%})" if one.labelled else ""
        counts = (one.labelled, one.changed, one.out_of_distribution, one.unusable)
        table.add_row(escape(one.name), *(str(count) for count in counts), share)


def _lines(report: LabelReport) -> Iterable[str]:
    """One line for each nonzero count, and for each reason why labels or shards could not be used."""
    lines = (
        (report.unlabelled, "task(s) or row(s) without a label"),
        (report.skipped, "cancelled annotation(s), which are not votes"),
        (report.repeated, "task(s) or row(s) that repeat a labelled row; their votes are merged"),
        (report.disputed, "row(s) with a tied vote, left out"),
        (report.foreign, "task(s) or row(s) that name no row of results"),
        (sum(report.no_result.values()), "labelled row(s) that do not match these results"),
        (report.not_predicted, "row(s) without a prediction, excluded from the shares of corrections"),
        (report.other, "row(s) neither flagged nor in the random sample, excluded from the shares of corrections"),
        (report.no_class, "row(s) with a label that is not a class of the model"),
        (report.without_image, "row(s) whose image is no longer available"),
    )
    for count, text in lines:
        if count:
            yield f"{count} {text}"
    for name, count in report.ignored.items():
        yield f"{count} row(s) with answers to the question {name!r}; these are not labels (see --label-control)"
    for reason, count in report.no_result.items():
        yield f"  {reason}: {count}"
    for name, problem in list(report.shards.items())[:5]:
        yield f"  {name!r} {problem}"
