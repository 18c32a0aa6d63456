"""Actions of a reviewer on a page of `oodscreen report` in a real browser: explain, enlarge, expand, select, save."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.report import write_results
from screen import cli
from screen.review.report.findings import Findings
from screen.review.report.gather import gather_findings
from screen.review.report.page import write_page
from screen.review.results import open_results
from tests.conftest import encode, write_shard
from tests.integration.opened import BROKEN_WORDS, PHONE, Opened
from tests.screen.output.test_history import night_of, write

pytestmark = pytest.mark.integration

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

FORMULA = '=HYPERLINK("http://example.org","open")'
IDS = [
    FORMULA,
    "-1+1",
    "@SUM(1)",
    "'=1",
    'a "quoted", one',
    "line\nbreak",
    "\x00nul",
    "日本語",
    "\u202eright",
    "y" * 600,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 3,000 images of noise, with a history of three nights."""
    place = tmp_path_factory.mktemp("noise")
    noise = np.random.default_rng(0).integers(0, 256, (600, 28, 28, 1), dtype=np.uint8)
    write_shard(place / "in" / "a.parquet", [encode(image) for image in noise] * 5)
    write_results(place / "in", place / "out")
    for day in range(3):
        write(place / "out", day, night_of(day))
    return place


@pytest.fixture(scope="module")
def findings(place: Path) -> Findings:
    return gather_findings(str(place / "out"))


