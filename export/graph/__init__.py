"""Convert a Keras network to an ONNX graph with stochastic sites, and write it.

In: a `KerasSource` and a contract. Out: a staged ONNX file that still has to be verified.
"""
