from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.errors import EngineFailed, OptionRefused
from screen.engine.graph.builder import PREFIX
from screen.engine.graph.plan import plan_engine
from screen.engine.graph.sites import Shortcuts
from screen.engine.session import Device, GraphSession, choose_device, external_weight, misplaced_nodes
from tests.assumptions.cuda_kernels import CUDA_KERNELS, OPSET
from tests.screen.engine.graphs import GRAPHS, Graph

CPU = Device("cpu", 1)


def two_kinds_of_arithmetic() -> onnx.ModelProto:
    """A product of floats, and arithmetic on a shape."""
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Mul", ["shape", "shape"], ["squared"], name="square"),
            helper.make_node("Mul", ["x", "x"], ["y"], name="product"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("squared", TensorProto.INT64, [2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


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


def test_a_session_keeps_its_values_on_the_device_and_returns_them_by_name() -> None:
    session = GraphSession(two_kinds_of_arithmetic(), CPU)
    outputs = session.run({"x": session.put(np.array([[1, 2, 3]], np.float32))})
    assert set(outputs) == {"y", "squared"}
    np.testing.assert_array_equal(outputs["y"].numpy(), [[1, 4, 9]])


def test_errors_of_onnxruntime_are_raised_as_engine_failed() -> None:
    session = GraphSession(two_kinds_of_arithmetic(), CPU)
    with pytest.raises(EngineFailed, match="onnxruntime failed on the device cpu"):
        session.run({"x": session.put(np.zeros((1, 4), np.float32))})
    broken = two_kinds_of_arithmetic()
    broken.graph.node[2].op_type = "Nonsense"
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(broken, CPU)


def test_the_device_has_the_requested_number_of_threads() -> None:
    assert choose_device("cpu", 3).threads == 3
    assert choose_device("cpu", 0).threads >= 1


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--device is 'abacus'"):
        choose_device("abacus", 0)


def test_auto_falls_back_without_noise_from_onnxruntime() -> None:
    code = "from screen.engine.session import choose_device; choose_device('auto', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


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


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from export.contract.reader import read_model
from screen.engine.passes import PassEngine
from screen.engine.graph.plan import plan_engine
from screen.engine.session import Device

notices = []
model = read_model(sys.argv[1])
engine = PassEngine(plan_engine(model), passes=5, seed=1, device=Device("cpu", 1), memory=2**40, notify=notices.append)
images = np.random.default_rng(0).integers(0, 256, (4000, 28, 28, 1), dtype=np.uint8)
before = engine.summarize(images[:50])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
summary = engine.summarize(images)
assert len(summary.mean) == 4000
assert np.array_equal(summary.mean[:50], before.mean)
print(len(notices), notices[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_when_memory_runs_out_the_run_continues_with_smaller_batches_and_notifies_once(article_onnx: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(article_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 memory ran out with 4000 rows per session run; continuing with 2000\n"


def product_with(weight: NDArray[np.float32]) -> onnx.ModelProto:
    """`x` times an external weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [external_weight("weight", weight)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_external_weights_live_as_long_as_the_session() -> None:
    weight = np.arange(1_000_000, dtype=np.float32).reshape(2, -1)
    expected, model = weight.sum(axis=0), product_with(weight)
    assert model.ByteSize() < 1000
    session = GraphSession(model, CPU, weights={"weight": weight})
    reference = weakref.ref(weight)
    del weight
    gc.collect()
    assert reference() is not None
    outputs = session.run({"x": session.put(np.ones((2, 2), np.float32))})
    np.testing.assert_array_equal(outputs["y"].numpy()[1], expected)


def test_a_missing_external_weight_raises_engine_failed() -> None:
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(product_with(np.ones((2, 3), np.float32)), CPU)
