"""Commands where no temporary folder of the system can be written to, as in read-only containers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

import oodscreen as oodscreen_api
from export.errors import WriteFailed
from screen.files.paths import as_path
from screen.files.storage import StagingFile
from screen.files.temporary import provide_temporary_folder, temporary_folder
from tests.conftest import oodscreen


@pytest.fixture(autouse=True)
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tempfile` finds no folder that it can write to, until a folder is chosen; pytest has made its own before."""

    def find() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", find)


@pytest.mark.hostile(
    "No temporary folder can be written to, as in a read-only container",
    "temporary files are in the folder of the output; for a command without a local output, the error advises "
    "setting TMPDIR",
)
def test_temporary_files_are_in_the_folder_of_the_output(tmp_path: Path) -> None:
    provide_temporary_folder([None, "s3://bucket/out", tmp_path / "new" / "out.parquet"])
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == tmp_path
    assert os.environ["TMPDIR"] == str(tmp_path)
    assert temporary_folder() == tmp_path


@pytest.mark.parametrize("outputs", [[], [None, "memory://out"], ["/proc/nothing/out"]])
def test_without_a_writable_output_the_next_step_is_to_set_tmpdir(outputs: list[object]) -> None:
    provide_temporary_folder(outputs)
    with pytest.raises(WriteFailed) as failed:
        StagingFile(as_path("memory://out/a.parquet"))
    assert "TMPDIR" in failed.value.next_step


def test_every_command_provides_the_folder_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("screen.demo.run_demo", lambda output: seen.append(tempfile.gettempdir()))
    assert oodscreen("demo", tmp_path / "demo", monkeypatch=monkeypatch) == 0
    assert seen == [str(tmp_path)]


def test_every_function_provides_the_folder_of_its_output_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(*arguments: Any) -> None:
        seen.append(tempfile.gettempdir())

    seen: list[str] = []
    monkeypatch.setattr("screen.api.screening.execute_run", lambda *arguments, **values: see())
    monkeypatch.setattr("screen.api.reviewing.fill_queue", see)
    monkeypatch.setattr("screen.api.reviewing.label_results", see)
    monkeypatch.setattr("screen.api.packing.pack_images", see)
    for name in ("run", "queue", "labels", "pack"):
        (tmp_path / name).mkdir()
    oodscreen_api.run("m.onnx", "shards", tmp_path / "run" / "out")
    oodscreen_api.queue("memory://results", output=tmp_path / "queue" / "queue.parquet")
    oodscreen_api.labels("labels.csv", "memory://results", tmp_path / "labels" / "labels.parquet")
    oodscreen_api.pack("photos", tmp_path / "pack" / "shards")
    assert seen == [str(tmp_path / name) for name in ("run", "queue", "labels", "pack")]
    assert os.environ["TMPDIR"] == "/nowhere"
    with pytest.raises(WriteFailed):
        temporary_folder()
