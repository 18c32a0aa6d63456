"""Local paths and object stores behind one small interface, and atomic writes.

In: paths or addresses of files and folders. Out: path objects, listings, and atomically written files.
"""
