from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from screen.engine.device.placement import misplaced_nodes
from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession
from screen.engine.graph.builder import PREFIX
from screen.engine.graph.plan import plan_engine
from screen.engine.graph.sites import Shortcuts
from tests.assumptions.cuda_kernels import CUDA_KERNELS, OPSET
from tests.screen.engine.device.test_session import two_kinds_of_arithmetic
from tests.screen.engine.graphs import GRAPHS, Graph

CPU = Device("cpu", 1)


def test_shape_arithmetic_may_be_on_the_cpu_and_nothing_else() -> None:
    model = two_kinds_of_arithmetic()
    assert misplaced_nodes(model, ["shape", "square"]) == []
    assert misplaced_nodes(model, ["shape", "square", "product"]) == ["product (Mul)"]


def test_a_session_reports_the_placement_of_its_nodes() -> None:
    """The check of `--device cuda`, on the CPU."""
    session = GraphSession(two_kinds_of_arithmetic(), CPU)
    assigned = session._session.get_provider_graph_assignment_info()
    names = {node.name for group in assigned for node in group.get_nodes()}
    assert "product" in names
    assert {group.ep_name for group in assigned} == {"CPUExecutionProvider"}


@pytest.mark.parametrize(
    ("kind", "outputs"), [("softmax", 3), ("logits", 3), ("logits", 1), ("sigmoid", 3), ("regression", 3)]
)
@pytest.mark.parametrize("masks_in_weights", [True, False])
def test_what_the_planner_adds_has_a_cuda_kernel(
    kind: str, outputs: int, masks_in_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node that the planner adds forces a model off the GPU."""
    monkeypatch.setattr("screen.engine.graph.sites.subtraction_pays", lambda *_: True)
    models = [build() for build, _ in GRAPHS.values()]
    extra = Graph(kind=kind)
    models.append(extra.finish(extra.dense(extra.site(extra.flat(), 48), 48, outputs), outputs))
    for model in models:
        copied = {node.op_type for node in model.proto.graph.node} - set(CUDA_KERNELS)
        plan = plan_engine(model, shortcuts=Shortcuts(masks_in_weights))
        for half in (plan.trunk, plan.head):
            _check_kernels(half, copied)


def _check_kernels(model: onnx.ModelProto, copied: set[str]) -> None:
    model = onnx.shape_inference.infer_shapes(model)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {OPSET}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {value.name: value.data_type for value in model.graph.initializer}
    for node in model.graph.node:
        # onnxruntime turns Constant nodes into weights when it loads a graph.
        if node.name.startswith(PREFIX) and node.op_type not in copied | {"Constant"}:
            assert node.op_type in CUDA_KERNELS
            used = {types[name] for name in (*node.input, *node.output) if name in types}
            allowed = CUDA_KERNELS[node.op_type] | {TensorProto.INT64, TensorProto.BOOL}
            assert used <= allowed, f"{node.op_type} of {used}"
