"""Dropout inserted into a network without it: one ONNX file, from the export to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.labelled import identify_images
from export.contract.metadata import INSERTED
from export.contract.reader import read_model
from export.proof.rates import RATES
from tests.conftest import encode, oodscreen, read_results

SIZE, CLASSES, COPIES = 6, 3, 4
OPTIONS = ("--scale", "1/255", "--output-kind", "logits")


def network(path: Path, *, dropout: str = "", last: str = "fc") -> Path:
    """A network that predicts the brightest channel from several copies of each channel's mean, without training.

    Args:
        path: ONNX file to write.
        dropout: name of a Dropout node of rate 0.2 before the last layer; "" for none.
        last: name of the last layer.
    """
    rng = np.random.default_rng(0)
    copies = np.repeat(np.eye(CLASSES), COPIES, axis=0)[:, :, None, None]
    weights = {
        "conv.w": copies + rng.normal(0, 0.05, copies.shape),
        "fc.w": 12 * np.repeat(np.eye(CLASSES), COPIES, axis=1),
        "fc.b": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.w"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Add", ["relu", "conv"], ["sum"], name="sum"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["dropped" if dropout else "flat", "fc.w", "fc.b"], ["y"], name=last, transB=1),
    ]
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    if dropout:
        tensors += [helper.make_tensor("rate", TensorProto.FLOAT, [], [0.2])]
        tensors += [helper.make_tensor("on", TensorProto.BOOL, [], [True])]
        nodes.insert(5, helper.make_node("Dropout", ["flat", "rate", "on"], ["dropped"], name=dropout))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def shard(path: Path, rows: int, seed: int) -> NDArray[np.uint8]:
    """Write labelled images, and return them."""
    rng = np.random.default_rng(seed)
    values, labels = rng.integers(0, 180, (rows, SIZE, SIZE, 3)), rng.integers(0, CLASSES, rows)
    values[np.arange(rows), :, :, labels] += rng.integers(10, 75, (rows, 1, 1))
    images = values.astype(np.uint8)
    pq.write_table(pa.table({"image": [encode(image) for image in images], "label": labels}), path)
    return images


@pytest.mark.integration
def test_inserted_dropout_gives_the_results_of_dropout_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all modes; the sites have the same name, so that the masks are equal."""
    own = network(tmp_path / "own.onnx", dropout="before:fc")
    bare = network(tmp_path / "bare.onnx")
    insert = ("--insert-dropout", "classifier=20%")
    results = {}
    shard(tmp_path / "known.parquet", 300, 1)
    shard(tmp_path / "rows.parquet", 60, 2)
    for source, options in ((own, ()), (bare, insert)):
        folder = tmp_path / source.stem
        folder.mkdir()
        model, known, rows = folder / "model.onnx", tmp_path / "known.parquet", tmp_path / "rows.parquet"
        assert oodscreen("export", source, model, *OPTIONS, *options, monkeypatch=monkeypatch) == 0
        calibration = folder / "rows.cal"
        given = ("-T", "20", "--device", "cpu")
        assert oodscreen("calibrate", model, known, "-o", calibration, *given, monkeypatch=monkeypatch) == 0
        for name, mode in (
            ("calibrated", ("--calibration", calibration)),
            ("per-row", ("--masks", "per-row")),
            ("adaptive", ("--adaptive",)),
        ):
            output = folder / name
            assert oodscreen("run", model, rows, output, *given, *mode, monkeypatch=monkeypatch) == 0
            assert oodscreen("check", output, monkeypatch=monkeypatch) == 0
            results[source.stem, name] = read_results(output)
        assert oodscreen("report", folder / "calibrated", "-o", folder / "report.html", monkeypatch=monkeypatch) == 0
    for name in ("calibrated", "per-row", "adaptive"):
        assert results["own", name].equals(results["bare", name])
        assert np.ptp(results["own", name]["entropy"].to_numpy()) > 0
    (site,) = read_model(tmp_path / "bare" / "model.onnx").contract.sites
    assert (site.name, site.rate, site.origin) == ("before:fc", 0.2, INSERTED)
    assert "before:fc</bdi> at rate 0.2: inserted by the export" in (tmp_path / "bare" / "report.html").read_text()
    assert "Inserted dropout" not in (tmp_path / "own" / "report.html").read_text()
    assert "inserted" not in json.loads((tmp_path / "own" / "calibrated" / "_run.json").read_text())
    assert "(inserted: the model was not trained with this dropout)" in capsys.readouterr().out


