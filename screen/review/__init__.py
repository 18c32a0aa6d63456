"""Report, evaluate and export finished results for human review.

In: the OUTPUT of a run. Out: pages, tables and exports; results are never changed.
"""
