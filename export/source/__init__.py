"""Load a Keras model, by default without running code from its file, and find its stochastic sites.

In: a model file or a model, and the selection of sites. Out: a `KerasSource`, which `export.graph` traces and
`export.proof` uses as the reference.
"""
