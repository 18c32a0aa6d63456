"""`Findings` as one page that needs nothing beside itself: style, script, plots and pictures are in it.

In: `Findings`. Out: HTML, by a Jinja template that escapes whatever comes from data; and the file, whole or not at
all. A policy within the page forbids it to load anything, and any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.files.paths import as_path, open_bytes
from screen.files.storage import write_text
from screen.input.preview import Preview
from screen.review.extras import missing_library
from screen.review.report.charts import draw_histogram, draw_rate
from screen.review.report.findings import Findings, GroupShare

MARK = '<meta name="generator" content="oodscreen report">'
"""By this a report is known as one of ours."""

_MARK_WITHIN = 2048
_MOST_CLASSES = 100
_CARD_SCORES = ("ood_score", "p_value", "feature_distance", "entropy", "largest_label_entropy", "largest_std")


def render_page(findings: Findings) -> str:
    """The page.

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
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": _percent,
        "number": _number,
        "points": lambda change: f"{100 * change:+.2f}",
        "as_address": _as_address,
    }
    script = _part("report.js")
    classes = findings.counts.classes
    return environment.get_template("report.html").render(
        findings=findings,
        counts=findings.counts,
        rate=findings.counts.rate,
        mark=Markup(MARK),  # noqa: S704  our own text
        style=Markup(_part("report.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        rate_chart=Markup(draw_rate(findings.counts.rate, "rate")),  # noqa: S704  escaped by ElementTree
        charts=[
            (one, Markup(draw_histogram(one, f"h-{one.score}")))  # noqa: S704
            for one in findings.histograms
        ],
        classes=_most_flagged(classes) if len(classes) > _MOST_CLASSES else classes,
        before={} if findings.comparison is None else {one.name: one for one in findings.comparison.counts.classes},
        predictions=_sorted_names({suspect.prediction for suspect in findings.suspects} - {""}),
        reasons=sorted({reason for suspect in findings.suspects for reason in suspect.reasons}),
        scores=list(dict.fromkeys(name for suspect in findings.suspects for name, _ in suspect.scores)),
        card_scores=_CARD_SCORES,
    )


def refuse_foreign(target: Path) -> None:
    """Refuse to replace a file that is no report of ours; a report may be replaced, every night.

    Raises:
        OutputRefused: such a file, or a folder, has this name.
    """
    what = ""
    if target.is_dir():
        what = "is a folder"
    elif target.exists():
        with open_bytes(target) as file:
            what = "" if MARK.encode() in file.read(_MARK_WITHIN) else "exists, and is no report of ours"
    if what:
        raise OutputRefused(
            f"{target} {what}.",
            wanted="a new name for the page, or that of an earlier report",
            next_step="give another name, for example report.html",
        )


def write_page(findings: Findings, target: str | Path) -> int:
    """Write the page, whole or not at all; an earlier report is replaced.

    Returns:
        Its size in bytes.

    Raises:
        OutputRefused: something else has this name.
        WriteFailed: the system refused.
    """
    place = as_path(target)
    refuse_foreign(place)
    text = render_page(findings)
    write_text(place, text)
    return len(text.encode())


def _part(name: str) -> str:
    return files("screen.review.report").joinpath("templates", name).read_text(encoding="utf-8")


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def _number(value: float) -> str:
    """Four digits that tell something; a dash where there is no number."""
    if math.isnan(value):
        return "–"  # noqa: RUF001
    return f"{value:.4g}" if value else "0"


def _as_address(preview: Preview) -> str:
    return f"data:{preview.kind};base64,{base64.b64encode(preview.data).decode()}"


def _most_flagged(shares: Iterable[GroupShare]) -> list[GroupShare]:
    return sorted(shares, key=lambda share: (-share.flagged, share.name))[:_MOST_CLASSES]


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Numbers by their value, then names."""

    def order(name: str) -> Any:
        return (0, int(name), "") if name.isdecimal() else (1, 0, name)

    return sorted(names, key=order)
