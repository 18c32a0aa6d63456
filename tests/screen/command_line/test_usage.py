from __future__ import annotations

from pathlib import Path

import pytest

import oodscreen as package
from tests.conftest import oodscreen


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["run", "", "in", "out"], "MODEL.onnx"),
        (["run", "m", "", "out"], "INPUT"),
        (["run", "m", "in", ""], "OUTPUT"),
        (["run", "m", "in", "out", "--calibration", ""], "--calibration"),
        (["run", "m", "in", "out", "--metrics="], "--metrics"),
        (["run", "m", "in", "out", "--keep", "a", "--keep", ""], "--keep"),
        (["run", "--config", ""], "--config"),
        (["report", "out", "-o", ""], "--output"),
        (["evaluate", "out", "other", ""], "OTHERS"),
        (["pack", "photos", ""], "SHARDS"),
    ],
)
def test_an_empty_value_as_of_an_unset_shell_variable_is_refused(
    words: list[str],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert oodscreen(*words, monkeypatch=monkeypatch) == 2
    assert f"error: {shown} is an empty text." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_path_is_refused_in_python_too(
    article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(package.OptionRefused, match=r"^output is an empty text"):
        package.run(article_onnx, digit_shards, "")
    with pytest.raises(package.OptionRefused, match=r"^metrics is an empty text"):
        package.run(article_onnx, digit_shards, "out", metrics="")
    assert not list(tmp_path.iterdir())
