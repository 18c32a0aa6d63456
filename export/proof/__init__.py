"""Compare a written file with its Keras model in a default onnxruntime session.

In: the file, its contract and the reference. Out: what was measured, or `VerificationFailed`.
"""
