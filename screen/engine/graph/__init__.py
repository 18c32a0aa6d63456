"""Split an exported graph into trunk and head, and plan how each dropout site runs. No session is opened.

In: an `ExportedModel`. Out: an `EnginePlan` with the ONNX graphs that the sessions open.
"""
