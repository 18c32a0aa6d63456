"""Read and check the contract of an exported model, without TensorFlow.

In: the path of an ONNX file. Out: an `ExportedModel` with its `ModelContract`, or `ContractRefused`.
"""
