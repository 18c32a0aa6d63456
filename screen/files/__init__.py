"""Paths and object stores behind one small interface, and atomic writes.

In: addresses of files and folders. Out: readable paths, listings, and files that appear whole or not at all.
"""
