"""Leave out whole channels of convolutions: find the convolutions, and write a copy of each for each pass.

In: sites whose masks are shared by all positions of a channel. Out: nodes of the head.
"""
