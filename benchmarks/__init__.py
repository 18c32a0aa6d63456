"""Measurements: each script keeps its result as JSON in `results/`."""
