"""Write scored shards, the manifest and the quarantine table, and check them.

In: scored and flagged rows of each input shard. Out: an OUTPUT folder that holds only complete files.
"""
