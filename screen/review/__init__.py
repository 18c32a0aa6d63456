"""Report, evaluate and export finished results for human review.

In: the OUTPUT folder of a run. Out: pages, tables and exports; the result shards are never changed.
"""
