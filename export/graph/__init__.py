"""Convert a Keras network to an ONNX graph with stochastic sites, and write the graph to a staging folder.

In: a `KerasSource` and a contract. Out: an ONNX file that `export.proof` verifies before it is published.
"""
