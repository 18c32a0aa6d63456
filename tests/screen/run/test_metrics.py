from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from export.errors import ExitCode, OptionRefused, OutputLocked, WriteFailed
from screen import cli
from screen.decide.drift import FlagCount, find_drift
from screen.run.metrics import record_failure, write_metrics
from screen.run.summary import RunSummary
from screen.settings.bad_rows import BadRowLimit
from tests.conftest import write_shard

Samples = dict[tuple[str, str], float]


def read(path: Path, output: str) -> Samples:
    """Every sample by its name and its second label, as a Prometheus server parses it."""
    samples: Samples = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            assert sample.labels.pop("output") == output
            samples[sample.name.removeprefix("oodscreen_"), "".join(sample.labels.values())] = sample.value
    return samples


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["oodscreen", "run", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_metrics_are_those_of_the_summary(
    article_onnx: Path,
    digit_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics, output = tmp_path / "nightly.prom", tmp_path / "out"
    started = time.time()
    assert run(monkeypatch, article_onnx, digit_shards, output, "-T", "3", "--metrics", metrics, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    samples = read(metrics, str(output))
    assert samples["run_rows", ""] == values["rows"] == 300
    assert samples["run_flagged_rows", ""] == values["flagged"] > 0
    assert samples["run_flag_rate", ""] == pytest.approx(values["flagged"] / 300)
    assert samples["run_bad_rows", ""] == 0
    assert samples["run_rows_by_status", "ok"] == 300
    assert samples["run_passes", ""] == 3
    assert [samples["run_shards", state] for state in ("scored", "skipped", "unreadable", "vanished")] == [4, 0, 0, 0]
    for stage in ("read", "decode", "score", "write"):
        assert samples["run_stage_seconds", stage] == pytest.approx(values["stages"][stage], abs=0.001)
    assert samples["last_run_exit_code", ""] == 0
    assert started <= samples["last_success_timestamp_seconds", ""] <= samples["last_run_timestamp_seconds", ""]
    assert [path.name for path in tmp_path.glob("nightly*")] == ["nightly.prom"]


def test_a_failure_is_recorded_and_the_last_success_stays(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, output = tmp_path / "nightly.prom", tmp_path / "out"
    words: list[str | Path] = [article_onnx, digit_shards / "c.parquet", output, "-T", "2", "--metrics", metrics]
    assert run(monkeypatch, *words) == 0
    success = read(metrics, str(output))["last_success_timestamp_seconds", ""]
    assert run(monkeypatch, *words, "--seed", "5") == 2
    samples = read(metrics, str(output))
    assert samples["last_run_exit_code", ""] == 2
    assert samples["last_success_timestamp_seconds", ""] == success
    assert ("run_rows", "") not in samples


def test_a_run_with_bad_rows_is_not_a_success(
    article_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_shard(tmp_path / "a.parquet", [None])
    words = (article_onnx, source, tmp_path / "out", "-T", "2", "--go-on", "--metrics", tmp_path / "m.prom")
    assert run(monkeypatch, *words) == 3
    samples = read(tmp_path / "m.prom", str(tmp_path / "out"))
    assert (samples["last_run_exit_code", ""], samples["run_rows_by_status", "null_image"]) == (3, 1)
    assert not {"last_success_timestamp_seconds", "run_flag_rate"} & {name for name, _ in samples}


def test_a_run_that_finds_output_locked_does_not_write_metrics(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    with pytest.raises(OutputLocked), record_failure(path, "out"):
        raise OutputLocked("held", wanted="one run", next_step="wait")
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), record_failure(path, "out"):
        raise ZeroDivisionError
    assert read(path, "out")["last_run_exit_code", ""] == 1


def test_a_metrics_file_that_cannot_be_parsed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    for garbage in (b"\xff\xfe", b"oodscreen_last_success_timestamp_seconds{output= nonsense\n"):
        path.write_bytes(garbage)
        write_metrics(path, "out", ExitCode.FAILED, None)
        assert ("last_success_timestamp_seconds", "") not in read(path, "out")


def test_neither_an_empty_night_nor_a_failed_run_removes_the_alarm(tmp_path: Path) -> None:
    path, night = tmp_path / "m.prom", FlagCount(1000, 60)
    summary = RunSummary(tmp_path / "out", "p_value <= 0.02", 10, BadRowLimit.parse("1%"))
    for counts in ([night], [FlagCount(0, 0), night]):
        summary.drift = find_drift(5000, 100, counts, 1000)
        write_metrics(path, "out", summary.exit_code, summary)
        samples = read(path, "out")
        assert (samples["run_drift_alarm", ""], samples["run_drift_rows", ""]) == (1, 1000)
    assert summary.exit_code is ExitCode.DONE
    write_metrics(path, "out", ExitCode.FAILED, None)
    assert read(path, "out")["run_drift_alarm", ""] == 1
    summary.drift = find_drift(5000, 100, [FlagCount(1000, 20)], 1000)
    write_metrics(path, "out", ExitCode.DONE, summary)
    assert read(path, "out")["run_drift_alarm", ""] == 0


@pytest.mark.parametrize("name", ["m.txt", "nowhere/m.prom", "m"])
def test_a_path_that_the_collector_does_not_read_is_refused_before_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionRefused, match="--metrics is"), record_failure(tmp_path / name, "out"):
        raise AssertionError("not reached")


def test_a_refused_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "m.prom").mkdir()  # a folder with this name: the rename fails, for root too
    with pytest.raises(WriteFailed, match=r"m\.prom could not be written"):
        write_metrics(tmp_path / "m.prom", "out", ExitCode.DONE, None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.prom"]


def test_a_name_that_needs_escaping_is_read_back_unchanged(tmp_path: Path) -> None:
    name = 'a "quoted"\nname\\'
    write_metrics(tmp_path / "m.prom", name, ExitCode.DONE, None)
    assert read(tmp_path / "m.prom", name)["last_run_exit_code", ""] == 0
