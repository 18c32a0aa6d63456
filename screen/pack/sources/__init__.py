"""Find the images of SOURCE, for every kind of SOURCE.

In: SOURCE and the options. Out: an `ImageSource`, which yields `ImageFile`s in a fixed order.
"""
