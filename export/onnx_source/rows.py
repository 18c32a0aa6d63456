"""Run a graph of an ONNX source on batches of preprocessed pixels.

In: a graph with one image input. Out: a `GraphRun`, which computes values by name for a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.onnx_source.images import FoundInput

Values = NDArray[np.float32]


class GraphRun:
    """An onnxruntime session that runs a graph without optimizations, which could change values.

    Args:
        model: the graph.
        found: its image input.
        outputs: names of the values to return, which need not be outputs of the graph.
    """

    def __init__(self, model: onnx.ModelProto, found: FoundInput, outputs: Sequence[str]) -> None:
        from export.runtime import onnxruntime

        own = len(model.graph.output)
        present = {value.name for value in model.graph.output}
        for name in dict.fromkeys(outputs):
            if name not in present:
                model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        data = model.SerializeToString()
        del model.graph.output[own:]  # not a copy of the model, because weights can be large
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # errors are raised; warnings about shapes are not for the user
        self._session = onnxruntime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # the fallback prints messages
        )
        self._found = found
        self._outputs = list(outputs)

    def batch(self, pixels: Values, feeds: Mapping[str, NDArray[Any]] | None = None) -> dict[str, Values]:
        """Values by name for one batch of preprocessed pixels; `feeds` contains values of further inputs."""
        inputs = {self._found.name: pixels.astype(self._found.dtype), **(feeds or {})}
        found = self._session.run(self._outputs, inputs)
        return {name: np.asarray(value) for name, value in zip(self._outputs, found, strict=True)}
