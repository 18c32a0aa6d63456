"""Insert dropout into Keras models: find the layers before which dropout can be inserted, and choose among them.

In: a network and the values of `--insert-dropout`. Out: the layers to insert, as `NoiseLayer`s.
"""
