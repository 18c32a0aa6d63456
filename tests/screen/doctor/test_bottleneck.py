from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screen.doctor.bottleneck import Bottleneck, Stage
from screen.doctor.timing import Stopwatch
from screen.engine.device import choice
from screen.engine.device.cuda_driver import CudaCards
from tests.conftest import oodscreen


def made(decode: float, copy: float, trunk: float, head: float, *, device: str = "cpu", cores: int = 2) -> Bottleneck:
    """Stages with these times; on the CPU all cores work, on a GPU the stages other than decoding take no core."""
    busy = cores if device == "cpu" else 0
    stages = (
        Stage("read and decode", decode, decode * cores),
        Stage("copy", copy, copy * busy),
        Stage("trunk", trunk, trunk * busy),
        Stage("head", head, head * busy),
    )
    return Bottleneck("m.onnx", "", (28, 28), 64, 0, 100, "shared", device, cores, cores, stages)


@pytest.mark.parametrize(
    ("found", "bound", "advice"),
    [
        (made(4, 0, 1, 1), "read and decode", "28 x 28 pixels"),
        (made(1, 0, 4, 1), "trunk", "--device cuda"),
        (made(1, 0, 1, 4), "head", "--adaptive"),
        (replace(made(1, 0, 1, 4), passes=1, masks="none"), "head", "--part I/N"),
        (made(4, 1, 1, 1, device="cuda"), "read and decode", "more cores"),
        (made(1, 2, 1, 1, device="cuda"), "copy", "several GPUs"),
        (replace(made(1, 0, 1, 4), threads=1), "head", "raise --threads"),
        (replace(made(1, 0, 1, 4), masks="per-row"), "head", "--masks shared"),
    ],
)
def test_the_largest_stage_bounds_the_run_and_has_its_advice(found: Bottleneck, bound: str, advice: str) -> None:
    assert found.bound_by == bound
    assert advice in found.advice


def test_stages_share_the_cores_of_a_cpu_and_overlap_on_a_gpu() -> None:
    assert made(4, 0, 1, 1).seconds == pytest.approx(6)
    assert made(4, 0.5, 1, 1, device="cuda").seconds == pytest.approx(4)
    assert made(1, 0.5, 1, 1, device="cuda").seconds == pytest.approx(2.5)
    one_thread = replace(made(4, 0, 1, 1), cores=64)  # all cores but two are idle
    assert one_thread.seconds == pytest.approx(4)


def test_a_batch_is_extrapolated_on_the_line_through_two_measurements() -> None:
    longer = Stopwatch(3.0, 4.0).extrapolate(Stopwatch(2.0, 3.0), rows=64, fewer=16, more=160)
    assert (longer.seconds, longer.cpu_seconds) == (5.0, 6.0)


def test_doctor_measures_the_rows_of_a_shard(
    article_onnx: Path, digit_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str | Path] = ["doctor", article_onnx, digit_shards, "--device", "cpu", "--passes", "3", "--json"]
    assert oodscreen(*words, monkeypatch=monkeypatch) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["source"], run["passes"], run["unreadable"]) == (str(digit_shards), 3, 0)
    assert [stage["name"] for stage in run["stages"]] == ["read and decode", "copy", "trunk", "head"]
    assert run["rows_per_second"] > 0
    assert run["bound_by"] in ("read and decode", "trunk", "head")


def test_doctor_makes_images_without_a_shard_and_says_so(
    article_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("doctor", article_onnx, "--device", "cpu", "--passes", "3", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "made-up JPEG images of 28 x 28 pixels" in told
    assert "bound by" in told


def test_doctor_refuses_a_model_and_shards_that_it_cannot_measure(
    article_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"image": pa.array([b"no image"] * 3)}), shard)
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "missing.onnx"], "missing.onnx"),
        ([article_onnx, tmp_path / "nowhere"], "nowhere"),
        ([article_onnx, shard], "None of the first 3 rows"),
    ]
    for words, told in cases:
        assert oodscreen("doctor", *words, "--device", "cpu", "-T", "2", monkeypatch=monkeypatch) == 2
        assert told in capsys.readouterr().err


def test_doctor_refuses_tf32_without_a_gpu(
    article_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards(problem="there is no driver"))
    for words in ([], ["--device", "auto"], ["--device", "cpu"]):
        assert oodscreen("doctor", article_onnx, "--precision", "tf32", *words, monkeypatch=monkeypatch) == 2
        told = capsys.readouterr()
        assert "The precision is tf32" in told.err
        assert not told.out
