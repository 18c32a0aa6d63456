"""Compare an exported file with its Keras model, in a default onnxruntime session.

In: the file, its contract and the Keras reference. Out: the measured differences and accuracies, or
`VerificationFailed`.
"""
