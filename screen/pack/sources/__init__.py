"""Find the images of SOURCE, whatever it is.

In: SOURCE and the options. Out: an `ImageSource`, which yields `ImageFile`s in a fixed order.
"""
