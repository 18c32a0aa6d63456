"""Parquet files: checks of their pages, sizes of their rows, and types and text of their values.

In: footers, schemas and columns. Out: pieces of row groups that fit into memory, common types, and values as text.
"""
