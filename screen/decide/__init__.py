"""Turn the statistics of rows into scores, p-values and flags.

In: a `PassSummary`, a rule and a calibration. Out: score columns and a `Decision` for each row.
"""
