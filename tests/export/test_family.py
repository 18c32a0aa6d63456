"""Export every model of the family on the command line, compare it with Keras, and run it on a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from export.config.values import find_object, parse_image_shape, parse_insertions
from export.contract.reader import ExportedModel, read_model
from export.source.choice import SiteChoice
from export.source.load import load_model
from export.source.network import KerasReference
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from tests.agreement import assert_agree, mean_and_std
from tests.conftest import encode, oodscreen, write_shard
from tests.export.family import FAMILY, Member

ROWS, PASSES = 6, 120


@pytest.mark.parametrize("member", [one for one in FAMILY if one.quick], ids=lambda one: one.name)
def test_a_model_of_the_family_says_what_keras_says(
    keras: Any, member: Member, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(keras, member, tmp_path, capsys, monkeypatch)


@pytest.mark.integration
@pytest.mark.parametrize("member", [one for one in FAMILY if not one.quick], ids=lambda one: one.name)
def test_every_other_model_of_the_family_says_what_keras_says(
    keras: Any, member: Member, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(keras, member, tmp_path, capsys, monkeypatch)


def check(
    keras: Any, member: Member, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export, compare and run one model of the family."""
    source, exported = member.save(keras, folder), folder / "exported.onnx"
    assert oodscreen("export", source, exported, *member.options, monkeypatch=monkeypatch) == 0
    assert member.notice in capsys.readouterr().err
    model = read_model(exported)
    assert tuple(site.kind for site in model.contract.sites) == member.sites
    assert model.contract.verified["deterministic_difference"] < 1e-4
    images = np.random.default_rng(8).integers(0, 256, (ROWS, *model.contract.image_shape), dtype=np.uint8)
    compare(model, reference(member, source, model), images)

    shard, rule = folder / "shard.parquet", ("--flag-if", member.flag_if) if member.flag_if else ()
    write_shard(shard, [encode(image) for image in images])
    assert oodscreen("run", exported, shard, folder / "results", "-T", "10", *rule, monkeypatch=monkeypatch) == 0
    results = pq.read_table(folder / "results" / "shard.parquet")
    assert results["status"].to_pylist() == ["ok"] * ROWS
    assert np.isfinite(np.array(results["std"].to_pylist())).all()
    assert results["largest_std"].to_numpy().max() > 0


def reference(member: Member, source: Path, model: ExportedModel) -> KerasReference:
    """The Keras reference of a model, loaded as the command loads it."""
    given = list(zip(member.options, member.options[1:], strict=False))
    rates = [text.rpartition("=") for option, text in given if option == "--rate"]
    loaded = load_model(
        source,
        custom_objects=dict(find_object(text) for option, text in given if option == "--custom-objects"),
        unsafe="--unsafe" in member.options,
        choice=SiteChoice(
            tuple(text for option, text in given if option == "--keep-layer"),
            {pattern or "*": float(rate) for pattern, _, rate in rates},
            parse_insertions([text for option, text in given if option == "--insert-dropout"]),
        ),
        output=next((text for option, text in given if option == "--output-layer"), None),
        image_shape=next((parse_image_shape(text) for option, text in given if option == "--image-shape"), None),
    )
    return KerasReference(loaded.network, model.contract.preprocessing)


def compare(model: ExportedModel, keras: KerasReference, images: NDArray[np.uint8]) -> None:
    """Check mean and std: 99.9 % of the values within 4 pooled standard errors plus 1e-4, all values within 8."""
    # Independent masks for every row, as in Keras; this mode covers every kind of noise.
    plan = plan_engine(model, masks="per-row", raw=True)
    engine = PassEngine(plan, passes=PASSES, seed=1, device=Device("cpu", 2))
    ours = np.concatenate(list(engine.raw_passes(images))).astype(np.float64)
    repeated = np.tile(images, (PASSES // 4, 1, 1, 1))
    free = np.concatenate([keras.draw(repeated, seed).outputs.reshape(PASSES // 4, ROWS, -1) for seed in range(4)])
    keras_passes = as_probabilities(free.astype(np.float64), model.contract.output_kind)
    (numbers, errors), (own_numbers, own_errors) = mean_and_std(keras_passes), mean_and_std(ours)
    for one, other, error, own_error in zip(numbers, own_numbers, errors, own_errors, strict=True):
        assert_agree([one], [other], ([error], [own_error]), slack=1e-4 * max(1.0, float(np.abs(one).max())))


def as_probabilities(values: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Keras' outputs in the form of the engine's: the softmax or sigmoid of logits, other outputs unchanged."""
    if kind != "logits":
        return values
    if values.shape[2] == 1:
        return np.asarray(1 / (1 + np.exp(-values)))
    exp = np.exp(values - values.max(axis=2, keepdims=True))
    return np.asarray(exp / exp.sum(axis=2, keepdims=True))
