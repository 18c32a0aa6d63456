"""Operators for which onnxruntime has a CUDA kernel at operator set 18, with the supported types.

Source: docs/OperatorKernels.md of microsoft/onnxruntime (commit 001d12d), section
CUDAExecutionProvider; only the operators and types that the planner may add are listed.
"""

from __future__ import annotations

from onnx import TensorProto

FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL

OPSET = 18

CUDA_KERNELS: dict[str, frozenset[int]] = {
    "Add": frozenset({FLOAT, DOUBLE, INT64}),
    "ArgMax": frozenset({FLOAT, DOUBLE}),
    "Cast": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Concat": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Exp": frozenset({FLOAT, DOUBLE}),
    "Expand": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Flatten": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Gather": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Gemm": frozenset({FLOAT, DOUBLE}),
    "GlobalAveragePool": frozenset({FLOAT, DOUBLE}),
    "Greater": frozenset({FLOAT, DOUBLE, INT64}),
    "Identity": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Log": frozenset({FLOAT, DOUBLE}),
    "LogSoftmax": frozenset({FLOAT, DOUBLE}),
    "MatMul": frozenset({FLOAT, DOUBLE}),
    "Max": frozenset({FLOAT, DOUBLE, INT64}),
    "Mul": frozenset({FLOAT, DOUBLE, INT64}),
    "Neg": frozenset({FLOAT, DOUBLE, INT64}),
    "OneHot": frozenset({FLOAT, INT64}),
    "ReduceMax": frozenset({FLOAT, DOUBLE, INT64}),
    "ReduceMean": frozenset({FLOAT, DOUBLE}),
    "ReduceSum": frozenset({FLOAT, DOUBLE, INT64}),
    "Reshape": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Shape": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Sigmoid": frozenset({FLOAT, DOUBLE}),
    "Slice": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Softmax": frozenset({FLOAT, DOUBLE}),
    "Sqrt": frozenset({FLOAT, DOUBLE}),
    "Squeeze": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Sub": frozenset({FLOAT, DOUBLE, INT64}),
    "TopK": frozenset({FLOAT, DOUBLE, INT64}),
    "Transpose": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
    "Unsqueeze": frozenset({FLOAT, DOUBLE, INT64, BOOL}),
}
