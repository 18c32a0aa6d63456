from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.report import measure, write_input, write_results
from export.errors import OptionRefused, OutputRefused
from export.graph.passes import stamp_metadata
from screen import cli
from screen.config import RunConfig
from screen.review.report.gather import gather_findings
from screen.review.report.page import render_page, write_page
from screen.run.runner import run_screening
from screen.version import own_version
from tests.conftest import Recorder, encode, oodscreen, read_results, write_shard
from tests.screen.engine.graphs import Graph
from tests.screen.review.pages import HOSTILE, Page


@pytest.fixture(scope="module")
def text(drawn: Path) -> str:
    return render_page(gather_findings(str(drawn / "out")))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def hostile_page(hostile: Path) -> Page:
    return Page(render_page(gather_findings(str(hostile / "out<i>"))))


def test_the_page_shows_the_settings_and_the_counts_of_the_run(drawn: Path, page: Page) -> None:
    findings = gather_findings(str(drawn / "out"))
    counts = findings.counts
    figures = dict(zip(*([one.text for one in page.all(tag)[:5]] for tag in ("dt", "dd")), strict=True))
    assert figures == {
        "Images": "4,000",
        "Flagged for review": str(counts.flagged),
        "of these, not scored": str(counts.bad),
        "Flag rate of scored rows": f"{counts.rate.share:.2%}",
        "Target rate": "2.00%",
    }
    for expected in ("drawn.onnx", "p_value <= 0.02", "100 dropout passes", "calibration set of 10,000 rows",
                     "0, shared", "read 0.5 s, score 1.0 s", "Within the expected range",
                     f"Created by oodscreen report {own_version()}."):  # fmt: skip
        assert page.has(expected), expected


def test_a_card_has_its_image_its_classes_and_its_scores(drawn: Path, page: Page) -> None:
    findings = gather_findings(str(drawn / "out"))
    top_rows = findings.top_rows
    cards = page.all("li", class_="card")
    assert len(cards) == len(top_rows) == 100
    for card, top_row in zip(cards, top_rows, strict=True):
        assert card.attributes["data-class"] == top_row.prediction
        assert json.loads(card.attributes["data-reasons"] or "") == list(top_row.reasons)
        assert json.loads(card.attributes["data-scores"] or "") == dict(top_row.scores)
        assert top_row.id in card.text
        for value in top_row.values:
            assert f"{value.mean:.2f} ± {value.std:.2f}" in card.text
    shown = [row.id for card in findings.cards for row in (card.row, *card.similar)]
    assert [one.attributes["alt"] for one in page.all("img")] == [f"Thumbnail of {key}" for key in shown]


def test_the_page_is_self_contained_and_its_policy_forbids_everything_else(text: str, page: Page) -> None:
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.tag} {name}>"
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith(("data:", "#")), value
    (policy,) = (
        one.attributes["content"] or "" for one in page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    )
    script = hashlib.sha256(page.one("script").text.encode()).digest()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{base64.b64encode(script).decode()}';" in policy
    assert "@import" not in text
    assert "url(http" not in text


def test_ids_are_unique_and_every_reference_resolves(page: Page) -> None:
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((element.attributes.get(name) or "").split()) <= set(ids)
        href = element.attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


def test_text_from_data_is_escaped_everywhere(hostile_page: Page) -> None:
    assert len(hostile_page.all("script")) == 1
    assert len(hostile_page.all("style")) == 1
    assert len(hostile_page.all("title")) == 1 + len(hostile_page.all("svg", role="img"))
    assert len(hostile_page.all("img")) == len(hostile_page.all("li", class_="card")) - 2, "two have no picture"
    for element in hostile_page.elements:
        assert not any(name.startswith("on") for name in element.attributes)
    ids = {bdi.text for heading in hostile_page.all("h3") for bdi in heading.children if bdi.tag == "bdi"}
    assert HOSTILE[0] in ids
    assert HOSTILE[5] in ids
    assert "\\u202eright to left" in ids
    assert "line\\nbreak\\ttab\\x00nul" in ids
    assert max(map(len, ids)) <= 120
    assert hostile_page.has("out<i>: ")
    assert hostile_page.has("<img src=x onerror=alert(1)>.parquet")
    options = {one.attributes["value"] for one in hostile_page.all("option")}
    assert options & {HOSTILE[0], HOSTILE[1], HOSTILE[2]}, "classes have these names too"


def test_the_page_shows_the_quarantine(screened: Path) -> None:
    page = Page(render_page(gather_findings(str(screened / "out"))))
    assert page.has(
        "3 entries: rows that could not be scored, and shards that could not be read. "
        "A person must inspect these rows and shards. "
        "Number by status: 1 decode_failed, 1 null_image, 1 unreadable_shard."
    )
    assert page.has("The run had no calibration, so there is no target rate.")


