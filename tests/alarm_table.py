"""Table of the simulated drift alarm for docs/nightly.md.

In: the results of `benchmarks/alarm.py`. Out: Markdown.
"""

from __future__ import annotations

from typing import Any

_COLUMNS = (
    "calibration rows",
    "rows per night",
    "`--alarm-rows`",
    "false alarms in 1,000 nights",
    "false alarms with a binomial interval",
    "calibrations with a false alarm",
)


def alarm_table(result: dict[str, Any]) -> str:
    """False alarms, and nights until an alarm after the flag rate has grown."""
    longest = result["longest_wait"]
    columns = [*_COLUMNS, *(f"nights until an alarm, {ratio:g} times the flags" for ratio in result["ratios"])]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for one in result["settings"]:
        cells = [
            f"{one['calibration_rows']:,}",
            f"{one['night_rows']:,}",
            f"{one['alarm_rows']:,}",
            f"{one['false_per_1000']:.2f} ± {one['error']:.2f}",
            f"{one['binomial_per_1000']:.1f}",
            f"{one['calibrations_with_alarm']:.1%}",
            *(f"{wait:.0f}" if wait < longest else f"none in {longest}" for wait in one["nights_to_alarm"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\nEach row of the table is computed from {result['calibrations']:,} calibrations with a target rate of "
        f"{result['rate']:.0%}, and {result['nights']} nights for each calibration (`python -m benchmarks.alarm`); ± "
        "is the standard error of the mean. The last columns contain the median over calibrations of the number of "
        "nights until an alarm, after the share of flagged rows has grown by the factor of the column."
    )
