"""Write scored shards, the manifest and the quarantine table, and check them.

In: decided rows of each input shard. Out: an OUTPUT folder in which every file is whole.
"""
