"""Scored shards in, what they are worth out: metrics, a page, and later a labeling queue."""
