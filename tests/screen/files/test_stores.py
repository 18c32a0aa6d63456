"""Runs with model, input and output in an object store: fsspec's store in memory."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from export.errors import OptionRefused, OutputLocked, ReadFailed, WriteFailed
from screen.config import RunConfig
from screen.files.listing import list_shards
from screen.files.paths import as_path, is_local, open_bytes
from screen.input.preview import Preview
from screen.output.check import check_results
from screen.output.history import HISTORY_FOLDER, read_history
from screen.output.locks import store as store_lock
from screen.output.locks.hold import LOCK_NAME, hold_output, refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME
from screen.output.record import RECORD_NAME
from screen.partition import ShardPartition
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
    """Names of all objects of a folder but released locks, which are empty and stay, and the history."""
    names = sorted(name.removeprefix(folder + "/") for name in store.find(folder))
    names = [name for name in names if not name.startswith(f"{HISTORY_FOLDER}/")]
    return [name for name in names if not (name.startswith(LOCK_NAME) and store.size(f"{folder}/{name}") == 0)]


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
    nights = [read_history(as_path(f"memory://{name}")).nights for name in ("out", "whole")]
    assert [(night.rows, night.scores) for night in nights[0]] == [(night.rows, night.scores) for night in nights[1]]
    assert len(store.find(f"/out/{HISTORY_FOLDER}")) == 1
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
    summary = run_screening("memory://models/m.onnx", "memory://in", "memory://out", config, Start())
    assert (summary.exit_code, len(summary.unreadable)) == (3, 1)
    shards_are_found = False
    again = run()
    assert again.exit_code == 0
    assert again.rows + sum(entry.rows for entry in again.earlier) == 300


def age_by(store: Any, name: str, seconds: float) -> None:
    """Set back the time that the store wrote for an object."""
    store.store[name].modified -= timedelta(seconds=seconds)


def test_the_lock_of_a_store_lets_one_run_in(store: Any) -> None:
    output = as_path("memory://out")
    with hold_output(output) as held:
        assert held.note == ""
        with (
            pytest.raises(OutputLocked, match=r"in use by process \d+ on .*, which renewed its lock 0 s ago"),
            hold_output(output),
        ):
            raise AssertionError("not reached")
        with pytest.raises(OutputLocked):
            refuse_if_held(output)
    refuse_if_held(output)
    assert there(store) == []
    with hold_output(output):
        pass


@pytest.mark.parametrize("left", [b"nonsense", b'{"holder": "x"}'], ids=["nonsense", "fresh"])
def test_a_lock_that_cannot_be_read_or_is_fresh_is_respected(store: Any, left: bytes) -> None:
    store.pipe_file("/out/_lock.3", left)
    with pytest.raises(OutputLocked), hold_output(as_path("memory://out")):
        raise AssertionError("not reached")


def test_a_lock_without_recent_renewal_is_taken_over(store: Any) -> None:
    store.pipe_file("/out/_lock.3", b"{}")
    age_by(store, "/out/_lock.3", 301)
    with hold_output(as_path("memory://out")):
        assert there(store) == ["_lock.3", "_lock.4"]
    assert there(store) == []


@pytest.mark.hostile(
    "A machine with a wrong clock holds the lock of an OUTPUT in an object store, or examines the lock of another "
    "machine",
    "a run measures the age of the lock by the clock of the store alone",
)
@pytest.mark.parametrize("wrong", [-3600, 3600])
def test_the_clock_of_a_machine_does_not_decide(store: Any, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    output = as_path("memory://out")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + wrong)
        with hold_output(output):
            patch.undo()
            with pytest.raises(OutputLocked):
                refuse_if_held(output)


def test_of_two_that_find_a_dead_holder_one_gets_the_lock(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run lists the locks before the first creates its own."""
    output = as_path("memory://out")
    stale = store_lock._find_locks(output)
    with hold_output(output):
        monkeypatch.setattr(store_lock, "_find_locks", lambda output: stale)
        with pytest.raises(OutputLocked, match="another run, which started at the same moment"), hold_output(output):
            raise AssertionError("not reached")