def test_two_runs_are_compared(drawn: Path, tmp_path: Path) -> None:
    write_results(drawn / "in", tmp_path / "earlier", seed=3)
    findings = gather_findings(str(drawn / "out"), against=str(tmp_path / "earlier"))
    page = Page(render_page(findings))
    assert findings.comparison is not None
    assert findings.comparison.changes is not None
    assert page.has(f"{findings.comparison.changes.newly} are newly flagged")
    assert page.has("earlier flag rate")
    assert page.has("Changed settings")


def test_the_same_results_are_the_same_page(drawn: Path, text: str) -> None:
    assert render_page(gather_findings(str(drawn / "out"))) == text


def test_long_tables_end_with_the_number_of_hidden_entries(tmp_path: Path) -> None:
    write_input(tmp_path / "in", 300, 3)
    write_results(tmp_path / "in", tmp_path / "out")
    page = Page(render_page(gather_findings(str(tmp_path / "out"), top=2)))
    assert page.has("The table contains the shards with the highest flag rates; 50 more shards are not shown.")
    assert page.has("more flagged rows in the results")


@pytest.mark.integration
def test_a_page_of_ten_times_the_rows_is_no_larger_and_takes_no_more_memory(tmp_path: Path) -> None:
    found = []
    for rows in (20_000, 200_000):
        write_input(tmp_path / f"in{rows}", rows, 10_000)
        write_results(tmp_path / f"in{rows}", tmp_path / f"out{rows}")
        found.append(measure(tmp_path / f"out{rows}", tmp_path / "report.html", "--look-alikes", "50"))
    few, many = found
    assert (few.rows, many.rows) == (20_000, 200_000)
    assert many.page_mb < few.page_mb * 1.2
    assert many.peak_mib < few.peak_mib + 60