@pytest.fixture(scope="module")
def address(findings: Findings, place: Path) -> str:
    write_page(findings, place / "report.html")
    return (place / "report.html").as_uri()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with keys that a spreadsheet, a CSV reader or HTML could misread."""
    place = tmp_path_factory.mktemp("named")
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), dtype=np.uint8)
    write_shard(place / "in" / "=1+1.parquet", [encode(image) for image in images], ids=IDS)
    write_results(place / "in", place / "out")
    write_page(gather_findings(str(place / "out")), place / "report.html")
    return place


def save(opened: Opened, button: str, target: Path) -> str:
    """The text of the file that a button saves."""
    with opened.page.expect_download() as waiting:
        opened.page.get_by_role("button", name=button).click()
    waiting.value.save_as(target)
    return target.read_text(encoding="utf-8")


def test_images_of_noise_share_a_card_for_each_class(browser: Any, address: str, findings: Findings) -> None:
    counted = sum(1 + card.count for card in findings.cards if card.row.flag)
    assert counted == findings.counts.rate.flagged > 40
    with Opened(browser, address) as opened:
        listed = sum(1 + len(card.similar) for card in findings.cards)
        opened.shown(f"Showing {listed} of {listed} images")
        card = next(card for card in findings.cards if card.count)
        details = opened.page.locator(".similar").first
        playwright.expect(details.locator("summary")).to_have_text(f"and {card.count} like it")
        playwright.expect(details.locator("li").first).to_be_hidden()
        details.locator("summary").focus()
        opened.page.keyboard.press("Enter")
        playwright.expect(details.locator("li").first).to_be_visible()
        assert details.locator("li img").count() == len(card.similar)
        assert opened.said == []


def test_a_filter_finds_rows_within_a_group(browser: Any, address: str, findings: Findings) -> None:
    card = next(card for card in findings.cards if len(card.similar) > 1)
    scores = [dict(row.scores)["entropy"] for row in card.similar]
    least = max(scores)
    rows = [row for card in findings.cards for row in (card.row, *card.similar)]
    fitting = [row.id for row in rows if dict(row.scores)["entropy"] >= least]
    with Opened(browser, address) as opened:
        opened.page.locator("#filters").get_by_label("Score").select_option("entropy")
        opened.page.locator("#filters").get_by_label("At least").fill(str(least))
        opened.shown(f"Showing {len(fitting)} of {len(rows)} images")
        found = opened.page.evaluate(
            "[...document.querySelectorAll('#gallery [data-source]:not([data-filtered])')]"
            ".filter(one => !one.closest('[hidden]')).map(one => JSON.parse(one.dataset.source).id)"
        )
        assert sorted(found) == sorted(fitting)
        opened.page.get_by_role("button", name="Select all shown").press("Enter")  # opened cards may move the button
        playwright.expect(opened.page.locator("#selected")).to_have_text(f"{len(fitting)} selected")


def test_the_meaning_of_a_score_is_shown_on_hover_focus_and_tap(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page, tip = opened.page, opened.page.locator("#tip")
        playwright.expect(tip).to_be_hidden()
        plain = page.locator("[id=g-entropy] + dd .plain").text_content()
        page.locator(".card .term", has_text="entropy").first.hover()
        playwright.expect(tip).to_have_text(plain)
        tip.hover()  # stays while the pointer is on it
        page.wait_for_timeout(400)
        playwright.expect(tip).to_be_visible()
        page.keyboard.press("Escape")
        playwright.expect(tip).to_be_hidden()
        term = page.locator(".key .term", has_text="p_value")
        term.focus()
        playwright.expect(tip).to_be_visible()
        assert term.get_attribute("aria-describedby") == "tip"
        page.keyboard.press("Tab")
        playwright.expect(tip).not_to_have_text(page.locator("[id=g-p_value] + dd .plain").text_content())
        box, view = tip.bounding_box(), page.viewport_size
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= view["width"]
    with Opened(browser, address, PHONE, has_touch=True) as opened:
        term = opened.page.locator(".card .term").first
        term.tap()
        playwright.expect(opened.page.locator("#tip")).to_be_visible()
        assert opened.page.evaluate("location.hash") == ""
        opened.page.locator("h1").tap()  # away from the text, which covers the next lines of the card
        playwright.expect(opened.page.locator("#tip")).to_be_hidden()


def test_a_click_or_enter_enlarges_an_image_and_escape_returns_to_it(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page, viewer = opened.page, opened.page.locator("#viewer")
        button = page.locator(".enlarge").first
        small = button.locator("img").bounding_box()
        for start in ("click", "Enter"):
            button.focus()
            if start == "click":
                button.click()
            else:
                page.keyboard.press("Enter")
            playwright.expect(viewer).to_be_visible()
            assert viewer.locator("img").bounding_box()["width"] > 3 * small["width"]
            assert page.evaluate("document.activeElement.closest('dialog') !== null")
            page.keyboard.press("Escape")
            playwright.expect(viewer).to_be_hidden()
            assert page.evaluate("document.activeElement === document.querySelector('.enlarge')")
        button.click()
        viewer.get_by_role("button", name="Close").click()
        playwright.expect(viewer).to_be_hidden()
        assert opened.said == []


def test_a_saved_selection_has_the_columns_that_labels_reads(
    browser: Any, named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row["row"]: row for row in pq.read_table(named / "out" / "=1+1.parquet").to_pylist()}
    with Opened(browser, (named / "report.html").as_uri()) as opened:
        playwright.expect(opened.page.get_by_role("button", name="Save as JSON Lines")).to_be_disabled()
        opened.page.get_by_role("button", name="Select all shown").click()
        text = save(opened, "Save as JSON Lines", tmp_path / "selection.jsonl")
        table = save(opened, "Save as CSV", tmp_path / "selection.csv")
        assert [one for one in opened.asked if one.startswith("http")] == []
    saved = [json.loads(line) for line in text.splitlines()]
    results = open_results(str(named / "out"))
    assert {one["model_version"] for one in saved} == {results.model_version}
    assert {one["input_footer"] for one in saved} == {results.entries[0].input["footer"]}
    assert len(saved) == sum(row["status"] == "ok" for row in rows.values())
    for one in saved:
        row = rows[one["row"]]
        assert (one["shard"], one["label"]) == ("=1+1.parquet", None)
        assert one["id"] == (None if len(row["id"]) > 500 else row["id"])
        assert one["entropy"] == pytest.approx(row["entropy"], rel=1e-6)
    labelled = [{**one, "label": "0"} for one in saved]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labelled), encoding="utf-8")
    with (tmp_path / "labelled.csv").open("w", newline="", encoding="utf-8") as file:
        in_table = [{**one, "label": "0"} for one in csv.DictReader(io.StringIO(table, newline=""))]
        writer = csv.DictWriter(file, in_table[0])
        writer.writeheader()
        writer.writerows(in_table)
    for name in ("labelled.jsonl", "labelled.csv"):
        target = tmp_path / f"{name}.parquet"
        with pytest.raises(SystemExit) as ended:
            cli.app(["labels", str(tmp_path / name), str(named / "out"), "-o", str(target)])
        assert ended.value.code == 0, capsys.readouterr()
        labels = pq.read_table(target)
        assert sorted(labels["row"].to_pylist()) == sorted(one["row"] for one in saved), name


def test_no_cell_of_a_saved_csv_is_a_formula(browser: Any, named: Path, tmp_path: Path) -> None:
    with Opened(browser, (named / "report.html").as_uri()) as opened:
        for box in opened.page.locator(".tick input").all():
            box.check()
        text = save(opened, "Save as CSV", tmp_path / "selection.csv")
        opened.page.get_by_role("button", name="Clear").click()
        playwright.expect(opened.page.locator("#selected")).to_have_text("0 selected")
    saved = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.startswith("shard,row,id,predicted,flag_reasons,")
    assert {one["shard"] for one in saved} == {"'=1+1.parquet"}
    ids = {one["id"] for one in saved}
    assert {f"'{FORMULA}", "'-1+1", "'@SUM(1)", "''=1", 'a "quoted", one', "日本語"} >= ids - {
        *IDS[5:7], "", "\u202eright"
    }  # fmt: skip
    for one in saved:
        for value in one.values():
            assert not value.startswith(("=", "+", "@", "\t", "\r")), value
            assert not value.startswith("-") or float(value) < 0


def test_the_next_command_can_be_copied(browser: Any, address: str, findings: Findings) -> None:
    with Opened(browser, address) as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.page.get_by_role("button", name="Copy").click()
        playwright.expect(opened.page.get_by_text("Copied")).to_be_visible()
        assert opened.page.evaluate("navigator.clipboard.readText()") == " ".join(findings.next_command)


def test_without_javascript_everything_can_be_read(browser: Any, address: str, findings: Findings) -> None:
    with Opened(browser, address, java_script_enabled=False) as opened:
        page = opened.page
        for hidden in ("#selection", "#filters", "#viewer", "#tip"):
            playwright.expect(page.locator(hidden)).to_be_hidden()
        playwright.expect(page.locator(".card")).to_have_count(len(findings.cards))
        page.locator(".similar summary").first.click()
        playwright.expect(page.locator(".similar li").first).to_be_visible()
        page.locator(".key .term").first.click()
        playwright.expect(page.locator("#glossary")).to_be_in_viewport()


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}], ids=str)
def test_the_open_page_is_accessible(browser: Any, address: str, options: dict[str, Any]) -> None:
    with Opened(browser, address, **options) as opened:
        opened.page.locator(".similar summary").first.click()
        opened.page.locator(".nights summary").click()
        opened.page.locator(".key .term").first.focus()
        opened.page.locator(".tick input").first.check()
        for found in axe.Axe().run(opened.page).response["violations"]:
            nodes = [node["html"][:200] for node in found["nodes"][:3]]
            assert found["impact"] not in ("serious", "critical"), (found["id"], nodes)
        assert opened.page.evaluate(BROKEN_WORDS) == []


def test_the_nights_are_plotted(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        playwright.expect(opened.page.locator("#nights svg")).to_have_count(3)
        opened.page.locator(".nights summary").click()
        playwright.expect(opened.page.locator("#nights tbody tr")).to_have_count(3)
    with Opened(browser, address, PHONE) as opened:
        opened.page.locator(".nights summary").click()
        assert opened.page.locator("#nights time").first.evaluate("one => one.getClientRects().length") == 1
