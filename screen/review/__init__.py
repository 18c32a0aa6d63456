"""Read finished results for people: a report, metrics, a labeling queue and its labels.

In: the OUTPUT of a run. Out: pages, tables and exports; results are never changed.
"""
