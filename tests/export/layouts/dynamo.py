"""Files as PyTorch's newer exporter writes them, `torch.onnx.export(dynamo=True)`.

In: nothing. Out: an `onnx.ModelProto` of each layout; images are `[n, 3, 8, 8]`, and there are three outputs.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tests.export.layouts.draft import Draft


def features(draft: Draft) -> str:
    """Conv and Relu of the newer exporter: [n, 3, 8, 8] to [n, 4, 6, 6]."""
    weights = draft.weight("features.0.weight", 4, 3, 3, 3), draft.statistics("features.0.bias", 4)
    x = draft.add("Conv", "image", *weights, name="node_conv2d", to="conv2d", auto_pad="NOTSET", group=1)
    return draft.add("Relu", x, name="node_relu", to="relu")


def flatten(draft: Draft, x: str) -> str:
    """Mean over the pixels and a Reshape that keeps the number of rows: [n, 4, 6, 6] to [n, 4]."""
    axes = draft.initializer([-1, -2], "int64", "val_17")
    x = draft.add("ReduceMean", x, axes, name="node_mean", to="mean", noop_with_empty_axes=0, keepdims=1)
    return draft.add(
        "Reshape", x, draft.initializer([-1, 4], "int64", "val_24"), name="node_Reshape_32", to="view", allowzero=1
    )


def linear(draft: Draft, x: str, to: str = "logits") -> str:
    weights = draft.weight("classifier.1.weight", 3, 4), draft.weight("classifier.1.bias", 3)
    return draft.add("Gemm", x, *weights, name="node_linear", to=to, beta=1.0, transB=1, alpha=1.0, transA=0)


def setting(draft: Draft, ratio: float) -> tuple[str, str]:
    return draft.initializer(ratio, "float32", "val_22"), draft.initializer(True, "bool", "val_23")


def shared_rate(opset: int) -> onnx.ModelProto:
    """Two sites that share the initializers of their rate and their mode; one output each."""
    draft = Draft(opset, newer=True)
    mode = setting(draft, 0.3)
    x = draft.add("Dropout", features(draft), *mode, name="node_native_dropout__1", to="getitem")
    x = flatten(draft, x)
    x = draft.add("Dropout", x, *mode, name="node_native_dropout_1__1", to="getitem_2")
    return draft.finish(linear(draft, x))


def unoptimized(*, alive: bool = True) -> onnx.ModelProto:
    """`optimize=False`: `Constant` nodes, a batch computed from the shape, and `Identity` where dropout is off."""
    draft = Draft(18, newer=True)
    rows = draft.add("Shape", "image", name="node_Shape_0", to="val_0", end=1, start=0)
    rows = draft.add("Squeeze", rows, name="node_sym_size_int_1", to="sym_size_int_1")
    x = features(draft)
    x = draft.add("ReduceMean", x, draft.constant([-1, -2], "int64", "val_17"), name="node_mean", to="mean", keepdims=1)
    rows = draft.add("Reshape", rows, draft.constant([-1], "int64", "val_18"), name="node_Reshape_19", to="val_19")
    shape = draft.add(
        "Concat", rows, draft.constant([4], "int64", "val_20"), name="node_Concat_21", to="val_21", axis=0
    )
    x = draft.add("Reshape", x, shape, name="node_view", to="view", allowzero=1)
    if alive:
        mode = draft.constant(0.5, "float32", "node_Constant_22"), draft.constant(True, "bool", "node_Constant_23")
        x = draft.add("Dropout", x, *mode, name="node_native_dropout__1", to="getitem_5")
    else:
        x = draft.add("Identity", x, name="node_clone", to="clone")
    return draft.finish(linear(draft, x))


def drawn_mask(draft: Draft, zeros: str, keep: float) -> str:
    """The mask of the newer exporter for all other dropout than nn.Dropout, divided by the probability to keep."""
    name = draft.initializer(keep, "float32", "p_cast")
    x = draft.add("RandomUniformLike", zeros, name="n1", to="rands", high=1.0, low=0.0)
    x = draft.add("Less", x, name, name="n4", to="sampled")
    x = draft.add("Cast", x, name="node_Cast_27", to="bernoulli", cast=TensorProto.FLOAT)
    return draft.add("Div", x, name, name="node_div", to="div")


def rows_and(draft: Draft, *others: str) -> str:
    """The shape [n, others...] as the newer exporter computes it."""
    rows = draft.add("Shape", "image", name="node_Shape_0", to="val_0", end=1, start=0)
    return draft.add("Concat", rows, *others, name="node_Concat_12", to="val_12", axis=0)


def channels() -> onnx.ModelProto:
    """nn.Dropout2d: a mask of [n, 4, 1, 1]; then nn.Dropout."""
    draft = Draft(20, newer=True)
    x = features(draft)
    one = draft.initializer([1], "int64", "val_11")
    shape = rows_and(draft, draft.initializer([4], "int64", "val_10"), one, one)
    zeros = draft.add("ConstantOfShape", shape, name="node_ConstantOfShape_13", to="val_13")
    x = flatten(draft, draft.add("Mul", x, drawn_mask(draft, zeros, 0.75), name="node_mul_22", to="mul_22"))
    x = draft.add("Dropout", x, *setting(draft, 0.5), name="node_native_dropout__1", to="getitem_5")
    return draft.finish(linear(draft, x))


def in_place() -> onnx.ModelProto:
    """nn.Dropout(inplace=True): a mask of the shape of its input."""
    draft = Draft(20, newer=True)
    x = flatten(draft, features(draft))
    shape = draft.add("Shape", x, name="node_Shape_113", to="val_113", start=0)
    zero = draft.initializer(0.0, "float32", "val_112")
    zeros = draft.add("Expand", zero, shape, name="node_empty_like", to="empty_like")
    x = draft.add("Mul", x, drawn_mask(draft, zeros, 0.75), name="node_mul_226", to="mul_226")
    return draft.finish(linear(draft, x))


def branches() -> onnx.ModelProto:
    """Stochastic depth of torchvision: a mask of [n, 1] for the second summand."""
    draft = Draft(20, newer=True)
    x = flatten(draft, features(draft))
    shape = rows_and(draft, draft.initializer([1], "int64", "val_83"))
    zero = draft.initializer(0.0, "float32", "val_105")
    zeros = draft.add("Expand", zero, shape, name="node_empty_7", to="empty_7")
    branch = draft.add("Mul", x, drawn_mask(draft, zeros, 0.8), name="node_mul_181", to="mul_181")
    return draft.finish(linear(draft, draft.add("Add", x, branch, name="node_add_260", to="add_260")))


def floored() -> onnx.ModelProto:
    """Stochastic depth: the uniform number of a row plus the probability to keep it, rounded down."""
    draft = Draft(20, newer=True)
    x = flatten(draft, features(draft))
    rows = draft.add("Shape", "image", name="node_Shape_0", to="val_0", end=1, start=0)
    shape = draft.add(
        "Concat", rows, draft.initializer([1], "int64", "val_7"), name="node_Concat_8", to="val_8", axis=0
    )
    zeros = draft.add("ConstantOfShape", shape, name="node_ConstantOfShape_9", to="val_9")
    noise = draft.add("RandomUniformLike", zeros, name="node_rand", to="rand", dtype=1, high=1.0, low=0.0)
    keep = draft.initializer(0.8, "float32", "val_10")
    noise = draft.add("Add", noise, keep, name="node_add_9", to="add_9")
    noise = draft.add("Floor", noise, name="node_floor", to="floor")
    branch = draft.add("Mul", draft.add("Div", x, keep, name="node_div", to="div"), noise, name="node_mul", to="mul")
    return draft.finish(linear(draft, draft.add("Add", x, branch, name="node_add_26", to="add_26")))


def alpha() -> onnx.ModelProto:
    """nn.AlphaDropout of the newer exporter: the mask moves the values too."""
    draft = Draft(20, newer=True)
    x = flatten(draft, features(draft))
    shape = draft.add("Shape", x, name="node_Shape_7", to="val_7", start=0)
    zeros = draft.add(
        "Expand", draft.initializer(0.0, "float32", "val_6"), shape, name="node_empty_like", to="empty_like"
    )
    mask = draft.add("RandomUniformLike", zeros, name="n1", to="rands", high=1.0, low=0.0)
    mask = draft.add("Less", mask, draft.initializer(0.7, "float32", "p_cast"), name="n4", to="sampled")
    mask = draft.add("Cast", mask, name="node_Cast_15", to="bernoulli", cast=TensorProto.FLOAT)
    moved = draft.add("Add", mask, draft.initializer(-1.0, "float32", "scalar"), name="node_add_12", to="add_12")
    moved = draft.add("Mul", moved, draft.initializer(1.51, "float32", "val_9"), name="node_mul_18", to="mul_18")
    scaled = draft.add("Mul", mask, draft.initializer(0.86, "float32", "val_11"), name="node_mul_27", to="mul_27")
    x = draft.add("Mul", x, scaled, name="node_mul_30", to="mul_30")
    return draft.finish(linear(draft, draft.add("Add", x, moved, name="node_add_40", to="add_40")))


def branch() -> onnx.ModelProto:
    """torch.cond: a dropout in a branch that depends on the image."""
    draft = Draft(20, newer=True)
    x = flatten(draft, features(draft))
    total = draft.add("ReduceSum", x, name="node_sum_1", to="sum_1", keepdims=0, noop_with_empty_axes=0)
    gate = draft.add("Greater", total, draft.initializer(0.0, "float32", "zero"), name="node_gt", to="gt")
    ratio, mode = setting(draft, 0.3)
    two = draft.initializer(2.0, "float32", "scalar_tensor_default_2")
    branches = []
    for name, node in (
        ("true_graph_0", helper.make_node("Dropout", [x, ratio, mode], ["true"], name="node_native_dropout__1")),
        ("false_graph_0", helper.make_node("Mul", [x, two], ["false"], name="node_mul_2")),
    ):
        output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ("n", 4))
        branches.append(helper.make_graph([node], name, [], [output]))
    x = draft.add("If", gate, name="node_cond__0", to="getitem", then_branch=branches[0], else_branch=branches[1])
    return draft.finish(linear(draft, x))


def fixed_reshape() -> onnx.ModelProto:
    """An export without dynamic shapes: the two rows of the example stand in a Reshape."""
    draft = Draft(20, newer=True, shape=(2, 3, 8, 8))
    axes = draft.initializer([-1, -2], "int64", "val_13")
    x = draft.add("ReduceMean", features(draft), axes, name="node_mean", to="mean", keepdims=1)
    x = draft.add("Reshape", x, draft.initializer([2, 4], "int64", "val_17"), name="node_view", to="view", allowzero=1)
    x = draft.add("Dropout", x, *setting(draft, 0.5), name="node_native_dropout__1", to="getitem")
    return draft.finish(linear(draft, x, "linear"), batch=2)
