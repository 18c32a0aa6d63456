"""Import labels and measure the precision of the flag.

In: annotations and results. Out: a table of labelled rows and the precision of the flag.
"""
