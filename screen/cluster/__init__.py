"""The same loop on a Ray cluster.

In: a `Job` and shards. Out: the same result shards as one process writes; workers may be lost on the way.
"""
