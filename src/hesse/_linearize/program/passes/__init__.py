"""Graph passes: each file rewrites a graph into a faster one with the same result."""
