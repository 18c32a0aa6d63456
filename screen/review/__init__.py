"""Scored shards in, what they are worth out: metrics, and later a page and a labeling queue."""
