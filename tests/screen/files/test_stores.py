"""Runs with model, input and output in an object store: fsspec's store in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from export.errors import InputChanged, OptionRefused, OutputLocked, ReadFailed, WriteFailed
from screen.config import RunConfig
from screen.files.listing import list_shards
from screen.files.paths import as_path, is_local, open_bytes
from screen.input.preview import Preview
from screen.output.check import check_results
from screen.output.lock import hold_output, refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME
from screen.output.record import RECORD_NAME
from screen.review.report.gather import gather_findings
from screen.review.report.page import write_page
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from tests.conftest import Recorder, write_shard

NAMES = ["a.parquet", "b.parquet", "c.parquet", "sub/d.parquet"]


@pytest.fixture
def store(digit_shards: Path, article_onnx: Path) -> Iterator[Any]:
    """A store that contains the model and the shards."""
    memory = fsspec.filesystem("memory")
    memory.put(str(article_onnx), "/models/m.onnx")
    for path in digit_shards.rglob("*.parquet"):
        memory.put(str(path), f"/in/{path.relative_to(digit_shards)}")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def run(source: str = "memory://in", output: str = "memory://out", **options: Any) -> RunSummary:
    config = RunConfig(passes=2, device="cpu", batch_size=50, **options)
    return run_screening("memory://models/m.onnx", source, output, config, Recorder())


def there(store: Any, folder: str = "/out") -> list[str]:
    return sorted(name.removeprefix(folder + "/") for name in store.find(folder))


def test_a_run_in_a_store_writes_what_a_local_run_writes(
    store: Any, article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    summary = run()
    local = run_screening(
        article_onnx, str(digit_shards), tmp_path / "out", RunConfig(passes=2, device="cpu"), Recorder()
    )
    assert summary.rows == local.rows == 300
    assert there(store) == sorted([MANIFEST_NAME, QUARANTINE_NAME, RECORD_NAME, *NAMES])
    for name in NAMES:
        assert store.cat(f"/out/{name}") == (tmp_path / "out" / name).read_bytes()
    assert check_results(as_path("memory://out"), "memory://in").problems == ()


def test_input_and_output_may_be_in_different_stores(store: Any, digit_shards: Path, tmp_path: Path) -> None:
    run(output=str(tmp_path / "out"))
    run(source=str(digit_shards))
    for name in NAMES:
        assert store.cat(f"/out/{name}") == (tmp_path / "out" / name).read_bytes()


def test_a_rerun_does_only_what_changed(store: Any, tmp_path: Path) -> None:
    run()
    assert run().skipped == NAMES
    path = write_shard(tmp_path / "a.parquet", [None])
    store.put(str(path), "/in/a.parquet")
    store.rm("/in/b.parquet")
    again = run(max_bad_rows="100%")
    assert again.reasons == {"a.parquet": "changed since they were scored"}
    assert again.vanished == ["b.parquet"]
    with open_bytes(as_path("memory://out") / QUARANTINE_NAME) as file:
        assert pq.read_table(file)["shard"].to_pylist() == ["a.parquet"]


def test_a_run_that_is_stopped_goes_on_and_ends_the_same(store: Any) -> None:
    run(output="memory://whole")

    def stop(finished: int) -> None:
        if finished == 2:
            raise KeyboardInterrupt

    config = RunConfig(passes=2, device="cpu", batch_size=50)
    with pytest.raises(KeyboardInterrupt):
        run_screening("memory://models/m.onnx", "memory://in", "memory://out", config, Recorder(stop))
    names = there(store)
    assert [name for name in names if name.endswith(".json")] != []
    assert {"a.parquet", "b.parquet"} <= set(names)
    assert not {"c.parquet", "sub/d.parquet", QUARANTINE_NAME} & set(names)
    assert check_results(as_path("memory://out")).problems == ("the last run did not finish; repeat it",)
    assert run().skipped == ["a.parquet", "b.parquet"]
    assert there(store) == there(store, "/whole")
    for name in set(there(store)) - {RECORD_NAME}:  # its durations differ
        assert store.cat(f"/out/{name}") == store.cat(f"/whole/{name}"), name


def test_an_upload_that_fails_leaves_no_object_and_no_file(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    put = type(store).put_file

    def refuse(self: Any, path: str, target: str, **options: Any) -> None:
        if target.endswith("c.parquet"):
            raise RuntimeError("the store said 503")
        put(self, path, target, **options)

    monkeypatch.setattr(type(store), "put_file", refuse)
    with pytest.raises(WriteFailed, match="RuntimeError: the store said 503"):
        run()
    assert "c.parquet" not in there(store)
    assert {"a.parquet", "b.parquet"} <= set(there(store))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(type(store), "put_file", put)
    assert run().skipped == ["a.parquet", "b.parquet"]


def test_a_store_that_stops_answering_is_no_damaged_file(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails and can be started again; it does not quarantine undamaged rows."""
    from fsspec.implementations.memory import MemoryFile

    shards_are_found = False

    def read(self: Any, size: int = -1) -> bytes:
        if shards_are_found and self.path.endswith("d.parquet"):
            raise ConnectionError("gone")
        return bytes(super(MemoryFile, self).read(size))

    monkeypatch.setattr(MemoryFile, "read", read, raising=False)

    class Start(Recorder):
        def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
            nonlocal shards_are_found
            shards_are_found = True

    config = RunConfig(passes=2, device="cpu", batch_size=50)
    with pytest.raises((ReadFailed, InputChanged)):
        run_screening("memory://models/m.onnx", "memory://in", "memory://out", config, Start())
    shards_are_found = False
    again = run()
    assert again.exit_code == 0
    assert again.rows + sum(entry.rows for entry in again.earlier) == 300


