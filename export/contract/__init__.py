"""What an exported file promises, read and checked without TensorFlow.

In: the bytes of an ONNX file. Out: an `ExportedModel` with its `ModelContract`, or a refusal.
"""
