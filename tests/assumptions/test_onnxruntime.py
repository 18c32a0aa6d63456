"""Facts about onnxruntime on which the design is based; if one changes, a design decision must be reviewed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph.passes import add_noise_functions
from export.runtime import onnxruntime
from screen.engine.graph.stable import VECTORIZED
from tests.export.graph.test_passes import one_site
from tests.export.graph.test_settle import padded_pooling


def session_of(
    op_type: str,
    inputs: int = 1,
    threads: int = 2,
    opset: int = 18,
    weights: NDArray[np.float32] | None = None,
    **attributes: Any,
) -> onnxruntime.InferenceSession:
    names = [f"x{index}" for index in range(inputs)]
    constants = [] if weights is None else [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph(
        [helper.make_node(op_type, [*names, *(value.name for value in constants)], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [17, 21])
def test_a_plain_dropout_is_removed_although_its_training_mode_is_true(opset: int) -> None:
    """Why sites are functions: `EliminateDropout` is on by default (onnxruntime issue 9333)."""
    constants = [
        helper.make_tensor("rate", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("training", TensorProto.BOOL, [], [True]),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["a"]),
            helper.make_node("Dropout", ["a", "rate", "training"], ["b"]),
            helper.make_node("Neg", ["b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 100])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = np.ones((4, 100), np.float32)
    default = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(default.run(None, {"x": x})[0], x)
    careful = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"], disabled_optimizers=["EliminateDropout"]
    )
    assert np.any(careful.run(None, {"x": x})[0] == 0)


def test_a_model_local_function_stays_random_in_a_default_session_and_runs_go_on() -> None:
    model = one_site("MCDropout", 0.5, [100])
    add_noise_functions(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.ones((4, 100), np.float32)
    assert np.any(session.run(None, {"x": x})[0] != session.run(None, {"x": x})[0])


def test_the_function_keeps_the_share_that_its_rate_says() -> None:
    model = one_site("MCDropout", 0.25, [1000])
    add_noise_functions(model)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": np.ones((1000, 1000), np.float32)})[0]
    assert abs(np.mean(y != 0) - 0.75) < 0.003  # 7 standard errors
    assert abs(y.mean() - 1) < 0.004


def test_a_seed_in_the_file_makes_a_new_session_begin_anew() -> None:
    """Why the engine draws the masks: random numbers of onnxruntime depend on the number of runs of its session."""
    graph = helper.make_graph(
        [helper.make_node("RandomUniformLike", ["x"], ["y"], seed=1.0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    x = {"x": np.ones(9, np.float32)}
    one, other = (onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]) for _ in range(2))
    first = one.run(None, x)[0]
    np.testing.assert_array_equal(first, other.run(None, x)[0])
    assert np.any(first != one.run(None, x)[0])


def test_a_graph_in_memory_finds_its_weights_in_the_folder_that_the_session_is_told(tmp_path: Path) -> None:
    """How `screen.engine.device.session` runs graphs whose weights are in a file."""
    weights = np.arange(9, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(weights.tobytes())
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[9], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.data"), ("offset", "0"), ("length", "36")):
        outside.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [9]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [outside])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": np.ones(9, np.float32)})[0], weights + 1)


def worst_position(
    session: onnxruntime.InferenceSession,
    rows: NDArray[np.float32],
    others: dict[str, NDArray[np.float32]] | None = None,
) -> int:
    """Number of values that change when a row has another position in its batch."""
    whole = session.run(None, {"x0": rows, **(others or {})})[0]
    changed = 0
    for size in (2, 3, 7, 64, 333):
        for start in range(0, len(rows) - size, 41):
            part = session.run(None, {"x0": rows[start : start + size], **(others or {})})[0]
            same = (part == whole[start : start + size]) | (np.isnan(part) & np.isnan(whole[start : start + size]))
            changed += int((~same).sum())
    return changed


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Softmax", {"axis": -1}),
        ("LogSoftmax", {"axis": -1}),
        ("Exp", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Erf", {}),
    ],
)
def test_these_operators_treat_a_row_alike_wherever_it_lies(op_type: str, attributes: dict[str, Any]) -> None:
    """Why a row's bits do not depend on its batch; Softmax and LogSoftmax depend on a whole row."""
    rows = np.random.default_rng(0).random((500, 10)).astype(np.float32) + 1e-3
    assert worst_position(session_of(op_type, **attributes), rows) == 0


def elementwise(session: onnxruntime.InferenceSession, rows: NDArray[np.float32]) -> bool:
    """Whether an element of the output depends on the element at the same place, and not on its place or its batch."""
    try:
        whole, part = (session.run(None, {"x0": np.ascontiguousarray(x)})[0] for x in (rows, rows[50::-1, ::-1]))
    except Exception:  # noqa: BLE001  no operator for one matrix of float32
        return False
    if whole.shape != rows.shape or whole.dtype != np.float32:
        return False
    return np.allclose(part[::-1, ::-1], whole[:51], rtol=1e-4, atol=1e-5, equal_nan=True)


