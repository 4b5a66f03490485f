"""Graph passes: each file rewrites a graph into a faster one with the same results.

``backends.py`` lists them in the order in which they run.
"""
