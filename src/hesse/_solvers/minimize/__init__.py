"""Minimizers that follow products with Hessians and Jacobians."""
