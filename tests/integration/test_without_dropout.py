"""The commands of the page on models without dropout, on a trained network from which the dropout was removed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from export.contract.reader import read_model
from screen.demo import read_images, write_shards
from tests.conftest import oodscreen
from tests.pages import DOCS, find_blocks

pytestmark = pytest.mark.integration


def test_the_commands_of_the_page_insert_dropout(
    keras: Any, article_keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = keras.models.load_model(article_keras, compile=False)
    layers = [layer for layer in trained.layers if type(layer).__name__ not in ("Dropout", "InputLayer")]
    keras.Sequential([keras.Input((28, 28, 1)), *layers]).save("plain.keras")
    images, labels = read_images("valid")
    write_shards(tmp_path / "labelled", images[:400], labels[:400], "digit")
    blocks = [
        block for block in find_blocks(DOCS / "without-dropout.md") if "oodscreen export plain.keras" in block.text
    ]
    assert len(blocks) == 3
    for block in blocks:
        (line,) = block.text.splitlines()
        assert oodscreen(*shlex.split(line)[1:], monkeypatch=monkeypatch) == 0
    assert "(classifier)" in capsys.readouterr().out
    inserted, chosen = (read_model(tmp_path / name).contract for name in ("inserted.onnx", "chosen.onnx"))
    assert [site.rate for site in inserted.sites] == [0.2]
    assert chosen.rate_choice is not None
    assert chosen.accuracy is not None
    assert chosen.rate_choice.trials[0].accuracy == pytest.approx(chosen.accuracy.exported)
    assert chosen.accuracy.exported > 0.9
