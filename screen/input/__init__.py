"""Find, order and read Parquet shards, and decode their images.

In: INPUT and the model's contract. Out: batches of uint8 images, and the status and reason of each unreadable row.
"""
