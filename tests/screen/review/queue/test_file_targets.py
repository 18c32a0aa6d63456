"""The contents of a queue in each file format."""

from __future__ import annotations

import base64
import io
import json
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
from tests.screen.review.conftest import Night, read_queue


def fill(night: Night, target: Path, to: str | None = None, *, images: bool = True, url: str | None = None) -> None:
    def choose(results: Any, classes: ClassNames) -> Any:
        template = None if url is None else ImageUrl(url)
        return make_file_destination(str(target), to, target.name, classes, images=images, url=template)

    fill_queue(str(night.results), QueueConfig(include_random="20%"), choose)


def test_parquet_has_every_column_with_its_description(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.parquet")
    schema = pq.read_schema(tmp_path / "q.parquet")
    assert schema.equals(queue_schema(images=True))
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

    def choose(results: Any, classes: ClassNames) -> Any:
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
