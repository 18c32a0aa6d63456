from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.contract.metadata import DOMAIN
from export.contract.reader import ExportedModel
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from tests.agreement import assert_close_to_scale
from tests.screen.engine.graphs import GRAPHS, SHAPE

IMAGES = np.random.default_rng(1).integers(0, 256, (9, *SHAPE), dtype=np.uint8)


def without_noise(model: ExportedModel) -> NDArray[np.float64]:
    """Outputs `[B, C]` of the whole graph in onnxruntime, with every site replaced by the identity."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model.proto)
    del plain.functions[:]
    for node in plain.graph.node:
        if node.domain == DOMAIN:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    session = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float64] = session.run(None, {"image": IMAGES})[0].astype(np.float64)
    return outputs


def engine(model: ExportedModel, seed: int) -> PassEngine:
    return PassEngine(plan_engine(model, masks="none"), passes=1, seed=seed, device=Device("cpu", 1))


@pytest.mark.parametrize("name", GRAPHS)
def test_without_masks_a_pass_gives_the_network_without_noise(name: str) -> None:
    model = GRAPHS[name][0]()
    summary = engine(model, seed=5).summarize(IMAGES)
    assert_close_to_scale(summary.mean, without_noise(model), 1e-5)
    assert not summary.std.any()
    np.testing.assert_array_equal(summary.mean, engine(model, seed=6).summarize(IMAGES).mean)


@pytest.mark.parametrize("name", GRAPHS)
def test_without_masks_a_row_does_not_depend_on_its_batch(name: str) -> None:
    one = engine(GRAPHS[name][0](), seed=5)
    alone = np.concatenate([one.summarize(IMAGES[row : row + 1]).mean for row in range(3)])
    np.testing.assert_array_equal(alone, one.summarize(IMAGES).mean[:3])
