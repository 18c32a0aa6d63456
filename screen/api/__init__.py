"""The functions behind the commands, for Python programs; `oodscreen` re-exports them.

In: paths, and the options of the commands as keywords. Out: the files and the reports of the commands. Nothing is
printed, and no signal is handled.
"""
