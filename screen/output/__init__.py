"""Write and check the files of OUTPUT: result shards, the manifest and the quarantine table.

In: scored and flagged rows of each input shard. Out: an OUTPUT folder. A result shard is renamed to its final name
only when it is complete.
"""
