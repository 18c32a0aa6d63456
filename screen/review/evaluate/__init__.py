"""Measure how well each score detects out-of-distribution rows and wrong predictions.

In: results of in-distribution and out-of-distribution rows. Out: an `Evaluation` as a table, a plot or JSON.
"""