def varying(rows: NDArray[np.float32]) -> set[str]:
    """The functions of one tensor, of all operators of ONNX, of which a row depends on its position in the batch."""
    found = set()
    for schema in onnx.defs.get_all_schemas():
        required = any(attribute.required for attribute in schema.attributes.values())
        if schema.domain or schema.deprecated or required or schema.min_input != 1 or schema.name.startswith("Random"):
            continue
        try:
            session = session_of(schema.name, threads=1, opset=22)
        except Exception:  # noqa: BLE001, S112  no operator for float32
            continue
        if elementwise(session, rows) and worst_position(session, rows):
            found.add(schema.name)
    return found


@pytest.mark.parametrize(("width", "expected"), [(33, VECTORIZED), (12, ())])
def test_no_other_function_of_onnx_depends_on_where_a_number_lies(width: int, expected: tuple[str, ...]) -> None:
    """Why `screen.engine.graph.stable` rewrites these functions, and only where a row does not fill whole vectors."""
    rows = np.random.default_rng(0).uniform(-3, 3, (997, width)).astype(np.float32)
    assert varying(rows) <= set(expected)


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 7, 11, 16, 17])
@pytest.mark.parametrize("inner", [3, 16, 129])
def test_only_a_product_with_one_column_depends_on_the_number_of_rows(columns: int, inner: int) -> None:
    """Why `screen.engine.graph.stable` computes two columns; one column is left out here, but for a weight."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, inner)).astype(np.float32)
    weights = rng.standard_normal((inner, columns)).astype(np.float32)
    assert worst_position(session_of("MatMul", threads=1, weights=weights), rows) == 0
    if columns > 1:
        assert worst_position(session_of("MatMul", inputs=2, threads=1), rows, {"x1": weights}) == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("positions", [2, 3, 5, 16, 49])
def test_global_pooling_sums_a_channel_alike_wherever_it_lies(channels: int, positions: int) -> None:
    """Why `screen.engine.graph.stable` replaces reductions by it."""
    rows = np.random.default_rng(0).standard_normal((500, channels, positions)).astype(np.float32)
    assert worst_position(session_of("GlobalAveragePool", threads=1), rows) == 0


def test_log_depends_on_where_a_number_lies() -> None:
    """Why entropies use LogSoftmax; if this fails, `screen.engine.graph.reduction` can be simpler."""
    rows = np.random.default_rng(0).random((997, 10)).astype(np.float32) + 1e-3
    assert worst_position(session_of("Log"), rows) > 0


def test_a_batched_product_gives_the_same_bits_for_any_number_of_rows() -> None:
    session = session_of("MatMul", inputs=2)
    rng = np.random.default_rng(0)
    rows = rng.random((1, 700, 300)).astype(np.float32)
    weights = rng.random((3, 300, 40)).astype(np.float32)
    whole = session.run(None, {"x0": rows, "x1": weights})[0]
    for size in (2, 3, 17, 256):
        part = session.run(None, {"x0": rows[:, 5 : 5 + size], "x1": weights})[0]
        np.testing.assert_array_equal(part, whole[:, 5 : 5 + size])


def test_what_a_session_gave_stays_when_its_value_is_gone_but_a_value_that_was_put_is_only_lent() -> None:
    """Why `screen.engine.boundary` copies rows of a boundary tensor: on the CPU, `put` does not copy."""
    from screen.engine.device.provider import Device
    from screen.engine.device.session import GraphSession
    from screen.engine.distance import fit_distance
    from tests.screen.engine.test_distance import KNOWN

    distance = fit_distance("layout_distance", KNOWN, slice(0, KNOWN.shape[1]), Device("cpu", 1), "cosine")
    graph = helper.make_model(distance.graph(), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    part = GraphSession(graph, Device("cpu", 1), weights=distance.weights())
    given = part.run({"features": part.put(KNOWN)})["nearest"].numpy()
    kept = given.copy()
    for _ in range(20):
        part.run({"features": part.put(-KNOWN)})
    np.testing.assert_array_equal(given, kept)
    value = part.put(KNOWN)
    assert np.shares_memory(value.numpy(), KNOWN)


def test_only_the_session_tells_which_provider_it_got() -> None:
    """Why `--device` checks a session: it may not use an available provider (onnxruntime issue 23372)."""
    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        pytest.skip("this onnxruntime was built without CUDA")
    from screen.engine.device.choice import choose_device

    assert choose_device("auto", 1).name in ("cpu", "cuda")


@pytest.mark.parametrize(("pooling", "wrong"), [("MaxPool", True), ("AveragePool", False)])
def test_padding_with_zeros_before_a_pooling_is_folded_into_it(pooling: str, wrong: bool) -> None:
    """Why `prevent_pad_fusion` exists: a MaxPool pads with minus infinity, and `Pad_Fusion` ignores this."""
    data = padded_pooling(pooling).SerializeToString()
    x = np.full((2, 1, 3, 3), -5, np.float32)
    careful = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"])
    default = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = np.abs(careful.run(None, {"x": x})[0] - default.run(None, {"x": x})[0]).max()
    assert bool(difference > 1) == wrong
