"""Runs against a real S3 endpoint, over HTTP on this machine: moto's server."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import contents, write_input
from export.errors import OutputLocked
from screen.files.paths import as_path
from screen.output.history import HISTORY_FOLDER
from screen.output.locks import store as store_lock
from screen.output.locks.hold import LOCK_NAME, hold_output
from screen.output.record import RECORD_NAME
from tests.conftest import write_shard
from tests.pages import DOCS, find_blocks

pytestmark = pytest.mark.integration

moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def environment(endpoint: str) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


@pytest.fixture
def bucket(endpoint: str, article_onnx: Path, tmp_path: Path) -> Iterator[Any]:
    """The file system of a bucket with a model and seven shards."""
    secrets = {"key": "test", "secret": "test"}
    store = s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True, **secrets)
    store.mkdir("bucket")
    store.put(str(article_onnx), "bucket/m.onnx")
    store.put(str(write_input(tmp_path / "in")) + "/", "bucket/in/", recursive=True)
    yield store
    store.rm("bucket", recursive=True)


def command(output: str, *more: str) -> list[str]:
    options = ["--passes", "20", "--batch-size", "16", "--device", "cpu", "--threads", "1", "--max-bad-rows", "5%"]
    return [OODSCREEN, "run", "s3://bucket/m.onnx", "s3://bucket/in", output, *options, *more]


def call(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def objects(bucket: Any, folder: str) -> dict[str, bytes]:
    prefix = f"bucket/{folder}/"
    found = {name.removeprefix(prefix): bucket.cat(name) for name in bucket.find(prefix)}
    left_out = (RECORD_NAME, HISTORY_FOLDER, LOCK_NAME)
    return {name: content for name, content in found.items() if not name.startswith(left_out)}


def test_the_commands_of_the_docs_work_as_typed(bucket: Any, environment: dict[str, str], digit_shards: Path) -> None:
    """With the names of the docs in the bucket."""
    bucket.mv("bucket/m.onnx", "bucket/model.onnx")
    bucket.put(str(digit_shards) + "/", "bucket/shards/", recursive=True)
    blocks = [block for block in find_blocks(DOCS / "stores.md") if "s3://bucket/" in block.text]
    assert blocks
    shell = {**environment, "PATH": f"{Path(OODSCREEN).parent}:{environment['PATH']}"}
    for block in blocks:
        done = call(shell, "bash", "-e", "-c", block.text)
        assert done.returncode == 0, done.stderr
    assert bucket.exists("bucket/results/_manifest.jsonl")


def held_locks(bucket: Any, folder: str) -> list[str]:
    """The objects of locks that are not released."""
    return [name for name in bucket.glob(f"bucket/{folder}/{LOCK_NAME}.*") if bucket.size(name)]


def test_results_in_s3_are_those_of_a_local_run(bucket: Any, environment: dict[str, str], tmp_path: Path) -> None:
    for output in ("s3://bucket/out", str(tmp_path / "out")):
        done = call(environment, *command(output))
        assert done.returncode == 0, done.stderr
        assert "OUTPUT is not locked" not in done.stderr  # this store supports conditional creation
    assert objects(bucket, "out") == contents(tmp_path / "out")
    assert call(environment, OODSCREEN, "check", "s3://bucket/out", "--input", "s3://bucket/in").returncode == 0


@pytest.mark.usefixtures("alone_with_ray")
def test_parts_and_workers_of_a_cluster_write_the_same_into_s3(bucket: Any, environment: dict[str, str]) -> None:
    assert call(environment, *command("s3://bucket/out")).returncode == 0
    for part in ("1/2", "2/2"):
        done = call(environment, *command("s3://bucket/parts", "--part", part))
        assert done.returncode == 0, done.stderr
    assert objects(bucket, "parts") == objects(bucket, "out")
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    done = call(environment, *command("s3://bucket/ray", "--engine", "ray"))
    assert done.returncode == 0, done.stderr
    assert objects(bucket, "ray") == objects(bucket, "out")


def test_a_rerun_identifies_an_object_by_its_entity_tag(
    bucket: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    assert call(environment, *command("s3://bucket/out")).returncode == 0
    bucket.put(str(tmp_path / "in" / "0.parquet"), "bucket/in/0.parquet")  # identical bytes have the same tag
    assert (
        "skipped, finished earlier and unchanged: 7 shard(s)" in call(environment, *command("s3://bucket/out")).stdout
    )
    write_shard(tmp_path / "new.parquet", [b"no image"])
    bucket.put(str(tmp_path / "new.parquet"), "bucket/in/0.parquet")
    printed = call(environment, *command("s3://bucket/out")).stderr
    assert "to score, changed since they were scored: 1 shard(s): 0.parquet" in printed


def test_a_killed_run_leaves_complete_objects_and_the_next_run_continues(
    bucket: Any, environment: dict[str, str]
) -> None:
    """A lock expires after five minutes without renewal; here it is removed by hand instead."""
    assert call(environment, *command("s3://bucket/whole")).returncode == 0
    moments = random.Random()  # noqa: S311
    for _ in range(4):
        running = subprocess.Popen(command("s3://bucket/out"), env=environment, stderr=subprocess.DEVNULL)
        while running.poll() is None and not held_locks(bucket, "out"):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.6))
        running.send_signal(signal.SIGKILL)
        running.wait()
        left, whole = objects(bucket, "out"), objects(bucket, "whole")
        assert all(left[name] == whole[name] for name in left if name.endswith(".parquet"))
        if held := held_locks(bucket, "out"):
            refused = call(environment, *command("s3://bucket/out"))
            assert refused.returncode == 75
            assert f"in use by process {running.pid} on " in refused.stderr
            bucket.rm(held)
    assert call(environment, *command("s3://bucket/out")).returncode == 0
    assert objects(bucket, "out") == objects(bucket, "whole")


def test_a_suspended_run_leaves_its_results_and_lock_to_its_successor(
    endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own clock and requests; the run of each holder is replaced by calls of its lock."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    output, clock = as_path("s3://bucket/out"), store_lock._clock
    with hold_output(output) as first:
        with pytest.raises(OutputLocked, match="in use by process"), hold_output(output):
            raise AssertionError("not reached")
        time.sleep(2)
        monkeypatch.setattr(store_lock, "_DEAD_SECONDS", 1.0)
        with hold_output(output) as second:
            monkeypatch.setattr(store_lock, "_DEAD_SECONDS", 300.0)
            monkeypatch.setattr(store_lock, "_clock", lambda: clock() + 301)
            with pytest.raises(OutputLocked, match="took the lock over"):
                first.check()
            second.check()
            assert len(held_locks(bucket, "out")) >= 1
    assert held_locks(bucket, "out") == []


def test_unreachable_locations_are_refused_with_one_message(environment: dict[str, str], tmp_path: Path) -> None:
    words = command(str(tmp_path / "out"))
    for wrong in ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},):
        done = call({**environment, **wrong, "AWS_MAX_ATTEMPTS": "1"}, *words)
        assert done.returncode == 2, done.stderr
        assert "s3://bucket/m.onnx cannot be reached" in done.stderr
        assert "Traceback" not in done.stderr
    done = call(environment, *command("s3://nobucket/out"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "error: Unexpected" not in done.stderr
