"""Fit a calibration on in-distribution rows.

In: an exported model, shards of in-distribution rows, a `CalibrationConfig`. Out: a calibration file and its report.
"""
