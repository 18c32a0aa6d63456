"""Import labels and measure the precision of the flag.

In: annotations and results. Out: a Parquet file of labelled rows, and the precision of the flag.
"""
