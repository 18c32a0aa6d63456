"""Draw the plots of a `Trend` as SVG with matplotlib.

In: a `Trend`. Out: captions and `<svg>` elements as text, in the colours of `charts.scores`. The table of the nights
on the page contains the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from screen.review.report.charts.scores import FLAGGED, FONT, INK, ROWS, SHADE, finish_figure, start_figure
from screen.review.report.trend import Trend


def draw_trend(trend: Trend | None, target: float | None) -> list[tuple[str, str]]:
    """Captions and plots: the flag rate, the quantiles of the score if known, and the rows that could not be scored.

    Args:
        trend: the nights; None without a history; the result is then empty.
        target: target rate, 0 to 1; None without a calibration.

    Raises:
        OptionRefused: matplotlib is not installed.
    """
    if trend is None:
        return []
    nights = trend.nights
    rates = [math.nan if night.rate is None else 100 * night.rate for night in nights]
    quantiles = [night.quantiles if len(night.quantiles) == 3 else (math.nan,) * 3 for night in nights]
    caption = "Flag rate of scored rows, %" + ("" if target is None else "; the dashed line marks the target")
    plots = [(caption, _draw(trend, (rates,), "Flag rate by night", "t-rate", target))]
    if not all(math.isnan(middle) for _, middle, _ in quantiles):
        lines = list(zip(*quantiles, strict=True))
        caption = f"{trend.score}: median, and range from the 5\u00a0% to the 95\u00a0% quantile"
        plots.append((caption, _draw(trend, lines, f"{trend.score} by night", "t-score")))
    bad = [float(night.bad) for night in nights]
    return [*plots, ("Rows that could not be scored", _draw(trend, (bad,), "Rows not scored, by night", "t-bad"))]


def _draw(trend: Trend, lines: Sequence[Sequence[float]], title: str, key: str, target: float | None = None) -> str:
    """A plot of one line, or of a line with the range between two other lines.

    Args:
        trend: the nights.
        lines: one line, or its lower limit, the line, and its upper limit; a value for each night, NaN for a gap.
        title: title of the plot.
        key: prefix for the element ids, unique on the page.
        target: share to mark with a line, 0 to 1; None for no mark.
    """
    figure, axes = start_figure(4.0, 1.8)
    from matplotlib.ticker import MaxNLocator

    places = range(len(trend.nights))
    line = lines[len(lines) // 2]
    if len(lines) == 3:
        axes.fill_between(places, lines[0], lines[2], color=SHADE, linewidth=0)
        axes.plot(places, lines[0], color=ROWS, linewidth=0.9)
        axes.plot(places, lines[2], color=ROWS, linewidth=0.9)
    else:
        axes.set_ylim(0, max([value for value in line if not math.isnan(value)] + [100 * (target or 0), 0.01]) * 1.15)
    axes.plot(places, line, "o-", color=FLAGGED, linewidth=1.4, markersize=3.5)
    if target is not None:
        axes.axhline(100 * target, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=key == "t-bad"))
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xticks([0, len(places) - 1], [trend.nights[0].label[:10], trend.nights[-1].label[:10]], fontsize=FONT)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    known = [value for value in line if not math.isnan(value)]
    text = f"{len(known)} nights"
    if known:
        text += f", from {min(known):.4g} to {max(known):.4g}; latest value: {known[-1]:.4g}"
    return finish_figure(figure, key, title, f"{text}.")
