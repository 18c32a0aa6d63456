"""The charts of a report.

In: counts of scores, and the trend of the nights. Out: SVG text for the page.
"""
