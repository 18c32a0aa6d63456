"""Parquet shards in, decoded images out."""
