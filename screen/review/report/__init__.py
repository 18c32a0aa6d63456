"""One HTML page about a run.

In: results, and the input shards for pictures. Out: `Findings` and a self-contained page.
"""
