from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from export.errors import OptionRefused
from screen.review.report.charts.scores import describe_histogram, draw_histogram, draw_rate
from screen.review.report.findings import Histogram, Rate

HISTOGRAM = Histogram("entropy", "nats", (0.0, 0.5, 1.0, 1.5), (900, 90, 10), (0, 20, 10), (0.75,))
RATE = Rate(2000, 73, 0.029, 0.046, 0.02, 73, (13, 77))


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314  our own text


@pytest.mark.parametrize("svg", [draw_histogram(HISTOGRAM, "k"), draw_rate(RATE, "k")], ids=["histogram", "rate"])
def test_a_plot_takes_its_colours_from_the_page_and_its_text_stays_text(svg: str) -> None:
    root = parse(svg)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colours <= {"none", "currentColor", "var(--muted)", "var(--rows)", "var(--flagged)", "var(--shade)"}
    assert "var(--flagged)" in colours
    assert not root.findall(".//{*}style")
    assert root.findall(".//{*}text")
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")


@pytest.mark.parametrize("key", ["a", "b"])
def test_ids_have_the_prefix_and_every_reference_resolves(key: str) -> None:
    svg = draw_histogram(HISTOGRAM, key)
    root = parse(svg)
    ids = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids))
    assert all(one.startswith(f"{key}-") for one in ids)
    referred = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg))
    assert {one or other for one, other in referred} <= set(ids)
    assert (root.get("aria-labelledby") or "").split() == [root[0].get("id"), root[1].get("id")]


def test_the_description_says_what_the_plot_shows() -> None:
    assert describe_histogram(HISTOGRAM) == (
        "1,000 rows from 0 to 1.5, at least half of them below 0.5; "
        "30 flagged rows from 0.5 to 1.5; flag threshold: 0.75."
    )
    assert describe_histogram(HISTOGRAM) in "".join(parse(draw_histogram(HISTOGRAM, "k")).itertext())
    assert "target rate: 2.00%" in draw_rate(RATE, "k")


def test_the_same_values_are_the_same_plot() -> None:
    assert draw_histogram(HISTOGRAM, "k") == draw_histogram(HISTOGRAM, "k")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionRefused, match=r"matplotlib is not installed(.|\n)*oodscreen\[report\]"):
        draw_histogram(HISTOGRAM, "k")
