"""The command `oodscreen labels`: labels joined to the results."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.graph.passes import stamp_metadata
from screen.config import RunConfig
from screen.review.classes import ClassNames
from screen.review.labels.annotations import read_annotations
from screen.review.labels.summary import LABEL_COLUMNS
from screen.review.queue.config import QueueConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.fill import fill_queue
from screen.review.queue.labelstudio import KEY
from screen.review.results import open_results
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, oodscreen, write_shard
from tests.screen.engine.graphs import Graph
from tests.screen.review.conftest import Night, read_queue


def tasks_of(night: Night, folder: Path) -> list[dict[str, Any]]:
    """A queue in Label Studio's export format: tasks without annotations."""
    target = folder / "tasks.json"
    fill_queue(
        str(night.results),
        QueueConfig(include_random="50%", ledger=str(folder / "ledger")),
        lambda _, classes, dry_run: make_file_destination(
            str(target), "label-studio-tasks", "p", classes, images=True, url=None
        ),
    )
    tasks: list[dict[str, Any]] = json.loads(target.read_text())
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": []}
    return tasks


def say(task: dict[str, Any], *choices: str, person: int = 1, **more: Any) -> None:
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}]
    number = len(task["annotations"])
    annotation = {"id": number, "completed_by": person, "result": result if choices else [], "was_cancelled": False}
    task["annotations"].append({**annotation, "updated_at": f"2026-01-01T00:00:{number:02d}Z", **more})


