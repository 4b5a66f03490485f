"""The processes of a group that make products together: their collectives, their errors and their agreements."""
