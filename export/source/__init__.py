"""Load a Keras model safely and find its stochastic sites.

In: a file or a model, and the choice of sites. Out: a `KerasSource` that can be traced and compared with.
"""
