"""Losses over data: batches, parameters, and weighted sums of what is linearized at each batch."""
