"""A queue and its labels with all files in an object store, which is fsspec's in-memory store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import OutputRefused
from screen.config import RunConfig
from screen.review.labels.collect import join_labels, read_labels
from screen.review.queue.config import QueueConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.fill import fill_queue
from screen.review.queue.ledger import Ledger
from screen.review.queue.summary import QueueReport
from screen.run.runner import run_screening
from tests.conftest import Recorder


@pytest.fixture
def store(digit_shards: Path, article_onnx: Path) -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    for path in digit_shards.rglob("*.parquet"):
        memory.put(str(path), f"/in/{path.relative_to(digit_shards)}")
    config = RunConfig(passes=2, device="cpu", flag_if="entropy > 0.5")
    run_screening(article_onnx, "memory://in", "memory://out", config, Recorder())
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def fill(target: str, to: str | None = None) -> QueueReport:
    return fill_queue(
        "memory://out",
        QueueConfig(),
        lambda _, classes, dry_run: make_file_destination(target, to, "p", classes, images=True, url=None),
    )


def read(store: Any, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(store.cat(name)))


def test_a_queue_in_a_store_equals_one_on_disk_and_a_second_run_adds_nothing(store: Any, tmp_path: Path) -> None:
    report = fill("memory://queues/q.parquet")
    assert report.handed_on == read(store, "/queues/q.parquet").num_rows > 30
    again = fill("memory://queues/r.parquet")
    assert (again.handed_on, again.before) == (0, report.handed_on)
    assert not store.exists("/queues/r.parquet")
    assert len(store.glob("/out/_queue.ledger/*.pq")) == 1
    assert [store.size(lock) for lock in store.glob("/out/_queue.ledger/*lock*")] == [0]  # released
    store.rm("/out/_queue.ledger", recursive=True)
    fill(str(tmp_path / "q.parquet"))
    assert pq.read_table(tmp_path / "q.parquet").equals(read(store, "/queues/q.parquet"))


def test_a_kill_between_object_and_ledger_exports_nothing_twice(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(ledger: Ledger, note: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "confirm", die)
        with pytest.raises(KeyboardInterrupt):
            fill("memory://queues/q.jsonl")
    assert "the images in that file count as exported" in fill("memory://queues/r.jsonl").to_text()
    assert not store.exists("/queues/r.jsonl")


def test_a_folder_of_images_in_a_store_is_refused(store: Any) -> None:
    with pytest.raises(OutputRefused, match="is in an object store"):
        fill("memory://queues/q", "imagefolder")
    assert fill("memory://queues/q.parquet").handed_on > 30


def test_a_missing_object_is_named(store: Any) -> None:
    store.rm("/in/a.parquet")
    report = fill("memory://queues/q.parquet")
    assert report.exit_code == 3
    assert set(report.shards) == {"a.parquet"}


def test_labels_are_read_and_written_in_a_store(store: Any) -> None:
    fill("memory://queues/q.parquet")
    queue = read(store, "/queues/q.parquet")
    buffer = io.BytesIO()
    pq.write_table(queue.append_column("label", queue["predicted"]), buffer)
    store.pipe_file("/queues/said.parquet", buffer.getvalue())
    target = "memory://queues/labels.parquet"
    given = read_labels("memory://queues/said.parquet", target, label_column="label", project=None, url=None)
    report = join_labels(given, "memory://out", target, images=True)
    assert report.labelled == queue.num_rows == read(store, "/queues/labels.parquet").num_rows
    assert report.worth.flagged.corrections == 0
    assert report.without_image == 0
