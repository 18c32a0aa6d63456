"""Find, order and read Parquet shards, and decode their images.

In: INPUT and the model's contract. Out: batches of uint8 images, with a status and reason for each unreadable row.
"""
