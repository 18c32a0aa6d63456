"""Flag rules: their text, and their values on the scores of rows.

In: the text of a rule, the scores of B rows. Out: a checked `FlagRule`, and the flags `[B]` with their reasons.
"""
