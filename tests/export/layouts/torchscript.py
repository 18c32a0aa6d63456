"""Files as PyTorch's TorchScript exporter writes them, `torch.onnx.export(dynamo=False)`, and files changed by hand.

In: nothing. Out: an `onnx.ModelProto` of each layout; images are `[n, 3, 8, 8]`, and there are three outputs.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tests.export.layouts.draft import Draft, scalar


def dropout(draft: Draft, x: str, module: str, ratio: float = 0.25, *, mode: bool = True) -> str:
    """Dropout of the TorchScript exporter in training: three inputs from `Constant` nodes, two outputs."""
    inputs = (
        draft.constant(ratio, "float32", f"{module}/Constant"),
        draft.constant(mode, "bool", f"{module}/Constant_1"),
    )
    outputs = (f"{module}/Dropout_output_0", f"{module}/Dropout_output_1")
    return draft.add("Dropout", x, *inputs, name=f"{module}/Dropout", to=outputs)


def features(draft: Draft, x: str = "image") -> str:
    """Conv and Relu of the TorchScript exporter: [n, 3, 8, 8] to [n, 4, 6, 6]."""
    weights = draft.weight("features.0.weight", 4, 3, 3, 3), draft.statistics("features.0.bias", 4)
    x = draft.add("Conv", x, *weights, name="/features/features.0/Conv", kernel_shape=[3, 3])
    return draft.add("Relu", x, name="/features/features.2/Relu")


def classifier(draft: Draft, x: str, to: str = "logits") -> str:
    """Pooling, Flatten, the second dropout and the last Gemm of the TorchScript exporter."""
    x = flatten(draft, x)
    return linear(draft, dropout(draft, x, "/classifier/classifier.0", 0.5), to)


def flatten(draft: Draft, x: str) -> str:
    x = draft.add("GlobalAveragePool", x, name="/features/features.4/GlobalAveragePool")
    return draft.add("Flatten", x, name="/Flatten", axis=1)


def linear(draft: Draft, x: str, to: str = "logits") -> str:
    weights = draft.weight("classifier.1.weight", 3, 4), draft.weight("classifier.1.bias", 3)
    return draft.add("Gemm", x, *weights, name="/classifier/classifier.1/Gemm", to=to, transB=1)


def constants(opset: int, image: str = "image", batch: int | str = "n") -> onnx.ModelProto:
    draft = Draft(opset, image=image, shape=(batch, 3, 8, 8))
    x = dropout(draft, features(draft, image), "/features/features.3")
    return draft.finish(classifier(draft, x), batch=batch)


def softmax() -> onnx.ModelProto:
    """Dropout of the logits, and a softmax in the file, at the opset that changed the meaning of its axis."""
    draft = Draft(13)
    x = linear(draft, flatten(draft, features(draft)), "/l/Gemm_output_0")
    x = dropout(draft, x, "/d", 0.3)
    return draft.finish(draft.add("Softmax", x, name="/Softmax", to="9", axis=1))


def norm(opset: int, *, training: bool) -> onnx.ModelProto:
    """A BatchNormalization; weights of equal value share memory through `Identity` nodes, which are no dropout."""
    draft = Draft(opset)
    x, kind = features(draft), "/features/features.1/BatchNormalization"
    norm = [draft.statistics("features.1.weight", 4), draft.weight("features.1.bias", 4)]
    if training:
        norm += [draft.weight("features.1.running_mean", 4), draft.statistics("features.1.running_var", 4)]
    else:
        norm += [
            draft.add("Identity", norm[1], name="Identity_0", to="features.1.running_mean"),
            draft.add("Identity", norm[0], name="Identity_1", to="features.1.running_var"),
        ]
    outputs = [f"{kind}_output_{number}" for number in range(3 if training else 1)]
    mode = {"training_mode": int(training)} if opset >= 14 else {}
    x = draft.add("BatchNormalization", x, *norm, name=kind, to=outputs, epsilon=1e-5, momentum=0.9, **mode)
    return draft.finish(classifier(draft, dropout(draft, x, "/features/features.3")))


def functions() -> onnx.ModelProto:
    """`export_modules_as_functions={nn.Dropout}`: two calls of one function whose name is that of the ONNX operator."""
    domain, draft = "torch.nn.modules.dropout", Draft(17)
    body = [
        helper.make_node("Constant", [], ["onnx::Dropout_11"], name="Constant_0", value=scalar(0.3, "float32")),
        helper.make_node("Constant", [], ["onnx::Dropout_12"], name="Constant_1", value=scalar(True, "bool")),
        helper.make_node(
            "Dropout",
            ["input.3", "onnx::Dropout_11", "onnx::Dropout_12"],
            ["onnx::Gemm_13", "4"],
            name="Dropout_2",
        ),
    ]
    opsets = [helper.make_opsetid("", 17)]
    draft.functions.append(
        helper.make_function(domain, "Dropout", ["input.3"], ["onnx::Gemm_13"], body, opsets, ["p", "inplace"])
    )
    x = features(draft)
    x = draft.add("Dropout", x, name="/d/Dropout", domain=domain, inplace=0, p=0.3)
    x = flatten(draft, x)
    x = draft.add("Dropout", x, name="/d_1/Dropout", domain=domain, inplace=0, p=0.3)
    return draft.finish(linear(draft, x, "15"))


def attended(draft: Draft, *, kept: bool) -> str:
    """Self-attention over 36 tokens, and their mean, [n, 4]; batch and heads are one axis of the attention.

    The dropout of scaled_dot_product_attention has no `training_mode`, so it is off in every runtime.
    """
    x = features(draft)
    x = draft.add("Reshape", x, draft.constant([0, 4, 36], "int64", "/Constant"), name="/Reshape")
    x = draft.add("Transpose", x, name="/a/Transpose", perm=[0, 2, 1])
    heads = draft.add("Reshape", x, draft.constant([-1, 36, 2], "int64", "/a/Constant_22"), name="/a/Reshape")
    keys = draft.add("Transpose", heads, name="/a/Transpose_1", perm=[0, 2, 1])
    x = draft.add("Softmax", draft.add("MatMul", heads, keys, name="/a/MatMul"), name="/a/Softmax", axis=-1)
    if kept:
        x = dropout(draft, x, "/a", 0.1)
    else:
        x = draft.add("Dropout", x, draft.constant(0.1, "float32", "/a/Constant_29"), name="/a/Dropout")
    x = draft.add("MatMul", x, heads, name="/a/MatMul_2")
    x = draft.add("Reshape", x, draft.constant([-1, 36, 4], "int64", "/a/Constant_30"), name="/a/Reshape_1")
    return draft.add("ReduceMean", x, name="/ReduceMean", axes=[1], keepdims=0)


def attention(*, kept: bool) -> onnx.ModelProto:
    draft = Draft(17)
    return draft.finish(linear(draft, attended(draft, kept=kept)))


def attention_and_tokens() -> onnx.ModelProto:
    """A silent dropout in scaled_dot_product_attention, and a live one after it."""
    draft = Draft(17)
    x = dropout(draft, attended(draft, kept=False), "/dropout1")
    return draft.finish(linear(draft, x))


def from_inputs() -> onnx.ModelProto:
    """Rate and mode are inputs of the graph, with the values of their initializers unless a caller feeds others."""
    draft = Draft(17)
    mode = draft.initializer(0.4, "float32", "ratio"), draft.initializer(True, "bool", "training_mode")
    draft.input("ratio", TensorProto.FLOAT)
    draft.input("training_mode", TensorProto.BOOL)
    x = draft.add("Dropout", flatten(draft, features(draft)), *mode, name="/d/Dropout")
    return draft.finish(linear(draft, x))


def without_dropout() -> onnx.ModelProto:
    draft = Draft(17)
    return draft.finish(linear(draft, flatten(draft, features(draft))))


def with_dropout(ratio: float, *, mode: bool) -> onnx.ModelProto:
    draft = Draft(17)
    x = flatten(draft, features(draft))
    return draft.finish(linear(draft, dropout(draft, x, "/d", ratio, mode=mode)))


def one_live() -> onnx.ModelProto:
    """One dropout in training and one in inference mode."""
    draft = Draft(17)
    x = dropout(draft, features(draft), "/features/features.3", mode=False)
    return draft.finish(classifier(draft, x))


def old_opset() -> onnx.ModelProto:
    """Opset 11: the rate is an attribute, and nothing says whether dropout is active."""
    draft = Draft(11)
    x = flatten(draft, features(draft))
    outputs = ("/d/Dropout_output_0", "/d/Dropout_output_1")
    x = draft.add("Dropout", x, name="/d/Dropout", to=outputs, ratio=0.25)
    return draft.finish(linear(draft, x))


def handmade() -> onnx.ModelProto:
    """A mask from torch.bernoulli, beside a dropout that could be kept."""
    draft = Draft(17)
    x = flatten(draft, features(draft))
    shape = draft.add("Shape", x, name="/Shape")
    keep = draft.add("ConstantOfShape", shape, name="/ConstantOfShape", value=scalar([0.7], "float32"))
    x = draft.add("Mul", x, draft.add("Bernoulli", keep, name="/Bernoulli"), name="/Mul")
    x = draft.add("Div", x, draft.constant(0.7, "float32", "/Constant"), name="/Div")
    return draft.finish(linear(draft, dropout(draft, x, "/classifier/classifier.0", 0.5)))


def computed_rate() -> onnx.ModelProto:
    """A rate that depends on the image."""
    draft = Draft(17)
    x = flatten(draft, features(draft))
    rate = draft.add("ReduceMean", draft.add("Sigmoid", x, name="/Sigmoid"), name="/ReduceMean", keepdims=0)
    x = draft.add("Dropout", x, rate, draft.constant(True, "bool", "/Constant"), name="/d/Dropout")
    return draft.finish(linear(draft, x))
