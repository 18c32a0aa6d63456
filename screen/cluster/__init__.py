"""Score shards on a Ray cluster.

In: a `Job` and shards. Out: the result shards that one process would write, even if workers are lost.
"""
