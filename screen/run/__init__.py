"""The loop from shards to scored shards, in one process.

In: a model, INPUT, OUTPUT and a `RunConfig`. Out: a `RunSummary`, or from in-distribution rows a calibration.
"""
