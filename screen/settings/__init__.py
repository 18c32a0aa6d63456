"""Groups of options of a run, and the values that they stand for.

In: options of the command line, or keywords from Python. Out: the base classes of `RunConfig`, `PassSettings` and
`BadRowLimit`.
"""
