"""ONNX graphs written node by node, with the names that PyTorch's two exporters give them.

In: operators and their inputs. Out: an `onnx.ModelProto` with random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSIONS = {11: 6, 12: 7, 13: 7, 17: 8, 18: 8}
"""IR version of a file of the TorchScript exporter, by opset."""
NEWER_IR_VERSION = 10
"""IR version of a file of the newer exporter."""


class Draft:
    """A graph under construction; each method returns the name of the tensor that it adds.

    Attributes:
        opset: version of the standard operators.
        functions: functions of the file.
        newer: whether the newer exporter writes the file.
    """

    def __init__(
        self, opset: int, *, newer: bool = False, image: str = "image", shape: Sequence[int | str] = ("n", 3, 8, 8)
    ) -> None:
        self.opset = opset
        self.newer = newer
        self.functions: list[onnx.FunctionProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, shape)]
        self._rng = np.random.default_rng(7)

    def add(self, kind: str, *inputs: str, name: str, to: str | Sequence[str] = "", **attributes: Any) -> str:
        """Add a node; `to` has its outputs, by default `NAME_output_0` as the TorchScript exporter writes."""
        outputs = [to or f"{name}_output_0"] if isinstance(to, str) else list(to)
        if "cast" in attributes:
            attributes["to"] = attributes.pop("cast")  # the attribute of `Cast`
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs[0]

    def constant(self, value: Any, dtype: str, name: str) -> str:
        """A `Constant` node, as the TorchScript exporter writes, and the newer one without `optimize`."""
        return self.add("Constant", name=name, value=numpy_helper.from_array(np.array(value, dtype)))

    def initializer(self, value: Any, dtype: str, name: str) -> str:
        """A constant among the weights, as the newer exporter writes."""
        self._initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """A random weight, about as large as in a trained layer."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        return self.initializer(self._rng.normal(0, 1.5 / fan**0.5, shape), "float32", name)

    def statistics(self, name: str, *shape: int) -> str:
        """A random positive weight, such as a variance."""
        return self.initializer(self._rng.uniform(0.5, 1.5, shape), "float32", name)

    def input(self, name: str, dtype: int, shape: Sequence[int | str] = ()) -> str:
        """One more input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def finish(self, output: str, classes: int = 3, batch: int | str = "n") -> onnx.ModelProto:
        """The checked model with one output."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, (batch, classes))]
        graph = helper.make_graph(self._nodes, "main_graph", self._inputs, outputs, self._initializers)
        domains = {function.domain for function in self.functions}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=NEWER_IR_VERSION if self.newer else IR_VERSIONS[self.opset],
            functions=self.functions,
            producer_name="pytorch",
            producer_version="2.13.0",
        )
        onnx.checker.check_model(model)
        return model


def scalar(value: Any, dtype: str) -> onnx.TensorProto:
    """A tensor without axes, for the attribute of a node."""
    array: NDArray[Any] = np.array(value, dtype)
    return numpy_helper.from_array(array)
