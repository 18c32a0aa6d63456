"""Report the results of a run on one HTML page.

In: results, and the input shards for the thumbnails. Out: `Findings` and a self-contained page.
"""
