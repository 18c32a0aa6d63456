"""The contract of an exported model, read and checked without TensorFlow.

In: the path of an ONNX file. Out: an `ExportedModel` with its `ModelContract`, or `ContractRefused`.
"""
