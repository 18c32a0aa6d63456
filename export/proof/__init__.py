"""Compare an exported file with its source model, in a default onnxruntime session.

In: the file, its contract and the reference of the source model. Out: the measured differences and accuracies, or
`VerificationFailed`.
"""
