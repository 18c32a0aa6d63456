from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import oodscreen
from tests.screen.decide.test_calibration import make_calibration


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("FLAG_IF", "entropi >>> 3", "--flag-if is set by the environment variable OODSCREEN_RUN_FLAG_IF."),
        ("CALIBRATION", "cal", "--calibration is set by the environment variable OODSCREEN_RUN_CALIBRATION."),
        ("CALIBRATION", "none", "--calibration is set by the environment variable OODSCREEN_RUN_CALIBRATION."),
        ("KEEP", "camera", "--keep is set by the environment variable OODSCREEN_RUN_KEEP."),
        ("IMAGE_COLUMN", "photo", "--image-column is set by the environment variable OODSCREEN_RUN_IMAGE_COLUMN."),
        ("METRICS", "none/x.prom", "--metrics is set by the environment variable OODSCREEN_RUN_METRICS."),
        ("LOG_FILE", "none/x.log", "--log-file is set by the environment variable OODSCREEN_RUN_LOG_FILE."),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_an_error_names_the_source_of_the_value_that_it_is_about(
    name: str,
    value: str,
    found: str,
    by_file: bool,
    article_onnx: Path,
    digit_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_calibration().save(Path("cal"))  # of another model
    words: list[str | Path] = []
    if by_file:
        key = name.lower()
        Path("night.toml").write_text(f"[run]\n{key} = {json.dumps(value)}\n")
        words = ["--config", "night.toml"]
        found = f"{found.partition(' is set')[0]} is set by the key {key} in [run] of the file night.toml."
    else:
        monkeypatch.setenv(f"OODSCREEN_RUN_{name}", value)
    monkeypatch.setenv("OODSCREEN_RUN_DEVICE", "cpu")
    assert oodscreen("run", article_onnx, digit_shards, "out", *words, monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert found in told
    assert "OODSCREEN_RUN_DEVICE" not in told


def test_an_error_names_the_key_of_an_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("night.toml").write_text('[run]\nmodel = "none.onnx"\ninput = "in"\noutput = "out"\n')
    assert oodscreen("run", "--config", "night.toml", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert "MODEL.onnx is set by the key model in [run] of the file night.toml." in told
    assert "key input" not in told


def test_a_configuration_file_named_by_a_variable_is_refused_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OODSCREEN_RUN_CONFIG", "none.toml")
    assert oodscreen("run", "m", "in", "out", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert "none.toml cannot be read: No such file or directory." in told
    assert "--config is set by the environment variable OODSCREEN_RUN_CONFIG." in told


def test_an_invalid_variable_of_the_program_itself_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OODSCREEN_DEBUG", "maybe")
    assert oodscreen("run", "m", "in", "out", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert "--debug is 'maybe'. --debug is set by the environment variable OODSCREEN_DEBUG." in told
    assert "wanted: true or false" in told


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("OODSCREEN_RUN_MODEL", "MODEL.onnx is an argument, and arguments have no variables"),
        ("OODSCREEN_RUN_INPUT", "INPUT is an argument, and arguments have no variables"),
        ("OODSCREEN_RUN_PRINT_CONFIG", "--print-config has no variable"),
        ("OODSCREEN_RUN_PASES", "the nearest name is OODSCREEN_RUN_PASSES."),
        ("OODSCREEN_RUN_XYZZY", "sets no option of `oodscreen run`.\n"),
    ],
)
def test_a_variable_without_effect_is_explained(
    name: str, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "3")
    assert oodscreen("run", "--print-config", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().err
    assert f"The environment variable {name} sets no option of `oodscreen run`" in told
    assert found in told
    assert ("nearest" in told) == ("nearest" in found)


@pytest.mark.parametrize(
    "name", ["OODSCREEN_INSTALL_COMPLETION", "OODSCREEN_SHOW_COMPLETION", "OODSCREEN_HELP", "OODSCREEN_RUN_HELP"]
)
def test_a_variable_neither_prints_the_help_nor_installs_anything(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "1")
    assert oodscreen("run", "none.onnx", "in", "out", monkeypatch=monkeypatch) == 2
    assert "none.onnx cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--max-bad-rows", "5x"], "--max-bad-rows is '5x'."),
        (["--part", "9/3"], "--part is '9/3'."),
        (["--alarm"], "--alarm"),
        (["--passes", "0"], "--passes is 0."),
    ],
)
def test_values_that_a_run_refuses_are_not_printed(
    words: list[str], found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen("run", *words, "--print-config", monkeypatch=monkeypatch) == 2
    told = capsys.readouterr()
    assert found in told.err
    assert told.out == ""
