"""Draw the page's plots as SVG with matplotlib.

In: a `Histogram` or a `Rate`. Out: an `<svg>` element as text, with title and description for screen readers. The
colours are CSS variables, which the page's style sheet sets for light, dark and print.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from screen.review.extras import missing_library
from screen.review.report.findings import Histogram, Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib does not accept CSS variables; the placeholder colours are replaced by variables after drawing.
INK, MUTED, ROWS, FLAGGED, SHADE = "#010203", "#020304", "#030405", "#040506", "#050607"
_CSS_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    ROWS: "var(--rows)",
    FLAGGED: "var(--flagged)",
    SHADE: "var(--shade)",
}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
FONT = 9.0


def draw_histogram(histogram: Histogram, key: str) -> str:
    """Histogram of the scored rows, behind that of the flagged scored rows, with a logarithmic count axis.

    Args:
        histogram: the bins and thresholds to draw.
        key: prefix for the element ids, unique on the page.

    Raises:
        OptionRefused: matplotlib is not installed.
    """
    figure, axes = start_figure(4.0, 2.1)
    from matplotlib.ticker import MaxNLocator

    edges = np.array(histogram.edges)
    axes.set_yscale("log")
    for counts, colour in ((histogram.rows, ROWS), (histogram.flagged, FLAGGED)):
        # The axis starts at 0.5 rows, so that a bin with one row is visible.
        axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=colour, linewidth=0)
    top = max(histogram.rows)
    axes.set_ylim(0.5, top * 3)
    low, high = min([edges[0], *histogram.limits]), max([edges[-1], *histogram.limits])
    for limit in histogram.limits:
        axes.axvline(limit, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        right = limit > (low + high) / 2
        axes.annotate(
            f"{limit:.4g}", (limit, top * 2.6), (-3 if right else 3, 0), textcoords="offset points", va="top",
            ha="right" if right else "left", color=INK, fontsize=FONT, parse_math=False,
        )  # fmt: skip
    axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda rows, _: f"{rows:,.0f}" if rows >= 1 else "")
    axes.set_ylabel("rows", color=MUTED, fontsize=FONT)
    return finish_figure(figure, key, f"Histogram of {histogram.score}", describe_histogram(histogram))


def describe_histogram(histogram: Histogram) -> str:
    """Text alternative of a histogram, in one sentence."""
    rows = np.array(histogram.rows)
    middle = int(np.searchsorted(np.cumsum(rows), rows.sum() / 2))
    flagged = np.flatnonzero(histogram.flagged)
    text = (
        f"{rows.sum():,} rows from {histogram.edges[0]:.3g} to {histogram.edges[-1]:.3g}, "
        f"at least half of them below {histogram.edges[middle + 1]:.3g}"
    )
    if len(flagged):
        text += (
            f"; {sum(histogram.flagged):,} flagged rows from {histogram.edges[flagged[0]]:.3g} "
            f"to {histogram.edges[flagged[-1] + 1]:.3g}"
        )
    if histogram.limits:
        text += f"; flag threshold: {', '.join(f'{limit:.4g}' for limit in histogram.limits)}"
    return text + "."


def draw_rate(rate: Rate, key: str) -> str:
    """Plot of the flag rate with its 95 % interval, the prediction interval of the calibration, and the target rate.

    Args:
        rate: the rates to draw.
        key: prefix for the element ids, unique on the page.

    Raises:
        OptionRefused: matplotlib is not installed.
    """
    figure, axes = start_figure(4.0, 0.75)
    text = f"{rate.share:.2%} of {rate.rows:,} scored rows are flagged, 95 % interval {rate.low:.2%} to {rate.high:.2%}"
    ends = [100 * rate.high]
    if rate.expected is not None:
        low, high = (100 * flags / rate.rows for flags in rate.expected)
        axes.axvspan(low, high, color=SHADE, linewidth=0)
        ends.append(high)
        text += f"; prediction interval of the calibration: {low / 100:.2%} to {high / 100:.2%}"
    if rate.target is not None:
        axes.axvline(100 * rate.target, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
        ends.append(100 * rate.target)
        text += f"; target rate: {rate.target:.2%}"
    axes.plot([100 * rate.low, 100 * rate.high], [0, 0], color=FLAGGED, linewidth=1.6, solid_capstyle="butt")
    axes.plot([100 * rate.share], [0], "o", color=FLAGGED, markersize=6)
    axes.set_xlim(0, max(ends) * 1.15)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:g} %")
    return finish_figure(figure, key, "Flag rate", f"{text}.")


def start_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, with its axes and without a frame."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_library("matplotlib", extra="report") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.patch.set_visible(False)
    axes.tick_params(which="both", color=MUTED, labelcolor=MUTED, labelsize=FONT, length=3)
    axes.tick_params(which="minor", left=False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def finish_figure(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure as an `<svg>` element for the page."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314  matplotlib's own output
    _drop(root, f"{{{_SVG}}}metadata")
    _drop(root, f"{{{_SVG}}}style")  # a style element would apply to the whole page
    _rename_ids(root, key)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{key}-{tag}"})
        child.text = text
        root.insert(position, child)
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, name in _CSS_COLOURS.items():
        text = text.replace(colour, name)
    return text


def _drop(element: Any, tag: str) -> None:
    for child in list(element):
        if child.tag == tag:
            element.remove(child)
        else:
            _drop(child, tag)


def _rename_ids(root: Any, key: str) -> None:
    """Prefix the ids that the figure refers to, and remove all other ids."""
    text = ElementTree.tostring(root, encoding="unicode")
    link = f"{{{_XLINK}}}href"
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own is not None and f"#{own}" in text:
            element.set("id", f"{key}-{own}")
        if element.get(link, "").startswith("#"):
            element.set(link, f"#{key}-{element.get(link)[1:]}")
        if element.get("clip-path", "").startswith("url(#"):
            element.set("clip-path", element.get("clip-path").replace("url(#", f"url(#{key}-"))
