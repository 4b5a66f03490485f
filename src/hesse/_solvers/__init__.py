"""Algorithms that know an operator only by its protocol, and what they share."""
