"""Metrics of every score on results whose origin or labels are known.

In: results of in-distribution and other sets. Out: an `Evaluation` as a table, a plot or JSON.
"""
