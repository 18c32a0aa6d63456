"""Leave out whole channels of convolutions: find the convolutions, and write them for each pass.

In: the sites of a graph whose masks are shared by all positions of a channel. Out: nodes of the head.
"""
