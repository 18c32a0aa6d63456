"""Run T Monte Carlo dropout passes over batches of images.

In: `uint8 [B, H, W, C]` and an `EnginePlan`. Out: a `PassSummary` of `[B]` and `[B, C]` statistics.
"""