def test_the_command_writes_a_page_and_replaces_only_pages(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.html"
    for top in ("5", "6"):
        cli.app(["report", str(drawn / "out"), "-o", str(target), "--top", top], standalone_mode=False)
        assert len(Page(target.read_text()).all("li", class_="card")) == int(top)
    flagged = sum(read_results(drawn / "out")["flag"].to_pylist())
    expected = (
        r"report.html: the 6 most suspicious row\(s\) \(6 with a thumbnail\) and 1 similar row\(s\); "
        rf"{flagged} of 4000 rows are flagged.*; 0.\d MB"
    )
    assert re.search(expected, capsys.readouterr().out)
    other = tmp_path / "thesis.html"
    other.write_text("<!DOCTYPE html><title>mine</title>")
    assert oodscreen("report", drawn / "out", "-o", other, monkeypatch=monkeypatch) == 2
    assert "exists and is not an oodscreen report" in capsys.readouterr().err
    assert other.read_text() == "<!DOCTYPE html><title>mine</title>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "thesis.html"]


def test_the_command_prints_the_counts_of_the_run_and_of_available_images(
    screened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(screened / "out", tmp_path / "out")
    flagged = sum(read_results(tmp_path / "out")["flag"].to_pylist())
    words = ["report", str(tmp_path / "out"), "-o", str(tmp_path / "r.html"), "--top", "4", "--input", str(tmp_path)]
    cli.app(words, standalone_mode=False)
    printed = capsys.readouterr().out
    assert (
        f"r.html: the 4 most suspicious row(s) (0 with a thumbnail); "
        f"{flagged} of 183 rows are flagged (2 of them could not"
    ) in printed
    assert f"with --input; {tmp_path} does not contain them" in printed


def test_a_score_missing_in_one_run_is_a_dash_and_one_of_another_calibration_is_not_shown(
    drawn: Path, tmp_path: Path
) -> None:
    write_results(drawn / "in", tmp_path / "earlier", seed=3)
    shard = sorted((tmp_path / "earlier").glob("*.parquet"))[0]
    table = pq.read_table(shard)
    null = pa.nulls(len(table), pa.float32())
    pq.write_table(table.set_column(table.column_names.index("entropy"), table.schema.field("entropy"), null), shard)
    manifest = tmp_path / "earlier" / "_manifest.jsonl"
    header, *lines = manifest.read_text().splitlines()
    changed = {**json.loads(header), "calibration": "2" * 64}
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        if entry.get("shard") == shard.name:
            entry["size"] = shard.stat().st_size
    manifest.write_text("\n".join(map(json.dumps, [changed, *entries])) + "\n")
    findings = gather_findings(str(drawn / "out"), against=str(tmp_path / "earlier"))
    assert findings.comparison is not None
    changes = findings.comparison.changes
    assert changes is not None
    assert changes.newly > 0
    assert (findings.order, changes.score) == ("ood_score", "entropy")
    text = render_page(findings)
    assert "–</td>" in text  # noqa: RUF001
    assert ">nan<" not in text


def test_page_and_terminal_show_the_same_number_of_flagged_rows(
    screened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flagged = sum(read_results(screened / "out")["flag"].to_pylist())
    cli.app(["report", str(screened / "out"), "-o", str(tmp_path / "r.html")], standalone_mode=False)
    page = Page((tmp_path / "r.html").read_text())
    figures = dict(zip(*([one.text for one in page.all(tag)] for tag in ("dt", "dd")), strict=False))
    assert (figures["Flagged for review"], figures["of these, not scored"]) == (str(flagged), "2")
    assert page.all("title")[0].text == f"out: {flagged} of 183 images flagged"
    assert f"{flagged} of 183 rows are flagged" in capsys.readouterr().out
    assert page.has("2 flagged rows could not be scored: see Quarantine")


def test_the_title_is_text(drawn: Path) -> None:
    page = Page(render_page(gather_findings(str(drawn / "out"), top=0, title=f" {HOSTILE[1]} ")))
    assert page.one("h1").text == HOSTILE[1]
    assert page.has("Screening report of out")
    assert len(page.all("script")) == 1
    for blank in ("", "  ", None):
        assert gather_findings(str(drawn / "out"), top=0, title=blank).title == "out"


def test_the_next_command_can_be_pasted_into_a_shell(hostile: Path, drawn: Path, tmp_path: Path) -> None:
    here = f"{tmp_path}/it's here"
    found = gather_findings(str(hostile / "out<i>"), top=0, moved_to=here)
    command = Page(render_page(found)).one("p", class_="command").text
    assert shlex.split(command) == [
        *(
            "oodscreen",
            "queue",
            str(hostile / "out<i>"),
            "-o",
            "audit.parquet",
            "--include-random",
            "1%",
            "--input",
            here,
        )
    ]
    assert gather_findings(str(drawn / "out"), top=0).next_command[4:] == ("queue.parquet",)
    shutil.copytree(drawn / "out", tmp_path / "out\u202e\n")
    assert gather_findings(str(tmp_path / "out\u202e\n"), top=0).next_command == ()


def test_a_folder_is_not_replaced(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputRefused, match="is a folder"):
        write_page(gather_findings(str(drawn / "out"), top=0), tmp_path)


def test_without_jinja_it_says_what_to_install(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = gather_findings(str(drawn / "out"), top=0)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(OptionRefused, match=r"Jinja2 is not installed(.|\n)*oodscreen\[report\]"):
        render_page(findings)


@pytest.mark.parametrize(
    ("kind", "rule", "order"),
    [("regression", "largest_std > 0.05", "largest_std"), ("sigmoid", None, "largest_label_entropy")],
)
def test_models_without_one_predicted_class_have_a_page_too(
    tmp_path: Path, kind: str, rule: str | None, order: str
) -> None:
    """A regression has no probabilities and no bars; a multi-label model has bars, but no class table."""
    graph = Graph(kind=kind)
    model = graph.finish(graph.dense(graph.site(graph.flat(), 48), 48, 3), 3)
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, tmp_path / "m.onnx")
    images = np.random.default_rng(1).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in images])
    config = RunConfig(passes=8, device="cpu", flag_if=rule)
    run_screening(tmp_path / "m.onnx", str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    findings = gather_findings(str(tmp_path / "out"))
    page = Page(render_page(findings))
    assert findings.order == order
    assert findings.counts.classes == ()
    assert not page.all("section", id="classes")
    assert len(page.all("img")) == 40
    assert bool(page.all("svg", class_="spread")) == (kind == "sigmoid")


@pytest.mark.parametrize("names", [("cat", "dog"), ("positive",), ()])
def test_the_values_of_a_single_probability_are_those_of_its_two_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Earlier versions recorded one name, which is not displayed."""
    graph = Graph(kind="sigmoid")
    centred = graph.op("Sub", graph.flat(), graph.const(np.float32(0.5)))
    model = graph.finish(graph.op("MatMul", graph.site(centred, 48), graph.weight(48, 1)), 1)
    stamp_metadata(model.proto, replace(model.contract, class_names=names))
    onnx.save(model.proto, tmp_path / "m.onnx")
    images = np.random.default_rng(1).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in images])
    config = RunConfig(passes=8, device="cpu")
    run_screening(tmp_path / "m.onnx", str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    shown = names if len(names) == 2 else ("0", "1")
    rows = {row["row"]: row for row in read_results(tmp_path / "out").to_pylist()}
    assert {row["prediction"] for row in rows.values()} == {0, 1}
    findings = gather_findings(str(tmp_path / "out"))
    for card in findings.cards:
        row, top = rows[card.row.row], card.row
        assert top.prediction == shown[row["prediction"]]
        assert [value.name for value in top.values] == [top.prediction, shown[1 - row["prediction"]]]
        assert top.values[0].mean == pytest.approx(row["confidence"])
        assert top.values[0].mean + top.values[1].mean == pytest.approx(1)
        assert [value.std for value in top.values] == pytest.approx([row["std"][0]] * 2)
    assert {share.name for share in findings.counts.classes} == set(shown)
