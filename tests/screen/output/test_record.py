from __future__ import annotations

import json
from pathlib import Path

from screen.config import RunConfig
from screen.output.manifest_file import ManifestFile
from screen.output.record import RECORD_NAME, RunRecord
from screen.run.runner import run_screening
from tests.conftest import Recorder


def test_a_run_leaves_a_record_that_is_read_back_for_its_configuration_alone(
    article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    config = RunConfig(passes=2, device="cpu")
    summary = run_screening(article_onnx, str(digit_shards), tmp_path, config, Recorder())
    manifest = ManifestFile.read(tmp_path)
    assert manifest is not None
    record = RunRecord.read(tmp_path, manifest.header["configuration"])
    assert record is not None
    assert (record.model, record.device, record.output_kind) == (article_onnx.name, "cpu", "softmax")
    assert (record.rows, record.shards, record.promise) == (300, 4, None)
    assert 0 < record.seconds <= summary.seconds
    assert [stage for stage, _ in record.stages] == list(summary.stages)
    assert RunRecord.read(tmp_path, "another") is None
    before = (tmp_path / RECORD_NAME).read_bytes()
    run_screening(article_onnx, str(digit_shards), tmp_path, config, Recorder())
    assert (tmp_path / RECORD_NAME).read_bytes() == before, "a run with nothing to do says nothing"


def test_a_record_that_is_missing_or_damaged_is_none(tmp_path: Path) -> None:
    assert RunRecord.read(tmp_path, "x") is None
    for content in ("", "[]", "{}", json.dumps({"promise": None, "configuration": "x"}), "\udcff"):
        (tmp_path / RECORD_NAME).write_text(content, errors="surrogateescape")
        assert RunRecord.read(tmp_path, "x") is None
