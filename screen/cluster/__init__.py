"""Score shards on a Ray cluster.

In: a `Job` and shards. Out: the same result shards as one process writes, even if workers are lost.
"""