def join(night: Night, labels: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    output = labels.parent / "labels.parquet"
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("labels", labels, night.results, "-o", output, *words, monkeypatch=patched) == code
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist() if output.exists() else []
    return rows


def write_export(folder: Path, tasks: list[dict[str, Any]]) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def test_labels_are_joined_to_the_rows_that_they_are_for(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_of(night, tmp_path)
    flagged = [task for task in tasks if task["data"]["source"] == "flagged" and task["data"]["status"] == "ok"]
    audit = [task for task in tasks if task["data"]["source"] == "audit"]
    for task in tasks:
        say(task, task["data"]["predicted"] or "0")
    flagged[0]["annotations"], flagged[1]["annotations"], flagged[2]["annotations"] = [], [], []
    say(flagged[0], "out of distribution")
    say(flagged[1], "unusable")
    other = str((int(flagged[2]["data"]["predicted"]) + 1) % 10)
    say(flagged[2], other)
    rows = {(row["shard"], row["row"]): row for row in join(night, write_export(tmp_path, tasks), "--json")}
    printed = capsys.readouterr()
    assert len(rows) == len(tasks)
    there = {(row["shard"], row["row"]): row for row in night.rows}
    for place, row in rows.items():
        for name in ("prediction", "entropy", "flag", "flag_reason", "id"):
            assert row[name] == there[place][name]
    outcomes = [rows[task["data"]["shard"], task["data"]["row"]]["outcome"] for task in flagged[:4]]
    assert outcomes == ["out of distribution", "unusable", "changed", "kept"]
    changed = rows[flagged[2]["data"]["shard"], flagged[2]["data"]["row"]]
    assert (changed["label"], changed["label_index"]) == (other, int(other))
    assert rows[flagged[0]["data"]["shard"], flagged[0]["data"]["row"]]["label_index"] is None
    report = json.loads(printed.out)
    assert report["worth"]["flagged"]["labelled"] == len(flagged)
    assert report["worth"]["flagged"]["changed"] == report["worth"]["flagged"]["unusable"] == 1
    assert report["worth"]["audit"] | {"low": 0, "high": 0, "name": ""} == {
        "labelled": len(audit), "changed": 0, "out_of_distribution": 0, "unusable": 0, "low": 0, "high": 0, "name": ""
    }  # fmt: skip
    assert report["not_predicted"] == 1  # an image of the wrong size: flagged, but without a prediction
    assert "Lift over random" in printed.err


def test_the_columns_are_described_in_the_file(night: Night, tmp_path: Path) -> None:
    tasks = tasks_of(night, tmp_path)
    say(tasks[0], "3")
    join(night, write_export(tmp_path, tasks))
    schema = pq.read_schema(tmp_path / "labels.parquet")
    assert schema.names == [column.name for column in LABEL_COLUMNS]
    for column in LABEL_COLUMNS:
        assert schema.field(column.name).type == column.type
        assert schema.field(column.name).metadata[b"description"].decode() == column.sentence


def test_most_votes_decide_and_a_tie_is_left_out(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_of(night, tmp_path)
    most, tie, again, truth, skipped, empty = tasks[:6]
    for person, label in enumerate(("1", "2", "2")):
        say(most, label, person=person)
    say(tie, "1", person=1)
    say(tie, "2", person=2)
    say(again, "1", person=7)
    say(again, "4", person=7)
    for person in range(3):
        say(truth, "5", person=person)
    say(truth, "6", person=9, ground_truth=True)
    say(skipped, "1", was_cancelled=True)
    say(empty)
    rows = {row["row"]: row for row in join(night, write_export(tmp_path, tasks), "--json")}
    found = [
        (rows[task["data"]["row"]]["label"], rows[task["data"]["row"]]["annotators"]) for task in (most, again, truth)
    ]
    assert found == [("2", 3), ("4", 1), ("6", 4)]
    assert rows[most["data"]["row"]]["agreement"] == pytest.approx(2 / 3)
    report = json.loads(capsys.readouterr().out)
    assert (report["labelled"], report["disputed"], report["skipped"]) == (3, 1, 1)
    assert report["unlabelled"] == len(tasks) - 4


def test_labels_of_other_rows_are_counted_with_their_reasons(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_of(night, tmp_path)
    for task in tasks[:6]:
        say(task, "1")
    tasks[1]["data"]["shard"] = "nowhere.parquet"
    tasks[2]["data"]["row"] = 10_000
    tasks[3]["data"]["input_footer"] = "of a rewritten shard"
    tasks[4]["data"]["id"] = "of another row"
    tasks.append({"id": 99, "data": {"image": "x"}, "annotations": []})
    tasks.append(json.loads(json.dumps(tasks[5])))  # imported twice
    rows = join(night, write_export(tmp_path, tasks), "--json")
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert len(rows) == report["labelled"] == 2
    assert report["no_result"] == {
        "shard not in the results": 1, "row not in the shard": 1, "different input shard": 1, "different row id": 1
    }  # fmt: skip
    assert (report["foreign"], report["repeated"]) == (1, 1)
    assert "4 labelled row(s) that do not match these results" in printed.err
    assert "1 task(s) or row(s) that name no row of results" in printed.err


@pytest.mark.parametrize("order", [1, -1], ids=["foreign last", "foreign first"])
@pytest.mark.parametrize("field", ["input_footer", "id"])
def test_a_label_of_another_row_with_the_same_name_has_no_effect(
    field: str, order: int, night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = next(task for task in tasks_of(night, tmp_path) if task["data"]["status"] == "ok")
    foreign = json.loads(json.dumps(ours))
    foreign["data"][field] = "of another night"
    say(ours, ours["data"]["predicted"])
    say(foreign, "out of distribution")
    (row,) = join(night, write_export(tmp_path, [ours, foreign][::order]), "--json")
    assert (row["label"], row["outcome"], row["annotators"]) == (ours["data"]["predicted"], "kept", 1)
    report = json.loads(capsys.readouterr().out)
    assert sum(report["no_result"].values()) == 1
    assert report["repeated"] == 0  # no votes were merged


def test_the_last_vote_on_a_row_counts_even_if_its_row_name_is_incomplete(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = (entry for entry in open_results(str(night.results)).entries if entry.shard == "a.parquet")
    bare = {"shard": "a.parquet", "row": 1}
    whole = bare | {"input_footer": entry.input["footer"]}
    path = tmp_path / "l.jsonl"
    lines = [whole | {"label": "1"}, bare | {"label": "2"}, whole | {"label": "3"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = join(night, path, "--json")
    assert (row["label"], row["annotators"]) == ("3", 1)
    assert json.loads(capsys.readouterr().out)["repeated"] == 2


def test_labels_of_different_images_are_not_merged(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"shard": "a.parquet", "row": 1, "key": key * 64, "label": "1"} for key in "ab"]
    lines.append({"shard": "a.parquet", "row": 2, "label": "1"})
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["row"] for row in join(night, path, "--json")] == [2]
    assert json.loads(capsys.readouterr().out)["no_result"] == {"labels of different images": 1}


def test_a_label_of_another_image_is_left_out(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [task for task in tasks_of(night, tmp_path) if task["data"]["status"] == "ok"][:3]
    for task in tasks:
        say(task, "1")
    tasks[0]["data"][KEY] = "a" * 64
    del tasks[1]["data"][KEY]
    rows = join(night, write_export(tmp_path, tasks), "--images", "--json")
    assert {row["id"] for row in rows} == {task["data"]["id"] for task in tasks[1:]}
    assert all(row["image"] is not None for row in rows)
    report = json.loads(capsys.readouterr().out)
    assert report["no_result"] == {"different image": 1}
    assert (report["labelled"], report["without_image"]) == (2, 0)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_queue_with_a_column_of_labels_is_read_back(kind: str, night: Night, tmp_path: Path) -> None:
    tasks_of(night, tmp_path)
    rows = [{**data, "id": data["id"]} for data in read_queue(tmp_path / "tasks.json")]
    for index, row in enumerate(rows):
        row["said"] = None if index == 0 else int(row["predicted"] or 0)
        row.pop("image")
    path = tmp_path / f"said.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = join(night, path, "--label-column", "said")
    assert len(found) == len(rows) - 1
    assert {row["outcome"] for row in found} <= {"kept", "not predicted"}
    assert {row["source"] for row in found} == {"flagged", "audit"}


def write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> Path:
    """A table with the keys of the first row as its header, in UTF-8 with a mark, as table programs write it."""
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_csv_queue_is_read_back_with_its_labels(night: Night, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "q.csv", monkeypatch=patched) == 0
    rows = [{**row, "label": row["predicted"] or "unusable"} for row in read_queue(tmp_path / "q.csv")]
    found = join(night, write_csv(tmp_path / "said.csv", rows))
    assert [(row["shard"], row["row"]) for row in found] == sorted((row["shard"], int(row["row"])) for row in rows)
    assert {row["outcome"] for row in found} == {"kept", "unusable"}
    assert {row["key"] for row in found} == {row["key"] for row in rows}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_queue_that_a_table_program_saved_with_another_separator_is_read_back(
    night: Night, tmp_path: Path, separator: str
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "q.csv", monkeypatch=patched) == 0
    rows = [{**row, "label": row["predicted"] or "unusable"} for row in read_queue(tmp_path / "q.csv")]
    with_commas = join(night, write_csv(tmp_path / "said.csv", rows))
    assert join(night, write_csv(tmp_path / "said.csv", rows, separator)) == with_commas


@pytest.mark.parametrize("by", ["id", "key"])
def test_labels_without_shard_and_row_are_joined_by_id_or_key(by: str, night: Night, tmp_path: Path) -> None:
    """The first image is in three rows; the ledger has all of them after a second export."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("q.parquet", "r.parquet"):
            words = ("queue", night.results, "-o", tmp_path / name, "--include-random", "100%")
            assert oodscreen(*words, monkeypatch=patched) == 0
    rows = read_queue(tmp_path / "q.parquet")
    expected = {(row["shard"], row["row"]): row["predicted"] or "unusable" for row in rows}
    labels = [{by: row[by], "label": row["predicted"] or "unusable", "note": "=x"} for row in rows]
    pq.write_table(pa.Table.from_pylist(labels), tmp_path / "l.parquet")
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    for path in (write_csv(tmp_path / "l.csv", labels), tmp_path / "l.parquet", tmp_path / "l.jsonl"):
        found = {(row["shard"], row["row"]): row["label"] for row in join(night, path)}
        if by == "key":  # of several rows with one image, the first of the results
            assert found.keys() >= {place for place in expected if place[0] == "a.parquet"}
            assert sorted(found.values()) == sorted(expected.values())
        else:
            assert found == expected
    with pytest.MonkeyPatch.context() as patched:
        shutil.move(night.results / "_queue.ledger", tmp_path / "ledger")
        again = ("labels", tmp_path / "l.csv", night.results, "-o", tmp_path / "labels.parquet")
        assert oodscreen(*again, monkeypatch=patched) == (0 if by == "id" else 2)
        assert oodscreen(*again, "--ledger", tmp_path / "ledger", monkeypatch=patched) == 0


def test_an_id_of_several_rows_needs_the_key_the_shard_or_the_row(
    night: Night, tmp_path: Path, digits: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(night.input / "c.parquet", [encode(image) for image in digits[200:203]], ids=["a-1", "a-2", "c-2"])
    night.run()
    with pytest.MonkeyPatch.context() as patched:
        words = ("queue", night.results, "-o", tmp_path / "q.parquet", "--include-random", "100%")
        assert oodscreen(*words, monkeypatch=patched) == 0
    capsys.readouterr()
    (row,) = [row for row in read_queue(tmp_path / "q.parquet") if (row["shard"], row["row"]) == ("c.parquet", 1)]
    labels = [
        {"shard": "", "row": "", "id": "a-1", "key": "", "label": "1"},
        {"shard": "a.parquet", "row": "", "id": "a-1", "key": "", "label": "2"},
        {"shard": "", "row": "", "id": "a-2", "key": row["key"].upper(), "label": "3"},
        {"shard": "", "row": "2", "id": "a-2", "key": "", "label": "6"},
        {"shard": "", "row": "", "id": "c-2", "key": "", "label": "4.0"},
        {"shard": "", "row": "", "id": "c-2", "key": "", "label": "5"},
    ]
    found = join(night, write_csv(tmp_path / "l.csv", labels), "--json")
    assert [(row["shard"], row["row"], row["label"]) for row in found] == [
        ("a.parquet", 1, "2"),
        ("a.parquet", 2, "6"),
        ("c.parquet", 1, "3"),
        ("c.parquet", 2, "5"),
    ]
    report = json.loads(capsys.readouterr().out)
    assert report["no_result"] == {"id of several rows": 1}
    assert (report["repeated"], report["read"]) == (1, 6)


def test_labels_of_the_input_in_a_queue_are_no_labels_of_a_reviewer(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "q.parquet", monkeypatch=patched) == 0
    assert "input_label" in pq.read_schema(tmp_path / "q.parquet").names
    assert join(night, tmp_path / "q.parquet", code=2) == []
    assert "has no column 'label'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "lists"])
def test_nan_is_not_a_label(kind: str, night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[Any] = [2.0, math.nan, math.nan]
    if kind == "lists":
        said = [[one] for one in said]
    rows = [{"shard": "a.parquet", "row": index, "label": one} for index, one in enumerate(said)]
    path = tmp_path / f"l.{'parquet' if kind == 'lists' else kind}"
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["label"] for row in join(night, path, "--json")] == ["2"]
    report = json.loads(capsys.readouterr().out)
    assert (report["labelled"], report["unlabelled"], report["no_class"]) == (1, 2, 0)


NAMES = ("nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "12")


@pytest.fixture
def named(night: Night, tmp_path: Path) -> Night:
    """The same rows, scored by a model with class names; one name is a number beyond the last class."""
    proto = onnx.load(night.model)
    (entry,) = (entry for entry in proto.metadata_props if entry.key.endswith("class_names"))
    entry.value = json.dumps(NAMES)
    onnx.save(proto, tmp_path / "named.onnx")
    found = Night(tmp_path / "named.onnx", night.input, tmp_path / "named-out")
    found.run()
    return found


def write_lines(folder: Path, labels: list[Any], rows: list[int] | None = None) -> Path:
    """Labels for rows of the first shard; by default for row 0, 1, and so on."""
    path = folder / "l.jsonl"
    lines = [
        {"shard": "a.parquet", "row": row, "label": label, "annotator": str(index)}
        for index, (row, label) in enumerate(zip(rows or range(len(labels)), labels, strict=True))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_number_is_the_class_of_that_index(named: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted = [row["prediction"] for row in named.rows[:3]]
    said = [predicted[0], NAMES[predicted[1]], float(predicted[2]), 12, -1, "3", True]
    rows = join(named, write_lines(tmp_path, said), "--model", str(named.model), "--json")
    assert [row["label"] for row in rows] == [*(NAMES[index] for index in predicted), "class 12", "-1", "3", "True"]
    assert [row["label_index"] for row in rows] == [*predicted, None, None, None, None]
    assert [row["outcome"] for row in rows] == [*["kept"] * 3, *["changed"] * 4]
    assert json.loads(capsys.readouterr().out)["no_class"] == 4


def test_a_number_and_the_name_of_its_class_are_one_label(named: Night, tmp_path: Path) -> None:
    path = write_lines(tmp_path, [4, "four", "five"], [0, 0, 0])
    (row,) = join(named, path, "--model", str(named.model))
    assert (row["label"], row["label_index"], row["annotators"]) == ("four", 4, 3)


def test_numbers_alone_are_classes_of_a_model_with_names(named: Night, tmp_path: Path) -> None:
    rows = join(named, write_lines(tmp_path, [0, [1], 9]), "--model", str(named.model))
    assert [row["label"] for row in rows] == ["nil", "one", "12"]


def test_a_number_as_text_is_a_class_if_no_class_name_is_a_numeral() -> None:
    names = ClassNames(("cat", "dog"), several=False)
    assert [names.name_choice(text) for text in ("1", "1.0", "2", "dog", "-1")] == ["dog", "dog", "2", "dog", "-1"]
    numerals = ClassNames(("1", "dog"), several=False)
    assert [numerals.name_choice(text) for text in ("1", "1.0", "0")] == ["1", "1", "0"]


@pytest.mark.parametrize(("with_model", "message"), [(True, "integers (not text) from 0 to 9"), (False, "add --model")])
def test_the_next_step_suggests_the_model_only_if_it_was_not_given(
    with_model: bool, message: str, named: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(named.model)] if with_model else []
    assert join(named, write_lines(tmp_path, ["cat"]), *words, code=2) == []
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert ("add --model" in error) is not with_model


def test_a_value_is_not_a_label_of_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(kind="regression")
    model = graph.finish(graph.dense(graph.site(graph.flat(), 48), 48, 2), 2)
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, tmp_path / "m.onnx")
    write_shard(tmp_path / "in" / "a.parquet", [encode(np.full((4, 4, 3), shade, np.uint8)) for shade in (0, 255)])
    config = RunConfig(passes=3, device="cpu", flag_if="largest_std > 0.01")
    run_screening(tmp_path / "m.onnx", str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    night = Night(tmp_path / "m.onnx", tmp_path / "in", tmp_path / "out")
    assert join(night, write_lines(tmp_path, [3.7, "in distribution"]), code=2) == []
    error = " ".join(capsys.readouterr().err.split())
    assert "a regression, which has no classes: '3.7'" in error
    assert "--model" not in error
    assert [row["outcome"] for row in join(night, write_lines(tmp_path, ["in distribution"]))] == ["kept"]


def test_images_can_be_written_with_their_labels(night: Night, tmp_path: Path) -> None:
    tasks = tasks_of(night, tmp_path)
    for task in tasks[:5]:
        say(task, "1")
    for row in join(night, write_export(tmp_path, tasks), "--images"):
        there = pq.read_table(night.input / row["shard"]).to_pylist()[row["row"]]["image"]["bytes"]
        assert row["image"]["bytes"] == there
    os.utime(night.input / "sub" / "b.parquet", (1, 1))
    rows = join(night, write_export(tmp_path, tasks), "--images", code=3)
    assert all((row["image"] is None) == (row["shard"] == "sub/b.parquet") for row in rows)


REFUSED = {
    "no file": ("missing.json", None, "LABELS missing.json does not exist"),
    "another kind": ("l.xlsx", "x", "LABELS l.xlsx has no supported extension"),
    "a separator that no program writes": ("l.csv", "id|label\na-1|3\n", "Its columns: id|label"),
    "a header alone": ("l.csv", "id,label\n", "LABELS contains no rows"),
    "a cell too many": ("l.csv", "id,label\na-1,3,4\n", "line 2 has 3 cell(s), and the header has 2"),
    "another encoding": ("l.csv", "id,label\na-1,3\n", "l.csv is not in UTF-8"),
    "an open quote": ("l.csv", 'id,label\n"a-1,3\n', "cannot be read"),
    "two columns": ("l.csv", "id,label,label\na-1,3,4\n", "several columns 'label'"),
    "nothing that names a row": ("l.csv", "name,label\na-1,3\n", "`shard` and `row`, an `id` or a `key`"),
    "unknown ids": ("l.csv", "id,label\nzz,3\n", "id not in the results: 1"),
    "unknown keys": ("l.csv", f"key,label\n{'0' * 64},3\n", "key not in the ledger of these results: 1"),
    "no json": ("l.json", "{nonsense", "is not JSON"),
    "no list": ("l.json", "{}", "is not a list of tasks"),
    "json-min": ("l.json", '[{"image": "x", "label": "3"}]', "lacks `annotations` or `data`"),
    "foreign": ("l.json", '[{"data": {"image": "x"}, "annotations": []}]', "has a valid `shard` and `row`"),
    "no parquet": ("l.parquet", "nonsense", "cannot be read"),
    "no line": ("l.jsonl", "[1]\n", "line 1 is not a JSON object"),
    "no column": ("l.jsonl", '{"shard": "a.parquet", "row": 1, "said": "3"}\n', "has no column 'label'"),
    "other classes": (
        "l.jsonl",
        '{"shard": "a.parquet", "row": 1, "label": "cat"}\n',
        "is a class of the model: 'cat'",
    ),
    "no label": (
        "l.jsonl",
        '{"shard": "a.parquet", "row": 1, "label": null}\n',
        "task(s) or row(s) without a label: 1",
    ),
    "no row": ("l.jsonl", '{"shard": "z.parquet", "row": 1, "label": "3"}\n', "shard not in the results: 1"),
    "a truth value for a row": (
        "l.jsonl",
        '{"shard": "a.parquet", "row": true, "label": "3"}\n',
        "has a valid `shard` and `row`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_labels_are_refused(
    case: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, text, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text, encoding="utf-16" if case == "another encoding" else "utf-8")
    assert oodscreen("labels", name, night.results, "-o", "out.parquet", monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.parquet").exists()
    assert list(tmp_path.glob(".oodscreen-*")) == []


def test_labels_are_never_written_over(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"shard": ["a.parquet"], "row": [1], "label": ["3"]}), path)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("labels", path, night.results, "-o", path, monkeypatch=patched) == 2
    assert "is the LABELS file" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("images", [False, True])
def test_an_earlier_file_of_labels_is_replaced(images: bool, night: Night, tmp_path: Path) -> None:
    tasks = tasks_of(night, tmp_path)
    say(tasks[0], "1")
    assert len(join(night, write_export(tmp_path, tasks), *["--images"] * images)) == 1
    say(tasks[1], "1")
    assert len(join(night, write_export(tmp_path, tasks))) == 2


OCCUPIED = {
    "an input shard": ("in/a.parquet", "in/a.parquet exists and has other columns than those of labelled rows: "),
    "a result shard": ("out/a.parquet", "is in RESULTS"),
    "new in RESULTS": ("out/labels.parquet", "is in RESULTS"),
    "through a link": ("linked/labels.parquet", "is in RESULTS"),
    "no parquet": ("notes.pq", "notes.pq exists and cannot be read as Parquet"),
    "a folder": ("folder.parquet", "is a folder"),
    "another ending": ("labels.csv", "labels.csv does not end in .parquet or .pq"),
    "no ending": ("labels", "does not end in"),
}


@pytest.mark.parametrize("case", OCCUPIED)
def test_nothing_but_labels_is_replaced(
    case: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, message = OCCUPIED[case]
    monkeypatch.chdir(tmp_path)
    Path("l.jsonl").write_text('{"shard": "a.parquet", "row": 1, "label": "3"}\n')
    Path("notes.pq").write_text("of mine")
    Path("folder.parquet").mkdir()
    Path("linked").symlink_to("out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert oodscreen("labels", "l.jsonl", night.results, "-o", output, monkeypatch=monkeypatch) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_embedded_images_are_dropped_while_labels_are_read(night: Night, tmp_path: Path) -> None:
    tasks = tasks_of(night, tmp_path)
    say(tasks[0], "3")
    given = read_annotations(str(write_export(tmp_path, tasks)), "label")
    assert "base64" not in repr(given)
    assert [one.read for one in given.values()] == [len(tasks)]


def ask(task: dict[str, Any], control: str, *choices: str, **region: Any) -> None:
    """Add the answer to another question to the last annotation of a task."""
    value = {"choices": list(choices), **region}
    task["annotations"][-1]["result"].append({"from_name": control, "type": "choices", "value": value})


@pytest.mark.hostile(
    "Label Studio annotations with a second question, or with choices for regions of an image",
    "only the answers to the question whose choices are the classes are labels; the command prints the number "
    "of rows with answers to each other question, and `--label-control` selects a question",
)
def test_answers_to_other_questions_are_no_labels(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_of(night, tmp_path)
    for task in tasks[:4]:
        say(task, "3")
    alone = join(night, write_export(tmp_path, tasks))
    for task in tasks[:4]:
        ask(task, "quality", "blurred")
        ask(task, "label", "5", x=1.0, y=2.0, width=10.0, height=10.0)
    capsys.readouterr()
    assert join(night, write_export(tmp_path, tasks)) == alone
    assert "4 row(s) with answers to the question 'quality'; these are not labels" in capsys.readouterr().out
    join(night, write_export(tmp_path, tasks), "--label-control", "quality", code=2)
    join(night, write_export(tmp_path, tasks), "--label-control", "colour", code=2)
    assert "--label-control is 'colour', but the labels contain answers to: label (3), quality" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_two_questions_about_the_classes_are_not_guessed(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_of(night, tmp_path)
    for task in tasks[:4]:
        say(task, "3")
        ask(task, "second opinion", "5")
    join(night, write_export(tmp_path, tasks), code=2)
    assert "answers to 2 questions: label (3), second opinion (5)" in " ".join(capsys.readouterr().err.split())
    first = join(night, write_export(tmp_path, tasks), "--label-control", "label")
    second = join(night, write_export(tmp_path, tasks), "--label-control", "second opinion")
    assert ({row["label"] for row in first}, {row["label"] for row in second}) == ({"3"}, {"5"})


@pytest.mark.hostile(
    "A label that contains half of a surrogate pair, which UTF-8 cannot represent",
    "the label is not a class of the model; the other labels are used",
)
def test_half_a_surrogate_pair_ends_no_command(night: Night, tmp_path: Path) -> None:
    tasks = tasks_of(night, tmp_path)
    say(tasks[0], "3")
    say(tasks[1], "\ud800")
    labels = {row["label"] for row in join(night, write_export(tmp_path, tasks))}
    assert labels == {"3", "\ufffd"}
    assert {row["label"] for row in join(night, write_lines(tmp_path, ["\ud800", "3"]))} == {"3", "\ufffd"}
