"""Code that the commands share: common options and panels, errors as text and JSON, standard streams, and a fast start.

In: command lines, and the errors of all other packages. Out: Typer classes and annotations for the commands.
"""
