"""Import labels and measure what the flags were worth.

In: annotations and results. Out: a table of labelled rows and the precision of the flag.
"""
