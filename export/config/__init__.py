"""Options of an export and of its accuracy check, and the text from which their values are read.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values.
"""
