"""Flags and scores in, Parquet shards and a manifest out."""