def test_the_lock_of_a_store_lets_one_run_in(store: Any) -> None:
    output = as_path("memory://out")
    with hold_output(output) as note:
        assert note == ""
        with (
            pytest.raises(OutputLocked, match=r"held by process \d+ on .*, which renewed its lock 0 s ago"),
            hold_output(output),
        ):
            raise AssertionError("not reached")
        with pytest.raises(OutputLocked):
            refuse_if_held(output)
    refuse_if_held(output)
    assert there(store) == []
    with hold_output(output):
        pass


@pytest.mark.parametrize("left", [b"", b"nonsense", None], ids=["empty", "nonsense", "fresh"])
def test_a_lock_that_cannot_be_read_or_is_fresh_is_respected(store: Any, left: bytes | None) -> None:
    fresh = json.dumps({"holder": "x", "renewed": time.time()}).encode()
    store.pipe_file("/out/_lock.3", fresh if left is None else left)
    with pytest.raises(OutputLocked), hold_output(as_path("memory://out")):
        raise AssertionError("not reached")


def test_a_lock_without_recent_renewal_is_taken_over(store: Any) -> None:
    store.pipe_file("/out/_lock.3", json.dumps({"holder": "x", "renewed": time.time() - 3600}).encode())
    with hold_output(as_path("memory://out")):
        assert there(store) == ["_lock.3", "_lock.4"]
    assert there(store) == []


def test_of_two_that_find_a_dead_holder_one_gets_the_lock(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run lists the locks before the first creates its own."""
    from screen.output import store_lock

    output = as_path("memory://out")
    stale = store_lock._locks(output)
    with hold_output(output):
        monkeypatch.setattr(store_lock, "_locks", lambda output, partition=None: stale)
        with pytest.raises(OutputLocked, match="another run, which started at the same moment"), hold_output(output):
            raise AssertionError("not reached")


def test_a_holder_renews_its_lock(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from screen.output import store_lock

    monkeypatch.setattr(store_lock, "_RENEW_SECONDS", 0.01)
    with hold_output(as_path("memory://out")):
        first = store.cat("/out/_lock.1")
        deadline = time.monotonic() + 10
        while store.cat("/out/_lock.1") == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.cat("/out/_lock.1") != first


def test_a_report_is_made_of_results_and_pictures_in_a_store(store: Any) -> None:
    run()
    findings = gather_findings("memory://out", top=12)
    assert findings.notes == ()
    assert [isinstance(top_row.preview, Preview) for top_row in findings.top_rows] == [True] * 12
    for _ in range(2):  # the second replaces the first
        size = write_page(findings, "memory://pages/report.html")
    assert len(store.cat("/pages/report.html")) == size
    store.rm("/in/sub/d.parquet")
    note, next_step = gather_findings("memory://out", top=300).notes
    assert "memory://in/sub/d.parquet no longer exists in memory://in" in note.replace("memory:///", "memory://")
    assert "--input" in next_step


def test_a_store_that_cannot_lock_gives_a_notice(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = type(store).pipe_file

    def overwrite(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        pipe(self, path, value, **options)

    monkeypatch.setattr(type(store), "pipe_file", overwrite)
    listener = Recorder()
    config = RunConfig(passes=2, device="cpu")
    run_screening("memory://models/m.onnx", "memory://in", "memory://out", config, listener)
    assert any("OUTPUT is not locked" in note for note in listener.notes)
    assert there(store) == sorted([MANIFEST_NAME, QUARANTINE_NAME, RECORD_NAME, *NAMES])


def test_a_glob_in_a_store_finds_what_it_matches(store: Any) -> None:
    listing = list_shards("memory://in/**/*.parquet")
    assert str(listing.root) == "memory://in"
    assert [file.name for file in listing.files] == NAMES
    assert [str(file.path) for file in listing.files] == [f"memory://in/{name}" for name in NAMES]
    assert [file.name for file in list_shards("memory://in/[ac].parquet").files] == ["a.parquet", "c.parquet"]


def test_results_in_a_store_never_become_input(store: Any) -> None:
    from export.errors import OutputRefused

    with pytest.raises(OutputRefused, match="is inside INPUT"):
        run(output="memory://in/out")
    with pytest.raises(OutputRefused, match="would replace this input shard"):
        run(source="memory://in/a.parquet", output="memory://in")
    assert there(store, "/in") == NAMES


def test_an_address_of_a_file_is_a_local_path(tmp_path: Path) -> None:
    path = as_path(f"file://{tmp_path}/a b")
    assert path == tmp_path / "a b"
    assert is_local(path)


@pytest.mark.parametrize("address", ["nosuchstore://x/y", "s4://bucket/x"])
def test_an_unknown_store_is_refused(address: str) -> None:
    with pytest.raises(OptionRefused, match="cannot be used"):
        as_path(address)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(OptionRefused, match="cannot be used") as refused:
        as_path("memory://x")
    assert "pip install 'oodscreen[s3]'" in refused.value.next_step
