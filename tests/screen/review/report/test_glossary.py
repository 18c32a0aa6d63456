from __future__ import annotations

from pathlib import Path

from screen.columns import SCORES_OF_ALL_FORMATS
from screen.review.report.gather import gather_findings
from screen.review.report.glossary import PLAIN, explain
from screen.review.report.page import render_page
from screen.review.report.top_rows import SHOWN
from tests.screen.review.pages import Page


def test_every_score_that_a_report_displays_is_explained() -> None:
    assert set(PLAIN) == set(SHOWN)
    sentences = {column.name: column.sentence for column in SCORES_OF_ALL_FORMATS}
    for one in explain(SHOWN):
        assert one.definition == sentences[one.name]
        assert one.plain.endswith(".")
    assert explain(["entropy"])[0].values == "0 to ln C, nats"


def test_every_name_of_a_score_on_the_page_leads_to_its_meaning(drawn: Path) -> None:
    page = Page(render_page(gather_findings(str(drawn / "out"), top=3)))
    meanings = {one.attributes.get("id") for one in page.all("dt")}
    terms = page.all("a", class_="term")
    assert {"ood_score", "entropy", "p_value"} <= {one.text for one in terms}
    for one in terms:
        assert one.attributes["href"] == f"#g-{one.text}"
        assert f"g-{one.text}" in meanings
    tabs = [one.text for one in terms if "tabindex" not in one.attributes]
    assert {one.text for one in terms} == set(tabs)
