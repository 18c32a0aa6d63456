"""Turn the statistics of rows into scores, p-values and flags.

In: a `PassSummary`, a flag rule and a calibration. Out: score columns, and a `Decision` with a flag and reason per row.
"""
