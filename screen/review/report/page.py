"""Render `Findings` as one self-contained HTML page that includes style, script, plots and thumbnails.

In: `Findings`. Out: an HTML file, replaced atomically. The Jinja template escapes all text from data. The page's
content security policy forbids all requests and all scripts except the script of the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import OutputRefused
from screen.columns import DISTANCES
from screen.files.paths import as_path, open_bytes
from screen.files.storage import write_text
from screen.input.preview import Preview
from screen.review.extras import missing_library
from screen.review.report.charts.nights import draw_trend
from screen.review.report.charts.scores import draw_histogram, draw_rate
from screen.review.report.findings import Findings, GroupShare
from screen.review.report.glossary import explain
from screen.version import own_version

if TYPE_CHECKING:
    from markupsafe import Markup

MARK = '<meta name="generator" content="oodscreen report">'
"""Tag that identifies a page as an oodscreen report."""

_MARK_WITHIN = 2048
"""Number of bytes at the start of a file that are searched for `MARK`."""

_STYLES = ("report.css", "gallery.css")
_SCRIPTS = ("tables.js", "gallery.js", "selection.js", "viewer.js", "glossary.js", "command.js")

_LONG_WORD = re.compile(r"\S{25,}")
_SEPARATOR = re.compile(r"(?<=[_/\\.:;,|=-])(?=\w)")
"""Position between a separator and the rest of a long name, where a line may end."""

_MAX_CLASSES = 100
_CARD_SCORES = (
    *("ood_score", "p_value", *DISTANCES, "feature_distance", "entropy", "largest_label_entropy", "largest_std"),
)


def render_page(findings: Findings) -> str:
    """The report as HTML.

    Raises:
        OptionRefused: Jinja or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise missing_library("Jinja2", extra="report") from error
    environment = Environment(
        loader=PackageLoader("screen.review.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "count": lambda number: f"{number:,}",
        "percent": _percent,
        "number": _number,
        "points": lambda change: f"{100 * change:+.2f}",
        "data_uri": _data_uri,
        "breakable": _breakable,
        "json": lambda source: json.dumps(asdict(source)),
    }
    environment.filters |= filters
    script = "".join(map(_read_template, _SCRIPTS))
    classes = findings.counts.classes
    rows = [row for card in findings.cards for row in (card.row, *card.similar)]
    scores = list(dict.fromkeys(name for row in rows for name, _ in row.scores))
    return environment.get_template("report.html").render(
        findings=findings,
        counts=findings.counts,
        rate=findings.counts.rate,
        mark=Markup(MARK),  # noqa: S704  constant
        style=Markup("".join(map(_read_template, _STYLES))),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        rate_chart=Markup(draw_rate(findings.counts.rate, "rate")),  # noqa: S704  escaped by ElementTree
        charts=[
            (one, Markup(draw_histogram(one, f"h-{one.score}")))  # noqa: S704
            for one in findings.histograms
        ],
        classes=_most_flagged(classes) if len(classes) > _MAX_CLASSES else classes,
        before={} if findings.comparison is None else {one.name: one for one in findings.comparison.counts.classes},
        predictions=_sorted_names({row.prediction for row in rows} - {""}),
        reasons=sorted({reason for row in rows for reason in row.reasons}),
        similar=sum(card.count for card in findings.cards),
        scores=scores,
        glossary={
            one.name: one for one in explain(dict.fromkeys([*scores, *(one.score for one in findings.histograms)]))
        },
        model_version=findings.model_version,
        version=own_version(),
        trend_charts=[
            (caption, Markup(chart))  # noqa: S704
            for caption, chart in draw_trend(findings.trend, findings.counts.rate.target)
        ],
        card_scores=_CARD_SCORES,
    )


def refuse_foreign(target: Path) -> None:
    """Raise an error if the target exists and is not an earlier report.

    Raises:
        OutputRefused: the target is a folder, or a file that is not an oodscreen report.
    """
    problem = ""
    if target.is_dir():
        problem = "is a folder"
    elif target.exists():
        with open_bytes(target) as file:
            problem = "" if MARK.encode() in file.read(_MARK_WITHIN) else "exists and is not an oodscreen report"
    if problem:
        raise OutputRefused(
            f"{target} {problem}.",
            wanted="a new file, or an earlier report to replace",
            next_step="give another name, for example report.html",
        )


def write_page(findings: Findings, target: str | Path) -> int:
    """Write the page atomically; an earlier report is replaced.

    Returns:
        Size of the page in bytes.

    Raises:
        OutputRefused: the target is a folder, or a file that is not an oodscreen report.
        WriteFailed: the file cannot be written.
    """
    path = as_path(target)
    refuse_foreign(path)
    text = render_page(findings)
    write_text(path, text, unlocked=True)
    return len(text.encode())


def _read_template(name: str) -> str:
    return files("screen.review.report").joinpath("templates", name).read_text(encoding="utf-8")


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def _number(value: float) -> str:
    """A number with four significant digits; a dash for NaN."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    return f"{value:.4g}" if value else "0"


def _breakable(text: str) -> Markup:
    """The escaped text, in which a line may end after a separator within a long name or path."""
    from markupsafe import Markup, escape

    escaped, end = Markup(), 0
    for word in _LONG_WORD.finditer(text):
        escaped += escape(text[end : word.start()]) + Markup("<wbr>").join(_SEPARATOR.split(word[0]))
        end = word.end()
    return escaped + escape(text[end:])


def _data_uri(preview: Preview) -> str:
    return f"data:{preview.kind};base64,{base64.b64encode(preview.data).decode()}"


def _most_flagged(shares: Iterable[GroupShare]) -> list[GroupShare]:
    return sorted(shares, key=lambda share: (-share.flagged, share.name))[:_MAX_CLASSES]


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Class names in display order: numbers by value, then other names alphabetically."""

    def order(name: str) -> Any:
        return (0, int(name), "") if name.isdecimal() else (1, 0, name)

    return sorted(names, key=order)
