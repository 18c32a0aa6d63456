from __future__ import annotations

import signal
from pathlib import Path

import pytest

import oodscreen
from screen.output.check import check_results
from screen.output.locks.hold import refuse_if_held
from screen.run.quiet import QuietListener
from tests.conftest import contents


@pytest.mark.parametrize("event", ["advanced", "finished"])
def test_a_run_in_a_notebook_that_is_interrupted_loses_nothing_and_is_continued_by_the_next_call(
    event: str, article_onnx: Path, digit_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = oodscreen.run(article_onnx, digit_shards, tmp_path / "whole", passes=2)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores SIGINT
    try:
        with monkeypatch.context() as patched:
            patched.setattr(QuietListener, event, lambda *_: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                oodscreen.run(article_onnx, digit_shards, tmp_path / "out", passes=2)
    finally:
        signal.signal(signal.SIGINT, inherited)
    refuse_if_held(tmp_path / "out")
    rest = oodscreen.run(article_onnx, digit_shards, tmp_path / "out", passes=2)
    assert len(rest.earlier) == 1
    assert rest.rows + sum(entry.rows for entry in rest.earlier) == undisturbed.rows
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert check_results(tmp_path / "out", str(digit_shards)).problems == ()
