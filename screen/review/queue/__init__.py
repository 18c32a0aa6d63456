"""Export flagged rows for labelling, each image at most once per project.

In: results and the input shards. Out: files or Label Studio tasks, a ledger of exported images, and a summary.
"""