def test_a_holder_renews_its_lock(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_RENEW_SECONDS", 0.01)
    output = as_path("memory://out")
    with hold_output(output) as held:
        deadline = time.monotonic() + 10
        while there(store)[0] in ("_lock.1", "_lock.2") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert there(store)[0] not in ("_lock.1", "_lock.2")
        held.check()
        with pytest.raises(OutputLocked):
            refuse_if_held(output)


@pytest.mark.hostile(
    "A run with an OUTPUT in an object store is suspended for more than five minutes, and continues",
    "if another run has taken over the lock, the suspended run ends with exit code 75 before it writes, and does not "
    "change the lock of the other run",
)
def test_a_suspended_holder_stops_and_does_not_let_a_third_run_in(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    output = as_path("memory://out")
    clock = store_lock._clock
    with hold_output(output) as first:
        first.check()
        age_by(store, "/out/_lock.1", 301)
        with hold_output(output) as second:
            monkeypatch.setattr(store_lock, "_clock", lambda: clock() + 301)
            with pytest.raises(OutputLocked, match="took the lock over"):
                first.check()
            monkeypatch.setattr(store_lock, "_clock", clock)
            assert isinstance(first, store_lock._StoreLock)
            first.release()
            second.check()
            with pytest.raises(OutputLocked):
                refuse_if_held(output)
            with pytest.raises(OutputLocked), hold_output(output):
                raise AssertionError("not reached")
    assert there(store) == []
    refuse_if_held(output)


def test_a_suspended_holder_whose_lock_nobody_took_goes_on(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = store_lock._clock
    with hold_output(as_path("memory://out")) as held:
        monkeypatch.setattr(store_lock, "_clock", lambda: clock() + 3600)
        held.check()
        assert there(store) == ["_lock.2"]


def test_a_run_that_lost_its_lock_writes_nothing_more(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = store_lock._clock

    def suspend(finished: int) -> None:
        age_by(store, "/out/_lock.1", 301)
        store.pipe_file("/out/_lock.2", b'{"holder": "the successor"}')
        monkeypatch.setattr(store_lock, "_clock", lambda: clock() + 301)

    config = RunConfig(passes=2, device="cpu", batch_size=50)
    with pytest.raises(OutputLocked, match="took the lock over"):
        run_screening("memory://models/m.onnx", "memory://in", "memory://out", config, Recorder(suspend))
    assert [name for name in there(store) if name.endswith(".parquet")] == ["a.parquet"]
    assert "_lock.2" in there(store)


@pytest.mark.hostile(
    "An object store creates the lock, but its response is lost, and the client repeats the request",
    "the run recognises its own lock by the token in the lock",
)
def test_a_lock_whose_creation_was_not_answered_is_recognised(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = type(store).pipe_file

    def ask_twice(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        pipe(self, path, value, mode=mode, **options)
        if "_lock" in path:
            pipe(self, path, value, mode=mode, **options)

    monkeypatch.setattr(type(store), "pipe_file", ask_twice)
    output = as_path("memory://out")
    with hold_output(output) as held:
        assert isinstance(held, store_lock._StoreLock)
        held._renew()
        held.check()
    with hold_output(output):
        pass


@pytest.mark.hostile(
    "An object store refuses to delete the lock of a run",
    "the run writes an empty object, which marks the lock as released, and the next run starts at once",
)
def test_a_refused_delete_does_not_keep_the_lock(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, path: str, **options: Any) -> None:
        raise PermissionError("403")

    monkeypatch.setattr(type(store), "rm_file", refuse)
    monkeypatch.setattr(type(store), "rm", refuse)
    output = as_path("memory://out")
    for _ in range(2):
        with hold_output(output) as held:
            assert held.note == ""
        refuse_if_held(output)


@pytest.mark.hostile(
    "An object store refuses to list or to write objects (403, 503)",
    "the command ends with exit code 1, and the error states the reason of the store and the next step",
)
@pytest.mark.parametrize(
    "error", [PermissionError("Forbidden"), OSError(errno.EBUSY, "Slow Down"), RuntimeError("503")]
)
def test_a_store_that_refuses_to_list_is_explained(
    store: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(type(store), "glob", refuse)
    output = as_path("memory://out")
    with pytest.raises(WriteFailed), hold_output(output):
        raise AssertionError("not reached")
    with pytest.raises(ReadFailed):
        refuse_if_held(output)


def test_parts_of_different_counts_exclude_each_other_in_a_store(store: Any) -> None:
    output = as_path("memory://out")
    with (
        hold_output(output, ShardPartition(1, 2)),
        hold_output(output, ShardPartition(2, 2)),
        pytest.raises(OutputLocked, match="Part 1/2"),
        hold_output(output, ShardPartition(3, 3)),
    ):
        raise AssertionError("not reached")


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
    assert "memory://in/sub/d.parquet does not exist in memory://in" in note.replace("memory:///", "memory://")
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
