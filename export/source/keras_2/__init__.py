"""Rebuild models of Keras 2 with Keras 3: the layers from their configuration, the weights from the model file.

In: the configuration of a model as plain data, and an HDF5 file or a SavedModel folder. Out: a Keras 3 model. Code in
the file is run only if `unsafe` is set.
"""
