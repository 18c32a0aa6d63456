"""Export or refuse every layout of dropout in ONNX files on the command line; run the exported files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.contract.reader import read_model
from export.runtime import onnxruntime
from tests.conftest import oodscreen
from tests.export.layouts.family import EXPORTED, REFUSED, Layout


@pytest.mark.parametrize("layout", [one for one in EXPORTED if one.quick], ids=lambda one: one.name)
def test_a_layout_of_dropout_is_exported_with_its_sites(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(layout, tmp_path, capsys, monkeypatch)


@pytest.mark.integration
@pytest.mark.parametrize("layout", [one for one in EXPORTED if not one.quick], ids=lambda one: one.name)
def test_every_other_layout_of_dropout_is_exported_with_its_sites(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(layout, tmp_path, capsys, monkeypatch)


def check(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a layout with the proof, and draw from the exported file twice."""
    exported = tmp_path / "exported.onnx"
    onnx.save(layout.build(), tmp_path / "model.onnx")
    code = oodscreen("export", tmp_path / "model.onnx", exported, *layout.options, monkeypatch=monkeypatch)
    errors = capsys.readouterr().err
    assert code == 0, errors
    assert layout.message in errors
    contract = read_model(exported).contract
    assert tuple(round(site.rate, 6) for site in contract.sites) == layout.rates
    assert len({site.name for site in contract.sites}) == len(layout.rates)
    assert contract.image_shape == (8, 8, 3)
    assert contract.verified["deterministic_difference"] < 1e-5
    images = np.random.default_rng(3).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    first, second = (session.run(None, {"image": images})[0] for _ in range(2))
    assert np.any(first != second)


@pytest.mark.parametrize("layout", REFUSED, ids=lambda one: one.name)
def test_dropout_that_cannot_be_kept_is_refused_by_its_reason(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    onnx.save(layout.build(), tmp_path / "model.onnx")
    code = oodscreen("export", tmp_path / "model.onnx", folder / "m.onnx", *layout.options, monkeypatch=monkeypatch)
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert layout.message in errors
    assert "wanted:" in errors
    assert "next:" in errors
    assert list(folder.iterdir()) == []


def test_every_refusal_has_its_own_message() -> None:
    assert len({layout.message for layout in REFUSED}) == len(REFUSED) >= 6
    assert len({layout.name for layout in (*EXPORTED, *REFUSED)}) == len(EXPORTED) + len(REFUSED)
