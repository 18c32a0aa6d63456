"""Split an exported graph into trunk and head, and plan how each dropout site runs. Pure values, no session.

In: an `ExportedModel`. Out: an `EnginePlan` with the ONNX graphs that the sessions open.
"""
