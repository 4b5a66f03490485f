"""Estimates from random probe vectors, by algorithms that know only the operator protocol."""
