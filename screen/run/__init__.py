"""Screening runs and calibrations: from shards to scored shards, or to a calibration file.

In: a model, shards and a `RunConfig`. Out: result shards with a `RunSummary`, or a calibration with its report.
"""
