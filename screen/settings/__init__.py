"""Groups of the options of a run, and the types of their values.

In: options of the command line, or keywords from Python. Out: the base classes of `RunConfig`, `PassSettings` and
`BadRowLimit`.
"""
