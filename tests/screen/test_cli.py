"""The command line: its commands, errors and exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from screen.demo import read_images
from screen.output.locks.hold import LOCK_NAME, hold_output
from tests.conftest import encode, oodscreen, read_results, write_shard

OODSCREEN = Path(sys.executable).with_name("oodscreen")


def tree(folder: Path) -> list[str]:
    """Every path but the lock, which is empty and stays."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != LOCK_NAME)


def loaded_modules(code: str) -> set[str]:
    """Top-level modules that are loaded after running some code in a new interpreter."""
    code += "\nimport json, sys; print('MODULES' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.rsplit("MODULES", 1)[1]))


HELP = """
import sys
import time
sys.argv = ["oodscreen", *%r]
from screen import cli
try:
    cli.main()
except SystemExit:
    pass
"""
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnxruntime", "sklearn", "matplotlib", "label_studio_sdk"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["calibrate", "--help"],
        ["evaluate", "--help"],
        ["queue", "--help"],
        ["labels", "--help"],
        ["export", "--help"],
        ["--version"],
    ],
)
def test_help_loads_neither_tensorflow_nor_onnxruntime(arguments: list[str]) -> None:
    loaded = loaded_modules(HELP % arguments)
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_the_help_does_not_load_numpy() -> None:
    assert "numpy" not in loaded_modules(HELP % ["--help"])


def test_that_test_can_fail() -> None:
    assert "onnxruntime" in loaded_modules("import screen.cli; from export.runtime import onnxruntime")


def test_reading_a_contract_loads_no_tensorflow(article_onnx: Path) -> None:
    loaded = loaded_modules(f"from export.contract.reader import read_model; read_model({str(article_onnx)!r})")
    assert not loaded & HEAVY


def test_running_a_model_loads_no_tensorflow(article_onnx: Path, digit_shards: Path, tmp_path: Path) -> None:
    loaded = loaded_modules(HELP % ["run", str(article_onnx), str(digit_shards / "c.parquet"), str(tmp_path / "out")])
    assert loaded & HEAVY == {"onnxruntime"}


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_run_that_finds_nothing_to_do_loads_neither_onnxruntime_nor_ray(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, engine: str
) -> None:
    command = ["run", str(article_onnx), str(digit_shards / "c.parquet"), str(tmp_path / "out"), "-T", "3"]
    assert "onnxruntime" in loaded_modules(HELP % command)
    assert not loaded_modules(HELP % [*command, "--engine", engine]) & {"onnxruntime", "ray"}


