"""Benchmarks; each script writes its results as JSON to `results/`."""
