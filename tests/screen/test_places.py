"""Runs whose INPUT or OUTPUT has odd names, closed folders or addresses with passwords."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile

from screen import cli
from screen.output.check import check_results
from screen.output.manifest_file import ManifestFile
from screen.output.quarantine import QUARANTINE_NAME

SECRET = "hunter2"  # noqa: S105  of no account


def call(*words: str | Path) -> int:
    """Run a command in this process, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["oodscreen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def run(*words: str | Path) -> int:
    return call("run", *words, "-T", "1", "--device", "cpu")


def finished(output: Path) -> list[str]:
    manifest = ManifestFile.read(output)
    assert manifest is not None
    return sorted(manifest.entries)


def quarantined(output: Path) -> list[str]:
    return list(pq.read_table(output / QUARANTINE_NAME)["shard"].to_pylist())


def test_a_closed_folder_is_reported_by_run_and_check(
    article_onnx: Path,
    digit_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(digit_shards, source)
    shutil.copy(source / "c.parquet", source / "c.PARQUET")
    (source / "linked").symlink_to(digit_shards / "sub")
    scan = os.scandir

    def scandir(folder: Any = ".") -> Any:
        if Path(folder) == source / "sub":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        assert run(article_onnx, source, output, "--json") == 3
        summary = json.loads(capsys.readouterr().out)
        assert list(summary["unreadable"]) == ["sub/"]
        assert summary["passed_over"] == {"endings": {".PARQUET": 1}, "hidden": 0, "listed": 0, "broken": 0}
        report = check_results(output, str(source))
        assert report.problems == ()
        assert any("c.PARQUET" not in note and ".PARQUET 1" in note for note in report.notes)
        assert any("'sub/': quarantined" in note and "Permission denied" in note for note in report.notes)
    assert finished(output) == ["a.parquet", "b.parquet", "c.parquet", "linked/d.parquet"]
    assert quarantined(output) == ["sub/"]
    assert "'sub/d.parquet': in INPUT, but without a result" in check_results(output, str(source)).problems
    assert run(article_onnx, source, output) == 0
    assert check_results(output, str(source)).problems == ()
    capsys.readouterr()
    assert run(article_onnx, source, digit_shards / "sub" / "out") == 2
    assert "is inside INPUT" in capsys.readouterr().err


@pytest.fixture
def store(article_onnx: Path, digit_shards: Path) -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    memory.put(str(article_onnx), "/models/m.onnx")
    memory.put(str(article_onnx), f"/user:{SECRET}@models/m.onnx")
    for name in ("a.parquet", "c.parquet"):
        memory.put(str(digit_shards / name), f"/in/{name}")
        memory.put(str(digit_shards / name), f"/user:{SECRET}@in/{name}")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.mark.hostile(
    "An object store with a file and a folder of the same name, or with a name of 300 characters",
    "a shard whose result cannot have its name in OUTPUT is quarantined with the reason; the other shards are scored",
)
def test_names_that_output_cannot_hold_quarantine_their_shards(store: Any, tmp_path: Path) -> None:
    shard = store.store["/in/c.parquet"].getvalue()
    wide = f"{'x' * 300}.parquet"
    for name in (wide, "a.parquet/b.parquet", "n//e.parquet"):
        store.store[f"/in/{name}"] = MemoryFile(store, f"/in/{name}", shard)
    output = tmp_path / "out"
    for _ in range(2):
        assert run("memory://models/m.onnx", "memory://in", output) == 3
        assert finished(output) == ["c.parquet"]
        # The store in memory, other than S3, cannot open an object below another.
        assert sorted(quarantined(output)) == ["a.parquet", "a.parquet/b.parquet", "n//e.parquet", wide]
        assert check_results(output, "memory://in").problems == ()


@pytest.mark.hostile(
    "A password or an access key in an address, such as ftp://user:password@host/",
    "no message, result, manifest, report or metric contains the password or the key",
)
def test_a_password_in_an_address_is_written_nowhere(
    store: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def place(name: str) -> str:
        return f"memory://user:{SECRET}@{name}"

    store.pipe(f"/user:{SECRET}@in/bad.parquet", b"nothing")
    model, source, output = place("models/m.onnx"), place("in"), place("out")
    metrics = tmp_path / "m.prom"
    assert run(model, source, output, "--json", "--metrics", metrics) == 3
    assert run(model, source, output) == 3
    assert call("check", output, "--input", source, "--json") == 0
    assert call("inspect", model) == 0
    assert call("report", output, "-o", place("page.html")) == 0
    assert call("report", output, "-o", place("page.html"), "--input", source) == 0
    assert call("queue", output, "-o", place("queue.parquet"), "--ledger", place("ledger"), "--input", source) == 0
    for words in (
        ["run", place("none"), source, output],
        ["run", model, place("none"), output],
        ["run", model, source, f"{source}/out"],
        ["run", model, f"ftp://user:{SECRET}@127.0.0.1:1/in", output],
        ["run", model, f"nosuch://user:{SECRET}@host/in?sig={SECRET}", output],
        ["run", model, f"https://127.0.0.1:1/x.parquet?sig={SECRET}", output],
        ["check", place("none"), "--json"],
        ["report", place("none")],
        ["nonsense", source],
        ["--debug", "run", model, f"ftp://user:{SECRET}@127.0.0.1:1/in", output],
    ):
        assert call(*words) in (1, 2)
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err
    assert "memory://out" in shown.out
    assert SECRET not in metrics.read_text()
    for name, file in store.store.items():
        if "@in/" not in name:
            content = file.getvalue()
            start = content.find(SECRET.encode())
            assert start < 0, (name, content[max(0, start - 200) : start + 50])
    for name in (f"/user:{SECRET}@out/a.parquet", f"/user:{SECRET}@out/{QUARANTINE_NAME}"):
        with store.open(name) as file:
            table = pq.read_table(file)
        assert SECRET not in f"{table.to_pylist()} {table.schema.metadata}"