def test_a_refused_device_leaves_an_empty_output_empty(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    assert (
        oodscreen("run", article_onnx, digit_shards, tmp_path / "out", "--device", "cuda", monkeypatch=monkeypatch) == 2
    )
    assert not list((tmp_path / "out").iterdir())


def test_run_alone_names_its_missing_argument_and_completes(tmp_path: Path) -> None:
    done = subprocess.run([OODSCREEN, "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Missing argument 'MODEL.onnx'" in done.stderr
    for words, position in (("oodscreen run --for", 2), ("oodscreen run ", 2)):
        environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(position)}
        environment["_OODSCREEN_COMPLETE"] = "complete_bash"
        done = subprocess.run([OODSCREEN], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert not done.stderr
        assert ("--force" in done.stdout) is ("--for" in words)


@pytest.mark.parametrize("flag", ["--json", "--json=1"])
def test_a_usage_error_with_debug_keeps_its_code_and_its_line_of_json(flag: str) -> None:
    words = [str(OODSCREEN), "--debug", "run", "m.onnx", "in", "out", "--passes", "many", flag]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "Traceback" in done.stderr


def test_a_locked_output_is_refused_before_onnxruntime_is_loaded(
    article_onnx: Path, digit_shards: Path, tmp_path: Path
) -> None:
    command = ["run", str(article_onnx), str(digit_shards), str(tmp_path / "out")]
    with hold_output(tmp_path / "out"):
        loaded = loaded_modules(HELP % command)
    assert "filelock" in loaded
    assert "onnxruntime" not in loaded
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_run_says_what_it_did(
    article_onnx: Path,
    digit_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert oodscreen("run", article_onnx, digit_shards, tmp_path / "out", "-T", "5", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    table = read_results(tmp_path / "out")
    flagged = sum(table["flag"].to_pylist())
    assert f"300 rows in 4 shard(s), {flagged} flagged" in told.out
    assert "flag rule: entropy > 0.575646" in told.out
    assert "300 rows in 4 shard(s) to score" in told.err


def test_options_reach_the_results(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--passes", "3", "--seed", "9", "--flag-if", "confidence > 0", "--keep", "label", "--device", "cpu"]
    assert oodscreen("run", article_onnx, digit_shards, tmp_path / "out", *options, monkeypatch=monkeypatch) == 0
    table = read_results(tmp_path / "out")
    assert set(table["passes"].to_pylist()) == {3}
    assert set(table["flag"].to_pylist()) == {True}
    assert "label" in table.column_names
    assert json.loads(table.schema.metadata[b"oodscreen"])["seed"] == 9


def test_inspect_prints_the_contract(
    article_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("inspect", article_onnx, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    for part in (
        "uint8 [N, 28, 28, 1] (grey)",
        "[N, 10] (softmax)",
        "rate 0.25 on [64, 12, 12]",
        "pixel * 0.0039215686",
    ):
        assert part in told


def test_inspect_prints_the_plan_as_json_too(
    article_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("inspect", article_onnx, "--json", "-T", "50", monkeypatch=monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    boundary = {name.split("/")[-1]: size for name, size in told["boundary"].items()}
    assert boundary == {"features": [9216], "whole": [128]}
    assert list(told["sites"].values()) == ["subtracted", "compacted"]
    # By hand: the convolutions and the dense layers of the article's network, multiply-adds of one row.
    trunk, head = 26 * 26 * 32 * 9 + 24 * 24 * 64 * 9 * 32, 9216 * 128 + 128 * 10
    assert told["trunk_share"] == pytest.approx(trunk / (trunk + head))
    once, each = trunk + 9216 * 128, 9216 / 4 * 64 + 64 * 10
    assert told["relative_cost"] == pytest.approx((once + 50 * each) / (trunk + head))
    assert oodscreen("inspect", article_onnx, "--masks", "per-row", "--json", monkeypatch=monkeypatch) == 0
    assert set(json.loads(capsys.readouterr().out)["sites"].values()) == {"batch"}


def test_calibrate_run_and_evaluate_from_the_command_line(
    article_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (80, 28, 28, 1), dtype=np.uint8)
    for name, images in (
        ("known", read_images("valid")[0][:700]),
        ("digits", read_images("test")[0][:200]),
        ("noise", noise),
    ):
        write_shard(tmp_path / name / "a.parquet", [encode(image) for image in images])
    calibrate = "calibrate M known -o c --review-rate 0.05 -T 30 --device cpu --adaptive"
    for command in (
        calibrate,
        "run M digits results/digits --calibration c --device cpu --keep label",
        "run M noise results/noise --calibration c --device cpu --adaptive --flag-if 'entropy > 2'",
        "evaluate results/digits results/noise --output m.json --plot m.svg",
    ):
        words = [str(article_onnx) if word == "M" else word for word in shlex.split(command)]
        assert oodscreen(*words, monkeypatch=monkeypatch) == 0, command
    told = capsys.readouterr().out
    assert "entropy + layout_distance + contrast_distance + penultimate_distance" in told
    assert "flag rule: p_value <= 0.05 or (entropy > 2)" in told
    assert all(read_results(tmp_path / "results" / "noise")["flag"].to_pylist())
    identity = json.loads(pq.read_schema(tmp_path / "results" / "noise" / "a.parquet").metadata[b"oodscreen"])
    assert (identity["passes"], identity["seed"], identity["masks"]) == (30, 0, "shared")
    assert identity["calibration"] == hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()
    assert identity["adaptive"]
    (noise_set,) = json.loads((tmp_path / "m.json").read_text())["sets"]
    assert {one["score"]: one["fpr95"] for one in noise_set["separations"]}["ood_score"] == 0.0
    assert (tmp_path / "m.svg").stat().st_size > 1000
    assert (
        oodscreen(
            *shlex.split(calibrate.replace("M", str(article_onnx)).replace("known", "noise")), monkeypatch=monkeypatch
        )
        == 2
    )


def test_another_calibration_in_the_same_output_is_refused(
    article_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "known" / "a.parquet", [encode(image) for image in read_images("valid")[0][:500]])
    for name, rate in (("c", "0.1"), ("d", "0.2")):
        words = f"calibrate {article_onnx} known -o {name} --review-rate {rate} -T 3 --device cpu --json".split()
        capsys.readouterr()
        assert oodscreen(*words, monkeypatch=monkeypatch) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["output"], told["review_rate"], told["passes"]) == (name, float(rate), 3)
        assert told["sha256"] == hashlib.sha256(Path(name).read_bytes()).hexdigest()
        assert told["reference_rows"] + told["fit_rows"] + told["calibration_rows"] == told["rows"] == 500
        low, high = told["rate_interval"]
        assert low < told["expected_rate"] <= told["review_rate"] < high
        assert told["adaptive"] is None
    run = f"run {article_onnx} known out --device cpu --calibration"
    assert oodscreen(*run.split(), "c", monkeypatch=monkeypatch) == 0
    assert oodscreen(*run.split(), "d", monkeypatch=monkeypatch) == 2
    assert "calibration: " in capsys.readouterr().err


def test_doctor_says_what_the_machine_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("doctor", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert re.search(r"^device +(cpu|cuda)", told, re.MULTILINE)
    speed = re.search(r"(\d+) GFLOP/s", told)
    assert speed
    assert int(speed.group(1)) > 0
    assert "CPUExecutionProvider" in told


def test_export_from_the_command_line(
    article_keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(["zero", "one", *(f"digit {number}" for number in range(2, 10))]))
    options = ["--scale", "1/255", "--classes", str(tmp_path / "names.txt")]
    assert oodscreen("export", article_keras, tmp_path / "m.onnx", *options, monkeypatch=monkeypatch) == 0
    assert "zero, one" in capsys.readouterr().out
    assert (tmp_path / "m.onnx").is_file()


@pytest.fixture
def place(article_onnx: Path, article_keras: Path, digit_shards: Path, tmp_path: Path) -> Path:
    """A folder of good and bad things to name on a command line."""
    folder = tmp_path / "place"
    folder.mkdir()
    shutil.copy(article_onnx, folder / "good.onnx")
    shutil.copy(article_keras, folder / "good.keras")
    shutil.copytree(digit_shards, folder / "shards")
    (folder / "text.parquet").write_text("this is no Parquet file")
    (folder / "text.onnx").write_text("this is no ONNX file")
    (folder / "nothing").mkdir()
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph), folder / "plain.onnx")
    return folder


BAD: dict[str, tuple[str, str]] = {
    "no such model": ("run missing.onnx shards out", "missing.onnx cannot be read"),
    "a model that is no ONNX": ("run text.onnx shards out", "not an ONNX file"),
    "a Keras model where ONNX is wanted": ("run good.keras shards out", "not an ONNX file"),
    "ONNX without a contract": ("run plain.onnx shards out", "no oodscreen contract"),
    "no such input": ("run good.onnx missing out", "missing does not exist"),
    "an empty folder": ("run good.onnx nothing out", "contains no .parquet file"),
    "input that is not Parquet": ("run good.onnx text.parquet out", "can be read as Parquet"),
    "no such image column": ("run good.onnx shards out --image-column picture", "no column 'picture'"),
    "no such key column": ("run good.onnx shards out --id-column key", "no column 'key'"),
    "no such kept column": ("run good.onnx shards out --keep more", "no column 'more'"),
    "a column that holds no images": ("run good.onnx shards out --image-column label", "has the type int64"),
    "no passes": ("run good.onnx shards out --passes 0", "--passes is 0"),
    "a negative seed": ("run good.onnx shards out --seed -1", "--seed is -1"),
    "no rows in a batch": ("run good.onnx shards out --batch-size 0", "--batch-size is 0"),
    "passes that are no number": ("run good.onnx shards out --passes many", "--passes"),
    "a rule that is none": ("run good.onnx shards out --flag-if nonsense", "'nonsense' instead of a column"),
    "a device that is none": ("run good.onnx shards out --device tpu", "--device is 'tpu'"),
    "output within the input": ("run good.onnx shards shards/out", "is inside INPUT"),
    "output that is a file": ("run good.onnx shards text.onnx", "is a file"),
    "an unknown option": ("run good.onnx shards out --verbosely", "--verbosely"),
    "a missing argument": ("run good.onnx shards", "OUTPUT"),
    "an unknown command": ("walk", "walk"),
    "no such Keras model": ("export missing.keras out.onnx --scale 1", "no model file"),
    "an export without a scale": ("export good.keras out.onnx", "no scale was given"),
    "a scale that is no number": ("export good.keras out.onnx --scale big", "--scale is 'big'"),
    "a scale by nothing": ("export good.keras out.onnx --scale 1/0", "--scale is '1/0'"),
    "class names that are missing": ("export good.keras out.onnx --scale 1 --classes no.txt", "no.txt cannot be read"),
    "an export into no folder": ("export good.keras no/out.onnx --scale 1", "cannot be written to"),
    "an export over the model": ("export good.keras good.keras --scale 1", "good.keras does not end in .onnx"),
    "a scale beyond all numbers": ("export good.keras out.onnx --scale 1e400", "--scale is '1e400'"),
    "no such image root": ("run good.onnx shards out --image-root nowhere", "--image-root nowhere is not a folder"),
    "unheard-of masks": ("run good.onnx shards out --masks some", "--masks is 'some'"),
    "an export over a folder": ("export good.keras nothing --scale 1", "cannot be written to"),
    "no such calibration": ("run good.onnx shards out --calibration missing", "The calibration missing cannot be read"),
    "a calibration that is none": (
        "run good.onnx shards out --calibration text.onnx",
        "is not a calibration, or the file is damaged",
    ),
    "stopping by a rule that cannot settle": (
        "run good.onnx shards out --adaptive --flag-if 'entropy<0.5'",
        "does not have the form `entropy > NUMBER`",
    ),
    "a rule on a calibration that is not there": (
        "run good.onnx shards out --flag-if p_value<0.1",
        "always null without a calibration",
    ),
    "several passes without dropout": ("run good.onnx shards out --masks none", "the number of passes is 100"),
    "a rule that compares passes with one pass": (
        "run good.onnx shards out --passes 1 --flag-if prediction_std>0.1",
        "contains prediction_std, and the number of passes is 1",
    ),
    "a detector that compares passes with one pass": (
        "calibrate good.onnx shards -o c --review-rate 0.1 --passes 1 --detector kurtosis",
        "the score compares passes, and is always 0 with one pass",
    ),
    "too few rows to calibrate with": ("calibrate good.onnx shards -o c --review-rate 0.1%", "contain 300 rows"),
    "a target rate that is none": ("calibrate good.onnx shards -o c --review-rate 2", "--review-rate is '2', without"),
    "a target rate that is no number": ("calibrate good.onnx shards -o c --review-rate two", "--review-rate is 'two'"),
    "features that no model has": (
        "calibrate good.onnx shards -o c --features trunk",
        "--features is trunk",
    ),
    "detectors beside features": (
        "calibrate good.onnx shards -o c --features layout --detector entropy",
        "--detector and --features were both given",
    ),
    "a rule on a distance of an older version": (
        "run good.onnx shards out --flag-if feature_distance>1",
        "which was replaced by layout_distance, contrast_distance and penultimate_distance",
    ),
    "inspecting a file that is neither": ("inspect text.onnx", "not an ONNX file"),
    "no such detector": (
        "calibrate good.onnx shards -o c --review-rate 0.1 --detector x",
        "--detector x is not available for this model",
    ),
    "no such distance": ("calibrate good.onnx shards -o c --review-rate 0.1 --distance x", "--distance is 'x'"),
    "no such reference": ("calibrate good.onnx shards -o c --review-rate 0.5 --reference no", "no does not exist"),
    "an evaluation of images": ("evaluate shards", "is not a result shard"),
    "an evaluation of nothing": ("evaluate missing", "missing does not exist"),
    "an inspection of nothing": ("inspect missing.onnx", "cannot be read"),
    "a limit that is none": ("run good.onnx shards out --max-bad-rows few", "--max-bad-rows is 'few'"),
    "an alarm without a calibration": ("run good.onnx shards out --alarm", "--alarm was given without --calibration"),
    "an alarm with a rule": (
        "run good.onnx shards out --alarm --calibration c --flag-if entropy>1",
        "--alarm was given with --flag-if",
    ),
    "an unknown force": ("run good.onnx shards out --force=more", "--force is 'more'"),
    "a check of nothing": ("check missing", "contains no _manifest.jsonl"),
    "a check of what is no result": ("check shards", "contains no _manifest.jsonl"),
    "a check of a file": ("check text.onnx", "contains no _manifest.jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_one_message_and_nothing_is_written(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, message = BAD[name]
    monkeypatch.chdir(place)
    before = tree(place)
    assert oodscreen(*shlex.split(command), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert told.count("error:") <= 1
    if told.startswith("error:"):
        assert [line.split()[0] for line in told.splitlines()[-2:]] == ["wanted:", "next:"]
    assert tree(place) == before


JSON_ERRORS = {
    "passes that are no number": ("run good.onnx shards out --json --passes many", "--passes is 'many'."),
    "no passes": ("run good.onnx shards out --passes 0 --json", "--passes is 0."),
    "an unknown option before": ("run --verbosely good.onnx shards out --json", "--verbosely"),
    "an unknown option behind": ("run good.onnx shards out --json --verbosely", "--verbosely"),
    "a missing argument": ("run good.onnx shards --json", "'OUTPUT'"),
    "a missing value": ("run good.onnx shards out --json --keep", "--keep"),
    "an unknown command": ("walk --json", "walk"),
    "an unknown option of oodscreen": ("--verbosely run good.onnx shards out --json", "--verbosely"),
    "a model that is missing": ("run missing.onnx shards out --json", "missing.onnx cannot be read"),
    "inspect": ("inspect missing.onnx --json", "missing.onnx cannot be read"),
    "check": ("check missing --json", "contains no _manifest.jsonl"),
    "queue": ("queue missing --json -o q.parquet --top none", "--top is 'none'."),
    "labels": ("labels missing.json out --json", "'--output'"),
    "calibrate": ("calibrate good.onnx shards -o c --review-rate 2 --json", "--review-rate is '2', without"),
    "doctor": ("doctor now --json", "now"),
}


@pytest.mark.parametrize("name", JSON_ERRORS)
def test_with_json_every_failure_is_one_line_of_json_too(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, message = JSON_ERRORS[name]
    monkeypatch.chdir(place)
    assert oodscreen(*shlex.split(command), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    report = json.loads(line)
    assert message in report["error"]["found"]
    assert report["exit_code"] == 2
    assert set(report) == {"exit_code", "meaning", "error"}
    assert set(report["error"]) == {"found", "wanted", "next"}
    assert told.err.startswith(f"error: {report['error']['found']}\n  wanted: {report['error']['wanted']}\n  next:")


@pytest.mark.parametrize(
    "command",
    [
        "evaluate missing --json m.json",
        "evaluate missing --json m.json --verbosely",
        "evaluate shards --json",
        "export missing.keras out.onnx --json",
        "run good.onnx shards out --flag-if --json",
        "run good.onnx shards -- --json out more",
        "run missing.onnx shards out",
    ],
)
def test_without_a_flag_json_a_failure_prints_nothing_on_standard_output(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert oodscreen(*shlex.split(command), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")


@pytest.mark.unexpected
def test_an_unexpected_error_says_what_was_found_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("screen.doctor.examination.examine", fail)
    assert oodscreen("doctor", "--json", monkeypatch=monkeypatch) == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: Unexpected ZeroDivisionError: division by zero\n")
    assert "oodscreen --debug" in json.loads(told.out)["error"]["next"]


def test_ctrl_c_ends_every_command_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("screen.doctor.examination.examine", interrupt)
    assert oodscreen("doctor", "--json", monkeypatch=monkeypatch) == 130
    assert json.loads(capsys.readouterr().out)["exit_code"] == 130


def test_without_a_command_the_help_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen(monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().out
    for panel in ("Prepare", "Screen", "Review results", "Get started"):
        assert panel in told


@pytest.mark.parametrize("width", ["80", "120"])
def test_help_shows_panels_choices_ranges_and_defaults(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert oodscreen("run", "--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    panels = ["What to score", "How to decide", "Speed and device", "Scaling out", "Nightly jobs", "Log", "General"]
    assert re.findall(r"╭─ ([A-Z][\w ]+?) ─", told) == ["Arguments", *panels]
    for part in (
        "shared|per-row",
        "auto|cpu|cuda",
        "local|ray",
        "all|quarantined",
        "1<=x<=1000000",
        "0<=x<=1024",
        "x>=0",
        "[default: 2048]",
    ):
        assert part in told
    assert "<str>" not in told.split("What to score")[1]
    assert "<bool>" not in told
    assert max(map(len, told.splitlines())) <= int(width)


@pytest.mark.parametrize("command", ["calibrate", "inspect"])
def test_a_command_without_a_calibration_shows_its_own_defaults(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen(command, "--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "as calibrated" not in told
    for default in ("[default: 100]", "[default: shared]"):
        assert default in told


def test_the_shell_completes_choices() -> None:
    environment = {
        **os.environ,
        "_OODSCREEN_COMPLETE": "complete_bash",
        "COMP_WORDS": "oodscreen run --device c",
        "COMP_CWORD": "3",
    }
    done = subprocess.run([OODSCREEN], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cpu", "cuda"]


def test_doctor_prints_json_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert oodscreen("doctor", "--json", monkeypatch=monkeypatch) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert set(told) == {
        "versions",
        "built_for",
        "gpus",
        "gpu_problem",
        "libraries",
        "device",
        "threads",
        "speed",
    }
    assert told["device"]["name"] in ("cpu", "cuda")
    assert told["gpus"] or told["gpu_problem"]
    assert told["speed"]["precision"] in ("float32", "tf32")
    assert min(told["speed"][name] for name in ("matrix_gflops", "convolution_gflops", "decoded_per_second")) > 0


def test_the_former_name_of_output_layer_still_works(
    article_keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str | Path] = ["export", article_keras, tmp_path / "m.onnx", "--scale", "1/255"]
    found = set()
    for option in ("--output", "--output-layer"):
        assert oodscreen(*words, option, "nowhere", monkeypatch=monkeypatch) == 2
        found.add(capsys.readouterr().err)
    assert len(found) == 1
    assert "nowhere" in found.pop()
    assert oodscreen(*words, "--output", "a", "--output-layer", "b", monkeypatch=monkeypatch) == 2
    assert "--output-layer and --output, the former name of --output-layer, were both given" in capsys.readouterr().err
    assert oodscreen("export", "--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "--output-layer" in told
    assert "--output " not in told


def test_the_process_itself_ends_with_the_code_and_without_a_traceback(place: Path) -> None:
    done = subprocess.run(
        [OODSCREEN, "run", "plain.onnx", "shards", "out"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: plain.onnx is an ONNX model, but has no oodscreen contract")


def test_debug_shows_the_traceback_and_keeps_the_exit_code(place: Path) -> None:
    done = subprocess.run(
        [OODSCREEN, "--debug", "run", "plain.onnx", "shards", "out"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_shard_that_cannot_be_read_ends_the_run_with_3(place: Path) -> None:
    shutil.copy(place / "text.parquet", place / "shards" / "broken.parquet")
    done = subprocess.run(
        [OODSCREEN, "run", "good.onnx", "shards", "out", "-T", "3"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "unreadable, no result: broken.parquet" in done.stderr
    assert len(read_results(place / "out")) == 300


def test_a_shard_that_can_no_longer_be_opened_keeps_its_result_and_the_run_names_it(place: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        command = [str(OODSCREEN), "run", "good.onnx", "shards", "out", "-T", "3"]
        return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)

    run()
    shard = next((place / "shards").glob("*.parquet"))
    shutil.copy(place / "text.parquet", shard)
    done = run()
    assert done.returncode == 3
    assert f"unreadable, earlier result kept: {shard.name}" in done.stderr
    (place / "out" / shard.name).unlink()
    assert f"unreadable, no result: {shard.name}" in run().stderr


def without_history(names: list[str]) -> list[str]:
    """The names without the history, in which an unfinished run has a file of its own."""
    return [name for name in names if not name.startswith("_history")]


def test_a_disk_that_is_full_loses_nothing_that_was_finished(place: Path, digits: NDArray[np.uint8]) -> None:
    """The system's limit on the size of a file stands for the full disk."""
    write_shard(place / "in" / "a.parquet", [encode(image) for image in digits[:3]])
    write_shard(place / "in" / "b.parquet", [encode(image) for image in digits[:2000]])
    command = [str(OODSCREEN), "run", "good.onnx", "in", "out", "-T", "2"]
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *command]
    done = subprocess.run(limited, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "b.parquet could not be written:" in done.stderr
    assert without_history(tree(place / "out")) == ["_manifest.jsonl", "a.parquet"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipped, finished earlier and unchanged: 1 shard(s)" in done.stdout
    assert len(read_results(place / "out")) == 2003


def test_an_empty_shard_is_scored_to_an_empty_shard(place: Path) -> None:
    write_shard(place / "in" / "a.parquet", [])
    done = subprocess.run([OODSCREEN, "run", "good.onnx", "in", "out"], cwd=place, capture_output=True, check=False)
    assert done.returncode == 0
    assert len(read_results(place / "out")) == 0


def test_an_interrupted_run_keeps_finished_shards_and_leaves_nothing_else(
    place: Path, digits: NDArray[np.uint8]
) -> None:
    for name, rows in (("a", 3), ("b", 2000)):
        write_shard(place / "in" / f"{name}.parquet", [encode(image) for image in digits[:rows]])
    command = [str(OODSCREEN), "run", "good.onnx", "in", "out", "-T", "200", "--batch-size", "3"]
    running = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (place / "out" / "a.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert without_history(tree(place / "out")) == ["_manifest.jsonl", "a.parquet"]


@pytest.fixture
def labelled(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """300 digits in two shards with their classes, as numbers and as names, and one broken image."""
    numbers = read_images("test")[1][:300].tolist()
    encoded = [encode(image) for image in digits[:300]]
    encoded[7] = b"broken"
    for name, rows in (("a", slice(0, 180)), ("b", slice(180, 300))):
        table = {
            "picture": pa.array(encoded[rows]),
            "digit": pa.array(numbers[rows]),
            "name": pa.array([f"digit {number}" for number in numbers[rows]]),
        }
        path = tmp_path / "labelled" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(table), path, row_group_size=50)
    return tmp_path / "labelled"


def test_an_export_is_checked_on_labelled_rows(
    article_keras: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"digit {number}" for number in range(10)))
    model = tmp_path / "m.onnx"
    options: list[str | Path] = [
        "--preprocess",
        "unit",
        "--check-data",
        labelled,
        "--image-column",
        "picture",
        "--check-rows",
        "1000",
    ]
    options += ["--label-column", "name", "--classes", tmp_path / "names.txt"]
    assert oodscreen("export", article_keras, model, *options, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    assert re.search(r"accuracy +[89]\d\.\d\d% on 299 labelled rows \(Keras: [89]", told.out)
    assert told.err == "warning: 1 rows have no decodable image and were left out\n"
    assert oodscreen("inspect", model, monkeypatch=monkeypatch) == 0
    assert "on 299 labelled rows" in capsys.readouterr().out


def test_a_wrong_scale_shows_on_labelled_rows(
    article_keras: Path,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: list[str | Path] = [
        "--scale",
        "1/65535",
        "--check-data",
        labelled,
        "--image-column",
        "picture",
        "--label-column",
        "digit",
    ]
    assert oodscreen("export", article_keras, tmp_path / "m.onnx", *options, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().err
    assert "warning: the accuracy of" in told
    assert "is at the level of chance" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-column", "digit"], "--label-column was given without --check-data"),
        (["--check-rows", "5"], "--check-rows was given without --check-data"),
        (["--check-data", "nowhere"], "nowhere does not exist"),
        (["--check-data", "labelled"], "no column 'image'"),
        (["--check-data", "labelled", "--image-column", "picture"], "no column 'label'"),
        (
            ["--check-data", "labelled", "--image-column", "picture", "--label-column", "name"],
            "unusable labels ('digit ",
        ),
        (["--check-data", "labelled", "--check-rows", "0"], "--check-rows"),
        (["--preprocess", "imagenet"], "--preprocess is 'imagenet'"),
        (["--resize", "bicubic"], "--resize is 'bicubic'"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused(
    article_keras: Path,
    labelled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(labelled.parent)
    scale = [] if "--preprocess" in options else ["--scale", "1/255"]
    assert oodscreen("export", article_keras, "m.onnx", *scale, *options, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert tree(labelled.parent) == ["labelled", "labelled/a.parquet", "labelled/b.parquet"]


def test_a_run_resizes_as_the_export_said(
    article_keras: Path, tmp_path: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [np.kron(image, np.ones((2, 2, 1), np.uint8)) for image in digits[:20]]
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in large])
    write_shard(tmp_path / "same" / "a.parquet", [encode(image) for image in digits[:20]])
    statuses = {}
    for resize in ("none", "pil-box"):
        model = tmp_path / f"{resize}.onnx"
        options = ["--scale", "1/255", "--resize", resize]
        assert oodscreen("export", article_keras, model, *options, monkeypatch=monkeypatch) == 0
        out = tmp_path / resize
        code = {"none": 3, "pil-box": 0}[resize]
        assert oodscreen("run", model, tmp_path / "in", out, "-T", "3", "--go-on", monkeypatch=monkeypatch) == code
        statuses[resize] = set(read_results(out)["status"].to_pylist())
    assert statuses == {"none": {"wrong_shape"}, "pil-box": {"ok"}}
    same = tmp_path / "of-same-size"
    assert oodscreen("run", tmp_path / "pil-box.onnx", tmp_path / "same", same, "-T", "3", monkeypatch=monkeypatch) == 0
    assert read_results(same)["mean"] == read_results(tmp_path / "pil-box")["mean"]


def test_force_may_stand_anywhere_with_or_without_a_kind(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = ["run", "good.onnx", "shards", "out", "-T", "2", "--json"]
    assert oodscreen(*words, monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    for forced, shards in (
        (["--force", *words[1:]], 4),
        ([*words[1:], "--force"], 4),
        (["--force", "all", *words[1:]], 4),
        (["--force", "quarantined", *words[1:]], 0),
    ):
        assert oodscreen("run", *forced, monkeypatch=monkeypatch) == 0
        assert len(json.loads(capsys.readouterr().out)["scored"]) == shards, forced


def test_a_rerun_says_what_it_does_and_why(
    place: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = ["run", "good.onnx", "shards", "out", "-T", "2"]
    assert oodscreen(*words, monkeypatch=monkeypatch) == 0
    write_shard(place / "shards" / "a.parquet", [encode(digits[0])])
    write_shard(place / "shards" / "n.parquet", [encode(digits[1])])
    (place / "shards" / "c.parquet").unlink()
    (place / "out" / "sub" / "d.parquet").unlink()
    capsys.readouterr()
    assert oodscreen(*words, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    for line in (
        "to score, changed since they were scored: 1 shard(s): a.parquet",
        "to score, new: 1 shard(s): n.parquet",
        "to score, with a missing result: 1 shard(s): sub/d.parquet",
        "skipped, finished earlier and unchanged: 1 shard(s): b.parquet",
        "no longer in INPUT, results kept: 1 shard(s): c.parquet",
    ):
        assert line in told.err
    assert "no longer in INPUT, results kept: 1 shard(s)" in told.out


def test_check_finds_results_whole_and_says_what_is_not(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert oodscreen("run", "good.onnx", "shards", "out", "-T", "2", monkeypatch=monkeypatch) == 0
    assert oodscreen("check", "out", "--input", "shards", monkeypatch=monkeypatch) == 0
    assert "300 rows in 4 shard(s)" in capsys.readouterr().out
    (place / "out" / "a.parquet").unlink()
    assert oodscreen("check", "out", "--json", monkeypatch=monkeypatch) == 1
    told = capsys.readouterr()
    assert "'a.parquet': missing, or not the file that the run wrote" in json.loads(told.out)["problems"][0]
    assert "1 problem(s) with the results in out" in told.err
