"""The lock of an OUTPUT, on a local disk and in an object store.

In: an OUTPUT folder and the part of a job array. Out: a lock that one run holds, or the error that names its holder.
"""
