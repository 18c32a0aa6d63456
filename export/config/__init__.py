"""Options of an export and of its accuracy check, and functions that read the values of these options from text.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values.
"""
