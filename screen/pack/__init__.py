"""Pack image files into Parquet shards.

In: a folder of images, a list of paths, or tars of a WebDataset. Out: shards that `oodscreen run` reads.
"""
