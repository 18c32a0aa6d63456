"""Split an exported graph into trunk and head, and plan how each site is run; values only, no session.

In: an `ExportedModel`. Out: an `EnginePlan` with the ONNX graphs that the sessions open.
"""
