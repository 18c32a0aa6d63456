"""The lock of an OUTPUT, on a local disk and in an object store.

In: an OUTPUT folder, and the partition if the run scores only one. Out: a lock that one run holds, or the error that
names its holder.
"""
