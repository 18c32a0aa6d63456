"""Turn the statistics of rows into scores, p-values and flags.

In: a `PassSummary`, a flag rule and a calibration. Out: score columns, and a `Decision` with the flag and the
reasons of each row.
"""
