"""The contents of a queue in each file format."""

from __future__ import annotations

import base64
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from screen.columns import COLUMNS
from screen.review.classes import ClassNames
from screen.review.queue.config import QueueConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.fill import fill_queue
from screen.review.queue.labelstudio import KEY, ImageUrl
from screen.review.queue.row import QUEUE_COLUMNS, queue_schema
from screen.review.queue.table_files import mark_formula, unmark_formula
from tests.screen.review.conftest import Night, read_queue


def fill(night: Night, target: Path, to: str | None = None, *, images: bool = True, url: str | None = None) -> None:
    def choose(results: Any, classes: ClassNames, dry_run: bool) -> Any:
        template = None if url is None else ImageUrl(url)
        return make_file_destination(str(target), to, target.name, classes, images=images, url=template)

    fill_queue(str(night.results), QueueConfig(include_random="20%"), choose)


def test_parquet_has_every_column_with_its_description(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.parquet")
    schema = pq.read_schema(tmp_path / "q.parquet")
    assert schema.equals(queue_schema(pa.schema([("input_label", pa.int64())]), images=True))
    for column in QUEUE_COLUMNS:
        assert schema.field(column.name).metadata[b"description"].decode() == column.sentence
    assert {column.name for column in COLUMNS} <= set(schema.names)


def test_the_scores_in_a_queue_are_those_of_the_results(night: Night, tmp_path: Path) -> None:
    there = {(row["shard"], row["row"]): row for row in night.rows}
    for name in ("q.parquet", "q.jsonl"):
        fill(night, tmp_path / name)
        for row in read_queue(tmp_path / name):
            for column in COLUMNS:
                assert row[column.name] == there[row["shard"], row["row"]][column.name], column.name


def test_without_images_there_is_no_image(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.parquet", images=False)
    fill(night, tmp_path / "q.jsonl", images=False)
    assert "image" not in pq.read_schema(tmp_path / "q.parquet").names
    assert all("image" not in row for row in read_queue(tmp_path / "q.jsonl"))


def test_json_lines_hold_images_as_data_uris(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.jsonl")
    for row in read_queue(tmp_path / "q.jsonl"):
        head, data = row["image"].split(",", 1)
        assert head == "data:image/png;base64"
        there = pq.read_table(night.input / row["shard"]).to_pylist()[row["row"]]["image"]["bytes"]
        assert base64.b64decode(data) == there


def test_a_folder_holds_each_image_in_the_order_of_review(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "folder", "imagefolder")
    rows = read_queue(tmp_path / "folder")
    names = [row["file_name"] for row in rows]
    assert names == sorted(names)
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {*names, "metadata.jsonl"}
    for row in rows:
        there = pq.read_table(night.input / row["shard"]).to_pylist()[row["row"]]["image"]["bytes"]
        assert (tmp_path / "folder" / row["file_name"]).read_bytes() == there


def test_tasks_have_the_image_the_prediction_and_the_scores(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.json", "label-studio-tasks")
    tasks = json.loads((tmp_path / "q.json").read_text())
    scored = [task for task in tasks if task["data"]["status"] == "ok"]
    assert len(scored) == len(tasks) - 1
    for task in scored:
        data, (prediction,) = task["data"], task["predictions"]
        assert data["image"].startswith("data:image/png;base64,")
        assert len(data[KEY]) == 64
        assert {"suspicion", "entropy", "confidence", "model_version", "source"} <= set(data)
        first = ["image", "suspicion", "reason", "predicted"]
        assert list(data)[: len(first)] == first or data["source"] == "audit"
        assert ("reason" in data) == (data["source"] == "flagged")
        assert prediction["score"] == data["confidence"]
        assert prediction["model_version"] == data["model_version"]
        assert prediction["result"][0]["value"] == {"choices": [data["predicted"]]}
    (other,) = [task for task in tasks if task["data"]["status"] != "ok"]
    assert "predictions" not in other
    assert '<Choice value="9"' in (tmp_path / "q.xml").read_text()


def test_values_from_data_are_percent_encoded_in_an_address(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.json", "label-studio-tasks", url="https://x/{shard}/{row}?id={id}&key={key}")
    for data in read_queue(tmp_path / "q.json"):
        shard = data["shard"].replace("/", "%2F")
        assert data["image"] == f"https://x/{shard}/{data['row']}?id={data['id']}&key={data[KEY]}"


HOSTILE = ["../../../etc/passwd", "<script>alert(1)</script>", "a\x00b", "\U0001f600", "-" * 300, "/abs", "C:\\x", ""]


FORMATS = {"q.parquet": None, "q.jsonl": None, "q.csv": None, "q": "imagefolder", "q.json": "label-studio-tasks"}


@pytest.mark.parametrize("name", FORMATS)
def test_copied_columns_are_in_every_format(name: str, night: Night, tmp_path: Path) -> None:
    """The copied column is called label, as the column of labels that a reviewer adds."""
    fill(night, tmp_path / name, FORMATS[name])
    rows = read_queue(tmp_path / name)
    assert len(rows) > 10
    for row in rows:
        there = pq.read_table(night.input / row["shard"]).to_pylist()[int(row["row"])]
        assert row["input_label"] == (str(there["label"]) if name == "q.csv" else there["label"])
        assert "label" not in row


KEPT: dict[str, pa.Array] = {
    "rank": pa.array([1, 2]),
    "input_rank": pa.array(["a", None]),
    "image_path": pa.array(["x", "y"]),
    "when": pa.array([0, 1], pa.timestamp("ns", "UTC")),
    "price": pa.array([Decimal("-1.5"), None], pa.decimal128(5, 2)),
    "tags": pa.array([["=x"], None], pa.list_(pa.string())),
    "raw": pa.array([b"\xff", b"ok"]),
    "=note": pa.array(["=1+1", "'=1"]),
}


def test_copied_columns_of_any_name_and_type_keep_their_values(night: Night, tmp_path: Path, digits: Any) -> None:
    run_kept(night.model, tmp_path, {"x.parquet": KEPT}, digits)
    there = Night(night.model, tmp_path / "k", tmp_path / "kout")
    for name in ("q.parquet", "q.jsonl", "q.csv"):
        fill(there, tmp_path / name)
    renamed = {"rank": "input_input_rank", "input_rank": "input_rank", "image_path": "input_image_path"}
    table = pq.read_table(tmp_path / "q.parquet").sort_by("row")
    for name, values in KEPT.items():
        column = table[{"rank": "input_rank", "input_rank": "input_input_rank"}.get(name, renamed.get(name, name))]
        assert column.combine_chunks().equals(values), name
    lines = sorted(read_queue(tmp_path / "q.jsonl"), key=lambda row: row["row"])
    assert [row["when"] for row in lines] == ["1970-01-01 00:00:00.000000000Z", "1970-01-01 00:00:00.000000001Z"]
    assert [(row["price"], row["tags"], row["raw"]) for row in lines] == [("-1.50", ["=x"], "ff"), (None, None, "ok")]
    cells = sorted(read_queue(tmp_path / "q.csv"), key=lambda row: str(row["row"]))
    assert [row["'=note"] for row in cells] == ["'=1+1", "''=1"]
    assert [(row["price"], row["tags"]) for row in cells] == [("-1.50", '["=x"]'), ("", "")]


def run_kept(model: Path, place: Path, shards: dict[str, dict[str, pa.Array]], digits: Any) -> None:
    """Results in `kout` of shards in `k`, each scored by its own run and with its own copied columns."""
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import IMAGE_TYPE, Recorder, encode

    (place / "k").mkdir()
    start = 0
    for name, columns in shards.items():
        rows = len(next(iter(columns.values())))
        images = [{"bytes": encode(image), "path": None} for image in digits[start : start + rows]]
        start += rows
        pq.write_table(pa.table({"image": pa.array(images, IMAGE_TYPE), **columns}), place / "k" / name)
        config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0", keep=list(columns))
        run_screening(model, str(place / "k" / name), place / "kout", config, Recorder())


def test_a_copied_column_of_several_types_becomes_text(night: Night, tmp_path: Path, digits: Any) -> None:
    run_kept(night.model, tmp_path, {"a.parquet": {"n": pa.array([1])}, "b.parquet": {"n": pa.array(["x"])}}, digits)
    there = Night(night.model, tmp_path / "k", tmp_path / "kout")
    for name in ("q.parquet", "q.jsonl"):
        fill(there, tmp_path / name)
        assert sorted(row["n"] for row in read_queue(tmp_path / name)) == ["1", "x"]


def test_csv_holds_paths_instead_of_bytes_and_no_formula(night: Night, tmp_path: Path, digits: Any) -> None:
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import Recorder, encode, write_shard

    ids = ["=1+1", "+1", "-1", "@x", "\tx", "'=x", "'x", 'a"b,c\nd', "＝x"]  # noqa: RUF001
    write_shard(tmp_path / "h" / "=x.parquet", [encode(image) for image in digits[: len(ids)]], ids=ids)
    config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
    run_screening(night.model, str(tmp_path / "h"), tmp_path / "hout", config, Recorder())
    fill(Night(night.model, tmp_path / "h", tmp_path / "hout"), tmp_path / "q.csv")
    rows = sorted(read_queue(tmp_path / "q.csv"), key=lambda row: int(row["row"]))
    assert [row["id"] for row in rows] == [f"'{one}" for one in ids[:6]] + [*ids[6:8], f"'{ids[8]}"]
    assert {row["shard"] for row in rows} == {"'=x.parquet"}
    assert "image" not in rows[0]
    assert {row["image_path"] for row in rows} == {""}
    assert [unmark_formula(row["id"]) for row in rows] == ids


def test_hostile_ids_are_text_in_every_format(night: Night, tmp_path: Path, digits: Any) -> None:
    """File names consist of rank and digest, and contain no text from the data."""
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import Recorder, encode, write_shard

    write_shard(tmp_path / "h" / "x.parquet", [encode(image) for image in digits[:8]], ids=HOSTILE)
    config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
    run_screening(night.model, str(tmp_path / "h"), tmp_path / "hout", config, Recorder())
    hostile = Night(night.model, tmp_path / "h", tmp_path / "hout")
    for name, to in (("q.parquet", None), ("q.jsonl", None), ("q", "imagefolder"), ("q.json", "label-studio-tasks")):
        target = tmp_path / "deep" / "deeper" / name
        fill(hostile, target, to)
        assert {row["id"] for row in read_queue(target)} == set(HOSTILE)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"deeper"}
    assert len(list((tmp_path / "deep" / "deeper" / "q").iterdir())) == 9
    fill(hostile, tmp_path / "u.json", "label-studio-tasks", url="https://x/i/{id}")
    for data in read_queue(tmp_path / "u.json"):
        assert data["image"].count("/") == 4
        assert "<" not in data["image"]


def test_raw_pixels_are_exported_as_png(night: Night, tmp_path: Path, digits: Any) -> None:
    from export.errors import OptionRefused
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import Recorder

    flat = pa.array([image.ravel().tolist() for image in digits[:4]], pa.list_(pa.uint8(), 784))
    square = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), [28, 28]), flat)
    for name, column in (("flat", flat), ("square", square)):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": column}), tmp_path / name / "t.parquet")
        config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
        run_screening(night.model, str(tmp_path / name), tmp_path / f"{name}-out", config, Recorder())

    def choose(results: Any, classes: ClassNames, dry_run: bool) -> Any:
        return make_file_destination(str(tmp_path / "q.parquet"), None, "p", classes, images=True, url=None)

    with pytest.raises(OptionRefused, match="without height and width"):
        fill_queue(str(tmp_path / "flat-out"), QueueConfig(), choose)
    keys = []
    for name, model in (("flat", str(night.model)), ("square", None)):
        fill_queue(str(tmp_path / f"{name}-out"), QueueConfig(model=model), choose)
        rows = sorted(read_queue(tmp_path / "q.parquet"), key=lambda row: row["row"])
        keys.append([row["key"] for row in rows])
        for row, image in zip(rows, digits[:4], strict=True):
            assert Image.open(io.BytesIO(row["image"]["bytes"])).tobytes() == image.tobytes()
        (tmp_path / "q.parquet").unlink()
    assert keys[0] == keys[1]


def test_images_by_path_are_read_only_below_their_root(night: Night, tmp_path: Path, digits: Any) -> None:
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import IMAGE_TYPE, Recorder, encode

    (tmp_path / "root" / "a b").mkdir(parents=True)
    (tmp_path / "root" / "a b" / "1.png").write_bytes(encode(digits[0]))
    (tmp_path / "secret.png").write_bytes(encode(digits[1]))
    paths = ["a b/1.png", "../secret.png", "gone.png"]
    (tmp_path / "p").mkdir()
    column = pa.array([{"bytes": None, "path": path} for path in paths], IMAGE_TYPE)
    pq.write_table(pa.table({"image": column}), tmp_path / "p" / "p.parquet")
    config = RunConfig(
        passes=2, device="cpu", flag_if="entropy >= 0", image_root=str(tmp_path / "root"), max_bad_rows="100%"
    )
    run_screening(night.model, str(tmp_path / "p"), tmp_path / "pout", config, Recorder())
    there = Night(night.model, tmp_path / "p", tmp_path / "pout")
    fill(there, tmp_path / "q.json", "label-studio-tasks", url="https://x/{path}")
    (data,) = read_queue(tmp_path / "q.json")
    assert data["image"] == "https://x/a%20b/1.png"


def test_labels_read_back_each_text_that_a_csv_queue_marks() -> None:
    for text in ("=1+1", "'=1", "''=1", "-1", "@x", "\tx", "\uff1dx"):
        assert mark_formula(text) == f"'{text}"
        assert unmark_formula(f"'{text}") == text
    for text in ("", "'", "plain", "'quoted'"):
        assert mark_formula(text) == unmark_formula(text) == text
