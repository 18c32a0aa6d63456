"""Examine this machine, and find the stage that bounds a run of a model.

In: nothing, or a model and a shard. Out: an `Examination`.
"""