def test_a_rate_is_chosen_on_labelled_rows_which_a_calibration_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, model, rows = network(tmp_path / "bare.onnx"), tmp_path / "model.onnx", tmp_path / "rows"
    rows.mkdir()
    images = shard(rows / "rate.parquet", 220, 3)
    auto = (*OPTIONS, "--insert-dropout", "classifier=auto", "--check-data", rows / "rate.parquet")
    assert oodscreen("export", source, model, *auto, monkeypatch=monkeypatch) == 0
    contract = read_model(model).contract
    choice = contract.rate_choice
    assert choice is not None
    assert [trial.rate for trial in choice.trials] == [0.0, *RATES]
    assert (choice.rows, choice.digests) == (220, tuple(sorted(identify_images(images))))
    assert contract.sites[0].rate == choice.rate in RATES
    without = choice.trials[0]
    assert contract.accuracy is not None
    assert without.accuracy == contract.accuracy.exported
    assert without.nll < 1
    assert f"rate {choice.rate:g}, chosen on 220 labelled rows" in capsys.readouterr().out

    again = tmp_path / "again.onnx"
    assert oodscreen("export", source, again, *auto, monkeypatch=monkeypatch) == 0
    assert read_model(again).contract.rate_choice == choice

    shard(rows / "known.parquet", 300, 4)
    given = ("-o", tmp_path / "rows.cal", "-T", "4", "--device", "cpu", "--json")
    capsys.readouterr()
    assert oodscreen("calibrate", model, rows, *given, monkeypatch=monkeypatch) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["statuses"], report["copies"]) == (520, {"chose_rate": 220}, 0)
    assert oodscreen("calibrate", model, rows / "rate.parquet", *given, monkeypatch=monkeypatch) == 2
    assert "the export chose the dropout rate on this row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layer", "rows", "options", "message"),
    [
        ("classifier", 0, (), "was given without --check-data"),
        ("classifier", 40, (), "40 rows with an image and a usable label"),
        ("conv", 250, ("--output-kind", "regression"), "has no accuracy"),
        ("sum", 250, (), "before sum (Add)"),
        ("cnv", 250, (), "such as conv, fc"),
    ],
)
def test_a_rate_that_cannot_be_chosen_is_refused(
    layer: str,
    rows: int,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, labelled, folder = network(tmp_path / "bare.onnx"), tmp_path / "rate.parquet", tmp_path / "out"
    folder.mkdir()
    given = (*OPTIONS, *options, "--insert-dropout", f"{layer}=auto")
    if rows:
        shard(labelled, rows, 3)
        given = (*given, "--check-data", str(labelled))
    assert oodscreen("export", source, folder / "m.onnx", *given, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "wanted:" in error
    assert "next:" in error
    assert not list(folder.iterdir())


def test_dropout_is_not_inserted_beside_other_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, exported = network(tmp_path / "own.onnx", dropout="own"), tmp_path / "m.onnx"
    insert = ("--insert-dropout", "classifier=0.1")
    assert oodscreen("export", source, exported, *OPTIONS, *insert, monkeypatch=monkeypatch) == 2
    assert "would insert before:fc next to the dropout own" in capsys.readouterr().err
    assert not exported.exists()
    insert = ("--insert-dropout", "conv=0.1")
    assert oodscreen("export", source, exported, *OPTIONS, *insert, monkeypatch=monkeypatch) == 0
    origins = {site.name: site.origin for site in read_model(exported).contract.sites}
    assert origins == {"own": "", "before:conv": INSERTED}


def test_the_layers_for_dropout_are_listed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = network(tmp_path / "bare.onnx", last="/head/fc/Gemm")
    assert oodscreen("export", source, tmp_path / "m.onnx", "--insert-dropout", "list", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Layers of {source} for --insert-dropout 'LAYER=RATE':",
        "  conv  Conv on [3, 6, 6]",
        "  head/fc  Gemm on [12]  (classifier)",
    ]
    assert not (tmp_path / "m.onnx").exists()
    assert oodscreen("export", source, tmp_path / "m.onnx", *OPTIONS, monkeypatch=monkeypatch) == 2
    assert "--insert-dropout 'classifier=0.2'" in capsys.readouterr().err
