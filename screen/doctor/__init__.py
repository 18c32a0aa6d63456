"""Examine this machine, and measure which stage bounds a run of a model on it.

In: nothing, or a model and a shard. Out: an `Examination`.
"""
