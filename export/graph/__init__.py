"""Convert a Keras network to an ONNX graph, add noise functions and a contract, and write the graph to a file.

In: a `KerasSource`, or the graph of an ONNX file with marked sites; and a contract. Out: an ONNX file that
`export.proof` verifies before it is published.
"""
