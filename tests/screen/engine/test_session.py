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
from screen.engine.session import Device, GraphSession, choose_device, misplaced_nodes, outside_weight
from tests.assumptions.cuda_kernels import CUDA_KERNELS, OPSET
from tests.screen.engine.graphs import GRAPHS, Graph

CPU = Device("cpu", 1)


def two_kinds_of_arithmetic() -> onnx.ModelProto:
    """A product of numbers, and a shape that is computed beside it."""
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


def test_a_session_tells_where_its_nodes_are() -> None:
    """The question that `--device cuda` asks, on the device that there is."""
    part = GraphSession(two_kinds_of_arithmetic(), CPU)
    assigned = part._session.get_provider_graph_assignment_info()
    names = {node.name for group in assigned for node in group.get_nodes()}
    assert "product" in names
    assert {group.ep_name for group in assigned} == {"CPUExecutionProvider"}


def test_a_part_keeps_its_values_on_the_device_and_gives_them_by_name() -> None:
    part = GraphSession(two_kinds_of_arithmetic(), CPU)
    outputs = part.run({"x": part.put(np.array([[1, 2, 3]], np.float32))})
    assert set(outputs) == {"y", "squared"}
    np.testing.assert_array_equal(outputs["y"].numpy(), [[1, 4, 9]])


def test_what_onnxruntime_refuses_is_one_of_our_errors() -> None:
    part = GraphSession(two_kinds_of_arithmetic(), CPU)
    with pytest.raises(EngineFailed, match="onnxruntime failed on the cpu"):
        part.run({"x": part.put(np.zeros((1, 4), np.float32))})
    broken = two_kinds_of_arithmetic()
    broken.graph.node[2].op_type = "Nonsense"
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(broken, CPU)


def test_threads_are_those_that_were_asked_for() -> None:
    assert choose_device("cpu", 3).threads == 3
    assert choose_device("cpu", 0).threads >= 1


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionRefused, match="no device"):
        choose_device("abacus", 0)


def test_auto_falls_back_without_noise_from_onnxruntime() -> None:
    code = "from screen.engine.session import choose_device; choose_device('auto', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("kind", ["softmax", "logits", "sigmoid", "regression"])
@pytest.mark.parametrize("masks_in_weights", [True, False])
def test_what_the_planner_adds_has_a_cuda_kernel(
    kind: str, masks_in_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing of ours forces a model off the GPU."""
    monkeypatch.setattr("screen.engine.graph.sites.subtraction_pays", lambda *_: True)
    models = [build() for build, _ in GRAPHS.values()]
    extra = Graph(kind=kind)
    models.append(extra.finish(extra.dense(extra.site(extra.flat(), 48), 48, 3), 3))
    for model in models:
        carried_over = {node.op_type for node in model.proto.graph.node} - set(CUDA_KERNELS)
        plan = plan_engine(model, shortcuts=Shortcuts(masks_in_weights))
        for part in (plan.trunk, plan.head):
            _check_kernels(part, carried_over)


def _check_kernels(part: onnx.ModelProto, carried_over: set[str]) -> None:
    part = onnx.shape_inference.infer_shapes(part)
    assert {entry.version for entry in part.opset_import if entry.domain == ""} == {OPSET}
    values = (*part.graph.value_info, *part.graph.input, *part.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {value.name: value.data_type for value in part.graph.initializer}
    for node in part.graph.node:
        if node.name.startswith(PREFIX) and node.op_type not in carried_over:
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

told = []
model = read_model(sys.argv[1])
engine = PassEngine(plan_engine(model), passes=5, seed=1, device=Device("cpu", 1), memory=2**40, notify=told.append)
images = np.random.default_rng(0).integers(0, 256, (4000, 28, 28, 1), dtype=np.uint8)
before = engine.summarize(images[:50])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
summary = engine.summarize(images)
assert len(summary.mean) == 4000
assert np.array_equal(summary.mean[:50], before.mean)
print(len(told), told[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_when_memory_runs_out_the_run_goes_on_with_smaller_batches_and_says_so_once(article_onnx: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(article_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 memory ran out with 4000 rows in a run; going on with 2000\n"


def product_with(weight: NDArray[np.float32]) -> onnx.ModelProto:
    """`x` times a weight that is not in the graph."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [outside_weight("weight", weight)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_weights_outside_of_the_graph_live_as_long_as_the_part() -> None:
    weight = np.arange(1_000_000, dtype=np.float32).reshape(2, -1)
    expected, model = weight.sum(axis=0), product_with(weight)
    assert model.ByteSize() < 1000
    part = GraphSession(model, CPU, weights={"weight": weight})
    gone = weakref.ref(weight)
    del weight
    gc.collect()
    assert gone() is not None
    np.testing.assert_array_equal(part.run({"x": part.put(np.ones((2, 2), np.float32))})["y"].numpy()[1], expected)


def test_a_weight_that_is_nowhere_is_one_of_our_errors() -> None:
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(product_with(np.ones((2, 3), np.float32)), CPU)
