"""The page of `oodscreen report` in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.report import write_input, write_results
from screen.review.report.findings import Findings
from screen.review.report.gather import gather_findings
from screen.review.report.page import write_page
from tests.integration.opened import BROKEN_WORDS, DESK, PHONE, Opened
from tests.screen.review import runs
from tests.screen.review.pages import CLASS_NAMES, HOSTILE

pytestmark = pytest.mark.integration

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
screenshot = pytest.importorskip("tests.screenshot", reason="playwright is not installed")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.draw_scores(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def hostile(digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.name_hostile(tmp_path_factory.mktemp("hostile"), digits)


@pytest.fixture(scope="module")
def findings(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Findings of a comparison of two runs."""
    earlier = tmp_path_factory.mktemp("earlier") / "earlier"
    write_results(drawn / "in", earlier, seed=3)
    return gather_findings(str(drawn / "out"), top=60, look_alikes=0, against=str(earlier))


@pytest.fixture(scope="module")
def address(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("page") / "report.html"
    write_page(findings, target)
    return target.as_uri()


@pytest.fixture(scope="module")
def hostile_address(hostile: Path) -> str:
    write_page(gather_findings(str(hostile / "out<i>")), hostile / "report.html")
    return (hostile / "report.html").as_uri()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with class names in words, some of 40 characters, right to left or without spaces."""
    place = tmp_path_factory.mktemp("words")
    write_input(place / "in", 4000, 2000)
    write_results(place / "in", place / "out", class_names=CLASS_NAMES)
    target = place / "report.html"
    write_results(place / "in", place / "earlier", seed=3)
    write_page(gather_findings(str(place / "out"), top=60, against=str(place / "earlier")), target)
    return target


def test_it_opens_without_messages_and_requests(browser: Any, address: str, findings: Findings) -> None:
    with Opened(browser, address) as opened:
        opened.shown("Showing 60 of 60 images")
        assert opened.said == []
        assert [one for one in opened.asked if not one.startswith("data:")] == [address]
        loaded = opened.page.evaluate("[...document.images].filter(one => one.complete && one.naturalWidth).length")
        assert loaded == len(findings.top_rows) == 60
        assert [card["id"] for card in opened.cards()] == [top_row.id for top_row in findings.top_rows]


def test_its_policy_stops_other_scripts_and_all_requests(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        opened.page.evaluate(
            "() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
            "document.body.append(one); const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';"
            "document.body.append(image); }"
        )
        assert opened.page.evaluate("window.ran") is None
        assert sum("Content Security Policy" in said for said in opened.said) >= 2


def test_it_filters_by_class_reason_and_score(browser: Any, address: str, findings: Findings) -> None:
    top_rows = findings.top_rows
    with Opened(browser, address) as opened:
        page = opened.page
        chosen = top_rows[0].prediction
        page.locator("#filters").get_by_label("Predicted class").select_option(chosen)
        expected = [top_row for top_row in top_rows if top_row.prediction == chosen]
        opened.shown(f"Showing {len(expected)} of 60 images")
        assert [card["id"] for card in opened.cards()] == [top_row.id for top_row in expected]
        page.locator("#filters").get_by_role("button", name="Show all").click()
        opened.shown("Showing 60 of 60 images")
        page.locator("#filters").get_by_label("Reason").select_option("most unusual: entropy")
        expected = [top_row for top_row in top_rows if "most unusual: entropy" in top_row.reasons]
        opened.shown(f"Showing {len(expected)} of 60 images")
        page.locator("#filters").get_by_role("button", name="Show all").click()
        page.locator("#filters").get_by_label("Score").select_option("entropy")
        page.locator("#filters").get_by_label("At least").fill("1.5")
        page.locator("#filters").get_by_label("At most").fill("1.9")
        values = sorted((dict(top_row.scores)["entropy"] for top_row in top_rows), reverse=True)
        values = [value for value in values if 1.5 <= value <= 1.9]
        opened.shown(f"Showing {len(values)} of 60 images")
        assert 0 < len(values) < 60
        assert [card["scores"]["entropy"] for card in opened.cards()] == values
        page.locator("#filters").get_by_label("At least").fill("99")
        opened.shown("Showing 0 of 60 images")
        playwright.expect(page.get_by_text("No image matches these filters.")).to_be_visible()


def test_it_sorts_the_gallery_and_the_tables(browser: Any, address: str, findings: Findings) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        page.locator("#filters").get_by_label("Score").select_option("confidence")
        page.locator("#filters").get_by_label("Order").select_option("low")
        page.wait_for_timeout(300)
        values = [card["scores"]["confidence"] for card in opened.cards()]
        assert values == sorted(values)
        assert values != sorted(values, reverse=True)
        classes = page.locator("#classes table")
        rates = {one.name: one.rate for one in findings.counts.classes}
        head = classes.get_by_role("columnheader", name="flag rate", exact=True)
        for direction, reverse in (("descending", True), ("ascending", False)):
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == direction
            found = [rates[name] for name in opened.column("#classes table", 1)]
            assert found == sorted(rates.values(), reverse=reverse)
        assert page.locator("[aria-sort]").count() == 1
        assert opened.said == []


def test_it_can_be_used_by_keyboard(browser: Any, address: str, findings: Findings) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached = tab(opened, 40)
        controls = ["class", "reason", "score", "direction", "least", "most", "Show all"]
        first = reached.index("class")
        assert reached[first : first + 7] == controls
        row = findings.top_rows[0].id
        assert reached[first + 7 : first + 9] == [f"Select {row}", f"Enlarge the image of {row}"]
        page.locator("#classes .wide").focus()
        assert tab(opened, 4) == ["class", "rows", "flagged", "flag rate"]
        page.locator("#classes th button").nth(1).focus()
        page.keyboard.press("Enter")
        assert page.locator("#classes th").nth(1).get_attribute("aria-sort") == "descending"


def tab(opened: Opened, count: int) -> list[str]:
    """Names of the elements that the Tab key reaches; each must show that it has the focus."""
    reached = []
    for _ in range(count):
        opened.page.keyboard.press("Tab")
        name, outline = opened.page.evaluate(
            "(() => { const one = document.activeElement;"
            "const name = one.name || one.ariaLabel || one.textContent.trim().slice(0, 20);"
            "return [name, getComputedStyle(one).outlineStyle]; })()"
        )
        assert outline != "none", name
        reached.append(name)
    return reached


@pytest.mark.parametrize("which", ["address", "hostile_address"])
def test_it_fits_on_a_phone(browser: Any, which: str, request: pytest.FixtureRequest) -> None:
    with Opened(browser, request.getfixturevalue(which), PHONE) as opened:
        widths = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1] == 360
        wide = opened.page.evaluate(
            "[...document.querySelectorAll('.card, form, figure, dl, p, h1, h2, h3')]"
            ".filter(one => one.checkVisibility() && !one.closest('.wide, .visually-hidden'))"
            ".filter(one => one.getBoundingClientRect().right > 360.5).map(one => one.outerHTML.slice(0, 99))"
        )
        assert wide == []
        assert [word for word in opened.page.evaluate(BROKEN_WORDS) if "missing" in word[1]] == []
        covered = opened.page.evaluate(
            "[...document.querySelectorAll('.card .tick')].filter(tick => {"
            "const box = tick.getBoundingClientRect(), range = document.createRange();"
            "range.selectNodeContents(tick.closest('article').querySelector('h3'));"
            "return [...range.getClientRects()].some(line => line.right > box.left + 1 && line.bottom > box.top + 1"
            "&& line.top < box.bottom - 1); }).map(tick => tick.parentElement.textContent.slice(0, 99))"
        )
        assert covered == [], "a name below the box to select the image"


WIDTHS = {"phone": 360, "tablet": 768, "desk": 1280, "wide": 1920, "Letter": 710, "A4": 688}
"""Widths of screens and of the printed area, in CSS pixels."""


@pytest.mark.parametrize("medium", WIDTHS)
def test_no_word_is_broken(browser: Any, words: Path, medium: str) -> None:
    size = {"width": WIDTHS[medium], "height": 1000}
    with Opened(browser, words.as_uri(), size) as opened:
        opened.page.emulate_media(media="print" if medium in ("Letter", "A4") else "screen")
        shown = set(opened.page.locator(".values dt").all_text_contents())
        assert shown == set(CLASS_NAMES)
        assert opened.page.evaluate(BROKEN_WORDS) == []


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_print_fits_on_paper(browser: Any, words: Path, paper: str) -> None:
    with Opened(browser, words.as_uri()) as opened:
        pdf = opened.page.pdf(format=paper)
        assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
        opened.page.set_viewport_size({"width": WIDTHS[paper], "height": 1000})
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[paper]


def test_it_is_dark_where_the_system_is(browser: Any, address: str) -> None:
    def brightness(opened: Opened, what: str) -> float:
        colour = opened.page.evaluate(f"getComputedStyle(document.body).{what}")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    for scheme, is_dark in (("light", False), ("dark", True)):
        with Opened(browser, address, color_scheme=scheme) as opened:
            assert (brightness(opened, "backgroundColor") < 0.2) == is_dark
            assert (brightness(opened, "color") > 0.8) == is_dark
            fill = opened.page.evaluate("getComputedStyle(document.querySelector('.charts svg text')).fill")
            assert (sum(map(int, re.findall(r"\d+", fill))) / 765 > 0.5) == is_dark, "plots too"


def test_forced_colours_keep_the_legend(browser: Any, address: str) -> None:
    with Opened(browser, address, forced_colors="active") as opened:
        colours = opened.page.evaluate(
            "['.swatch.rows', '.swatch.flags', 'body'].map(one =>"
            "getComputedStyle(document.querySelector(one)).backgroundColor)"
        )
        assert len(set(colours)) == 3, colours


def test_unflagged_rows_are_not_in_the_colour_of_flags_and_all_notes_share_a_box(browser: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", 200, 100)
    write_results(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in")
    write_page(gather_findings(str(tmp_path / "out")), tmp_path / "report.html")
    with Opened(browser, (tmp_path / "report.html").as_uri()) as opened:

        def colours(selector: str) -> set[str]:
            found = opened.page.locator(selector).evaluate_all("all => all.map(one => getComputedStyle(one).color)")
            return set(found)

        (flagged,), (muted,) = colours(".figures .flagged dd"), colours(".card .where")
        assert colours(".reason:has-text('not flagged')") == {muted}
        assert colours(".reason:not(:has-text('not flagged'))") == {flagged}
        assert flagged != muted
        assert opened.page.locator(".warning").count() == 1
        assert opened.page.locator(".warning p").count() >= 3


def test_print_hides_only_the_controls(browser: Any, address: str) -> None:
    with Opened(browser, address, color_scheme="dark") as opened:
        opened.page.emulate_media(media="print")
        playwright.expect(opened.page.locator("#filters")).to_be_hidden()
        playwright.expect(opened.page.locator("nav")).to_be_hidden()
        arrow = "getComputedStyle(document.querySelector('th button'), '::after').content"
        assert opened.page.evaluate(arrow) == "none"
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        pdf = opened.page.pdf(format="A4")
        assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30


def test_it_can_be_read_without_javascript(browser: Any, address: str) -> None:
    with Opened(browser, address, java_script_enabled=False) as opened:
        playwright.expect(opened.page.locator("#filters")).to_be_hidden()
        playwright.expect(opened.page.locator(".card")).to_have_count(60)
        playwright.expect(opened.page.locator("table.sortable").first).to_be_visible()


def test_hostile_names_are_text(browser: Any, hostile_address: str) -> None:
    with Opened(browser, hostile_address) as opened:
        opened.shown(f"Showing {len(HOSTILE)} of {len(HOSTILE)} images")
        assert opened.page.evaluate("window.hacked") is None
        assert opened.said == []
        ids = {card["id"] for card in opened.cards()}
        assert {HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[5]} <= ids
        for value in opened.page.locator("select[name=class] option").all_text_contents():
            opened.page.locator("#filters").get_by_label("Predicted class").select_option(label=value)
        opened.page.wait_for_timeout(300)
        assert opened.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("which", ["address", "hostile_address"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_serious_fault(
    browser: Any, which: str, scheme: str, viewport: dict[str, int], request: pytest.FixtureRequest
) -> None:
    with Opened(browser, request.getfixturevalue(which), viewport, color_scheme=scheme) as opened:
        found = axe.Axe().run(opened.page).response["violations"]
        violations = [
            {"id": one["id"], "impact": one["impact"], "nodes": [node["html"][:200] for node in one["nodes"][:3]]}
            for one in found
        ]
        assert [one for one in violations if one["impact"] in ("serious", "critical")] == [], json.dumps(
            violations, indent=1
        )


def test_a_page_of_a_thousand_images_answers(browser: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", 60_000, 20_000)
    write_results(tmp_path / "in", tmp_path / "out")
    size = write_page(gather_findings(str(tmp_path / "out"), top=1000, look_alikes=0), tmp_path / "report.html")
    assert size < 10e6
    with Opened(browser, (tmp_path / "report.html").as_uri()) as opened:
        opened.shown("Showing 1000 of 1000 images")
        opened.page.locator("#filters").get_by_label("Score").select_option("entropy")
        opened.page.locator("#filters").get_by_label("At least").fill("1.2")
        playwright.expect(opened.page.locator("#shown")).not_to_have_text("Showing 1000 of 1000 images")


def test_the_pictures_for_the_documentation_are_small(browser: Any, words: Path, tmp_path: Path) -> None:
    for shot in screenshot.SHOTS:
        assert 15_000 < screenshot.take(browser, words.as_uri(), shot, tmp_path).stat().st_size < 300_000, shot
